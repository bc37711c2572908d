package front

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/policy"
	"hawser/hub/shell"
	"hawser/recorder"
	"hawser/tunnel"
	"hawser/tunnel/channel"
	"hawser/tunnel/channel/payload"
	"hawser/tunnel/resume"
	"hawser/tunnel/tunneltest"
	"hawser/tunnel/wire"
)

// refusedGrant is what the device refuses, and the login whose grant it is.
const refusedGrant = "toor"

// edgeTwin is an edge in a few lines: it runs no processes, but speaks like one that does. Its streams outlive its tunnels.
type edgeTwin struct {
	mu      sync.Mutex
	streams map[wire.StreamID]*resume.Stream
	resumed int // attachments taken by Reattach
}

func (e *edgeTwin) add(s *resume.Stream) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.streams == nil {
		e.streams = make(map[wire.StreamID]*resume.Stream)
	}
	e.streams[s.ID()] = s
}

// end ends and forgets all streams.
func (e *edgeTwin) end(why error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.streams {
		s.End(why)
	}
	e.streams = nil
}

// reattach answers an Attach of a counter above 0.
func (e *edgeTwin) reattach(att tunnel.Stream, a wire.Attach) {
	e.mu.Lock()
	s := e.streams[a.ID]
	e.mu.Unlock()
	err := errors.New("none")
	if s != nil {
		err = s.Reattach(att, a)
	}
	if err != nil {
		resume.Refuse(att, resume.CodeOf(err), err.Error())
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.resumed++
}

func (e *edgeTwin) serve(t *testing.T, c tunnel.Conn) {
	ctx := t.Context()
	var wg sync.WaitGroup
	t.Cleanup(func() {
		e.end(errors.New("the test ended"))
		wg.Wait()
	})
	wg.Go(func() {
		for {
			att, err := c.AcceptStream(ctx)
			if err != nil {
				_ = c.CloseWithError(wire.CloseNormal, "") // else the hub waits for answers, as long as it may
				return
			}
			wg.Go(func() {
				a, err := resume.ReadAttach(ctx, att)
				if err != nil {
					att.Reset(wire.StreamCancelled)
					return
				}
				if a.Counter > 0 {
					e.reattach(att, a)
					return
				}
				open, _ := wire.DecodeOpenRequest(a.Open)
				if open.Target == "127.0.0.1:1" {
					resume.Refuse(att, wire.StreamConnectFailed, "connection refused")
					return
				}
				if string(open.Grant) == refusedGrant {
					time.Sleep(20 * time.Millisecond) // so that requests are on their way
					resume.Refuse(att, wire.StreamNotFound, `login "toor": no such login`)
					return
				}
				s, err := resume.Accept(att, a, resume.Options{DetachedLife: time.Minute})
				if err != nil {
					return
				}
				e.add(s)
				if a.Kind != wire.KindSession {
					_, _ = io.Copy(s, s)
					_ = s.CloseWrite()
					_ = s.Close()
					return
				}
				runSession(channel.New(s, channel.Options{}))
			})
		}
	})
}

func runSession(ch *channel.Conn) {
	defer func() { _ = ch.Close() }()
	done, term := make(chan struct{}, 1), ""
	for {
		select {
		case r, ok := <-ch.Requests():
			if !ok {
				return
			}
			_ = r.Reply(true)
			if q, err := payload.ParsePtyRequest(r.Payload); r.Type == "pty-req" && err == nil {
				term = fmt.Sprintf("%s %dx%d", q.Term, q.Columns, q.Rows)
			}
			if e, err := payload.ParseEnv(r.Payload); r.Type == "env" && err == nil {
				term += " " + e.Name + "=" + e.Value
			}
			if r.Type == "shell" { // it says what it was given, and all that is typed up to a dot
				go func() {
					_, _ = io.WriteString(ch, "shell "+term+": ")
					typed, _ := bufio.NewReader(ch).ReadString('.')
					_, _ = io.WriteString(ch, typed)
					_, _ = ch.SendRequest("exit-status", false, payload.ExitStatus{Status: 7}.Marshal())
					_ = ch.CloseWrite()
					done <- struct{}{}
				}()
				continue
			}
			p, err := payload.ParseExec(r.Payload)
			if r.Type != "exec" || err != nil {
				continue
			}
			go func() {
				status := uint32(0)
				switch {
				case p.Command == "cat":
					_, _ = io.Copy(ch, ch)
				case p.Command == "hang":
					<-ch.Done()
				case strings.HasPrefix(p.Command, "print "):
					_, _ = io.WriteString(ch, strings.TrimPrefix(p.Command, "print "))
					_, _ = io.Copy(ch, ch)
				default:
					_, _ = io.WriteString(ch, "out "+p.Command)
					_, _ = io.WriteString(ch.Stderr(), "err "+p.Command)
					status = 7
				}
				_, _ = ch.SendRequest("exit-status", false, payload.ExitStatus{Status: status}.Marshal())
				_ = ch.CloseWrite()
				done <- struct{}{}
			}()
		case <-done:
			return
		}
	}
}

// twin is a Backend in memory with one device, gw-1, on one tunnel, and one person, alice.
type twin struct {
	keys    map[string]string
	conn    tunnel.Conn
	full    bool // no place for another connection
	noShell bool
	code    string              // what every connection needs besides; empty: nothing
	proved  map[[16]byte]string // connections that gave it, and whose they are
	mu      sync.Mutex
	claims  []Claim
	ended   []string
	hold    chan struct{} // places are given back when it is closed; nil: at once
	held    atomic.Int32  // that wait for it
	order   []string      // in which places are given back and recordings closed
	shown   bytes.Buffer
	killed  []string
	life    time.Duration
	// how long they may last
	ofConn, ofSession policy.SessionLimits

	changed chan struct{} // closed when conn is another
	silent  bool          // conn is
	better  tunnel.Conn   // what to go by then
	removed bool          // from the cluster
}

// route makes conn the device's tunnel, nil: none.
func (b *twin) route(conn tunnel.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.conn = conn
	close(b.changed)
	b.changed = make(chan struct{})
}

// joinableID is the session that there is to join.
const joinableID = "00112233445566778899aabbccddeeff"

var gwUUID = wire.UUID{1}

func (b *twin) Identify(key ssh.PublicKey, _ net.Addr) (Identity, error) {
	if u, ok := b.keys[string(key.Marshal())]; ok {
		return Identity{User: u, Key: key.Marshal()}, nil
	}
	return Identity{}, errors.New("unknown key")
}
func (b *twin) IsDevice(_ Identity, name string) bool { return name == "gw-1" }
func (b *twin) List(Identity) []Listed {
	return []Listed{{Name: "gw-1", Online: true, UUID: gwUUID, Labels: []wire.Label{{Key: "site", Value: "ber"}}}}
}
func (b *twin) Online(wire.UUID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.conn != nil
}
func (b *twin) LastSeen(context.Context, Identity, string) (shell.Seen, error) {
	return shell.Seen{At: time.Now().Add(-3 * time.Hour), Hub: "hub-2", Carrier: "quic", Reason: "heartbeats stopped"}, nil
}
func (b *twin) Await(ctx context.Context, _ Identity, name string) error {
	for {
		b.mu.Lock()
		changed, there := b.changed, b.conn != nil && name == "gw-1"
		b.mu.Unlock()
		if there {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
func (b *twin) Joinable(context.Context, Claim) ([]shell.Session, error) {
	return []shell.Session{{ID: joinableID, Owner: "ann", Device: "gw-1", Login: "root", Modes: []string{"observer"}}}, nil
}
func (b *twin) Reach(_ context.Context, _ Identity, device string) (wire.UUID, func(), error) {
	if device != "gw-1" {
		return wire.UUID{}, nil, &Refusal{Message: UnknownDevice(device)}
	}
	return gwUUID, func() {}, nil
}
func (b *twin) Silent(wire.UUID) (some, all bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.silent, b.silent && b.better == nil
}
func (b *twin) RouteChanged(wire.UUID) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}
func (b *twin) Admit(_ context.Context, c Claim) (*Place, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.claims = append(b.claims, c)
	switch {
	case c.Kind == Connection && b.full:
		return nil, &Refusal{Message: "alice has 2 of 2 connections"}
	case c.Kind == Connection && b.code != "" && b.proved[c.ConnectionID] != c.Identity.User:
		return nil, &Refusal{Reason: RefusedFactor, Message: "a code is wanted"}
	case c.Kind == Connection:
		return &Place{Session: b.ofConn}, nil
	case c.Joins.Session != "" && b.conn != nil:
		return &Place{Grant: []byte("grant"), SessionID: c.SessionID, Device: gwUUID, DeviceName: "gw-1", Login: "root", Channels: []string{policy.JoinSession}}, nil
	case c.Device != "gw-1":
		return nil, &Refusal{Reason: RefusedDevice, Message: UnknownDevice(c.Device)}
	case b.conn == nil:
		return nil, ErrOffline
	}
	channels := []string{"exec", "shell", "local-forward"}
	if b.noShell {
		channels = []string{"exec", "local-forward"}
	}
	g := "grant"
	if c.Login == refusedGrant {
		g = refusedGrant
	}
	return &Place{
		Grant: []byte(g), SessionID: c.SessionID, Device: gwUUID, DeviceName: "gw-1", Login: "root",
		Channels: channels, Recorded: true, NotAfter: time.Now().Add(time.Minute),
		DetachedLife: b.life, Session: b.ofSession,
	}, nil
}
func (b *twin) SecondFactor(_ context.Context, c Claim, code string) (bool, string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if code != b.code {
		return false, "that is not the code", nil
	}
	if b.proved == nil {
		b.proved = make(map[[16]byte]string)
	}
	b.proved[c.ConnectionID] = c.Identity.User
	return true, "", nil
}
func (b *twin) Release(_ [16]byte, end Ended) {
	if b.hold != nil {
		b.held.Add(1)
		<-b.hold
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.order = append(b.order, "place")
	b.ended = append(b.ended, fmt.Sprint(end.ExitStatus, " ", end.Reason))
}
func (b *twin) OpenStream(ctx context.Context, _ wire.UUID, a *wire.Attach) (tunnel.Stream, error) {
	a.EntryHub = wire.UUID{9}
	b.mu.Lock()
	conn, removed := b.conn, b.removed
	if b.silent && b.better != nil {
		conn = b.better
	}
	b.mu.Unlock()
	if removed {
		return nil, ErrRemoved
	}
	if conn == nil {
		return nil, ErrOffline
	}
	return conn.OpenStream(ctx)
}
func (b *twin) KillOnDevice(_ wire.UUID, _ [16]byte, reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.killed = append(b.killed, reason)
}
func (b *twin) Record(*Place, recorder.Header, Recorded) Recording { return (*twinRecording)(b) }

// twinRecording keeps what was shown.
type twinRecording twin

func (r *twinRecording) Output(_ byte, p []byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.shown.Write(p)
	return true
}
func (r *twinRecording) Passed(byte, []byte) bool                     { return true }
func (r *twinRecording) FileOp(recorder.FileOp)                       {}
func (r *twinRecording) Withheld(recorder.Withheld)                   {}
func (r *twinRecording) Marker(string)                                {}
func (r *twinRecording) AgentUse(recorder.AgentUse)                   {}
func (r *twinRecording) Forward(recorder.Forward)                     {}
func (b *twin) Forwarded(Forwarded)                                   {}
func (r *twinRecording) InputFrom(uint32, []byte) bool                { return true }
func (r *twinRecording) Participant(recorder.Participant)             {}
func (r *twinRecording) Resize(uint32, uint32)                        {}
func (r *twinRecording) Start(string, string, string, []string) error { return nil }
func (r *twinRecording) Exit(uint32, string)                          {}
func (r *twinRecording) Request(recorder.Request)                     {}
func (r *twinRecording) Witness([]byte, string)                       {}
func (r *twinRecording) Close(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.order = append(r.order, "recording")
	return nil
}

type fixture struct {
	*twin
	server *Server
	edge   *edgeTwin
	addr   string
	alice  ssh.Signer
}

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func start(t *testing.T, change ...func(*Config)) *fixture {
	t.Helper()
	hub, edge := tunneltest.Pair(t)
	f := &fixture{alice: newSigner(t), edge: new(edgeTwin), twin: &twin{
		conn: hub, keys: make(map[string]string), life: time.Minute, changed: make(chan struct{}),
	}}
	f.edge.serve(t, edge)
	f.keys[string(f.alice.PublicKey().Marshal())] = "alice"
	c := Config{
		Backend: f.twin, HostKey: newSigner(t), HandshakeTimeout: 5 * time.Second, MaxUnauthenticated: 50, MaxUnauthenticatedPerSource: 50,
		HubName: "hub-1", Logger: slog.New(slog.DiscardHandler), Now: time.Now,
	}
	for _, f := range change {
		f(&c)
	}
	f.server = New(c)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("Serve did not end within 30 s")
		}
	})
	return f
}

func (f *fixture) dial(t *testing.T, user string, signers ...ssh.Signer) (*ssh.Client, string, error) {
	t.Helper()
	if signers == nil {
		signers = []ssh.Signer{f.alice}
	}
	var banner string
	c, err := ssh.Dial("tcp", f.addr, &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signers...)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
		BannerCallback: func(m string) error { banner = m; return nil }, Timeout: 5 * time.Second,
	})
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, banner, err
}

