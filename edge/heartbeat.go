package edge

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// beater decides when to send a heartbeat and when the tunnel is dead. It has no clock: times in, decisions out.
type beater struct {
	interval time.Duration
	seq      uint32
	wanted   uint32 // the oldest unanswered heartbeat that wanted an answer; 0: none
	tries    int    // how many were sent since, that one included
	quiet    int    // heartbeats since the last that wanted an answer
}

// next returns the heartbeat to send now and how long until the next call. dead means heartbeatTries went unanswered.
func (b *beater) next(busy bool, random func(int64) int64) (h wire.Heartbeat, wait time.Duration, dead bool) {
	if b.wanted != 0 && b.tries >= heartbeatTries {
		return h, 0, true
	}
	b.seq++
	h = wire.Heartbeat{Seq: b.seq, Interval: b.interval}
	b.quiet++
	if b.wanted != 0 || busy || b.quiet >= answerEvery || b.seq == 1 {
		h.Flags |= wire.HeartbeatAnswerWanted
		b.quiet = 0
		if b.wanted == 0 {
			b.wanted = b.seq
		}
		b.tries++
	}
	// Up to a tenth early, so that a fleet that started together does not beat together; never late, for the hub and the NAT count.
	wait = b.interval - time.Duration(random(int64(b.interval/10)+1))
	if b.wanted != 0 {
		wait = min(wait, heartbeatTimeout)
	}
	return h, wait, false
}

// answered notes an answer. It reports whether the interval changed.
func (b *beater) answered(m *wire.HeartbeatAnswer) bool {
	if b.wanted != 0 && m.Seq >= b.wanted && m.Seq <= b.seq {
		b.wanted, b.tries = 0, 0
	}
	if next := clampHeartbeat(m.Interval); m.Interval > 0 && next != b.interval {
		b.interval = next
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

// heartbeat keeps the tunnel's NAT mapping and finds out that it is dead. On TLS the kernel's keepalive does that while no stream is open, and it is
// silent after one last heartbeat that says no next one is due.
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
	b := &beater{interval: clampHeartbeat(l.ack.Heartbeat)}
	observed := l.ack.Observed
	timer := time.NewTimer(0)
	defer timer.Stop()
	silent := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.busy:
			if silent {
				silent = false
				timer.Reset(0)
			}
		case m := <-answers:
			if b.answered(m) {
				timer.Reset(b.interval)
			}
			if m.Observed.IsValid() && m.Observed != observed {
				tunnel.Debug(l.a.log, "our address changed", "observed", m.Observed, "before", observed)
				observed = m.Observed
			}
		case <-timer.C:
			busy := l.streams.Load() > 0
			if !busy && b.wanted == 0 && l.at.carrier == tunnel.CarrierTLS && b.seq > 0 {
				b.seq++
				if err := l.sendHeartbeat(wire.Heartbeat{Seq: b.seq}); err != nil {
					return err
				}
				silent = true
				continue
			}
			h, wait, dead := b.next(busy, rand.Int64N)
			if dead {
				return &wire.CloseError{Code: wire.CloseIdle, Reason: fmt.Sprintf("%d heartbeats went unanswered", heartbeatTries)}
			}
			if err := l.sendHeartbeat(h); err != nil {
				return err
			}
			timer.Reset(wait)
		}
	}
}

func (l *link) sendHeartbeat(h wire.Heartbeat) error {
	raw, err := wire.Encode(h)
	if err != nil {
		return err
	}
	return l.conn.SendHeartbeat(raw)
}
