// Package idle ends what nobody uses, and what has lasted for as long as it may: sessions and connections, at a hub and at an edge alike.
//
// Start from [NewMeter], which is told what passes, and [Start], which looks at it. One timer serves a Watch, and it runs when something may be
// due alone: what passes costs a few atomic operations and no more.
package idle

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hawser/auth/policy"
)

const (
	// warnBefore is how long before its end a session is warned; where the limit is less than twice that, half of it.
	warnBefore = time.Minute
	// warnAgain is how soon it is tried again where a warning would have spoiled what is shown.
	warnAgain = time.Second
	// lookAgain bounds the wait for the end of a certificate: the clock may be set meanwhile.
	lookAgain = time.Minute
	// awayGrace is how long what a person typed while the link was lost gets to arrive once it is back.
	awayGrace = 2 * time.Second
)

// Meter counts what passes. Safe for concurrent use.
type Meter struct {
	begun   time.Time
	in, out atomic.Uint64
	lastIn  atomic.Int64 // nanoseconds after begun, by the monotonic clock
	lastOut atomic.Int64
}

// NewMeter begins now.
func NewMeter() *Meter { return &Meter{begun: time.Now()} }

// In counts bytes from the person.
func (m *Meter) In(n int) {
	m.in.Add(uint64(n))
	m.lastIn.Store(int64(time.Since(m.begun)))
}

// Out counts bytes to the person.
func (m *Meter) Out(n int) {
	m.out.Add(uint64(n))
	m.lastOut.Store(int64(time.Since(m.begun)))
}

// Touch is for what keeps it from being idle and is no data.
func (m *Meter) Touch() { m.lastIn.Store(int64(time.Since(m.begun))) }

// Bytes are those counted so far, from the person and to him.
func (m *Meter) Bytes() (in, out uint64) { return m.in.Load(), m.out.Load() }

// Last is when something last passed: from the person alone, or in either direction. At first it is the beginning.
func (m *Meter) Last(inputOnly bool) time.Time {
	last := m.lastIn.Load()
	if !inputOnly {
		last = max(last, m.lastOut.Load())
	}
	return m.begun.Add(time.Duration(last))
}

// Limits bound how long something may last.
type Limits struct {
	policy.SessionLimits
	// Expires is when what the person logged in with does; zero: never. It counts where EndWithCredential says so.
	Expires time.Time
}

// Config of a Watch. The functions are called one at a time but for End, and must not call the Watch's Stop.
type Config struct {
	Meter *Meter
	// Now is the clock that Expires is held against; nil: time.Now.
	Now func() time.Time
	// Terminal tells whether there is one, where the person's input counts alone; nil: there is none.
	Terminal func() bool
	// Busy tells whether there is something that has a Watch of its own, or that others judge: then nothing ends here. Nil: there is not.
	Busy func() bool
	// Away tells whether what the person sends cannot arrive now, so that nobody knows whether he is idle. Nil: it can.
	Away func() bool
	// Warn shows a line at a terminal, or tells that it would spoil what is shown; it may block. Nil: nobody can be warned.
	Warn func(text string) bool
	// End is told why it is to end, once. It must not block.
	End func(reason string)
}

// Watch holds limits against something that is open. Safe for concurrent use.
type Watch struct {
	c Config

	mu       sync.Mutex
	limits   Limits
	timer    *time.Timer
	over     bool // End was called
	stopped  bool
	lastAway time.Time
	warned   time.Time // what was warned of: a due's what
	warning  bool      // a Warn is under way
	wg       sync.WaitGroup
}

// Start begins to watch something that began when its Meter did.
func Start(c Config, l Limits) *Watch {
	if c.Now == nil {
		c.Now = time.Now
	}
	w := &Watch{c: c, limits: l}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(time.Hour, w.look)
	w.timer.Stop()
	if l != (Limits{}) {
		w.timer.Reset(0)
	}
	return w
}

