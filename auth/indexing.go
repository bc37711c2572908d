package auth

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"hawser/auth/store"
	"hawser/recorder"
	"hawser/recorder/index"
	"hawser/recorder/reader"
)

// indexing makes the indexes of recordings as they grow and when they end, one at a time and with one terminal's state in memory. What a stop
// of the service leaves is found again at the next start.
type indexing struct {
	recordings store.Recordings
	log        *slog.Logger
	wake       chan struct{} // one token: look again
	// closed is told of each recording that has ended, once its index is made.
	closed func(context.Context, store.Manifest)

	mu sync.Mutex
	// wanted are recordings of which there is more than is indexed: false while they grow. Beyond maxWanted a recording waits for its next
	// chunk, or the next start.
	wanted map[[16]byte]bool
	after  map[[16]byte]time.Time // not before
	idle   *sync.Cond             // on mu: for tests
	busy   bool
}

func newIndexing(r store.Recordings, log *slog.Logger) *indexing {
	x := &indexing{recordings: r, log: log, wake: make(chan struct{}, 1), wanted: map[[16]byte]bool{}, after: map[[16]byte]time.Time{}}
	x.idle = sync.NewCond(&x.mu)
	return x
}

// grew notes that there is more of a recording; closed: there will be no more.
func (x *indexing) grew(id [16]byte, closed bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, known := x.wanted[id]; !known && len(x.wanted) >= maxWanted {
		return
	}
	if !closed {
		if _, soon := x.after[id]; !soon {
			x.after[id] = time.Now().Add(indexEvery)
		}
	}
	if x.wanted[id] = closed || x.wanted[id]; closed {
		delete(x.after, id)
		select {
		case x.wake <- struct{}{}:
		default:
		}
	}
}

