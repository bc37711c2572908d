package store

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// fill makes a state with tables on two levels, a changelog that was cut and a live log, as a service has after days, and leaves it open.
func fill(dir string) (*BadgerState, error) {
	for n := 0; ; n++ {
		s, err := OpenState(dir, Options{Keep: 50})
		if err != nil {
			return nil, err
		}
		var wg sync.WaitGroup
		errs := make(chan error, 8)
		for w := range 8 {
			wg.Go(func() {
				for i := range 20 {
					if _, err := s.Txn(context.Background(), nil, []Op{Put(fmt.Sprintf("role/%d-%d", w, i), []byte(filled(n, w, i)))}); err != nil {
						errs <- err
						return
					}
				}
			})
		}
		wg.Wait()
		select {
		case err := <-errs:
			return nil, errors.Join(err, s.Close())
		default:
		}
		if n == 2 {
			return s, nil
		}
		// Close writes the memtable as a table.
		if err := s.Close(); err != nil {
			return nil, err
		}
	}
}

func filled(n, w, i int) string { return strings.Repeat(fmt.Sprintf("%d/%d/%d ", n, w, i), 60) }

// wanted is what fill leaves.
func wanted() map[string]string {
	want := map[string]string{}
	for w := range 8 {
		for i := range 20 {
			want[fmt.Sprintf("role/%d-%d", w, i)] = filled(2, w, i)
		}
	}
	return want
}

// fillUntilKilled is the child of TestDamagedStateOpensWholeOrNotAtAll.
func fillUntilKilled(dir string) {
	_, err := fill(dir)
	fmt.Println("filled:", err)
	select {}
}

// fillAndKill is fill in a process that is killed then.
func fillAndKill(t *testing.T, dir string) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "HAWSER_TEST_FILL="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	_ = child.Process.Kill()
	_ = child.Wait() // it was killed
	if err != nil || line != "filled: <nil>\n" {
		t.Fatalf("got %q, %v", line, err)
	}
}

// copyDir copies files with their holes: a log is mostly one.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.MkdirAll(to, 0o700); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, name)
		target := filepath.Join(to, rel)
		if d.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		in, err := os.Open(name)
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.Create(target)
		if err != nil {
			return err
		}
		defer out.Close()
		size, err := in.Seek(0, io.SeekEnd)
		if err != nil {
			return err
		}
		for at := int64(0); at < size; {
			begin, err := in.Seek(at, unix.SEEK_DATA)
			if errors.Is(err, unix.ENXIO) {
				break
			}
			if err != nil {
				return err
			}
			end, err := in.Seek(begin, unix.SEEK_HOLE)
			if err != nil {
				return err
			}
			if _, err := io.Copy(io.NewOffsetWriter(out, begin), io.NewSectionReader(in, begin, end-begin)); err != nil {
				return err
			}
			at = end
		}
		return out.Truncate(size)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// used is the length of a file without the zeros at its end.
func used(t *testing.T, name string) int {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 8<<20)) // no file of the test has more
	if err != nil {
		t.Fatal(err)
	}
	return len(bytes.TrimRight(b, "\x00"))
}

