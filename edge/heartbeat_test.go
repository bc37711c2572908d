package edge

import (
	"testing"
	"time"

	"hawser/tunnel/wire"
)

func none(int64) int64 { return 0 }

func TestThreeUnansweredHeartbeatsEndATunnel(t *testing.T) {
	b := &beater{interval: 25 * time.Second}
	for try := range heartbeatTries {
		h, wait, dead := b.next(false, none)
		if dead || h.Flags&wire.HeartbeatAnswerWanted == 0 || wait != heartbeatTimeout {
			t.Fatalf("try %d: %+v, wait %v, dead %v", try, h, wait, dead)
		}
	}
	if _, _, dead := b.next(false, none); !dead {
		t.Fatal("not dead after three")
	}
}

func TestAnIdleTunnelAsksForEveryTenthAnswerOnly(t *testing.T) {
	b := &beater{interval: 25 * time.Second}
	asked := 0
	for range 1 + 5*answerEvery {
		h, wait, dead := b.next(false, none)
		if dead {
			t.Fatal("dead though every answer came")
		}
		if h.Flags&wire.HeartbeatAnswerWanted != 0 {
			asked++
			b.answered(&wire.HeartbeatAnswer{Seq: h.Seq})
		} else if wait != b.interval {
			t.Fatalf("waits %v after a heartbeat without an answer", wait)
		}
	}
	if asked != 6 {
		t.Fatalf("asked %d times in %d heartbeats", asked, 1+5*answerEvery)
	}
}

func TestABusyTunnelAsksForEveryAnswer(t *testing.T) {
	b := &beater{interval: time.Second}
	for range 20 {
		h, _, _ := b.next(true, none)
		if h.Flags&wire.HeartbeatAnswerWanted == 0 {
			t.Fatal("no answer asked for with a stream open")
		}
		b.answered(&wire.HeartbeatAnswer{Seq: h.Seq})
	}
}

func TestAStaleAnswerDoesNotKeepATunnelAlive(t *testing.T) {
	b := &beater{interval: time.Second}
	h, _, _ := b.next(true, none)
	b.answered(&wire.HeartbeatAnswer{Seq: h.Seq})
	for range heartbeatTries {
		b.next(true, none)
		b.answered(&wire.HeartbeatAnswer{Seq: h.Seq})
	}
	if _, _, dead := b.next(true, none); !dead {
		t.Fatal("answers to the first heartbeat kept the tunnel alive")
	}
}

func TestTheHubMaySetTheIntervalWithinBounds(t *testing.T) {
	b := &beater{interval: time.Second}
	for _, tt := range []struct{ said, want time.Duration }{{40 * time.Second, 40 * time.Second}, {1, minHeartbeat}, {time.Hour, maxHeartbeat}} {
		if !b.answered(&wire.HeartbeatAnswer{Interval: tt.said}) || b.interval != tt.want {
			t.Errorf("said %v, now %v, want %v", tt.said, b.interval, tt.want)
		}
	}
	if b.answered(&wire.HeartbeatAnswer{}) {
		t.Error("an answer without an interval changed it")
	}
}
