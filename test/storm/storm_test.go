// Package storm_test kills hubs under a fleet of real agents (tools/fleet) and measures how they come back: how soon, and
// how evenly. No second may see more than three times the mean.
package storm_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
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
	return 200
}

// fleet is a running load generator and what it has said.
type fleet struct {
	*harness.Process
	n      int
	events string // file
}

type event struct {
	Time   int64  `json:"t"`
	Device string `json:"device"`
	Event  string `json:"event"`
	Hub    string `json:"hub"`
}

func start(t *testing.T, w *harness.World, n int, carrier string) *fleet {
	t.Helper()
	token := w.Must(t, "token", "create", "--kind", "edge", "--uses", strconv.Itoa(n))
	f := &fleet{n: n, events: filepath.Join(t.TempDir(), "events.jsonl")}
	ns := w.Host(t, "f", "10.99.2.1")
	f.Process = harness.Start(t, nil, "ip", "netns", "exec", ns, "sh", "-c", `out=$1; shift; exec "$@" > "$out"`, "sh", f.events,
		harness.Tool(t, "fleet"), "run", "--dir", t.TempDir(), "--token", token, "--devices", strconv.Itoa(n), "--carrier", carrier)
	return f
}

// each calls do with the events since a moment.
func (f *fleet) each(t *testing.T, since time.Time, do func(event)) {
	t.Helper()
	in, err := os.Open(f.events)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) == nil && e.Time >= since.UnixMilli() {
			do(e)
		}
	}
}

// home is the hub each device registered at last, of those in use.
func (f *fleet) home(t *testing.T) map[string]string {
	m := map[string]string{}
	f.each(t, time.Time{}, func(e event) {
		if e.Event == "registered" {
			m[e.Device] = e.Hub
		}
	})
	return m
}

// back counts which of these devices have registered since.
func (f *fleet) back(t *testing.T, since time.Time, of map[string]bool) int {
	seen := map[string]bool{}
	f.each(t, since, func(e event) {
		if e.Event == "registered" && of[e.Device] {
			seen[e.Device] = true
		}
	})
	return len(seen)
}

// spread asks the fleet's own report.
func (f *fleet) spread(t *testing.T, since time.Time) (s struct {
	Devices, Registrations, Peak int
	Seconds, Mean, Ratio         float64
}) {
	t.Helper()
	r := harness.Run(t, nil, harness.Tool(t, "fleet"), "report", "--json", "--since", strconv.FormatInt(since.UnixMilli(), 10), f.events)
	if err := json.Unmarshal(r.Stdout, &s); err != nil {
		t.Fatalf("fleet report: %v\n%s%s", err, r.Stdout, r.Stderr)
	}
	return s
}

// check holds a return against the bars: all of them, in a minute, and no second above three times the mean. A mean of fewer than 20 a
// second says nothing: chance alone makes seconds of three times that.
func (f *fleet) check(t *testing.T, what string, since time.Time, of map[string]bool) {
	t.Helper()
	harness.Eventually(t, 3*time.Minute, fmt.Sprintf("%s: %d devices are back", what, len(of)), func() bool {
		select {
		case <-f.Done():
			t.Fatalf("the fleet ended: %v\n%s", f.Err(), f.Output())
		default:
		}
		return f.back(t, since, of) == len(of)
	})
	s := f.spread(t, since)
	t.Logf("%s: %d devices, %d registrations within %.1f s, mean %.0f/s, peak %d/s, ratio %.2f", what, s.Devices, s.Registrations, s.Seconds, s.Mean, s.Peak, s.Ratio)
	if s.Seconds > 60 {
		t.Errorf("%s: the last device was back %.0f s after the first, want 60 s at most", what, s.Seconds)
	}
	if s.Mean >= 20 && s.Ratio > 3 {
		t.Errorf("%s: the busiest second saw %d registrations, %.2f times the mean; want 3 at most", what, s.Peak, s.Ratio)
	}
}

// One hub of three is killed, then all of them are, and started again.
func TestAFleetComesBackEvenly(t *testing.T) {
	n := devices()
	w := harness.NewWorld(t, 3)
	f := start(t, w, n, "mixed")
	harness.Eventually(t, 2*time.Minute+time.Duration(n)*100*time.Millisecond, "all devices have a tunnel", func() bool {
		select {
		case <-f.Done():
			t.Fatalf("the fleet ended: %v\n%s", f.Err(), f.Output())
		default:
		}
		return len(f.home(t)) == n
	})

	victim := w.Hubs[0]
	lost := map[string]bool{}
	all := map[string]bool{}
	for device, hub := range f.home(t) {
		all[device] = true
		if hub == victim.Name {
			lost[device] = true
		}
	}
	if len(lost) < n/6 {
		t.Fatalf("%s was the last to take %d of %d devices: they are not spread over three hubs", victim.Name, len(lost), n)
	}
	begin := time.Now()
	victim.Kill()
	f.check(t, "one hub of three killed", begin, lost)
	victim.Launch(t)

	for _, h := range w.Hubs {
		h.Kill()
	}
	begin = time.Now()
	for _, h := range w.Hubs {
		h.Run(t)
	}
	f.check(t, "all hubs killed and restarted", begin, all)
}