// keepIndexing makes indexes until ctx ends.
func (s *Server) keepIndexing(ctx context.Context) {
	x := s.indexing
	x.findUnfinished(ctx)
	tick := time.NewTicker(indexLook)
	defer tick.Stop()
	for ctx.Err() == nil {
		for {
			id, ok := x.take()
			if !ok {
				break
			}
			err := x.index(ctx, id)
			x.done()
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				x.log.Warn("a recording is not searchable to its end", "recording", hexID(id), "error", err)
			}
			if errors.Is(err, store.ErrNoSpace) || errors.Is(err, store.ErrQuota) {
				x.later(id)
			}
		}
		select {
		case <-x.wake:
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// take takes a recording that is due.
func (x *indexing) take() (id [16]byte, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := time.Now()
	for id, closed := range x.wanted {
		if at := x.after[id]; now.Before(at) {
			continue
		}
		delete(x.wanted, id)
		if closed {
			delete(x.after, id)
		} else {
			x.after[id] = now.Add(indexEvery)
		}
		x.busy = true
		return id, true
	}
	for id, at := range x.after { // of recordings that nobody closed
		if _, wanted := x.wanted[id]; !wanted && now.After(at) {
			delete(x.after, id)
		}
	}
	return id, false
}

func (x *indexing) done() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.busy = false
	x.idle.Broadcast()
}

func (x *indexing) later(id [16]byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.wanted[id], x.after[id] = true, time.Now().Add(indexRetry)
}

// findUnfinished wants all recordings whose index is not of all there is.
func (x *indexing) findUnfinished(ctx context.Context) {
	have := map[[16]byte]index.Status{}
	err := x.recordings.ObjectsOf(ctx, store.Filter{}, store.IndexState, func(m store.Manifest, n uint64, data []byte) error {
		if st, err := index.OpenStatus(data); n == 0 && err == nil {
			have[m.ID] = st
		}
		return ctx.Err()
	})
	if err != nil {
		x.log.Error("unfinished indexes of recordings not looked for", "error", err)
		return
	}
	all, err := x.recordings.List(ctx, store.Filter{})
	if err != nil {
		x.log.Error("unfinished indexes of recordings not looked for", "error", err)
		return
	}
	for _, m := range all {
		if st := have[m.ID]; !m.Sealed && !indexed(st, m) && (m.Closed || st.Chunks < m.Chunks) {
			x.grew(m.ID, m.Closed)
		}
	}
}

// indexed tells whether an index is of all there is of a recording, or of all that can be read: one that was given up for abandoned may have gone on.
func indexed(st index.Status, m store.Manifest) bool {
	return st.Finished && (st.Failed || m.Closed && st.Chunks >= m.Chunks)
}

// indexBatch is how many chunks are read at once: at most 4 MiB.
const indexBatch = 64

// chunksFrom returns the chunks of a recording one after the other.
func chunksFrom(ctx context.Context, r store.Recordings, id [16]byte, next uint64) func() ([]byte, error) {
	var batch [][]byte
	var end bool
	full := errors.New("full")
	return func() ([]byte, error) {
		if len(batch) == 0 && !end {
			err := r.Chunks(ctx, id, next, func(_ uint64, chunk []byte) error {
				if len(batch) == indexBatch {
					return full
				}
				batch = append(batch, chunk)
				return nil
			})
			if end = err == nil; !end && !errors.Is(err, full) {
				return nil, err
			}
			next += uint64(len(batch))
		}
		if len(batch) == 0 {
			return nil, io.EOF
		}
		c := batch[0]
		batch = batch[1:]
		return c, nil
	}
}

// index makes a recording's index, or goes on with it.
func (x *indexing) index(ctx context.Context, id [16]byte) error {
	m, err := x.recordings.Manifest(ctx, id)
	if errors.Is(err, store.ErrNotFound) || err == nil && (m.Removed != nil || m.Sealed) {
		return nil
	}
	if err != nil {
		return err
	}
	if b, err := x.recordings.Object(ctx, id, store.IndexState, 0); err == nil {
		if st, err := index.OpenStatus(b); err == nil && indexed(st, m) {
			return nil
		}
	}
	status, state, err := x.extend(ctx, m)
	if err != nil && (ctx.Err() != nil || errors.Is(err, store.ErrNoSpace) || errors.Is(err, store.ErrQuota)) {
		return err
	}
	if errors.Is(err, store.ErrRemoved) || errors.Is(err, store.ErrNotFound) || errors.Is(err, reader.ErrSealed) {
		return nil
	}
	// What cannot be read is not tried again: what comes before it is searchable.
	status.Failed = err != nil
	status.Finished = m.Closed || status.Failed
	if status.Finished {
		status.Chunks = max(status.Chunks, m.Chunks) // the closing one has nothing for an index
	}
	if state == nil || status.Finished {
		state = []byte{0}
	}
	err = errors.Join(err, x.recordings.PutObjects(ctx, id, store.IndexState, store.Object{N: 1, Data: state}, store.Object{N: 0, Data: status.Marshal()}))
	if m.Closed && x.closed != nil {
		x.closed(ctx, m)
	}
	return err
}

// extend reads what there is of a recording beyond its index.
func (x *indexing) extend(ctx context.Context, m store.Manifest) (status index.Status, state []byte, err error) {
	h, err := reader.New(chunksFrom(ctx, x.recordings, m.ID, 0)).Header()
	if err == io.EOF {
		return status, nil, nil // nothing came
	}
	if err != nil {
		return status, nil, err
	}
	emit := func(o index.Object) error {
		return x.recordings.PutObjects(ctx, m.ID, store.ObjectKind(o.Kind), store.Object{N: o.N, Data: o.Data})
	}
	var b *index.Builder
	if old, err := x.recordings.Object(ctx, m.ID, store.IndexState, 1); err == nil {
		b, _ = index.Resume(h, old, emit)
	}
	if b == nil {
		b = index.NewBuilder(h, emit)
	}
	next := chunksFrom(ctx, x.recordings, m.ID, b.Next())
	source := func() ([]byte, error) {
		if b.Truncated() && h.Width == 0 {
			return nil, io.EOF // a flood that no terminal showed
		}
		return next()
	}
	err = b.Extend(reader.From(recorder.Header(h), b.Next(), source))
	if flushed := b.Flush(); err == nil {
		err = flushed
	}
	return index.Status{Chunks: b.Next(), Truncated: b.Truncated()}, b.State(), err
}

const (
	// maxWanted recordings wait to be indexed, 40 bytes each.
	maxWanted = 65_536
	// indexEvery is how often the index of a recording that grows is brought up to it, indexLook how often it is looked for such.
	indexEvery = time.Minute
	indexLook  = 5 * time.Second
	// indexRetry is how long one waits for which there is no room.
	indexRetry = 10 * time.Minute
)
