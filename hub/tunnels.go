package hub

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"hawser/auth/api"
	"hawser/hub/authclient"
	"hawser/hub/hello"
	"hawser/hub/registry"
	"hawser/tunnel"
	"hawser/tunnel/quicconn"
	"hawser/tunnel/wire"
	"hawser/tunnel/yamuxconn"
)

const (
	// maxHandshakes of TLS tunnels at once: each holds a goroutine and about 40 kB.
	maxHandshakes = 1024
	// heartbeatWish is the interval hubs ask edges for: below the 30 s of the worst NATs.
	heartbeatWish = 27 * time.Second
	// retryWindow is W of an edge's first retry, where auth says no other.
	retryWindow = 5 * time.Second
	// activeKeepAlive is how long a TLS tunnel may idle before the hub's kernel probes it, unless the edge's own probes are listened for
	// (keepAliveWatch): no longer than people may wait to see a device offline.
	activeKeepAlive = 5 * time.Minute
	// staleRetry is when a device that was displaced may come back whatever the stamp of what displaced it, which another hub may have set ahead.
	staleRetry = 3 * time.Second
	// orderWait is how long a device has to take an order of auth's, and to close.
	orderWait = 5 * time.Second
	// deviceWait is how long a REGISTER waits for auth to tell of a device that joined a moment ago.
	deviceWait = 5 * time.Second
)

// tunnelSet is the tunnels being served, registered or not.
type tunnelSet struct {
	mu      sync.Mutex
	closing bool
	conns   map[tunnel.Conn]*served // nil before a tunnel is registered
	wg      sync.WaitGroup
}

// serve runs f for a tunnel in a goroutine of its own, unless the hub is closing. Where f returns true something else serves the
// tunnel from then on, and calls done at its end.
func (s *tunnelSet) serve(c tunnel.Conn, f func() (goesOn bool)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	if s.conns == nil {
		s.conns = make(map[tunnel.Conn]*served)
	}
	s.conns[c] = nil
	s.wg.Add(1)
	go func() {
		if !f() {
			s.done(c)
		}
	}()
	return true
}

// done ends what serve began.
func (s *tunnelSet) done(c tunnel.Conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.wg.Done()
}

// registered notes who serves a tunnel.
func (s *tunnelSet) registered(x *served) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[x.t.Conn] = x
}

// of returns who serves a tunnel, nil before it is registered and after it has ended.
func (s *tunnelSet) of(c tunnel.Conn) *served {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns[c]
}

// all returns who serves the registered tunnels.
func (s *tunnelSet) all() []*served {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*served, 0, len(s.conns))
	for _, x := range s.conns {
		if x != nil {
			all = append(all, x)
		}
	}
	return all
}

// closeAll says why and closes all at once; none is added after.
func (s *tunnelSet) closeAll(code wire.CloseCode, reason string) {
	s.mu.Lock()
	s.closing = true
	all := make([]tunnel.Conn, 0, len(s.conns))
	for c := range s.conns {
		all = append(all, c)
	}
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, c := range all {
		wg.Go(func() { _ = c.CloseWithError(code, reason) })
	}
	wg.Wait()
}

// spawn runs f in a goroutine that wait waits for, unless the hub is closing.
func (s *tunnelSet) spawn(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closing {
		s.wg.Go(f)
	}
}

func (s *tunnelSet) wait() { s.wg.Wait() }

func (h *Hub) acceptQUIC(ctx context.Context, l *quicconn.Listener) error {
	for {
		c, err := l.Accept(ctx)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		if !h.tunnels.serve(c, func() bool { return h.serveTunnel(c) }) {
			_ = c.CloseWithError(wire.CloseDrain, "the hub is stopping")
		}
	}
}

func (h *Hub) acceptTLS(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, maxHandshakes)
	config := h.tlsConfig(false)
	for {
		nc, err := h.tcp.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			h.config.Logger.Warn("accept failed", "error", err)
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		if !h.admission.admit(addrPort(nc.RemoteAddr())) {
			_ = nc.Close()
			continue
		}
		select {
		case slots <- struct{}{}:
		default: // full: the edge tries again, with jitter
			_ = nc.Close()
			continue
		}
		wg.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					h.config.Logger.Error("panic in a handshake", "panic", p, "stack", string(debug.Stack()))
					_ = nc.Close()
				}
			}()
			pass := func() net.Conn {
				defer func() { <-slots }()
				return h.handshakeTLS(ctx, nc, config)
			}()
			if pass != nil {
				h.passToAuth(ctx, pass, addrPort(nc.RemoteAddr()))
			}
		})
	}
}

