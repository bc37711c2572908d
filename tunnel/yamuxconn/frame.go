package yamuxconn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"hawser/tunnel/wire"
)

// frameType is the first byte of an outer frame (PROTOCOL.md, "Outer frames"); a u24 length follows, then the payload.
type frameType uint8

const (
	frameControl    frameType = 1 // one control message
	frameHeartbeat  frameType = 2
	frameClose      frameType = 3 // u16 code, u32 retry-after in ms, reason
	frameMux        frameType = 4 // bytes of the yamux session
	frameMuxStart   frameType = 5 // hub: a new session begins
	frameMuxStop    frameType = 6 // hub: the session has ended, no more of it follows
	frameMuxStopped frameType = 7 // edge: nor from here
	frameStreamEnd  frameType = 8 // u32 yamux stream id, u16 code, u8 what
)

const (
	frameHeaderLen = 4
	maxRecord      = 16384 // bytes of plaintext in a TLS record (RFC 8446, section 5.1)
	maxMux         = maxRecord - frameHeaderLen
	muxHeaderLen   = 12 // of a yamux frame
	// maxChunk is what one Write to a yamux stream carries, so that header and body fill one record and no more.
	maxChunk     = maxMux - muxHeaderLen
	maxReason    = 1024
	streamEndLen = 7
)

// What a frameStreamEnd says about its sender.
const (
	endStop  = 1 << 0 // reads no more
	endAbort = 1 << 1 // what it has sent is void
)

var errFrame = errors.New("malformed outer frame")

// maxLen is the longest payload of a frame type; 0 for types that have none.
func (f frameType) maxLen() int {
	switch f {
	case frameControl:
		return wire.MaxControl
	case frameHeartbeat:
		return wire.MaxHeartbeat
	case frameClose:
		return 6 + maxReason
	case frameMux:
		return maxMux
	case frameStreamEnd:
		return streamEndLen
	case frameMuxStart, frameMuxStop, frameMuxStopped:
		return 0
	}
	// A type of a later version is skipped, but not at any size.
	return wire.MaxControl
}

// parseFrameHeader returns type and payload length of a frame.
func parseFrameHeader(h [frameHeaderLen]byte) (frameType, int, error) {
	f, n := frameType(h[0]), int(h[1])<<16|int(h[2])<<8|int(h[3])
	if n > f.maxLen() {
		return f, 0, fmt.Errorf("%w: type %d with %d bytes, at most %d", errFrame, f, n, f.maxLen())
	}
	return f, n, nil
}

func appendClose(b []byte, e *wire.CloseError) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(e.Code))
	b = binary.BigEndian.AppendUint32(b, uint32(min(max(e.RetryAfter.Milliseconds(), 0), 1<<32-1)))
	return append(b, e.Reason[:min(len(e.Reason), maxReason)]...)
}

func parseClose(b []byte) (*wire.CloseError, error) {
	if len(b) < 6 {
		return nil, fmt.Errorf("%w: a close of %d bytes", errFrame, len(b))
	}
	return &wire.CloseError{
		Code:       wire.CloseCode(binary.BigEndian.Uint16(b)),
		RetryAfter: time.Duration(binary.BigEndian.Uint32(b[2:])) * time.Millisecond,
		Reason:     string(b[6:]),
		Remote:     true,
	}, nil
}

// streamEnd is the payload of frameStreamEnd.
type streamEnd struct {
	id   uint32
	code wire.StreamCode
	what uint8
}

func (e streamEnd) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, e.id)
	b = binary.BigEndian.AppendUint16(b, uint16(e.code))
	return append(b, e.what)
}

func parseStreamEnd(b []byte) (streamEnd, error) {
	if len(b) != streamEndLen {
		return streamEnd{}, fmt.Errorf("%w: a stream end of %d bytes", errFrame, len(b))
	}
	return streamEnd{binary.BigEndian.Uint32(b), wire.StreamCode(binary.BigEndian.Uint16(b[4:])), b[6]}, nil
}

// record is a buffer for one frame; most are one TLS record.
type record struct{ b []byte }

var records = sync.Pool{New: func() any { return &record{make([]byte, 0, maxRecord)} }}

// frameWriter writes whole frames, each with one Write.
type frameWriter struct {
	mu     sync.Mutex
	w      io.Writer
	arm    func()      // sets the write deadline
	failed func(error) // learns of an error, after which nothing can be written
}

// write sends one frame whose payload is a and then b.
func (w *frameWriter) write(f frameType, a, b []byte) error {
	r := records.Get().(*record)
	defer records.Put(r)
	n := len(a) + len(b)
	buf := append(r.b[:0], byte(f), byte(n>>16), byte(n>>8), byte(n))
	buf = append(buf, a...)
	buf = append(buf, b...)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.arm()
	_, err := w.w.Write(buf)
	if err != nil {
		w.failed(err)
	}
	return err
}
