package edge

import (
	"context"
	"sync"
	"time"

	"hawser/tunnel/wire"
)

// liveSessions are the sessions and end-to-end connections being served, by id, so that a kill finds them. The zero value is ready; safe for concurrent use.
type liveSessions struct {
	mu    sync.Mutex
	ends  map[[16]byte]liveSession // bounded by the stream slots and by e2e's channel limit
	over  error                    // set by endAll: nothing is admitted any more
	empty chan struct{}            // closed when the last one left; nil while nobody waits
}

type liveSession struct {
	hub    wire.UUID // its entry hub
	cancel context.CancelCauseFunc
}

// add admits a session and returns its context and the function that takes it out. After endAll the context is over at once.
func (s *liveSessions) add(ctx context.Context, id [16]byte, hub wire.UUID) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over != nil {
		cancel(s.over)
		return ctx, func() {}
	}
	if s.ends == nil {
		s.ends = map[[16]byte]liveSession{}
	}
	s.ends[id] = liveSession{hub, cancel}
	return ctx, sync.OnceFunc(func() {
		cancel(nil)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.ends, id)
		if len(s.ends) == 0 && s.empty != nil {
			close(s.empty)
			s.empty = nil
		}
	})
}

// end ends one that hub is the entry hub of, with a reason; false: it is not here, or another's.
func (s *liveSessions) end(id [16]byte, hub wire.UUID, why error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	live, ok := s.ends[id]
	if ok = ok && live.hub == hub; ok {
		live.cancel(why)
	}
	return ok
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
