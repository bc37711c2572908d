package auth

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"io"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/grant"
	"hawser/auth/policy"
	"hawser/auth/store"
	"hawser/recorder"
	"hawser/recorder/reader"
	"hawser/tunnel/wire"
)

// AppendRecording stores chunks of a session the calling hub was granted.
func (s hubService) AppendRecording(ctx context.Context, req *connect.Request[api.AppendRecordingRequest]) (*connect.Response[api.AppendRecordingResponse], error) {
	c, r := callerOf(ctx), req.Msg
	if len(r.RecordingId) != 16 {
		return nil, invalid("a recording id has 16 bytes")
	}
	if len(r.Chunks) > maxBatch {
		return nil, invalid("more than %d chunks", maxBatch)
	}
	for _, ch := range r.Chunks {
		if len(ch.GetData()) == 0 || len(ch.GetData()) > maxChunk {
			return nil, invalid("a chunk has 1 to %d bytes", maxChunk)
		}
	}
	id := [16]byte(r.RecordingId)
	var first []byte
	if len(r.Chunks) > 0 && r.Chunks[0].Seq == 0 {
		first = r.Chunks[0].Data
	}
	if err := s.ownRecording(ctx, c, id, r.Grant, first); err != nil {
		return nil, err
	}
	for rest := r.Chunks; len(rest) > 0; {
		n, run := 0, make([][]byte, 0, len(rest)) // those that follow each other are stored in one go
		for n < len(rest) && rest[n].Seq == rest[0].Seq+uint64(n) {
			run = append(run, rest[n].Data)
			n++
		}
		if err := s.recordings.Append(ctx, id, rest[0].Seq, run...); err != nil {
			if errors.Is(err, store.ErrGap) {
				return nil, api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_RECORDING_GAP, "chunk %d does not follow; ask with no chunks for the next", rest[0].Seq)
			}
			return nil, err
		}
		rest = rest[n:]
	}
	next, err := s.recordings.Next(ctx, id)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&api.AppendRecordingResponse{NextSeq: next}), nil
}

// ownRecording lets the hub through that was granted the session. The first time, the grant proves it, expired or not
// (a spool is uploaded late); then the manifest remembers the hub. What the grant does not say is read from the first chunk.
func (s *Server) ownRecording(ctx context.Context, c caller, id [16]byte, blob, first []byte) error {
	denied := api.NewError(connect.CodePermissionDenied, api.Code_CODE_DENIED, "this hub was not granted the session of this recording")
	m, err := s.recordings.Manifest(ctx, id)
	if err == nil {
		if m.Hub != c.id.UUID {
			return denied
		}
		if len(first) == 0 || m.Kind != "" {
			return nil
		}
		// An upload asks where to begin before it brings the first chunk.
		describe(&m, first)
		return s.recordings.PutManifest(ctx, m)
	}
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	g, err := grant.Open(blob, []ed25519.PublicKey{s.set.Authority(ca.GrantKey).Public()})
	if err != nil {
		s.record(Event{Type: "recording.refuse", Actor: c.String(), Session: hex.EncodeToString(id[:]), Reason: err.Error()})
		return denied
	}
	hub, err := wire.ParseUUID(c.id.UUID)
	if err != nil {
		return err
	}
	if g.Cluster != s.info.Cluster || g.Kind != grant.Session || g.EntryHub != hub || g.SessionID != id || g.Record == "" {
		s.record(Event{Type: "recording.refuse", Actor: c.String(), Session: hex.EncodeToString(id[:]), Reason: "grant is for something else"})
		return denied
	}
	m = store.Manifest{
		ID: id, Start: s.cfg.Now(), User: g.User, DeviceUUID: wire.UUID(g.Device).String(), Login: g.Login,
		ClientAddr: g.ClientAddr.String(), Hub: c.id.UUID, Mode: g.Record,
	}
	describe(&m, first)
	for _, sess := range s.hubs.list() {
		if sess.id == id {
			m.Start, m.Way = sess.start, sess.way // auth's own word, while the session lives
		}
	}
	if d := s.view.device(m.DeviceUUID); d != nil {
		m.Device = d.Name
	}
	return s.recordings.PutManifest(ctx, m)
}

// maxLate is how old a recording may say it is when its first chunk comes: a device's clock is not auth's.
const maxLate = 24 * time.Hour

// describe fills in what the recording's own first chunk says: when and by which way it began, what was run. A chunk that
// cannot be read leaves m as it is; it is stored all the same, and the reader says what is wrong with it.
func describe(m *store.Manifest, first []byte) {
	chunks := [][]byte{first}
	r := reader.New(func() ([]byte, error) {
		if len(chunks) == 0 || len(chunks[0]) == 0 {
			return nil, io.EOF
		}
		c := chunks[0]
		chunks = nil
		return c, nil
	})
	h, err := r.Header()
	if err != nil {
		return
	}
	m.Way, m.Kind, m.Command = clip(h.Way), clip(h.Kind), h.Command
	if late := m.Start.Sub(h.Start); late > 0 && late < maxLate {
		m.Start = h.Start
	}
	for m.Kind == "" {
		e, err := r.Next()
		if err != nil {
			break
		}
		if e.Type == recorder.RecordStart {
			m.Kind, m.Command = clip(e.Kind), e.Command
		}
	}
	m.Command = m.Command[:min(len(m.Command), maxCommand)]
}

