package edge

import (
	"context"
	"crypto/x509"
	"errors"
	"sync"
	"testing"
	"time"

	"hawser/auth/ca"
	"hawser/tunnel"
	"hawser/tunnel/identity"
	"hawser/tunnel/wire"
)

// turn makes a change of the hub's authorities, and gives the hub a certificate by what signs for hubs then.
func (h *testHub) turn(change func(*ca.Set) (*ca.Set, error)) {
	h.t.Helper()
	next, err := change(h.set)
	if err != nil {
		h.t.Fatal(err)
	}
	h.set.Become(next)
	trust := next.Trust(next.Revision())
	blob, err := next.SignTrust(trust)
	if err != nil {
		h.t.Fatal(err)
	}
	cert := h.hubCert(next, time.Now())
	h.mu.Lock()
	defer h.mu.Unlock()
	h.trustBlob, h.cert = blob, cert
}

var everyKind = []ca.Kind{ca.UserCA, ca.HubHostCA, ca.DeviceHostCA, ca.TargetCA, ca.TunnelCA, ca.GrantKey, ca.TimeKey}

func (h *testHub) begin(kinds []ca.Kind, o ca.RotateOptions) {
	h.t.Helper()
	o.Now = time.Now()
	h.turn(func(s *ca.Set) (*ca.Set, error) { return s.Rotate(kinds, o) })
}

func (h *testHub) advance(kinds ...ca.Kind) {
	h.t.Helper()
	h.turn(func(s *ca.Set) (*ca.Set, error) { return s.Advance(kinds, time.Now()) })
}

// stored waits until what the agent has stored is as it should be.
func stored(t *testing.T, dir, what string, ok func(*identity.Credentials, *ca.Trust) bool) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for {
		d, err := identity.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		c, err := identity.Load(d)
		d.Close()
		if err != nil {
			t.Fatal(err)
		}
		trust, err := ca.OpenStoredTrust(c.Trust)
		if err != nil {
			t.Fatal(err)
		}
		if ok(c, trust) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within 15 s: %s; trust revision %d", what, trust.Revision)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func TestADeviceFollowsARotationOnTheTunnelItHas(t *testing.T) {
	h := newTestHub(t)
	dir := t.TempDir()
	h.start(Config{State: dir, Token: h.token("edge"), Name: "gw-1"})
	c := h.next()
	tell := func() {
		t.Helper()
		if err := tunnel.Send(c.conn, wire.Trust{Blob: h.bundle()}); err != nil {
			t.Fatal(err)
		}
	}
	h.begin(everyKind, ca.RotateOptions{Grace: ca.MinGrace, Manual: true})
	for _, phase := range []ca.Phase{ca.PhaseInit, ca.PhaseUpdateClients, ca.PhaseUpdateServers} {
		if phase != ca.PhaseInit {
			h.advance(everyKind...)
		}
		tell()
		stored(t, dir, "in phase "+phase.String()+" the certificates are by what signs now", func(id *identity.Credentials, trust *ca.Trust) bool {
			return trust.Revision == h.set.Revision() && !h.set.Behind(ca.RoleDevice, id.Chain, id.SSHCert)
		})
	}
	h.advance(everyKind...)
	tell()
	stored(t, dir, "the old authorities are forgotten", func(_ *identity.Credentials, trust *ca.Trust) bool {
		return len(trust.TunnelCA) == 1 && len(trust.GrantKeys) == 1
	})
	// A session's time comes over the tunnel whose hub was verified by a CA that is gone.
	if err := tunnel.Send(c.conn, wire.Time{Blob: h.set.SignTime(time.Now(), nil)}); err != nil {
		t.Fatal(err)
	}
	if out := c.exec(t, "echo alive"); out != "alive\n" {
		t.Errorf("got %q", out)
	}
	if c.conn.Context().Err() != nil {
		t.Error("the tunnel did not outlive the rotation")
	}
}

