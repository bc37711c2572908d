package share

import (
	"strings"
	"sync"
	"time"
)

// Need is what a room can require: so many different people of a kind. Whose session it is never counts.
type Need struct {
	Count  int
	Counts func(roles []string, m Mode) bool
	Words  func(n int) string // n of them, in words
	Ends   bool               // too few of them end the session that has begun; else they pause it
}

// Rules are what a room requires of those who are in it.
type Rules struct {
	// Owner is whose session it is.
	Owner string
	// Needs are all required before the session begins, and while it lasts.
	Needs []Need
	// Others are not required for the session, and count elsewhere: see Meets.
	Others []Need
	// Begins is what runs from the beginning on, for those who see that it begins; empty: a shell, or what they are shown anyhow.
	Begins string
	// Presence is how often each who counts presses a key, or he does not count until he does. 0: never.
	Presence time.Duration
	// Waits is told who is still waited for, before the session begins, whenever that has changed. May be nil, as Changed, which is told whenever who is there has
	// changed. Neither may block for long.
	Waits   func(missing string)
	Changed func()
}

// quorum is what a room has of its rules.
type quorum struct {
	rules Rules // does not change once somebody is in

	// turn is held while the host is stopped or let go on, so that it is so in the order in which people come and go. Before mu.
	turn    sync.Mutex
	waited  string // who was last said to be waited for
	stopped bool   // the host is
	ended   bool   // the host was told to end

	// Under mu:
	ready chan struct{} // closed when all were there for the first time; nil: nobody asked
	begun bool
	lost  bool // it began, and they are not all there any more
}

// Require gives the room its rules. Call it before anybody is let in.
func (r *Room) Require(rules Rules) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rules, r.begun = rules, len(rules.Needs) == 0
	r.waited, _ = r.missingLocked()
}

// Ready is closed when everybody was there who is required.
func (r *Room) Ready() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ready == nil {
		r.ready = make(chan struct{})
		if r.begun {
			close(r.ready)
		}
	}
	return r.ready
}

// Waits says who is missing; empty: nobody is.
func (r *Room) Waits() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	missing, _ := r.missingLocked()
	return missing
}

// Meets tells whether those who are in the room are all that needs ask for, of somebody whose doings they are to see.
func (r *Room) Meets(of string, needs []Need) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range needs {
		if r.presentLocked(of, n) < n.Count {
			return false
		}
	}
	return r.closed == nil
}

// presentLocked counts the people who are there for a need.
func (r *Room) presentLocked(of string, n Need) int {
	people := map[string]bool{}
	for _, g := range r.guests {
		if m := &g.member; g.overLocked() == nil && !g.away && !g.cut && m.User != of && n.Counts(m.Roles, m.Mode) {
			people[m.User] = true
		}
	}
	return len(people)
}

// missingLocked says who is missing, and whether one need of those ends the session.
func (r *Room) missingLocked() (missing string, ends bool) {
	var words []string
	for _, n := range r.rules.Needs {
		if short := n.Count - r.presentLocked(r.rules.Owner, n); short > 0 {
			words, ends = append(words, n.Words(short)), ends || n.Ends
		}
	}
	return strings.Join(words, " and "), ends
}

// look decides, and says so.
func (r *Room) look() { r.decide()() }

// decide finds out who is there, and has the session begin, stop, end or go on as the rules want it. It returns what says so, which may wait for who is told.
func (r *Room) decide() (say func()) {
	say = func() {}
	if len(r.rules.Needs) > 0 {
		say = r.judge()
	}
	if r.rules.Changed != nil {
		r.rules.Changed()
	}
	return say
}

func (r *Room) judge() (say func()) {
	r.turn.Lock()
	defer r.turn.Unlock()
	r.mu.Lock()
	missing, ends := r.missingLocked()
	open := r.closed == nil && !r.ended
	begins, was := open && missing == "" && !r.begun, r.lost
	if begins {
		r.begun = true
		if r.ready != nil {
			close(r.ready)
		}
	}
	r.lost = r.begun && missing != ""
	begun, lost := r.begun, r.lost
	r.mu.Unlock()
	ends = ends && open && begun && lost
	waits := open && !begun && missing != r.waited
	if waits {
		r.waited = missing
	}
	switch {
	case ends:
		r.ended = true
		r.host.End("the session ends: there is no longer " + missing + " in it")
	case open:
		r.stopOrGo()
	}
	switch {
	case !open:
	case begins:
		says := "everybody required is here: the session begins"
		if r.rules.Begins == "" {
			return func() { r.announce(says) }
		}
		says = clip(says + ": " + r.rules.Begins)
		return func() {
			r.host.Mark(says)
			r.begins(says)
			r.host.Say(says)
		}
	case ends:
		return func() { r.host.Mark("ended: there is no longer " + missing) }
	case waits:
		return func() {
			r.note("waits for "+missing, 0)
			if r.rules.Waits != nil {
				r.rules.Waits(missing)
			}
		}
	case lost && !was:
		return func() { r.announce("paused until there is " + missing) }
	case was && !lost:
		return func() { r.announce("everybody required is here again") }
	}
	return func() {}
}

// begins shows all guests a line for its time.
func (r *Room) begins(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range r.guests {
		g.beginsLocked(text)
	}
}

// stopOrGo tells the host, if that is news. The turn is held.
func (r *Room) stopOrGo() {
	r.mu.Lock()
	stop := r.paused != "" || r.lost
	r.mu.Unlock()
	if stop != r.stopped {
		r.stopped = stop
		r.host.Pause(stop)
	}
}
