package ca

import (
	"bytes"
	"crypto/ed25519"
	"errors"
)

// LogSigner returns the time key's public half and what signs the text of a head of the audit log with it
// (hawser/auth/audit). Everything else that this key signs is a context, a NUL and a payload; a text with a NUL is
// refused, so that no signature of a head is ever one over anything else.
func (s *Set) LogSigner() (ed25519.PublicKey, func(text []byte) ([]byte, error)) {
	a := s.state().signer(TimeKey, false)
	return a.Public(), func(text []byte) ([]byte, error) {
		if bytes.IndexByte(text, 0) >= 0 {
			return nil, errors.New("text holds a NUL")
		}
		return ed25519.Sign(a.key, text), nil
	}
}
