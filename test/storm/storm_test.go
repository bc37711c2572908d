// Package storm_test kills hubs under a fleet of real agents (tools/fleet) and measures how they come back: how soon, and
// how evenly. No second may see more than three times the mean.
package storm_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"hawser/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// devices of a run: each is a whole agent, about 0.5 MB of one process.
func devices() int {
	if n, err := strconv.Atoi(os.Getenv("HAWSER_STORM")); err == nil && n > 0 {
		return n
	}
	if harness.Long() {
		return 2000
	}
	return 150
}

// fleet is a running load generator and what it has said.
type fleet struct {
	*harness.Process
	n      int
	events string // file
	read   int64  // of it
	home   map[string]string
	back   map[string]time.Time // when each device registered last
	second map[string]bool      // devices whose standby tunnel was registered
}

type event struct {
	Time   int64  `json:"t"`
	Device string `json:"device"`
	Slot   int    `json:"slot"`
	Event  string `json:"event"`
	Hub    string `json:"hub"`
	Error  string `json:"error"`
}

// start runs n devices behind one address: a NAT with all of them is the hardest case for what a hub allows one network.
func start(t *testing.T, w *harness.World, n int, carrier string) *fleet {
	t.Helper()
	token := w.Must(t, "token", "create", "--kind", "edge", "--uses", strconv.Itoa(n))
	f := &fleet{n: n, events: filepath.Join(t.TempDir(), "events.jsonl"), home: map[string]string{}, back: map[string]time.Time{}, second: map[string]bool{}}
	ns := w.Host(t, "f", "10.99.2.1")
	f.Process = harness.Start(t, nil, "ip", "netns", "exec", ns, "sh", "-c", `out=$1; shift; exec "$@" > "$out"`, "sh", f.events,
		harness.Tool(t, "fleet"), "run", "--dir", t.TempDir(), "--token", token, "--devices", strconv.Itoa(n), "--carrier", carrier)
	return f
}

// look reads what is new.
func (f *fleet) look(t *testing.T) {
	t.Helper()
	select {
	case <-f.Done():
		t.Fatalf("the fleet ended: %v\n%s", f.Err(), f.Output())
	default:
	}
	in, err := os.Open(f.events)
	if os.IsNotExist(err) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	b, err := io.ReadAll(io.NewSectionReader(in, f.read, 1<<30))
	if err != nil {
		t.Fatal(err)
	}
	b = b[:bytes.LastIndexByte(b, '\n')+1]
	f.read += int64(len(b))
	for line := range bytes.Lines(b) {
		var e event
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("an event of the fleet: %v: %q", err, line)
		}
		switch {
		case e.Event == "failed":
			t.Fatalf("%s: %s", e.Device, e.Error)
		case e.Event == "registered":
			f.back[e.Device] = time.UnixMilli(e.Time)
			if e.Slot == 0 {
				f.home[e.Device] = e.Hub
			} else {
				f.second[e.Device] = true
			}
		}
	}
}

// check holds a return against the bars: all of them, a minute after the last has noticed, and no second above three times the mean. Of a mean
// of fewer than 20 a second chance alone makes three times that: there it is four standard deviations more.
func (f *fleet) check(t *testing.T, what string, since time.Time, of []string) {
	t.Helper()
	harness.Eventually(t, 2*time.Minute, fmt.Sprintf("%s: %d devices are back", what, len(of)), func() bool {
		f.look(t)
		for _, device := range of {
			if f.back[device].Before(since) {
				return false
			}
		}
		return true
	})
	took := time.Since(since)
	var s struct {
		Devices, Registrations, Peak, Retries int
		Seconds, Mean, Ratio, Noticed, Late   float64
	}
	r := harness.Run(t, nil, harness.Tool(t, "fleet"), "report", "--json", "--since", strconv.FormatInt(since.UnixMilli(), 10), f.events)
	if err := json.Unmarshal(r.Stdout, &s); err != nil {
		t.Fatalf("fleet report: %v\n%s%s", err, r.Stdout, r.Stderr)
	}
	t.Logf("%s: %d devices of %d are back after %.1f s, %.1f s after the last noticed, which was %.1f s after the first: %d registrations in %.1f s, mean %.1f/s, peak %d/s, ratio %.2f; %d rounds failed",
		what, s.Devices, f.n, took.Seconds(), s.Late, s.Noticed, s.Registrations, s.Seconds, s.Mean, s.Peak, s.Ratio, s.Retries)
	if s.Late > 60 {
		t.Errorf("%s: the last device was back %.0f s after the last had noticed, want 60 s at most", what, s.Late)
	}
	most := 3 * s.Mean
	if s.Mean < 20 {
		most += 4 * math.Sqrt(most)
	}
	if float64(s.Peak) > most {
		t.Errorf("%s: the busiest second saw %d registrations, %.2f times the mean; want %.0f at most", what, s.Peak, s.Ratio, most)
	}
}

// cpu is what a hub's process has used.
func cpu(t *testing.T, h *harness.HubHost) time.Duration {
	t.Helper()
	_, rest, _ := strings.Cut(harness.ReadFile(t, fmt.Sprintf("/proc/%d/stat", h.Cmd.Process.Pid)), ") ")
	f := strings.Fields(rest)
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * time.Second / 100 // USER_HZ
}

// One hub of three is killed (in the long run only: an idle device on QUIC notices within a heartbeat's time, and who has a second
// tunnel takes his time), then all of them are, and started again.
func TestAFleetComesBackEvenly(t *testing.T) {
	n := devices()
	w := harness.NewWorld(t, 3)
	begin := time.Now()
	f := start(t, w, n, "mixed")
	// A third is on QUIC alone, which has no second tunnel.
	harness.Eventually(t, 2*time.Minute+time.Duration(n)*100*time.Millisecond, "all devices have their tunnels", func() bool {
		f.look(t)
		return len(f.home) == n && len(f.second) == n-(n+1)/3
	})
	t.Logf("%d devices joined and registered within %.1f s", n, time.Since(begin).Seconds())

	var lost, all []string
	victim := w.Hubs[0]
	for device, hub := range f.home {
		all = append(all, device)
		if hub == victim.Name {
			lost = append(lost, device)
		}
	}
	if os.Getenv("HAWSER_STORM") != "" || harness.Long() {
		begin = time.Now()
		victim.Kill()
		f.check(t, "one hub of three killed", begin, lost)
		victim.Launch(t)
	}

	for _, h := range w.Hubs {
		h.Kill()
	}
	begin = time.Now()
	for _, h := range w.Hubs {
		h.Run(t)
	}
	f.check(t, "all hubs killed and restarted", begin, all)
	var used time.Duration
	for _, h := range w.Hubs {
		used += cpu(t, h)
	}
	t.Logf("the hubs used %.2f CPU seconds for it, start included", used.Seconds())
}
