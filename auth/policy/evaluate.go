package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// Evaluate answers for a user who holds roles, all of which must be valid.
func Evaluate(roles []Role, dev Device, login, channel, way string) Decision {
	return Compile(0, roles, dev).Evaluate(names(roles), login, channel, way)
}

// Merge returns what a user who holds roles may do on dev.
func Merge(roles []Role, dev Device) Access {
	return Compile(0, roles, dev).Access(names(roles))
}

func names(roles []Role) []string {
	out := make([]string, len(roles))
	for i, r := range roles {
		out[i] = r.Name
	}
	return out
}

// Evaluate answers for a user who holds the roles named; names that the policy does not know count for nothing. The
// Decision's Rule names the role, or says what no role of the user's allows.
func (c Compiled) Evaluate(roleNames []string, login, channel, way string) Decision {
	// Which role is named makes no difference to the answer: the first by name, whatever order the user has them in.
	reached, allowed, denied, unknown := 0, len(c.roles), len(c.roles), false
	for _, name := range roleNames {
		for i := c.find(name); i < len(c.roles) && c.roles[i].name == name; i++ {
			r := &c.roles[i]
			if r.deny != nil && r.deny.denies(login, channel, way) {
				denied = min(denied, i)
			}
			if r.allow == nil {
				continue
			}
			n := r.allow.reach(login, channel, way)
			if n == reachAll {
				allowed = min(allowed, i)
			}
			reached = max(reached, n)
			unknown = unknown || r.demands.unknown()
		}
	}
	if denied < len(c.roles) {
		return Decision{Rule: c.roles[denied].denyText}
	}
	if unknown {
		if r := c.held(roleNames).voids(login, way); r != nil {
			return Decision{Rule: "role " + r.name + " demands what this version does not know"}
		}
	}
	if allowed < len(c.roles) {
		return Decision{Allowed: true, Rule: c.roles[allowed].allowText}
	}
	return Decision{Rule: refusals[reached]}
}

