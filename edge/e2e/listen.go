package e2e

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/forwarded"
	"hawser/auth/grant"
	"hawser/auth/policy"
	"hawser/edge/forward"
	"hawser/edge/login"
	"hawser/edge/relay"
	"hawser/tunnel"
	"hawser/tunnel/channel/payload"
)

// listener is one of -R.
type listener struct {
	net.Listener
	channelType string
	extra       func(c net.Conn) []byte // the payload of the channel opened for a connection
	grant       *grant.Grant            // by which it listens
	kind        string                  // as the policy names it
	ctx         context.Context         // over when it may not be any more
	done        func()
}

// globalRequests answers the connection's requests in order.
func (s *server) globalRequests(ctx context.Context, requests <-chan *ssh.Request) {
	for r := range requests {
		ok, reply := false, []byte(nil)
		switch r.Type {
		case "tcpip-forward":
			if m, err := payload.ParseTCPIPForward(r.Payload); err == nil {
				ok, reply = s.listenTCP(ctx, m.Host, m.Port)
			}
		case "cancel-tcpip-forward":
			if m, err := payload.ParseTCPIPForward(r.Payload); err == nil {
				ok = s.unlisten(tcpKey(m.Host, m.Port))
			}
		case "streamlocal-forward@openssh.com":
			if m, err := payload.ParseStreamlocalForward(r.Payload); err == nil {
				ok = s.listenUnix(ctx, m.Path)
			}
		case "cancel-streamlocal-forward@openssh.com":
			if m, err := payload.ParseStreamlocalForward(r.Payload); err == nil {
				ok = s.unlisten(unixKey(m.Path))
			}
		}
		// keepalive@openssh.com lands here too: any answer is one.
		if r.WantReply {
			_ = r.Reply(ok, reply)
		}
	}
}

func tcpKey(host string, port uint32) string { return "tcp " + host + " " + strconv.Itoa(int(port)) }
func unixKey(path string) string             { return "unix " + path }

func (s *server) listenTCP(ctx context.Context, host string, port uint32) (bool, []byte) {
	ln, err := s.listen(ctx, policy.RemoteForward, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
	if err != nil {
		tunnel.Warn(s.log, "no listener", "user", s.user.Name, "address", host, "port", port, "error", err)
		return false, nil
	}
	var reply []byte
	bound := port
	if port == 0 {
		if a, ok := ln.Addr().(*net.TCPAddr); ok {
			bound = uint32(a.Port)
		}
		reply = ssh.Marshal(struct{ Port uint32 }{bound})
	}
	ln.channelType, ln.extra = "forwarded-tcpip", func(c net.Conn) []byte {
		m := payload.ForwardedTCPIP{Host: host, Port: bound}
		if ap, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil {
			m.OriginHost, m.OriginPort = ap.Addr().Unmap().String(), uint32(ap.Port())
		}
		return m.Marshal()
	}
	return s.keep(tcpKey(host, bound), ln), reply
}

func (s *server) listenUnix(ctx context.Context, path string) bool {
	ln, err := s.listen(ctx, policy.SocketForward, "unix", path)
	if err != nil {
		tunnel.Warn(s.log, "no listener", "user", s.user.Name, "path", path, "error", err)
		return false
	}
	ln.channelType, ln.extra = "forwarded-streamlocal@openssh.com", func(net.Conn) []byte {
		return payload.ForwardedStreamlocal{Path: path}.Marshal()
	}
	return s.keep(unixKey(path), ln)
}

// listen makes a listener; what its connections are to the client is left open.
func (s *server) listen(ctx context.Context, kind, network, address string) (*listener, error) {
	s.mu.Lock()
	n := len(s.listeners)
	s.mu.Unlock()
	if n >= maxListeners {
		return nil, errors.New("too many listeners")
	}
	g, err := s.forwardsGrant(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.p.Host.Allow(g, kind); err != nil {
		return nil, err
	}
	account, err := login.System{}.Lookup(s.login)
	if err != nil {
		return nil, err
	}
	ctx, done, err := s.p.Host.Moderated(ctx, g, kind, "a listener on "+address)
	if err != nil {
		return nil, err
	}
	ln, err := forward.Listen(ctx, account, network, address)
	if err != nil {
		done()
		return nil, err
	}
	return &listener{Listener: ln, grant: g, kind: kind, ctx: ctx, done: done}, nil
}

// keep starts serving a listener, unless the connection is over.
func (s *server) keep(key string, ln *listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.listeners[key] != nil {
		ln.Close()
		ln.done()
		return false
	}
	s.listeners[key] = ln
	s.goDo("listener", func() {
		defer ln.done()
		defer context.AfterFunc(ln.ctx, func() { s.forget(key, ln) })()
		s.accept(ln.ctx, ln)
	})
	return true
}

// forget closes a listener that may not be any more.
func (s *server) forget(key string, ln *listener) {
	s.mu.Lock()
	if s.listeners[key] == ln {
		delete(s.listeners, key)
	}
	s.mu.Unlock()
	ln.Close()
}

func (s *server) unlisten(key string) bool {
	s.mu.Lock()
	ln := s.listeners[key]
	delete(s.listeners, key)
	s.mu.Unlock()
	if ln == nil {
		return false
	}
	ln.Close()
	return true
}

// closeListeners ends them all, and admits no more.
func (s *server) closeListeners() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	for key, ln := range s.listeners {
		delete(s.listeners, key)
		ln.Close()
	}
}

// accept gives each connection of a listener a channel to the client, until the listener is closed.
func (s *server) accept(ctx context.Context, ln *listener) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		s.waiting <- struct{}{} // which those who are served leave, at the latest with the connection
		nc, err := ln.Accept()
		if err != nil {
			<-s.waiting
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors passes
			select {
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		wg.Go(func() {
			defer func() { <-s.waiting }()
			defer s.recovered("listener")
			ch, err := s.open(ctx, ln.channelType, ln.extra(nc))
			if err != nil {
				nc.Close()
				return
			}
			stop := context.AfterFunc(ctx, func() { ch.Close(); nc.Close() })
			defer stop()
			closed := s.p.Host.Forwarded(ln.grant, forwarded.Report{Channel: ln.kind, Target: ln.Addr().String(), Origin: nc.RemoteAddr().String()})
			fromClient, toClient := relay.Both(ch, nc)
			closed(toClient, fromClient) // the target is at the client's side
		})
	}
}
