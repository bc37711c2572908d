// Package seal closes chunks of recordings that an edge makes end to end to all but auth, for a hub that passes them on must not see what it could not see of the
// session either. PROTOCOL.md, section 6.3, has the layout.
//
// The edge calls To with the key of the session's grant, then Seal; auth calls Open, and Acknowledge for what it has on disk, which the edge believes by
// Sealer.Acknowledged alone; a hub reads no more than Head. The package is pure.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// Overhead is what a sealed chunk has more than the chunk: bytes.
const Overhead = headSize + 16

const (
	magic    = "HWS1"
	headSize = 4 + 1 + 3 + 8 + 32 // magic, flags, zero, sequence, X25519 public key
	context  = "hawser upload 1"

	// PublicSize and AckSize are the lengths of an edge's public key and of auth's acknowledgement.
	PublicSize = 32
	AckSize    = sha256.Size
	ackContext = "hawser upload ack 1"
)

// ErrSealed is a sealed chunk that does not open.
var ErrSealed = errors.New("sealed chunk does not open")

// Sealer seals the chunks of one recording. Safe for concurrent use.
type Sealer struct {
	public []byte
	aead   cipher.AEAD
	ack    []byte // the key of acknowledgements
}

// To makes one with a key of its own. Each chunk of the recording has a sequence of its own, and each sequence one content.
func To(auth [32]byte, recording [16]byte) (*Sealer, error) {
	to, err := ecdh.X25519().NewPublicKey(auth[:])
	if err != nil {
		return nil, err
	}
	own, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	shared, err := own.ECDH(to)
	if err != nil {
		return nil, err
	}
	s := &Sealer{public: own.PublicKey().Bytes()}
	if s.ack, err = deriveKey(ackContext, shared, s.public, auth[:], recording); err != nil {
		return nil, err
	}
	s.aead, err = derive(shared, s.public, auth[:], recording)
	return s, err
}

func deriveKey(context string, shared, own, auth []byte, recording [16]byte) ([]byte, error) {
	salt := append(append([]byte(nil), own...), auth...)
	return hkdf.Key(sha256.New, shared, salt, context+string(recording[:]), 32)
}

func derive(shared, own, auth []byte, recording [16]byte) (cipher.AEAD, error) {
	key, err := deriveKey(context, shared, own, auth, recording)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// Seal seals a chunk; flags are the chunk's, which hubs read.
func (s *Sealer) Seal(seq uint64, flags byte, chunk []byte) []byte {
	b := make([]byte, 0, len(chunk)+Overhead)
	b = append(append(b, magic...), flags, 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, seq)
	b = append(b, s.public...)
	return s.aead.Seal(b, nonce(seq), chunk, b)
}

func nonce(seq uint64) []byte { return binary.BigEndian.AppendUint64(make([]byte, 4, 12), seq) }

// Head reads what a hub may know of a sealed chunk; ok is false for one that is not sealed.
func Head(b []byte) (seq uint64, flags byte, ok bool) {
	if len(b) < Overhead || string(b[:4]) != magic {
		return 0, 0, false
	}
	return binary.BigEndian.Uint64(b[8:]), b[4], true
}

// Key is auth's private key, which follows from a secret of its.
func Key(secret [32]byte) (*ecdh.PrivateKey, error) {
	b, err := hkdf.Key(sha256.New, secret[:], nil, context+" key", 32)
	if err != nil {
		return nil, err
	}
	return ecdh.X25519().NewPrivateKey(b)
}

// Public is the edge's public key of the recording, by which auth acknowledges: PublicSize bytes.
func (s *Sealer) Public() []byte { return s.public }

// Acknowledged tells whether auth said that it has all chunks below next, of which the last has that hash (recorder.Hash).
func (s *Sealer) Acknowledged(next uint64, last [32]byte, ack []byte) bool {
	return hmac.Equal(ack, acknowledgement(s.ack, next, last))
}

func acknowledgement(key []byte, next uint64, last [32]byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(append(binary.BigEndian.AppendUint64(nil, next), last[:]...))
	return h.Sum(nil)
}

// Acknowledge says to the edge with that public key, and to nobody else, that all chunks below next are on disk, of which the last has that hash.
func Acknowledge(key *ecdh.PrivateKey, recording [16]byte, public []byte, next uint64, last [32]byte) ([]byte, error) {
	peer, err := ecdh.X25519().NewPublicKey(public)
	if err != nil {
		return nil, err
	}
	shared, err := key.ECDH(peer)
	if err != nil {
		return nil, err
	}
	own, err := deriveKey(ackContext, shared, public, key.PublicKey().Bytes(), recording)
	if err != nil {
		return nil, err
	}
	return acknowledgement(own, next, last), nil
}

// Open opens a sealed chunk of a recording. It shares no memory with b.
func Open(key *ecdh.PrivateKey, recording [16]byte, b []byte) ([]byte, error) {
	seq, _, ok := Head(b)
	if !ok {
		return nil, fmt.Errorf("%w: it is too short, or none", ErrSealed)
	}
	peer, err := ecdh.X25519().NewPublicKey(b[16:headSize])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSealed, err)
	}
	shared, err := key.ECDH(peer)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSealed, err)
	}
	aead, err := derive(shared, b[16:headSize], key.PublicKey().Bytes(), recording)
	if err != nil {
		return nil, err
	}
	chunk, err := aead.Open(nil, nonce(seq), b[headSize:], b[:headSize])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSealed, err)
	}
	return chunk, nil
}