// handshakeTLS makes a tunnel of a connection and serves it. A person's, which is for auth, it returns as it came: TLS with that one ends at
// auth and not here.
func (h *Hub) handshakeTLS(ctx context.Context, nc net.Conn, config *tls.Config) (pass net.Conn) {
	hctx, cancel := context.WithTimeout(ctx, h.config.HandshakeTimeout)
	defer cancel()
	unwatch := context.AfterFunc(hctx, func() { _ = nc.SetReadDeadline(time.Unix(1, 0)) })
	first, forAuth, err := hello.Peek(nc, tunnel.ALPNAPI)
	if err != nil || !unwatch() {
		_ = nc.Close()
		return nil
	}
	if forAuth {
		return first
	}
	tc := tls.Server(first, config)
	if err := tc.HandshakeContext(hctx); err != nil {
		h.tunnelRefused(err, nc.RemoteAddr().String())
		_ = nc.Close()
		return nil
	}
	c, err := yamuxconn.Server(hctx, tc, yamuxconn.Options{Logger: slogLogger{h.config.Logger}, KeepAlive: activeKeepAlive})
	if err != nil {
		_ = nc.Close()
		return nil
	}
	if !h.tunnels.serve(c, func() bool { return h.serveTunnel(c) }) {
		_ = c.CloseWithError(wire.CloseDrain, "the hub is stopping")
	}
	return nil
}

// errDone ends a tunnel that has done what it may.
var errDone = errors.New("done")

// serveTunnel serves one tunnel to its end, or until it is registered: then it goes on elsewhere.
func (h *Hub) serveTunnel(c tunnel.Conn) (goesOn bool) {
	end := &wire.CloseError{Code: wire.CloseInternal, Reason: "the hub failed"}
	defer func() {
		if p := recover(); p != nil {
			h.config.Logger.Error("panic in a tunnel", "panic", p, "stack", string(debug.Stack()))
		}
		if !goesOn {
			_ = c.CloseWith(end)
		}
	}()
	p, err := h.judge(c.ConnectionState())
	if err != nil {
		end = &wire.CloseError{Code: wire.CloseAuth, Reason: "certificate not accepted"}
		return false
	}
	if err = h.converse(c, p); err == nil {
		return true
	}
	end = h.closeFor(err)
	h.deviceRefused(p, end, c.RemoteAddr().String())
	h.brokeRules(p.name, c.RemoteAddr().String(), err)
	h.config.Logger.Debug("tunnel ended", "device", p.name, "client", c.RemoteAddr().String(), "error", err)
	return false
}

// converse challenges the edge and serves what its certificate allows. Without an error the tunnel is registered and served.
func (h *Hub) converse(c tunnel.Conn, p peer) error {
	if p.class != mayJoin { // one that wants to join is auth's to judge
		if d := h.lockedDevice(p.uuid, p.key); d != nil {
			return refuse(c, wire.CloseBanned, "the device is "+d.Error(), lockedRetry)
		}
	}
	creds := h.auth.Credentials()
	challenge := wire.Challenge{
		Version: wire.Version, HubUUID: h.auth.UUID(), HubName: creds.Name, Cluster: creds.Cluster, HubIncarnation: h.incarnation,
	}
	_, _ = rand.Read(challenge.Nonce[:]) // never fails
	challenged := h.registry.Clock(h.config.Now())
	if err := tunnel.Send(c, challenge); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context(), h.config.HandshakeTimeout)
	defer cancel()
	m, err := tunnel.Receive(ctx, c)
	if err != nil {
		if ctx.Err() != nil && c.Context().Err() == nil {
			return &wire.CloseError{Code: wire.CloseNotRegistered, Reason: "nothing was said in time"}
		}
		return err
	}
	switch m := m.(type) {
	case *wire.Join:
		if p.class != mayJoin && !p.fresh {
			return refuse(c, wire.CloseProtocol, "this device has an identity; it cannot join again", 0)
		}
		return h.join(c, p, m)
	case *wire.Renew:
		if p.class == mayJoin {
			return refuse(c, wire.CloseProtocol, "there is no certificate to renew", 0)
		}
		if err := h.renewDevice(c, p, m); err != nil {
			return err
		}
		return h.lastWord(c)
	case *wire.Register:
		switch p.class {
		case mayRenew:
			return refuse(c, wire.CloseExpired, "the certificate must be renewed first", 0)
		case mayJoin:
			return refuse(c, wire.CloseAuth, "join first", 0)
		}
		return h.register(c, p, challenge, challenged, m)
	}
	return &wire.CloseError{Code: wire.CloseNotRegistered, Reason: "REGISTER, JOIN or RENEW was due"}
}

// refuse answers and makes the error the tunnel is closed with.
func refuse(c tunnel.Conn, code wire.CloseCode, message string, retry time.Duration) error {
	return refuseWith(c, code, message, retry, nil)
}

