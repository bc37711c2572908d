package policy

import (
	"fmt"
	"slices"
)

// Joined is the session that somebody wants to join, and how.
type Joined struct {
	Roles      []string // of whoever it is the session of
	Login, Way string   // Way: by which the one who joins came
	Mode       string
}

// MayJoin tells whether a holder of the roles may join a session on dev. A role allows it with allow.join where its devices, logins and ways match; deny.join
// takes it away where what the rule states of devices, logins and ways matches. The roles went through Cluster.Apply.
func MayJoin(roles []Role, dev Device, q Joined) Decision {
	d := Decision{Rule: "no role allows it"}
	for _, r := range byName(roles) {
		deny := r.Deny
		if joins(deny.Join, q) && (len(deny.Devices) == 0 || Match(deny.Devices, dev)) && (len(deny.Logins) == 0 || matchAny(deny.Logins, q.Login)) &&
			(len(deny.Ways) == 0 || slices.Contains(deny.Ways, q.Way)) {
			return Decision{Rule: fmt.Sprintf("role %s denies it", r.Name)}
		}
		allow := r.Allow
		if !d.Allowed && joins(allow.Join, q) && Match(allow.Devices, dev) && matchAny(allow.Logins, q.Login) && slices.Contains(allow.ways(), q.Way) {
			d = Decision{Allowed: true, Rule: fmt.Sprintf("role %s allows it", r.Name)}
		}
	}
	return d
}

func joins(list []Join, q Joined) bool {
	return slices.ContainsFunc(list, func(j Join) bool {
		return slices.Contains(j.Modes, q.Mode) && slices.ContainsFunc(q.Roles, func(role string) bool { return matchAny(j.Roles, role) })
	})
}
