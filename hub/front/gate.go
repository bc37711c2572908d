package front

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// gate bounds connections that have not authenticated, in all and per source. At a bound, a connection of evictAge or more makes room:
// so a crowd that stalls cannot keep an honest person out, and a handshake that moves is not cut for another. But where all are young, those who
// came just now in numbers, the source that has the most gives way to one that has clearly less: a few that connect again and again cannot keep
// the others out either.
type gate struct {
	total, perSource int

	mu      sync.Mutex
	waiting []*ticket // oldest first
	sources map[netip.Prefix]int
}

// ticket is one connection in the gate.
type ticket struct {
	source netip.Prefix
	since  time.Time
	conn   net.Conn
}

// source is what counts as one: an IPv4 address, an IPv6 /64.
func source(a net.Addr) netip.Prefix {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := t.AddrPort().Addr().Unmap().WithZone("")
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	p, _ := ip.Prefix(bits)
	return p
}

// enter admits c, perhaps closing another, or returns nil.
func (g *gate) enter(c net.Conn, now time.Time) *ticket {
	g.mu.Lock()
	t := &ticket{source: source(c.RemoteAddr()), since: now, conn: c}
	var evicted *ticket
	switch {
	case g.sources[t.source] >= g.perSource:
		evicted = g.oldestLocked(now, func(o *ticket) bool { return o.source == t.source })
	case len(g.waiting) >= g.total:
		evicted = g.oldestLocked(now, func(*ticket) bool { return true })
		if evicted == nil {
			evicted = g.crowdedLocked(g.sources[t.source] + 2)
		}
	}
	full := evicted == nil && (g.sources[t.source] >= g.perSource || len(g.waiting) >= g.total)
	if evicted != nil {
		g.removeLocked(evicted)
	}
	if !full {
		if g.sources == nil {
			g.sources = make(map[netip.Prefix]int)
		}
		g.waiting = append(g.waiting, t)
		g.sources[t.source]++
	}
	g.mu.Unlock()
	if evicted != nil {
		_ = evicted.conn.Close()
	}
	if full {
		return nil
	}
	return t
}

func (g *gate) oldestLocked(now time.Time, is func(*ticket) bool) *ticket {
	for _, t := range g.waiting {
		if is(t) {
			if now.Sub(t.since) < evictAge {
				return nil
			}
			return t
		}
	}
	return nil
}

// crowdedLocked returns the oldest of the source that has the most, if those are so many.
func (g *gate) crowdedLocked(least int) (found *ticket) {
	for _, t := range g.waiting {
		if n := g.sources[t.source]; n >= least {
			found, least = t, n+1
		}
	}
	return found
}

// leave takes t out: it authenticated or ended. Idempotent.
func (g *gate) leave(t *ticket) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.removeLocked(t)
}

func (g *gate) removeLocked(t *ticket) {
	i := slices.Index(g.waiting, t)
	if i < 0 {
		return
	}
	g.waiting = slices.Delete(g.waiting, i, i+1)
	if g.sources[t.source]--; g.sources[t.source] == 0 {
		delete(g.sources, t.source)
	}
}
