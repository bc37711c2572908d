package hub

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/lock"
	"hawser/auth/policy"
	"hawser/hub/authclient"
	"hawser/hub/front"
	"hawser/tunnel"
	"hawser/tunnel/identity"
	"hawser/tunnel/wire"
)

// lock tells the hubs of a list.
func (a *authTwin) lock(revision uint64, locks ...lock.Lock) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.locked = a.locks(revision, locks...)
	close(a.found)
	a.found = make(chan struct{})
}

// waitLocks waits until the hub enforces a revision.
func waitLocks(t *testing.T, h *Hub, revision uint64) {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		changed := h.auth.Cache.Changed()
		if held, _ := h.auth.Cache.Locks(); held >= revision {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("revision %d did not come", revision)
		}
	}
}

func TestALockedDeviceIsToldAndSentAway(t *testing.T) {
	for _, carrier := range []tunnel.Carrier{tunnel.CarrierQUIC, tunnel.CarrierTLS} {
		t.Run(carrier.String(), func(t *testing.T) {
			a, h, key := newCluster(t)
			e := a.edge(t, key, testUUID, time.Hour)
			c, challenge := e.dial(t, h, carrier)
			e.register(t, c, challenge, testUUID, 1)
			receive[*wire.Ack](t, c)
			begun := time.Now()
			a.lock(3, lock.Lock{ID: "1", Device: testUUID.String(), Message: "stolen"})
			told := receive[*wire.Locks](t, c)
			if told.Revision != 3 {
				t.Errorf("told of revision %d", told.Revision)
			}
			<-c.Context().Done()
			end, ok := errors.AsType[*wire.CloseError](context.Cause(c.Context()))
			if !ok || end.Code != wire.CloseBanned || end.RetryAfter != lockedRetry || !strings.Contains(end.Reason, "stolen") {
				t.Errorf("closed with %v", context.Cause(c.Context()))
			}
			if took := time.Since(begun); took > 5*time.Second {
				t.Errorf("after %v", took)
			}
			again := e.connect(t, h)
			if code := refusal(t, again); code != wire.CloseBanned {
				t.Errorf("again: %v", code)
			}
			a.lock(4)
			waitLocks(t, h, 4)
			c, challenge = e.dial(t, h, carrier)
			e.register(t, c, challenge, testUUID, 2)
			receive[*wire.Ack](t, c)
		})
	}
}

