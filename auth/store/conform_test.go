package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// keptInTests is the length of the changelog the suite runs with.
const keptInTests = 300

func conformPages(t *testing.T, s State) {
	for i := range 25 {
		txn(t, s, nil, Put(fmt.Sprintf("p/%02d", i), nil), Put(fmt.Sprintf("q/%02d", i), nil))
	}
	var got []string
	after := ""
	for {
		page, _, err := s.Range(t.Context(), "p/", after, 7)
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range page {
			got = append(got, kv.Key)
		}
		if len(page) < 7 {
			break
		}
		after = page[len(page)-1].Key
	}
	if len(got) != 25 || got[0] != "p/00" || got[24] != "p/24" {
		t.Errorf("got %q", got)
	}
}

// A snapshot is one revision's, whatever is written while it is read.
func conformSnapshot(t *testing.T, s State) {
	for i := range 50 {
		txn(t, s, nil, Put(fmt.Sprint("a/", i), []byte("old")))
	}
	rev := txn(t, s, nil, Put("mark", nil))
	// Writers go on from now on; each moves a pair of keys at once.
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	started := make(chan struct{})
	wg.Go(func() {
		for n := 0; ; n++ {
			v := []byte(strconv.Itoa(n))
			if _, err := s.Txn(ctx, nil, []Op{Put("x", v), Put("y", v)}); err != nil {
				return
			}
			if n == 0 {
				close(started)
			}
		}
	})
	<-started
	for range 20 {
		kvs := map[string]string{}
		at, err := s.Snapshot(t.Context(), func(kv KV) error {
			if kv.ModRev > rev+1_000_000 {
				return errors.New("no such revision")
			}
			kvs[kv.Key] = string(kv.Value)
			return nil
		})
		if err != nil || at <= rev || len(kvs) != 53 || kvs["x"] != kvs["y"] {
			t.Fatalf("at %d: %d keys, x %q, y %q, %v", at, len(kvs), kvs["x"], kvs["y"], err)
		}
	}
	stop := errors.New("enough")
	if _, err := s.Snapshot(t.Context(), func(KV) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
}

// A watcher that leaves and comes back with the last revision it saw misses nothing and sees nothing twice.
func conformResume(t *testing.T, s State) {
	const n = 200
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range n {
			txn(t, s, nil, Put("k", []byte(strconv.Itoa(i))), Put("other", nil))
		}
	})
	next, last := 0, uint64(0)
	for next < n {
		ctx, cancel := context.WithCancel(t.Context())
		w, err := s.Watch(ctx, "k", last)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range <-w {
			if string(e.KV.Value) != strconv.Itoa(next) || e.KV.ModRev <= last {
				t.Fatalf("got %q at %d, want %d after %d", e.KV.Value, e.KV.ModRev, next, last)
			}
			next, last = next+1, e.KV.ModRev
		}
		cancel()
		for range w { // it ends
		}
	}
	wg.Wait()
}

// Who comes back too late is told to list again; who fell behind while watching too.
func conformCompaction(t *testing.T, s State) {
	slow, err := s.Watch(t.Context(), "", 0)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range (keptInTests + 2*compactSlack) / 4 {
				txn(t, s, nil, Put("k", []byte(strconv.Itoa(i))))
			}
		})
	}
	wg.Wait()
	if _, err := s.Watch(t.Context(), "", 1); !errors.Is(err, ErrCompacted) {
		t.Errorf("from revision 1: got %v", err)
	}
	_, rev, err := s.Range(t.Context(), "", "", 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Watch(t.Context(), "", rev-keptInTests/2); err != nil {
		t.Errorf("from a kept revision: %v", err)
	}
	last := uint64(0)
	late := time.After(10 * time.Second)
	for ended := false; !ended; {
		select {
		case events, ok := <-slow:
			for _, e := range events {
				if e.KV.ModRev != last+1 {
					t.Fatalf("revision %d after %d: a hole", e.KV.ModRev, last)
				}
				last = e.KV.ModRev
			}
			ended = !ok || last == rev
		case <-late:
			t.Fatal("the slow watch neither went on nor ended")
		}
	}
	if last < rev {
		if _, err := s.Watch(t.Context(), "", last); !errors.Is(err, ErrCompacted) {
			t.Errorf("watching on from %d: got %v", last, err)
		}
	}
}

