package observe

import (
	"errors"
	"sync"
)

// maxHeld is how much input waits for the device's verdict, in bytes; more waits with whoever sends it.
const maxHeld = 64 << 10

// ErrOver is why input cannot be taken any more.
var ErrOver = errors.New("the session's input is over")

// Held keeps a session's input, which has passed on already, until it is known whether it may be recorded: until the session's start is known, and then, where the
// terminal decides, until the device has said so of each byte. What it never says is not recorded.
//
// Add is for the goroutine that reads the input, Judged for the one that hears of the device, Run for one of its own.
type Held struct {
	mu      sync.Mutex
	changed sync.Cond
	s       *Session
	held    []byte
	judged  []stretch // of held, from its beginning
	taking  bool      // Run is giving some to s
	refused bool      // s took something no more
	over    bool
}

type stretch struct {
	n   int
	tag byte
}

// NewHeld makes one without a Session.
func NewHeld() *Held {
	h := new(Held)
	h.changed.L = &h.mu
	return h
}

// Begin says which session the input is of.
func (h *Held) Begin(s *Session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.s = s
	if !s.Judged() && len(h.held) > 0 {
		h.judged = []stretch{{len(h.held), Unjudged}}
	}
	h.changed.Broadcast()
}

// Add takes input before it goes to the device, and waits for room. An error means that it must not go.
func (h *Held) Add(b []byte) error {
	h.mu.Lock()
	for !h.over && !h.refused && (h.s == nil || h.s.Judged()) && len(h.held) > 0 && len(h.held)+len(b) > maxHeld {
		h.changed.Wait()
	}
	if h.s == nil || h.s.Judged() {
		defer h.mu.Unlock()
		if h.over || h.refused {
			return ErrOver
		}
		h.held = append(h.held, b...)
		return nil
	}
	for len(h.judged) > 0 || h.taking { // what came before the start goes first
		if h.over || h.refused {
			break
		}
		h.changed.Wait()
	}
	over := h.over || h.refused
	h.mu.Unlock()
	if over || !h.s.Input(b, Unjudged) {
		return ErrOver
	}
	return nil
}

// Judged says that the device took so many bytes, and its verdict on them. It does not block.
func (h *Held) Judged(n uint32, tag byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.s != nil && !h.s.Judged() || n == 0 {
		return
	}
	free := len(h.held)
	for _, j := range h.judged {
		free -= j.n
	}
	if free = int(min(int64(free), int64(n))); free == 0 {
		return
	}
	if last := len(h.judged) - 1; last >= 0 && h.judged[last].tag == tag {
		h.judged[last].n += free
	} else {
		h.judged = append(h.judged, stretch{free, tag})
	}
	h.changed.Broadcast()
}

// Run records what is judged until End. What then has no verdict is withheld.
func (h *Held) Run() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.s != nil && len(h.judged) > 0:
			j := h.judged[0]
			b := append([]byte(nil), h.held[:j.n]...)
			h.held, h.judged, h.taking = append(h.held[:0], h.held[j.n:]...), h.judged[1:], true
			h.mu.Unlock()
			ok := h.s.Input(b, j.tag)
			h.mu.Lock()
			h.taking = false
			h.refused = h.refused || !ok
			h.changed.Broadcast()
		case h.over:
			if h.s != nil && len(h.held) > 0 {
				h.s.Input(h.held, Withhold)
				h.held = nil
			}
			return
		default:
			h.changed.Wait()
		}
	}
}

// End says that nothing more comes of either side. Idempotent.
func (h *Held) End() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
	h.changed.Broadcast()
}
