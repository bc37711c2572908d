package edge

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"time"

	"hawser/auth/grant"
	"hawser/auth/policy"
	"hawser/edge/forward"
	"hawser/edge/login"
	"hawser/edge/relay"
	"hawser/edge/session"
	"hawser/recorder"
	"hawser/recorder/share"
	"hawser/tunnel"
	"hawser/tunnel/channel"
	"hawser/tunnel/channel/payload"
	"hawser/tunnel/resume"
	"hawser/tunnel/wire"
)

// newEngine is the session engine, one for both ways in.
func (a *Agent) newEngine() *session.Engine {
	return session.New(session.Config{Device: func() string { return a.state.get().Name }, Agent: recallName(a.cfg.State).Name, System: login.System{}, ScreenCells: a.machine.screenCells(), Logger: a.log})
}

// incoming is an attachment, and what became of it.
type incoming struct {
	l    *link // the tunnel that brought it
	att  tunnel.Stream
	head wire.Attach
	// Once identified: who sent it, and what that hub calls itself.
	from    entry
	hubName string
	// Of one that opens a stream.
	req    wire.OpenRequest
	cancel context.CancelCauseFunc
	st     *stream // once accepted
}

// refuse tells the hub and returns the error for the log.
func (in *incoming) refuse(code wire.StreamCode, err error) error {
	_ = in.att.SetWriteDeadline(time.Now().Add(messageTimeout))
	resume.Refuse(in.att, code, truncate(err.Error(), 512))
	return fmt.Errorf("%s: %w", in.head.Kind, err)
}

// accept opens the stream, which lives that long without a tunnel.
func (in *incoming) accept(life time.Duration) (*stream, error) {
	st, err := in.l.a.streams.accept(in, life)
	if err != nil {
		return nil, in.refuse(wire.StreamRefused, err)
	}
	in.st = st
	return st, nil
}

// serve checks that the stream may be opened and serves it to its end. A stream holds a slot for as long as it could be resumed.
func (in *incoming) serve(ctx, serving context.Context) error {
	a := in.l.a
	slots := a.slots
	if in.head.Kind == wire.KindControl {
		slots = a.reserved
	}
	select {
	case slots <- struct{}{}:
	default:
		return in.refuse(wire.StreamResourceShortage, errBusy)
	}
	defer func() { <-slots }()
	var err error
	if in.head.Kind != wire.KindControl { // which says nothing more
		if in.req, err = wire.DecodeOpenRequest(in.head.Open); err != nil {
			return in.refuse(wire.StreamProtocol, err)
		}
	}
	if err := in.l.ready(ctx); err != nil {
		return in.refuse(wire.StreamRefused, err)
	}
	serving, in.cancel = context.WithCancelCause(serving)
	defer in.cancel(nil)
	err = in.serveKind(serving)
	if in.st != nil {
		in.st.Close()
		<-in.st.Done()
	}
	return err
}

func (in *incoming) serveKind(ctx context.Context) error {
	switch in.head.Kind {
	case wire.KindSession:
		return in.serveSession(ctx)
	case wire.KindForward:
		return in.serveForward(ctx)
	case wire.KindListen:
		return in.serveListen(ctx)
	case wire.KindAccepted:
		return in.serveAccepted(ctx)
	case wire.KindEndToEnd:
		return in.serveEndToEnd(ctx)
	case wire.KindUpload:
		return in.serveUpload(ctx)
	case wire.KindControl:
		return in.serveControl(ctx)
	}
	return in.refuse(wire.StreamRefused, errors.New("unknown kind of stream; this agent is too old for it"))
}

// serveSession runs one session of hub mode.
func (in *incoming) serveSession(ctx context.Context) error {
	a := in.l.a
	g, err := a.checkGrant(in.req.Grant, grant.Session, in.from.hub)
	if err != nil {
		return in.refuse(wire.StreamDenied, err)
	}
	may := a.tenure(g, policy.WayHub)
	if err := may.begin(ctx); err != nil {
		return in.refuse(wire.StreamDenied, err)
	}
	if err := a.checkLogin(g.Login); err != nil {
		return in.refuse(wire.StreamNotFound, err)
	}
	st, err := in.accept(detachedLife(g))
	if err != nil {
		return err
	}
	ctx, leave := a.live.add(ctx, g.SessionID, in.from.hub, may)
	defer leave()
	tty := new(session.TTY)
	o := channel.Options{PeerWindow: in.req.Window, Tag: tty.Tag}
	witness := a.witness(g)
	if witness != nil {
		o.Witness = witness
	}
	ch := channel.New(st, o)
	defer ch.Close()
	tty.Part = ch.Acknowledge
	a.serveChannel(ctx, ch, g, session.Params{
		Allow:  func(kind string) error { return may.allow(g, kind) },
		Client: in.req.ClientAddr,
		Server: in.req.ServerAddr,
		OpenBack: func(ctx context.Context, p payload.Accept) (io.ReadWriteCloser, error) {
			return a.tickets.open(ctx, ch, in.head.ID, p)
		},
		TTY:     tty,
		There:   func() bool { return a.streams.carried(st) },
		Witness: witness,
		Via:     "by " + in.hubName,
		Guests:  share.NewTold(ch, witness != nil, g.RecordStdin),
		// The hub records, and learns of each input whether it may keep it.
		Redact: g.RecordStdin == policy.StdinRedacted,
	})
	return nil
}

