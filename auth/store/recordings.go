package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/dgraph-io/badger/v4"
)

// Recordings keeps recordings in one Badger database per week of their start, so that retention removes a
// directory. One goroutine commits the chunks of all sessions that are waiting in one synced transaction for
// each week concerned. Safe for concurrent use.
type Recordings struct {
	dir      string
	o        Options
	requests chan *write
	stop     chan struct{}
	done     chan struct{}

	mu      sync.Mutex
	weeks   map[string]*badger.DB
	closed  bool
	failed  error
	active  sync.WaitGroup
	closing sync.Once
	closeEr error

	// next is the chunk wanted of recordings written to since the start; the committer's own.
	next map[[16]byte]*tail
}

// tail is the end of one recording.
type tail struct {
	week   string
	next   uint64
	closed bool
}

// write asks the committer for one chunk, or one manifest.
type write struct {
	ctx      context.Context
	id       [16]byte
	seq      uint64
	chunk    []byte
	manifest *Manifest
	reply    chan error // 1 slot
}

// maxChunk bounds a stored chunk; maxWrites how many go into one commit, a quarter of a value-log file.
const (
	maxChunk  = 128 << 10
	maxWrites = 128
	// maxTails bounds the recordings whose end is remembered; beyond, all are forgotten and read again.
	maxTails = 16_384
)

// OpenRecordings opens or creates the recordings in dir.
func OpenRecordings(dir string, o Options) (*Recordings, error) {
	r := &Recordings{
		dir: dir, o: o.withDefaults(), requests: make(chan *write, queuedTxns), stop: make(chan struct{}),
		done: make(chan struct{}), weeks: map[string]*badger.DB{}, next: map[[16]byte]*tail{},
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	names, err := filepath.Glob(filepath.Join(dir, "????-W??"))
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if _, err := r.open(filepath.Base(name)); err != nil {
			return nil, errors.Join(err, r.closeWeeks())
		}
	}
	go r.commitLoop()
	return r, nil
}

// open returns a week's database; it creates it if it is not there.
func (r *Recordings) open(name string) (*badger.DB, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if db := r.weeks[name]; db != nil {
		return db, nil
	}
	db, err := badger.Open(badgerOptions(filepath.Join(r.dir, name), r.o.Logger, r.poison).WithValueThreshold(1 << 10))
	if err != nil {
		return nil, fmt.Errorf("open recordings of %s: %w", name, err)
	}
	r.weeks[name] = db
	return db, nil
}

// PutManifest writes a recording's manifest; the first creates the recording. A later one with another start
// is an error; one with Closed ends it.
func (r *Recordings) PutManifest(ctx context.Context, m Manifest) error {
	return r.do(&write{ctx: ctx, id: m.ID, manifest: &m})
}

// Append stores chunks that follow each other, the first as number seq; when it returns nil they are durable. A chunk that is already there
// with the same bytes is accepted again, with others it is ErrConflict. ErrGap: an earlier one is missing, see Next.
// ErrNotFound: there is no manifest. ErrClosed: the recording (or the store) is closed. After an error some of the chunks may be stored.
func (r *Recordings) Append(ctx context.Context, id [16]byte, seq uint64, chunks ...[]byte) error {
	writes := make([]*write, len(chunks))
	for i, chunk := range chunks {
		if len(chunk) == 0 || len(chunk) > maxChunk {
			return fmt.Errorf("%w: chunk of %d bytes", ErrTooLarge, len(chunk))
		}
		writes[i] = &write{ctx: ctx, id: id, seq: seq + uint64(i), chunk: bytes.Clone(chunk)}
	}
	return r.do(writes...)
}

// Manifest returns a recording's manifest, or ErrNotFound.
func (r *Recordings) Manifest(ctx context.Context, id [16]byte) (m Manifest, err error) {
	err = r.find(ctx, id, func(t *badger.Txn, found Manifest) error { m = found; return nil })
	return m, err
}

// Next is the sequence number of the chunk wanted next: where an interrupted upload goes on.
func (r *Recordings) Next(ctx context.Context, id [16]byte) (uint64, error) {
	m, err := r.Manifest(ctx, id)
	return m.Chunks, err
}

// Chunks calls fn for each stored chunk from the sequence number on, in order. The chunk is valid during the call.
func (r *Recordings) Chunks(ctx context.Context, id [16]byte, from uint64, fn func(seq uint64, chunk []byte) error) error {
	return r.find(ctx, id, func(t *badger.Txn, _ Manifest) error {
		it := t.NewIterator(badger.IteratorOptions{Prefix: chunkKey(id, 0)[:18], PrefetchValues: true, PrefetchSize: 4})
		defer it.Close()
		for it.Seek(chunkKey(id, from)); it.Valid(); it.Next() {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			seq := binary.BigEndian.Uint64(it.Item().Key()[18:])
			if err := it.Item().Value(func(v []byte) error { return fn(seq, v) }); err != nil {
				return err
			}
		}
		return nil
	})
}

