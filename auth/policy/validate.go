package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// What a role may name.
var (
	adminResources = []string{"*", "device", "hub", "recording", "role", "session", "token", "user"}
	adminVerbs     = []string{"*", "create", "delete", "get", "list", "update"}
	scopes         = []string{"", ScopeAll, ScopeNone, ScopeOwn}
)

// Validate returns every problem of a role, each beginning with the path of the key. What a later version will implement is
// a problem too, unless it is set to what happens anyway: an option that does nothing would be believed in.
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

func (v *validator) missing(path string, unset bool) {
	if !unset {
		v.add(path, "is not implemented yet; remove it")
	}
}

func (v *validator) rule(path string, r Rule) {
	if len(r.Devices) > maxLabels {
		v.add(path+".devices", "more than %d labels", maxLabels)
	}
	for _, key := range sortedKeys(r.Devices) {
		at := path + ".devices." + key
		if key == "" || len(key) > maxLabel || !printable(key) {
			v.add(path+".devices", "%.100q is no label", key)
			continue
		}
		if key == "*" && !slices.Equal(r.Devices[key], []string{"*"}) {
			v.add(at, `stands for every device and takes only ["*"]`)
		} else if key != "*" && strings.Contains(key, "*") {
			v.add(at, "only values may hold *")
		}
		if len(r.Devices[key]) == 0 {
			v.add(at, "matches nothing; name a value or remove it")
		}
		v.list(at, r.Devices[key])
	}
	v.list(path+".logins", r.Logins)
	v.list(path+".forward_to", r.ForwardTo)
	for _, s := range r.ForwardTo {
		if _, err := parseTarget(s); err != nil {
			v.add(path+".forward_to", "%.100q is %v", s, err)
		}
	}
	v.oneOf(path+".channels", r.Channels, allChannels, "x11")
	v.oneOf(path+".ways", r.Ways, allWays, "direct")
	v.scope(path+".recordings", r.Recordings)
	v.scope(path+".sessions", r.Sessions)
	v.missing(path+".audit", r.Audit == "" || r.Audit == ScopeNone)
	v.missing(path+".join", len(r.Join) == 0)
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
	v.missing(at+"max_connections", o.MaxConnections == 0)
	v.missing(at+"max_sessions", o.MaxSessions == 0)
	v.missing(at+"reserved", !o.Reserved)
	if o.DetachedLife != nil && (*o.DetachedLife < 0 || *o.DetachedLife > MaxDetachedLife) {
		v.add(at+"detached_life", "0 to 60m")
	}
	v.missing(at+"presence_check", o.PresenceCheck == 0)
	v.missing(at+"idle_timeout", o.IdleTimeout == 0)
	v.missing(at+"max_session_duration", o.MaxSessionDuration == 0)
	if o.SessionTTL < 0 || o.SessionTTL != 0 && o.SessionTTL < time.Minute {
		v.add(at+"session_ttl", "at least 1m")
	}
	v.missing(at+"disconnect_expired_cert", !o.DisconnectExpiredCert)
	v.choice(at+"record", o.Record, RecordBestEffort, "strict", "off")
	v.choice(at+"record_stdin", o.RecordStdin, "off", "redacted", "full")
	v.choice(at+"mfa", o.MFA, "none", "login", "session")
	v.choice(at+"lock_mode", o.LockMode, "best-effort", "strict")
	v.choice(at+"cap_mode", o.CapMode, "available", "exact")
	v.oneOf(at+"credentials", o.Credentials, []string{"certificate", "key"})
	v.missing(at+"credentials", len(o.Credentials) == 0 || len(sorted(o.Credentials)) == 2)
	v.choice(at+"create_host_user", o.CreateHostUser, "off", "keep", "drop")
	v.missing(at+"host_groups", len(o.HostGroups) == 0)
	v.missing(at+"sudoers", len(o.Sudoers) == 0)
	v.missing(at+"require_moderators", o.RequireModerators == nil)
}

// choice accepts the default, says of later that they are not implemented yet, and of anything else what there is.
func (v *validator) choice(path, got, standard string, later ...string) {
	switch {
	case got == "" || got == standard:
	case slices.Contains(later, got):
		v.add(path, "%s is not implemented yet; remove it or say %s", got, standard)
	default:
		v.add(path, "%.100q is not one of %s", got, strings.Join(append([]string{standard}, later...), ", "))
	}
}

func (v *validator) scope(path, got string) {
	if !slices.Contains(scopes, got) {
		v.add(path, "%.100q is not one of none, own, all", got)
	}
}

func (v *validator) oneOf(path string, list, known []string, later ...string) {
	if len(list) > maxList {
		v.add(path, "more than %d elements", maxList)
	}
	for _, s := range list {
		switch {
		case slices.Contains(known, s):
		case slices.Contains(later, s):
			v.add(path, "%s is not implemented yet; remove it", s)
		default:
			v.add(path, "%.100q is not one of %s", s, strings.Join(known, ", "))
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