// witness is who says what passed in a session that the hub records; nil: it does not.
func (a *Agent) witness(g *grant.Grant) *session.Witness {
	if g.Record == "" || g.Record == policy.RecordOff {
		return nil
	}
	key := a.state.get().Key
	return session.NewWitness(recorder.Testimony{
		Session: g.SessionID, User: g.User, Login: g.Login, Rule: cmp.Or(g.RecordStdin, policy.StdinOff),
		ForceCommand: g.ForceCommand,
	}, func(m []byte) []byte { return ed25519.Sign(key, m) })
}

// serveChannel gives a channel to the engine with what a grant says of it, and logs what became of it.
func (a *Agent) serveChannel(ctx context.Context, ch channel.Channel, g *grant.Grant, p session.Params) session.Result {
	id := fmt.Sprintf("%x", g.SessionID)
	p.SessionID, p.User, p.Login, p.ForceCommand, p.Recorded = id, g.User, g.Login, g.ForceCommand, g.Record
	p.Moderators, p.Presence = g.Moderators, g.PresenceCheck
	if g.JoinMode != "" {
		mode, _ := share.ParseMode(g.JoinMode) // what this agent does not know sees, and no more
		p.Join = &session.Join{Session: fmt.Sprintf("%x", g.Join), Mode: max(mode, share.Observer), Way: p.Via, Roles: g.Roles}
	}
	tunnel.Info(a.log, "session begins", "session", id, "user", g.User, "login", g.Login, "client", g.ClientAddr)
	r := a.engine.Serve(ctx, ch, p)
	if r.Err != nil {
		tunnel.Warn(a.log, "session ended", "session", id, "kind", r.Kind, "status", r.Status, "signal", r.Signal, "error", r.Err)
	} else {
		tunnel.Info(a.log, "session ended", "session", id, "kind", r.Kind, "status", r.Status, "signal", r.Signal)
	}
	return r
}

// checkLogin refuses a login that this device does not have, for sessions and forwards alike.
func (a *Agent) checkLogin(name string) error {
	_, err := login.System{}.Lookup(name)
	return err
}

// serveForward connects to a target in the device's network.
func (in *incoming) serveForward(ctx context.Context) error {
	a := in.l.a
	g, err := a.checkGrant(in.req.Grant, grant.Forwards, in.from.hub)
	if err != nil {
		return in.refuse(wire.StreamDenied, err)
	}
	may := a.tenure(g, policy.WayHub)
	if err := may.begin(ctx); err != nil {
		return in.refuse(wire.StreamDenied, err)
	}
	var account login.Account
	var access forward.Access
	if behind(g) {
		access, err = wayBehind(g, in.req)
	} else {
		if err := may.allow(g, forwardKind(in.req.Network)); err != nil {
			return in.refuse(wire.StreamDenied, err)
		}
		if account, err = (login.System{}).Lookup(g.Login); err != nil {
			return in.refuse(wire.StreamNotFound, err)
		}
		access, err = a.access(g, policy.WayHub)
	}
	if err != nil {
		return in.refuse(wire.StreamDenied, err)
	}
	ctx, done, err := a.engine.Moderated(ctx, g.User, policy.ModeratorsFor(g.Moderators, forwardKind(in.req.Network)), "a forward to "+in.req.Target)
	if err != nil {
		return in.refuse(wire.StreamDenied, err)
	}
	defer done()
	nc, err := forward.Dial(ctx, account, access, in.req.Network, in.req.Target)
	if err != nil {
		code := wire.StreamConnectFailed
		if errors.Is(err, forward.ErrForbidden) {
			code = wire.StreamDenied
		}
		return in.refuse(code, err)
	}
	st, err := in.accept(detachedLife(g))
	if err != nil {
		nc.Close()
		return err
	}
	ctx, leave := a.live.add(ctx, in.head.ID, in.from.hub, may)
	defer leave()
	stop := context.AfterFunc(ctx, func() { st.Reset(wire.StreamCancelled); nc.Close() })
	defer stop()
	relay.Both(st, nc)
	return nil
}

// forwardKind is the policy's name of a forward to a target.
func forwardKind(network string) string {
	if network == wire.NetworkUnix {
		return policy.SocketForward
	}
	return policy.LocalForward
}

// serveAccepted hands the stream to whoever waits with its ticket, and stays until that one is done with it.
func (in *incoming) serveAccepted(ctx context.Context) error {
	a := in.l.a
	parent := a.streams.find(in.req.Parent)
	if parent == nil || parent.from != in.from {
		return in.refuse(wire.StreamNotFound, errors.New("no such connection waits, or no longer"))
	}
	fetched, ok := a.tickets.take(in.req.Parent, in.req.Ticket)
	if !ok {
		return in.refuse(wire.StreamNotFound, errors.New("no such connection waits, or no longer"))
	}
	st, err := in.accept(parent.life)
	if err != nil {
		close(fetched)
		return err
	}
	s := &accepted{stream: st, done: make(chan struct{})}
	fetched <- s
	select {
	case <-s.done:
	case <-st.Done():
	case <-ctx.Done():
		st.Reset(wire.StreamCancelled)
	}
	return nil
}
