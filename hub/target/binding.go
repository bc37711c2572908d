package target

import (
	"encoding/binary"
	"net"
	"strings"
	"sync"
)

// binding is what a server signed in the first key exchange: its host key's signature over what becomes the session identifier. golang.org/x/crypto
// verifies it and does not give it out, so it is read along the way, while nothing is encrypted yet. Auth verifies it again before it signs.
type binding struct {
	mu             sync.Mutex
	buf            []byte
	versioned      bool // the server's version line has gone by
	done           bool // it is found, or there is nothing more to find
	key, signature []byte
}

// Message numbers of RFC 4253, section 12, and RFC 5656, section 7.1: the reply of every key exchange that we offer.
const (
	msgNewKeys      = 21
	msgKexECDHReply = 31
)

// take reads bytes as they came from the server.
func (b *binding) take(p []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.done {
		return
	}
	b.buf = append(b.buf, p...)
	for !b.done && b.stepLocked() {
	}
	if b.done {
		b.buf = nil
	}
}

// stepLocked takes one line or packet from buf; false: it is not whole yet.
func (b *binding) stepLocked() bool {
	if !b.versioned {
		line, rest, ok := strings.Cut(string(b.buf), "\n")
		if !ok {
			b.done = len(b.buf) > maxPreface
			return false
		}
		b.versioned = strings.HasPrefix(line, "SSH-")
		b.buf = []byte(rest)
		return true
	}
	if len(b.buf) < 5 {
		return false
	}
	n, pad := binary.BigEndian.Uint32(b.buf), uint32(b.buf[4])
	if n > maxPacket || n < pad+2 {
		b.done = true
		return false
	}
	if uint32(len(b.buf)) < 4+n {
		return false
	}
	b.packetLocked(b.buf[5 : 4+n-pad])
	b.buf = b.buf[4+n:]
	return true
}

func (b *binding) packetLocked(p []byte) {
	switch p[0] {
	case msgNewKeys:
		b.done = true
	case msgKexECDHReply: // a server that guessed wrong is asked again: the last counts
		key, rest, ok1 := cutString(p[1:])
		_, rest, ok2 := cutString(rest)
		sig, rest, ok3 := cutString(rest)
		if ok1 && ok2 && ok3 && len(rest) == 0 {
			b.key, b.signature = append([]byte(nil), key...), append([]byte(nil), sig...)
		}
	}
}

// cutString reads a string of RFC 4251, section 5.
func cutString(p []byte) (s, rest []byte, ok bool) {
	if len(p) < 4 {
		return nil, nil, false
	}
	n := binary.BigEndian.Uint32(p)
	if uint64(n) > uint64(len(p)-4) {
		return nil, nil, false
	}
	return p[4 : 4+n], p[4+n:], true
}

// get returns the host key and its signature; nil: none was seen.
func (b *binding) get() (key, signature []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.key, b.signature
}

// boundConn reads along.
type boundConn struct {
	net.Conn
	binding *binding
}

func (c *boundConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.binding.take(p[:n])
	return n, err
}
