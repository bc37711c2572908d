package auth

import (
	"context"
	"errors"
	"sync"
	"time"

	"hawser/auth/store"
)

// keyUses holds the last use of registered keys until it is stored, once in saveUses for all: a write for each session would
// cost more than the news is worth. It is bounded by the keys there are. Safe for concurrent use.
type keyUses struct {
	mu   sync.Mutex
	of   map[string]map[string]keyUse // user → fingerprint
	todo map[string]bool              // users with something to store
}

func newKeyUses() *keyUses {
	return &keyUses{of: make(map[string]map[string]keyUse), todo: make(map[string]bool)}
}

func (k *keyUses) used(user, fingerprint, source string, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.of[user] == nil {
		k.of[user] = make(map[string]keyUse)
	}
	k.of[user][fingerprint] = keyUse{At: now, Source: source}
	k.todo[user] = true
}

func (k *keyUses) last(user, fingerprint string) (keyUse, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	use, ok := k.of[user][fingerprint]
	return use, ok
}

func (k *keyUses) forget(user string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.of, user)
	delete(k.todo, user)
}

// take returns what is to be stored, each user once.
func (k *keyUses) take() map[string]map[string]keyUse {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make(map[string]map[string]keyUse, len(k.todo))
	for user := range k.todo {
		uses := make(map[string]keyUse, len(k.of[user]))
		for fp, use := range k.of[user] {
			uses[fp] = use
		}
		out[user] = uses
	}
	clear(k.todo)
	return out
}

func (k *keyUses) again(user string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.todo[user] = true
}

// keepUses stores the last use of keys until ctx ends.
func (s *Server) keepUses(ctx context.Context) {
	tick := time.NewTicker(saveUses)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.saveKeyUses(ctx)
		case <-ctx.Done():
			return
		}
	}
}

func (s *Server) saveKeyUses(ctx context.Context) {
	for user, uses := range s.uses.take() {
		u, _ := s.view.user(user)
		if u == nil {
			s.uses.forget(user)
			continue
		}
		err := s.changeLogin(ctx, u, func(l *loginRecord) error {
			if l.Keys == nil {
				l.Keys = make(map[string]keyUse)
			}
			for fp, use := range uses {
				l.Keys[fp] = use
			}
			for fp := range l.Keys {
				if !u.hasFingerprint(fp) {
					delete(l.Keys, fp)
				}
			}
			return nil
		})
		if err != nil {
			s.uses.again(user)
			if ctx.Err() == nil && !errors.Is(err, store.ErrClosed) {
				s.log.Warn("the last use of keys is not stored", "user", user, "error", err)
			}
		}
	}
}

func (u *userRecord) hasFingerprint(fp string) bool {
	for _, k := range u.Keys {
		if blobPrint(k.Blob) == fp {
			return true
		}
	}
	return false
}