func TestAnOlderOrForeignListLiftsNoLock(t *testing.T) {
	a, h, _ := newCluster(t)
	a.lock(5, lock.Lock{ID: "1", User: "ann"})
	waitLocks(t, h, 5)
	sub := lock.Subject{User: "ann"}
	set, err := ca.NewSet(testCluster, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := lock.Sign(lock.List{Cluster: testCluster, Revision: 9}, set.GrantKey())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*api.Locks{a.locks(4), {Revision: 9, Blob: foreign}, {Revision: 9}} {
		a.mu.Lock()
		a.locked = m
		close(a.found)
		a.found = make(chan struct{})
		a.mu.Unlock()
		a.lock(6, lock.Lock{ID: "1", User: "ann"})
		waitLocks(t, h, 6)
		if h.auth.Cache.Denied(time.Now(), sub) == nil {
			t.Fatalf("%+v lifted the lock", m)
		}
	}
}

// A hub that restarts while auth is away enforces the locks that it held.
func TestLocksSurviveARestartOfTheHubWithoutAuth(t *testing.T) {
	pub, _, _ := ed25519.GenerateKey(nil)
	a, addr := newAuth(t, pub)
	pin, err := ca.Pin(a.set.Authority(ca.TunnelCA).Certificate())
	if err != nil {
		t.Fatal(err)
	}
	data := t.TempDir()
	t.Run("with auth", func(t *testing.T) {
		h := runHubWith(t, Config{Data: data, Token: a.token(t, addr, pin), SSHListen: "127.0.0.1:0", TunnelListen: "127.0.0.1:0"})
		a.lock(7, lock.Lock{ID: "1", User: "ann"})
		waitLocks(t, h, 7)
	})
	dir, err := identity.Open(data)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	x, err := authclient.Open(t.Context(), authclient.Config{Dir: dir, AuthAddr: "127.0.0.1:1", Logger: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if revision, _ := x.Cache.Locks(); revision != 7 || x.Cache.Denied(time.Now(), lock.Subject{User: "ann"}) == nil {
		t.Errorf("holds revision %d", revision)
	}
}

func TestWhatIsLiveIsHeldAgainstLocksRolesAndTheSilenceOfAuth(t *testing.T) {
	pub, _, _ := ed25519.GenerateKey(nil)
	a, addr := newAuth(t, pub)
	role, _ := policy.Builtin("operator")
	role.Options.LockMode = policy.LockStrict
	a.users = []*api.WatchUser{{Name: "ann", Roles: []string{"operator"}}, {Name: "bob", Roles: []string{"nothing"}}}
	var err error
	if a.device.Policy, err = policy.SignCompiled(a.set.GrantKey(), testCluster, testUUID.String(),
		policy.Compile(3, []policy.Role{role}, policy.Device{UUID: testUUID.String(), Name: "gw-1"})); err != nil {
		t.Fatal(err)
	}
	pin, err := ca.Pin(a.set.Authority(ca.TunnelCA).Certificate())
	if err != nil {
		t.Fatal(err)
	}
	var offset atomic.Int64
	h := runHubWith(t, Config{Data: t.TempDir(), Token: a.token(t, addr, pin), SSHListen: "127.0.0.1:0", TunnelListen: "127.0.0.1:0",
		Now: func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }})
	session := front.Live{Kind: front.Session, Identity: front.Identity{User: "ann", Key: []byte("k")}, Client: netip.MustParseAddr("192.0.2.1"), Device: testUUID, Login: "root", Channel: "exec"}
	if why := h.deniedLive(session); why != "" {
		t.Fatalf("denied: %s", why)
	}
	bobs := session
	bobs.Identity.User = "bob"
	old := session
	old.Identity = front.Identity{User: "ann", Roles: []string{"other"}, Certificate: []byte("c"), Issued: time.Now()}
	for name, l := range map[string]front.Live{"no role": bobs, "a role the certificate lacks": old} {
		if why := h.deniedLive(l); !strings.Contains(why, "your roles do not allow") {
			t.Errorf("%s: %q", name, why)
		}
	}
	offset.Store(int64(lock.StrictAfter + time.Minute))
	if why := h.deniedLive(session); why != deafText {
		t.Errorf("6 minutes without auth: %q", why)
	}
	offset.Store(0)
	a.lock(3, lock.Lock{ID: "1", Source: netip.MustParsePrefix("192.0.2.0/24"), Message: "not from there"})
	waitLocks(t, h, 3)
	if why := h.deniedLive(session); why != "locked: not from there" {
		t.Errorf("a lock of the network: %q", why)
	}
	h.early.put([16]byte{5}, "ended by an admin", time.Now())
	if why := h.deniedLive(front.Live{ID: [16]byte{5}}); why != "ended by an admin" {
		t.Errorf("a kill that came first: %q", why)
	}
}

func TestEarlyKillsAreBounded(t *testing.T) {
	var e earlyKills
	now := time.Now()
	for i := range maxEarly + 10 {
		e.put([16]byte{1, byte(i), byte(i >> 8)}, "x", now)
	}
	if len(e.of) != maxEarly || len(e.list) != maxEarly {
		t.Errorf("%d and %d are kept", len(e.of), len(e.list))
	}
	e.put([16]byte{2}, "x", now.Add(earlyLife+time.Second))
	if len(e.of) != 1 {
		t.Errorf("%d are kept past their life", len(e.of))
	}
}
