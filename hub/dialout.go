package hub

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"hawser/auth/hublist"
	"hawser/auth/policy"
	"hawser/hub/authclient"
	"hawser/tunnel"
	"hawser/tunnel/wire"
	"hawser/tunnel/yamuxconn"
)

const (
	// dialRetry is when a device whose tunnel was lost is dialled again, and the first wait after a failure; it doubles up to dialRetryMax.
	dialRetry    = time.Second
	dialRetryMax = 5 * time.Minute
	// dialStood is how long a tunnel has to stand before its end is not one more failure.
	dialStood = 10 * time.Second
	// dialLook is how often it is looked whom to dial, where there is anybody.
	dialLook = time.Second
	// dialRank is how much longer each hub after the first two waits before it dials a device that nobody has.
	dialRank = 3 * time.Second
	// maxDials at once: each is a TLS handshake.
	maxDials = 64
	// dialTimeout bounds the connect; HandshakeTimeout what follows.
	dialTimeout = 10 * time.Second
)

// dialOut dials the devices that keep no tunnel of their own making: PROTOCOL.md, section 5.2. The zero value is ready but for wake.
type dialOut struct {
	wake chan struct{} // room for one
	auth resolved

	mu      sync.Mutex
	of      map[wire.UUID]*dialled
	dialing int
}

// dialled is one of them. Its fields are guarded by dialOut.mu.
type dialled struct {
	addr  netip.AddrPort
	busy  bool // being dialled, or its tunnel is here
	next  time.Time
	wait  time.Duration // after the next failure
	ranks string        // what rank was computed for
	rank  int
	dark  time.Time // since when nobody has a tunnel of it; zero: somebody does
}

// set takes what auth says of a device.
func (x *dialOut) set(id wire.UUID, d *authclient.Device) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if d == nil || !d.TunnelOff || !d.Listen.IsValid() {
		delete(x.of, id)
		return
	}
	if x.of == nil {
		x.of = make(map[wire.UUID]*dialled)
	}
	e := x.of[id]
	if e == nil {
		e = &dialled{wait: dialRetry}
		x.of[id] = e
	}
	if e.addr != d.Listen { // at once, but a device that says another each time is not waited for less
		e.addr, e.next = d.Listen, time.Time{}
	}
	wakeUp(x.wake)
}

