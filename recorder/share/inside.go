package share

import (
	"slices"

	"hawser/tunnel/wire"
)

func (r *Room) barLocked(user string) {
	if slices.Contains(r.barred, user) {
		return
	}
	if len(r.barred) == maxBarred {
		r.barred = append(r.barred[:0], r.barred[1:]...)
	}
	r.barred = append(r.barred, user)
}

// LetIn lets somebody come again who was put out.
func (r *Room) LetIn(user string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.barred = slices.DeleteFunc(r.barred, func(u string) bool { return u == user })
}

// PausedBy is who paused the session; empty: it goes on.
func (r *Room) PausedBy() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.paused
}

// Heed does what a Tell says. With words for all it may block as Tell does.
func (r *Room) Heed(m wire.Tell) {
	switch m.What {
	case wire.TellAll:
		r.announce(m.Text)
	case wire.TellOut:
		r.PutOut(m.User, m.Text)
	case wire.TellLetIn:
		r.LetIn(m.User)
	}
}
