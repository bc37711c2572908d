package stream

import (
	"net"
	"testing"
	"testing/synctest"
	"time"
)

func TestTheCheckerSeesLossRepetitionDamageAndPauses(t *testing.T) {
	var c Checker
	now := time.Unix(1000, 0)
	feed := func(after time.Duration, line string) {
		now = now.Add(after)
		c.Line([]byte(line), now)
	}
	line := func(n uint64) string {
		b := AppendLine(nil, n, 40)
		if len(b) != 40 {
			t.Fatalf("line of %d bytes, want 40", len(b))
		}
		return string(b[:39])
	}
	feed(0, line(0))
	feed(time.Millisecond, line(1))
	feed(time.Second, line(4))
	feed(time.Millisecond, line(4))
	feed(time.Millisecond, "0000000005 aaaaaaaaaaaaa00000000")
	c.Expect(8)
	r := c.Report()
	if r.Lines != 3 || r.Lost != 2+3 || r.Repeated != 1 || r.Damaged != 1 || len(r.Gaps) != 1 {
		t.Errorf("%+v", r)
	}
	began := time.Unix(1000, 0).Add(time.Millisecond)
	if d := r.Stall(time.Time{}.Add(0)); d != time.Second {
		t.Errorf("longest pause %v, want 1 s", d)
	}
	if d := r.Stall(began.Add(700 * time.Millisecond)); d != 300*time.Millisecond {
		t.Errorf("pause after the heal %v, want 300 ms", d)
	}
	if d := r.Stall(began.Add(2 * time.Second)); d > 0 {
		t.Errorf("pause after the last %v, want none", d)
	}
}

func TestBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		answered := make(chan error, 1)
		go func() { answered <- Answer(b, b, 100, 30) }()
		n, err := Begin(a, a, 50, 30)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		n.Stop()
		down, up, err := n.Reports()
		if err != nil || <-answered != nil {
			t.Fatal(err)
		}
		if down.Lines < 990 || down.Lost+down.Repeated+down.Damaged != 0 || up.Lines < 490 || up.Lost+up.Repeated+up.Damaged != 0 {
			t.Errorf("down %+v\nup %+v", down, up)
		}
	})
}