func wakeUp(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// keep forgets those that are not in all.
func (x *dialOut) keep(all []*authclient.Device) {
	there := make(map[wire.UUID]bool)
	for _, d := range all {
		if d.TunnelOff {
			there[d.UUID] = true
			x.set(d.UUID, d)
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for id := range x.of {
		if !there[id] {
			delete(x.of, id)
		}
	}
}

// dialDevices dials until ctx ends.
func (h *Hub) dialDevices(ctx context.Context) {
	x := &h.dials
	tick := time.NewTimer(dialLook)
	defer tick.Stop()
	for {
		select {
		case <-x.wake:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if h.draining.Load() {
			return
		}
		x.mu.Lock()
		now, ranks := time.Now(), ""
		if len(x.of) > 0 {
			ranks = h.ranks()
			tick.Reset(dialLook)
		}
		for id, e := range x.of {
			if e.busy || x.dialing >= maxDials || !h.dueLocked(id, e, ranks, now) {
				continue
			}
			e.busy = true
			x.dialing++
			addr := e.addr
			h.tunnels.spawn(func() {
				defer h.recovered()
				h.dialDevice(ctx, id, addr)
			})
		}
		x.mu.Unlock()
	}
}

// ranks names what the order of hubs depends on.
func (h *Hub) ranks() string {
	list, _ := h.auth.Cache.HubList()
	s := fmt.Sprint(list.Revision)
	for _, x := range h.auth.Cache.Hubs() {
		if x.Online {
			s += x.UUID.String()
		}
	}
	return s
}

// dueLocked tells whether this hub is to dial a device now: as one of the first two hubs that are up in its order, or when nobody has it.
func (h *Hub) dueLocked(id wire.UUID, e *dialled, ranks string, now time.Time) bool {
	if e.ranks != ranks {
		e.ranks, e.rank = ranks, h.rankFor(id)
	}
	if len(h.registry.Routes(id)) > 0 {
		e.dark = time.Time{}
	} else if e.dark.IsZero() {
		e.dark = now
	}
	if e.rank >= 2 && (e.dark.IsZero() || now.Sub(e.dark) < time.Duration(e.rank-1)*dialRank) {
		return false
	}
	return !now.Before(e.next)
}

// rankFor is the place of this hub among those that are up in a device's order.
func (h *Hub) rankFor(id wire.UUID) int {
	list, _ := h.auth.Cache.HubList()
	up := make(map[wire.UUID]bool)
	for _, x := range h.auth.Cache.Hubs() {
		up[x.UUID] = x.Online
	}
	self, rank := h.auth.UUID(), 0
	for _, x := range hublist.Order(list, id) {
		if wire.UUID(x.UUID) == self {
			return rank
		}
		if up[wire.UUID(x.UUID)] {
			rank++
		}
	}
	return rank
}

// dialDevice makes a tunnel to a device, if it can be had, and leaves it to be served.
func (h *Hub) dialDevice(ctx context.Context, id wire.UUID, addr netip.AddrPort) {
	x := &h.dials
	over := func(stood bool) {
		x.mu.Lock()
		defer x.mu.Unlock()
		if e := x.of[id]; e != nil {
			e.busy = false
			if stood {
				e.wait = dialRetry
			}
			e.next = time.Now().Add(e.wait/2 + rand.N(e.wait))
			if !stood {
				e.wait = min(2*e.wait, dialRetryMax)
			}
		}
		wakeUp(x.wake)
	}
	c, err := h.dialTunnel(ctx, id, addr)
	x.mu.Lock()
	x.dialing--
	x.mu.Unlock()
	if err != nil {
		h.config.Logger.Info("device not dialled", "device", h.deviceName(id), "address", addr.String(), "error", err)
		h.ends.set(id, "the hub could not dial "+addr.String()+": "+wire.Quote(err.Error(), 120), h.config.Now())
		over(false)
		return
	}
	began := time.Now()
	context.AfterFunc(c.Context(), func() { over(time.Since(began) >= dialStood) })
}

// errNoTunnel is a device that was reached and let no tunnel stand.
var errNoTunnel = errors.New("it was reached and did not register")

func (h *Hub) dialTunnel(ctx context.Context, id wire.UUID, addr netip.AddrPort) (tunnel.Conn, error) {
	if err := h.mayDial(ctx, addr); err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: dialTimeout}
	nc, err := d.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, err
	}
	hctx, cancel := context.WithTimeout(ctx, h.config.HandshakeTimeout)
	defer cancel()
	config := h.tlsConfig(false)
	verify := config.VerifyConnection
	config.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := verify(cs); err != nil {
			return err
		}
		if p, err := h.judge(cs); err != nil || p.uuid != id {
			return fmt.Errorf("%w: it is not the one that was dialled", errNotDevice)
		}
		return nil
	}
	_ = nc.SetWriteDeadline(time.Now().Add(dialTimeout))
	if _, err := nc.Write([]byte(wire.DialMagic)); err != nil {
		_ = nc.Close()
		return nil, err
	}
	_ = nc.SetWriteDeadline(time.Time{})
	tc := tls.Server(nc, config)
	if err := tc.HandshakeContext(hctx); err != nil {
		_ = nc.Close()
		return nil, err
	}
	c, err := yamuxconn.Server(hctx, tc, yamuxconn.Options{Logger: slogLogger{h.config.Logger}, KeepAlive: activeKeepAlive})
	if err != nil {
		_ = nc.Close()
		return nil, err
	}
	registered := make(chan bool, 1)
	if !h.tunnels.serve(c, func() (goesOn bool) {
		defer func() { registered <- goesOn }()
		return h.serveTunnel(c)
	}) {
		_ = c.CloseWithError(wire.CloseDrain, "the hub is stopping")
		return nil, errNoTunnel
	}
	if !<-registered { // bounded by converse, which is by HandshakeTimeout
		if e, ok := errors.AsType[*wire.CloseError](context.Cause(c.Context())); ok && e.Reason != "" {
			return nil, e
		}
		return nil, errNoTunnel
	}
	return c, nil
}

// mayDial holds an address, which a device has told, against what a hub does not connect to for others: itself, auth, what gives clouds' machines
// their credentials. The link and the loopback are no address for a hub, but the loopback where this hub itself is reached there: all is on one
// machine.
func (h *Hub) mayDial(ctx context.Context, at netip.AddrPort) error {
	own, err := ownAddresses()
	if err != nil {
		return err
	}
	_, tunnels := h.publicAddresses()
	oneMachine := slices.ContainsFunc(tunnels, func(t string) bool {
		ap, err := netip.ParseAddrPort(t)
		return err == nil && ap.Addr().Unmap().IsLoopback()
	})
	return dialAllowed(at, oneMachine, own, h.authAddresses(ctx))
}

func dialAllowed(at netip.AddrPort, oneMachine bool, own []netip.Addr, auth []netip.AddrPort) error {
	if ip := policy.Translated(at.Addr()); !ip.IsValid() || ip.IsLinkLocalUnicast() {
		return errors.New("a hub dials no link-local address")
	}
	return besideAllowed(at, oneMachine, own, auth)
}
