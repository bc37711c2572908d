package auth

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/grant"
	"hawser/auth/policy"
	chunkseal "hawser/auth/seal"
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
	id, bare := [16]byte(r.RecordingId), false
	for _, ch := range r.Chunks {
		seq, _, sealed := chunkseal.Head(ch.Data)
		if bare = bare || !sealed; sealed && seq != ch.Seq {
			return nil, invalid("chunk %d says that it is %d", ch.Seq, seq)
		}
	}
	begins := len(r.Chunks) > 0 && r.Chunks[0].Seq == 0
	may, err := s.mayAdd(ctx, c, id, r.Grant, bare, begins)
	if err != nil {
		return nil, err
	}
	for _, ch := range r.Chunks { // an X25519 each: not for a stranger
		if _, _, sealed := chunkseal.Head(ch.Data); !sealed {
			continue
		}
		if ch.Data, err = chunkseal.Open(s.sealKey, id, ch.Data); err != nil {
			return nil, invalid("chunk %d: %w", ch.Seq, err)
		}
	}
	var first []byte
	if begins {
		first = r.Chunks[0].Data
	}
	if err := s.ownRecording(ctx, c, id, may, first); err != nil {
		return nil, err
	}
	s.recordings.SetQuota(s.view.cluster().QuotaBytes())
	s.open.heard(id, s.cfg.Now())
	if _, _, known := s.open.link(id); len(r.Chunks) > 0 && !known {
		if err := s.reopen(ctx, id); err != nil {
			return nil, err
		}
	}
	for rest := r.Chunks; len(rest) > 0; {
		n, run := 0, make([][]byte, 0, len(rest)) // those that follow each other are stored in one go
		for n < len(rest) && rest[n].Seq == rest[0].Seq+uint64(n) {
			run = append(run, rest[n].Data)
			n++
		}
		if err := s.appendChunks(ctx, c, id, rest[0].Seq, run); err != nil {
			return nil, err
		}
		rest = rest[n:]
	}
	next, _, known := s.open.link(id)
	if !known || len(r.Chunks) == 0 { // of chunks that come the store says that they are not wanted, of a question it must be asked
		if next, err = s.storedChunks(ctx, id); err != nil {
			return nil, err
		}
	}
	if len(r.Chunks) > 0 {
		s.indexing.grew(id, false)
	}
	res := &api.AppendRecordingResponse{NextSeq: next}
	if len(r.AckKey) > 0 && next > 0 {
		last, err := s.lastHash(ctx, id, next)
		if err != nil {
			return nil, err
		}
		if res.Ack, err = chunkseal.Acknowledge(s.sealKey, id, r.AckKey, next, last); err != nil {
			return nil, invalid("acknowledge to that key: %w", err)
		}
	}
	return connect.NewResponse(res), nil
}

// right is a hub's right to add to a recording.
type right struct {
	known    bool            // it is remembered, and the manifest says so already
	manifest *store.Manifest // nil: there is none yet
	grant    *grant.Grant    // nil: the manifest names the hub
}

// mayAdd lets a hub through that may add to a recording: of one that a hub makes only that hub, of one that the device makes each that has shown the grant of
// its session, for the hub changes while such a session goes on, and what it passes on is sealed. The grant may have expired: a spool is uploaded late.
// bare: chunks come that are not sealed for auth; of a device's recording none is taken, for whoever passed it on could have made it. first: the first chunk comes.
func (s *Server) mayAdd(ctx context.Context, c caller, id [16]byte, blob []byte, bare, first bool) (r right, err error) {
	if s.open.owned(id, c.id.UUID, bare, first) {
		return right{known: true}, nil
	}
	m, err := s.recordings.Manifest(ctx, id)
	switch {
	case err == nil:
		r.manifest = &m
	case !errors.Is(err, store.ErrNotFound):
		return r, err
	}
	by := m.Recorder
	switch {
	case r.manifest != nil && m.Hub == c.id.UUID:
	case r.manifest != nil && by != store.RecorderDevice:
		return r, errNotGranted()
	default:
		if r.grant, err = s.grantOf(c, id, blob); err != nil {
			return r, err
		}
		by = recorderOf(r.grant)
	}
	// Some ids are of a client's choice: that a session has this one does not make the recording its own.
	if g := r.grant; g != nil && r.manifest != nil && (by != m.Recorder || g.User != m.User || g.Login != m.Login || wire.UUID(g.Device).String() != m.DeviceUUID) {
		return r, s.refuseGrant(c, id, "grant is for another session of this id")
	}
	if bare && by == store.RecorderDevice {
		return r, s.refuseBare(c, id)
	}
	return r, nil
}

