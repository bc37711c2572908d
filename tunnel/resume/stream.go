package resume

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// ErrDetached is wrapped by the error of a stream whose attachment was lost and not replaced in time.
var ErrDetached = errors.New("tunnel stream lost")

// ErrGone is wrapped by the error of a stream that was to be resumed and that the peer has no more.
var ErrGone = errors.New("the peer has lost the stream")

// ErrStale is returned for an attachment whose counter is not above the last.
var ErrStale = fmt.Errorf("%w: stale attachment", ErrProtocol)

// Options of a Stream.
type Options struct {
	// SendBuffer is the most bytes kept for the peer before Write blocks, RecvBuffer the most received and not yet read. 0 means
	// DefaultBuffer; RecvBuffer is at least InitialWindow. Memory is taken only while bytes are there, at most twice these figures.
	SendBuffer, RecvBuffer int
	// DetachedLife is how long the stream waits for another attachment when one is lost; 0: it ends at once.
	DetachedLife time.Duration
}

// Stream is a resumable stream: a net.Conn in all but addresses. Safe for concurrent use.
//
// Two goroutines serve an attachment; they end with it, and Done tells when the last has.
type Stream struct {
	header wire.Attach
	o      Options
	opener bool

	writing sync.Mutex // a Write at a time, so that writes do not interleave
	reading sync.Mutex // a Read at a time, for WriteTo and ReadSegment keep order too

	mu        sync.Mutex
	m         *Machine
	att       *attachment // nil while detached
	counter   uint32      // the highest of an attachment that stood or was tried
	since     time.Time   // of the loss; zero while attached
	lostBy    error
	queue     []*Segment // received, unread
	head      int
	readable  sync.Cond // queue, end or deadline changed
	writable  sync.Cond // room, end or deadline changed
	sendable  sync.Cond // Emit may have something, or the attachment ended
	readDL    deadline
	writeDL   deadline
	closed    bool  // Close was called: nothing is read any more
	err       error // what Read (after the queue) and Write return; nothing is read or written any more, but perhaps still delivered
	dropped   bool  // received bytes were: no end of file follows
	failed    bool  // by a broken protocol or a bug: no attachment can mend it
	ended     bool  // endLocked has been: all is over
	overSince time.Time
	timer     *time.Timer
	detached  chan struct{}
	answered  chan struct{} // closed when Attached came, or never will
	isAnswer  bool
	done      chan struct{}
	serving   int // goroutines at work
	doneFired bool
}

// attachment is one tunnel.Stream under a Stream.
type attachment struct {
	tunnel.Stream
	preface []byte // the message that goes first
	gone    bool   // guarded by the Stream's mu: whatever comes from it now is dropped
}

func newStream(a wire.Attach, o Options, opener bool) *Stream {
	if o.SendBuffer == 0 {
		o.SendBuffer = DefaultBuffer
	}
	if o.RecvBuffer == 0 {
		o.RecvBuffer = DefaultBuffer
	}
	s := &Stream{
		header:   a,
		o:        o,
		opener:   opener,
		m:        NewMachine(o.SendBuffer, o.RecvBuffer),
		counter:  a.Counter,
		answered: make(chan struct{}),
		done:     make(chan struct{}),
		detached: make(chan struct{}, 1),
	}
	s.readable.L, s.writable.L, s.sendable.L = &s.mu, &s.mu, &s.mu
	s.readDL.cond, s.writeDL.cond = &s.readable, &s.writable
	return s
}

// ID is the stream's identifier.
func (s *Stream) ID() wire.StreamID { return s.header.ID }

// Header is the Attach that opened the stream.
func (s *Stream) Header() wire.Attach { return s.header }

// Done is closed when the stream is over and all its goroutines have ended.
func (s *Stream) Done() <-chan struct{} { return s.done }

// Detached holds a token each time the stream has come to wait for another attachment: the last was lost, or its Resume failed. It is never
// closed; a stream that is over says so by Done.
func (s *Stream) Detached() <-chan struct{} { return s.detached }

// Attached tells whether the stream has an attachment.
func (s *Stream) Attached() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.att != nil
}

// Answered tells whether the peer has answered the stream's opening, or never will.
func (s *Stream) Answered() bool {
	select {
	case <-s.answered:
		return true
	default:
		return false
	}
}

// DetachedSince is when the attachment was lost, zero while there is one.
func (s *Stream) DetachedSince() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.since
}

