// Package hello reads the beginning of a TLS connection without taking part in it, to see what it is for before it is decided who serves it.
// Start from [Peek]. What is read proves nothing: TLS itself judges all of it where the connection goes.
package hello

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
)

const (
	// MaxHello bounds what is read of a connection before it is known whose it is. A ClientHello with a post-quantum key share has 1.8 kB.
	MaxHello = 16 << 10
	// helloStart is what is read at once; most ClientHellos fit.
	helloStart = 2 << 10

	recordHeader    = 5
	recordHandshake = 22
	maxRecord       = 1 << 14 // RFC 8446, section 5.1
	typeClientHello = 1
	extensionALPN   = 16
)

// Errors of Parse.
var (
	// ErrMore: what is there is the beginning of a ClientHello.
	ErrMore = errors.New("the ClientHello is not complete")
	// ErrNoHello: whatever this is, it is no ClientHello.
	ErrNoHello = errors.New("not a ClientHello")
)

// Parse returns the protocols that the ClientHello at the beginning of b offers by ALPN, none where it has no such extension. What it
// says is only where the connection is to go: TLS itself judges all of it there.
func Parse(b []byte) (protocols []string, err error) {
	var hello []byte // the handshake message, over as many records as it takes
	for {
		if len(b) < recordHeader {
			if len(b) > 0 && b[0] != recordHandshake {
				return nil, ErrNoHello
			}
			return nil, ErrMore
		}
		n := int(binary.BigEndian.Uint16(b[3:]))
		if b[0] != recordHandshake || b[1] != 3 || n == 0 || n > maxRecord {
			return nil, ErrNoHello
		}
		part := b[recordHeader:min(len(b), recordHeader+n)]
		if hello == nil {
			hello = part[:len(part):len(part)] // one record is the rule, and needs no copy
		} else {
			hello = append(hello, part...)
		}
		if len(hello) >= 4 {
			size := int(hello[1])<<16 | int(hello[2])<<8 | int(hello[3])
			if hello[0] != typeClientHello || size > MaxHello {
				return nil, ErrNoHello
			}
			if len(hello) >= 4+size {
				return helloALPN(hello[4 : 4+size])
			}
		}
		if len(part) < n {
			return nil, ErrMore
		}
		b = b[recordHeader+n:]
	}
}

// helloALPN reads the body of a ClientHello: RFC 8446, section 4.1.2, and RFC 7301.
func helloALPN(b []byte) ([]string, error) {
	const versionAndRandom = 2 + 32
	if len(b) < versionAndRandom {
		return nil, ErrNoHello
	}
	b = b[versionAndRandom:]
	var ok bool
	for _, width := range []int{1, 2, 1} { // session id, cipher suites, compression methods
		if _, b, ok = vector(b, width); !ok {
			return nil, ErrNoHello
		}
	}
	if len(b) == 0 {
		return nil, nil
	}
	extensions, rest, ok := vector(b, 2)
	if !ok || len(rest) > 0 {
		return nil, ErrNoHello
	}
	for len(extensions) > 0 {
		if len(extensions) < 2 {
			return nil, ErrNoHello
		}
		kind := binary.BigEndian.Uint16(extensions)
		var body []byte
		if body, extensions, ok = vector(extensions[2:], 2); !ok {
			return nil, ErrNoHello
		}
		if kind == extensionALPN {
			return alpnNames(body)
		}
	}
	return nil, nil
}

func alpnNames(b []byte) (names []string, err error) {
	list, rest, ok := vector(b, 2)
	if !ok || len(rest) > 0 {
		return nil, ErrNoHello
	}
	for len(list) > 0 {
		var name []byte
		if name, list, ok = vector(list, 1); !ok || len(name) == 0 {
			return nil, ErrNoHello
		}
		names = append(names, string(name))
	}
	return names, nil
}

// vector takes a vector with a length of so many bytes off the front of b.
func vector(b []byte, width int) (v, rest []byte, ok bool) {
	if len(b) < width {
		return nil, nil, false
	}
	n := 0
	for _, c := range b[:width] {
		n = n<<8 | int(c)
	}
	if b = b[width:]; len(b) < n {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}

// Conn is a connection of which the beginning was read to see what it is; whoever serves it reads that first. Only one goroutine reads.
type Conn struct {
	net.Conn
	start []byte
}

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	if len(c.start) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.start)
	if c.start = c.start[n:]; len(c.start) == 0 {
		c.start = nil // a tunnel lives for months
	}
	return n, nil
}

// NetConn is the connection itself, of use once its beginning was read.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// Peek reads a connection's ClientHello, under the deadline that is set, and tells whether it offers a protocol. What is no ClientHello
// offers nothing, and TLS says so in its own words. The connection returned begins with what was read.
func Peek(nc net.Conn, protocol string) (c *Conn, offered bool, err error) {
	b := make([]byte, 0, helloStart)
	for {
		if len(b) == cap(b) {
			if len(b) == MaxHello {
				return nil, false, ErrNoHello
			}
			b = slices.Grow(b, min(len(b), MaxHello-len(b)))
			b = b[:len(b):min(cap(b), MaxHello)]
		}
		n, err := nc.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		names, perr := Parse(b)
		if !errors.Is(perr, ErrMore) {
			return &Conn{nc, b}, slices.Contains(names, protocol), nil
		}
		if err != nil {
			return nil, false, err
		}
		if n == 0 {
			return nil, false, io.ErrNoProgress
		}
	}
}
