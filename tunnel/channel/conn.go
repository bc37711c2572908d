package channel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	"hawser/tunnel/resume"
)

// Options of a Conn.
type Options struct {
	// Window is the receive window for data, and another of the same size for stderr: bytes, 0 means DefaultWindow. It bounds what
	// the Conn buffers for a reader that is slow.
	Window uint32
	// PeerWindow is the peer's Window as both sides know it beforehand: bytes, 0 means DefaultWindow.
	PeerWindow uint32
	// Tag, where set, is asked for a byte to send with each WINDOW_ADJUST: what the program did with the input that it last read. So that it can
	// know, input is acknowledged as Read is entered again, after the peer's EOF too; while Tag returns other than 0, however little it was.
	// Called without locks held.
	Tag func() byte
	// OnTag, where set, is called with each WINDOW_ADJUST: the peer's program took n bytes of data, and the peer's tag. Called by the goroutine
	// that reads the stream; it must not block nor call the Conn.
	OnTag func(n uint32, tag byte)
	// Witness, where set, is told what this end took and gave.
	Witness Witness
	// Drain makes Close wait for the peer's CLOSE with the readers still at work, so that what the peer sent before it is not lost. Whoever sets it
	// reads to the end.
	Drain bool
}

// Witness is told what passed at this end of a channel, each kind in the order of the wire. Its methods are called with locks held: they do not
// block, nor call the Conn.
type Witness interface {
	// Sent is told of data or stderr that was sent.
	Sent(stderr bool, b []byte)
	// Requested is told of a request that was sent, or that came.
	Requested(sent bool, name string, payload []byte)
	// Acknowledged is told of a WINDOW_ADJUST for n bytes of data.
	Acknowledged(n uint32, tag byte)
	// Last makes the request that is sent right before CLOSE. All that was taken under tag 0 is acknowledged by then.
	Last() (name string, payload []byte)
}

const messageHeader = 5

// The types of messages: RFC 4250, section 4.1.2.
const (
	msgWindowAdjust = 93
	msgData         = 94
	msgExtendedData = 95
	msgEOF          = 96
	msgClose        = 97
	msgRequest      = 98
	msgSuccess      = 99
	msgFailure      = 100
)

// Conn is a Channel on one reliable byte stream. Safe for concurrent use.
//
// Its reader takes messages from the stream as they come, whatever the program reads, within the windows; only a full Requests queue
// stops it. Writes block while the peer's window is closed; requests, EOF and CLOSE do not wait for windows.
type Conn struct {
	rw   io.ReadWriteCloser
	tag  func() byte
	tagf func(uint32, byte)
	wit  Witness

	drain bool

	requests chan *Request
	done     chan struct{} // closed when the reader has ended
	closing  chan struct{} // closed when Close was called or the channel failed: nobody waits for this Conn any more
	closed   sync.Once
	finished chan struct{} // closed when Close has done its work

	wmu sync.Mutex // one message at a time; orders messages with the queues below

	mu        sync.Mutex
	in        [2]inbox  // data, stderr; each wakes its own readers
	writable  sync.Cond // out, sentEOF, sentClose or err changed
	out       [2]int64  // the peer's windows
	sentEOF   bool
	sentClose bool
	err       error       // why the channel ended, nil while it lives; io.EOF after a CLOSE
	waiting   []chan bool // requests of ours that await a reply, oldest first
	answers   []*answer   // requests of theirs that we owe a reply, oldest first
}

type answer struct{ given, ok bool }

// The two flows.
const (
	flowData = iota
	flowStderr
)

