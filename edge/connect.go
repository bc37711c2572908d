package edge

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"time"

	"hawser/auth/ca"
	"hawser/edge/netwatch"
	"hawser/tunnel"
	"hawser/tunnel/identity"
	"hawser/tunnel/quicconn"
	"hawser/tunnel/wire"
	"hawser/tunnel/yamuxconn"
)

// ErrHub is a hub whose certificate is not one of this cluster's hubs.
var ErrHub = errors.New("the peer is not a hub of this cluster")

// errSameHub is what a standby tunnel finds where all addresses lead to the hub of the active one.
var errSameHub = errors.New("no hub but that of the other tunnel")

// connect races the hubs for one round.
func (a *Agent) connect(ctx, serving context.Context, r *round) (*link, <-chan *result[*link], error) {
	c, by, grace := a.cfg.Carriers, lead{tls: tcpDelay}, quicGrace
	network := netwatch.Network()
	switch {
	case c != AnyCarrier:
	case r.purpose == forQUIC:
		c = OnlyQUIC
	case r.purpose == forTLS:
		c = OnlyTLS
	case r.tls || r.k.slot == slotStandby || a.cfg.Metered && a.openStreams() == 0:
		// To idle on TCP costs the least, and a network that drops QUIC each time it has begun is no place for it. It is for where TCP is closed.
		by, grace = lead{quic: lateCarrier}, 0
	case r.urgent:
		by = lead{}
	case a.storming(time.Now()):
		by = lead{tls: lateCarrier}
	case a.udpBlocked(network):
		by = lead{quic: tcpDelay}
	}
	r.quic = grace == 0
	stages, err := r.stages(c, by)
	if err != nil {
		return nil, nil, err
	}
	res, late, err := raceStages(ctx, stages, grace, func(ctx context.Context, at attempt) (*link, error) {
		return a.establish(ctx, serving, at, r)
	}, func(l *link) { l.close(wire.CloseNormal, errOvertaken.Error()) })
	if err != nil {
		<-late
		return nil, nil, err
	}
	if c != AnyCarrier || by.quic > by.tls {
		return res.value, late, nil // it says nothing of UDP
	}
	if res.attempt.carrier == tunnel.CarrierQUIC {
		a.noteUDP(network, false)
		return res.value, late, nil
	}
	out := make(chan *result[*link], 1)
	go func() { // ends when the race's own stragglers do: within quicGrace
		l := <-late
		if a.noteUDP(network, l == nil) && l == nil && ctx.Err() == nil {
			a.history.add(wire.ConnEvent{Kind: wire.EventUDPBlocked, Hub: res.value.challenge.HubName, Carrier: uint8(tunnel.CarrierTLS)})
			res.value.tellHistory()
		}
		out <- l
	}()
	return res.value, out, nil
}

// stages are the hubs of a round in the order in which they are tried.
func (r *round) stages(c Carriers, by lead) ([]stage, error) {
	a, k := r.k.a, r.k
	var same, first, last []hubTarget
	taken := k.other().current.Load() // the other slot's
	mine := k.current.Load()
	order := a.ranked()
	switch {
	case r.purpose == forHome:
		order = order[:1]
	case r.purpose == forTunnel && k.slot == slotActive && !r.urgent && !a.storming(time.Now()):
		order = append(order, a.beginnings(order)...)
	}
	for _, t := range order {
		switch {
		case r.purpose == forHome: // though the standby is there, which then goes elsewhere
			first = append(first, t)
		case mine != nil && mine.on(&t) && (r.purpose == forQUIC || r.purpose == forTLS):
			same = append(same, t) // only the carrier is to change
		case taken != nil && taken.on(&t):
			if k.slot == slotActive {
				last = append(last, t)
			}
		case r.purpose == forElsewhere && mine != nil && mine.on(&t), k.slot == slotStandby && taken != nil && t.zone == a.zone(taken.challenge.HubUUID) && t.zone != "":
			last = append(last, t)
		default:
			first = append(first, t)
		}
	}
	targets := append(append(same, first...), last...)
	stagger := hubStagger
	turn := 0 // of the addresses, which move on once all hubs had theirs
	switch {
	case len(targets) == 0 && k.slot == slotStandby:
		return nil, errSameHub
	case r.urgent:
		targets, turn = window(targets, urgentHubs, r.turn)
		stagger = addressStagger
	case r.purpose != forQUIC && a.storming(time.Now()):
		targets = targets[:min(len(targets), 1)] // the next one's turn is after the next, longer wait
	}
	var out []stage
	for i, t := range targets {
		out = append(out, stage{at: time.Duration(i) * stagger, find: func(ctx context.Context) ([]attempt, error) {
			var found []resolved
			var err error
			if r.known {
				found = a.resolver.remembered(t.addrs)
			}
			if len(found) == 0 {
				found, err = a.resolver.resolve(ctx, t.addrs)
			}
			if r.urgent {
				found, _ = window(found, urgentAddresses, turn)
			}
			list := planned(found, c, by)
			for i := range list {
				list[i].target = t.key()
			}
			return list, err
		}})
	}
	return out, nil
}

