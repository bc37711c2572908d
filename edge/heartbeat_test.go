package edge

import (
	"testing"
	"time"

	"hawser/tunnel/wire"
)

func none(int64) int64 { return 0 }

// pulse drives a beater by the second, with a path that answers or does not.
type pulse struct {
	b    beater
	now  time.Time
	sent []wire.Heartbeat
}

func newPulse(b beater) *pulse { return &pulse{b: b, now: time.Unix(1e9, 0)} }

// run lets d pass in steps of 100 ms; what is sent is answered after rtt, if at all. It returns when the beater was first not healthy.
func (p *pulse) run(d time.Duration, at func() pace, rtt time.Duration) (suspectedAfter, deadAfter time.Duration) {
	type answer struct {
		at  time.Time
		seq uint32
	}
	var due []answer
	start := p.now
	for p.now.Before(start.Add(d)) {
		for len(due) > 0 && !p.now.Before(due[0].at) {
			p.b.answered(p.now, &wire.HeartbeatAnswer{Seq: due[0].seq})
			due = due[1:]
		}
		if h, ok := p.b.beat(p.now, at(), none); ok {
			p.sent = append(p.sent, h)
			if rtt > 0 && h.Flags&wire.HeartbeatAnswerWanted != 0 {
				due = append(due, answer{p.now.Add(rtt), h.Seq})
			}
		}
		switch state, _ := p.b.health(p.now, at()); {
		case state == dead && deadAfter == 0:
			deadAfter = p.now.Sub(start)
		case state == suspect && suspectedAfter == 0:
			suspectedAfter = p.now.Sub(start)
		}
		p.now = p.now.Add(100 * time.Millisecond)
	}
	return suspectedAfter, deadAfter
}

func always(p pace) func() pace { return func() pace { return p } }

func TestADeadPathIsSuspectedWithinThreeSecondsWhileBytesMove(t *testing.T) {
	for phase := range 10 {
		p := newPulse(beater{idle: 25 * time.Second})
		if s, d := p.run(time.Minute+time.Duration(phase)*100*time.Millisecond, always(paceLively), 50*time.Millisecond); s != 0 || d != 0 {
			t.Fatalf("suspected after %v, dead after %v, on a good path", s, d)
		}
		s, d := p.run(10*time.Minute, always(paceLively), 0)
		if s == 0 || s > 3*time.Second || s < suspectAfter-livelyHeartbeat {
			t.Errorf("suspected after %v, want 2 to 3 s", s)
		}
		if d != 0 {
			t.Errorf("given up after %v with a stream open", d)
		}
	}
	p := newPulse(beater{idle: 25 * time.Second})
	p.run(time.Minute, always(paceCalm), 50*time.Millisecond)
	if s, _ := p.run(time.Minute, always(paceCalm), 0); s == 0 || s > calmHeartbeat+suspectAfter+100*time.Millisecond {
		t.Errorf("a quiet session's path suspected after %v", s)
	}
}

func TestTheCadenceFollowsTheStreams(t *testing.T) {
	for _, tt := range []struct {
		name         string
		pace         pace
		kernel       bool
		sent, wanted int // in 10 minutes
		interval     time.Duration
	}{
		{"lively", paceLively, false, 600, 600, livelyHeartbeat},
		{"lively on TLS", paceLively, true, 600, 600, livelyHeartbeat},
		{"calm", paceCalm, false, 120, 120, calmHeartbeat},
		{"idle", paceIdle, false, 24, 3, 25 * time.Second},
		{"idle on TLS", paceIdle, true, 1, 1, 0},
	} {
		p := newPulse(beater{idle: 25 * time.Second, kernel: tt.kernel})
		p.run(10*time.Minute, always(tt.pace), 50*time.Millisecond)
		wanted := 0
		for _, h := range p.sent {
			if h.Flags&wire.HeartbeatAnswerWanted != 0 {
				wanted++
			}
			if h.Interval != tt.interval && !h.Again {
				t.Fatalf("%s: says the next is due in %v", tt.name, h.Interval)
			}
		}
		if len(p.sent) != tt.sent || wanted != tt.wanted {
			t.Errorf("%s: %d heartbeats and %d answers wanted, want %d and %d", tt.name, len(p.sent), wanted, tt.sent, tt.wanted)
		}
	}
}

func TestASessionThatOpensIsWatchedAtOnceAndOneThatEndsTellsTheHub(t *testing.T) {
	for _, kernel := range []bool{false, true} {
		p := newPulse(beater{idle: 25 * time.Second, kernel: kernel})
		p.run(time.Minute, always(paceIdle), 50*time.Millisecond)
		n := len(p.sent)
		p.run(2*time.Second, always(paceLively), 50*time.Millisecond)
		if len(p.sent) < n+2 || p.sent[len(p.sent)-1].Interval != livelyHeartbeat {
			t.Errorf("kernel %v: %d heartbeats in the first two seconds", kernel, len(p.sent)-n)
		}
		p.run(5*time.Minute, always(paceIdle), 50*time.Millisecond)
		last := p.sent[len(p.sent)-1]
		for i := len(p.sent) - 1; last.Again; i-- { // as the last whole one
			last = p.sent[i]
		}
		if want := map[bool]time.Duration{false: 25 * time.Second, true: 0}[kernel]; last.Interval != want {
			t.Errorf("kernel %v: the last says the next is due in %v", kernel, last.Interval)
		}
	}
}

