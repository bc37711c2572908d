package channel

import (
	"encoding/binary"
	"fmt"
	"io"

	"hawser/tunnel/resume"
)

// source cuts messages out of the stream, by reference where they lie whole in a segment.
type source struct {
	r   io.Reader
	seg *resume.Segment // nil before the first and after an error
	b   []byte          // unread bytes of seg
}

type segmentReader interface {
	ReadSegment() (*resume.Segment, error)
}

// fill makes at least one byte available.
func (s *source) fill() error {
	for len(s.b) == 0 {
		s.release()
		if r, ok := s.r.(segmentReader); ok {
			seg, err := r.ReadSegment()
			if err != nil {
				return err
			}
			s.seg, s.b = seg, seg.Bytes
			continue
		}
		seg := resume.NewSegment()
		n, err := s.r.Read(seg.Bytes)
		if n == 0 {
			seg.Release()
			if err != nil {
				return err
			}
			continue
		}
		s.seg, s.b = seg, seg.Bytes[:n]
	}
	return nil
}

func (s *source) release() {
	if s.seg != nil {
		s.seg.Release()
		s.seg, s.b = nil, nil
	}
}

// full reads len(p) bytes into p.
func (s *source) full(p []byte) error {
	for len(p) > 0 {
		if err := s.fill(); err != nil {
			return err
		}
		n := copy(p, s.b)
		s.b, p = s.b[n:], p[n:]
	}
	return nil
}

// some returns up to n bytes of the segment, valid until the next call.
func (s *source) some(n int) ([]byte, error) {
	if err := s.fill(); err != nil {
		return nil, err
	}
	n = min(n, len(s.b))
	b := s.b[:n]
	s.b = s.b[n:]
	return b, nil
}

// readLoop takes messages until CLOSE or an error, then settles everyone who waits.
func (c *Conn) readLoop() {
	src := &source{r: c.rw}
	err := c.readMessages(src)
	src.release()
	c.mu.Lock()
	c.err = err
	for i := range c.in {
		c.in[i].end(err)
	}
	waiting := c.waiting
	c.waiting = nil
	c.writable.Broadcast()
	c.mu.Unlock()
	for _, w := range waiting {
		close(w)
	}
	close(c.requests)
	if err == io.EOF {
		_ = c.sendClose() // the answer to the peer's CLOSE; nothing is read any more, so it may block
	} else {
		_ = c.rw.Close()
	}
	close(c.done)
}

// readMessages returns io.EOF after CLOSE, else what went wrong.
func (c *Conn) readMessages(src *source) (err error) {
	defer func() {
		if v := recover(); v != nil { // a bug met by one peer's bytes must not end the others' sessions
			err = fmt.Errorf("%w: panic: %v", ErrProtocol, v)
		}
	}()
	for {
		var h [messageHeader]byte
		if err := src.full(h[:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read channel: %w", err)
		}
		done, err := c.message(src, h[0], binary.BigEndian.Uint32(h[1:]))
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read channel: %w", err)
		}
		if done {
			return io.EOF
		}
	}
}

