package front

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/tunnel"
	"hawser/tunnel/tunneltest"
	"hawser/tunnel/wire"
)

// cut ends the device's tunnel without a word.
func (f *fixture) cut() {
	f.mu.Lock()
	conn := f.conn
	f.mu.Unlock()
	f.route(nil)
	if conn != nil {
		_ = conn.CloseWithError(wire.CloseIdle, "cut")
	}
}

// heal gives the device another tunnel; with none before it, or make before break.
func (f *fixture) heal(t *testing.T) {
	hub, edge := tunneltest.Pair(t)
	f.edge.serve(t, edge)
	f.mu.Lock()
	old := f.conn
	f.mu.Unlock()
	f.route(hub)
	if old != nil {
		_ = old.CloseWithError(wire.CloseSuperseded, "a newer tunnel of this device")
	}
}

// wait waits until ok.
func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no " + what)
		}
	}
}

// terminal is a session whose output is kept.
type terminal struct {
	*ssh.Session
	in  io.WriteCloser
	mu  sync.Mutex
	out bytes.Buffer
}

func (x *terminal) Write(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.out.Write(p)
}

func (x *terminal) shown() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.out.String()
}

func (f *fixture) terminal(t *testing.T, pty bool, command string, env ...string) (*terminal, *ssh.Client) {
	t.Helper()
	c, _, err := f.dial(t, "gw-1")
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	x := &terminal{Session: s}
	s.Stdout, s.Stderr = x, x
	if x.in, err = s.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if pty {
		if err := s.RequestPty("xterm", 24, 80, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		if err := s.Setenv(name, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Start(command); err != nil {
		t.Fatal(err)
	}
	return x, c
}

// The promise: a session goes on over whatever tunnels its device comes back with, and not a byte is lost or comes twice.
func TestASessionOutlivesItsTunnels(t *testing.T) {
	f := start(t)
	x, _ := f.terminal(t, false, "cat")
	const total = 8 << 20
	sum := func(r io.Reader, w io.Writer) hash.Hash {
		h := sha256.New()
		_, _ = io.Copy(io.MultiWriter(h, w), r)
		return h
	}
	var sent hash.Hash
	done := make(chan struct{})
	go func() {
		defer close(done)
		sent = sum(io.LimitReader(rand.NewChaCha8([32]byte{7}), total), x.in)
		_ = x.in.Close()
	}()
	r := rand.New(rand.NewPCG(1, 2))
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-time.After(time.Duration(r.IntN(20)) * time.Millisecond):
			if r.IntN(2) == 0 {
				f.cut()
			}
			f.heal(t)
		}
	}
	if err := x.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := sum(strings.NewReader(x.shown()), io.Discard); len(x.shown()) != total || !bytes.Equal(got.Sum(nil), sent.Sum(nil)) {
		t.Errorf("%d bytes came back, and not those of %d", len(x.shown()), total)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shown.String() != x.shown() {
		t.Error("the recording is not what was shown")
	}
}

func TestAForwardOutlivesItsTunnels(t *testing.T) {
	f := start(t)
	c, _, err := f.dial(t, "gw-1")
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"127.0.0.1:80", "gw-1:22"} {
		nc, err := c.Dial("tcp", target)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 10 {
			f.cut()
			word := fmt.Sprintf("word %d", i)
			if _, err := nc.Write([]byte(word)); err != nil {
				t.Fatal(err)
			}
			f.heal(t)
			b := make([]byte, len(word))
			if _, err := io.ReadFull(nc, b); err != nil || string(b) != word {
				t.Fatalf("%s: %q, %v", target, b, err)
			}
		}
		_ = nc.Close()
	}
}

func TestTheHubAnswersKeepalivesWhileTheDeviceIsAway(t *testing.T) {
	f := start(t)
	x, c := f.terminal(t, false, "cat")
	f.cut()
	for range 3 {
		if ok, _, err := c.SendRequest("keepalive@openssh.com", true, nil); !ok || err != nil {
			t.Fatalf("connection's: %v, %v", ok, err)
		}
		if ok, err := x.SendRequest("keepalive@openssh.com", true, nil); !ok || err != nil {
			t.Fatalf("channel's: %v, %v", ok, err)
		}
	}
}

// A person who leaves while the device is away leaves no process behind, if it comes back soon.
func TestTheDeviceLearnsOfAnEndItMissed(t *testing.T) {
	for _, how := range []string{"session", "forward"} {
		f := start(t)
		x, c := f.terminal(t, false, "hang")
		if how == "forward" {
			_ = x.Close()
			wait(t, "end", func() bool { return f.edge.live() == 0 })
			if _, err := c.Dial("tcp", "127.0.0.1:80"); err != nil {
				t.Fatal(err)
			}
		}
		wait(t, "stream", func() bool { return f.edge.live() == 1 })
		f.cut()
		_ = c.Close()
		f.heal(t)
		wait(t, "end of the "+how, func() bool { return f.edge.live() == 0 })
	}
}

// live is how many streams' programs still run.
func (e *edgeTwin) live() (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, s := range e.streams {
		select {
		case <-s.Done():
			delete(e.streams, id)
		default:
			n++
		}
	}
	return n
}

func TestADeviceThatForgotASessionEndsIt(t *testing.T) {
	f := start(t)
	x, _ := f.terminal(t, false, "cat")
	_, _ = x.in.Write([]byte("x"))
	wait(t, "echo", func() bool { return x.shown() == "x" })
	f.cut()
	f.edge.end(errors.New("restarted"))
	f.heal(t)
	err := x.Wait()
	if e, ok := errors.AsType[*ssh.ExitError](err); !ok || e.ExitStatus() != 255 || !strings.Contains(x.shown(), "restarted") {
		t.Errorf("%v: %q", err, x.shown())
	}
}

func TestWhatARemovedDeviceHadOpenEnds(t *testing.T) {
	for _, away := range []bool{false, true} {
		f := start(t)
		x, _ := f.terminal(t, false, "cat")
		_, _ = x.in.Write([]byte("x"))
		wait(t, "echo", func() bool { return x.shown() == "x" })
		c, _, err := f.dial(t, "gw-1")
		if err != nil {
			t.Fatal(err)
		}
		var pipes []net.Conn
		for _, target := range []string{"127.0.0.1:80", "gw-1:22"} {
			nc, err := c.Dial("tcp", target)
			if err != nil {
				t.Fatal(err)
			}
			pipes = append(pipes, nc)
		}
		if away {
			f.cut()
			wait(t, "detached session", func() bool {
				return slices.ContainsFunc(f.server.States(), func(s State) bool { return !s.DetachedSince.IsZero() })
			})
		}
		begun := time.Now()
		f.mu.Lock()
		f.removed = true
		f.mu.Unlock()
		f.cut() // and the routes change
		err = x.Wait()
		if e, ok := errors.AsType[*ssh.ExitError](err); !ok || e.ExitStatus() != 255 || !strings.Contains(x.shown(), "the device was removed from the cluster") {
			t.Errorf("away %v: %v: %q", away, err, x.shown())
		}
		for _, nc := range pipes {
			if _, err := io.ReadAll(nc); err != nil {
				t.Error(err)
			}
		}
		wait(t, "end of the session", func() bool { return len(f.server.Sessions()) == 2 }) // the connections
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("away %v: it took %s", away, took)
		}
	}
}

