package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// do gives a request to the committer and waits for its answer.
func (s *BadgerState) do(r *request) (uint64, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	r.reply = make(chan result, 1)
	select {
	case <-s.stop:
		return 0, ErrClosed
	default:
	}
	select {
	case s.requests <- r:
	case <-s.stop:
		return 0, ErrClosed
	case <-r.ctx.Done():
		return 0, context.Cause(r.ctx)
	}
	select {
	case res := <-r.reply:
		return res.rev, res.err
	case <-r.ctx.Done():
		return 0, context.Cause(r.ctx)
	case <-s.done:
		select {
		case res := <-r.reply:
			return res.rev, res.err
		default:
			return 0, ErrClosed
		}
	}
}

// commitLoop commits until Close.
func (s *BadgerState) commitLoop() {
	defer close(s.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	retry := time.Duration(0)
	for {
		s.mu.Lock()
		ended, wait := s.leases.expired(time.Now())
		idle := s.high.rev != s.high.synced
		s.mu.Unlock()
		if len(ended) > 0 && retry == 0 {
			r := &request{ctx: context.Background(), revoke: ended[0], reply: make(chan result, 1)}
			s.commit([]*request{r})
			if res := <-r.reply; res.err != nil {
				// The disk is full or worse: the lease stays, its end is tried again.
				s.o.Logger.Error("end lease", "lease", uint64(ended[0]), "error", res.err)
				retry = time.Second
			}
			continue
		}
		wait = max(wait, retry)
		if len(ended) > 0 {
			wait = retry
		}
		if idle {
			wait = min(wait, highWaterIdle)
		}
		timer.Reset(wait)
		select {
		case r := <-s.requests:
			s.commit(s.group(r))
		case <-timer.C:
			retry = 0
			s.syncHighWater()
		case <-s.stop:
			s.syncHighWater()
			return
		}
	}
}

// group takes further requests that are waiting, as many as fit one commit.
func (s *BadgerState) group(first *request) []*request {
	g := []*request{first}
	size, ops := 0, 0
	for r := first; ; {
		ops += len(r.ops)
		for _, op := range r.ops {
			size += len(op.Key) + len(op.value)
		}
		// What ends a lease ends the group: later requests must see the lease gone.
		if r.revoke != 0 || size > maxGroup || ops > maxGroupOps {
			return g
		}
		select {
		case r = <-s.requests:
			g = append(g, r)
		default:
			return g
		}
	}
}

// commit does a group of requests in one durable transaction and answers them.
func (s *BadgerState) commit(group []*request) {
	staged, head, floor, sum, err := s.write(group)
	if err != nil {
		for _, r := range staged {
			r.reply <- result{err: err}
		}
		return
	}
	s.mu.Lock()
	changed := head != s.head
	s.head, s.floor, s.digest = head, floor, sum
	for _, r := range staged {
		s.leases.track(r.events)
		if r.grant != 0 {
			s.grantLocked(r)
		}
		delete(s.leases.live, r.revoke)
	}
	if changed {
		close(s.changed)
		s.changed = make(chan struct{})
	}
	s.mu.Unlock()
	// Before anybody is answered: what is acknowledged must be known outside the database.
	if err := s.high.set(head); err != nil {
		s.poison(fmt.Sprintf("high-water file: %v", err))
	}
	for _, r := range staged {
		r.reply <- result{rev: r.rev}
	}
	if head >= s.high.synced+highWaterEvery {
		s.syncHighWater()
	}
}

func (s *BadgerState) grantLocked(r *request) {
	deadline := time.Now().Add(r.ttl)
	if x := s.leases.live[r.grant]; x != nil {
		x.stored = deadline
		return
	}
	s.leases.live[r.grant] = &lease{ttl: r.ttl, deadline: deadline, stored: deadline, keys: map[string]bool{}}
}

// write stages the requests whose conditions hold and commits them; the others it answers at once.
func (s *BadgerState) write(group []*request) (staged []*request, head, floor uint64, sum digest, err error) {
	s.mu.Lock()
	head, floor, sum, err = s.head, s.floor, s.digest, s.failed
	s.mu.Unlock()
	if err != nil {
		return group, head, floor, sum, err
	}
	t := s.db.NewTransaction(true)
	defer t.Discard()
	before := head
	full := s.o.checkSpace(s.dir, s.o.MinFree)
	for i, r := range group {
		rev, err := s.stage(t, r, head, full, &sum)
		if err == nil {
			head, r.rev = rev, rev
			staged = append(staged, r)
			continue
		}
		if s.broken() {
			return append(staged, group[i:]...), head, floor, sum, err
		}
		r.reply <- result{err: err}
	}
	if len(staged) == 0 {
		return nil, head, floor, sum, nil
	}
	if head != before {
		floor, err = s.stageHead(t, head, floor, sum)
	}
	if err == nil {
		err = t.Commit()
	}
	if err != nil {
		s.poison(err.Error())
	}
	s.mu.Lock()
	err = s.failed
	s.mu.Unlock()
	return staged, head, floor, sum, err
}

func (s *BadgerState) broken() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed != nil
}

