package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// Keys of the database.
var (
	keyHead     = []byte("m/head")  // the revision
	keyFloor    = []byte("m/floor") // changelog entries up to this revision are gone
	keyDigest   = []byte("m/sum")   // digest of all records
	prefixData  = []byte("d/")      // d/KEY: a record
	prefixLog   = []byte("c/")      // c/REVISION: the events of one revision
	prefixLease = []byte("l/")      // l/ID: ttl and deadline, nanoseconds
)

// BadgerState is State in one directory: the database in db/ and the high-water file beside it.
//
// One goroutine commits. It takes what transactions are waiting, checks each one's preconditions in commit
// order, gives it the next revision, and writes records, changelog and leases of all in one synced
// transaction of Badger. After a failed commit nobody knows what is on disk: the store then refuses
// everything until it is opened again.
type BadgerState struct {
	dir  string
	o    Options
	db   *badger.DB
	high *highWater

	requests chan *request
	stop     chan struct{} // closed by Close
	done     chan struct{} // closed when the committer has ended

	mu      sync.Mutex
	head    uint64 // durable
	floor   uint64
	digest  digest
	leases  leases
	changed chan struct{} // closed and replaced at each commit
	closed  bool
	failed  error
	active  sync.WaitGroup // reads and watchers that use db
	closing sync.Once
	closeEr error
}

var _ State = (*BadgerState)(nil)

// request asks the committer for one transaction, and perhaps a lease's birth or end.
type request struct {
	ctx    context.Context
	conds  []Cond
	ops    []Op
	grant  LeaseID       // to be stored with ttl
	ttl    time.Duration // of grant
	renew  bool          // grant must be live
	revoke LeaseID
	reply  chan result // 1 slot

	rev    uint64
	events []Event
}

type result struct {
	rev uint64
	err error
}

// OpenState opens or creates the state in dir. ErrDamaged means that acknowledged data is gone; the error says
// how to go on. A directory is open in one process at a time.
func OpenState(dir string, o Options) (*BadgerState, error) {
	s := &BadgerState{
		dir: dir, o: o.withDefaults(), requests: make(chan *request, queuedTxns),
		stop: make(chan struct{}), done: make(chan struct{}), changed: make(chan struct{}), leases: newLeases(),
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := s.o.checkSpace(dir, s.o.MinFree/2); err != nil {
		return nil, err
	}
	var err error
	if s.high, err = openHighWater(dir); err != nil {
		return nil, fmt.Errorf("open state in %s: %w", dir, err)
	}
	s.db, err = openBadger(badgerOptions(filepath.Join(dir, "db"), s.o.Logger, s.poison))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open state in %s: %w", dir, err), s.high.f.Close())
	}
	if err = s.load(); err == nil {
		// Nothing was lost, so what is there is what was acknowledged last, even where the file was.
		err = s.high.set(s.head)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open state in %s: %w", dir, err), s.db.Close(), s.high.f.Close())
	}
	go s.commitLoop()
	return s, nil
}

// load reads head, floor and leases, and checks that nothing acknowledged is missing.
func (s *BadgerState) load() error {
	return s.db.View(func(t *badger.Txn) error {
		var err error
		if s.head, err = getUint(t, keyHead); err != nil {
			return err
		}
		if s.floor, err = getUint(t, keyFloor); err != nil {
			return err
		}
		last, err := checkLog(t, s.floor)
		if err != nil {
			return err
		}
		if s.head != last {
			return fmt.Errorf("%w: revision %d but changelog ends at %d; %s", ErrDamaged, s.head, last, restoreHint)
		}
		if s.head < s.high.rev {
			return fmt.Errorf("%w: revision %d was acknowledged, the database ends at %d; %s", ErrDamaged, s.high.rev, s.head, restoreHint)
		}
		if err := s.loadLeases(t); err != nil {
			return err
		}
		if s.head == 0 && s.digest.count > 0 {
			return fmt.Errorf("%w: %d records without a revision; %s", ErrDamaged, s.digest.count, restoreHint)
		}
		item, err := t.Get(keyDigest)
		if errors.Is(err, badger.ErrKeyNotFound) {
			return nil // written before there were digests; the next commit writes one
		}
		if err != nil {
			return err
		}
		v, err := item.ValueCopy(nil)
		if err != nil {
			return err
		}
		want, err := decodeDigest(v)
		if err == nil && want != s.digest {
			err = fmt.Errorf("%w: %d records, but not the %d that were written; %s", ErrDamaged, s.digest.count, want.count, restoreHint)
		}
		return err
	})
}