// refuseWith is refuse with an order of auth's.
func refuseWith(c tunnel.Conn, code wire.CloseCode, message string, retry time.Duration, order []byte) error {
	message = wire.Quote(message, 1000)
	_ = tunnel.Send(c, wire.Refused{Code: code, Message: message, RetryAfter: retry, Order: order})
	if order != nil { // the close may overtake it, and says the rest; an order has to arrive
		t := time.NewTimer(orderWait)
		defer t.Stop()
		select {
		case <-c.Context().Done():
		case <-t.C:
		}
	}
	return &wire.CloseError{Code: code, Reason: message, RetryAfter: retry}
}

// lastWord waits for the edge to close a tunnel that has served its purpose.
func (h *Hub) lastWord(c tunnel.Conn) error {
	t := time.NewTimer(h.config.HandshakeTimeout)
	defer t.Stop()
	select {
	case <-c.Context().Done():
	case <-t.C:
	}
	return errDone
}

func labels(list []wire.Label) []*api.Label {
	out := make([]*api.Label, 0, len(list))
	for _, l := range list {
		out = append(out, &api.Label{Key: l.Key, Value: l.Value})
	}
	return out
}

func (h *Hub) join(c tunnel.Conn, p peer, m *wire.Join) error {
	r, err := h.auth.JoinDevice(c.Context(), &api.JoinDeviceRequest{
		Secret: m.Secret, PublicKey: p.key, Name: m.Name, Hostname: m.Hostname, Labels: labels(m.Labels), Evidence: labels(m.Evidence),
		Arch: m.Arch, Os: m.OS, AgentVersion: m.AgentVersion, Source: c.RemoteAddr().String(),
	})
	if err != nil {
		code, message, retry := authclient.CloseCode(err)
		level := slog.LevelWarn
		if code == wire.ClosePending {
			level = slog.LevelInfo
		}
		h.config.Logger.Log(c.Context(), level, "join refused", "hostname", wire.Quote(m.Hostname, 64), "client", c.RemoteAddr().String(), "error", err)
		return refuseWith(c, code, message, retry, api.ProblemOf(err).GetOrder())
	}
	uuid, err := wire.ParseUUID(r.Uuid)
	if err != nil {
		return refuse(c, wire.CloseInternal, "auth sent no identity", 0)
	}
	if err := tunnel.Send(c, wire.Joined{
		UUID: uuid, Name: r.Name, Cluster: r.Cluster, Chain: r.Chain, SSHCert: r.SshCertificate, Trust: r.Trust, Hubs: r.Hubs,
		Counter: r.Counter,
	}); err != nil {
		return err
	}
	h.config.Logger.Info("device joined", "device", r.Name, "uuid", r.Uuid, "client", c.RemoteAddr().String())
	return h.lastWord(c)
}

// renewDevice answers a Renew. A refusal is an error only where the tunnel has no other purpose.
func (h *Hub) renewDevice(c tunnel.Conn, p peer, m *wire.Renew) error {
	r, err := h.auth.RenewDevice(c.Context(), &api.RenewDeviceRequest{
		Uuid: p.uuid.String(), PublicKey: p.key, Counter: m.Counter, Source: c.RemoteAddr().String(),
	})
	if err != nil {
		h.config.Logger.Warn("renewal refused", "device", p.name, "error", err)
		code, message, retry := authclient.CloseCode(err)
		return refuseWith(c, code, message, retry, api.ProblemOf(err).GetOrder())
	}
	return tunnel.Send(c, wire.Renewed{Chain: r.Chain, SSHCert: r.SshCertificate, Trust: r.Trust, Counter: r.Counter})
}

