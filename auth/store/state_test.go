package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("HAWSER_TEST_STORE"); dir != "" {
		writeUntilKilled(dir)
	}
	if dir := os.Getenv("HAWSER_TEST_FILL"); dir != "" {
		fillUntilKilled(dir)
	}
	os.Exit(m.Run())
}

// plenty has these tests pass on a machine whose disk is nearly full: those that are about free space say how much there is.
func plenty(string) (uint64, error) { return 1 << 40, nil }

func openTest(t *testing.T, dir string, o Options) *BadgerState {
	t.Helper()
	if o.Free == nil {
		o.Free = plenty
	}
	s, err := OpenState(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) State{
		"badger": func(t *testing.T) State { return openTest(t, t.TempDir(), Options{Keep: keptInTests}) },
		"memory": func(t *testing.T) State { m := NewMemory(); m.keep = keptInTests; return m },
	} {
		for claim, f := range map[string]func(t *testing.T, s State){
			"transactions": conformTxn, "one winner": conformRace, "watch": conformWatch, "leases": conformLease,
			"pages": conformPages, "snapshot": conformSnapshot, "watch resumes": conformResume, "compaction": conformCompaction,
			"phantoms": conformPhantoms, "conflict storm": conformStorm, "many leases": conformManyLeases, "limits": conformLimits,
		} {
			t.Run(name+"/"+claim, func(t *testing.T) {
				s := open(t)
				f(t, s)
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				if _, err := s.Get(t.Context(), "a"); !errors.Is(err, ErrClosed) {
					t.Errorf("after Close: got %v", err)
				}
			})
		}
	}
}

