package edge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"hawser/auth/policy"
	"hawser/edge/e2e"
	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// parsePort reads the address of the agent's own port: IP:PORT, or :PORT.
func parsePort(s string) (netip.AddrPort, error) {
	if len(s) > 0 && s[0] == ':' {
		s = "[::]" + s
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Addr().Zone() != "" {
		return ap, fmt.Errorf("listen \"%s\" is not IP:PORT or :PORT", wire.Quote(s, 80))
	}
	return ap, nil
}

// port is the agent's own: people come to it directly and, where the agent makes no tunnel, hubs.
type port struct {
	a       *Agent
	want    netip.AddrPort
	ln      net.Listener // once bound
	gate    gate
	log     *strangersLog
	serving sync.WaitGroup

	mu   sync.Mutex
	addr netip.AddrPort // as hubs are told
	last time.Time      // when a stranger last made the device speak to its hub
}

func newPort(a *Agent) *port {
	p := &port{a: a, log: &strangersLog{to: a.log}}
	p.want, _ = parsePort(a.cfg.Listen) // Validate has read it
	p.addr = p.want
	p.gate.total, p.gate.perSource = maxStrangers, maxPerSource
	if a.machine.ram != 0 && a.machine.ram < noOffloadRAM {
		p.gate.total, p.gate.perSource = strangersSmall, perSourceSmall
	}
	return p
}

// told is the port as hubs are told; of none it is empty.
func (p *port) told() string {
	if p == nil {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addr.String()
}

// bind binds the port.
func (p *port) bind() bool {
	network := "tcp"
	if p.want.Addr().Is4() {
		network = "tcp4"
	}
	ln, err := net.Listen(network, p.want.String())
	if err != nil {
		tunnel.Warn(p.a.log, "the port is not to be had", "address", p.want, "error", err, "retry", bindAgain)
		return false
	}
	p.ln = ln
	p.mu.Lock()
	p.addr = netip.AddrPortFrom(p.want.Addr(), addrPortOf(ln.Addr()).Port())
	p.mu.Unlock()
	tunnel.Info(p.a.log, "listening", "address", p.told(), "tunnel", !p.a.cfg.TunnelOff)
	return true
}

// bindLater tries again until it has the port, which may not be there yet; false: ctx has ended.
func (p *port) bindLater(ctx context.Context) bool {
	for sleep(ctx, bindAgain) == nil {
		if p.bind() {
			return true
		}
	}
	return false
}

// accept serves whoever connects until ctx ends; serving is what it began.
func (p *port) accept(ctx, serving context.Context) {
	stop := context.AfterFunc(ctx, func() { p.ln.Close() })
	defer stop()
	for {
		nc, err := p.ln.Accept()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			if err == nil {
				nc.Close()
			}
			return
		}
		if err != nil { // out of descriptors passes
			_ = sleep(ctx, 100*time.Millisecond)
			continue
		}
		t := p.gate.enter(nc, time.Now())
		if t == nil {
			nc.Close()
			p.log.Log(tunnel.LevelInfo, "connection refused", "client", nc.RemoteAddr(), "error", "too many have not authenticated")
			continue
		}
		p.serving.Go(func() {
			defer p.a.guard("port", func() { nc.Close() })
			defer p.gate.leave(t)
			p.serve(ctx, serving, nc, t)
		})
	}
}

// serve tells who it is by the first bytes: a hub, or a client of SSH.
func (p *port) serve(ctx, serving context.Context, nc net.Conn, t *ticket) {
	defer nc.Close()
	stop := context.AfterFunc(ctx, func() { // the stranger's; who is served is told first
		if !t.left.Load() {
			nc.Close()
		}
	})
	defer stop()
	first, hub := sniff(nc)
	if hub {
		p.a.dialled(ctx, serving, nc, func() { p.gate.leave(t) })
		return
	}
	client := addrPortOf(nc.RemoteAddr())
	h := &host{a: p.a, way: policy.WayDirect, client: client}
	h.may = tenure{a: p.a, way: h.way}
	log := p.log.until()
	h.direct = &direct{h: h, proven: func() { p.gate.leave(t); log.known.Store(true) }}
	defer h.direct.leave()
	err := e2e.Serve(serving, &sniffed{nc, first}, e2e.Params{Host: h, Way: h.way, Client: client, Server: addrPortOf(nc.LocalAddr()), Logger: log})
	if err != nil {
		tunnel.Debug(log, "direct connection ended", "client", client, "error", err)
	}
}

func addrPortOf(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// sniff reads what decides who it is, and returns it for who reads next. Who says nothing at once is a client of SSH that waits to be greeted.
func sniff(nc net.Conn) (first []byte, hub bool) {
	_ = nc.SetReadDeadline(time.Now().Add(sniffTimeout))
	defer nc.SetReadDeadline(time.Time{})
	b := make([]byte, len(wire.DialMagic))
	n, err := io.ReadAtLeast(nc, b, 1)
	if err != nil || b[0] != wire.DialMagic[0] {
		return b[:n], false
	}
	_ = nc.SetReadDeadline(time.Now().Add(messageTimeout))
	m, _ := io.ReadFull(nc, b[n:])
	return b[:n+m], string(b[:n+m]) == wire.DialMagic
}

// sniffed is a connection whose first bytes were read.
type sniffed struct {
	net.Conn
	first []byte
}

func (s *sniffed) Read(b []byte) (int, error) {
	if len(s.first) > 0 {
		n := copy(b, s.first)
		s.first = s.first[n:]
		return n, nil
	}
	return s.Conn.Read(b)
}

// mayTell reports whether a stranger may make the device speak now, once in so long. There is a port.
func (p *port) mayTell(now time.Time, every time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Sub(p.last) < every {
		return false
	}
	p.last = now
	return true
}

// gate bounds connections that have not authenticated, in all and by source. At a bound the oldest makes room once it is as old as evictAge, and in all
// before that the oldest of the source that has the most, for one that has clearly less: so a crowd that stalls keeps nobody out.
type gate struct {
	total, perSource int

	mu      sync.Mutex
	waiting []*ticket // oldest first
}

type ticket struct {
	source netip.Prefix
	since  time.Time
	conn   net.Conn
	left   flag
}

// source is what counts as one: an IPv4 address, an IPv6 /64.
func source(a netip.Addr) netip.Prefix {
	bits := 64
	if a.Is4() {
		bits = 32
	}
	p, _ := a.Prefix(bits)
	return p
}

// enter admits c, perhaps closing another, or returns nil.
func (g *gate) enter(c net.Conn, now time.Time) *ticket {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := &ticket{source: source(addrPortOf(c.RemoteAddr()).Addr()), since: now, conn: c}
	same := func(o *ticket) bool { return o.source == t.source }
	n := 0
	for _, o := range g.waiting {
		if same(o) {
			n++
		}
	}
	victim := -1
	switch {
	case n >= g.perSource:
		victim = slices.IndexFunc(g.waiting, same)
	case len(g.waiting) >= g.total:
		victim = 0
	}
	if victim >= 0 {
		if now.Sub(g.waiting[victim].since) < evictAge {
			if victim = g.crowded(n + 2); n >= g.perSource || victim < 0 {
				return nil
			}
		}
		v := g.waiting[victim]
		v.conn.Close()
		g.waiting = slices.Delete(g.waiting, victim, victim+1)
	}
	g.waiting = append(g.waiting, t)
	return t
}

// crowded is the oldest of the source that has the most, if those are so many, or -1. mu is held.
func (g *gate) crowded(least int) int {
	found := -1
	for i, t := range g.waiting {
		n := 0
		for _, o := range g.waiting {
			if o.source == t.source {
				n++
			}
		}
		if n >= least {
			found, least = i, n+1
		}
	}
	return found
}

// leave takes t out: it authenticated or ended. Idempotent.
func (g *gate) leave(t *ticket) {
	t.left.Store(true)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = slices.DeleteFunc(g.waiting, func(o *ticket) bool { return o == t })
}
