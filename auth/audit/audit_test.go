package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"golang.org/x/mod/sumdb/tlog"

	"hawser/auth/loghead"
)

var testKey = ed25519.NewKeyFromSeed(make([]byte, 32))

func public() ed25519.PublicKey { return testKey.Public().(ed25519.PublicKey) }

func options(now func() time.Time) Options {
	return Options{
		Cluster: "hub.test", Now: now,
		Signer: func() (ed25519.PublicKey, func([]byte) ([]byte, error)) {
			return public(), func(b []byte) ([]byte, error) { return ed25519.Sign(testKey, b), nil }
		},
	}
}

func open(t *testing.T, dir string, now func() time.Time) *Log {
	t.Helper()
	l, err := Open(dir, options(now))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func fill(t testing.TB, l *Log, n int) {
	t.Helper()
	for i := range n {
		e := Event{
			Type: []string{"session.admit", "session.end", "user.login"}[i%3], User: fmt.Sprintf("user%d", i%7), Device: fmt.Sprintf("gw-%d", i%11),
			Session: fmt.Sprintf("%032x", i), Command: "uname -a",
		}
		if err := l.Record(e); err != nil {
			t.Fatal(err)
		}
	}
}

func head(t *testing.T, l *Log) (Head, []byte) {
	t.Helper()
	b, err := l.MakeHead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	h, err := loghead.Open(b, "hub.test", []ed25519.PublicKey{public()})
	if err != nil {
		t.Fatal(err)
	}
	return h, b
}

func find(t *testing.T, l *Log, q Query) []Entry {
	t.Helper()
	var out []Entry
	if err := l.Search(t.Context(), q, func(e Entry) (bool, error) { out = append(out, e); return true, nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

func export(t *testing.T, l *Log, q Query, filter string, older int64) []byte {
	t.Helper()
	var b bytes.Buffer
	err := l.Export(t.Context(), q, filter, older, func(line []byte) error { b.Write(append(line, '\n')); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func verify(t *testing.T, b []byte, kept *Head) Report {
	t.Helper()
	r, err := Verify(bytes.NewReader(b), []ed25519.PublicKey{public()}, kept)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAnEventIsOneLineWhateverTheNamesContain(t *testing.T) {
	for _, name := range []string{
		"a\nb", "a\r\nb", "\x1b[31mred\x1b[0m", "\x1b]52;c;aGk=\a", "\u009b31m", "\x7f", "\u202egpj.exe", "\u2066x\u2069", "\u200b", "\ufeff", "\xff\xfe", "a\x9bb",
		`","salt":"AAAAAAAAAAAAAAAAAAAAAA"}`, "\U000e0041", "\u2028", strings.Repeat("ü", 5000), "</script>", "\x00", `back\slash"quote`,
	} {
		_, b, err := encode(Event{Type: "x.y", User: name, Command: name, Roles: []string{name}})
		if err != nil {
			t.Fatal(err)
		}
		e := entryOf(7, b, [16]byte{1})
		line := e.Line()
		for _, r := range string(line) {
			if !unicode.IsPrint(r) {
				t.Errorf("%q: %q is in the line %q", name, r, line)
			}
		}
		got, err := ParseLine(line)
		if err != nil || got.Seq != 7 || got.Salt != e.Salt || !bytes.Equal(got.Body, e.Body) {
			t.Errorf("%q: ParseLine = %+v, %v", name, got, err)
		}
		ev, err := got.Event()
		if err != nil || len(name) < 100 && !strings.Contains(name, "\xff") && !strings.Contains(name, "\x9b") && ev.User != name {
			t.Errorf("%q came back as %q, %v", name, ev.User, err)
		}
	}
}

func TestBytesThatAreNoUTF8AreTold(t *testing.T) {
	_, b, err := encode(Event{User: "a\x9bb\xff"})
	if err != nil || !strings.Contains(string(b), `"a\\x9bb\\xff"`) {
		t.Errorf("%s, %v", b, err)
	}
}

func TestTheTreeIsThatOfTlog(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "tree"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tr, err := openTree(f, 0)
	if err != nil {
		t.Fatal(err)
	}
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(is []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(is))
		for i, x := range is {
			out[i] = stored[x]
		}
		return out, nil
	})
	for n := range int64(300) {
		leaf := [32]byte{byte(n), byte(n >> 8)}
		hs, err := tlog.StoredHashes(n, leaf[:], reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, hs...)
		tr.append(leaf)
		if err := tr.flush(); err != nil {
			t.Fatal(err)
		}
		want, err := tlog.TreeHash(n+1, reader)
		if err != nil || tr.root() != want {
			t.Fatalf("root of %d leaves = %v, want %v (%v)", n+1, tr.root(), want, err)
		}
		if got := leaves(tr.inF * hashSize); got != n+1 {
			t.Fatalf("leaves = %d, want %d", got, n+1)
		}
		again, err := openTree(f, n+1)
		if err != nil || again.root() != want {
			t.Fatalf("opened again: root %v, want %v (%v)", again.root(), want, err)
		}
	}
}

func TestTheLogIsThereAgainAfterItWasClosed(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, nil)
	fill(t, l, 1000)
	h, _ := head(t, l)
	if h.Size != 1000 {
		t.Fatalf("the head has %d events, want 1000", h.Size)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir, nil)
	fill(t, l, 10)
	h2, _ := head(t, l)
	p, err := l.Prove(1000, 1010)
	if err != nil {
		t.Fatal(err)
	}
	if err := loghead.CheckGrowth(h, h2, p); err != nil || h2.Size != 1010 {
		t.Fatalf("after a restart: %v, %d events", err, h2.Size)
	}
}

// copyDir is what kill -9 leaves: what the kernel was handed.
func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestWhatRecordReturnedFromSurvivesAKill(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, nil)
	fill(t, l, 70)
	h, _ := head(t, l)
	fill(t, l, 30)
	for name, spoil := range map[string]func(string) error{
		"as it is":                  func(string) error { return nil },
		"no index":                  func(d string) error { return removeAll(d, "*.idx") },
		"tree without its end":      func(d string) error { return os.Truncate(filepath.Join(d, "tree"), tlog.StoredHashCount(70)*32+7) },
		"a torn line":               func(d string) error { return appendTo(d, `{"seq":100,"time":"20`) },
		"zeros after a power cut":   func(d string) error { return appendTo(d, strings.Repeat("\x00", 4096)) },
		"garbage in the tree's end": func(d string) error { return scribble(filepath.Join(d, "tree"), tlog.StoredHashCount(71)*32) },
	} {
		d := copyDir(t, dir)
		if err := spoil(d); err != nil {
			t.Fatal(err)
		}
		again := open(t, d, nil)
		if got := again.Size(); got != 100 {
			t.Errorf("%s: %d events, want 100", name, got)
			continue
		}
		fill(t, again, 1)
		h2, _ := head(t, again)
		p, err := again.Prove(h.Size, h2.Size)
		if err != nil {
			t.Fatal(err)
		}
		if err := loghead.CheckGrowth(h, h2, p); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if r := verify(t, export(t, again, Query{}, "", 0), &h); len(r.Faults) > 0 || r.Events != 101 {
			t.Errorf("%s: %d events, %q", name, r.Events, r.Faults)
		}
	}
}

func removeAll(dir, glob string) error {
	names, err := filepath.Glob(filepath.Join(dir, glob))
	for _, n := range names {
		err = errors.Join(err, os.Remove(n))
	}
	return err
}

func days(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil || len(names) == 0 {
		t.Fatal("no day's file", err)
	}
	return names
}

func appendTo(dir, text string) error {
	names, _ := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	f, err := os.OpenFile(names[len(names)-1], os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

func scribble(file string, off int64) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte("garbage garbage garbage garbage."), off)
	return errors.Join(err, f.Close())
}

// TestEventsThatAHeadCoversAndThatAreGoneAreTold: the tree goes on after their leaves, so that what was signed stays true.
func TestEventsThatAHeadCoversAndThatAreGoneAreTold(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, nil)
	fill(t, l, 100)
	h, _ := head(t, l)
	d := copyDir(t, dir)
	b, err := os.ReadFile(days(t, d)[0])
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(b, []byte("\n"))
	if err := os.WriteFile(days(t, d)[0], bytes.Join(lines[:90], nil), 0o600); err != nil {
		t.Fatal(err)
	}
	again := open(t, d, nil)
	got := find(t, again, Query{Type: "audit.damage"})
	if len(got) != 1 || got[0].Seq != 100 {
		t.Fatalf("audit.damage: %d events", len(got))
	}
	if ev, _ := got[0].Event(); !strings.Contains(ev.Reason, "events 90 to 99") {
		t.Errorf("reason %q", ev.Reason)
	}
	h2, _ := head(t, again)
	p, err := again.Prove(h.Size, h2.Size)
	if err != nil {
		t.Fatal(err)
	}
	if err := loghead.CheckGrowth(h, h2, p); err != nil {
		t.Error(err)
	}
	if r := verify(t, export(t, again, Query{}, "", 0), &h); len(r.Faults) != 1 || !strings.Contains(r.Faults[0], "events 90 to 99 are missing") {
		t.Errorf("verify says %q", r.Faults)
	}
}

// TestALogThatWasRewrittenContradictsItsHeads is the operator who changes the past and makes the tree anew.
func TestALogThatWasRewrittenContradictsItsHeads(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, nil)
	fill(t, l, 100)
	h, _ := head(t, l)
	d := copyDir(t, dir)
	file := days(t, d)[0]
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, bytes.Replace(b, []byte("user3"), []byte("user4"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tree", "head"} {
		if err := os.Remove(filepath.Join(d, name)); err != nil {
			t.Fatal(err)
		}
	}
	again := open(t, d, nil)
	fill(t, again, 5)
	h2, _ := head(t, again)
	p, err := again.Prove(h.Size, h2.Size)
	if err != nil {
		t.Fatal(err)
	}
	if err := loghead.CheckGrowth(h, h2, p); !errors.Is(err, loghead.ErrRewritten) {
		t.Errorf("CheckGrowth = %v", err)
	}
	if r := verify(t, export(t, again, Query{}, "", 0), nil); len(r.Faults) != 0 {
		t.Errorf("alone it is consistent, and verify says %q", r.Faults)
	}
	if r := verify(t, export(t, again, Query{}, "", 0), &h); len(r.Faults) != 1 || !strings.Contains(r.Faults[0], "rewritten") {
		t.Errorf("against the head kept verify says %q", r.Faults)
	}
}

func TestVerifyFindsEveryChange(t *testing.T) {
	l := open(t, t.TempDir(), nil)
	fill(t, l, 150)
	early, _ := head(t, l)
	fill(t, l, 150)
	kept, _ := head(t, l)
	whole := export(t, l, Query{}, "", 0)
	part := export(t, l, Query{From: 130}, "", 0)
	for _, b := range [][]byte{whole, part} {
		for _, k := range []*Head{nil, &early, &kept} {
			if r := verify(t, b, k); len(r.Faults) != 0 || !r.Signed {
				t.Fatalf("an unchanged export: %q", r.Faults)
			}
		}
	}
	edit := func(f func(lines [][]byte) [][]byte) []byte {
		return bytes.Join(f(bytes.Split(bytes.TrimSuffix(bytes.Clone(part), []byte("\n")), []byte("\n"))), []byte("\n"))
	}
	// The 11th event of the export: line 11 after the header is event 140.
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"edited":                  {edit(func(x [][]byte) [][]byte { x[80] = bytes.Replace(x[80], []byte("uname"), []byte("Uname"), 1); return x }), "events 192 to 255 was changed"},
		"salt":                    {edit(func(x [][]byte) [][]byte { x[11] = flip(x[11], -4); return x }), "changed"},
		"dropped":                 {edit(func(x [][]byte) [][]byte { return slices.Delete(x, 11, 12) }), "events 140 to 140 are missing"},
		"reordered":               {edit(func(x [][]byte) [][]byte { x[11], x[12] = x[12], x[11]; return x }), "reordered"},
		"repeated":                {edit(func(x [][]byte) [][]byte { return slices.Insert(x, 11, x[11]) }), "repeated"},
		"cut off":                 {edit(func(x [][]byte) [][]byte { return x[:100] }), "missing at the end"},
		"end dropped, proof kept": {edit(func(x [][]byte) [][]byte { return slices.Delete(x, len(x)-2, len(x)-1) }), "missing at the end"},
		"proof dropped":           {edit(func(x [][]byte) [][]byte { return x[:len(x)-1] }), "proof, is missing"},
		"seqs moved": {edit(func(x [][]byte) [][]byte {
			x = slices.Delete(x, 11, 12)
			for i := 11; i < len(x)-1; i++ {
				x[i] = bytes.Replace(x[i], fmt.Appendf(nil, `{"seq":%d,`, 130+i), fmt.Appendf(nil, `{"seq":%d,`, 129+i), 1)
			}
			return x
		}), "missing at the end"},
		"head of another key": {edit(func(x [][]byte) [][]byte {
			var h exportHeader
			_ = json.Unmarshal(x[0], &h)
			other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, 32))
			forged := kept
			forged.Root[0] ^= 1
			b, _ := forged.Sign(other.Public().(ed25519.PublicKey), func(b []byte) ([]byte, error) { return ed25519.Sign(other, b), nil })
			h.Head = string(b)
			x[0], _ = json.Marshal(h)
			return x
		}), "not signed"},
	} {
		if r := verify(t, c.b, &kept); !strings.Contains(strings.Join(r.Faults, "; "), c.want) {
			t.Errorf("%s: verify says %q, want %q", name, r.Faults, c.want)
		}
	}
	newer := kept
	newer.Size += 5
	if r := verify(t, part, &newer); len(r.Faults) != 1 || !strings.Contains(r.Faults[0], "cut off") {
		t.Errorf("a head of more events than the log has: %q", r.Faults)
	}
	old := Head{Cluster: "hub.test", Size: 100}
	if r := verify(t, part, &old); len(r.Faults) != 1 || !strings.Contains(r.Faults[0], "--head") {
		t.Errorf("a head older than the export: %q", r.Faults)
	}
}

