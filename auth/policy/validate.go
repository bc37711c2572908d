package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// What a role may name.
var (
	adminResources = []string{"*", "audit", "backup", "ca", "cluster", "device", "hub", "lock", "recording", "role", "session", "token", "user"}
	adminVerbs     = []string{"*", "create", "delete", "get", "hold", "list", "update"}
	scopes         = []string{"", ScopeAll, ScopeNone, ScopeOwn}
	rolesChannels  = allChannels
	rolesWays      = []string{WayHub, WayEndToEnd, WayDirect}
	joinModes      = JoinModes()
)

// Validate returns every problem of a role, each beginning with the path of the key. Pending says which of what is valid is
// not yet in force.
func Validate(r Role) []error {
	v := &validator{}
	if !validName(r.Name) {
		v.add("name", "use 1 to %d of a-z 0-9 _ -, beginning and ending with a letter or digit", maxName)
	}
	v.rule("allow", r.Allow)
	v.rule("deny", r.Deny)
	v.options(r.Options)
	return v.problems
}

type validator struct{ problems []error }

func (v *validator) add(path, format string, args ...any) {
	v.problems = append(v.problems, fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...)))
}

func (v *validator) devices(path string, devices map[string][]string) {
	if len(devices) > maxLabels {
		v.add(path, "more than %d labels", maxLabels)
	}
	for _, key := range sortedKeys(devices) {
		at := path + "." + key
		if key == "" || len(key) > maxLabel || !printable(key) {
			v.add(path, "%.100q is no label", key)
			continue
		}
		if key == "*" && !slices.Equal(devices[key], []string{"*"}) {
			v.add(at, `stands for every device and takes only ["*"]`)
		} else if key != "*" && strings.Contains(key, "*") {
			v.add(at, "only values may hold *")
		}
		if len(devices[key]) == 0 {
			v.add(at, "matches nothing; name a value or remove it")
		}
		v.list(at, devices[key])
	}
}

func (v *validator) rule(path string, r Rule) {
	v.devices(path+".devices", r.Devices)
	v.list(path+".logins", r.Logins)
	v.list(path+".forward_to", r.ForwardTo)
	for _, s := range r.ForwardTo {
		if _, err := parseTarget(s); err != nil {
			v.add(path+".forward_to", "%.100q is %v", s, err)
		}
	}
	v.oneOf(path+".channels", r.Channels, rolesChannels)
	v.oneOf(path+".ways", r.Ways, rolesWays)
	v.scope(path+".recordings", r.Recordings)
	v.scope(path+".sessions", r.Sessions)
	v.scope(path+".audit", r.Audit)
	if len(r.Join) > maxList {
		v.add(path+".join", "more than %d elements", maxList)
	}
	for i, j := range r.Join {
		at := fmt.Sprintf("%s.join[%d]", path, i)
		if len(j.Roles) == 0 || len(j.Modes) == 0 {
			v.add(at, "needs roles and modes")
		}
		v.list(at+".roles", j.Roles)
		v.oneOf(at+".modes", j.Modes, joinModes)
	}
	if len(r.Admin) > maxList {
		v.add(path+".admin", "more than %d elements", maxList)
	}
	for i, a := range r.Admin {
		at := fmt.Sprintf("%s.admin[%d]", path, i)
		if len(a.Resources) == 0 || len(a.Verbs) == 0 {
			v.add(at, "needs resources and verbs")
		}
		v.oneOf(at+".resources", a.Resources, adminResources)
		v.oneOf(at+".verbs", a.Verbs, adminVerbs)
	}
}

func (v *validator) options(o Options) {
	const at = "options."
	if o.DetachedLife != nil && (*o.DetachedLife < 0 || *o.DetachedLife > MaxDetachedLife) {
		v.add(at+"detached_life", "0 to 60m")
	}
	if o.SessionTTL < 0 || o.SessionTTL != 0 && o.SessionTTL < time.Minute {
		v.add(at+"session_ttl", "at least 1m")
	}
	if o.PresenceCheck != 0 && (o.PresenceCheck < minPresence || o.PresenceCheck > maxPresence) {
		v.add(at+"presence_check", "0, which is never, or %s to %s", durationText(minPresence), durationText(maxPresence))
	}
	v.limit(at+"idle_timeout", o.IdleTimeout)
	v.limit(at+"max_session_duration", o.MaxSessionDuration)
	v.choice(at+"record", o.Record, RecordBestEffort, RecordOff, RecordStrict)
	v.choice(at+"record_stdin", o.RecordStdin, StdinOff, StdinRedacted, StdinFull)
	v.choice(at+"mfa", o.MFA, MFANone, MFALogin, MFASession)
	v.choice(at+"lock_mode", o.LockMode, LockBestEffort, LockStrict)
	v.choice(at+"cap_mode", o.CapMode, "available", "exact")
	v.oneOf(at+"credentials", o.Credentials, []string{CredentialCertificate, CredentialKey})
	v.choice(at+"create_host_user", o.CreateHostUser, "off", "keep", "drop")
	v.list(at+"host_groups", o.HostGroups)
	v.lines(at+"sudoers", o.Sudoers)
	v.moderators(at+"require_moderators", o.RequireModerators)
}

// choice accepts nothing, the default and the others.
func (v *validator) choice(path, got, standard string, others ...string) {
	if got != "" && got != standard && !slices.Contains(others, got) {
		v.add(path, "%.100q is not one of %s", got, strings.Join(append([]string{standard}, others...), ", "))
	}
}

func (v *validator) scope(path, got string) {
	if !slices.Contains(scopes, got) {
		v.add(path, "%.100q is not one of none, own, all", got)
	}
}

func (v *validator) oneOf(path string, list, known []string) {
	if len(list) > maxList {
		v.add(path, "more than %d elements", maxList)
	}
	for _, s := range list {
		if !slices.Contains(known, s) {
			v.add(path, "%.100q is not one of %s", s, strings.Join(known, ", "))
		}
	}
}

// lines is list for elements that may hold spaces.
func (v *validator) lines(path string, list []string) {
	if len(list) > maxList {
		v.add(path, "more than %d elements", maxList)
	}
	for _, s := range list {
		if s == "" || len(s) > maxElement || !printable(strings.ReplaceAll(s, " ", "")) {
			v.add(path, "%.100q is empty, too long or not printable", s)
		}
	}
}

func (v *validator) list(path string, list []string) {
	if len(list) > maxList {
		v.add(path, "more than %d elements", maxList)
	}
	for _, s := range list {
		if s == "" || len(s) > maxElement || !printable(s) {
			v.add(path, "%.100q is empty, too long or not printable", s)
		}
	}
}

// validName is the grammar of device names: [a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?
func validName(s string) bool {
	if s == "" || len(s) > maxName || strings.IndexByte("_-", s[0]) >= 0 || strings.IndexByte("_-", s[len(s)-1]) >= 0 {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_' && r != '-'
	})
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}