func (f *fixture) run(t *testing.T, user, command string) (out, stderr string, status int) {
	t.Helper()
	c, _, err := f.dial(t, user)
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var o, e bytes.Buffer
	s.Stdout, s.Stderr = &o, &e
	err = s.Run(command)
	if x, ok := errors.AsType[*ssh.ExitError](err); ok {
		status = x.ExitStatus()
	} else if err != nil {
		t.Fatalf("%s: %v (stderr %q)", command, err, e.String())
	}
	return o.String(), e.String(), status
}

func TestExecKeepsStreamsApartAndItsStatus(t *testing.T) {
	f := start(t)
	out, stderr, status := f.run(t, "gw-1", "x")
	if out != "out x" || stderr != "err x" || status != 7 {
		t.Errorf("got %q, %q, %d", out, stderr, status)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.shown.String(); len(s) != 10 || !strings.Contains(s, "out x") || !strings.Contains(s, "err x") {
		t.Errorf("recorded %q", s)
	}
}

func TestNoOutputIsEverEmpty(t *testing.T) {
	f := start(t)
	c, _, err := f.dial(t, "root=gw-1")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		out, err := s.Output("x")
		if _, ok := errors.AsType[*ssh.ExitError](err); !ok || string(out) != "out x" {
			t.Fatalf("run %d: %q, %v", i, out, err)
		}
	}
}

