// Package forwarded is what a device tells auth of a connection that was forwarded end to end, past the hub: sealed by auth/seal it goes with the
// tunnel's message Forwarded (PROTOCOL.md, section 6.4).
//
// The edge calls Append, auth Parse. The package is pure.
package forwarded

import (
	"errors"
	"time"

	"hawser/auth/internal/tlv"
)

// Report is one forwarded connection that was opened, or has ended. Encoded it is TLV as a grant is: 1 channel, 2 target, 3 origin, texts; 4 closed,
// 5 bytes in, 6 bytes out, 7 milliseconds, integers, absent when zero.
type Report struct {
	Channel string // as auth/policy names them
	Target  string // host:port or path
	Origin  string
	Closed  bool
	In, Out uint64 // bytes to the target and from it
	Lasted  time.Duration
}

const (
	maxChannel = 32
	maxTarget  = 512
)

// ErrMalformed is a report that Parse does not take.
var ErrMalformed = errors.New("malformed report of a forward")

// MaxSize is the most that Append makes, in bytes.
const MaxSize = 4*3 + maxChannel + 2*maxTarget + 4*(4+8)

// Append encodes r; texts are cut to their bounds.
func (r Report) Append(b []byte) []byte {
	b = tlv.AppendString(b, 1, r.Channel[:min(len(r.Channel), maxChannel)])
	b = tlv.AppendString(b, 2, r.Target[:min(len(r.Target), maxTarget)])
	b = tlv.AppendString(b, 3, r.Origin[:min(len(r.Origin), maxTarget)])
	closed := uint64(0)
	if r.Closed {
		closed = 1
	}
	for tag, v := range [...]uint64{closed, r.In, r.Out, uint64(r.Lasted.Milliseconds())} {
		if v != 0 {
			b = tlv.AppendUint(b, uint8(4+tag), v)
		}
	}
	return b
}

// Parse reads what Append wrote.
func Parse(b []byte) (Report, error) {
	var r Report
	err := tlv.Read(b, func(tag uint8, v []byte) (err error) {
		var n uint64
		switch tag {
		case 1:
			err = tlv.String(&r.Channel, v, maxChannel)
		case 2:
			err = tlv.String(&r.Target, v, maxTarget)
		case 3:
			err = tlv.String(&r.Origin, v, maxTarget)
		case 4:
			n, err = tlv.Uint(v)
			r.Closed = n != 0
		case 5:
			r.In, err = tlv.Uint(v)
		case 6:
			r.Out, err = tlv.Uint(v)
		case 7:
			if n, err = tlv.Uint(v); n > uint64(1<<62)/uint64(time.Millisecond) {
				err = tlv.ErrLength
			}
			r.Lasted = time.Duration(n) * time.Millisecond
		}
		return err
	})
	if err != nil {
		return Report{}, errors.Join(ErrMalformed, err)
	}
	return r, nil
}
