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
	"hawser/auth/seal"
	"hawser/recorder"
	"hawser/tunnel/resume"
	"hawser/tunnel/wire"
)

const (
	// maxPlaces requests of one device may be in hand at once; one under a cap that is full waits a second.
	maxPlaces = 128
	// maxGranted places of one device may be live: more than its streams and their channels come to, each of which a person's certificate was shown for.
	maxGranted = 4096
	// placeTimeout bounds a call for a place.
	placeTimeout = 10 * time.Second
	// uploadStall ends an upload in the midst of a chunk. Between chunks nothing does but the tunnel's end: a session may stand still for days.
	uploadStall = 2 * time.Minute
)

// livePlace is a place granted to a device for somebody who came end to end, or directly. It ends with the control stream it was asked for over.
type livePlace struct {
	stream *controlStream
	state  *api.SessionState
	done   func() // lets the control stream go that is kept for one who came directly; nil: somebody else keeps it
}

// let lets the control stream go, but for its linger.
func (p livePlace) let() {
	if p.done != nil {
		p.done()
	}
}

// grantedSessions are the places that are not released yet.
type grantedSessions struct {
	mu   sync.Mutex
	live map[[16]byte]livePlace
	of   map[wire.UUID]int // how many are a device's
}

var (
	errManyPlaces = errors.New("the device has too many places")
	errStreamOver = errors.New("the control stream has ended")
)

// add is refused where nobody would release the place.
func (g *grantedSessions) add(id [16]byte, s *controlStream, state *api.SessionState, done func()) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.live == nil {
		g.live, g.of = make(map[[16]byte]livePlace), make(map[wire.UUID]int)
	}
	p := livePlace{s, state, done}
	switch was, again := g.live[id]; {
	case s.over:
		p.let()
		return errStreamOver
	case again:
		g.deleteLocked(id, was)
	case g.of[s.c.device] >= maxGranted:
		p.let()
		return errManyPlaces
	}
	g.live[id] = p
	g.of[s.c.device]++
	return nil
}

func (g *grantedSessions) deleteLocked(id [16]byte, p livePlace) {
	p.let()
	delete(g.live, id)
	if g.of[p.stream.c.device]--; g.of[p.stream.c.device] == 0 {
		delete(g.of, p.stream.c.device)
	}
}

// released forgets that a session is alive and tells whether it was that device's.
func (g *grantedSessions) released(id [16]byte, device wire.UUID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	p, ok := g.live[id]
	if !ok || p.stream.c.device != device {
		return false
	}
	g.deleteLocked(id, p)
	return true
}