func flip(line []byte, at int) []byte {
	line = bytes.Clone(line)
	c := &line[len(line)+at]
	if *c == 'A' {
		*c = 'B'
	} else {
		*c = 'A'
	}
	return line
}

func TestAnOldHeadIsProvedByTheExport(t *testing.T) {
	l := open(t, t.TempDir(), nil)
	fill(t, l, 77)
	old, _ := head(t, l)
	fill(t, l, 100)
	if r := verify(t, export(t, l, Query{From: 120}, "", old.Size), &old); len(r.Faults) != 0 {
		t.Errorf("%q", r.Faults)
	}
	lie := old
	lie.Root[3] ^= 1
	if r := verify(t, export(t, l, Query{From: 120}, "", old.Size), &lie); len(r.Faults) != 1 {
		t.Errorf("another root: %q", r.Faults)
	}
}

func TestAFilteredExportProvesWhatIsInIt(t *testing.T) {
	l := open(t, t.TempDir(), nil)
	fill(t, l, 500)
	b := export(t, l, Query{User: "user3"}, "user user3", 0)
	r := verify(t, b, nil)
	if len(r.Faults) != 0 || r.Filter == "" || r.Events != 71 {
		t.Fatalf("%d events, filter %q, %q", r.Events, r.Filter, r.Faults)
	}
	if r := verify(t, bytes.Replace(b, []byte("uname"), []byte("Uname"), 1), nil); len(r.Faults) == 0 {
		t.Error("a changed event was not found")
	}
	lines := bytes.SplitAfter(b, []byte("\n"))
	if r := verify(t, bytes.Join(slices.Delete(lines, 5, 6), nil), nil); len(r.Faults) == 0 {
		t.Error("a dropped event was not found")
	}
}

