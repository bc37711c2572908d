package edge

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/ca"
	"hawser/auth/grant"
	"hawser/auth/seal"
	"hawser/tunnel"
	"hawser/tunnel/channel"
	"hawser/tunnel/channel/payload"
	"hawser/tunnel/inner"
	"hawser/tunnel/resume"
	"hawser/tunnel/wire"
)

// eventually waits for what must come to be, and fails the test when it does not.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		<-tick.C
	}
}

// cut ends the tunnel without the streams' knowledge and returns the one that follows.
func (c *testConn) cut() *testConn {
	c.hub.t.Helper()
	c.conn.CloseWith(&wire.CloseError{Code: wire.CloseNormal, Reason: "cut"})
	return c.hub.next()
}

// resume goes on with a stream on this tunnel.
func (c *testConn) resume(s *resume.Stream) error {
	att, err := c.conn.OpenStream(c.hub.t.Context())
	if err != nil {
		return err
	}
	return s.Resume(c.hub.t.Context(), att)
}

// command starts a command in hub mode on a stream that outlives the tunnel.
func (c *testConn) command(t testing.TB, command string) (*resume.Stream, *channel.Conn) {
	t.Helper()
	s := c.open(wire.KindSession, wire.OpenRequest{Grant: c.grant(grant.Session, nil), Window: 1 << 20}, nil)
	return s, start(t, s, command)
}

func start(t testing.TB, s *resume.Stream, command string) *channel.Conn {
	t.Helper()
	ch := channel.New(s, channel.Options{Window: 1 << 20})
	t.Cleanup(func() { s.End(net.ErrClosed); ch.Close() })
	if ok, err := ch.SendRequest("exec", true, payload.Exec{Command: command}.Marshal()); err != nil || !ok {
		t.Fatalf("exec: %v, %v", ok, err)
	}
	return ch
}

// status is the exit status that a channel tells, -1 for none.
func status(ch *channel.Conn) int {
	for r := range ch.Requests() {
		r.Reply(false)
		if p, err := payload.ParseExitStatus(r.Payload); err == nil && r.Type == "exit-status" {
			return int(p.Status)
		}
	}
	return -1
}

// line reads a line.
func line(t testing.TB, r io.Reader) string {
	t.Helper()
	var b []byte
	for one := make([]byte, 1); ; b = append(b, one[0]) {
		if _, err := io.ReadFull(r, one); err != nil {
			t.Fatalf("read a line: %v", err)
		}
		if one[0] == '\n' {
			return string(b)
		}
	}
}

// pid reads the process id that a command printed, and returns whether that process lives.
func pid(t testing.TB, r io.Reader) (alive func() bool) {
	t.Helper()
	n, err := strconv.Atoi(line(t, r))
	if err != nil {
		t.Fatal(err)
	}
	return func() bool { return syscall.Kill(n, 0) == nil }
}

func TestASessionGoesOnByteForByteWhenItsTunnelIsCut(t *testing.T) {
	for _, carrier := range []Carriers{OnlyQUIC, OnlyTLS} {
		t.Run(fmt.Sprint(carrier), func(t *testing.T) {
			h := newTestHub(t)
			h.detachedLife = time.Minute
			a, _ := h.start(Config{Token: h.token("edge"), Name: "gw-1", Carriers: carrier})
			c := h.next()
			s, ch := c.command(t, "cat; exit 7")
			want := make([]byte, 4<<20)
			rand.Read(want)
			got := make(chan []byte, 1)
			half := make(chan struct{})
			go func() {
				var b bytes.Buffer
				_, _ = io.CopyN(&b, ch, int64(len(want)/3))
				close(half)
				_, _ = io.Copy(&b, ch)
				got <- b.Bytes()
			}()
			go func() {
				_, _ = ch.Write(want)
				_ = ch.CloseWrite()
			}()
			<-half
			for range 2 {
				c = c.cut()
				if n := a.openStreams(); n != 1 {
					t.Errorf("%d streams open while detached", n)
				}
				if err := c.resume(s); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(<-got, want) {
				t.Error("not the bytes that were sent")
			}
			if n := status(ch); n != 7 {
				t.Errorf("exit status %d", n)
			}
			ch.Close()
			eventually(t, "no stream is left", func() bool { return a.openStreams() == 0 && len(a.slots) == 0 })
		})
	}
}

// knock sends an Attach and returns the code of the answer.
func (c *testConn) knock(a wire.Attach) wire.StreamCode {
	c.hub.t.Helper()
	att, err := c.conn.OpenStream(c.hub.t.Context())
	if err != nil {
		c.hub.t.Fatal(err)
	}
	return knockOn(c.hub.t, att, a)
}

func knockOn(t testing.TB, att tunnel.Stream, a wire.Attach) wire.StreamCode {
	t.Helper()
	defer att.Close()
	_, _ = att.Write(a.Append(nil)) // the refusal may come before it returns; the answer counts
	var head [wire.HeaderLen]byte
	if _, err := io.ReadFull(att, head[:]); err != nil {
		t.Fatalf("no answer to an attachment: %v", err)
	}
	b := append(head[:], make([]byte, binary.BigEndian.Uint32(head[2:]))...)
	if _, err := io.ReadFull(att, b[wire.HeaderLen:]); err != nil {
		t.Fatal(err)
	}
	m, err := wire.DecodeAttached(b)
	if err != nil {
		t.Fatal(err)
	}
	return m.Code
}

// entryHub is another hub of the cluster, which reaches the device through the test's.
type entryHub struct {
	uuid        wire.UUID
	incarnation wire.Incarnation
	cert        tls.Certificate
}

func (h *testHub) entryHub() *entryHub {
	e := &entryHub{uuid: wire.NewUUID(), incarnation: wire.NewIncarnation()}
	uuid := h.uuid
	h.uuid = e.uuid
	e.cert = h.hubCert(h.set, time.Now())
	h.uuid = uuid
	return e
}

// dial opens a stream with TLS inside.
func (e *entryHub) dial(c *testConn) (tunnel.Stream, error) {
	att, err := c.conn.OpenStream(c.hub.t.Context())
	if err != nil {
		return nil, err
	}
	return inner.Client(c.hub.t.Context(), att, wire.Attach{ID: wire.NewStreamID(), EntryHub: e.uuid}, &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &e.cert, nil },
		VerifyConnection: func(cs tls.ConnectionState) error {
			id, err := ca.VerifyPeer(cs.PeerCertificates, &c.hub.trust, time.Now())
			if err == nil && (id.Role != ca.RoleDevice || id.UUID != c.register.UUID.String()) {
				err = fmt.Errorf("is %v %s", id.Role, id.UUID)
			}
			return err
		},
	})
}

