package auth

import (
	"crypto/sha256"
	"crypto/sha512"

	"golang.org/x/crypto/ssh"
)

// sshSig is a signature as PROTOCOL.sshsig lays it out.
type sshSig struct {
	key       []byte
	namespace string
	reserved  []byte
	hash      string
	signature ssh.Signature
}

// sshSigBody is what follows the magic words.
type sshSigBody struct {
	Version   uint32
	PublicKey []byte
	Namespace string
	Reserved  []byte
	Hash      string
	Signature []byte
}

const (
	sshSigMagic = "SSHSIG"
	maxSSHSig   = 16 << 10
)

func parseSSHSig(b []byte) (*sshSig, error) {
	if len(b) > maxSSHSig || len(b) < len(sshSigMagic) || string(b[:len(sshSigMagic)]) != sshSigMagic {
		return nil, errProof
	}
	var body sshSigBody
	if err := ssh.Unmarshal(b[len(sshSigMagic):], &body); err != nil || body.Version != 1 || body.Namespace == "" {
		return nil, errProof
	}
	s := &sshSig{key: body.PublicKey, namespace: body.Namespace, reserved: body.Reserved, hash: body.Hash}
	if err := ssh.Unmarshal(body.Signature, &s.signature); err != nil {
		return nil, errProof
	}
	return s, nil
}

// verify holds the signature against message; of a security key it demands that somebody touched it.
func (s *sshSig) verify(key ssh.PublicKey, message []byte) error {
	var digest []byte
	switch s.hash {
	case "sha256":
		sum := sha256.Sum256(message)
		digest = sum[:]
	case "sha512":
		sum := sha512.Sum512(message)
		digest = sum[:]
	default:
		return errProof
	}
	if s.signature.Format == ssh.KeyAlgoRSA { // SHA-1
		return errProof
	}
	signed := ssh.Marshal(struct {
		Namespace string
		Reserved  []byte
		Hash      string
		Digest    []byte
	}{s.namespace, s.reserved, s.hash, digest})
	if key.Verify(append([]byte(sshSigMagic), signed...), &s.signature) != nil {
		return errProof
	}
	return nil
}
