package hub

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/proto"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/grant"
	"hawser/auth/policy"
	"hawser/recorder"
	"hawser/tunnel/resume"
	"hawser/tunnel/wire"
)

const (
	// maxPlaces requests of one device may be in hand at once.
	maxPlaces = 32
	// maxGranted end-to-end sessions are remembered for their uploads.
	maxGranted = 1 << 16
	// placeTimeout bounds a call for a place.
	placeTimeout = 10 * time.Second
	// uploadIdle ends an upload on which nothing came.
	uploadIdle = 2 * time.Minute
)

// grantedSession is a session, or a connection, granted to a device for somebody who came end to end.
type grantedSession struct {
	device wire.UUID
	grant  []byte
}

// livePlace is one not released yet. It ends with the control stream it was asked for over.
type livePlace struct {
	stream *controlStream
	state  *api.SessionState
}

// grantedSessions remembers them, the oldest forgotten first when there are too many.
type grantedSessions struct {
	mu    sync.Mutex
	byID  map[[16]byte]grantedSession
	order [][16]byte
	live  map[[16]byte]livePlace
}

func (g *grantedSessions) add(id [16]byte, s *controlStream, grant []byte, state *api.SessionState) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.byID == nil {
		g.byID, g.live = make(map[[16]byte]grantedSession), make(map[[16]byte]livePlace)
	}
	if len(g.order) >= maxGranted {
		delete(g.byID, g.order[0])
		delete(g.live, g.order[0])
		g.order = g.order[1:]
	}
	g.byID[id] = grantedSession{device: s.c.device, grant: grant}
	g.live[id] = livePlace{s, state}
	g.order = append(g.order, id)
}

func (g *grantedSessions) get(id [16]byte) (grantedSession, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s, ok := g.byID[id]
	return s, ok
}

// released forgets that a session is alive and tells whether it was that device's.
func (g *grantedSessions) released(id [16]byte, device wire.UUID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	p, ok := g.live[id]
	if !ok || p.stream.c.device != device {
		return false
	}
	delete(g.live, id)
	return true
}

// lost forgets the sessions asked for over a control stream that ended for good, and returns those that were alive: nobody is left to release
// them.
func (g *grantedSessions) lost(s *controlStream) (ids [][16]byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, p := range g.live {
		if p.stream == s {
			ids = append(ids, id)
			delete(g.live, id)
		}
	}
	return ids
}

// alive returns the ids of sessions not released yet.
func (g *grantedSessions) alive() [][16]byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	ids := make([][16]byte, 0, len(g.live))
	for id := range g.live {
		ids = append(ids, id)
	}
	return ids
}

// states says of each of them what is known. One whose device's control stream is detached is detached itself: both go by the same tunnels.
func (g *grantedSessions) states() []*api.SessionState {
	g.mu.Lock()
	all := make([]livePlace, 0, len(g.live))
	for _, p := range g.live {
		all = append(all, p)
	}
	g.mu.Unlock()
	states := make([]*api.SessionState, 0, len(all))
	for _, p := range all {
		if p.state == nil {
			continue
		}
		s := proto.CloneOf(p.state)
		s.DetachedSinceUnixNano = unixNano(p.stream.DetachedSince())
		states = append(states, s)
	}
	return states
}

func (g *grantedSessions) deviceOf(id [16]byte) (wire.UUID, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p, ok := g.live[id]
	if !ok {
		return wire.UUID{}, false
	}
	return p.stream.c.device, true
}

// deviceName is a device's name, or its UUID where auth has not told it.
func (h *Hub) deviceName(id wire.UUID) string {
	if d := h.auth.Cache.Device(id); d != nil {
		return d.Name
	}
	return id.String()
}

