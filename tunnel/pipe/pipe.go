// Package pipe is a tunnel.Stream in memory: what is written at one end is read at the other, with the half-close, resets and deadlines of a
// stream of a tunnel. Hubs serve by it what has no tunnel, and tests use it as a carrier.
package pipe

import (
	"io"
	"net"
	"os"
	"sync"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// pipeSize is what one direction buffers before its writer blocks, in bytes: yamux's window.
const pipeSize = 256 << 10

// pipe is one direction of a stream.
type pipe struct {
	mu       sync.Mutex
	cond     *sync.Cond
	buf      []byte
	ended    bool  // the writer is done: io.EOF after buf
	readErr  error // what Read returns, at once
	writeErr error // what Write returns
	read     deadline
	write    deadline
}

func newPipe() *pipe {
	p := &pipe{}
	p.cond = sync.NewCond(&p.mu)
	return p
}

// deadline is one side's deadline; the pipe's mutex guards it.
type deadline struct {
	timer *time.Timer
	over  bool
}

func (p *pipe) setDeadline(d *deadline, t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.over = false
	switch wait := time.Until(t); {
	case t.IsZero():
	case wait <= 0:
		d.over = true
	default:
		var timer *time.Timer
		timer = time.AfterFunc(wait, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			if d.timer == timer { // not replaced meanwhile
				d.over = true
				p.cond.Broadcast()
			}
		})
		d.timer = timer
	}
	p.cond.Broadcast()
}

func (p *pipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.readErr != nil:
			return 0, p.readErr
		case p.read.over:
			return 0, os.ErrDeadlineExceeded
		case len(p.buf) > 0:
			n := copy(b, p.buf)
			p.buf = p.buf[n:]
			p.cond.Broadcast()
			return n, nil
		case p.ended:
			return 0, io.EOF
		case len(b) == 0:
			return 0, nil
		}
		p.cond.Wait()
	}
}

func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	written := 0
	for {
		switch {
		case p.writeErr != nil:
			return written, p.writeErr
		case p.ended:
			return written, net.ErrClosed
		case p.write.over:
			return written, os.ErrDeadlineExceeded
		case len(b) == 0:
			return written, nil
		case len(p.buf) < pipeSize:
			n := min(len(b), pipeSize-len(p.buf))
			p.buf = append(p.buf, b[:n]...)
			b, written = b[n:], written+n
			p.cond.Broadcast()
			continue
		}
		p.cond.Wait()
	}
}

// end marks the end of the writer's bytes.
func (p *pipe) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.cond.Broadcast()
}

// fail ends the pipe for its reader and its writer, each with its own error; nil leaves that side as it is, and the
// first error stays.
func (p *pipe) fail(readErr, writeErr error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.readErr == nil {
		p.readErr = readErr
	}
	if p.writeErr == nil && !p.ended {
		p.writeErr = writeErr
	}
	p.cond.Broadcast()
}

// finished tells whether the writer is done, so that failing the reader of it would change nothing.
func (p *pipe) finished() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended && len(p.buf) == 0
}

// Stream is one end. It implements tunnel.Stream and is safe for concurrent use.
type Stream struct {
	in, out *pipe
	first   func() // called before each use that the other end sees; may be nil
	ended   func() // called once, by Close or Reset; may be nil
	once    sync.Once
}

// New returns the two ends. first is called before whatever a does that b sees, endedA and endedB once when that end is closed or reset; each
// may be nil.
func New(first, endedA, endedB func()) (a, b *Stream) {
	ab, ba := newPipe(), newPipe()
	return &Stream{in: ba, out: ab, first: first, ended: endedA}, &Stream{in: ab, out: ba, ended: endedB}
}

// Read implements io.Reader.
func (s *Stream) Read(b []byte) (int, error) { return s.in.Read(b) }

// Write implements io.Writer. It blocks while the other end has 256 KiB unread.
func (s *Stream) Write(b []byte) (int, error) {
	s.visible()
	return s.out.Write(b)
}

func (s *Stream) visible() {
	if s.first != nil {
		s.first()
	}
}

// CloseWrite implements tunnel.Stream.
func (s *Stream) CloseWrite() error {
	s.visible()
	s.out.end()
	return nil
}

// Close implements tunnel.Stream.
func (s *Stream) Close() error {
	s.once.Do(func() {
		s.visible()
		s.out.end()
		s.in.fail(net.ErrClosed, &tunnel.StreamError{Code: wire.StreamOK, Remote: true})
		s.finish()
	})
	return nil
}

// Reset implements tunnel.Stream.
func (s *Stream) Reset(code wire.StreamCode) {
	s.once.Do(func() {
		s.visible()
		local, remote := &tunnel.StreamError{Code: code}, &tunnel.StreamError{Code: code, Remote: true}
		s.in.fail(local, remote)
		if s.out.finished() {
			s.out.fail(nil, local) // the peer has read it all
		} else {
			s.out.fail(remote, local)
		}
		s.finish()
	})
}

func (s *Stream) finish() {
	if s.ended != nil {
		s.ended()
	}
}

// Lost ends this end as with its tunnel: Reads and Writes fail with cause, and the other end is told nothing.
func (s *Stream) Lost(cause error) {
	s.in.fail(cause, nil)
	s.out.fail(nil, cause)
}

// SetDeadline implements tunnel.Stream.
func (s *Stream) SetDeadline(t time.Time) error {
	s.in.setDeadline(&s.in.read, t)
	s.out.setDeadline(&s.out.write, t)
	return nil
}

// SetReadDeadline implements tunnel.Stream.
func (s *Stream) SetReadDeadline(t time.Time) error {
	s.in.setDeadline(&s.in.read, t)
	return nil
}

// SetWriteDeadline implements tunnel.Stream.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	s.out.setDeadline(&s.out.write, t)
	return nil
}
