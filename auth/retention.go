package auth

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"sync"
	"time"

	"hawser/auth/policy"
	"hawser/auth/store"
)

// thinned are the weeks of which nothing else goes for now, each with what that was judged by.
type thinned struct {
	mu sync.Mutex
	by map[string]string
}

func (t *thinned) is(week, by string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.by[week] == by
}

func (t *thinned) forget(week string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.by, week)
}

func (t *thinned) note(weeks map[string]string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.by == nil {
		t.by = map[string]string{}
	}
	maps.Copy(t.by, weeks)
}

// keptUntil is when retention may remove a recording, and the key of kind cluster by which it may; zero: never. All of a week that is kept for the
// same time goes at once.
func keptUntil(keep *policy.Retention, m store.Manifest) (until time.Time, key string) {
	d, key := keep.Keeps(m.Roles, policy.Device{UUID: m.DeviceUUID, Name: m.Device, Labels: m.Labels})
	if d == 0 {
		return time.Time{}, key
	}
	return store.WeekEnd(m.Start).Add(d), key
}

// retain removes recordings that are older than the cluster keeps them: whole weeks of which it keeps none, and of others those whose time is over.
func (s *Server) retain(ctx context.Context) {
	keep, now := s.view.cluster().Retention, s.cfg.Now()
	periods := keep.Periods()
	if longest := periods[len(periods)-1]; longest > 0 {
		expired, err := s.recordings.Retain(ctx, now.Add(-longest))
		s.expired(ctx, expired, &keep, "retention of "+longest.String(), err)
	}
	if len(periods) == 1 {
		return
	}
	rules := fmt.Sprint(keep)
	looked := map[string]string{} // once a day, and whenever a period or the rules make a difference
	expired, err := s.recordings.Thin(ctx, store.Thinning{
		Before: now.Add(-periods[0]),
		Skip: func(week string, end time.Time) bool {
			passed := 0
			for _, p := range periods {
				if p > 0 && !end.Add(p).After(now) {
					passed++
				}
			}
			by := fmt.Sprint(passed, now.Unix()/86400, rules)
			if s.thinned.is(week, by) {
				return true
			}
			looked[week] = by
			return false
		},
		Over: func(m store.Manifest) bool {
			until, _ := keptUntil(&keep, m)
			return !until.IsZero() && !until.After(now)
		},
	})
	s.expired(ctx, expired, &keep, "retention", err)
	if err == nil {
		s.thinned.note(looked)
	}
}

// expired tells what retention removed.
func (s *Server) expired(ctx context.Context, all []store.Expired, keep *policy.Retention, reason string, err error) {
	for _, x := range all {
		e := Event{Type: "recording.expire", Actor: "local", Object: x.Week, Count: uint64(x.Recordings), Reason: reason}
		if x.ID != ([16]byte{}) {
			e.Session = hex.EncodeToString(x.ID[:])
		}
		if m := x.Manifest; m.ID == x.ID && !m.Start.IsZero() {
			_, key := keptUntil(keep, m)
			e.User, e.Login, e.Device, e.DeviceUUID, e.Reason = m.User, m.Login, m.Device, m.DeviceUUID, key
		}
		if x.Held > 0 {
			e.Message = fmt.Sprintf("%d are held and stay", x.Held)
		}
		s.record(e)
		s.log.Info("expired recordings removed", "week", x.Week, "count", x.Recordings, "held", x.Held)
	}
	if err != nil && ctx.Err() == nil {
		s.log.Error("expired recordings not removed", "error", err)
	}
}
