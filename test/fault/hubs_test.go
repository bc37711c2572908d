package fault_test

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hawser/test/harness"
)

// home finds the hub a device's tunnel is at, and another one to enter by.
func home(t *testing.T, s *harness.Site, hubs int) (home, entry int) {
	t.Helper()
	probe := s.Open(t, harness.HubExec, 1, 50, 200)
	home = s.Home(t, time.Second)
	probe.Finish(10 * time.Second)
	return home, home%hubs + 1
}

// enter opens streams by one hub.
func enter(t *testing.T, s *harness.Site, hub int, kinds ...harness.Kind) []*harness.Stream {
	t.Helper()
	var streams []*harness.Stream
	for _, k := range kinds {
		streams = append(streams, s.Open(t, k, hub, 50, 24))
	}
	return streams
}

// The home hub ends in three ways while the session came in by another, and once with auth away.
func TestASessionOutlivesItsHomeHub(top *testing.T) {
	top.Parallel()
	const hubs = 3
	w := harness.NewWorld(top, hubs)
	for _, f := range []struct {
		name, carrier string
		bound         time.Duration
		happen        func(t *testing.T, h *harness.HubHost)
	}{
		{"home hub killed", "quic", change, func(_ *testing.T, h *harness.HubHost) { h.Kill() }},
		{"home hub killed", "tls", change, func(_ *testing.T, h *harness.HubHost) { h.Kill() }},
		{"home hub drained", "any", silent, func(t *testing.T, h *harness.HubHost) {
			if r := h.Drain(t); r.Code != 0 {
				t.Errorf("hawser-hub drain: exit %d\n%s", r.Code, r.Stderr)
			}
			if err := h.Err(); err != nil {
				t.Errorf("the drained hub ended with %v", err)
			}
		}},
		{"home hub killed, auth away", "any", change, func(t *testing.T, h *harness.HubHost) {
			w.Auth.Stop(t)
			h.Kill()
		}},
	} {
		top.Run(f.name+"/"+f.carrier, func(t *testing.T) {
			s := w.AddSite(t, "gw-"+slug(f.name)+"-"+f.carrier)
			s.StartEdge(t, "HAWSER_CARRIER="+f.carrier)
			at, entry := home(t, s, hubs)
			h := w.Hubs[at-1]
			defer func() {
				// The rest needs all of them, beyond this subtest's end.
				select {
				case <-w.Auth.Done():
					w.StartAuth(top)
				default:
				}
				h.Launch(top)
				w.Meshed(top)
				s.Edge.Stop(t)
			}()
			streams := enter(t, s, entry, harness.HubExec, harness.E2EPTY, harness.HubForward)
			flowing(t, streams, time.Now(), 10*time.Second)
			time.Sleep(time.Second)
			since := time.Now()
			f.happen(t, h)
			flowing(t, streams, time.Now(), 20*time.Second)
			time.Sleep(2 * time.Second)
			judge(t, f.name, f.carrier, streams, since, f.bound)
		})
	}
}

// A session does not outlive the hub it came in by: nobody could see it. Within 30 s the device has none of its processes, whether the hub comes
// back at once or stays away; and the hub's own drain tells the person.
func TestNothingIsLeftOfTheEntryHubsSessions(t *testing.T) {
	t.Parallel()
	const hubs = 2
	w := harness.NewWorld(t, hubs)
	for i, back := range []bool{true, false} {
		s := w.AddSite(t, fmt.Sprintf("gw-entry-%d", i))
		s.StartEdge(t)
		// By each hub: its home is one of them.
		mine := enter(t, s, 1, harness.HubExec, harness.HubPTY, harness.E2EExec)
		other := enter(t, s, 2, harness.HubExec)
		flowing(t, append(mine, other...), time.Now(), 10*time.Second)
		if n := s.Counters(t); n != 4 {
			t.Fatalf("%d processes of sessions on the device, want 4", n)
		}
		since := time.Now()
		w.Hubs[0].Kill()
		if back {
			time.Sleep(time.Second)
			w.Hubs[0].Launch(t)
			w.Meshed(t)
		}
		deadline := since.Add(30*time.Second + slack)
		for s.Counters(t) > 1 && time.Now().Before(deadline) {
			time.Sleep(50 * time.Millisecond)
		}
		took := time.Since(since)
		l := line{row: "entry hub killed: processes left", carrier: "any", what: map[bool]string{true: "it returns", false: "it stays away"}[back], figure: took, bound: 30 * time.Second, verdict: "ok"}
		if left := s.Counters(t); left > 1 {
			l.verdict = "LEFT"
			t.Errorf("after %v %d processes of ended sessions are on the device, want none", took, left-1)
		}
		record(l)
		// The one that came by the other hub is not concerned.
		judge(t, "another hub's end", "any", other, since, change)
		for _, x := range mine {
			x.Close()
		}
	}
}

