package mesh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"hawser/tunnel/quicconn"
	"hawser/tunnel/wire"
)

const (
	// maxGreeting connections of a hub may be without its hello.
	maxGreeting = 4
	// adoptRate and adoptBurst bound how often a hub's connection is replaced: each costs telling it all devices here.
	adoptRate, adoptBurst = 1, 20
)

// peer is another hub of the list.
type peer struct {
	m    *Mesh
	id   wire.UUID
	stop context.CancelCauseFunc

	announced, relayed atomic.Uint64
	incidents          incidents

	greeting atomic.Int32 // connections without a hello yet
	hearing  sync.Mutex   // held while a message of the link in use is taken into the registry

	mu          sync.Mutex
	hub         Hub
	link        *link         // in use; nil: none
	changed     chan struct{} // closed and replaced when link changes
	incarnation wire.Incarnation
	heard       time.Time // when the last link was heard last
	gone        bool      // for longer than the grace, or never seen
	removed     bool      // from the list
	adoptions   bucket
	banned      time.Time   // until then
	timer       *time.Timer // of the grace
}

func newPeer(m *Mesh, h Hub) *peer {
	p := &peer{m: m, id: h.UUID, hub: h, changed: make(chan struct{}), gone: true, adoptions: bucket{rate: adoptRate, burst: adoptBurst}}
	p.timer = time.AfterFunc(time.Hour, p.drop)
	p.timer.Stop()
	return p
}

func (p *peer) current() *link {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.link
}

func (p *peer) setLocked(l *link) {
	p.link = l
	close(p.changed)
	p.changed = make(chan struct{})
}

// lower tells whether this hub has the lower UUID of the two: what it dials is the connection that stays.
func (p *peer) lower() bool { return bytes.Compare(p.m.c.Self.UUID[:], p.id[:]) < 0 }

// keep dials whenever there is no connection, until ctx ends. The hub with the higher UUID leaves the other a second to be first.
func (p *peer) keep(ctx context.Context) {
	t := &p.m.c.Timing
	wait, failed := time.Duration(0), false
	for ctx.Err() == nil {
		p.mu.Lock()
		l, changed, banned := p.link, p.changed, p.banned
		p.mu.Unlock()
		if l != nil {
			wait = 0
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		delay := wait
		if !p.lower() {
			delay += 5 * t.RedialMin
		}
		delay = max(delay, banned.Sub(p.m.c.Now()))
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-changed:
			timer.Stop()
			continue
		case <-ctx.Done():
			timer.Stop()
			return
		}
		wait = min(t.RedialMax, t.RedialMin+rand.N(3*max(wait, t.RedialMin)))
		c, err := p.dial(ctx)
		if err != nil {
			if !failed && ctx.Err() == nil {
				p.m.c.Logger.Warn("hub not reached", "hub", p.name(), "error", err)
			}
			failed = true
			continue
		}
		failed = false
		done := make(chan struct{})
		p.m.links.Go(func() {
			defer close(done)
			defer func() { _ = c.CloseWithError(wire.CloseInternal, "the hub failed") }()
			p.m.guard("dialled connection", func() { p.m.serve(ctx, c, true) })
		})
		select { // it may linger long after another has taken its place
		case <-done:
		case <-changed:
		case <-ctx.Done():
		}
	}
}

func (p *peer) name() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hub.Name
}

// dial tries the hub's addresses one after the other.
func (p *peer) dial(ctx context.Context) (quicconn.Peer, error) {
	p.mu.Lock()
	addrs := p.hub.Addrs
	p.mu.Unlock()
	errs := []error{}
	for _, a := range addrs {
		c, err := p.dialAddr(ctx, a)
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		errs = append(errs, errors.New("it has no address"))
	}
	return nil, errors.Join(errs...)
}

