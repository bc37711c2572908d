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
// its grant has expired; when full it refuses rather than forgets. Not safe for concurrent use: the caller locks.
type Spent struct {
	max       int
	notAfter  map[[16]byte]int64 // Unix milliseconds
	nextSweep time.Time
	// forgotten is the latest NotAfter of any id dropped. A grant that ends no later cannot be told from a dropped one,
	// so it is refused: a clock that is set back revives nothing, and one that ran ahead costs at most MaxLife.
	forgotten int64
}

// NewSpent returns a set of at most max ids.
func NewSpent(max int) *Spent {
	return &Spent{max: max, notAfter: make(map[[16]byte]int64)}
}

// Spend marks the grant as used. It fails with ErrSpent the second time, ErrExpired when the grant is over or may have
// been forgotten, and ErrSpentFull when as many unexpired grants are remembered as fit.
func (s *Spent) Spend(g *Grant, now time.Time) error {
	if !now.Before(s.nextSweep) || s.nextSweep.Sub(now) > MaxLife || len(s.notAfter) >= s.max {
		s.sweep(now)
	}
	if _, used := s.notAfter[g.ID]; used {
		return ErrSpent
	}
	end := g.NotAfter.UnixMilli()
	if end <= now.UnixMilli() || end <= s.forgotten {
		return ErrExpired
	}
	if len(s.notAfter) >= s.max {
		return ErrSpentFull
	}
	s.notAfter[g.ID] = end
	return nil
}

// Len returns how many ids are remembered.
func (s *Spent) Len() int { return len(s.notAfter) }

func (s *Spent) sweep(now time.Time) {
	at := now.UnixMilli()
	for id, end := range s.notAfter {
		if end <= at {
			delete(s.notAfter, id)
			s.forgotten = max(s.forgotten, end)
		}
	}
	s.nextSweep = now.Add(sweepEvery)
}
