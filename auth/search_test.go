package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"testing"
	"time"

	"hawser/auth/api"
	"hawser/auth/policy"
	"hawser/auth/store"
	"hawser/recorder"
	"hawser/recorder/index"
	"hawser/recorder/index/indextest"
)

// putRecording stores a session's recording, closed.
func putRecording(t testing.TB, r store.Recordings, id byte, user string, start time.Time, seed uint64) {
	t.Helper()
	m := store.Manifest{ID: [16]byte{id}, Start: start, User: user, Device: "gw-1", Login: "root", Kind: "shell", Way: "hub"}
	if err := r.PutManifest(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	chunks := indextest.NewSession(seed).Record(m.ID, start, 3*time.Minute)
	if err := r.Append(t.Context(), m.ID, 0, chunks...); err != nil {
		t.Fatal(err)
	}
	m.Closed, m.Complete = true, true
	if err := r.PutManifest(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}

// searcher is a Server with no more than a search needs.
func searcher(r store.Recordings) *Server {
	s := &Server{recordings: r, view: newView(), hubs: newHubTable(), searching: make(chan struct{}, searches), log: slog.New(slog.DiscardHandler)}
	s.indexing = newIndexing(r, s.log)
	return s
}

// indexAll makes the indexes that are wanted.
func indexAll(t testing.TB, x *indexing) {
	t.Helper()
	x.findUnfinished(t.Context())
	for {
		id, ok := x.take()
		if !ok {
			return
		}
		if err := x.index(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		x.done()
	}
}

func searchAs(t testing.TB, s *Server, user, scope, text string, r *api.RecordingFilter) *api.SearchRecordingsResponse {
	t.Helper()
	c := caller{roles: []policy.Role{{Name: "r", Allow: policy.Rule{Recordings: scope}}}}
	c.id.Name = user
	f, err := s.filterRecordings(c, r)
	if err != nil {
		t.Fatal(err)
	}
	q, err := index.NewQuery(text, false)
	if err != nil {
		t.Fatal(err)
	}
	if f.none {
		return &api.SearchRecordingsResponse{}
	}
	res, err := s.search(t.Context(), q, f, 1000, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// What was closed for abandoned, and goes on, is searchable to its end; until then its index is not taken for whole.
func TestARecordingThatGoesOnIsIndexedToItsEnd(t *testing.T) {
	ctx, s := t.Context(), searcher(store.NewMemoryRecordings())
	told := 0
	s.indexing.closed = func(context.Context, store.Manifest) { told++ }
	m := store.Manifest{ID: [16]byte{1}, Start: time.Now().Add(-time.Hour), User: "alice", Device: "gw-1", Login: "root", Kind: "shell", Way: "hub"}
	c := indextest.NewChunks(m.ID, m.Start, 80, 24)
	for i := range 10 {
		c.Record(time.Duration(i)*time.Minute, recorder.RecordStdout, fmt.Appendf(nil, "minute number-%d.\r\n", i))
	}
	chunks := c.Close()
	closed := func(is, complete bool) {
		t.Helper()
		if _, err := s.recordings.UpdateManifest(ctx, m.ID, func(m *store.Manifest) error {
			m.Closed, m.Complete, m.Abandoned = is, complete, is && !complete
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	found := func(text string) (lines int, unindexed uint32) {
		t.Helper()
		res := searchAs(t, s, "ann", policy.ScopeAll, text, nil)
		return len(res.Recordings), uint32(res.Unindexed)
	}
	if err := errors.Join(s.recordings.PutManifest(ctx, m), s.recordings.Append(ctx, m.ID, 0, chunks[:5]...)); err != nil {
		t.Fatal(err)
	}
	closed(true, false)
	indexAll(t, s.indexing)
	if n, un := found("number-2."); n != 1 || un != 0 {
		t.Errorf("before it went on: %d, %d not indexed", n, un)
	}
	closed(false, false)
	if err := s.recordings.Append(ctx, m.ID, 5, chunks[5:]...); err != nil {
		t.Fatal(err)
	}
	if _, un := found("number-2."); un != 1 {
		t.Error("half an index is taken for whole")
	}
	closed(true, true)
	indexAll(t, s.indexing)
	for _, text := range []string{"number-0.", "number-2.", "number-9."} {
		if n, un := found(text); n != 1 || un != 0 {
			t.Errorf("%s: %d, %d not indexed", text, n, un)
		}
	}
	if told != 2 {
		t.Errorf("the end was told %d times, want one for each", told)
	}
	indexAll(t, s.indexing)
	if told != 2 {
		t.Error("it is indexed again though there is nothing new")
	}
}

// A search answers of what the caller may replay, newest first, and of nothing else.
func TestSearchFindsWhatTheCallerMayReplay(t *testing.T) {
	s := searcher(store.NewMemoryRecordings())
	now := time.Now()
	putRecording(t, s.recordings, 1, "alice", now.Add(-48*time.Hour), 1)
	putRecording(t, s.recordings, 2, "bob", now.Add(-time.Hour), 2)
	if res := searchAs(t, s, "ann", policy.ScopeAll, "root@", nil); len(res.Recordings) != 0 || res.Unindexed != 2 {
		t.Errorf("not indexed: %v", res)
	}
	indexAll(t, s.indexing)
	for _, row := range []struct {
		user, scope, text string
		filter            *api.RecordingFilter
		want              string
	}{
		{"ann", policy.ScopeAll, "ROOT@", nil, "bob alice"},
		{"ann", policy.ScopeAll, "no such text", nil, ""},
		{"alice", policy.ScopeOwn, "root@", nil, "alice"},
		{"alice", policy.ScopeOwn, "root@", &api.RecordingFilter{User: "bob"}, ""},
		{"alice", policy.ScopeNone, "root@", nil, ""},
		{"alice", "", "root@", nil, ""},
		{"ann", policy.ScopeAll, "root@", &api.RecordingFilter{User: "alice"}, "alice"},
		{"ann", policy.ScopeAll, "root@", &api.RecordingFilter{SinceUnixNano: now.Add(-2 * time.Hour).UnixNano()}, "bob"},
		{"ann", policy.ScopeAll, "root@", &api.RecordingFilter{UntilUnixNano: now.Add(-2 * time.Hour).UnixNano()}, "alice"},
		{"ann", policy.ScopeAll, "root@", &api.RecordingFilter{Login: "other"}, ""},
		{"ann", policy.ScopeAll, "root@", &api.RecordingFilter{Id: "020000"}, "bob"},
		{"ann", policy.ScopeAll, "root@", &api.RecordingFilter{Selectors: []string{"site=ber"}}, ""},
	} {
		got := ""
		for _, r := range searchAs(t, s, row.user, row.scope, row.text, row.filter).Recordings {
			if got != "" {
				got += " "
			}
			got += r.Recording.User
			last := int64(-1)
			for _, m := range r.Matches {
				if m.OffsetNanos < last || m.AtUnixNano != r.Recording.StartUnixNano+m.OffsetNanos {
					t.Errorf("a line at %d after one at %d", m.OffsetNanos, last)
				}
				last = m.OffsetNanos
			}
			if int(r.All) != len(r.Matches) || len(r.Matches) == 0 {
				t.Errorf("%d of %d lines", len(r.Matches), r.All)
			}
		}
		if got != row.want {
			t.Errorf("%s (%s) searches %q with %v: %q, want %q", row.user, row.scope, row.text, row.filter, got, row.want)
		}
	}
}

// A recording that grows is searchable as far as it was indexed, and its index goes on from there, another run of the service too.
func TestIndexGoesOnWhereItWas(t *testing.T) {
	s := searcher(store.NewMemoryRecordings())
	m := store.Manifest{ID: [16]byte{7}, Start: time.Now().Add(-time.Hour), User: "alice"}
	if err := s.recordings.PutManifest(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	chunks := indextest.NewSession(7).Record(m.ID, m.Start, 3*time.Minute)
	lines := 0
	for end := 0; end < len(chunks); {
		from := end
		end = min(end+len(chunks)/3+1, len(chunks))
		if err := s.recordings.Append(t.Context(), m.ID, uint64(from), chunks[from:end]...); err != nil {
			t.Fatal(err)
		}
		s.indexing = newIndexing(s.recordings, s.log)
		s.indexing.grew(m.ID, false)
		s.indexing.after[m.ID] = time.Now().Add(-time.Second)
		indexAll(t, s.indexing)
		res := searchAs(t, s, "ann", policy.ScopeAll, "root@", nil)
		if len(res.Recordings) != 1 || int(res.Recordings[0].All) <= lines || res.Unindexed != 1 {
			t.Fatalf("after %d of %d chunks: %v", end, len(chunks), res)
		}
		lines = int(res.Recordings[0].All)
	}
	if _, err := s.recordings.UpdateManifest(t.Context(), m.ID, func(m *store.Manifest) error { m.Closed = true; return nil }); err != nil {
		t.Fatal(err)
	}
	indexAll(t, s.indexing)
	if res := searchAs(t, s, "ann", policy.ScopeAll, "root@", nil); res.Unindexed != 0 || int(res.Recordings[0].All) < lines {
		t.Errorf("at its end: %v", res)
	}
}

// soughtWords are searched for in the recordings of putThousandHours. The filters tell of three letters: of two each recording is looked through.
var soughtWords = []string{"xylophone", "iptables -F", "qz", "certificate"}

// putThousandHours stores 1,000 recordings of an hour each, with 200 MB of text, and returns the size of their indexes.
func putThousandHours(t testing.TB, r store.Recordings, device string) (size int) {
	t.Helper()
	now := time.Now()
	for i := range 1000 {
		m := store.Manifest{ID: [16]byte{byte(i), byte(i >> 8)}, Start: now.Add(-time.Duration(i) * time.Hour), User: "alice", Device: "gw-1", DeviceUUID: device}
		if err := r.PutManifest(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		if err := r.Append(t.Context(), m.ID, 0, []byte("chunk")); err != nil {
			t.Fatal(err)
		}
		if m.Closed = true; r.PutManifest(t.Context(), m) != nil { // what is open is counted anew each time
			t.Fatal("not closed")
		}
		lines := indextest.NewSession(uint64(i)).Lines(200 << 10)
		err := index.OfLines(lines, func(o index.Object) error {
			size += len(o.Data)
			return r.PutObjects(t.Context(), m.ID, store.ObjectKind(o.Kind), store.Object{N: o.N, Data: o.Data})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return size
}

// The whole way of a search by RPC, with a label of the device and a beginning, through 1,000 hours: a word takes less than a second in the median.
func TestAThousandHoursAreSearchedInASecond(t *testing.T) {
	if os.Getenv("HAWSER_LONG") == "" || raceEnabled {
		t.Skip("takes the time of its process; make test-long runs it by itself, without the race detector")
	}
	b := start(t)
	h := b.hub(t)
	gw, _ := b.device(t, h, "gw")
	if _, err := b.admin.Device.LabelDevices(t.Context(), connectRequest(&api.LabelDevicesRequest{Devices: []string{"gw"}, Set: []*api.Label{{Key: "site", Value: "ber"}}})); err != nil {
		t.Fatal(err)
	}
	putThousandHours(t, b.recordings, gw.Uuid)
	filter := &api.RecordingFilter{SinceUnixNano: time.Now().Add(-1001 * time.Hour).UnixNano(), Selectors: []string{"site=ber"}}
	for _, text := range soughtWords {
		var took []time.Duration
		lines := 0
		for range 9 {
			begun := time.Now()
			res, err := b.admin.Search.SearchRecordings(t.Context(), connectRequest(&api.SearchRecordingsRequest{Text: text, Filter: filter, Limit: 1000, PerRecording: 1000}))
			if err != nil {
				t.Fatal(err)
			}
			took = append(took, time.Since(begun))
			if lines = len(res.Msg.Recordings); res.Msg.Searched != 1000 {
				t.Errorf("%q: %d recordings were searched", text, res.Msg.Searched)
			}
		}
		slices.Sort(took)
		t.Logf("%q: %v in the median, %v at most, in %d recordings", text, took[len(took)/2], took[len(took)-1], lines)
		if took[len(took)/2] > time.Second && len(text) > 2 {
			t.Errorf("%q takes %v in the median", text, took[len(took)/2])
		}
	}
}

// BenchmarkSearch looks through 1,000 hours, 200 MB of text, as auth keeps them on disk.
func BenchmarkSearch(b *testing.B) {
	r, err := store.OpenRecordings(b.TempDir(), store.Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	size := putThousandHours(b, r, "")
	s := searcher(r)
	for _, text := range soughtWords {
		b.Run(fmt.Sprintf("%q", text), func(b *testing.B) {
			for b.Loop() {
				searchAs(b, s, "ann", policy.ScopeAll, text, nil)
			}
			b.ReportMetric(float64(size)/(1<<20), "MB-stored")
		})
	}
}