// Whatever byte of whatever file is flipped, and wherever a file is cut: everything acknowledged is there, or nothing opens and the
// message names the restore command.
func TestDamagedStateOpensWholeOrNotAtAll(t *testing.T) {
	for _, closed := range []bool{true, false} {
		t.Run(fmt.Sprintf("closed=%v", closed), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "state")
			want := wanted()
			if closed {
				s, err := fill(dir)
				if err == nil {
					err = s.Close()
				}
				if err != nil {
					t.Fatal(err)
				}
			} else {
				fillAndKill(t, dir)
			}
			var files []string
			err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
				if err == nil && !d.IsDir() {
					rel, _ := filepath.Rel(dir, name)
					files = append(files, rel)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			offsets := 5
			if os.Getenv("HAWSER_LONG") != "" {
				offsets = 80 // Badger keeps goroutines and memory of each database that it could not open: 200 take 8 GB
			}
			rnd := rand.New(rand.NewPCG(1, 2))
			opened, refused := 0, 0
			for _, file := range files {
				n := used(t, filepath.Join(dir, file))
				type damage struct {
					what string
					do   func(f *os.File) error
				}
				damages := []damage{{"removed", nil}}
				for i := range offsets {
					if n == 0 {
						break
					}
					at := int64(rnd.IntN(n))
					switch i {
					case 0:
						at = 0
					case 1:
						at = int64(n) - 1
					}
					damages = append(damages,
						damage{fmt.Sprintf("byte %d of %d flipped", at, n), func(f *os.File) error {
							b := []byte{0}
							if _, err := f.ReadAt(b, at); err != nil {
								return err
							}
							b[0] ^= 1 << rnd.IntN(8)
							_, err := f.WriteAt(b, at)
							return err
						}},
						damage{fmt.Sprintf("cut at %d of %d", at, n), func(f *os.File) error { return f.Truncate(at) }})
				}
				for _, d := range damages {
					what := file + " " + d.what
					bad := filepath.Join(t.TempDir(), "bad")
					copyDir(t, dir, bad)
					name := filepath.Join(bad, file)
					if d.do == nil {
						if err := os.Remove(name); err != nil {
							t.Fatal(err)
						}
					} else {
						f, err := os.OpenFile(name, os.O_RDWR, 0)
						if err != nil {
							t.Fatal(err)
						}
						if err := errors.Join(d.do(f), f.Close()); err != nil {
							t.Fatal(err)
						}
					}
					s, err := OpenState(bad, Options{Keep: 50})
					if err != nil {
						refused++
						if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "backup restore") {
							t.Errorf("%s: %v", what, err)
						}
						// A second try must not take what the first left for whole.
						if s, err = OpenState(bad, Options{Keep: 50}); err != nil {
							os.RemoveAll(bad)
							continue
						}
					} else {
						opened++
					}
					kvs, _, err := s.Range(t.Context(), "", "", 0)
					if err != nil || len(kvs) != len(want) {
						t.Errorf("SAFETY: %s: opened with %d records of %d, %v", what, len(kvs), len(want), err)
					}
					for _, kv := range kvs {
						if want[kv.Key] != string(kv.Value) {
							t.Errorf("SAFETY: %s: opened with another %s", what, kv.Key)
							break
						}
					}
					if _, err := s.Txn(t.Context(), nil, []Op{Put("after", nil)}); err != nil {
						t.Errorf("%s: opened, but: %v", what, err)
					}
					if err := s.Close(); err != nil {
						t.Errorf("%s: close: %v", what, err)
					}
					os.RemoveAll(bad)
				}
			}
			if refused == 0 || opened == 0 {
				t.Errorf("opened %d times and refused %d times: the test damages nothing, or all", opened, refused)
			}
			t.Logf("%d files: opened whole %d times, refused %d times", len(files), opened, refused)
		})
	}
}

func TestStateIsOpenInOneProcessAtATime(t *testing.T) {
	dir := t.TempDir()
	openTest(t, dir, Options{})
	if s, err := OpenState(dir, Options{}); !errors.Is(err, ErrInUse) {
		t.Errorf("got %v, %v", s, err)
	}
}

func TestRestoredStateGoesOnAtItsRevision(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	left := 3000
	const rev = 1 << 33
	err := RestoreState(dir, Options{}, rev, func() (KV, bool, error) {
		if left == 0 {
			return KV{}, false, nil
		}
		left--
		return KV{Key: fmt.Sprintf("k/%04d", left), Value: make([]byte, 500), CreateRev: 3, ModRev: 9}, true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 2 { // and after it was closed too
		s := openTest(t, dir, Options{})
		kvs, at, err := s.Range(t.Context(), "", "", 0)
		if err != nil || len(kvs) != 3000+n || at < rev || kvs[0].ModRev != rev {
			t.Fatalf("got %d records at %d, %v", len(kvs), at, err)
		}
		if _, err := s.Watch(t.Context(), "", rev-1); !errors.Is(err, ErrCompacted) {
			t.Errorf("a watcher from before: %v", err)
		}
		if next := txn(t, s, nil, Put("new", nil)); next != at+1 {
			t.Errorf("got revision %d after %d", next, at)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := RestoreState(dir, Options{}, rev, func() (KV, bool, error) { return KV{}, false, nil }); err == nil {
		t.Error("restored over what was there")
	}
	// One that was broken off does not open as a state.
	half := filepath.Join(t.TempDir(), "half")
	broken := errors.New("broken off")
	n := 0
	err = RestoreState(half, Options{}, rev, func() (KV, bool, error) {
		if n++; n > 2000 {
			return KV{}, false, broken
		}
		return KV{Key: fmt.Sprint(n), Value: make([]byte, 500)}, true, nil
	})
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if s, err := OpenState(half, Options{}); !errors.Is(err, ErrDamaged) {
		t.Errorf("half of it opened: %v, %v", s, err)
	}
}

func TestMaintainGivesSpaceBackAndLosesNothing(t *testing.T) {
	dir := t.TempDir()
	want := wanted()
	s, err := fill(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if err := s.Maintain(); err != nil {
		t.Fatal(err)
	}
	kvs, _, err := s.Range(t.Context(), "", "", 0)
	if err != nil || len(kvs) != len(want) {
		t.Errorf("got %d records of %d, %v", len(kvs), len(want), err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Maintain(); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}
