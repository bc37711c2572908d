package edge

import (
	"context"
	"slices"
	"sync"
	"time"

	"hawser/tunnel/wire"
)

// liveSessions are the sessions and end-to-end connections being served, by id, so that a kill finds them. The zero value is ready; safe for concurrent use.
type liveSessions struct {
	mu    sync.Mutex
	ends  map[[16]byte]liveSession // bounded by the stream slots and by e2e's channel limit
	over  error                    // set by endAll: nothing is admitted any more
	early []earlyEnd               // of those that are not here yet; the oldest first, at most maxEarlyEnds
	left  []leftSession            // that are over; likewise
	empty chan struct{}            // closed when the last one left; nil while nobody waits
}

// earlyEnd is a kill that overtook the stream it is for: they come by different streams, and what began after it would outlive it.
type earlyEnd struct {
	id  [16]byte
	hub wire.UUID
	why error
	at  time.Time
}

// leftSession is one that is over, but for what ignored its HUP: its stream may end before the kill comes that ended it.
type leftSession struct {
	id  [16]byte
	hub wire.UUID
	at  time.Time
}

const (
	earlyEndLife = time.Minute
	maxEarlyEnds = 64
)

type liveSession struct {
	hub    wire.UUID // its entry hub
	cancel context.CancelCauseFunc
	may    *tenure
}

// add admits a session and returns its context and the function that takes it out. After endAll, and where it may not be any more, the context is
// over at once.
func (s *liveSessions) add(ctx context.Context, id [16]byte, hub wire.UUID, may *tenure) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer func() { // after it is in: what changes meanwhile finds it
		if err := may.stands(); err != nil {
			cancel(err)
		}
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over != nil {
		cancel(s.over)
		return ctx, func() {}
	}
	if s.ends == nil {
		s.ends = map[[16]byte]liveSession{}
	}
	s.ends[id] = liveSession{hub, cancel, may}
	s.endEarlyLocked(id)
	return ctx, sync.OnceFunc(func() {
		cancel(nil)
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.left) == maxEarlyEnds {
			s.left = append(s.left[:0], s.left[1:]...)
		}
		s.left = append(s.left, leftSession{id, s.ends[id].hub, time.Now()})
		delete(s.ends, id)
		if len(s.ends) == 0 && s.empty != nil {
			close(s.empty)
			s.empty = nil
		}
	})
}

// endEarlyLocked ends one that its hub has ended already.
func (s *liveSessions) endEarlyLocked(id [16]byte) {
	live := s.ends[id]
	for _, e := range s.early {
		if e.id == id && e.hub == live.hub && time.Since(e.at) < earlyEndLife {
			live.cancel(e.why)
		}
	}
}

// move makes hub the entry hub of one.
func (s *liveSessions) move(id [16]byte, hub wire.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if live, ok := s.ends[id]; ok {
		live.hub = hub
		s.ends[id] = live
		s.endEarlyLocked(id)
	}
}

// cut ends one, whatever its entry hub.
func (s *liveSessions) cut(id [16]byte, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if live, ok := s.ends[id]; ok {
		live.cancel(why)
	}
}

// end ends one that hub is the entry hub of, with a reason; false: it is not here, or another's.
func (s *liveSessions) end(id [16]byte, hub wire.UUID, why error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	live, ok := s.ends[id]
	if ok && live.hub == hub {
		live.cancel(why)
		return true
	}
	if len(s.early) == maxEarlyEnds {
		s.early = append(s.early[:0], s.early[1:]...)
	}
	s.early = append(s.early, earlyEnd{id, hub, why, time.Now()})
	return false
}

// takeLeft tells whether one of that hub's was here a moment ago, and forgets it: what is left of it is ended once.
func (s *liveSessions) takeLeft(id [16]byte, hub wire.UUID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := len(s.left)
	s.left = slices.DeleteFunc(s.left, func(l leftSession) bool { return l.id == id && l.hub == hub && time.Since(l.at) < earlyEndLife })
	return len(s.left) < was
}

// has tells whether one is here whose entry hub that is.
func (s *liveSessions) has(id [16]byte, hub wire.UUID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	live, ok := s.ends[id]
	return ok && live.hub == hub
}

// recheck ends what may not go on.
func (s *liveSessions) recheck() {
	s.mu.Lock()
	all := make([]liveSession, 0, len(s.ends))
	for _, live := range s.ends {
		all = append(all, live)
	}
	s.mu.Unlock()
	for _, live := range all {
		if err := live.may.stands(); err != nil {
			live.cancel(err)
		} else {
			live.may.changed()
		}
	}
}

// endAll ends all and admits no more.
func (s *liveSessions) endAll(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = why
	for _, live := range s.ends {
		live.cancel(why)
	}
}

// wait returns when none is left, or at the deadline.
func (s *liveSessions) wait(deadline time.Time) {
	s.mu.Lock()
	if len(s.ends) == 0 {
		s.mu.Unlock()
		return
	}
	if s.empty == nil {
		s.empty = make(chan struct{})
	}
	empty := s.empty
	s.mu.Unlock()
	t := time.NewTimer(time.Until(deadline))
	defer t.Stop()
	select {
	case <-empty:
	case <-t.C:
	}
}
