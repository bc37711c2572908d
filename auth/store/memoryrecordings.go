package store

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// MemoryRecordings is Recordings without a disk: the twin for tests of what uses Recordings. It runs the same conformance suite.
type MemoryRecordings struct {
	mu     sync.Mutex
	all    map[[16]byte]*memoryRecording
	quota  uint64
	closed bool
}

type memoryRecording struct {
	m       Manifest
	chunks  [][]byte
	objects map[ObjectKind]map[uint64][]byte
}

var _ Recordings = (*MemoryRecordings)(nil)

// NewMemoryRecordings makes an empty store.
func NewMemoryRecordings() *MemoryRecordings {
	return &MemoryRecordings{all: map[[16]byte]*memoryRecording{}}
}

func (r *MemoryRecordings) enterLocked(ctx context.Context) error {
	switch {
	case r.closed:
		return ErrClosed
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return nil
}

func (r *MemoryRecordings) getLocked(ctx context.Context, id [16]byte) (*memoryRecording, error) {
	if err := r.enterLocked(ctx); err != nil {
		return nil, err
	}
	x := r.all[id]
	if x == nil {
		return nil, fmt.Errorf("%w: recording %x", ErrNotFound, id)
	}
	return x, nil
}

func (x *memoryRecording) manifest() Manifest {
	m := x.m
	if m.Removed == nil {
		m.Chunks, m.Bytes = uint64(len(x.chunks)), 0
		for _, c := range x.chunks {
			m.Bytes += uint64(len(c) + 4)
		}
	}
	return m
}

// PutManifest implements Recordings.
func (r *MemoryRecordings) PutManifest(ctx context.Context, m Manifest) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.enterLocked(ctx); err != nil {
		return err
	}
	x := r.all[m.ID]
	if x == nil {
		x = &memoryRecording{objects: map[ObjectKind]map[uint64][]byte{}}
		r.all[m.ID] = x
	} else if Week(x.m.Start) != Week(m.Start) {
		return fmt.Errorf("%w: start of recording %x", ErrConflict, m.ID)
	}
	x.m = m.owned(x.m)
	return nil
}

// UpdateManifest implements Recordings.
func (r *MemoryRecordings) UpdateManifest(ctx context.Context, id [16]byte, fn func(*Manifest) error) (Manifest, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x, err := r.getLocked(ctx, id)
	if err != nil {
		return Manifest{}, err
	}
	m := x.manifest()
	if err := fn(&m); err != nil {
		return Manifest{}, err
	}
	if m.ID != id || Week(m.Start) != Week(x.m.Start) {
		return Manifest{}, fmt.Errorf("%w: start of recording %x", ErrConflict, id)
	}
	x.m = m.owned(x.m)
	return x.manifest(), nil
}

// Manifest implements Recordings.
func (r *MemoryRecordings) Manifest(ctx context.Context, id [16]byte) (Manifest, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x, err := r.getLocked(ctx, id)
	if err != nil {
		return Manifest{}, err
	}
	return x.manifest(), nil
}

// List implements Recordings.
func (r *MemoryRecordings) List(ctx context.Context, f Filter) ([]Manifest, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.enterLocked(ctx); err != nil {
		return nil, err
	}
	var all []Manifest
	for _, x := range r.all {
		if f.match(x.m) {
			all = append(all, x.manifest())
		}
	}
	slices.SortFunc(all, func(a, b Manifest) int {
		if c := b.Start.Compare(a.Start); c != 0 {
			return c
		}
		return bytes.Compare(a.ID[:], b.ID[:])
	})
	if f.Limit > 0 {
		all = all[:min(len(all), f.Limit)]
	}
	return all, nil
}

