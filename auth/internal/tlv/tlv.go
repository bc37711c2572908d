// Package tlv is the field encoding shared by the blobs that auth signs: a field is a tag of one byte, a length of
// three bytes (big endian) and that many bytes of value. It is the encoding of tunnel/wire's messages, so that one
// description in PROTOCOL.md serves both.
//
// A reader skips tags it does not know: a newer issuer may add fields. Fields may repeat; order matters only where a
// blob's layout says so. Integers are eight bytes, big endian. Use Append* to write and Read to read.
package tlv

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxValue is the greatest length of one value in bytes: what three bytes of length can say.
const MaxValue = 1<<24 - 1

// Errors of Read and the value decoders.
var (
	ErrTruncated = errors.New("truncated field")
	ErrLength    = errors.New("value of the wrong length")
)

// AppendBytes appends one field. It panics when v is longer than MaxValue: callers bound what they encode.
func AppendBytes(b []byte, tag uint8, v []byte) []byte {
	b = appendHeader(b, tag, len(v))
	return append(b, v...)
}

// AppendString is AppendBytes for a string.
func AppendString(b []byte, tag uint8, v string) []byte {
	b = appendHeader(b, tag, len(v))
	return append(b, v...)
}

// AppendStrings appends one field per element.
func AppendStrings(b []byte, tag uint8, vs []string) []byte {
	for _, v := range vs {
		b = AppendString(b, tag, v)
	}
	return b
}

// AppendUint appends v as eight bytes.
func AppendUint(b []byte, tag uint8, v uint64) []byte {
	b = appendHeader(b, tag, 8)
	return binary.BigEndian.AppendUint64(b, v)
}

func appendHeader(b []byte, tag uint8, n int) []byte {
	if n > MaxValue {
		panic("tlv: value too long")
	}
	return append(b, tag, byte(n>>16), byte(n>>8), byte(n))
}

// Read calls f for each field of b in order and stops at f's first error. The values alias b.
func Read(b []byte, f func(tag uint8, v []byte) error) error {
	for len(b) > 0 {
		if len(b) < 4 {
			return ErrTruncated
		}
		tag, n := b[0], int(b[1])<<16|int(b[2])<<8|int(b[3])
		if n > len(b)-4 {
			return fmt.Errorf("field %d: %w", tag, ErrTruncated)
		}
		if err := f(tag, b[4:4+n]); err != nil {
			return fmt.Errorf("field %d: %w", tag, err)
		}
		b = b[4+n:]
	}
	return nil
}

// Uint decodes what AppendUint wrote.
func Uint(v []byte) (uint64, error) {
	if len(v) != 8 {
		return 0, ErrLength
	}
	return binary.BigEndian.Uint64(v), nil
}

// Fixed copies v into dst and fails unless the lengths agree.
func Fixed(dst, v []byte) error {
	if len(v) != len(dst) {
		return ErrLength
	}
	copy(dst, v)
	return nil
}

// String decodes a string of at most limit bytes.
func String(dst *string, v []byte, limit int) error {
	if len(v) > limit {
		return ErrLength
	}
	*dst = string(v)
	return nil
}

// Element appends a string of at most limit bytes to a list of at most count elements.
func Element(dst *[]string, v []byte, limit, count int) error {
	if len(v) > limit || len(*dst) >= count {
		return ErrLength
	}
	*dst = append(*dst, string(v))
	return nil
}
