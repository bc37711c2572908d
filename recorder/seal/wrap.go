package seal

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"

	"golang.org/x/crypto/chacha20poly1305"
)

// Key is a recording's: recorder.Options.Key.
type Key [32]byte

// String keeps a key out of logs.
func (Key) String() string { return "[redacted]" }

// GoString likewise.
func (Key) GoString() string { return "[redacted]" }

// NewKey makes the key of a recording, and wraps it for each recipient: recorder.Header.Keys. One that ParseRecipient would refuse gets none, as
// nobody could open it.
func NewKey(to [][32]byte) (key Key, wrapped [][]byte) {
	rand.Read(key[:])
	for _, r := range to {
		if w := wrap(r, key); w != nil {
			wrapped = append(wrapped, w)
		}
	}
	return key, wrapped
}

// wrap makes an age file of a key. nil: the recipient is none.
func wrap(r [32]byte, key Key) []byte {
	to, err := ecdh.X25519().NewPublicKey(r[:])
	if err != nil {
		return nil
	}
	own, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil
	}
	shared, err := own.ECDH(to)
	if err != nil {
		return nil
	}
	var file [16]byte // age's file key
	rand.Read(file[:])
	public := own.PublicKey().Bytes()
	text := base64.RawStdEncoding
	b := append(make([]byte, 0, 256), "age-encryption.org/v1\n-> X25519 "...)
	b = append(text.AppendEncode(b, public), '\n')
	salt := append(append([]byte(nil), public...), r[:]...)
	// The nonce may be zero, as the key is for this alone.
	body := aead(shared, salt, "age-encryption.org/v1/X25519").Seal(nil, make([]byte, chacha20poly1305.NonceSize), file[:], nil)
	b = append(text.AppendEncode(b, body), "\n---"...)
	mac := hmac.New(sha256.New, expand(file[:], nil, "header"))
	mac.Write(b)
	b = append(text.AppendEncode(append(b, ' '), mac.Sum(nil)), '\n')
	var nonce [16]byte
	rand.Read(nonce[:])
	b = append(b, nonce[:]...)
	last := [chacha20poly1305.NonceSize]byte{chacha20poly1305.NonceSize - 1: 1} // age's counter 0, of the last chunk
	return aead(file[:], nonce[:], "payload").Seal(b, last[:], key[:], nil)
}

func expand(secret, salt []byte, info string) []byte {
	key, err := hkdf.Key(sha256.New, secret, salt, info, 32)
	if err != nil {
		panic(err) // the length is a constant
	}
	return key
}

func aead(secret, salt []byte, info string) interface {
	Seal(dst, nonce, plain, data []byte) []byte
} {
	a, err := chacha20poly1305.New(expand(secret, salt, info))
	if err != nil {
		panic(err) // the key's length is a constant
	}
	return a
}