// Set puts other limits in force.
func (w *Watch) Set(l Limits) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.stopped {
		w.limits = l
		w.timer.Reset(0)
	}
}

// Look is to be called when Busy may have changed.
func (w *Watch) Look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.stopped {
		w.timer.Reset(0)
	}
}

// Stop ends the watch and waits for what it has under way. Idempotent; nil is fine.
func (w *Watch) Stop() {
	if w == nil {
		return
	}
	w.mu.Lock()
	w.stopped = true
	w.timer.Stop()
	w.mu.Unlock()
	w.wg.Wait()
}

// Late is why nothing more may begin in what is watched, though it goes on because it is busy; empty: it may.
func (w *Watch) Late() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.dueLocked(time.Now()) {
		if !d.idle && !d.at.After(time.Now()) {
			return d.reason
		}
	}
	return ""
}

// due is when one of the limits is reached.
type due struct {
	at     time.Time
	limit  time.Duration
	idle   bool
	reason string
	what   time.Time // which end it is, the same at each look: at may be reckoned by two clocks
	until  string    // for a warning: "... ends in 1m" and this
}

func (w *Watch) dueLocked(now time.Time) (list []due) {
	l := w.limits
	if l.Idle > 0 {
		since := w.c.Meter.Last(w.c.Terminal != nil && w.c.Terminal())
		at := since.Add(l.Idle)
		if w.c.Away != nil {
			if w.c.Away() {
				w.lastAway = now
			}
			if back := w.lastAway.Add(awayGrace); !w.lastAway.IsZero() && back.After(at) {
				at = back
			}
		}
		list = append(list, due{at, l.Idle, true, "idle for " + Text(l.Idle) + ", which is as long as your roles allow (idle_timeout)", at, " unless you type something"})
	}
	if l.Duration > 0 {
		at := w.c.Meter.begun.Add(l.Duration)
		list = append(list, due{at, l.Duration, false, "open for " + Text(l.Duration) + ", which is as long as your roles allow (max_session_duration)", at, ""})
	}
	if l.EndWithCredential && !l.Expires.IsZero() {
		list = append(list, due{now.Add(l.Expires.Sub(w.c.Now())), 2 * warnBefore, false,
			"what you logged in with has expired, and your roles allow nothing beyond that (disconnect_expired_cert); log in again", l.Expires, ", when your certificate expires"})
	}
	return list
}

// look is the timer's.
func (w *Watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped || w.over {
		return
	}
	now := time.Now()
	busy := w.c.Busy != nil && w.c.Busy()
	var first due
	for _, d := range w.dueLocked(now) {
		if busy && (d.idle || !d.at.After(now)) {
			continue // Look is called when it is not any more
		}
		if first.at.IsZero() || d.at.Before(first.at) {
			first = d
		}
	}
	if first.at.IsZero() {
		return
	}
	left := first.at.Sub(now)
	if left <= 0 {
		w.over = true
		w.wg.Go(func() { w.c.End(first.reason) })
		return
	}
	next := left
	if w.c.Warn != nil && w.c.Terminal != nil && !first.what.Equal(w.warned) {
		if lead := min(warnBefore, first.limit/2); left > lead {
			next = left - lead
		} else {
			next = min(left, warnAgain)
			if w.c.Terminal() { // by now: it is asked for after the beginning
				w.warnLocked(first, left)
			}
		}
	}
	w.timer.Reset(min(next, lookAgain))
}

// warnLocked warns in a goroutine of its own: a person who reads nothing does not put off the end.
func (w *Watch) warnLocked(d due, left time.Duration) {
	if w.warning {
		return
	}
	w.warning = true
	w.wg.Go(func() {
		told := w.c.Warn("this session ends in " + Text((left + time.Second/2).Truncate(time.Second)) + d.until)
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.warning = false; told {
			w.warned = d.what
		}
	})
}

// Text is a duration without what is zero of it.
func Text(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
