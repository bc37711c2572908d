package resume

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// serveLocked starts the two goroutines of an attachment. preface goes before all frames; br, when not nil, reads att behind its Attached.
func (s *Stream) serveLocked(att tunnel.Stream, preface []byte, br *bufio.Reader) {
	if s.timer != nil && !s.closed {
		s.timer.Stop()
		s.timer = nil
	}
	a := &attachment{Stream: att, preface: preface}
	s.att, s.last = a, a
	s.serving += 2
	expect := s.opener && br == nil
	if br == nil {
		br = bufio.NewReaderSize(att, readBuffer)
	}
	a.wg.Go(func() { s.send(a) })
	a.wg.Go(func() { s.receive(a, br, expect) })
}

// left is called last by each goroutine of an attachment.
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

// awaitLocked gives another attachment d to come. A closed stream has its linger already.
func (s *Stream) awaitLocked(d time.Duration, cause error) {
	if !s.closed {
		s.afterLocked(d, func() { s.endLocked(fmt.Errorf("%w: %w", ErrDetached, cause)) })
	}
}

// lost is called when a fails: the stream ends, or waits for another attachment.
func (s *Stream) lost(a *attachment, cause error) {
	s.mu.Lock()
	if !a.gone {
		switch {
		case s.m.Over():
			s.detachLocked(a)
			s.endLocked(s.overErrLocked())
		case s.o.DetachedLife > 0 && s.err == nil:
			s.detachLocked(a)
			s.awaitLocked(s.o.DetachedLife, cause)
		default:
			s.detachLocked(a)
			s.endLocked(fmt.Errorf("%w: %w", ErrDetached, cause))
		}
	}
	s.mu.Unlock()
	a.Reset(wire.StreamCancelled)
	_ = a.Close()
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
		s.mu.Lock()
		var big *Frame
		for {
			if a.gone {
				s.mu.Unlock()
				return
			}
			if buf, big = s.m.Emit(buf); len(buf) > 0 || big != nil || s.m.Over() {
				break
			}
			if cap(buf) > idleBuffer { // an idle stream holds little
				buf = make([]byte, 0, idleBuffer)
			}
			s.sendable.Wait()
		}
		over := s.m.Over()
		s.mu.Unlock()

		err := s.put(a, buf, big)
		if err != nil {
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

func (s *Stream) put(a *attachment, buf []byte, big *Frame) (err error) {
	if len(buf) > 0 {
		_, err = a.Write(buf)
	}
	if big == nil {
		return err
	}
	if err == nil {
		_, err = a.Write(big.Bytes)
	}
	s.mu.Lock()
	s.m.Sent(big)
	s.mu.Unlock()
	return err
}

// recovered is deferred by both goroutines: a bug met by one peer's bytes must not end the others' sessions.
func (s *Stream) recovered(a *attachment) {
	if v := recover(); v != nil {
		s.fail(a, fmt.Errorf("%w: panic: %v", ErrProtocol, v), false)
	}
}

// finish ends an attachment whose stream is over for us. The peer may still be reading: a carrier's Close delivers what was written, and
// its receiver, which waits for the peer's end, gets a bounded time.
func (s *Stream) finish(a *attachment) {
	_ = a.CloseWrite()
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.gone {
		return
	}
	if s.err == nil {
		s.err = s.overErrLocked()
	}
	s.answerLocked()
	s.readable.Broadcast()
	s.writable.Broadcast()
	s.afterLocked(resetWait, func() { s.endLocked(s.err) })
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
	s.mu.Lock()
	if a.gone {
		s.mu.Unlock()
		f.Release()
		return false
	}
	err := s.m.Data(n, ask)
	switch {
	case err != nil:
		f.Release()
	case s.closed || s.err != nil:
		f.Release()
		s.m.Consume(n)
		s.m.ResetAfterFin(wire.StreamCancelled)
		s.wakeLocked()
	default:
		s.pushLocked(f)
	}
	s.mu.Unlock()
	if err != nil {
		s.fail(a, err, true)
		return false
	}
	return true
}

// pushLocked queues f, into the last segment's free space if f is short.
func (s *Stream) pushLocked(f *Segment) {
	if k := len(s.queue); k > s.head && len(f.Bytes) <= coalesce {
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
	s.mu.Lock()
	if a.gone {
		s.mu.Unlock()
		return false
	}
	err := s.m.Control(t, body)
	reset := s.m.PeerReset()
	if err == nil {
		switch {
		case reset != nil:
			if s.err == nil {
				s.err = reset
			}
			s.endLocked(reset)
		case t == FrameFin:
			if s.closed {
				s.m.ConsumeFin()
			}
			s.readable.Broadcast()
		default:
			s.writable.Broadcast()
		}
		s.wakeLocked()
	}
	s.mu.Unlock()
	if err != nil {
		s.fail(a, err, true)
	}
	return err == nil && reset == nil
}
