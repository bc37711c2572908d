package ca

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"hawser/auth/internal/tlv"
)

// Errors of ParseToken and Token.Reveal.
var (
	ErrNoToken      = errors.New("not a Hawser token: it begins with hwt1_")
	ErrTokenDamaged = errors.New("token is incomplete or damaged: copy the whole line that hawser token create printed")
	ErrBadToken     = errors.New("token holds what no token may")
)

// The kinds of token.
const (
	TokenEdge = "edge"
	TokenHub  = "hub"
)

const tokenPrefix = "hwt1_"

// Secret is bytes that print as [redacted].
type Secret []byte

// Format writes [redacted] whatever the verb.
func (Secret) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, "[redacted]") }

// Token lets a machine join: where the cluster is, how to know it, and the secret that auth admits it by. It prints
// without the secret; Reveal gives the string to hand over.
//
// That string is "hwt1_" and, in base64url without padding, TLV and the first 4 bytes of the TLV's SHA-256. The fields: 1
// kind, "edge" or "hub"; 2 cluster, string ≤ 253; 3 address, host:port, repeated 1 to 16 times; 4 pin, 32 bytes, the
// SHA-256 of the tunnel CA's SubjectPublicKeyInfo; 5 secret, 16 to 64 bytes. An edge's may have no secret: it is no right
// then, and serves devices whose keys were imported.
type Token struct {
	Kind      string
	Cluster   string
	Addresses []string // hubs' for an edge, auth's for a hub
	Pin       string   // see Pin
	Secret    Secret
}

// String names the token without its secret.
func (t Token) String() string {
	return fmt.Sprintf("%s token for %s [redacted]", t.Kind, t.Cluster)
}

// Reveal returns the string that ParseToken reads, secret included.
func (t Token) Reveal() (string, error) {
	if err := t.valid(); err != nil {
		return "", err
	}
	pin, err := parsePin(t.Pin)
	if err != nil {
		return "", err
	}
	b := tlv.AppendString(nil, 1, t.Kind)
	b = tlv.AppendString(b, 2, t.Cluster)
	b = tlv.AppendStrings(b, 3, t.Addresses)
	b = tlv.AppendBytes(b, 4, pin[:])
	b = tlv.AppendBytes(b, 5, t.Secret)
	sum := sha256.Sum256(b)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(append(b, sum[:4]...)), nil
}

// ParseToken reads what Reveal wrote; space around it is ignored. The errors say nothing of the content.
func ParseToken(s string) (Token, error) {
	text, ok := strings.CutPrefix(strings.TrimSpace(s), tokenPrefix)
	if !ok {
		return Token{}, ErrNoToken
	}
	if len(text) > maxToken {
		return Token{}, ErrTokenDamaged
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < 4 {
		return Token{}, ErrTokenDamaged
	}
	body, check := b[:len(b)-4], b[len(b)-4:]
	if sum := sha256.Sum256(body); string(sum[:4]) != string(check) {
		return Token{}, ErrTokenDamaged
	}
	var t Token
	err = tlv.Read(body, func(tag uint8, v []byte) error {
		switch tag {
		case 1:
			return tlv.String(&t.Kind, v, 16)
		case 2:
			return tlv.String(&t.Cluster, v, maxCluster)
		case 3:
			return tlv.Element(&t.Addresses, v, maxTokenAddress, maxTokenAddrs)
		case 4:
			var sum [32]byte
			err := tlv.Fixed(sum[:], v)
			t.Pin = pinText(sum)
			return err
		case 5:
			t.Secret = append(Secret(nil), v...)
		}
		return nil
	})
	if err != nil {
		return Token{}, fmt.Errorf("%w: %w", ErrBadToken, err)
	}
	return t, t.valid()
}

func (t Token) valid() error {
	if t.Kind != TokenEdge && t.Kind != TokenHub {
		return fmt.Errorf("%w: kind", ErrBadToken)
	}
	if err := CheckCluster(t.Cluster); err != nil {
		return fmt.Errorf("%w: %w", ErrBadToken, err)
	}
	if len(t.Addresses) < 1 || len(t.Addresses) > maxTokenAddrs {
		return fmt.Errorf("%w: number of addresses", ErrBadToken)
	}
	for _, a := range t.Addresses {
		if !validAddress(a) {
			return fmt.Errorf("%w: address %q is not host:port", ErrBadToken, a)
		}
	}
	if _, err := parsePin(t.Pin); err != nil {
		return fmt.Errorf("%w: %w", ErrBadToken, err)
	}
	if len(t.Secret) == 0 && t.Kind == TokenEdge {
		return nil
	}
	if len(t.Secret) < minTokenSecret || len(t.Secret) > maxTokenSecret {
		return fmt.Errorf("%w: length of the secret", ErrBadToken)
	}
	return nil
}

func validAddress(a string) bool {
	host, port, err := net.SplitHostPort(a)
	if err != nil || host == "" || len(a) > maxTokenAddress {
		return false
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return false
	}
	return !strings.ContainsFunc(a, func(r rune) bool { return r <= ' ' || r > '~' })
}
