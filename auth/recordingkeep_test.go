package auth

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/store"
	"hawser/recorder"
)

// recorded makes a recording with a closing chunk; its session has ended. chunks is how many it has.
func (b *bench) recorded(t *testing.T, h *testHub, r *api.AdmitRequest) (g *api.AdmitResponse, chunks uint64) {
	t.Helper()
	g = h.admit(t, r)
	w := recorder.NewWriter(recorder.Header{ID: [16]byte(g.RecordingId), Start: time.Now()}, recorder.Options{Sink: func(ctx context.Context, seq uint64, chunk []byte) error {
		chunks++
		_, err := h.Hub.AppendRecording(ctx, connectRequest(&api.AppendRecordingRequest{
			RecordingId: g.RecordingId, Grant: g.Grant, Chunks: []*api.Chunk{{Seq: seq, Data: bytes.Clone(chunk)}},
		}))
		return err
	}})
	w.Output(recorder.Stdout, []byte("what was shown\n"))
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Hub.CloseRecording(t.Context(), connectRequest(&api.CloseRecordingRequest{RecordingId: g.RecordingId, Chunks: chunks})); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Hub.Release(t.Context(), connectRequest(&api.ReleaseRequest{SessionId: g.SessionId})); err != nil {
		t.Fatal(err)
	}
	return g, chunks
}

func TestAHeldRecordingIsNotRemovedAndARemovedOneSaysByWhom(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	key := b.user(t, "ann", "operator")
	g, chunks := b.recorded(t, h, request(key, "gw", "root"))
	id := hexOf(g.RecordingId)
	keep := b.admin.Recording
	hold := func(reason string) error {
		_, err := keep.HoldRecording(t.Context(), connectRequest(&api.HoldRecordingRequest{Id: id[:8], Reason: reason}))
		return err
	}
	remove := func(reason string) error {
		_, err := keep.RemoveRecording(t.Context(), connectRequest(&api.RemoveRecordingRequest{Id: id[:8], Reason: reason}))
		return err
	}
	if err := hold(""); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("held without a reason: %v", err)
	}
	if err := hold("case 7"); err != nil {
		t.Fatal(err)
	}
	if err := remove("asked"); err == nil || !strings.Contains(err.Error(), "case 7") || !strings.Contains(err.Error(), "recordings release") {
		t.Errorf("removed though held: %v", err)
	}
	held, err := b.admin.Admin.ListRecordings(t.Context(), connectRequest(&api.ListRecordingsRequest{Held: true}))
	if err != nil || len(held.Msg.Recordings) != 1 || held.Msg.Recordings[0].Hold.GetReason() != "case 7" || !strings.HasPrefix(held.Msg.Recordings[0].Hold.GetBy(), "user:") {
		t.Errorf("held: %v, %v", held, err)
	}
	room, err := keep.GetRecordingStore(t.Context(), connectRequest(&api.GetRecordingStoreRequest{}))
	if err != nil || room.Msg.Held != 1 || room.Msg.Bytes == 0 || room.Msg.State == "" {
		t.Errorf("room: %v, %v", room, err)
	}
	if _, err := keep.ReleaseRecording(t.Context(), connectRequest(&api.ReleaseRecordingRequest{Id: id})); err != nil {
		t.Fatal(err)
	}
	if _, err := keep.ReleaseRecording(t.Context(), connectRequest(&api.ReleaseRecordingRequest{Id: id})); err == nil {
		t.Error("released twice")
	}
	if err := remove("asked"); err != nil {
		t.Fatal(err)
	}
	stream, err := b.admin.Admin.GetRecording(t.Context(), connectRequest(&api.GetRecordingRequest{Id: id}))
	if err == nil {
		for stream.Receive() {
		}
		err = stream.Err()
	}
	if connect.CodeOf(err) != connect.CodeNotFound || !strings.Contains(err.Error(), "was removed by user:") || !strings.Contains(err.Error(), "asked") {
		t.Errorf("played after its removal: %v", err)
	}
	if err := remove("again"); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("removed twice: %v", err)
	}
	list := func(r *api.ListRecordingsRequest) []*api.Recording {
		t.Helper()
		res, err := b.admin.Admin.ListRecordings(t.Context(), connectRequest(r))
		if err != nil {
			t.Fatal(err)
		}
		return res.Msg.Recordings
	}
	if n := len(list(&api.ListRecordingsRequest{})); n != 0 {
		t.Errorf("%d listed", n)
	}
	if all := list(&api.ListRecordingsRequest{Removed: true}); len(all) != 1 || all[0].Removed.GetReason() != "asked" || all[0].Chunks != chunks || !strings.HasPrefix(all[0].Closing, "sha256:") {
		t.Errorf("tombstone: %v", all)
	}
	// A hub that comes back with the rest does not bring it to life.
	_, err = h.Hub.AppendRecording(t.Context(), connectRequest(&api.AppendRecordingRequest{RecordingId: g.RecordingId, Grant: g.Grant, Chunks: []*api.Chunk{{Seq: chunks, Data: []byte("late")}}}))
	if connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("appended to a removed recording: %v", err)
	}
	text := b.auditText(t)
	for _, want := range []string{`"recording.open"`, `"recording.close"`, `"recording.hold"`, `"recording.release"`, `"recording.remove"`} {
		if strings.Count(text, want) != 1 {
			t.Errorf("%d events %s", strings.Count(text, want), want)
		}
	}
}

