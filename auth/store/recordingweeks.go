package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// heldDB is the name of the database for held recordings of weeks that are gone.
const heldDB = "held"

// weekDB is the database of one week. It is open while somebody uses it, and as many others as memory is for.
type weekDB struct {
	name string
	high *highWater // of n; the committer's own
	n    uint64     // commits; the committer's own
	// bytes of chunks and side objects.
	bytes atomic.Int64
	// dirty: there is space to give back.
	dirty atomic.Bool

	opening    sync.Mutex // of DB; taken before Recordings.mu
	*badger.DB            // nil: closed
	checked    bool       // it was read to the end in this run

	// users hold the database open: readers and the committer. The rest is under Recordings.mu.
	users  int
	isOpen bool
	used   time.Time
	ids    []uint64      // beginnings of the recordings' ids, sorted, while it is closed
	gone   chan struct{} // not nil: taken out of the table; closed when the last user leaves
}

// keyCommits counts a week's commits; the high-water file beside it must not be ahead. keyBytes is how much it holds.
var (
	keyCommits = []byte("n")
	keyBytes   = []byte("b")
)

// week returns a week, nil where there is none of that name.
func (r *BadgerRecordings) week(name string) *weekDB {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.weeks[name]
}

// newestFirst names the weeks, newest first, and then heldDB.
func (r *BadgerRecordings) newestFirst() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Keys(r.weeks), func(a, b string) int {
		switch {
		case a == heldDB:
			return 1
		case b == heldDB:
			return -1
		}
		return strings.Compare(b, a)
	})
}

