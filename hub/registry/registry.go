// Package registry holds which device has which tunnels, at this hub and at the others, and decides what a REGISTER or an announcement
// of another hub may displace.
//
// It has no sockets and no clock. A Registry is safe for concurrent use. Register and Announce change it, Routes reads it, Changed waits
// for it, and a Feed says what the other hubs must hear of it.
//
// A registration is one device, incarnation, slot and counter. Within an incarnation and slot the highest counter ever seen counts, and
// nothing at or below it is accepted again. Of a device's incarnations the one with the latest stamp counts, and tunnels of the others
// are displaced. Both are maxima, so hubs that heard the same things, in whatever order, hold the same.
package registry

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
	"unique"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

const (
	// remembered is how many incarnations of a device keep their highest counters: a replay of one of them is refused.
	remembered = 8
	// slots a device may hold in the cluster.
	slots = 2
	// cloneSwaps displacements of one incarnation by another and back within cloneWindow mean two machines with one identity.
	cloneSwaps  = 3
	cloneWindow = 2 * time.Minute
	// maxAhead is how far a stamp may be ahead of this hub's clock. What is merged into the clock is less, so that the stamps it then
	// gives out are not too far ahead for a third hub whose clock is a little behind.
	maxAhead   = 2 * time.Second
	mergeAhead = time.Second
	// silentAgain is the least time from a tunnel's return to its next silence: no heartbeat's deadline is shorter, so that a hub that says
	// otherwise does not know better, and would make streams that go by other hubs move without end.
	silentAgain = 3 * time.Second
	// maxWaiters devices, or twice those known, may be waited for by name; with more, all are woken and ask again.
	maxWaiters = 4096
)

// Errors of Register and Announce.
var (
	ErrStale = errors.New("registration is not above an earlier one of the same incarnation")
	ErrSlot  = errors.New("no such slot")
	ErrClone = errors.New("two machines take turns with this identity")
	// ErrReplay: the announcing hub itself has announced a later registration, or took this one back.
	ErrReplay = errors.New("registration was announced before and is over")
	// ErrFenced: a newer incarnation of the device is known. The announcement is remembered all the same.
	ErrFenced = errors.New("a newer incarnation of the device is known")
	// ErrFuture: the stamp is ahead of this hub's clock.
	ErrFuture = errors.New("stamp is ahead of this hub's clock")
)

// Tunnel is one tunnel registered here. Its fields do not change after Register.
type Tunnel struct {
	Conn        tunnel.Conn
	UUID        wire.UUID
	Name        string
	Incarnation wire.Incarnation
	Slot        uint8
	Counter     uint64
	Since       time.Time
	// Nonce and Signature are those of the Register: other hubs believe no announcement without.
	Nonce     [32]byte
	Signature []byte
	// Challenged is the Clock when the Challenge was sent. An incarnation that a newer one has displaced comes back only when it was
	// challenged after that: then it is alive, and its REGISTER is none that was under way while the device was switched off.
	Challenged wire.Stamp

	silent bool // guarded by the Registry

	mu   sync.Mutex
	info wire.Info
	held wire.PolicyHeld
}

// Info is what the edge last said of itself.
func (t *Tunnel) Info() wire.Info {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.info
}

// SetInfo replaces it. After Register, InfoChanged tells the other hubs.
func (t *Tunnel) SetInfo(i wire.Info) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.info = i
}

// Held is which revisions the edge last said it enforces.
func (t *Tunnel) Held() wire.PolicyHeld {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.held
}

// SetHeld replaces it.
func (t *Tunnel) SetHeld(h wire.PolicyHeld) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held = h
}

func (t *Tunnel) login() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return defaultLogin(t.info.UID, t.info.Logins)
}

// defaultLogin is whom a session is for when the person names nobody: an agent that runs as somebody can serve nobody else.
func defaultLogin(uid uint32, logins []string) string {
	switch {
	case uid == 0:
		return "root"
	case len(logins) > 0:
		return logins[0]
	}
	return ""
}

