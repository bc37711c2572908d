package resume

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// serveLocked starts the two goroutines of an attachment. preface goes before all frames; br, when not nil, reads att behind its Attached.
func (s *Stream) serveLocked(att tunnel.Stream, preface []byte, br *bufio.Reader) {
	switch {
	case s.err != nil: // it has lastWords, and no more
	case s.closed:
		s.afterLocked(s.lingerLocked(), s.expireLocked)
	default:
		s.stopTimerLocked()
	}
	a := &attachment{Stream: att, preface: preface}
	s.att = a
	s.since = time.Time{}
	s.serving += 2
	expect := s.opener && br == nil
	if br == nil {
		br = bufio.NewReaderSize(att, readBuffer)
	}
	go s.send(a)
	go s.receive(a, br, expect)
}

// left is called last by each goroutine of the stream.
func (s *Stream) left() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serving--
	s.maybeDoneLocked()
}

// detachLocked takes a out of service.
func (s *Stream) detachLocked(a *attachment) {
	a.gone = true
	if s.att == a {
		s.att = nil
		s.m.Detach()
	}
	s.sendable.Broadcast()
}

// awaitLocked gives another attachment its time to come: to a stream that is over, so that its peer learns of it, lastWords.
func (s *Stream) awaitLocked(life time.Duration, cause error) {
	if s.since.IsZero() {
		s.since = time.Now()
	}
	s.lostBy = cause
	switch {
	case s.m.Over() || s.err != nil:
		s.overLocked()
	case s.closed: // the time that Close gave it runs
	default:
		s.afterLocked(life-time.Since(s.since), s.expireLocked)
	}
}

// expireLocked ends a stream that waited in vain.
func (s *Stream) expireLocked() {
	if s.closed || s.m.fin && s.m.PeerFinished() {
		s.endLocked(net.ErrClosed)
		return
	}
	s.endLocked(fmt.Errorf("%w: %w", ErrDetached, s.lostBy))
}

// signalLocked says that the stream waits for another attachment, if it does.
func (s *Stream) signalLocked() {
	if s.ended || s.att != nil {
		return
	}
	select {
	case s.detached <- struct{}{}:
	default:
	}
}

// lost is called when a fails: the stream ends, or waits for another attachment.
func (s *Stream) lost(a *attachment, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.gone {
		return
	}
	s.detachLocked(a)
	_ = s.discardLocked(a)
	switch {
	case s.m.PeerReset() != nil, s.m.Over() && told(cause):
		s.endLocked(s.overErrLocked())
	case s.o.DetachedLife <= 0, s.failed:
		if s.m.Over() {
			s.endLocked(s.overErrLocked())
			return
		}
		s.endLocked(fmt.Errorf("%w: %w", ErrDetached, cause))
	default:
		s.awaitLocked(s.o.DetachedLife, cause)
		s.signalLocked()
	}
}

// told tells whether an attachment's end shows that the peer took what came before: it closed the attachment, and did not reset it, as also
// a hub between the two can.
func told(cause error) bool {
	e, ok := errors.AsType[*tunnel.StreamError](cause)
	return cause == io.EOF || ok && e.Remote && e.Code == wire.StreamOK
}

// fail ends the stream because the peer broke the protocol, or refused.
func (s *Stream) fail(a *attachment, err error, tell bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.gone {
		return
	}
	if s.err == nil {
		s.err = err
	}
	s.failed = true
	if tell {
		s.m.Reset(wire.StreamProtocol, "")
		s.afterLocked(resetWait, func() { s.endLocked(err) })
		s.readable.Broadcast()
		s.writable.Broadcast()
		s.wakeLocked()
		return
	}
	s.endLocked(err)
}

// overLocked makes a stream end that is over here, but for what its peer may not know yet: readers and writers are told at once, and
// the peer has a bounded time to end the attachment, and with DetachedLife to come for it on another.
func (s *Stream) overLocked() {
	if s.err == nil {
		s.err = s.overErrLocked()
	}
	s.answerLocked()
	s.readable.Broadcast()
	s.writable.Broadcast()
	if s.overSince.IsZero() {
		s.overSince = time.Now()
		wait := resetWait
		if !s.failed {
			wait = max(wait, min(lastWords, s.o.DetachedLife))
		}
		s.afterLocked(wait, func() { s.endLocked(s.err) })
	}
}

// overErrLocked is the error of a stream whose Machine is over.
func (s *Stream) overErrLocked() error {
	if e := s.m.PeerReset(); e != nil {
		return e
	}
	return net.ErrClosed
}

// send writes what the Machine emits, until the stream is over or the attachment gone.
func (s *Stream) send(a *attachment) {
	defer s.left()
	defer s.recovered(a)
	buf := append(make([]byte, 0, idleBuffer), a.preface...)
	a.preface = nil
	for {
		out, big, over, ok := s.next(a, buf)
		if !ok {
			return
		}
		buf = out
		if err := s.put(a, buf, big); err != nil {
			if told(err) {
				// The peer closed the attachment: what it said before, such as a refusal, is still to be read, and then its end.
				_ = a.SetReadDeadline(time.Now().Add(attachWait))
				return
			}
			s.lost(a, err)
			return
		}
		if over {
			s.finish(a)
			return
		}
		if cap(buf) < sendBuffer && len(buf) > idleBuffer/2 {
			buf = make([]byte, 0, sendBuffer)
		}
		buf = buf[:0]
	}
}