// window is n of a list, or what is left of it, turn times as many further on; times is how often it went through all of it so far.
func window[T any](list []T, n, turn int) (part []T, times int) {
	windows := max(1, (len(list)+n-1)/n)
	from := turn % windows * n
	return list[from:min(from+n, len(list))], turn / windows
}

// on reports whether the tunnel is at this hub.
func (l *link) on(t *hubTarget) bool {
	return l.challenge.HubUUID == t.id || t.id == (wire.UUID{}) && l.target == t.key()
}

// noteUDP remembers whether QUIC is worth its head start on a network; it reports whether that is news. It only ever reorders.
func (a *Agent) noteUDP(network string, blocked bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.noUDP[network] == blocked {
		return false
	}
	if !blocked {
		delete(a.noUDP, network)
	} else if len(a.noUDP) < maxNetworks {
		a.noUDP[network] = true
	}
	return true
}

func (a *Agent) udpBlocked(network string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.noUDP[network]
}

// storm notes that a hub let go of many devices: for a while QUIC alone races, and a refused round waits twice as long.
func (a *Agent) storm(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stormy = now.Add(stormLasts)
}

func (a *Agent) storming(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return now.Before(a.stormy)
}

// dial opens one carrier.
func (a *Agent) dial(ctx context.Context, at attempt, tc *tls.Config) (tunnel.Conn, error) {
	if at.carrier == tunnel.CarrierQUIC {
		return quicconn.Dial(ctx, at.addr, tc, quicconn.Options{Small: a.machine.small(), Logger: a.log})
	}
	nc, err := a.dialTCP(ctx, at.hub, at.addr)
	if err != nil {
		return nil, err
	}
	o := yamuxconn.Options{Logger: a.log, KeepAlive: a.nat.interval(netwatch.Network(), tunnel.CarrierTLS)}
	if a.cfg.Metered {
		o.KeepAlive = meteredKeepAlive
	}
	conn, err := yamuxconn.Client(ctx, nc, tc, o)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return conn, nil
}

// verifyHub decides on a hub's chain. Until auth has signed the time of this run our clock proves nothing, so a certificate that is
// only out of its time passes here and is held against the signed time when that has come (see link.adoptTime).
func (a *Agent) verifyHub(cs tls.ConnectionState, trust *ca.Trust) error {
	_, err := a.hubIdentity(cs, trust, 0)
	return err
}

// hubIdentity is verifyHub of a chain that was shown so long ago; it says who it is.
func (a *Agent) hubIdentity(cs tls.ConnectionState, trust *ca.Trust, ago time.Duration) (ca.Identity, error) {
	if len(cs.PeerCertificates) == 0 {
		return ca.Identity{}, fmt.Errorf("%w: no certificate", ErrHub)
	}
	now := a.clock.Now().Add(-ago)
	if !a.clock.Trusted() {
		now = within(cs.PeerCertificates[0], now)
	}
	id, err := ca.VerifyPeer(cs.PeerCertificates, trust, now)
	if err != nil {
		if foreign := checkForeign(cs.PeerCertificates); foreign != nil {
			err = foreign
		}
		return ca.Identity{}, fmt.Errorf("%w: %w", ErrHub, err)
	}
	if err := id.Require(ca.RoleHub); err != nil {
		return ca.Identity{}, fmt.Errorf("%w: %w", ErrHub, err)
	}
	return id, nil
}

// checkChallenge holds a challenge against the certificate of who sent it.
func (a *Agent) checkChallenge(conn tunnel.Conn, c *wire.Challenge, cluster string) error {
	if c.Version != wire.Version {
		return versionError(c.Version)
	}
	if c.Cluster != cluster {
		return fmt.Errorf("%w: it says it is of cluster \"%s\"", ErrHub, wire.Quote(c.Cluster, 80))
	}
	if peer := conn.ConnectionState().PeerCertificates; len(peer) == 0 || peer[0].Subject.CommonName != c.HubUUID.String() {
		return fmt.Errorf("%w: it says it is hub %s, its certificate does not", ErrHub, c.HubUUID)
	}
	return nil
}