func txn(t *testing.T, s State, conds []Cond, ops ...Op) uint64 {
	t.Helper()
	rev, err := s.Txn(t.Context(), conds, ops)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func conformTxn(t *testing.T, s State) {
	ctx := t.Context()
	first := txn(t, s, []Cond{IfAbsent("d/b")}, Put("d/b", []byte("1")), Put("d/a", nil))
	second := txn(t, s, []Cond{IfModRev("d/b", first), IfExists("d/a")}, Put("d/b", []byte("2")), Put("e", nil))
	if second != first+1 {
		t.Errorf("revisions %d, %d", first, second)
	}
	for _, c := range []Cond{IfAbsent("d/b"), IfModRev("d/b", first), IfExists("none")} {
		if _, err := s.Txn(ctx, []Cond{c}, []Op{Put("d/x", nil)}); !errors.Is(err, ErrConflict) {
			t.Errorf("got %v, want conflict", err)
		}
	}
	kv, err := s.Get(ctx, "d/b")
	if err != nil || string(kv.Value) != "2" || kv.CreateRev != first || kv.ModRev != second {
		t.Errorf("got %+v, %v", kv, err)
	}
	page, rev, err := s.Range(ctx, "d/", "", 1)
	if err != nil || rev != second || len(page) != 1 || page[0].Key != "d/a" {
		t.Errorf("got %+v, %d, %v", page, rev, err)
	}
	page, _, err = s.Range(ctx, "d/", "d/a", 0)
	if err != nil || len(page) != 1 || page[0].Key != "d/b" {
		t.Errorf("got %+v, %v", page, err)
	}
	if rev := txn(t, s, nil, Delete("none")); rev != second {
		t.Errorf("deleting nothing made revision %d", rev)
	}
	txn(t, s, nil, Delete("d/b"))
	if _, err := s.Get(ctx, "d/b"); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if _, err := s.Txn(ctx, nil, []Op{Put("big", make([]byte, MaxValue+1))}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v", err)
	}
}

func conformRace(t *testing.T, s State) {
	var wg sync.WaitGroup
	won := make(chan int, 50)
	for i := range 50 {
		wg.Go(func() {
			if _, err := s.Txn(t.Context(), []Cond{IfAbsent("spent")}, []Op{Put("spent", []byte{byte(i)})}); err == nil {
				won <- i
			} else if !errors.Is(err, ErrConflict) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Errorf("%d won, want 1", len(won))
	}
}

// collect receives events until there are n, as "KEY=VALUE" or "-KEY".
func collect(t *testing.T, w <-chan []Event, n int) (got []string) {
	t.Helper()
	late := time.After(10 * time.Second)
	for len(got) < n {
		select {
		case events, ok := <-w:
			if !ok {
				t.Fatalf("watch ended after %q", got)
			}
			for _, e := range events {
				if e.Type == EventDelete {
					got = append(got, "-"+e.KV.Key)
				} else {
					got = append(got, e.KV.Key+"="+string(e.KV.Value))
				}
			}
		case <-late:
			t.Fatalf("watch delivered only %q", got)
		}
	}
	return got
}

func conformWatch(t *testing.T, s State) {
	from := txn(t, s, nil, Put("k/0", nil))
	txn(t, s, nil, Put("k/1", []byte("x")), Put("other", nil))
	ctx, cancel := context.WithCancel(t.Context())
	w, err := s.Watch(ctx, "k/", from)
	if err != nil {
		t.Fatal(err)
	}
	txn(t, s, nil, Delete("k/1"))
	last := txn(t, s, nil, Put("k/2", []byte("y")))
	if got := strings.Join(collect(t, w, 3), " "); got != "k/1=x -k/1 k/2=y" {
		t.Errorf("got %q", got)
	}
	cancel()
	for range w {
		t.Error("event after the end")
	}
	if _, err := s.Watch(t.Context(), "", last+1); !errors.Is(err, ErrCompacted) {
		t.Errorf("from the future: got %v", err)
	}
}

func conformLease(t *testing.T, s State) {
	ctx := t.Context()
	w, err := s.Watch(ctx, "p/", 0)
	if err != nil {
		t.Fatal(err)
	}
	short, err := s.Grant(ctx, 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	long, _ := s.Grant(ctx, time.Hour)
	txn(t, s, nil, PutLease("p/s", nil, short), PutLease("p/kept", nil, short), PutLease("p/l", nil, long))
	txn(t, s, nil, Put("p/kept", nil))
	if got := strings.Join(collect(t, w, 5), " "); got != "p/s= p/kept= p/l= p/kept= -p/s" {
		t.Errorf("got %q", got)
	}
	if err := s.KeepAlive(ctx, short); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if err := s.KeepAlive(ctx, long); err != nil {
		t.Error(err)
	}
	if err := s.Revoke(ctx, long); err != nil {
		t.Error(err)
	}
	if got := collect(t, w, 1); got[0] != "-p/l" {
		t.Errorf("got %q", got)
	}
	if _, err := s.Txn(ctx, nil, []Op{PutLease("p/x", nil, long)}); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
}

func TestAFullDiskRefusesWritesButNotDeletesAndUrgentOnes(t *testing.T) {
	free := uint64(1 << 40)
	s := openTest(t, t.TempDir(), Options{Free: func(string) (uint64, error) { return free, nil }})
	txn(t, s, nil, Put("a", nil))
	free = minFree - 1
	if _, err := s.Txn(t.Context(), nil, []Op{Put("b", nil)}); !errors.Is(err, ErrNoSpace) {
		t.Errorf("got %v", err)
	}
	txn(t, s, nil, Delete("a"), Urgent(Put("lock", nil)))
	if _, err := s.Txn(t.Context(), nil, []Op{Urgent(Put("lock", nil)), Put("b", nil)}); !errors.Is(err, ErrNoSpace) {
		t.Errorf("something else beside what is urgent: got %v", err)
	}
	free = minFree/2 - 1
	if _, err := s.Txn(t.Context(), nil, []Op{Urgent(Put("lock", nil))}); !errors.Is(err, ErrNoSpace) {
		t.Errorf("what is urgent, with nothing left: got %v", err)
	}
	free = minFree
	txn(t, s, nil, Put("b", nil))
}

func TestALogOlderThanKeptIsCompacted(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{Keep: 10})
	var wg sync.WaitGroup
	for i := range 600 {
		wg.Go(func() { txn(t, s, nil, Put(fmt.Sprint(i%7), nil)) })
	}
	wg.Wait()
	if _, err := s.Watch(t.Context(), "", 1); !errors.Is(err, ErrCompacted) {
		t.Errorf("got %v", err)
	}
}

func TestADatabaseBehindItsHighWaterMarkDoesNotOpen(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir, Options{})
	txn(t, s, nil, Put("a", nil))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir + "/db"); err != nil {
		t.Fatal(err)
	}
	if s, err := OpenState(dir, Options{Free: plenty}); !errors.Is(err, ErrDamaged) {
		t.Errorf("got %v, %v", s, err)
	}
}

// writeUntilKilled is the child of TestKillLosesNothingAcknowledged.
func writeUntilKilled(dir string) {
	s, err := OpenState(dir, Options{Free: plenty})
	if err != nil {
		fmt.Println("open:", err)
		os.Exit(1)
	}
	for w := range 4 {
		go func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("%d/%d", w, i)
				if _, err := s.Txn(context.Background(), []Cond{IfAbsent(key)}, []Op{Put(key, []byte(key))}); err != nil {
					fmt.Println("write:", err)
					os.Exit(1)
				}
				fmt.Println("ok", key)
			}
		}()
	}
	select {}
}

func TestKillLosesNothingAcknowledged(t *testing.T) {
	dir := t.TempDir()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "HAWSER_TEST_STORE="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var acknowledged []string
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		key, ok := strings.CutPrefix(lines.Text(), "ok ")
		if !ok {
			t.Error(lines.Text())
			continue
		}
		if acknowledged = append(acknowledged, key); len(acknowledged) == 500 {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = child.Wait() // it was killed
	s := openTest(t, dir, Options{})
	for _, key := range acknowledged {
		if kv, err := s.Get(t.Context(), key); err != nil || string(kv.Value) != key {
			t.Fatalf("SAFETY: acknowledged %s: got %+v, %v", key, kv, err)
		}
	}
	if len(acknowledged) < 500 {
		t.Errorf("only %d acknowledged", len(acknowledged))
	}
}
