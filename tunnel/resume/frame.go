package resume

import (
	"encoding/binary"
	"errors"
	"fmt"

	"hawser/tunnel/wire"
)

// ErrProtocol is wrapped by every error that means the peer broke the rules of this package.
var ErrProtocol = errors.New("resumable stream: protocol error")

// FrameType is the first byte of a frame.
type FrameType uint8

// The types of frames.
const (
	FrameData    FrameType = 1
	FrameDataAsk FrameType = 2
	FrameAck     FrameType = 3
	FrameFin     FrameType = 4
	FrameReset   FrameType = 5
)

// ParseHeader reads a frame's four bytes of header and checks type and length against each other.
func ParseHeader(h [frameHeader]byte) (FrameType, int, error) {
	t, n := FrameType(h[0]), int(h[1])<<16|int(h[2])<<8|int(h[3])
	ok := false
	switch t {
	case FrameData, FrameDataAsk:
		ok = n >= 1 && n <= MaxBody
	case FrameAck:
		ok = n == ackBody
	case FrameFin:
		ok = n == 0
	case FrameReset:
		ok = n >= 4 && n <= 4+maxText
	}
	if !ok {
		return 0, 0, fmt.Errorf("%w: frame type %d with %d bytes", ErrProtocol, t, n)
	}
	return t, n, nil
}

func appendHeader(b []byte, t FrameType, n int) []byte {
	return append(b, byte(t), byte(n>>16), byte(n>>8), byte(n))
}

func appendAck(b []byte, consumed uint64, window uint32) []byte {
	b = appendHeader(b, FrameAck, ackBody)
	b = binary.BigEndian.AppendUint64(b, consumed)
	return binary.BigEndian.AppendUint32(b, window)
}

// ResetError is why a stream ended for both directions at once.
type ResetError struct {
	Code wire.StreamCode
	Text string // by the peer when Remote, so to be quoted: Error does
	// Remote is true when the peer reset the stream.
	Remote bool
}

func (e *ResetError) Error() string {
	who := "stream reset"
	if e.Remote {
		who = "stream reset by the peer"
	}
	if e.Text == "" {
		return fmt.Sprintf("%s: %s", who, e.Code)
	}
	return fmt.Sprintf("%s: %s: %s", who, e.Code, wire.Quote(e.Text, maxText))
}

func appendReset(b []byte, e *ResetError) []byte {
	text := e.Text[:min(len(e.Text), maxText)]
	b = appendHeader(b, FrameReset, 4+len(text))
	b = binary.BigEndian.AppendUint16(b, uint16(e.Code))
	b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
	return append(b, text...)
}

func parseReset(b []byte) (*ResetError, error) {
	if len(b) < 4 || int(binary.BigEndian.Uint16(b[2:])) != len(b)-4 {
		return nil, fmt.Errorf("%w: RESET of %d bytes", ErrProtocol, len(b))
	}
	return &ResetError{Code: wire.StreamCode(binary.BigEndian.Uint16(b)), Text: string(b[4:]), Remote: true}, nil
}
