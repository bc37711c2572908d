package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAWeekEndsOnItsSunday(t *testing.T) {
	day := time.Date(2019, 12, 1, 13, 0, 0, 0, time.UTC)
	for range 3000 {
		end, ok := weekEnd(Week(day))
		if !ok || !end.After(day) || end.Sub(day) > 7*24*time.Hour || end.Weekday() != time.Monday || Week(end.Add(-time.Second)) != Week(day) {
			t.Fatalf("%v is in %s, which ends %v", day, Week(day), end)
		}
		day = day.AddDate(0, 0, 1)
	}
	for _, name := range []string{"", "2026-W00", "2026-W54", "removed-2026-W01", "LOCK"} {
		if _, ok := weekEnd(name); ok {
			t.Errorf("%q is a week", name)
		}
	}
}

func openRecordings(t *testing.T, dir string) *BadgerRecordings {
	t.Helper()
	r, err := OpenRecordings(dir, Options{Free: plenty})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func TestRetentionRemovesWholeWeeksAndIsNotHeldUpByReaders(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	r := openRecordings(t, dir)
	start := time.Date(2026, 11, 18, 12, 0, 0, 0, time.UTC) // a Wednesday
	for i := range 5 {
		m := Manifest{ID: [16]byte{byte(i + 1)}, Start: start.AddDate(0, 0, -7*i), User: "u", Device: "d"}
		err := errors.Join(r.PutManifest(ctx, m), r.Append(ctx, m.ID, 0, []byte("chunk")))
		m.Closed = true
		if err = errors.Join(err, r.PutManifest(ctx, m)); err != nil {
			t.Fatal(err)
		}
	}
	// Somebody reads the oldest while it is removed.
	reading, readOn, read := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		read <- r.Chunks(ctx, [16]byte{5}, 0, func(_ uint64, c []byte) error {
			close(reading)
			<-readOn
			if string(c) != "chunk" {
				return fmt.Errorf("read %q", c)
			}
			return nil
		})
	}()
	<-reading
	expired, err := r.Retain(ctx, start.AddDate(0, 0, -14)) // amid the third week, which stays
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range expired {
		names = append(names, e.Week)
	}
	// It is gone for others at once, and stays for him who reads.
	if _, err := r.Manifest(ctx, [16]byte{5}); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "2026-W43")); err != nil {
		t.Errorf("removed under a reader: %v", err)
	}
	close(readOn)
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(names, " "); got != "2026-W43 2026-W44" {
		t.Errorf("removed %q", got)
	}
	// What comes late for a removed recording is not stored as half of one.
	if err := r.Append(ctx, [16]byte{5}, 1, []byte("late")); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
	all, err := r.List(ctx, Filter{})
	if err != nil || len(all) != 3 {
		t.Errorf("got %d recordings, %v", len(all), err)
	}
	if err := r.Maintain(); err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	// As a crash in the midst of a removal leaves it.
	if err := os.Rename(filepath.Join(dir, "2026-W45"), filepath.Join(dir, "removed-2026-W45")); err != nil {
		t.Fatal(err)
	}
	openRecordings(t, dir)
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 2 {
		t.Errorf("left %q, %v", left, err)
	}
}

// A damaged week opens with every chunk that was acknowledged, says so when one is read, or does not open; it never gives other bytes or
// takes a recording for shorter than it was.
func TestDamagedRecordingsAreNeverTakenForWhole(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	start := time.Date(2026, 11, 18, 12, 0, 0, 0, time.UTC)
	chunk := func(id, i int) []byte {
		return bytes.Repeat(fmt.Appendf(nil, "%d.%d ", id, i), 200+100*(i%7)) // some in the tables, some in the value log
	}
	const recordings, chunks = 3, 40
	for round := range 2 {
		r := openRecordings(t, dir)
		for id := range recordings {
			m := Manifest{ID: [16]byte{byte(id + 1)}, Start: start, User: "u", Device: "d"}
			if err := r.PutManifest(ctx, m); err != nil {
				t.Fatal(err)
			}
			for i := round * chunks / 2; i < (round+1)*chunks/2; i++ {
				if err := r.Append(ctx, m.ID, uint64(i), chunk(id, i)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	offsets := 4
	if os.Getenv("HAWSER_LONG") != "" {
		offsets = 60
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	opened, refused, unread := 0, 0, 0
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
	for _, file := range files {
		n := used(t, filepath.Join(dir, file))
		for i := range 2 * offsets {
			if n == 0 {
				break
			}
			at := int64(rnd.IntN(n))
			what := fmt.Sprintf("%s cut at %d of %d", file, at, n)
			bad := filepath.Join(t.TempDir(), "bad")
			copyDir(t, dir, bad)
			f, err := os.OpenFile(filepath.Join(bad, file), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			if i%2 == 0 {
				what = fmt.Sprintf("%s byte %d of %d flipped", file, at, n)
				b := []byte{0}
				if _, err := f.ReadAt(b, at); err != nil {
					t.Fatal(err)
				}
				b[0] ^= 1 << rnd.IntN(8)
				if _, err := f.WriteAt(b, at); err != nil {
					t.Fatal(err)
				}
			} else if err := f.Truncate(at); err != nil {
				t.Fatal(err)
			}
			f.Close()
			r, err := OpenRecordings(bad, Options{Free: plenty})
			if err != nil {
				refused++
				if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "backup restore") || !strings.Contains(err.Error(), "away") {
					t.Errorf("%s: %v", what, err)
				}
				os.RemoveAll(bad)
				continue
			}
			whole := true
			for id := range recordings {
				next := 0
				err := r.Chunks(ctx, [16]byte{byte(id + 1)}, 0, func(seq uint64, c []byte) error {
					if int(seq) != next || !bytes.Equal(c, chunk(id, next)) {
						t.Errorf("SAFETY: %s: chunk %d of recording %d is another", what, seq, id)
					}
					next++
					return nil
				})
				if err == nil && next != chunks {
					t.Errorf("SAFETY: %s: recording %d ends after %d of %d chunks, without an error", what, id, next, chunks)
				}
				whole = whole && err == nil
			}
			if whole {
				opened++
			} else {
				unread++
			}
			if err := r.Close(); err != nil {
				t.Errorf("%s: close: %v", what, err)
			}
			os.RemoveAll(bad)
		}
	}
	t.Logf("%d files: whole %d times, an error at reading %d times, refused %d times", len(files), opened, unread, refused)
}
