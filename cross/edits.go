package cross

import (
	"bytes"
	"fmt"
)

// edit changes one place of a file of Go's own for the agent.
type edit struct {
	file     string
	old, new string
}

// edits take out what the linker cannot see that the agent never does:
//
//   - Encrypted Client Hello, which nothing of Hawser sends or takes: crypto/tls
//     then gets an error from crypto/hpke, as it does for a suite it does not know.
//   - TLS below 1.3, which each of our configurations refuses before the handshake
//     comes that far.
//   - The counters of GODEBUG settings in runtime/metrics, which nobody reads:
//     they alone bring the whole of runtime/metrics in.
//   - Building chains of certificates as the web does (name constraints, policies,
//     the system's roots): the agent verifies by auth/ca alone, and what is left out
//     refuses.
var edits = []edit{
	leaveOut("src/crypto/hpke/hpke.go", "func NewSender(pk PublicKey, kdf KDF, aead AEAD, info []byte) (enc []byte, s *Sender, err error) {", "nil, nil, "),
	leaveOut("src/crypto/hpke/kem.go", "func NewKEM(id uint16) (KEM, error) {", "nil, "),
	leaveOut("src/crypto/hpke/kdf.go", "func NewKDF(id uint16) (KDF, error) {", "nil, "),
	leaveOut("src/crypto/hpke/aead.go", "func NewAEAD(id uint16) (AEAD, error) {", "nil, "),
	olderTLS("src/crypto/tls/handshake_client.go", "func (hs *clientHandshakeState) handshake() error {"),
	olderTLS("src/crypto/tls/handshake_server.go", "func (hs *serverHandshakeState) handshake() error {"),
	{"src/crypto/x509/verify.go", verifyHead, verifyHead + "\n\treturn nil, errors.New(\"x509: chains are left out of this build\")"},
	{"src/internal/godebug/godebug.go", `	registerMetric("/godebug/non-default-behavior/"+s.Name()+":events", s.nonDefault.Load)`, ""},
}

const verifyHead = "func (c *Certificate) Verify(opts VerifyOptions) ([][]*Certificate, error) {"

// leaveOut makes a function of crypto/hpke return an error and no more.
func leaveOut(file, head, values string) edit {
	return edit{file, head, head + "\n\treturn " + values + `errors.New("hpke is left out of this build")`}
}

// olderTLS makes the handshake of TLS 1.2 and below fail and do no more.
func olderTLS(file, head string) edit {
	return edit{file, head, head + "\n\treturn errors.New(\"tls: versions below 1.3 are left out of this build\")"}
}

func (e edit) change() change { return change{e.file, e.apply} }

func (e edit) apply(src []byte) ([]byte, error) {
	if bytes.Count(src, []byte(e.old)) != 1 {
		return nil, fmt.Errorf("no longer has %q once: look again at what this Go release does there, then mend the edit", e.old)
	}
	return bytes.Replace(src, []byte(e.old), []byte(e.new), 1), nil
}
