package edge

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"hawser/auth/loghead"
	"hawser/tunnel/wire"
)

// testLog is a log as auth has it.
type testLog struct {
	hashes []tlog.Hash
	n      int64
	day    uint64 // of the next head
}

func (l *testLog) ReadHashes(at []int64) (out []tlog.Hash, err error) {
	for _, i := range at {
		out = append(out, l.hashes[i])
	}
	return out, nil
}

func (l *testLog) grow(t *testing.T, n int, text string) {
	t.Helper()
	for range n {
		h, err := tlog.StoredHashes(l.n, []byte(text), l)
		if err != nil {
			t.Fatal(err)
		}
		l.hashes = append(l.hashes, h...)
		l.n++
	}
}

func (l *testLog) root(t *testing.T, n int64) [32]byte {
	t.Helper()
	h, err := tlog.TreeHash(n, l)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// head is the next day's.
func (l *testLog) head(t *testing.T) *wire.LogHead {
	t.Helper()
	l.day++
	return &wire.LogHead{Size: uint64(l.n), Root: l.root(t, l.n), Time: 1_800_000_000 + l.day*logHeadEvery, Signature: make([]byte, 64)}
}

func (l *testLog) proof(t *testing.T, w *wire.LogWanted) *wire.LogHead {
	t.Helper()
	p, err := tlog.ProveTree(int64(w.Newer), int64(w.Older), l)
	if err != nil {
		t.Fatal(err)
	}
	m := &wire.LogHead{Size: w.Newer, Older: w.Older}
	for _, h := range p {
		m.Proof = append(m.Proof, h[:]...)
	}
	return m
}

// Every proof of every pair of sizes holds, and none holds with a bit of anything changed.
func TestProofsOfGrowthAreJudgedAsTheTransparencyLogJudgesThem(t *testing.T) {
	l := &testLog{}
	l.grow(t, 70, "x")
	for n := uint64(2); n <= 70; n++ {
		for o := uint64(1); o < n; o++ {
			older, newer := &wire.LogHead{Size: o, Root: l.root(t, int64(o))}, &wire.LogHead{Size: n, Root: l.root(t, int64(n))}
			p := l.proof(t, &wire.LogWanted{Older: o, Newer: n}).Proof
			if !grew(older, newer, p) {
				t.Fatalf("%d to %d: refused", o, n)
			}
			bad := *newer
			bad.Root[3] ^= 1
			other := *older
			other.Root[3] ^= 1
			if grew(older, &bad, p) || grew(&other, newer, p) || grew(older, newer, append(p, p[:32]...)) || grew(older, newer, p[:len(p)-1]) || grew(older, newer, p[32:]) {
				t.Fatalf("%d to %d: a wrong one is taken", o, n)
			}
			for i := range p {
				changed := bytes.Clone(p)
				changed[i] ^= 0x40
				if grew(older, newer, changed) {
					t.Fatalf("%d to %d: taken with byte %d changed", o, n, i)
				}
			}
		}
	}
}

func FuzzGrowth(f *testing.F) {
	f.Add(uint64(3), uint64(7), bytes.Repeat([]byte{1}, 96))
	f.Add(uint64(1)<<63, ^uint64(0), bytes.Repeat([]byte{1}, 64*32))
	f.Fuzz(func(t *testing.T, o, n uint64, proof []byte) {
		older, newer := wire.LogHead{Size: o}, wire.LogHead{Size: n}
		if grew(&older, &newer, proof) {
			t.Error("zeros are roots")
		}
	})
}

// What a device verifies is the text that auth signs.
func TestTheTextOfAHeadIsTheLogs(t *testing.T) {
	h := loghead.Head{Cluster: "ber.example", Size: 12345, Root: tlog.Hash{1, 2, 3}, Time: time.Unix(1_800_000_000, 0)}
	m := &wire.LogHead{Size: 12345, Root: h.Root, Time: 1_800_000_000}
	if got := string(headText("ber.example", m)); got != h.Text() {
		t.Errorf("got %q, want %q", got, h.Text())
	}
}

func TestADeviceKeepsAHeadAndRefusesAForkOfTheLog(t *testing.T) {
	at := &state{} // in memory
	s := &logHeads{}
	log, other := &testLog{}, &testLog{}
	log.grow(t, 10, "event")
	other.grow(t, 10, "event")
	judge := func(m *wire.LogHead) (*wire.LogWanted, *wire.LogHead, error) { return s.judge(m, at) }
	nothing := func(what string, m *wire.LogHead) {
		t.Helper()
		if ask, keep, err := judge(m); ask != nil || keep != nil || err != nil {
			t.Errorf("%s: %+v %+v %v", what, ask, keep, err)
		}
	}
	_, keep, err := judge(log.head(t))
	if err != nil || keep == nil || keep.Size != 10 {
		t.Fatalf("the first: %+v, %v", keep, err)
	}
	nothing("a proof that nobody asked for", &wire.LogHead{Older: 10})
	// Of the same day nothing is asked: a write a day at most.
	log.grow(t, 5, "event")
	h := log.head(t)
	h.Time -= logHeadEvery / 2
	nothing("half a day later", h)
	nothing("nothing new", &wire.LogHead{Size: 10, Root: log.root(t, 10), Time: h.Time + 9*logHeadEvery})
	ask, keep, err := judge(log.head(t))
	if err != nil || keep != nil || ask == nil || ask.Fork || ask.Older != 10 || ask.Newer != 15 {
		t.Fatalf("a day later: %+v, %v", ask, err)
	}
	nothing("a proof of something else", &wire.LogHead{Size: 14, Older: 10})
	if ask, keep, err = judge(log.proof(t, ask)); err != nil || ask != nil || keep == nil || keep.Size != 15 {
		t.Fatalf("its proof: %+v, %+v, %v", ask, keep, err)
	}
	// A hub that lags behind shows an older head.
	nothing("an older one", &wire.LogHead{Size: 12, Root: log.root(t, 12), Time: keep.Time - 1})
	// The log written anew, with one event changed.
	other.grow(t, 4, "forged")
	other.grow(t, 20, "event")
	other.day = log.day
	if ask, _, err = judge(other.head(t)); err != nil || ask == nil || ask.Fork {
		t.Fatalf("a fork is asked about: %+v, %v", ask, err)
	}
	ask, keep, err = judge(other.proof(t, ask))
	if !errors.Is(err, errRewritten) || keep != nil || ask == nil || !ask.Fork || ask.Older != 15 || ask.Root != log.root(t, 15) || len(ask.Signature) != ed25519.SignatureSize {
		t.Fatalf("a fork: %+v, %+v, %v", ask, keep, err)
	}
	if !strings.Contains(s.alarm(), "REWRITTEN") {
		t.Errorf("no alarm: %q", s.alarm())
	}
	// The same again is not told again within the day.
	if ask, _, err = judge(other.head(t)); err != nil || ask == nil || ask.Fork {
		t.Fatalf("%+v, %v", ask, err)
	}
	nothing("the fork again", other.proof(t, ask))
	s.told = time.Time{}
	if ask, _, err = judge(&wire.LogHead{Size: 15, Root: other.root(t, 15), Time: 1}); !errors.Is(err, errRewritten) || !ask.Fork {
		t.Errorf("two roots of one size: %+v, %v", ask, err)
	}
	s.told = time.Time{}
	if ask, _, err = judge(&wire.LogHead{Size: 9, Root: log.root(t, 9), Time: h.Time + 20*logHeadEvery}); !errors.Is(err, errRewritten) || !ask.Fork {
		t.Errorf("a log that was cut off: %+v, %v", ask, err)
	}
	// After a month what auth says counts again: it may have been restored from a backup.
	other.day += 40
	if ask, _, err = judge(other.head(t)); err != nil || ask == nil || ask.Fork {
		t.Fatalf("%+v, %v", ask, err)
	}
	if _, keep, err = judge(other.proof(t, ask)); err != nil || keep == nil || s.alarm() != "" {
		t.Errorf("a month later: %+v, %v, %q", keep, err, s.alarm())
	}
}
