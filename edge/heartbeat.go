package edge

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"hawser/edge/netwatch"
	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// pace is how closely a tunnel is watched.
type pace uint8

const (
	paceIdle   pace = iota // no stream is on it
	paceCalm               // streams are, on which nothing moved for a while
	paceLively             // people are at work
)

// beater decides when to send a heartbeat and what silence means. It has no clock: times in, decisions out.
type beater struct {
	idle   time.Duration // the interval without streams that the hub wishes
	nat    time.Duration // the one that the NAT bears; 0: not looked up
	kernel bool          // an idle tunnel is watched by the kernel (TLS): one last heartbeat says that none is due, and then none is sent

	seq   uint32
	sent  time.Time     // the last; zero: none
	early time.Duration // how much before its time the next idle one goes
	quiet int           // heartbeats since the last that wanted an answer
	// promised is the interval that the last one told, told the first heartbeat that did; known: the hub has it.
	promised time.Duration
	told     uint32
	known    bool
	said     bool // the last one said that none is due
	// probes is the kernel's keepalive interval, which that one tells; 0: not known.
	probes time.Duration
	ask    bool // send one now and have it answered

	heard  uint64    // packets from the hub when the last heartbeat that wants no answer was sent
	listen time.Time // when there must be more: QUIC acknowledges that one, too. Zero: no such heartbeat is under way

	wanted  uint32    // the oldest unanswered heartbeat that wanted an answer; 0: none
	asked   time.Time // when it was sent
	tries   int       // how many were sent since, that one included
	rtt     time.Duration
	doubted bool // the network changed, and no answer has come since
	wary    int  // how often silence turned out to be slowness: each doubles the patience
}

// health is what silence means.
type health uint8

const (
	healthy health = iota
	suspect        // another path or tunnel is to be tried
	dead           // the tunnel is of no use
)

func (b *beater) interval(p pace) time.Duration {
	switch p {
	case paceLively:
		return min(livelyHeartbeat, b.idle)
	case paceCalm:
		return min(calmHeartbeat, b.idle)
	}
	return b.unused()
}

// unused is the interval without streams: what was learned of the network, unless the hub wants to hear more than a network not learned yet does.
func (b *beater) unused() time.Duration {
	if b.nat > 0 && b.idle >= defaultHeartbeat {
		return b.nat
	}
	return b.idle
}

// due is when the next heartbeat is to be sent; ok is false for never.
func (b *beater) due(p pace) (at time.Time, ok bool) {
	switch {
	case b.ask || b.sent.IsZero():
		return b.sent, true
	case b.wanted != 0 && p == paceIdle && b.tries > 1:
		return b.sent.Add(2 * heartbeatRetry), true
	case b.wanted != 0:
		return b.sent.Add(min(heartbeatRetry, b.interval(p))), true
	case p != paceIdle:
		return b.sent.Add(b.interval(p)), true
	case b.kernel && b.said:
		return time.Time{}, false
	case b.kernel:
		return b.sent.Add(heartbeatRetry), true
	}
	// What the last one promised holds, or the hub takes a longer interval for silence.
	return b.sent.Add(min(b.unused()-b.early, b.promised)), true
}

// beat returns the heartbeat to send now, if one is due.
func (b *beater) beat(now time.Time, p pace, random func(int64) int64) (h wire.Heartbeat, ok bool) {
	at, ok := b.due(p)
	if !ok || now.Before(at) {
		return h, false
	}
	last := b.kernel && p == paceIdle
	want := b.ask || b.sent.IsZero() || b.wanted != 0 || p != paceIdle
	b.seq++
	b.sent, b.ask, b.said = now, false, last
	// Up to a twentieth early, so that a fleet that started together does not beat together; never late, for the hub and the NAT count.
	b.early = time.Duration(random(int64(b.unused()/20) + 1))
	h = wire.Heartbeat{Seq: b.seq}
	if last {
		if b.probes > 0 {
			h.Flags, h.Interval = wire.HeartbeatKeepAlive, b.probes
		}
	} else {
		h.Interval = b.interval(p)
		if h.Interval != b.promised {
			b.promised, b.told, b.known = h.Interval, b.seq, false
		}
		b.quiet++
		want = want || b.quiet >= answerEvery || !b.known
	}
	if want {
		h.Flags |= wire.HeartbeatAnswerWanted
		b.quiet = 0
		if b.wanted == 0 {
			b.wanted, b.asked, b.tries = b.seq, now, 0
		}
		b.tries++
	} else if b.known && !last {
		h = wire.Heartbeat{Again: true}
	}
	return h, true
}

