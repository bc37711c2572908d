package front

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/policy"
)

// reasons are what auth was told of the ends.
func (b *twin) reasons() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.ended, "\n")
}

// gone waits until a connection has ended.
func gone(t *testing.T, c *ssh.Client) {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		_ = c.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the connection is still there")
	}
}

func TestAnIdleSessionEndsAndSaysWhyThereAndToAuth(t *testing.T) {
	f := start(t)
	f.ofSession.Idle = 200 * time.Millisecond
	begun := time.Now()
	_, stderr, status := f.run(t, "gw-1", "hang")
	const want = "idle for 200ms, which is as long as your roles allow (idle_timeout)"
	if took := time.Since(begun); status != 255 || !strings.Contains(stderr, want) || took > 5*time.Second {
		t.Errorf("status %d after %v, %q", status, took, stderr)
	}
	wait(t, "auth to be told", func() bool { return strings.Contains(f.reasons(), want) })
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.killed) == 0 || f.killed[0] != want {
		t.Errorf("the device was told %q", f.killed)
	}
}

func TestASessionAtAPromptIsWarnedThere(t *testing.T) {
	f := start(t)
	f.ofSession.Idle = 2 * time.Second
	x, _ := f.terminal(t, true, "print # ")
	const warning = "\r\nhawser: this session ends in 1s unless you type something\r\n"
	wait(t, "warning", func() bool { return x.shown() == "# "+warning })
	_, _ = x.in.Write([]byte("k"))
	wait(t, "the next warning", func() bool { return x.shown() == "# "+warning+"k"+warning })
	f.mu.Lock()
	recorded := f.twin.shown.String()
	f.mu.Unlock()
	if recorded != "# k" {
		t.Errorf("recorded %q", recorded)
	}
}

