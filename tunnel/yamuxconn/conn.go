package yamuxconn

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// Queues from the reader: control blocks it when full, which is back-pressure; heartbeats lose the oldest.
const (
	controlQueue   = 16
	heartbeatQueue = 8
)

// conn implements tunnel.Conn. One goroutine reads it (run), but while it is parked; a mux has goroutines of its own
// while it lives; when ctx is done, finish ends everything and closes closed.
type conn struct {
	tc     *tls.Conn
	hub    bool
	o      Options
	frames frameWriter
	ctx    context.Context
	cancel context.CancelCauseFunc
	closed chan struct{}

	park     park
	readDone chan struct{} // the reader has ended for good

	control    chan []byte
	heartbeats chan []byte
	accepts    chan tunnel.Stream

	deadlineMu sync.Mutex
	ending     bool // the deadline of the end is set, and stays

	gate chan struct{} // a semaphore, held while a session starts or stops, over I/O

	muxMu    sync.Mutex
	mux      *mux           // nil while there is no session
	stopping int            // hub: MUX_STOPs not yet answered; the bytes of their sessions are dropped
	opening  int            // hub: OpenStream calls at work on mux
	opens    uint64         // hub: OpenStream calls ever
	ended    bool           // no new session, no new work
	work     sync.WaitGroup // the idle check and the MUX_START under way
	timer    *time.Timer    // hub: the next idle check
	quietAt  uint64         // hub: opens at the last check that found the session idle
	quiet    bool
}

func newConn(tc *tls.Conn, hub bool, o Options) *conn {
	c := &conn{tc: tc, hub: hub, o: o, closed: make(chan struct{}), gate: make(chan struct{}, 1),
		readDone: make(chan struct{}), control: make(chan []byte, controlQueue), heartbeats: make(chan []byte, heartbeatQueue)}
	if !hub {
		c.accepts = make(chan tunnel.Stream, tunnel.MaxStreams)
	}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.frames = frameWriter{w: tc, arm: c.armWrite, failed: c.lost}
	context.AfterFunc(c.ctx, c.finish)
	go c.run()
	return c
}

// run reads until the tunnel ends or is parked.
func (c *conn) run() {
	if !c.read() {
		close(c.readDone)
	}
}

// armWrite gives the next record its time.
func (c *conn) armWrite() {
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	if !c.ending {
		c.tc.SetWriteDeadline(time.Now().Add(writeTimeout))
	}
}

// lost ends the tunnel for a reason nobody said. The first reason stays.
func (c *conn) lost(err error) { c.cancel(fmt.Errorf("%w: %w", tunnel.ErrLost, err)) }

// finish ends everything once ctx is done. The order:
//  0. a parked tunnel gets its reader back, and leaves epoll while its descriptor is still its own;
//  1. the session begins to end: its streams and pending opens fail at once, whatever the socket does;
//  2. the peer is told, if the reason is ours, and has until the deadline to read it and to close;
//  3. the socket is closed, which ends the reader and every writer, and with them the session;
//  4. an idle check or a start of a session under way ends.
func (c *conn) finish() {
	defer close(c.closed)
	c.unpark()
	c.muxMu.Lock()
	c.ended = true
	m := c.mux
	if c.timer != nil {
		c.timer.Stop()
	}
	c.muxMu.Unlock()
	var session sync.WaitGroup
	if m != nil {
		session.Go(m.close)
	}
	if e, ok := errors.AsType[*wire.CloseError](context.Cause(c.ctx)); ok && !e.Remote {
		c.deadlineMu.Lock()
		c.ending = true
		c.tc.SetDeadline(time.Now().Add(tunnel.CloseTimeout))
		c.deadlineMu.Unlock()
		if c.frames.write(frameClose, appendClose(nil, e), nil) == nil {
			// The reader reads on until the peer closes: a socket closed with bytes unread sends a reset, which may
			// overtake the reason.
			<-c.readDone
		}
	}
	c.tc.NetConn().Close()
	<-c.readDone
	session.Wait()
	c.work.Wait()
}

// read reads frames until the tunnel is parked, or until it ends, and then says why it did if nobody else has.
func (c *conn) read() (parked bool) {
	defer func() {
		if r := recover(); r != nil {
			c.cancel(&wire.CloseError{Code: wire.CloseInternal, Reason: "reader failed"})
			tunnel.Error(c.o.Logger, "tunnel reader panicked", "panic", fmt.Sprint(r))
		}
	}()
	var err error
	for err == nil && c.ctx.Err() == nil {
		err = c.readFrame()
	}
	switch {
	case err == errParked:
		return true
	case c.ctx.Err() != nil:
	case errors.Is(err, errFrame):
		c.cancel(&wire.CloseError{Code: wire.CloseProtocol, Reason: err.Error()})
	default:
		c.lost(err)
	}
	io.Copy(io.Discard, c.tc) // see finish
	return false
}

