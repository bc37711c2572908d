package share

import (
	"context"
	"errors"
	"sync"
	"time"
)

// resumeWait is how long after a pause, or the wait for moderators, what comes still counts as typed in it: it was on its way when its author was told that the
// session goes on.
const resumeWait = 250 * time.Millisecond

// ErrPaused is what Begin returns in a pause.
var ErrPaused = errors.New("the session was paused as it began; open it again")

// Gate is what a Host has for Pause: it holds up what waits, and tells what is typed for the session from what is typed into a pause and is to be thrown away.
// The nil Gate is open always. Safe for concurrent use.
type Gate struct {
	mu     sync.Mutex
	moved  *sync.Cond // on mu
	paused bool
	gather bool      // it waits for its moderators, or did
	turns  uint64    // how often it was paused, and went on
	since  time.Time // it began, had it to wait for that, or goes on again
	over   bool
}

// NewGate returns an open one.
func NewGate() *Gate {
	g := new(Gate)
	g.moved = sync.NewCond(&g.mu)
	return g
}

// GoesOn waits while the session is paused. False: it is over.
func (g *Gate) GoesOn() bool {
	if g == nil {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.paused && !g.over {
		g.moved.Wait()
	}
	return !g.over
}

// Paused tells whether the session is.
func (g *Gate) Paused() bool {
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.paused && !g.over
}

// Turn is the number of what is typed now, for Takes and CaughtUp.
func (g *Gate) Turn() uint64 {
	if g == nil {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.turns
}

// Takes tells whether what was typed in a turn goes on to where it is for: nobody has paused the session since.
func (g *Gate) Takes(turn uint64) bool {
	if g == nil {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.paused && g.turns == turn && time.Since(g.since) >= resumeWait
}

// CaughtUp is for the end of what was done with what was typed in a turn. Was that held up until the session went on, then what came meanwhile lies behind it.
func (g *Gate) CaughtUp(turn uint64) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.turns != turn && !g.paused {
		g.since = time.Now()
	}
}

// Pause stops the session, or lets it go on. also is done with it, unless the session is over; it may be nil, and must not block.
func (g *Gate) Pause(paused bool, also func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		return
	}
	g.turns++
	if g.paused = paused; !paused {
		g.since = time.Now()
	}
	if also != nil {
		also()
	}
	g.moved.Broadcast()
}

// Gather says that the session waits for people before it begins: what is typed from now on is for nobody.
func (g *Gate) Gather() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gather = true
	g.turns++
}

// Begin begins the session by start, which must not block: neither when ctx is over nor in a pause. What was typed before, and comes only now, is thrown away
// where people were waited for. The error is the cause of ctx or ErrPaused.
func (g *Gate) Begin(ctx context.Context, start func()) error {
	if g == nil {
		start()
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case g.paused:
		return ErrPaused
	case g.gather:
		g.turns++
		g.since = time.Now()
	}
	start()
	return nil
}

// End has nobody wait any more.
func (g *Gate) End() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = true
	g.moved.Broadcast()
}