// stage writes one request into t. After an error of the request itself t is unchanged; an error of the
// database poisons the store.
func (s *BadgerState) stage(t *badger.Txn, r *request, head uint64, full error, sum *digest) (uint64, error) {
	if r.ctx.Err() != nil {
		return head, context.Cause(r.ctx)
	}
	s.mu.Lock()
	ops := r.ops
	if x := s.leases.live[r.revoke]; x != nil {
		ops = x.deletes()
	}
	err := s.leases.check(ops)
	if r.renew && s.leases.live[r.grant] == nil {
		err = ErrNotFound
	}
	s.mu.Unlock()
	if err != nil {
		return head, err
	}
	if full != nil {
		if !spared(r, ops) {
			return head, full
		}
		if err := s.o.checkSpace(s.dir, s.o.MinFree/2); err != nil {
			return head, err
		}
	}
	events, err := apply(head+1, r.conds, ops, func(key string) (KV, bool, error) { return getRecord(t, key) })
	if err != nil {
		return head, err
	}
	if err = sum.follow(t, events); err == nil {
		err = s.stageWrites(t, r, head+1, events)
	}
	if err != nil {
		s.poison(err.Error())
		return head, err
	}
	if r.events = events; len(events) > 0 {
		head++
	}
	return head, nil
}

func (s *BadgerState) stageWrites(t *badger.Txn, r *request, rev uint64, events []Event) error {
	for _, e := range events {
		key := append(bytes.Clone(prefixData), e.KV.Key...)
		var err error
		if e.Type == EventDelete {
			err = t.Delete(key)
		} else {
			err = t.Set(key, encodeRecord(e.KV))
		}
		if err != nil {
			return err
		}
	}
	if len(events) > 0 {
		if err := t.Set(logKey(rev), encodeEvents(events)); err != nil {
			return err
		}
	}
	if r.grant != 0 {
		v := binary.BigEndian.AppendUint64(nil, uint64(r.ttl))
		v = binary.BigEndian.AppendUint64(v, uint64(time.Now().Add(r.ttl).UnixNano()))
		return t.Set(leaseKey(r.grant), v)
	}
	if r.revoke != 0 {
		return t.Delete(leaseKey(r.revoke))
	}
	return nil
}

// spared tells whether a request only deletes or writes what is urgent: such are taken down to half the free space others need.
func spared(r *request, ops []Op) bool {
	for _, op := range ops {
		if !op.delete && !op.urgent {
			return false
		}
	}
	return r.grant == 0
}

// stageHead writes the revision and forgets the oldest changelog entries. It returns the new floor.
func (s *BadgerState) stageHead(t *badger.Txn, head, floor uint64, sum digest) (uint64, error) {
	if err := t.Set(keyDigest, sum.encode()); err != nil {
		return floor, err
	}
	if err := t.Set(keyHead, binary.BigEndian.AppendUint64(nil, head)); err != nil {
		return floor, err
	}
	if head < floor+s.o.Keep+compactSlack {
		return floor, nil
	}
	to := min(head-s.o.Keep, floor+2*compactSlack)
	for rev := floor + 1; rev <= to; rev++ {
		if err := t.Delete(logKey(rev)); err != nil {
			return floor, err
		}
	}
	return to, t.Set(keyFloor, binary.BigEndian.AppendUint64(nil, to))
}

// syncHighWater makes the revision noted outside the database durable.
func (s *BadgerState) syncHighWater() {
	if err := s.high.sync(); err != nil {
		s.poison(fmt.Sprintf("high-water file: %v", err))
	}
}
