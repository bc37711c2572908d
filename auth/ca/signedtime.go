package ca

import (
	"fmt"
	"time"

	"hawser/auth/internal/signed"
	"hawser/auth/internal/tlv"
)

const timeContext = "hawser time 1"

// SignTime signs the time: with a nonce for the one edge that asked, without one as a beacon, which is only a lower bound.
//
// It is an envelope (auth/internal/signed) under the context "hawser time 1", at most 1 KiB; the payload is TLV: 1 cluster,
// string ≤ 253; 2 time, integer, Unix milliseconds; 3 nonce, 32 bytes, absent in a beacon.
func (s *Set) SignTime(now time.Time, nonce *[32]byte) []byte {
	b := tlv.AppendString(nil, 1, s.Cluster())
	b = tlv.AppendUint(b, 2, uint64(max(0, min(now.UnixMilli(), maxUnixMilli))))
	if nonce != nil {
		b = tlv.AppendBytes(b, 3, nonce[:])
	}
	return signed.Seal(timeContext, b, s.state().signer(TimeKey, false).key)
}

// OpenTime returns a signed time and its nonce, nil in a beacon. An edge that sent a nonce compares it: with another, or
// none, the time is a lower bound and may be old.
func OpenTime(blob []byte, trust *Trust) (time.Time, *[32]byte, error) {
	if len(blob) > maxTimeBlob {
		return time.Time{}, nil, ErrBadTime
	}
	env, err := signed.Parse(blob)
	if err != nil {
		return time.Time{}, nil, fmt.Errorf("%w: %w", ErrBadTime, err)
	}
	if env.Verify(timeContext, trust.TimeKeys) != nil {
		return time.Time{}, nil, ErrTimeSign
	}
	var cluster string
	var milli uint64
	var nonce *[32]byte
	err = tlv.Read(env.Payload, func(tag uint8, v []byte) (err error) {
		switch tag {
		case 1:
			err = tlv.String(&cluster, v, maxCluster)
		case 2:
			milli, err = tlv.Uint(v)
		case 3:
			nonce = new([32]byte)
			err = tlv.Fixed(nonce[:], v)
		}
		return err
	})
	if err != nil {
		return time.Time{}, nil, fmt.Errorf("%w: %w", ErrBadTime, err)
	}
	if cluster != trust.Cluster {
		return time.Time{}, nil, ErrWrongCluster
	}
	if milli == 0 || milli > maxUnixMilli {
		return time.Time{}, nil, ErrBadTime
	}
	return time.UnixMilli(int64(milli)).UTC(), nonce, nil
}