func TestInputIsHalfClosed(t *testing.T) {
	f := start(t)
	c, _, err := f.dial(t, "gw-1")
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB
	s.Stdin = bytes.NewReader(big)
	out, err := s.Output("cat")
	if err != nil || !bytes.Equal(out, big) {
		t.Errorf("%d of %d bytes came back: %v", len(out), len(big), err)
	}
}

func TestUnknownAndImpossibleDevicesAreRefusedAlike(t *testing.T) {
	f := start(t)
	for _, user := range []string{"gw-far-away", "Not A Device", "root=e2e-x", strings.Repeat("x", 300)} {
		out, stderr, status := f.run(t, user, "ls")
		if out != "" || status != 255 || stderr != "hawser: "+UnknownDevice(user)+"\n" {
			t.Errorf("%.20q: %q, %q, %d", user, out, stderr, status)
		}
	}
}

func TestTheHubHasCommandsAndNoShell(t *testing.T) {
	f := start(t)
	for _, user := range []string{"hawser", "alice"} {
		out, _, status := f.run(t, user, "ls")
		if status != 0 || !strings.Contains(out, "gw-1") || !strings.Contains(out, "site=ber") {
			t.Errorf("%s: ls: %q, %d", user, out, status)
		}
	}
	if out, _, status := f.run(t, "hawser", "help"); status != 0 || !strings.Contains(out, "alice") {
		t.Errorf("help: %q, %d", out, status)
	}
	if out, _, status := f.run(t, "hawser", "id"); status != 127 || out != "" {
		t.Errorf("id: %q, %d", out, status)
	}
	c, _, err := f.dial(t, "hawser")
	if err != nil {
		t.Fatal(err)
	}
	ch, reqs, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = ch.SendRequest("subsystem", true, payload.Subsystem{Name: "sftp"}.Marshal())
	r := <-reqs
	if r == nil || r.Type != "exit-status" || !bytes.Equal(r.Payload, []byte{0, 0, 0, 255}) {
		t.Errorf("sftp to the hub: %+v", r)
	}
}