// A hub renews its certificate without the tunnels that stand; a time that auth signed later ends none of them.
func TestATunnelOutlivesTheCertificateItWasOpenedBy(t *testing.T) {
	h := newTestHub(t)
	h.cert = h.hubCert(h.set, time.Now().Add(3*time.Second-24*time.Hour))
	h.start(Config{State: t.TempDir(), Token: h.token("edge"), Name: "gw-1"})
	c := h.next()
	leaf, err := x509.ParseCertificate(h.cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	<-time.After(time.Until(leaf.NotAfter.Add(time.Second)))
	if err := tunnel.Send(c.conn, wire.Time{Blob: h.set.SignTime(time.Now(), nil)}); err != nil {
		t.Fatal(err)
	}
	if out := c.exec(t, "echo alive"); out != "alive\n" {
		t.Errorf("got %q", out)
	}
	if c.conn.Context().Err() != nil {
		t.Errorf("the tunnel ended: %v", context.Cause(c.conn.Context()))
	}
}

func TestADeviceThatSleptThroughRotationsComesBackByTheCrossCertificates(t *testing.T) {
	for _, times := range []int{1, 2, 3} {
		h := newTestHub(t)
		dir := t.TempDir()
		a, err := New(Config{State: dir, Token: h.token("edge"), Name: "gw-1"})
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Join(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range times {
			h.begin(everyKind, ca.RotateOptions{Grace: ca.MinGrace, Manual: true})
			for range 3 {
				h.advance(everyKind...)
			}
		}
		h.start(Config{State: dir})
		c := h.next()
		peer := c.conn.ConnectionState().PeerCertificates
		trust := h.set.Trust(h.set.Revision())
		if _, err := ca.VerifyPeer(peer, &trust, time.Now()); err != nil {
			t.Errorf("after %d rotations: %v", times, err)
		}
	}
}

func TestADeviceThatSleptThroughACompromiseDoesNotKnowTheHub(t *testing.T) {
	h := newTestHub(t)
	dir := t.TempDir()
	a, err := New(Config{State: dir, Token: h.token("edge"), Name: "gw-1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	d, err := identity.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	c, err := identity.Load(d)
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	old, err := ca.OpenStoredTrust(c.Trust)
	if err != nil {
		t.Fatal(err)
	}
	h.begin([]ca.Kind{ca.TunnelCA}, ca.RotateOptions{Compromised: true})
	for range 2 {
		h.advance(ca.TunnelCA)
	}
	var chain []*x509.Certificate
	for _, der := range h.cert.Certificate {
		x, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, x)
	}
	if _, err := ca.VerifyPeer(chain, old, time.Now()); !errors.Is(err, ca.ErrUnknownCA) {
		t.Errorf("the hub was recognised: %v", err)
	}
	if _, err := ca.OpenNextTrust(h.bundle(), old); !errors.Is(err, ca.ErrUnpinned) {
		t.Errorf("the bundle was taken: %v", err)
	}
}

func TestTwoTunnelsCannotSetTheTrustBack(t *testing.T) {
	h := newTestHub(t)
	dir := t.TempDir()
	a, err := New(Config{State: dir, Token: h.token("edge"), Name: "gw-1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	closeState, err := a.open()
	if err != nil {
		t.Fatal(err)
	}
	defer closeState()
	blobs := [][]byte{h.bundle()}
	h.begin(everyKind, ca.RotateOptions{Grace: ca.MinGrace, Manual: true})
	for range 3 {
		blobs = append(blobs, h.bundle())
		h.advance(everyKind...)
	}
	newest := len(blobs) - 1
	want, err := ca.OpenStoredTrust(blobs[newest])
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		for _, b := range blobs {
			wg.Go(func() { _ = a.adoptTrust(b) })
		}
	}
	wg.Wait()
	if err := a.adoptTrust(blobs[newest]); err != nil {
		t.Fatal(err)
	}
	for i, b := range blobs[:newest] {
		if err := a.adoptTrust(b); !errors.Is(err, ca.ErrOldTrust) {
			t.Errorf("bundle %d: %v", i, err)
		}
		// As a renewal that was on its way would bring it: read before, stored after the newer one.
		old, err := ca.OpenStoredTrust(b)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.state.replace(old, b, func(*identity.Credentials) {}); err != nil {
			t.Fatal(err)
		}
	}
	if got := a.state.anchors().Revision; got != want.Revision {
		t.Errorf("revision %d, want %d", got, want.Revision)
	}
	stored(t, dir, "the newest is what is stored", func(_ *identity.Credentials, trust *ca.Trust) bool { return trust.Revision == want.Revision })
}