func TestSearchFindsWhatAScanFinds(t *testing.T) {
	now := time.Date(2026, 11, 21, 23, 0, 0, 0, time.UTC)
	var mu sync.Mutex
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); now = now.Add(2 * time.Second); return now }
	dir := t.TempDir()
	l := open(t, dir, clock)
	fill(t, l, 5000)
	if n := len(days(t, dir)); n != 2 {
		t.Fatalf("%d files, want those of two days", n)
	}
	check := func(l *Log) {
		t.Helper()
		all := find(t, l, Query{})
		if len(all) != 5000 {
			t.Fatalf("%d events in all", len(all))
		}
		mid, _ := all[2500].Event()
		for _, q := range []Query{
			{User: "user3"}, {Device: "gw-5"}, {Session: fmt.Sprintf("%032x", 4321)}, {Session: "0000000000000000000000000000100"}, {Type: "session"},
			{Type: "session.end", User: "user1"}, {User: "nobody"}, {Since: mid.Time}, {Until: mid.Time, Device: "gw-1"}, {From: 100, To: 200}, {Own: "user2", Type: "user"},
		} {
			var want []int64
			for _, e := range all {
				ev, err := e.Event()
				if err != nil {
					t.Fatal(err)
				}
				if q.match(&ev) && e.Seq >= q.From && (q.To == 0 || e.Seq < q.To) {
					want = append(want, e.Seq)
				}
			}
			seqs := func(es []Entry) (out []int64) {
				for _, e := range es {
					out = append(out, e.Seq)
				}
				return out
			}
			if got := seqs(find(t, l, q)); !slices.Equal(got, want) {
				t.Errorf("%+v: %d events, want %d", q, len(got), len(want))
			}
			q.Newest, q.Limit = true, 10
			slices.Reverse(want)
			if got := seqs(find(t, l, q)); !slices.Equal(got, want[:min(10, len(want))]) {
				t.Errorf("%+v: %v, want %v", q, got, want[:min(10, len(want))])
			}
		}
	}
	check(l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := removeAll(dir, "*.idx"); err != nil {
		t.Fatal(err)
	}
	check(open(t, dir, clock))
}

