package edge

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/tunnel/resume"
	"hawser/tunnel/wire"
)

// listening is an agent with a port of its own.
func (h *testHub) listening(t *testing.T, cfg Config) *Agent {
	t.Helper()
	cfg.Token, cfg.Name, cfg.Listen, cfg.Carriers = h.token("edge"), "gw-1", "127.0.0.1:0", OnlyTLS
	a, _ := h.start(cfg)
	return a
}

// comeDirectly connects to the agent's own port; said is what it was told before it was let in or not.
func comeDirectly(t *testing.T, a *Agent, login string, keys ...ssh.Signer) (client *ssh.Client, said string, err error) {
	t.Helper()
	eventually(t, "policy, locks and the time", func() bool { return a.current() == nil })
	nc, err := net.Dial("tcp", a.port.told())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	conn, chans, reqs, err := ssh.NewClientConn(nc, "gw-1", &ssh.ClientConfig{
		User: login, Auth: []ssh.AuthMethod{ssh.PublicKeys(keys...)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
		BannerCallback: func(text string) error { said += text; return nil },
	})
	if err != nil {
		nc.Close()
		return nil, said, err
	}
	return ssh.NewClient(conn, chans, reqs), said, nil
}

// refusePlaces refuses every place.
func refusePlaces(*testConn, *wire.PlaceRequest) wire.PlaceReply {
	return wire.PlaceReply{Refusal: "max_connections of alice is 1, and 1 is open"}
}

// Each key that signed took a slot of the agent's, and one was given back: a person at a cap, with two certificates in the ssh-agent, shut the
// device for everybody in a few dozen tries.
func TestARefusedConnectionLeavesNoSlotTakenHoweverManyKeysSigned(t *testing.T) {
	h := newTestHub(t)
	h.place = refusePlaces
	a := h.listening(t, Config{})
	h.next().control()
	keys := []ssh.Signer{h.userCert("alice", "operator"), h.userCert("alice", "operator"), h.userCert("alice", "operator")}
	if _, said, err := comeDirectly(t, a, me(t), keys...); err == nil || strings.Count(said, "max_connections") != len(keys) {
		t.Fatalf("told %q, %v", said, err)
	}
	eventually(t, "the slot to be given back", func() bool { return len(a.slots) == 0 })
}

// A login that the device does not have was found out after a place was granted, and the next key was granted another of the same id: one was
// given back, and the other asked for anew at every hub that came, for nobody.
func TestALoginThatTheDeviceDoesNotHaveTakesNoPlace(t *testing.T) {
	h := newTestHub(t)
	h.place = granted
	a := h.listening(t, Config{})
	c := h.next()
	c.control()
	if _, said, err := comeDirectly(t, a, "no-such-login", h.userCert("alice", "operator"), h.userCert("alice", "operator")); err == nil || !strings.Contains(said, "no such login") {
		t.Fatalf("told %q, %v", said, err)
	}
	client, _, err := comeDirectly(t, a, me(t), h.userCert("alice", "operator"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	a.places.mu.Lock()
	defer a.places.mu.Unlock()
	if n := len(a.places.list); n != 1 {
		t.Errorf("%d places are held for one connection", n)
	}
}

// A kill that a hub sends before it answers with the place was kept for a connection of that hub's, which this one became a moment later.
func TestAKillThatComesBeforeTheHubIsKnownEndsTheConnection(t *testing.T) {
	var s liveSessions
	a := &Agent{}
	hub, why := wire.UUID{1}, errors.New("ended by admin")
	ctx, leave := s.add(context.Background(), [16]byte{1}, wire.UUID{}, &tenure{a: a})
	defer leave()
	s.end([16]byte{1}, hub, why)
	if ctx.Err() != nil {
		t.Fatal("a hub that has nothing to do with it ended it")
	}
	s.move([16]byte{1}, wire.UUID{2})
	if ctx.Err() != nil {
		t.Fatal("it ended with another hub's")
	}
	s.move([16]byte{1}, hub)
	if context.Cause(ctx) != why {
		t.Errorf("it goes on: %v", context.Cause(ctx))
	}
}

// placesOf makes the hub's answers what f says for now.
func placesOf(h *testHub) (set func(f func(*testConn, *wire.PlaceRequest) wire.PlaceReply)) {
	var now atomic.Pointer[func(*testConn, *wire.PlaceRequest) wire.PlaceReply]
	h.place = func(c *testConn, r *wire.PlaceRequest) wire.PlaceReply { return (*now.Load())(c, r) }
	return func(f func(*testConn, *wire.PlaceRequest) wire.PlaceReply) { now.Store(&f) }
}

// gone waits for the end of a connection and returns what its session was told.
func gone(t *testing.T, session *ssh.Session, said *bytes.Buffer) string {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- session.Wait() }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("it goes on")
	}
	return said.String()
}

// lives begins a session that lasts, and returns it and where it is told why it ends.
func lives(t *testing.T, client *ssh.Client) (*ssh.Session, *bytes.Buffer) {
	t.Helper()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	said := new(bytes.Buffer)
	session.Stderr = said
	if err := session.Start("sleep 1234"); err != nil {
		t.Fatal(err)
	}
	return session, said
}

// The edge did not know of cap_mode exact: cut off from a hub that was cut off from auth, it kept a session whose place was somebody else's.
func TestADirectPlaceUnderAnExactCapEndsWithItsHubsLease(t *testing.T) {
	for _, extended := range []bool{false, true} {
		h := newTestHub(t)
		h.place = func(c *testConn, r *wire.PlaceRequest) wire.PlaceReply {
			if r.Kind != wire.PlaceLease {
				reply := granted(c, r)
				reply.Lease = 500 * time.Millisecond
				return reply
			}
			if extended {
				return wire.PlaceReply{Lease: time.Hour}
			}
			return wire.PlaceReply{}
		}
		a := h.listening(t, Config{})
		h.next().control()
		client, _, err := comeDirectly(t, a, me(t), h.userCert("alice", "operator"))
		if err != nil {
			t.Fatal(err)
		}
		session, said := lives(t, client)
		if !extended {
			if said := gone(t, session, said); !strings.Contains(said, "cap_mode exact") {
				t.Errorf("told %q", said)
			}
			continue
		}
		eventually(t, "the hub to be asked", func() bool {
			a.places.mu.Lock()
			defer a.places.mu.Unlock()
			return len(a.places.list) == 2 && a.places.list[0].lease != nil
		})
		time.Sleep(700 * time.Millisecond) // its first lease is over
		if other, err := client.NewSession(); err != nil || other.Run("true") != nil {
			t.Errorf("it ended though the hub extended its lease: %v", err)
		}
		client.Close()
	}
}

// A session whose place was lost while the device was away, and which no other hub would bind, went on: refused again every two seconds.
func TestADirectSessionThatNoHubBindsAnewEnds(t *testing.T) {
	h := newTestHub(t)
	answer := placesOf(h)
	answer(granted)
	a := h.listening(t, Config{})
	h.next().control()
	client, _, err := comeDirectly(t, a, me(t), h.userCert("alice", "operator"))
	if err != nil {
		t.Fatal(err)
	}
	session, said := lives(t, client)
	eventually(t, "two places", func() bool {
		a.places.mu.Lock()
		defer a.places.mu.Unlock()
		return len(a.places.list) == 2
	})
	a.places.mu.Lock()
	p := a.places.list[0]
	a.places.mu.Unlock()
	anew := func(since time.Duration) error {
		a.places.mu.Lock()
		p.since = time.Now().Add(-since)
		a.places.mu.Unlock()
		return a.placeAnew(t.Context(), p)
	}
	answer(func(*testConn, *wire.PlaceRequest) wire.PlaceReply {
		return wire.PlaceReply{Refusal: "the hub cannot grant this now", Later: true}
	})
	if err := anew(time.Hour); err == nil {
		t.Error("a hub that could not judge counts as asked")
	}
	answer(refusePlaces)
	if err := anew(time.Second); err != nil { // the hub's own run may be over, of which it learns
		t.Error(err)
	}
	if other, err := client.NewSession(); err != nil {
		t.Fatalf("it ended for what was no judgement, or too early: %v", err)
	} else {
		other.Close()
	}
	if err := anew(time.Hour); err != nil {
		t.Error(err)
	}
	if said := gone(t, session, said); !strings.Contains(said, "max_connections") {
		t.Errorf("told %q", said)
	}
}

// A connection of before an outage could open no session: its hub was asked for as long as a person waits, where a new connection got in.
func TestAConnectionOfBeforeAnOutageOpensSessionsInIt(t *testing.T) {
	h := newTestHub(t)
	h.place = granted
	a := h.listening(t, Config{})
	c := h.next()
	c.control()
	client, _, err := comeDirectly(t, a, me(t), h.userCert("alice", "operator"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	h.away(t, a, c)
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := session.Output("echo in it"); err != nil || string(out) != "in it\n" {
		t.Errorf("%q, %v", out, err)
	}
}

// A tunnel that people hold on to is kept while it is silent, for minutes: who comes directly is not refused for so long.
func TestASilentTunnelIsNoHubToAsk(t *testing.T) {
	t.Parallel()
	m := newTestMesh(t, "")
	h := m.hubs[0]
	h.place = granted
	a := m.start(Config{Listen: "127.0.0.1:0", Carriers: OnlyQUIC})
	c := m.next(slotActive)
	eventually(t, "the tunnel", func() bool { return a.home() != nil })
	c.control()
	newShell(c).say("so that the tunnel is kept")
	m.paths[h].noUDP.Store(true)
	eventually(t, "the tunnel to be silent", func() bool { l := a.home(); return l != nil && l.suspect.Load() })
	client, said, err := comeDirectly(t, a, me(t), h.userCert("alice", "operator"))
	if err != nil {
		t.Fatalf("%v, told %q", err, said)
	}
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := session.Output("echo by what the device holds"); err != nil || string(out) != "by what the device holds\n" {
		t.Errorf("%q, %v", out, err)
	}
	if l := a.home(); l == nil || !l.suspect.Load() {
		t.Error("the tunnel was not silent all the while: this shows nothing")
	}
}

// away ends a tunnel and lets none come.
func (h *testHub) away(t *testing.T, a *Agent, c *testConn) {
	t.Helper()
	h.mu.Lock()
	h.refuse = &wire.Refused{Code: wire.CloseUnavailable, Message: "away"}
	h.mu.Unlock()
	c.conn.CloseWithError(wire.CloseUnavailable, "away")
	eventually(t, "the tunnel to be gone", func() bool { return a.home() == nil })
}

// What happens while no hub can be asked: people get in by what the device holds, and when a hub is there again it is asked for their places, told
// what is over, and asked to fetch the recordings.
func TestWhatWasServedWithoutAHubIsToldToTheNext(t *testing.T) {
	h := newTestHub(t)
	h.place = granted
	a := h.listening(t, Config{})
	c := h.next()
	key := h.userCert("alice", "operator")
	eventually(t, "policy, locks and the time", func() bool { return a.current() == nil })
	h.away(t, a, c)
	var clients []*ssh.Client
	for range 2 {
		client, said, err := comeDirectly(t, a, me(t), key)
		if err != nil {
			t.Fatalf("%v: %s", err, said)
		}
		session, err := client.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if out, err := session.Output("echo without a hub"); err != nil || string(out) != "without a hub\n" {
			t.Fatalf("%q, %v", out, err)
		}
		clients = append(clients, client)
	}
	clients[0].Close() // the other goes on
	eventually(t, "what is over to be noted", func() bool {
		a.places.mu.Lock()
		defer a.places.mu.Unlock()
		over := 0
		for _, p := range a.places.list {
			if !p.over.IsZero() {
				over++
			}
		}
		return len(a.places.list) == 4 && over == 3
	})
	h.mu.Lock()
	h.refuse = nil
	h.mu.Unlock()
	c = h.next()
	c.control()
	asked, told, wanted := map[[16]byte]bool{}, map[[16]byte]bool{}, map[[16]byte]bool{}
	for len(asked) < 4 || len(told) < 3 || len(wanted) < 2 {
		select {
		case m := <-c.messages:
			switch m := m.(type) {
			case *wire.PlaceRequest:
				if !m.Direct {
					t.Error("asked as for one who came end to end")
				}
				if asked[m.ConnectionID] = true; m.Kind == wire.PlaceSession {
					asked[m.SessionID] = true
				}
			case *wire.Release:
				told[m.SessionID] = true
			case *wire.UploadWanted:
				if wanted[m.RecordingID] = true; len(m.Grant) == 0 {
					t.Error("a recording is to be fetched without a grant")
				}
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("asked for %d places, told of %d ends, %d recordings to fetch", len(asked), len(told), len(wanted))
		}
	}
	for id := range wanted {
		up := c.open(wire.KindUpload, wire.OpenRequest{RecordingID: id}, nil)
		if len(hubSide(t, up, id, 0, 100)) == 0 {
			t.Error("an empty recording")
		}
		up.Close()
	}
	session, err := clients[1].NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := session.Output("echo goes on"); err != nil || string(out) != "goes on\n" {
		t.Errorf("%q, %v", out, err)
	}
}

// Of what went on when its hub was lost the next hub's answer was lost too: the device took the place for given back, told that hub so as soon as it answered, and the
// session went on beyond every cap.
func TestAPlaceWhoseNewAnswerIsLostIsAskedForAgain(t *testing.T) {
	h := newTestHub(t)
	var lose atomic.Bool
	opened := make(chan *resume.Stream, 8)
	h.place = func(c *testConn, r *wire.PlaceRequest) wire.PlaceReply {
		if lose.Swap(false) {
			(<-opened).Reset(wire.StreamCancelled)
		}
		return granted(c, r)
	}
	a := h.listening(t, Config{})
	c := h.next()
	first := c.control()
	client, _, err := comeDirectly(t, a, me(t), h.userCert("alice", "operator"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	in, err := session.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := session.Start("cat"); err != nil {
		t.Fatal(err)
	}
	held := func() bool { // both places, by the control stream there is
		a.places.mu.Lock()
		defer a.places.mu.Unlock()
		on := a.controls.get(entry{h.uuid, h.incarnation})
		for _, p := range a.places.list {
			if on == nil || p.on != on || !p.over.IsZero() {
				return false
			}
		}
		return len(a.places.list) == 2
	}
	eventually(t, "both places to be held", held)
	lose.Store(true)
	first.Reset(wire.StreamCancelled)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(20 * time.Second); lose.Load() || !held(); {
		select {
		case m := <-c.messages:
			switch m := m.(type) {
			case *wire.ControlWanted:
				opened <- c.control()
			case *wire.Release:
				t.Fatalf("%x is given back and goes on: %s", m.SessionID, m.Reason)
			}
		case <-tick.C:
		case <-end:
			t.Fatal("the places are not held again")
		}
	}
}

// With a control stream open a refusal in ten minutes was told too: somebody who guessed left a line in a log that a restart forgets.
func TestRefusalsAreToldSoonerWhileAHubIsSpokenWithAnyway(t *testing.T) {
	h := newTestHub(t)
	h.place = granted
	a := h.listening(t, Config{})
	c := h.next()
	refused := func(open bool) {
		t.Helper()
		if _, _, err := comeDirectly(t, a, me(t), newTestHub(t).userCert("mallory", "operator")); err == nil {
			t.Fatal("a stranger got in")
		}
		for end := time.After(5 * time.Second); ; {
			select {
			case m := <-c.messages:
				if _, ok := m.(*wire.ControlWanted); ok {
					c.control()
				}
				if _, ok := m.(*wire.Denial); ok {
					return
				}
			case <-end:
				t.Fatalf("a refusal is not told; a control stream is open: %v", open)
			}
		}
	}
	refused(false)
	a.port.mu.Lock()
	a.port.last = a.port.last.Add(-busyDenialEvery)
	a.port.mu.Unlock()
	refused(true)
}

// stopped is a connection that at some time nobody reads any more.
type stopped struct {
	net.Conn
	stop atomic.Bool
	over chan struct{}
	once sync.Once
}

func (c *stopped) Read(b []byte) (int, error) {
	if c.stop.Load() {
		<-c.over
	}
	return c.Conn.Read(b)
}

func (c *stopped) Close() error {
	c.once.Do(func() { close(c.over) })
	return c.Conn.Close()
}

// A client that was stopped held the place of the session that was killed for it until the connection was given up, minutes later.
func TestAKilledSessionGivesItsPlaceBackThoughItsClientReadsNothing(t *testing.T) {
	h := newTestHub(t)
	h.place = granted
	a := h.listening(t, Config{})
	c := h.next()
	c.control()
	eventually(t, "policy, locks and the time", func() bool { return a.current() == nil })
	raw, err := net.Dial("tcp", a.port.told())
	if err != nil {
		t.Fatal(err)
	}
	nc := &stopped{Conn: raw, over: make(chan struct{})}
	defer nc.Close()
	conn, chans, reqs, err := ssh.NewClientConn(nc, "gw-1", &ssh.ClientConfig{
		User: me(t), Auth: []ssh.AuthMethod{ssh.PublicKeys(h.userCert("alice", "operator"))}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		t.Fatal(err)
	}
	client := ssh.NewClient(conn, chans, reqs)
	ch, requests, err := client.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(requests)
	if ok, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ Command string }{"exec yes"})); !ok || err != nil {
		t.Fatal(ok, err)
	}
	var id [16]byte
	release := func(what string) *wire.Release {
		for end := time.After(5 * time.Second); ; {
			select {
			case m := <-c.messages:
				switch m := m.(type) {
				case *wire.PlaceRequest:
					if m.Kind == wire.PlaceSession {
						id = m.SessionID
						return nil
					}
				case *wire.Release:
					return m
				}
			case <-end:
				t.Fatalf("no %s within 5 s", what)
			}
		}
	}
	release("place for the session")
	nc.stop.Store(true)
	time.Sleep(100 * time.Millisecond) // what it is sent fills the way to it
	a.live.cut(id, errors.New("ended by admin"))
	if m := release("release"); m.SessionID != id || !strings.Contains(m.Reason, "ended by admin") {
		t.Errorf("%+v", m)
	}
}

func TestWhatPanicsIsBegunAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		new(Agent).always(ctx, "port", func() {
			if n++; n == 3 {
				cancel()
				return
			}
			panic("a bug")
		})
		if n != 3 {
			t.Errorf("begun %d times", n)
		}
	})
}

// A place that a hub held, and that the device did not take, was given back by nobody: with one place a person had locked himself out.
func TestAPlaceThatTheDeviceDoesNotTakeIsGivenBack(t *testing.T) {
	h := newTestHub(t)
	h.place = func(c *testConn, r *wire.PlaceRequest) wire.PlaceReply {
		if r.Kind != wire.PlaceSession {
			return granted(c, r)
		}
		other := *r
		other.Login = "somebody-else"
		return granted(c, &other)
	}
	a := h.listening(t, Config{})
	c := h.next()
	c.control()
	client, _, err := comeDirectly(t, a, me(t), h.userCert("alice", "operator"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := session.Output("echo no"); err == nil || len(out) > 0 {
		t.Errorf("with a grant for another login: %q, %v", out, err)
	}
	var asked [16]byte
	for {
		select {
		case m := <-c.messages:
			switch m := m.(type) {
			case *wire.PlaceRequest:
				asked = m.SessionID
			case *wire.Release:
				if asked == [16]byte{} || m.SessionID != asked {
					t.Errorf("%x is given back, %x was asked for", m.SessionID, asked)
				}
				return
			}
		case <-time.After(10 * time.Second):
			t.Fatal("it is not given back")
		}
	}
}
