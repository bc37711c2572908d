package recorder

import (
	"crypto/sha256"
	"hash"
)

// Field tags of a witness, a TLV payload like the others.
const (
	WitnessSession   = 1  // 16 bytes, the recording's id
	WitnessUser      = 2  // text, from the grant
	WitnessLogin     = 3  // text, from the grant
	WitnessRule      = 4  // text: which input is hashed, as HeaderInput; from the grant
	WitnessUnhashed  = 5  // uvarint: bits as HeaderUnkept, of streams that are counted and not hashed
	WitnessInput     = 6  // uvarint, bytes of input that the session took
	WitnessKept      = 7  // uvarint, bytes of input that are hashed
	WitnessStdout    = 8  // uvarint, bytes
	WitnessStderr    = 9  // uvarint, bytes
	WitnessRequests  = 10 // uvarint, requests that the device took
	WitnessAnswers   = 11 // uvarint, requests that the device made
	WitnessHashes    = 12 // 160 bytes: input, stdout, stderr, requests taken, requests made
	WitnessForced    = 13 // 32 bytes: SHA-256 of the command that ran whatever was asked for, from the grant; absent: what was asked for ran
	WitnessSignature = 15 // Ed25519 by the device's key over WitnessMessage
)

// WitnessRequest is the channel request that carries a device's witness, its last before CLOSE.
const WitnessRequest = "hawser-witness@hawser"

// MaxWitness bounds a witness in bytes.
const MaxWitness = 4 << 10

// WitnessMessage is what the device signs: a context string and the fields before the signature.
func WitnessMessage(fields []byte) []byte {
	return append([]byte("hawser recording witness v1\x00"), fields...)
}

// RequestHash continues the hash over requests, which begins as 32 zero bytes. payload is the SHA-256 of the request's payload.
func RequestHash(before [32]byte, name string, payload [32]byte) [32]byte {
	b := append(make([]byte, 0, 32+1+64+32), before[:]...)
	b = append(b, byte(len(name)))
	b = append(b, name...)
	return sha256.Sum256(append(b, payload[:]...))
}

// PayloadHash is that of a request's payload.
func PayloadHash(payload []byte) [32]byte { return sha256.Sum256(payload) }

// Why a recording has no witness where one is due, HeadUnwitnessed.
const (
	WithoutLost     = "lost"     // the connection to the device was lost and did not come back
	WithoutEnded    = "ended"    // the recorder ended the session without waiting for the device
	WithoutNone     = "none"     // the device closed in order and sent none: an agent of before there were witnesses
	WithoutAgent    = "agent"    // a server without an agent, to which the hub logs in
	WithoutUnstored = "unstored" // a session that could not be recorded as it must; what passed last was neither shown nor kept
)

// Sums counts and hashes what passes in a session: the part of a witness that both ends can know. Not safe for concurrent use, but for
// methods that are about different streams.
type Sums struct {
	streams  [3]digest // by stream: Stdin, Stdout, Stderr
	requests [2]requests
}

type digest struct {
	n uint64
	h hash.Hash // nil: nothing came, or it is not hashed
}

type requests struct {
	n    uint64
	hash [32]byte
}

// Pass takes what passed on a stream: Stdin, Stdout or Stderr.
func (s *Sums) Pass(stream byte, b []byte) {
	d := &s.streams[stream]
	if d.h == nil {
		d.h = sha256.New()
	}
	d.h.Write(b)
	d.n += uint64(len(b))
}

// Count is Pass of a stream that is counted and not hashed.
func (s *Sums) Count(stream byte, n int) { s.streams[stream].n += uint64(n) }

// Request takes a request: one to the device, or one by it.
func (s *Sums) Request(fromDevice bool, name string, payload [32]byte) {
	r := &s.requests[0]
	if fromDevice {
		r = &s.requests[1]
	}
	r.n++
	r.hash = RequestHash(r.hash, name, payload)
}

// Bytes is how much passed on a stream.
func (s *Sums) Bytes(stream byte) uint64 { return s.streams[stream].n }

// Hash is SHA-256 of what passed on a stream.
func (s *Sums) Hash(stream byte) [32]byte {
	if h := s.streams[stream].h; h != nil {
		return [32]byte(h.Sum(nil))
	}
	return sha256.Sum256(nil)
}

// Requests is how many requests passed in a direction, and the hash over them.
func (s *Sums) Requests(fromDevice bool) (uint64, [32]byte) {
	r := s.requests[0]
	if fromDevice {
		r = s.requests[1]
	}
	return r.n, r.hash
}

// Testimony is what a device says of a session beside its sums.
type Testimony struct {
	Session     [16]byte
	User, Login string
	Rule        string // InputOff, InputRedacted or InputFull
	Unhashed    uint8
	Input       uint64 // bytes of input taken, hashed or not
	// ForceCommand is what ran whatever was asked for; empty: what was asked for. A witness that is read has Forced of it.
	ForceCommand string
}

// Sign makes the witness of a session: the sums of what the device's end of the channel took and gave, signed by the device.
func (t Testimony) Sign(s *Sums, sign func(message []byte) []byte) []byte {
	b := appendBytes(make([]byte, 0, 512), WitnessSession, t.Session[:])
	b = appendText(b, WitnessUser, t.User, maxHeaderText)
	b = appendText(b, WitnessLogin, t.Login, maxHeaderText)
	b = appendText(b, WitnessRule, t.Rule, maxHeaderText)
	b = appendSome(b, WitnessUnhashed, uint64(t.Unhashed))
	b = appendSome(b, WitnessInput, t.Input)
	b = appendSome(b, WitnessKept, s.Bytes(Stdin))
	b = appendSome(b, WitnessStdout, s.Bytes(Stdout))
	b = appendSome(b, WitnessStderr, s.Bytes(Stderr))
	to, toHash := s.Requests(false)
	by, byHash := s.Requests(true)
	b = appendSome(b, WitnessRequests, to)
	b = appendSome(b, WitnessAnswers, by)
	hashes := make([]byte, 0, 5*32)
	for i := range s.streams {
		h := s.Hash(byte(i))
		hashes = append(hashes, h[:]...)
	}
	hashes = append(append(hashes, toHash[:]...), byHash[:]...)
	b = appendBytes(b, WitnessHashes, hashes)
	if t.ForceCommand != "" {
		forced := PayloadHash([]byte(t.ForceCommand))
		b = appendBytes(b, WitnessForced, forced[:])
	}
	return appendBytes(b, WitnessSignature, sign(WitnessMessage(b)))
}
