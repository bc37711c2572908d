package hub

import (
	"context"
	"sync"
	"time"

	"hawser/auth/api"
)

// tellSessions is how often auth is told of what has passed in sessions meanwhile.
const tellSessions = 2 * time.Second

// toldSessions is what auth was told of each session last, so that those are told that have changed: bytes pass all the time.
type toldSessions struct {
	mu   sync.Mutex
	last map[string]toldSession
}

type toldSession struct {
	detached, active int64
	in, out          uint64
	channel, command string
	recorded         bool
}

// news returns those of all states that auth does not know; full: it knows none.
func (t *toldSessions) news(full bool, states []*api.SessionState) (changed []*api.SessionState) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := make(map[string]toldSession, len(states))
	for _, s := range states {
		id := string(s.Id)
		now[id] = toldSession{s.DetachedSinceUnixNano, s.LastActivityUnixNano, s.BytesIn, s.BytesOut, s.Channel, s.Command, s.Recorded}
		if was, ok := t.last[id]; full || !ok || was != now[id] {
			changed = append(changed, s)
		}
	}
	t.last = now
	return changed
}

// followSessions has auth told of what passes, until ctx ends.
func (h *Hub) followSessions(ctx context.Context) {
	tick := time.NewTicker(tellSessions)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			h.auth.SessionsDirty() // where nothing has changed, nothing is told
		case <-ctx.Done():
			return
		}
	}
}
