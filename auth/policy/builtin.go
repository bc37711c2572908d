package policy

import "slices"

// Builtins returns the roles that every cluster has, by name.
func Builtins() []Role {
	var roles []Role
	for _, name := range []string{"admin", "auditor", "operator"} {
		r, _ := Builtin(name)
		roles = append(roles, r)
	}
	return roles
}

// Builtin returns a role that every cluster has: admin may do everything, operator may open everything, join every
// session to see or to type, and see every recording, but administers nothing, auditor sees recordings, sessions, the audit log and what is configured, opens and joins
// nothing and changes nothing.
func Builtin(name string) (Role, bool) {
	everywhere := Rule{
		Devices:    map[string][]string{"*": {"*"}},
		Logins:     []string{"*"},
		Channels:   slices.Clone(allChannels),
		Ways:       slices.Clone(allWays),
		Recordings: ScopeAll,
		Sessions:   ScopeAll,
	}
	switch name {
	case "admin":
		everywhere.Join = []Join{{Roles: []string{"*"}, Modes: []string{JoinObserver, JoinPeer, JoinModerator}}}
		everywhere.Audit = ScopeAll
		everywhere.Admin = []Admin{{Resources: []string{"*"}, Verbs: []string{"*"}}}
		return Role{Name: name, Allow: everywhere}, true
	case "operator":
		everywhere.Join = []Join{{Roles: []string{"*"}, Modes: []string{JoinObserver, JoinPeer}}}
		return Role{Name: name, Allow: everywhere}, true
	case "auditor":
		return Role{Name: name, Allow: Rule{
			Recordings: ScopeAll,
			Sessions:   ScopeAll,
			Audit:      ScopeAll,
			Admin: []Admin{{
				// By name, so that a resource to come is not the auditor's before somebody thought of it.
				Resources: []string{"audit", "ca", "cluster", "device", "hub", "lock", "recording", "role", "session", "token", "user"},
				Verbs:     []string{"get", "list"},
			}},
		}}, true
	}
	return Role{}, false
}
