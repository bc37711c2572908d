package wire

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
)

// UUID names a device, a hub or an auth service for ever (RFC 9562).
type UUID [16]byte

// Incarnation names one run of a process: 128 random bits.
type Incarnation [16]byte

// StreamID names one resumable stream across all its attachments: 128 random bits, chosen by the hub that opens it.
type StreamID [16]byte

// NewUUID returns a random UUID, version 4.
func NewUUID() UUID {
	u := UUID(random())
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u
}

// NewIncarnation returns a random incarnation.
func NewIncarnation() Incarnation { return random() }

// NewStreamID returns a random stream id.
func NewStreamID() StreamID { return random() }

func random() (b [16]byte) {
	rand.Read(b[:]) // never fails: it ends the program first
	return b
}

// String returns the usual form, 8-4-4-4-12 hexadecimal digits.
func (u UUID) String() string {
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// IsZero tells whether u was never set.
func (u UUID) IsZero() bool { return u == UUID{} }

// ParseUUID parses exactly the form String returns, in either case.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	bad := func() (UUID, error) { return UUID{}, fmt.Errorf("not a UUID: %q", Quote(s, 64)) }
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return bad()
	}
	if _, err := hex.Decode(u[:], []byte(s[:8]+s[9:13]+s[14:18]+s[19:23]+s[24:])); err != nil {
		return bad()
	}
	return u, nil
}

// String returns 32 hexadecimal digits.
func (i Incarnation) String() string { return hex.EncodeToString(i[:]) }

// String returns 32 hexadecimal digits.
func (s StreamID) String() string { return hex.EncodeToString(s[:]) }
