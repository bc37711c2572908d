package front

import (
	"context"
	"strings"
	"sync"
	"time"

	"hawser/hub/shell"
)

// listing is what goes over all devices of a cluster for a person: milliseconds of a core where there are many. One does so at a time, and what a
// person asks for again and again is not done at all: other people's sessions are on the same cores. The zero value is ready.
type listing struct {
	busy sync.Mutex // held across that, on purpose

	mu   sync.Mutex
	near map[string]time.Time // when a person last got near names
}

// mayNear tells whether a person gets near names now.
func (l *listing) mayNear(user string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if last, ok := l.near[user]; ok && now.Sub(last) < nearEvery && !now.Before(last) {
		return false
	}
	if l.near == nil || len(l.near) >= maxNear {
		l.near = make(map[string]time.Time)
	}
	l.near[user] = now
	return true
}

// near are names like device's of what the person may reach, to end a message with; nothing where there are none, or not now.
func (c *conn) near(device string) string {
	l := &c.s.lists
	if !l.mayNear(c.identity.User, c.s.c.Now()) || !l.busy.TryLock() {
		return ""
	}
	defer l.busy.Unlock()
	if near := shell.Near(device, c.s.c.Backend.List(c.identity)); len(near) > 0 {
		return "; near: " + strings.Join(near, ", ")
	}
	return ""
}

// list is Backend.List, in turn.
func (c *conn) list(ctx context.Context) []Listed {
	l := &c.s.lists
	l.busy.Lock()
	defer l.busy.Unlock()
	if ctx.Err() != nil {
		return nil
	}
	return c.s.c.Backend.List(c.identity)
}
