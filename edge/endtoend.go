package edge

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/ca"
	"hawser/auth/grant"
	"hawser/auth/lock"
	"hawser/auth/policy"
	"hawser/edge/e2e"
	"hawser/edge/forward"
	"hawser/edge/session"
	"hawser/recorder"
	recordingseal "hawser/recorder/seal"
	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// serveEndToEnd gives a stream to the edge's own SSH server.
func (in *incoming) serveEndToEnd(ctx context.Context) error {
	if !in.req.ClientAddr.IsValid() {
		return in.refuse(wire.StreamProtocol, errors.New("no address of the person"))
	}
	st, err := in.accept(policy.DefaultDetachedLife) // until the roles are known; nobody is served before
	if err != nil {
		return err
	}
	h := &host{a: in.l.a, st: st, way: policy.WayEndToEnd, from: st.from, client: in.req.ClientAddr, hubName: in.hubName}
	h.may = tenure{a: h.a, way: h.way}
	return e2e.Serve(ctx, streamConn{st}, e2e.Params{
		Host: h, Way: h.way, Client: in.req.ClientAddr, Server: in.req.ServerAddr, Carried: func() bool { return h.a.streams.carried(st) }, Logger: h.a.log,
	})
}

// host is what e2e needs of the agent, for one connection.
type host struct {
	a      *Agent
	st     *stream // of one who came end to end
	direct *direct // of one who came to the edge's own port
	way    string
	client netip.AddrPort
	may    tenure // of the whole connection
	most   int    // channels it may have, by the caps; 0: e2e's own limit

	mu      sync.Mutex
	from    entry // the hub that is asked for places; of a direct one zero before the first
	hubName string
	grants  map[[16]byte][]byte // of the sessions not yet served, for their recordings; bounded by e2e's channel limit
	taps    []*tap              // of the sessions that are served and recorded; bounded likewise
	// forwards is how many there were: it numbers them in the recordings.
	forwards uint64
}

// entry is the hub that is asked for places.
func (h *host) entry() entry {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.from
}

// hub is the name of that hub.
func (h *host) hub() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.hubName
}

func (h *host) HostKey() (ssh.Signer, error) { return hostSigner(h.a.state.get()) }

func (h *host) VerifyUser(cert *ssh.Certificate, remote net.Addr) (ca.UserIdentity, error) {
	a := h.a
	if h.direct != nil {
		if err := a.current(); err != nil {
			return ca.UserIdentity{}, err
		}
	}
	return ca.VerifyUserCert(cert, a.state.anchors(), a.clock.Now(), remote)
}

// Denied tells the entry hub, which has it written into the audit log. Where there is no hub to tell, the log of the device has it.
func (h *host) Denied(keyID, login string, err error) {
	reason := ca.Reason(err)
	switch {
	case errors.Is(err, e2e.ErrUnproven):
		reason = "unproven"
	case reason == "":
		reason = "policy"
	}
	c := h.a.controls.get(h.entry())
	if c == nil && h.direct != nil {
		c = h.direct.tellDenial()
	}
	if c == nil {
		return
	}
	_ = c.send(wire.Denial{ClientAddr: h.client, Name: truncate(keyID, 63), Login: truncate(login, 255), Reason: reason})
}

func (h *host) MayEnter(roles []string, login string) error {
	p, _, _ := h.a.held()
	if len(p.Access(roles).For(login, h.way).Channels) == 0 {
		return errPolicy
	}
	return nil
}

func (h *host) Place(ctx context.Context, ask e2e.Ask) (*grant.Grant, error) {
	sub := h.subject(ask)
	if err := h.a.lockedOut(sub); err != nil {
		return nil, &e2e.Refusal{Message: err.Error()}
	}
	var reply *wire.PlaceReply
	var on *controlStream
	var err error
	asked := time.Now()
	if h.direct != nil {
		err = h.direct.admit(ask)
		if err == nil && h.direct.silent(ctx) {
			if g, err := h.direct.offline(ask, sub); err == nil {
				return g, nil
			} // else the hub is asked all the same: it may come back in time
		}
		if err == nil {
			err = h.direct.call(ctx)
		}
		if errors.Is(err, errNoHub) {
			return h.direct.offline(ask, sub)
		}
	}
	if err == nil {
		asked = time.Now()
		reply, on, err = h.askGrant(ctx, ask)
		if _, refused := errors.AsType[*e2e.Refusal](err); err != nil && !refused && !errors.Is(err, errControlFull) {
			h.giveBack(ask) // it may have been granted, and the answer lost
		}
	}
	if err != nil {
		return nil, err
	}
	g, err := h.accept(ctx, ask, reply)
	if err != nil { // the hub holds a place for nobody
		h.giveBack(ask)
		return nil, err
	}
	if h.direct != nil {
		h.direct.placed(ask, on, asked, reply.Lease)
	}
	return g, nil
}

