package registry

import (
	"net/netip"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// Route is a way to a device.
type Route struct {
	Tunnel      *Tunnel   // here; nil: at Hub
	Hub         wire.UUID // zero: here
	Slot        uint8
	Silent      bool // its heartbeats are overdue
	Incarnation wire.Incarnation
	Carrier     tunnel.Carrier
	Since       time.Time
	Observed    netip.AddrPort
	Login       string // whom a session is for when the person names nobody; empty: not known
}

// Routes returns the ways to a device, the best first: slot 0 before slot 1, silent ones last. All are of one incarnation.
func (r *Registry) Routes(id wire.UUID) []Route {
	r.mu.RLock()
	defer r.mu.RUnlock()
	d := r.devices[id]
	if d == nil {
		return nil
	}
	var good, silent []Route
	for slot := range d.places {
		route, ok := r.routeLocked(d, slot)
		switch {
		case !ok:
		case route.Silent:
			silent = append(silent, route)
		default:
			good = append(good, route)
		}
	}
	return append(good, silent...)
}

func (r *Registry) routeLocked(d *device, slot int) (Route, bool) {
	switch p := d.places[slot]; {
	case p.local != nil:
		t := p.local
		route := Route{Tunnel: t, Slot: t.Slot, Silent: t.silent, Incarnation: t.Incarnation, Since: t.Since, Login: t.login()}
		if t.Conn != nil {
			route.Carrier, route.Observed = t.Conn.Carrier(), t.Conn.RemoteAddr()
		}
		return route, true
	case p.remote != nil:
		m := p.remote
		return Route{
			Hub: r.byIndex[m.hub-self-1].id, Slot: uint8(slot), Silent: m.silent, Incarnation: d.newest().incarnation, Carrier: m.carrier,
			Since: time.UnixMilli(m.since), Observed: m.observed, Login: m.login.Value(),
		}, true
	}
	return Route{}, false
}

// Online tells whether the device has a tunnel anywhere on which heartbeats are not overdue.
func (r *Registry) Online(id wire.UUID) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if d := r.devices[id]; d != nil {
		for _, p := range d.places {
			if p.local != nil && !p.local.silent || p.remote != nil && !p.remote.silent {
				return true
			}
		}
	}
	return false
}

// Stats are counts for people.
type Stats struct{ Devices, Local, Remote int }

// Stats counts.
func (r *Registry) Stats() Stats {
	r.mu.RLock()
	defer r.mu.RUnlock()
	s := Stats{Devices: len(r.devices)}
	for _, d := range r.devices {
		for _, p := range d.places {
			if p.local != nil {
				s.Local++
			}
			if p.remote != nil {
				s.Remote++
			}
		}
	}
	return s
}

// Changed returns a channel that is closed at the next change of the device's routes, or now and then without one.
func (r *Registry) Changed(id wire.UUID) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.waiters[id]
	if c == nil {
		if len(r.waiters) >= max(maxWaiters, 2*len(r.devices)) {
			// Nobody says when he stops waiting. Those who still do ask again; all of them have room, or they would wake each other for ever.
			for _, c := range r.waiters {
				close(c)
			}
			r.waiters = nil
		}
		if r.waiters == nil {
			r.waiters = make(map[wire.UUID]chan struct{})
		}
		c = make(chan struct{})
		r.waiters[id] = c
	}
	return c
}

func (r *Registry) wakeLocked(id wire.UUID) {
	if c := r.waiters[id]; c != nil {
		close(c)
		delete(r.waiters, id)
	}
}

// feedLocked notes a change of a tunnel here. The other hubs hear of changes elsewhere from whose they are.
func (r *Registry) feedLocked(id wire.UUID) {
	for f := range r.feeds {
		f.addLocked(id)
	}
}

// Feed is what another hub must still hear of the tunnels here. It remembers devices, not messages: what changed twice is said once, and
// a Feed that nobody reads is no longer than the list of devices.
type Feed struct {
	r     *Registry
	wake  chan struct{}
	dirty map[wire.UUID]struct{} // guarded by r.mu, as is bye
	bye   []wire.Message         // of devices that were forgotten
}

// maxFarewell messages of forgotten devices wait in a Feed; more are not said, for the other hubs forget these devices as well.
const maxFarewell = 1024

// Feed starts one; the first things it says are all tunnels here. Close it.
func (r *Registry) Feed() *Feed {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := &Feed{r: r, wake: make(chan struct{}, 1), dirty: make(map[wire.UUID]struct{})}
	if r.feeds == nil {
		r.feeds = make(map[*Feed]struct{})
	}
	r.feeds[f] = struct{}{}
	for id, d := range r.devices {
		if d.local() != nil {
			f.addLocked(id)
		}
	}
	return f
}

// Close ends it.
func (f *Feed) Close() {
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	delete(f.r.feeds, f)
}

// Wake has a token when there is something to say.
func (f *Feed) Wake() <-chan struct{} { return f.wake }

func (f *Feed) addLocked(id wire.UUID) {
	f.dirty[id] = struct{}{}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *Feed) farewellLocked(say []wire.Message) {
	if len(say) > 0 && len(f.bye)+len(say) <= maxFarewell {
		f.bye = append(f.bye, say...)
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
}

// Next returns what to say of some devices, at most n of them, and whether there is more to say.
func (f *Feed) Next(n int) (say []wire.Message, more bool) {
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	say, f.bye = f.bye, nil
	for id := range f.dirty {
		if n--; n < 0 {
			break
		}
		delete(f.dirty, id)
		if d := f.r.devices[id]; d != nil {
			say = d.say(id, say)
		}
	}
	return say, len(f.dirty) > 0
}

// say takes back all that was here and is no more: which of it this Feed has said, nobody remembers.
func (d *device) say(id wire.UUID, say []wire.Message) []wire.Message {
	for i := range d.seen {
		s := &d.seen[i]
		for slot := range uint8(slots) {
			if s.holder[slot]&mine == 0 {
				continue
			}
			t := d.places[slot].local
			if t == nil || t.Incarnation != s.incarnation {
				say = append(say, wire.Withdraw{UUID: id, Incarnation: s.incarnation, Slot: slot, Counter: s.counter[slot]})
				continue
			}
			info := t.Info()
			a := wire.Announce{
				UUID: id, Incarnation: t.Incarnation, Slot: slot, Counter: t.Counter, Nonce: t.Nonce, Signature: t.Signature, Stamp: s.stamp,
				Since: t.Since, Silent: t.silent, UID: info.UID, Logins: info.Logins[:min(len(info.Logins), 1)],
			}
			if t.Conn != nil {
				a.Carrier, a.Observed = uint8(t.Conn.Carrier()), t.Conn.RemoteAddr()
			}
			say = append(say, a)
		}
	}
	return say
}
