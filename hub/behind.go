package hub

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"hawser/auth/api"
	"hawser/auth/grant"
	"hawser/auth/policy"
	"hawser/hub/authclient"
	"hawser/hub/front"
	"hawser/hub/registry"
	"hawser/hub/target"
	"hawser/tunnel/resume"
	"hawser/tunnel/wire"
)

// Servers without an agent: this hub logs in to them for people, through the device that reaches them or by itself.

const (
	// behindDial is for one address of a server that this hub reaches itself.
	behindDial = 10 * time.Second
	// maxBehindAddresses of a name are tried.
	maxBehindAddresses = 8
	// behindBuffer is kept each way on the stream through a device; behindLeave is how long its device is told of the end.
	behindBuffer = 256 << 10
	behindLeave  = 15 * time.Second
)

func (h *Hub) newTargets() *target.Targets {
	return target.New(target.Config{
		Auth: targetAuth{h}, Dial: h.dialTarget, GrantKeys: func() []ed25519.PublicKey { return h.auth.Trust().GrantKeys }, Hub: h.auth.Credentials().Name, Logger: h.config.Logger,
	})
}

// carrierOf is the device whose tunnels reach a device: itself, or of a server without an agent the one that reaches it.
func (h *Hub) carrierOf(device wire.UUID) wire.UUID {
	if d := h.auth.Cache.Device(device); d != nil && d.Behind && !d.Via.IsZero() {
		return d.Via
	}
	return device
}

// online tells whether a device, or what reaches it, has a tunnel.
func (h *Hub) online(d *authclient.Device) bool {
	return d.Behind && d.Via.IsZero() || h.registry.Online(h.carrierOf(d.UUID))
}

// lost tells whether nothing comes from a device: it has no tunnel, or none that answers.
func (h *Hub) lost(device wire.UUID) bool {
	return !slices.ContainsFunc(h.registry.Routes(device), func(r registry.Route) bool { return !r.Silent })
}

// wayTo says what keeps somebody who may use a server without an agent from it; nil: nothing does.
func (h *Hub) wayTo(ctx context.Context, d *authclient.Device) error {
	if d.Via.IsZero() {
		return nil
	}
	gw := h.auth.Cache.Device(d.Via)
	switch {
	case gw == nil:
		return &front.Refusal{Message: "the device that reached " + d.Name + " was removed; an admin names another with `hawser device set " + d.Name + " --via DEVICE`"}
	case gw.Quarantine != "":
		return &front.Refusal{Message: gw.Name + ", which reaches " + d.Name + ", is in quarantine"}
	case len(h.routes(ctx, d.Via)) == 0:
		return fmt.Errorf("%s, which reaches %s: %w", gw.Name, d.Name, front.ErrOffline)
	}
	return nil
}

// onlyHere says how a server without an agent is reached.
func (h *Hub) onlyHere(d *authclient.Device) string {
	at, _ := h.publicAddresses()
	return d.Name + " has no agent: the hub logs in to it for you, so there is no way end to end; this way works: " +
		policy.WayIn([]string{policy.WayHub}, d.Name, "", at[0])
}

// targetAuth is auth as hub/target asks it.
type targetAuth struct{ h *Hub }

// OpenTarget implements target.Auth.
func (a targetAuth) OpenTarget(ctx context.Context, device wire.UUID, r *api.OpenTargetRequest) (*api.OpenTargetResponse, error) {
	if d := a.h.auth.Cache.Device(device); d != nil && !d.Via.IsZero() {
		routes := a.h.routes(ctx, d.Via)
		if len(routes) == 0 {
			return nil, front.ErrOffline
		}
		r.Incarnation = routes[0].Incarnation[:]
	}
	return a.h.auth.OpenTarget(ctx, r)
}

// PinHostKey implements target.Auth.
func (a targetAuth) PinHostKey(ctx context.Context, r *api.PinHostKeyRequest) (*api.PinHostKeyResponse, error) {
	return a.h.auth.PinHostKey(ctx, r)
}

// SignForTarget implements target.Auth.
func (a targetAuth) SignForTarget(ctx context.Context, r *api.SignForTargetRequest) (*api.SignForTargetResponse, error) {
	return a.h.auth.SignForTarget(ctx, r)
}

// dialTarget connects to a server.
func (h *Hub) dialTarget(ctx context.Context, l *api.OpenTargetResponse, g *grant.Grant) (net.Conn, error) {
	if l.Via == "hub" {
		return h.dialBeside(ctx, l.Address, l.Local)
	}
	via, err := wire.ParseUUID(l.Via)
	if err != nil {
		return nil, err
	}
	// The forward is resumable as a session's stream is: the login outlives the loss of the device's link.
	a := wire.Attach{Kind: wire.KindForward, ID: wire.NewStreamID()}
	a.Open = wire.OpenRequest{Grant: l.Forwards, ClientAddr: g.ClientAddr, ServerAddr: h.SSHAddr(), Network: wire.NetworkTCP, Target: l.Address}.Append(nil)
	att, err := h.openStream(ctx, via, &a)
	if err != nil {
		return nil, err
	}
	stream := resume.Open(att, a, resume.Options{SendBuffer: behindBuffer, RecvBuffer: behindBuffer, DetachedLife: g.DetachedLife})
	h.tunnels.spawn(func() {
		defer h.recovered()
		defer stream.Reset(wire.StreamInternal) // nothing to a stream that is over
		front.Drive(h.targets.Stopping(), &backend{h}, via, stream, nil)
	})
	if err := stream.WaitAttached(ctx); err != nil {
		stream.Reset(wire.StreamCancelled)
		_ = stream.Close()
		if r, ok := errors.AsType[*resume.RefusedError](err); ok {
			return nil, errors.New(wire.Quote(r.Message, 300))
		}
		return nil, err
	}
	return streamConn{stream}, nil
}