// New begins a channel on rw and starts its reader. Close ends it, waits for it and closes rw.
//
// If rw has the methods ReadSegment and WriteBuffers of *resume.Stream, they are used to save copies.
func New(rw io.ReadWriteCloser, o Options) *Conn {
	if o.Window == 0 {
		o.Window = DefaultWindow
	}
	if o.PeerWindow == 0 {
		o.PeerWindow = DefaultWindow
	}
	c := &Conn{
		rw:       rw,
		tag:      o.Tag,
		tagf:     o.OnTag,
		wit:      o.Witness,
		drain:    o.Drain,
		requests: make(chan *Request, requestQueue),
		done:     make(chan struct{}),
		closing:  make(chan struct{}),
		finished: make(chan struct{}),
	}
	c.writable.L = &c.mu
	for i := range c.in {
		c.in[i].readable.L = &c.mu
		c.in[i].window, c.in[i].full = int64(o.Window), int64(o.Window)
		c.out[i] = int64(o.PeerWindow)
	}
	go c.readLoop()
	return c
}

// Read returns the peer's data. It returns io.EOF after EOF or CLOSE, and the reason when the stream broke before.
func (c *Conn) Read(p []byte) (int, error) { return c.read(flowData, p) }

// StderrReader reads the peer's extended data, with a window of its own: unread, it stops the peer's Stderr and nothing else.
func (c *Conn) StderrReader() io.Reader { return stderrReader{c} }

type stderrReader struct{ c *Conn }

func (r stderrReader) Read(p []byte) (int, error)         { return r.c.read(flowStderr, p) }
func (r stderrReader) WriteTo(w io.Writer) (int64, error) { return r.c.writeTo(flowStderr, w) }

// WriteTo writes the peer's data to w until EOF, for io.Copy.
func (c *Conn) WriteTo(w io.Writer) (int64, error) { return c.writeTo(flowData, w) }

func (c *Conn) read(flow int, p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if c.tag != nil {
		c.giveBack(flow, 0)
	}
	c.mu.Lock()
	x := &c.in[flow]
	if err := c.waitLocked(x); err != nil {
		c.mu.Unlock()
		return 0, err
	}
	n := x.read(p)
	c.mu.Unlock()
	if c.tag == nil {
		c.giveBack(flow, 0)
	}
	return n, nil
}

func (c *Conn) writeTo(flow int, w io.Writer) (int64, error) {
	var total int64
	for {
		c.mu.Lock()
		x := &c.in[flow]
		if err := c.waitLocked(x); err != nil {
			c.mu.Unlock()
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return total, err
		}
		f := x.next()
		c.mu.Unlock()
		c.giveBack(flow, 0)
		n, err := w.Write(f.b)
		if f.seg != nil {
			f.seg.Release()
		}
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

func (c *Conn) waitLocked(x *inbox) error {
	for x.empty() {
		if x.err != nil {
			return x.err
		}
		x.readable.Wait()
	}
	return nil
}

// Acknowledge sends WINDOW_ADJUST, with the tag of now, for what was read but its last rest bytes: those have the tag of the next Read.
func (c *Conn) Acknowledge(rest int) { c.giveBack(flowData, rest) }

// giveBack sends WINDOW_ADJUST when enough was read, but for rest bytes of it. An error here is the stream's, and others will see it.
func (c *Conn) giveBack(flow, rest int) {
	var tag byte
	if c.tag != nil {
		tag = c.tag()
	}
	// wmu before mu, so that window figures leave in the order in which they were taken.
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.mu.Lock()
	dead := c.sentClose
	n := uint32(0)
	if !dead {
		n = c.in[flow].adjust(flow == flowData && tag != 0, c.tag != nil, rest)
	}
	c.mu.Unlock()
	if n != 0 {
		c.adjustHeld(flow, n, tag)
	}
}

// adjustHeld sends WINDOW_ADJUST; wmu is held.
func (c *Conn) adjustHeld(flow int, n uint32, tag byte) {
	if c.wit != nil && flow == flowData {
		c.wit.Acknowledged(n, tag)
	}
	var m [messageHeader + 9]byte
	header(m[:], msgWindowAdjust, 9)
	binary.BigEndian.PutUint32(m[messageHeader+4*flow:], n)
	m[messageHeader+8] = tag
	_, _ = c.rw.Write(m[:])
}

// Write sends data. It returns when all is in the stream's buffer, blocking while the peer's window is closed.
func (c *Conn) Write(p []byte) (int, error) { return c.write(flowData, msgData, p) }

// Stderr returns the writer of extended data.
func (c *Conn) Stderr() io.Writer { return stderrWriter{c} }

type stderrWriter struct{ c *Conn }

func (w stderrWriter) Write(p []byte) (int, error) { return w.c.write(flowStderr, msgExtendedData, p) }

func (c *Conn) write(flow int, typ byte, p []byte) (int, error) {
	total := 0
	for len(p) > 0 {
		n, err := c.reserve(flow, min(len(p), MaxData))
		if err != nil {
			return total, err
		}
		if err := c.send(typ, p[:n]); err != nil {
			return total, err
		}
		total += n
		p = p[n:]
	}
	return total, nil
}

// reserve takes up to n bytes of the peer's window, waiting for at least one.
func (c *Conn) reserve(flow, n int) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.err != nil:
			return 0, c.writeErrLocked()
		case c.sentClose, c.sentEOF:
			return 0, ErrClosed
		case c.out[flow] > 0:
			n = int(min(int64(n), c.out[flow]))
			c.out[flow] -= int64(n)
			return n, nil
		}
		c.writable.Wait()
	}
}

