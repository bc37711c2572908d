package grant

import (
	"errors"
	"time"
)

// Errors of Spend.
var (
	ErrSpent     = errors.New("grant was used before")
	ErrSpentFull = errors.New("too many grants in use at once")
)

// Spent remembers which session grants were used, so that none opens twice. It holds a bounded number of ids, each until
// its grant has expired; when full it refuses rather than forgets. One user fills three quarters of it at most, so that who opens sessions without
// end shuts out nobody but himself. Not safe for concurrent use: the caller locks.
type Spent struct {
	max       int
	used      map[[16]byte]use
	users     map[uint32]int // how many are a user's
	nextSweep time.Time
	// forgotten is the latest NotAfter of any id dropped. A grant that ends no later cannot be told from a dropped one,
	// so it is refused: a clock that is set back revives nothing, and one that ran ahead costs at most MaxLife.
	forgotten int64
}

type use struct {
	notAfter int64 // Unix milliseconds
	user     uint32
}

// hash tells users apart; two who fall together share their part.
func hash(user string) uint32 {
	h := uint32(2166136261)
	for i := range len(user) {
		h = (h ^ uint32(user[i])) * 16777619
	}
	return h
}

// NewSpent returns a set of at most max ids.
func NewSpent(max int) *Spent {
	return &Spent{max: max, used: make(map[[16]byte]use), users: make(map[uint32]int)}
}

// Spend marks the grant as used. It fails with ErrSpent the second time, ErrExpired when the grant is over or may have
// been forgotten, and ErrSpentFull when as many unexpired grants are remembered as fit, in all or of the user.
func (s *Spent) Spend(g *Grant, now time.Time) error {
	if !now.Before(s.nextSweep) || s.nextSweep.Sub(now) > MaxLife || len(s.used) >= s.max {
		s.sweep(now)
	}
	if _, used := s.used[g.ID]; used {
		return ErrSpent
	}
	end := g.NotAfter.UnixMilli()
	if end <= now.UnixMilli() || end <= s.forgotten {
		return ErrExpired
	}
	user := hash(g.User)
	if len(s.used) >= s.max || s.users[user] >= s.max-s.max/4 {
		return ErrSpentFull
	}
	s.used[g.ID] = use{end, user}
	s.users[user]++
	return nil
}

// Len returns how many ids are remembered.
func (s *Spent) Len() int { return len(s.used) }

func (s *Spent) sweep(now time.Time) {
	at := now.UnixMilli()
	for id, u := range s.used {
		if u.notAfter > at {
			continue
		}
		delete(s.used, id)
		s.forgotten = max(s.forgotten, u.notAfter)
		if s.users[u.user]--; s.users[u.user] == 0 {
			delete(s.users, u.user)
		}
	}
	s.nextSweep = now.Add(sweepEvery)
}
