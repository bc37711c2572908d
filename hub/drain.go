package hub

import (
	"context"
	"math/rand/v2"
	"time"

	"hawser/tunnel/wire"
)

const (
	// drainTail of the drain time is for ending: recordings are closed and the last is said to auth.
	drainTail = 0.2
	maxTail   = 5 * time.Second
	// drainPoll is how often a draining hub looks whether it is done.
	drainPoll = 100 * time.Millisecond
	// goAwayShare of the drain time is what the devices' GOAWAYs are spread over; the rest is for the last of them to move.
	goAwayShare = 0.5
	// goAwayStep is the longest pause between two GOAWAYs: 50 devices a second are no storm.
	goAwayStep = 20 * time.Millisecond
	// drainAlone is what people get who are told that the only hub ends: nothing can be moved.
	drainAlone = time.Second
)

// Drain asks Run to end in good order: devices are told to register elsewhere, in random slices over half of the drain time, people
// are told that the hub ends, and Run returns when nobody is left or the time is over. It returns at once. Ending Run's context ends
// the hub without that.
func (h *Hub) Drain() { h.drainOnce.Do(func() { close(h.drain) }) }

// drained returns when the hub may end: ctx has, or it was told to drain and has.
func (h *Hub) drained(ctx context.Context) {
	select {
	case <-h.drain:
	case <-ctx.Done():
		return
	}
	h.draining.Store(true)
	h.admission.close()
	h.passes.drain()
	total := h.config.DrainTimeout
	tail := min(time.Duration(float64(total)*drainTail), maxTail)
	deadline := time.Now().Add(total - tail)
	others := h.otherHubs()
	if others == 0 {
		deadline = time.Now().Add(min(drainAlone, total-tail))
	}
	h.drainDeadline.Store(time.Now().Add(total).UnixNano())
	h.config.Logger.Info("draining", "tunnels", len(h.tunnels.all()), "connections", h.front.Connections(), "other_hubs", others,
		"timeout", total.String())
	h.front.Drain(time.Until(deadline))
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	if others > 0 {
		h.tellGoAway(ctx, time.Duration(float64(total)*goAwayShare), deadline)
	}
	t := time.NewTicker(drainPoll)
	defer t.Stop()
	for h.front.Connections() > 0 || others > 0 && len(h.tunnels.all()) > 0 {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// tellGoAway tells the devices to register elsewhere, in random slices over a time, so that the other hubs see no storm.
func (h *Hub) tellGoAway(ctx context.Context, over time.Duration, deadline time.Time) {
	all := h.tunnels.all()
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	step := min(over/time.Duration(max(len(all), 1)), goAwayStep)
	start := time.Now()
	for i, s := range all {
		s.send(wire.GoAway{
			Code: wire.CloseDrain, Reason: "the hub is going down", Deadline: max(time.Until(deadline), time.Second),
			RetryAfter: retryWindow,
		})
		if wait := time.Until(start.Add(time.Duration(i+1) * step)); wait > time.Millisecond {
			t := time.NewTimer(wait)
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return
			}
		}
	}
}

// otherHubs is how many hubs besides this one are up.
func (h *Hub) otherHubs() int {
	n := 0
	for _, x := range h.mesh.Peers() {
		if x.Connected {
			n++
		}
	}
	return n
}
