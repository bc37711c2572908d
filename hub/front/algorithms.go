package front

import "golang.org/x/crypto/ssh"

// serverVersion is what the hub says it is. It has no number, for strangers need none, and not OpenSSH's name, for clients then expect
// OpenSSH's bugs.
const serverVersion = "SSH-2.0-Hawser"

// algorithms returns the hub's lists: nothing with SHA-1, no NIST curve for the hub's own part, post-quantum first.
// Plain sha2-256 and sha2-512 MACs stay, for libssh2 before 1.11 has no ETM.
func algorithms() ssh.Config {
	return ssh.Config{
		KeyExchanges: []string{ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519},
		Ciphers: []string{
			ssh.CipherAES128GCM, ssh.CipherAES256GCM, ssh.CipherChaCha20Poly1305,
			ssh.CipherAES128CTR, ssh.CipherAES192CTR, ssh.CipherAES256CTR,
		},
		MACs: []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM, ssh.HMACSHA256, ssh.HMACSHA512},
	}
}

// userAlgorithms are those people may sign with.
func userAlgorithms() []string {
	return []string{
		ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256,
		ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
		ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512,
	}
}