func TestOnlyTheKeyThatSignedCounts(t *testing.T) {
	f := start(t)
	mallory := newSigner(t)
	f.keys[string(mallory.PublicKey().Marshal())] = "mallory"
	// Alice's public key is offered, and cannot sign; then mallory's signs.
	c, _, err := f.dial(t, "gw-1", offerOnly{f.alice}, mallory)
	if err == nil {
		s, _ := c.NewSession()
		_ = s.Run("x")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, claim := range f.claims {
		if claim.Identity.User == "alice" {
			t.Errorf("a claim in the name of a key that never signed: %+v", claim)
		}
	}
}

// offerOnly has the public half of a key alone: it signs with another.
type offerOnly struct{ ssh.Signer }

func (o offerOnly) Sign(r io.Reader, data []byte) (*ssh.Signature, error) {
	s, err := o.Signer.Sign(r, data)
	if err == nil {
		s.Blob[0] ^= 1
	}
	return s, err
}

func TestAStrangerIsOfferedNothingButPublicKey(t *testing.T) {
	f := start(t)
	_, err := ssh.Dial("tcp", f.addr, &ssh.ClientConfig{
		User: "gw-1", HostKeyCallback: ssh.InsecureIgnoreHostKey(),
		Auth: []ssh.AuthMethod{ssh.Password(""), ssh.KeyboardInteractive(nil)},
	})
	if err == nil || !strings.Contains(err.Error(), "attempted methods [none]") {
		t.Errorf("got %v", err)
	}
}

func TestAFullConnectionCapIsSaidInTheBanner(t *testing.T) {
	f := start(t)
	f.full = true
	_, banner, err := f.dial(t, "gw-1")
	if err == nil || !strings.Contains(banner, "2 of 2 connections") {
		t.Errorf("banner %q, err %v", banner, err)
	}
}

func TestChannelKindsAreHeldToThePlace(t *testing.T) {
	f := start(t)
	f.noShell = true
	c, _, err := f.dial(t, "gw-1")
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	s.Stderr = &stderr
	_ = s.Shell()
	err = s.Wait()
	if x, ok := errors.AsType[*ssh.ExitError](err); !ok || x.ExitStatus() != 255 || !strings.Contains(stderr.String(), "do not allow shell") {
		t.Errorf("shell: %v, stderr %q", err, stderr.String())
	}
	if _, err := c.Dial("unix", "/run/x"); err == nil {
		t.Error("a socket forward was not refused")
	}
	if _, err := c.Listen("tcp", "127.0.0.1:0"); err == nil {
		t.Error("a remote forward was not refused")
	}
}

func TestForwardsGoToTheDeviceAndNeverToTheHub(t *testing.T) {
	f := start(t)
	c, _, err := f.dial(t, "gw-1")
	if err != nil {
		t.Fatal(err)
	}
	echo(t, c, "10.0.0.1:80")
	if _, err := c.Dial("tcp", "127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("refused target: %v", err)
	}
	hub, _, err := f.dial(t, "laptop-user")
	if err != nil {
		t.Fatal(err)
	}
	echo(t, hub, "gw-1:22")
	echo(t, hub, "e2e-gw-1:22")
	for _, target := range []string{"127.0.0.1:22", "localhost:22", "169.254.169.254:80", "gw-1:80", "gw-71:22", f.addr} {
		if _, err := hub.Dial("tcp", target); err == nil {
			t.Errorf("%s: a forward by the hub itself", target)
		}
	}
}

func echo(t *testing.T, c *ssh.Client, target string) {
	t.Helper()
	n, err := c.Dial("tcp", target)
	if err != nil {
		t.Errorf("%s: %v", target, err)
		return
	}
	defer func() { _ = n.Close() }()
	_, _ = io.WriteString(n, "ping")
	_ = n.(interface{ CloseWrite() error }).CloseWrite()
	if got, err := io.ReadAll(n); err != nil || string(got) != "ping" {
		t.Errorf("%s: %q, %v", target, got, err)
	}
}

func TestSixtyFourChannelsAndNoMore(t *testing.T) {
	f := start(t)
	c, _, err := f.dial(t, "gw-1")
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxChannels {
		ch, reqs, err := c.OpenChannel("session", nil)
		if err != nil {
			t.Fatalf("channel %d: %v", i, err)
		}
		go ssh.DiscardRequests(reqs)
		_ = ch
	}
	_, _, err = c.OpenChannel("session", nil)
	if x, ok := errors.AsType[*ssh.OpenChannelError](err); !ok || x.Reason != ssh.ResourceShortage {
		t.Errorf("channel %d: %v", maxChannels+1, err)
	}
}

func TestMalformedPayloadsFailAndHarmNothing(t *testing.T) {
	f := start(t)
	c, _, err := f.dial(t, "gw-1")
	if err != nil {
		t.Fatal(err)
	}
	ch, reqs, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	huge := binary.BigEndian.AppendUint32(nil, 0xffffffff)
	for _, typ := range []string{"exec", "env", "pty-req", "subsystem", "signal", "window-change", "no-such"} {
		for _, p := range [][]byte{nil, huge, append(huge, 1), []byte("\x00\x00\x00\x01a\x00trailing")} {
			if ok, err := ch.SendRequest(typ, true, p); ok || err != nil {
				t.Errorf("%s %x: %v %v", typ, p, ok, err)
			}
		}
	}
	if ok, err := ch.SendRequest("exec", true, payload.Exec{Command: "x"}.Marshal()); !ok || err != nil {
		t.Errorf("a good request after them: %v %v", ok, err)
	}
}

func TestNoMoreSessionsIsKept(t *testing.T) {
	f := start(t)
	c, _, err := f.dial(t, "gw-1")
	if err != nil {
		t.Fatal(err)
	}
	if ok, _, err := c.SendRequest("no-more-sessions@openssh.com", true, nil); !ok || err != nil {
		t.Fatal(ok, err)
	}
	_, _, err = c.OpenChannel("session", nil)
	if x, ok := errors.AsType[*ssh.OpenChannelError](err); !ok || x.Reason != ssh.Prohibited {
		t.Errorf("got %v", err)
	}
}

func TestAKilledSessionEndsWithItsReason(t *testing.T) {
	f := start(t)
	c, _, err := f.dial(t, "gw-1")
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	s.Stderr = &stderr
	if err := s.Start("hang"); err != nil {
		t.Fatal(err)
	}
	for _, id := range f.server.Sessions() {
		f.server.Kill(id, "policy changed")
	}
	if err := s.Wait(); err == nil {
		t.Error("the session ended well")
	}
	if !strings.Contains(stderr.String(), "policy changed") {
		t.Errorf("stderr %q", stderr.String())
	}
}

// A client whose input is at its end closes the channel when it sees EOF: OpenSSH's did, before the status, once in some thousand commands.
func TestTheStatusComesBeforeTheEndOfTheOutput(t *testing.T) {
	f := start(t)
	c, _, err := f.dial(t, "gw-1")
	if err != nil {
		t.Fatal(err)
	}
	ch, requests, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ Command string }{"echo hi"})); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if _, err := io.ReadAll(ch); err != nil {
		t.Fatal(err)
	}
	select {
	case r := <-requests:
		if r == nil || r.Type != "exit-status" {
			t.Errorf("before EOF came %v", r)
		}
	default:
		t.Error("EOF came before the status")
	}
}

