package edge

import (
	"context"
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
	"hawser/tunnel"
	"hawser/tunnel/channel"
	"hawser/tunnel/channel/payload"
	"hawser/tunnel/resume"
	"hawser/tunnel/wire"
)

// newEngine is the session engine, one for both ways in.
func (a *Agent) newEngine(device string) *session.Engine {
	return session.New(session.Config{Device: device, System: login.System{}, Logger: a.log})
}

// acceptStreams serves streams until the tunnel ends. One beyond the slots is refused at once and never waits.
func (l *link) acceptStreams(ctx, serving context.Context) error {
	a := l.a
	for {
		att, err := l.conn.AcceptStream(ctx)
		if err != nil {
			return err
		}
		select {
		case a.slots <- struct{}{}:
		default:
			// The code says it all: reading its Attach first would be waiting for it.
			att.Reset(wire.StreamResourceShortage)
			tunnel.Warn(a.log, "stream refused", "error", "as many streams as this device serves are open", "streams", cap(a.slots))
			continue
		}
		if l.streams.Add(1) == 1 {
			nudge(l.busy)
		}
		l.wg.Go(func() {
			defer func() {
				<-a.slots
				if l.streams.Add(-1) == 0 {
					nudge(l.idle)
				}
			}()
			defer a.guard("stream", func() { att.Reset(wire.StreamInternal) })
			if err := l.serve(ctx, serving, att); err != nil && ctx.Err() == nil {
				tunnel.Warn(a.log, "stream refused", "error", err)
			}
		})
	}
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// incoming is a stream that asks to be opened.
type incoming struct {
	att  tunnel.Stream
	head wire.Attach
	req  wire.OpenRequest
}

// refuse tells the hub and returns the error for the log.
func (in *incoming) refuse(code wire.StreamCode, err error) error {
	_ = in.att.SetWriteDeadline(time.Now().Add(messageTimeout))
	resume.Refuse(in.att, code, truncate(err.Error(), 512))
	return fmt.Errorf("%s: %w", in.head.Kind, err)
}

// accept opens the stream.
func (in *incoming) accept() (*resume.Stream, error) {
	return resume.Accept(in.att, in.head, resume.Options{SendBuffer: streamBuffer, RecvBuffer: streamBuffer})
}

// serve reads what a stream is for, checks that it may, and serves it to its end.
func (l *link) serve(ctx, serving context.Context, att tunnel.Stream) error {
	rctx, cancel := context.WithTimeout(ctx, messageTimeout)
	head, err := resume.ReadAttach(rctx, att)
	cancel()
	if err != nil {
		att.Reset(wire.StreamProtocol)
		return fmt.Errorf("read the stream's header: %w", err)
	}
	in := &incoming{att: att, head: head}
	switch {
	case head.Counter != 0:
		return in.refuse(wire.StreamNotFound, errors.New("no such stream"))
	case head.InnerTLS:
		return in.refuse(wire.StreamRefused, errors.New("this agent takes streams only from the hub of its tunnel"))
	case head.EntryHub != l.challenge.HubUUID || head.EntryHubIncarnation != l.challenge.HubIncarnation:
		return in.refuse(wire.StreamDenied, errors.New("the stream names another hub than the tunnel's"))
	}
	if in.req, err = wire.DecodeOpenRequest(head.Open); err != nil {
		return in.refuse(wire.StreamProtocol, err)
	}
	if err := l.ready(ctx); err != nil {
		return in.refuse(wire.StreamRefused, err)
	}
	switch head.Kind {
	case wire.KindSession:
		return l.serveSession(serving, in)
	case wire.KindForward:
		return l.serveForward(serving, in)
	case wire.KindListen:
		return l.serveListen(serving, in)
	case wire.KindAccepted:
		return l.serveAccepted(in)
	case wire.KindEndToEnd:
		return l.serveEndToEnd(serving, in)
	case wire.KindUpload:
		return l.serveUpload(in)
	}
	return in.refuse(wire.StreamRefused, errors.New("unknown kind of stream; this agent is too old for it"))
}

// serveSession runs one session of hub mode.
func (l *link) serveSession(ctx context.Context, in *incoming) error {
	a := l.a
	g, err := l.checkGrant(in.req.Grant, grant.Session)
	if err != nil {
		return in.refuse(wire.StreamDenied, err)
	}
	if err := a.checkLogin(g.Login); err != nil {
		return in.refuse(wire.StreamNotFound, err)
	}
	st, err := in.accept()
	if err != nil {
		return err
	}
	ctx, leave := a.live.add(ctx, g.SessionID)
	defer leave()
	tty := new(session.TTY)
	ch := channel.New(st, channel.Options{PeerWindow: in.req.Window, Tag: tty.Tag})
	defer ch.Close()
	a.serveChannel(ctx, ch, g, session.Params{
		Allow:  func(kind string) error { return a.allow(g, policy.WayHub, kind) },
		Client: in.req.ClientAddr,
		Server: in.req.ServerAddr,
		OpenBack: func(ctx context.Context, kind string) (io.ReadWriteCloser, error) {
			return a.tickets.open(ctx, ch, in.head.ID, payload.Accept{Kind: kind})
		},
		TTY: tty,
	})
	return nil
}

// serveChannel gives a channel to the engine with what a grant says of it, and logs what became of it.
func (a *Agent) serveChannel(ctx context.Context, ch channel.Channel, g *grant.Grant, p session.Params) session.Result {
	id := fmt.Sprintf("%x", g.SessionID)
	p.SessionID, p.User, p.Login, p.ForceCommand = id, g.User, g.Login, g.ForceCommand
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
func (l *link) serveForward(ctx context.Context, in *incoming) error {
	a := l.a
	g, err := l.checkGrant(in.req.Grant, grant.Forwards)
	if err != nil {
		return in.refuse(wire.StreamDenied, err)
	}
	if err := a.allow(g, policy.WayHub, forwardKind(in.req.Network)); err != nil {
		return in.refuse(wire.StreamDenied, err)
	}
	account, err := login.System{}.Lookup(g.Login)
	if err != nil {
		return in.refuse(wire.StreamNotFound, err)
	}
	access, err := a.access(g, policy.WayHub)
	if err != nil {
		return in.refuse(wire.StreamDenied, err)
	}
	nc, err := forward.Dial(ctx, account, access, in.req.Network, in.req.Target)
	if err != nil {
		code := wire.StreamConnectFailed
		if errors.Is(err, forward.ErrForbidden) {
			code = wire.StreamDenied
		}
		return in.refuse(code, err)
	}
	st, err := in.accept()
	if err != nil {
		nc.Close()
		return err
	}
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
func (l *link) serveAccepted(in *incoming) error {
	fetched, ok := l.a.tickets.take(in.req.Parent, in.req.Ticket)
	if !ok {
		return in.refuse(wire.StreamNotFound, errors.New("no such connection waits, or no longer"))
	}
	st, err := in.accept()
	if err != nil {
		close(fetched)
		return err
	}
	s := &accepted{Stream: st, done: make(chan struct{})}
	fetched <- s
	select {
	case <-s.done:
	case <-l.conn.Context().Done():
	}
	return nil
}
