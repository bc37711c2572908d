package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
)

// BadgerRecordings keeps recordings in one Badger database per week of their start, so that retention removes a
// directory. One goroutine commits what all sessions have waiting in one synced transaction for each week concerned.
//
// A week's database holds m/ID the manifest, r/ID SEQ the chunks, K/ID N the side objects of kind K, n how many commits there were, b how
// many bytes of chunks and side objects there are, and d/ID while the removal of a recording is not finished. The database "held" holds
// recordings of weeks that are gone.
type BadgerRecordings struct {
	dir      string
	o        Options
	requests chan *write
	stop     chan struct{}
	done     chan struct{}
	wakeShut chan struct{} // a token: some week may be closed
	shutDone chan struct{}
	quota    atomic.Uint64

	mu      sync.Mutex
	weeks   map[string]*weekDB
	opened  int // of weeks
	closed  bool
	failed  error
	active  sync.WaitGroup
	closing sync.Once
	closeEr error

	// next is the end of recordings written to since the start; the committer's own.
	next map[[16]byte]*tail

	sizesMu sync.Mutex
	sizes   map[[16]byte]size // of open recordings, as they were asked for last

	retaining sync.Mutex // one Retain at a time
}

var _ Recordings = (*BadgerRecordings)(nil)

// tail is the end of one recording.
type tail struct {
	db      string // the database it is in
	week    string // of its start
	next    uint64
	bytes   uint64
	closed  bool
	removed bool
}

// size is how much of an open recording was counted.
type size struct{ chunks, bytes uint64 }

// write asks the committer for one thing: the first that is set of update, object, hold, remove, purge, raw, retain, manifest, chunk.
type write struct {
	ctx   context.Context
	id    [16]byte
	reply chan error // 1 slot

	update func(*Manifest) error
	object *objectWrite
	hold   *holdWrite
	remove *Removal
	purge  *purgeWrite
	raw    *rawWrite
	retain *retention
	// manifest creates the recording or replaces its manifest.
	manifest *Manifest
	seq      uint64
	chunk    []byte
	// result is the manifest after an update, before a removal.
	result Manifest
}

type objectWrite struct {
	kind ObjectKind
	n    uint64
	data []byte
}

type holdWrite struct{ hold *Hold }

// purgeWrite deletes some of a recording's keys in the database named.
type purgeWrite struct {
	db       string
	manifest bool // that too, at the end
	more     bool // the answer: not all fit
}

// rawWrite puts keys as they are into the database named.
type rawWrite struct {
	db      string
	entries []*badger.Entry
	bytes   int64 // of chunks and side objects in them
}

// frees tells whether a write takes no more room than it may give back: such are taken down to half of the free space that others want.
func (w *write) frees() bool {
	return w.update != nil || w.hold != nil || w.remove != nil || w.purge != nil || w.raw != nil
}

func (w *write) size() int {
	n := len(w.chunk)
	if w.object != nil {
		n += len(w.object.data)
	}
	return n
}

const (
	// maxChunk bounds a stored chunk, MaxObject a side object. maxWrites and maxWriteBytes bound one commit: a quarter of a value-log file.
	maxChunk      = 128 << 10
	MaxObject     = 1 << 20
	maxWrites     = 128
	maxWriteBytes = 16 << 20
	// maxTails bounds the recordings whose end is remembered; beyond, all are forgotten and read again. maxSizes likewise.
	maxTails = 16_384
	maxSizes = 4096
	// purgeKeys is how many keys one commit deletes, and a move copies at most, with copyBytes of values: such leave room to others.
	purgeKeys = 1000
	copyBytes = 4 << 20
)