// Whoever starts the next command when he has seen this one end must not be refused for it.
func TestThePlaceIsGivenBackBeforeTheClientSeesTheEnd(t *testing.T) {
	f := start(t)
	f.hold = make(chan struct{})
	release := sync.OnceFunc(func() { close(f.hold) })
	t.Cleanup(release)
	c, _, err := f.dial(t, "gw-1")
	if err != nil {
		t.Fatal(err)
	}
	ch, requests, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ Command string }{"hi"})); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if _, err := io.ReadFull(ch, make([]byte, len("out hi"))); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := ch.Read(make([]byte, 1))
		ended <- err
	}()
	wait(t, "the place to be given back", func() bool { return f.held.Load() == 1 })
	// What was sent before the answer to this has been read.
	if _, _, err := c.SendRequest("keepalive@openssh.com", true, nil); err != nil {
		t.Fatal(err)
	}
	select {
	case r := <-requests:
		t.Errorf("the client has seen %v before auth was told", r)
	case err := <-ended:
		t.Errorf("the client has seen the end of the output before auth was told: %v", err)
	default:
	}
	release()
	if err := <-ended; err != io.EOF {
		t.Errorf("the output ends by %v", err)
	}
	if r := <-requests; r == nil || r.Type != "exit-status" {
		t.Errorf("then comes %v", r)
	}
}

