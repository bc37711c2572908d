package recorder

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
)

// ErrSeal is an encrypted chunk that does not open: it was changed or moved, or the key is another's.
var ErrSeal = errors.New("recorder: encrypted chunk does not open")

// Sealer encrypts the bodies of one recording's chunks, by a key that is for this recording alone. Safe for concurrent use.
//
// The nonce is the sequence, so each may have one body only. A Writer gives a sequence twice where its Sink returned ErrNoRoom, which says that the
// first is kept nowhere.
type Sealer struct{ aead cipher.AEAD }

// NewSealer makes the one of a key: recorder/seal makes and wraps keys.
func NewSealer(key [32]byte) Sealer {
	block, err := aes.NewCipher(key[:])
	if err == nil {
		var aead cipher.AEAD
		if aead, err = cipher.NewGCM(block); err == nil {
			return Sealer{aead}
		}
	}
	panic(err) // the length is a constant
}

func sealNonce(seq uint64) []byte { return binary.BigEndian.AppendUint64(make([]byte, 4, 12), seq) }

// seal encrypts in place the body of a stored chunk that has no trailer yet. b begins with its fixed part, which is authenticated.
func (s Sealer) seal(b []byte, seq uint64) []byte {
	fixed := b[:ChunkHeaderSize]
	return s.aead.Seal(fixed, sealNonce(seq), b[ChunkHeaderSize:], fixed)
}

// Open decrypts the body of a stored chunk; h and body are ParseChunk's. It shares no memory with them.
func (s Sealer) Open(h ChunkHeader, body []byte) ([]byte, error) {
	plain, err := s.aead.Open(nil, sealNonce(h.Seq), body, h.appendHeader(make([]byte, 0, ChunkHeaderSize)))
	if err != nil {
		return nil, ErrSeal
	}
	return plain, nil
}
