package policy

import (
	"slices"
	"time"
)

// MayAdmin reports whether roles allow a verb over a kind of resource, and none denies it.
func MayAdmin(roles []Role, resource, verb string) Decision {
	d := Decision{Rule: "no role allows to " + verb + " a " + resource}
	for _, r := range byName(roles) {
		if covers(r.Deny.Admin, resource, verb) {
			return Decision{Rule: "role " + r.Name + " denies it"}
		}
		if !d.Allowed && covers(r.Allow.Admin, resource, verb) {
			d = Decision{Allowed: true, Rule: "role " + r.Name + " allows it"}
		}
	}
	return d
}

// MayAdminAll reports whether roles allow all that rule does. A "*" is each of what it stands for as well, so that what is denied of it counts.
func MayAdminAll(roles []Role, rule Admin) bool {
	each := func(list, all []string) []string {
		if slices.Contains(list, "*") {
			return all
		}
		return list
	}
	for _, resource := range each(rule.Resources, adminResources) {
		for _, verb := range each(rule.Verbs, adminVerbs) {
			if !MayAdmin(roles, resource, verb).Allowed {
				return false
			}
		}
	}
	return true
}

func covers(list []Admin, resource, verb string) bool {
	has := func(list []string, s string) bool { return slices.Contains(list, "*") || slices.Contains(list, s) }
	return slices.ContainsFunc(list, func(a Admin) bool { return has(a.Resources, resource) && has(a.Verbs, verb) })
}

// RecordingScope returns whose recordings roles let one see: ScopeNone, ScopeOwn or ScopeAll.
func RecordingScope(roles []Role) string {
	return scope(roles, func(r Rule) string { return r.Recordings })
}

// SessionScope returns whose live sessions roles let one see.
func SessionScope(roles []Role) string {
	return scope(roles, func(r Rule) string { return r.Sessions })
}

// AuditScope returns whose audit events roles let one see.
func AuditScope(roles []Role) string {
	return scope(roles, func(r Rule) string { return r.Audit })
}

// scope merges: the widest that some role allows, less what some role denies. To deny own is to deny all as well as own
// ones, for nobody may see others' but not their own; to deny all leaves one's own.
func scope(roles []Role, of func(Rule) string) string {
	order := []string{ScopeNone, ScopeOwn, ScopeAll}
	given, ceiling := 0, 2
	for _, r := range roles {
		given = max(given, slices.Index(order, of(r.Allow)))
		switch of(r.Deny) {
		case ScopeOwn:
			ceiling = 0
		case ScopeAll:
			ceiling = min(ceiling, 1)
		}
	}
	return order[min(given, ceiling)]
}

// SessionTTL returns the shortest session_ttl of roles, or standard where none states one.
func SessionTTL(roles []Role, standard time.Duration) time.Duration {
	var ttl time.Duration
	for _, r := range roles {
		if t := r.Options.SessionTTL; t > 0 && (ttl == 0 || t < ttl) {
			ttl = t
		}
	}
	if ttl == 0 {
		return standard
	}
	return ttl
}

func byName(roles []Role) []Role {
	return slices.SortedFunc(slices.Values(roles), func(a, b Role) int {
		switch {
		case a.Name < b.Name:
			return -1
		case a.Name > b.Name:
			return 1
		}
		return 0
	})
}