// streamConn is a stream through a device as a net.Conn.
type streamConn struct{ *resume.Stream }

// Close implements io.Closer: for a bounded time the device is told, even over a tunnel still to come.
func (c streamConn) Close() error {
	err := c.Stream.Close()
	c.SetDetachedLife(behindLeave)
	return err
}

// LocalAddr and RemoteAddr implement net.Conn; nobody asks where in a tunnel something is.
func (streamConn) LocalAddr() net.Addr  { return noAddr{} }
func (streamConn) RemoteAddr() net.Addr { return noAddr{} }

type noAddr struct{}

func (noAddr) Network() string { return "tunnel" }
func (noAddr) String() string  { return "tunnel" }

// dialBeside connects to a server that the hubs reach themselves. A name is resolved here, and each address held against what this hub must not
// be made to reach: itself, the link, auth.
func (h *Hub) dialBeside(ctx context.Context, address string, local bool) (net.Conn, error) {
	host, text, err := net.SplitHostPort(address)
	port, perr := strconv.ParseUint(text, 10, 16)
	if err != nil || perr != nil {
		return nil, fmt.Errorf("address %q is not HOST:PORT", wire.Quote(address, 80))
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host) // of an address: itself
	if err != nil {
		return nil, err
	}
	own, err := ownAddresses()
	if err != nil {
		return nil, err
	}
	auth := h.authAddresses(ctx)
	failed := fmt.Errorf("%s has no address", wire.Quote(host, 80))
	for _, ip := range ips[:min(len(ips), maxBehindAddresses)] {
		at := netip.AddrPortFrom(ip.Unmap().WithZone(""), uint16(port))
		if failed = besideAllowed(at, local, own, auth); failed != nil {
			continue
		}
		d := net.Dialer{Timeout: behindDial}
		var c net.Conn
		if c, failed = d.DialContext(ctx, "tcp", at.String()); failed == nil {
			return c, nil
		}
	}
	return nil, failed
}

// besideAllowed says why this hub does not connect to an address that somebody else has named. local: an administrator named the loopback or the
// link, or the hub itself is reached there alone.
func besideAllowed(at netip.AddrPort, local bool, own []netip.Addr, auth []netip.AddrPort) error {
	switch ip := policy.Translated(at.Addr()); {
	case slices.Contains(auth, netip.AddrPortFrom(ip, at.Port())):
		return errors.New("it is the auth service")
	case !policy.OfOneHost(ip):
		return fmt.Errorf("%s is not reached for anybody", ip)
	case local:
	case ip.IsLoopback() || ip.IsLinkLocalUnicast():
		return fmt.Errorf("%s is of the loopback or link-local, and was not registered as that (--local)", ip)
	case slices.Contains(own, ip):
		return fmt.Errorf("%s is this hub, and was not registered as that (--local)", ip)
	}
	return nil
}

func ownAddresses() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var own []netip.Addr
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			own = append(own, p.Addr().Unmap().WithZone(""))
		}
	}
	return own, nil
}

// authAddresses are auth's; what a name cannot be resolved to now, it still stands for.
func (h *Hub) authAddresses(ctx context.Context) (all []netip.AddrPort) {
	for address := range strings.SplitSeq(h.auth.Address(), ",") {
		host, text, err := net.SplitHostPort(address)
		port, perr := strconv.ParseUint(text, 10, 16)
		if err != nil || perr != nil {
			continue
		}
		ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		all = append(all, h.dials.auth.note(address, ips, uint16(port), err == nil)...)
	}
	return all
}

// resolved remembers what auth's names were last resolved to. The zero value is ready.
type resolved struct {
	mu sync.Mutex
	of map[string][]netip.AddrPort // of names of the configuration, or that auth told
}

// maxResolved names are remembered.
const maxResolved = 64

func (x *resolved) note(name string, ips []netip.Addr, port uint16, ok bool) []netip.AddrPort {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !ok {
		return x.of[name]
	}
	var all []netip.AddrPort
	for _, ip := range ips {
		all = append(all, netip.AddrPortFrom(policy.Translated(ip.WithZone("")), port))
	}
	if x.of == nil || len(x.of) >= maxResolved {
		x.of = make(map[string][]netip.AddrPort)
	}
	x.of[name] = all
	return all
}
