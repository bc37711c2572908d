package store

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// leases is the table of live leases. The caller locks.
type leases struct {
	next LeaseID
	live map[LeaseID]*lease
	// owner is the lease of each key that has one.
	owner map[string]LeaseID
}

type lease struct {
	ttl      time.Duration
	deadline time.Time
	stored   time.Time // the deadline on disk
	keys     map[string]bool
}

func newLeases() leases {
	return leases{next: 1, live: map[LeaseID]*lease{}, owner: map[string]LeaseID{}}
}

// track moves keys between leases as a committed transaction says.
func (l *leases) track(events []Event) {
	for _, e := range events {
		if was := l.live[l.owner[e.KV.Key]]; was != nil {
			delete(was.keys, e.KV.Key)
		}
		delete(l.owner, e.KV.Key)
		if now := l.live[e.KV.Lease]; now != nil && e.Type == EventPut {
			now.keys[e.KV.Key] = true
			l.owner[e.KV.Key] = e.KV.Lease
		}
	}
}

// check refuses writes to a lease that is not live.
func (l *leases) check(ops []Op) error {
	for _, op := range ops {
		if op.lease != 0 && l.live[op.lease] == nil {
			return fmt.Errorf("%w: lease %d", ErrNotFound, op.lease)
		}
	}
	return nil
}

// expired returns the leases whose deadline has passed, and when the next one's does.
func (l *leases) expired(now time.Time) (ended []LeaseID, next time.Duration) {
	next = time.Minute
	for id, x := range l.live {
		if d := x.deadline.Sub(now); d <= 0 {
			ended = append(ended, id)
		} else {
			next = min(next, d)
		}
	}
	slices.Sort(ended)
	return ended, next
}

// deletes are the ops that end a lease.
func (x *lease) deletes() []Op {
	var ops []Op
	for _, key := range slices.Sorted(maps.Keys(x.keys)) {
		ops = append(ops, Delete(key))
	}
	return ops
}
