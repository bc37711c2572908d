package edge

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"os/user"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/ca"
	"hawser/auth/grant"
	"hawser/auth/lock"
	"hawser/auth/policy"
	"hawser/tunnel"
	"hawser/tunnel/quicconn"
	"hawser/tunnel/resume"
	"hawser/tunnel/wire"
	"hawser/tunnel/yamuxconn"
)

const testCluster = "test.example"

// testHub is a small hub and auth in one, on loopback: enough to join, register, renew and open streams. A test changes its fields before it starts an agent.
type testHub struct {
	t           testing.TB
	set         *ca.Set
	trust       ca.Trust
	trustBlob   []byte
	uuid        wire.UUID
	incarnation wire.Incarnation
	cert        tls.Certificate
	address     string

	deviceTTL    time.Duration
	detachedLife time.Duration                                       // of the streams it opens
	before       func(*testConn)                                     // a registration is told, in order, before its ACK
	strict       bool                                                // lock_mode of the role
	version      uint16                                              // that it says it speaks
	closed       chan error                                          // why a tunnel ended before it said anything; room for some, and more are dropped
	refuse       *wire.Refused                                       // answers REGISTER
	place        func(*testConn, *wire.PlaceRequest) wire.PlaceReply // answers place requests

	status func(*wire.HubQuery) *wire.HubStatus // answers hub queries

	mu      sync.Mutex
	hold    int                 // joins that are to wait for approval
	held    []ed25519.PublicKey // theirs
	secrets map[string]string   // by secret: "" or why it is refused
	serial  uint64
	joins   int

	registered chan *testConn // every tunnel that registered; room for many
	cancel     context.CancelFunc
	wg         sync.WaitGroup
}

// testConn is one registered tunnel at the hub.
type testConn struct {
	hub      *testHub
	conn     tunnel.Conn
	register wire.Register
	messages chan wire.Message // what the edge sent since, but for renewals and places
}

func newTestHub(t testing.TB) *testHub {
	t.Helper()
	set, err := ca.NewSet(testCluster, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return newTestHubOf(t, set)
}

// newTestHubOf is one more hub of a cluster.
func newTestHubOf(t testing.TB, set *ca.Set) *testHub {
	t.Helper()
	h := &testHub{
		t: t, set: set, trust: set.Trust(1), uuid: wire.NewUUID(), incarnation: wire.NewIncarnation(), deviceTTL: time.Hour,
		version: wire.Version, closed: make(chan error, 8), secrets: map[string]string{}, registered: make(chan *testConn, 64),
	}
	var err error
	if h.trustBlob, err = set.SignTrust(h.trust); err != nil {
		t.Fatal(err)
	}
	h.cert = h.hubCert(set, time.Now())
	var tcp net.Listener
	var udp *net.UDPConn
	for range 20 { // the same port for both
		if udp, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
			t.Fatal(err)
		}
		if tcp, err = net.Listen("tcp4", udp.LocalAddr().String()); err == nil {
			break
		}
		udp.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	h.address = udp.LocalAddr().String()
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	ln, err := quicconn.Listen(udp, h.tls(), quicconn.Options{})
	if err != nil {
		t.Fatal(err)
	}
	h.wg.Go(func() {
		for {
			conn, err := ln.Accept(ctx)
			if err != nil {
				return
			}
			h.wg.Go(func() { h.serve(ctx, conn) })
		}
	})
	h.wg.Go(func() {
		for {
			nc, err := tcp.Accept()
			if err != nil {
				return
			}
			h.wg.Go(func() {
				conn, err := yamuxconn.Server(ctx, tls.Server(nc, h.tls()), yamuxconn.Options{})
				if err != nil {
					nc.Close()
					return
				}
				h.serve(ctx, conn)
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		tcp.Close()
		ln.Close()
		h.wg.Wait()
	})
	return h
}

// hubCert issues this hub's certificate from a set of authorities.
func (h *testHub) hubCert(set *ca.Set, now time.Time) tls.Certificate {
	h.t.Helper()
	pub, key, _ := ed25519.GenerateKey(rand.Reader)
	chain, _, err := set.IssueHub(ca.HubRequest{UUID: h.uuid.String(), Name: "hub-1", Cluster: set.Cluster(), Principals: []string{"hub.test.example"}, Key: pub, TTL: 24 * time.Hour, Now: now})
	if err != nil {
		h.t.Fatal(err)
	}
	return tls.Certificate{Certificate: chain, PrivateKey: key}
}

func (h *testHub) tls() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{tunnel.ALPN}, ClientAuth: tls.RequireAnyClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			cert := h.cert
			return &cert, nil
		},
	}
}

// bundle is the trust bundle of now.
func (h *testHub) bundle() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.trustBlob
}

