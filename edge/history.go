package edge

import (
	"sync"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

const (
	// historySize is how many connection events are remembered.
	historySize = 20
	// maxHistoryHub and maxHistoryText are the wire's limits of an event.
	maxHistoryHub, maxHistoryText = 255, 200
	// silenceTold is how long a tunnel must be silent for the history to tell of it.
	silenceTold = 5 * time.Second
	// historyHubs is of how many hubs it is remembered what they were told; a hub forgotten is told all again.
	historyHubs = 8
)

// history is what the agent remembers of its connections, in memory alone: why it was away is told to the hub once it is back. Times are
// monotonic, for a device's clock may be stepped meanwhile. The zero value is empty. Safe for concurrent use.
type history struct {
	mu     sync.Mutex
	events []*happened // oldest first, at most historySize
	added  uint64      // events ever added
	told   []toldHub   // in the order in which they were met, at most historyHubs

	telling sync.Mutex // of who hands events over; taken before mu
}

type happened struct {
	wire.ConnEvent
	first, last time.Time
	number      uint64 // of added
}

// toldHub is what one run of a hub has got.
type toldHub struct {
	hub    wire.Incarnation
	number uint64
}

// addSince remembers an event that began earlier and is over.
func (h *history) addSince(ev wire.ConnEvent, began time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.appendLocked(ev, began)
}

// appendLocked makes room and remembers.
func (h *history) appendLocked(ev wire.ConnEvent, began time.Time) {
	if len(h.events) == historySize {
		h.events = append(h.events[:0], h.events[1:]...)
	}
	ev.Hub, ev.Text, ev.Times = truncate(ev.Hub, maxHistoryHub), truncate(ev.Text, maxHistoryText), 1
	h.added++
	h.events = append(h.events, &happened{ev, began, time.Now(), h.added})
}

// add remembers an event of now. One that is the same as the last, but for its text, makes that one last longer.
func (h *history) add(ev wire.ConnEvent) {
	now := time.Now()
	ev.Hub, ev.Text = truncate(ev.Hub, maxHistoryHub), truncate(ev.Text, maxHistoryText)
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.events); n > 0 {
		last := h.events[n-1]
		same := last.Kind == ev.Kind && last.Hub == ev.Hub && last.Carrier == ev.Carrier && last.Code == ev.Code
		if same && ev.Kind != wire.EventRegistered && !h.wasToldLocked(last.number) {
			last.last, last.Text = now, ev.Text
			last.Times++
			return
		}
	}
	h.appendLocked(ev, now)
}

// wasToldLocked reports whether any hub has got the event: what it got is not changed any more.
func (h *history) wasToldLocked(number uint64) bool {
	for _, t := range h.told {
		if t.number >= number {
			return true
		}
	}
	return false
}

// list is all that is remembered, oldest first. Ago counts from when an event was first seen.
func (h *history) list(now time.Time) []wire.ConnEvent {
	events, _ := h.since(0, now)
	return events
}

// since is list from after an event on, and the number of the last.
func (h *history) since(number uint64, now time.Time) ([]wire.ConnEvent, uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []wire.ConnEvent
	for _, e := range h.events {
		if e.number > number {
			ev := e.ConnEvent
			ev.Ago, ev.Lasted = now.Sub(e.first), e.last.Sub(e.first)
			out = append(out, ev)
		}
	}
	return out, h.added
}

// toldTo is the number of the last event that this run of a hub has got; tell sets it.
func (h *history) toldTo(hub wire.Incarnation) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, t := range h.told {
		if t.hub == hub {
			return t.number
		}
	}
	return 0
}

func (h *history) tell(hub wire.Incarnation, number uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.told {
		if h.told[i].hub == hub {
			h.told[i].number = number
			return
		}
	}
	if len(h.told) == historyHubs {
		h.told = append(h.told[:0], h.told[1:]...)
	}
	h.told = append(h.told, toldHub{hub, number})
}

// tellHistory hands over the events that the hub of this tunnel has not got yet. A tunnel that dies at once may take them with it.
func (l *link) tellHistory() {
	l.a.history.telling.Lock()
	defer l.a.history.telling.Unlock()
	hub := l.challenge.HubIncarnation
	events, number := l.a.history.since(l.a.history.toldTo(hub), time.Now())
	if len(events) == 0 {
		return
	}
	if err := tunnel.Send(l.conn, wire.History{Events: events}); err != nil {
		tunnel.Debug(l.a.log, "history not told", "error", err)
		return
	}
	l.a.history.tell(hub, number)
}
