package auth

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/policy"
	chunkseal "hawser/auth/seal"
	"hawser/auth/store"
	"hawser/recorder"
)

// chunksOf makes the chunks of a recording: n, of which the last closes it.
func chunksOf(t testing.TB, id []byte, n int, text string) (all []*api.Chunk) {
	t.Helper()
	w := recorder.NewWriter(recorder.Header{ID: [16]byte(id), Start: time.Now()}, recorder.Options{ChunkSize: 1 << 10, Sink: func(_ context.Context, seq uint64, c []byte) error {
		all = append(all, &api.Chunk{Seq: seq, Data: bytes.Clone(c)})
		return nil
	}})
	_ = w.Start("shell", "", "xterm", nil)
	for range n - 2 {
		w.Output(recorder.Stdout, bytes.Repeat([]byte(text), 1000/len(text)))
	}
	if err := w.Close(t.Context()); err != nil || len(all) != n {
		t.Fatalf("%d chunks, want %d: %v", len(all), n, err)
	}
	return all
}

// A hub can add to its own open recordings, and nothing else: not to another's, not to one that is closed, not other chunks in place of those
// that are stored, not what does not continue them.
func TestALyingHubChangesNoRecording(t *testing.T) {
	b := start(t)
	h, other := b.hub(t), b.hub(t)
	b.device(t, h, "gw")
	key := b.user(t, "ann", "operator")
	g := h.admit(t, request(key, "gw", "root"))
	chunks := chunksOf(t, g.RecordingId, 6, "what happened ")
	lie := chunksOf(t, g.RecordingId, 6, "what did not happen ")
	stored := func(h *testHub, chunks ...*api.Chunk) error {
		_, err := h.Hub.AppendRecording(t.Context(), connectRequest(&api.AppendRecordingRequest{RecordingId: g.RecordingId, Grant: g.Grant, Chunks: chunks}))
		return err
	}
	refused := func(what string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	refused("a recording that begins with chunk 1", stored(h, chunks[1]))
	refused("no chunk at all", stored(h, &api.Chunk{Data: []byte("chunk")}))
	if err := stored(h, chunks[:3]...); err != nil {
		t.Fatal(err)
	}
	refused("another hub with the grant", stored(other, chunks[3]))
	refused("another beginning", stored(h, lie[0]))
	refused("another chunk in place of one", stored(h, lie[2]))
	refused("one that does not continue it", stored(h, lie[3]))
	refused("a gap", stored(h, chunks[4]))
	refused("a chunk under another number", stored(h, &api.Chunk{Seq: 3, Data: chunks[4].Data}))
	refused("a chunk of another recording", stored(h, &api.Chunk{Seq: 3, Data: chunksOf(t, id16(), 6, "x")[3].Data}))
	refused("a break within a batch", stored(h, chunks[3], lie[4]))
	broken := bytes.Clone(chunks[3].Data)
	broken[len(broken)-1] ^= 1
	refused("a damaged chunk", stored(h, &api.Chunk{Seq: 3, Data: broken}))
	refused("one with more behind it", stored(h, &api.Chunk{Seq: 3, Data: append(bytes.Clone(chunks[3].Data), 0)}))
	if err := stored(h, chunks[1:4]...); err != nil {
		t.Errorf("what is stored, again, and the next: %v", err)
	}
	// The service remembers no link after a restart, and reads it.
	b.stop()
	b.run(t)
	h = b.again(t, h)
	refused("after a restart one that does not continue it", stored(h, lie[4]))
	if err := stored(h, chunks[4:]...); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Hub.CloseRecording(t.Context(), connectRequest(&api.CloseRecordingRequest{RecordingId: g.RecordingId, Chunks: 6})); err != nil {
		t.Fatal(err)
	}
	refused("a chunk behind the closing one", stored(h, &api.Chunk{Seq: 6, Data: chunks[5].Data}))
	if err := stored(h, chunks...); err != nil {
		t.Errorf("all of it again, as when the answer was lost: %v", err)
	}
	var got []*api.Chunk
	if err := b.recordings.Chunks(t.Context(), [16]byte(g.RecordingId), 0, func(seq uint64, c []byte) error {
		got = append(got, &api.Chunk{Seq: seq, Data: bytes.Clone(c)})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(got, chunks, func(a, b *api.Chunk) bool { return bytes.Equal(a.Data, b.Data) }) {
		t.Error("what is stored is not what was recorded")
	}
}

// Whoever makes a recording may be killed. Auth closes what nobody closes, once, says that its end is missing, and takes it when it comes after all.
func TestAbandonedRecordingsAreClosedOnceAsIncomplete(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	g := h.admit(t, request(b.user(t, "ann", "operator"), "gw", "root"))
	chunks := chunksOf(t, g.RecordingId, 5, "what happened ")
	stored := func(chunks ...*api.Chunk) {
		t.Helper()
		if _, err := h.Hub.AppendRecording(t.Context(), connectRequest(&api.AppendRecordingRequest{RecordingId: g.RecordingId, Grant: g.Grant, Chunks: chunks})); err != nil {
			t.Fatal(err)
		}
	}
	later := func(d time.Duration) {
		b.open.mu.Lock()
		for _, r := range b.open.byID {
			r.heard = r.heard.Add(-d)
		}
		b.open.mu.Unlock()
		b.sweepAbandoned(t.Context())
	}
	is := func(closed, complete bool) {
		t.Helper()
		m, err := b.recordings.Manifest(t.Context(), [16]byte(g.RecordingId))
		if err != nil || m.Closed != closed || m.Complete != complete {
			t.Errorf("closed %t, complete %t, %v; want %t, %t", m.Closed, m.Complete, err, closed, complete)
		}
	}
	events := func(kind string) int {
		t.Helper()
		return strings.Count(b.auditText(t), `"type":"`+kind+`"`)
	}
	stored(chunks[:2]...)
	later(time.Hour)
	is(false, false) // its session lives
	if _, err := h.Hub.Release(t.Context(), connectRequest(&api.ReleaseRequest{SessionId: g.SessionId})); err != nil {
		t.Fatal(err)
	}
	later(time.Minute)
	is(false, false)
	later(time.Hour)
	later(time.Hour)
	is(true, false)
	if n := events("recording.incomplete"); n != 1 {
		t.Errorf("%d events, want 1", n)
	}
	stored(chunks[2:4]...) // a device came back that had more
	is(false, false)
	later(time.Hour)
	is(true, false)
	// The next comes in the moment of that: when its call looked, the recording was open.
	b.open.heard([16]byte(g.RecordingId), b.cfg.Now())
	b.open.stored([16]byte(g.RecordingId), 4, recorder.Hash(chunks[3].Data), true)
	stored(chunks[4])
	later(time.Hour)
	is(true, true) // its closing was lost, the closing chunk was not
	if events("recording.incomplete") != 2 || events("recording.close") != 1 {
		t.Error("not one event of each closing")
	}
}

// The call that closes a recording may be lost, as when auth restarts after the last chunk. Its hub has nothing to send, so nobody closed it for a quarter of an
// hour, and then as abandoned. What a hub says of the session's end is taken when it comes later.
func TestARecordingThatHasItsEndIsClosedSoon(t *testing.T) {
	for _, restart := range []bool{false, true} {
		b := start(t)
		h := b.hub(t)
		b.device(t, h, "gw")
		g := h.admit(t, request(b.user(t, "ann", "operator"), "gw", "root"))
		id, chunks := [16]byte(g.RecordingId), chunksOf(t, g.RecordingId, 3, "what happened ")
		stored := func(chunks ...*api.Chunk) {
			t.Helper()
			if _, err := h.Hub.AppendRecording(t.Context(), connectRequest(&api.AppendRecordingRequest{RecordingId: g.RecordingId, Grant: g.Grant, Chunks: chunks})); err != nil {
				t.Fatal(err)
			}
		}
		manifest := func() store.Manifest {
			t.Helper()
			m, err := b.recordings.Manifest(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
		later := func(d time.Duration) {
			b.open.mu.Lock()
			if r := b.open.byID[id]; r != nil && !r.ended.IsZero() {
				r.ended = r.ended.Add(-d)
			}
			b.open.mu.Unlock()
			b.sweepAbandoned(t.Context())
		}
		stored(chunks[:2]...)
		if later(closeAfter); manifest().Closed {
			t.Error("closed before its end came")
		}
		stored(chunks[2])
		if restart {
			b.stop()
			b.run(t)
			h = b.again(t, h)
			await(t, "auth finds that it has its end", func() bool {
				b.open.mu.Lock()
				defer b.open.mu.Unlock()
				r := b.open.byID[id]
				return r != nil && !r.ended.IsZero()
			})
		}
		if later(0); manifest().Closed {
			t.Error("closed before its hub could say how it ended")
		}
		stored() // a hub that asks how far auth has it
		later(closeAfter)
		if m := manifest(); !m.Closed || !m.Complete || m.Abandoned {
			t.Errorf("closed %t, complete %t, abandoned %t", m.Closed, m.Complete, m.Abandoned)
		}
		b.checks.wait()
		for status, said := range []string{"by the user", "by somebody else"} {
			r := &api.CloseRecordingRequest{RecordingId: g.RecordingId, Grant: g.Grant, Chunks: 3, Ended: true, ExitStatus: int32(3 + status), EndReason: said}
			if _, err := h.Hub.CloseRecording(t.Context(), connectRequest(r)); err != nil {
				t.Fatal(err)
			}
			if m := manifest(); m.Ended != "by the user" || !m.Exited || m.ExitStatus != 3 {
				t.Errorf("its hub said %q: it ended %q with %d, known: %t", said, m.Ended, m.ExitStatus, m.Exited)
			}
		}
		if log := b.auditText(t); strings.Count(log, `"type":"recording.close"`) != 1 || strings.Contains(log, `"type":"recording.incomplete"`) {
			t.Error("not one event of its end")
		}
	}
}

func TestARemovedRecordingStaysRemovedWhenMoreOfItComes(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	g := h.admit(t, request(b.user(t, "ann", "operator"), "gw", "root"))
	id, chunks := [16]byte(g.RecordingId), chunksOf(t, g.RecordingId, 3, "what happened ")
	stored := func(c *api.Chunk) error {
		_, err := h.Hub.AppendRecording(t.Context(), connectRequest(&api.AppendRecordingRequest{RecordingId: g.RecordingId, Grant: g.Grant, Chunks: []*api.Chunk{c}}))
		return err
	}
	if err := stored(chunks[0]); err != nil {
		t.Fatal(err)
	}
	if err := b.finishRecording(t.Context(), id, 1, ending{actor: "auth", abandoned: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.recordings.Remove(t.Context(), id, store.Removal{By: "user:ann"}); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "what came later", stored(chunks[1]), api.Code_CODE_RECORDING_REMOVED)
	if m, err := b.recordings.Manifest(t.Context(), id); err != nil || !m.Closed || m.Removed == nil {
		t.Errorf("closed %t, removed %v, %v", m.Closed, m.Removed, err)
	}
}

// A hub tries for ever what auth has an internal error for, and a device asks for a day. So whatever they want of a removed recording, they are told that it was
// removed: whether auth remembers where it ended or not, whether it was closed before, and where nothing of it had come.
func TestWhoeverGoesOnWithARemovedRecordingIsToldSo(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	r := request(b.user(t, "ann", "operator"), "gw", "root")
	r.Way = policy.WayEndToEnd
	for what, tt := range map[string]struct {
		chunks          int
		closed, restart bool
	}{
		"open":                       {chunks: 3},
		"open, auth restarted":       {chunks: 3, restart: true},
		"given up":                   {chunks: 3, closed: true},
		"given up, auth restarted":   {chunks: 3, closed: true, restart: true},
		"nothing came":               {},
		"nothing came, and given up": {closed: true},
	} {
		r.SessionId, r.ConnectionId = id16(), id16()
		g := h.admit(t, r)
		if g.Refusal != nil {
			t.Fatal(g.Refusal.Message)
		}
		id, all := [16]byte(g.RecordingId), chunksOf(t, g.RecordingId, 6, "what happened ")
		to, err := chunkseal.To([32]byte(b.sealKey.PublicKey().Bytes()), id)
		if err != nil {
			t.Fatal(err)
		}
		appended := func(key []byte, chunks ...*api.Chunk) error {
			req := &api.AppendRecordingRequest{RecordingId: g.RecordingId, Grant: g.Grant, AckKey: key}
			for _, c := range chunks {
				req.Chunks = append(req.Chunks, &api.Chunk{Seq: c.Seq, Data: to.Seal(c.Seq, 0, c.Data)})
			}
			_, err := h.Hub.AppendRecording(t.Context(), connectRequest(req))
			return err
		}
		closed := func(chunks uint64) error {
			_, err := h.Hub.CloseRecording(t.Context(), connectRequest(&api.CloseRecordingRequest{RecordingId: g.RecordingId, Grant: g.Grant, Chunks: chunks}))
			return err
		}
		if err := appended(nil, all[:tt.chunks]...); err != nil {
			t.Fatal(err)
		}
		if tt.closed {
			if err := b.finishRecording(t.Context(), id, uint64(tt.chunks), ending{actor: "auth", abandoned: true}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := b.recordings.Remove(t.Context(), id, store.Removal{By: "user:ann"}); err != nil {
			t.Fatal(err)
		}
		if tt.restart {
			b.stop()
			b.run(t)
			h = b.again(t, h)
		}
		removed := func(how string, err error) {
			t.Helper()
			wantCode(t, what+": "+how, err, api.Code_CODE_RECORDING_REMOVED)
		}
		removed("asked where to begin", appended(nil))
		removed("asked by a device", appended(to.Public()))
		removed("closed", closed(uint64(tt.chunks)))
		removed("closed with more", closed(6))
		if tt.chunks > 0 {
			removed("a chunk again", appended(to.Public(), all[1]))
		}
		removed("the next chunk", appended(to.Public(), all[tt.chunks]))
		removed("a chunk behind a gap", appended(to.Public(), all[tt.chunks+1]))
		removed("asked once more", appended(to.Public()))
	}
}

// raced is a store to which another call brings a chunk between two looks at a recording.
type raced struct {
	store.Recordings
	between func()
}

func (r raced) Manifest(ctx context.Context, id [16]byte) (store.Manifest, error) {
	m, err := r.Recordings.Manifest(ctx, id)
	r.between()
	return m, err
}

// A device that comes by another hub brings what the first one still brings. Where auth did not remember the recording's end it held the chunk against the last in the
// store, which the other call had made another meanwhile. Such a refusal is for good: the hub brings no more of the recording.
func TestTheSameChunkByTwoCallsContinuesTheRecording(t *testing.T) {
	all, id := store.NewMemoryRecordings(), [16]byte(id16())
	chunks := chunksOf(t, id[:], 6, "what happened ")
	brings := func(some ...*api.Chunk) {
		for _, c := range some {
			if err := all.Append(t.Context(), id, c.Seq, c.Data); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := all.PutManifest(t.Context(), store.Manifest{ID: id, Start: time.Now()}); err != nil {
		t.Fatal(err)
	}
	brings(chunks[:3]...)
	s := &Server{recordings: raced{all, func() { brings(chunks[3:5]...) }}}
	last, err := s.chained(t.Context(), id, 3, [][]byte{chunks[3].Data})
	if err != nil || last != recorder.Hash(chunks[3].Data) {
		t.Errorf("%x, %v", last, err)
	}
}

// Auth remembers where the chain of an open recording ends, and not after a restart or once it is closed. The first chunk that came then was taken for the end,
// also one that comes twice because its answer was lost: auth said from then on that it has less than it had said before, and the device, which keeps nothing
// that is stored, ended each stream, and a session that must be recorded.
func TestAChunkThatComesAgainTakesNothingBack(t *testing.T) {
	for _, closed := range []bool{false, true} {
		for _, again := range [][2]int{{0, 1}, {1, 2}, {0, 3}, {2, 4}} {
			b := start(t)
			h := b.hub(t)
			b.device(t, h, "gw")
			g := h.admit(t, request(b.user(t, "ann", "operator"), "gw", "root"))
			chunks := chunksOf(t, g.RecordingId, 6, "what happened ")
			want := uint64(4)
			if closed {
				want = 6
			}
			has := func(what string, want uint64, chunks ...*api.Chunk) {
				t.Helper()
				res, err := h.Hub.AppendRecording(t.Context(), connectRequest(&api.AppendRecordingRequest{RecordingId: g.RecordingId, Grant: g.Grant, Chunks: chunks}))
				if err != nil {
					t.Fatal(err)
				}
				if res.Msg.NextSeq != want {
					t.Errorf("closed %t, %d to %d: %s: next %d, want %d", closed, again[0], again[1], what, res.Msg.NextSeq, want)
				}
			}
			has("stored", want, chunks[:want]...)
			if closed {
				if _, err := h.Hub.CloseRecording(t.Context(), connectRequest(&api.CloseRecordingRequest{RecordingId: g.RecordingId, Chunks: want})); err != nil {
					t.Fatal(err)
				}
			} else {
				b.stop()
				b.run(t)
				h = b.again(t, h)
			}
			has("again", want, chunks[again[0]:again[1]]...)
			has("asked", want)
			has("once more", want, chunks[again[0]:again[1]]...)
			if !closed {
				has("with the next", 5, chunks[again[0]:5]...)
				has("and one again", 5, chunks[again[0]])
				has("the last", 6, chunks[5])
			}
		}
	}
}

// The device believes auth alone, through a hub that it need not believe: after a restart too, and when it only asks how far auth has it.
func TestAuthAcknowledgesToTheDevice(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	r := request(b.user(t, "ann", "operator"), "gw", "root")
	r.Way = policy.WayEndToEnd
	g := h.admit(t, r)
	id, all := [16]byte(g.RecordingId), chunksOf(t, g.RecordingId, 3, "what happened ")
	to, err := chunkseal.To([32]byte(b.sealKey.PublicKey().Bytes()), id)
	if err != nil {
		t.Fatal(err)
	}
	asks := func(key []byte, chunks ...*api.Chunk) (*api.AppendRecordingResponse, error) {
		req := &api.AppendRecordingRequest{RecordingId: g.RecordingId, Grant: g.Grant, AckKey: key}
		for _, c := range chunks {
			req.Chunks = append(req.Chunks, &api.Chunk{Seq: c.Seq, Data: to.Seal(c.Seq, 0, c.Data)})
		}
		res, err := h.Hub.AppendRecording(t.Context(), connectRequest(req))
		if err != nil {
			return nil, err
		}
		return res.Msg, nil
	}
	says := func(what string, next uint64, chunks ...*api.Chunk) {
		t.Helper()
		res, err := asks(to.Public(), chunks...)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if res.NextSeq != next || next == 0 && len(res.Ack) > 0 {
			t.Errorf("%s: %d, %x", what, res.NextSeq, res.Ack)
		}
		if next > 0 && !to.Acknowledged(next, recorder.Hash(all[next-1].Data), res.Ack) {
			t.Errorf("%s: not in auth's words", what)
		}
	}
	says("nothing yet", 0)
	says("the first two", 2, all[:2]...)
	b.stop()
	b.run(t)
	h = b.again(t, h)
	says("asked after a restart", 2)
	says("the last", 3, all[2])
	if res, err := asks(nil); err != nil || len(res.Ack) > 0 {
		t.Errorf("where nobody asks: %x, %v", res.GetAck(), err)
	}
	if _, err := asks([]byte("no key")); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("a bad key: %v", err)
	}
}
