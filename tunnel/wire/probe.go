package wire

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"
)

// NAT probes (PROTOCOL.md, 5.1): datagrams beside QUIC on the hub's UDP port. Their first byte has the two upper bits clear, which no QUIC packet has.
const (
	// ProbeLen and ProbeAnswerLen are the whole packets: an answer is never longer than its request.
	ProbeLen       = 56
	ProbeAnswerLen = 36
	// MaxProbeDelay is the longest wait that may be asked for.
	MaxProbeDelay = 330 * time.Second

	probeMAC = 16
)

var (
	probeHead  = [4]byte{0x01, 'H', 'P', Version}
	answerHead = [4]byte{0x01, 'H', 'A', Version}
)

// A Probe asks the hub to answer to the packet's source address after Delay. Device says whose key the packet's MAC is
// under; Nonce names the answer.
type Probe struct {
	Delay  time.Duration // in whole milliseconds
	Device UUID
	Nonce  [16]byte
}

// Append appends the packet, under the ProbeKey of the device's Ack.
func (p Probe) Append(b []byte, key *[16]byte) []byte {
	start := len(b)
	b = append(b, probeHead[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(p.Delay.Milliseconds()))
	b = append(append(b, p.Device[:]...), p.Nonce[:]...)
	return appendProbeMAC(b, start, key)
}

// DecodeProbe reads a request without knowing its key; what it says counts only after VerifyProbe.
func DecodeProbe(b []byte) (Probe, error) {
	if len(b) != ProbeLen || [4]byte(b) != probeHead {
		return Probe{}, fmt.Errorf("%w: no NAT probe", ErrMalformed)
	}
	p := Probe{
		Delay:  time.Duration(binary.BigEndian.Uint32(b[4:])) * time.Millisecond,
		Device: UUID(b[8:24]), Nonce: [16]byte(b[24:40]),
	}
	if p.Delay > MaxProbeDelay {
		return Probe{}, fmt.Errorf("%w: a NAT probe of %s, at most %s", ErrMalformed, p.Delay, MaxProbeDelay)
	}
	return p, nil
}

// VerifyProbe reports whether a request or an answer is under key. A key of zeros is none.
func VerifyProbe(b []byte, key *[16]byte) bool {
	n := len(b) - probeMAC
	return n > 0 && *key != [16]byte{} && hmac.Equal(appendProbeMAC(append([]byte(nil), b[:n]...), 0, key)[n:], b[n:])
}

// AppendProbeAnswer appends the answer to the probe with this nonce.
func AppendProbeAnswer(b []byte, nonce [16]byte, key *[16]byte) []byte {
	start := len(b)
	b = append(append(b, answerHead[:]...), nonce[:]...)
	return appendProbeMAC(b, start, key)
}

// DecodeProbeAnswer reads an answer, whose nonce names the probe; ok is false where it is none or not under key.
func DecodeProbeAnswer(b []byte, key *[16]byte) (nonce [16]byte, ok bool) {
	if len(b) != ProbeAnswerLen || [4]byte(b) != answerHead || !VerifyProbe(b, key) {
		return nonce, false
	}
	return [16]byte(b[4:20]), true
}

func appendProbeMAC(b []byte, start int, key *[16]byte) []byte {
	h := hmac.New(sha256.New, key[:])
	h.Write(b[start:])
	return append(b, h.Sum(nil)[:probeMAC]...)
}
