package auth

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"hawser/auth/ca"
	"hawser/tunnel"
	"hawser/tunnel/proxyproto"
)

const (
	// maxPassed connections come through hubs at once, and maxPassedPerHub through one: more than a hub passes.
	maxPassed       = 4096
	maxPassedPerHub = 1024
	// passHeaderTime is from the hub's handshake to its header.
	passHeaderTime = 10 * time.Second
)

// passer takes connections that hubs pass on, and is the listener they come from: a hub proves itself on the outside, says in one header whose
// connection it is, and from then on moves bytes of a TLS session that ends here.
//
// The client's address is the hub's claim, and noted as such.
type passer struct {
	s     *Server
	queue chan net.Conn
	done  chan struct{} // closed by Close
	once  sync.Once

	mu   sync.Mutex
	hubs map[string]int // connections by hub UUID
	all  int
}

func newPasser(s *Server) *passer {
	return &passer{s: s, queue: make(chan net.Conn), done: make(chan struct{}), hubs: make(map[string]int)}
}

// passedConn is one of them; inner TLS runs on it. Its end is told to take, which owns the outer connection.
type passedConn struct {
	net.Conn // the hub's
	client   netip.AddrPort
	hub      hubRef
	closed   chan struct{}
	once     sync.Once
}

// RemoteAddr is the client's, as the hub says.
func (c *passedConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.client) }

// Close ends the hub's connection with it.
func (c *passedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { close(c.closed) })
	return err
}

// identify tells which hub is at the other end.
func (p *passer) identify(c *tls.Conn) (hubRef, error) {
	chain := c.ConnectionState().PeerCertificates
	who, err := (&gate{p.s}).identify(peer{chain: chain, addr: c.RemoteAddr().String()}, ca.RoleHub)
	if err != nil {
		return hubRef{}, err
	}
	return hubRef{uuid: who.id.UUID, name: who.id.Name}, nil
}

// take serves one connection of ALPN hawser-pass/1 to its end; net/http calls it, in a goroutine of its own, after the handshake.
func (p *passer) take(_ *http.Server, c *tls.Conn, _ http.Handler) {
	hub, err := p.identify(c)
	if err != nil {
		p.s.recordStranger(c.RemoteAddr().String(), Event{Type: "api.refuse", Source: c.RemoteAddr().String(), Object: tunnel.ALPNPass, Reason: err.Error()})
		return
	}
	if err := p.enter(hub); err != nil {
		p.s.log.Warn("passed connection refused", "hub", hub.name, "error", err)
		return
	}
	defer p.leave(hub)
	if err := c.SetDeadline(time.Now().Add(passHeaderTime)); err != nil {
		return
	}
	h, err := proxyproto.Read(c)
	if err == nil && (h.Local || !h.Source.IsValid()) {
		err = errors.New("the header names no client")
	}
	if err != nil {
		p.s.log.Warn("passed connection refused", "hub", hub.name, "error", err)
		return
	}
	if err := c.SetDeadline(time.Time{}); err != nil {
		return
	}
	inner := &passedConn{Conn: c, client: h.Source, hub: hub, closed: make(chan struct{})}
	select {
	case p.queue <- inner:
		<-inner.closed
	case <-p.done:
	}
}

func (p *passer) enter(hub hubRef) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all >= maxPassed || p.hubs[hub.uuid] >= maxPassedPerHub {
		return fmt.Errorf("%d connections come through hubs, %d through this one", p.all, p.hubs[hub.uuid])
	}
	p.all++
	p.hubs[hub.uuid]++
	return nil
}

func (p *passer) leave(hub hubRef) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all--
	if p.hubs[hub.uuid]--; p.hubs[hub.uuid] == 0 {
		delete(p.hubs, hub.uuid)
	}
}

// Accept implements net.Listener.
func (p *passer) Accept() (net.Conn, error) {
	select {
	case c := <-p.queue:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener: nothing more comes.
func (p *passer) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

// Addr implements net.Listener.
func (p *passer) Addr() net.Addr { return p.s.listener.Addr() }

// viaKey is where the hub that passed a connection is, in the context of its requests.
type viaKey struct{}

// connContext notes by which hub a connection came.
func (p *passer) connContext(ctx context.Context, c net.Conn) context.Context {
	if tc, ok := c.(*tls.Conn); ok {
		if inner, ok := tc.NetConn().(*passedConn); ok {
			return context.WithValue(ctx, viaKey{}, inner.hub)
		}
	}
	return ctx
}