func TestAuditorsSeeRecordingsAndNeitherHoldNorRemove(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	g, _ := b.recorded(t, h, request(b.user(t, "ann", "operator"), "gw", "root"))
	id := hexOf(g.RecordingId)
	auditor := b.client(t, "ada", "auditor")
	if res, err := auditor.Admin.ListRecordings(t.Context(), connectRequest(&api.ListRecordingsRequest{})); err != nil || len(res.Msg.Recordings) != 1 {
		t.Errorf("an auditor sees %v, %v", res, err)
	}
	_, err := auditor.Recording.RemoveRecording(t.Context(), connectRequest(&api.RemoveRecordingRequest{Id: id}))
	wantCode(t, "an auditor removes", err, api.Code_CODE_DENIED)
	_, err = auditor.Recording.HoldRecording(t.Context(), connectRequest(&api.HoldRecordingRequest{Id: id, Reason: "x"}))
	wantCode(t, "an auditor holds", err, api.Code_CODE_DENIED)
	// The verb alone shows nothing: what one may not see one may not remove either, and cannot tell from what there is not.
	b.applyRole(t, "kind: role\nname: keeper\nallow:\n  recordings: own\n  admin: [{resources: [recording], verbs: [hold, delete]}]\n")
	keeper := b.client(t, "kim", "keeper")
	for _, id := range []string{id, strings.Repeat("ab", 16)} {
		_, err := keeper.Recording.RemoveRecording(t.Context(), connectRequest(&api.RemoveRecordingRequest{Id: id}))
		if connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("a keeper of his own removes %s: %v", id, err)
		}
	}
}

func TestALiveRecordingIsNotRemoved(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	g := h.admit(t, request(b.user(t, "ann", "operator"), "gw", "root"))
	if _, err := h.Hub.AppendRecording(t.Context(), connectRequest(&api.AppendRecordingRequest{RecordingId: g.RecordingId, Grant: g.Grant, Chunks: []*api.Chunk{firstChunk(t, g.RecordingId)}})); err != nil {
		t.Fatal(err)
	}
	_, err := b.admin.Recording.RemoveRecording(t.Context(), connectRequest(&api.RemoveRecordingRequest{Id: hexOf(g.RecordingId)}))
	if err == nil || !strings.Contains(err.Error(), "sessions kill") {
		t.Errorf("got %v", err)
	}
}

func TestTheQuotaOfTheClusterIsInForceAtOnceAndAlarms(t *testing.T) {
	full := store.NewMemoryRecordings()
	b := startWith(t, func(s *Server) {
		if err := s.recordings.Close(); err != nil {
			t.Fatal(err)
		}
		s.recordings = &smallRecordings{full}
	})
	h := b.hub(t)
	b.device(t, h, "gw")
	b.applyRole(t, "kind: cluster\nrecording_quota: 1GiB\n")
	g := h.admit(t, request(b.user(t, "ann", "operator"), "gw", "root"))
	other := store.Manifest{ID: [16]byte{1}, Start: time.Now()}
	err := full.PutManifest(t.Context(), other)
	for i := range uint64(8) {
		err = errors.Join(err, full.Append(t.Context(), other.ID, i, make([]byte, 128<<10-4)))
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.Hub.AppendRecording(t.Context(), connectRequest(&api.AppendRecordingRequest{RecordingId: g.RecordingId, Grant: g.Grant, Chunks: []*api.Chunk{firstChunk(t, g.RecordingId)}}))
	if connect.CodeOf(err) != connect.CodeResourceExhausted || !strings.Contains(err.Error(), "recording_quota") {
		t.Errorf("got %v", err)
	}
	if text := b.auditText(t); strings.Count(text, `"recording.space"`) != 1 || !strings.Contains(text, `"object":"full"`) {
		t.Errorf("no alarm, or more than one:\n%s", text)
	}
}

// firstChunk is the first of a recording that goes on.
func firstChunk(t *testing.T, id []byte) (first *api.Chunk) {
	t.Helper()
	w := recorder.NewWriter(recorder.Header{ID: [16]byte(id), Start: time.Now()}, recorder.Options{Sink: func(_ context.Context, seq uint64, chunk []byte) error {
		if seq == 0 {
			first = &api.Chunk{Data: bytes.Clone(chunk)}
		}
		return nil
	}})
	w.Output(recorder.Stdout, make([]byte, 70<<10))
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return first
}

// smallRecordings counts a gibibyte of quota as a mebibyte.
type smallRecordings struct{ *store.MemoryRecordings }

func (r *smallRecordings) SetQuota(n uint64) { r.MemoryRecordings.SetQuota(n >> 10) }

func TestTheAlarmOfRoomIsToldOnceAndEnds(t *testing.T) {
	b := start(t)
	u := store.Usage{Bytes: 95 << 30, Quota: 100 << 30, Free: 1 << 40, MinFree: 1}
	for range 3 {
		b.tellSpace(spaceState(u), u)
	}
	b.spaceRefused()
	b.tellSpace(spaceState(u), u)
	b.now.Add(int64(2 * refusedFor))
	u.Bytes = 1
	b.tellSpace(spaceState(u), u)
	text := b.auditText(t)
	var got []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, `"recording.space"`) {
			_, rest, _ := strings.Cut(line, `"object":"`)
			state, _, _ := strings.Cut(rest, `"`)
			got = append(got, state)
		}
	}
	if strings.Join(got, " ") != "low full ok" {
		t.Errorf("told %q", got)
	}
}
