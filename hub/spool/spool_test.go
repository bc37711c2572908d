package spool

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var testID = [16]byte{1, 2, 3}

func open(t testing.TB, c Config) (*Spool, []*Recording) {
	t.Helper()
	if c.Total == 0 {
		c.Total, c.Each = 64<<20, 16<<20
	}
	s, left, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, left
}

func begin(t testing.TB, s *Spool) *Recording {
	t.Helper()
	r, err := s.Begin(testID, []byte("a grant"))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func chunkOf(seq uint64, n int) Chunk {
	return Chunk{seq, bytes.Repeat(fmt.Appendf(nil, "%016x", seq), n/16+1)[:n]}
}

func fill(t testing.TB, r *Recording, from, to uint64) {
	t.Helper()
	for seq := from; seq < to; seq++ {
		if err := r.Append(chunkOf(seq, 1000)); err != nil {
			t.Fatal(err)
		}
	}
}

// holds checks that a recording has just those chunks, as they were.
func holds(t testing.TB, r *Recording, from, to uint64) {
	t.Helper()
	chunks, err := r.Read(0, 1<<30)
	if err != nil || uint64(len(chunks)) != to-from {
		t.Fatalf("%d chunks, %v; want %d to %d", len(chunks), err, from, to)
	}
	for i, c := range chunks {
		if want := chunkOf(from+uint64(i), 1000); c.Seq != want.Seq || !bytes.Equal(c.Data, want.Data) {
			t.Fatalf("chunk %d is not as it was", c.Seq)
		}
	}
}

func TestWhatWasAppendedIsThereAfterAKill(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, Config{Dir: dir, Key: Key{9}})
	r := begin(t, s)
	fill(t, r, 5, 50)
	holds(t, r, 5, 50)
	// Nothing is closed.
	again, left := open(t, Config{Dir: dir, Key: Key{9}})
	if len(left) != 1 || left[0].ID != testID || string(left[0].Note) != "a grant" {
		t.Fatalf("left: %v", left)
	}
	holds(t, left[0], 5, 50)
	if err := left[0].Drop(20); err != nil {
		t.Fatal(err)
	}
	holds(t, left[0], 20, 50)
	fill(t, left[0], 50, 60)
	holds(t, left[0], 20, 60)
	if err := left[0].Drop(60); err != nil {
		t.Fatal(err)
	}
	if n, size := again.Usage(); n != 1 || size != left[0].body {
		t.Errorf("%d recordings, %d bytes, after all was dropped", n, size)
	}
	fill(t, left[0], 60, 61)
	if err := left[0].Remove(); err != nil {
		t.Fatal(err)
	}
	if n, size := again.Usage(); n != 0 || size != 0 {
		t.Errorf("%d recordings, %d bytes, after it was removed", n, size)
	}
	if all, _ := os.ReadDir(dir); len(all) != 0 {
		t.Error("a file is left")
	}
}

func TestAFileTellsNothingWithoutTheKey(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, Config{Dir: dir, Key: Key{9}})
	r := begin(t, s)
	if err := r.Append(Chunk{0, []byte("the secret word")}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, r.name))
	if err != nil || bytes.Contains(b, []byte("secret")) || bytes.Contains(b, []byte("grant")) {
		t.Errorf("readable: %v", err)
	}
	if st, _ := os.Stat(filepath.Join(dir, r.name)); st.Mode() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
	if _, left := open(t, Config{Dir: dir, Key: Key{8}}); len(left) != 0 {
		t.Error("another key opens it")
	}
	if _, left := open(t, Config{Dir: dir, Key: Key{9}}); len(left) != 1 {
		t.Error("it is gone, because it was opened with another key")
	}
}

// Wherever a power cut ends the file, what is before stays, and no byte changes unnoticed.
func TestACutOrDamagedFileKeepsWhatIsBefore(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, Config{Dir: dir, Key: Key{9}})
	r := begin(t, s)
	var ends []int64
	for seq := range uint64(4) {
		ends = append(ends, r.size)
		fill(t, r, seq, seq+1)
	}
	ends = append(ends, r.size)
	whole, err := os.ReadFile(filepath.Join(dir, r.name))
	if err != nil {
		t.Fatal(err)
	}
	name := r.name
	reread := func(t *testing.T, b []byte) (chunks []Chunk, ok bool) {
		t.Helper()
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, left := open(t, Config{Dir: dir, Key: Key{9}})
		if len(left) == 0 {
			return nil, false
		}
		chunks, _ = left[0].Read(0, 1<<30)
		fill(t, left[0], uint64(len(chunks)), uint64(len(chunks))) // nothing
		return chunks, true
	}
	for cut := len(whole); cut >= 0; cut -= 37 {
		chunks, _ := reread(t, whole[:cut])
		want := 0
		for want < 4 && ends[want+1] <= int64(cut) {
			want++
		}
		if len(chunks) != want {
			t.Fatalf("cut at %d: %d chunks, want %d", cut, len(chunks), want)
		}
	}
	for at := 0; at < len(whole); at += 41 {
		b := bytes.Clone(whole)
		b[at] ^= 0x10
		chunks, _ := reread(t, b)
		for i, c := range chunks {
			if want := chunkOf(uint64(i), 1000); c.Seq != want.Seq || !bytes.Equal(c.Data, want.Data) {
				t.Fatalf("flipped at %d: chunk %d is another", at, c.Seq)
			}
		}
	}
	// Zeros behind, as some filesystems leave them.
	if chunks, ok := reread(t, append(bytes.Clone(whole), make([]byte, 4096)...)); !ok || len(chunks) != 4 {
		t.Errorf("zeros behind: %d chunks", len(chunks))
	}
}

