package store

import (
	"bytes"
	"errors"
	"sync"
	"testing"
	"time"
)

func TestRecordingsKeepChunksInOrderAndOnce(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	r, err := OpenRecordings(dir, Options{Free: plenty})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	older := Manifest{ID: [16]byte{1}, Start: start.AddDate(0, 0, -14), User: "alice", Device: "gw-1"}
	newer := Manifest{ID: [16]byte{2}, Start: start, User: "bob", Device: "gw-1"}
	if err := r.Append(ctx, newer.ID, 0, []byte("x")); !errors.Is(err, ErrNotFound) {
		t.Errorf("without manifest: got %v", err)
	}
	for _, m := range []Manifest{older, newer} {
		if err := r.PutManifest(ctx, m); err != nil {
			t.Fatal(err)
		}
	}
	chunk := func(i uint64) []byte { return bytes.Repeat([]byte{byte(i)}, 3000) }
	var wg sync.WaitGroup
	for _, id := range [][16]byte{older.ID, newer.ID} {
		wg.Go(func() {
			for i := range uint64(20) {
				for range 2 { // as after a lost answer
					if err := r.Append(ctx, id, i, chunk(i)); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if err := r.Append(ctx, newer.ID, 21, chunk(0)); !errors.Is(err, ErrGap) {
		t.Errorf("got %v", err)
	}
	if err := r.Append(ctx, newer.ID, 3, chunk(4)); !errors.Is(err, ErrConflict) {
		t.Errorf("got %v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}

	if r, err = OpenRecordings(dir, Options{Free: plenty}); err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if next, err := r.Next(ctx, older.ID); err != nil || next != 20 {
		t.Errorf("got %d, %v", next, err)
	}
	want := uint64(5)
	err = r.Chunks(ctx, newer.ID, 5, func(seq uint64, c []byte) error {
		if seq != want || !bytes.Equal(c, chunk(seq)) {
			t.Errorf("chunk %d, want %d", seq, want)
		}
		want++
		return nil
	})
	if err != nil || want != 20 {
		t.Errorf("ended at %d, %v", want, err)
	}
	newer.Closed, newer.End = true, start.Add(time.Minute)
	if err := r.PutManifest(ctx, newer); err != nil {
		t.Fatal(err)
	}
	if err := r.Append(ctx, newer.ID, 20, chunk(0)); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	all, err := r.List(ctx, Filter{Device: "gw-1"})
	if err != nil || len(all) != 2 || all[0].ID != newer.ID || all[0].Chunks != 20 || !all[0].Closed {
		t.Errorf("got %+v, %v", all, err)
	}
	if some, err := r.List(ctx, Filter{User: "alice", Limit: 1}); err != nil || len(some) != 1 || some[0].ID != older.ID {
		t.Errorf("got %+v, %v", some, err)
	}
}