// Append implements Recordings.
func (r *MemoryRecordings) Append(ctx context.Context, id [16]byte, seq uint64, chunks ...[]byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range chunks {
		if len(c) == 0 || len(c) > maxChunk {
			return fmt.Errorf("%w: chunk of %d bytes", ErrTooLarge, len(c))
		}
	}
	for i, c := range chunks {
		x, err := r.getLocked(ctx, id)
		if err != nil {
			return err
		}
		at := seq + uint64(i)
		switch next := uint64(len(x.chunks)); {
		case r.quota > 0 && r.bytesLocked()+uint64(len(c)) > r.quota:
			return fmt.Errorf("%w: %w", ErrNoSpace, ErrQuota)
		case x.m.Removed != nil:
			return fmt.Errorf("%w: %x", ErrRemoved, id)
		case at < next && !bytes.Equal(x.chunks[at], c):
			return fmt.Errorf("%w: chunk %d of recording %x is there with other bytes", ErrConflict, at, id)
		case at < next:
			continue
		case x.m.Closed:
			return fmt.Errorf("%w: recording %x", ErrClosed, id)
		case at > next:
			return fmt.Errorf("%w: chunk %d, wanted %d", ErrGap, at, next)
		}
		x.chunks = append(x.chunks, bytes.Clone(c))
	}
	return nil
}

// Next implements Recordings.
func (r *MemoryRecordings) Next(ctx context.Context, id [16]byte) (uint64, error) {
	m, err := r.Manifest(ctx, id)
	return m.Chunks, err
}

// Chunks implements Recordings.
func (r *MemoryRecordings) Chunks(ctx context.Context, id [16]byte, from uint64, fn func(seq uint64, chunk []byte) error) error {
	r.mu.Lock()
	x, err := r.getLocked(ctx, id)
	if err == nil && x.m.Removed != nil {
		err = fmt.Errorf("%w: %x", ErrRemoved, id)
	}
	var chunks [][]byte
	if err == nil {
		chunks = slices.Clone(x.chunks)
	}
	r.mu.Unlock()
	for seq := from; err == nil && seq < uint64(len(chunks)); seq++ {
		if err = context.Cause(ctx); err == nil {
			err = fn(seq, bytes.Clone(chunks[seq]))
		}
	}
	return err
}

// PutObjects implements Recordings.
func (r *MemoryRecordings) PutObjects(ctx context.Context, id [16]byte, kind ObjectKind, objects ...Object) error {
	if err := checkObjects(kind, objects); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	x, err := r.getLocked(ctx, id)
	if err != nil {
		return err
	}
	if x.m.Removed != nil {
		return fmt.Errorf("%w: %x", ErrRemoved, id)
	}
	for _, o := range objects {
		if r.quota > 0 && r.bytesLocked()+uint64(len(o.Data)) > r.quota {
			return fmt.Errorf("%w: %w", ErrNoSpace, ErrQuota)
		}
		if x.objects[kind] == nil {
			x.objects[kind] = map[uint64][]byte{}
		}
		x.objects[kind][o.N] = bytes.Clone(o.Data)
	}
	return nil
}

// Object implements Recordings.
func (r *MemoryRecordings) Object(ctx context.Context, id [16]byte, kind ObjectKind, n uint64) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x, err := r.getLocked(ctx, id)
	if err != nil {
		return nil, err
	}
	b := x.objects[kind][n]
	if b == nil {
		return nil, fmt.Errorf("%w: side object %c %d of recording %x", ErrNotFound, rune(kind), n, id)
	}
	return bytes.Clone(b), nil
}

// Objects implements Recordings.
func (r *MemoryRecordings) Objects(ctx context.Context, id [16]byte, kind ObjectKind, from uint64, fn func(n uint64, data []byte) error) error {
	r.mu.Lock()
	x, err := r.getLocked(ctx, id)
	var objects map[uint64][]byte
	if err == nil {
		objects = maps.Clone(x.objects[kind])
	}
	r.mu.Unlock()
	for _, n := range slices.Sorted(maps.Keys(objects)) {
		if err == nil && n >= from {
			err = fn(n, bytes.Clone(objects[n]))
		}
	}
	return err
}