// find returns the first role of that name or, where there is none, of one after it.
func (c Compiled) find(name string) int {
	low, high := 0, len(c.roles)
	for low < high {
		if mid := (low + high) / 2; c.roles[mid].name < name {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low
}

// How far a request gets through an allow rule that matches its device.
const (
	reachDevice  = 1
	reachLogin   = 2
	reachChannel = 3
	reachAll     = 4
)

var refusals = [...]string{
	0:            "no role allows this device",
	reachDevice:  "no role allows this login on this device",
	reachLogin:   "no role allows this kind of channel for this login",
	reachChannel: "no role allows this way in; another way in is allowed",
}

func (r *compiledRule) reach(login, channel, way string) int {
	switch {
	case !matchAny(r.logins, login):
		return reachDevice
	case !slices.Contains(r.channels, channel):
		return reachLogin
	case !slices.Contains(r.ways, way):
		return reachChannel
	}
	return reachAll
}

// denies reports whether a deny rule denies the channel as a whole, and not targets alone.
func (r *compiledRule) denies(login, channel, way string) bool {
	return len(r.forwardTo) == 0 && r.concerns(login, channel, way)
}

// concerns reports whether everything a deny rule states holds; what it does not state holds always.
func (r *compiledRule) concerns(login, channel, way string) bool {
	return (len(r.logins) == 0 || matchAny(r.logins, login)) &&
		(len(r.channels) == 0 || slices.Contains(r.channels, channel)) &&
		(len(r.ways) == 0 || slices.Contains(r.ways, way))
}

// Access is all that some roles allow on one device, in lists that are sorted and free of duplicates. The lists are a
// summary: that a login and a channel are in them does not mean they go together. Narrow with For before acting on them,
// or ask Evaluate.
type Access struct {
	Logins    []string // globs
	Channels  []string
	ForwardTo []string // empty where some role does not limit targets, or none allows forwards
	Ways      []string
	Record    string // the strictest recording mode; empty without access
	// RecordStdin is the most that any of the roles that allow something has recorded of stdin; empty is StdinOff.
	RecordStdin string
	// DetachedLife is the shortest of the roles that allow something: how long what is opened may be without its device. 0
	// ends it at once, and is what there is without access.
	DetachedLife time.Duration
	// Session is the shortest of what those roles say of how long something may last.
	Session SessionLimits
	// Moderators is what those roles require, all of it together, in an order of its own; PresenceCheck the shortest that one of them states, 0:
	// none does. Only where roles were compiled, not of a policy that was decoded: see Moderated.
	Moderators    []Moderators
	PresenceCheck time.Duration

	demands    demands
	roles      []compiledRole
	login, way string // set by For; empty: any
}

var (
	allChannels = []string{Agent, Exec, LocalForward, RemoteForward, SFTP, Shell, SocketForward, X11}
	// evaluated are those and what comes with allow.join.
	evaluated = []string{Agent, Exec, JoinSession, LocalForward, RemoteForward, SFTP, Shell, SocketForward, X11}
	allWays   = []string{WayDirect, WayEndToEnd, WayHub} // those there are: a role that names none has these
)

// Access returns what a user who holds the roles named may do.
func (c Compiled) Access(roleNames []string) Access {
	return c.held(roleNames).summarise()
}

// held is the Access of those roles before it is summarised.
func (c Compiled) held(roleNames []string) Access {
	var a Access
	for _, r := range c.roles {
		if slices.Contains(roleNames, r.name) {
			a.roles = append(a.roles, r)
		}
	}
	return a
}

// Capped tells whether the cluster counts what the user opens, by a role that concerns this device or another.
func (a Access) Capped() bool {
	return slices.ContainsFunc(a.roles, func(r compiledRole) bool { return r.demands&demandCounted != 0 })
}

// Moderated tells whether a role that allows something here requires moderators for some channel.
func (a Access) Moderated() bool { return a.demands&demandModerated != 0 }

// For narrows the access to one login and one way in: Channels is then exact, and so is ForwardTo but for targets that a
// deny rule takes away, which Forward and Socket heed. It is what a grant for that login carries.
func (a Access) For(login, way string) Access {
	return Access{roles: a.roles, login: login, way: way}.summarise()
}

func (a Access) summarise() Access {
	var logins []string
	ways := allWays
	if a.login != "" {
		logins, ways = []string{a.login}, []string{a.way}
	} else {
		for _, r := range a.roles {
			if r.allow != nil {
				logins = append(logins, r.allow.logins...)
			}
		}
		logins = sorted(logins)
	}
	unlimited, first := false, true
	for _, r := range a.roles {
		if r.allow == nil {
			continue
		}
		counts := false
		for _, login := range logins {
			for _, channel := range evaluated {
				for _, way := range ways {
					if !r.allow.admits(login, channel, way) || a.denied(login, channel, way) {
						continue
					}
					counts = true
					a.Logins = append(a.Logins, login)
					a.Channels = append(a.Channels, channel)
					a.Ways = append(a.Ways, way)
					a.Record = stricter(strictness, a.Record, r.record)
					a.RecordStdin = stricter(stdinStrictness, a.RecordStdin, r.stdin)
					a.demands |= r.demands
					a.Session = a.Session.Merge(SessionLimits{r.idle, r.duration, r.demands&demandUnexpired != 0})
					if first || r.detachedLife < a.DetachedLife {
						a.DetachedLife, first = r.detachedLife, false
					}
					if channel == LocalForward || channel == SocketForward {
						a.ForwardTo = append(a.ForwardTo, r.allow.forwardTo...)
						unlimited = unlimited || len(r.allow.forwardTo) == 0
					}
				}
			}
		}
		if counts {
			a.Moderators = append(a.Moderators, r.moderators...)
			a.PresenceCheck = shorter(a.PresenceCheck, r.presence)
		}
	}
	a.Moderators = together(a.Moderators)
	a.Logins, a.Channels, a.Ways, a.ForwardTo = sorted(a.Logins), sorted(a.Channels), sorted(a.Ways), sorted(a.ForwardTo)
	if unlimited {
		a.ForwardTo = nil
	}
	return a
}

// admits is reach for a login that may itself be a glob of this or another rule.
func (r *compiledRule) admits(login, channel, way string) bool {
	return r.reach(login, channel, way) == reachAll
}

func (a Access) denied(login, channel, way string) bool {
	return a.deniedByRole(login, channel, way) || a.voids(login, way) != nil
}

func (a Access) deniedByRole(login, channel, way string) bool {
	return slices.ContainsFunc(a.roles, func(r compiledRole) bool { return r.deny != nil && r.deny.denies(login, channel, way) })
}

// voids returns a role that demands what this version does not know, and would allow something with the login and way; nil: there is none. A demand
// holds for whatever the person's roles allow together, and one that is not known can only be met by opening nothing: if it voided its own role
// alone, whoever has another that allows the same would be let in without it.
func (a Access) voids(login, way string) *compiledRole {
	for i := range a.roles {
		r := &a.roles[i]
		if r.allow != nil && r.demands.unknown() && slices.ContainsFunc(evaluated, func(channel string) bool {
			return r.allow.admits(login, channel, way) && !a.deniedByRole(login, channel, way)
		}) {
			return r
		}
	}
	return nil
}

// Forward reports whether a TCP forward is allowed; see Targets.Forward for the zero ip.
func (a Access) Forward(host string, ip netip.Addr, port uint16) bool {
	return a.target(LocalForward,
		func(t Targets) bool { return t.Forward(host, ip, port) },
		func(t Targets) bool { return t.deniesTCP(host, ip, port) })
}

// Socket reports whether a forward to the socket at an absolute path is allowed.
func (a Access) Socket(name string) bool {
	return a.target(SocketForward,
		func(t Targets) bool { return t.Socket(name) },
		func(t Targets) bool { return t.namesSocket(name) })
}

// target asks each login and way the access still covers; after For that is one of each.
func (a Access) target(channel string, allows, denies func(Targets) bool) bool {
	for _, login := range a.Logins {
		for _, way := range a.Ways {
			if a.denied(login, channel, way) {
				continue
			}
			taken := slices.ContainsFunc(a.roles, func(r compiledRole) bool {
				return r.deny != nil && r.deny.concerns(login, channel, way) && denies(r.deny.targets)
			})
			given := slices.ContainsFunc(a.roles, func(r compiledRole) bool {
				return r.allow != nil && r.allow.admits(login, channel, way) && allows(r.allow.targets)
			})
			if given && !taken {
				return true
			}
		}
	}
	return false
}

// The orders of modes; one that is not known counts as strictest.
var (
	strictness      = []string{RecordOff, RecordBestEffort, RecordStrict}
	stdinStrictness = []string{"", StdinOff, StdinRedacted, StdinFull}
)

// stricter is the later of two modes in their order.
func stricter(order []string, a, b string) string {
	if a == "" {
		return b
	}
	rank := func(s string) int {
		if i := slices.Index(order, s); i >= 0 {
			return i
		}
		return len(order)
	}
	if d := cmp.Compare(rank(a), rank(b)); d > 0 || d == 0 && a > b {
		return a
	}
	return b
}
