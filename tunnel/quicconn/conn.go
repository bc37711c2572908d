package quicconn

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

const (
	controlStreamID     = 1 // the first bidirectional stream a server opens (RFC 9000, section 2.1)
	controlHeaderLen    = 4 // u32 length of a control message
	controlWriteTimeout = 30 * time.Second
)

// side says who opens streams.
type side uint8

const (
	edgeSide side = iota + 1 // accepts them
	hubSide                  // opens them
	peerSide                 // does both
)

// conn implements tunnel.Conn. It starts no goroutine of its own; quic-go's end with qc.
type conn struct {
	qc      *quic.Conn
	side    side
	control *quic.Stream
	settle  func() // a hub's tunnel: what watched for streams until heartbeats came ends
	release func() // the edge's transport and socket; nil at the hub

	ctx    context.Context
	cancel context.CancelCauseFunc

	closeOnce sync.Once

	sendMu sync.Mutex // serialises control messages

	receiveMu sync.Mutex // guards what follows: one ReceiveControl at a time
	header    [controlHeaderLen]byte
	message   []byte // nil while the header is incomplete
	have      int    // bytes of header or message
}

func newConn(qc *quic.Conn, control *quic.Stream, side side, release func()) *conn {
	c := &conn{qc: qc, side: side, control: control, release: release}
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	context.AfterFunc(qc.Context(), func() {
		c.cancel(closeCause(context.Cause(qc.Context())))
		c.finish()
	})
	return c
}

// finish frees the socket of a connection that has ended.
func (c *conn) finish() {
	c.closeOnce.Do(func() {
		if c.release != nil {
			c.release()
		}
	})
}

func (c *conn) OpenStream(ctx context.Context) (tunnel.Stream, error) {
	if c.side == edgeSide {
		return nil, tunnel.ErrWrongSide
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	s, err := c.qc.OpenStream()
	if _, ok := errors.AsType[*quic.StreamLimitReachedError](err); ok {
		return nil, tunnel.ErrTooManyStreams
	}
	if err != nil {
		return nil, c.cause(err)
	}
	return &stream{c: c, s: s}, nil
}

func (c *conn) AcceptStream(ctx context.Context) (tunnel.Stream, error) {
	if c.side == hubSide {
		return nil, tunnel.ErrWrongSide
	}
	s, err := c.qc.AcceptStream(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, c.cause(err)
	}
	return &stream{c: c, s: s}, nil
}

func (c *conn) SendControl(msg []byte) error {
	if len(msg) == 0 || len(msg) > wire.MaxControl {
		return fmt.Errorf("%w: control message of %d bytes", tunnel.ErrTooLong, len(msg))
	}
	b := binary.BigEndian.AppendUint32(make([]byte, 0, controlHeaderLen+len(msg)), uint32(len(msg)))
	b = append(b, msg...)
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	c.control.SetWriteDeadline(time.Now().Add(controlWriteTimeout))
	if _, err := c.control.Write(b); err != nil {
		if c.ctx.Err() == nil && !c.over(err) {
			// Half a message may be out: nothing after it would make sense.
			c.CloseWithError(wire.CloseInternal, "control stream stuck")
		}
		return c.cause(err)
	}
	return nil
}

func (c *conn) ReceiveControl(ctx context.Context) ([]byte, error) {
	c.receiveMu.Lock()
	defer c.receiveMu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if ctx.Done() != nil {
		undone := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			c.control.SetReadDeadline(time.Unix(1, 0))
			close(undone)
		})
		defer func() {
			if !stop() {
				<-undone
				c.control.SetReadDeadline(time.Time{})
			}
		}()
	}
	msg, err := c.receive()
	switch {
	case err == nil:
		return msg, nil
	case ctx.Err() != nil && !c.over(err):
		return nil, context.Cause(ctx)
	case !c.over(err):
		// The control stream ended or is malformed while the connection lives.
		c.CloseWithError(wire.CloseProtocol, "control stream: "+err.Error())
	}
	return nil, c.cause(err)
}

// receive reads on where a cancelled call stopped. receiveMu is held.
func (c *conn) receive() ([]byte, error) {
	for {
		into := c.header[:]
		if c.message != nil {
			into = c.message
		}
		n, err := io.ReadFull(c.control, into[c.have:])
		c.have += n
		if err != nil {
			return nil, err
		}
		c.have = 0
		if c.message != nil {
			msg := c.message
			c.message = nil
			return msg, nil
		}
		length := binary.BigEndian.Uint32(c.header[:])
		if length > wire.MaxControl {
			return nil, fmt.Errorf("a message of %d bytes", length)
		}
		if length > 0 { // an empty one carries nothing
			c.message = make([]byte, length)
		}
	}
}