// hear takes how many packets came from the hub so far. A heartbeat that not even QUIC acknowledged is followed by one that wants an answer.
func (b *beater) hear(now time.Time, packets uint64) {
	switch {
	case b.listen.IsZero():
		b.heard = packets
	case packets != b.heard:
		b.listen = time.Time{}
		b.heard = packets
	case !now.Before(b.listen):
		b.listen = time.Time{}
		b.ask = true
	}
}

// patience is how long silence is no news: longer on a link where answers are slow anyway.
func (b *beater) patience(p pace) time.Duration {
	d := suspectAfter
	if p == paceIdle {
		d = idleSuspectAfter
	}
	return min(max(d, 3*b.rtt)<<min(b.wary, 3), maxPatience)
}

// health tells what the silence so far means, and when that may change by itself; zero: it does not.
func (b *beater) health(now time.Time, p pace) (health, time.Time) {
	if b.doubted && p != paceIdle {
		return suspect, time.Time{}
	}
	if b.wanted == 0 || b.tries < 2 {
		return healthy, time.Time{}
	}
	limit := b.asked.Add(b.patience(p))
	switch {
	case now.Before(limit):
		return healthy, limit
	case p != paceIdle:
		return suspect, time.Time{} // as long as there are streams it may come back: the carrier's own time-out decides
	case now.Before(limit.Add(idleMoves)):
		return suspect, limit.Add(idleMoves)
	}
	return dead, time.Time{}
}

// doubt makes the path prove itself: only an answer to what is sent from now on counts, and until it comes people do not wait for the silence to last.
func (b *beater) doubt() {
	b.ask, b.doubted, b.wanted, b.tries = true, true, 0, 0
}

// answered notes an answer. It reports whether the interval changed.
func (b *beater) answered(now time.Time, m *wire.HeartbeatAnswer) bool {
	if b.wanted != 0 && m.Seq >= b.wanted && m.Seq <= b.seq {
		took := now.Sub(b.asked)
		if m.Seq == b.wanted { // a later one proves only that it took no longer
			b.rtt = took
			if took >= suspectAfter && b.tries > 1 {
				b.wary = min(b.wary+1, 3)
			}
		} else {
			b.rtt = min(b.rtt, took)
		}
		if took < suspectAfter && b.wary > 0 && b.seq%64 == 0 {
			b.wary--
		}
		b.wanted, b.tries, b.doubted = 0, 0, false
		b.known = m.Seq >= b.told
	}
	if next := clampHeartbeat(m.Interval); m.Interval > 0 && next != b.idle {
		b.idle = next
		return true
	}
	return false
}

func clampHeartbeat(d time.Duration) time.Duration {
	if d <= 0 {
		return defaultHeartbeat
	}
	return min(max(d, minHeartbeat), maxHeartbeat)
}

// liveliness follows the bytes of an agent's streams.
type liveliness struct {
	bytes uint64
	since time.Time // when they last grew
}

// pace is that of a tunnel with these streams.
func (v *liveliness) pace(now time.Time, streams int32, bytes uint64) pace {
	if bytes != v.bytes || streams > 0 && v.since.IsZero() {
		v.bytes, v.since = bytes, now
	}
	switch {
	case streams == 0:
		v.since = time.Time{}
		return paceIdle
	case now.Sub(v.since) < livelyFor:
		return paceLively
	}
	return paceCalm
}

