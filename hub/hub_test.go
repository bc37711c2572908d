package hub

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/api/apiconnect"
	"hawser/auth/ca"
	"hawser/auth/lock"
	"hawser/auth/policy"
	"hawser/tunnel"
	"hawser/tunnel/quicconn"
	"hawser/tunnel/wire"
	"hawser/tunnel/yamuxconn"
)

// authTwin is an auth service with one device, that admits every hub.
type authTwin struct {
	apiconnect.UnimplementedJoinServiceHandler
	apiconnect.UnimplementedHubServiceHandler
	set    *ca.Set
	trust  []byte
	device *api.WatchDevice
	more   []*api.WatchDevice
	users  []*api.WatchUser
	states chan *api.DeviceState

	closed    chan uint64 // chunks of recordings closed
	released  chan *api.ReleaseRequest
	incidents chan *api.ReportIncidentRequest

	mu     sync.Mutex
	hubs   []*api.Hub
	gone   []string // devices removed
	news   []*api.WatchDevice
	locked *api.Locks               // a list to be told
	clone  *api.ReportCloneResponse // what ReportClone answers
	found  chan struct{}            // closed and replaced when hubs changes
}

const testCluster = "test.example"

var testUUID = wire.UUID{7}

func newAuth(t testing.TB, deviceKey ed25519.PublicKey) (*authTwin, string) {
	t.Helper()
	set, err := ca.NewSet(testCluster, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a := &authTwin{
		set: set, states: make(chan *api.DeviceState, 64), closed: make(chan uint64, 64), released: make(chan *api.ReleaseRequest, 64),
		incidents: make(chan *api.ReportIncidentRequest, 64), found: make(chan struct{}),
	}
	if a.trust, err = set.SignTrust(set.Trust(1)); err != nil {
		t.Fatal(err)
	}
	admin, _ := policy.Builtin("admin")
	compiled, err := policy.SignCompiled(set.GrantKey(), testCluster, testUUID.String(),
		policy.Compile(3, []policy.Role{admin}, policy.Device{UUID: testUUID.String(), Name: "gw-1"}))
	if err != nil {
		t.Fatal(err)
	}
	a.device = &api.WatchDevice{Uuid: testUUID.String(), Name: "gw-1", PublicKey: deviceKey, Policy: compiled}
	_, key, _ := ed25519.GenerateKey(nil)
	chain, err := set.IssueAuth(ca.AuthRequest{UUID: wire.NewUUID().String(), Name: "auth", Key: key.Public().(ed25519.PublicKey), TTL: time.Hour, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(apiconnect.NewJoinServiceHandler(a))
	mux.Handle(apiconnect.NewHubServiceHandler(a))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), hubKey{}, r.TLS.PeerCertificates[0].PublicKey)))
	}), TLSConfig: &tls.Config{
		Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: key}}, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"h2"},
	}}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return a, l.Addr().String()
}

func (a *authTwin) JoinHub(ctx context.Context, r *connect.Request[api.JoinHubRequest]) (*connect.Response[api.JoinHubResponse], error) {
	if string(r.Msg.Secret) != "0123456789abcdef" {
		return nil, connect.NewError(connect.CodePermissionDenied, errors.New("no such token"))
	}
	key, _ := ctx.Value(hubKey{}).(ed25519.PublicKey)
	uuid := wire.NewUUID().String()
	chain, cert, err := a.set.IssueHub(ca.HubRequest{UUID: uuid, Name: "hub-1", Principals: []string{"127.0.0.1"}, Key: key, TTL: time.Hour, Now: time.Now()})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&api.JoinHubResponse{
		Uuid: uuid, Name: "hub-1", Cluster: testCluster, Chain: chain, SshCertificate: cert, Trust: a.trust, Counter: 1,
	}), nil
}

// locks is a list of a revision as auth signs it.
func (a *authTwin) locks(revision uint64, locks ...lock.Lock) *api.Locks {
	blob, err := lock.Sign(lock.List{Cluster: testCluster, Revision: revision, Locks: locks}, a.set.GrantKey())
	if err != nil {
		panic(err)
	}
	return &api.Locks{Revision: revision, Blob: blob}
}