// One bad record is no reason to throw away those behind it: what is before is delivered, and the file is kept.
func TestADamagedRecordInTheMiddleCostsNoOther(t *testing.T) {
	s, _ := open(t, Config{Dir: t.TempDir(), Key: Key{9}})
	r := begin(t, s)
	fill(t, r, 0, 5)
	whole, err := os.ReadFile(filepath.Join(s.c.Dir, r.name))
	if err != nil {
		t.Fatal(err)
	}
	for what, at := range map[string]int64{
		"length": r.chunks[2].at + 3, "huge length": r.chunks[2].at, "sequence": r.chunks[2].at + 11, "length of the note": int64(fileHead) + 3,
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, r.name)
		b := bytes.Clone(whole)
		b[at] ^= 0x10
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		again, left := open(t, Config{Dir: dir, Key: Key{9}})
		if what == "length of the note" {
			if now, err := os.ReadFile(path); len(left) != 0 || err != nil || !bytes.Equal(now, b) {
				t.Errorf("%s: %d left, %v", what, len(left), err)
			}
			continue
		}
		if len(left) != 1 {
			t.Fatalf("%s: %d left", what, len(left))
		}
		if chunks, err := left[0].Read(0, 1<<30); len(chunks) != 2 || !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %d chunks, %v", what, len(chunks), err)
		}
		if err := left[0].Drop(2); err != nil { // auth has them
			t.Error(err)
		}
		if _, err := left[0].Read(2, 1<<30); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: the rest: %v", what, err)
		}
		if err := left[0].Refuse(); err != nil {
			t.Error(err)
		}
		now, err := os.ReadFile(strings.TrimSuffix(path, suffix) + refusedSuffix)
		if _, size := again.Usage(); err != nil || !bytes.Equal(now, b) || size != int64(len(b)) {
			t.Errorf("%s: kept %d of %d bytes, %d counted, %v", what, len(now), len(b), size, err)
		}
	}
}