// List returns the manifests that match, newest start first.
func (r *Recordings) List(ctx context.Context, f Filter) ([]Manifest, error) {
	if err := r.enter(ctx); err != nil {
		return nil, err
	}
	defer r.active.Done()
	var all []Manifest
	for _, db := range r.newestFirst() {
		if f.Limit > 0 && len(all) >= f.Limit {
			break
		}
		var found []Manifest
		err := db.View(func(t *badger.Txn) error {
			return each(t, []byte("m/"), func(_ string, v []byte) error {
				m, err := decodeManifest(v)
				if err == nil && f.match(m) {
					m.Chunks = countChunks(t, m.ID)
					found = append(found, m)
				}
				return err
			})
		})
		if err != nil {
			return nil, err
		}
		slices.SortStableFunc(found, func(a, b Manifest) int { return b.Start.Compare(a.Start) })
		all = append(all, found...)
	}
	if f.Limit > 0 && len(all) > f.Limit {
		all = all[:f.Limit]
	}
	return all, nil
}

// Close waits for what was taken and closes the databases. Idempotent.
func (r *Recordings) Close() error {
	r.closing.Do(func() {
		r.mu.Lock()
		r.closed = true
		r.mu.Unlock()
		close(r.stop)
		<-r.done
		r.active.Wait()
		r.closeEr = r.closeWeeks()
	})
	return r.closeEr
}

func (r *Recordings) closeWeeks() error {
	var errs []error
	for _, db := range r.weeks {
		errs = append(errs, db.Close())
	}
	return errors.Join(errs...)
}