// A lock ends a thousand, and auth can be slow. That its recording says how it ended takes that its end is told first.
func TestWhoIsKilledIsToldBeforeAuthAndAuthBeforeTheRecordingIsClosed(t *testing.T) {
	f := start(t)
	f.hold = make(chan struct{})
	c, _, err := f.dial(t, "gw-1")
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("hang"); err != nil {
		t.Fatal(err)
	}
	for _, id := range f.server.Sessions() {
		f.server.Kill(id, "policy changed")
	}
	err = s.Wait() // while auth says nothing
	if e, ok := errors.AsType[*ssh.ExitError](err); !ok || e.ExitStatus() != statusRefused {
		t.Errorf("the session ended by %v", err)
	}
	close(f.hold)
	got := ""
	wait(t, "the place and the recording", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		got = strings.Join(f.order, ", ")
		return len(f.order) == 2
	})
	if got != "place, recording" {
		t.Errorf("in this order: %s", got)
	}
}

func TestAlgorithmsAreThoseWeChose(t *testing.T) {
	f := start(t)
	for _, kex := range []string{"diffie-hellman-group14-sha1", "ecdh-sha2-nistp256", "diffie-hellman-group16-sha512"} {
		_, err := ssh.Dial("tcp", f.addr, &ssh.ClientConfig{
			Config: ssh.Config{KeyExchanges: []string{kex}}, User: "gw-1", HostKeyCallback: ssh.InsecureIgnoreHostKey(),
			Auth: []ssh.AuthMethod{ssh.PublicKeys(f.alice)},
		})
		if err == nil {
			t.Errorf("%s was accepted", kex)
		}
	}
	for _, list := range [][]string{algorithms().KeyExchanges, algorithms().Ciphers, algorithms().MACs, userAlgorithms()} {
		for _, a := range list {
			if strings.Contains(a, "sha1") || strings.Contains(a, "cbc") || a == "ssh-rsa" || a == "ssh-dss" {
				t.Errorf("%s is offered", a)
			}
		}
	}
	if m := algorithms().MACs; !strings.Contains(m[0], "etm") || !slices.Contains(m, ssh.HMACSHA256) {
		t.Errorf("MACs %v", m)
	}
}