// accept takes the place that a hub has granted, if it is what was asked for and may be taken here.
func (h *host) accept(ctx context.Context, ask e2e.Ask, reply *wire.PlaceReply) (*grant.Grant, error) {
	g, err := h.a.checkGrant(reply.Grant, ask.Kind, h.entry().hub)
	if err != nil {
		return nil, err
	}
	// The grant must be the answer to this question: the hub may pass us another, as truly signed.
	// Only a session's id and login are the question's: auth gives the other kinds an id of its own, and a connection opens nothing by itself.
	if g.ConnectionID != ask.ConnectionID || g.User != ask.Cert.KeyId || (g.JoinMode == "") != (ask.Join == "") ||
		ask.Kind == grant.Session && g.SessionID != ask.SessionID || ask.Kind != grant.Connection && g.Login != ask.Login {
		return nil, errors.New("the hub answered with a grant for something else")
	}
	if recordedHere(g) && g.SealKey == [32]byte{} { // of a session that came in by the hub: its recording would go to that in clear
		return nil, errors.New("the hub answered with a grant for another way in")
	}
	switch ask.Kind {
	case grant.Connection:
		h.most = int(reply.MaxChannels)
		h.may.set(g, h.subject(ask))
		if err := h.may.begin(ctx); err != nil {
			return nil, &e2e.Refusal{Message: err.Error()}
		}
		if h.st != nil {
			p, _, _ := h.a.held()
			h.st.SetDetachedLife(p.Access(g.Roles).For(ask.Login, h.way).DetachedLife)
		}
	case grant.Session:
		h.keepGrant(g.SessionID, reply.Grant)
	}
	return g, nil
}

// subject is the person of a question, as locks and roles see him.
func (h *host) subject(ask e2e.Ask) lock.Subject {
	return lock.Subject{
		User: ask.Cert.KeyId, Roles: ca.RolesOf(ask.Cert), Login: ask.Login, Key: ssh.FingerprintSHA256(ask.Cert.Key),
		Source: ask.ClientAddr.Addr(), IssuedAt: ca.IssuedAt(ask.Cert),
	}
}

// recordedHere tells whether a session that came past the hub is recorded.
func recordedHere(g *grant.Grant) bool {
	return g.Kind == grant.Session && g.Record != "" && g.Record != policy.RecordOff
}

// askGrant asks for a place and returns the answer, its grant unread, and the stream that the hub holds it by.
func (h *host) askGrant(ctx context.Context, ask e2e.Ask) (*wire.PlaceReply, *controlStream, error) {
	r := wire.PlaceRequest{
		ConnectionID: ask.ConnectionID, SessionID: ask.SessionID, UserCert: ask.Cert.Marshal(), Login: ask.Login,
		ClientAddr: ask.ClientAddr, Direct: h.direct != nil, Join: ask.Join, JoinMode: ask.JoinMode,
	}
	switch ask.Kind {
	case grant.Session:
		r.Kind = wire.PlaceSession
	case grant.Forwards:
		r.Kind = wire.PlaceForwards
	default:
		r.Kind = wire.PlaceConnection
	}
	reply, on, err := h.askPlace(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	if reply.Refusal != "" || len(reply.Grant) == 0 {
		return nil, nil, &e2e.Refusal{Message: wire.Quote(reply.Refusal, 1024), Later: reply.Later}
	}
	return reply, on, nil
}

// keepGrant keeps the signed grant of a session for its recording.
func (h *host) keepGrant(id [16]byte, blob []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.grants == nil {
		h.grants = map[[16]byte][]byte{}
	}
	h.grants[id] = blob
}

// giveBack releases what was asked for and is not used.
func (h *host) giveBack(ask e2e.Ask) {
	switch ask.Kind {
	case grant.Connection:
		h.Release(ask.ConnectionID, 0, "not used")
	case grant.Session:
		h.Release(ask.SessionID, 0, "not used")
	}
}

func (h *host) MaxChannels() int { return h.most }

func (h *host) Release(id [16]byte, status uint32, reason string) {
	h.takeGrant(id)
	err := errNoControl
	if h.direct != nil && h.direct.released(id, status, reason) {
		return // it was not asked for yet
	}
	if c := h.a.controls.get(h.entry()); c != nil {
		err = c.release(wire.Release{SessionID: id, ExitStatus: int32(status), Reason: truncate(reason, 512)})
	}
	if err != nil {
		tunnel.Debug(h.a.log, "place not given back", "error", err) // the hub is gone: auth takes back what it held
	}
}

// takeGrant gives out the signed grant of a session, once.
func (h *host) takeGrant(id [16]byte) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	blob := h.grants[id]
	delete(h.grants, id)
	return blob
}