// CloseRecording marks a recording complete.
func (s hubService) CloseRecording(ctx context.Context, req *connect.Request[api.CloseRecordingRequest]) (*connect.Response[api.CloseRecordingResponse], error) {
	c, r := callerOf(ctx), req.Msg
	if len(r.RecordingId) != 16 {
		return nil, invalid("a recording id has 16 bytes")
	}
	id := [16]byte(r.RecordingId)
	if err := s.ownRecording(ctx, c, id, r.Grant, nil); err != nil {
		return nil, err
	}
	m, err := s.recordings.Manifest(ctx, id)
	if err != nil || m.Closed {
		return connect.NewResponse(&api.CloseRecordingResponse{}), err
	}
	next, err := s.recordings.Next(ctx, id)
	if err != nil {
		return nil, err
	}
	if r.Chunks > next {
		return nil, api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_RECORDING_GAP, "only %d of %d chunks are stored", next, r.Chunks)
	}
	m.Closed, m.Complete, m.End, m.ExitStatus = true, true, s.cfg.Now(), r.ExitStatus
	if err := s.recordings.PutManifest(ctx, m); err != nil {
		return nil, err
	}
	s.record(Event{Type: "recording.close", Actor: c.String(), Session: hex.EncodeToString(id[:]), User: m.User, Device: m.Device})
	return connect.NewResponse(&api.CloseRecordingResponse{}), nil
}

// mayReplay tells whether the caller's roles let him see a recording.
func mayReplay(c caller, m store.Manifest) bool {
	switch policy.RecordingScope(c.roles) {
	case "all":
		return true
	case "own":
		return m.User == c.id.Name
	}
	return false
}

// ListRecordings lists those the caller may replay, newest first.
func (s adminService) ListRecordings(ctx context.Context, req *connect.Request[api.ListRecordingsRequest]) (*connect.Response[api.ListRecordingsResponse], error) {
	c, r := callerOf(ctx), req.Msg
	f := store.Filter{User: r.User, Limit: int(min(r.Limit, 100000))}
	if f.Limit == 0 {
		f.Limit = 1000
	}
	switch policy.RecordingScope(c.roles) {
	case "all":
	case "own":
		if r.User != "" && r.User != c.id.Name {
			return connect.NewResponse(&api.ListRecordingsResponse{}), nil
		}
		f.User = c.id.Name
	default:
		return connect.NewResponse(&api.ListRecordingsResponse{}), nil
	}
	if r.Device != "" {
		if _, err := wire.ParseUUID(r.Device); err == nil {
			f.DeviceUUID = r.Device
		} else {
			f.Device = r.Device
		}
	}
	ms, err := s.recordings.List(ctx, f)
	if err != nil {
		return nil, err
	}
	res := &api.ListRecordingsResponse{}
	for _, m := range ms {
		res.Recordings = append(res.Recordings, s.recordingOf(m))
	}
	return connect.NewResponse(res), nil
}

func (s *Server) recordingOf(m store.Manifest) *api.Recording {
	r := &api.Recording{
		Id: m.ID[:], User: m.User, Device: m.Device, DeviceUuid: m.DeviceUUID, Login: m.Login, Way: m.Way, Kind: m.Kind, Command: m.Command,
		ClientAddress: m.ClientAddr, StartUnixNano: m.Start.UnixNano(), Complete: m.Complete, Chunks: m.Chunks, ExitStatus: m.ExitStatus, Live: !m.Closed && s.hubs.live(m.ID),
	}
	if !m.End.IsZero() {
		r.EndUnixNano = m.End.UnixNano()
	}
	if h := s.view.hub(m.Hub); h != nil {
		r.Hub = h.Name
	}
	return r
}

// GetRecording streams the chunks; what is not there and what may not be seen look the same.
func (s adminService) GetRecording(ctx context.Context, req *connect.Request[api.GetRecordingRequest], stream *connect.ServerStream[api.GetRecordingResponse]) error {
	c := callerOf(ctx)
	m, err := s.findRecording(ctx, c, req.Msg.Id)
	if err != nil {
		return err
	}
	s.record(Event{Type: "recording.replay", Actor: c.String(), Source: c.addr, Session: hex.EncodeToString(m.ID[:]), User: m.User, Device: m.Device})
	if err := stream.Send(&api.GetRecordingResponse{Recording: s.recordingOf(m)}); err != nil {
		return err
	}
	return s.recordings.Chunks(ctx, m.ID, req.Msg.FromSeq, func(seq uint64, chunk []byte) error {
		return stream.Send(&api.GetRecordingResponse{Chunks: []*api.Chunk{{Seq: seq, Data: chunk}}})
	})
}

func (s *Server) findRecording(ctx context.Context, c caller, id string) (store.Manifest, error) {
	none := notFound("no recording %q that your roles let you see; `hawser recordings ls` lists those they do", wire.Quote(id, 40))
	if b, err := hex.DecodeString(id); err == nil && len(b) == 16 {
		m, err := s.recordings.Manifest(ctx, [16]byte(b))
		if errors.Is(err, store.ErrNotFound) || err == nil && !mayReplay(c, m) {
			return store.Manifest{}, none
		}
		return m, err
	}
	all, err := s.recordings.List(ctx, store.Filter{})
	if err != nil {
		return store.Manifest{}, err
	}
	var found []store.Manifest
	for _, m := range all {
		if mayReplay(c, m) && begins(m.ID, id) {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 0:
		return store.Manifest{}, none
	case 1:
		return found[0], nil
	}
	return store.Manifest{}, invalid("%d recordings begin with %s; give more of the id", len(found), wire.Quote(id, 40))
}

// begins tells whether the hex form of id begins with at least 6 digits of beginning.
func begins(id [16]byte, beginning string) bool {
	text := hex.EncodeToString(id[:])
	return len(beginning) >= 6 && len(beginning) <= len(text) && text[:len(beginning)] == beginning
}