// closing is what a hub is told whose challenge or answer was not accepted.
func closing(err error) (wire.CloseCode, string) {
	if v, ok := errors.AsType[versionError](err); ok {
		return wire.CloseUpgrade, v.Error()
	}
	if errors.Is(err, ErrHub) {
		return wire.CloseProtocol, "not a hub of this cluster"
	}
	return wire.CloseNormal, ""
}

// versionError is what a hub speaks that is not ours. Another hub of the cluster may speak it.
type versionError uint16

func (v versionError) Error() string {
	return fmt.Sprintf("the hub speaks version %d of the tunnel's protocol, this agent version %d: update the older", uint16(v), wire.Version)
}

// establish dials and registers. The link outlives ctx, which bounds the set-up; its streams are served under serving.
func (a *Agent) establish(ctx, serving context.Context, at attempt, of *round) (*link, error) {
	l, err := a.openAt(ctx, serving, at, of, false)
	if r, ok := errors.AsType[*RefusedError](err); ok && r.Code == wire.CloseExpired || errors.Is(err, errExpired) {
		// The certificate is over: a renew-only tunnel first.
		if l, err = a.openAt(ctx, serving, at, of, true); err == nil && l == nil {
			l, err = a.openAt(ctx, serving, at, of, false)
		}
	}
	if r, ok := errors.AsType[*RefusedError](err); ok && r.authority() {
		return nil, &finalError{err}
	}
	return l, err
}

// errExpired says that our own certificate is over by the time we know.
var errExpired = errors.New("the device's certificate has expired")

// openAt opens one tunnel and registers on it, or renews on it and closes it (then the link is nil).
func (a *Agent) openAt(ctx, serving context.Context, at attempt, of *round, renew bool) (*link, error) {
	creds, trust := a.state.get(), a.state.anchors()
	_, notAfter, err := validity(creds)
	if err != nil {
		return nil, err
	}
	if !renew && a.clock.Trusted() && !a.clock.Now().Before(notAfter) {
		return nil, errExpired
	}
	conn, err := a.dial(ctx, at, clientTLS(creds.TLSCertificate(), func(cs tls.ConnectionState) error {
		return a.verifyHub(cs, trust)
	}, tunnel.ALPN))
	if err != nil {
		return nil, err
	}
	l := newLink(a, conn, at, of, trust)
	if err := l.setUp(ctx, serving, creds, renew); err != nil {
		a.obey(err)
		code, reason := closing(err)
		if r, ok := errors.AsType[*RefusedError](err); ok {
			switch {
			case r.authority(): // another hub is asked next: this one may be wrong, or lie
				a.rest(at.target, restMax)
				if r.Code == wire.CloseBanned && l.challenge.HubUUID != (wire.UUID{}) {
					a.streams.banned(l.challenge.HubUUID)
				}
			case r.Code == wire.CloseRate || r.Code == wire.CloseDrain || r.Code == wire.CloseUnavailable:
				a.rest(at.target, max(r.RetryAfter, drainRest))
				a.storm(time.Now())
			}
		}
		if code == wire.CloseUpgrade {
			a.rest(at.target, restMax)
		}
		_ = conn.CloseWithError(code, reason)
		return nil, err
	}
	if renew {
		return nil, conn.CloseWithError(wire.CloseNormal, "")
	}
	l.start(serving)
	return l, nil
}

// setUp reads the challenge and registers, or renews.
func (l *link) setUp(ctx, serving context.Context, creds *identity.Credentials, renew bool) error {
	a := l.a
	challenge, err := receiveAs[*wire.Challenge](ctx, l.conn, "challenge")
	if err != nil {
		return err
	}
	if err := a.checkChallenge(l.conn, challenge, creds.Cluster); err != nil {
		return err
	}
	l.challenge = *challenge
	if o := l.k.other().current.Load(); l.slot == slotStandby && o != nil && o.challenge.HubUUID == challenge.HubUUID {
		return errSameHub
	}
	if renew {
		if err := tunnel.Send(l.conn, wire.Renew{Counter: creds.Counter}); err != nil {
			return err
		}
		m, err := receive(ctx, l.conn)
		if err != nil {
			return fmt.Errorf("wait for the answer to renew: %w", closeRefusal("renew", err))
		}
		return a.renewed(m)
	}
	return l.register(ctx, serving, creds)
}