func (a *authTwin) Watch(ctx context.Context, _ *connect.Request[api.WatchRequest], s *connect.ServerStream[api.WatchResponse]) error {
	err := s.Send(&api.WatchResponse{
		Revision: 5, Epoch: "e", Full: true, Begin: true, Synced: true, Trust: a.trust, Devices: append([]*api.WatchDevice{a.device}, a.more...),
		Users: a.users, Locks: a.locks(2), Time: a.set.SignTime(time.Now(), nil),
	})
	for err == nil {
		a.mu.Lock()
		hubs, gone, news, locks, found := a.hubs, a.gone, a.news, a.locked, a.found
		a.mu.Unlock()
		if locks != nil {
			err = s.Send(&api.WatchResponse{Revision: 9, Epoch: "e", Locks: locks})
		}
		if len(news) > 0 {
			err = s.Send(&api.WatchResponse{Revision: 8, Epoch: "e", Devices: news})
		}
		if len(gone) > 0 {
			err = s.Send(&api.WatchResponse{Revision: 7, Epoch: "e", DevicesRemoved: gone})
		}
		if len(hubs) > 0 {
			err = s.Send(&api.WatchResponse{Revision: 6, Epoch: "e", Hubs: hubs})
		}
		select {
		case <-found:
		case <-ctx.Done():
			return err
		}
	}
	return err
}

// list tells all hubs of one another.
func (a *authTwin) list(all ...*Hub) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.hubs = nil
	for _, h := range all {
		a.hubs = append(a.hubs, &api.Hub{Uuid: h.auth.UUID().String(), Name: "hub-1", TunnelAddresses: []string{h.TunnelAddr().String()}})
	}
	close(a.found)
	a.found = make(chan struct{})
}

func (a *authTwin) ReportIncident(_ context.Context, r *connect.Request[api.ReportIncidentRequest]) (*connect.Response[api.ReportIncidentResponse], error) {
	a.incidents <- r.Msg
	return connect.NewResponse(new(api.ReportIncidentResponse)), nil
}

func (a *authTwin) ReportDevices(_ context.Context, r *connect.Request[api.ReportDevicesRequest]) (*connect.Response[api.ReportDevicesResponse], error) {
	for _, d := range r.Msg.Devices {
		select {
		case a.states <- d:
		default: // nobody looks at so many
		}
	}
	return connect.NewResponse(new(api.ReportDevicesResponse)), nil
}

type hubKey struct{}

func (a *authTwin) token(t testing.TB, addr, pin string) string {
	t.Helper()
	s, err := ca.Token{Kind: ca.TokenHub, Cluster: testCluster, Addresses: []string{addr}, Pin: pin, Secret: []byte("0123456789abcdef")}.Reveal()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// runHub joins and runs a hub until the test ends.
func runHub(t *testing.T, token string) *Hub {
	t.Helper()
	return runHubWith(t, Config{Data: t.TempDir(), Token: token, SSHListen: "127.0.0.1:0", TunnelListen: "127.0.0.1:0"})
}

func runHubWith(t testing.TB, c Config) *Hub {
	t.Helper()
	h, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(5 * time.Second):
			t.Error("Run did not end within 5 s")
		}
	})
	select {
	case <-h.Ready():
	case err := <-done:
		done <- nil
		t.Fatalf("Run: %v", err)
	}
	return h
}

type testEdge struct {
	key   ed25519.PrivateKey
	chain [][]byte
}