// eachWeek calls f with each week that can hold what the filter wants, open, newest first, until it says false.
func (r *BadgerRecordings) eachWeek(f Filter, fn func(*weekDB) (bool, error)) error {
	for _, name := range r.newestFirst() {
		if !f.mayMatch(name) {
			continue
		}
		w, err := r.acquireOld(name, f.mayHold)
		if err != nil {
			return err
		}
		if w == nil {
			continue
		}
		more, err := fn(w)
		r.leave(w)
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// acquire returns a week, open, and makes it if there is none. The caller lets it go by leave.
func (r *BadgerRecordings) acquire(name string) (*weekDB, error) {
	r.mu.Lock()
	w := r.weeks[name]
	if w == nil {
		w = &weekDB{name: name}
		r.weeks[name] = w
	}
	w.users++
	r.mu.Unlock()
	return w, r.openOrLeave(w)
}

// acquireFor returns a week that may hold a recording, nil where it does not.
func (r *BadgerRecordings) acquireFor(name string, id [16]byte) (*weekDB, error) {
	return r.acquireOld(name, func(ids []uint64) bool {
		_, ok := slices.BinarySearch(ids, binary.BigEndian.Uint64(id[:]))
		return ok
	})
}

// acquireOld returns a week, open, nil where there is none, or where it is closed and mayHold says of the beginnings of its recordings' ids that there is
// nothing to be found; nil: that is not asked.
func (r *BadgerRecordings) acquireOld(name string, mayHold func(ids []uint64) bool) (*weekDB, error) {
	r.mu.Lock()
	w := r.weeks[name]
	if w == nil {
		r.mu.Unlock()
		return nil, nil
	}
	if mayHold != nil && !w.isOpen && w.ids != nil && !mayHold(w.ids) {
		r.mu.Unlock()
		return nil, nil
	}
	w.users++
	r.mu.Unlock()
	return w, r.openOrLeave(w)
}

func (r *BadgerRecordings) openOrLeave(w *weekDB) error {
	w.opening.Lock()
	defer w.opening.Unlock()
	if w.DB != nil {
		return nil
	}
	err := r.openWeek(w)
	r.mu.Lock()
	if err == nil {
		w.isOpen, w.ids = true, nil
		r.opened++
	}
	r.mu.Unlock()
	if err != nil {
		r.leave(w)
		r.mu.Lock()
		if w.users == 0 && w.high == nil && w.gone == nil {
			delete(r.weeks, w.name) // it never was
		}
		r.mu.Unlock()
	}
	return err
}

// openWeek opens the database. The high-water file stays open, and locked, from the first time on.
func (r *BadgerRecordings) openWeek(w *weekDB) (err error) {
	dir := filepath.Join(r.dir, w.name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	wrap := func(err error) error {
		return fmt.Errorf("open recordings of %s: %w; or move %s away to go on without them", w.name, err, dir)
	}
	first := w.high == nil
	if first {
		if w.high, err = openHighWater(dir); err != nil {
			w.high = nil
			return wrap(err)
		}
	}
	db, err := openBadgerChecked(badgerOptions(dir, r.o.Logger, r.poison).WithValueThreshold(1<<10).WithVerifyValueChecksum(true), !w.checked)
	if err == nil {
		err = w.take(db, first)
		if err != nil {
			err = errors.Join(err, db.Close())
		}
	}
	if err != nil {
		if first {
			err = errors.Join(err, w.high.f.Close())
			w.high = nil
		}
		return wrap(err)
	}
	w.DB, w.checked = db, true
	return nil
}

// take compares a database that was opened with what is known of it.
func (w *weekDB) take(db *badger.DB, first bool) error {
	var n, held uint64
	counted := true
	err := db.View(func(t *badger.Txn) (err error) {
		if n, err = getUint(t, keyCommits); err != nil {
			return err
		}
		if _, err = t.Get(keyBytes); errors.Is(err, badger.ErrKeyNotFound) {
			counted = false
			return nil
		}
		held, err = getUint(t, keyBytes)
		return err
	})
	switch {
	case err != nil:
		return err
	case n < w.high.rev:
		return fmt.Errorf("%w: commit %d was acknowledged, the database ends at %d; %s", ErrDamaged, w.high.rev, n, restoreHint)
	}
	if !first {
		return nil
	}
	if !counted {
		held = countBytes(db)
	}
	w.n = n
	w.bytes.Store(int64(held))
	w.dirty.Store(len(unfinished(db)) > 0)
	return w.high.set(n)
}

// countBytes counts what a week of a release holds that did not.
func countBytes(db *badger.DB) (n uint64) {
	_ = db.View(func(t *badger.Txn) error {
		it := t.NewIterator(badger.IteratorOptions{})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			if len(it.Item().Key()) == sideKeyLength {
				n += uint64(max(it.Item().ValueSize(), 0))
			}
		}
		return nil
	})
	return n
}

const sideKeyLength = 2 + 16 + 8

// unfinished are the recordings whose removal was broken off.
func (w *weekDB) unfinished() [][16]byte { return unfinished(w.DB) }

func unfinished(db *badger.DB) (ids [][16]byte) {
	_ = db.View(func(t *badger.Txn) error {
		return each(t, []byte("d/"), func(key string, _ []byte) error {
			if len(key) == 16 {
				ids = append(ids, [16]byte([]byte(key)))
			}
			return nil
		})
	})
	return ids
}

// leave lets a week go.
func (r *BadgerRecordings) leave(w *weekDB) {
	r.mu.Lock()
	w.users--
	w.used = time.Now()
	if w.users == 0 && w.gone != nil {
		close(w.gone)
	}
	more := r.opened > r.o.OpenWeeks
	r.mu.Unlock()
	if more {
		select {
		case r.wakeShut <- struct{}{}:
		default:
		}
	}
}

// shutLoop closes weeks that nobody uses, until Close.
func (r *BadgerRecordings) shutLoop() {
	defer close(r.shutDone)
	for {
		select {
		case <-r.wakeShut:
			if err := r.shut(); err != nil {
				r.o.Logger.Error("close recordings of a week", "error", err)
			}
		case <-r.stop:
			return
		}
	}
}

// shut closes the weeks that were not used for the longest time, until no more are open than memory is for.
func (r *BadgerRecordings) shut() error {
	for {
		w := r.idlest()
		if w == nil {
			return nil
		}
		err := r.shutWeek(w)
		r.leave(w)
		if err != nil {
			return err
		}
	}
}

// idlest returns the open week that was not used for the longest time, used by the caller from then on; nil where none is to be closed.
func (r *BadgerRecordings) idlest() (w *weekDB) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.opened <= r.o.OpenWeeks {
		return nil
	}
	for _, x := range r.weeks {
		if x.isOpen && x.users == 0 && (w == nil || x.used.Before(w.used)) {
			w = x
		}
	}
	if w != nil {
		w.users++
	}
	return w
}

// shutWeek closes a week that the caller alone uses. Who comes meanwhile waits and opens it again.
func (r *BadgerRecordings) shutWeek(w *weekDB) error {
	w.opening.Lock()
	defer w.opening.Unlock()
	r.mu.Lock()
	alone := w.users == 1 && w.DB != nil
	r.mu.Unlock()
	if !alone {
		return nil
	}
	ids := []uint64{}
	err := w.View(func(t *badger.Txn) error {
		it := t.NewIterator(badger.IteratorOptions{Prefix: []byte("m/")})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			ids = append(ids, binary.BigEndian.Uint64(it.Item().Key()[2:])) // in order, as keys are
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = errors.Join(w.DB.Close(), w.high.sync())
	w.DB = nil
	r.mu.Lock()
	w.isOpen, w.ids = false, ids
	r.opened--
	r.mu.Unlock()
	return err
}

// closeWeeks closes all; nobody uses them any more.
func (r *BadgerRecordings) closeWeeks() error {
	var errs []error
	for _, w := range r.weeks {
		errs = append(errs, w.close())
	}
	return errors.Join(errs...)
}

func (w *weekDB) close() (err error) {
	if w.DB != nil {
		err = w.DB.Close()
		w.DB = nil
	}
	if w.high != nil {
		err = errors.Join(err, w.high.close())
	}
	return err
}

// removedPrefix begins the names of weeks that are being removed.
const removedPrefix = "removed-"

// retention asks the committer to let go of a week, if its held recordings are those that were copied, as they are.
type retention struct {
	name   string
	over   func(Manifest) bool
	copied map[[16]byte]string // manifests
	// removed is the answer; nil: held recordings were changed meanwhile, or some stay without a hold: they are open, or not over.
	removed    *weekDB
	stay       int
	recordings int
}

// Retain implements Recordings.
func (r *BadgerRecordings) Retain(ctx context.Context, before time.Time) ([]Expired, error) {
	if err := r.enter(ctx); err != nil {
		return nil, err
	}
	defer r.active.Done()
	r.retaining.Lock()
	defer r.retaining.Unlock()
	var all []Expired
	var errs []error
	for _, name := range slices.Backward(r.newestFirst()) {
		end, ok := weekEnd(name)
		if !ok || end.After(before) {
			continue
		}
		expired, err := r.thinWeek(ctx, name, func(Manifest) bool { return true })
		all = append(all, expired...)
		errs = append(errs, err)
	}
	more, err := r.retainHeld(ctx, before, nil)
	return append(all, more...), errors.Join(append(errs, err)...)
}

// Thin implements Recordings.
func (r *BadgerRecordings) Thin(ctx context.Context, t Thinning) ([]Expired, error) {
	if err := r.enter(ctx); err != nil {
		return nil, err
	}
	defer r.active.Done()
	r.retaining.Lock()
	defer r.retaining.Unlock()
	var all []Expired
	var errs []error
	for _, name := range slices.Backward(r.newestFirst()) {
		end, ok := weekEnd(name)
		if !ok || end.After(t.Before) || t.Skip != nil && t.Skip(name, end) {
			continue
		}
		expired, err := r.thinWeek(ctx, name, t.Over)
		all = append(all, expired...)
		errs = append(errs, err)
	}
	more, err := r.retainHeld(ctx, t.Before, t.Over)
	return append(all, more...), errors.Join(append(errs, err)...)
}

func (r *BadgerRecordings) thinWeek(ctx context.Context, name string, over func(Manifest) bool) (all []Expired, err error) {
	w, err := r.acquireOld(name, nil)
	if w == nil || err != nil {
		return nil, err
	}
	var gone []Manifest
	rest := 0
	err = w.View(func(t *badger.Txn) error {
		return each(t, []byte("m/"), func(_ string, v []byte) error {
			m, err := decodeManifest(v)
			switch {
			case err != nil:
				return err
			case m.Hold != nil:
			case m.Removed == nil && !m.Closed: // it is still being made
				rest++
			case over(m):
				gone = append(gone, m)
			default:
				rest++
			}
			return nil
		})
	})
	r.leave(w)
	if err != nil {
		return nil, err
	}
	if rest == 0 {
		x, err := r.retainWeek(ctx, name, over)
		if x != nil {
			all = append(all, *x)
		}
		if x != nil || err != nil {
			return all, err
		}
	}
	return r.expire(ctx, name, gone)
}

// byRetention is who has removed what Thin is about to remove.
const byRetention = "retention"

// expire removes single recordings from a database. It marks each as removed first, by the committer: one that was held meanwhile stays, and who
// comes to hold one that goes is told so.
func (r *BadgerRecordings) expire(ctx context.Context, db string, gone []Manifest) (all []Expired, err error) {
	for _, m := range gone {
		if m.Removed == nil {
			err := r.do(&write{ctx: ctx, id: m.ID, remove: &Removal{By: byRetention, At: time.Now()}})
			if errors.Is(err, ErrHeld) {
				continue
			}
			if err != nil {
				return all, err
			}
		}
		if err := r.purge(ctx, m.ID, db, true); err != nil {
			return all, err
		}
		if m.Removed == nil || m.Removed.By == byRetention { // or by a run that was broken off before it could tell
			all = append(all, Expired{Week: Week(m.Start), ID: m.ID, Manifest: m, Recordings: 1})
		}
	}
	return all, nil
}

// retainWeek moves what is held of a week and removes the rest; nil: some of that is open, or not over, as one is whose hold ended meanwhile.
func (r *BadgerRecordings) retainWeek(ctx context.Context, name string, over func(Manifest) bool) (*Expired, error) {
	job := &retention{name: name, over: over}
	for job.removed == nil {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		var err error
		if job.copied, err = r.copyHeld(ctx, name); err != nil {
			return nil, fmt.Errorf("keep the held recordings of %s: %w", name, err)
		}
		if err := r.do(&write{ctx: ctx, retain: job}); err != nil || job.stay > 0 {
			return nil, err
		}
	}
	w := job.removed
	x := &Expired{Week: name, Recordings: job.recordings - len(job.copied), Held: len(job.copied)}
	select {
	case <-w.gone:
		return x, r.removeWeek(w)
	default:
	}
	// Who still reads must not hold up what else is due. Close waits for r.active, as it does for readers.
	r.active.Add(1)
	go func() {
		defer r.active.Done()
		<-w.gone
		if err := r.removeWeek(w); err != nil {
			r.o.Logger.Error("remove recordings of a week", "week", name, "error", err)
		}
	}()
	return x, nil
}

// removeWeek removes a week from the disk that was released and is read no more.
func (r *BadgerRecordings) removeWeek(w *weekDB) error {
	name := w.name
	// The new name first: half a week must not be opened as one after a crash.
	from, to := filepath.Join(r.dir, name), filepath.Join(r.dir, removedPrefix+name)
	err := w.close()
	if renamed := os.Rename(from, to); renamed != nil {
		return errors.Join(err, renamed)
	}
	return errors.Join(err, os.RemoveAll(to))
}

// copyHeld copies the held recordings of a week to heldDB, through the committer, and returns their manifests as they were.
func (r *BadgerRecordings) copyHeld(ctx context.Context, name string) (map[[16]byte]string, error) {
	w, err := r.acquireOld(name, nil)
	if w == nil || err != nil {
		return nil, err
	}
	defer r.leave(w)
	copied := map[[16]byte]string{}
	err = w.View(func(t *badger.Txn) error {
		held, _, _, err := heldIn(t, nil)
		if err != nil {
			return err
		}
		if err := r.uncopy(ctx, name, held); err != nil {
			return err
		}
		for id, manifest := range held {
			if err := r.copyRecording(ctx, t, id); err != nil {
				return err
			}
			// Last: a manifest says that the recording is there.
			e := badger.NewEntry(manifestKey(id), []byte(manifest))
			if err := r.do(&write{ctx: ctx, raw: &rawWrite{db: heldDB, entries: []*badger.Entry{e}}}); err != nil {
				return err
			}
			copied[id] = manifest
		}
		return nil
	})
	return copied, err
}

// uncopy removes what a copy that was broken off left of recordings that are held no longer.
func (r *BadgerRecordings) uncopy(ctx context.Context, name string, held map[[16]byte]string) error {
	w, err := r.acquireOld(heldDB, nil)
	if w == nil || err != nil {
		return err
	}
	defer r.leave(w)
	var stale [][16]byte
	err = w.View(func(t *badger.Txn) error {
		return each(t, []byte("m/"), func(_ string, v []byte) error {
			m, err := decodeManifest(v)
			if _, ok := held[m.ID]; err == nil && !ok && Week(m.Start) == name {
				stale = append(stale, m.ID)
			}
			return err
		})
	})
	for _, id := range stale {
		err = errors.Join(err, r.purge(ctx, id, heldDB, true))
	}
	return err
}

// doubled tells whether a recording in heldDB is in its week too, which counts then.
func (r *BadgerRecordings) doubled(w *weekDB, m Manifest) bool {
	return w.name == heldDB && r.week(Week(m.Start)) != nil
}

// heldIn returns the manifests of held recordings, and how many recordings there are, and of those that are not held how many stay: they are open,
// or over says that their time is not over; nil: that of all is.
func heldIn(t *badger.Txn, over func(Manifest) bool) (held map[[16]byte]string, recordings, stay int, err error) {
	held = map[[16]byte]string{}
	err = each(t, []byte("m/"), func(_ string, v []byte) error {
		m, err := decodeManifest(v)
		if err != nil {
			return err
		}
		if m.Removed == nil {
			recordings++
		}
		switch {
		case m.Hold != nil:
			held[m.ID] = string(v)
		case m.Removed == nil && !m.Closed, over != nil && !over(m):
			stay++
		}
		return nil
	})
	return held, recordings, stay, err
}

func (r *BadgerRecordings) copyRecording(ctx context.Context, t *badger.Txn, id [16]byte) error {
	raw := &rawWrite{db: heldDB}
	flush := func() error {
		if len(raw.entries) == 0 {
			return nil
		}
		err := r.do(&write{ctx: ctx, raw: raw})
		raw = &rawWrite{db: heldDB}
		return err
	}
	for _, kind := range append(ObjectKinds(), 'r') {
		it := t.NewIterator(badger.IteratorOptions{Prefix: sidePrefix(byte(kind), id), PrefetchValues: true, PrefetchSize: 4})
		for it.Rewind(); it.Valid(); it.Next() {
			v, err := it.Item().ValueCopy(nil)
			if err == nil {
				// A copy of what cannot be read must not become the only one.
				_, err = summed(it.Item(), v)
			}
			if err == nil {
				raw.entries = append(raw.entries, badger.NewEntry(it.Item().KeyCopy(nil), v).WithMeta(it.Item().UserMeta()))
				if raw.bytes += int64(len(v)); len(raw.entries) >= purgeKeys || raw.bytes >= copyBytes {
					err = flush()
				}
			}
			if err != nil {
				it.Close()
				return err
			}
		}
		it.Close()
	}
	return flush()
}

// release takes a week out of the table, so that nobody new comes to it. The committer calls it: nothing is written meanwhile.
func (r *BadgerRecordings) release(job *retention) error {
	w, err := r.acquireOld(job.name, nil)
	if err != nil || w == nil {
		return errors.Join(err, fmt.Errorf("%w: recordings of %s", ErrNotFound, job.name))
	}
	var held map[[16]byte]string
	err = w.View(func(t *badger.Txn) (err error) {
		held, job.recordings, job.stay, err = heldIn(t, job.over)
		return err
	})
	if err != nil || job.stay > 0 || !maps.Equal(held, job.copied) {
		r.leave(w)
		return err
	}
	r.mu.Lock()
	delete(r.weeks, job.name)
	w.gone = make(chan struct{})
	r.opened--
	r.mu.Unlock()
	r.leave(w)
	job.removed = w
	for id, t := range r.next {
		if t.db == job.name {
			delete(r.next, id)
		}
	}
	return nil
}

// retainHeld removes the recordings of heldDB that are no longer held, of which over says so; nil: all.
func (r *BadgerRecordings) retainHeld(ctx context.Context, before time.Time, over func(Manifest) bool) (all []Expired, err error) {
	w, err := r.acquireOld(heldDB, nil)
	if w == nil || err != nil {
		return nil, err
	}
	defer r.leave(w)
	var ended []Manifest
	err = w.View(func(t *badger.Txn) error {
		return each(t, []byte("m/"), func(_ string, v []byte) error {
			m, err := decodeManifest(v)
			if end, ok := weekEnd(Week(m.Start)); err == nil && m.Hold == nil && ok && !end.After(before) && !r.doubled(w, m) && (over == nil || over(m)) {
				ended = append(ended, m)
			}
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return r.expire(ctx, heldDB, ended)
}