func (h *host) Allow(g *grant.Grant, kind string) error {
	return h.may.allow(g, kind)
}

func (h *host) Access(g *grant.Grant) (forward.Access, error) {
	return h.a.access(g, h.way)
}

// Moderated implements e2e.Host.
func (h *host) Moderated(ctx context.Context, g *grant.Grant, kind, what string) (context.Context, func(), error) {
	return h.a.engine.Moderated(ctx, g.User, policy.ModeratorsFor(g.Moderators, kind), what)
}

func (h *host) Enter(ctx context.Context, id [16]byte) (context.Context, func()) {
	return h.a.live.add(ctx, id, h.entry().hub, &h.may)
}

// Serve runs a session, recorded here where the grant says recorded: in this way in nobody else sees it.
func (h *host) Serve(ctx context.Context, ch *e2e.Session, g *grant.Grant, p session.Params) session.Result {
	a := h.a
	told := guests{say: p.Say}
	if recordedHere(g) {
		t := &tap{stdin: g.RecordStdin, begin: func(what recorder.Header, terminal bool) *recorder.Writer { return h.record(g, what, terminal) }}
		p.Tap, p.Redact = t, g.RecordStdin == policy.StdinRedacted
		defer a.closeTap(t, g.SessionID)
		h.mu.Lock()
		h.taps = append(h.taps, t)
		h.mu.Unlock()
		defer func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.taps = slices.DeleteFunc(h.taps, func(other *tap) bool { return other == t })
		}()
		told.tap = t
	}
	p.Guests = told
	if h.st != nil {
		p.There = func() bool { return a.streams.carried(h.st) }
	}
	return a.serveChannel(ctx, ch, g, p)
}

// record begins a recording of the session, of which what says what it is, and asks the hub to fetch it.
func (h *host) record(g *grant.Grant, what recorder.Header, terminal bool) *recorder.Writer {
	a := h.a
	c := a.state.get()
	up := &upload{id: g.SessionID, from: h.entry(), strict: g.Record == policy.RecordStrict}
	if !g.Offline {
		up.grant = h.takeGrant(g.SessionID)
		up.sealFor(g.SealKey)
	}
	a.uploads.add(up)
	h.bind(up) // another hub may have granted it since
	what.ID, what.Cluster, what.User, what.Device, what.DeviceUUID, what.Login = g.SessionID, c.Cluster, g.User, c.Name, c.UUID, g.Login
	what.Way, what.ClientAddr, what.Hub, what.Start = h.way, g.ClientAddr.String(), h.hub(), a.clock.Now()
	what.SignerKey = c.Key.Public().(ed25519.PublicKey)
	o := recorder.Options{Sink: up.sink, Room: up.room, Sign: func(m []byte) []byte { return ed25519.Sign(c.Key, m) }}
	if len(g.Recipients) > 0 {
		key, wrapped := recordingseal.NewKey(g.Recipients)
		o.Key, what.Keys = (*[32]byte)(&key), wrapped
	}
	if g.Record == policy.RecordStrict {
		o.ChunkAge, o.ChunkSize = strictChunkAge, strictChunk
		o.Window = &recorder.Window{Bytes: strictBulk, Age: strictAge, Grace: strictGrace, Ended: func(why error) { a.live.cut(g.SessionID, why) }}
		if terminal {
			o.Window.Bytes = strictTerminal
		}
		if h.st != nil {
			o.Window.Held = func() bool { return !a.streams.carried(h.st) }
		}
	}
	w := recorder.NewWriter(what, o)
	up.writer.Store(w)
	return w
}

// closeRecording ends a recording and leaves what is not yet durable to the uploads.
func (a *Agent) closeRecording(w *recorder.Writer, id [16]byte) {
	ctx, cancel := context.WithTimeout(context.Background(), closeRecordingTimeout)
	defer cancel()
	if err := w.Close(ctx); err != nil {
		tunnel.Warn(a.log, "recording is incomplete", "session", fmt.Sprintf("%x", id), "error", err)
	}
	if up := a.uploads.get(id); up != nil {
		up.finish()
	}
}

// streamConn makes a net.Conn of a stream; e2e puts the true addresses in front.
type streamConn struct{ *stream }

func (streamConn) LocalAddr() net.Addr  { return nil }
func (streamConn) RemoteAddr() net.Addr { return nil }