func (a *authTwin) edge(t *testing.T, key ed25519.PrivateKey, uuid wire.UUID, life time.Duration) testEdge {
	t.Helper()
	now := time.Now()
	if life < 0 {
		now = now.Add(2 * life)
		life = -life
	}
	chain, _, err := a.set.IssueDevice(ca.DeviceRequest{UUID: uuid.String(), Name: "gw-1", Key: key.Public().(ed25519.PublicKey), TTL: life, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return testEdge{key, chain}
}

func (e testEdge) dial(t *testing.T, h *Hub, carrier tunnel.Carrier) (tunnel.Conn, *wire.Challenge) {
	t.Helper()
	tc := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{tunnel.ALPN}, InsecureSkipVerify: true,
		Certificates: []tls.Certificate{{Certificate: e.chain, PrivateKey: e.key}},
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var c tunnel.Conn
	var err error
	if carrier == tunnel.CarrierQUIC {
		c, err = quicconn.Dial(ctx, h.TunnelAddr(), tc, quicconn.Options{})
	} else {
		var nc net.Conn
		if nc, err = net.Dial("tcp", h.TunnelAddr().String()); err == nil {
			c, err = yamuxconn.Client(ctx, nc, tc, yamuxconn.Options{})
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.CloseWithError(wire.CloseNormal, "") })
	return c, receive[*wire.Challenge](t, c)
}

func receive[M wire.Message](t *testing.T, c tunnel.Conn) M {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		m, err := tunnel.Receive(ctx, c)
		if err != nil {
			t.Fatalf("waiting for %T: %v", *new(M), err)
		}
		if m, ok := m.(M); ok {
			return m
		}
	}
}

// refusal is the code of Refused, or of the close that may overtake it.
func refusal(t *testing.T, c tunnel.Conn) wire.CloseCode {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		m, err := tunnel.Receive(ctx, c)
		if r, ok := m.(*wire.Refused); ok {
			return r.Code
		}
		if e, ok := errors.AsType[*wire.CloseError](err); ok {
			return e.Code
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (e testEdge) register(t *testing.T, c tunnel.Conn, ch *wire.Challenge, uuid wire.UUID, counter uint64) {
	t.Helper()
	r := wire.Register{UUID: uuid, Hub: ch.HubUUID, Incarnation: wire.Incarnation{1}, Counter: counter}
	r.Signature = ed25519.Sign(e.key, wire.RegisterTBS(ch.Nonce, r))
	if err := tunnel.Send(c, r); err != nil {
		t.Fatal(err)
	}
}

func newCluster(t *testing.T) (*authTwin, *Hub, ed25519.PrivateKey) {
	t.Helper()
	a, hubs, key := newClusterOf(t, 1)
	return a, hubs[0], key
}

// newClusterOf makes n hubs that know one another.
func newClusterOf(t *testing.T, n int) (*authTwin, []*Hub, ed25519.PrivateKey) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	a, addr := newAuth(t, pub)
	pin, err := ca.Pin(a.set.Authority(ca.TunnelCA).Certificate())
	if err != nil {
		t.Fatal(err)
	}
	var hubs []*Hub
	for range n {
		hubs = append(hubs, runHub(t, a.token(t, addr, pin)))
	}
	if n > 1 {
		a.list(hubs...)
	}
	return a, hubs, key
}

func TestADeviceRegistersOverEitherCarrierAndTheNewerFencesTheOlder(t *testing.T) {
	a, h, key := newCluster(t)
	e := a.edge(t, key, testUUID, time.Hour)
	first, ch := e.dial(t, h, tunnel.CarrierTLS)
	e.register(t, first, ch, testUUID, 1)
	if p := receive[*wire.Policy](t, first); string(p.Blob) != string(a.device.Policy) {
		t.Error("another policy came than auth's")
	}
	ack := receive[*wire.Ack](t, first)
	if ack.LockRevision != 2 || ack.PolicyRevision != 3 || len(ack.Time) == 0 {
		t.Errorf("ack %+v", ack)
	}
	if s := <-a.states; !s.Online || s.Carrier != "tls" {
		t.Errorf("reported %v", s)
	}
	second, ch := e.dial(t, h, tunnel.CarrierQUIC)
	e.register(t, second, ch, testUUID, 2)
	receive[*wire.Ack](t, second)
	select {
	case <-first.Context().Done():
	case <-time.After(5 * time.Second):
		t.Fatal("the older tunnel was not closed")
	}
	if e, ok := errors.AsType[*wire.CloseError](context.Cause(first.Context())); !ok || e.Code != wire.CloseSuperseded {
		t.Errorf("closed by %v", context.Cause(first.Context()))
	}
	third, ch := e.dial(t, h, tunnel.CarrierQUIC)
	e.register(t, third, ch, testUUID, 2)
	if r := refusal(t, third); r != wire.CloseSuperseded {
		t.Errorf("a counter used twice: %v", r)
	}
}

func TestRegistrationsThatAreNotTheDevicesOwnAreRefused(t *testing.T) {
	a, h, key := newCluster(t)
	e := a.edge(t, key, testUUID, time.Hour)
	c, ch := e.dial(t, h, tunnel.CarrierTLS)
	e.register(t, c, ch, wire.UUID{8}, 1)
	if r := refusal(t, c); r != wire.CloseAuth {
		t.Errorf("another's UUID: %v", r)
	}
	c, ch = e.dial(t, h, tunnel.CarrierTLS)
	ch.Nonce[0] ^= 1
	e.register(t, c, ch, testUUID, 1)
	if r := refusal(t, c); r != wire.CloseAuth {
		t.Errorf("a signature over another nonce: %v", r)
	}
	expired := a.edge(t, key, testUUID, -time.Hour)
	c, ch = expired.dial(t, h, tunnel.CarrierTLS)
	expired.register(t, c, ch, testUUID, 1)
	if r := refusal(t, c); r != wire.CloseExpired {
		t.Errorf("an expired certificate: %v", r)
	}
	self, err := ca.SelfSigned(key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	joiner := testEdge{key, [][]byte{self}}
	c, ch = joiner.dial(t, h, tunnel.CarrierQUIC)
	joiner.register(t, c, ch, testUUID, 1)
	if r := refusal(t, c); r != wire.CloseAuth && r != wire.CloseExpired {
		t.Errorf("a self-signed certificate: %v", r)
	}
	if got := h.registry.All(); len(got) != 0 {
		t.Errorf("%d registered", len(got))
	}
}

func TestAWrongPinStopsTheJoinBeforeTheSecretLeaves(t *testing.T) {
	a, addr := newAuth(t, make([]byte, ed25519.PublicKeySize))
	other, err := ca.NewSet(testCluster, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pin, err := ca.Pin(other.Authority(ca.TunnelCA).Certificate())
	if err != nil {
		t.Fatal(err)
	}
	h, err := New(Config{Data: t.TempDir(), Token: a.token(t, addr, pin), SSHListen: "127.0.0.1:0", TunnelListen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "pin") {
		t.Errorf("got %v", err)
	}
}

func TestValidateReportsEveryProblem(t *testing.T) {
	err := Config{
		SSHListen: "x", TunnelListen: "y", Public: []string{"a b"}, PublicSSH: []string{""}, Zone: "a b", DrainTimeout: -1, AdmitRate: -1,
	}.Validate()
	for _, want := range []string{"data", "ssh", "tunnel", "public:", "public-ssh", "zone", "drain-timeout", "admit-rate"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not in %v", want, err)
		}
	}
}

func TestPublicAddressesMayDifferFromTheBound(t *testing.T) {
	ssh, tun := net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:2222")), net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:8443"))
	for _, x := range []struct {
		public, publicSSH []string
		ssh, tunnels      string
	}{
		{nil, nil, "127.0.0.1:2222", "127.0.0.1:8443"},
		{[]string{"hub.example", "2001:db8::1"}, nil, "hub.example:2222 [2001:db8::1]:2222", "hub.example:8443 [2001:db8::1]:8443"},
		{[]string{"gate.example:443"}, nil, "gate.example:2222", "gate.example:443"},
		{[]string{"gate.example:443"}, []string{"gate.example:22", "[2001:db8::2]"}, "gate.example:22 [2001:db8::2]:2222", "gate.example:443"},
	} {
		h := &Hub{config: Config{Public: x.public, PublicSSH: x.publicSSH}, ssh: fakeListener{ssh}, tcp: fakeListener{tun}}
		s, tunnels := h.publicAddresses()
		if strings.Join(s, " ") != x.ssh || strings.Join(tunnels, " ") != x.tunnels {
			t.Errorf("%v, %v: ssh %v, tunnels %v", x.public, x.publicSSH, s, tunnels)
		}
	}
}

type fakeListener struct{ addr net.Addr }

func (f fakeListener) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (f fakeListener) Close() error              { return nil }
func (f fakeListener) Addr() net.Addr            { return f.addr }

// connect dials and waits for nothing.
func (e testEdge) connect(t *testing.T, h *Hub) tunnel.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", h.TunnelAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := yamuxconn.Client(t.Context(), nc, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{tunnel.ALPN}, InsecureSkipVerify: true,
		Certificates: []tls.Certificate{{Certificate: e.chain, PrivateKey: e.key}},
	}, yamuxconn.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.CloseWithError(wire.CloseNormal, "") })
	return c
}
