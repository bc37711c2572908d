package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/grant"
	"hawser/auth/policy"
	"hawser/tunnel"
	"hawser/tunnel/channel/payload"
	"hawser/tunnel/resume"
	"hawser/tunnel/wire"
)

// sharedKey is whose connection for forwards it is.
type sharedKey struct {
	connection [16]byte
	device     wire.UUID
	login      string
}

// shared is the connection to a server that the forwards of one person's connection share.
type shared struct {
	ready  chan struct{} // closed when client or err is set
	ended  chan struct{} // closed by end
	end    func()
	client *client
	err    error

	// Guarded by Targets.mu.
	users   int // forwards that are served
	closing int // channels that the server has not closed, nor the connection
	idle    *time.Timer
}

// borrow returns the connection for a person's forwards, made if there is none, and what gives it back.
func (t *Targets) borrow(ctx context.Context, d Device, g *grant.Grant, blob []byte) (*shared, func(), error) {
	key := sharedKey{g.ConnectionID, d.UUID, g.Login}
	t.mu.Lock()
	s := t.shared[key]
	fresh := s == nil
	switch {
	case fresh:
		s = &shared{ready: make(chan struct{}), ended: make(chan struct{})}
		s.end = sync.OnceFunc(func() { close(s.ended) })
		t.shared[key] = s
	case s.users+s.closing >= maxForwards:
		t.mu.Unlock()
		return nil, nil, &failure{message: "too many forwards on one connection"}
	case s.idle != nil:
		s.idle.Stop()
		s.idle = nil
	}
	s.users++
	t.mu.Unlock()
	if fresh {
		// Not under the ctx of the one who came first: others wait for it too.
		s.client, s.err = t.connect(t.ctx, d, g, blob)
		close(s.ready)
		if s.err != nil {
			t.drop(key, s)
		} else if !t.spawn(func() { t.keep(key, s) }) {
			s.client.Close()
		}
	}
	select {
	case <-s.ready:
	case <-ctx.Done():
		t.giveBack(key, s)
		return nil, nil, context.Cause(ctx)
	}
	if s.err != nil {
		return nil, nil, s.err
	}
	return s, sync.OnceFunc(func() { t.giveBack(key, s) }), nil
}

// keep owns a connection until it ends or is no longer used.
func (t *Targets) keep(key sharedKey, s *shared) {
	select {
	case <-s.client.done:
	case <-s.ended:
	case <-t.ctx.Done():
	}
	t.drop(key, s)
	s.client.Close()
}

func (t *Targets) drop(key sharedKey, s *shared) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shared[key] == s {
		delete(t.shared, key)
	}
}

// EndDevice ends the logins that forwards to a server share, and with them the forwards: it was removed, or is somewhere else.
func (t *Targets) EndDevice(device wire.UUID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, s := range t.shared {
		if key.device == device {
			delete(t.shared, key)
			s.end()
		}
	}
}

func (t *Targets) giveBack(key sharedKey, s *shared) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s.users--; s.users > 0 {
		return
	}
	s.idle = time.AfterFunc(idleLife, func() {
		t.mu.Lock()
		over := s.users == 0
		if over && t.shared[key] == s {
			delete(t.shared, key)
		}
		t.mu.Unlock()
		if over && s.client != nil {
			_ = s.client.Conn.Close() // keep sees it
		}
	})
}

// serveForward connects a stream to what the server reaches.
func (t *Targets) serveForward(d Device, g *grant.Grant, req wire.OpenRequest, head wire.Attach, st tunnel.Stream) {
	kind, typ, extra, err := destination(g, req)
	if err == nil && !g.Permits(kind) {
		err = fmt.Errorf("%s: not granted", kind)
	}
	if err != nil {
		resume.Refuse(st, wire.StreamDenied, err.Error())
		return
	}
	ctx, cancel := context.WithTimeout(t.ctx, connectTimeout)
	defer cancel()
	s, giveBack, err := t.borrow(ctx, d, g, req.Grant)
	if err != nil {
		t.c.Logger.Warn("login to a server failed", "device", d.Name, "user", g.User, "login", wire.Quote(g.Login, 64), "error", err)
		resume.Refuse(st, wire.StreamConnectFailed, t.explain(d, err))
		return
	}
	defer giveBack()
	c := s.client
	ch, reqs, err := t.openForward(ctx, c, s, typ, extra)
	if err != nil {
		message := "connect failed"
		if refused, ok := errors.AsType[*ssh.OpenChannelError](err); ok {
			message = d.Name + " refused: " + wire.Quote(refused.Message, 300)
		} else if ctx.Err() != nil {
			message = d.Name + " did not answer in time"
		}
		resume.Refuse(st, wire.StreamConnectFailed, message)
		return
	}
	rs, err := t.accept(st, head)
	if err != nil {
		t.left(s, func() { _ = c.Conn.Close() }, func() {
			_ = ch.Close()
			ssh.DiscardRequests(reqs)
		})
		return
	}
	stop := context.AfterFunc(t.ctx, func() { rs.Reset(wire.StreamCancelled) })
	defer stop()
	t.join(s, ch, reqs, rs)
}

