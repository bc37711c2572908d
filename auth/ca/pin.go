package ca

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"strings"
)

const pinPrefix = "sha256:"

// ErrBadPin is returned for a pin that is not "sha256:" and 43 characters of base64url.
var ErrBadPin = errors.New("malformed CA pin")

// Pin returns the pin of a tunnel CA certificate in DER: "sha256:" and the SHA-256 of its SubjectPublicKeyInfo in
// base64url without padding. A pin outlives the certificate as long as the key stays.
func Pin(tunnelCA []byte) (string, error) {
	c, err := x509.ParseCertificate(tunnelCA)
	if err != nil {
		return "", err
	}
	return pinText(sha256.Sum256(c.RawSubjectPublicKeyInfo)), nil
}

// MatchPin reports whether cert's key has that pin. A malformed pin matches nothing.
func MatchPin(cert *x509.Certificate, pin string) bool {
	want, err := parsePin(pin)
	if err != nil {
		return false
	}
	got := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1
}

func pinText(sum [32]byte) string { return pinPrefix + base64.RawURLEncoding.EncodeToString(sum[:]) }

func parsePin(pin string) (sum [32]byte, err error) {
	text, ok := strings.CutPrefix(pin, pinPrefix)
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if !ok || err != nil || len(b) != len(sum) {
		return sum, ErrBadPin
	}
	return [32]byte(b), nil
}