func TestAKillIsSaidWhileTheDeviceIsAway(t *testing.T) {
	f := start(t)
	x, _ := f.terminal(t, true, "print hello\r\n")
	wait(t, "output", func() bool { return x.shown() == "hello\r\n" })
	f.cut()
	for _, s := range f.server.States() {
		if s.Kind == Session {
			f.server.Kill(s.ID, "ended by mallory")
		}
	}
	wait(t, "word of it", func() bool { return strings.Contains(x.shown(), "ended by mallory") })
}

func TestASessionWaitsNoLongerThanItsRolesSay(t *testing.T) {
	for life, least := range map[time.Duration]time.Duration{0: 0, 200 * time.Millisecond: 200 * time.Millisecond} {
		f := start(t)
		f.life = life
		x, _ := f.terminal(t, false, "cat")
		_, _ = x.in.Write([]byte("x"))
		wait(t, "echo", func() bool { return x.shown() == "x" })
		begin := time.Now()
		f.cut()
		err := x.Wait()
		if e, ok := errors.AsType[*ssh.ExitError](err); !ok || e.ExitStatus() != 255 || !strings.Contains(x.shown(), "away for longer") {
			t.Errorf("%v: %v: %q", life, err, x.shown())
		}
		if took := time.Since(begin); took < least || took > least+3*time.Second {
			t.Errorf("%v: ended after %v", life, took)
		}
	}
}