func (r *Recordings) enter(ctx context.Context) error {
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

// newestFirst returns the open weeks.
func (r *Recordings) newestFirst() []*badger.DB {
	r.mu.Lock()
	defer r.mu.Unlock()
	names := make([]string, 0, len(r.weeks))
	for name := range r.weeks {
		names = append(names, name)
	}
	slices.Sort(names)
	slices.Reverse(names)
	dbs := make([]*badger.DB, 0, len(names))
	for _, name := range names {
		dbs = append(dbs, r.weeks[name])
	}
	return dbs
}

// find calls f with a recording's manifest in the transaction it was read in.
func (r *Recordings) find(ctx context.Context, id [16]byte, f func(*badger.Txn, Manifest) error) error {
	if err := r.enter(ctx); err != nil {
		return err
	}
	defer r.active.Done()
	return r.findIn(id, f)
}

func (r *Recordings) findIn(id [16]byte, f func(*badger.Txn, Manifest) error) error {
	for _, db := range r.newestFirst() {
		found := false
		err := db.View(func(t *badger.Txn) error {
			item, err := t.Get(manifestKey(id))
			if errors.Is(err, badger.ErrKeyNotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			found = true
			v, err := item.ValueCopy(nil)
			if err != nil {
				return err
			}
			m, err := decodeManifest(v)
			if err != nil {
				return err
			}
			m.Chunks = countChunks(t, id)
			return f(t, m)
		})
		if found || err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: recording %x", ErrNotFound, id)
}

// countChunks is one more than the last stored sequence number; Append leaves no holes.
func countChunks(t *badger.Txn, id [16]byte) uint64 {
	it := t.NewIterator(badger.IteratorOptions{Prefix: chunkKey(id, 0)[:18], Reverse: true})
	defer it.Close()
	if it.Seek(chunkKey(id, 1<<64-1)); !it.Valid() {
		return 0
	}
	return binary.BigEndian.Uint64(it.Item().Key()[18:]) + 1
}

func (r *Recordings) poison(why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed == nil {
		r.failed = fmt.Errorf("%w: a write failed, restart to check what is on disk: %s", ErrDamaged, why)
	}
}

func (r *Recordings) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// do hands writes to the commit loop, all before it waits for the first: so they share commits. They have one context.
func (r *Recordings) do(writes ...*write) error {
	if len(writes) == 0 {
		return nil
	}
	if err := r.enter(writes[0].ctx); err != nil {
		return err
	}
	defer r.active.Done()
	for _, w := range writes {
		w.reply = make(chan error, 1)
		select {
		case r.requests <- w:
		case <-r.stop:
			return ErrClosed
		case <-w.ctx.Done():
			return context.Cause(w.ctx)
		}
	}
	for _, w := range writes {
		if err := r.wait(w); err != nil {
			return err
		}
	}
	return nil
}

// wait returns the answer to a write that was handed over.
func (r *Recordings) wait(w *write) error {
	select {
	case err := <-w.reply:
		return err
	case <-w.ctx.Done():
		return context.Cause(w.ctx)
	case <-r.done:
		select {
		case err := <-w.reply:
			return err
		default:
			return ErrClosed
		}
	}
}

func (r *Recordings) commitLoop() {
	defer close(r.done)
	for {
		select {
		case w := <-r.requests:
			group := []*write{w}
			for more := true; more && len(group) < maxWrites; {
				select {
				case w := <-r.requests:
					group = append(group, w)
				default:
					more = false
				}
			}
			r.commit(group)
		case <-r.stop:
			return
		}
	}
}

// commit writes a group, week by week, and answers it.
func (r *Recordings) commit(group []*write) {
	err := r.failure()
	if err == nil {
		err = r.o.checkSpace(r.dir, r.o.MinFree)
	}
	if err != nil {
		for _, w := range group {
			w.reply <- err
		}
		return
	}
	if len(r.next) > maxTails {
		clear(r.next)
	}
	txns := map[string]*badger.Txn{}
	staged := map[string][]*write{}
	for _, w := range group {
		name, err := r.stage(txns, w)
		if err != nil {
			w.reply <- err
			continue
		}
		staged[name] = append(staged[name], w)
	}
	for name, t := range txns {
		err := t.Commit()
		if err != nil {
			r.poison(err.Error())
		}
		if err = r.failure(); err != nil {
			clear(r.next)
		}
		for _, w := range staged[name] {
			w.reply <- err
		}
	}
}

// stage puts one write into its week's transaction and returns the week.
func (r *Recordings) stage(txns map[string]*badger.Txn, w *write) (string, error) {
	end, err := r.tail(w.id)
	if errors.Is(err, ErrNotFound) && w.manifest != nil {
		end, err = &tail{week: week(w.manifest.Start)}, nil
	}
	if err != nil {
		return "", err
	}
	t, err := r.txn(txns, end.week)
	if err != nil {
		return "", err
	}
	if w.manifest != nil {
		if week(w.manifest.Start) != end.week {
			return "", fmt.Errorf("%w: start of recording %x", ErrConflict, w.id)
		}
		v, err := w.manifest.encode()
		if err != nil {
			return "", err
		}
		if err := t.Set(manifestKey(w.id), v); err != nil {
			return "", err
		}
		end.closed = w.manifest.Closed
		r.next[w.id] = end
		return end.week, nil
	}
	switch {
	case w.seq < end.next:
		item, err := t.Get(chunkKey(w.id, w.seq))
		if err != nil {
			return "", err
		}
		same := false
		if err := item.Value(func(v []byte) error { same = bytes.Equal(v, w.chunk); return nil }); err != nil {
			return "", err
		}
		if !same {
			return "", fmt.Errorf("%w: chunk %d of recording %x is there with other bytes", ErrConflict, w.seq, w.id)
		}
		return end.week, nil // acknowledged with the group: the first copy may be in it
	case end.closed:
		return "", fmt.Errorf("%w: recording %x", ErrClosed, w.id)
	case w.seq > end.next:
		return "", fmt.Errorf("%w: chunk %d, wanted %d", ErrGap, w.seq, end.next)
	}
	if err := t.Set(chunkKey(w.id, w.seq), w.chunk); err != nil {
		return "", err
	}
	end.next++
	return end.week, nil
}

func (r *Recordings) txn(txns map[string]*badger.Txn, week string) (*badger.Txn, error) {
	if t := txns[week]; t != nil {
		return t, nil
	}
	db, err := r.open(week)
	if err != nil {
		return nil, err
	}
	txns[week] = db.NewTransaction(true)
	return txns[week], nil
}

// tail finds the end of a recording.
func (r *Recordings) tail(id [16]byte) (*tail, error) {
	if t := r.next[id]; t != nil {
		return t, nil
	}
	var end *tail
	err := r.findIn(id, func(_ *badger.Txn, m Manifest) error {
		end = &tail{week: week(m.Start), next: m.Chunks, closed: m.Closed}
		return nil
	})
	if err == nil {
		r.next[id] = end
	}
	return end, err
}

func manifestKey(id [16]byte) []byte { return append([]byte("m/"), id[:]...) }

func chunkKey(id [16]byte, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(append([]byte("r/"), id[:]...), seq)
}