// token makes a join token.
func (h *testHub) token(kind string) string {
	h.t.Helper()
	secret := make([]byte, 16)
	rand.Read(secret)
	h.mu.Lock()
	h.secrets[string(secret)] = ""
	h.mu.Unlock()
	pin, err := ca.Pin(h.trust.TunnelCA[0])
	if err != nil {
		h.t.Fatal(err)
	}
	s, err := ca.Token{Kind: kind, Cluster: testCluster, Addresses: []string{h.address}, Pin: pin, Secret: secret}.Reveal()
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

// serve is one tunnel at the hub.
func (h *testHub) serve(ctx context.Context, conn tunnel.Conn) {
	defer conn.CloseWithError(wire.CloseNormal, "")
	h.mu.Lock()
	incarnation, version := h.incarnation, h.version
	h.mu.Unlock()
	challenge := wire.Challenge{Version: version, HubUUID: h.uuid, HubName: "hub-1", Cluster: testCluster, HubIncarnation: incarnation, Nonce: newNonce()}
	if tunnel.Send(conn, challenge) != nil {
		return
	}
	m, err := tunnel.Receive(ctx, conn)
	if err != nil {
		select {
		case h.closed <- err:
		default:
		}
		return
	}
	peer := conn.ConnectionState().PeerCertificates[0]
	switch m := m.(type) {
	case *wire.Join:
		h.join(conn, peer, m)
		<-conn.Context().Done()
	case *wire.Renew:
		h.renew(conn, peer)
		<-conn.Context().Done()
	case *wire.Register:
		h.register(ctx, conn, peer, challenge, m)
	}
}

func (h *testHub) join(conn tunnel.Conn, peer *x509.Certificate, m *wire.Join) {
	h.mu.Lock()
	if h.hold > 0 {
		h.hold--
		h.held = append(h.held, peer.PublicKey.(ed25519.PublicKey))
		h.mu.Unlock()
		_ = tunnel.Send(conn, wire.Refused{Code: wire.ClosePending, Message: "waits for approval", RetryAfter: time.Millisecond})
		return
	}
	why, known := h.secrets[string(m.Secret)]
	if known && why == "" {
		h.secrets[string(m.Secret)] = "the token was used before; make another with `hawser token create`"
		h.joins++
	}
	h.mu.Unlock()
	if !known {
		why = "no such token"
	}
	if why != "" {
		_ = tunnel.Send(conn, wire.Refused{Code: wire.CloseToken, Message: why})
		return
	}
	uuid := wire.NewUUID()
	name := m.Name
	if name == "" {
		name = wire.CleanName(m.Hostname)
	}
	chain, cert, err := h.issue(peer, uuid.String(), name)
	if err != nil {
		h.t.Errorf("issue: %v", err)
		return
	}
	_ = tunnel.Send(conn, wire.Joined{UUID: uuid, Name: name, Cluster: testCluster, Chain: chain, SSHCert: cert, Trust: h.bundle(), Hubs: []string{h.address}, Counter: 1})
}

func (h *testHub) issue(peer *x509.Certificate, uuid, name string) ([][]byte, []byte, error) {
	h.mu.Lock()
	ttl := h.deviceTTL
	h.mu.Unlock()
	return h.set.IssueDevice(ca.DeviceRequest{UUID: uuid, Name: name, Cluster: testCluster, Key: peer.PublicKey.(ed25519.PublicKey), TTL: ttl, Now: time.Now()})
}

func (h *testHub) renew(conn tunnel.Conn, peer *x509.Certificate) {
	trust := h.set.Trust(h.set.Revision())
	id, err := ca.VerifyPeer([]*x509.Certificate{peer}, &trust, within(peer, time.Now()))
	if err != nil {
		id, err = ca.VerifyPeer([]*x509.Certificate{peer}, h.set.RetiredTrust(), within(peer, time.Now()))
	}
	if err != nil {
		h.t.Errorf("renew: %v", err)
		return
	}
	chain, cert, err := h.issue(peer, id.UUID, id.Name)
	if err != nil {
		h.t.Errorf("renew: %v", err)
		return
	}
	h.mu.Lock()
	h.serial++
	serial := h.serial
	h.mu.Unlock()
	_ = tunnel.Send(conn, wire.Renewed{Chain: chain, SSHCert: cert, Trust: h.bundle(), Counter: serial + 1})
}

func (h *testHub) register(ctx context.Context, conn tunnel.Conn, peer *x509.Certificate, c wire.Challenge, m *wire.Register) {
	if !ed25519.Verify(peer.PublicKey.(ed25519.PublicKey), wire.RegisterTBS(c.Nonce, *m), m.Signature) {
		h.t.Error("the registration is not signed by the device's key")
		return
	}
	h.mu.Lock()
	refuse := h.refuse
	h.mu.Unlock()
	if refuse != nil {
		_ = tunnel.Send(conn, *refuse)
		<-conn.Context().Done()
		return
	}
	trust := h.set.Trust(h.set.Revision())
	if _, err := ca.VerifyPeer([]*x509.Certificate{peer}, &trust, within(peer, time.Now())); err != nil || time.Now().After(peer.NotAfter) {
		_ = tunnel.Send(conn, wire.Refused{Code: wire.CloseExpired, Message: "the certificate has expired"})
		<-conn.Context().Done()
		return
	}
	role, _ := policy.Builtin("operator")
	if h.strict {
		role.Options.LockMode = policy.LockStrict
	}
	compiled := policy.Compile(7, []policy.Role{role}, policy.Device{UUID: m.UUID.String(), Name: m.Info.Name})
	blob, err := policy.SignCompiled(h.set.GrantKey(), testCluster, m.UUID.String(), compiled)
	if err != nil {
		h.t.Errorf("policy: %v", err)
		return
	}
	_ = tunnel.Send(conn, wire.Trust{Blob: h.bundle()})
	tc := &testConn{hub: h, conn: conn, register: *m, messages: make(chan wire.Message, 256)}
	if h.before != nil {
		h.before(tc)
	}
	_ = tunnel.Send(conn, wire.Ack{
		HubIncarnation: c.HubIncarnation, Heartbeat: 500 * time.Millisecond, RetryWindow: 100 * time.Millisecond, MaxStreams: 128,
		Observed: conn.RemoteAddr(), PolicyRevision: 7, LockRevision: 1, Time: h.set.SignTime(time.Now(), nil), Hubs: []string{h.address},
	})
	_ = tunnel.Send(conn, wire.Policy{Blob: blob})
	_ = tunnel.Send(conn, h.locks(1))
	_ = tunnel.Send(conn, wire.Time{Blob: h.set.SignTime(time.Now(), &m.TimeNonce)})
	h.registered <- tc
	h.wg.Go(func() {
		for {
			b, err := conn.ReceiveHeartbeat(ctx)
			if err != nil {
				return
			}
			if m, err := wire.Decode(b); err == nil {
				if hb, ok := m.(*wire.Heartbeat); ok && hb.Flags&wire.HeartbeatAnswerWanted != 0 {
					raw, _ := wire.Encode(wire.HeartbeatAnswer{Seq: hb.Seq, Observed: conn.RemoteAddr(), Time: time.Now()})
					_ = conn.SendHeartbeat(raw)
				}
			}
		}
	})
	for {
		m, err := tunnel.Receive(ctx, conn)
		if err != nil {
			return
		}
		switch m := m.(type) {
		case *wire.Renew:
			h.renew(conn, peer)
		case *wire.HubQuery:
			if h.status != nil {
				if r := h.status(m); r != nil {
					_ = tunnel.Send(conn, *r)
				}
			}
		default:
			tc.messages <- m
		}
	}
}

// next is the next tunnel that registered.
func (h *testHub) next() *testConn {
	h.t.Helper()
	select {
	case c := <-h.registered:
		return c
	case <-time.After(20 * time.Second):
		h.t.Fatal("no registration within 20 s")
		return nil
	}
}

// me is the account the tests run as.
func me(t testing.TB) string {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return u.Username
}

// grant makes a grant that is right in every respect; change spoils it.
func (c *testConn) grant(kind grant.Kind, change func(*grant.Grant)) []byte {
	c.hub.t.Helper()
	notBefore, notAfter := grant.Window(time.Now())
	g := &grant.Grant{
		Cluster: testCluster, ID: wire.NewUUID(), ConnectionID: wire.NewUUID(), Kind: kind, User: "alice",
		Method: "certificate", Roles: []string{"operator"}, PolicyRevision: 7, Device: c.register.UUID, Incarnation: c.register.Incarnation,
		Login: me(c.hub.t), Channels: []string{"shell", "exec", "sftp", "local-forward", "remote-forward", "socket-forward", "agent"},
		ClientAddr: netip.MustParseAddrPort("192.0.2.7:4711"), EntryHub: c.hub.uuid, Record: "best-effort", DetachedLife: 10 * time.Minute, NotBefore: notBefore, NotAfter: notAfter,
	}
	if kind == grant.Session {
		g.SessionID = wire.NewUUID()
	}
	if change != nil {
		change(g)
	}
	blob, err := g.Sign(c.hub.set.GrantKey())
	if err != nil {
		c.hub.t.Fatal(err)
	}
	return blob
}

// open opens a stream.
func (c *testConn) open(kind wire.StreamKind, req wire.OpenRequest, change func(*wire.Attach)) *resume.Stream {
	c.hub.t.Helper()
	att, err := c.conn.OpenStream(c.hub.t.Context())
	if err != nil {
		c.hub.t.Fatal(err)
	}
	if !req.ClientAddr.IsValid() {
		req.ClientAddr = netip.MustParseAddrPort("192.0.2.7:4711")
	}
	req.ServerAddr = netip.MustParseAddrPort("198.51.100.1:22")
	open, err := wire.Encode(req)
	if err != nil {
		c.hub.t.Fatal(err)
	}
	a := wire.Attach{Kind: kind, ID: wire.NewStreamID(), EntryHub: c.hub.uuid, EntryHubIncarnation: c.hub.incarnation, Open: open}
	if change != nil {
		change(&a)
	}
	s := resume.Open(att, a, resume.Options{DetachedLife: c.hub.detachedLife})
	c.hub.t.Cleanup(func() { s.Close() })
	return s
}

// control opens the control stream of the hub and answers what is asked on it.
func (c *testConn) control() *resume.Stream {
	c.hub.t.Helper()
	s := c.open(wire.KindControl, wire.OpenRequest{}, func(a *wire.Attach) { a.Open = nil })
	c.hub.wg.Go(func() {
		for {
			m, err := tunnel.ReceiveFrom(s)
			if err != nil {
				return
			}
			if ask, ok := m.(*wire.PlaceRequest); ok {
				r := c.hub.place(c, ask)
				r.ID = ask.ID
				_, _ = s.Write(r.Append(nil))
			}
			c.messages <- m
		}
	})
	return s
}

// testStreamConn makes a net.Conn of a stream.
type testStreamConn struct{ *resume.Stream }

func (testStreamConn) LocalAddr() net.Addr  { return nil }
func (testStreamConn) RemoteAddr() net.Addr { return nil }

// attached waits for the answer; it returns the code of a refusal.
func attached(t *testing.T, s *resume.Stream) (wire.StreamCode, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err := s.WaitAttached(ctx)
	if err == nil {
		return wire.StreamOK, nil
	}
	if r, ok := err.(*resume.RefusedError); ok {
		return r.Code, err
	}
	t.Fatalf("wait for the answer: %v", err)
	return 0, nil
}

// start runs an agent until the test ends, and returns it with the function that stops it and returns what Run returned.
func (h *testHub) start(cfg Config) (*Agent, func() error) {
	h.t.Helper()
	if cfg.State == "" {
		cfg.State = h.t.TempDir()
	}
	if cfg.Logger == nil {
		cfg.Logger = testLogger{h.t}
	}
	a, err := New(cfg)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stop := sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(10 * time.Second):
			return fmt.Errorf("the agent did not stop within 10 s")
		}
	})
	h.t.Cleanup(func() {
		if err := stop(); err != nil {
			h.t.Errorf("agent: %v", err)
		}
	})
	return a, stop
}