// Unacknowledged is how many bytes are kept for the peer.
func (s *Stream) Unacknowledged() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m.Unacknowledged()
}

// Buffered is how many bytes are held in both directions.
func (s *Stream) Buffered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m.Unacknowledged() + s.m.Unread()
}

// Activity is how many bytes were ever moved, in both directions.
func (s *Stream) Activity() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m.Moved()
}

// SetDetachedLife changes Options.DetachedLife, for a stream that is detached too: then it counts from the loss, and for one that was closed from now.
func (s *Stream) SetDetachedLife(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.o.DetachedLife = d
	switch {
	case s.ended, s.err != nil:
	case s.closed:
		s.afterLocked(s.lingerLocked(), s.expireLocked)
	case s.att == nil && d <= 0:
		s.expireLocked()
	case s.att == nil:
		s.awaitLocked(d, s.lostBy)
	}
}

// End ends the stream here and now, without a word to the peer: for one whose peer is known to be gone. Calls return err.
func (s *Stream) End(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLocked(err)
}

// Read returns io.EOF after the peer's CloseWrite, *ResetError after a reset, an error wrapping ErrDetached when the tunnel was lost for
// good; in each case after all bytes that came before.
func (s *Stream) Read(p []byte) (int, error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.waitReadLocked(); err != nil {
		return 0, err
	}
	n := 0
	for n < len(p) && s.head < len(s.queue) {
		f := s.queue[s.head]
		k := copy(p[n:], f.Bytes)
		f.Bytes = f.Bytes[k:]
		n += k
		if len(f.Bytes) == 0 {
			s.popLocked().Release()
		}
	}
	s.consumedLocked(n)
	return n, nil
}

// ReadSegment is Read without a copy: it returns what came as it lies. The caller releases it.
func (s *Stream) ReadSegment() (*Segment, error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.waitReadLocked(); err != nil {
		return nil, err
	}
	f := s.popLocked()
	s.consumedLocked(len(f.Bytes))
	return f, nil
}

// WriteTo writes all that comes to w, for io.Copy.
func (s *Stream) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		f, err := s.ReadSegment()
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		n, err := w.Write(f.Bytes)
		f.Release()
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