// ownRecording has the manifest say which hub adds to a recording, and who is to make it. What the grant does not say is read from the first chunk.
func (s *Server) ownRecording(ctx context.Context, c caller, id [16]byte, r right, first []byte) error {
	switch {
	case r.known:
		return nil
	case r.manifest == nil:
		return s.beginRecording(ctx, c, id, r.grant, first)
	case r.manifest.Removed != nil:
		return fmt.Errorf("%w: %x", store.ErrRemoved, id)
	}
	m := *r.manifest
	// An upload asks where to begin before it brings the first chunk. The week that holds the recording is settled by then.
	describes := len(first) > 0 && m.Kind == ""
	follows := m.Hub != c.id.UUID && (!m.Closed || reopens(m))
	if describes || follows {
		wanted := m.Sealed
		var err error
		m, err = s.recordings.UpdateManifest(ctx, id, func(m *store.Manifest) error {
			if follows {
				m.Hub = c.id.UUID
			}
			if start := m.Start; describes {
				if describe(m, first); store.Week(m.Start) != store.Week(start) {
					m.Start = start
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if wanted && !m.Sealed {
			s.recordUnencrypted(c, m)
		}
	}
	s.open.own(id, m)
	return nil
}

// errNotGranted is all that a hub is told that has no right to a recording; why, the log has.
func errNotGranted() error {
	return api.NewError(connect.CodePermissionDenied, api.Code_CODE_DENIED, "this hub was not granted the session of this recording")
}

// refuseGrant refuses a hub the recording for which it showed a grant.
func (s *Server) refuseGrant(c caller, id [16]byte, why string) error {
	s.recordRefusal(c, id, why)
	return errNotGranted()
}

// grantOf is the grant of a recorded session that a hub shows: its own, or where the device records, of whichever hub the session had when it was granted.
func (s *Server) grantOf(c caller, id [16]byte, blob []byte) (*grant.Grant, error) {
	g, err := grant.Open(blob, s.set.Ever(ca.GrantKey)) // a session outlives a rotation
	if err != nil {
		return nil, s.refuseGrant(c, id, err.Error())
	}
	hub, err := wire.ParseUUID(c.id.UUID)
	if err != nil {
		return nil, err
	}
	if g.Cluster != s.info.Cluster || g.Kind != grant.Session || g.SessionID != id || g.Record == "" || g.EntryHub != hub && recorderOf(g) != store.RecorderDevice {
		return nil, s.refuseGrant(c, id, "grant is for something else")
	}
	return g, nil
}

// recorderOf is who is to make the recording of a granted session.
func recorderOf(g *grant.Grant) string {
	if g.SealKey != [32]byte{} {
		return store.RecorderDevice
	}
	return store.RecorderHub
}

// beginRecording writes down that there is a recording.
func (s *Server) beginRecording(ctx context.Context, c caller, id [16]byte, g *grant.Grant, first []byte) error {
	m := store.Manifest{
		ID: id, Recorder: recorderOf(g), Start: s.cfg.Now(), User: g.User, DeviceUUID: wire.UUID(g.Device).String(), Login: g.Login,
		ClientAddr: g.ClientAddr.String(), Hub: c.id.UUID, Mode: g.Record, Roles: g.Roles, Recipients: len(g.Recipients),
	}
	m.Sealed = len(g.Recipients) > 0
	var began time.Time
	if sess := s.hubs.of(id); sess != nil { // auth's own word, while the session lives
		m.Way, began = sess.way, sess.start
	}
	if describe(&m, first); !began.IsZero() {
		m.Start = began
	}
	if d := s.view.device(m.DeviceUUID); d != nil {
		m.Device, m.Labels = d.Name, d.Labels
	}
	if err := s.recordings.PutManifest(ctx, m); err != nil {
		if errors.Is(err, store.ErrNoSpace) {
			s.spaceRefused()
		}
		return err
	}
	// That there is a recording is in the log from the first moment: one that vanishes before it is closed is missed too.
	s.record(Event{
		Type: "recording.open", Actor: c.String(), Hub: c.id.Name, Session: hex.EncodeToString(id[:]), User: m.User, Login: m.Login, Way: m.Way, Client: m.ClientAddr,
		Device: m.Device, DeviceUUID: m.DeviceUUID, Object: store.Week(m.Start),
	})
	if len(g.Recipients) > 0 && !m.Sealed {
		s.recordUnencrypted(c, m)
	}
	return nil
}

// refuseBare refuses chunks in clear of a recording that the device makes and seals.
func (s *Server) refuseBare(c caller, id [16]byte) error {
	why := "the device makes this recording and seals it for auth, and what came is not sealed"
	s.recordRefusal(c, id, why)
	return api.NewError(connect.CodePermissionDenied, api.Code_CODE_DENIED, "%s", why)
}

// recordRefusal notes that chunks of a hub were not taken, or that it may bring none. It may ask again for as long as its device does, and the log is not to be filled by that.
func (s *Server) recordRefusal(c caller, id [16]byte, why string) {
	if s.reported.take("recording "+c.id.UUID, s.cfg.Now()) {
		s.record(Event{Type: "recording.refuse", Actor: c.String(), Hub: c.id.Name, Session: hex.EncodeToString(id[:]), Reason: clip(why)})
	}
}

// recordUnencrypted notes that a recording came in clear that its grant wanted encrypted. It is kept: what it shows is needed, and was sent already.
func (s *Server) recordUnencrypted(c caller, m store.Manifest) {
	s.record(Event{
		Type: "recording.unencrypted", Actor: c.String(), Hub: c.id.Name, Session: hex.EncodeToString(m.ID[:]), User: m.User, Login: m.Login, Way: m.Way,
		Device: m.Device, DeviceUUID: m.DeviceUUID, Reason: "whoever made it did not encrypt it to the cluster's recording_recipients",
	})
}

// maxLate is how old a recording may say it is when its first chunk comes: a device's clock is not auth's.
const maxLate = 24 * time.Hour

// describe fills in what the recording's own first chunk says: when it began, what was run, and where auth does not know it, by which of the ways in that
// its recorder can have it. A chunk that cannot be read leaves m as it is; it is stored all the same, and the reader says what is wrong with it.
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
	m.Kind, m.Command, m.Sealed = clip(h.Kind), h.Command, len(h.Keys) > 0
	if m.Way == "" && (h.Way == policy.WayHub) == (m.Recorder == store.RecorderHub) && slices.Contains(policy.Ways(), h.Way) {
		m.Way = h.Way
	}
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

// CloseRecording says that no more comes of a recording.
func (s hubService) CloseRecording(ctx context.Context, req *connect.Request[api.CloseRecordingRequest]) (*connect.Response[api.CloseRecordingResponse], error) {
	c, r := callerOf(ctx), req.Msg
	if len(r.RecordingId) != 16 {
		return nil, invalid("a recording id has 16 bytes")
	}
	id := [16]byte(r.RecordingId)
	may, err := s.mayAdd(ctx, c, id, r.Grant, false, false)
	if err == nil {
		err = s.ownRecording(ctx, c, id, may, nil)
	}
	if err != nil {
		return nil, err
	}
	next, err := s.storedChunks(ctx, id)
	if err != nil {
		return nil, err
	}
	if r.Chunks > next {
		return nil, api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_RECORDING_GAP, "only %d of %d chunks are stored", next, r.Chunks)
	}
	e := ending{actor: c.String(), hub: c.id.Name, reason: r.Reason}
	if r.Ended {
		e.exit, e.ended = &r.ExitStatus, clip(r.EndReason)
	}
	if err := s.finishRecording(ctx, id, next, e); err != nil {
		return nil, err
	}
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
	r := req.Msg
	want := r.Filter
	if want == nil {
		want = &api.RecordingFilter{}
	}
	want.User, want.Device = cmp.Or(want.User, r.User), cmp.Or(want.Device, r.Device)
	f, err := s.filterRecordings(callerOf(ctx), want)
	if err != nil {
		return nil, err
	}
	if f.none {
		return connect.NewResponse(&api.ListRecordingsResponse{}), nil
	}
	f.Held, f.Removed = r.Held, r.Removed
	f.IDPrefix, f.Match, f.Limit = strings.ToLower(want.Id), f.match, cmp.Or(int(min(r.Limit, 100000)), 1000)
	ms, err := s.recordings.List(ctx, f.Filter)
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
		Bytes: m.Bytes, Sealed: m.Sealed, Verified: m.Verified, Fault: m.Fault, Witness: m.Witness, Closing: m.Closing, Closed: m.Closed,
	}
	r.Exited, r.Signal, r.Ended = m.Exited, m.Signal, m.Ended
	keep := s.view.cluster().Retention
	until, rule := keptUntil(&keep, m)
	if r.KeepRule = rule; !until.IsZero() {
		r.KeepUntilUnix = until.Unix()
	}
	if m.Hold != nil {
		r.Hold = &api.RecordingMark{By: m.Hold.By, AtUnixNano: m.Hold.At.UnixNano(), Reason: m.Hold.Reason}
	}
	if m.Removed != nil {
		r.Removed = &api.RecordingMark{By: m.Removed.By, AtUnixNano: m.Removed.At.UnixNano(), Reason: m.Removed.Reason}
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
	if m.Removed != nil {
		return errRemoved(m)
	}
	e := Event{Type: "recording.replay", Actor: c.String(), Source: c.addr, Via: c.via, Session: hex.EncodeToString(m.ID[:]), User: m.User, Device: m.Device}
	return s.sendRecording(ctx, c, m, req.Msg.FromSeq, e, stream)
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
	if len(id) < minIDPrefix {
		return store.Manifest{}, none
	}
	found, err := s.recordings.List(ctx, store.Filter{Removed: true, IDPrefix: id, Match: func(m store.Manifest) bool { return mayReplay(c, m) }})
	if err != nil {
		return store.Manifest{}, err
	}
	switch len(found) {
	case 0:
		return store.Manifest{}, none
	case 1:
		return found[0], nil
	}
	return store.Manifest{}, invalid("%d recordings begin with %s; give more of the id", len(found), wire.Quote(id, 40))
}

// errRemoved says of a recording that was removed who did it.
func errRemoved(m store.Manifest) error {
	text := fmt.Sprintf("recording %x was removed by %s on %s", m.ID, m.Removed.By, m.Removed.At.UTC().Format(time.RFC3339))
	if m.Removed.Reason != "" {
		text += ": " + wire.Quote(m.Removed.Reason, 200)
	}
	return notFound("%s", text)
}

// minIDPrefix digits of an id are enough to ask for it.
const minIDPrefix = 6

// begins tells whether the hex form of id begins with at least minIDPrefix digits of beginning.
func begins(id [16]byte, beginning string) bool {
	text := hex.EncodeToString(id[:])
	return len(beginning) >= minIDPrefix && len(beginning) <= len(text) && text[:len(beginning)] == beginning
}
