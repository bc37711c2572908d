package screen

import (
	"sync"
	"time"
)

const (
	// maxUntold lines wait for a screen that bears them; the oldest go first.
	maxUntold = 8
	// tellAgain is how soon another try is made.
	tellAgain = time.Second
)

// Teller says lines to a person, each when his screen bears it: while an editor fills the screen they wait. Safe for concurrent use.
type Teller struct {
	say func(text string) bool // false: not now

	mu     sync.Mutex
	untold []string
	timer  *time.Timer // while something waits
	ended  bool
}

// NewTeller returns one that says by say, which reports whether it did; it is not called while another call of it lasts.
func NewTeller(say func(text string) bool) *Teller { return &Teller{say: say} }

// Tell says a line, soon or later. It does not block.
func (t *Teller) Tell(text string) {
	t.mu.Lock()
	if t.ended {
		t.mu.Unlock()
		return
	}
	if len(t.untold) == maxUntold {
		t.untold = append(t.untold[:0], t.untold[1:]...)
	}
	t.untold = append(t.untold, text)
	if t.timer == nil {
		t.timer = time.AfterFunc(0, t.try)
	}
	t.mu.Unlock()
}

// try says what waits.
func (t *Teller) try() {
	for {
		t.mu.Lock()
		if t.ended || len(t.untold) == 0 {
			t.timer = nil
			t.mu.Unlock()
			return
		}
		text := t.untold[0]
		t.mu.Unlock()
		if !t.say(text) {
			break
		}
		t.mu.Lock()
		if len(t.untold) > 0 && t.untold[0] == text { // else it was dropped meanwhile, to make room
			t.untold = append(t.untold[:0], t.untold[1:]...)
		}
		t.mu.Unlock()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		t.timer = nil
		return
	}
	t.timer = time.AfterFunc(tellAgain, t.try)
}

// Stop ends it: what waits is not said, and one call of say may still be under way.
func (t *Teller) Stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	if t.timer != nil {
		t.timer.Stop()
		t.timer = nil
	}
}