func (e *entryHub) open(t testing.TB, c *testConn, kind wire.StreamKind, req wire.OpenRequest) *resume.Stream {
	t.Helper()
	att, err := e.dial(c)
	if err != nil {
		t.Fatal(err)
	}
	s := resume.Open(att, wire.Attach{
		Kind: kind, ID: wire.NewStreamID(), EntryHub: e.uuid, EntryHubIncarnation: e.incarnation, Open: req.Append(nil),
	}, resume.Options{DetachedLife: time.Minute})
	t.Cleanup(func() { s.End(net.ErrClosed) })
	return s
}

// session opens a session that this hub admitted.
func (e *entryHub) session(t testing.TB, c *testConn, command string) (*resume.Stream, *channel.Conn, [16]byte) {
	t.Helper()
	var id [16]byte
	blob := c.grant(grant.Session, func(g *grant.Grant) { g.EntryHub = e.uuid; id = g.SessionID })
	s := e.open(t, c, wire.KindSession, wire.OpenRequest{Grant: blob, Window: 1 << 20})
	return s, start(t, s, command), id
}

func TestOnlyWhoOpenedAStreamResumesIt(t *testing.T) {
	h := newTestHub(t)
	h.detachedLife = time.Minute
	a, _ := h.start(Config{Token: h.token("edge"), Name: "gw-1", Carriers: OnlyTLS})
	c := h.next()
	s, ch := c.command(t, "echo here; cat")
	if got := line(t, ch); got != "here" {
		t.Fatal(got)
	}
	other := h.entryHub()
	right := wire.Attach{Kind: wire.KindSession, ID: s.ID(), Counter: 5, Sent: 1, Received: 1, EntryHub: h.uuid, EntryHubIncarnation: h.incarnation}
	knock := func(name string, want wire.StreamCode, change func(*wire.Attach)) {
		t.Helper()
		a := right
		change(&a)
		if got := c.knock(a); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	refusals := func() {
		t.Helper()
		knock("another stream", wire.StreamNotFound, func(a *wire.Attach) { a.ID = wire.NewStreamID() })
		knock("another kind", wire.StreamDenied, func(a *wire.Attach) { a.Kind = wire.KindForward })
		knock("another run of the hub", wire.StreamDenied, func(a *wire.Attach) { a.EntryHubIncarnation = wire.NewIncarnation() })
		knock("the opening again", wire.StreamRefused, func(a *wire.Attach) {
			a.Counter, a.Sent, a.Received = 0, 0, 0
			a.Open = wire.OpenRequest{Grant: c.grant(grant.Session, nil)}.Append(nil)
		})
		att, err := other.dial(c)
		if err != nil {
			t.Fatal(err)
		}
		theft := right
		theft.EntryHub, theft.EntryHubIncarnation = other.uuid, h.incarnation
		if got := knockOn(t, att, theft); got != wire.StreamDenied {
			t.Errorf("another hub: %v", got)
		}
		if att, err = other.dial(c); err != nil {
			t.Fatal(err)
		}
		if got := knockOn(t, att, right); got != wire.StreamDenied {
			t.Errorf("another hub in the name of the first: %v", got)
		}
	}
	refusals()
	if _, err := ch.Write([]byte("attached\n")); err != nil || line(t, ch) != "attached" {
		t.Fatalf("the refused disturbed the stream: %v", err)
	}
	c = c.cut()
	refusals()
	if err := c.resume(s); err != nil {
		t.Fatal(err)
	}
	knock("a counter that was used", wire.StreamProtocol, func(a *wire.Attach) { a.Counter = 1 })
	if _, err := ch.Write([]byte("again\n")); err != nil || line(t, ch) != "again" {
		t.Fatalf("the refused disturbed the stream: %v", err)
	}
	if a.openStreams() != 1 || c.hub == nil {
		t.Errorf("%d streams are open", a.openStreams())
	}
}

func TestAHubThatComesThroughAnotherIsServedByItsOwnTLS(t *testing.T) {
	h := newTestHub(t)
	a, _ := h.start(Config{Token: h.token("edge"), Name: "gw-1", Carriers: OnlyTLS})
	c := h.next()
	e := h.entryHub()
	s, ch, _ := e.session(t, c, "echo through; cat")
	if got := line(t, ch); got != "through" {
		t.Fatal(got)
	}
	// The attachment is lost, the tunnel is not.
	reattach := func() error {
		att, err := e.dial(c)
		if err != nil {
			return err
		}
		return s.Resume(t.Context(), att)
	}
	for range 3 {
		if err := reattach(); err != nil {
			t.Fatal(err)
		}
		if _, err := ch.Write([]byte("moved\n")); err != nil || line(t, ch) != "moved" {
			t.Fatal(err)
		}
	}
	c = c.cut() // and now the tunnel is
	if err := reattach(); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.Write([]byte("moved\n")); err != nil || line(t, ch) != "moved" {
		t.Fatal(err)
	}

	// Nobody but a hub of the cluster, in its own name, with a grant made out to it.
	pub, key, _ := ed25519.GenerateKey(rand.Reader)
	chain, _, err := h.set.IssueDevice(ca.DeviceRequest{UUID: wire.NewUUID().String(), Name: "gw-2", Cluster: testCluster, Key: pub, TTL: time.Hour, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	device := &entryHub{uuid: e.uuid, incarnation: e.incarnation, cert: tls.Certificate{Certificate: chain, PrivateKey: key}}
	stranger := newTestHub(t).entryHub()
	for name, e := range map[string]*entryHub{"a device": device, "a hub of another CA": stranger} {
		if att, err := e.dial(c); err == nil {
			if _, err := io.ReadFull(att, make([]byte, 1)); err == nil {
				t.Errorf("%s was heard", name)
			}
		}
	}
	liar := *e
	liar.uuid = h.uuid
	if _, err := liar.open(t, c, wire.KindSession, wire.OpenRequest{Grant: c.grant(grant.Session, nil)}).Read(make([]byte, 1)); err == nil {
		t.Error("a hub in another's name was served")
	}
	if code, err := attached(t, e.open(t, c, wire.KindSession, wire.OpenRequest{Grant: c.grant(grant.Session, nil)})); code != wire.StreamDenied {
		t.Errorf("a hub with another's grant: %v", err)
	}
	if a.openStreams() != 1 {
		t.Errorf("%d streams are open", a.openStreams())
	}
}

func TestAnotherRunOfTheEntryHubEndsTheSessionsOfTheFirst(t *testing.T) {
	h := newTestHub(t)
	h.detachedLife = time.Minute
	a, _ := h.start(Config{Token: h.token("edge"), Name: "gw-1", Carriers: OnlyTLS})
	c := h.next()
	_, ch := c.command(t, "echo $$; trap '' HUP TERM; sleep 1000 & while :; do sleep 1; done")
	alive := pid(t, ch)
	h.mu.Lock()
	h.incarnation = wire.NewIncarnation()
	h.mu.Unlock()
	c.cut()
	eventually(t, "its processes have ended", func() bool { return !alive() })
	eventually(t, "its stream has ended", func() bool { return a.openStreams() == 0 })
}

func TestASessionEndsWhenItsEntryHubIsGone(t *testing.T) {
	h := newTestHub(t)
	asked := make(chan wire.UUID, 100)
	answer := make(chan *wire.HubStatus, 1) // the last is given again
	var last *wire.HubStatus
	h.status = func(q *wire.HubQuery) *wire.HubStatus {
		select {
		case last = <-answer:
		default:
		}
		asked <- q.Hub
		if last != nil {
			last.Hub = q.Hub
		}
		return last
	}
	a, _ := h.start(Config{Token: h.token("edge"), Name: "gw-1", Carriers: OnlyTLS})
	c := h.next()
	gone, up := h.entryHub(), h.entryHub()
	att, err := gone.dial(c)
	if err != nil {
		t.Fatal(err)
	}
	blob := c.grant(grant.Session, func(g *grant.Grant) { g.EntryHub = gone.uuid })
	s := resume.Open(att, wire.Attach{Kind: wire.KindSession, ID: wire.NewStreamID(), EntryHub: gone.uuid, EntryHubIncarnation: gone.incarnation,
		Open: wire.OpenRequest{Grant: blob, Window: 1 << 20}.Append(nil)}, resume.Options{DetachedLife: time.Minute})
	ch := start(t, s, "echo $$; trap '' HUP TERM; while :; do sleep 1; done")
	alive := pid(t, ch)
	_, kept, _ := up.session(t, c, "echo $$; cat")
	keptAlive := pid(t, kept)

	answer <- &wire.HubStatus{State: wire.HubUp, Incarnation: gone.incarnation}
	att.Reset(wire.StreamCancelled)
	if hub := <-asked; hub != gone.uuid {
		t.Fatalf("asked after %v", hub)
	}
	// What the answers are does not matter until one says that the hub is gone, for long enough.
	for _, m := range []*wire.HubStatus{{State: wire.HubUnknown}, {State: wire.HubGone, Incarnation: gone.incarnation, Gone: hubGone - time.Second}} {
		answer <- m
		<-asked
		<-asked
		if !alive() {
			t.Fatalf("ended by %+v", m)
		}
	}
	answer <- &wire.HubStatus{State: wire.HubGone, Incarnation: gone.incarnation, Gone: hubGone}
	eventually(t, "its processes have ended", func() bool { return !alive() })
	eventually(t, "its stream has ended", func() bool { return a.openStreams() == 1 })
	if !keptAlive() {
		t.Error("the session of another hub ended too")
	}
}

func TestWhoSeesAHubAliveIsBelievedBeforeWhoDoesNot(t *testing.T) {
	run := wire.NewIncarnation()
	one, two := new(link), new(link)
	links := map[*link]chan struct{}{one: nil, two: nil}
	now := time.Now()
	up := wire.HubStatus{State: wire.HubUp, Incarnation: run}
	other := wire.HubStatus{State: wire.HubUp, Incarnation: wire.NewIncarnation()}
	gone := wire.HubStatus{State: wire.HubGone, Incarnation: run, Gone: hubGone}
	unknown := wire.HubStatus{}
	for _, tt := range []struct {
		name string
		by   map[*link]hubAnswer
		gone time.Time
		want int
	}{
		{"both say gone", map[*link]hubAnswer{one: {gone, now}, two: {gone, now}}, now, verdictGone},
		{"one says gone, one knows nothing", map[*link]hubAnswer{one: {gone, now}, two: {unknown, now}}, now, verdictGone},
		{"one says gone, one up", map[*link]hubAnswer{one: {gone, now}, two: {up, now}}, now, verdictWait},
		{"one says gone, one has not answered", map[*link]hubAnswer{one: {gone, now}}, now, verdictWait},
		{"and never answers", map[*link]hubAnswer{one: {gone, now}}, now.Add(-answerWait), verdictGone},
		{"up was long ago", map[*link]hubAnswer{one: {gone, now}, two: {up, now.Add(-time.Minute)}}, now.Add(-askEvery), verdictGone},
		{"another run", map[*link]hubAnswer{one: {other, now}}, time.Time{}, verdictRestarted},
		{"another run, and this", map[*link]hubAnswer{one: {other, now}, two: {up, now}}, time.Time{}, verdictWait},
	} {
		v := hubView{by: tt.by, gone: tt.gone}
		if got := v.verdict(run, links, now); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

// age makes the detached streams wait for longer than a move takes.
func age(a *Agent) {
	a.streams.mu.Lock()
	defer a.streams.mu.Unlock()
	for _, st := range a.streams.byID {
		if !st.detached.IsZero() {
			st.detached = st.detached.Add(-moveGrace)
		}
	}
}

// waiting is how many streams are detached.
func waiting(a *Agent) (n int) {
	a.streams.mu.Lock()
	defer a.streams.mu.Unlock()
	for _, st := range a.streams.byID {
		if !st.detached.IsZero() {
			n++
		}
	}
	return n
}

func TestAMoveToAnotherTunnelEndsNoSession(t *testing.T) {
	h := newTestHub(t)
	h.detachedLife = time.Minute
	a, _ := h.start(Config{Token: h.token("edge"), Name: "gw-1", Carriers: OnlyTLS})
	c := h.next()
	var streams []*resume.Stream
	var chs []*channel.Conn
	for range maxDetached + 3 {
		s, ch := c.command(t, "echo up; cat")
		line(t, ch)
		streams, chs = append(streams, s), append(chs, ch)
	}
	c = c.cut()
	eventually(t, "all wait", func() bool { return waiting(a) == len(streams) })
	for i, s := range streams {
		if err := c.resume(s); err != nil {
			t.Fatal(err)
		}
		if _, err := chs[i].Write([]byte("still here\n")); err != nil || line(t, chs[i]) != "still here" {
			t.Fatal(err)
		}
	}
}

func TestOfTooManyDetachedSessionsTheOldestEnds(t *testing.T) {
	h := newTestHub(t)
	h.detachedLife = time.Minute
	a, _ := h.start(Config{Token: h.token("edge"), Name: "gw-1", Carriers: OnlyTLS})
	c := h.next()
	e := h.entryHub()
	// The first loses its attachment before the others do.
	att, err := e.dial(c)
	if err != nil {
		t.Fatal(err)
	}
	blob := c.grant(grant.Session, func(g *grant.Grant) { g.EntryHub = e.uuid })
	first := resume.Open(att, wire.Attach{Kind: wire.KindSession, ID: wire.NewStreamID(), EntryHub: e.uuid, EntryHubIncarnation: e.incarnation,
		Open: wire.OpenRequest{Grant: blob, Window: 1 << 20}.Append(nil)}, resume.Options{DetachedLife: time.Minute})
	start(t, first, "echo first; cat")
	att.Reset(wire.StreamCancelled)
	eventually(t, "the first is detached", func() bool { return len(a.streams.lostHubs()) == 1 })
	age(a)
	var streams []*resume.Stream
	var chs []*channel.Conn
	for range maxDetached {
		s, ch := c.command(t, "echo up; cat")
		line(t, ch)
		streams, chs = append(streams, s), append(chs, ch)
	}
	c = c.cut()
	eventually(t, "all wait", func() bool { return waiting(a) == maxDetached+1 })
	age(a)
	eventually(t, "one has ended", func() bool { return a.openStreams() == maxDetached })
	eventually(t, "the oldest is told to be gone", func() bool {
		if att, err = e.dial(c); err == nil {
			err = first.Resume(t.Context(), att) // an attempt may also be cut short by the refusal's end
		}
		return errors.Is(err, resume.ErrGone)
	})
	for i, s := range streams {
		if err := c.resume(s); err != nil {
			t.Fatal(err)
		}
		if _, err := chs[i].Write([]byte("still here\n")); err != nil || line(t, chs[i]) != "still here" {
			t.Fatal(err)
		}
	}
}

func TestWhatDetachedStreamsHoldIsBounded(t *testing.T) {
	h := newTestHub(t)
	h.detachedLife = time.Minute
	a, _ := h.start(Config{Token: h.token("edge"), Name: "gw-1", Carriers: OnlyTLS})
	c := h.next()
	flood := filepath.Join(t.TempDir(), "flood")
	for range 7 {
		_, ch := c.command(t, "echo up; while ! test -e "+flood+"; do sleep 0.1; done; yes")
		line(t, ch)
	}
	c.cut()
	eventually(t, "all wait", func() bool { return waiting(a) == 7 })
	age(a)
	if err := os.WriteFile(flood, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	held := func() (n int) {
		a.streams.mu.Lock()
		defer a.streams.mu.Unlock()
		for _, st := range a.streams.byID {
			n += st.Buffered()
		}
		return n
	}
	eventually(t, "some have ended for the others", func() bool { return a.openStreams() < 7 && held() > 0 && held() <= maxDetachedBytes })
	if n := a.openStreams(); n < maxDetachedBytes/streamBuffer-1 {
		t.Errorf("%d are left", n)
	}
}

func TestTheExitStatusOfADetachedSessionWaitsToBeFetched(t *testing.T) {
	h := newTestHub(t)
	h.detachedLife = time.Minute
	a, _ := h.start(Config{Token: h.token("edge"), Name: "gw-1", Carriers: OnlyTLS})
	c := h.next()
	s, ch := c.command(t, "echo $$; sleep 0.3; echo the end; exit 9")
	alive := pid(t, ch)
	c = c.cut()
	eventually(t, "the process ends", func() bool { return !alive() })
	// The session is over here, its stream is not.
	eventually(t, "the session has been cleared away", func() bool {
		a.live.mu.Lock()
		defer a.live.mu.Unlock()
		return len(a.live.ends) == 0
	})
	if err := c.resume(s); err != nil {
		t.Fatal(err)
	}
	if got := line(t, ch); got != "the end" {
		t.Errorf("said %q", got)
	}
	if n := status(ch); n != 9 {
		t.Errorf("exit status %d", n)
	}
}

func TestADetachedLifeOfZeroEndsAtOnce(t *testing.T) {
	h := newTestHub(t)
	h.detachedLife = time.Minute
	a, _ := h.start(Config{Token: h.token("edge"), Name: "gw-1", Carriers: OnlyTLS})
	c := h.next()
	s := c.open(wire.KindSession, wire.OpenRequest{Window: 1 << 20, Grant: c.grant(grant.Session, func(g *grant.Grant) { g.DetachedLife = 0 })}, nil)
	alive := pid(t, start(t, s, "echo $$; exec sleep 1000"))
	c = c.cut()
	eventually(t, "the process ends", func() bool { return !alive() })
	eventually(t, "the stream ends", func() bool { return a.openStreams() == 0 })
	if err := c.resume(s); !errors.Is(err, resume.ErrGone) {
		t.Errorf("resumed: %v", err)
	}
}

func TestAListenerAndItsConnectionsOutliveTheTunnel(t *testing.T) {
	h := newTestHub(t)
	h.detachedLife = time.Minute
	a, _ := h.start(Config{Token: h.token("edge"), Name: "gw-1", Carriers: OnlyTLS})
	c := h.next()
	st := c.open(wire.KindListen, wire.OpenRequest{Grant: c.grant(grant.Forwards, nil), Window: 1 << 20}, nil)
	ch := channel.New(st, channel.Options{})
	t.Cleanup(func() { st.End(net.ErrClosed); ch.Close() })
	bound := make(chan uint32, 1)
	tickets := make(chan uint64, 1)
	go func() {
		for r := range ch.Requests() {
			switch r.Type {
			case payload.BoundRequest:
				p, _ := payload.ParseBound(r.Payload)
				bound <- p.Port
			case payload.AcceptRequest:
				p, err := payload.ParseAccept(r.Payload)
				r.Reply(err == nil)
				tickets <- p.Ticket
			}
		}
	}()
	if ok, err := ch.SendRequest("tcpip-forward", true, payload.TCPIPForward{Host: "127.0.0.1"}.Marshal()); err != nil || !ok {
		t.Fatal(ok, err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", <-bound)
	echo := func(nc io.ReadWriter, s io.ReadWriter, text string) {
		t.Helper()
		for _, w := range [][2]io.ReadWriter{{nc, s}, {s, nc}} {
			if _, err := io.WriteString(w[0], text); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, len(text))
			if _, err := io.ReadFull(w[1], b); err != nil || string(b) != text {
				t.Fatalf("%q, %v", b, err)
			}
		}
	}
	connect := func() (net.Conn, *resume.Stream) {
		nc, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		s := c.open(wire.KindAccepted, wire.OpenRequest{Parent: st.ID(), Ticket: <-tickets}, nil)
		t.Cleanup(func() { s.End(net.ErrClosed) })
		return nc, s
	}
	nc, s := connect()
	echo(nc, s, "before")
	c = c.cut()
	for _, s := range []*resume.Stream{st, s} {
		if err := c.resume(s); err != nil {
			t.Fatal(err)
		}
	}
	echo(nc, s, "after")
	nc2, s2 := connect()
	echo(nc2, s2, "new")

	// A ticket is for the hub it was given to.
	if _, err := net.Dial("tcp", address); err != nil {
		t.Fatal(err)
	}
	thief := h.entryHub()
	if code, _ := attached(t, thief.open(t, c, wire.KindAccepted, wire.OpenRequest{Parent: st.ID(), Ticket: <-tickets})); code != wire.StreamNotFound {
		t.Errorf("another hub took a connection: %v", code)
	}
	ch.Close()
	s.Close()
	s2.Close()
	nc.Close()
	nc2.Close()
	eventually(t, "no stream is left", func() bool { return a.openStreams() == 0 })
}

func TestAKillCountsOnlyFromTheSessionsOwnHub(t *testing.T) {
	h := newTestHub(t)
	h.detachedLife = time.Minute
	h.start(Config{Token: h.token("edge"), Name: "gw-1", Carriers: OnlyTLS})
	c := h.next()
	e := h.entryHub()
	_, ch, id := e.session(t, c, "echo $$; cat")
	alive := pid(t, ch)
	kill := wire.Kill{SessionID: id, Reason: "enough"}.Append(nil)
	control := c.control()
	if _, err := control.Write(kill); err != nil {
		t.Fatal(err)
	}
	// Answered in order: when this one has ended, the kill before it has been read.
	var own [16]byte
	blob := c.grant(grant.Session, func(g *grant.Grant) { own = g.SessionID })
	mine := start(t, c.open(wire.KindSession, wire.OpenRequest{Grant: blob, Window: 1 << 20}, nil), "echo $$; cat")
	mineAlive := pid(t, mine)
	c = c.cut()
	if err := c.resume(control); err != nil { // over another tunnel too
		t.Fatal(err)
	}
	if _, err := control.Write(wire.Kill{SessionID: own, Reason: "enough"}.Append(nil)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the hub's own session has ended", func() bool { return !mineAlive() })
	if !alive() {
		t.Fatal("a hub killed another's session")
	}
	theirs := e.open(t, c, wire.KindControl, wire.OpenRequest{})
	if _, err := theirs.Write(kill); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the session has ended", func() bool { return !alive() })
}

func TestAnEndToEndConnectionOutlivesTheTunnelAndItsPlacesComeOverTheControlStream(t *testing.T) {
	h := newTestHub(t)
	h.detachedLife = time.Minute
	h.place = granted
	h.start(Config{Token: h.token("edge"), Name: "gw-1", Carriers: OnlyTLS})
	c := h.next()
	control := c.control()
	s := c.open(wire.KindEndToEnd, wire.OpenRequest{}, nil)
	conn, chans, reqs, err := ssh.NewClientConn(testStreamConn{s}, "gw-1:22", &ssh.ClientConfig{
		User: me(t), Auth: []ssh.AuthMethod{ssh.PublicKeys(h.userCert("alice", "operator"))}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		t.Fatal(err)
	}
	client := ssh.NewClient(conn, chans, reqs)
	t.Cleanup(func() { s.End(net.ErrClosed); client.Close() })
	run := func(text string) {
		t.Helper()
		sess, err := client.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if out, err := sess.Output("echo " + text); err != nil || string(out) != text+"\n" {
			t.Fatalf("%q, %v", out, err)
		}
	}
	run("before")
	first := c
	c = c.cut()
	// Asked for while nothing is attached: both go on where they were.
	var wg sync.WaitGroup
	wg.Go(func() { run("after") })
	for _, s := range []*resume.Stream{control, s} {
		if err := c.resume(s); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	places := 0
	for len(first.messages) > 0 {
		if _, ok := (<-first.messages).(*wire.PlaceRequest); ok {
			places++
		}
	}
	if places != 3 { // the connection, two sessions
		t.Errorf("%d places were asked for", places)
	}
}

// granted grants every place.
func granted(c *testConn, r *wire.PlaceRequest) wire.PlaceReply {
	kind := map[wire.PlaceKind]grant.Kind{wire.PlaceConnection: grant.Connection, wire.PlaceSession: grant.Session, wire.PlaceForwards: grant.Forwards}[r.Kind]
	return wire.PlaceReply{Grant: c.grant(kind, func(g *grant.Grant) {
		g.ConnectionID, g.SessionID, g.Login, g.SealKey = r.ConnectionID, r.SessionID, r.Login, authSeal
		if r.Kind != wire.PlaceSession { // as auth does
			g.SessionID = wire.NewUUID()
		}
	})}
}

var authSecret = [32]byte{1}

// authSeal is the key that auth's grants have recordings past the hub sealed for.
var authSeal = func() [32]byte {
	key, _ := seal.Key(authSecret)
	return [32]byte(key.PublicKey().Bytes())
}()

func TestOneStreamBeyondTheSlotsIsRefusedAndResumptionsNeedNone(t *testing.T) {
	h := newTestHub(t)
	h.detachedLife = time.Minute
	a, _ := h.start(Config{Token: h.token("edge"), Name: "gw-1", Carriers: OnlyTLS})
	c := h.next()
	s, ch := c.command(t, "echo up; cat")
	line(t, ch)
	for len(a.slots) < cap(a.slots) { // the rest are taken
		a.slots <- struct{}{}
	}
	if code, err := attached(t, c.open(wire.KindSession, wire.OpenRequest{Grant: c.grant(grant.Session, nil)}, nil)); code != wire.StreamResourceShortage {
		t.Errorf("one beyond: %v", err)
	}
	if code, err := attached(t, c.open(wire.KindControl, wire.OpenRequest{}, nil)); err != nil {
		t.Errorf("what ends sessions does not get in where they fill the slots: %v, %v", code, err)
	}
	c = c.cut()
	if err := c.resume(s); err != nil {
		t.Fatal(err)
	}
	for range cap(a.slots) - 1 {
		<-a.slots
	}
	if _, err := ch.Write([]byte("on\n")); err != nil || line(t, ch) != "on" {
		t.Fatal(err)
	}
}

// errorLog keeps the last error.
type errorLog struct{ atomic.Pointer[string] }

func (l *errorLog) Log(level tunnel.Level, msg string, kv ...any) {
	if level == tunnel.LevelError {
		s := fmt.Sprint(append([]any{msg}, kv...)...)
		l.Store(&s)
	}
}

// Whatever comes first on a stream, the agent refuses it or serves it, and everything of it ends with its attachment.
func FuzzAttachment(f *testing.F) {
	h := newTestHub(f)
	var log errorLog
	a, _ := h.start(Config{Token: h.token("edge"), Name: "gw-1", Carriers: OnlyTLS, Logger: &log})
	c := h.next()
	st, ch := c.command(f, "echo up; cat")
	line(f, ch)
	open := wire.Attach{Kind: wire.KindSession, ID: wire.NewStreamID(), EntryHub: h.uuid, EntryHubIncarnation: h.incarnation,
		Open: wire.OpenRequest{Grant: c.grant(grant.Session, nil), Window: 1 << 20}.Append(nil)}
	f.Add(open.Append(nil))
	for _, change := range []func(*wire.Attach){
		func(a *wire.Attach) { a.Kind, a.Open = wire.KindControl, nil },
		func(a *wire.Attach) { a.Kind = wire.KindEndToEnd },
		func(a *wire.Attach) { a.InnerTLS = true },
		func(a *wire.Attach) { a.ID, a.Counter, a.Open = st.ID(), 9, nil },
		func(a *wire.Attach) { a.Kind, a.Open = wire.KindUpload, wire.OpenRequest{}.Append(nil) },
		func(a *wire.Attach) {
			a.Kind, a.Open = wire.KindAccepted, wire.OpenRequest{Parent: st.ID()}.Append(nil)
		},
	} {
		a := open
		change(&a)
		f.Add(append(a.Append(nil), "\x16\x03\x01\x00\x05hello"...))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		att, err := c.conn.OpenStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = att.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := att.Write(b); err == nil {
			_ = att.CloseWrite()
			_, _ = io.Copy(io.Discard, io.LimitReader(att, 1<<16))
		}
		att.Reset(wire.StreamCancelled)
		_ = att.Close()
		a.streams.mu.Lock()
		n := len(a.streams.byID)
		var mine *stream
		for id, s := range a.streams.byID {
			if id != st.ID() {
				mine = s
			}
		}
		a.streams.mu.Unlock()
		if mine != nil { // opened truly: it waits for its hub
			mine.End(context.Canceled)
		}
		if p := log.Load(); p != nil {
			t.Fatal(*p)
		}
		if n > 2 {
			t.Errorf("%d streams are open", n)
		}
	})
}

// What came by a hub ends with its word that the device is removed; what came by another only where nobody contradicts.
func TestSessionsOfARemovedDeviceEnd(t *testing.T) {
	h := newTestHub(t)
	h.detachedLife = time.Minute
	a, _ := h.start(Config{Token: h.token("edge"), Name: "gw-1", Carriers: OnlyTLS})
	c := h.next()
	other := h.entryHub()
	start := func() (own, foreign func() bool) {
		_, ch := c.command(t, "echo $$; exec sleep 100")
		own = pid(t, ch)
		_, ch, _ = other.session(t, c, "echo $$; exec sleep 100")
		return own, pid(t, ch)
	}
	own, foreign := start()

	// Another hub has a tunnel: only what came by the one that says so ends.
	a.streams.mu.Lock()
	var at *link
	for l := range a.streams.links {
		at = l
	}
	second := &link{a: a, conn: at.conn, challenge: wire.Challenge{HubUUID: other.uuid}}
	a.streams.links[second] = make(chan struct{}, 1)
	a.streams.mu.Unlock()
	a.streams.banned(h.uuid)
	eventually(t, "its own process ends", func() bool { return !own() })
	if !foreign() {
		t.Error("a hub's word ended what came by another that has a tunnel")
	}
	a.streams.mu.Lock()
	delete(a.streams.links, second)
	a.streams.mu.Unlock()

	// The tunnel is closed so, and there is no other.
	own, second2 := start()
	h.refuse = &wire.Refused{Code: wire.CloseBanned, Message: "removed"}
	c.conn.CloseWith(&wire.CloseError{Code: wire.CloseBanned, Reason: "the device was removed from the cluster"})
	eventually(t, "all processes end", func() bool { return !own() && !foreign() && !second2() })
	eventually(t, "nothing is open", func() bool { return a.openStreams() == 0 })
}

func TestSessionsEndWhenADeviceThatWasAwayIsRefusedAsRemoved(t *testing.T) {
	h := newTestHub(t)
	h.detachedLife = time.Minute
	a, _ := h.start(Config{Token: h.token("edge"), Name: "gw-1", Carriers: OnlyTLS})
	c := h.next()
	_, ch := c.command(t, "echo $$; exec sleep 100")
	own := pid(t, ch)
	h.refuse = &wire.Refused{Code: wire.CloseBanned, Message: "removed"}
	c.conn.CloseWith(&wire.CloseError{Code: wire.CloseNormal, Reason: "cut"})
	eventually(t, "the process ends", func() bool { return !own() })
	eventually(t, "nothing is open", func() bool { return a.openStreams() == 0 })
}
