package resume

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

var (
	errReplaced = errors.New("its replacement failed")
	errBusy     = errors.New("the stream's earlier attachments have not ended yet")
)

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

// readMessage reads the first message of an attachment.
func readMessage(r io.Reader) ([]byte, error) {
	msg, err := tunnel.ReadMessage(r, wire.MaxAttach)
	if errors.Is(err, wire.ErrMalformed) {
		err = fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return msg, err
}

// Accept takes the stream that a, read from att by ReadAttach, opens. After an error att is the caller's to Refuse.
func Accept(att tunnel.Stream, a wire.Attach, o Options) (*Stream, error) {
	if a.Counter != 0 || a.Sent != 0 || a.Received != 0 {
		return nil, fmt.Errorf("%w: attach of counter %d at offsets %d and %d opens nothing", ErrProtocol, a.Counter, a.Sent, a.Received)
	}
	s := newStream(a, o, false)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answerLocked()
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

// CodeOf is what to Refuse an attachment with after an error of Accept or Reattach.
func CodeOf(err error) wire.StreamCode {
	switch {
	case errors.Is(err, errBusy):
		return wire.StreamResourceShortage
	case errors.Is(err, ErrProtocol):
		return wire.StreamProtocol
	}
	return wire.StreamNotFound // the stream has ended
}

// Reattach goes on with an accepted stream on att, whose Attach was a. The attachment before, if it still stands, goes. After ErrStale
// nothing has changed; after another error the stream waits for another attachment, or has ended. In each case att is the caller's to
// Refuse, with CodeOf. It does not block.
func (s *Stream) Reattach(att tunnel.Stream, a wire.Attach) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.claimLocked(a.Counter); err != nil {
		return err
	}
	if err := s.m.Attach(a.Sent, a.Received); err != nil {
		s.signalLocked()
		return err
	}
	sent, received := s.m.Position()
	s.serveLocked(att, wire.Attached{Sent: sent, Received: received}.Append(nil), nil)
	return nil
}

// Resume goes on with an opened stream on att, a fresh stream of any tunnel to the same edge. It waits for the peer's answer, at most
// 20 s. Of several at the same time the one that began last wins. After an error att is closed, and the stream waits for another
// attachment unless Done says otherwise: ErrGone means that the peer has the stream no more, and it has ended here too; where
// both sides had finished before, that is no error.
func (s *Stream) Resume(ctx context.Context, att tunnel.Stream) error {
	err := s.resume(ctx, att)
	if err != nil {
		s.mu.Lock()
		s.signalLocked()
		s.mu.Unlock()
		att.Reset(wire.StreamCancelled)
		_ = att.Close()
		return fmt.Errorf("resume stream: %w", err)
	}
	return nil
}

func (s *Stream) resume(ctx context.Context, att tunnel.Stream) error {
	s.mu.Lock()
	counter := s.counter + 1
	if err := s.claimLocked(counter); err != nil {
		s.mu.Unlock()
		return err
	}
	a := s.header
	a.Open = nil
	a.Counter = counter
	a.Sent, a.Received = s.m.Position() // both stand still while nothing is attached
	s.mu.Unlock()

	attached, err := exchange(ctx, att, a)
	if err != nil {
		return err
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.claimedLocked(counter); err != nil {
		return err
	}
	switch attached.Code {
	case wire.StreamOK:
	case wire.StreamNotFound:
		if s.closed || s.m.Over() || s.m.fin && s.m.PeerFinished() {
			_ = s.discardLocked(att)       // first: Done waits for it
			s.endLocked(s.overErrLocked()) // only its last words to us were lost
			return nil
		}
		err := fmt.Errorf("%w: %w", ErrGone, &RefusedError{attached.Code, attached.Message})
		s.endLocked(err)
		return err
	default:
		return &RefusedError{attached.Code, attached.Message}
	}
	if err := s.m.Attach(attached.Sent, attached.Received); err != nil {
		return err
	}
	s.answerLocked()
	s.serveLocked(att, nil, bufio.NewReaderSize(att, readBuffer))
	return nil
}

// exchange writes a and reads the answer.
func exchange(ctx context.Context, att tunnel.Stream, a wire.Attach) (wire.Attached, error) {
	if err := att.SetDeadline(time.Now().Add(attachWait)); err != nil {
		return wire.Attached{}, err
	}
	stop := context.AfterFunc(ctx, func() { _ = att.SetDeadline(time.Unix(1, 0)) })
	m, err := func() (m wire.Attached, err error) {
		if _, err = att.Write(a.Append(nil)); err != nil {
			return m, err
		}
		msg, err := readMessage(att)
		if err != nil {
			return m, err
		}
		return wire.DecodeAttached(msg)
	}()
	if !stop() {
		return m, context.Cause(ctx)
	}
	if err != nil {
		return m, err
	}
	return m, att.SetDeadline(time.Time{})
}

// claimLocked takes the place of the next attachment for counter, if that is above all before: the present one goes. Its goroutines may still
// be in the carrier, where they can block; whatever they come back with is dropped, for the attachment is gone.
func (s *Stream) claimLocked(counter uint32) error {
	switch {
	case s.ended:
		return s.err
	case counter <= s.counter:
		return ErrStale
	case s.serving >= maxServing:
		return errBusy
	}
	s.counter = counter
	if old := s.att; old != nil {
		s.detachLocked(old)
		s.awaitLocked(max(s.o.DetachedLife, 2*attachWait), errReplaced)
		_ = s.discardLocked(old)
	}
	return nil
}

// claimedLocked tells whether a claim still stands when its answer has come.
func (s *Stream) claimedLocked(counter uint32) error {
	switch {
	case s.ended:
		return s.err
	case counter != s.counter:
		return ErrStale // a later one began
	}
	return nil
}

// discardLocked ends att in a goroutine of its own: a carrier may block for a while, and mu is held here.
func (s *Stream) discardLocked(att tunnel.Stream) error {
	clean := s.m.Over()
	s.serving++
	go func() {
		defer s.left()
		defer func() { _ = recover() }() // there is nothing left that it could harm
		if !clean {
			att.Reset(wire.StreamCancelled)
		}
		_ = att.Close()
	}()
	return nil
}