// checkLog returns the last revision of the changelog, which has every one after floor.
func checkLog(t *badger.Txn, floor uint64) (uint64, error) {
	it := t.NewIterator(badger.IteratorOptions{Prefix: prefixLog})
	defer it.Close()
	last := floor
	for it.Rewind(); it.Valid(); it.Next() {
		rev := binary.BigEndian.Uint64(it.Item().Key()[len(prefixLog):])
		if rev != last+1 {
			return 0, fmt.Errorf("%w: changelog goes from %d to %d; %s", ErrDamaged, last, rev, restoreHint)
		}
		last = rev
	}
	return last, nil
}

// loadLeases reads the leases and, with all records, what hangs on them, and their digest.
func (s *BadgerState) loadLeases(t *badger.Txn) error {
	now := time.Now()
	err := each(t, prefixLease, func(key string, v []byte) error {
		if len(key) != 8 || len(v) != 16 {
			return fmt.Errorf("%w: lease; %s", ErrDamaged, restoreHint)
		}
		id := LeaseID(binary.BigEndian.Uint64([]byte(key)))
		ttl := time.Duration(binary.BigEndian.Uint64(v))
		stored := time.Unix(0, int64(binary.BigEndian.Uint64(v[8:])))
		deadline := now.Add(max(stored.Sub(now), min(ttl, restartLease)))
		s.leases.live[id] = &lease{ttl: ttl, deadline: deadline, stored: stored, keys: map[string]bool{}}
		s.leases.next = max(s.leases.next, id+1)
		return nil
	})
	if err != nil {
		return err
	}
	return each(t, prefixData, func(key string, v []byte) error {
		s.digest.add(key, v)
		kv, err := decodeRecord(key, v)
		if err == nil && kv.Lease != 0 {
			s.leases.track([]Event{{Type: EventPut, KV: kv}})
		}
		return err
	})
}

// Get implements State.
func (s *BadgerState) Get(ctx context.Context, key string) (kv KV, err error) {
	err = s.view(ctx, func(t *badger.Txn) error {
		var ok bool
		if kv, ok, err = getRecord(t, key); err == nil && !ok {
			err = ErrNotFound
		}
		return err
	})
	return kv, err
}

// Range implements State.
func (s *BadgerState) Range(ctx context.Context, prefix, after string, limit int) (kvs []KV, rev uint64, err error) {
	err = s.view(ctx, func(t *badger.Txn) error {
		if rev, err = getUint(t, keyHead); err != nil {
			return err
		}
		p := append(bytes.Clone(prefixData), prefix...)
		it := t.NewIterator(badger.IteratorOptions{Prefix: p, PrefetchValues: true, PrefetchSize: 64})
		defer it.Close()
		from := p
		if after != "" && after > prefix {
			from = append(append(bytes.Clone(prefixData), after...), 0)
		}
		for it.Seek(from); it.Valid() && (limit <= 0 || len(kvs) < limit); it.Next() {
			key := string(it.Item().Key()[len(prefixData):])
			if key == after && after != "" {
				continue
			}
			var kv KV
			if err := it.Item().Value(func(v []byte) error { kv, err = decodeRecord(key, v); return err }); err != nil {
				return err
			}
			kvs = append(kvs, kv)
		}
		return nil
	})
	return kvs, rev, err
}

// Snapshot implements State.
func (s *BadgerState) Snapshot(ctx context.Context, fn func(KV) error) (rev uint64, err error) {
	err = s.view(ctx, func(t *badger.Txn) error {
		if rev, err = getUint(t, keyHead); err != nil {
			return err
		}
		return each(t, prefixData, func(key string, v []byte) error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			kv, err := decodeRecord(key, v)
			if err != nil {
				return err
			}
			return fn(kv)
		})
	})
	return rev, err
}

// Txn implements State.
func (s *BadgerState) Txn(ctx context.Context, conds []Cond, ops []Op) (uint64, error) {
	if err := checkTxn(conds, ops); err != nil {
		return 0, err
	}
	return s.do(&request{ctx: ctx, conds: conds, ops: ops})
}

// Grant implements State.
func (s *BadgerState) Grant(ctx context.Context, ttl time.Duration) (LeaseID, error) {
	s.mu.Lock()
	id := s.leases.next
	s.leases.next++
	s.mu.Unlock()
	_, err := s.do(&request{ctx: ctx, grant: id, ttl: ttl})
	return id, err
}

// KeepAlive implements State. It writes to disk only for leases longer than a minute, each quarter of their ttl.
func (s *BadgerState) KeepAlive(ctx context.Context, id LeaseID) error {
	s.mu.Lock()
	x := s.leases.live[id]
	if s.closed || x == nil {
		defer s.mu.Unlock()
		if s.closed {
			return ErrClosed
		}
		return ErrNotFound
	}
	x.deadline = time.Now().Add(x.ttl)
	write := x.ttl > restartLease && x.deadline.Sub(x.stored) > x.ttl/4
	ttl := x.ttl
	s.mu.Unlock()
	if !write {
		return nil
	}
	_, err := s.do(&request{ctx: ctx, grant: id, ttl: ttl, renew: true})
	return err
}

