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

// Builtin returns a role that every cluster has: admin may do everything, operator may open everything and see every
// recording but administers nothing, auditor sees recordings, sessions, devices and hubs and opens nothing.
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
		everywhere.Admin = []Admin{{Resources: []string{"*"}, Verbs: []string{"*"}}}
		return Role{Name: name, Allow: everywhere}, true
	case "operator":
		return Role{Name: name, Allow: everywhere}, true
	case "auditor":
		return Role{Name: name, Allow: Rule{
			Recordings: ScopeAll,
			Sessions:   ScopeAll,
			Admin:      []Admin{{Resources: []string{"device", "hub", "recording", "session"}, Verbs: []string{"get", "list"}}},
		}}, true
	}
	return Role{}, false
}
