package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"
)

// ErrMalformed is wrapped by every decoding error but ErrUnknownType: the bytes break PROTOCOL.md.
var ErrMalformed = errors.New("malformed message")

// ErrTooLong is wrapped by Encode's error for a message longer than MaxControl.
var ErrTooLong = errors.New("message too long")

// HeaderLen is the length of a message header: type (u16) and length of what follows (u32), big-endian.
const HeaderLen = 6

const fieldHeaderLen = 4 // tag (u8) and length (u24)

// field is one decoded tag and its value, which points into the message.
type field struct {
	tag   uint8
	value []byte
}

// codec walks the fields of a message in one direction or the other, so that each message's layout is written once.
// Zero values are not sent. When decoding, a field that may appear once and appears twice is an error, and an unknown
// tag is ignored.
type codec struct {
	encoding bool
	out      []byte
	in       []field
	err      error
}

func (c *codec) fail(tag uint8, format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: field %d: %s", ErrMalformed, tag, fmt.Sprintf(format, args...))
	}
}

// put appends one field, whatever its length: Encode decodes what was encoded, and so finds what passes a limit.
func (c *codec) put(tag uint8, v []byte) {
	c.out = append(c.out, tag, byte(len(v)>>16), byte(len(v)>>8), byte(len(v)))
	c.out = append(c.out, v...)
}

// get returns the value of a field that may appear once, with a length between low and high.
func (c *codec) get(tag uint8, low, high int) ([]byte, bool) {
	var v []byte
	found := false
	for _, f := range c.in {
		if f.tag != tag {
			continue
		}
		if found {
			c.fail(tag, "twice")
			return nil, false
		}
		v, found = f.value, true
	}
	if found && (len(v) < low || len(v) > high) {
		c.fail(tag, "%d bytes, want %d to %d", len(v), low, high)
		return nil, false
	}
	return v, found
}

// all returns the values of a field that may appear up to limit times.
func (c *codec) all(tag uint8, limit, maxEach int) [][]byte {
	var vs [][]byte
	for _, f := range c.in {
		if f.tag != tag {
			continue
		}
		if len(vs) == limit {
			c.fail(tag, "more than %d times", limit)
			return nil
		}
		if len(f.value) > maxEach {
			c.fail(tag, "%d bytes, at most %d", len(f.value), maxEach)
			return nil
		}
		vs = append(vs, f.value)
	}
	return vs
}

func (c *codec) uint(tag uint8, v *uint64, size int) {
	if c.encoding {
		if *v != 0 {
			var b [8]byte
			binary.BigEndian.PutUint64(b[:], *v)
			c.put(tag, b[8-size:])
		}
		return
	}
	if b, ok := c.get(tag, size, size); ok {
		var x uint64
		for _, d := range b {
			x = x<<8 | uint64(d)
		}
		*v = x
	}
}

// number carries any integer type in size bytes.
func number[T ~uint8 | ~uint16 | ~uint32 | ~uint64](c *codec, tag uint8, v *T, size int) {
	x := uint64(*v)
	c.uint(tag, &x, size)
	*v = T(x)
}

func (c *codec) u8(tag uint8, v *uint8)   { number(c, tag, v, 1) }
func (c *codec) u16(tag uint8, v *uint16) { number(c, tag, v, 2) }
func (c *codec) u32(tag uint8, v *uint32) { number(c, tag, v, 4) }
func (c *codec) u64(tag uint8, v *uint64) { number(c, tag, v, 8) }

func (c *codec) i32(tag uint8, v *int32) {
	u := uint32(*v)
	c.u32(tag, &u)
	*v = int32(u)
}

func (c *codec) flag(tag uint8, v *bool) {
	var u uint8
	if *v {
		u = 1
	}
	c.u8(tag, &u)
	if u > 1 {
		c.fail(tag, "a flag of %d", u)
	}
	*v = u == 1
}

// duration is u32 milliseconds; what does not fit is clamped.
func (c *codec) duration(tag uint8, v *time.Duration) {
	ms := uint32(min(max(v.Milliseconds(), 0), math.MaxUint32))
	c.u32(tag, &ms)
	*v = time.Duration(ms) * time.Millisecond
}

// moment is u64 milliseconds since 1970; zero is no time.
func (c *codec) moment(tag uint8, v *time.Time) {
	var ms uint64
	if c.encoding && !v.IsZero() {
		ms = uint64(v.UnixMilli())
	}
	c.u64(tag, &ms)
	if c.encoding || ms == 0 {
		return
	}
	if ms > 1<<47 { // the year 6429: keeps time.Time's arithmetic far from its ends
		c.fail(tag, "a time out of range")
		return
	}
	*v = time.UnixMilli(int64(ms)).UTC()
}

// bytes carries opaque bytes.
func (c *codec) bytes(tag uint8, v *[]byte, limit int) {
	if c.encoding {
		if len(*v) > 0 {
			c.put(tag, *v)
		}
		return
	}
	if b, ok := c.get(tag, 0, limit); ok && len(b) > 0 {
		*v = append([]byte(nil), b...)
	}
}