// Revoke implements State.
func (s *BadgerState) Revoke(ctx context.Context, id LeaseID) error {
	_, err := s.do(&request{ctx: ctx, revoke: id})
	return err
}

// Watch implements State.
func (s *BadgerState) Watch(ctx context.Context, prefix string, from uint64) (<-chan []Event, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	compacted := from < s.floor || from > s.head
	s.mu.Unlock()
	if compacted {
		s.active.Done()
		return nil, ErrCompacted
	}
	out := make(chan []Event)
	go func() {
		defer s.active.Done()
		defer close(out)
		for {
			s.mu.Lock()
			head, floor, changed := s.head, s.floor, s.changed
			s.mu.Unlock()
			if from < floor {
				return
			}
			if from == head {
				select {
				case <-changed:
					continue
				case <-ctx.Done():
					return
				case <-s.stop:
					return
				}
			}
			events, to, err := s.events(prefix, from, min(head, from+watchBatch))
			if err != nil {
				s.o.Logger.Error("watch ended", "error", err)
				return
			}
			from = to
			if len(events) == 0 {
				continue
			}
			select {
			case out <- events:
			case <-ctx.Done():
				return
			case <-s.stop:
				return
			}
		}
	}()
	return out, nil
}

// events reads the changelog after revision from, up to and with revision to.
func (s *BadgerState) events(prefix string, from, to uint64) (events []Event, last uint64, err error) {
	last = from
	err = s.db.View(func(t *badger.Txn) error {
		it := t.NewIterator(badger.IteratorOptions{Prefix: prefixLog, PrefetchValues: true, PrefetchSize: 16})
		defer it.Close()
		for it.Seek(logKey(from + 1)); it.Valid() && last < to; it.Next() {
			rev := binary.BigEndian.Uint64(it.Item().Key()[len(prefixLog):])
			if rev != last+1 {
				return fmt.Errorf("%w: changelog from %d is at %d", ErrCompacted, last, rev)
			}
			if err := it.Item().Value(func(v []byte) error {
				es, err := decodeEvents(v, prefix)
				events = append(events, es...)
				return err
			}); err != nil {
				return err
			}
			last = rev
		}
		if last == from {
			return fmt.Errorf("%w: changelog ends at %d", ErrDamaged, last)
		}
		return nil
	})
	return events, last, err
}

// Close implements State.
func (s *BadgerState) Close() error {
	s.closing.Do(func() {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		close(s.stop)   // no new transaction is taken, watchers end
		<-s.done        // the running commit is durable and acknowledged, the high-water file written
		s.active.Wait() // nobody reads the database
		s.closeEr = errors.Join(s.db.Close(), s.high.close())
	})
	return s.closeEr
}

// enter admits a reader; active.Done lets it out.
func (s *BadgerState) enter(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return ErrClosed
	case s.failed != nil:
		return s.failed
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	s.active.Add(1)
	return nil
}

func (s *BadgerState) view(ctx context.Context, f func(*badger.Txn) error) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.active.Done()
	return s.db.View(f)
}

// poison makes the store refuse everything: what is on disk is not known.
func (s *BadgerState) poison(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = fmt.Errorf("%w: a write failed, restart to check what is on disk: %s", ErrDamaged, why)
	}
}

func getRecord(t *badger.Txn, key string) (kv KV, ok bool, err error) {
	item, err := t.Get(append(bytes.Clone(prefixData), key...))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return KV{}, false, nil
	}
	if err != nil {
		return KV{}, false, err
	}
	err = item.Value(func(v []byte) error { kv, err = decodeRecord(key, v); return err })
	return kv, err == nil, err
}

// getUint reads a counter: 8 bytes; 0 when absent.
func getUint(t *badger.Txn, key []byte) (n uint64, err error) {
	item, err := t.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	err = item.Value(func(v []byte) error {
		if len(v) != 8 {
			return fmt.Errorf("%w: counter %s", ErrDamaged, key)
		}
		n = binary.BigEndian.Uint64(v)
		return nil
	})
	return n, err
}

// each calls f for every key with the prefix, which is cut off. v is valid during the call.
func each(t *badger.Txn, prefix []byte, f func(key string, v []byte) error) error {
	it := t.NewIterator(badger.IteratorOptions{Prefix: prefix, PrefetchValues: true, PrefetchSize: 64})
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		key := string(it.Item().Key()[len(prefix):])
		if err := it.Item().Value(func(v []byte) error { return f(key, v) }); err != nil {
			return err
		}
	}
	return nil
}

func logKey(rev uint64) []byte { return binary.BigEndian.AppendUint64(bytes.Clone(prefixLog), rev) }

func leaseKey(id LeaseID) []byte {
	return binary.BigEndian.AppendUint64(bytes.Clone(prefixLease), uint64(id))
}
