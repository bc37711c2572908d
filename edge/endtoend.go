package edge

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"sync"

	"golang.org/x/crypto/ssh"

	"hawser/auth/ca"
	"hawser/auth/grant"
	"hawser/auth/policy"
	"hawser/edge/e2e"
	"hawser/edge/forward"
	"hawser/edge/session"
	"hawser/recorder"
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
	h := &host{a: in.l.a, st: st, hubName: in.hubName}
	return e2e.Serve(ctx, streamConn{st}, e2e.Params{
		Host: h, Client: in.req.ClientAddr, Server: in.req.ServerAddr, Carried: func() bool { return h.a.streams.carried(st) }, Logger: h.a.log,
	})
}

// host is what e2e needs of the agent, for one connection.
type host struct {
	a       *Agent
	st      *stream
	hubName string

	mu     sync.Mutex
	grants map[[16]byte][]byte // of the sessions not yet served, for their recordings; bounded by e2e's channel limit
}

func (h *host) HostKey() (ssh.Signer, error) { return hostSigner(h.a.state.get()) }

func (h *host) VerifyUser(cert *ssh.Certificate, remote net.Addr) (ca.UserIdentity, error) {
	a := h.a
	return ca.VerifyUserCert(cert, a.state.anchors(), a.clock.Now(), remote)
}

func (h *host) MayEnter(roles []string, login string) error {
	p, _, _ := h.a.held()
	if len(p.Access(roles).For(login, policy.WayEndToEnd).Channels) == 0 {
		return errPolicy
	}
	return nil
}

func (h *host) Place(ctx context.Context, ask e2e.Ask) (*grant.Grant, error) {
	r := wire.PlaceRequest{
		ConnectionID: ask.ConnectionID, SessionID: ask.SessionID, UserCert: ask.Cert.Marshal(), Login: ask.Login,
		ClientAddr: ask.ClientAddr,
	}
	switch ask.Kind {
	case grant.Session:
		r.Kind = wire.PlaceSession
	case grant.Forwards:
		r.Kind = wire.PlaceForwards
	default:
		r.Kind = wire.PlaceConnection
	}
	reply, err := h.askPlace(ctx, r)
	if err != nil {
		return nil, err
	}
	if reply.Refusal != "" || len(reply.Grant) == 0 {
		return nil, &e2e.Refusal{Message: wire.Quote(reply.Refusal, 1024)}
	}
	g, err := h.a.checkGrant(reply.Grant, ask.Kind, h.st.from.hub)
	if err != nil {
		return nil, err
	}
	// The grant must be the answer to this question: the hub may pass us another, as truly signed.
	// Only a session's id and login are the question's: auth gives the other kinds an id of its own, and a connection opens nothing by itself.
	if g.ConnectionID != ask.ConnectionID || g.User != ask.Cert.KeyId ||
		ask.Kind == grant.Session && g.SessionID != ask.SessionID || ask.Kind != grant.Connection && g.Login != ask.Login {
		return nil, errors.New("the hub answered with a grant for something else")
	}
	switch ask.Kind {
	case grant.Connection:
		p, _, _ := h.a.held()
		h.st.SetDetachedLife(p.Access(g.Roles).For(ask.Login, policy.WayEndToEnd).DetachedLife)
	case grant.Session:
		h.mu.Lock()
		if h.grants == nil {
			h.grants = map[[16]byte][]byte{}
		}
		h.grants[g.SessionID] = reply.Grant
		h.mu.Unlock()
	}
	return g, nil
}

func (h *host) Release(id [16]byte, status uint32, reason string) {
	h.takeGrant(id)
	err := errNoControl
	if c := h.a.controls.get(h.st.from); c != nil {
		err = c.send(wire.Release{SessionID: id, ExitStatus: int32(status), Reason: truncate(reason, 512)})
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
	return h.a.allow(g, policy.WayEndToEnd, kind)
}

func (h *host) Access(g *grant.Grant) (forward.Access, error) {
	return h.a.access(g, policy.WayEndToEnd)
}

func (h *host) Enter(ctx context.Context, id [16]byte) (context.Context, func()) {
	return h.a.live.add(ctx, id, h.st.from.hub)
}

// Serve runs a session, recorded here where the grant says recorded: in this way in nobody else sees it.
func (h *host) Serve(ctx context.Context, ch *e2e.Session, g *grant.Grant, p session.Params) session.Result {
	a := h.a
	if g.Record != "" && g.Record != "off" {
		w := h.record(g)
		p.Tap = w
		defer a.closeRecording(w, g.SessionID)
	}
	return a.serveChannel(ctx, ch, g, p)
}

// record begins a recording of the session and asks the hub to fetch it.
func (h *host) record(g *grant.Grant) *recorder.Writer {
	a := h.a
	c := a.state.get()
	up := a.uploads.add(g.SessionID, h.st.from, h.takeGrant(g.SessionID))
	return recorder.NewWriter(recorder.Header{
		ID: g.SessionID, Cluster: c.Cluster, User: g.User, Device: c.Name, DeviceUUID: c.UUID, Login: g.Login, Way: policy.WayEndToEnd,
		ClientAddr: g.ClientAddr.String(), Hub: h.hubName, Start: a.clock.Now(),
		SignerKey: c.Key.Public().(ed25519.PublicKey),
	}, recorder.Options{
		Sink: up.sink,
		Sign: func(m []byte) []byte { return ed25519.Sign(c.Key, m) },
	})
}

// closeRecording ends a recording and leaves what is not yet durable to the uploads. In this way in a recording is best-effort: what could not be
// uploaded in time ends incomplete, and says so when it is played.
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
