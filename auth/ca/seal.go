package ca

import (
	"crypto/aes"
	"crypto/cipher"
)

const sealVersion = 1

// Seal encrypts blob under a 256-bit key: one version byte, then AES-256-GCM with a random nonce in front, the version
// byte authenticated. Blobs sealed under one key must stay well below 2^32.
func Seal(key *[32]byte, blob []byte) []byte {
	head := []byte{sealVersion}
	return sealer(key).Seal(head, nil, blob, head)
}

// Open decrypts what Seal wrote. It fails with ErrSealed when the blob is damaged or the key is another.
func Open(key *[32]byte, sealed []byte) ([]byte, error) {
	if len(sealed) < 1 || sealed[0] != sealVersion {
		return nil, ErrSealed
	}
	blob, err := sealer(key).Open(nil, nil, sealed[1:], sealed[:1])
	if err != nil {
		return nil, ErrSealed
	}
	return blob, nil
}

func sealer(key *[32]byte) cipher.AEAD {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic("ca: " + err.Error()) // 32 bytes are always a key
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic("ca: " + err.Error())
	}
	return aead
}