func (s *Stream) waitReadLocked() error {
	for s.head == len(s.queue) {
		switch {
		case s.closed:
			return net.ErrClosed
		case s.dropped:
			return s.err
		case s.m.PeerFinished():
			s.m.ConsumeFin()
			s.wakeLocked()
			return io.EOF
		case s.err != nil:
			return s.err
		case s.readDL.passed():
			return os.ErrDeadlineExceeded
		}
		s.readable.Wait()
	}
	if s.readDL.passed() {
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (s *Stream) popLocked() *Segment {
	f := s.queue[s.head]
	s.queue[s.head] = nil
	s.head++
	if s.head == len(s.queue) {
		s.queue, s.head = s.queue[:0], 0
	}
	return f
}

func (s *Stream) consumedLocked(n int) {
	due := s.m.ackDue
	s.m.Consume(n)
	if s.m.ackDue != due {
		s.wakeLocked()
	}
}

// wakeLocked lets the sender look again.
func (s *Stream) wakeLocked() { s.sendable.Signal() }

// Write returns when all of p is in the send buffer; it blocks while that is full of bytes the peer's program has not taken.
func (s *Stream) Write(p []byte) (int, error) { return s.WriteBuffers(p, nil) }

// WriteBuffers writes a and then b, as one write.
func (s *Stream) WriteBuffers(a, b []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	done, total := 0, len(a)+len(b)
	for {
		switch {
		case s.closed, s.m.fin:
			return done, net.ErrClosed
		case s.err != nil:
			return done, s.err
		case s.writeDL.passed():
			return done, os.ErrDeadlineExceeded
		}
		n := s.m.Append(a, total)
		a = a[n:]
		if len(a) == 0 {
			k := s.m.Append(b, len(b))
			b = b[k:]
			n += k
		}
		if n > 0 {
			done += n
			s.wakeLocked()
		}
		if done == total {
			return done, nil
		}
		s.writable.Wait()
	}
}

// ReadFrom writes all of r, for io.Copy: in pieces that fit the frames.
func (s *Stream) ReadFrom(r io.Reader) (int64, error) {
	f := NewSegment()
	defer f.Release()
	buf := f.Bytes[:MaxSend]
	var total int64
	for {
		n, err := r.Read(buf)
		if n > 0 {
			k, werr := s.Write(buf[:n])
			total += int64(k)
			if werr != nil {
				return total, werr
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// CloseWrite ends our direction after what was written: the peer reads io.EOF. Idempotent.
func (s *Stream) CloseWrite() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil && !s.m.fin {
		return s.err
	}
	s.m.Finish()
	s.writable.Broadcast()
	s.wakeLocked()
	return nil
}

// Close ends both directions. It does not wait: what was written is delivered behind it, for at most 15 s or DetachedLife, whichever is
// longer; unread bytes are dropped, and a peer that goes on writing is reset. Idempotent. Done tells the end.
func (s *Stream) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.m.Finish()
	n := s.dropQueueLocked()
	if n > 0 && !s.m.PeerFinished() { // as TCP does: the peer shall know that bytes of its were not read
		s.m.ResetAfterFin(wire.StreamCancelled)
	}
	s.m.ConsumeFin()
	s.readable.Broadcast()
	s.writable.Broadcast()
	switch {
	case s.err != nil, s.att == nil && s.timer != nil: // its time runs
	default:
		s.afterLocked(s.lingerLocked(), s.expireLocked)
	}
	s.wakeLocked()
	return nil
}

func (s *Stream) lingerLocked() time.Duration { return max(linger, s.o.DetachedLife) }

// Reset ends both directions at once; what is unacknowledged may be lost. The peer's calls return *ResetError: if nothing is attached it learns
// so by the next attachment, for which a stream with DetachedLife waits a little longer.
func (s *Stream) Reset(code wire.StreamCode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	if !s.m.Over() { // else the peer has all, or is about to, and nobody is left to send more
		s.m.Reset(code, "")
	}
	s.err = &ResetError{Code: code}
	s.dropped = true
	s.dropQueueLocked()
	if s.att == nil && s.o.DetachedLife <= 0 {
		s.endLocked(s.err)
		return
	}
	s.overLocked()
	s.wakeLocked()
}

// dropQueueLocked drops what was not read, and returns how much.
func (s *Stream) dropQueueLocked() int {
	n := 0
	for s.head < len(s.queue) {
		f := s.popLocked()
		n += len(f.Bytes)
		f.Release()
	}
	s.m.Consume(n)
	return n
}

// afterLocked runs f, with mu held, after d unless another call takes its place.
func (s *Stream) afterLocked(d time.Duration, f func()) {
	s.stopTimerLocked()
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.timer == t {
			f()
		}
	})
	s.timer = t
}

func (s *Stream) stopTimerLocked() {
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
}

// endLocked is the end, for whatever reason: nobody waits any more, and the attachment goes.
func (s *Stream) endLocked(err error) {
	if s.ended {
		return
	}
	s.ended = true
	if s.err == nil {
		s.err = err
	}
	s.stopTimerLocked()
	if a := s.att; a != nil {
		s.detachLocked(a)
		_ = s.discardLocked(a)
	}
	s.m.drop()
	s.answerLocked()
	s.readable.Broadcast()
	s.writable.Broadcast()
	s.sendable.Broadcast()
	s.maybeDoneLocked()
}

func (s *Stream) answerLocked() {
	if !s.isAnswer {
		s.isAnswer = true
		close(s.answered)
	}
}

func (s *Stream) maybeDoneLocked() {
	if s.ended && s.serving == 0 && !s.doneFired {
		s.doneFired = true
		close(s.done)
	}
}

// SetDeadline sets both deadlines, as in net.Conn.
func (s *Stream) SetDeadline(t time.Time) error {
	_ = s.SetReadDeadline(t)
	return s.SetWriteDeadline(t)
}

// SetReadDeadline is that of net.Conn.
func (s *Stream) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readDL.set(&s.mu, t)
	return nil
}

// SetWriteDeadline is that of net.Conn.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writeDL.set(&s.mu, t)
	return nil
}

// deadline wakes those who wait on cond when it passes.
type deadline struct {
	at    time.Time
	timer *time.Timer
	cond  *sync.Cond
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *deadline) set(mu *sync.Mutex, t time.Time) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = t
	d.cond.Broadcast()
	if t.IsZero() || d.passed() {
		return
	}
	d.timer = time.AfterFunc(time.Until(t), func() {
		mu.Lock()
		defer mu.Unlock()
		d.cond.Broadcast()
	})
}