// place asks auth for what a device asks for somebody who came end to end. The certificate is the person's; the hub checks it, as auth and
// the device do.
func (h *Hub) place(s *controlStream, m *wire.PlaceRequest) {
	ctx, cancel := context.WithTimeout(s.c.ctx, placeTimeout)
	defer cancel()
	reply := wire.PlaceReply{ID: m.ID}
	device := h.deviceName(s.c.device)
	r, state, err := h.askPlace(ctx, s, m)
	switch {
	case err != nil:
		h.config.Logger.Warn("place not granted", "device", device, "error", err)
		reply.Refusal = "the hub cannot grant this now; try again in a minute"
	case r.Refusal != nil:
		reply.Refusal = wire.Quote(r.Refusal.Message, 1000)
	default:
		reply.Grant = r.Grant
		id, kind := m.SessionID, "session"
		switch m.Kind {
		case wire.PlaceConnection:
			id, kind = m.ConnectionID, "connection"
		case wire.PlaceForwards:
			id, kind = [16]byte{}, "forwards"
		}
		if id != [16]byte{} {
			state.Id, state.Recorded = id[:], len(r.RecordingId) > 0
			s.c.keep(time.Duration(r.GetAccess().GetDetachedLifeMs()) * time.Millisecond)
			h.granted.add(id, s, r.Grant, state)
			h.auth.SessionsDirty()
		}
		h.config.Logger.Info("place granted", "kind", kind, "user", r.User, "device", device, "way", policy.WayEndToEnd)
	}
	s.reply(reply)
}

var errUserCertificate = errors.New("user certificate not accepted")

func (h *Hub) askPlace(ctx context.Context, s *controlStream, m *wire.PlaceRequest) (*api.AdmitResponse, *api.SessionState, error) {
	key, err := ssh.ParsePublicKey(m.UserCert)
	if err != nil {
		return nil, nil, errUserCertificate
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return nil, nil, errUserCertificate
	}
	user, err := ca.VerifyUserCert(cert, h.auth.Trust(), h.config.Now(), tcpAddr(m.ClientAddr))
	if err != nil {
		return nil, nil, err
	}
	kind := api.Kind_KIND_SESSION
	switch m.Kind {
	case wire.PlaceConnection:
		kind = api.Kind_KIND_CONNECTION
	case wire.PlaceForwards:
		kind = api.Kind_KIND_FORWARDS
	}
	r := &api.AdmitRequest{
		User: user.Name, Certificate: m.UserCert, ConnectionId: m.ConnectionID[:], Kind: kind, Device: s.c.device.String(),
		Incarnation: s.incarnation[:], Login: m.Login, Channel: m.Channel, Way: policy.WayEndToEnd, ClientAddress: m.ClientAddr.String(),
		Command: m.Command,
	}
	if m.SessionID != [16]byte{} {
		r.SessionId = m.SessionID[:]
	}
	resp, err := h.auth.Admit(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	return resp, &api.SessionState{
		ConnectionId: m.ConnectionID[:], Kind: kind, User: user.Name, DeviceUuid: r.Device, Login: m.Login, Way: r.Way, Channel: m.Channel,
		Command: wire.Quote(m.Command, maxStateCommand), ClientAddress: r.ClientAddress, StartUnixNano: h.config.Now().UnixNano(),
	}, nil
}

// deadlined is a stream as an upload needs it.
type deadlined interface {
	io.ReadWriter
	SetReadDeadline(t time.Time) error
}

// releaseFrom passes on the end of a session, if it was this device's.
func (h *Hub) releaseFrom(device wire.UUID, m *wire.Release) {
	if h.granted.released(m.SessionID, device) {
		h.auth.Release(m.SessionID, m.ExitStatus, wire.Quote(m.Reason, 256))
	}
}

// upload takes a recording that the edge made and stores it at auth, chunk by chunk, each confirmed when it is on disk.
// It goes on over another tunnel when the device asks again.
func (h *Hub) upload(ctx context.Context, device wire.UUID, m *wire.UploadWanted) {
	id, name := m.RecordingID, h.deviceName(device)
	proof, err := h.grantOf(device, m)
	if err != nil {
		h.config.Logger.Warn("upload refused", "device", name, "recording", hex.EncodeToString(id[:]), "error", err)
		return
	}
	a := wire.Attach{Kind: wire.KindUpload, ID: wire.NewStreamID(), Open: wire.OpenRequest{RecordingID: id}.Append(nil)}
	octx, cancel := context.WithTimeout(ctx, controlOpen)
	defer cancel()
	att, err := h.openStream(octx, device, &a)
	if err != nil {
		return
	}
	stream := resume.Open(att, a, resume.Options{})
	defer func() {
		_ = stream.Close()
		<-stream.Done()
	}()
	defer context.AfterFunc(ctx, func() { stream.Reset(wire.StreamCancelled) })()
	if err := takeUpload(stream, h.storeUpload(ctx, id, proof)); err != nil {
		h.config.Logger.Warn("upload ended early", "device", name, "recording", hex.EncodeToString(id[:]), "error", err)
		stream.Reset(wire.StreamCancelled)
	}
}

// grantOf is the grant of the session whose recording a device has: the one remembered, or after a restart of this hub the one that the device
// shows. Auth judges it again.
func (h *Hub) grantOf(device wire.UUID, m *wire.UploadWanted) ([]byte, error) {
	if s, ok := h.granted.get(m.RecordingID); ok {
		if s.device != device {
			return nil, errNotGranted
		}
		return s.grant, nil
	}
	g, err := grant.Open(m.Grant, h.auth.Trust().GrantKeys)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotGranted, err)
	}
	if wire.UUID(g.Device) != device || g.SessionID != m.RecordingID || wire.UUID(g.EntryHub) != h.auth.UUID() {
		return nil, errNotGranted
	}
	return m.Grant, nil
}

