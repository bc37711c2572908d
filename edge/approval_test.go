package edge

import (
	"context"
	"crypto/ed25519"
	"errors"
	"testing"
	"time"

	"hawser/auth/ca"
	"hawser/tunnel"
	"hawser/tunnel/identity"
	"hawser/tunnel/wire"
)

func TestADeviceJoinsWithTheSameKeyUntilItIsApproved(t *testing.T) {
	h := newTestHub(t)
	h.hold = 2
	dir := t.TempDir()
	print, err := Fingerprint(dir) // before there is anything
	if err != nil {
		t.Fatal(err)
	}
	a, _ := h.start(Config{State: dir, Token: h.token("edge"), Name: "gw-1"})
	h.next()
	h.mu.Lock()
	held := h.held
	h.mu.Unlock()
	key := a.state.get().Key.Public().(ed25519.PublicKey)
	if len(held) != 2 || !held[0].Equal(key) || !held[1].Equal(key) {
		t.Errorf("it came %d times, or with other keys", len(held))
	}
	if now, err := Fingerprint(dir); err != nil || now != print {
		t.Errorf("its key was %s and is %s, %v", print, now, err)
	}
}

func TestANameTheHubBringsIsTakenAndKept(t *testing.T) {
	h := newTestHub(t)
	dir := t.TempDir()
	a, _ := h.start(Config{State: dir, Token: h.token("edge"), Name: "gw-1"})
	c := h.next()
	peer := c.conn.ConnectionState().PeerCertificates[0]
	bring := func(name string, counter uint64) {
		t.Helper()
		chain, cert, err := h.issue(peer, c.register.UUID.String(), name)
		if err != nil {
			t.Fatal(err)
		}
		if err := tunnel.Send(c.conn, wire.Renewed{Chain: chain, SSHCert: cert, Counter: counter}); err != nil {
			t.Fatal(err)
		}
	}
	name := func(want string) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; {
			if s, err := ReadStatus(dir); err == nil && s.Name == want && a.state.get().Name == want {
				return
			} else if time.Now().After(deadline) {
				t.Fatalf("it is called %q, want %q", s.Name, want)
			}
		}
	}
	bring("gate", 1)
	name("gate")
	bring("older", 0) // a generation before: nothing of auth's
	bring("gate-2", 2)
	name("gate-2")
	if c.conn.Context().Err() != nil {
		t.Error("the tunnel did not outlive its name")
	}
}

func TestAnOrderToSplitIsObeyedIfAuthSignedItForThisDevice(t *testing.T) {
	h := newTestHub(t)
	dir := t.TempDir()
	a, stop := h.start(Config{State: dir, Token: h.token("edge"), Name: "gw-1"})
	uuid := h.next().register.UUID.String()
	old := a.state.get().Key
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	_, stranger, _ := ed25519.GenerateKey(nil)
	for what, order := range map[string][]byte{
		"by a hub":           ca.SignSplit(stranger, uuid, h.token("edge")),
		"for another device": ca.SignSplit(h.set.GrantKey(), wire.NewUUID().String(), h.token("edge")),
		"damaged":            []byte("order"),
	} {
		h.refuseBy(&wire.Refused{Code: wire.CloseClone, Order: order})
		a, err := New(Config{State: dir, Logger: testLogger{t}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if err := a.Run(ctx); err != nil {
			t.Errorf("an order %s: %v", what, err)
		}
		cancel()
		if s, err := ReadStatus(dir); err != nil || s.UUID != uuid {
			t.Fatalf("an order %s took the identity: %v", what, err)
		}
	}
	h.refuseBy(&wire.Refused{Code: wire.CloseClone, Order: ca.SignSplit(h.set.GrantKey(), uuid, h.token("edge"))})
	a, err := New(Config{State: dir, Logger: testLogger{t}})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); !errors.Is(err, ErrSplit) {
		t.Fatalf("got %v", err)
	}
	h.refuseBy(nil)
	if s, err := ReadStatus(dir); err != nil || s.UUID != "" || s.Key == fingerprint(old) {
		t.Fatalf("it is still %+v, %v", s, err)
	}
	a, _ = h.start(Config{State: dir, Name: "gw-1"}) // without a token: the order's is kept until it has done its work
	if c := h.next(); c.register.UUID.String() == uuid {
		t.Error("it has the old identity")
	}
	if _, err := a.state.read(tokenFile); !errors.Is(err, identity.ErrNotExist) {
		t.Errorf("the token is kept: %v", err)
	}
}

// refuseBy changes what answers REGISTER while agents run.
func (h *testHub) refuseBy(m *wire.Refused) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refuse = m
}
