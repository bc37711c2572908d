package policy

import (
	"slices"
	"strings"
)

// Reach is what one role allows on a device and no role denies: as every login that one of Logins matches and none of Except,
// by each of Ways, each of Channels. All lists are sorted.
type Reach struct {
	Role      string
	Logins    []string // globs
	Except    []string // globs
	Channels  []string
	Ways      []string
	ForwardTo []string // what the role limits forwards to; empty: it does not, or allows none. What others deny is not in it.
}

// Covers reports whether the reach holds a login, channel and way.
func (r Reach) Covers(login, channel, way string) bool {
	return matchAny(r.Logins, login) && !matchAny(r.Except, login) && slices.Contains(r.Channels, channel) && slices.Contains(r.Ways, way)
}

// Review lists all that roles allow on dev: a login, channel and way are in it exactly if Evaluate allows them. Roles went
// through Cluster.Apply.
func Review(roles []Role, dev Device) []Reach {
	compiled := Compile(0, roles, dev).roles
	var list []Reach
	for i := range compiled {
		if allow := compiled[i].allow; allow != nil {
			list = append(list, reachOf(compiled[i].name, allow, compiled)...)
		}
	}
	return list
}

// reachOf lists one role's: one Reach for each set of logins, channels and ways that share what is denied.
func reachOf(role string, allow *compiledRule, all []compiledRole) []Reach {
	var list []Reach
	for _, login := range allow.logins {
		var ofLogin []Reach
		for _, way := range allow.ways {
			if way == wayNone {
				continue
			}
			// Channels that share their exceptions go together, then ways that share both, then logins that share all.
			var ofWay []Reach
			for _, channel := range allow.channels {
				if except, ok := exceptions(all, login, channel, way); ok {
					ofWay = join(ofWay, Reach{Role: role, Logins: []string{login}, Except: except, Channels: []string{channel}, Ways: []string{way}},
						func(r *Reach) *[]string { return &r.Channels })
				}
			}
			for _, r := range ofWay {
				ofLogin = join(ofLogin, r, func(r *Reach) *[]string { return &r.Ways })
			}
		}
		for _, r := range ofLogin {
			list = join(list, r, func(r *Reach) *[]string { return &r.Logins })
		}
	}
	for i := range list {
		if slices.Contains(list[i].Channels, LocalForward) || slices.Contains(list[i].Channels, SocketForward) {
			list[i].ForwardTo = allow.forwardTo
		}
	}
	return list
}

// exceptions returns the globs of logins that are denied among those that login, a glob, stands for; false: all of them are.
func exceptions(all []compiledRole, login, channel, way string) ([]string, bool) {
	var except []string
	for i := range all {
		d := all[i].deny
		if d == nil || len(d.forwardTo) > 0 {
			continue
		}
		if len(d.channels) > 0 && !slices.Contains(d.channels, channel) || len(d.ways) > 0 && !slices.Contains(d.ways, way) {
			continue
		}
		// A glob that matches another's text, its * included, matches all that the other does.
		if len(d.logins) == 0 || matchAny(d.logins, login) {
			return nil, false
		}
		for _, denied := range d.logins {
			if overlap(login, denied) {
				except = append(except, denied)
			}
		}
	}
	return sorted(except), true
}

// join adds r to list: to the element that is like it in all but the part, or as a new one.
func join(list []Reach, r Reach, part func(*Reach) *[]string) []Reach {
	for i := range list {
		same := func(of func(*Reach) *[]string) bool { return slices.Equal(*of(&list[i]), *of(&r)) }
		differ := 0
		for _, of := range []func(*Reach) *[]string{
			func(r *Reach) *[]string { return &r.Logins }, func(r *Reach) *[]string { return &r.Except },
			func(r *Reach) *[]string { return &r.Channels }, func(r *Reach) *[]string { return &r.Ways },
		} {
			if !same(of) {
				differ++
			}
		}
		if differ == 0 {
			return list
		}
		if differ == 1 && !same(part) {
			at := part(&list[i])
			*at = sorted(append(slices.Clone(*at), *part(&r)...))
			return list
		}
	}
	return append(list, r)
}

// overlap reports whether some text matches both globs. Its cost is the product of their lengths.
func overlap(a, b string) bool {
	switch {
	case !strings.Contains(a, "*"):
		return glob(b, a)
	case !strings.Contains(b, "*"):
		return glob(a, b)
	}
	// meets[j]: the rest of a from i on and the rest of b from j on match some text alike; i runs from the end.
	meets := make([]bool, len(b)+1)
	for i := len(a); i >= 0; i-- {
		next := meets[len(b)] // of i+1, j+1
		for j := len(b); j >= 0; j-- {
			below := meets[j] // of i+1, j
			switch {
			case i == len(a) && j == len(b):
				meets[j] = true
			case i < len(a) && a[i] == '*':
				meets[j] = below || j < len(b) && meets[j+1]
			case j < len(b) && b[j] == '*':
				meets[j] = meets[j+1] || i < len(a) && below
			default:
				meets[j] = i < len(a) && j < len(b) && a[i] == b[j] && next
			}
			next = below
		}
	}
	return meets[0]
}
