package recorder

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrStalled is why a strict session ends, or does not begin: what passed in it could not be stored in time.
var ErrStalled = errors.New("this session must be recorded as it happens, and its recording cannot be stored")

// Window makes a Writer strict: what passes must be stored, but for the last bit of it. Output, Input and Passed then hold back what is too
// much, and return false when it must not pass at all. Sinks of strict Writers do not block.
type Window struct {
	Bytes int           // most that may have passed and not be acknowledged
	Age   time.Duration // the longest that any of it may wait
	Grace time.Duration // how long things are held back before the session must end
	// Held tells whether the session's stream is detached: nothing passes then, so Grace stands still. nil: it never is.
	Held func() bool
	// Ended is called once, in a goroutine of its own, when the session must end.
	Ended func(why error)
}

// window is the state of a Window, under the Writer's mutex.
type window struct {
	Window
	waits   []unacknowledged // chunks the sink has, in order; acked is the sequence of the first
	acked   uint64
	bytes   int // of all that passed and is not acknowledged
	waiting int // calls that are held back
	stalled time.Duration
	timer   *time.Timer // while anything is unacknowledged
	begun   bool        // Start has returned
	refused error       // what the store said last
	over    error       // nothing passes any more
}

type unacknowledged struct {
	bytes int
	since time.Time
}

// startWait bounds the wait for the store at the start of a strict session, windowTick is how exactly Grace is measured.
const (
	startWait  = 5 * time.Second
	windowTick = 250 * time.Millisecond
)

// Acknowledge says that all chunks below next are durable.
func (w *Writer) Acknowledge(next uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.window
	if x == nil {
		return
	}
	for len(x.waits) > 0 && x.acked < next {
		x.bytes -= x.waits[0].bytes
		x.waits = x.waits[1:]
		x.acked++
		x.stalled, x.refused = 0, nil
	}
	w.room.Broadcast()
}

// Refused says why chunks are not acknowledged at the moment. A strict session that has not started does not start then.
func (w *Writer) Refused(why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if x := w.window; x != nil {
		x.refused = why
		if !x.begun {
			w.overLocked(why)
		}
	}
}

// started waits until all that is recorded is stored.
func (w *Writer) started() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.window
	if x == nil {
		return nil
	}
	timer := time.AfterFunc(startWait, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if !x.begun {
			w.overLocked(context.DeadlineExceeded)
		}
	})
	defer timer.Stop()
	w.current.cut = time.Time{}
	w.signal()
	for x.over == nil && !w.closing && !w.oldestLocked().IsZero() {
		w.room.Wait()
	}
	if x.begun = true; x.over == nil && w.closing {
		return ErrClosed
	}
	return x.over
}

// sentLocked notes a chunk that goes to the sink.
func (w *Writer) sentLocked(c rawChunk) {
	if x := w.window; x != nil {
		x.waits = append(x.waits, unacknowledged{c.bytes, c.since})
	}
}

// admitLocked waits until n bytes may pass. False: they must not.
func (w *Writer) admitLocked(n int) bool {
	x := w.window
	if x == nil {
		return true
	}
	for x.over == nil && !w.closing {
		if old := w.oldestLocked(); old.IsZero() || x.bytes+n <= x.Bytes && time.Since(old) < x.Age {
			x.bytes += n
			return true
		}
		x.waiting++
		w.room.Wait()
		x.waiting--
	}
	return false
}

// oldestLocked is when the oldest record was made that is not acknowledged; zero: there is none.
func (w *Writer) oldestLocked() time.Time {
	switch {
	case len(w.window.waits) > 0:
		return w.window.waits[0].since
	case len(w.queue) > 0:
		return w.queue[0].since
	}
	return w.current.since
}

// watchLocked begins to look whether things are held back.
func (w *Writer) watchLocked() {
	if x := w.window; x != nil && x.timer == nil && x.over == nil {
		x.timer = time.AfterFunc(windowTick, w.look)
	}
}

func (w *Writer) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.window
	old := w.oldestLocked()
	if x.timer = nil; old.IsZero() || w.closing {
		x.stalled = 0
		return
	}
	switch {
	case x.waiting == 0 && time.Since(old) < x.Age:
		x.stalled = 0
	case x.Held == nil || !x.Held():
		x.stalled += windowTick
	}
	if x.begun && x.stalled >= x.Grace {
		w.overLocked(nil)
	}
	w.watchLocked()
}

// overLocked lets nothing pass any more.
func (w *Writer) overLocked(why error) {
	x := w.window
	if x.over != nil {
		return
	}
	if x.over = ErrStalled; why == nil {
		why = x.refused
	}
	if why != nil {
		x.over = fmt.Errorf("%w: %w", ErrStalled, why)
	}
	w.room.Broadcast()
	if x.begun && x.Ended != nil {
		go x.Ended(x.over)
	}
}
