package hub

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// minAdmitRate is how many handshakes a second a hub admits at least: well below what one core can do.
	minAdmitRate = 50.0
	// fleetReturns is how long all devices of a cluster may take to return together.
	fleetReturns = 30 * time.Second
	// headroom is how much more a hub admits than return in a second when all spread over W: standby tunnels, second carriers, uneven hubs. Who is
	// refused comes back seconds later, and the last of those make the tail.
	headroom = 3
	// strangerShare of the rate is for any one network of which no device has registered, and minStrangerRate the least of it.
	strangerShare   = 0.25
	minStrangerRate = 5.0
	// strangerBurst are a new site's devices, switched on together.
	strangerBurst = 20.0
	// maxPrefixes networks are remembered.
	maxPrefixes = 8192
	// refreshAfter is how long the rate and the other hubs' addresses are kept before they are asked for again.
	refreshAfter = 2 * time.Second
	// knownFor is how long a network counts as known after a registration from it.
	knownFor = 24 * time.Hour
)

// admission decides, before any TLS work, whether a new connection of a device may go on. What it refuses is told nothing: nobody has
// shown yet who he is.
//
// The bucket is small, half a second's worth: in no second do more than 1.5 times the rate pass, and no more registrations.
// A network of which no device has registered gets a share only; one of which some device has, a NAT with thousands behind it, has no
// limit of its own.
type admission struct {
	now  func() time.Time
	rate func() float64          // a second; asked now and then
	hubs func() []netip.AddrPort // where the other hubs send from; likewise

	mu       sync.Mutex
	all      bucket
	asked    bucket // full while few ask: those need not prove their address first
	prefixes map[netip.Prefix]*source
	peers    []netip.AddrPort // other hubs: they are needed most in a storm
	perSec   float64          // rate, as it was last asked for
	asOf     time.Time        // of peers and perSec
	closed   bool
	refused  uint64
}

// source is one network: a /24, or a /56.
type source struct {
	bucket
	known time.Time // until then
}

// bucket is a token bucket; the zero bucket is full.
type bucket struct {
	tokens float64
	at     time.Time
}

func (b *bucket) fill(rate, burst float64, now time.Time) {
	if b.at.IsZero() {
		b.tokens = burst
	} else {
		b.tokens = min(burst, b.tokens+rate*max(now.Sub(b.at), 0).Seconds())
	}
	b.at = now
}

func burstOf(rate float64) float64 { return max(rate/2, 1) }

// sourceOf is the network that an address counts for.
func sourceOf(a netip.Addr) netip.Prefix {
	bits := 24
	if a = a.Unmap(); a.Is6() {
		bits = 56
	}
	p, _ := a.WithZone("").Prefix(bits)
	return p
}

func (a *admission) admit(from netip.AddrPort) bool {
	now := a.now()
	a.mu.Lock()
	defer a.mu.Unlock()
	rate := a.refreshLocked(now)
	if slices.Contains(a.peers, netip.AddrPortFrom(from.Addr().Unmap(), from.Port())) {
		return true
	}
	a.all.fill(rate, burstOf(rate), now)
	s := a.source(sourceOf(from.Addr()), now)
	share := max(rate*strangerShare, minStrangerRate)
	s.fill(share, max(share, strangerBurst), now)
	known := now.Before(s.known)
	if a.closed || a.all.tokens < 1 || !known && s.tokens < 1 {
		a.refused++
		return false
	}
	a.all.tokens--
	s.tokens--
	return true
}

// close refuses everybody but other hubs from now on.
func (a *admission) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
}

// refreshLocked returns the rate. Hubs call each other from the port they listen on.
func (a *admission) refreshLocked(now time.Time) (rate float64) {
	if a.perSec == 0 || now.Sub(a.asOf) > refreshAfter {
		a.peers, a.perSec, a.asOf = a.hubs(), a.rate(), now
	}
	return a.perSec
}

// verify tells whether a new connection must prove its address first: when more ask than half of the rate.
func (a *admission) verify() bool {
	now := a.now()
	a.mu.Lock()
	defer a.mu.Unlock()
	rate := a.refreshLocked(now)
	a.asked.fill(rate/2, rate/2, now)
	if a.asked.tokens < 1 {
		return true
	}
	a.asked.tokens--
	return false
}

// registered notes that a device registered from there.
func (a *admission) registered(from netip.Addr) {
	now := a.now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.source(sourceOf(from), now).known = now.Add(knownFor)
}

// source returns the network's; a.mu is held. Of too many, strangers are forgotten before known ones.
func (a *admission) source(p netip.Prefix, now time.Time) *source {
	if s := a.prefixes[p]; s != nil {
		return s
	}
	if a.prefixes == nil {
		a.prefixes = make(map[netip.Prefix]*source)
	}
	if len(a.prefixes) >= maxPrefixes {
		looked := 0
		var victim netip.Prefix
		for q, s := range a.prefixes { // in no order
			victim = q
			if looked++; looked == 16 || !now.Before(s.known) {
				break
			}
		}
		delete(a.prefixes, victim)
	}
	s := new(source)
	a.prefixes[p] = s
	return s
}

func (a *admission) refusedSoFar() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refused
}

// fleetRate is how many handshakes a second let the whole fleet return in time: each hub's share of it within W, and all of it
// where few hubs are left.
func fleetRate(devices, listed, online int, w time.Duration) float64 {
	n := float64(devices)
	return max(minAdmitRate, headroom*n/float64(max(listed, 1))/max(w, time.Second).Seconds(), n/float64(max(online, 1))/fleetReturns.Seconds())
}
