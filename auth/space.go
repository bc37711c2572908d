package auth

import (
	"fmt"
	"sync"
	"time"

	"hawser/auth/store"
)

// States of the room for recordings.
const (
	spaceOK   = "ok"
	spaceLow  = "low"
	spaceFull = "full"
)

// space is what was told of the room for recordings last.
type space struct {
	mu      sync.Mutex
	state   string // empty: nothing, which is ok
	refused time.Time
}

// refusedFor is how long the alarm stands after something was refused: what did not fit may be larger than the room that is left.
const refusedFor = time.Minute

func spaceState(u store.Usage) string {
	switch {
	case u.Full():
		return spaceFull
	case u.Low():
		return spaceLow
	}
	return spaceOK
}

// usage is that of the store under the quota that is in force.
func (s *Server) usage() (store.Usage, error) {
	s.recordings.SetQuota(s.view.cluster().QuotaBytes())
	return s.recordings.Usage()
}

// watchSpace raises the alarm, in the audit log and in the service's own, when the room for recordings becomes low or is used up, and ends it
// when there is room again.
func (s *Server) watchSpace() {
	u, err := s.usage()
	if err != nil {
		s.log.Error("room for recordings is not known", "error", err)
		return
	}
	s.tellSpace(spaceState(u), u)
}

// spaceRefused is watchSpace when the store has refused something.
func (s *Server) spaceRefused() {
	u, err := s.usage()
	if err != nil {
		return // the store's own refusal says it
	}
	s.space.mu.Lock()
	s.space.refused = s.cfg.Now()
	s.space.mu.Unlock()
	s.tellSpace(spaceFull, u)
}

func (s *Server) tellSpace(state string, u store.Usage) {
	s.space.mu.Lock()
	was := s.space.state
	if !s.space.refused.IsZero() && s.cfg.Now().Sub(s.space.refused) < refusedFor {
		state = spaceFull
	}
	s.space.state = state
	s.space.mu.Unlock()
	if was == state || was == "" && state == spaceOK {
		return
	}
	text := fmt.Sprintf("recordings take %d MiB, %d MiB are free and %d wanted", u.Bytes>>20, u.Free>>20, u.MinFree>>20)
	if u.Quota > 0 {
		text = fmt.Sprintf("recordings take %d of %d MiB, %d MiB are free and %d wanted", u.Bytes>>20, u.Quota>>20, u.Free>>20, u.MinFree>>20)
	}
	s.record(Event{Type: "recording.space", Actor: "auth", Object: state, Reason: text})
	switch state {
	case spaceFull:
		s.log.Error("NO ROOM FOR RECORDINGS: sessions that must be recorded do not start, others go on unrecorded", "detail", text)
	case spaceLow:
		s.log.Warn("little room for recordings", "detail", text)
	default:
		s.log.Info("there is room for recordings again", "detail", text)
	}
}

// spaceState is that of u, or full while something was refused just now.
func (s *Server) spaceState(u store.Usage) string {
	s.space.mu.Lock()
	defer s.space.mu.Unlock()
	if s.space.state == spaceFull && s.cfg.Now().Sub(s.space.refused) < refusedFor {
		return spaceFull
	}
	return spaceState(u)
}
