package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/ca"
	"hawser/auth/forwarded"
	"hawser/auth/grant"
	"hawser/auth/policy"
	"hawser/edge/forward"
	"hawser/edge/login"
	"hawser/edge/session"
)

var client = netip.MustParseAddrPort("192.0.2.7:4711")

// twin is an agent in memory: it trusts one cluster and grants everything that refuse does not name.
type twin struct {
	host  ssh.Signer
	trust *ca.Trust

	mu       sync.Mutex
	refuse   map[grant.Kind]error
	deny     map[string]bool // channel kinds the device's own policy denies
	asked    []Ask
	released [][16]byte
	remote   net.Addr // whence VerifyUser was told the person comes
	denied   []error
	limits   policy.SessionLimits
	served   Host // in the twin's place; nil: the twin
	changed  []func()
	why      []string // of the releases
}

func (w *twin) HostKey() (ssh.Signer, error) { return w.host, nil }

func (w *twin) VerifyUser(cert *ssh.Certificate, remote net.Addr) (ca.UserIdentity, error) {
	w.mu.Lock()
	w.remote = remote
	w.mu.Unlock()
	return ca.VerifyUserCert(cert, w.trust, time.Now(), remote)
}

func (w *twin) MayEnter(roles []string, _ string) error {
	if len(roles) == 0 {
		return errors.New("no roles")
	}
	return nil
}

func (w *twin) Place(_ context.Context, a Ask) (*grant.Grant, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, a)
	if err := w.refuse[a.Kind]; err != nil {
		return nil, err
	}
	g := &grant.Grant{Kind: a.Kind, SessionID: a.SessionID, ConnectionID: a.ConnectionID, User: a.Cert.KeyId, Login: a.Login}
	g.NotBefore, g.NotAfter = grant.Window(time.Now())
	return g, nil
}

func (w *twin) Forwarded(*grant.Grant, forwarded.Report) func(int64, int64) {
	return func(int64, int64) {}
}

func (w *twin) Release(id [16]byte, _ uint32, why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.why = append(w.why, why)
	w.released = append(w.released, id)
}

func (w *twin) Denied(_, _ string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.denied = append(w.denied, err)
}

// told waits until why a connection came to nothing was told.
func (w *twin) told(t *testing.T) error {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		w.mu.Lock()
		n := len(w.denied)
		var err error
		if n > 0 {
			err, w.denied = w.denied[0], nil
		}
		w.mu.Unlock()
		if n > 0 {
			return err
		}
	}
	t.Fatal("nobody was told")
	return nil
}

func (w *twin) Allow(_ *grant.Grant, kind string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.deny[kind] {
		return errors.New("denied by policy")
	}
	return nil
}

func (w *twin) Moderated(ctx context.Context, _ *grant.Grant, _, _ string) (context.Context, func(), error) {
	return ctx, func() {}, nil
}

func (w *twin) Access(*grant.Grant) (forward.Access, error) { return policy.Targets{}, nil }

func (w *twin) Enter(ctx context.Context, _ [16]byte) (context.Context, func()) {
	return context.WithCancel(ctx)
}

func (w *twin) Limits() policy.SessionLimits {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.limits
}

func (w *twin) OnPolicy(f func()) func() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changed = append(w.changed, f)
	return func() {}
}

func (w *twin) MaxChannels() int { return 0 }

func (w *twin) Now() time.Time { return time.Now() }

// Serve answers exec with its command and status 7.
func (w *twin) Serve(_ context.Context, ch *Session, _ *grant.Grant, p session.Params) session.Result {
	for r := range ch.Requests() {
		if r.Type != "exec" {
			_ = r.Reply(false)
			continue
		}
		_ = r.Reply(true)
		if err := p.Allow(policy.Exec); err != nil {
			_, _ = io.WriteString(ch.Stderr(), err.Error())
		}
		_, _ = ch.Write(r.Payload[4:])
		_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{7}))
		break
	}
	return session.Result{Status: 7}
}

// unreleased are the connections and sessions granted and not given back.
func (w *twin) unreleased() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.asked {
		if a.Kind == grant.Connection && w.refuse[a.Kind] == nil || a.Kind == grant.Session && w.refuse[a.Kind] == nil {
			n++
		}
	}
	return n - len(w.released)
}

// person is a person's key and certificate, and the cluster's authorities.
type person struct {
	set  *ca.Set
	key  ssh.Signer
	cert *ssh.Certificate
}

