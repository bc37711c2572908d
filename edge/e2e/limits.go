package e2e

import (
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	// handshakeTimeout bounds everything until the user is authenticated, as at the hub.
	handshakeTimeout = 20 * time.Second
	// maxChannels is how many channels of one connection are open at once; one beyond is refused at once.
	maxChannels = 64
	// maxListeners is how many listeners of -R one connection has.
	maxListeners = 16
	// maxWaiting is how many connections that its listeners accepted are served at once, and listeners about to accept one; what is beyond waits in
	// the kernel's queue.
	maxWaiting = 64
	// maxAuthTries is OpenSSH's default: an agent may hold a few keys.
	maxAuthTries = 6
	// endGrace is what sessions get to tell the person why the connection ends.
	endGrace = 1200 * time.Millisecond
	// keepaliveEvery is how often a silent client is asked whether it is there, and keepaliveCount how many unanswered ones end the connection.
	keepaliveEvery, keepaliveCount = time.Minute, 3
)

// The algorithms, the same as the hub's: no SHA-1, no group14, and nothing that only a NIST curve secures.
var (
	keyExchanges = []string{ssh.KeyExchangeMLKEM768X25519, ssh.KeyExchangeCurve25519}
	ciphers      = []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM, ssh.CipherChaCha20Poly1305,
		ssh.CipherAES128CTR, ssh.CipherAES192CTR, ssh.CipherAES256CTR}
	macs = []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM, ssh.HMACSHA256, ssh.HMACSHA512}
	// publicKeyAlgorithms are those of the keys inside user certificates.
	publicKeyAlgorithms = []string{ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384,
		ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKECDSA256, ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512}
)
