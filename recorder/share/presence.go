package share

import "time"

// presence is what is known of a guest who counts: whether he is still at his terminal, and whether anything reaches it. Its fields are under room.mu.
type presence struct {
	// He shows by a key that he is there: when he last did, what looks after that, and that it was too long ago.
	pressed time.Time
	timer   *time.Timer
	away    bool
	// His stream outlives the way that carries it: what looks after that, since when nothing carries it, and that this is too long.
	reach *time.Timer
	lost  time.Time
	cut   bool
}

// stopLocked ends what looks after him.
func (p *presence) stopLocked() {
	for _, t := range []*time.Timer{p.timer, p.reach} {
		if t != nil {
			t.Stop()
		}
	}
}

// countsLocked tells whether a guest is one of those whom the session, or something beside it, requires.
func (r *Room) countsLocked(g *guest) bool {
	if g.member.User == r.rules.Owner {
		return false
	}
	for _, list := range [][]Need{r.rules.Needs, r.rules.Others} {
		for _, n := range list {
			if n.Counts(g.member.Roles, g.member.Mode) {
				return true
			}
		}
	}
	return false
}

// attend notes that a guest has pressed a key.
func (r *Room) attend(g *guest) {
	r.mu.Lock()
	back := g.away
	r.attendLocked(g)
	r.mu.Unlock()
	if back {
		g.news(g.member.User + " is present again")
	}
}

// news has the session begin, stop or go on as the rules want it now, and says after which event.
func (g *guest) news(text string) {
	say := g.room.decide()
	g.tell(func() {
		g.room.announce(text)
		say()
	})
}

func (r *Room) attendLocked(g *guest) {
	if r.rules.Presence <= 0 || r.guests[g.member.ID] != g || !r.countsLocked(g) {
		return
	}
	if g.pressed = time.Now(); g.standing != "" {
		g.standing = ""
		g.wake()
	}
	g.away = false
	if g.timer == nil {
		g.timer = time.AfterFunc(r.warnAfter(), func() { r.absent(g) })
		return
	}
	g.timer.Reset(r.warnAfter())
}

// warnAfter is how long a guest may press no key before he is warned: two thirds of the time that he has.
func (r *Room) warnAfter() time.Duration { return r.rules.Presence - r.rules.Presence/3 }

// absent warns a guest who has pressed no key for long, and then counts him as gone.
func (r *Room) absent(g *guest) {
	r.mu.Lock()
	since := time.Since(g.pressed)
	switch {
	case r.guests[g.member.ID] != g || g.away:
		r.mu.Unlock()
		return
	case since < r.warnAfter(): // he pressed one meanwhile
		g.timer.Reset(r.warnAfter() - since)
		r.mu.Unlock()
		return
	case since < r.rules.Presence:
		left := r.rules.Presence - since
		g.standing = "are you there? press a key within " + left.Round(time.Second).String() + ", or you count as gone"
		g.wake()
		g.timer.Reset(left)
		r.mu.Unlock()
		return
	}
	g.away = true
	g.standing = "you pressed no key for " + r.rules.Presence.String() + ", and count as gone until you do"
	g.wake()
	r.mu.Unlock()
	g.news(g.member.User + " pressed no key for " + r.rules.Presence.String() + ", and counts as gone")
}

// reachLocked begins to look after whether anything reaches a guest who counts.
func (r *Room) reachLocked(g *guest) {
	if g.there != nil && r.guests[g.member.ID] == g && r.countsLocked(g) {
		g.reach = time.AfterFunc(reachPace, func() { r.reached(g) })
	}
}

// reached counts a guest as gone whose stream nothing has carried for a while, until something does: he sees nothing of what is done.
func (r *Room) reached(g *guest) {
	there := g.there()
	r.mu.Lock()
	if r.guests[g.member.ID] != g {
		r.mu.Unlock()
		return
	}
	was := g.cut
	switch {
	case there:
		g.lost, g.cut = time.Time{}, false
	case g.lost.IsZero():
		g.lost = time.Now()
	case time.Since(g.lost) >= reachGrace:
		g.cut = true
	}
	cut := g.cut
	g.reach.Reset(reachPace)
	r.mu.Unlock()
	switch {
	case cut && !was:
		g.news(g.member.User + " cannot be reached, and counts as gone")
	case was && !cut:
		g.news(g.member.User + " is reached again")
	}
}
