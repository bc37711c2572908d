package tunnel

import (
	"fmt"
	"io"

	"hawser/tunnel/wire"
)

// ReadMessage reads one whole encoded message, header included, of at most limit bytes from the head of a stream or of a control stream,
// and nothing behind it. It returns io.EOF where no message begins, io.ErrUnexpectedEOF where one is cut, and an error wrapping
// wire.ErrMalformed for one that is too long, of which only the header was read.
func ReadMessage(r io.Reader, limit int) ([]byte, error) {
	var h [wire.HeaderLen]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	n, err := wire.MessageLen(h[:], limit)
	if err != nil {
		return nil, err
	}
	b := make([]byte, n)
	copy(b, h[:])
	if _, err := io.ReadFull(r, b[wire.HeaderLen:]); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("message: %w", err)
	}
	return b, nil
}

// ReceiveFrom is Receive for a control stream: the next control message read from r. A message of a type this version does not know is an
// error wrapping wire.ErrUnknownType, after which the next can be read; after any other error nothing can.
func ReceiveFrom(r io.Reader) (wire.Message, error) {
	b, err := ReadMessage(r, wire.MaxControl)
	if err != nil {
		return nil, err
	}
	return wire.Decode(b)
}