func TestAStalledHandshakeIsCutAndHoldsUpNobody(t *testing.T) {
	f := start(t, func(c *Config) { c.HandshakeTimeout = 300 * time.Millisecond })
	n, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = n.Close() }()
	if _, _, status := f.run(t, "gw-1", "x"); status != 7 {
		t.Errorf("a good login beside it: %d", status)
	}
	_ = n.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.Copy(io.Discard, n); err != nil {
		t.Errorf("the stalled connection was not closed: %v", err)
	}
}

func TestTheGateMakesRoomByAge(t *testing.T) {
	g := gate{total: 3, perSource: 2}
	now := time.Unix(1_800_000_000, 0)
	from := func(ip string) *fakeConn { return &fakeConn{addr: &net.TCPAddr{IP: net.ParseIP(ip), Port: 1}} }
	a, b := from("192.0.2.1"), from("192.0.2.1")
	ta := g.enter(a, now)
	if ta == nil || g.enter(b, now) == nil {
		t.Fatal("refused below the bounds")
	}
	if g.enter(from("192.0.2.1"), now.Add(evictAge/2)) != nil || a.closed {
		t.Error("a young connection made room")
	}
	if g.enter(from("192.0.2.1"), now.Add(evictAge)) == nil || !a.closed || b.closed {
		t.Error("the oldest of the source did not make room")
	}
	if g.enter(from("198.51.100.7"), now.Add(evictAge)) == nil {
		t.Error("another source was refused")
	}
	g.leave(ta) // idempotent after eviction
	if len(g.waiting) != 3 {
		t.Errorf("%d in the gate", len(g.waiting))
	}
}