// A rolling restart: each of three hubs is told to end and started again, while the sessions come in by a fourth.
func TestARollingRestartLosesNoSession(t *testing.T) {
	const hubs, entry = 4, 4
	devices, each, rate := 5, 4, 10
	if harness.Long() {
		devices, each, rate = 38, 8, 2 // and alone and slowly: else this machine is what is measured
	} else {
		t.Parallel()
	}
	w := harness.NewWorld(t, hubs)
	var streams []*harness.Stream
	for i := range devices {
		s := w.AddSite(t, fmt.Sprintf("gw-roll-%d", i+1))
		s.StartEdge(t)
		opened := make([]*harness.Stream, each)
		var wg sync.WaitGroup
		for i := range each {
			wg.Go(func() { opened[i] = s.Open(t, harness.HubExec, entry, rate, 24) })
		}
		wg.Wait()
		if t.Failed() {
			t.FailNow()
		}
		streams = append(streams, opened...)
	}
	flowing(t, streams, time.Now(), 20*time.Second)
	since := time.Now()
	for _, h := range w.Hubs[:3] {
		h.Cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-h.Done():
			if err := h.Err(); err != nil {
				t.Errorf("%s ended with %v", h.Name, err)
			}
		case <-time.After(45 * time.Second):
			t.Fatalf("%s has not ended 45 s after SIGTERM", h.Name)
		}
		h.Launch(t)
		w.Meshed(t)
		flowing(t, streams, time.Now(), 10*time.Second)
	}
	time.Sleep(time.Second)
	var lines, lost, repeated uint64
	var stall time.Duration
	ended := 0
	counts := make([]harness.Count, len(streams))
	var wg sync.WaitGroup
	for i, x := range streams {
		wg.Go(func() { counts[i] = x.Finish(20 * time.Second) })
	}
	wg.Wait()
	for _, c := range counts {
		lines, lost, repeated, stall = lines+c.Lines(), lost+c.Lost()+c.Damaged(), repeated+c.Repeated(), max(stall, c.Stall(since))
		switch {
		case c.Err != nil:
			ended++
			t.Logf("%v", c.Err)
		case c.Lost()+c.Repeated()+c.Damaged() > 0:
			t.Errorf("SAFETY: %d lost, %d repeated, %d damaged of %d lines of a session that went on", c.Lost(), c.Repeated(), c.Damaged(), c.Lines())
		}
	}
	l := line{row: "rolling restart of 3 hubs", carrier: "any", what: fmt.Sprintf("%d hub", len(streams)), lines: lines, lost: lost, repeated: repeated, figure: stall, bound: silent, verdict: "ok"}
	if ended > 0 || lost+repeated > 0 {
		l.verdict = "ENDED"
		t.Errorf("of %d sessions %d ended; %d lines lost, %d repeated", len(streams), ended, lost, repeated)
	}
	if stall > silent+slack {
		l.verdict = "LATE"
		t.Errorf("nothing for %v, want at most %v", stall, silent)
	}
	record(l)
}