func TestBoundsAndAFullDiskRefuseAndChangeNothing(t *testing.T) {
	free := int64(1 << 30)
	s, _ := open(t, Config{Dir: t.TempDir(), Key: Key{9}, Total: 300 << 10, Each: 200 << 10, Free: 1 << 20, Available: func(string) (int64, error) { return free, nil }})
	r := begin(t, s)
	var next uint64
	for ; ; next++ {
		err := r.Append(chunkOf(next, 60<<10))
		if errors.Is(err, ErrFull) {
			break
		}
		if err != nil || next > 10 {
			t.Fatalf("chunk %d: %v", next, err)
		}
	}
	if next != 3 {
		t.Errorf("%d chunks of 60 KiB fit into 200 KiB", next)
	}
	// What says so, and closes the recording, fits all the same, but not for ever.
	small := 0
	for ; small < 100 && r.Append(chunkOf(next, 1000)) == nil; small++ {
		next++
	}
	if small < 10 || small == 100 {
		t.Errorf("%d small ones fit beyond the bound", small)
	}
	other, err := s.Begin([16]byte{4}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Append(chunkOf(0, 60<<10)); !errors.Is(err, ErrFull) {
		t.Errorf("beyond the bound of all: %v", err)
	}
	if other.Room(60 << 10) {
		t.Error("it says that there is room")
	}
	if err := r.Drop(next); err != nil {
		t.Fatal(err)
	}
	if err := other.Append(chunkOf(0, 60<<10)); err != nil {
		t.Errorf("when there is room again: %v", err)
	}
	// Nor do small ones pass the bound of all, or fill the disk, for more than the slack of each.
	if err := other.Drop(1); err != nil {
		t.Fatal(err)
	}
	s.c.Total = 0
	small = 0
	for next = 1; small < 1000 && other.Append(chunkOf(next, 1000)) == nil; small++ {
		next++
	}
	if small < 10 || small > slack/1000 {
		t.Errorf("%d small ones fit beyond the bound of all", small)
	}
	s.c.Total = 300 << 10
	if err := errors.Join(other.Drop(next), other.Append(chunkOf(0, 60<<10))); err != nil {
		t.Fatal(err)
	}
	free = 700 << 10
	s.freeAt = s.freeAt.Add(-2 * freeEvery)
	if err := other.Append(chunkOf(1, 1000)); err != nil {
		t.Errorf("a small one with more than half of what is to be free: %v", err)
	}
	free = 500 << 10
	s.freeAt = s.freeAt.Add(-2 * freeEvery)
	if err := other.Append(chunkOf(2, 1000)); !errors.Is(err, ErrFull) {
		t.Errorf("a small one with less: %v", err)
	}
	if err := errors.Join(other.Drop(2), r.Drop(next)); err != nil {
		t.Fatal(err)
	}
	free = 1 << 30
	s.freeAt = s.freeAt.Add(-2 * freeEvery)
	if err := other.Append(chunkOf(0, 60<<10)); err != nil {
		t.Fatal(err)
	}
	free = 0
	s.freeAt = s.freeAt.Add(-2 * freeEvery)
	if err := other.Append(chunkOf(1, 60<<10)); !errors.Is(err, ErrFull) {
		t.Errorf("on a full disk: %v", err)
	}
	if first, end := other.Range(); first != 0 || end != 1 {
		t.Errorf("it has %d to %d", first, end)
	}
}

func TestAWriteThatFailsLeavesTheFileAsItWas(t *testing.T) {
	const full = "/dev/full"
	dir := t.TempDir()
	s, _ := open(t, Config{Dir: dir, Key: Key{9}})
	r := begin(t, s)
	fill(t, r, 0, 3)
	f, err := os.OpenFile(full, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	own := r.f
	r.f = f
	if err := r.Append(chunkOf(3, 1000)); !errors.Is(err, ErrFull) {
		t.Errorf("no space: %v", err)
	}
	_ = f.Close()
	r.f = own
	holds(t, r, 0, 3)
	fill(t, r, 3, 5)
	holds(t, r, 0, 5)
}

// FuzzFile opens files of any content: what is read of them is what was sealed with the key.
func FuzzFile(f *testing.F) {
	dir := f.TempDir()
	s, _ := open(f, Config{Dir: dir, Key: Key{9}})
	r := begin(f, s)
	fill(f, r, 0, 3)
	whole, err := os.ReadFile(filepath.Join(dir, r.name))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add([]byte(magic))
	name := r.name
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, left := open(t, Config{Dir: dir, Key: Key{9}})
		if len(left) == 0 {
			return
		}
		chunks, _ := left[0].Read(0, 1<<30)
		for _, c := range chunks {
			if want := chunkOf(c.Seq, 1000); !bytes.Equal(c.Data, want.Data) {
				t.Fatalf("chunk %d was never written", c.Seq)
			}
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	s, _ := open(b, Config{Dir: b.TempDir(), Key: Key{9}, Total: 1 << 40, Each: 1 << 40})
	r := begin(b, s)
	data := make([]byte, 64<<10)
	_, _ = rand.Read(data)
	b.SetBytes(int64(len(data)))
	seq := uint64(0)
	for b.Loop() {
		if err := r.Append(Chunk{seq, data}); err != nil {
			b.Fatal(err)
		}
		if seq++; seq%256 == 0 {
			_ = r.Drop(seq)
		}
	}
}

// How a session ended outlives the hub, whatever of its chunks is stored by then.
func TestTheEndOfASessionIsThereAfterAKill(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, Config{Dir: dir, Key: Key{9}, Total: 3000, Each: 3000})
	r := begin(t, s)
	fill(t, r, 0, 2)
	if err := r.End([]byte("exited")); err != nil { // though there is no more room
		t.Fatal(err)
	}
	if _, left := open(t, Config{Dir: dir, Key: Key{9}}); len(left) != 1 || string(left[0].Ending) != "exited" {
		t.Fatalf("left %v", left)
	} else {
		holds(t, left[0], 0, 2)
	}
	fill(t, r, 2, 3) // the closing chunk comes behind it
	if _, left := open(t, Config{Dir: dir, Key: Key{9}}); string(left[0].Ending) != "exited" {
		t.Error("lost by a chunk behind it")
	} else {
		holds(t, left[0], 0, 3)
	}
	if err := r.Drop(3); err != nil {
		t.Fatal(err)
	}
	again, left := open(t, Config{Dir: dir, Key: Key{9}})
	if len(left) != 1 || string(left[0].Ending) != "exited" {
		t.Fatalf("lost when all chunks were stored: %v", left)
	}
	holds(t, left[0], 0, 0)
	if n, _ := again.Usage(); n != 1 {
		t.Errorf("%d recordings", n)
	}
	if err := left[0].Remove(); err != nil {
		t.Fatal(err)
	}
	if _, size := again.Usage(); size != 0 {
		t.Errorf("%d bytes when all is removed", size)
	}
	if err := r.End(make([]byte, maxEnding+1)); err == nil {
		t.Error("an ending has no bound")
	}
}
