package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// recordingStores are the implementations that the suite runs over.
func recordingStores(t *testing.T, f func(t *testing.T, r Recordings)) {
	t.Run("badger", func(t *testing.T) { f(t, openRecordings(t, t.TempDir())) })
	t.Run("memory", func(t *testing.T) { f(t, NewMemoryRecordings()) })
}

var wednesday = time.Date(2026, 11, 18, 12, 0, 0, 0, time.UTC)

func put(t *testing.T, r Recordings, m Manifest, chunks ...string) {
	t.Helper()
	err := r.PutManifest(t.Context(), m)
	for i, c := range chunks {
		err = errors.Join(err, r.Append(t.Context(), m.ID, uint64(i), []byte(c)))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func chunksIn(t *testing.T, r Recordings, id [16]byte) (all []string) {
	t.Helper()
	if err := r.Chunks(t.Context(), id, 0, func(_ uint64, c []byte) error { all = append(all, string(c)); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestChunksFollowEachOtherAndEndWithTheRecording(t *testing.T) {
	recordingStores(t, func(t *testing.T, r Recordings) {
		ctx := t.Context()
		m := Manifest{ID: [16]byte{1}, Start: wednesday, User: "u"}
		if err := r.Append(ctx, m.ID, 0, []byte("x")); !errors.Is(err, ErrNotFound) {
			t.Errorf("without a manifest: %v", err)
		}
		put(t, r, m, "a", "b")
		for _, x := range []struct {
			seq   uint64
			chunk string
			want  error
		}{{1, "b", nil}, {1, "c", ErrConflict}, {3, "d", ErrGap}, {2, "", ErrTooLarge}, {2, strings.Repeat("x", maxChunk+1), ErrTooLarge}, {2, "c", nil}} {
			if err := r.Append(ctx, m.ID, x.seq, []byte(x.chunk)); !errors.Is(err, x.want) {
				t.Errorf("chunk %d %.3q: got %v, want %v", x.seq, x.chunk, err, x.want)
			}
		}
		other := m
		other.Start = m.Start.AddDate(0, 0, 7)
		if err := r.PutManifest(ctx, other); !errors.Is(err, ErrConflict) {
			t.Errorf("another start: %v", err)
		}
		done, err := r.UpdateManifest(ctx, m.ID, func(m *Manifest) error { m.Closed = true; return nil })
		if err != nil || done.Chunks != 3 || done.Bytes == 0 {
			t.Errorf("closed with %d chunks of %d bytes, %v", done.Chunks, done.Bytes, err)
		}
		if err := r.Append(ctx, m.ID, 3, []byte("d")); !errors.Is(err, ErrClosed) {
			t.Errorf("after the close: %v", err)
		}
		if err := r.Append(ctx, m.ID, 2, []byte("c")); err != nil {
			t.Errorf("the last again: %v", err)
		}
		if got := chunksIn(t, r, m.ID); !slices.Equal(got, []string{"a", "b", "c"}) {
			t.Errorf("got %q", got)
		}
		if _, err := r.UpdateManifest(ctx, [16]byte{9}, func(*Manifest) error { return nil }); !errors.Is(err, ErrNotFound) {
			t.Errorf("update of none: %v", err)
		}
		broken := errors.New("no")
		if _, err := r.UpdateManifest(ctx, m.ID, func(m *Manifest) error { m.User = "x"; return broken }); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
		if m, err := r.Manifest(ctx, m.ID); err != nil || m.User != "u" {
			t.Errorf("after an update that failed the user is %q, %v", m.User, err)
		}
	})
}

func TestSideObjectsLiveAndDieWithTheirRecording(t *testing.T) {
	recordingStores(t, func(t *testing.T, r Recordings) {
		ctx := t.Context()
		one, two := Manifest{ID: [16]byte{1}, Start: wednesday}, Manifest{ID: [16]byte{2}, Start: wednesday.AddDate(0, 0, -7)}
		put(t, r, one, "a")
		put(t, r, two, "a")
		if err := r.PutObjects(ctx, [16]byte{3}, Index, Object{0, []byte("x")}); !errors.Is(err, ErrNotFound) {
			t.Errorf("of no recording: %v", err)
		}
		big := bytes.Repeat([]byte("0123456789"), 50_000)
		err := errors.Join(
			r.PutObjects(ctx, one.ID, Keyframes, Object{300, []byte("late")}, Object{2, big}, Object{1, []byte("first")}),
			r.PutObjects(ctx, one.ID, Keyframes, Object{1, []byte("again")}),
			r.PutObjects(ctx, one.ID, Index, Object{1, []byte("index")}),
			r.PutObjects(ctx, two.ID, Keyframes, Object{7, []byte("other")}),
		)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range []Object{{0, nil}, {0, make([]byte, MaxObject+1)}} {
			if err := r.PutObjects(ctx, one.ID, Keyframes, o); !errors.Is(err, ErrTooLarge) {
				t.Errorf("%d bytes: %v", len(o.Data), err)
			}
		}
		for _, kind := range []ObjectKind{'m', 'r', 'n', 'b', 'd', 0, '/'} {
			if err := r.PutObjects(ctx, one.ID, kind, Object{1, []byte("x")}); err == nil {
				t.Errorf("kind %q is taken", kind)
			}
		}
		list := func(id [16]byte, kind ObjectKind, from uint64) (got []string) {
			t.Helper()
			err := r.Objects(ctx, id, kind, from, func(n uint64, data []byte) error {
				got = append(got, fmt.Sprintf("%d %.5s %d", n, data, len(data)))
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			return got
		}
		if got := list(one.ID, Keyframes, 0); !slices.Equal(got, []string{"1 again 5", "2 01234 500000", "300 late 4"}) {
			t.Errorf("got %q", got)
		}
		if got := list(one.ID, Keyframes, 3); !slices.Equal(got, []string{"300 late 4"}) {
			t.Errorf("got %q", got)
		}
		if b, err := r.Object(ctx, one.ID, Keyframes, 2); err != nil || !bytes.Equal(b, big) {
			t.Errorf("got %d bytes, %v", len(b), err)
		}
		if _, err := r.Object(ctx, one.ID, Keyframes, 3); !errors.Is(err, ErrNotFound) {
			t.Errorf("got %v", err)
		}
		all := func(f Filter) (got []string) {
			t.Helper()
			err := r.ObjectsOf(ctx, f, Keyframes, func(m Manifest, n uint64, _ []byte) error {
				got = append(got, fmt.Sprintf("%d/%d", m.ID[0], n))
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			return got
		}
		if got := all(Filter{}); !slices.Equal(got, []string{"1/1", "1/2", "1/300", "2/7"}) {
			t.Errorf("got %q", got)
		}
		if got := all(Filter{Until: wednesday}); !slices.Equal(got, []string{"2/7"}) {
			t.Errorf("got %q", got)
		}
		before, err := r.Usage()
		if err != nil || before.Bytes < uint64(len(big)) {
			t.Errorf("%d bytes, %v", before.Bytes, err)
		}
		gone, err := r.Remove(ctx, one.ID, Removal{By: "user:eve", At: wednesday, Reason: "asked"})
		if err != nil || gone.Removed != nil || gone.Chunks != 1 {
			t.Errorf("removed %+v, %v", gone, err)
		}
		if got := append(list(one.ID, Keyframes, 0), list(one.ID, Index, 0)...); got != nil {
			t.Errorf("left %q", got)
		}
		if u, err := r.Usage(); err != nil || u.Bytes > 200 {
			t.Errorf("%d bytes left, %v", u.Bytes, err)
		}
		// The tombstone says who; nothing is added to it.
		m, err := r.Manifest(ctx, one.ID)
		if err != nil || m.Removed == nil || m.Removed.By != "user:eve" || m.Chunks != 1 {
			t.Errorf("got %+v, %v", m, err)
		}
		for _, err := range []error{
			r.Append(ctx, one.ID, 1, []byte("b")), r.PutObjects(ctx, one.ID, Index, Object{1, []byte("x")}),
			r.Chunks(ctx, one.ID, 0, func(uint64, []byte) error { return nil }),
		} {
			if !errors.Is(err, ErrRemoved) {
				t.Errorf("got %v", err)
			}
		}
		if err := r.PutManifest(ctx, one); err != nil {
			t.Error(err)
		}
		if m, err := r.Manifest(ctx, one.ID); err != nil || m.Removed == nil {
			t.Errorf("a manifest brought it back: %+v, %v", m, err)
		}
		again, err := r.Remove(ctx, one.ID, Removal{By: "user:mallory"})
		if err != nil || again.Removed == nil || again.Removed.By != "user:eve" {
			t.Errorf("again: %+v, %v", again.Removed, err)
		}
		if list, err := r.List(ctx, Filter{}); err != nil || len(list) != 1 {
			t.Errorf("%d listed, %v", len(list), err)
		}
		if list, err := r.List(ctx, Filter{Removed: true}); err != nil || len(list) != 2 {
			t.Errorf("%d listed with those removed, %v", len(list), err)
		}
	})
}

func TestAHeldRecordingSurvivesRetentionAndRemoval(t *testing.T) {
	recordingStores(t, func(t *testing.T, r Recordings) {
		ctx := t.Context()
		old := wednesday.AddDate(0, 0, -21)
		for i := range byte(4) {
			putClosed(t, r, Manifest{ID: [16]byte{i}, Start: old, Device: fmt.Sprint(i)}, "a", strings.Repeat("b", 3000))
			if err := r.PutObjects(ctx, [16]byte{i}, Index, Object{9, []byte("text")}); err != nil {
				t.Fatal(err)
			}
		}
		putClosed(t, r, Manifest{ID: [16]byte{9}, Start: wednesday}, "new")
		held, err := r.Hold(ctx, [16]byte{2}, &Hold{By: "user:lea", At: wednesday, Reason: "case 7"})
		if err != nil || held.Hold == nil || held.Device != "2" {
			t.Fatalf("held: %+v, %v", held, err)
		}
		if _, err := r.Hold(ctx, [16]byte{3}, &Hold{By: "user:lea"}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Remove(ctx, [16]byte{2}, Removal{}); !errors.Is(err, ErrHeld) {
			t.Errorf("removed though held: %v", err)
		}
		// The one who records does not know of holds and cannot end them.
		if err := r.PutManifest(ctx, Manifest{ID: [16]byte{2}, Start: old, Device: "2", Closed: true}); err != nil {
			t.Error(err)
		}
		for range 2 {
			if _, err := r.Retain(ctx, wednesday.AddDate(0, 0, -7)); err != nil {
				t.Fatal(err)
			}
			list, err := r.List(ctx, Filter{})
			if err != nil || len(list) != 3 {
				t.Fatalf("%d left, %v", len(list), err)
			}
		}
		m, err := r.Manifest(ctx, [16]byte{2})
		if err != nil || m.Hold == nil || m.Hold.Reason != "case 7" || m.Chunks != 2 {
			t.Errorf("got %+v, %v", m, err)
		}
		if got := chunksIn(t, r, [16]byte{2}); len(got) != 2 || len(got[1]) != 3000 {
			t.Errorf("got %q", got)
		}
		if b, err := r.Object(ctx, [16]byte{2}, Index, 9); err != nil || string(b) != "text" {
			t.Errorf("got %q, %v", b, err)
		}
		if list, err := r.List(ctx, Filter{Held: true}); err != nil || len(list) != 2 {
			t.Errorf("%d held, %v", len(list), err)
		}
		// Released, it goes with the next retention, as it would have long ago.
		if m, err := r.Hold(ctx, [16]byte{2}, nil); err != nil || m.Hold != nil {
			t.Errorf("released: %+v, %v", m, err)
		}
		expired, err := r.Retain(ctx, wednesday.AddDate(0, 0, -7))
		if err != nil || len(expired) != 1 || expired[0].Recordings != 1 || expired[0].Week != Week(old) {
			t.Errorf("expired %+v, %v", expired, err)
		}
		if _, err := r.Manifest(ctx, [16]byte{2}); !errors.Is(err, ErrNotFound) {
			t.Errorf("got %v", err)
		}
		if got := chunksIn(t, r, [16]byte{3}); len(got) != 2 {
			t.Errorf("the other held one: got %q", got)
		}
	})
}

// putClosed is put of a recording that has ended: of others nothing goes.
func putClosed(t *testing.T, r Recordings, m Manifest, chunks ...string) {
	t.Helper()
	put(t, r, m, chunks...)
	if _, err := r.UpdateManifest(t.Context(), m.ID, func(m *Manifest) error { m.Closed = true; return nil }); err != nil {
		t.Fatal(err)
	}
}

// What is still being made outlives its time, and goes on; when it is closed it goes with the others.
func TestAnOpenRecordingIsNotRemovedByRetention(t *testing.T) {
	recordingStores(t, func(t *testing.T, r Recordings) {
		ctx, old := t.Context(), wednesday.AddDate(0, 0, -21)
		put(t, r, Manifest{ID: [16]byte{1}, Start: old}, "a")
		putClosed(t, r, Manifest{ID: [16]byte{2}, Start: old}, "a")
		expired, err := r.Retain(ctx, wednesday.AddDate(0, 0, -7))
		if err != nil || len(expired) != 1 || expired[0].ID != ([16]byte{2}) {
			t.Errorf("went: %+v, %v", expired, err)
		}
		if err := r.Append(ctx, [16]byte{1}, 1, []byte("b")); err != nil {
			t.Errorf("it does not go on: %v", err)
		}
		if _, err := r.UpdateManifest(ctx, [16]byte{1}, func(m *Manifest) error { m.Closed = true; return nil }); err != nil {
			t.Fatal(err)
		}
		expired, err = r.Retain(ctx, wednesday.AddDate(0, 0, -7))
		if err != nil || len(expired) != 1 || expired[0].Recordings != 1 || expired[0].Week != Week(old) {
			t.Errorf("closed, went: %+v, %v", expired, err)
		}
	})
}

// Whoever holds a recording while retention looks at it keeps it.
func TestARecordingThatIsHeldMeanwhileStays(t *testing.T) {
	ctx, old := t.Context(), wednesday.AddDate(0, 0, -21)
	r := openRecordings(t, t.TempDir())
	for i := range byte(3) {
		putClosed(t, r, Manifest{ID: [16]byte{i + 1}, Start: old}, "a", "b")
	}
	expired, err := r.Thin(ctx, Thinning{Before: wednesday.AddDate(0, 0, -7), Over: func(m Manifest) bool {
		if m.ID == ([16]byte{2}) {
			if _, err := r.Hold(ctx, m.ID, &Hold{By: "user:lea", Reason: "case 7"}); err != nil {
				t.Error(err)
			}
		}
		return m.ID != [16]byte{3}
	}})
	if err != nil || len(expired) != 1 || expired[0].ID != ([16]byte{1}) {
		t.Errorf("went: %+v, %v", expired, err)
	}
	m, err := r.Manifest(ctx, [16]byte{2})
	if err != nil || m.Hold == nil || m.Removed != nil {
		t.Errorf("held: %+v, %v", m, err)
	}
	if got := chunksIn(t, r, [16]byte{2}); len(got) != 2 {
		t.Errorf("%d chunks of it are left", len(got))
	}
	// So of one that was held when its week went, and was released, and is held again.
	if _, err := r.Retain(ctx, wednesday.AddDate(0, 0, -7)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Hold(ctx, [16]byte{2}, nil); err != nil {
		t.Fatal(err)
	}
	expired, err = r.Thin(ctx, Thinning{Before: wednesday.AddDate(0, 0, -7), Over: func(m Manifest) bool {
		_, err := r.Hold(ctx, m.ID, &Hold{By: "user:lea", Reason: "case 7"})
		return err == nil
	}})
	if got := chunksIn(t, r, [16]byte{2}); err != nil || len(expired) != 0 || len(got) != 2 {
		t.Errorf("went: %+v, %v, with %d chunks left", expired, err, len(got))
	}
}

// A recording whose hold ends while its week goes is kept as long as its own rule says.
func TestARecordingThatIsReleasedMeanwhileIsKeptByItsRule(t *testing.T) {
	ctx, old := t.Context(), wednesday.AddDate(0, 0, -21)
	r := openRecordings(t, t.TempDir())
	putClosed(t, r, Manifest{ID: [16]byte{1}, Start: old, User: "lab"}, "a")
	putClosed(t, r, Manifest{ID: [16]byte{2}, Start: old, User: "prod"}, "a", "b")
	if _, err := r.Hold(ctx, [16]byte{2}, &Hold{By: "user:lea"}); err != nil {
		t.Fatal(err)
	}
	released := false
	for range 2 { // the release, and then nothing more
		_, err := r.Thin(ctx, Thinning{Before: wednesday.AddDate(0, 0, -7), Over: func(m Manifest) bool {
			if !released {
				released = true
				if _, err := r.Hold(ctx, [16]byte{2}, nil); err != nil {
					t.Error(err)
				}
			}
			return m.User == "lab"
		}})
		if err != nil {
			t.Fatal(err)
		}
		if got := chunksIn(t, r, [16]byte{2}); len(got) != 2 {
			t.Errorf("%d chunks of it are left", len(got))
		}
		if _, err := r.Manifest(ctx, [16]byte{1}); !errors.Is(err, ErrNotFound) {
			t.Errorf("the other: %v", err)
		}
	}
}

// Single recordings of a week go, the others stay, and a week goes as one when nothing else is left of it.
func TestThinningRemovesSingleRecordings(t *testing.T) {
	recordingStores(t, func(t *testing.T, r Recordings) {
		ctx := t.Context()
		old, older := wednesday.AddDate(0, 0, -21), wednesday.AddDate(0, 0, -28)
		for i := range byte(6) {
			putClosed(t, r, Manifest{ID: [16]byte{i + 1}, Start: old, User: []string{"lab", "prod"}[i%2], Labels: map[string]string{"env": "x"}, Roles: []string{"field"}}, "a", strings.Repeat("b", 3000))
		}
		putClosed(t, r, Manifest{ID: [16]byte{7}, Start: older, User: "lab"}, "a")
		putClosed(t, r, Manifest{ID: [16]byte{8}, Start: wednesday, User: "lab"}, "a")
		if err := r.PutObjects(ctx, [16]byte{1}, Index, Object{9, []byte("text")}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Hold(ctx, [16]byte{3}, &Hold{By: "user:lea"}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Remove(ctx, [16]byte{5}, Removal{By: "user:lea"}); err != nil {
			t.Fatal(err)
		}
		left := func() string {
			t.Helper()
			list, err := r.List(ctx, Filter{Removed: true})
			if err != nil {
				t.Fatal(err)
			}
			var ids []string
			for _, m := range list {
				ids = append(ids, fmt.Sprint(m.ID[0]))
			}
			slices.Sort(ids)
			return strings.Join(ids, " ")
		}
		thin := func(user string, skip func(string, time.Time) bool) []Expired {
			t.Helper()
			all, err := r.Thin(ctx, Thinning{Before: wednesday.AddDate(0, 0, -7), Skip: skip, Over: func(m Manifest) bool { return user == "" || m.User == user }})
			if err != nil {
				t.Fatal(err)
			}
			return all
		}
		if all := thin("lab", func(string, time.Time) bool { return true }); len(all) != 0 || left() != "1 2 3 4 5 6 7 8" {
			t.Errorf("weeks that are skipped: %v, left %s", all, left())
		}
		all := thin("lab", nil)
		if len(all) != 2 || all[0].Week != Week(older) || all[0].ID != ([16]byte{}) || all[0].Recordings != 1 ||
			all[1].Week != Week(old) || all[1].ID != ([16]byte{1}) || all[1].Manifest.User != "lab" || all[1].Manifest.Labels["env"] != "x" {
			t.Errorf("went: %+v", all)
		}
		if left() != "2 3 4 6 8" { // 3 is held
			t.Errorf("left %s", left())
		}
		if _, err := r.Object(ctx, [16]byte{1}, Index, 9); !errors.Is(err, ErrNotFound) {
			t.Errorf("its index is still there: %v", err)
		}
		if err := r.Append(ctx, [16]byte{1}, 2, []byte("late")); !errors.Is(err, ErrNotFound) {
			t.Errorf("late chunk: %v", err)
		}
		if got := chunksIn(t, r, [16]byte{2}); len(got) != 2 || len(got[1]) != 3000 {
			t.Errorf("what stays has %d chunks", len(got))
		}
		if all := thin("", nil); len(all) != 1 || all[0].ID != ([16]byte{}) || all[0].Recordings != 3 || all[0].Held != 1 {
			t.Errorf("the rest went as %+v", all)
		}
		if left() != "3 8" {
			t.Errorf("left %s", left())
		}
		if _, err := r.Hold(ctx, [16]byte{3}, nil); err != nil {
			t.Fatal(err)
		}
		if all := thin("prod", nil); len(all) != 0 {
			t.Errorf("released, and not over: %+v", all)
		}
		if all := thin("lab", nil); len(all) != 1 || left() != "8" {
			t.Errorf("released: %+v, left %s", all, left())
		}
	})
}

func TestQuotaRefusesChunksAndNothingElse(t *testing.T) {
	recordingStores(t, func(t *testing.T, r Recordings) {
		ctx := t.Context()
		put(t, r, Manifest{ID: [16]byte{1}, Start: wednesday}, strings.Repeat("a", 9000))
		r.SetQuota(10_000)
		if err := r.Append(ctx, [16]byte{1}, 1, make([]byte, 2000)); !errors.Is(err, ErrNoSpace) || !errors.Is(err, ErrQuota) {
			t.Errorf("got %v", err)
		}
		if u, err := r.Usage(); err != nil || !u.Low() || u.Full() {
			t.Errorf("got %+v, %v", u, err)
		}
		if err := r.Append(ctx, [16]byte{1}, 1, make([]byte, 500)); err != nil {
			t.Error(err)
		}
		if _, err := r.UpdateManifest(ctx, [16]byte{1}, func(m *Manifest) error { m.Closed = true; return nil }); err != nil {
			t.Error(err)
		}
		if _, err := r.Remove(ctx, [16]byte{1}, Removal{By: "x"}); err != nil {
			t.Error(err)
		}
		put(t, r, Manifest{ID: [16]byte{2}, Start: wednesday}, strings.Repeat("a", 9000))
	})
}

// A full disk refuses what grows and lets go what makes room.
func TestFullDiskRefusesRecordingsBeforeBadgerDies(t *testing.T) {
	free := uint64(1 << 30)
	r, err := OpenRecordings(t.TempDir(), Options{Free: func(string) (uint64, error) { return free, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	put(t, r, Manifest{ID: [16]byte{1}, Start: wednesday}, "a")
	put(t, r, Manifest{ID: [16]byte{2}, Start: wednesday}, "a")
	free = minFreeRecordings - 1
	if u, err := r.Usage(); err != nil || !u.Full() {
		t.Errorf("got %+v, %v", u, err)
	}
	for what, err := range map[string]error{
		"chunk": r.Append(t.Context(), [16]byte{1}, 1, []byte("b")), "new": r.PutManifest(t.Context(), Manifest{ID: [16]byte{3}, Start: wednesday}),
		"object": r.PutObjects(t.Context(), [16]byte{1}, Index, Object{1, []byte("x")}),
	} {
		if !errors.Is(err, ErrNoSpace) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := r.Remove(t.Context(), [16]byte{1}, Removal{By: "x"}); err != nil {
		t.Errorf("remove: %v", err)
	}
	free = 2*minFreeRecordings - 1
	if u, err := r.Usage(); err != nil || u.Full() || !u.Low() {
		t.Errorf("got %+v, %v", u, err)
	}
}

// With a year of weeks no more are open than memory is for, and every recording is found all the same.
func TestOldWeeksAreClosedAndFound(t *testing.T) {
	dir := t.TempDir()
	const weeks = 8
	open := func() *BadgerRecordings {
		r, err := OpenRecordings(dir, Options{OpenWeeks: 2, Free: plenty})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	opened := func(r *BadgerRecordings) int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.opened
	}
	r := open()
	for i := range byte(weeks) {
		put(t, r, Manifest{ID: [16]byte{i}, Start: wednesday.AddDate(0, 0, -7*int(i))}, "a", fmt.Sprint(i))
	}
	for range 2 {
		for i := range byte(weeks) {
			if got := chunksIn(t, r, [16]byte{i}); len(got) != 2 || got[1] != fmt.Sprint(i) {
				t.Errorf("recording %d: got %q", i, got)
			}
		}
		if _, err := r.Manifest(t.Context(), [16]byte{99}); !errors.Is(err, ErrNotFound) {
			t.Errorf("got %v", err)
		}
		if all, err := r.List(t.Context(), Filter{}); err != nil || len(all) != weeks || all[0].ID != ([16]byte{0}) {
			t.Errorf("%d listed, %v", len(all), err)
		}
		if err := r.shut(); err != nil {
			t.Error(err)
		}
		if n := opened(r); n > 2 {
			t.Errorf("%d weeks are open", n)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		r = open()
		if n := opened(r); n > 2 {
			t.Errorf("%d weeks are open after the start", n)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

// A crash in the midst of a removal leaves chunks that nobody is shown; Maintain removes them.
func TestABrokenOffRemovalIsFinished(t *testing.T) {
	dir := t.TempDir()
	r := openRecordings(t, dir)
	put(t, r, Manifest{ID: [16]byte{1}, Start: wednesday}, "a", "b")
	why := &Removal{By: "user:eve"}
	if err := r.do(&write{ctx: t.Context(), id: [16]byte{1}, remove: why}); err != nil { // what Remove does first
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = openRecordings(t, dir)
	if err := r.Chunks(t.Context(), [16]byte{1}, 0, func(uint64, []byte) error { return nil }); !errors.Is(err, ErrRemoved) {
		t.Errorf("got %v", err)
	}
	if err := r.Maintain(); err != nil {
		t.Error(err)
	}
	if u, err := r.Usage(); err != nil || u.Bytes != 0 {
		t.Errorf("%d bytes left, %v", u.Bytes, err)
	}
	if len(r.week(Week(wednesday)).unfinished()) != 0 {
		t.Error("not finished")
	}
}

// What a move of held recordings left when it was broken off is not taken for the recording, nor kept when the hold has ended.
func TestABrokenOffMoveOfHeldRecordingsIsDoneAgain(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	r := openRecordings(t, dir)
	name := Week(wednesday)
	for i := range byte(2) {
		putClosed(t, r, Manifest{ID: [16]byte{i}, Start: wednesday}, "a", "b")
		if _, err := r.Hold(ctx, [16]byte{i}, &Hold{By: "user:lea"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.copyHeld(ctx, name); err != nil { // what Retain does first
		t.Fatal(err)
	}
	if _, err := r.Hold(ctx, [16]byte{0}, nil); err != nil {
		t.Fatal(err)
	}
	if all, err := r.List(ctx, Filter{}); err != nil || len(all) != 2 || all[0].Hold != nil && all[1].Hold != nil {
		t.Errorf("listed %+v, %v", all, err)
	}
	expired, err := r.Retain(ctx, wednesday.AddDate(0, 0, 14))
	if err != nil || len(expired) != 1 || expired[0].Recordings != 1 || expired[0].Held != 1 {
		t.Errorf("expired %+v, %v", expired, err)
	}
	if _, err := r.Manifest(ctx, [16]byte{0}); !errors.Is(err, ErrNotFound) {
		t.Errorf("released and still there: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 1 || filepath.Base(left[0]) != heldDB {
		t.Errorf("left %q, %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(dir, heldDB, "MANIFEST")); err != nil {
		t.Error(err)
	}
	r = openRecordings(t, dir)
	if got := chunksIn(t, r, [16]byte{1}); len(got) != 2 {
		t.Errorf("got %q", got)
	}
}

// A list of what few match of many gives the newest of those, as many as wanted, wherever they lie.
func TestAListIsOfTheNewestThatMatch(t *testing.T) {
	recordingStores(t, func(t *testing.T, r Recordings) {
		const n = 3 * slackListed
		for i := range n { // in two weeks, and the order of their ids is not that of their starts
			id := [16]byte{0xab, byte(i % 3), byte(i * 37)}
			put(t, r, Manifest{ID: id, Start: wednesday.Add(time.Duration(i-n/2) * 2 * time.Hour), User: []string{"ann", "bob"}[i%2], Login: fmt.Sprint(i % 5)})
		}
		list := func(f Filter) (got []int) {
			t.Helper()
			all, err := r.List(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range all {
				got = append(got, int(m.Start.Sub(wednesday)/(2*time.Hour))+n/2)
			}
			return got
		}
		all := func(match func(i int) bool) (want []int) {
			for i := n - 1; i >= 0; i-- {
				if match(i) {
					want = append(want, i)
				}
			}
			return want
		}
		third := func(m Manifest) bool { return m.Login == "3" }
		for _, c := range []struct {
			what string
			f    Filter
			want []int
		}{
			{"all", Filter{}, all(func(int) bool { return true })},
			{"the newest", Filter{Limit: 5}, all(func(int) bool { return true })[:5]},
			{"most, beyond a week", Filter{Limit: n - 2}, all(func(int) bool { return true })[:n-2]},
			{"of a login", Filter{Match: third}, all(func(i int) bool { return i%5 == 3 })},
			{"of a login, the newest", Filter{Match: third, Limit: 3}, all(func(i int) bool { return i%5 == 3 })[:3]},
			{"of a user and a login, the newest", Filter{User: "bob", Match: third, Limit: 2}, all(func(i int) bool { return i%5 == 3 && i%2 == 1 })[:2]},
			{"by the id's beginning", Filter{IDPrefix: "ab01"}, all(func(i int) bool { return i%3 == 1 })},
			{"by half a byte of it", Filter{IDPrefix: "ab0"}, all(func(int) bool { return true })},
			{"by that, the newest", Filter{IDPrefix: "ab02", Limit: 4}, all(func(i int) bool { return i%3 == 2 })[:4]},
			{"by a whole id", Filter{IDPrefix: "ab0125" + strings.Repeat("0", 26)}, []int{1}},
			{"by too much of an id", Filter{IDPrefix: "ab0125" + strings.Repeat("0", 28)}, nil},
			{"by another beginning", Filter{IDPrefix: "ac"}, nil},
			{"by no digits", Filter{IDPrefix: "ab0x"}, nil},
			{"by neither", Filter{IDPrefix: "xyz"}, nil},
			{"by capitals", Filter{IDPrefix: "AB01"}, nil},
		} {
			if got := list(c.f); !slices.Equal(got, c.want) {
				t.Errorf("%s: got %v, want %v", c.what, got, c.want)
			}
		}
	})
}

// Who knows how an id begins waits for no week to be opened in which none begins so.
func TestABeginningOfAnIDOpensNoWeekInVain(t *testing.T) {
	r, err := OpenRecordings(t.TempDir(), Options{OpenWeeks: 1, Free: plenty})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	for i := range byte(8) {
		put(t, r, Manifest{ID: [16]byte{i, 0xcd, 0xef}, Start: wednesday.AddDate(0, 0, -7*int(i))}, "a")
	}
	if err := r.shut(); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	used := map[string]time.Time{}
	for name, w := range r.weeks {
		used[name] = w.used
	}
	r.mu.Unlock()
	for _, prefix := range []string{"05cdef", "05cdef0", "05cdef" + strings.Repeat("0", 26), "05c"} {
		if all, err := r.List(t.Context(), Filter{IDPrefix: prefix}); err != nil || len(all) != 1 || all[0].ID[0] != 5 {
			t.Errorf("%s: %d listed, %v", prefix, len(all), err)
		}
	}
	opened := 0
	r.mu.Lock()
	for name, w := range r.weeks {
		if !w.used.Equal(used[name]) {
			opened++
		}
	}
	r.mu.Unlock()
	if opened > 2 { // its own, and the one that was open
		t.Errorf("%d weeks were opened", opened)
	}
}
