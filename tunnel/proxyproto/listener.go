package proxyproto

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// headerTimeout is how long a proxy takes at most to send its header: it has it before it dials.
	headerTimeout = 5 * time.Second
	// maxPending connections wait for their header at once; a further one is refused.
	maxPending = 1024
)

// ErrRefused: a header came from where none is believed.
var ErrRefused = errors.New("PROXY header from a network that is not named; name it in proxy-from, or let the proxy send none")

// Named tells whether addr is in one of networks.
func Named(networks []netip.Prefix, addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	for _, n := range networks {
		if n.Contains(addr) {
			return true
		}
	}
	return false
}

// Conn is a connection whose addresses are those a header told.
type Conn struct {
	net.Conn
	remote, local net.Addr
}

// RemoteAddr is the client's, not the proxy's.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// LocalAddr is what the client connected to.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// NetConn is the proxy's connection.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// Accept reads the header of a connection from a network that is named, within a few seconds. The result has the
// addresses the header told, and the bytes that follow it; c is closed after an error.
func Accept(c net.Conn) (net.Conn, error) {
	_ = c.SetReadDeadline(time.Now().Add(headerTimeout))
	h, err := Read(c)
	if err == nil {
		err = c.SetReadDeadline(time.Time{})
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	if h.Local {
		return c, nil
	}
	return &Conn{Conn: c, remote: net.TCPAddrFromAddrPort(h.Source), local: net.TCPAddrFromAddrPort(h.Destination)}, nil
}

// guarded refuses a connection that begins with a header. One goroutine reads.
type guarded struct {
	net.Conn
	l    *Listener
	seen int // bytes that are, so far, the beginning of a header; -1: it is none
}

// NetConn is the connection itself.
func (g *guarded) NetConn() net.Conn { return g.Conn }

func (g *guarded) Read(b []byte) (int, error) {
	n, err := g.Conn.Read(b)
	for i := 0; i < n && g.seen >= 0; i++ {
		switch {
		case b[i] != signature[g.seen]:
			g.seen = -1
		case g.seen+1 == len(signature):
			g.l.refused(g.Conn.RemoteAddr(), ErrRefused)
			_ = g.Conn.Close()
			return 0, ErrRefused
		default:
			g.seen++
		}
	}
	return n, err
}

// Listener accepts connections whose addresses are those of the clients: from networks that are named each connection
// must begin with a header, from elsewhere none may.
type Listener struct {
	net.Listener
	// From are the networks whose headers are believed.
	From []netip.Prefix
	// Refused, unless nil, is told of what was refused. It must not block.
	Refused func(from net.Addr, err error)

	once    sync.Once
	ready   chan accepted
	closed  chan struct{}
	pending chan struct{}
	wg      sync.WaitGroup

	mu      sync.Mutex
	ended   bool
	waiting map[net.Conn]struct{}
}

type accepted struct {
	c   net.Conn
	err error
}

func (l *Listener) refused(from net.Addr, err error) {
	if l.Refused != nil {
		l.Refused(from, err)
	}
}

func (l *Listener) start() {
	l.once.Do(func() {
		l.waiting = make(map[net.Conn]struct{})
		l.ready, l.closed, l.pending = make(chan accepted), make(chan struct{}), make(chan struct{}, maxPending)
		if len(l.From) > 0 {
			l.wg.Go(l.accept)
		}
	})
}

// Accept implements net.Listener. No header is waited for here: the next connection must not stand behind one.
func (l *Listener) Accept() (net.Conn, error) {
	l.start()
	if len(l.From) == 0 {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		return &guarded{Conn: c, l: l}, nil
	}
	select {
	case a := <-l.ready:
		return a.c, a.err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// hold notes who waits for a header, for Close to end that.
func (l *Listener) hold(c net.Conn, on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !on:
		delete(l.waiting, c)
	case l.ended:
		_ = c.Close()
	default:
		l.waiting[c] = struct{}{}
	}
}

// Close ends Accept and what waits for headers.
func (l *Listener) Close() error {
	l.start()
	err := l.Listener.Close()
	l.mu.Lock()
	if !l.ended {
		l.ended = true
		close(l.closed)
	}
	for c := range l.waiting {
		_ = c.Close()
	}
	l.mu.Unlock()
	l.wg.Wait()
	return err
}

func (l *Listener) give(c net.Conn, err error) (goOn bool) {
	select {
	case l.ready <- accepted{c, err}:
		return true
	case <-l.closed:
		if c != nil {
			_ = c.Close()
		}
		return false
	}
}

func (l *Listener) accept() {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			if !l.give(nil, err) || errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		t, ok := c.RemoteAddr().(*net.TCPAddr)
		if !ok || !Named(l.From, t.AddrPort().Addr()) {
			if !l.give(&guarded{Conn: c, l: l}, nil) {
				return
			}
			continue
		}
		select {
		case l.pending <- struct{}{}:
		default:
			l.refused(c.RemoteAddr(), errors.New("too many connections wait for their PROXY header"))
			_ = c.Close()
			continue
		}
		l.wg.Go(func() {
			defer func() { <-l.pending }()
			from := c.RemoteAddr()
			l.hold(c, true)
			pc, err := Accept(c)
			l.hold(c, false)
			if err != nil {
				l.refused(from, err)
				return
			}
			l.give(pc, nil)
		})
	}
}