func TestRetentionLeavesTheTreeWhole(t *testing.T) {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	var mu sync.Mutex
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	dir := t.TempDir()
	o := options(clock)
	l, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 5 {
		fill(t, l, 10)
		mu.Lock()
		now = now.Add(24 * time.Hour)
		mu.Unlock()
	}
	old, _ := head(t, l)
	until, err := l.Expire(48 * time.Hour)
	if err != nil || until != 29 || len(days(t, dir)) != 2 {
		t.Fatalf("Expire = %d, %v and %d files are left", until, err, len(days(t, dir)))
	}
	fill(t, l, 3)
	if r := verify(t, export(t, l, Query{From: 30}, "", old.Size), &old); len(r.Faults) != 0 || r.Events != 23 {
		t.Errorf("%d events, %q", r.Events, r.Faults)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if again := open(t, dir, clock); again.Size() != 53 {
		t.Errorf("%d events after a restart, want 53", again.Size())
	}
}

// TestADiskThatTakesNothingStallsNobody: events wait in memory, what does not fit is counted, and all is written once there is room.
func TestADiskThatTakesNothingStallsNobody(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, nil)
	fill(t, l, 5)
	l.mu.Lock()
	good := l.f
	full, err := os.Open(good.Name()) // for reading: every write fails
	if err != nil {
		t.Fatal(err)
	}
	l.f = full
	l.mu.Unlock()
	begin := time.Now()
	dropped := 0
	for i := range MaxQueue + 10 {
		if err := l.Record(Event{Type: "x.y", Object: fmt.Sprint(i)}); errors.Is(err, ErrFull) {
			dropped++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("%d events took %v", MaxQueue, took)
	}
	if dropped != 10 {
		t.Errorf("%d were dropped, want 10", dropped)
	}
	if err := l.Settle(t.Context()); !errors.Is(err, ErrDisk) {
		t.Errorf("Settle = %v", err)
	}
	l.mu.Lock()
	l.f = good
	l.mu.Unlock()
	full.Close()
	for l.Size() < 5+MaxQueue {
		<-l.Changed()
	}
	gap := find(t, l, Query{Type: "audit.gap"})
	if len(gap) != 1 {
		t.Fatalf("%d gap events", len(gap))
	}
	if ev, _ := gap[0].Event(); ev.Count != 10 {
		t.Errorf("the gap is of %d", ev.Count)
	}
	if r := verify(t, export(t, l, Query{}, "", 0), nil); len(r.Faults) > 0 {
		t.Errorf("%q", r.Faults)
	}
}

func TestManyWritersMakeOneLog(t *testing.T) {
	l := open(t, t.TempDir(), nil)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 200 {
				if err := l.Record(Event{Type: "x.y"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := l.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := verify(t, export(t, l, Query{}, "", 0), nil); len(r.Faults) > 0 || r.Events != 4000 {
		t.Errorf("%d events, %q", r.Events, r.Faults)
	}
}

func FuzzParseLine(f *testing.F) {
	_, b, _ := encode(Event{Type: "x.y", User: "\x1b"})
	f.Add(entryOf(3, b, [16]byte{}).Line())
	f.Add([]byte(`{"seq":1,"salt":"AAAAAAAAAAAAAAAAAAAAAA"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseLine(b)
		if err == nil && !bytes.Equal(e.Line(), b) {
			t.Errorf("%q came back as %q", b, e.Line())
		}
	})
}

func FuzzEncode(f *testing.F) {
	f.Add("a\nb", "\u202e", "\xff")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		_, j, err := encode(Event{Type: a, User: b, Reason: c, DeviceInner: []string{a, b}})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range string(j) {
			if !unicode.IsPrint(r) {
				t.Fatalf("%q in %q", r, j)
			}
		}
		if _, err := entryOf(0, j, [16]byte{}).Event(); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzVerify(f *testing.F) {
	l, err := Open(f.TempDir(), options(nil))
	if err != nil {
		f.Fatal(err)
	}
	fill(f, l, 5)
	var b bytes.Buffer
	if err := l.Export(context.Background(), Query{}, "", 0, func(line []byte) error { b.Write(append(line, '\n')); return nil }); err != nil {
		f.Fatal(err)
	}
	_ = l.Close()
	good := b.Bytes()
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Verify(bytes.NewReader(b), []ed25519.PublicKey{public()}, nil)
		if err == nil && len(r.Faults) == 0 && r.Filter == "" && r.Events != r.Head.Size && r.First <= 0 && r.Head.Size > 0 {
			t.Errorf("%d of %d events and no fault", r.Events, r.Head.Size)
		}
	})
}

func FuzzParseIndex(f *testing.F) {
	var b block
	b.take(&Event{Type: "x.y", User: "u"}, 3, 100)
	f.Add(b.append(nil), int64(100))
	f.Fuzz(func(t *testing.T, p []byte, size int64) {
		for _, b := range parseIndex(p, size) {
			if b.end > size || b.off >= b.end {
				t.Errorf("block %d to %d of %d bytes", b.off, b.end, size)
			}
		}
	})
}

func BenchmarkRecord(b *testing.B) {
	l, err := Open(b.TempDir(), options(nil))
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	e := Event{Type: "session.admit", Actor: "hub:hub-1", User: "alice", Roles: []string{"field"}, Method: "certificate 12345", Way: "hub", Device: "gw-17",
		DeviceUUID: "0e4b6bd6-7d34-4c53-9f5a-0d4e3ac1b6a1", Session: strings.Repeat("ab", 16), Connection: strings.Repeat("cd", 16), Client: "192.0.2.7:55555", Hub: "hub-1", Login: "root", Command: "uname -a"}
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := l.Record(e); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

func BenchmarkSettle(b *testing.B) {
	l, err := Open(b.TempDir(), options(nil))
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	for b.Loop() {
		if err := l.Record(Event{Type: "user.add"}); err != nil {
			b.Fatal(err)
		}
		if err := l.Settle(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSearchInAMillion(b *testing.B) {
	if testing.Short() {
		b.Skip("writes 400 MB")
	}
	l, err := Open(b.TempDir(), options(nil))
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	var wg sync.WaitGroup
	const n = 1 << 20
	for w := range 64 {
		wg.Go(func() {
			for i := w; i < n; i += 64 {
				_ = l.Record(Event{Type: "session.admit", User: fmt.Sprintf("user%d", i%1000), Device: fmt.Sprintf("gw-%d", i%20000), Session: fmt.Sprintf("%032x", i), Client: "192.0.2.7:55555", Command: "uname -a"})
			}
		})
	}
	wg.Wait()
	for b.Loop() {
		found := 0
		if err := l.Search(context.Background(), Query{Session: fmt.Sprintf("%032x", n/2)}, func(Entry) (bool, error) { found++; return true, nil }); err != nil || found != 1 {
			b.Fatal(found, err)
		}
	}
}