func cluster(t *testing.T) (*twin, *person) {
	t.Helper()
	set, err := ca.NewSet("ber.example", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	trust := set.Trust(1)
	_, hostKey, _ := ed25519.GenerateKey(nil)
	host, err := ssh.NewSignerFromSigner(hostKey)
	if err != nil {
		t.Fatal(err)
	}
	_, userKey, _ := ed25519.GenerateKey(nil)
	key, err := ssh.NewSignerFromSigner(userKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := set.IssueUser(ca.UserRequest{Name: "alice", Roles: []string{"admin"}, Key: key.PublicKey(), TTL: time.Hour, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return &twin{host: host, trust: &trust, refuse: map[grant.Kind]error{}, deny: map[string]bool{}}, &person{set, key, cert}
}

func me(t *testing.T) string {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return u.Username
}

// dial serves one connection and connects to it; the banner is what the server said before it refused.
func (w *twin) dial(t *testing.T, login string, auth ssh.Signer) (conn *ssh.Client, banner string, err error) {
	t.Helper()
	near, far := pipe(t)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		host := Host(w)
		if w.served != nil {
			host = w.served
		}
		served <- Serve(ctx, far, Params{Host: host, Client: client, Server: netip.MustParseAddrPort("198.51.100.1:22")})
	}()
	t.Cleanup(func() {
		near.Close()
		cancel()
		select {
		case <-served:
		case <-time.After(10 * time.Second):
			t.Error("Serve did not end")
		}
	})
	c, chans, reqs, err := ssh.NewClientConn(near, "device", &ssh.ClientConfig{
		User: login, Auth: []ssh.AuthMethod{ssh.PublicKeys(auth)}, HostKeyCallback: ssh.FixedHostKey(w.host.PublicKey()),
		BannerCallback: func(text string) error { banner += text; return nil },
	})
	if err != nil {
		return nil, banner, err
	}
	return ssh.NewClient(c, chans, reqs), banner, nil
}

// pipe is a connection on loopback: both sides of SSH write first, which net.Pipe would not have.
func pipe(t *testing.T) (near, far net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if near, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return near, far
}

func (p *person) signer(t *testing.T) ssh.Signer {
	t.Helper()
	s, err := ssh.NewCertSigner(p.cert, p.key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestASessionHasAPlaceOfItsOwnAndGivesItBack(t *testing.T) {
	w, p := cluster(t)
	c, _, err := w.dial(t, me(t), p.signer(t))
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.Output("hello")
	if e, ok := errors.AsType[*ssh.ExitError](err); !ok || e.ExitStatus() != 7 || string(out) != "hello" {
		t.Errorf("%q, %v", out, err)
	}
	c.Close()
	_ = c.Wait()
	w.mu.Lock()
	if len(w.asked) != 2 || w.asked[0].Kind != grant.Connection || w.asked[1].Kind != grant.Session ||
		w.asked[1].ConnectionID != w.asked[0].ConnectionID || w.asked[1].ClientAddr != client {
		t.Errorf("asked for %+v", w.asked)
	}
	if a, ok := w.remote.(*net.TCPAddr); !ok || a.AddrPort() != client {
		t.Errorf("the certificate was judged as coming from %v", w.remote)
	}
	w.mu.Unlock()
	eventually(t, func() bool { return w.unreleased() == 0 }, "the places to be given back")
}

func TestOnlyACertificateOfTheUserCAIsAccepted(t *testing.T) {
	w, p := cluster(t)
	_, stranger := cluster(t)
	host, err := ssh.NewCertSigner(stranger.cert, stranger.key)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		auth ssh.Signer
		why  error
	}{{"a bare key", p.key, ca.ErrNoCertificate}, {"a certificate of another cluster", host, ca.ErrUnknownCA}} {
		if _, _, err := w.dial(t, me(t), tt.auth); err == nil {
			t.Errorf("%s was accepted", tt.name)
		}
		if why := w.told(t); !errors.Is(why, tt.why) {
			t.Errorf("%s: told %v, want %v", tt.name, why, tt.why)
		}
	}
	if len(w.asked) > 0 {
		t.Errorf("places were asked for: %+v", w.asked)
	}
}

// The offered key is not the one that signed: whoever holds alice's certificate without her key is nobody.
func TestACertificateWithoutItsKeyOpensNothing(t *testing.T) {
	w, p := cluster(t)
	_, other := cluster(t)
	if _, _, err := w.dial(t, me(t), &thief{p.signer(t), other.key}); err == nil {
		t.Error("accepted")
	}
	if why := w.told(t); !errors.Is(why, ErrUnproven) {
		t.Errorf("told %v", why)
	}
	if len(w.asked) > 0 {
		t.Errorf("places were asked for: %+v", w.asked)
	}
}

// thief shows a certificate and signs with another key.
type thief struct {
	ssh.Signer
	key ssh.Signer
}

func (s *thief) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return s.key.Sign(rand, data)
}

func TestARefusedConnectionSaysWhyInABanner(t *testing.T) {
	w, p := cluster(t)
	w.refuse[grant.Connection] = &Refusal{Message: "at the cap of 2"}
	_, banner, err := w.dial(t, me(t), p.signer(t))
	if err == nil || !strings.Contains(banner, "at the cap of 2") {
		t.Errorf("banner %q, %v", banner, err)
	}
}

func TestARefusedSessionSaysWhyOnStderrAndEndsWith255(t *testing.T) {
	w, p := cluster(t)
	w.refuse[grant.Session] = &Refusal{Message: "no more sessions"}
	c, _, err := w.dial(t, me(t), p.signer(t))
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	s.Stderr = &stderr
	err = s.Run("id")
	if e, ok := errors.AsType[*ssh.ExitError](err); !ok || e.ExitStatus() != 255 || !strings.Contains(stderr.String(), "no more sessions") {
		t.Errorf("%q, %v", stderr.String(), err)
	}
}

// A login that the device does not have was found out after the place was granted, for each key anew.
func TestALoginThatIsNotHereIsRefusedBeforeAPlaceIsAskedFor(t *testing.T) {
	w, p := cluster(t)
	_, banner, err := w.dial(t, "no-such-login", p.signer(t))
	if err == nil || !strings.Contains(banner, "no such login") {
		t.Errorf("banner %q, %v", banner, err)
	}
	if err := w.told(t); !errors.Is(err, login.ErrUnknown) || len(w.asked) != 0 {
		t.Errorf("the hub is told %v, and asked for %d places", err, len(w.asked))
	}
}

func TestForwardsAskPolicyAndPassBytes(t *testing.T) {
	w, p := cluster(t)
	c, _, err := w.dial(t, me(t), p.signer(t))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		_, _ = io.Copy(nc, nc)
	}()
	nc, err := c.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := io.WriteString(nc, "ping"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(nc, got); err != nil || string(got) != "ping" {
		t.Errorf("%q, %v", got, err)
	}
	w.mu.Lock()
	w.deny[policy.SocketForward] = true
	w.mu.Unlock()
	if _, err := c.Dial("unix", "/nonexistent"); err == nil || !strings.Contains(err.Error(), "not allowed") {
		t.Errorf("a denied forward: %v", err)
	}
}

func TestAListenerOnTheDeviceReachesThePerson(t *testing.T) {
	w, p := cluster(t)
	c, _, err := w.dial(t, me(t), p.signer(t))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := c.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	near, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(far, "hi"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 2)
	if _, err := io.ReadFull(near, got); err != nil || string(got) != "hi" {
		t.Errorf("%q, %v", got, err)
	}
	if err := ln.Close(); err != nil {
		t.Errorf("cancel: %v", err)
	}
	eventually(t, func() bool {
		nc, err := net.Dial("tcp", ln.Addr().String())
		if err == nil {
			nc.Close()
		}
		return err != nil
	}, "the listener to be gone")
}

// Who connects on the device to what somebody listens for must not fill its memory, by however many listeners.
func TestConnectionsToAllListenersOfOnePersonAreBounded(t *testing.T) {
	w, p := cluster(t)
	c, _, err := w.dial(t, me(t), p.signer(t))
	if err != nil {
		t.Fatal(err)
	}
	opens := c.HandleChannelOpen("forwarded-tcpip")
	var at []string
	for range 2 { // before any channel comes: while nobody takes those, no answer passes them
		_, answer, err := c.SendRequest("tcpip-forward", true, ssh.Marshal(struct {
			Host string
			Port uint32
		}{"127.0.0.1", 0}))
		if err != nil || len(answer) != 4 {
			t.Fatalf("%x, %v", answer, err)
		}
		at = append(at, net.JoinHostPort("127.0.0.1", strconv.Itoa(int(binary.BigEndian.Uint32(answer)))))
	}
	for _, to := range at {
		for range maxWaiting {
			nc, err := net.Dial("tcp", to)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { nc.Close() })
		}
	}
	pending := 0
	for range maxWaiting - 1 { // at the least: the other listener may be about to accept
		<-opens
		pending++
	}
	for settled := time.After(200 * time.Millisecond); settled != nil; {
		select {
		case <-opens:
			pending++
		case <-settled:
			settled = nil
		}
	}
	if pending > maxWaiting {
		t.Errorf("%d channels are being opened to one person, want at most %d", pending, maxWaiting)
	}
}

func TestOneChannelTooManyIsRefusedAtOnce(t *testing.T) {
	w, p := cluster(t)
	c, _, err := w.dial(t, me(t), p.signer(t))
	if err != nil {
		t.Fatal(err)
	}
	for range maxChannels {
		if _, err := c.NewSession(); err != nil {
			t.Fatal(err)
		}
	}
	_, err = c.NewSession()
	if e, ok := errors.AsType[*ssh.OpenChannelError](err); !ok || e.Reason != ssh.ResourceShortage {
		t.Errorf("got %v", err)
	}
}

func eventually(t *testing.T, is func() bool, what string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 10 s for %s", what)
		}
	}
}