// register sends REGISTER and waits for its ACK. Counters must reach the hubs in order, for a hub refuses one that is not above the last, so
// of the attempts of a race one registers at a time, and the next has the next counter. Once REGISTER is sent the hubs may hold this tunnel as the
// slot's newest, and have closed the others for it: whatever ends ctx then, the answer has answerGrace to come, and the tunnel stands if it does.
func (l *link) register(ctx, serving context.Context, creds *identity.Credentials) error {
	a := l.a
	select {
	case l.k.turn <- struct{}{}:
		defer func() { <-l.k.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := cmp.Or(context.Cause(ctx), l.of.mayRegister(l.conn.Carrier())); err != nil {
		return err
	}
	uuid, err := wire.ParseUUID(creds.UUID)
	if err != nil {
		return err
	}
	l.nonce = newNonce()
	l.counter = a.counter.Add(1)
	r := wire.Register{
		UUID: uuid, Hub: l.challenge.HubUUID, Incarnation: a.incarnation, Slot: l.slot, Counter: l.counter, TimeNonce: l.nonce,
		Info: a.info(creds, l.counter == 1),
	}
	r.Signature = ed25519.Sign(creds.Key, wire.RegisterTBS(l.challenge.Nonce, r))
	if err := tunnel.Send(l.conn, r); err != nil {
		return fmt.Errorf("send register: %w", err)
	}
	wait, cancel := context.WithCancel(serving)
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(answerGrace, cancel) })()
	for {
		m, err := receive(wait, l.conn)
		if err != nil {
			return fmt.Errorf("wait for the answer to register: %w", closeRefusal("register", err))
		}
		switch m := m.(type) {
		case *wire.Ack:
			if m.HubIncarnation != l.challenge.HubIncarnation {
				return fmt.Errorf("%w: its incarnation changed within a tunnel", ErrHub)
			}
			l.ack = *m
			l.of.quic = l.of.quic || l.conn.Carrier() == tunnel.CarrierQUIC
			l.k.winner.Store(l.of)
			return nil
		case *wire.Refused:
			return refused("register", m)
		default:
			if len(l.early) == maxEarly {
				return fmt.Errorf("the hub sent %d messages before its answer to register", maxEarly)
			}
			l.early = append(l.early, m)
		}
	}
}

// takeTurn waits for the right to be the one that joins.
func (a *Agent) takeTurn(ctx context.Context) error {
	select {
	case a.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (a *Agent) giveTurn() { <-a.turn }

// info describes the device.
func (a *Agent) info(c *identity.Credentials, restart bool) wire.Info {
	host, _ := os.Hostname()
	return wire.Info{
		Name: c.Name, Hostname: truncate(host, 255), AgentVersion: a.cfg.Version, Arch: runtime.GOARCH, OS: runtime.GOOS,
		Labels: a.cfg.Labels, Addresses: localAddresses(), UID: uint32(os.Getuid()), Restart: restart,
		Listen: a.port.told(), TunnelOff: a.cfg.TunnelOff,
	}
}

// localAddresses are the addresses of the interfaces, without loopback and link-local ones.
func localAddresses() []string {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []string
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil && len(out) < maxInfoAddresses {
			if ip := p.Addr().Unmap(); ip.IsGlobalUnicast() {
				out = append(out, ip.String())
			}
		}
	}
	return out
}

// receive returns the next control message that we know, within messageTimeout.
func receive(ctx context.Context, conn tunnel.Conn) (wire.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, messageTimeout)
	defer cancel()
	return tunnel.Receive(ctx, conn)
}

// receiveAs is receive for a message of one type.
func receiveAs[T wire.Message](ctx context.Context, conn tunnel.Conn, what string) (T, error) {
	var zero T
	m, err := receive(ctx, conn)
	if err != nil {
		return zero, fmt.Errorf("wait for the hub's %s: %w", what, closeRefusal("connect", err))
	}
	if r, ok := m.(*wire.Refused); ok {
		return zero, refused("connect", r)
	}
	t, ok := m.(T)
	if !ok {
		return zero, fmt.Errorf("the hub sent message %d where its %s was due", m.Type(), what)
	}
	return t, nil
}

func refused(what string, r *wire.Refused) error {
	return &RefusedError{What: what, Code: r.Code, Message: r.Message, RetryAfter: r.RetryAfter, order: r.Order}
}

// closeRefusal makes a *RefusedError of a tunnel that the hub closed with a code.
func closeRefusal(what string, err error) error {
	if c, ok := errors.AsType[*wire.CloseError](err); ok && c.Remote && c.Code != wire.CloseNormal {
		return &RefusedError{What: what, Code: c.Code, Message: c.Reason, RetryAfter: c.RetryAfter}
	}
	return err
}
