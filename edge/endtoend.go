package edge

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"

	"golang.org/x/crypto/ssh"

	"hawser/auth/ca"
	"hawser/auth/grant"
	"hawser/auth/policy"
	"hawser/edge/e2e"
	"hawser/edge/forward"
	"hawser/edge/session"
	"hawser/recorder"
	"hawser/tunnel"
	"hawser/tunnel/resume"
	"hawser/tunnel/wire"
)

// serveEndToEnd gives a stream to the edge's own SSH server.
func (l *link) serveEndToEnd(ctx context.Context, in *incoming) error {
	if !in.req.ClientAddr.IsValid() {
		return in.refuse(wire.StreamProtocol, errors.New("no address of the person"))
	}
	st, err := in.accept()
	if err != nil {
		return err
	}
	return e2e.Serve(ctx, streamConn{st}, e2e.Params{
		Host: &host{l}, Client: in.req.ClientAddr, Server: in.req.ServerAddr, Logger: l.a.log,
	})
}

// host is what e2e needs of the agent, on one tunnel.
type host struct{ l *link }

func (h *host) HostKey() (ssh.Signer, error) { return hostSigner(h.l.a.state.get()) }

func (h *host) VerifyUser(cert *ssh.Certificate, remote net.Addr) (ca.UserIdentity, error) {
	a := h.l.a
	return ca.VerifyUserCert(cert, a.state.anchors(), a.clock.Now(), remote)
}

func (h *host) MayEnter(roles []string, login string) error {
	p, _, _ := h.l.a.held()
	if len(p.Access(roles).For(login, policy.WayEndToEnd).Channels) == 0 {
		return errPolicy
	}
	return nil
}

func (h *host) Place(ctx context.Context, ask e2e.Ask) (*grant.Grant, error) {
	l := h.l
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
	reply, err := l.ask(ctx, r)
	if err != nil {
		return nil, err
	}
	if reply.Refusal != "" || len(reply.Grant) == 0 {
		return nil, &e2e.Refusal{Message: wire.Quote(reply.Refusal, 1024)}
	}
	g, err := l.checkGrant(reply.Grant, ask.Kind)
	if err != nil {
		return nil, err
	}
	// The grant must be the answer to this question: the hub may pass us another, as truly signed.
	// Only a session's id and login are the question's: auth gives the other kinds an id of its own, and a connection opens nothing by itself.
	if g.ConnectionID != ask.ConnectionID || g.User != ask.Cert.KeyId ||
		ask.Kind == grant.Session && g.SessionID != ask.SessionID || ask.Kind != grant.Connection && g.Login != ask.Login {
		return nil, errors.New("the hub answered with a grant for something else")
	}
	return g, nil
}

func (h *host) Release(id [16]byte, status uint32, reason string) {
	err := tunnel.Send(h.l.conn, wire.Release{SessionID: id, ExitStatus: int32(status), Reason: truncate(reason, 512)})
	if err != nil {
		tunnel.Debug(h.l.a.log, "place not given back", "error", err) // the tunnel is gone: its hub gives back what it held
	}
}

func (h *host) Allow(g *grant.Grant, kind string) error {
	return h.l.a.allow(g, policy.WayEndToEnd, kind)
}

func (h *host) Access(g *grant.Grant) (forward.Access, error) {
	return h.l.a.access(g, policy.WayEndToEnd)
}

func (h *host) Enter(ctx context.Context, id [16]byte) (context.Context, func()) {
	return h.l.a.live.add(ctx, id)
}

// Serve runs a session, recorded here where the grant says recorded: in this way in nobody else sees it.
func (h *host) Serve(ctx context.Context, ch *e2e.Session, g *grant.Grant, p session.Params) session.Result {
	a := h.l.a
	if g.Record != "" && g.Record != "off" {
		w := h.record(g)
		p.Tap = w
		defer a.closeRecording(w, g.SessionID)
	}
	return a.serveChannel(ctx, ch, g, p)
}

// record begins a recording of the session and asks the hub to fetch it.
func (h *host) record(g *grant.Grant) *recorder.Writer {
	a := h.l.a
	c := a.state.get()
	up := a.uploads.add(g.SessionID)
	return recorder.NewWriter(recorder.Header{
		ID: g.SessionID, Cluster: c.Cluster, User: g.User, Device: c.Name, DeviceUUID: c.UUID, Login: g.Login, Way: policy.WayEndToEnd,
		ClientAddr: g.ClientAddr.String(), Hub: h.l.challenge.HubName, Start: a.clock.Now(),
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
type streamConn struct{ *resume.Stream }

func (streamConn) LocalAddr() net.Addr  { return nil }
func (streamConn) RemoteAddr() net.Addr { return nil }
