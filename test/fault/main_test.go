// Package fault_test breaks the network and the programs under live sessions of a stock ssh client and counts what was lost, repeated and how long
// nothing came. Each row of its table states its bound; the table is printed at the end, and written to $HAWSER_TABLE.
//
// Times are of machines that do other things too: a row fails beyond its bound plus an allowance of 3 s (HAWSER_SLACK), and the measured figure is
// printed as it is. HAWSER_LONG=1 gives the stated periods and counts, and 1 s of allowance.
package fault_test

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hawser/test/harness"
)

func TestMain(m *testing.M) {
	flag.Parse()
	// Rows mostly wait; they have namespaces of their own.
	_ = flag.Set("test.parallel", "8")
	harness.Main(m, printTable)
}

// slack is what a shared machine may add to a pause.
var slack = func() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("HAWSER_SLACK")); err == nil {
		return d
	}
	return period(3*time.Second, time.Second)
}()

// Bounds of the pause.
const (
	seen   = 200 * time.Millisecond  // after a heal the device can see, plus 2 RTT
	silent = 1500 * time.Millisecond // after one it cannot
	change = 4 * time.Second         // carrier change, half-open, a hub's end: 3 s to notice + 1 s, plus 2 RTT
	lossy  = 3 * time.Second         // while packets are lost
)

// period is short in make test and as stated in make test-long.
func period(short, long time.Duration) time.Duration {
	if harness.Long() {
		return long
	}
	return short
}

// line is one line of the table.
type line struct {
	row, carrier, what string
	lines              uint64
	lost, repeated     uint64
	figure, bound      time.Duration
	verdict            string
}

var table struct {
	sync.Mutex
	lines []line
}

func record(l line) {
	table.Lock()
	defer table.Unlock()
	table.lines = append(table.lines, l)
}

func printTable() {
	table.Lock()
	defer table.Unlock()
	if len(table.lines) == 0 {
		return
	}
	slices.SortStableFunc(table.lines, func(a, b line) int { return cmp.Or(cmp.Compare(a.row, b.row), cmp.Compare(a.carrier, b.carrier)) })
	var b strings.Builder
	fmt.Fprintf(&b, "%-46s %-9s %-10s %7s %5s %5s %9s %9s\n", "fault", "carrier", "way", "lines", "lost", "twice", "stall", "bound")
	for _, l := range table.lines {
		fmt.Fprintf(&b, "%-46s %-9s %-10s %7d %5d %5d %7.2f s %7.2f s %s\n", l.row, l.carrier, l.what, l.lines, l.lost, l.repeated, l.figure.Seconds(), l.bound.Seconds(), l.verdict)
	}
	fmt.Printf("\n%s\nA row fails at its bound + %v.\n", b.String(), slack)
	if path := os.Getenv("HAWSER_TABLE"); path != "" {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
}

// judge ends the streams, records a line for each and fails the test where a byte or the bound was missed. since is when the pause begins to count.
func judge(t *testing.T, row, carrier string, streams []*harness.Stream, since time.Time, bound time.Duration) {
	t.Helper()
	counts := make([]harness.Count, len(streams))
	var wg sync.WaitGroup
	for i, x := range streams {
		wg.Go(func() { counts[i] = x.Finish(time.Minute) })
	}
	wg.Wait()
	for i, x := range streams {
		c := counts[i]
		l := line{row: row, carrier: carrier, what: string(x.Kind), lines: c.Lines(), lost: c.Lost(), repeated: c.Repeated(), figure: c.Stall(since), bound: bound, verdict: "ok"}
		switch {
		case c.Err != nil:
			l.verdict = "ENDED"
			t.Errorf("%s by hub %d: %v", x.Kind, x.Hub, c.Err)
		case c.Lost()+c.Repeated()+c.Damaged() > 0:
			l.verdict = "BYTES"
			t.Errorf("SAFETY: %s by hub %d: %d lost, %d repeated, %d damaged of %d lines", x.Kind, x.Hub, c.Lost(), c.Repeated(), c.Damaged(), c.Lines())
		case l.figure > bound+slack:
			l.verdict = "LATE"
			t.Errorf("%s by hub %d: nothing for %v, want at most %v", x.Kind, x.Hub, l.figure, bound)
		case l.figure > bound:
			l.verdict = "ok (allowance)"
		}
		record(l)
	}
}

// open begins streams of several kinds, half of them by each of two hubs so that one half is remote. A short run opens three kinds of the five, which
// ones by turn.
func open(t *testing.T, s *harness.Site, turn, hubs, rate, size int) []*harness.Stream {
	t.Helper()
	kinds := harness.Kinds
	if !harness.Long() {
		n := len(kinds)
		kinds = []harness.Kind{kinds[turn%n], kinds[(turn+3)%n], kinds[(turn+1)%n]}
	}
	var streams []*harness.Stream
	for i, kind := range kinds {
		streams = append(streams, s.Open(t, kind, (turn+i)%hubs+1, rate, size))
	}
	return streams
}

// flowing waits until each stream has moved after at.
func flowing(t *testing.T, streams []*harness.Stream, at time.Time, within time.Duration) {
	t.Helper()
	deadline := time.Now().Add(within)
	for _, x := range streams {
		for !x.MovedSince(at) {
			if x.Ended() {
				break // judge says how
			}
			if time.Now().After(deadline) {
				t.Errorf("%s by hub %d: nothing within %v", x.Kind, x.Hub, within)
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}
