package place

import (
	"sync"
	"time"
)

// Holder is one run of a hub: what it asked for and holds. Safe for concurrent use.
//
// Ask comes before Admit is called, Granted when it was answered with a place, and Gone when it was refused or the place is
// given back, Lost when it was not answered. They come before Release is called; should that be lost, the next renewals say so.
type Holder struct {
	mu     sync.Mutex
	places map[[16]byte]*held
	seq    uint64
	asked  uint64 // the last attempt
	// answered and epoch are of the last renewal that was answered, until is when what is exact ends by it; zero: none was.
	answered uint64
	epoch    string
	until    time.Time
}

type held struct {
	attempt uint64
	granted bool
	counted bool
	exact   bool
}

// NewHolder makes an empty one.
func NewHolder() *Holder { return &Holder{places: map[[16]byte]*held{}} }

// Ask notes that a place is asked for, and says which attempt of this run it is.
func (h *Holder) Ask(id [16]byte) (attempt uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked++
	p := h.places[id]
	if p == nil {
		p = &held{}
		h.places[id] = p
	}
	p.attempt = h.asked
	return h.asked
}

// Fresh tells whether the lease is known to last. Who serves people directly may bind a place that another hub holds to none that is not: it
// would have to give it back at once, and so free it under somebody.
func (h *Holder) Fresh(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return now.Before(h.until)
}

// Granted notes the answer. ErrLapsed: the place is exact and the lease may be over; it is to be given back.
func (h *Holder) Granted(id [16]byte, counted, exact bool, now time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if exact && !now.Before(h.until) {
		return ErrLapsed
	}
	var attempt uint64
	if p := h.places[id]; p != nil {
		attempt = p.attempt
	}
	h.places[id] = &held{attempt: attempt, granted: true, counted: counted || exact, exact: exact}
	return nil
}

// Gone notes that a place is not held any more. It tells by which attempt it was asked for last, and whether it was counted under a cap.
func (h *Holder) Gone(id [16]byte) (attempt uint64, counted bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.places[id]
	if p == nil {
		return h.asked, false // it is of none that is still to come
	}
	delete(h.places, id)
	return p.attempt, p.counted
}

// Lost notes that the answer to an attempt was lost: without a later one, the place is not held.
func (h *Holder) Lost(id [16]byte, attempt uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.places[id]; p != nil && p.attempt <= attempt {
		delete(h.places, id)
	}
}

// Again tells whether a place was granted to a later attempt, so that nothing is to be given back in the name of this one any more.
func (h *Holder) Again(id [16]byte, attempt uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.places[id]
	return p != nil && p.granted && p.attempt > attempt
}

// Renewal is the next to send.
func (h *Holder) Renewal() Renewal {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seq++
	m := Renewal{Seq: h.seq, Answered: h.answered, Epoch: h.epoch}
	for id, p := range h.places {
		if p.granted {
			m.Held = append(m.Held, id)
		} else {
			m.Pending = append(m.Pending, id)
		}
	}
	return m
}

// Renewed notes the answer to a renewal that was sent at sent; exact and counted are those of its held ones that are so now.
func (h *Holder) Renewed(m Renewal, epoch string, ttl time.Duration, exact, counted [][16]byte, sent time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m.Seq <= h.answered {
		return
	}
	h.answered, h.epoch = m.Seq, epoch
	if until := sent.Add(ttl - Margin); until.After(h.until) {
		h.until = until
	}
	set := func(ids [][16]byte, f func(*held)) {
		for _, id := range ids {
			if p := h.places[id]; p != nil && p.granted {
				f(p)
			}
		}
	}
	set(m.Held, func(p *held) { p.exact, p.counted = false, false })
	set(counted, func(p *held) { p.counted = true })
	set(exact, func(p *held) { p.exact, p.counted = true, true })
}

// Lapsed returns the exact places that must end now, and when it is to be asked next; zero: nothing is exact.
func (h *Holder) Lapsed(now time.Time) (ids [][16]byte, next time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, p := range h.places {
		if p.exact {
			ids = append(ids, id)
		}
	}
	switch {
	case len(ids) == 0:
		return nil, time.Time{}
	case now.Before(h.until):
		return nil, h.until
	}
	return ids, time.Time{}
}
