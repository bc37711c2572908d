package policy

import "slices"

// field binds one key of a resource to where its value lives. One table a struct serves FromMap and ToMap, so that the two
// cannot drift.
type field struct {
	key string
	at  any // *string, *bool, *int, *time.Duration, **time.Duration, *[]string, or one of the pointers to our own types
}

// table is a struct with such a table: an object within a resource.
type table interface{ fields() []field }

func (r *Role) fields() []field {
	return []field{{"name", &r.Name}, {"allow", &r.Allow}, {"deny", &r.Deny}, {"options", &r.Options}}
}

func (r *Rule) fields() []field {
	return []field{
		{"devices", &r.Devices}, {"logins", &r.Logins}, {"channels", &r.Channels}, {"forward_to", &r.ForwardTo},
		{"join", &r.Join}, {"recordings", &r.Recordings}, {"sessions", &r.Sessions}, {"audit", &r.Audit},
		{"ways", &r.Ways}, {"admin", &r.Admin},
	}
}

func (j *Join) fields() []field { return []field{{"roles", &j.Roles}, {"modes", &j.Modes}} }

func (a *Admin) fields() []field {
	return []field{{"resources", &a.Resources}, {"verbs", &a.Verbs}}
}

func (o *Options) fields() []field {
	return []field{
		{"max_connections", &o.MaxConnections}, {"max_sessions", &o.MaxSessions}, {"reserved", &o.Reserved},
		{"detached_life", &o.DetachedLife}, {"presence_check", &o.PresenceCheck}, {"idle_timeout", &o.IdleTimeout},
		{"max_session_duration", &o.MaxSessionDuration}, {"session_ttl", &o.SessionTTL},
		{"disconnect_expired_cert", &o.DisconnectExpiredCert}, {"record", &o.Record}, {"record_stdin", &o.RecordStdin},
		{"mfa", &o.MFA}, {"lock_mode", &o.LockMode}, {"cap_mode", &o.CapMode}, {"credentials", &o.Credentials},
		{"create_host_user", &o.CreateHostUser}, {"host_groups", &o.HostGroups}, {"sudoers", &o.Sudoers},
		{"require_moderators", &o.RequireModerators},
	}
}

func (m *Moderators) fields() []field {
	return []field{{"count", &m.Count}, {"roles", &m.Roles}, {"modes", &m.Modes}, {"channels", &m.Channels}, {"on_leave", &m.OnLeave}}
}

// SortKeys returns the keys of one object of a resource in the order in which they are written: kind and name first, the rest
// as in the tables; labels by name.
func SortKeys(m map[string]any) []string {
	rank := map[string]int{"kind": 1}
	for _, t := range []table{
		new(Cluster), new(Role), new(Rule), new(Options), new(Moderators), new(Join), new(Admin), new(Retention), new(RetentionRule), new(Caps), new(HubList),
	} {
		for _, f := range t.fields() {
			if rank[f.key] == 0 {
				rank[f.key] = len(rank) + 1
			}
		}
	}
	keys := sortedKeys(m)
	if !slices.ContainsFunc(keys, func(k string) bool { return rank[k] == 0 }) {
		slices.SortFunc(keys, func(a, b string) int { return rank[a] - rank[b] })
	}
	return keys
}
