package edge

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/grant"
	"hawser/auth/lock"
	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// lock gives the edge a list and waits until it is confirmed.
func (c *testConn) lock(t testing.TB, revision uint64, locks ...lock.Lock) {
	t.Helper()
	if err := tunnel.Send(c.conn, c.hub.locks(revision, locks...)); err != nil {
		t.Fatal(err)
	}
	timeout := time.After(10 * time.Second)
	for {
		select {
		case m := <-c.messages:
			if held, ok := m.(*wire.PolicyHeld); ok && held.Locks == revision {
				return
			}
		case <-timeout:
			t.Fatalf("revision %d was not confirmed", revision)
		}
	}
}

func TestALockEndsWhatIsLiveAndRefusesWhatComes(t *testing.T) {
	h := newTestHub(t)
	h.detachedLife = time.Minute
	a, stop := h.start(Config{Token: h.token("edge"), Name: "gw-1", Carriers: OnlyTLS, State: filepath.Join(t.TempDir(), "state")})
	c := h.next()
	_, ch := c.command(t, "echo $$; exec sleep 100")
	alive := pid(t, ch)
	_, other := c.command(t, "echo $$; read x; echo still here")
	otherAlive := pid(t, other)

	c.lock(t, 2, lock.Lock{ID: "1", User: "nobody"}, lock.Lock{ID: "2", Device: "00000000-0000-4000-8000-000000000000"})
	if !alive() || !otherAlive() {
		t.Fatal("a lock of somebody else ended a session")
	}
	c.lock(t, 3, lock.Lock{ID: "3", User: "alice", Source: netip.MustParsePrefix("192.0.2.0/24"), Message: "ticket 4711"})
	eventually(t, "the session's processes ended", func() bool { return !alive() && !otherAlive() })
	told, _ := io.ReadAll(ch.StderrReader())
	if !strings.Contains(string(told), "locked: ticket 4711") {
		t.Errorf("the person was told %q", told)
	}
	refusedNow := func(c *testConn) {
		t.Helper()
		if code, err := attached(t, c.open(wire.KindSession, wire.OpenRequest{Grant: c.grant(grant.Session, nil)}, nil)); code != wire.StreamDenied || !strings.Contains(err.Error(), "ticket 4711") {
			t.Errorf("a session: %v, %v", code, err)
		}
		req := wire.OpenRequest{Grant: c.grant(grant.Forwards, nil), Network: wire.NetworkTCP, Target: "127.0.0.1:1"}
		if code, err := attached(t, c.open(wire.KindForward, req, nil)); code != wire.StreamDenied {
			t.Errorf("a forward: %v, %v", code, err)
		}
	}
	refusedNow(c)

	// An older list, as truly signed, lifts nothing.
	if err := tunnel.Send(c.conn, h.locks(2)); err != nil {
		t.Fatal(err)
	}
	c.lock(t, 4, lock.Lock{ID: "3", User: "alice", Message: "ticket 4711"})
	refusedNow(c)
	st, err := os.Stat(filepath.Join(a.cfg.State, locksFile))
	if err != nil {
		t.Fatal(err)
	}
	c.lock(t, 4, lock.Lock{ID: "3", User: "alice", Message: "ticket 4711"})
	if again, err := os.Stat(filepath.Join(a.cfg.State, locksFile)); err != nil || !again.ModTime().Equal(st.ModTime()) {
		t.Error("flash was written for a list that is held")
	}

	// The hub's list after a restart of the agent is the first one: the agent goes by what it has stored.
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	h.start(Config{Name: "gw-1", Carriers: OnlyTLS, State: a.cfg.State})
	c = h.next()
	refusedNow(c)
	c.lock(t, 5)
	if code, err := attached(t, c.open(wire.KindSession, wire.OpenRequest{Grant: c.grant(grant.Session, nil)}, nil)); err != nil {
		t.Errorf("after the lock was lifted: %v, %v", code, err)
	}
}

func TestNobodyIsServedBeforeTheLocksAreHeld(t *testing.T) {
	h := newTestHub(t)
	a, _ := h.start(Config{Token: h.token("edge"), Name: "gw-1", Carriers: OnlyTLS})
	c := h.next()
	eventually(t, "locks are held", func() bool { _, locks, _ := a.held(); return locks == 1 })
	a.update(func() { a.locks = lock.List{} })
	s := c.open(wire.KindSession, wire.OpenRequest{Grant: c.grant(grant.Session, nil)}, nil)
	done := make(chan error, 1)
	go func() { done <- s.WaitAttached(t.Context()) }()
	select {
	case err := <-done:
		t.Fatalf("served without locks: %v", err)
	case <-time.After(200 * time.Millisecond): // what must not happen has no event to wait for
	}
	c.lock(t, 1)
	if err := <-done; err != nil {
		t.Errorf("with locks: %v", err)
	}
}

