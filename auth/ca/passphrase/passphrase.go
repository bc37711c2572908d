// Package passphrase seals blobs under a passphrase: argon2id makes the key, ca.Seal does the rest. It is apart from ca so
// that the edge does not link argon2 and BLAKE2.
package passphrase

import (
	"crypto/rand"
	"errors"

	"golang.org/x/crypto/argon2"

	"hawser/auth/ca"
)

const (
	version  = 1
	saltSize = 16
	// RFC 9106's second recommended choice, for machines without 2 GiB to spare: 3 passes over 64 MiB, 4 lanes.
	passes    = 3
	memoryKiB = 64 << 10
	lanes     = 4
)

// ErrEmpty is returned for an empty passphrase, which would protect nothing.
var ErrEmpty = errors.New("empty passphrase")

// Seal encrypts blob. Layout: version (1), salt (16 bytes), then what ca.Seal makes under argon2id of both.
func Seal(pass, blob []byte) ([]byte, error) {
	if len(pass) == 0 {
		return nil, ErrEmpty
	}
	head := make([]byte, 1+saltSize)
	head[0] = version
	if _, err := rand.Read(head[1:]); err != nil {
		return nil, err
	}
	return append(head, ca.Seal(key(pass, head[1:]), blob)...), nil
}

// Open decrypts what Seal wrote; it fails with ca.ErrSealed when the blob is damaged or the passphrase is another.
func Open(pass, sealed []byte) ([]byte, error) {
	if len(pass) == 0 {
		return nil, ErrEmpty
	}
	if len(sealed) < 1+saltSize || sealed[0] != version {
		return nil, ca.ErrSealed
	}
	return ca.Open(key(pass, sealed[1:1+saltSize]), sealed[1+saltSize:])
}

func key(pass, salt []byte) *[32]byte {
	return (*[32]byte)(argon2.IDKey(pass, salt, passes, memoryKiB, lanes, 32))
}
