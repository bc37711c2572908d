package fault_test

import (
	"bytes"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"hawser/test/harness"
)

// A command that ends while its device is away has its output and its exit code delivered, when the device is back.
func TestWhatEndedMeanwhileIsDelivered(t *testing.T) {
	t.Parallel()
	w := harness.NewWorld(t, 1)
	s := w.AddSite(t, "gw-meanwhile")
	s.StartEdge(t)
	type client struct {
		way harness.Way
		cmd *exec.Cmd
		out bytes.Buffer
		err error
	}
	var clients []*client
	var wg sync.WaitGroup
	for _, way := range []harness.Way{harness.HubMode, harness.EndToEnd} {
		args := w.SSH(1, way, s.Name, "-T")
		args = append(args, "echo here; sleep 4; echo there; exit 7")
		c := &client{way: way, cmd: exec.Command(args[0], args[1:]...)}
		var mu sync.Mutex
		out := writerFunc(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return c.out.Write(p)
		})
		c.cmd.Stdout, c.cmd.Stderr = out, out
		if err := c.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.cmd.Process.Kill() })
		harness.Eventually(t, 20*time.Second, "the command runs", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return strings.Contains(c.out.String(), "here\n")
		})
		wg.Go(func() { c.err = c.cmd.Wait() })
		clients = append(clients, c)
	}
	s.Drop(t, "")
	time.Sleep(6 * time.Second)
	s.Heal(t)
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(15 * time.Second):
		t.Fatal("the clients have not ended 15 s after the link is back")
	}
	for _, c := range clients {
		if got := c.out.String(); c.cmd.ProcessState.ExitCode() != 7 || got != "here\nthere\n" {
			t.Errorf("%s: exit %d, %q: want 7 and both lines and nothing else", c.way, c.cmd.ProcessState.ExitCode(), got)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A person at a terminal is told that the link is lost where that spoils nothing: with the cursor at the left and not in the alternate screen. The
// list of sessions calls it detached meanwhile.
func TestAPersonIsToldThatTheLinkIsLost(t *testing.T) {
	t.Parallel()
	w := harness.NewWorld(t, 1)
	s := w.AddSite(t, "gw-told")
	s.StartEdge(t)
	start := func(command string) *harness.Process {
		args := w.SSH(1, harness.HubMode, s.Name, "-tt", "-e", "none")
		p := harness.Start(t, nil, args[0], append(args[1:], command)...)
		harness.Eventually(t, 20*time.Second, "the session has begun", func() bool { return strings.Contains(p.Output(), "begun") })
		return p
	}
	lost := func(p *harness.Process) bool { return strings.Contains(p.Output(), "is lost") }
	at0 := start("echo begun; exec sleep 300")
	screen := start("printf 'begun \\033[?1049h\\r'; exec sleep 300")
	mid := start("printf 'begun > '; exec sleep 300")
	// The hub goes by the heartbeats that it has heard: let them quicken first.
	time.Sleep(3 * time.Second)
	s.Drop(t, "")
	// An idle session's path is tried every 5 s; two answers have to be missing.
	harness.Eventually(t, 30*time.Second, "the person at the left of an empty line is told", func() bool {
		return lost(at0)
	})
	harness.Eventually(t, 10*time.Second, "hawser sessions ls says detached", func() bool {
		return strings.Contains(string(w.Hawser(t, "sessions", "ls").Stdout), "detached")
	})
	for name, p := range map[string]*harness.Process{"in the alternate screen": screen, "in the middle of a line": mid} {
		if lost(p) {
			t.Errorf("told %s: %q", name, p.Output())
		}
	}
	s.Heal(t)
	harness.Eventually(t, 20*time.Second, "no session is detached", func() bool {
		r := w.Hawser(t, "sessions", "ls")
		return r.Code == 0 && !strings.Contains(string(r.Stdout), "detached")
	})
}

// The device's page tells how a device is away, and afterwards how long it was and why.
func TestTheDevicesPageTellsWhyItWasAway(t *testing.T) {
	t.Parallel()
	w := harness.NewWorld(t, 1)
	s := w.AddSite(t, "gw-story")
	s.StartEdge(t, "HAWSER_CARRIER=tls")
	page := func() string { return string(w.Hawser(t, "show", s.Name).Stdout) }
	// An idle device has nothing to send that could be refused: it would learn of it by its next keepalive.
	args := w.SSH(1, harness.HubMode, s.Name, "-T")
	busy := harness.Start(t, nil, args[0], append(args[1:], "while sleep 0.2; do echo busy; done")...)
	harness.Eventually(t, 30*time.Second, "the device sends something", func() bool { return strings.Contains(busy.Output(), "busy") })
	// A firewall on the way that answers: the tunnel ends at once, and no new one comes.
	s.InRouter(t, "nft add rule ip hw faults ip protocol tcp reject with tcp reset")
	harness.Eventually(t, 40*time.Second, "the device is offline", func() bool {
		d, err := w.Show(t, s.Name)
		return err == nil && !d.Online
	})
	if text := page(); !strings.Contains(text, "via hub-1, tls") || !strings.Contains(text, "last seen") {
		t.Errorf("hawser show of an offline device names no hub, carrier or time:\n%s", text)
	}
	time.Sleep(6 * time.Second) // what is shorter than 5 s and has no reason is not told of
	s.Heal(t)
	s.Online(t, 90*time.Second) // its back-off has grown
	var text string
	harness.Eventually(t, 10*time.Second, "hawser show tells how long it was dark", func() bool {
		text = page()
		return strings.Contains(text, "dark")
	})
	t.Logf("%s", text)
}

// A session keeps its tunnel through a silence; the page tells of it all the same, and of what failed meanwhile.
func TestTheDevicesPageTellsOfASilenceUnderASession(t *testing.T) {
	t.Parallel()
	w := harness.NewWorld(t, 1)
	s := w.AddSite(t, "gw-silent")
	s.StartEdge(t, "HAWSER_CARRIER=quic")
	args := w.SSH(1, harness.HubMode, s.Name, "-T")
	busy := harness.Start(t, nil, args[0], append(args[1:], "while sleep 0.2; do echo busy; done")...)
	harness.Eventually(t, 30*time.Second, "the device sends something", func() bool { return strings.Contains(busy.Output(), "busy") })
	s.Drop(t, "meta l4proto udp")
	harness.Eventually(t, 60*time.Second, "the device finds that the hub does not answer", func() bool { return strings.Contains(s.Edge.Output(), "does not answer") })
	time.Sleep(8 * time.Second) // what is shorter than 5 s is not told of
	s.Heal(t)
	var text string
	harness.Eventually(t, 60*time.Second, "hawser show tells of the silence", func() bool {
		text = string(w.Hawser(t, "show", s.Name).Stdout)
		return strings.Contains(text, "last outage") && strings.Contains(text, "silent for ")
	})
	t.Logf("%s", text)
	if strings.Contains(s.Edge.Output(), "tunnel lost") || !strings.Contains(text, "dark ") {
		t.Errorf("not the story of a silence:\n%s", text)
	}
}

// An agent starts where nothing passes, and then TCP alone does: the page tells both, though the device finds the second only once it is back.
func TestTheDevicesPageTellsThatUDPIsBlocked(t *testing.T) {
	t.Parallel()
	w := harness.NewWorld(t, 1)
	s := w.AddSite(t, "gw-udp")
	s.StartEdge(t)
	s.Edge.Stop(t)
	s.InRouter(t, "nft add rule ip hw faults ip protocol udp drop; nft add rule ip hw faults ip protocol tcp reject with tcp reset")
	s.RunEdge(t)
	harness.Eventually(t, 60*time.Second, "the device finds no tunnel", func() bool { return strings.Count(s.Edge.Output(), "no tunnel") >= 2 })
	s.InRouter(t, "nft 'flush chain ip hw faults; add rule ip hw faults ip protocol udp drop'")
	var text string
	harness.Eventually(t, 90*time.Second, "hawser show tells why it was dark", func() bool {
		text = string(w.Hawser(t, "show", s.Name).Stdout)
		return strings.Contains(text, ", then UDP blocked; back ")
	})
	t.Logf("%s", text)
	if !strings.Contains(text, "dark ") {
		t.Errorf("no outage is told:\n%s", text)
	}
}

// A hub that drains tells the person at a terminal, ends by its deadline with exit code 0, and the device is at once reached by another hub.
func TestADrainTellsItsPeopleAndEndsByItsDeadline(t *testing.T) {
	t.Parallel()
	w := harness.NewWorld(t, 1)
	const deadline = 4 * time.Second
	h := w.AddHub(t, 2, "--drain-timeout", deadline.String())
	w.WriteConfig(t)
	w.Meshed(t)
	s := w.AddSite(t, "gw-drained")
	s.StartEdge(t)
	args := w.SSH(2, harness.HubMode, s.Name, "-tt", "-e", "none")
	p := harness.Start(t, nil, args[0], append(args[1:], "echo begun; exec sleep 300")...)
	harness.Eventually(t, 20*time.Second, "the session has begun", func() bool { return strings.Contains(p.Output(), "begun") })
	start := time.Now()
	r := h.Drain(t)
	took := time.Since(start)
	if r.Code != 0 || h.Err() != nil {
		t.Errorf("hawser-hub drain: exit %d, %s; the hub ended with %v", r.Code, r.Stderr, h.Err())
	}
	l := line{row: "drain of the entry hub: its end", carrier: "any", what: "hub", figure: took, bound: deadline + time.Second, verdict: "ok"}
	if took > l.bound+slack {
		l.verdict = "LATE"
		t.Errorf("the drain took %v, want at most %v", took, l.bound)
	}
	record(l)
	if !strings.Contains(p.Output(), "goes down") {
		t.Errorf("the person was not told: %q", p.Output())
	}
	select {
	case <-p.Done():
	case <-time.After(5 * time.Second):
		t.Error("ssh goes on without its hub")
	}
	reach(t, w, 1, s.Name, 5*time.Second)
	harness.Eventually(t, 30*time.Second, "nothing of the session is left on the device", func() bool { return !strings.Contains(s.Processes(t), "sleep\x00300") })
}
