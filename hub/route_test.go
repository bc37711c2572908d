package hub

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"hawser/auth/ca"
	"hawser/hub/front"
	"hawser/tunnel"
	"hawser/tunnel/inner"
	"hawser/tunnel/resume"
	"hawser/tunnel/wire"
)

// known waits until the hub has a route to the device at that hub; zero is itself.
func known(t *testing.T, h *Hub, at wire.UUID) {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		changed := h.registry.Changed(testUUID)
		if r := h.registry.Routes(testUUID); len(r) == 1 && r[0].Hub == at {
			return
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("routes %+v", h.registry.Routes(testUUID))
		}
	}
}

func TestADeviceAtAnotherHubIsReachedUnderTLSOfItsOwn(t *testing.T) {
	a, hubs, key := newClusterOf(t, 2)
	e := a.edge(t, key, testUUID, time.Hour)
	c, ch := e.dial(t, hubs[0], tunnel.CarrierTLS)
	e.register(t, c, ch, testUUID, 1)
	receive[*wire.Ack](t, c)
	known(t, hubs[1], hubs[0].auth.UUID())
	if routes := hubs[1].registry.Routes(testUUID); routes[0].Login != "root" || routes[0].Incarnation != (wire.Incarnation{1}) {
		t.Errorf("routes %+v", routes)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	edge := make(chan error, 1)
	go func() { edge <- serveInner(ctx, c, e.tls(), hubs[1].auth.UUID()) }()
	attach := wire.Attach{Kind: wire.KindForward, ID: wire.NewStreamID()}
	s, err := (&backend{hubs[1]}).OpenStream(ctx, testUUID, &attach)
	if err != nil {
		t.Fatal(err)
	}
	if attach.EntryHub != hubs[1].auth.UUID() || attach.EntryHubIncarnation != hubs[1].incarnation {
		t.Errorf("attach %+v", attach)
	}
	if _, err := s.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(s); err != nil || string(got) != "hello" {
		t.Errorf("%q came back, %v", got, err)
	}
	if err := <-edge; err != nil {
		t.Error(err)
	}
}

func (e testEdge) tls() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: e.chain, PrivateKey: e.key}}, InsecureSkipVerify: true,
		VerifyConnection: func(tls.ConnectionState) error { return nil },
	}
}

// serveInner echoes on one stream, as an edge that is asked by that entry hub.
func serveInner(ctx context.Context, c tunnel.Conn, tc *tls.Config, entry wire.UUID) error {
	s, err := c.AcceptStream(ctx)
	if err != nil {
		return err
	}
	outer, err := resume.ReadAttach(ctx, s)
	if err != nil {
		return err
	}
	if !outer.InnerTLS || outer.EntryHub != entry {
		return errors.New("the outer Attach does not name the entry hub")
	}
	in, cs, err := inner.Server(ctx, s, tc)
	if err != nil {
		return err
	}
	if cs.PeerCertificates[0].Subject.CommonName != entry.String() {
		return errors.New("another hub than the entry hub is inside")
	}
	if _, err := io.Copy(in, struct{ io.Reader }{in}); err != nil {
		return err
	}
	return in.CloseWrite()
}

// The home hub, or a device with another identity behind it, answers in the device's place.
func TestNobodyAnswersInADevicesPlace(t *testing.T) {
	a, hubs, key := newClusterOf(t, 2)
	e := a.edge(t, key, testUUID, time.Hour)
	c, ch := e.dial(t, hubs[0], tunnel.CarrierQUIC)
	e.register(t, c, ch, testUUID, 1)
	receive[*wire.Ack](t, c)
	known(t, hubs[1], hubs[0].auth.UUID())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	other := newKey(t)
	for _, x := range []struct {
		name  string
		tc    *tls.Config
		blame bool
	}{
		{"the device with a certificate that ran out", a.edge(t, key, testUUID, -time.Hour).tls(), false}, // first: what is told comes in order
		{"the home hub", &tls.Config{Certificates: []tls.Certificate{*hubs[0].auth.Certificate()}}, true},
		{"another device", a.edge(t, key, wire.UUID{8}, time.Hour).tls(), true},
		{"another device, whose certificate ran out", a.edge(t, other, wire.UUID{8}, -time.Hour).tls(), true},
		{"the device's name, another key", a.edge(t, other, testUUID, time.Hour).tls(), true},
	} {
		name, tc := x.name, x.tc
		tc.InsecureSkipVerify, tc.VerifyConnection = true, func(tls.ConnectionState) error { return nil }
		edge := make(chan error, 1)
		go func() { edge <- serveInner(ctx, c, tc, hubs[1].auth.UUID()) }()
		_, err := (&backend{hubs[1]}).OpenStream(ctx, testUUID, &wire.Attach{Kind: wire.KindSession, ID: wire.NewStreamID()})
		if !errors.Is(err, front.ErrOffline) {
			t.Errorf("%s: %v", name, err)
		}
		if <-edge == nil {
			t.Errorf("%s was taken for the device", name)
		}
		if !x.blame {
			continue
		}
		if i := <-a.incidents; i.Kind != impostor || i.PeerHub != hubs[0].auth.UUID().String() || i.Device != testUUID.String() ||
			strings.Contains(i.Detail, "expired") != strings.Contains(name, "ran out") {
			t.Errorf("%s: reported %+v", name, i)
		}
	}
}