func TestStatesTellWhichSessionsAreDetached(t *testing.T) {
	var mu sync.Mutex
	changes := 0
	f := start(t, func(c *Config) {
		c.StatesChanged = func() { mu.Lock(); changes++; mu.Unlock() }
	})
	x, _ := f.terminal(t, false, "cat")
	_, _ = x.in.Write([]byte("x"))
	wait(t, "echo", func() bool { return x.shown() == "x" })
	states := func() (session, connection State) {
		for _, s := range f.server.States() {
			if s.Kind == Session {
				session = s
			} else {
				connection = s
			}
		}
		return session, connection
	}
	s, c := states()
	if s.User != "alice" || s.Device != gwUUID || s.Login != "root" || s.Channel != "exec" || s.Command != "cat" || !s.Recorded ||
		s.Connection != c.ID || s.Started.IsZero() || !s.DetachedSince.IsZero() || c.User != "alice" || c.Started.IsZero() {
		t.Errorf("%+v\n%+v", s, c)
	}
	mu.Lock()
	before := changes
	mu.Unlock()
	f.cut()
	wait(t, "detached session", func() bool { s, _ := states(); return !s.DetachedSince.IsZero() })
	f.heal(t)
	wait(t, "attached session", func() bool { s, _ := states(); return s.DetachedSince.IsZero() })
	wait(t, "report of either", func() bool { mu.Lock(); defer mu.Unlock(); return changes >= before+2 })
}

