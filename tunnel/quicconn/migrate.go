package quicconn

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"hawser/tunnel"
)

const (
	// migrateTimeout bounds one Migrate whatever its context says.
	migrateTimeout = 10 * time.Second
	// probesPerPort is how many failed probes a port is kept for: a hub's quic-go remembers three addresses of a peer for five seconds and
	// answers no fourth, so a port for each probe, one a second, would make it deaf at the moment of the heal.
	probesPerPort = 2
	// betweenMoves is the least time from one move to the next try: the hub must have followed the last before it hears of another.
	betweenMoves = 500 * time.Millisecond
)

// route is one way to the hub: an unbound UDP socket, so that the kernel chooses interface and source address for each packet.
type route struct {
	udp    *net.UDPConn
	tr     *quic.Transport
	path   *quic.Path // nil: the one the tunnel was dialled on, or none yet
	probes int        // sent without success from the socket's present port
}

func newRoute(network string, small bool) (*route, error) {
	udp, err := net.ListenUDP(network, nil)
	if err != nil {
		return nil, fmt.Errorf("open a UDP socket: %w", err)
	}
	return &route{udp: udp, tr: &quic.Transport{Conn: lossy(udp, small)}}, nil
}

// started sets the socket's buffers back: quic-go enlarges them when it first uses the socket.
func (r *route) started(small bool) {
	if small {
		r.udp.SetReadBuffer(smallSocketBuffer)
		r.udp.SetWriteBuffer(smallSocketBuffer)
	}
}

func (r *route) close() {
	r.tr.Close()
	r.udp.Close()
}

// edgeConn is the edge's end of a tunnel: it may move.
//
// It has at most two routes for its whole life and uses them in turn, with a fresh port each time. quic-go (v0.65) would allow a socket for
// each migration, but closing a Transport ends every connection that ever used it, and a connection never forgets a Transport: one more for each
// migration would be a leak until the tunnel ends. A failed probe costs one of the hub's three spare connection ids, which come back only over a
// path that works; so the path that failed is probed again, from a fresh port, and no other is added.
type edgeConn struct {
	*conn
	network string
	small   bool

	turn  chan struct{} // held by the one Migrate at work, which owns used and spare
	used  *route
	spare *route    // nil until the first Migrate
	began time.Time // of the last move that succeeded
	moved time.Time // its end

	mu     sync.Mutex
	closed bool // no route is made any more
	routes []*route
}

// releaseRoutes closes the sockets of a tunnel that has ended.
func (e *edgeConn) releaseRoutes() {
	e.mu.Lock()
	e.closed = true
	routes := e.routes
	e.routes = nil
	e.mu.Unlock()
	for _, r := range routes {
		r.close()
	}
}

// Heard implements tunnel.Hearer: what acknowledges a heartbeat counts, too.
func (e *edgeConn) Heard() uint64 { return e.qc.ConnectionStats().PacketsReceived }

// Migrate implements tunnel.Mover.
func (e *edgeConn) Migrate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, migrateTimeout)
	defer cancel()
	stop := context.AfterFunc(e.ctx, cancel)
	defer stop()
	called := time.Now()
	select {
	case e.turn <- struct{}{}:
	case <-ctx.Done():
		return e.migrateError(context.Cause(ctx))
	}
	defer func() { <-e.turn }()
	if e.began.After(called) {
		return nil // another call moved the tunnel while this one waited
	}
	if wait := betweenMoves - time.Since(e.moved); wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return e.migrateError(context.Cause(ctx))
		}
	}
	began := time.Now()
	if err := e.prepare(); err != nil {
		return e.migrateError(err)
	}
	next := e.spare
	next.probes++
	if err := next.path.Probe(ctx); err != nil {
		return e.migrateError(err)
	}
	if err := next.path.Switch(); err != nil {
		return e.migrateError(err)
	}
	last := e.used
	e.used, e.spare = next, last
	e.began, e.moved = began, time.Now()
	next.probes, last.probes = 0, probesPerPort
	// quic-go acts on the switch at its next turn of the loop, which may be a backed-off PTO away. To close a path wakes it.
	if last.path == nil {
		last.path, _ = e.qc.AddPath(last.tr)
	}
	if last.path != nil {
		last.path.Close()
		last.path = nil
	}
	return nil
}

// prepare makes the spare route ready to be probed.
func (e *edgeConn) prepare() error {
	if e.spare == nil {
		r, err := newRoute(e.network, e.small)
		if err != nil {
			return err
		}
		e.mu.Lock()
		if e.closed {
			e.mu.Unlock()
			r.close()
			return net.ErrClosed
		}
		e.routes = append(e.routes, r)
		e.mu.Unlock()
		e.spare = r
	}
	r := e.spare
	if r.probes >= probesPerPort {
		freshPort(r.udp)
		r.probes = 0
	}
	if r.path == nil {
		p, err := e.qc.AddPath(r.tr)
		if err != nil {
			return err
		}
		r.path = p
		r.started(e.small)
	}
	return nil
}

// migrateError is why the tunnel ended, if it has, else that it did not move.
func (e *edgeConn) migrateError(err error) error {
	if e.ctx.Err() != nil {
		return context.Cause(e.ctx)
	}
	return fmt.Errorf("move the tunnel to another path: %w", err)
}

var _ tunnel.Mover = (*edgeConn)(nil)