// message handles one message with a body of n bytes; done is true for CLOSE.
func (c *Conn) message(src *source, typ byte, n uint32) (done bool, err error) {
	switch typ {
	case msgData:
		return false, c.gotData(src, flowData, n)
	case msgExtendedData:
		return false, c.gotData(src, flowStderr, n)
	case msgWindowAdjust:
		return false, c.gotAdjust(src, n)
	case msgRequest:
		return false, c.gotRequest(src, n)
	}
	if typ < msgEOF || typ > msgFailure {
		return false, fmt.Errorf("%w: message type %d", ErrProtocol, typ)
	}
	if n != 0 {
		return false, fmt.Errorf("%w: message type %d with %d bytes", ErrProtocol, typ, n)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch typ {
	case msgEOF:
		for i := range c.in {
			c.in[i].end(io.EOF)
		}
	case msgClose:
		return true, nil
	default:
		if len(c.waiting) == 0 {
			return false, fmt.Errorf("%w: reply to no request", ErrProtocol)
		}
		c.waiting[0] <- typ == msgSuccess
		c.waiting = c.waiting[1:]
	}
	return false, nil
}

func (c *Conn) gotData(src *source, flow int, n uint32) error {
	if n == 0 || n > MaxMessageData {
		return fmt.Errorf("%w: data of %d bytes", ErrProtocol, n)
	}
	for left := int(n); left > 0; {
		b, err := src.some(left)
		if err != nil {
			return err
		}
		left -= len(b)
		c.mu.Lock()
		x := &c.in[flow]
		ok := true
		switch x.err {
		case nil:
			ok = x.put(b, src.seg)
		case ErrClosed: // this side has closed and wants no more
		default:
			ok = false
		}
		c.mu.Unlock()
		if !ok {
			return fmt.Errorf("%w: data past the window or EOF", ErrProtocol)
		}
	}
	return nil
}

func (c *Conn) gotAdjust(src *source, n uint32) error {
	var b [9]byte
	if n != uint32(len(b)) {
		return fmt.Errorf("%w: WINDOW_ADJUST of %d bytes", ErrProtocol, n)
	}
	if err := src.full(b[:]); err != nil {
		return err
	}
	data, ext := binary.BigEndian.Uint32(b[:]), binary.BigEndian.Uint32(b[4:])
	c.mu.Lock()
	ok := c.creditLocked(flowData, data) && c.creditLocked(flowStderr, ext)
	c.writable.Broadcast()
	c.mu.Unlock()
	if !ok {
		return fmt.Errorf("%w: window above 2^32-1", ErrProtocol)
	}
	if c.tagf != nil {
		c.tagf(data, b[8])
	}
	return nil
}

func (c *Conn) gotRequest(src *source, n uint32) error {
	var h [2]byte
	if n < 3 || n > 2+maxName+MaxRequest {
		return fmt.Errorf("%w: request of %d bytes", ErrProtocol, n)
	}
	if err := src.full(h[:]); err != nil {
		return err
	}
	name := int(h[1])
	if h[0] > 1 || name == 0 || name > maxName || uint32(name) > n-2 || int(n)-2-name > MaxRequest {
		return fmt.Errorf("%w: request header", ErrProtocol)
	}
	b := make([]byte, n-2)
	if err := src.full(b); err != nil {
		return err
	}
	r := &Request{Type: string(b[:name]), WantReply: h[0] == 1, Payload: b[name:]}
	if r.WantReply {
		a := &answer{}
		r.reply = func(ok bool) error { return c.answer(a, ok) }
		c.mu.Lock()
		c.answers = append(c.answers, a)
		many := len(c.answers) > maxUnanswered
		c.mu.Unlock()
		if many {
			return fmt.Errorf("%w: more than %d requests without a reply", ErrProtocol, maxUnanswered)
		}
	}
	if c.wit != nil {
		c.wit.Requested(false, r.Type, r.Payload)
	}
	select {
	case <-c.closing: // the program is gone; drop it
		return nil
	default:
	}
	select {
	case c.requests <- r:
	case <-c.closing:
	}
	return nil
}

// answer records the reply to one of the peer's requests and sends all replies that are due, in order.
func (c *Conn) answer(a *answer, ok bool) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	a.given, a.ok = true, ok
	for {
		c.mu.Lock()
		if c.sentClose || len(c.answers) == 0 || !c.answers[0].given {
			dead := c.sentClose
			c.mu.Unlock()
			if dead {
				return ErrClosed
			}
			return nil
		}
		first := c.answers[0]
		c.answers = c.answers[1:]
		c.mu.Unlock()
		typ := byte(msgFailure)
		if first.ok {
			typ = msgSuccess
		}
		if err := c.sendHeld(typ, nil); err != nil {
			return err
		}
	}
}
