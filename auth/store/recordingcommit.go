package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/dgraph-io/badger/v4"
)

// do hands writes to the commit loop, all before it waits for the first: so they share commits. They have one context.
func (r *BadgerRecordings) do(writes ...*write) error {
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
func (r *BadgerRecordings) wait(w *write) error {
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

func (r *BadgerRecordings) commitLoop() {
	defer close(r.done)
	for {
		select {
		case w := <-r.requests:
			r.commit(r.group(w))
		case <-r.stop:
			return
		}
	}
}

// group takes further writes that are waiting, as many as one commit takes. A retention ends the group: nothing of it may be in a
// transaction that is not done.
func (r *BadgerRecordings) group(w *write) []*write {
	group, size := []*write{w}, w.size()
	for w.retain == nil && len(group) < maxWrites && size < maxWriteBytes {
		select {
		case w = <-r.requests:
			group = append(group, w)
			size += w.size()
		default:
			return group
		}
	}
	return group
}

// weekTxn is what a group writes to one week.
type weekTxn struct {
	*badger.Txn
	w      *weekDB
	bytes  int64 // more than before
	writes []*write
}

// commit writes a group, week by week, and answers it.
func (r *BadgerRecordings) commit(group []*write) {
	err := r.failure()
	if err != nil {
		for _, w := range group {
			w.reply <- err
		}
		return
	}
	if len(r.next) > maxTails {
		clear(r.next)
	}
	var retain *write
	if last := group[len(group)-1]; last.retain != nil {
		retain, group = last, group[:len(group)-1]
	}
	full := r.o.checkSpace(r.dir, r.o.MinFree)
	stored, _ := r.stored()
	txns := map[string]*weekTxn{}
	for _, w := range group {
		name, err := r.admitAndStage(txns, w, full, &stored)
		if err != nil {
			w.reply <- err
			continue
		}
		txns[name].writes = append(txns[name].writes, w)
	}
	for _, t := range txns {
		if len(t.writes) == 0 {
			t.Discard()
			r.leave(t.w)
			continue
		}
		if err := r.commitWeek(t); err != nil {
			r.poison(err.Error())
		}
		r.leave(t.w)
		if err = r.failure(); err != nil {
			clear(r.next)
		}
		for _, w := range t.writes {
			w.reply <- err
		}
	}
	if retain != nil {
		err := r.failure()
		if err == nil {
			err = r.release(retain.retain)
		}
		retain.reply <- err
	}
}

// admitAndStage stages a write that there is room for. full says why there is none on the disk.
func (r *BadgerRecordings) admitAndStage(txns map[string]*weekTxn, w *write, full error, stored *uint64) (string, error) {
	if err := w.ctx.Err(); err != nil {
		return "", context.Cause(w.ctx)
	}
	size := uint64(w.size())
	if full != nil {
		if !w.frees() {
			return "", full
		}
		if err := r.o.checkSpace(r.dir, r.o.MinFree/2); err != nil {
			return "", err
		}
	}
	if quota := r.quota.Load(); quota > 0 && size > 0 && *stored+size > quota {
		return "", fmt.Errorf("%w: %w: %d of %d MiB; raise recording_quota, shorten retention or remove recordings", ErrNoSpace, ErrQuota, *stored>>20, quota>>20)
	}
	name, err := r.stage(txns, w)
	if err == nil {
		*stored += size
	}
	return name, err
}

// commitWeek makes one week's writes durable, and then known outside its database.
func (r *BadgerRecordings) commitWeek(t *weekTxn) error {
	w := t.w
	if err := t.Set(keyCommits, binary.BigEndian.AppendUint64(nil, w.n+1)); err != nil {
		return err
	}
	total := max(w.bytes.Load()+t.bytes, 0)
	if err := t.Set(keyBytes, binary.BigEndian.AppendUint64(nil, uint64(total))); err != nil {
		return err
	}
	if err := t.Commit(); err != nil {
		return err
	}
	w.n++
	w.bytes.Store(total)
	if err := w.high.set(w.n); err != nil {
		return err
	}
	if w.n < w.high.synced+highWaterEvery {
		return nil
	}
	return w.high.sync()
}

// stage puts one write into its week's transaction and returns the week. After an error the transaction is as before, but where it is too
// big: then what the write had put in is repeated by whoever asks again.
func (r *BadgerRecordings) stage(txns map[string]*weekTxn, w *write) (string, error) {
	if w.raw != nil {
		return w.raw.db, r.stageRaw(txns, w.raw)
	}
	if w.purge != nil && w.purge.db != "" {
		t, err := r.txn(txns, w.purge.db)
		if err != nil {
			return "", err
		}
		return w.purge.db, r.stagePurge(t, w)
	}
	end, err := r.tail(w.id)
	if errors.Is(err, ErrNotFound) && w.manifest != nil {
		week := Week(w.manifest.Start)
		end, err = &tail{db: week, week: week}, nil
	}
	if err != nil {
		return "", err
	}
	t, err := r.txn(txns, end.db)
	if err != nil {
		return "", err
	}
	switch {
	case w.purge != nil:
		err = r.stagePurge(t, w)
	case w.update != nil, w.hold != nil, w.remove != nil, w.manifest != nil:
		err = r.stageManifest(t, end, w)
	case w.object != nil:
		err = stageObject(t, end, w)
	default:
		err = stageChunk(t, end, w)
	}
	return end.db, err
}

// stageManifest does what changes a manifest.
func (r *BadgerRecordings) stageManifest(t *weekTxn, end *tail, w *write) error {
	m, err := manifestIn(t.Txn, w.id)
	switch {
	case errors.Is(err, ErrNotFound) && w.manifest != nil:
		m = Manifest{}
	case err != nil:
		return err
	}
	w.result = m
	switch {
	case w.update != nil:
		if !m.Closed {
			m.Chunks, m.Bytes = end.next, end.bytes
		}
		now := m
		if err := w.update(&now); err != nil {
			return err
		}
		if now.ID != m.ID || !now.Start.Equal(m.Start) && Week(now.Start) != end.week {
			return fmt.Errorf("%w: start of recording %x", ErrConflict, w.id)
		}
		m = now.owned(m)
	case w.hold != nil:
		if m.Removed != nil {
			return fmt.Errorf("%w: %x", ErrRemoved, w.id)
		}
		m.Hold = w.hold.hold
	case w.remove != nil:
		switch {
		case m.Hold != nil:
			return fmt.Errorf("%w: %x", ErrHeld, w.id)
		case m.Removed != nil:
			return nil // goes on; who did it first stays
		}
		if !m.Closed {
			m.Chunks, m.Bytes = end.next, end.bytes
		}
		w.result = m
		m.Removed = w.remove
		if err := t.Set(unfinishedKey(w.id), nil); err != nil {
			return err
		}
		t.w.dirty.Store(true)
	default:
		if Week(w.manifest.Start) != end.week {
			return fmt.Errorf("%w: start of recording %x", ErrConflict, w.id)
		}
		m = w.manifest.owned(m)
	}
	if m.Closed && m.Removed == nil {
		m.Chunks, m.Bytes = end.next, end.bytes
	}
	v, err := m.encode()
	if err != nil {
		return err
	}
	if err := t.Set(manifestKey(w.id), v); err != nil {
		return err
	}
	end.closed, end.removed = m.Closed, m.Removed != nil
	r.next[w.id] = end
	if w.remove == nil {
		w.result = m
		w.result.Chunks, w.result.Bytes = end.next, end.bytes
		if end.removed {
			w.result.Chunks, w.result.Bytes = m.Chunks, m.Bytes
		}
	}
	return nil
}

func stageChunk(t *weekTxn, end *tail, w *write) error {
	switch {
	case end.removed:
		return fmt.Errorf("%w: %x", ErrRemoved, w.id)
	case w.seq < end.next:
		item, err := t.Get(chunkKey(w.id, w.seq))
		if err != nil {
			return err
		}
		v, err := chunkOf(item)
		if err != nil {
			return err
		}
		if !bytes.Equal(v, w.chunk) {
			return fmt.Errorf("%w: chunk %d of recording %x is there with other bytes", ErrConflict, w.seq, w.id)
		}
		return nil // acknowledged with the group: the first copy may be in it
	case end.closed:
		return fmt.Errorf("%w: recording %x", ErrClosed, w.id)
	case w.seq > end.next:
		return fmt.Errorf("%w: chunk %d, wanted %d", ErrGap, w.seq, end.next)
	}
	if err := t.SetEntry(summedEntry(chunkKey(w.id, w.seq), w.chunk)); err != nil {
		return err
	}
	end.next++
	end.bytes += uint64(len(w.chunk) + 4)
	t.bytes += int64(len(w.chunk) + 4)
	return nil
}

func stageObject(t *weekTxn, end *tail, w *write) error {
	if end.removed {
		return fmt.Errorf("%w: %x", ErrRemoved, w.id)
	}
	key := sideKey(byte(w.object.kind), w.id, w.object.n)
	old := int64(0)
	if item, err := t.Get(key); err == nil {
		old = item.ValueSize()
	} else if !errors.Is(err, badger.ErrKeyNotFound) {
		return err
	}
	if err := t.SetEntry(summedEntry(key, w.object.data)); err != nil {
		return err
	}
	t.bytes += int64(len(w.object.data)+4) - old
	return nil
}

// stagePurge deletes some keys of a recording.
func (r *BadgerRecordings) stagePurge(t *weekTxn, w *write) error {
	p := w.purge
	p.more = false
	var keys [][]byte
	var freed int64
	for _, kind := range append(ObjectKinds(), 'r') {
		it := t.NewIterator(badger.IteratorOptions{Prefix: sidePrefix(byte(kind), w.id)})
		for it.Rewind(); it.Valid() && len(keys) < purgeKeys; it.Next() {
			keys = append(keys, it.Item().KeyCopy(nil))
			freed += it.Item().ValueSize()
		}
		it.Close()
	}
	if p.more = len(keys) == purgeKeys; !p.more {
		keys = append(keys, unfinishedKey(w.id))
		if p.manifest {
			keys = append(keys, manifestKey(w.id))
			delete(r.next, w.id)
		}
	}
	for _, key := range keys {
		if err := t.Delete(key); err != nil {
			return err
		}
	}
	t.bytes -= freed
	t.w.dirty.Store(true)
	return nil
}

// stageRaw puts keys as they are, those that are there already too.
func (r *BadgerRecordings) stageRaw(txns map[string]*weekTxn, raw *rawWrite) error {
	t, err := r.txn(txns, raw.db)
	if err != nil {
		return err
	}
	for _, e := range raw.entries {
		side := len(e.Key) == sideKeyLength
		if item, err := t.Get(e.Key); err == nil && side {
			t.bytes -= item.ValueSize()
		} else if err != nil && !errors.Is(err, badger.ErrKeyNotFound) {
			return err
		}
		// A transaction that was refused must be able to ask again with the same entries.
		if err := t.SetEntry(badger.NewEntry(slices.Clone(e.Key), e.Value).WithMeta(e.UserMeta)); err != nil {
			return err
		}
		if side {
			t.bytes += int64(len(e.Value))
		}
	}
	return nil
}

func (r *BadgerRecordings) txn(txns map[string]*weekTxn, name string) (*weekTxn, error) {
	if t := txns[name]; t != nil {
		return t, nil
	}
	w, err := r.acquire(name)
	if err != nil {
		return nil, err
	}
	txns[name] = &weekTxn{Txn: w.NewTransaction(true), w: w}
	return txns[name], nil
}

// tail finds the end of a recording.
func (r *BadgerRecordings) tail(id [16]byte) (*tail, error) {
	if t := r.next[id]; t != nil {
		return t, nil
	}
	var end *tail
	err := r.findIn(id, func(t *badger.Txn, db string, m Manifest) error {
		if err := r.count(t, &m); err != nil {
			return err
		}
		end = &tail{db: db, week: Week(m.Start), next: m.Chunks, bytes: m.Bytes, closed: m.Closed, removed: m.Removed != nil}
		return nil
	})
	if err == nil {
		r.next[id] = end
	}
	return end, err
}
