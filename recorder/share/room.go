package share

import (
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"hawser/recorder/term"
)

// Room is a session's. Safe for concurrent use.
type Room struct {
	// MaxCells bounds the screen that is followed, where it takes 48 bytes a cell, and each guest's, where it takes 8: of a larger one the lower end is left out,
	// and guests are told. 0: the bounds of recorder/term and recorder/paint. It is set before anything else is done.
	MaxCells int

	host Host

	mu         sync.Mutex
	cols, rows int
	tail       tail
	screen     *term.Screen // while there are guests, and afterwards where a tail cannot say what it shows
	guests     map[uint32]*guest
	last       uint32 // the member who came last
	paused     string // who paused it; empty: nobody
	closed     *ClosedError
	failed     atomic.Pointer[panicked] // its screen could not be followed, and fails is to come
	quorum
	barred []string // who was put out, and stays out; at most maxBarred
}

// New returns the room of a session with a terminal of that size.
func New(h Host, cols, rows int) *Room {
	return &Room{host: h, cols: cols, rows: rows, guests: map[uint32]*guest{}}
}

// Output is told what the session shows, in order. It does not wait for guests.
func (r *Room) Output(p []byte) {
	defer r.fails()
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.recoverLocked()
	switch {
	case r.closed != nil:
	case r.screen == nil:
		r.tail.write(p)
	default:
		r.screen.Write(p)
		r.changedLocked()
	}
}

// Resize is told the size of the session's terminal, which is its owner's.
func (r *Room) Resize(cols, rows int) {
	defer r.fails()
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.recoverLocked()
	was := r.cutLocked()
	r.cols, r.rows = cols, rows
	if r.screen != nil {
		r.screen.Resize(r.followedLocked())
		r.changedLocked()
	}
	if cut := r.cutLocked(); cut != "" && cut != was {
		for _, g := range r.guests {
			g.noteLocked(cut)
		}
	}
}

// followedLocked is how much of the terminal is followed: all columns, for where a row ends decides what the next ones show.
func (r *Room) followedLocked() (cols, rows int) {
	if r.MaxCells == 0 {
		return r.cols, r.rows
	}
	cols = min(max(r.cols, 1), term.MaxCols)
	return cols, min(r.rows, max(r.MaxCells/cols, 1))
}

// cutLocked says that not all of the terminal is followed; empty: it is.
func (r *Room) cutLocked() string {
	if _, rows := r.followedLocked(); rows < r.rows {
		return fmt.Sprintf("this terminal has %d rows, and the first %d are shown", r.rows, rows)
	}
	return ""
}

const unfollowed = "the screen of this session cannot be followed"

// panicked is what a panic was, and where.
type panicked struct {
	value any
	stack []byte
}

// recoverLocked ends a room whose screen cannot be followed: see fails for the session.
func (r *Room) recoverLocked() {
	if v := recover(); v != nil {
		r.unfollowedLocked(v)
	}
}

// unfollowedLocked is for a deferred function that recovered the value.
func (r *Room) unfollowedLocked(value any) {
	if r.closed == nil {
		r.closeLocked(unfollowed)
		r.failed.Store(&panicked{value, debug.Stack()})
	}
}

// fails has a session end that must be seen, as soon as its screen cannot be followed; any other goes on alone. Call it without the lock.
func (r *Room) fails() {
	p := r.failed.Swap(nil)
	if p == nil {
		return
	}
	r.host.Broken(p.value, p.stack)
	if len(r.rules.Needs) > 0 {
		r.host.End("the session ends: " + unfollowed + ", and somebody must see it")
	}
	if r.rules.Changed != nil {
		r.rules.Changed()
	}
}

func (r *Room) changedLocked() {
	for _, g := range r.guests {
		g.wake()
	}
}

// Members are the guests who are there, in the order in which they came.
func (r *Room) Members() []Member {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []Member
	for id := uint32(1); id <= r.last && len(list) < len(r.guests); id++ {
		if g := r.guests[id]; g != nil {
			list = append(list, g.member)
		}
	}
	return list
}

// In tells whether a member's stay goes on: a host asks it last before what he typed has its effect, for it may have waited long.
func (r *Room) In(member uint32) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.guests[member]
	return g != nil && g.overLocked() == nil
}

// Tell shows a line to all guests, and to the owner.
func (r *Room) Tell(text string) {
	text = clip(text)
	r.note(text, 0)
	r.host.Say(text)
}

// Note shows a line to all guests.
func (r *Room) Note(text string) { r.note(clip(text), 0) }

// note shows a line to all guests but one.
func (r *Room) note(text string, but uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, g := range r.guests {
		if id != but {
			g.noteLocked(text)
		}
	}
}

func clip(text string) string {
	if len(text) <= maxNote {
		return text
	}
	text = text[:maxNote]
	for len(text) > 0 && !utf8.ValidString(text[len(text)-min(len(text), utf8.UTFMax):]) {
		text = text[:len(text)-1]
	}
	return text
}

