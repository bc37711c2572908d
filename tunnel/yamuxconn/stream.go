package yamuxconn

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// stream implements tunnel.Stream. yamux has no codes and no way to stop a sender: frameStreamEnd adds both.
type stream struct {
	m *mux
	y *yamux.Stream

	mu       sync.Mutex
	closed   bool // Close or Reset was called
	ended    bool // our bytes have ended
	sawEOF   bool
	readErr  error // what Read returns from now on
	writeErr error
}

// past is a deadline that wakes what waits.
var past = time.Unix(1, 0)

func newStream(m *mux, y *yamux.Stream) *stream { return &stream{m: m, y: y} }

func (s *stream) Read(b []byte) (int, error) {
	if err := s.failed(&s.readErr); err != nil {
		return 0, err
	}
	n, err := s.y.Read(b)
	if err == nil {
		return n, nil
	}
	if failed := s.failed(&s.readErr); failed != nil {
		return n, failed
	}
	if err == io.EOF && (!s.m.session.IsClosed() || s.m.whole()) {
		s.mu.Lock()
		s.sawEOF = true
		s.mu.Unlock()
		return n, io.EOF
	}
	// yamux calls the end of the session EOF, too: an end not read by then is not known to be one, but after a session that was stopped.
	return n, s.err(err)
}

func (s *stream) Write(b []byte) (int, error) {
	written := 0
	for {
		s.mu.Lock()
		err := s.writeErr
		if err == nil && s.ended {
			err = net.ErrClosed
		}
		s.mu.Unlock()
		if err != nil || len(b) == 0 {
			return written, err
		}
		chunk := b[:min(len(b), maxChunk)]
		n, err := s.y.Write(chunk)
		written += n
		b = b[n:]
		if err != nil {
			if failed := s.failed(&s.writeErr); failed != nil {
				return written, failed
			}
			return written, s.err(err)
		}
	}
}

func (s *stream) failed(err *error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *err
}

// err turns yamux's errors into those of tunnel.Stream.
func (s *stream) err(err error) error {
	switch {
	case errors.Is(err, yamux.ErrTimeout):
		return os.ErrDeadlineExceeded
	case errors.Is(err, yamux.ErrConnectionReset):
		return &tunnel.StreamError{Code: wire.StreamCancelled, Remote: true} // the peer's yamux refused it
	case errors.Is(err, yamux.ErrConnectionWriteTimeout):
		// The frame may or may not be sent: the session cannot go on.
		s.m.c.lost(err)
	}
	return s.m.ended(err)
}

func (s *stream) CloseWrite() error {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return nil
	}
	s.ended = true
	err := s.writeErr
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return s.y.Close() // yamux's Close ends one direction
}

func (s *stream) Close() error {
	s.end(wire.StreamOK, endStop, net.ErrClosed)
	return nil
}

func (s *stream) Reset(code wire.StreamCode) {
	s.end(code, endStop|endAbort, &tunnel.StreamError{Code: code})
}

// end finishes the stream for its user; the peer is told what it would not learn from yamux's FIN.
func (s *stream) end(code wire.StreamCode, what uint8, local error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed, s.ended = true, true
	tell := what&endAbort != 0 || !s.sawEOF
	if s.readErr == nil {
		s.readErr = local
	}
	if s.writeErr == nil {
		s.writeErr = local
	}
	s.y.SetDeadline(past)
	s.mu.Unlock()
	s.m.remove(s.y.StreamID())
	// In the background, for a slow link must not hold up whoever gives a stream up.
	// STREAM_END goes before the FIN: after a reset the peer must not take that for the end of what we sent.
	s.m.background(func() {
		if tell {
			s.m.c.frames.write(frameStreamEnd, streamEnd{s.y.StreamID(), code, what}.append(nil), nil)
		}
		s.y.Close()
	})
}

// peerEnded handles the peer's frameStreamEnd; it does not block.
func (s *stream) peerEnded(e streamEnd) {
	err := &tunnel.StreamError{Code: e.code, Remote: true}
	s.mu.Lock()
	if e.what&endStop != 0 && s.writeErr == nil && !s.ended {
		s.writeErr = err
		s.y.SetWriteDeadline(past)
	}
	if e.what&endAbort != 0 {
		if s.readErr == nil && !s.sawEOF {
			s.readErr = err
		}
		if s.writeErr == nil {
			s.writeErr = err
		}
		s.y.SetDeadline(past)
	}
	s.mu.Unlock()
	// Nobody reads what we write: end it, so that yamux forgets the stream.
	s.m.background(func() { s.y.Close() })
}

// SetDeadline implements tunnel.Stream.
func (s *stream) SetDeadline(t time.Time) error {
	s.SetReadDeadline(t)
	return s.SetWriteDeadline(t)
}

// SetReadDeadline implements tunnel.Stream. A stream that has failed keeps its own.
func (s *stream) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readErr != nil {
		return nil
	}
	return s.y.SetReadDeadline(t)
}

// SetWriteDeadline implements tunnel.Stream.
func (s *stream) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writeErr != nil {
		return nil
	}
	return s.y.SetWriteDeadline(t)
}