// reach runs `ssh device echo` by a hub until it answers, and says how long that took.
func reach(t *testing.T, w *harness.World, hub int, device string, within time.Duration) time.Duration {
	t.Helper()
	start := time.Now()
	for {
		args := w.SSH(hub, harness.HubMode, device, "-T", "-o", "ConnectTimeout=5")
		args = append(args, "echo $HAWSER_DEVICE")
		r := harness.Run(t, nil, args[0], args[1:]...)
		if r.Code == 0 && string(r.Stdout) == device+"\n" {
			return time.Since(start)
		}
		if time.Since(start) > within {
			t.Errorf("%s by hub %d: not within %v: exit %d, %q, %q", device, hub, within, r.Code, r.Stdout, r.Stderr)
			return time.Since(start)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// A power cut and three seconds later the device is back: every hub reaches it, as itself, and nobody says that its name is taken.
func TestAPowerCycledDeviceIsItself(t *testing.T) {
	t.Parallel()
	const hubs = 3
	w := harness.NewWorld(t, hubs)
	for _, carrier := range []string{"quic", "tls"} {
		s := w.AddSite(t, "gw-power-"+carrier)
		s.StartEdge(t, "HAWSER_CARRIER="+carrier)
		reach(t, w, 1, s.Name, 10*time.Second)
		// The router forgets nothing, and no packet says good-bye: as when the power goes.
		s.Drop(t, "")
		s.Edge.Kill()
		time.Sleep(3 * time.Second)
		s.Heal(t)
		start := time.Now()
		s.RunEdge(t)
		var took time.Duration
		for hub := range hubs {
			reach(t, w, hub+1, s.Name, 10*time.Second)
			took = max(took, time.Since(start))
		}
		l := line{row: "power-cycled, 3 s: every hub reaches it", carrier: carrier, what: "hub", figure: took, bound: 5 * time.Second, verdict: "ok"}
		if took > l.bound+slack {
			l.verdict = "LATE"
			t.Errorf("reachable by every hub %v after the start, want at most %v", took, l.bound)
		}
		record(l)
		if out := s.Edge.Output(); strings.Contains(out, "taken") {
			t.Errorf("the agent was told that its name is taken\n%s", out)
		}
		if names := w.Must(t, "ls", "-o", "name"); strings.Count(names, s.Name) != 1 {
			t.Errorf("hawser ls names it other than once:\n%s", names)
		}
	}
}

// A hub new to the cluster joins by a token and is of use within seconds: as a way in at once, to devices that are elsewhere.
func TestANewHubIsOfUseWithinSeconds(t *testing.T) {
	t.Parallel()
	w := harness.NewWorld(t, 2)
	s := w.AddSite(t, "gw-newhub")
	s.StartEdge(t)
	start := time.Now()
	w.AddHub(t, 3)
	w.WriteConfig(t)
	reach(t, w, 3, s.Name, 20*time.Second)
	took := time.Since(start)
	l := line{row: "new hub: from its start to a session by it", carrier: "any", what: "hub", figure: took, bound: 10 * time.Second, verdict: "ok"}
	if took > l.bound {
		l.verdict = "LATE"
		t.Errorf("a session by the new hub %v after its start, want at most %v", took, l.bound)
	}
	record(l)
}

// A hub whose public address is another machine's, which forwards ports to it: devices find it, and so do the other hubs, in both directions.
func TestAHubBehindAPortForward(t *testing.T) {
	t.Parallel()
	w := harness.NewWorld(t, 1)
	forwarded := w.AddForwardedHub(t, 2)
	w.WriteConfig(t)
	for k, h := range w.Hubs {
		other := w.Hubs[1-k]
		s := w.AddSite(t, "gw-at-"+h.Name)
		// It can reach this hub alone.
		s.Drop(t, "ip daddr "+other.Addr)
		s.StartEdge(t)
		for hub := range w.Hubs {
			reach(t, w, hub+1, s.Name, 20*time.Second)
		}
		streams := enter(t, s, 2-k, harness.HubExec, harness.E2EPTY)
		flowing(t, streams, time.Now(), 10*time.Second)
		judge(t, "port-forwarded "+forwarded.Name+", home "+h.Name, "any", streams, time.Now(), silent)
	}
}

// Garbage at 20,000 datagrams a second on the tunnel port: a device registers in < 10 s, and the hub's memory stays flat. Not in parallel: the
// flood takes a processor's half.
func TestGarbageOnTheTunnelPort(t *testing.T) {
	w := harness.NewWorld(t, 1)
	h := w.Hubs[0]
	first := w.AddSite(t, "gw-before")
	first.StartEdge(t, "HAWSER_CARRIER=quic")
	reach(t, w, 1, first.Name, 10*time.Second)
	before := h.RSS(t)
	last := period(5*time.Second, 30*time.Second)
	const rate = 20_000
	flood := w.Flood(t, fmt.Sprintf("%s:%d", h.Addr, harness.TunnelPort), rate, last)
	time.Sleep(500 * time.Millisecond)
	s := w.AddSite(t, "gw-flooded")
	start := time.Now()
	s.StartEdge(t, "HAWSER_CARRIER=quic")
	took := time.Since(start)
	select {
	case <-flood.Done():
	case <-time.After(last + 20*time.Second):
		t.Error("the flood does not end")
	}
	t.Logf("sent %s datagrams; the hub had %d MB and has %d MB", strings.TrimSpace(flood.Output()), before>>20, h.RSS(t)>>20)
	if sent, err := strconv.Atoi(strings.TrimSpace(flood.Output())); err != nil || harness.Long() && sent < int(0.8*rate*last.Seconds()) {
		t.Errorf("%d datagrams in %v are no flood of %d a second; %v", sent, last, rate, err)
	}
	l := line{row: "20,000 garbage datagrams/s: registration", carrier: "quic", what: "-", figure: took, bound: 10 * time.Second, verdict: "ok"}
	if took > l.bound {
		l.verdict = "LATE"
		t.Errorf("a device registered after %v", took)
	}
	record(l)
	if grown := h.RSS(t) - before; grown > 16<<20 {
		t.Errorf("the hub grew by %d MB", grown>>20)
	}
	reach(t, w, 1, s.Name, 10*time.Second)
	reach(t, w, 1, first.Name, 10*time.Second)
}

// What `hawser ls` and every hub's own list say of a device is true within the stated time.
func TestTheListIsTrue(t *testing.T) {
	t.Parallel()
	const hubs = 2
	w := harness.NewWorld(t, hubs)
	states := func(device string) (online []bool) {
		d, err := w.Show(t, device)
		online = append(online, err == nil && d.Online)
		for k := range hubs {
			online = append(online, w.ListedOnline(t, k+1, device))
		}
		return online
	}
	all := func(device string, want bool) bool {
		for _, got := range states(device) {
			if got != want {
				return false
			}
		}
		return true
	}
	until := func(row, carrier, device string, want bool, since time.Time, bound time.Duration) {
		t.Helper()
		limit := since.Add(bound + slack)
		for !all(device, want) && time.Now().Before(limit.Add(5*time.Second)) {
			time.Sleep(20 * time.Millisecond)
		}
		// Asking auth and two hubs takes its own time: three ssh and one hawser.
		took := time.Since(since)
		l := line{row: row, carrier: carrier, what: "ls", figure: took, bound: bound, verdict: "ok"}
		if time.Now().After(limit) {
			l.verdict = "LATE"
			t.Errorf("%s: after %v online is %v at auth and each hub, want %v", row, took, states(device), want)
		}
		record(l)
	}

	quick := w.AddSite(t, "gw-clean")
	quick.StartEdge(t)
	until("registered: online everywhere", "any", quick.Name, true, time.Now(), time.Second)
	// Idle devices that vanish without a word, on each carrier; nobody notices before their deadlines.
	type gone struct {
		*harness.Site
		carrier string
		bound   time.Duration
	}
	var lost []gone
	for _, carrier := range both {
		s := w.AddSite(t, "gw-gone-"+carrier)
		s.UDPTimeout(t, 120)
		s.StartEdge(t, "HAWSER_CARRIER="+carrier)
		// Three unlearned intervals (27 s; TLS: 270 s and the kernel's own retries) and 2 s.
		bound := 83 * time.Second
		if carrier == "tls" {
			bound = 3*270*time.Second + 2*time.Second
		}
		lost = append(lost, gone{s, carrier, bound})
	}
	vanished := time.Now()
	for _, g := range lost {
		g.Drop(t, "")
		g.Edge.Kill()
	}

	since := time.Now()
	quick.Edge.Cmd.Process.Signal(syscall.SIGTERM)
	until("clean stop: offline everywhere", "any", quick.Name, false, since, time.Second)
	quick.RunEdge(t)
	quick.Online(t, 20*time.Second)

	quick.Edge.Kill() // the kernel says good-bye on TLS only
	quick.RunEdge(t)
	quick.Online(t, 20*time.Second)
	w.Auth.Kill()
	w.StartAuth(t)
	until("auth restarted: online at auth again", "any", quick.Name, true, time.Now(), 5*time.Second)

	for _, g := range lost {
		if g.carrier == "tls" && !harness.Long() {
			continue
		}
		until("idle device vanished: offline everywhere", g.carrier, g.Name, false, vanished, g.bound)
	}
}

// Metered: idle on one TLS tunnel; QUIC comes when a session opens.
func TestMeteredRaisesQUICForASession(t *testing.T) {
	t.Parallel()
	const hubs = 2
	w := harness.NewWorld(t, hubs)
	s := w.AddSite(t, "gw-metered")
	s.StartEdge(t, "HAWSER_METERED=1")
	carrier := func(want string, within time.Duration) {
		t.Helper()
		harness.Eventually(t, within, "the carrier is "+want, func() bool {
			d, err := w.Show(t, s.Name)
			return err == nil && d.Online && d.Carrier == want
		})
	}
	carrier("tls", 20*time.Second)
	if n := tunnels(t, s); n != 1 {
		t.Errorf("%d tunnels of an idle metered device, want 1", n)
	}
	streams := enter(t, s, 1, harness.HubExec, harness.E2EExec)
	since := time.Now()
	carrier("quic", 20*time.Second)
	flowing(t, streams, time.Now(), 10*time.Second)
	judge(t, "metered: QUIC for a session", "any", streams, since, change)
}

// tunnels counts the flows of a site's router towards hubs that are not closing.
func tunnels(t *testing.T, s *harness.Site) int {
	t.Helper()
	out, err := exec.Command("ip", "netns", "exec", s.Device, "ss", "-Htn", "state", "established").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(out), fmt.Sprintf(":%d", harness.TunnelPort))
}
