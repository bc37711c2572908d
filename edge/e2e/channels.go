package e2e

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/forwarded"
	"hawser/auth/grant"
	"hawser/auth/policy"
	"hawser/edge/forward"
	"hawser/edge/login"
	"hawser/edge/relay"
	"hawser/edge/session"
	"hawser/recorder/share"
	"hawser/tunnel"
	"hawser/tunnel/channel"
	"hawser/tunnel/channel/payload"
	"hawser/tunnel/channel/sshadapt"
	"hawser/tunnel/idle"
)

// Session is a session channel of a person's connection.
type Session struct{ channel.Channel }

// channel serves one channel the client wants to open.
func (s *server) channel(ctx context.Context, nc ssh.NewChannel) {
	switch nc.ChannelType() {
	case "session":
		s.session(ctx, nc)
	case "direct-tcpip":
		m, err := payload.ParseDirectTCPIP(nc.ExtraData())
		if err != nil {
			_ = nc.Reject(ssh.ConnectionFailed, err.Error())
			return
		}
		s.forward(ctx, nc, policy.LocalForward, "tcp", net.JoinHostPort(m.Host, strconv.FormatUint(uint64(m.Port), 10)))
	case "direct-streamlocal@openssh.com":
		m, err := payload.ParseDirectStreamlocal(nc.ExtraData())
		if err != nil {
			_ = nc.Reject(ssh.ConnectionFailed, err.Error())
			return
		}
		s.forward(ctx, nc, policy.SocketForward, "unix", m.Path)
	default:
		_ = nc.Reject(ssh.UnknownChannelType, "not served here")
	}
}

