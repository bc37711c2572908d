package edge

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/ca"
	"hawser/auth/grant"
	"hawser/edge/session"
	"hawser/tunnel"
	"hawser/tunnel/channel"
	"hawser/tunnel/channel/payload"
	"hawser/tunnel/resume"
	"hawser/tunnel/wire"
)

func TestMain(m *testing.M) {
	if code, ok := session.RunHelper(os.Args); ok {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

func TestAnAgentJoinsRegistersAndComesBackWithTheSameIdentity(t *testing.T) {
	h := newTestHub(t)
	dir := filepath.Join(t.TempDir(), "state")
	_, stop := h.start(Config{State: dir, Token: h.token("edge"), Name: "gw-1", Labels: []wire.Label{{Key: "site", Value: "ber"}}})
	first := h.next()
	if first.conn.Carrier() != tunnel.CarrierQUIC {
		t.Errorf("came by %v with UDP open", first.conn.Carrier())
	}
	if i := first.register.Info; i.Name != "gw-1" || !i.Restart || len(i.Labels) != 1 {
		t.Errorf("told %+v", i)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	s, err := ReadStatus(dir)
	if err != nil || s.Name != "gw-1" || s.Cluster != testCluster || s.Running {
		t.Fatalf("%+v, %v", s, err)
	}
	h.start(Config{State: dir})
	second := h.next()
	if second.register.UUID != first.register.UUID || second.register.Incarnation == first.register.Incarnation {
		t.Errorf("came back as %v of incarnation %v, was %v of %v", second.register.UUID, second.register.Incarnation, first.register.UUID, first.register.Incarnation)
	}
	if h.joins != 1 {
		t.Errorf("joined %d times", h.joins)
	}
}

func TestWithoutUDPAnAgentComesByTLSAndServesTheSame(t *testing.T) {
	h := newTestHub(t)
	h.start(Config{Token: h.token("edge"), Name: "gw-1", Carriers: OnlyTLS})
	c := h.next()
	if c.conn.Carrier() != tunnel.CarrierTLS {
		t.Fatalf("came by %v", c.conn.Carrier())
	}
	if out := c.exec(t, "echo over tls"); out != "over tls\n" {
		t.Fatalf("got %q", out)
	}
}

// exec runs a command in hub mode and returns its output.
func (c *testConn) exec(t *testing.T, command string) string {
	t.Helper()
	s := c.open(wire.KindSession, wire.OpenRequest{Grant: c.grant(grant.Session, nil), Window: 1 << 20}, nil)
	return runExec(t, s, command)
}

func runExec(t *testing.T, s *resume.Stream, command string) string {
	t.Helper()
	ch := channel.New(s, channel.Options{Window: 1 << 20})
	defer ch.Close()
	go func() {
		for r := range ch.Requests() {
			r.Reply(false)
		}
	}()
	if ok, err := ch.SendRequest("exec", true, payload.Exec{Command: command}.Marshal()); err != nil || !ok {
		t.Fatalf("exec: %v, %v", ok, err)
	}
	out, err := io.ReadAll(ch)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return string(out)
}

func TestWrongTokensAreRefusedEachWithItsOwnWords(t *testing.T) {
	h := newTestHub(t)
	other := newTestHub(t)
	spent := h.token("edge")
	if err := joinWith(t, spent); err != nil {
		t.Fatal(err)
	}
	wrongPin, err := ca.ParseToken(h.token("edge"))
	if err != nil {
		t.Fatal(err)
	}
	wrongPin.Pin, _ = ca.Pin(other.trust.TunnelCA[0])
	pinned, err := wrongPin.Reveal()
	if err != nil {
		t.Fatal(err)
	}
	joins := h.joins
	for _, tt := range []struct {
		name, token string
		is          error
		code        wire.CloseCode
	}{
		{"wrong pin", pinned, ErrPin, 0},
		{"for a hub", h.token("hub"), ErrTokenKind, 0},
		{"spent", spent, nil, wire.CloseToken},
	} {
		err := joinWith(t, tt.token)
		if tt.is != nil && !errors.Is(err, tt.is) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if r, ok := errors.AsType[*RefusedError](err); tt.code != 0 && (!ok || r.Code != tt.code) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if err := joinWith(t, "hwt1_nonsense"); err == nil {
		t.Error("nonsense was taken for a token")
	}
	if h.joins != joins {
		t.Errorf("%d joins by wrong tokens", h.joins-joins)
	}
}

func joinWith(t *testing.T, token string) error {
	t.Helper()
	a, err := New(Config{State: t.TempDir(), Token: token, Name: "gw-9", Logger: testLogger{t}})
	if err != nil {
		t.Fatal(err)
	}
	return a.Join(t.Context())
}

func TestATokenOfAnotherClusterDoesNotTouchAnIdentity(t *testing.T) {
	h := newTestHub(t)
	dir := t.TempDir()
	a, err := New(Config{State: dir, Token: h.token("edge"), Name: "gw-1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	token, _ := ca.ParseToken(h.token("edge"))
	token.Cluster = "other.example"
	s, err := token.Reveal()
	if err != nil {
		t.Fatal(err)
	}
	if a, err = New(Config{State: dir, Token: s}); err != nil {
		t.Fatal(err)
	}
	if err := a.Join(t.Context()); !errors.Is(err, ErrOtherCluster) {
		t.Errorf("%v", err)
	}
	if s, err := ReadStatus(dir); err != nil || s.Cluster != testCluster {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestAnAgentWithoutIdentityAndTokenSaysWhatToDo(t *testing.T) {
	a, err := New(Config{State: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); !errors.Is(err, ErrNoIdentity) {
		t.Fatal(err)
	}
}

func TestCertificatesAreRenewedWhileTheTunnelLives(t *testing.T) {
	h := newTestHub(t)
	h.deviceTTL = 4 * time.Second
	dir := t.TempDir()
	h.start(Config{State: dir, Token: h.token("edge"), Name: "gw-1"})
	c := h.next()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if s, err := ReadStatus(dir); err == nil && s.Generation >= 3 {
			break
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("not renewed twice within 20 s")
		}
	}
	if c.conn.Context().Err() != nil {
		t.Error("the tunnel did not outlive the renewal")
	}
}

func TestAnExpiredCertificateRenewsItselfByARenewOnlyTunnel(t *testing.T) {
	h := newTestHub(t)
	dir := t.TempDir()
	h.deviceTTL = time.Second
	a, err := New(Config{State: dir, Token: h.token("edge"), Name: "gw-1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := ReadStatus(dir)
	if err != nil {
		t.Fatal(err)
	}
	<-time.After(time.Until(s.NotAfter) + 100*time.Millisecond) // the certificate's life, not a guess
	h.mu.Lock()
	h.deviceTTL = time.Hour
	h.mu.Unlock()
	h.start(Config{State: dir})
	h.next()
	if s, err = ReadStatus(dir); err != nil || s.Generation < 2 || time.Until(s.NotAfter) < time.Minute {
		t.Fatalf("%+v, %v", s, err)
	}
}

func TestALostTunnelIsReplacedWithAHigherCounter(t *testing.T) {
	h := newTestHub(t)
	h.start(Config{Token: h.token("edge"), Name: "gw-1"})
	first := h.next()
	first.conn.CloseWith(&wire.CloseError{Code: wire.CloseDrain, Reason: "drain"})
	second := h.next()
	if second.register.Incarnation != first.register.Incarnation || second.register.Counter <= first.register.Counter || second.register.Info.Restart {
		t.Errorf("first %+v, second %+v", first.register, second.register)
	}
}

func TestAGoAwayBringsAnotherTunnelBeforeTheFirstEnds(t *testing.T) {
	h := newTestHub(t)
	h.start(Config{Token: h.token("edge"), Name: "gw-1"})
	first := h.next()
	if err := tunnel.Send(first.conn, wire.GoAway{Code: wire.CloseDrain, Reason: "upgrade", Deadline: time.Minute}); err != nil {
		t.Fatal(err)
	}
	second := h.next()
	if out := second.exec(t, "echo moved"); out != "moved\n" {
		t.Errorf("got %q", out)
	}
	select {
	case <-first.conn.Context().Done():
	case <-time.After(10 * time.Second):
		t.Error("the first tunnel was kept with nothing on it")
	}
}

func TestOnlyARightGrantOpensASession(t *testing.T) {
	h := newTestHub(t)
	h.start(Config{Token: h.token("edge"), Name: "gw-1"})
	c := h.next()
	if out := c.exec(t, "echo $HAWSER_USER@$HAWSER_DEVICE; echo $SSH_CONNECTION"); out != "alice@gw-1\n192.0.2.7 4711 198.51.100.1 22\n" {
		t.Errorf("the session says %q", out)
	}
	otherSet, err := ca.NewSet(testCluster, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(*grant.Grant)
		code   wire.StreamCode
	}{
		{"another cluster", func(g *grant.Grant) { g.Cluster = "other.example" }, wire.StreamDenied},
		{"another device", func(g *grant.Grant) { g.Device = wire.NewUUID() }, wire.StreamDenied},
		{"another run", func(g *grant.Grant) { g.Incarnation = wire.NewIncarnation() }, wire.StreamDenied},
		{"another hub", func(g *grant.Grant) { g.EntryHub = wire.NewUUID() }, wire.StreamDenied},
		{"forwards", func(g *grant.Grant) { g.Kind = grant.Forwards }, wire.StreamDenied},
		{"expired", func(g *grant.Grant) {
			g.NotBefore, g.NotAfter = time.Now().Add(-5*time.Minute), time.Now().Add(-time.Minute)
		}, wire.StreamDenied},
		{"not yet", func(g *grant.Grant) {
			g.NotBefore, g.NotAfter = time.Now().Add(time.Minute), time.Now().Add(2*time.Minute)
		}, wire.StreamDenied},
		{"no such login", func(g *grant.Grant) { g.Login = "nobody-of-that-name" }, wire.StreamNotFound},
	} {
		s := c.open(wire.KindSession, wire.OpenRequest{Grant: c.grant(grant.Session, tt.change), Window: 1 << 20}, nil)
		if code, err := attached(t, s); code != tt.code {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	good := c.grant(grant.Session, nil)
	if out := runExec(t, c.open(wire.KindSession, wire.OpenRequest{Grant: good, Window: 1 << 20}, nil), "echo once"); out != "once\n" {
		t.Errorf("got %q", out)
	}
	if code, err := attached(t, c.open(wire.KindSession, wire.OpenRequest{Grant: good, Window: 1 << 20}, nil)); code != wire.StreamDenied {
		t.Errorf("a spent grant: %v", err)
	}
	if code, err := attached(t, c.open(wire.KindSession, wire.OpenRequest{}, nil)); code != wire.StreamDenied {
		t.Errorf("no grant: %v", err)
	}
	forged := &grant.Grant{}
	if g, err := grant.Open(good, h.trust.GrantKeys); err == nil {
		forged = g
	}
	forged.ID = wire.NewUUID()
	blob, err := forged.Sign(otherSet.GrantKey())
	if err != nil {
		t.Fatal(err)
	}
	if code, err := attached(t, c.open(wire.KindSession, wire.OpenRequest{Grant: blob}, nil)); code != wire.StreamDenied {
		t.Errorf("a forged grant: %v", err)
	}
	for name, change := range map[string]func(*wire.Attach){
		"another entry hub":      func(a *wire.Attach) { a.EntryHub = wire.NewUUID() },
		"another run of it":      func(a *wire.Attach) { a.EntryHubIncarnation = wire.NewIncarnation() },
		"a kind from the future": func(a *wire.Attach) { a.Kind = 99 },
	} {
		s := c.open(wire.KindSession, wire.OpenRequest{Grant: c.grant(grant.Session, nil)}, change)
		if code, err := attached(t, s); code == wire.StreamOK {
			t.Errorf("%s: was served", name)
		} else {
			t.Log(name, err)
		}
	}
}

func TestARoleTheDeviceDoesNotKnowOpensNothingThoughTheGrantSaysSo(t *testing.T) {
	h := newTestHub(t)
	h.start(Config{Token: h.token("edge"), Name: "gw-1"})
	c := h.next()
	blob := c.grant(grant.Session, func(g *grant.Grant) { g.Roles = []string{"stranger"} })
	ch := channel.New(c.open(wire.KindSession, wire.OpenRequest{Grant: blob, Window: 1 << 20}, nil), channel.Options{})
	defer ch.Close()
	go func() {
		for r := range ch.Requests() {
			r.Reply(false)
		}
	}()
	if ok, _ := ch.SendRequest("exec", true, payload.Exec{Command: "echo no"}.Marshal()); ok {
		if out, _ := io.ReadAll(ch); len(out) > 0 {
			t.Fatalf("the command ran: %q", out)
		}
	}
}

func TestAKillEndsTheSessionAndSaysWhy(t *testing.T) {
	h := newTestHub(t)
	h.start(Config{Token: h.token("edge"), Name: "gw-1"})
	c := h.next()
	var id [16]byte
	blob := c.grant(grant.Session, func(g *grant.Grant) { id = g.SessionID })
	ch := channel.New(c.open(wire.KindSession, wire.OpenRequest{Grant: blob, Window: 1 << 20}, nil), channel.Options{Window: 1 << 20})
	defer ch.Close()
	go func() {
		for r := range ch.Requests() {
			r.Reply(false)
		}
	}()
	if ok, err := ch.SendRequest("exec", true, payload.Exec{Command: "echo up; sleep 1000"}.Marshal()); err != nil || !ok {
		t.Fatal(ok, err)
	}
	if _, err := io.ReadFull(ch, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.control().Write(wire.Kill{SessionID: id, Reason: "locked by the admin"}.Append(nil)); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(ch.StderrReader())
	if err != nil || !bytes.Contains(said, []byte("locked by the admin")) {
		t.Errorf("stderr says %q, %v", said, err)
	}
}

// A device that stood still gets the end of the stream and the kill at once, by two streams, in whichever order.
func TestAKillThatComesBehindTheEndOfItsStreamEndsWhatIgnoredHUP(t *testing.T) {
	h := newTestHub(t)
	a, _ := h.start(Config{Token: h.token("edge"), Name: "gw-1"})
	c := h.next()
	control := c.control()
	run := func() (id [16]byte, alive func() bool) {
		blob := c.grant(grant.Session, func(g *grant.Grant) { id = g.SessionID })
		st := c.open(wire.KindSession, wire.OpenRequest{Grant: blob, Window: 1 << 20}, nil)
		ch := start(t, st, "trap '' HUP; echo $$; while :; do sleep 1; done")
		alive = pid(t, ch)
		st.Reset(wire.StreamCancelled)
		eventually(t, "the session is over", func() bool { return !a.live.has(id, h.uuid) })
		if !alive() {
			t.Fatal("it did not outlive its HUP")
		}
		return id, alive
	}
	id, alive := run()
	otherID, other := run()
	if _, err := control.Write(wire.Kill{SessionID: id, Reason: "enough"}.Append(nil)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what was left has ended", func() bool { return !alive() })
	if !other() {
		t.Error("what another session left behind has ended too")
	}
	a.engine.EndRemains(fmt.Sprintf("%x", otherID))
	if other() {
		t.Error("it lives on")
	}
}

func TestAForwardReachesTheDevicesLoopback(t *testing.T) {
	h := newTestHub(t)
	h.start(Config{Token: h.token("edge"), Name: "gw-1"})
	c := h.next()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			b, _ := io.ReadAll(nc)
			fmt.Fprintf(nc, "got %s", b)
			nc.Close()
		}
	}()
	forwards := c.grant(grant.Forwards, nil)
	for range 2 { // a forwards grant opens any number
		s := c.open(wire.KindForward, wire.OpenRequest{Grant: forwards, Network: wire.NetworkTCP, Target: ln.Addr().String()}, nil)
		if code, err := attached(t, s); code != wire.StreamOK {
			t.Fatal(err)
		}
		s.Write([]byte("hello"))
		s.CloseWrite()
		if got, err := io.ReadAll(s); err != nil || string(got) != "got hello" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	for target, want := range map[string]wire.StreamCode{"169.254.169.254:80": wire.StreamDenied, "127.0.0.1:1": wire.StreamConnectFailed} {
		s := c.open(wire.KindForward, wire.OpenRequest{Grant: forwards, Network: wire.NetworkTCP, Target: target}, nil)
		if code, err := attached(t, s); code != want {
			t.Errorf("%s: %v", target, err)
		}
	}
}

func TestAListenerHandsItsConnectionsToTheHubByTicket(t *testing.T) {
	h := newTestHub(t)
	h.start(Config{Token: h.token("edge"), Name: "gw-1"})
	c := h.next()
	st := c.open(wire.KindListen, wire.OpenRequest{Grant: c.grant(grant.Forwards, nil), Window: 1 << 20}, nil)
	ch := channel.New(st, channel.Options{})
	defer ch.Close()
	bound := make(chan uint32, 1)
	fetched := make(chan *resume.Stream, 1)
	go func() {
		for r := range ch.Requests() {
			switch r.Type {
			case payload.BoundRequest:
				p, _ := payload.ParseBound(r.Payload)
				bound <- p.Port
			case payload.AcceptRequest:
				p, err := payload.ParseAccept(r.Payload)
				r.Reply(err == nil)
				fetched <- c.open(wire.KindAccepted, wire.OpenRequest{Parent: st.ID(), Ticket: p.Ticket}, nil)
			}
		}
	}()
	if ok, err := ch.SendRequest("tcpip-forward", true, payload.TCPIPForward{Host: "127.0.0.1"}.Marshal()); err != nil || !ok {
		t.Fatal(ok, err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", <-bound)
	nc, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	s := <-fetched
	nc.Write([]byte("ping"))
	buf := make([]byte, 4)
	if _, err := io.ReadFull(s, buf); err != nil || string(buf) != "ping" {
		t.Fatalf("%q, %v", buf, err)
	}
	if code, _ := attached(t, c.open(wire.KindAccepted, wire.OpenRequest{Parent: st.ID(), Ticket: 1}, nil)); code != wire.StreamNotFound {
		t.Errorf("a ticket that was never given: %v", code)
	}
	s.Close()
	ch.Close()
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		p, err := net.Dial("tcp", address)
		if err != nil {
			return
		}
		p.Close()
	}
	t.Error("the listener outlived its stream")
}

func TestEndToEndServesCertificatesAndRecordsByItself(t *testing.T) {
	h := newTestHub(t)
	refuse, byHub := "", false
	h.place = func(c *testConn, r *wire.PlaceRequest) wire.PlaceReply {
		if refuse != "" {
			return wire.PlaceReply{Refusal: refuse}
		}
		kind := map[wire.PlaceKind]grant.Kind{wire.PlaceConnection: grant.Connection, wire.PlaceSession: grant.Session, wire.PlaceForwards: grant.Forwards}[r.Kind]
		return wire.PlaceReply{Grant: c.grant(kind, func(g *grant.Grant) {
			g.ConnectionID, g.SessionID, g.Login, g.SealKey = r.ConnectionID, r.SessionID, r.Login, authSeal
			if byHub { // as it is granted where a hub records
				g.SealKey = [32]byte{}
			}
			if r.Kind != wire.PlaceSession { // as auth does
				g.SessionID = wire.NewUUID()
			}
		})}
	}
	h.start(Config{Token: h.token("edge"), Name: "gw-1"})
	c := h.next()
	c.control()
	dial := func(signer ssh.Signer) (*ssh.Client, error) {
		s := c.open(wire.KindEndToEnd, wire.OpenRequest{}, nil)
		checker := &ssh.CertChecker{IsHostAuthority: func(k ssh.PublicKey, _ string) bool {
			return bytes.Equal(k.Marshal(), h.trust.DeviceHostCA[0])
		}}
		conn, chans, reqs, err := ssh.NewClientConn(testStreamConn{s}, "gw-1:22", &ssh.ClientConfig{
			User: me(t), Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: checker.CheckHostKey,
		})
		if err != nil {
			return nil, err
		}
		return ssh.NewClient(conn, chans, reqs), nil
	}
	client, err := dial(h.userCert("alice", "operator"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	sess, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, err := sess.Output("echo end to end; exit 3")
	if exit, ok := errors.AsType[*ssh.ExitError](err); !ok || exit.ExitStatus() != 3 || string(out) != "end to end\n" {
		t.Fatalf("%q, %v", out, err)
	}
	// The recording comes up when the hub fetches it.
	var recording [16]byte
	for recording == ([16]byte{}) {
		select {
		case m := <-c.messages:
			if u, ok := m.(*wire.UploadWanted); ok {
				recording = u.RecordingID
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the edge wants nothing uploaded")
		}
	}
	up := c.open(wire.KindUpload, wire.OpenRequest{RecordingID: recording}, nil)
	if chunks := hubSide(t, up, recording, 0, 100); len(chunks) == 0 || bytes.Contains(bytes.Join(chunks, nil), []byte("alice")) {
		t.Errorf("%d chunks", len(chunks))
	}
	up.Close()

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		if nc, err := ln.Accept(); err == nil {
			io.WriteString(nc, "through")
			nc.Close()
		}
	}()
	fwd, err := client.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(fwd); string(got) != "through" {
		t.Errorf("-L got %q", got)
	}
	back, err := client.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if nc, err := net.Dial("tcp", back.Addr().String()); err == nil {
			io.WriteString(nc, "back")
			nc.Close()
		}
	}()
	nc, err := back.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(nc); string(got) != "back" {
		t.Errorf("-R got %q", got)
	}

	// A bare key, a stranger's certificate, a role that opens nothing.
	_, bare, _ := newKey()
	if _, err := dial(bare); err == nil {
		t.Error("a bare key was let in")
	}
	stranger := newTestHub(t)
	if _, err := dial(stranger.userCert("alice", "operator")); err == nil {
		t.Error("a certificate of another CA was let in")
	}
	if _, err := dial(h.userCert("alice", "nothing")); err == nil {
		t.Error("a role that opens nothing was let in")
	}
	// A hub that has the session granted as one that came in by it would get the recording in clear.
	byHub = true
	if sess, err = client.NewSession(); err != nil {
		t.Fatal(err)
	}
	if out, err := sess.Output("echo no"); err == nil || len(out) > 0 {
		t.Errorf("with a grant of another way in: %q, %v", out, err)
	}
	byHub = false
	refuse = "you have 2 connections, which is the most"
	if sess, err = client.NewSession(); err != nil {
		t.Fatal(err)
	}
	var words bytes.Buffer
	sess.Stderr = &words
	err = sess.Run("echo no")
	if exit, ok := errors.AsType[*ssh.ExitError](err); !ok || exit.ExitStatus() != 255 || !bytes.Contains(words.Bytes(), []byte(refuse)) {
		t.Errorf("a refused place: %v, %q", err, words.String())
	}
	if _, err := dial(h.userCert("alice", "operator")); err == nil {
		t.Error("a connection without a place was let in")
	}
}

func newKey() (ssh.PublicKey, ssh.Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	s, err := ssh.NewSignerFromKey(key)
	return s.PublicKey(), s, err
}

func TestStoppingTellsTheSessionsAndTakesLessThanTwoSeconds(t *testing.T) {
	h := newTestHub(t)
	_, stop := h.start(Config{Token: h.token("edge"), Name: "gw-1"})
	c := h.next()
	ch := channel.New(c.open(wire.KindSession, wire.OpenRequest{Grant: c.grant(grant.Session, nil), Window: 1 << 20}, nil), channel.Options{Window: 1 << 20})
	defer ch.Close()
	go func() {
		for r := range ch.Requests() {
			r.Reply(false)
		}
	}()
	if ok, err := ch.SendRequest("exec", true, payload.Exec{Command: "echo up; sleep 1000"}.Marshal()); err != nil || !ok {
		t.Fatal(ok, err)
	}
	if _, err := io.ReadFull(ch, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	said := make(chan []byte, 1)
	go func() { b, _ := io.ReadAll(ch.StderrReader()); said <- b }()
	start := time.Now()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("stopping took %v", d)
	}
	if b := <-said; !bytes.Contains(b, []byte("shutting down")) {
		t.Errorf("the session heard %q", b)
	}
}
