package ca

import (
	"crypto"
	"crypto/rsa"

	"golang.org/x/crypto/ssh"
)

// CheckKey accepts the kinds of user key we serve: Ed25519, ECDSA, their sk- forms, and RSA of 2048 to 4096 bits. Call it
// before a signature of the key is verified: a giant modulus costs the verifier. A certificate is not a key here.
func CheckKey(key ssh.PublicKey) error {
	if key == nil {
		return ErrKeyType
	}
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
		ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		return nil
	case ssh.KeyAlgoRSA:
		k, ok := key.(ssh.CryptoPublicKey)
		if !ok {
			return ErrKeyType
		}
		return checkRSA(k.CryptoPublicKey())
	}
	if _, nested := key.(*ssh.Certificate); nested {
		return ErrNested
	}
	return ErrKeyType
}

func checkRSA(key crypto.PublicKey) error {
	k, ok := key.(*rsa.PublicKey)
	if !ok {
		return ErrKeyType
	}
	if n := k.N.BitLen(); n < minRSABits || n > maxRSABits {
		return ErrKeySize
	}
	return nil
}