// session asks for a place and serves a session. The place comes before the channel is confirmed; a refusal is told on the channel's stderr, where people look.
func (s *server) session(ctx context.Context, nc ssh.NewChannel) {
	var id [16]byte
	rand.Read(id[:])
	if err := s.late(); err != nil {
		s.refuseChannel(ctx, nc, err)
		return
	}
	g, err := s.p.Host.Place(ctx, Ask{
		Kind: grant.Session, ConnectionID: s.id, SessionID: id, Cert: s.cert, Login: s.login, ClientAddr: s.p.Client,
	})
	raw, requests, accepted := nc.Accept()
	if accepted != nil {
		if err == nil {
			s.p.Host.Release(id, 0, "the client left")
		}
		return
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	tty := new(session.TTY)
	shown, stop := s.watchSession(raw, tty, end)
	raw = shown
	defer stop()
	ch := &Session{sshadapt.SSHChannel(raw, requests)}
	defer ch.Close()
	if err != nil {
		tunnel.Warn(s.log, "session refused", "user", s.user.Name, "login", s.login, "error", err)
		refuse(ctx, ch, words(err))
		return
	}
	ctx, leave := s.p.Host.Enter(ctx, id)
	defer leave()
	var once sync.Once
	joined := func() {}
	defer func() { joined() }()
	ended := func(r session.Result) {
		reason := ""
		if r.Err != nil {
			reason = r.Err.Error()
		}
		once.Do(func() { s.p.Host.Release(id, r.Status, reason) })
	}
	ended(s.p.Host.Serve(ctx, ch, g, session.Params{
		Ended: ended,
		JoinAs: func(ctx context.Context, what string) (*session.Join, error) {
			s.p.Host.Release(id, 0, "joins another session")
			rand.Read(id[:])
			guest, err := s.join(ctx, id, what)
			if err != nil {
				tunnel.Warn(s.log, "session not joined", "user", s.user.Name, "login", s.login, "error", err)
				once.Do(func() {}) // nothing is held
				return nil, errors.New(why(err))
			}
			g = guest
			in, leave := s.p.Host.Enter(ctx, id)
			joined = leave
			context.AfterFunc(in, func() { end(context.Cause(in)) })
			mode, _ := share.ParseMode(g.JoinMode) // what this agent does not know sees, and no more
			return &session.Join{Session: fmt.Sprintf("%x", g.Join), Mode: max(mode, share.Observer), Roles: g.Roles, Way: s.p.Way}, nil
		},
		Allow:  func(kind string) error { return s.p.Host.Allow(g, kind) },
		Client: s.p.Client,
		Server: s.p.Server,
		TTY:    tty,
		Say:    shown.guests.Tell,
		OpenBack: func(ctx context.Context, p payload.Accept) (io.ReadWriteCloser, error) {
			var extra []byte
			if p.Kind == payload.X11Channel {
				extra = payload.X11Open{OriginHost: p.OriginHost, OriginPort: p.OriginPort}.Marshal()
			}
			return s.open(ctx, p.Kind, extra)
		},
	}))
}

// join asks for a place in another session of the device: what is the beginning of its id, with a mode behind a colon.
func (s *server) join(ctx context.Context, id [16]byte, what string) (*grant.Grant, error) {
	other, mode, _ := strings.Cut(strings.ToLower(what), ":")
	_, known := share.ParseMode(mode)
	if len(other) < 6 || len(other) > 32 || strings.Trim(other, "0123456789abcdef") != "" || mode != "" && !known {
		return nil, &Refusal{Message: session.JoinVariable + " is ID, or ID:MODE with observer, peer or moderator"}
	}
	return s.p.Host.Place(ctx, Ask{
		Kind: grant.Session, ConnectionID: s.id, SessionID: id, Cert: s.cert, Login: s.login, ClientAddr: s.p.Client, Join: other, JoinMode: mode,
	})
}

// tooMany is the refusal of a channel that is one too many of so many.
func (s *server) tooMany(open int) error {
	most := s.p.Host.MaxChannels()
	if most == 0 || open <= most {
		return nil
	}
	return &Refusal{Message: fmt.Sprintf("a connection may have %d channels at once (caps.per_connection); close one, or use another connection", most)}
}

// refuseChannel refuses a channel where people look: a session's is accepted, and its stderr has it.
func (s *server) refuseChannel(ctx context.Context, nc ssh.NewChannel, why error) {
	if nc.ChannelType() != "session" {
		_ = nc.Reject(ssh.ResourceShortage, words(why))
		return
	}
	if raw, requests, err := nc.Accept(); err == nil {
		ch := &Session{sshadapt.SSHChannel(raw, requests)}
		defer ch.Close()
		refuse(ctx, ch, words(why))
	}
}

// refuse answers the request that would start something, says why on stderr, and ends with 255, as a session that could not be had.
func refuse(ctx context.Context, ch *Session, why string) {
	timeout := time.NewTimer(handshakeTimeout)
	defer timeout.Stop()
	for {
		select {
		case r, ok := <-ch.Requests():
			if !ok {
				return
			}
			switch r.Type {
			case "shell", "exec", "subsystem":
				_ = r.Reply(true)
				_, _ = io.WriteString(ch.Stderr(), why+"\r\n")
				_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{255}))
				return
			default:
				_ = r.Reply(r.Type == "pty-req" || r.Type == "env")
			}
		case <-timeout.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// open opens a channel to the client. One that does not answer holds up nobody who has ctx.
func (s *server) open(ctx context.Context, kind string, extra []byte) (io.ReadWriteCloser, error) {
	opened := make(chan ssh.Channel)
	failed := make(chan error, 1)
	s.goDo("open", func() { // ends with the answer, or the connection
		ch, requests, err := s.conn.OpenChannel(kind, extra)
		if err != nil {
			failed <- err
			return
		}
		s.goDo("requests", func() { ssh.DiscardRequests(requests) })
		select {
		case opened <- ch:
		case <-ctx.Done():
			_ = ch.Close()
		}
	})
	select {
	case ch := <-opened:
		return idle.Channel(ch, s.meter), nil
	case err := <-failed:
		return nil, err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// forwardsGrant is the connection's grant for forwards, asked for anew when it is over.
func (s *server) forwardsGrant(ctx context.Context) (*grant.Grant, error) {
	s.mu.Lock()
	g := s.forwards
	s.mu.Unlock()
	if g != nil {
		return g, nil
	}
	g, err := s.p.Host.Place(ctx, Ask{
		Kind: grant.Forwards, ConnectionID: s.id, Cert: s.cert, Login: s.login, ClientAddr: s.p.Client,
	})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.forwards = g
	s.mu.Unlock()
	// Forgotten a little before its end: whoever asks then gets a fresh one.
	life := grantLife(g)
	time.AfterFunc(life, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.forwards == g {
			s.forwards = nil
		}
	})
	return g, nil
}

// grantLife is how long a grant just received may be used: half its life, for its beginning lies two minutes back.
func grantLife(g *grant.Grant) time.Duration {
	return g.NotAfter.Sub(g.NotBefore)/2 - 10*time.Second
}

// forward connects a channel to a target in the device's network.
func (s *server) forward(ctx context.Context, nc ssh.NewChannel, kind, network, target string) {
	err := s.late()
	var g *grant.Grant
	if err == nil {
		g, err = s.forwardsGrant(ctx)
	}
	if err == nil {
		err = s.p.Host.Allow(g, kind)
	}
	if err != nil {
		tunnel.Warn(s.log, "forward refused", "user", s.user.Name, "target", target, "error", err)
		_ = nc.Reject(ssh.Prohibited, "not allowed")
		return
	}
	access, err := s.p.Host.Access(g)
	if err != nil {
		_ = nc.Reject(ssh.Prohibited, "not allowed")
		return
	}
	account, err := login.System{}.Lookup(s.login)
	if err != nil {
		_ = nc.Reject(ssh.Prohibited, err.Error())
		return
	}
	ctx, done, err := s.p.Host.Moderated(ctx, g, kind, "a forward to "+target)
	if err != nil {
		_ = nc.Reject(ssh.Prohibited, "hawser: "+err.Error())
		return
	}
	defer done()
	conn, err := forward.Dial(ctx, account, access, network, target)
	if err != nil {
		reason := ssh.ConnectionFailed
		if errors.Is(err, forward.ErrForbidden) {
			reason = ssh.Prohibited
		}
		_ = nc.Reject(reason, err.Error())
		return
	}
	ch, requests, err := nc.Accept()
	if err != nil {
		conn.Close()
		return
	}
	s.wg.Go(func() { ssh.DiscardRequests(requests) })
	stop := context.AfterFunc(ctx, func() { ch.Close(); conn.Close() })
	defer stop()
	origin := ""
	if m, err := payload.ParseDirectTCPIP(nc.ExtraData()); err == nil && network == "tcp" {
		origin = net.JoinHostPort(m.OriginHost, strconv.FormatUint(uint64(m.OriginPort), 10))
	}
	closed := s.p.Host.Forwarded(g, forwarded.Report{Channel: kind, Target: target, Origin: origin})
	closed(relay.Both(idle.Channel(ch, s.meter), conn))
}
