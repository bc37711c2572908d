package tunneltest

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/netip"
	"sync"

	"hawser/tunnel"
	"hawser/tunnel/pipe"
	"hawser/tunnel/wire"
)

// memory is one end of a tunnel in memory. It uses no sockets, no goroutines and no clock but for deadlines, so it
// works inside a testing/synctest bubble.
type memory struct {
	hub    bool
	peer   *memory
	ctx    context.Context
	cancel context.CancelCauseFunc

	control    chan []byte // to this end; 64, then the sender blocks
	heartbeats chan []byte // to this end; 32, then the oldest is dropped
	accepts    chan *pipe.Stream

	mu   *sync.Mutex // shared by both ends: guards open
	open *int        // streams not yet closed by both ends
}

func newMemory() (hub, edge *memory) {
	mu, open := new(sync.Mutex), new(int)
	end := func(isHub bool) *memory {
		m := &memory{hub: isHub, control: make(chan []byte, 64), heartbeats: make(chan []byte, 32),
			accepts: make(chan *pipe.Stream, tunnel.MaxStreams), mu: mu, open: open}
		m.ctx, m.cancel = context.WithCancelCause(context.Background())
		return m
	}
	hub, edge = end(true), end(false)
	hub.peer, edge.peer = edge, hub
	return hub, edge
}

func (m *memory) OpenStream(ctx context.Context) (tunnel.Stream, error) {
	if !m.hub {
		return nil, tunnel.ErrWrongSide
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if m.ctx.Err() != nil {
		return nil, context.Cause(m.ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if *m.open >= tunnel.MaxStreams {
		return nil, tunnel.ErrTooManyStreams
	}
	*m.open++
	left := 2
	done := func() { // called once by each end
		m.mu.Lock()
		defer m.mu.Unlock()
		if left--; left == 0 {
			*m.open--
		}
	}
	var ours, theirs *pipe.Stream
	var stop [2]func() bool
	ended := func(end int) func() { return func() { stop[end](); done() } }
	// As on QUIC, the edge sees the stream with its first byte.
	ours, theirs = pipe.New(sync.OnceFunc(func() { m.peer.accepts <- theirs }), ended(0), ended(1))
	stop[0] = context.AfterFunc(m.ctx, func() { ours.Lost(context.Cause(m.ctx)) })
	stop[1] = context.AfterFunc(m.peer.ctx, func() { theirs.Lost(context.Cause(m.peer.ctx)) })
	return ours, nil
}

func (m *memory) AcceptStream(ctx context.Context) (tunnel.Stream, error) {
	if m.hub {
		return nil, tunnel.ErrWrongSide
	}
	select {
	case s := <-m.accepts:
		return s, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-m.ctx.Done():
		return nil, context.Cause(m.ctx)
	}
}

func (m *memory) SendControl(msg []byte) error {
	if len(msg) == 0 || len(msg) > wire.MaxControl {
		return fmt.Errorf("%w: control message of %d bytes", tunnel.ErrTooLong, len(msg))
	}
	if m.ctx.Err() != nil {
		return context.Cause(m.ctx)
	}
	select {
	case m.peer.control <- append([]byte(nil), msg...):
		return nil
	case <-m.ctx.Done():
		return context.Cause(m.ctx)
	}
}

func (m *memory) ReceiveControl(ctx context.Context) ([]byte, error) {
	return receive(ctx, m, m.control)
}

func (m *memory) SendHeartbeat(b []byte) error {
	if len(b) > wire.MaxHeartbeat {
		return fmt.Errorf("%w: heartbeat of %d bytes", tunnel.ErrTooLong, len(b))
	}
	if m.ctx.Err() != nil {
		return context.Cause(m.ctx)
	}
	b = append([]byte(nil), b...)
	for {
		select {
		case m.peer.heartbeats <- b:
			return nil
		default:
		}
		select {
		case <-m.peer.heartbeats:
		default:
		}
	}
}

func (m *memory) ReceiveHeartbeat(ctx context.Context) ([]byte, error) {
	return receive(ctx, m, m.heartbeats)
}

func receive(ctx context.Context, m *memory, from <-chan []byte) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	select {
	case b := <-from:
		return b, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-m.ctx.Done():
		return nil, context.Cause(m.ctx)
	}
}

func (m *memory) CloseWithError(code wire.CloseCode, reason string) error {
	return m.CloseWith(&wire.CloseError{Code: code, Reason: reason})
}

func (m *memory) CloseWith(e *wire.CloseError) error {
	local, remote := *e, *e
	local.Remote, remote.Remote = false, true
	m.cancel(&local)
	m.peer.cancel(&remote)
	return nil
}

func (m *memory) Context() context.Context { return m.ctx }

func (m *memory) Carrier() tunnel.Carrier { return tunnel.CarrierMemory }

func (m *memory) LocalAddr() netip.AddrPort {
	if m.hub {
		return netip.MustParseAddrPort("192.0.2.1:443")
	}
	return netip.MustParseAddrPort("192.0.2.2:50000")
}

func (m *memory) RemoteAddr() netip.AddrPort { return m.peer.LocalAddr() }

func (m *memory) ConnectionState() tls.ConnectionState { return tls.ConnectionState{} }