func TestASourceThatCrowdsTheGateMakesRoomForOneThatDoesNot(t *testing.T) {
	g := gate{total: 4, perSource: 3}
	now := time.Unix(1_800_000_000, 0)
	enter := func(ip string) *fakeConn {
		c := &fakeConn{addr: &net.TCPAddr{IP: net.ParseIP(ip), Port: 1}}
		if g.enter(c, now) == nil {
			return nil
		}
		return c
	}
	crowd := []*fakeConn{enter("192.0.2.1"), enter("192.0.2.1"), enter("192.0.2.1")}
	other := enter("192.0.2.2")
	if enter("198.51.100.7") == nil || !crowd[0].closed || crowd[1].closed || other.closed {
		t.Error("the oldest of the crowd did not make room")
	}
	if enter("198.51.100.7") != nil {
		t.Error("one of two was cut for one that would have two then")
	}
	if enter("192.0.2.1") != nil {
		t.Error("the crowd came in again")
	}
	if len(g.waiting) != 4 || g.sources[source(crowd[0].addr)] != 2 {
		t.Errorf("%d in the gate, %v", len(g.waiting), g.sources)
	}
}

type fakeConn struct {
	net.Conn
	addr   net.Addr
	closed bool
}

func (f *fakeConn) RemoteAddr() net.Addr { return f.addr }
func (f *fakeConn) Close() error         { f.closed = true; return nil }

// A client that is told that its request failed shows that and leaves, before it has read why.
func TestWhatTheDeviceRefusesIsShown(t *testing.T) {
	f := start(t)
	for range 20 {
		out, stderr, status := f.run(t, refusedGrant+"=gw-1", "ls")
		if want := "hawser: the device refused: login \"toor\": no such login\n"; out != "" || status != 255 || stderr != want {
			t.Fatalf("%q, %q, %d; want %q and 255", out, stderr, status, want)
		}
	}
}