// OpenRecordings opens or creates the recordings in dir.
func OpenRecordings(dir string, o Options) (*BadgerRecordings, error) {
	r := &BadgerRecordings{
		dir: dir, o: o.withRecordingDefaults(), requests: make(chan *write, queuedTxns), stop: make(chan struct{}), done: make(chan struct{}),
		wakeShut: make(chan struct{}, 1), shutDone: make(chan struct{}), weeks: map[string]*weekDB{}, next: map[[16]byte]*tail{}, sizes: map[[16]byte]size{},
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	names, err := filepath.Glob(filepath.Join(dir, "????-W??"))
	if err != nil {
		return nil, err
	}
	left, err := filepath.Glob(filepath.Join(dir, removedPrefix+"*"))
	if err != nil {
		return nil, err
	}
	for _, name := range left {
		if err := os.RemoveAll(name); err != nil {
			return nil, fmt.Errorf("remove expired recordings: %w", err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, heldDB)); err == nil {
		names = append(names, filepath.Join(dir, heldDB))
	}
	// Each is read to the last table now: damage is told at the start, not when somebody needs the recording.
	slices.Sort(names)
	for _, name := range names {
		w, err := r.acquire(filepath.Base(name))
		if err != nil {
			return nil, errors.Join(err, r.closeWeeks())
		}
		r.leave(w)
		if err := r.shut(); err != nil {
			return nil, errors.Join(err, r.closeWeeks())
		}
	}
	go r.commitLoop()
	go r.shutLoop()
	return r, nil
}

// PutManifest implements Recordings.
func (r *BadgerRecordings) PutManifest(ctx context.Context, m Manifest) error {
	return r.do(&write{ctx: ctx, id: m.ID, manifest: &m})
}

// UpdateManifest implements Recordings.
func (r *BadgerRecordings) UpdateManifest(ctx context.Context, id [16]byte, fn func(*Manifest) error) (Manifest, error) {
	w := &write{ctx: ctx, id: id, update: fn}
	if err := r.do(w); err != nil {
		return Manifest{}, err
	}
	return w.result, nil
}

// Hold implements Recordings.
func (r *BadgerRecordings) Hold(ctx context.Context, id [16]byte, hold *Hold) (Manifest, error) {
	w := &write{ctx: ctx, id: id, hold: &holdWrite{hold}}
	if err := r.do(w); err != nil {
		return Manifest{}, err
	}
	return w.result, nil
}

// Append implements Recordings.
func (r *BadgerRecordings) Append(ctx context.Context, id [16]byte, seq uint64, chunks ...[]byte) error {
	writes := make([]*write, len(chunks))
	for i, chunk := range chunks {
		if len(chunk) == 0 || len(chunk) > maxChunk {
			return fmt.Errorf("%w: chunk of %d bytes", ErrTooLarge, len(chunk))
		}
		writes[i] = &write{ctx: ctx, id: id, seq: seq + uint64(i), chunk: bytes.Clone(chunk)}
	}
	return r.do(writes...)
}

// PutObjects implements Recordings.
func (r *BadgerRecordings) PutObjects(ctx context.Context, id [16]byte, kind ObjectKind, objects ...Object) error {
	if err := checkObjects(kind, objects); err != nil {
		return err
	}
	writes := make([]*write, len(objects))
	for i, o := range objects {
		writes[i] = &write{ctx: ctx, id: id, object: &objectWrite{kind, o.N, bytes.Clone(o.Data)}}
	}
	for len(writes) > 0 { // no more in memory and on its way than one commit takes
		n := min(len(writes), maxWrites)
		if err := r.do(writes[:n]...); err != nil {
			return err
		}
		writes = writes[n:]
	}
	return nil
}

func checkObjects(kind ObjectKind, objects []Object) error {
	if !kind.valid() {
		return fmt.Errorf("store: no kind of side object: %q", rune(kind))
	}
	for _, o := range objects {
		if len(o.Data) == 0 || len(o.Data) > MaxObject {
			return fmt.Errorf("%w: side object of %d bytes", ErrTooLarge, len(o.Data))
		}
	}
	return nil
}

// Remove implements Recordings.
func (r *BadgerRecordings) Remove(ctx context.Context, id [16]byte, why Removal) (Manifest, error) {
	w := &write{ctx: ctx, id: id, remove: &why}
	if err := r.do(w); err != nil {
		return Manifest{}, err
	}
	// From here on nobody reads it. Who goes away, or a crash, leaves the rest to Maintain.
	return w.result, r.purge(context.WithoutCancel(ctx), id, "", false)
}

// purge deletes what a recording has in a database, in commits of bounded size; db is empty where it is to be found.
func (r *BadgerRecordings) purge(ctx context.Context, id [16]byte, db string, manifest bool) error {
	for more := true; more; {
		p := &purgeWrite{db: db, manifest: manifest}
		if err := r.do(&write{ctx: ctx, id: id, purge: p}); err != nil {
			return err
		}
		more = p.more
	}
	return nil
}

// Manifest implements Recordings.
func (r *BadgerRecordings) Manifest(ctx context.Context, id [16]byte) (m Manifest, err error) {
	err = r.find(ctx, id, func(t *badger.Txn, found Manifest) error {
		m = found
		return r.count(t, &m)
	})
	return m, err
}

// Next implements Recordings.
func (r *BadgerRecordings) Next(ctx context.Context, id [16]byte) (n uint64, err error) {
	err = r.find(ctx, id, func(t *badger.Txn, m Manifest) error {
		n = chunksOf(t, m)
		return nil
	})
	return n, err
}

// Chunks implements Recordings.
func (r *BadgerRecordings) Chunks(ctx context.Context, id [16]byte, from uint64, fn func(seq uint64, chunk []byte) error) error {
	return r.find(ctx, id, func(t *badger.Txn, m Manifest) error {
		if m.Removed != nil {
			return fmt.Errorf("%w: %x", ErrRemoved, id)
		}
		it := t.NewIterator(badger.IteratorOptions{Prefix: sidePrefix('r', id), PrefetchValues: true, PrefetchSize: 4})
		defer it.Close()
		next := from
		for it.Seek(chunkKey(id, from)); it.Valid(); it.Next() {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			seq := binary.BigEndian.Uint64(it.Item().Key()[18:])
			if seq != next {
				return fmt.Errorf("%w: chunks %d to %d of recording %x are missing", ErrDamaged, next, seq-1, id)
			}
			v, err := chunkOf(it.Item())
			if err != nil {
				return err
			}
			if err := fn(seq, v); err != nil {
				return err
			}
			next++
		}
		if m.Closed && next < m.Chunks {
			return fmt.Errorf("%w: recording %x had %d chunks when it was closed, and ends after %d", ErrDamaged, id, m.Chunks, next)
		}
		return nil
	})
}

// Object implements Recordings.
func (r *BadgerRecordings) Object(ctx context.Context, id [16]byte, kind ObjectKind, n uint64) (data []byte, err error) {
	err = r.find(ctx, id, func(t *badger.Txn, m Manifest) error {
		item, err := t.Get(sideKey(byte(kind), id, n))
		if errors.Is(err, badger.ErrKeyNotFound) || m.Removed != nil {
			return fmt.Errorf("%w: side object %c %d of recording %x", ErrNotFound, rune(kind), n, id)
		}
		if err != nil {
			return err
		}
		return item.Value(func(v []byte) error {
			v, err := summed(item, v)
			data = bytes.Clone(v)
			return err
		})
	})
	return data, err
}

// Objects implements Recordings.
func (r *BadgerRecordings) Objects(ctx context.Context, id [16]byte, kind ObjectKind, from uint64, fn func(n uint64, data []byte) error) error {
	return r.find(ctx, id, func(t *badger.Txn, m Manifest) error {
		if m.Removed != nil {
			return nil
		}
		it := t.NewIterator(badger.IteratorOptions{Prefix: sidePrefix(byte(kind), id), PrefetchValues: true, PrefetchSize: 4})
		defer it.Close()
		return eachObject(ctx, it, kind, id, from, fn)
	})
}

func eachObject(ctx context.Context, it *badger.Iterator, kind ObjectKind, id [16]byte, from uint64, fn func(n uint64, data []byte) error) error {
	prefix := sidePrefix(byte(kind), id)
	for it.Seek(sideKey(byte(kind), id, from)); it.ValidForPrefix(prefix); it.Next() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		item := it.Item()
		n := binary.BigEndian.Uint64(item.Key()[18:])
		err := item.Value(func(v []byte) error {
			v, err := summed(item, v)
			if err != nil {
				return err
			}
			return fn(n, v)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ObjectsOf implements Recordings.
func (r *BadgerRecordings) ObjectsOf(ctx context.Context, f Filter, kind ObjectKind, fn func(m Manifest, n uint64, data []byte) error) error {
	if err := r.enter(ctx); err != nil {
		return err
	}
	defer r.active.Done()
	return r.eachWeek(f, func(w *weekDB) (bool, error) {
		return true, w.View(func(t *badger.Txn) error {
			it := t.NewIterator(badger.IteratorOptions{Prefix: []byte{byte(kind), '/'}, PrefetchValues: true, PrefetchSize: 16})
			defer it.Close()
			return each(t, f.manifestPrefix(), func(_ string, v []byte) error {
				m, err := decodeManifest(v)
				if err != nil || !f.match(m) || m.Removed != nil || r.doubled(w, m) {
					return err
				}
				return eachObject(ctx, it, kind, m.ID, 0, func(n uint64, data []byte) error { return fn(m, n, data) })
			})
		})
	})
}

// List implements Recordings.
func (r *BadgerRecordings) List(ctx context.Context, f Filter) ([]Manifest, error) {
	if err := r.enter(ctx); err != nil {
		return nil, err
	}
	defer r.active.Done()
	var all []Manifest
	err := r.eachWeek(f, func(w *weekDB) (bool, error) {
		var found []Manifest
		left := f.Limit - len(all)
		newest := func() {
			slices.SortStableFunc(found, func(a, b Manifest) int { return b.Start.Compare(a.Start) })
			if f.Limit > 0 && len(found) > left {
				clear(found[left:])
				found = found[:left]
			}
		}
		err := w.View(func(t *badger.Txn) error {
			return each(t, f.manifestPrefix(), func(_ string, v []byte) error {
				m, err := decodeManifest(v)
				if err != nil || !f.match(m) || r.doubled(w, m) {
					return err
				}
				if found = append(found, m); f.Limit > 0 && len(found) >= 2*left+slackListed { // a week may hold many more than are wanted
					newest()
				}
				return nil
			})
		})
		if err != nil {
			return false, err
		}
		newest()
		err = w.View(func(t *badger.Txn) error {
			for i := range found {
				if err := r.count(t, &found[i]); err != nil {
					return err
				}
			}
			return nil
		})
		all = append(all, found...)
		return f.Limit == 0 || len(all) < f.Limit, err
	})
	return all, err
}

// Usage implements Recordings.
func (r *BadgerRecordings) Usage() (Usage, error) {
	u := Usage{Quota: r.quota.Load(), MinFree: r.o.MinFree}
	u.Bytes, u.Weeks = r.stored()
	free, err := r.o.Free(r.dir)
	if err != nil {
		return u, fmt.Errorf("free space of %s: %w", r.dir, err)
	}
	u.Free = free
	return u, nil
}

// SetQuota implements Recordings.
func (r *BadgerRecordings) SetQuota(bytes uint64) { r.quota.Store(bytes) }

// stored is how many bytes of chunks and side objects there are.
func (r *BadgerRecordings) stored() (bytes uint64, weeks int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.weeks {
		bytes += uint64(max(w.bytes.Load(), 0))
	}
	return bytes, len(r.weeks)
}

// Close implements Recordings.
func (r *BadgerRecordings) Close() error {
	r.closing.Do(func() {
		r.mu.Lock()
		r.closed = true
		r.mu.Unlock()
		close(r.stop)
		<-r.done
		<-r.shutDone
		r.active.Wait()
		r.closeEr = r.closeWeeks()
	})
	return r.closeEr
}

func (r *BadgerRecordings) enter(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return ErrClosed
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	r.active.Add(1)
	return nil
}

// find calls f with a recording's manifest in the transaction it was read in.
func (r *BadgerRecordings) find(ctx context.Context, id [16]byte, f func(*badger.Txn, Manifest) error) error {
	if err := r.enter(ctx); err != nil {
		return err
	}
	defer r.active.Done()
	return r.findIn(id, func(t *badger.Txn, _ string, m Manifest) error { return f(t, m) })
}

func (r *BadgerRecordings) findIn(id [16]byte, f func(t *badger.Txn, db string, m Manifest) error) error {
	for _, name := range r.newestFirst() {
		w, err := r.acquireFor(name, id)
		if err != nil {
			return err
		}
		if w == nil {
			continue
		}
		found := false
		err = w.View(func(t *badger.Txn) error {
			m, err := manifestIn(t, id)
			if errors.Is(err, ErrNotFound) {
				return nil
			}
			found = true
			if err != nil {
				return err
			}
			return f(t, name, m)
		})
		r.leave(w)
		if found || err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: recording %x", ErrNotFound, id)
}

func manifestIn(t *badger.Txn, id [16]byte) (Manifest, error) {
	item, err := t.Get(manifestKey(id))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return Manifest{}, fmt.Errorf("%w: recording %x", ErrNotFound, id)
	}
	if err != nil {
		return Manifest{}, err
	}
	v, err := item.ValueCopy(nil)
	if err != nil {
		return Manifest{}, err
	}
	return decodeManifest(v)
}

// chunksOf is how many chunks a recording has.
func chunksOf(t *badger.Txn, m Manifest) uint64 {
	if m.Closed && m.Chunks > 0 || m.Removed != nil {
		return m.Chunks
	}
	return countChunks(t, m.ID)
}

// countChunks is one more than the last stored sequence number; Append leaves no holes.
func countChunks(t *badger.Txn, id [16]byte) uint64 {
	it := t.NewIterator(badger.IteratorOptions{Prefix: sidePrefix('r', id), Reverse: true})
	defer it.Close()
	if it.Seek(chunkKey(id, 1<<64-1)); !it.Valid() {
		return 0
	}
	return binary.BigEndian.Uint64(it.Item().Key()[18:]) + 1
}

// count fills in how much of an open recording there is. What was counted before is not counted again.
func (r *BadgerRecordings) count(t *badger.Txn, m *Manifest) error {
	chunks := chunksOf(t, *m)
	if chunks == m.Chunks && (m.Closed || m.Removed != nil) {
		return nil
	}
	r.sizesMu.Lock()
	s := r.sizes[m.ID]
	r.sizesMu.Unlock()
	if s.chunks > chunks {
		s = size{}
	}
	if s.chunks < chunks {
		s.bytes += chunkBytes(t, m.ID, s.chunks)
		s.chunks = chunks
	}
	m.Chunks, m.Bytes = chunks, s.bytes
	r.sizesMu.Lock()
	if len(r.sizes) >= maxSizes {
		clear(r.sizes)
	}
	r.sizes[m.ID] = s
	r.sizesMu.Unlock()
	return nil
}

// chunkBytes is how many bytes the chunks from a number on have, to a few of each.
func chunkBytes(t *badger.Txn, id [16]byte, from uint64) (n uint64) {
	it := t.NewIterator(badger.IteratorOptions{Prefix: sidePrefix('r', id)})
	defer it.Close()
	for it.Seek(chunkKey(id, from)); it.Valid(); it.Next() {
		n += uint64(max(it.Item().ValueSize(), 0))
	}
	return n
}

func (r *BadgerRecordings) poison(why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed == nil {
		r.failed = fmt.Errorf("%w: a write failed, restart to check what is on disk: %s", ErrDamaged, why)
	}
}

func (r *BadgerRecordings) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// metaSummed marks a value that ends in a checksum, as all do but chunks of the first releases. Where Badger cannot read a value, or reads
// another, it logs that and returns what it has, without an error.
const metaSummed = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func chunkSum(key, chunk []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, chunk)
}

// summed checks a value's sum and returns it without.
func summed(item *badger.Item, v []byte) ([]byte, error) {
	key := item.Key()
	sum := len(v) - 4
	switch {
	case item.UserMeta()&metaSummed == 0 && len(v) > 0 && key[0] == 'r':
		return v, nil
	case sum <= 0 || chunkSum(key, v[:sum]) != binary.BigEndian.Uint32(v[sum:]):
		what := "chunk"
		if key[0] != 'r' {
			what = "side object " + string(key[:1])
		}
		return nil, fmt.Errorf("%w: %s %d of recording %x", ErrDamaged, what, binary.BigEndian.Uint64(key[18:]), key[2:18])
	}
	return v[:sum], nil
}

// chunkOf reads a chunk, which is the caller's.
func chunkOf(item *badger.Item) ([]byte, error) {
	v, err := item.ValueCopy(nil)
	if err != nil {
		return nil, err
	}
	return summed(item, v)
}

// summedEntry is the entry of a value with its sum. It takes the value over.
func summedEntry(key, v []byte) *badger.Entry {
	return badger.NewEntry(key, binary.BigEndian.AppendUint32(v, chunkSum(key, v))).WithMeta(metaSummed)
}

func manifestKey(id [16]byte) []byte { return append([]byte("m/"), id[:]...) }

func unfinishedKey(id [16]byte) []byte { return append([]byte("d/"), id[:]...) }

func sidePrefix(kind byte, id [16]byte) []byte { return append([]byte{kind, '/'}, id[:]...) }

func sideKey(kind byte, id [16]byte, n uint64) []byte {
	return binary.BigEndian.AppendUint64(sidePrefix(kind, id), n)
}

func chunkKey(id [16]byte, seq uint64) []byte { return sideKey('r', id, seq) }

// Maintain implements Recordings. The week that is written to is collected, and those of which recordings were removed; others are removed
// whole.
func (r *BadgerRecordings) Maintain() error {
	if err := r.enter(context.Background()); err != nil {
		return err
	}
	defer r.active.Done()
	var errs []error
	for i, name := range r.newestFirst() {
		if w := r.week(name); w == nil || i > 0 && !w.dirty.Load() {
			continue
		}
		w, err := r.acquire(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, id := range w.unfinished() {
			errs = append(errs, r.purge(context.Background(), id, name, false))
		}
		w.dirty.Store(false)
		if err := maintain(w.DB, r.o, r.dir); err != nil {
			w.dirty.Store(true)
			errs = append(errs, err)
		}
		r.leave(w)
	}
	return errors.Join(errs...)
}
