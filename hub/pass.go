package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"hawser/tunnel/proxyproto"
)

const (
	// maxPasses people's connections to auth are passed on at once, each some 80 kB; further ones are closed, and the client takes
	// another hub.
	maxPasses = 512
	// maxPassesPerSource of them are of one network: an office, or a build farm, behind one NAT.
	maxPassesPerSource = 64
	// passIdle ends a pass through which nothing goes: both ends of one that is used ping each other every 15 s.
	passIdle = 2 * time.Minute
	// drainPassIdle is the same of a hub that drains: a call that is being answered gets its answer.
	drainPassIdle = 3 * time.Second
	// passBuffer of each direction.
	passBuffer = 16 << 10
)

// passes are the TLS connections between people's programs and auth that this hub passes on. It copies bytes: the keys are at the ends, so
// it can neither read nor change what they say, only cut it.
type passes struct {
	mu       sync.Mutex
	draining bool
	live     map[*pass]struct{}
	sources  map[netip.Prefix]int
	bytes    atomic.Int64 // in both directions, ever
}

// pass is one of them.
type pass struct {
	source  netip.Prefix
	close   func()
	timer   *time.Timer
	last    atomic.Int64 // when something went through, in ns since 1970
	in, out atomic.Int64 // bytes to auth, and to the person
}

var (
	errPassesFull = errors.New("too many connections to auth are being passed on")
	errDraining   = errors.New("the hub is going down")
)

// enter takes a place.
func (s *passes) enter(client netip.Addr, end func()) (*pass, error) {
	p := &pass{source: sourceOf(client), close: end}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.draining:
		return nil, errDraining
	case len(s.live) >= maxPasses || s.sources[p.source] >= maxPassesPerSource:
		return nil, errPassesFull
	}
	if s.live == nil {
		s.live, s.sources = make(map[*pass]struct{}), make(map[netip.Prefix]int)
	}
	s.live[p] = struct{}{}
	s.sources[p.source]++
	p.last.Store(time.Now().UnixNano())
	p.timer = time.AfterFunc(passIdle, func() { s.look(p) })
	return p, nil
}

// leave gives the place back.
func (s *passes) leave(p *pass) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.timer.Stop()
	delete(s.live, p)
	if s.sources[p.source]--; s.sources[p.source] == 0 {
		delete(s.sources, p.source)
	}
	s.bytes.Add(p.in.Load() + p.out.Load())
}

// look ends a pass that is idle.
func (s *passes) look(p *pass) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, live := s.live[p]; !live {
		return
	}
	limit := passIdle
	if s.draining {
		limit = drainPassIdle
	}
	if left := limit - time.Since(time.Unix(0, p.last.Load())); left > 0 {
		p.timer.Reset(left)
		return
	}
	go p.close() // closes sockets, which may take a moment; leave comes of it
}

// drain takes no more, and ends those that are idle as they become it.
func (s *passes) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	for p := range s.live {
		p.timer.Reset(0)
	}
}

func (s *passes) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.live)
}

// passToAuth passes a person's TLS connection on, until either end closes it, it is idle, or ctx ends. It closes nc.
func (h *Hub) passToAuth(ctx context.Context, nc net.Conn, client netip.AddrPort) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer func() { _ = nc.Close() }()
	p, err := h.passes.enter(client.Addr(), cancel)
	if err != nil {
		h.config.Logger.Warn("connection to auth not passed on", "client", client.String(), "error", err)
		return
	}
	defer h.passes.leave(p)
	began := time.Now()
	err = h.pass(ctx, nc, client, p)
	h.config.Logger.Debug("connection to auth ended", "client", client.String(), "lasted", time.Since(began).String(),
		"in", p.in.Load(), "out", p.out.Load(), "error", err)
}

func (h *Hub) pass(ctx context.Context, nc net.Conn, client netip.AddrPort, p *pass) error {
	dialled, stop := context.WithTimeout(ctx, h.config.HandshakeTimeout)
	auth, err := h.auth.DialPass(dialled)
	stop()
	if err != nil {
		return fmt.Errorf("dial auth: %w", err)
	}
	defer func() { _ = auth.Close() }()
	// Whatever ends one of the two copies ends the other.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	unwatch := context.AfterFunc(ctx, func() { _, _ = nc.Close(), auth.Close() })
	defer unwatch()
	if _, err := auth.Write(proxyproto.Header{Source: client, Destination: addrPort(nc.LocalAddr())}.Append(nil)); err != nil {
		return err
	}
	var back error
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel()
		defer h.recovered()
		back = p.copy(nc, auth, &p.out)
	})
	err = p.copy(auth, nc, &p.in)
	cancel()
	wg.Wait()
	return errors.Join(err, back)
}

// recovered is to be deferred: a panic costs what its goroutine serves.
func (h *Hub) recovered() {
	if r := recover(); r != nil {
		h.config.Logger.Error("panic in what a hub does for somebody", "panic", r, "stack", string(debug.Stack()))
	}
}

// copy is io.Copy that notes when something went through.
func (p *pass) copy(to io.Writer, from io.Reader, n *atomic.Int64) error {
	b := make([]byte, passBuffer)
	for {
		got, err := from.Read(b)
		if got > 0 {
			if _, err := to.Write(b[:got]); err != nil {
				return err
			}
			n.Add(int64(got))
			p.last.Store(time.Now().UnixNano())
		}
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
	}
}