// writeErrLocked is c.err as a writer sees it: the peer's orderly CLOSE is ErrClosed.
func (c *Conn) writeErrLocked() error {
	if c.err == io.EOF {
		return ErrClosed
	}
	return c.err
}

// ReadFrom sends all of r as data, for io.Copy: with a buffer that fits the frames.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	s := resume.NewSegment()
	defer s.Release()
	buf := s.Bytes[:MaxData]
	var total int64
	for {
		n, err := r.Read(buf)
		if n > 0 {
			k, werr := c.Write(buf[:n])
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

// CloseWrite sends EOF. Idempotent.
func (c *Conn) CloseWrite() error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.mu.Lock()
	skip := c.sentEOF || c.sentClose
	c.sentEOF = true
	c.writable.Broadcast()
	c.mu.Unlock()
	if skip {
		return nil
	}
	return c.sendHeld(msgEOF, nil)
}

// SendRequest sends a request. With wantReply it waits for the reply; the replies come in the order of the requests. It returns ErrClosed
// when the channel ends before the reply.
func (c *Conn) SendRequest(name string, wantReply bool, payload []byte) (bool, error) {
	reply, err := c.request(name, wantReply, payload)
	if err != nil || !wantReply {
		return false, err
	}
	ok, answered := <-reply
	if !answered {
		return false, ErrClosed
	}
	return ok, nil
}

// StartRequest sends a request that wants a reply and does not wait for it, so that several travel in one flight: the reply comes on the
// channel returned, which is closed without one when this channel ends first.
func (c *Conn) StartRequest(name string, payload []byte) (<-chan bool, error) {
	return c.request(name, true, payload)
}

func (c *Conn) request(name string, wantReply bool, payload []byte) (<-chan bool, error) {
	if len(name) == 0 || len(name) > maxName {
		return nil, fmt.Errorf("request name of %d bytes: %w", len(name), ErrProtocol)
	}
	if len(payload) > MaxRequest {
		return nil, fmt.Errorf("request payload of %d bytes: %w", len(payload), ErrProtocol)
	}
	m := make([]byte, 2, 2+len(name)+len(payload))
	if wantReply {
		m[0] = 1
	}
	m[1] = byte(len(name))
	m = append(append(m, name...), payload...)

	var reply chan bool
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.mu.Lock()
	if c.err != nil || c.sentClose {
		err := c.writeErrLocked()
		c.mu.Unlock()
		if err == nil {
			err = ErrClosed
		}
		return nil, err
	}
	if wantReply {
		reply = make(chan bool, 1)
		c.waiting = append(c.waiting, reply)
	}
	c.mu.Unlock()
	if err := c.sendHeld(msgRequest, m); err != nil {
		return nil, err
	}
	if c.wit != nil {
		c.wit.Requested(true, name, payload)
	}
	return reply, nil
}

// Requests delivers the peer's requests; closed when the channel has ended.
func (c *Conn) Requests() <-chan *Request { return c.requests }

// Done is closed when nothing more will come from the peer: it sent CLOSE, or the stream broke.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err tells how the channel ended: nil before the end and after an orderly CLOSE, else the reason.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == io.EOF {
		return nil
	}
	return c.err
}

