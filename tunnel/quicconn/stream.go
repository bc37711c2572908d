package quicconn

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// stream implements tunnel.Stream.
type stream struct {
	c      *conn
	s      *quic.Stream
	closed atomic.Bool // Close or Reset was called
	ended  atomic.Bool // CloseWrite was called
}

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.s.Read(b)
	return n, s.err(err)
}

func (s *stream) Write(b []byte) (int, error) {
	if s.ended.Load() {
		return 0, net.ErrClosed
	}
	n, err := s.s.Write(b)
	return n, s.err(err)
}

func (s *stream) CloseWrite() error {
	if s.ended.Swap(true) {
		return nil
	}
	return s.err(s.s.Close())
}

func (s *stream) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	s.ended.Store(true)
	s.s.CancelRead(quic.StreamErrorCode(wire.StreamOK))
	// Its only error is that the writing side has ended already, by us or by the peer's STOP_SENDING.
	s.s.Close()
	return nil
}

func (s *stream) Reset(code wire.StreamCode) {
	if s.closed.Swap(true) {
		return
	}
	s.s.CancelRead(quic.StreamErrorCode(code))
	s.s.CancelWrite(quic.StreamErrorCode(code))
}

func (s *stream) SetDeadline(t time.Time) error      { return s.s.SetDeadline(t) }
func (s *stream) SetReadDeadline(t time.Time) error  { return s.s.SetReadDeadline(t) }
func (s *stream) SetWriteDeadline(t time.Time) error { return s.s.SetWriteDeadline(t) }

// err turns quic-go's errors into those of tunnel.Stream.
func (s *stream) err(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if e, ok := errors.AsType[*quic.StreamError](err); ok {
		if !e.Remote && e.ErrorCode == quic.StreamErrorCode(wire.StreamOK) {
			return net.ErrClosed
		}
		return &tunnel.StreamError{Code: wire.StreamCode(e.ErrorCode & 0xffff), Remote: e.Remote}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return s.c.cause(err)
}
