package policy

// What happens to counted sessions while auth is away from the hub that has them.
const (
	CapAvailable = "available" // they go on; no new one starts
	CapExact     = "exact"     // they end before their places can be given to others
)

// RoleCaps are how many connections and sessions a user may have at once over the cluster. Zero: no cap.
type RoleCaps struct {
	Connections int
	Sessions    int
	Exact       bool // cap_mode
	Reserved    bool // the last place of a device or a hub is for him
}

// CapsOf merges the caps of all of a user's roles, whatever device they are about: what counts over the cluster is capped over the cluster. The
// lowest counts, exact where one role says so, and reserved where one does.
func CapsOf(roles []Role) RoleCaps {
	var c RoleCaps
	lower := func(at *int, n int) {
		if n > 0 && (*at == 0 || n < *at) {
			*at = n
		}
	}
	for i := range roles {
		o := &roles[i].Options
		lower(&c.Connections, o.MaxConnections)
		lower(&c.Sessions, o.MaxSessions)
		c.Exact = c.Exact || o.CapMode == CapExact
		c.Reserved = c.Reserved || o.Reserved
	}
	return c
}