// register checks a REGISTER, gives the edge all it must hold, and acknowledges: from then on the device is reachable here, and its
// tunnel served.
func (h *Hub) register(c tunnel.Conn, p peer, challenge wire.Challenge, challenged wire.Stamp, m *wire.Register) error {
	switch {
	case h.draining.Load():
		return refuse(c, wire.CloseDrain, "this hub is going down; take another", retryWindow)
	case m.UUID != p.uuid:
		return refuse(c, wire.CloseAuth, "the registration names another device than the certificate", 0)
	case m.Hub != challenge.HubUUID:
		return refuse(c, wire.CloseAuth, "the registration is for another hub", 0)
	case !ed25519.Verify(p.key, wire.RegisterTBS(challenge.Nonce, *m), m.Signature):
		return refuse(c, wire.CloseAuth, "the registration's signature does not verify", 0)
	}
	device := h.waitDevice(c.Context(), p)
	if device == nil {
		return refuse(c, wire.CloseBanned, "this device is not, or no longer, in the cluster; join it anew", time.Minute)
	}
	if why := unfit(device, c); why != nil {
		return refuse(c, why.Code, why.Reason, why.RetryAfter)
	}
	t := &registry.Tunnel{
		Conn: c, UUID: p.uuid, Name: device.Name, Incarnation: m.Incarnation, Slot: m.Slot, Counter: m.Counter, Since: h.config.Now(),
		Nonce: challenge.Nonce, Signature: m.Signature, Challenged: challenged,
	}
	t.SetInfo(m.Info)
	lockRevision, locks := h.auth.Cache.Locks()
	_, hubs := h.auth.Cache.HubList()
	trust := h.auth.TrustBlob()
	early := []wire.Message{
		wire.Trust{Blob: trust}, wire.Policy{Blob: device.Policy}, wire.Locks{Revision: lockRevision, Blob: locks},
	}
	if hubs != nil {
		early = append(early, wire.HubList{Blob: hubs})
	}
	for _, msg := range early {
		if err := tunnel.Send(c, msg); err != nil {
			return err
		}
	}
	s := newServed(h, t)
	s.name = p.name
	displaced, err := h.registry.Register(t, h.config.Now())
	if errors.Is(err, registry.ErrClone) && h.mayReplace(c, p, displaced, &err) {
		displaced, err = h.registry.Register(t, h.config.Now())
	}
	if refused, ok := errors.AsType[*wire.CloseError](err); ok {
		s.timer.Stop()
		return refused
	}
	if err != nil {
		s.timer.Stop()
		code, retry := wire.CloseProtocol, time.Minute
		switch {
		case errors.Is(err, registry.ErrClone):
			code = wire.CloseClone
		case errors.Is(err, registry.ErrStale):
			code, retry = wire.CloseSuperseded, staleRetry
		}
		return refuse(c, code, err.Error(), retry)
	}
	h.tunnels.registered(s)
	for _, old := range displaced {
		h.tunnels.spawn(func() { _ = old.Conn.CloseWithError(wire.CloseSuperseded, "a newer tunnel of this device") })
	}
	err = tunnel.Send(c, wire.Ack{
		HubIncarnation: h.incarnation, Heartbeat: heartbeatWish, RetryWindow: h.retryWindow(), MaxStreams: tunnel.MaxStreams,
		Observed: c.RemoteAddr(), LockRevision: lockRevision, PolicyRevision: device.Compiled.Revision, Time: h.auth.Cache.Time(),
		Hubs: h.auth.Cache.HubAddresses(), ProbeKey: h.probes.key(t.UUID),
	})
	if err == nil {
		h.config.Logger.Info("device registered", "device", t.Name, "carrier", c.Carrier().String(), "client", c.RemoteAddr().String(),
			"version", wire.Quote(m.Info.AgentVersion, 64))
		h.admission.registered(c.RemoteAddr().Addr())
		h.report(t.UUID)
		if now := h.auth.TrustBlob(); !bytes.Equal(now, trust) {
			s.send(wire.Trust{Blob: now})
		}
		h.sendCertificate(s, device)
		h.sendChanged(s, device, lockRevision)
		h.sendAwayLocked(s) // locked since it was judged
		s.sendLogHead()
		s.spawn(func() {
			if signed, err := h.auth.SignTime(c.Context(), m.TimeNonce[:]); err == nil {
				_ = tunnel.Send(c, wire.Time{Blob: signed})
			}
		})
	}
	s.start() // an error shows there, too
	return nil
}

// retryWindow is W of an edge's first retry: the fleet's, where auth says it.
func (h *Hub) retryWindow() time.Duration {
	if list, _ := h.auth.Cache.HubList(); list.Window > 0 {
		return list.Window
	}
	return retryWindow
}

// sendChanged sends what changed while the tunnel was being registered, when nobody would yet have sent it.
func (h *Hub) sendChanged(s *served, had *authclient.Device, lockRevision uint64) {
	if d := h.auth.Cache.Device(s.t.UUID); d != nil && d != had {
		s.send(wire.Policy{Blob: d.Policy})
	}
	if revision, blob := h.auth.Cache.Locks(); revision != lockRevision {
		s.send(wire.Locks{Revision: revision, Blob: blob})
	}
}

// waitDevice returns the device as auth told, waiting a little for one that auth may be about to tell of.
func (h *Hub) waitDevice(ctx context.Context, p peer) *authclient.Device {
	ctx, cancel := context.WithTimeout(ctx, deviceWait)
	defer cancel()
	for {
		changed := h.auth.Cache.Changed()
		if d := h.auth.Cache.Device(p.uuid); d != nil {
			if !d.Key.Equal(p.key) {
				return nil
			}
			return d
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// unregister takes a tunnel out of use.
func (h *Hub) unregister(t *registry.Tunnel, cause error) {
	h.ends.set(t.UUID, endText(t.Conn.Carrier(), cause), h.config.Now())
	if h.registry.Remove(t) {
		h.config.Logger.Info("device gone", "device", t.Name, "reason", cause)
	}
	h.report(t.UUID)
}