// Close sends CLOSE, waits up to 5 s for the peer's, closes the stream and waits for the reader. What is unread is dropped. Idempotent;
// each call returns when the channel is closed.
func (c *Conn) Close() error {
	first := false
	c.closed.Do(func() { first = true })
	if !first {
		<-c.finished
		return nil
	}
	defer close(c.finished)
	give := func() { // it frees a reader that waits on a full Requests queue
		close(c.closing)
		c.mu.Lock()
		c.in[flowData].discard(ErrClosed)
		c.in[flowStderr].discard(ErrClosed)
		c.mu.Unlock()
	}
	gave := make(chan struct{})
	timer := time.AfterFunc(closeWait, func() {
		defer close(gave)
		_ = c.rw.Close()
		if c.drain {
			give()
		}
	})
	err := c.sendClose()
	if !c.drain {
		give()
	}
	<-c.done // without a CLOSE from the peer, the timer ends it
	if !timer.Stop() {
		<-gave
	} else if c.drain {
		close(c.closing)
	}
	_ = c.rw.Close()
	return err
}

// sendClose sends CLOSE once.
func (c *Conn) sendClose() error {
	c.mu.Lock()
	skip := c.sentClose
	c.sentClose = true // at once, so that those who wait for a window leave
	failed := c.err != nil && c.err != io.EOF
	c.writable.Broadcast()
	c.mu.Unlock()
	if skip || failed {
		return nil
	}
	var tag byte
	if c.tag != nil {
		tag = c.tag()
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if c.wit != nil {
		c.mu.Lock()
		n := c.in[flowData].taken
		c.in[flowData].taken = 0
		c.mu.Unlock()
		if n > 0 && tag == 0 {
			c.adjustHeld(flowData, uint32(n), 0)
		}
		if name, payload := c.wit.Last(); len(payload) <= MaxRequest {
			_ = c.sendHeld(msgRequest, append(append([]byte{0, byte(len(name))}, name...), payload...)) // CLOSE meets the same error
		}
	}
	return c.sendHeld(msgClose, nil)
}

// send writes a message unless CLOSE or, for data, EOF was sent.
func (c *Conn) send(typ byte, body []byte) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.mu.Lock()
	dead := c.sentClose || c.sentEOF
	c.mu.Unlock()
	if dead {
		return ErrClosed
	}
	err := c.sendHeld(typ, body)
	if err == nil && c.wit != nil {
		c.wit.Sent(typ == msgExtendedData, body)
	}
	return err
}

type buffersWriter interface {
	WriteBuffers(a, b []byte) (int, error)
}

// sendHeld writes a message; wmu is held.
func (c *Conn) sendHeld(typ byte, body []byte) error {
	var h [messageHeader]byte
	header(h[:], typ, len(body))
	var err error
	if w, ok := c.rw.(buffersWriter); ok {
		_, err = w.WriteBuffers(h[:], body)
	} else {
		_, err = c.rw.Write(append(h[:], body...))
	}
	if err != nil {
		return fmt.Errorf("write to channel: %w", err)
	}
	return nil
}

func header(b []byte, typ byte, n int) {
	b[0] = typ
	binary.BigEndian.PutUint32(b[1:], uint32(n))
}

// credit adds to a window of the peer's, refusing what would pass 2^32-1 (RFC 4254, section 5.2).
func (c *Conn) creditLocked(flow int, n uint32) bool {
	c.out[flow] += int64(n)
	return c.out[flow] <= math.MaxUint32
}