// heartbeat keeps the tunnel's NAT mapping, finds out that it does not answer, and then tries other paths to the hub.
func (l *link) heartbeat(ctx context.Context) error {
	answers := make(chan *wire.HeartbeatAnswer, 4) // full: the answer is dropped, as the network may
	l.goDo("heartbeat answers", func(ctx context.Context) error {
		for {
			raw, err := l.conn.ReceiveHeartbeat(ctx)
			if err != nil {
				return err
			}
			m, err := wire.DecodeHeartbeatAnswer(raw)
			if err != nil {
				continue // a datagram is not worth a tunnel
			}
			select {
			case answers <- &m:
			default:
			}
		}
	})
	// A write may be stuck behind streams' in a socket that nobody empties, just when heartbeats matter.
	beats := make(chan wire.Heartbeat, 1)
	l.goDo("heartbeats", func(ctx context.Context) error {
		for {
			select {
			case h := <-beats:
				if err := l.sendHeartbeat(h); err != nil {
					return err
				}
			case <-ctx.Done():
				return nil
			}
		}
	})
	b := &beater{idle: clampHeartbeat(l.ack.Heartbeat), kernel: l.at.carrier == tunnel.CarrierTLS}
	observed := l.ack.Observed
	quicIdle := func(p pace) bool { return p == paceIdle && l.at.carrier == tunnel.CarrierQUIC }
	var shifted bool // our own address is another since the last answer
	mover, _ := l.conn.(tunnel.Mover)
	hearer, _ := l.conn.(tunnel.Hearer)
	moves := make(chan error, 1)
	var tried time.Time             // the last move; zero: none since all was well
	var stopMove context.CancelFunc // of the one at work; nil: none
	move := func(now time.Time) {
		if mover == nil || stopMove != nil {
			return
		}
		var mctx context.Context
		mctx, stopMove = context.WithTimeout(ctx, min(max(moveTimeout, 3*b.rtt), maxPatience))
		tried = now
		l.goDo("move", func(context.Context) error {
			moves <- mover.Migrate(mctx) // room for one, and there is one at a time
			return nil
		})
	}
	var life liveliness
	idle := true
	var since time.Time // of the suspicion
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		p := life.pace(now, l.streams.Load(), l.a.moved())
		if quicIdle(p) && (b.nat == 0 || !now.Before(b.sent.Add(natMin))) {
			b.nat = l.a.nat.interval(netwatch.Network(), tunnel.CarrierQUIC)
		}
		if k := time.Duration(l.keepAlive.Load()); k != b.probes {
			b.probes, b.said = k, false
		}
		if (p == paceIdle) != idle {
			idle = p == paceIdle
			nudge(l.k.wake)
		}
		if hearer != nil {
			b.hear(now, hearer.Heard())
		}
		if h, ok := b.beat(now, p, rand.Int64N); ok {
			if hearer != nil && h.Flags&wire.HeartbeatAnswerWanted == 0 {
				b.listen = now.Add(max(suspectAfter, 3*b.rtt))
			}
			select {
			case beats <- h:
			default: // the last is stuck in the carrier: lost, as the network may
			}
		}
		state, at := b.health(now, p)
		next, ok := b.due(p)
		if !ok {
			next = now.Add(time.Hour)
		}
		if !at.IsZero() {
			next = earlier(next, at)
		}
		if !b.listen.IsZero() {
			next = earlier(next, b.listen)
		}
		if p != paceIdle {
			next = earlier(next, now.Add(time.Second)) // to see bytes move
		}
		if (state != healthy) != l.suspect.Load() {
			l.suspect.Store(state != healthy)
			since = now
			nudge(l.k.wake)
			if state == healthy && quicIdle(p) && !shifted {
				l.a.nat.missed(netwatch.Network()) // the hub was there all the time: it was the mapping
				b.nat = 0
				nudge(l.busy)
			}
			if state == healthy {
				if l.broken() {
					l.tellHistory()
				}
			} else {
				asked := b.asked
				l.silence.Store(&asked)
				tunnel.Info(l.a.log, "the hub does not answer", "slot", l.slot, "hub", l.challenge.HubName,
					"for", now.Sub(b.asked).Round(time.Millisecond), "network_changed", b.doubted)
			}
		}
		switch state {
		case dead:
			return &wire.CloseError{Code: wire.CloseIdle, Reason: fmt.Sprintf("%d heartbeats went unanswered", b.tries)}
		case suspect:
			every := urgentEvery
			if now.Sub(since) > urgentFor {
				every = calmEvery
			}
			if !now.Before(tried.Add(every)) {
				move(now)
			}
			next = earlier(next, tried.Add(every))
		}
		timer.Reset(max(next.Sub(now), heartbeatGrain))
		select {
		case <-ctx.Done():
			return nil
		case <-l.busy:
		case <-l.moved:
			// The network changed. On QUIC a fresh path spares what waits on the old one its backed-off timer.
			b.doubt()
			shifted = true
			tried = time.Time{}
			if stopMove != nil {
				stopMove() // it probes from where we were
			}
		case err := <-moves:
			stopMove()
			stopMove = nil
			if err == nil {
				b.ask, shifted = true, true
				tunnel.Info(l.a.log, "tunnel moved to another path", "hub", l.challenge.HubName)
			} else {
				tunnel.Debug(l.a.log, "tunnel not moved", "error", err)
			}
		case m := <-answers:
			b.answered(time.Now(), m)
			if m.Observed.IsValid() && m.Observed != observed {
				tunnel.Debug(l.a.log, "our address changed", "observed", m.Observed, "before", observed)
				if m.Observed.Addr() != observed.Addr() {
					l.a.history.add(wire.ConnEvent{Kind: wire.EventMoved, Hub: l.challenge.HubName, Carrier: uint8(l.at.carrier)})
				}
				if quicIdle(p) && !shifted {
					l.a.nat.addressChanged(netwatch.Network())
					b.nat = 0
				}
				observed = m.Observed
			}
			shifted = false
		case <-timer.C:
		}
	}
}

func (l *link) sendHeartbeat(h wire.Heartbeat) error {
	return l.conn.SendHeartbeat(h.Append(nil))
}
