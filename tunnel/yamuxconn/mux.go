package yamuxconn

import (
	"context"
	"encoding/binary"
	"io"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/yamux"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// mux is one yamux session inside a tunnel. Its lock is c.muxMu only for being installed and removed; its own guards
// its streams.
type mux struct {
	c       *conn
	session *yamux.Session
	in      *muxPipe
	wg      sync.WaitGroup // the accept loop, and the closing of streams their peer has stopped

	mu      sync.Mutex
	streams map[uint32]*stream
	early   []streamEnd // for streams not known yet: yamux hands them over later than the frame comes
	closed  bool

	// complete means that the session was stopped with every stream ended both ways: what a stream has not read yet is all there, and its
	// end is one.
	complete atomic.Bool
	// settled is closed when it is known whether it is complete; nil: the session was not stopped by its peer. Under mu.
	settled chan struct{}
}

// maxEarly bounds mux.early; beyond, the oldest is forgotten. Most of what stays in it is for streams long gone.
const maxEarly = 2 * tunnel.MaxStreams

// newMux starts a session. The caller stops it with close.
func newMux(c *conn) (*mux, error) {
	config := &yamux.Config{
		AcceptBacklog:          tunnel.MaxStreams,
		EnableKeepAlive:        false, // the kernel's, and heartbeats
		KeepAliveInterval:      writeTimeout,
		ConnectionWriteTimeout: writeTimeout,
		MaxStreamWindowSize:    edgeWindow,
		StreamOpenTimeout:      0,          // a tunnel is judged by heartbeats; this would cost a goroutine per stream
		StreamCloseTimeout:     0,          // it would end half-closed streams; STREAM_END ends those nobody wants
		LogOutput:              io.Discard, // what matters comes back as an error
	}
	m := &mux{c: c, in: newMuxPipe(), streams: make(map[uint32]*stream)}
	rw := &muxConn{muxPipe: m.in, w: &c.frames}
	var err error
	if c.hub {
		config.MaxStreamWindowSize = hubWindow
		m.session, err = yamux.Client(rw, config)
	} else {
		m.session, err = yamux.Server(rw, config)
	}
	if err != nil {
		return nil, err
	}
	m.wg.Go(m.watch)
	if !c.hub {
		m.wg.Go(m.accept)
	}
	return m, nil
}

// watch ends the tunnel with a session that ended by itself: yamux's errors leave bytes half sent, so nothing of the
// tunnel can be trusted after one.
func (m *mux) watch() {
	<-m.session.CloseChan()
	m.mu.Lock()
	closed := m.closed
	m.mu.Unlock()
	if !closed {
		m.c.fail(wire.CloseProtocol, "yamux session failed")
	}
}

// accept hands the hub's streams to AcceptStream.
func (m *mux) accept() {
	for {
		y, err := m.session.AcceptStream()
		if err != nil {
			return // the session ended: watch sees to it
		}
		s := m.add(y)
		if m.session.NumStreams() > tunnel.MaxStreams {
			s.Reset(wire.StreamResourceShortage)
			continue
		}
		select {
		case m.c.accepts <- s:
		case <-m.session.CloseChan():
			return
		}
	}
}

func (m *mux) add(y *yamux.Stream) *stream {
	s := newStream(m, y)
	m.mu.Lock()
	m.streams[y.StreamID()] = s
	var now []streamEnd
	rest := m.early[:0]
	for _, e := range m.early {
		if e.id == y.StreamID() {
			now = append(now, e)
		} else {
			rest = append(rest, e)
		}
	}
	m.early = rest
	m.mu.Unlock()
	for _, e := range now {
		s.peerEnded(e)
	}
	return s
}

func (m *mux) remove(id uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.streams, id)
}

// streamEnded handles a frameStreamEnd; it does not block.
func (m *mux) streamEnded(e streamEnd) {
	m.mu.Lock()
	s := m.streams[e.id]
	if s == nil {
		if len(m.early) == maxEarly {
			m.early = append(m.early[:0], m.early[1:]...)
		}
		m.early = append(m.early, e)
	}
	m.mu.Unlock()
	if s != nil {
		s.peerEnded(e)
	}
}

// background runs f while the mux lives, and close waits for it.
func (m *mux) background(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.wg.Go(f)
	}
}