// next waits for something to write to a, behind what is in buf. Not ok: a is gone.
func (s *Stream) next(a *attachment, buf []byte) (out []byte, big *Frame, over, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if a.gone {
			return nil, nil, false, false
		}
		if buf, big = s.m.Emit(buf); len(buf) > 0 || big != nil || s.m.Over() {
			return buf, big, s.m.Over(), true
		}
		if cap(buf) > idleBuffer { // an idle stream holds little
			buf = make([]byte, 0, idleBuffer)
		}
		s.sendable.Wait()
	}
}

func (s *Stream) put(a *attachment, buf []byte, big *Frame) (err error) {
	if big != nil {
		defer func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			big.sent()
		}()
	}
	if len(buf) > 0 {
		_, err = a.Write(buf)
	}
	if err == nil && big != nil {
		_, err = a.Write(big.Bytes)
	}
	return err
}

// recovered is deferred by both goroutines: a bug met by one peer's bytes must not end the others' sessions. The Machine may be in any state, so
// another takes its place that has nothing to say.
func (s *Stream) recovered(a *attachment) {
	if v := recover(); v != nil {
		err := fmt.Errorf("%w: panic: %v", ErrProtocol, v)
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.ended && !a.gone {
			s.m = NewMachine(0, 0)
			s.failed = true
			s.endLocked(err)
		}
	}
}

// finish ends an attachment whose stream is over for us. The peer may still be reading: a carrier's Close delivers what was written, and
// its receiver, which waits for the peer's end, gets a bounded time.
func (s *Stream) finish(a *attachment) {
	s.mu.Lock()
	gone := a.gone
	if !gone {
		s.overLocked()
	}
	s.mu.Unlock()
	if !gone {
		_ = a.CloseWrite()
	}
}

// receive reads frames until the attachment ends.
func (s *Stream) receive(a *attachment, br *bufio.Reader, expectAttached bool) {
	defer s.left()
	defer s.recovered(a)
	if expectAttached {
		if !s.readAttached(a, br) {
			return
		}
	}
	for {
		var h [frameHeader]byte
		if _, err := io.ReadFull(br, h[:]); err != nil {
			s.lost(a, err)
			return
		}
		t, n, err := ParseHeader(h)
		if err != nil {
			s.fail(a, err, true)
			return
		}
		var ok bool
		if t == FrameData || t == FrameDataAsk {
			ok = s.receiveData(a, br, n, t == FrameDataAsk)
		} else {
			ok = s.receiveControl(a, br, t, n)
		}
		if !ok {
			return
		}
	}
}

func (s *Stream) readAttached(a *attachment, br *bufio.Reader) bool {
	msg, err := readMessage(br)
	if err != nil {
		s.lost(a, err)
		return false
	}
	m, err := wire.DecodeAttached(msg)
	if err != nil {
		s.fail(a, fmt.Errorf("%w: %w", ErrProtocol, err), true)
		return false
	}
	if m.Code != wire.StreamOK {
		s.fail(a, &RefusedError{m.Code, m.Message}, false)
		return false
	}
	s.mu.Lock()
	s.answerLocked()
	s.mu.Unlock()
	return true
}

func (s *Stream) receiveData(a *attachment, br *bufio.Reader, n int, ask bool) bool {
	var f *Segment
	if n > coalesce {
		f = NewSegment()
		f.Bytes = f.Bytes[:n]
	} else {
		f = newSmallSegment(coalesce)
		f.Bytes = f.Bytes[:n]
	}
	if _, err := io.ReadFull(br, f.Bytes); err != nil {
		f.Release()
		s.lost(a, err)
		return false
	}
	ok, err := s.take(a, f, ask)
	if err != nil {
		s.fail(a, err, true)
	}
	return ok
}

// take gives a DATA frame's bytes to the reader.
func (s *Stream) take(a *attachment, f *Segment, ask bool) (ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.gone {
		f.Release()
		return false, nil
	}
	n := len(f.Bytes)
	if err := s.m.Data(n, ask); err != nil {
		f.Release()
		return false, err
	}
	if s.closed || s.err != nil {
		f.Release()
		s.m.Consume(n)
		s.m.ResetAfterFin(wire.StreamCancelled)
		s.wakeLocked()
		return true, nil
	}
	s.pushLocked(f)
	return true, nil
}

// pushLocked queues f, into the last segment's free space if f is short.
func (s *Stream) pushLocked(f *Segment) {
	if k := len(s.queue); k > s.head && len(f.Bytes) <= MaxBody/2 { // so that no peer's choice of lengths costs more than twice the bytes
		last := s.queue[k-1]
		if cap(last.Bytes)-len(last.Bytes) >= len(f.Bytes) {
			last.Bytes = append(last.Bytes, f.Bytes...)
			f.Release()
			s.readable.Signal()
			return
		}
	}
	s.queue = append(s.queue, f)
	s.readable.Signal()
}

func (s *Stream) receiveControl(a *attachment, br *bufio.Reader, t FrameType, n int) bool {
	var b [4 + maxText]byte
	body := b[:n]
	if _, err := io.ReadFull(br, body); err != nil {
		s.lost(a, err)
		return false
	}
	ok, err := s.control(a, t, body)
	if err != nil {
		s.fail(a, err, true)
	}
	return ok
}

func (s *Stream) control(a *attachment, t FrameType, body []byte) (ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.gone {
		return false, nil
	}
	if err := s.m.Control(t, body); err != nil {
		return false, err
	}
	if reset := s.m.PeerReset(); reset != nil {
		s.endLocked(reset)
		return false, nil
	}
	if t == FrameFin {
		if s.closed {
			s.m.ConsumeFin()
		}
		s.readable.Broadcast()
	} else {
		s.writable.Broadcast()
	}
	s.wakeLocked()
	return true, nil
}