func (c *conn) readFrame() error {
	var h [frameHeaderLen]byte
	if err := c.readFull(h[:], true); err != nil {
		return err
	}
	defer c.wakeOwner()
	f, n, err := parseFrameHeader(h)
	if err != nil {
		return err
	}
	if f == frameMux {
		r := records.Get().(*record)
		r.b = r.b[:n]
		if err := c.readFull(r.b, false); err != nil {
			return err
		}
		return c.muxBytes(r)
	}
	b := make([]byte, n)
	if err := c.readFull(b, false); err != nil {
		return err
	}
	switch f {
	case frameControl:
		if n == 0 {
			return fmt.Errorf("%w: an empty control message", errFrame)
		}
		select {
		case c.control <- b:
		case <-c.ctx.Done():
		}
	case frameHeartbeat:
		select {
		case c.heartbeats <- b:
		default:
			select {
			case <-c.heartbeats:
			default:
			}
			c.heartbeats <- b // there is room: nobody else sends
		}
	case frameClose:
		e, err := parseClose(b)
		if err != nil {
			return err
		}
		c.cancel(e)
	case frameMuxStart:
		return c.startedByHub()
	case frameMuxStop:
		return c.stoppedByHub()
	case frameMuxStopped:
		return c.stoppedByEdge()
	case frameStreamEnd:
		return c.streamEnded(b)
	}
	return nil // a type of a later version
}

func (c *conn) OpenStream(ctx context.Context) (tunnel.Stream, error) {
	if !c.hub {
		return nil, tunnel.ErrWrongSide
	}
	m, err := c.muxToOpen(ctx)
	if err != nil {
		return nil, err
	}
	defer c.opened()
	return m.open(ctx)
}

func (c *conn) AcceptStream(ctx context.Context) (tunnel.Stream, error) {
	if c.hub {
		return nil, tunnel.ErrWrongSide
	}
	return receive(ctx, c, c.accepts)
}

func (c *conn) SendControl(msg []byte) error {
	if len(msg) == 0 || len(msg) > wire.MaxControl {
		return fmt.Errorf("%w: control message of %d bytes", tunnel.ErrTooLong, len(msg))
	}
	return c.send(frameControl, msg)
}

func (c *conn) ReceiveControl(ctx context.Context) ([]byte, error) {
	return receive(ctx, c, c.control)
}

func (c *conn) SendHeartbeat(b []byte) error {
	if len(b) > wire.MaxHeartbeat {
		return fmt.Errorf("%w: heartbeat of %d bytes", tunnel.ErrTooLong, len(b))
	}
	return c.send(frameHeartbeat, b)
}

func (c *conn) ReceiveHeartbeat(ctx context.Context) ([]byte, error) {
	return receive(ctx, c, c.heartbeats)
}

func (c *conn) send(f frameType, b []byte) error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	if err := c.frames.write(f, b, nil); err != nil {
		return c.cause(err)
	}
	return nil
}

func receive[T any](ctx context.Context, c *conn, from <-chan T) (T, error) {
	var zero T
	if ctx.Err() != nil {
		return zero, context.Cause(ctx)
	}
	select { // what arrived before the end is still delivered
	case v := <-from:
		return v, nil
	default:
	}
	select {
	case v := <-from:
		return v, nil
	case <-ctx.Done():
		return zero, context.Cause(ctx)
	case <-c.ctx.Done():
		return zero, context.Cause(c.ctx)
	}
}

func (c *conn) CloseWithError(code wire.CloseCode, reason string) error {
	return c.CloseWith(&wire.CloseError{Code: code, Reason: reason})
}

func (c *conn) CloseWith(e *wire.CloseError) error {
	c.cancel(&wire.CloseError{Code: e.Code, Reason: e.Reason, RetryAfter: e.RetryAfter})
	<-c.closed
	return nil
}

func (c *conn) Context() context.Context { return c.ctx }

func (c *conn) Carrier() tunnel.Carrier { return tunnel.CarrierTLS }

func (c *conn) LocalAddr() netip.AddrPort { return addrPort(c.tc.LocalAddr()) }

func (c *conn) RemoteAddr() netip.AddrPort { return addrPort(c.tc.RemoteAddr()) }

func (c *conn) ConnectionState() tls.ConnectionState { return c.tc.ConnectionState() }

// SetKeepAlive changes how long the connection idles before the kernel probes it: an edge learns what its NAT wants.
func (c *conn) SetKeepAlive(d time.Duration) error {
	t, ok := socket(c.tc).(*net.TCPConn)
	if !ok {
		return errors.ErrUnsupported
	}
	return tune(t, d)
}

// socket is what the tunnel's TLS runs on in the end: a hub reads the beginning of a connection before it knows that it is a tunnel's, and
// hands it on in a wrapper, which has nothing of its own once the handshake is over.
func socket(tc *tls.Conn) net.Conn {
	nc := tc.NetConn()
	for {
		w, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			return nc
		}
		nc = w.NetConn()
	}
}

// cause is the error of a call that failed: why the tunnel ended, if it has, else err.
func (c *conn) cause(err error) error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	return err
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		p := t.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return netip.AddrPort{}
}
