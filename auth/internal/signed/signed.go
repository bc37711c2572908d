// Package signed is the envelope around every blob that auth signs with Ed25519: grants, policies, trust and time.
//
// Layout: two or more TLV fields (see auth/internal/tlv).
//
//	1  payload    the signed bytes, once
//	2  signature  64 bytes, 1 to 4 times; Ed25519 over context || 0x00 || payload
//
// The context string names the kind and version of the blob, so that a signature over one kind is never one over
// another. A blob verifies when one of its signatures verifies under one of the reader's keys; several are there while
// a key is being replaced.
package signed

import (
	"crypto/ed25519"
	"errors"
	"fmt"

	"hawser/auth/internal/tlv"
)

const (
	tagPayload   = 1
	tagSignature = 2

	maxSignatures = 4 // old key and new key, and room for both again
	maxKeys       = 8 // bounds the verifications one blob can cost at maxSignatures × maxKeys
)

// Errors of Open.
var (
	ErrMalformed = errors.New("malformed signed blob")
	ErrSignature = errors.New("no signature by a trusted key")
)

// Seal wraps payload with a signature by each key, at most four.
func Seal(context string, payload []byte, keys ...ed25519.PrivateKey) []byte {
	b := make([]byte, 0, len(payload)+8+len(keys)*(ed25519.SignatureSize+4))
	b = tlv.AppendBytes(b, tagPayload, payload)
	msg := message(context, payload)
	for _, k := range keys[:min(len(keys), maxSignatures)] {
		b = tlv.AppendBytes(b, tagSignature, ed25519.Sign(k, msg))
	}
	return b
}

// Blob is a decoded envelope whose signatures have not been checked.
type Blob struct {
	Payload    []byte
	signatures [][]byte
}

// Parse splits an envelope without checking its signatures. The result aliases b.
func Parse(b []byte) (Blob, error) {
	var s Blob
	err := tlv.Read(b, func(tag uint8, v []byte) error {
		switch tag {
		case tagPayload:
			if s.Payload != nil {
				return tlv.ErrLength
			}
			s.Payload = v[:len(v):len(v)]
		case tagSignature:
			if len(v) != ed25519.SignatureSize || len(s.signatures) == maxSignatures {
				return tlv.ErrLength
			}
			s.signatures = append(s.signatures, v)
		}
		return nil
	})
	if err != nil {
		return Blob{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if s.Payload == nil || len(s.signatures) == 0 {
		return Blob{}, ErrMalformed
	}
	return s, nil
}

// Verify reports whether one signature is by one of keys, of which the first eight count.
func (s Blob) Verify(context string, keys []ed25519.PublicKey) error {
	msg := message(context, s.Payload)
	for _, k := range keys[:min(len(keys), maxKeys)] {
		if len(k) != ed25519.PublicKeySize {
			continue // ed25519.Verify panics on it
		}
		for _, sig := range s.signatures {
			if ed25519.Verify(k, msg, sig) {
				return nil
			}
		}
	}
	return ErrSignature
}

// Open returns the payload of b when one of keys signed it. The result aliases b.
func Open(context string, b []byte, keys []ed25519.PublicKey) ([]byte, error) {
	s, err := Parse(b)
	if err != nil {
		return nil, err
	}
	if err := s.Verify(context, keys); err != nil {
		return nil, err
	}
	return s.Payload, nil
}

func message(context string, payload []byte) []byte {
	m := make([]byte, 0, len(context)+1+len(payload))
	m = append(m, context...)
	m = append(m, 0)
	return append(m, payload...)
}