func TestTheLastHeartbeatOnTLSTellsTheKernelsInterval(t *testing.T) {
	p := newPulse(beater{idle: 25 * time.Second, kernel: true})
	p.run(time.Minute, always(paceIdle), 50*time.Millisecond)
	if n := len(p.sent); n != 1 || p.sent[0].Interval != 0 || p.sent[0].Flags&wire.HeartbeatKeepAlive != 0 {
		t.Errorf("before it is known: %+v", p.sent)
	}
	p.b.probes, p.b.said = 270*time.Second, false
	p.run(time.Minute, always(paceIdle), 50*time.Millisecond)
	if n := len(p.sent); n != 2 || p.sent[1].Interval != 270*time.Second || p.sent[1].Flags != wire.HeartbeatKeepAlive {
		t.Errorf("%+v", p.sent)
	}
}

func TestAnIdleTunnelThatDoesNotAnswerTriesOtherPathsAndEnds(t *testing.T) {
	p := newPulse(beater{idle: 25 * time.Second})
	s, d := p.run(time.Minute, always(paceIdle), 0) // the first heartbeat wants an answer
	if s < idleSuspectAfter || s > idleSuspectAfter+time.Second || d < s+idleMoves || d > s+idleMoves+time.Second {
		t.Fatalf("suspected after %v, dead after %v", s, d)
	}
}

func TestAnAnswerEndsTheSuspicionAndSlownessIsLearned(t *testing.T) {
	p := newPulse(beater{idle: 25 * time.Second})
	p.run(time.Minute, always(paceLively), 50*time.Millisecond)
	if s, _ := p.run(3*time.Second, always(paceLively), 0); s == 0 {
		t.Fatal("not suspected")
	}
	p.b.answered(p.now, &wire.HeartbeatAnswer{Seq: p.b.seq})
	if state, _ := p.b.health(p.now, paceLively); state != healthy {
		t.Fatal("suspected though it answered")
	}
	slow := newPulse(beater{idle: 25 * time.Second})
	suspicions := 0
	for range 60 {
		if s, _ := slow.run(20*time.Second, always(paceLively), 2500*time.Millisecond); s != 0 {
			suspicions++
		}
	}
	if suspicions > 2 {
		t.Errorf("suspected %d times on a link that answers after 2.5 s", suspicions)
	}
}

func TestAStaleAnswerDoesNotKeepATunnelAlive(t *testing.T) {
	p := newPulse(beater{idle: 25 * time.Second})
	p.run(time.Second, always(paceLively), 50*time.Millisecond)
	first := p.sent[0].Seq
	start := p.now
	for p.now.Before(start.Add(5 * time.Second)) {
		p.run(500*time.Millisecond, always(paceLively), 0)
		p.b.answered(p.now, &wire.HeartbeatAnswer{Seq: first})
	}
	if state, _ := p.b.health(p.now, paceLively); state != suspect {
		t.Fatal("answers to the first heartbeat kept the tunnel alive")
	}
}

func TestTheHubMaySetTheIdleIntervalWithinBounds(t *testing.T) {
	b := &beater{idle: time.Second}
	for _, tt := range []struct{ said, want time.Duration }{{40 * time.Second, 40 * time.Second}, {1, minHeartbeat}, {time.Hour, maxHeartbeat}} {
		if !b.answered(time.Now(), &wire.HeartbeatAnswer{Interval: tt.said}) || b.idle != tt.want {
			t.Errorf("said %v, now %v, want %v", tt.said, b.idle, tt.want)
		}
	}
	if b.answered(time.Now(), &wire.HeartbeatAnswer{}) {
		t.Error("an answer without an interval changed it")
	}
}

func TestLivelinessFollowsTheBytes(t *testing.T) {
	var v liveliness
	now := time.Unix(1e9, 0)
	for i, tt := range []struct {
		after   time.Duration
		streams int32
		bytes   uint64
		want    pace
	}{
		{0, 0, 0, paceIdle},
		{time.Hour, 1, 0, paceLively}, // one that opens
		{livelyFor - time.Second, 1, 0, paceLively},
		{2 * time.Second, 1, 0, paceCalm},
		{time.Hour, 1, 1, paceLively},
		{livelyFor, 1, 1, paceCalm},
		{time.Second, 0, 1, paceIdle},
		{time.Second, 1, 1, paceLively},
	} {
		now = now.Add(tt.after)
		if got := v.pace(now, tt.streams, tt.bytes); got != tt.want {
			t.Errorf("step %d: pace %d, want %d", i, got, tt.want)
		}
	}
}

func TestAnIdleHeartbeatThatQUICDoesNotAcknowledgeIsAskedAgain(t *testing.T) {
	now := time.Unix(1e9, 0)
	b := beater{idle: 25 * time.Second}
	b.hear(now, 7)
	b.listen = now.Add(suspectAfter) // one that wants no answer goes out
	b.hear(now.Add(suspectAfter-1), 7)
	if b.ask {
		t.Fatal("asked before its time")
	}
	b.hear(now.Add(suspectAfter), 7)
	if _, ok := b.beat(now.Add(suspectAfter), paceIdle, none); !b.listen.IsZero() || !ok || b.wanted == 0 {
		t.Fatal("no answer is wanted though nothing came")
	}
	b = beater{idle: 25 * time.Second}
	b.hear(now, 7)
	b.listen = now.Add(suspectAfter)
	b.hear(now.Add(time.Second), 8)
	b.hear(now.Add(time.Minute), 8)
	if b.ask || !b.listen.IsZero() {
		t.Fatal("asked though it was acknowledged")
	}
}