func TestTheNextWayIsTakenWhenOneFails(t *testing.T) {
	a, hubs, key := newClusterOf(t, 2)
	e := a.edge(t, key, testUUID, time.Hour)
	active, ch := e.dial(t, hubs[0], tunnel.CarrierQUIC)
	e.register(t, active, ch, testUUID, 1)
	receive[*wire.Ack](t, active)
	known(t, hubs[1], hubs[0].auth.UUID())
	standby, ch := e.dial(t, hubs[1], tunnel.CarrierTLS)
	r := wire.Register{UUID: testUUID, Hub: ch.HubUUID, Incarnation: wire.Incarnation{1}, Counter: 1, Slot: 1}
	e.sign(&r, ch)
	if err := tunnel.Send(standby, r); err != nil {
		t.Fatal(err)
	}
	receive[*wire.Ack](t, standby)

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	go func() { // the way by the other hub refuses the stream
		if s, err := active.AcceptStream(ctx); err == nil {
			s.Reset(wire.StreamResourceShortage)
		}
	}()
	attach := wire.Attach{Kind: wire.KindSession, ID: wire.NewStreamID()}
	s, err := (&backend{hubs[1]}).OpenStream(ctx, testUUID, &attach)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(attach.Append(nil)); err != nil {
		t.Fatal(err)
	}
	got, err := standby.AcceptStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if at, err := resume.ReadAttach(ctx, got); err != nil || at.ID != attach.ID || at.InnerTLS {
		t.Errorf("%+v, %v", at, err)
	}
}

// The home hub is dead, which the entry hub does not know yet; the device does, and has registered elsewhere.
func TestAStreamEndsWhenItsDeviceMoved(t *testing.T) {
	a, hubs, key := newClusterOf(t, 2)
	e := a.edge(t, key, testUUID, time.Hour)
	c, ch := e.dial(t, hubs[0], tunnel.CarrierQUIC)
	e.register(t, c, ch, testUUID, 1)
	receive[*wire.Ack](t, c)
	known(t, hubs[1], hubs[0].auth.UUID())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	edge := make(chan error, 1)
	go func() { edge <- serveInner(ctx, c, e.tls(), hubs[1].auth.UUID()) }()
	s, err := (&backend{hubs[1]}).OpenStream(ctx, testUUID, &wire.Attach{Kind: wire.KindForward, ID: wire.NewStreamID()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	// Straight into the table: no word of the first hub's comes before.
	hubs[1].registry.Withdraw(hubs[0].auth.UUID(), &wire.Withdraw{UUID: testUUID, Incarnation: wire.Incarnation{1}, Counter: 1})
	if _, err := s.Read(make([]byte, 1)); err == nil || ctx.Err() != nil {
		t.Errorf("read: %v", err)
	}
	<-edge
}

// A device's certificate, or a hub's of no list, opens no peer connection.
func TestOnlyHubsArePeers(t *testing.T) {
	a, hubs, key := newClusterOf(t, 1)
	h := hubs[0]
	for name, chain := range map[string][][]byte{
		"a device": a.edge(t, key, testUUID, time.Hour).chain,
	} {
		cs := tls.ConnectionState{NegotiatedProtocol: "hawser-peer/1", PeerCertificates: parse(t, chain)}
		if err := h.tlsConfig(true).VerifyConnection(cs); !errors.Is(err, ca.ErrWrongRole) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (e testEdge) sign(r *wire.Register, ch *wire.Challenge) {
	r.Signature = ed25519.Sign(e.key, wire.RegisterTBS(ch.Nonce, *r))
}

func parse(t *testing.T, chain [][]byte) (certs []*x509.Certificate) {
	t.Helper()
	for _, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, c)
	}
	return certs
}