// array carries exactly len(v) bytes; all zero is absent.
func (c *codec) array(tag uint8, v []byte) {
	if c.encoding {
		for _, b := range v {
			if b != 0 {
				c.put(tag, v)
				return
			}
		}
		return
	}
	if b, ok := c.get(tag, len(v), len(v)); ok {
		copy(v, b)
	}
}

// path carries a string that need not be UTF-8.
func (c *codec) path(tag uint8, v *string, limit int) {
	b := []byte(*v)
	c.bytes(tag, &b, limit)
	*v = string(b)
}

// str carries UTF-8; an encoder refuses what is longer than limit.
func (c *codec) str(tag uint8, v *string, limit int) {
	c.path(tag, v, limit)
	if !utf8.ValidString(*v) {
		c.fail(tag, "not UTF-8")
	}
}

// text is str for words shown to people: an encoder cuts and mends what it is given.
func (c *codec) text(tag uint8, v *string, limit int) {
	if c.encoding {
		s := strings.ToValidUTF8(*v, "\uFFFD")
		if len(s) > limit {
			s = strings.ToValidUTF8(s[:limit], "")
		}
		*v = s
	}
	c.str(tag, v, limit)
}

func (c *codec) blobs(tag uint8, v *[][]byte, limit, maxEach int) {
	if !c.encoding {
		for _, b := range c.all(tag, limit, maxEach) {
			*v = append(*v, append([]byte(nil), b...))
		}
		return
	}
	for _, b := range *v {
		c.put(tag, b)
	}
}

func (c *codec) strs(tag uint8, v *[]string, limit, maxEach int) {
	if !c.encoding {
		for _, b := range c.all(tag, limit, maxEach) {
			if !utf8.Valid(b) {
				c.fail(tag, "not UTF-8")
				return
			}
			*v = append(*v, string(b))
		}
		return
	}
	for _, s := range *v {
		c.put(tag, []byte(s))
	}
}

// labels carries each label as u8 key length, key, value.
func (c *codec) labels(tag uint8, v *[]Label) {
	var raw []string
	if c.encoding {
		for _, l := range *v {
			// A key too long is told by a length of 0, which no decoder takes.
			n := len(l.Key)
			if n > maxLabelKey {
				n = 0
			}
			raw = append(raw, string([]byte{byte(n)})+l.Key+l.Value)
		}
	}
	c.strs(tag, &raw, maxLabels, maxLabel)
	if c.encoding || c.err != nil {
		return
	}
	for _, s := range raw {
		if len(s) == 0 || s[0] == 0 || int(s[0]) > maxLabelKey || 1+int(s[0]) > len(s) || !utf8.ValidString(s[1:1+s[0]]) {
			c.fail(tag, "a label without a key")
			return
		}
		n := 1 + int(s[0])
		*v = append(*v, Label{Key: s[1:n], Value: s[n:]})
	}
}

// addrPort carries 4 or 16 address bytes and a u16 port. A zone names an interface of the sender and is not sent.
func (c *codec) addrPort(tag uint8, v *netip.AddrPort) {
	if c.encoding {
		if v.Addr().IsValid() {
			b := v.Addr().Unmap().WithZone("").AsSlice()
			c.put(tag, binary.BigEndian.AppendUint16(b, v.Port()))
		}
		return
	}
	b, ok := c.get(tag, 6, 18)
	if !ok {
		return
	}
	a, ok := netip.AddrFromSlice(b[:len(b)-2])
	if !ok {
		c.fail(tag, "an address of %d bytes", len(b)-2)
		return
	}
	*v = netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(b[len(b)-2:]))
}

// parse splits the fields of a message or of a nested one.
func (c *codec) parse(b []byte) {
	for len(b) > 0 {
		if len(b) < fieldHeaderLen {
			c.err = fmt.Errorf("%w: a field header of %d bytes", ErrMalformed, len(b))
			return
		}
		tag, n := b[0], int(b[1])<<16|int(b[2])<<8|int(b[3])
		b = b[fieldHeaderLen:]
		if n > len(b) {
			c.fail(tag, "%d bytes announced, %d left", n, len(b))
			return
		}
		if len(c.in) == maxFields {
			c.err = fmt.Errorf("%w: more than %d fields", ErrMalformed, maxFields)
			return
		}
		c.in = append(c.in, field{tag, b[:n]})
		b = b[n:]
	}
}

// nested carries the fields of another message as the value of one field.
func (c *codec) nested(tag uint8, limit int, fields func(*codec)) {
	inner := codec{encoding: c.encoding}
	if c.encoding {
		if fields(&inner); len(inner.out) > 0 {
			c.put(tag, inner.out)
		}
		return
	}
	b, ok := c.get(tag, 0, limit)
	if !ok {
		return
	}
	if inner.parse(b); inner.err == nil {
		fields(&inner)
	}
	if inner.err != nil {
		c.err = fmt.Errorf("field %d: %w", tag, inner.err)
	}
}