// holder is the hub that a counter was seen from, in the order hubs were met, self first; zero is none.
type holder uint16

const (
	self  holder = 1
	ended holder = 1 << 15 // the registration was taken back
	mine  holder = 1 << 14 // it, or an earlier one, was here: the other hubs may still hold that for true
)

func (h holder) hub() holder { return h &^ (ended | mine) }

// is tells whether the registration is that hub's and was not taken back.
func (h holder) is(other holder) bool { return h&^mine == other }

// seen is what is remembered of an incarnation.
type seen struct {
	incarnation wire.Incarnation
	stamp       wire.Stamp
	counter     [slots]uint64 // the highest
	holder      [slots]holder
}

func (s *seen) above(slot uint8, counter uint64) bool {
	return s.holder[slot] == 0 || counter > s.counter[slot]
}

// remote is a tunnel at another hub.
type remote struct {
	hub      holder
	carrier  tunnel.Carrier
	silent   bool
	round    uint32 // of the hub's announcements that named it last
	since    int64  // ms since 1970
	back     int64  // likewise: when it was silent last; 0: never
	observed netip.AddrPort
	login    unique.Handle[string]
}

// follow makes m what is known after old, of the same registration, and tells whether it is silent now and was not, or the reverse.
func (m *remote) follow(old *remote, now time.Time) (changed bool) {
	m.back = old.back
	switch {
	case old.silent && !m.silent:
		m.back = now.UnixMilli()
	case m.silent && !old.silent && now.UnixMilli()-old.back < silentAgain.Milliseconds():
		m.silent = false
	}
	return m.silent != old.silent
}

// place is what holds a slot: at most one of the two.
type place struct {
	local  *Tunnel
	remote *remote
}

type device struct {
	places [slots]place // all of the newest incarnation
	seen   []seen       // by stamp, the newest last; at most remembered
	swaps  []time.Time  // when an earlier incarnation displaced a later one, both here
}

func (d *device) find(i wire.Incarnation) int {
	return slices.IndexFunc(d.seen, func(s seen) bool { return s.incarnation == i })
}

func (d *device) newest() *seen {
	if len(d.seen) == 0 {
		return nil
	}
	return &d.seen[len(d.seen)-1]
}

// put enters or moves what is known of an incarnation to where its stamp belongs, forgets the oldest when there are too many, and tells
// whether the incarnation is now the newest.
func (d *device) put(s seen) (newest bool) {
	if i := d.find(s.incarnation); i >= 0 {
		d.seen = slices.Delete(d.seen, i, i+1)
	}
	at := len(d.seen)
	for at > 0 && (d.seen[at-1].stamp > s.stamp ||
		d.seen[at-1].stamp == s.stamp && string(d.seen[at-1].incarnation[:]) > string(s.incarnation[:])) {
		at--
	}
	d.seen = slices.Insert(d.seen, at, s)
	newest = at == len(d.seen)-1
	if len(d.seen) > remembered {
		d.seen = slices.Delete(d.seen, 0, 1)
	}
	return newest
}

// clear frees a slot and returns its local tunnel, if it had one.
func (d *device) clear(slot int) []*Tunnel {
	t := d.places[slot].local
	d.places[slot] = place{}
	if t == nil {
		return nil
	}
	return []*Tunnel{t}
}

// locals are the tunnels here.
func (d *device) locals() (all []*Tunnel) {
	for _, p := range d.places {
		if p.local != nil {
			all = append(all, p.local)
		}
	}
	return all
}

// take gives a slot of incarnation i, the newest, to p; was is the newest before. What is displaced is returned.
func (d *device) take(was wire.Incarnation, had bool, i wire.Incarnation, slot uint8, p place) (displaced []*Tunnel) {
	for n := range d.places {
		if n == int(slot) || !had || was != i {
			displaced = append(displaced, d.clear(n)...)
		}
	}
	d.places[slot] = p
	return displaced
}

