package auth

import (
	"context"
	"errors"
	"time"

	"hawser/auth/store"
)

// upkeep does at times what need not be done at once, until ctx ends: retention, and giving back the stores' space.
func (s *Server) upkeep(ctx context.Context) {
	retain, maintain, space := time.NewTicker(retainEvery), time.NewTicker(maintainEvery), time.NewTicker(spaceEvery)
	defer retain.Stop()
	defer maintain.Stop()
	defer space.Stop()
	for {
		s.watchSpace()
		select {
		case <-space.C:
		case <-retain.C:
			s.retain(ctx)
		case <-maintain.C:
			s.maintain()
		case <-ctx.Done():
			return
		}
	}
}

func (s *Server) maintain() {
	var errs []error
	if state, ok := s.state.(*store.BadgerState); ok {
		errs = append(errs, state.Maintain())
	}
	err := errors.Join(append(errs, s.recordings.Maintain())...)
	if errors.Is(err, store.ErrNoSpace) {
		s.log.Warn("stores not maintained: that needs some space itself", "error", err)
	} else if err != nil && !errors.Is(err, store.ErrClosed) {
		s.log.Error("stores not maintained", "error", err)
	}
}

const (
	retainEvery   = time.Hour
	maintainEvery = 6 * time.Hour
	spaceEvery    = 10 * time.Second
)