func (c *conn) SendHeartbeat(b []byte) error {
	if len(b) > wire.MaxHeartbeat {
		return fmt.Errorf("%w: heartbeat of %d bytes", tunnel.ErrTooLong, len(b))
	}
	if err := c.qc.SendDatagram(b); err != nil {
		if _, ok := errors.AsType[*quic.DatagramTooLargeError](err); ok {
			return fmt.Errorf("%w: heartbeat of %d bytes on this path", tunnel.ErrTooLong, len(b))
		}
		return c.cause(err)
	}
	return nil
}

func (c *conn) ReceiveHeartbeat(ctx context.Context) ([]byte, error) {
	if c.settle != nil {
		c.settle()
	}
	b, err := c.qc.ReceiveDatagram(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, c.cause(err)
	}
	if c.side == hubSide && c.opened() {
		c.CloseWithError(wire.CloseProtocol, edgeOpened)
		return nil, context.Cause(c.ctx)
	}
	return b, nil
}

// opened tells whether an edge has opened a stream, which only hubs may: there are streams it may open, for other hubs come in by the same
// listener. It is asked with each heartbeat, for waiting for what never comes would cost a goroutine for each tunnel.
func (c *conn) opened() bool {
	_, err := c.qc.AcceptStream(over)
	return err == nil
}

const edgeOpened = "an edge opens no streams"

// over is a context that has ended.
var over = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

func (c *conn) CloseWithError(code wire.CloseCode, reason string) error {
	return c.CloseWith(&wire.CloseError{Code: code, Reason: reason})
}

// CloseWith packs code and retry-after into the QUIC application error code (PROTOCOL.md, "Close codes").
func (c *conn) CloseWith(e *wire.CloseError) error {
	local := &wire.CloseError{Code: e.Code, Reason: e.Reason, RetryAfter: e.RetryAfter}
	if c.qc.Context().Err() == nil {
		c.cancel(local)
	}
	c.qc.CloseWithError(packCode(e), e.Reason[:min(len(e.Reason), maxReason)])
	c.cancel(closeCause(context.Cause(c.qc.Context())))
	c.finish()
	return nil
}

func (c *conn) Context() context.Context { return c.ctx }

func (c *conn) Carrier() tunnel.Carrier { return tunnel.CarrierQUIC }

func (c *conn) LocalAddr() netip.AddrPort { return addrPort(c.qc.LocalAddr()) }

func (c *conn) RemoteAddr() netip.AddrPort { return addrPort(c.qc.RemoteAddr()) }

func (c *conn) ConnectionState() tls.ConnectionState { return c.qc.ConnectionState().TLS }

// over tells whether the connection has ended, by its context or by the error a call on it returned: quic-go tells its streams first.
func (c *conn) over(err error) bool {
	if c.qc.Context().Err() != nil {
		return true
	}
	for _, end := range []any{new(*quic.ApplicationError), new(*quic.TransportError), new(*quic.IdleTimeoutError), new(*quic.StatelessResetError)} {
		if errors.As(err, end) {
			return true
		}
	}
	return false
}

// cause is the error of a call that failed: why the tunnel ended, if it has, else err.
func (c *conn) cause(err error) error {
	switch {
	case c.qc.Context().Err() != nil:
		// Our context follows quic-go's by a moment; ask the source.
		c.cancel(closeCause(context.Cause(c.qc.Context())))
	case c.over(err):
		c.cancel(closeCause(err))
	}
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	return err
}

// packCode: bits 0-15 the code, bits 16-47 retry-after in milliseconds.
func packCode(e *wire.CloseError) quic.ApplicationErrorCode {
	ms := uint32(min(max(e.RetryAfter.Milliseconds(), 0), 1<<32-1))
	return quic.ApplicationErrorCode(uint64(ms)<<16 | uint64(e.Code))
}

// closeCause turns quic-go's reason into the tunnel's.
func closeCause(err error) error {
	if e, ok := errors.AsType[*quic.ApplicationError](err); ok {
		return &wire.CloseError{
			Code:       wire.CloseCode(e.ErrorCode & 0xffff),
			Reason:     e.ErrorMessage,
			RetryAfter: time.Duration(uint32(e.ErrorCode>>16)) * time.Millisecond,
			Remote:     e.Remote,
		}
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: %w", tunnel.ErrLost, err)
}