// lost forgets the sessions asked for over a control stream that ended for good, and returns those that were alive: nobody is left to release
// them.
func (g *grantedSessions) lost(s *controlStream) (ids [][16]byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s.over = true // what is granted after this was asked for before it
	for id, p := range g.live {
		if p.stream == s {
			ids = append(ids, id)
			g.deleteLocked(id, p)
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
func (g *grantedSessions) states(full bool) []*api.SessionState {
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
		if !full { // auth has judged it
			s.Certificate = nil
		}
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
	if m.Kind == wire.PlaceLease {
		reply.Lease = h.auth.LeaseLeft()
		s.reply(reply)
		return
	}
	device := h.deviceName(s.c.device)
	r, state, err := h.askPlace(ctx, s, m)
	switch {
	case err != nil:
		h.config.Logger.Warn("place not granted", "device", device, "error", err)
		reply.Refusal, reply.Later = "the hub cannot grant this now; try again in a minute", true
	case r.Refusal != nil:
		reply.Refusal = wire.Quote(r.Refusal.Message, 1000)
	default:
		reply.Grant, reply.MaxChannels = r.Grant, r.GetAccess().GetMaxChannels()
		if m.Direct && r.GetAccess().GetExact() {
			reply.Lease = max(h.auth.LeaseLeft(), time.Millisecond)
		}
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
			var done func()
			if m.Direct { // no connection of a person's keeps it
				_, done = h.holdControl(s.c.device)
			}
			if err := h.granted.add(id, s, state, done); err != nil {
				h.auth.Release(id, -1, err.Error())
				h.config.Logger.Warn("place not granted", "device", device, "error", err)
				s.reply(wire.PlaceReply{ID: m.ID, Refusal: "the hub cannot grant this now: " + err.Error(), Later: true})
				return
			}
			if why := h.early.get(id); why != "" {
				s.c.tell(wire.Kill{SessionID: id, Reason: wire.Quote(why, 512)})
			}
			h.auth.SessionsDirty()
		}
		h.config.Logger.Info("place granted", "kind", kind, "user", r.User, "device", device, "way", wayOf(m))
	}
	s.reply(reply)
}

// wayOf is how the person came.
func wayOf(m *wire.PlaceRequest) string {
	if m.Direct {
		return policy.WayDirect
	}
	return policy.WayEndToEnd
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
		Incarnation: s.incarnation[:], Login: m.Login, Channel: m.Channel, Way: wayOf(m), ClientAddress: m.ClientAddr.String(),
		Command: m.Command, Join: m.Join, JoinMode: m.JoinMode,
	}
	if m.SessionID != [16]byte{} {
		r.SessionId = m.SessionID[:]
	}
	resp, err := h.auth.Admit(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	joins, mode := h.joinedBy(resp.Grant)
	return resp, &api.SessionState{
		Joins: joins, JoinMode: mode,
		ConnectionId: m.ConnectionID[:], Kind: kind, User: user.Name, DeviceUuid: r.Device, Login: m.Login, Way: r.Way, Channel: m.Channel,
		Command: wire.Quote(m.Command, maxStateCommand), ClientAddress: r.ClientAddress, StartUnixNano: h.config.Now().UnixNano(), Certificate: m.UserCert,
	}, nil
}

// joinedBy is the session that the holder of a grant joins, for auth to be told of after it was away; nil: it is one of his own.
func (h *Hub) joinedBy(blob []byte) (session []byte, mode string) {
	g, err := grant.Open(blob, h.auth.Trust().GrantKeys)
	if err != nil || g.JoinMode == "" {
		return nil, ""
	}
	return g.Join[:], g.JoinMode
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
// It goes on over another tunnel, or by another hub, when the device asks again.
func (h *Hub) upload(ctx context.Context, device wire.UUID, m *wire.UploadWanted) {
	id, name := m.RecordingID, h.deviceName(device)
	if err := h.mayTake(device, m); err != nil {
		h.config.Logger.Warn("upload refused", "device", name, "recording", hex.EncodeToString(id[:]), "error", err)
		return
	}
	a := wire.Attach{Kind: wire.KindUpload, ID: wire.NewStreamID(), Open: wire.OpenRequest{RecordingID: id}.Append(nil)}
	octx, cancel := context.WithTimeout(ctx, controlOpen)
	defer cancel()
	att, err := h.openStream(octx, device, &a)
	if err != nil {
		h.config.Logger.Debug("upload not begun", "device", name, "recording", hex.EncodeToString(id[:]), "error", err)
		return
	}
	stream := resume.Open(att, a, resume.Options{})
	defer func() {
		_ = stream.Close()
		<-stream.Done()
	}()
	defer context.AfterFunc(ctx, func() { stream.Reset(wire.StreamCancelled) })()
	if err := takeUpload(stream, h.storeUpload(ctx, id, m.Grant)); err != nil {
		h.config.Logger.Warn("upload ended early", "device", name, "recording", hex.EncodeToString(id[:]), "error", err)
		stream.Reset(wire.StreamCancelled)
	}
}

// mayTake tells whether this hub may take a device's recording, by the session's grant, which the device shows: any hub one that is sealed for auth,
// its entry hub another. Auth judges it again.
func (h *Hub) mayTake(device wire.UUID, m *wire.UploadWanted) error {
	g, err := grant.Open(m.Grant, h.auth.Trust().GrantKeys)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errNotGranted, err)
	case wire.UUID(g.Device) != device || g.SessionID != m.RecordingID || g.SealKey == [32]byte{} && wire.UUID(g.EntryHub) != h.auth.UUID():
		return errNotGranted
	}
	return nil
}

var errNotGranted = errors.New("the device shows no grant of it for this hub")

// taken is what an edge is told: which chunk is wanted next, and auth's word for that, empty where there is none.
type taken struct {
	next uint64
	ack  []byte
}

// takeUpload takes chunks from a device. store stores one, and says of the last that it is; without one it tells which is wanted next, and so
// it does after each, in auth's words to the edge with that key: an upload that broke goes on where auth has it, for the edge keeps nothing that it was told is on disk. Once it knows that
// the last chunk is stored it forgets the recording.
func takeUpload(stream deadlined, store func(key []byte, chunk *api.Chunk, last bool) (taken, error)) error {
	_ = stream.SetReadDeadline(time.Now().Add(uploadStall))
	var key [seal.PublicSize]byte
	if _, err := io.ReadFull(stream, key[:]); err != nil {
		return err
	}
	has, err := store(key[:], nil, false)
	if err != nil {
		return err
	}
	for closed := false; ; {
		word := make([]byte, 8+seal.AckSize)
		binary.BigEndian.PutUint64(word, has.next)
		copy(word[8:], has.ack)
		if _, err := stream.Write(word); err != nil {
			return err
		}
		var size [4]byte
		_ = stream.SetReadDeadline(time.Time{})
		if _, err := io.ReadFull(stream, size[:1]); err != nil {
			if err == io.EOF { // it has no more, or begins anew
				return nil
			}
			return err
		}
		_ = stream.SetReadDeadline(time.Now().Add(uploadStall))
		if _, err := io.ReadFull(stream, size[1:]); err != nil {
			return err
		}
		n := binary.BigEndian.Uint32(size[:])
		if n > recorder.MaxStoredChunk+seal.Overhead || closed {
			return fmt.Errorf("chunk of %d bytes", n)
		}
		chunk := make([]byte, n)
		if _, err := io.ReadFull(stream, chunk); err != nil {
			return err
		}
		seq, flags, sealed := seal.Head(chunk)
		if !sealed {
			header, _, err := recorder.ParseChunk(chunk)
			if err != nil {
				return err
			}
			seq, flags = header.Seq, header.Flags
		}
		closed = flags&recorder.FlagLast != 0
		if has, err = store(key[:], &api.Chunk{Seq: seq, Data: chunk}, closed); err != nil {
			return err
		}
	}
}

// storeUpload stores a chunk of a recording at auth.
func (h *Hub) storeUpload(ctx context.Context, id [16]byte, proof []byte) func(key []byte, chunk *api.Chunk, last bool) (taken, error) {
	return func(key []byte, chunk *api.Chunk, last bool) (taken, error) {
		r := &api.AppendRecordingRequest{RecordingId: id[:], Grant: proof}
		if [seal.PublicSize]byte(key) != [seal.PublicSize]byte{} {
			r.AckKey = key
		}
		if chunk != nil {
			r.Chunks = []*api.Chunk{chunk}
		}
		res, err := h.auth.AppendPatiently(ctx, r)
		if err == nil && last { // before the edge is told: what it was not, it sends again
			err = h.auth.CloseRecording(ctx, &api.CloseRecordingRequest{RecordingId: id[:], Grant: proof, Chunks: res.GetNextSeq()})
		}
		return taken{res.GetNextSeq(), res.GetAck()}, err
	}
}