// drain ends the session's input when all that has come is with the streams, and waits for that.
func (m *mux) drain() {
	settled := make(chan struct{})
	defer close(settled)
	m.mu.Lock()
	m.closed, m.settled = true, settled
	m.mu.Unlock()
	m.in.deliver(m.c.ctx, nil)
	select {
	case <-m.session.CloseChan():
	case <-m.c.ctx.Done():
	}
	if m.in.drained.Load() {
		m.complete.Store(true)
	}
}

// whole tells whether the end of a stream's bytes is one, though its session is over.
func (m *mux) whole() bool {
	m.mu.Lock()
	settled := m.settled
	m.mu.Unlock()
	if settled != nil { // yamux ends the streams as soon as it has read the last of its input
		<-settled
	}
	return m.complete.Load()
}

// close ends the session and waits for all of it. Streams fail with the tunnel's cause or as reset.
func (m *mux) close() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.session.Close()
	m.wg.Wait()
}

// open opens a stream; the hub's half of tunnel.Conn.OpenStream.
func (m *mux) open(ctx context.Context) (tunnel.Stream, error) {
	if m.session.NumStreams() >= tunnel.MaxStreams {
		return nil, tunnel.ErrTooManyStreams
	}
	y, err := m.session.OpenStream()
	if err != nil {
		return nil, m.ended(err)
	}
	s := m.add(y)
	if ctx.Err() != nil {
		s.Reset(wire.StreamCancelled)
		return nil, context.Cause(ctx)
	}
	return s, nil
}

// ended is the error of a call that failed because the session may have ended: the tunnel's cause, or that the stream
// went with its session.
func (m *mux) ended(err error) error {
	if !m.session.IsClosed() {
		return m.c.cause(err)
	}
	m.mu.Lock()
	closed := m.closed
	m.mu.Unlock()
	if !closed {
		m.c.fail(wire.CloseProtocol, "yamux session failed") // watch is about to
	}
	return m.c.cause(&tunnel.StreamError{Code: wire.StreamCancelled, Remote: true})
}

// muxConn is what yamux takes for its connection: it reads from the pipe and writes frames.
type muxConn struct {
	*muxPipe
	w *frameWriter
	// header is a data frame's header held back until its body comes: yamux writes them apart, from one goroutine.
	header [muxHeaderLen]byte
	held   bool
}

// Write implements io.Writer. yamux calls it from one goroutine.
func (m *muxConn) Write(b []byte) (int, error) {
	const typeData = 0 // yamux spec.md: version (u8), type (u8), flags (u16), stream id (u32), length (u32)
	if m.held {
		m.held = false
		if err := m.w.write(frameMux, m.header[:], b); err != nil {
			return 0, err
		}
		return len(b), nil
	}
	if len(b) == muxHeaderLen && b[1] == typeData && binary.BigEndian.Uint32(b[8:]) > 0 {
		copy(m.header[:], b)
		m.held = true
		return len(b), nil
	}
	if err := m.w.write(frameMux, b, nil); err != nil {
		return 0, err
	}
	return len(b), nil
}

// muxPipe carries yamux's incoming bytes from the tunnel's reader to the session, in buffers of one frame.
type muxPipe struct {
	full    chan *record // 4 frames, then the reader waits
	done    chan struct{}
	once    sync.Once
	current *record
	rest    []byte
	drained atomic.Bool // all was read, to the end
}

func newMuxPipe() *muxPipe {
	return &muxPipe{full: make(chan *record, 4), done: make(chan struct{})}
}

// deliver hands over one frame's payload and with it the record; nil ends the input.
func (p *muxPipe) deliver(ctx context.Context, r *record) {
	select {
	case p.full <- r:
	case <-p.done:
	case <-ctx.Done():
	}
}

// Read implements io.Reader. yamux calls it from one goroutine.
func (p *muxPipe) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.current != nil {
			records.Put(p.current)
			p.current = nil
		}
		select {
		case p.current = <-p.full:
			if p.current == nil {
				p.drained.Store(true)
				return 0, io.EOF
			}
			p.rest = p.current.b
		case <-p.done:
			return 0, io.EOF
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// Close implements io.Closer.
func (p *muxPipe) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}
