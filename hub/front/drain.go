package front

import (
	"context"
	"fmt"
	"time"
)

// drainNotice is how often a draining server tries again to tell those whose terminal a notice would have spoiled.
const drainNotice = 500 * time.Millisecond

// Drain takes nobody new from now on and tells people at a terminal, where that spoils nothing, that the hub ends. It does not wait.
func (s *Server) Drain(left time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || s.draining {
		return
	}
	s.draining = true
	if s.listener != nil {
		_ = s.listener.Close()
	}
	ctx, cancel := context.WithTimeout(s.stopping, left)
	s.wg.Go(func() {
		defer cancel()
		s.tellDrain(ctx, time.Now().Add(left))
	})
}

func (s *Server) tellDrain(ctx context.Context, end time.Time) {
	t := time.NewTicker(drainNotice)
	defer t.Stop()
	for {
		s.mu.Lock()
		var all []*session
		for _, x := range s.sessions {
			if x.live.Load() != nil && !x.notices.drain.Load() {
				all = append(all, x)
			}
		}
		s.mu.Unlock()
		for _, x := range all {
			// Each in a goroutine of its own: a client that does not read holds up nobody else.
			s.wg.Go(func() {
				defer s.recovered(x.c)
				if x.notices.write(fmt.Sprintf("the hub %s goes down in %s, and what runs through it ends; another hub takes you back at once",
					s.c.HubName, time.Until(end).Round(time.Second))) {
					x.notices.drain.Store(true)
				}
			})
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// Connections is how many connections of people who have authenticated are left.
func (s *Server) Connections() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if c.user.Load() != nil {
			n++
		}
	}
	return n
}