// ObjectsOf implements Recordings.
func (r *MemoryRecordings) ObjectsOf(ctx context.Context, f Filter, kind ObjectKind, fn func(m Manifest, n uint64, data []byte) error) error {
	f.Limit, f.Removed = 0, false
	all, err := r.List(ctx, f)
	for _, m := range all {
		if err == nil {
			err = r.Objects(ctx, m.ID, kind, 0, func(n uint64, data []byte) error { return fn(m, n, data) })
		}
	}
	return err
}

// Hold implements Recordings.
func (r *MemoryRecordings) Hold(ctx context.Context, id [16]byte, hold *Hold) (Manifest, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x, err := r.getLocked(ctx, id)
	if err != nil {
		return Manifest{}, err
	}
	if x.m.Removed != nil {
		return Manifest{}, fmt.Errorf("%w: %x", ErrRemoved, id)
	}
	x.m.Hold = hold
	return x.manifest(), nil
}

// Remove implements Recordings.
func (r *MemoryRecordings) Remove(ctx context.Context, id [16]byte, why Removal) (Manifest, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x, err := r.getLocked(ctx, id)
	if err != nil {
		return Manifest{}, err
	}
	before := x.manifest()
	switch {
	case x.m.Hold != nil:
		return Manifest{}, fmt.Errorf("%w: %x", ErrHeld, id)
	case x.m.Removed != nil:
		return before, nil
	}
	x.m = before
	x.m.Removed = &why
	x.chunks, x.objects = nil, nil
	return before, nil
}

// Retain implements Recordings.
func (r *MemoryRecordings) Retain(ctx context.Context, before time.Time) ([]Expired, error) {
	return r.Thin(ctx, Thinning{Before: before, Over: func(Manifest) bool { return true }})
}

// Thin implements Recordings.
func (r *MemoryRecordings) Thin(ctx context.Context, t Thinning) (all []Expired, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.enterLocked(ctx); err != nil {
		return nil, err
	}
	weeks := map[string][]Manifest{} // what goes
	rest := map[string]int{}
	for _, x := range r.all {
		name := Week(x.m.Start)
		end, ok := weekEnd(name)
		switch {
		case ok && x.m.Hold == nil && x.m.Removed == nil && !x.m.Closed:
			rest[name]++
		case !ok, end.After(t.Before), t.Skip != nil && t.Skip(name, end), x.m.Hold != nil:
		case t.Over(x.m):
			weeks[name] = append(weeks[name], x.m)
		default:
			rest[name]++
		}
	}
	for _, name := range slices.Sorted(maps.Keys(weeks)) {
		whole := Expired{Week: name}
		for _, m := range weeks[name] {
			delete(r.all, m.ID)
			switch {
			case m.Removed != nil:
			case rest[name] == 0:
				whole.Recordings++
			default:
				all = append(all, Expired{Week: name, ID: m.ID, Manifest: m, Recordings: 1})
			}
		}
		if rest[name] == 0 {
			for _, x := range r.all {
				if Week(x.m.Start) == name {
					whole.Held++
				}
			}
			all = append(all, whole)
		}
	}
	return all, nil
}

// SetQuota implements Recordings.
func (r *MemoryRecordings) SetQuota(bytes uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.quota = bytes
}

func (r *MemoryRecordings) bytesLocked() (n uint64) {
	for _, x := range r.all {
		for _, c := range x.chunks {
			n += uint64(len(c) + 4)
		}
		for _, of := range x.objects {
			for _, o := range of {
				n += uint64(len(o) + 4)
			}
		}
	}
	return n
}

// Usage implements Recordings.
func (r *MemoryRecordings) Usage() (Usage, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Usage{Bytes: r.bytesLocked(), Quota: r.quota, Free: 1 << 40}, nil
}

// Maintain implements Recordings.
func (r *MemoryRecordings) Maintain() error { return nil }

// Close implements Recordings.
func (r *MemoryRecordings) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	return nil
}