func (p *peer) dialAddr(ctx context.Context, addr string) (quicconn.Peer, error) {
	ctx, cancel := context.WithTimeout(ctx, p.m.c.Timing.Handshake)
	defer cancel()
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", addr, err)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	for _, ip := range ips {
		var c quicconn.Peer
		if c, err = p.m.c.Transport.DialPeer(ctx, netip.AddrPortFrom(ip.Unmap(), uint16(port)), p.m.c.TLS(p.id)); err == nil {
			return c, nil
		}
	}
	if err == nil {
		err = fmt.Errorf("no address of %q", host)
	}
	return nil, err
}

// adopt decides which connection is used when there are two: one of the lower UUID's dialling, and of two of the same hub's dialling the
// newer. It is nil when that is l, else what to close l with. Both hubs decide alike, so none ends what the other keeps.
func (p *peer) adopt(l *link) *wire.CloseError {
	back, e := p.use(l)
	if e != nil {
		return e
	}
	// Without locks, for whoever is told asks.
	if back {
		p.m.c.HubChanged(p.id)
	}
	p.m.c.Registry.HubBack(p.id)
	return nil
}

func (p *peer) use(l *link) (back bool, e *wire.CloseError) {
	p.hearing.Lock() // nothing of the old link is taken after this
	defer p.hearing.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	old, now := p.link, p.m.c.Now()
	switch {
	case p.removed:
		return false, &wire.CloseError{Code: wire.CloseAuth, Reason: errUnlisted.Error()}
	case now.Before(p.banned):
		return false, &wire.CloseError{Code: wire.CloseRate, Reason: "this hub broke the rules a moment ago", RetryAfter: p.banned.Sub(now)}
	}
	if !p.adoptions.take(now) {
		return false, &wire.CloseError{Code: wire.CloseRate, Reason: "too many connections", RetryAfter: time.Second / adoptRate}
	}
	if old != nil && old.incarnation == l.incarnation && old.byLower && !l.byLower && now.Sub(old.heardAt()) < 3*p.m.c.Timing.Heartbeat/2 {
		return false, &wire.CloseError{Code: wire.CloseSuperseded, Reason: "there is another connection"}
	}
	p.timer.Stop()
	back = p.gone || p.incarnation != l.incarnation
	p.gone, p.incarnation = false, l.incarnation
	p.setLocked(l)
	if old != nil {
		close(old.retired)
	}
	p.m.c.Registry.BeginSnapshot(p.id)
	return back, nil
}

// left notes that a connection ended. Its devices stay known for the grace.
func (p *peer) left(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.link != l {
		return
	}
	p.heard = l.heardAt()
	p.setLocked(nil)
	p.timer.Reset(p.m.c.Timing.Grace)
}

// drop forgets the tunnels of a hub that stayed away.
func (p *peer) drop() {
	p.hearing.Lock()
	p.mu.Lock()
	away := p.link == nil && !p.gone
	p.gone = p.gone || away
	p.mu.Unlock()
	n := 0
	if away {
		n = p.m.c.Registry.DropHub(p.id)
	}
	p.hearing.Unlock()
	if away {
		p.m.c.Logger.Warn("hub gone", "hub", p.name(), "tunnels", n)
		p.m.c.HubChanged(p.id)
	}
}

// ban keeps a hub away for a while that broke the rules.
func (p *peer) ban() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.banned = p.m.c.Now().Add(p.m.c.Timing.Banned)
}

var errUnlisted = errors.New("the hub is no longer of the cluster")

// remove ends what there is of a hub that is no longer of the list.
func (p *peer) remove() {
	p.stop(errUnlisted)
	p.mu.Lock()
	l := p.link
	if l != nil {
		p.setLocked(nil) // nothing it still says is taken
	}
	p.removed, p.gone = true, true // and no grace ends later: the hub may be of the list again by then, as another peer
	p.timer.Stop()
	p.mu.Unlock()
	if l != nil {
		_ = l.conn.CloseWithError(wire.CloseAuth, errUnlisted.Error())
	}
	p.hearing.Lock()
	p.m.c.Registry.DropHub(p.id)
	p.hearing.Unlock()
	p.m.c.HubChanged(p.id)
}