// Registry is the hub's table. The zero value is ready.
type Registry struct {
	mu      sync.RWMutex
	devices map[wire.UUID]*device
	hubs    map[wire.UUID]*hub
	byIndex []*hub // hub n has holder n+2
	clock   wire.Stamp
	waiters map[wire.UUID]chan struct{}
	feeds   map[*Feed]struct{}
}

type hub struct {
	id     wire.UUID
	holder holder
	round  uint32
}

// Clock reads the hybrid logical clock: above every stamp read or merged before.
func (r *Registry) Clock(now time.Time) wire.Stamp {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tickLocked(now)
}

// Merge brings the clock forward to another hub's, though not far beyond this hub's own.
func (r *Registry) Merge(s wire.Stamp, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mergeLocked(s, now)
}

func stampOf(t time.Time) wire.Stamp { return wire.Stamp(max(t.UnixMilli(), 0)) << 16 }

func (r *Registry) tickLocked(now time.Time) wire.Stamp {
	r.clock = max(stampOf(now), r.clock+1)
	return r.clock
}

func (r *Registry) mergeLocked(s wire.Stamp, now time.Time) {
	r.clock = max(r.clock, min(s, stampOf(now.Add(mergeAhead))))
}

// Register admits t or refuses it with ErrStale, ErrSlot or ErrClone. The tunnels it returns are displaced: they are no longer found
// and the caller closes them. With an error nothing has changed, but that ErrClone is remembered, and the tunnels returned with it stay: they
// are those of the other machine.
//
// Within an incarnation a higher counter takes its slot. A new incarnation takes all slots. An incarnation that was displaced comes back
// only with a counter above its own highest, challenged after it was displaced, and when that happens cloneSwaps times in cloneWindow,
// against one that registered here too, it is refused.
func (r *Registry) Register(t *Tunnel, now time.Time) (displaced []*Tunnel, err error) {
	if int(t.Slot) >= slots {
		return nil, fmt.Errorf("%w: %d", ErrSlot, t.Slot)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.deviceLocked(t.UUID)
	s, was, had := seen{incarnation: t.Incarnation}, wire.Incarnation{}, false
	newest := d.newest()
	if newest != nil {
		was, had = newest.incarnation, true
	}
	i := d.find(t.Incarnation)
	if i >= 0 {
		s = d.seen[i]
		if !s.above(t.Slot, t.Counter) {
			return nil, ErrStale
		}
	}
	if i >= 0 && was != t.Incarnation {
		if t.Challenged <= newest.stamp {
			return nil, ErrStale
		}
		if newest.holder[0].hub() == self || newest.holder[1].hub() == self {
			d.swaps = recent(append(d.swaps, now), now)
			if len(d.swaps) >= cloneSwaps {
				return d.locals(), ErrClone
			}
		}
	}
	if !had || was != t.Incarnation {
		s.stamp = r.tickLocked(now)
		if had {
			s.stamp = max(s.stamp, newest.stamp+1)
		}
	}
	s.counter[t.Slot], s.holder[t.Slot] = t.Counter, self|mine
	d.put(s)
	displaced = d.take(was, had, t.Incarnation, t.Slot, place{local: t})
	r.wakeLocked(t.UUID)
	r.feedLocked(t.UUID)
	return displaced, nil
}

func recent(times []time.Time, now time.Time) []time.Time {
	for len(times) > 0 && now.Sub(times[0]) > cloneWindow {
		times = times[1:]
	}
	return times
}

func (r *Registry) deviceLocked(id wire.UUID) *device {
	d := r.devices[id]
	if d == nil {
		d = new(device)
		if r.devices == nil {
			r.devices = make(map[wire.UUID]*device)
		}
		r.devices[id] = d
	}
	return d
}

func (r *Registry) hubLocked(id wire.UUID) *hub {
	h := r.hubs[id]
	if h == nil {
		h = &hub{id: id, holder: self + 1 + holder(len(r.byIndex))}
		if r.hubs == nil {
			r.hubs = make(map[wire.UUID]*hub)
		}
		r.hubs[id] = h
		r.byIndex = append(r.byIndex, h)
	}
	return h
}

// Announce takes what another hub says of a tunnel it holds. The caller has checked the device's signature, with that hub in it. The
// tunnels it returns are displaced, as in Register; with an error there are none.
//
// It refuses with ErrSlot, ErrFuture, ErrStale, ErrReplay or ErrFenced. Saying the same twice is no error: that is how a hub tells what
// changed of a tunnel, and what it holds when it was lost for a while.
func (r *Registry) Announce(from wire.UUID, a *wire.Announce, now time.Time) (displaced []*Tunnel, err error) {
	if int(a.Slot) >= slots {
		return nil, fmt.Errorf("%w: %d", ErrSlot, a.Slot)
	}
	if a.Stamp == 0 || a.Stamp.Time().After(now.Add(maxAhead)) {
		return nil, ErrFuture
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mergeLocked(a.Stamp, now)
	h, d := r.hubLocked(from), r.deviceLocked(a.UUID)
	s, was, had := seen{incarnation: a.Incarnation, stamp: a.Stamp}, wire.Incarnation{}, false
	if n := d.newest(); n != nil {
		was, had = n.incarnation, true
	}
	p := place{remote: &remote{
		hub: h.holder, carrier: tunnel.Carrier(a.Carrier), silent: a.Silent, round: h.round, since: a.Since.UnixMilli(), observed: a.Observed,
		login: unique.Make(defaultLogin(a.UID, a.Logins)),
	}}
	if i := d.find(a.Incarnation); i >= 0 {
		s = d.seen[i]
		switch {
		case s.above(a.Slot, a.Counter):
			s.stamp = max(s.stamp, a.Stamp)
		case s.holder[a.Slot].is(h.holder) && a.Counter == s.counter[a.Slot]:
			// The same again. Its stamp was told before; a hub that could raise it now could bring back what a newer incarnation fenced.
			if was != a.Incarnation {
				return nil, ErrFenced
			}
			old := d.places[a.Slot].remote
			d.places[a.Slot] = p
			if old == nil || p.remote.follow(old, now) {
				r.wakeLocked(a.UUID)
			}
			return nil, nil
		case s.holder[a.Slot].hub() == h.holder:
			return nil, ErrReplay
		default:
			return nil, ErrStale
		}
	}
	s.counter[a.Slot], s.holder[a.Slot] = a.Counter, h.holder|s.holder[a.Slot]&mine
	if !d.put(s) {
		return nil, ErrFenced
	}
	displaced = d.take(was, had, a.Incarnation, a.Slot, p)
	r.wakeLocked(a.UUID)
	if len(displaced) > 0 {
		r.feedLocked(a.UUID)
	}
	return displaced, nil
}

// Withdraw takes back what the hub announced, this registration or an earlier one of the same incarnation and slot. What others hold is
// not its to take: anything else is ignored, for nobody signs a Withdraw.
func (r *Registry) Withdraw(from wire.UUID, w *wire.Withdraw) {
	if int(w.Slot) >= slots {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	h, d := r.hubs[from], r.devices[w.UUID]
	if h == nil || d == nil {
		return
	}
	i := d.find(w.Incarnation)
	if i < 0 || d.seen[i].holder[w.Slot].hub() != h.holder || w.Counter < d.seen[i].counter[w.Slot] {
		return
	}
	d.seen[i].holder[w.Slot] |= ended
	if i == len(d.seen)-1 && d.places[w.Slot].remote != nil {
		d.places[w.Slot] = place{}
		r.wakeLocked(w.UUID)
	}
}

// BeginSnapshot says that the hub now names all its tunnels, and EndSnapshot that it has: what it did not name is over.
func (r *Registry) BeginSnapshot(from wire.UUID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hubLocked(from).round++
}

// EndSnapshot ends what BeginSnapshot began.
func (r *Registry) EndSnapshot(from wire.UUID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.hubLocked(from)
	for id, d := range r.devices {
		n := d.newest()
		for slot, p := range d.places {
			if !n.holder[slot].is(h.holder) || p.remote != nil && p.remote.round == h.round {
				continue
			}
			// Also where the place was dropped with the hub before: what it names no more now it cannot name again later.
			n.holder[slot] |= ended
			if p.remote != nil {
				d.places[slot] = place{}
				r.wakeLocked(id)
			}
		}
	}
}

// DropHub forgets the tunnels of a hub that is gone, and tells how many there were. They are not over: the hub may name them again.
func (r *Registry) DropHub(from wire.UUID) (dropped int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.hubs[from]
	if h == nil {
		return 0
	}
	for id, d := range r.devices {
		for slot, p := range d.places {
			if p.remote != nil && p.remote.hub == h.holder {
				d.places[slot] = place{}
				dropped++
				r.wakeLocked(id)
			}
		}
	}
	return dropped
}

// HubBack wakes those who wait for a device with a tunnel at the hub: it can be reached again.
func (r *Registry) HubBack(from wire.UUID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.hubs[from]
	if h == nil {
		return
	}
	for id := range r.waiters {
		if d := r.devices[id]; d != nil && slices.ContainsFunc(d.places[:], func(p place) bool { return p.remote != nil && p.remote.hub == h.holder }) {
			r.wakeLocked(id)
		}
	}
}

// Remove forgets t if it still holds its slot, and tells whether the device now has no tunnel here because of that.
func (r *Registry) Remove(t *Tunnel) (gone bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.devices[t.UUID]
	if d == nil || int(t.Slot) >= slots || d.places[t.Slot].local != t {
		return false
	}
	d.places[t.Slot] = place{}
	d.newest().holder[t.Slot] |= ended
	r.wakeLocked(t.UUID)
	r.feedLocked(t.UUID)
	return d.local() == nil
}

// Forget drops all memory of a device that was removed from the cluster; its tunnels here are returned to be closed.
func (r *Registry) Forget(id wire.UUID) (displaced []*Tunnel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wakeLocked(id) // also where it has no tunnel: streams may wait for one
	d := r.devices[id]
	if d == nil {
		return nil
	}
	for slot := range d.places {
		displaced = append(displaced, d.clear(slot)...)
	}
	delete(r.devices, id)
	for f := range r.feeds {
		f.farewellLocked(d.say(id, nil))
	}
	return displaced
}

// Forgive forgets the turns that two machines took with this identity: what is to be done about them was done.
func (r *Registry) Forgive(id wire.UUID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d := r.devices[id]; d != nil {
		d.swaps = nil
	}
}

// SetSilent says that t's heartbeats are overdue, or came again.
func (r *Registry) SetSilent(t *Tunnel, silent bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t.silent == silent {
		return
	}
	t.silent = silent
	if d := r.devices[t.UUID]; d != nil && d.places[t.Slot].local == t {
		r.wakeLocked(t.UUID)
		r.feedLocked(t.UUID)
	}
}

// InfoChanged says that t's Info changed.
func (r *Registry) InfoChanged(t *Tunnel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.feedLocked(t.UUID)
}

// Lookup returns the tunnel here to use for a device, nil if it has none here: slot 0 before slot 1, silent ones last.
func (r *Registry) Lookup(id wire.UUID) *Tunnel {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if d := r.devices[id]; d != nil {
		return d.local()
	}
	return nil
}

func (d *device) local() (best *Tunnel) {
	for _, p := range d.places {
		if t := p.local; t != nil && (best == nil || best.silent && !t.silent) {
			best = t
		}
	}
	return best
}

// Tunnels returns the device's tunnels here, slot 0 first.
func (r *Registry) Tunnels(id wire.UUID) (all []*Tunnel) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if d := r.devices[id]; d != nil {
		for _, p := range d.places {
			if p.local != nil {
				all = append(all, p.local)
			}
		}
	}
	return all
}

// All returns every tunnel registered here.
func (r *Registry) All() []*Tunnel {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var all []*Tunnel
	for _, d := range r.devices {
		for _, p := range d.places {
			if p.local != nil {
				all = append(all, p.local)
			}
		}
	}
	return all
}
