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

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/policy"
	"hawser/hub/registry"
	"hawser/recorder"
	"hawser/tunnel"
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

// grantedSession is a session granted to a device for somebody who came end to end.
type grantedSession struct {
	device wire.UUID
	grant  []byte
}

// grantedSessions remembers them, the oldest forgotten first when there are too many.
type grantedSessions struct {
	mu    sync.Mutex
	byID  map[[16]byte]grantedSession
	order [][16]byte
	live  map[[16]byte]*registry.Tunnel // not released yet, and what they were asked for over: they end with it
}

func (g *grantedSessions) add(id [16]byte, t *registry.Tunnel, grant []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.byID == nil {
		g.byID, g.live = make(map[[16]byte]grantedSession), make(map[[16]byte]*registry.Tunnel)
	}
	if len(g.order) >= maxGranted {
		delete(g.byID, g.order[0])
		delete(g.live, g.order[0])
		g.order = g.order[1:]
	}
	g.byID[id] = grantedSession{device: t.UUID, grant: grant}
	g.live[id] = t
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
	t := g.live[id]
	if t == nil || t.UUID != device {
		return false
	}
	delete(g.live, id)
	return true
}

// lost forgets the sessions asked for over a tunnel that ended, and returns those that were alive: nobody is left to release them.
func (g *grantedSessions) lost(t *registry.Tunnel) (ids [][16]byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, over := range g.live {
		if over == t {
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

func (g *grantedSessions) deviceOf(id [16]byte) (wire.UUID, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.live[id]
	if t == nil {
		return wire.UUID{}, false
	}
	return t.UUID, true
}

// place asks auth for what a device asks for somebody who came end to end. The certificate is the person's; the hub checks it, as auth and
// the device do.
func (h *Hub) place(t *registry.Tunnel, m *wire.PlaceRequest) {
	ctx, cancel := context.WithTimeout(t.Conn.Context(), placeTimeout)
	defer cancel()
	reply := wire.PlaceReply{ID: m.ID}
	r, err := h.askPlace(ctx, t, m)
	switch {
	case err != nil:
		h.config.Logger.Warn("place not granted", "device", t.Name, "error", err)
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
			h.granted.add(id, t, r.Grant)
		}
		h.config.Logger.Info("place granted", "kind", kind, "user", r.User, "device", t.Name, "way", policy.WayEndToEnd)
	}
	_ = tunnel.Send(t.Conn, reply)
}

var errUserCertificate = errors.New("user certificate not accepted")

func (h *Hub) askPlace(ctx context.Context, t *registry.Tunnel, m *wire.PlaceRequest) (*api.AdmitResponse, error) {
	key, err := ssh.ParsePublicKey(m.UserCert)
	if err != nil {
		return nil, errUserCertificate
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return nil, errUserCertificate
	}
	user, err := ca.VerifyUserCert(cert, h.auth.Trust(), h.config.Now(), tcpAddr(m.ClientAddr))
	if err != nil {
		return nil, err
	}
	kind := api.Kind_KIND_SESSION
	switch m.Kind {
	case wire.PlaceConnection:
		kind = api.Kind_KIND_CONNECTION
	case wire.PlaceForwards:
		kind = api.Kind_KIND_FORWARDS
	}
	r := &api.AdmitRequest{
		User: user.Name, Certificate: m.UserCert, ConnectionId: m.ConnectionID[:], Kind: kind, Device: t.UUID.String(),
		Incarnation: t.Incarnation[:], Login: m.Login, Channel: m.Channel, Way: policy.WayEndToEnd, ClientAddress: m.ClientAddr.String(),
		Command: m.Command,
	}
	if m.SessionID != [16]byte{} {
		r.SessionId = m.SessionID[:]
	}
	return h.auth.Admit(ctx, r)
}

// releaseFrom passes on the end of a session, if it was this device's.
func (h *Hub) releaseFrom(t *registry.Tunnel, m *wire.Release) {
	if h.granted.released(m.SessionID, t.UUID) {
		h.auth.Release(m.SessionID, m.ExitStatus, wire.Quote(m.Reason, 256))
	}
}

// upload takes a recording that the edge made and stores it at auth, chunk by chunk, each confirmed when it is on disk.
func (h *Hub) upload(t *registry.Tunnel, id [16]byte) {
	s, ok := h.granted.get(id)
	if !ok || s.device != t.UUID {
		h.config.Logger.Warn("upload refused", "device", t.Name, "recording", hex.EncodeToString(id[:]), "reason", "not granted to this device")
		return
	}
	a := wire.Attach{
		Kind: wire.KindUpload, ID: wire.NewStreamID(), EntryHub: h.auth.UUID(), EntryHubIncarnation: h.incarnation,
		Open: wire.OpenRequest{RecordingID: id}.Append(nil),
	}
	att, err := t.Conn.OpenStream(t.Conn.Context())
	if err != nil {
		return
	}
	stream := resume.Open(att, a, resume.Options{})
	defer func() { _ = stream.Close() }()
	if err := h.takeUpload(t.Conn.Context(), stream, id, s.grant); err != nil {
		h.config.Logger.Warn("upload ended early", "device", t.Name, "recording", hex.EncodeToString(id[:]), "error", err)
		stream.Reset(wire.StreamCancelled)
	}
}

func (h *Hub) takeUpload(ctx context.Context, stream *resume.Stream, id [16]byte, grant []byte) error {
	// An upload that broke goes on where auth has it: the edge keeps nothing that it was told is on disk.
	next, err := h.auth.AppendRecording(ctx, &api.AppendRecordingRequest{RecordingId: id[:], Grant: grant})
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
			if errors.Is(err, io.EOF) && closed {
				return nil
			}
			return err
		}
		n := binary.BigEndian.Uint32(size[:])
		if n > recorder.MaxStoredChunk {
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
		next, err = h.auth.AppendRecording(ctx, &api.AppendRecordingRequest{
			RecordingId: id[:], Grant: grant, Chunks: []*api.Chunk{{Seq: header.Seq, Data: chunk}},
		})
		if err != nil {
			return err
		}
		// Before the edge is told: once it knows that the last chunk is stored it forgets the recording.
		if closed = header.Flags&recorder.FlagLast != 0; closed {
			if err := h.auth.CloseRecording(ctx, &api.CloseRecordingRequest{RecordingId: id[:], Grant: grant, Chunks: next}); err != nil {
				return err
			}
		}
	}
}
