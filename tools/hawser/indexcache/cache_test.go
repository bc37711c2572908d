package indexcache

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hawser/recorder"
	"hawser/recorder/index"
)

var (
	key  = [32]byte{7}
	head = recorder.Header{ID: [16]byte{1, 2}, Keys: [][]byte{[]byte("wrapped"), []byte("again")}}
)

func open([][]byte) ([32]byte, error) { return key, nil }

func sample(t testing.TB) *Index {
	t.Helper()
	x := new(Index)
	if err := index.OfLines([]string{"iptables -F INPUT", "nothing else", "IPTABLES -L"}, x.Put); err != nil {
		t.Fatal(err)
	}
	return x
}

func cache(t testing.TB) (*Cache, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "cache", "index")
	c, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, dir
}

func TestAnIndexIsFoundAgainByWhoHasTheKey(t *testing.T) {
	c, dir := cache(t)
	if _, err := c.Get(head.ID, "sha256:1", open); !errors.Is(err, ErrNone) {
		t.Errorf("before there is one: %v", err)
	}
	if err := c.Put(head, "sha256:1", key, sample(t)); err != nil {
		t.Fatal(err)
	}
	x, err := c.Get(head.ID, "sha256:1", func(wrapped [][]byte) ([32]byte, error) {
		if len(wrapped) != 2 || string(wrapped[1]) != "again" {
			t.Errorf("asked with %q", wrapped)
		}
		return key, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	q, _ := index.NewQuery("iptables", false)
	if found, all := x.Find(q, 1); all != 2 || len(found) != 1 || found[0].Text != "iptables -F INPUT" {
		t.Errorf("%d: %+v", all, found)
	}
	name := filepath.Join(dir, "01020000000000000000000000000000")
	b, err := os.ReadFile(name)
	if st, _ := os.Stat(name); err != nil || st.Mode() != 0o600 || bytes.Contains(b, []byte("tables")) {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	no := errors.New("not yours")
	if _, err := c.Get(head.ID, "sha256:1", func([][]byte) ([32]byte, error) { return key, no }); err != no {
		t.Errorf("without the key: %v", err)
	}
	// One that went on since is made anew, and so is a damaged one, or one under another's name.
	if _, err := c.Get(head.ID, "sha256:2", open); !errors.Is(err, ErrNone) {
		t.Errorf("of another end: %v", err)
	}
	if _, err := c.Get(head.ID, "sha256:1", func([][]byte) (k [32]byte, err error) { return k, nil }); !errors.Is(err, ErrNone) {
		t.Errorf("by another key: %v", err)
	}
	for i := range b {
		b[i] ^= 1
		if x, err := decode(b, head.ID, "sha256:1", open); err == nil {
			t.Fatalf("byte %d changed: %d texts", i, len(x.Text))
		}
		b[i] ^= 1
	}
	if err := os.Rename(name, filepath.Join(dir, "02000000000000000000000000000000")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get([16]byte{2}, "sha256:1", open); !errors.Is(err, ErrNone) {
		t.Errorf("under another's name: %v", err)
	}
}

func TestWhatWasUsedLeastLatelyGoes(t *testing.T) {
	c, dir := cache(t)
	for i := range byte(4) {
		h := head
		h.ID = [16]byte{i}
		if err := c.Put(h, "sha256:1", key, sample(t)); err != nil {
			t.Fatal(err)
		}
		at := time.Unix(1000+int64(i), 0)
		if err := c.root.Chtimes(name(h.ID), at, at); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Get([16]byte{0}, "sha256:1", open); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(filepath.Join(dir, name([16]byte{0})))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.trim(2 * st.Size()); err != nil {
		t.Fatal(err)
	}
	for i, want := range []error{nil, fs.ErrNotExist, fs.ErrNotExist, nil} {
		if _, err := os.Stat(filepath.Join(dir, name([16]byte{byte(i)}))); !errors.Is(err, want) {
			t.Errorf("%d: %v, want %v", i, err, want)
		}
	}
}

func TestWhatIsRemovedOrHalfWrittenGoes(t *testing.T) {
	c, dir := cache(t)
	if err := c.Put(head, "sha256:1", key, sample(t)); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it need not be there
		if err := c.Remove(head.ID); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Get(head.ID, "sha256:1", open); !errors.Is(err, ErrNone) {
		t.Errorf("removed: %v", err)
	}
	for name, age := range map[string]time.Duration{"old.new": 2 * freshLife, "young.new": 0} {
		name = filepath.Join(dir, name)
		at := time.Now().Add(-age)
		if err := errors.Join(os.WriteFile(name, nil, 0o600), os.Chtimes(name, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Trim(); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != "young.new" {
		t.Errorf("left: %v, %v", left, err)
	}
}

func FuzzIndex(f *testing.F) {
	b, err := encode(head, "sha256:1", key, sample(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, false)
	f.Add([]byte("i\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x02ab"), true)
	q, _ := index.NewQuery("iptables", false)
	f.Fuzz(func(_ *testing.T, b []byte, inside bool) {
		x, err := (*Index)(nil), error(nil)
		if inside {
			x, err = parse(b)
		} else {
			x, err = decode(b, head.ID, "sha256:1", open)
		}
		if err == nil {
			x.Find(q, 3)
		}
	})
}