func TestAConnectionWithoutASessionEndsWhenItsForwardsCarryNothing(t *testing.T) {
	f := start(t)
	f.ofConn.Idle = 300 * time.Millisecond
	begun := time.Now()
	quiet, _, err := f.dial(t, "gw-1")
	if err != nil {
		t.Fatal(err)
	}
	gone(t, quiet)
	if took := time.Since(begun); took < 300*time.Millisecond {
		t.Errorf("a connection without channels lasted %v", took)
	}
	wait(t, "auth to be told", func() bool { return strings.Contains(f.reasons(), "idle for 300ms") })

	busy, _, err := f.dial(t, "gw-1")
	if err != nil {
		t.Fatal(err)
	}
	nc, err := busy.Dial("tcp", "127.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	for range 10 { // longer than the limit, in all
		time.Sleep(50 * time.Millisecond)
		if _, err := nc.Write([]byte{'x'}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(nc, b); err != nil {
			t.Fatal(err)
		}
	}
	wait(t, "all to be counted", func() bool {
		for _, s := range f.server.States() {
			if s.Kind == Connection && s.BytesIn == 10 && s.BytesOut == 10 && time.Since(s.LastActivity) < 5*time.Second {
				return true
			}
		}
		return false
	})
	gone(t, busy)

	// A session is judged by itself, and keeps its connection.
	held, _, err := f.dial(t, "gw-1")
	if err != nil {
		t.Fatal(err)
	}
	s, err := held.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("hang"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(600 * time.Millisecond)
	if _, _, err := held.SendRequest("keepalive@openssh.com", true, nil); err != nil {
		t.Errorf("a connection with a session ended: %v", err)
	}
	_ = s.Close()
	gone(t, held)
}

func TestAnOldConnectionOpensNothingMoreAndEndsWithItsLastSession(t *testing.T) {
	f := start(t)
	f.ofConn.Duration = 300 * time.Millisecond
	c, _, err := f.dial(t, "gw-1")
	if err != nil {
		t.Fatal(err)
	}
	last, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := last.Start("hang"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(400 * time.Millisecond)
	late, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	late.Stderr = &stderr
	if err := late.Run("x"); err == nil || !strings.Contains(stderr.String(), "open for 300ms, which is as long as your roles allow (max_session_duration); connect again") {
		t.Errorf("another session: %v, %q", err, stderr.String())
	}
	if _, err := c.Dial("tcp", "127.0.0.1:80"); err == nil || !strings.Contains(err.Error(), "max_session_duration") {
		t.Errorf("a forward: %v", err)
	}
	_ = last.Close()
	gone(t, c)
}

func TestLimitsThatChangeHoldForWhatIsOpen(t *testing.T) {
	var mu sync.Mutex
	limits, known := policy.SessionLimits{}, false
	f := start(t, func(c *Config) {
		c.Limits = func(what Live, wanted string) (policy.SessionLimits, bool) {
			mu.Lock()
			defer mu.Unlock()
			if what.Kind == Connection {
				return policy.SessionLimits{}, wanted == "gw-1"
			}
			return limits, known && what.Device == gwUUID && what.Login == "root"
		}
	})
	f.ofConn.Duration = time.Millisecond // not what holds: Limits knows better
	ended := make(chan string, 1)
	go func() {
		_, stderr, status := f.run(t, "gw-1", "hang")
		ended <- fmt.Sprint(status, " ", stderr)
	}()
	wait(t, "the session", func() bool { return len(f.server.States()) == 2 })
	f.server.Recheck()
	mu.Lock()
	limits.Duration, known = time.Millisecond, true
	mu.Unlock()
	f.server.Recheck()
	if got := <-ended; !strings.HasPrefix(got, "255") || !strings.Contains(got, "open for 1ms") {
		t.Error(got)
	}
}

// slow is a backend whose Admit of sessions takes until it is released.
type slow struct {
	*twin
	admitting chan struct{}
	release   chan struct{}
}

func (b *slow) Admit(ctx context.Context, c Claim) (*Place, error) {
	if c.Kind == Session {
		close(b.admitting)
		select {
		case <-b.release:
		case <-ctx.Done():
		}
	}
	return b.twin.Admit(ctx, c)
}

func TestWhatIsBeingOpenedIsKilledToo(t *testing.T) {
	for name, end := range map[string]func(*Server){
		"of a user":   func(s *Server) { s.EndUser("alice", "ended by admin") },
		"on a device": func(s *Server) { s.EndDevice(gwUUID, "gw-1", "ended by admin") },
	} {
		b := &slow{admitting: make(chan struct{}), release: make(chan struct{})}
		f := start(t, func(c *Config) { b.twin = c.Backend.(*twin); c.Backend = b })
		ended := make(chan string, 1)
		go func() {
			_, stderr, status := f.run(t, "gw-1", "hang")
			ended <- fmt.Sprint(status, " ", stderr)
		}()
		<-b.admitting
		begun := time.Now()
		end(f.server)
		select {
		case got := <-ended:
			if !strings.HasPrefix(got, "255") || !strings.Contains(got, "ended by admin") || time.Since(begun) > time.Second {
				t.Errorf("%s: %q after %v", name, got, time.Since(begun))
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s: it goes on", name)
		}
		close(b.release)
	}
}

func TestEndDeviceEndsItsSessionsAndForwardsAndNothingElse(t *testing.T) {
	f := start(t)
	x, _ := f.terminal(t, false, "cat")
	c, _, err := f.dial(t, "gw-1")
	if err != nil {
		t.Fatal(err)
	}
	nc, err := c.Dial("tcp", "127.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	f.server.EndDevice([16]byte{7}, "other", "no reason")
	_, _ = x.in.Write([]byte("x"))
	wait(t, "echo", func() bool { return x.shown() == "x" })
	f.server.EndDevice(gwUUID, "gw-1", "ended by admin")
	if err := x.Wait(); err == nil {
		t.Error("the session ended well")
	}
	_ = nc.SetReadDeadline(time.Time{})
	if _, err := nc.Read(make([]byte, 1)); err == nil {
		t.Error("the forward goes on")
	}
	if _, _, err := c.SendRequest("keepalive@openssh.com", true, nil); err != nil {
		t.Errorf("its connection ended: %v", err)
	}
}

func TestWhatPassesInASessionIsCounted(t *testing.T) {
	f := start(t)
	x, _ := f.terminal(t, false, "cat")
	_, _ = x.in.Write(bytes.Repeat([]byte("x"), 100_000))
	wait(t, "echo", func() bool { return len(x.shown()) == 100_000 })
	wait(t, "all to be counted", func() bool {
		for _, s := range f.server.States() {
			if s.Kind == Session && s.BytesIn == 100_000 && s.BytesOut == 100_000 && time.Since(s.LastActivity) < 10*time.Second {
				return true
			}
		}
		return false
	})
}

func TestWhatPassesEndToEndIsCountedAsTheHubSeesIt(t *testing.T) {
	f := start(t)
	c, _, err := f.dial(t, "hawser")
	if err != nil {
		t.Fatal(err)
	}
	nc, err := c.Dial("tcp", "gw-1:22")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Write([]byte("12345")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(nc, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	var pipes map[PipeKey][2]uint64
	wait(t, "both counted", func() bool {
		pipes = f.server.Pipes()
		for _, n := range pipes {
			return n == [2]uint64{5, 5}
		}
		return false
	})
	for key, n := range pipes {
		if key.Device != gwUUID || key.Client.Addr() != netip.MustParseAddr("127.0.0.1") {
			t.Errorf("%+v: %v", key, n)
		}
	}
	if len(pipes) != 1 {
		t.Errorf("%d pipes", len(pipes))
	}
	_ = nc.Close()
	wait(t, "its end", func() bool { return len(f.server.Pipes()) == 0 })
}