// testLogger logs to the test.
type testLogger struct{ t testing.TB }

func (l testLogger) Log(level tunnel.Level, msg string, kv ...any) {
	if level == tunnel.LevelError {
		l.t.Errorf("the agent logged an error: %s %v", msg, kv)
		return
	}
	l.t.Log(append([]any{strings.ToUpper(level.String()), msg}, kv...)...)
}

// userCert makes a person's certificate.
func (h *testHub) userCert(name string, roles ...string) ssh.Signer {
	h.t.Helper()
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		h.t.Fatal(err)
	}
	cert, err := h.set.IssueUser(ca.UserRequest{Name: name, Roles: roles, Key: signer.PublicKey(), TTL: time.Hour, Now: time.Now(), Cluster: testCluster})
	if err != nil {
		h.t.Fatal(err)
	}
	cs, err := ssh.NewCertSigner(cert, signer)
	if err != nil {
		h.t.Fatal(err)
	}
	return cs
}

// locks is a list of a revision as auth signs it.
func (h *testHub) locks(revision uint64, locks ...lock.Lock) wire.Locks {
	h.t.Helper()
	blob, err := lock.Sign(lock.List{Cluster: testCluster, Revision: revision, Locks: locks}, h.set.GrantKey())
	if err != nil {
		h.t.Error(err)
	}
	return wire.Locks{Revision: revision, Blob: blob}
}
