package e2e

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"strconv"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/grant"
	"hawser/auth/policy"
	"hawser/edge/forward"
	"hawser/edge/login"
	"hawser/edge/relay"
	"hawser/edge/session"
	"hawser/tunnel"
	"hawser/tunnel/channel"
	"hawser/tunnel/channel/payload"
	"hawser/tunnel/channel/sshadapt"
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
	ch := &Session{sshadapt.SSHChannel(raw, requests)}
	defer ch.Close()
	if err != nil {
		tunnel.Warn(s.log, "session refused", "user", s.user.Name, "login", s.login, "error", err)
		refuse(ctx, ch, words(err))
		return
	}
	ctx, leave := s.p.Host.Enter(ctx, id)
	defer leave()
	r := s.p.Host.Serve(ctx, ch, g, session.Params{
		Allow:  func(kind string) error { return s.p.Host.Allow(g, kind) },
		Client: s.p.Client,
		Server: s.p.Server,
		OpenBack: func(_ context.Context, kind string) (io.ReadWriteCloser, error) {
			return s.open(kind, nil)
		},
	})
	reason := ""
	if r.Err != nil {
		reason = r.Err.Error()
	}
	s.p.Host.Release(id, r.Status, reason)
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

// open opens a channel to the client.
func (s *server) open(kind string, extra []byte) (io.ReadWriteCloser, error) {
	ch, requests, err := s.conn.OpenChannel(kind, extra)
	if err != nil {
		return nil, err
	}
	s.wg.Go(func() { ssh.DiscardRequests(requests) })
	return ch, nil
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
	g, err := s.forwardsGrant(ctx)
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
	relay.Both(ch, conn)
}
