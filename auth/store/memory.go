package store

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Memory is State without a disk: the twin for tests of what uses State. It runs the same conformance suite.
// Its leases end when a method next looks, or when a watcher waits.
type Memory struct {
	mu      sync.Mutex
	kvs     map[string]KV
	log     [][]Event // log[i] is revision floor+i+1
	floor   uint64    // what was before is forgotten
	keep    uint64
	leases  leases
	changed chan struct{} // closed and replaced at each revision
	closed  bool
	stop    chan struct{}
	watched sync.WaitGroup
}

var _ State = (*Memory)(nil)

// NewMemory makes an empty store.
func NewMemory() *Memory {
	return &Memory{keep: keptRevisions, kvs: map[string]KV{}, leases: newLeases(), changed: make(chan struct{}), stop: make(chan struct{})}
}

// Get implements State.
func (m *Memory) Get(ctx context.Context, key string) (KV, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.enterLocked(ctx); err != nil {
		return KV{}, err
	}
	kv, ok := m.kvs[key]
	if !ok {
		return KV{}, ErrNotFound
	}
	kv.Value = slices.Clone(kv.Value)
	return kv, nil
}

// Range implements State.
func (m *Memory) Range(ctx context.Context, prefix, after string, limit int) ([]KV, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.enterLocked(ctx); err != nil {
		return nil, 0, err
	}
	var out []KV
	for _, key := range slices.Sorted(maps.Keys(m.kvs)) {
		if !strings.HasPrefix(key, prefix) || key <= after && after != "" {
			continue
		}
		if limit > 0 && len(out) == limit {
			break
		}
		kv := m.kvs[key]
		kv.Value = slices.Clone(kv.Value)
		out = append(out, kv)
	}
	return out, m.headLocked(), nil
}

// Txn implements State.
func (m *Memory) Txn(ctx context.Context, conds []Cond, ops []Op) (uint64, error) {
	if err := checkTxn(conds, ops); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.enterLocked(ctx); err != nil {
		return 0, err
	}
	if err := m.leases.check(ops); err != nil {
		return 0, err
	}
	return m.txnLocked(conds, ops)
}

func (m *Memory) txnLocked(conds []Cond, ops []Op) (uint64, error) {
	events, err := apply(m.headLocked()+1, conds, ops, func(key string) (KV, bool, error) {
		kv, ok := m.kvs[key]
		return kv, ok, nil
	})
	if err != nil || len(events) == 0 {
		return m.headLocked(), err
	}
	m.leases.track(events)
	for _, e := range events {
		if e.Type == EventDelete {
			delete(m.kvs, e.KV.Key)
		} else {
			m.kvs[e.KV.Key] = e.KV
		}
	}
	m.log = append(m.log, events)
	if n := uint64(len(m.log)); n >= m.keep+compactSlack {
		m.floor += n - m.keep
		m.log = slices.Clone(m.log[n-m.keep:])
	}
	close(m.changed)
	m.changed = make(chan struct{})
	return m.headLocked(), nil
}

func (m *Memory) headLocked() uint64 { return m.floor + uint64(len(m.log)) }

// Snapshot implements State.
func (m *Memory) Snapshot(ctx context.Context, fn func(KV) error) (uint64, error) {
	kvs, rev, err := m.Range(ctx, "", "", 0)
	for _, kv := range kvs {
		if err != nil {
			break
		}
		if err = fn(kv); err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}
	return rev, err
}

// Watch implements State.
func (m *Memory) Watch(ctx context.Context, prefix string, from uint64) (<-chan []Event, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.enterLocked(ctx); err != nil {
		return nil, err
	}
	if from > m.headLocked() || from < m.floor {
		return nil, ErrCompacted
	}
	out := make(chan []Event)
	m.watched.Go(func() {
		defer close(out)
		for {
			m.mu.Lock()
			wait := m.expireLocked()
			if from < m.floor {
				m.mu.Unlock()
				return
			}
			fresh, changed := m.log[from-m.floor:], m.changed
			m.mu.Unlock()
			from += uint64(len(fresh))
			var events []Event
			for _, e := range slices.Concat(fresh...) {
				if strings.HasPrefix(e.KV.Key, prefix) {
					e.KV.Value = slices.Clone(e.KV.Value)
					events = append(events, e)
				}
			}
			var send chan []Event
			if len(events) > 0 {
				send, changed = out, nil
			}
			timer := time.NewTimer(wait)
			for sent := false; !sent; {
				select {
				case send <- events:
					sent = true
				case <-changed:
					sent = true
				case <-timer.C:
					sent = send == nil
				case <-ctx.Done():
					timer.Stop()
					return
				case <-m.stop:
					timer.Stop()
					return
				}
			}
			timer.Stop()
		}
	})
	return out, nil
}

// Grant implements State.
func (m *Memory) Grant(ctx context.Context, ttl time.Duration) (LeaseID, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.enterLocked(ctx); err != nil {
		return 0, err
	}
	id := m.leases.next
	m.leases.next++
	m.leases.live[id] = &lease{ttl: ttl, deadline: time.Now().Add(ttl), keys: map[string]bool{}}
	// Watchers must learn of the nearer deadline.
	close(m.changed)
	m.changed = make(chan struct{})
	return id, nil
}

// KeepAlive implements State.
func (m *Memory) KeepAlive(ctx context.Context, id LeaseID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.enterLocked(ctx); err != nil {
		return err
	}
	x := m.leases.live[id]
	if x == nil {
		return ErrNotFound
	}
	x.deadline = time.Now().Add(x.ttl)
	return nil
}

// Revoke implements State.
func (m *Memory) Revoke(ctx context.Context, id LeaseID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.enterLocked(ctx); err != nil {
		return err
	}
	m.revokeLocked(id)
	return nil
}

func (m *Memory) revokeLocked(id LeaseID) {
	if x := m.leases.live[id]; x != nil {
		// Without conditions, and in memory, this cannot fail.
		_, _ = m.txnLocked(nil, x.deletes())
		delete(m.leases.live, id)
	}
}

// Close implements State.
func (m *Memory) Close() error {
	m.mu.Lock()
	if !m.closed {
		m.closed = true
		close(m.stop)
	}
	m.mu.Unlock()
	m.watched.Wait()
	return nil
}

// enterLocked refuses what comes too late and ends leases that are over.
func (m *Memory) enterLocked(ctx context.Context) error {
	if m.closed {
		return ErrClosed
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	m.expireLocked()
	return nil
}

func (m *Memory) expireLocked() time.Duration {
	ended, next := m.leases.expired(time.Now())
	for _, id := range ended {
		m.revokeLocked(id)
	}
	return next
}