// Two that count the same prefix and then insert do not both do so, when they share a guard as they must.
func conformPhantoms(t *testing.T, s State) {
	const places = 5
	guard := txn(t, s, nil, Put("guard", nil))
	_ = guard
	var wg sync.WaitGroup
	var taken, full atomic.Int32
	for i := range 40 {
		wg.Go(func() {
			for {
				g, err := s.Get(t.Context(), "guard")
				if err != nil {
					t.Error(err)
					return
				}
				held, _, err := s.Range(t.Context(), "place/", "", 0)
				if err != nil {
					t.Error(err)
					return
				}
				if len(held) >= places {
					full.Add(1)
					return
				}
				_, err = s.Txn(t.Context(), []Cond{IfModRev("guard", g.ModRev)}, []Op{Put("guard", nil), Put(fmt.Sprint("place/", i), nil)})
				if err == nil {
					taken.Add(1)
					return
				}
				if !errors.Is(err, ErrConflict) {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if taken.Load() != places || full.Load() != 40-places {
		t.Errorf("%d taken and %d refused, want %d and %d", taken.Load(), full.Load(), places, 40-places)
	}
}

// A hundred writers count one key up by compare-and-swap: every increment counts once.
func conformStorm(t *testing.T, s State) {
	const writers = 100
	txn(t, s, nil, Put("n", []byte("0")))
	var wg sync.WaitGroup
	var conflicts atomic.Int32
	for w := range writers {
		wg.Go(func() {
			for {
				kv, err := s.Get(t.Context(), "n")
				if err != nil {
					t.Error(err)
					return
				}
				n, _ := strconv.Atoi(string(kv.Value))
				_, err = s.Txn(t.Context(), []Cond{IfModRev("n", kv.ModRev), IfAbsent(fmt.Sprint("w/", w))}, []Op{Put("n", []byte(strconv.Itoa(n+1))), Put(fmt.Sprint("w/", w), nil)})
				if err == nil {
					return
				}
				if !errors.Is(err, ErrConflict) {
					t.Error(err)
					return
				}
				conflicts.Add(1)
			}
		})
	}
	wg.Wait()
	kv, err := s.Get(t.Context(), "n")
	if err != nil || string(kv.Value) != strconv.Itoa(writers) {
		t.Errorf("got %q, %v, want %d", kv.Value, err, writers)
	}
	t.Logf("%d conflicts", conflicts.Load())
}

// A lease's keys go together; a key that moved to another lease stays with it.
func conformManyLeases(t *testing.T, s State) {
	ctx := t.Context()
	from := txn(t, s, nil, Put("begin", nil))
	w, err := s.Watch(ctx, "l/", from)
	if err != nil {
		t.Fatal(err)
	}
	var ids []LeaseID
	for range 20 {
		id, err := s.Grant(ctx, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	for i, id := range ids {
		txn(t, s, nil, PutLease(fmt.Sprintf("l/%02d/a", i), nil, id), PutLease(fmt.Sprintf("l/%02d/b", i), nil, id))
	}
	collect(t, w, 40)
	txn(t, s, nil, PutLease("l/00/a", []byte("moved"), ids[1]))
	collect(t, w, 1)
	if err := s.Revoke(ctx, ids[0]); err != nil {
		t.Fatal(err)
	}
	if got := collect(t, w, 1); got[0] != "-l/00/b" {
		t.Errorf("got %q", got)
	}
	if err := s.Revoke(ctx, ids[1]); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(collect(t, w, 3), " "); got != "-l/00/a -l/01/a -l/01/b" {
		t.Errorf("got %q", got)
	}
	if err := s.Revoke(ctx, ids[1]); err != nil {
		t.Errorf("revoked twice: %v", err)
	}
	if err := s.Revoke(ctx, 1<<40); err != nil {
		t.Errorf("revoked one that never was: %v", err)
	}
}

func conformLimits(t *testing.T, s State) {
	ctx := t.Context()
	long := strings.Repeat("k", MaxKey+1)
	many := make([]Op, maxOps+1)
	for i := range many {
		many[i] = Put(fmt.Sprint(i), nil)
	}
	big := []Op{Put("a", make([]byte, MaxValue)), Put("b", make([]byte, MaxValue)), Put("c", make([]byte, MaxValue))}
	for name, ops := range map[string][]Op{"long key": {Put(long, nil)}, "no key": {Put("", nil)}, "many": many, "large": big} {
		if _, err := s.Txn(ctx, nil, ops); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := s.Txn(ctx, nil, []Op{Put("a", nil), Delete("a")}); err == nil {
		t.Error("one key twice in one transaction was taken")
	}
	gone, cancel := context.WithCancelCause(ctx)
	why := errors.New("the caller left")
	cancel(why)
	if _, err := s.Txn(gone, nil, []Op{Put("late", nil)}); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	if _, err := s.Get(ctx, "late"); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
}