var errNotGranted = errors.New("not granted to this device by this hub")

// takeUpload takes chunks from a device. store stores one, and says of the last that it is; without one it tells which is wanted next, and so
// it does after each: an upload that broke goes on where auth has it, for the edge keeps nothing that it was told is on disk. Once it knows that
// the last chunk is stored it forgets the recording.
func takeUpload(stream deadlined, store func(chunk *api.Chunk, last bool) (next uint64, err error)) error {
	next, err := store(nil, false)
	if err != nil {
		return err
	}
	for closed := false; ; {
		if _, err := stream.Write(binary.BigEndian.AppendUint64(nil, next)); err != nil {
			return err
		}
		_ = stream.SetReadDeadline(time.Now().Add(uploadIdle))
		var size [4]byte
		if _, err := io.ReadFull(stream, size[:]); err != nil {
			if err == io.EOF && closed {
				return nil
			}
			return err
		}
		n := binary.BigEndian.Uint32(size[:])
		if n > recorder.MaxStoredChunk || closed {
			return fmt.Errorf("chunk of %d bytes", n)
		}
		chunk := make([]byte, n)
		if _, err := io.ReadFull(stream, chunk); err != nil {
			return err
		}
		header, _, err := recorder.ParseChunk(chunk)
		if err != nil {
			return err
		}
		closed = header.Flags&recorder.FlagLast != 0
		if next, err = store(&api.Chunk{Seq: header.Seq, Data: chunk}, closed); err != nil {
			return err
		}
	}
}

// storeUpload stores a chunk of a recording at auth.
func (h *Hub) storeUpload(ctx context.Context, id [16]byte, proof []byte) func(chunk *api.Chunk, last bool) (uint64, error) {
	return func(chunk *api.Chunk, last bool) (uint64, error) {
		r := &api.AppendRecordingRequest{RecordingId: id[:], Grant: proof}
		if chunk != nil {
			r.Chunks = []*api.Chunk{chunk}
		}
		next, err := h.auth.AppendRecording(ctx, r)
		if err == nil && last { // before the edge is told
			err = h.closeRecording(ctx, &api.CloseRecordingRequest{RecordingId: id[:], Grant: proof, Chunks: next})
		}
		return next, err
	}
}