// openForward opens a channel on a connection that others use. A server may connect for longer than the person waits: what it opens later is
// closed. One that never answers is hung, and loses the connection.
func (t *Targets) openForward(ctx context.Context, c *client, s *shared, typ string, extra []byte) (ssh.Channel, <-chan *ssh.Request, error) {
	type opened struct {
		ch   ssh.Channel
		reqs <-chan *ssh.Request
		err  error
	}
	cut := func() { _ = c.Conn.Close() }
	answer := make(chan opened, 1)
	t.guard(&t.wg, cut, func() {
		o := opened{err: errStopping}
		defer func() { answer <- o }()
		defer time.AfterFunc(openWait, cut).Stop()
		o.ch, o.reqs, o.err = c.OpenChannel(typ, extra)
	})
	select {
	case o := <-answer:
		return o.ch, o.reqs, o.err
	case <-ctx.Done():
		t.left(s, cut, func() {
			if o := <-answer; o.err == nil {
				_ = o.ch.Close()
				ssh.DiscardRequests(o.reqs)
			}
		})
		return nil, nil, context.Cause(ctx)
	}
}

// left runs f, which waits for the server to close a channel that nobody uses: it is one of those that the connection may have. The caller is one
// of those that Close waits for.
func (t *Targets) left(s *shared, cut, f func()) {
	count := func(n int) {
		t.mu.Lock()
		defer t.mu.Unlock()
		s.closing += n
	}
	count(1)
	t.guard(&t.wg, cut, func() {
		defer count(-1)
		f()
	})
}

// join copies both ways, each direction ending on its own, until both have or the person's end is gone. It does not wait for the server: one that
// hangs, or keeps what is half closed, does not hold the login.
func (t *Targets) join(s *shared, ch ssh.Channel, reqs <-chan *ssh.Request, rs *resume.Stream) {
	var copies, side sync.WaitGroup
	reset := func() { rs.Reset(wire.StreamCancelled) }
	t.guard(&copies, reset, func() {
		if _, err := io.Copy(ch, rs); err == nil {
			_ = ch.CloseWrite()
		} else {
			_ = ch.Close()
		}
	})
	t.guard(&copies, reset, func() {
		if _, err := io.Copy(rs, ch); err == nil {
			_ = rs.CloseWrite()
		} else {
			reset()
		}
	})
	t.guard(&side, reset, func() { ssh.DiscardRequests(reqs) })
	t.guard(&side, reset, func() { _, _ = io.Copy(io.Discard, ch.Stderr()) })
	copied := make(chan struct{})
	t.guard(&t.wg, nil, func() {
		copies.Wait()
		close(copied)
	})
	select {
	case <-copied:
	case <-rs.Done():
	}
	t.left(s, reset, func() {
		_ = ch.Close()
		copies.Wait()
		side.Wait()
	})
	_ = rs.Close()
	<-rs.Done()
}

// destination is the channel that a forward takes, after what the roles allow. The server resolves names, where nobody can check what they
// are, so a name has to be allowed as a name.
func destination(g *grant.Grant, req wire.OpenRequest) (kind, typ string, extra []byte, err error) {
	targets, err := policy.ParseTargets(g.ForwardTo)
	if err != nil {
		return "", "", nil, err
	}
	if req.Network == wire.NetworkUnix {
		if !targets.Socket(req.Target) {
			err = errors.New("your roles do not allow this socket")
		}
		return policy.SocketForward, "direct-streamlocal@openssh.com", payload.DirectStreamlocal{Path: req.Target}.Marshal(), err
	}
	host, text, err := net.SplitHostPort(req.Target)
	port, perr := strconv.ParseUint(text, 10, 16)
	if err != nil || perr != nil || port == 0 {
		return "", "", nil, fmt.Errorf("target %q is not host:port", wire.Quote(req.Target, 80))
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case err == nil:
	case host == "localhost":
		ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case len(g.ForwardTo) == 0:
		return "", "", nil, errors.New("give an address: a server without an agent resolves names itself, where nobody sees what they are; a role can allow the name in forward_to")
	default:
		ip = nowhere
	}
	if !targets.Forward(host, ip, uint16(port)) {
		return "", "", nil, errors.New("your roles do not allow this target")
	}
	origin := req.ClientAddr
	return policy.LocalForward, "direct-tcpip", payload.DirectTCPIP{
		Host: host, Port: uint32(port), OriginHost: origin.Addr().String(), OriginPort: uint32(origin.Port()),
	}.Marshal(), nil
}

// nowhere is an address of no network that a role would name but all of them.
var nowhere = netip.AddrFrom4([4]byte{192, 0, 2, 255})