func TestALostLinkIsSaidAtATerminalOnly(t *testing.T) {
	const lost, back = "hawser: the link to gw-1 is lost, waiting for it\r\n", "hawser: the link to gw-1 is back\r\n"
	for _, c := range []struct {
		name, output string
		pty, off     bool
		env          []string
		told         bool
	}{
		{name: "at a line's start", output: "hello\r\n", pty: true, told: true},
		{name: "behind a prompt", output: "# ", pty: true},
		{name: "on the alternate screen", output: "\x1b[?1049h\r\n", pty: true},
		{name: "without a terminal", output: "hello\r\n"},
		{name: "switched off by the hub", output: "hello\r\n", pty: true, off: true},
		{name: "switched off by the person", output: "hello\r\n", pty: true, env: []string{"HAWSER_NOTICE=off"}},
	} {
		f := start(t, func(o *Config) { o.NoticeAfter, o.NoNotice = 10*time.Millisecond, c.off })
		x, _ := f.terminal(t, c.pty, "print "+c.output, c.env...)
		wait(t, "output", func() bool { return x.shown() == c.output })
		f.cut()
		want := c.output
		if c.told {
			want += lost
			wait(t, "notice", func() bool { return x.shown() == want })
		} else {
			time.Sleep(50 * time.Millisecond)
		}
		f.heal(t)
		if c.told {
			want += back
			wait(t, "second notice", func() bool { return x.shown() == want })
		}
		_, _ = x.in.Write([]byte("more"))
		_ = x.in.Close()
		if err := x.Wait(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if want += "more"; x.shown() != want {
			t.Errorf("%s: shown %q, want %q", c.name, x.shown(), want)
		}
		f.mu.Lock()
		if got := f.twin.shown.String(); got != c.output+"more" {
			t.Errorf("%s: recorded %q", c.name, got)
		}
		f.mu.Unlock()
	}
}

// A route that came is tried at once, and one that never answers does not hold up the next.
func TestARouteThatAnswersNothingIsLeftForABetterOne(t *testing.T) {
	f := start(t)
	x, _ := f.terminal(t, false, "cat")
	_, _ = x.in.Write([]byte("x"))
	wait(t, "echo", func() bool { return x.shown() == "x" })
	f.cut()
	for range 3 {
		dead, _ := tunneltest.Pair(t)
		f.route(dead)
	}
	begin := time.Now()
	hub, edge := tunneltest.Pair(t)
	f.edge.serve(t, edge)
	f.route(hub)
	_, _ = x.in.Write([]byte("y"))
	wait(t, "echo", func() bool { return x.shown() == "xy" })
	if took := time.Since(begin); took > time.Second {
		t.Errorf("took %v", took)
	}
}

// quieten makes the device's tunnel silent, or not, with a better one beside it unless that is nil.
func (f *fixture) quieten(silent bool, better tunnel.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.silent, f.better = silent, better
	close(f.changed)
	f.changed = make(chan struct{})
}

func TestASilentDeviceIsSaidToBeAway(t *testing.T) {
	f := start(t, func(c *Config) { c.NoticeAfter = 10 * time.Millisecond })
	x, _ := f.terminal(t, true, "print hello\r\n")
	wait(t, "output", func() bool { return x.shown() == "hello\r\n" })
	away := func() bool {
		for _, s := range f.server.States() {
			if !s.DetachedSince.IsZero() {
				return true
			}
		}
		return false
	}
	f.quieten(true, nil)
	wait(t, "notice", func() bool { return strings.Contains(x.shown(), "is lost") })
	wait(t, "state", away)
	f.quieten(false, nil)
	wait(t, "second notice", func() bool { return strings.Contains(x.shown(), "is back") })
	wait(t, "state", func() bool { return !away() })
}

// A standby that carried nothing for a while may be as dead as the active tunnel, and not known to be.
func TestADeviceIsAwayWhoseStandbyDoesNotAnswerEither(t *testing.T) {
	f := start(t, func(c *Config) { c.NoticeAfter = 10 * time.Millisecond })
	x, _ := f.terminal(t, true, "print hello\r\n")
	wait(t, "output", func() bool { return x.shown() == "hello\r\n" })
	f.quieten(true, deadConn{})
	wait(t, "notice", func() bool { return strings.Contains(x.shown(), "is lost") })
	hub, edge := tunneltest.Pair(t)
	f.edge.serve(t, edge)
	f.quieten(true, hub)
	wait(t, "second notice", func() bool { return strings.Contains(x.shown(), "is back") })
	f.quieten(false, nil)
	_, _ = x.in.Write([]byte("y"))
	wait(t, "echo", func() bool { return strings.HasSuffix(x.shown(), "y") })
}

// deadConn opens no stream.
type deadConn struct{ tunnel.Conn }

func (deadConn) OpenStream(context.Context) (tunnel.Stream, error) { return nil, errNoAnswer }

// A standby at another hub is used as soon as the active tunnel says nothing, whether or not that is lost in the end.
func TestASessionLeavesASilentTunnelForABetterOne(t *testing.T) {
	f := start(t)
	x, _ := f.terminal(t, false, "cat")
	_, _ = x.in.Write([]byte("x"))
	wait(t, "echo", func() bool { return x.shown() == "x" })
	hub, edge := tunneltest.Pair(t)
	f.edge.serve(t, edge)
	f.quieten(true, hub)
	wait(t, "move", func() bool { f.edge.mu.Lock(); defer f.edge.mu.Unlock(); return f.edge.resumed == 1 })
	_ = f.conn.CloseWithError(wire.CloseIdle, "nobody needs it any more")
	_, _ = x.in.Write([]byte("y"))
	wait(t, "echo", func() bool { return x.shown() == "xy" })
	for _, s := range f.server.States() {
		if !s.DetachedSince.IsZero() {
			t.Error("said to be away")
		}
	}
}