func TestAListThatAuthDidNotSignIsNotTaken(t *testing.T) {
	h := newTestHub(t)
	a, _ := h.start(Config{Token: h.token("edge"), Name: "gw-1", Carriers: OnlyTLS})
	c := h.next()
	other := newTestHub(t)
	for _, m := range []wire.Locks{{Revision: 9}, other.locks(9), {Revision: 9, Blob: []byte("x")}} {
		if err := tunnel.Send(c.conn, m); err != nil {
			t.Fatal(err)
		}
	}
	c.lock(t, 2)
	if _, locks, _ := a.held(); locks != 2 {
		t.Errorf("holds revision %d", locks)
	}
}

func TestEndToEndALockedCertificateIsToldWhy(t *testing.T) {
	h := newTestHub(t)
	h.place = granted
	h.start(Config{Token: h.token("edge"), Name: "gw-1", Carriers: OnlyTLS})
	c := h.next()
	c.control()
	signer := h.userCert("alice", "operator")
	dial := func() (*ssh.Client, string, error) {
		s := c.open(wire.KindEndToEnd, wire.OpenRequest{}, nil)
		banner := ""
		conn, chans, reqs, err := ssh.NewClientConn(testStreamConn{s}, "gw-1", &ssh.ClientConfig{
			User: me(t), Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
			BannerCallback: func(m string) error { banner = m; return nil },
		})
		if err != nil {
			return nil, banner, err
		}
		return ssh.NewClient(conn, chans, reqs), banner, nil
	}
	client, _, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var told strings.Builder
	session.Stderr = &told
	out, err := session.StdoutPipe()
	if err == nil {
		err = session.Start("echo $$; exec sleep 100")
	}
	if err != nil {
		t.Fatal(err)
	}
	alive := pid(t, out)
	key := signer.PublicKey().(*ssh.Certificate).Key
	c.lock(t, 2, lock.Lock{ID: "1", Key: ssh.FingerprintSHA256(key), Message: "lost laptop"})
	eventually(t, "the process ended", func() bool { return !alive() })
	err = session.Wait()
	if e, ok := errors.AsType[*ssh.ExitError](err); !ok || e.Signal() == "" || !strings.Contains(told.String(), "locked: lost laptop") {
		t.Errorf("the session: %v, %q", err, told.String())
	}
	if _, banner, err := dial(); err == nil || !strings.Contains(banner, "locked: lost laptop") {
		t.Errorf("a new connection: %v, %q", err, banner)
	}
}

// Time stands for what a hub may keep back: where the roles are strict, what is live ends and nothing begins when none has come for 5 minutes.
func TestStrictRolesEndWhenNoSignedTimeComes(t *testing.T) {
	h := newTestHub(t)
	h.strict = true
	var offset atomic.Int64
	a, _ := h.start(Config{Token: h.token("edge"), Name: "gw-1", Carriers: OnlyTLS, Now: func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }})
	c := h.next()
	_, ch := c.command(t, "echo $$; exec sleep 100")
	alive := pid(t, ch)
	// The hub's answer to the device's question for the time comes at some moment, and this behind it.
	mark := time.Now().Add(20 * time.Second)
	if err := tunnel.Send(c.conn, wire.Time{Blob: h.set.SignTime(mark, nil)}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all times that the hub has sent", func() bool { return !a.clock.Now().Before(mark) })
	offset.Store(int64(lock.StrictAfter - time.Minute))
	a.live.recheck()
	if !alive() {
		t.Fatal("ended too early")
	}
	offset.Store(int64(lock.StrictAfter + time.Minute))
	a.live.recheck() // as its timer does
	eventually(t, "the session has ended", func() bool { return !alive() })
	told, _ := io.ReadAll(ch.StderrReader())
	if !strings.Contains(string(told), "has not heard from the auth service for 5 minutes") {
		t.Errorf("the person was told %q", told)
	}
	blob := h.grantAt(c, a.clock.Now())
	if code, err := attached(t, c.open(wire.KindSession, wire.OpenRequest{Grant: blob}, nil)); code != wire.StreamDenied {
		t.Errorf("a new one: %v, %v", code, err)
	}
	// The hub brings a beacon: all is well.
	if err := tunnel.Send(c.conn, wire.Time{Blob: h.set.SignTime(a.clock.Now(), nil)}); err != nil {
		t.Fatal(err)
	}
	if code, err := attached(t, c.open(wire.KindSession, wire.OpenRequest{Grant: h.grantAt(c, a.clock.Now())}, nil)); err != nil {
		t.Errorf("after a beacon: %v, %v", code, err)
	}
}

// grantAt is a session's grant of another time.
func (h *testHub) grantAt(c *testConn, now time.Time) []byte {
	return c.grant(grant.Session, func(g *grant.Grant) { g.NotBefore, g.NotAfter = grant.Window(now) })
}