// PutOut ends the stay of the guests of that name, and returns how many there were. It does not block.
func (r *Room) PutOut(user, reason string) int {
	n, one := r.putOut(user, reason)
	if say := r.decide(); one != nil && say != nil {
		select {
		case one.words <- say:
		default: // so much is to be told of him that this is lost
		}
	}
	return n
}

func (r *Room) putOut(user, reason string) (n int, one *guest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.barLocked(user)
	for _, g := range r.guests {
		if g.member.User == user && g.end == nil {
			g.putOut = true
			g.endLocked(&ClosedError{clip(reason)})
			n, one = n+1, g
		}
	}
	return n, one
}

// pause stops the session in somebody's name, or lets it go on where by is empty, if all are there who must be; unless that is so. It returns what says it,
// which may wait for who is told; nil: it is no news.
func (r *Room) pause(by string, unlessLocked func() bool) (say func()) {
	r.turn.Lock()
	defer r.turn.Unlock()
	r.mu.Lock()
	if unlessLocked != nil && unlessLocked() {
		r.mu.Unlock()
		return nil
	}
	was := r.paused
	r.paused = by
	missing, _ := r.missingLocked()
	r.mu.Unlock()
	r.stopOrGo()
	switch {
	case (was == "") == (by == ""):
		return nil
	case by != "":
		return func() { r.announce(by + " paused the session") }
	case missing != "":
		return func() { r.announce("the session goes on when there is " + missing) }
	}
	return func() { r.announce("the session goes on") }
}

// announce is Tell of what belongs into the recording too.
func (r *Room) announce(text string) {
	r.host.Mark(text)
	r.Tell(text)
}

// moderatedLocked tells whether a moderator is there.
func (r *Room) moderatedLocked() bool {
	for _, g := range r.guests {
		if g.member.Mode == Moderator && g.overLocked() == nil {
			return true
		}
	}
	return false
}

// Close ends every stay, now and from now on. It does not wait.
func (r *Room) Close(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closeLocked(clip(reason))
}

func (r *Room) closeLocked(reason string) {
	if r.closed != nil {
		return
	}
	r.closed = &ClosedError{reason}
	r.tail.set(nil)
	for _, g := range r.guests {
		g.endLocked(r.closed)
	}
}

// enter takes a guest in.
func (r *Room) enter(g *guest, now time.Time) error {
	defer r.fails()
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed != nil:
		return r.closed
	case slices.Contains(r.barred, g.member.User):
		return ErrBarred
	}
	if err := r.placeLocked(g); err != nil {
		return err
	}
	if r.screen == nil {
		if err := r.followLocked(); err != nil {
			return err
		}
	}
	r.last++
	g.member.ID, g.member.Since = r.last, now
	r.guests[r.last] = g
	return nil
}

// placeLocked finds a place for a guest. Of those kept each user who counts gets one: his further terminals are among the others.
func (r *Room) placeLocked(g *guest) error {
	needs := append(slices.Clone(r.rules.Needs), r.rules.Others...)
	kept, own, first := 0, 0, make(map[string]bool) // who counts, and is in
	for _, n := range needs {
		kept += n.Count
	}
	for _, other := range r.guests {
		if other.member.User == g.member.User {
			own++
		}
		if r.countsLocked(other) {
			first[other.member.User] = true
		}
	}
	if len(needs) > 0 {
		kept = min(max(kept, placesKept), MaxGuests-ownPlaces)
	}
	rest := len(r.guests) - len(first)
	switch {
	case own >= ownPlaces:
		return ErrOften
	case len(r.guests) >= MaxGuests, rest >= MaxGuests-kept && (first[g.member.User] || !r.countsLocked(g)):
		return ErrFull
	}
	return nil
}

// followLocked makes the screen of what is known.
func (r *Room) followLocked() (err error) {
	defer func() {
		if v := recover(); v != nil {
			r.unfollowedLocked(v)
			err = r.closed
		}
	}()
	s := term.New(r.followedLocked())
	if r.tail.alt {
		s.Write(altOn)
	}
	s.Write(r.tail.b)
	r.screen = s
	r.tail.set(nil)
	return nil
}

// leave lets a guest out. The last one leaves a tail behind that says all there is to know, or, where that takes more than a tail has room for, the screen.
func (r *Room) leave(g *guest) {
	defer r.fails()
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.recoverLocked()
	g.endLocked(ErrLeft) // of what he has sent nothing more is taken
	delete(r.guests, g.member.ID)
	g.stopLocked()
	if screen := r.screen; len(r.guests) == 0 && screen != nil {
		r.screen = nil
		if r.closed == nil {
			if b, ok := screen.RedrawWithin(tailSize); ok {
				r.tail.set(b)
			} else {
				r.screen = screen
			}
		}
	}
}
