package resume

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

var errReplaced = errors.New("its replacement failed")

// RefusedError is the peer's answer to a stream it does not serve.
type RefusedError struct {
	Code    wire.StreamCode
	Message string // by the peer, so to be quoted: Error does
}

func (e *RefusedError) Error() string {
	if e.Message == "" {
		return "stream refused: " + e.Code.String()
	}
	return fmt.Sprintf("stream refused: %s: %s", e.Code, wire.Quote(e.Message, 1024))
}

// Open begins a stream on att, at once: Attach and what is written leave without waiting for the answer. a's Counter, Sent and Received
// are 0. A refusal shows in WaitAttached, and in Read and Write.
func Open(att tunnel.Stream, a wire.Attach, o Options) *Stream {
	a.Counter, a.Sent, a.Received = 0, 0, 0
	s := newStream(a, o, true)
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.m.Attach(0, 0) // at offset 0 always right
	s.serveLocked(att, a.Append(nil), nil)
	return s
}

// WaitAttached waits for the peer's answer. It returns *RefusedError when that is a refusal, and the stream's error if it ended before.
func (s *Stream) WaitAttached(ctx context.Context) error {
	select {
	case <-s.answered:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if refused, ok := errors.AsType[*RefusedError](s.err); ok {
		return refused
	}
	if s.isAnswer && s.err != nil && !s.m.PeerFinished() {
		return s.err
	}
	return nil
}

// ReadAttach reads the first message of att. The caller goes on with Accept, Reattach or Refuse; after an error it closes att.
func ReadAttach(ctx context.Context, att tunnel.Stream) (wire.Attach, error) {
	if err := att.SetReadDeadline(time.Now().Add(attachWait)); err != nil {
		return wire.Attach{}, fmt.Errorf("read attach: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = att.SetReadDeadline(time.Unix(1, 0)) })
	msg, err := readMessage(att)
	if !stop() {
		return wire.Attach{}, fmt.Errorf("read attach: %w", context.Cause(ctx))
	}
	if err != nil {
		return wire.Attach{}, fmt.Errorf("read attach: %w", err)
	}
	if err := att.SetReadDeadline(time.Time{}); err != nil {
		return wire.Attach{}, fmt.Errorf("read attach: %w", err)
	}
	a, err := wire.DecodeAttach(msg)
	if err != nil {
		return wire.Attach{}, fmt.Errorf("read attach: %w", err)
	}
	return a, nil
}

// readMessage reads one wire message of at most MaxAttach bytes and nothing behind it.
func readMessage(r io.Reader) ([]byte, error) {
	var h [wire.HeaderLen]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(h[2:])
	if n > wire.MaxAttach-wire.HeaderLen {
		return nil, fmt.Errorf("%w: first message of %d bytes", ErrProtocol, n)
	}
	msg := make([]byte, wire.HeaderLen+n)
	copy(msg, h[:])
	if _, err := io.ReadFull(r, msg[wire.HeaderLen:]); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return msg, nil
}

// Accept takes the stream that a, read from att by ReadAttach, opens. After an error att is the caller's to Refuse.
func Accept(att tunnel.Stream, a wire.Attach, o Options) (*Stream, error) {
	if a.Counter != 0 || a.Sent != 0 || a.Received != 0 {
		return nil, fmt.Errorf("%w: attach of counter %d at offsets %d and %d opens nothing", ErrProtocol, a.Counter, a.Sent, a.Received)
	}
	s := newStream(a, o, false)
	s.answerLocked()
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.m.Attach(0, 0)
	s.serveLocked(att, wire.Attached{}.Append(nil), nil)
	return s, nil
}

// Refuse answers the Attach read from att with code and a message for a person, and closes att.
func Refuse(att tunnel.Stream, code wire.StreamCode, msg string) {
	if code == wire.StreamOK {
		code = wire.StreamRefused
	}
	_ = att.SetWriteDeadline(time.Now().Add(resetWait))
	_, _ = att.Write(wire.Attached{Code: code, Message: msg[:min(len(msg), 1024)]}.Append(nil))
	_ = att.CloseWrite()
	_ = att.Close()
}

// Reattach goes on with an accepted stream on att, whose Attach was a. The attachment before, if it still stands, goes. After an error
// the stream waits for another attachment, and att is the caller's to Refuse.
func (s *Stream) Reattach(att tunnel.Stream, a wire.Attach) error {
	if err := s.makeWay(a.Counter); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.takeLocked(a.Counter); err != nil {
		return err
	}
	_, received := s.m.Position()
	if err := s.m.Attach(a.Sent, a.Received); err != nil {
		return err
	}
	s.serveLocked(att, wire.Attached{Received: received}.Append(nil), nil)
	return nil
}

// Resume goes on with an opened stream on att, a fresh stream of any tunnel to the same edge. It waits for the peer's answer. After
// an error att is closed and the stream waits for another attachment.
func (s *Stream) Resume(att tunnel.Stream) error {
	s.mu.Lock()
	counter := s.counter + 1
	s.mu.Unlock()
	err := s.makeWay(counter)
	if err == nil {
		err = s.resume(att, counter)
	}
	if err != nil {
		att.Reset(wire.StreamCancelled)
		_ = att.Close()
		return fmt.Errorf("resume stream: %w", err)
	}
	return nil
}

func (s *Stream) resume(att tunnel.Stream, counter uint32) error {
	s.mu.Lock()
	a := s.header
	a.Open = nil
	a.Counter = counter
	a.Sent, a.Received = s.m.Position()
	s.mu.Unlock()
	_ = att.SetDeadline(time.Now().Add(attachWait))
	if _, err := att.Write(a.Append(nil)); err != nil {
		return err
	}
	msg, err := readMessage(att)
	if err != nil {
		return err
	}
	attached, err := wire.DecodeAttached(msg)
	if err != nil {
		return err
	}
	if attached.Code != wire.StreamOK {
		return &RefusedError{attached.Code, attached.Message}
	}
	_ = att.SetDeadline(time.Time{})
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.takeLocked(counter); err != nil {
		return err
	}
	// Attached does not say what the edge has sent; a frame too many or too few would be its own protocol error.
	if err := s.m.Attach(a.Received, attached.Received); err != nil {
		return err
	}
	s.answerLocked()
	s.serveLocked(att, nil, bufio.NewReaderSize(att, readBuffer))
	return nil
}

// makeWay ends the present attachment if counter is above its own, and waits for its goroutines: two must not feed one Machine.
func (s *Stream) makeWay(counter uint32) error {
	s.mu.Lock()
	if counter <= s.counter {
		s.mu.Unlock()
		return ErrStale
	}
	old := s.att
	if old != nil {
		s.detachLocked(old)
		s.awaitLocked(max(s.o.DetachedLife, 2*attachWait), errReplaced)
	}
	last := s.last
	s.mu.Unlock()
	if old != nil {
		old.Reset(wire.StreamCancelled)
		_ = old.Close()
	}
	last.wg.Wait()
	return nil
}

// takeLocked claims the place of the next attachment.
func (s *Stream) takeLocked(counter uint32) error {
	switch {
	case s.err != nil:
		return s.err
	case counter <= s.counter || s.att != nil:
		return ErrStale
	}
	s.counter = counter
	return nil
}
