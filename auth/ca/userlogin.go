package ca

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"strings"
	"time"
)

// oidLogin is the extension of a user's TLS certificate that says when he logged in, RFC 3339 in UTC, and " mfa" where a
// second factor was shown.
var oidLogin = asn1.ObjectIdentifier{2, 25, 1749306119, 3}

// Login is what a user's TLS certificate rests on. It stays when the certificate is renewed.
type Login struct {
	At  time.Time
	MFA bool // a second factor was shown
}

func (l Login) extension() pkix.Extension {
	text := l.At.UTC().Format(time.RFC3339)
	if l.MFA {
		text += " mfa"
	}
	return pkix.Extension{Id: oidLogin, Value: utf8String(text)}
}

// LoginOf reads a user's TLS certificate. One that does not say was issued before certificates did: it rests on its own issue.
func LoginOf(cert *x509.Certificate) Login {
	for _, e := range cert.Extensions {
		if !e.Id.Equal(oidLogin) {
			continue
		}
		text, _ := readUTF8String(e.Value)
		at, mfa := strings.CutSuffix(text, " mfa")
		if t, err := time.Parse(time.RFC3339, at); err == nil {
			return Login{At: t, MFA: mfa}
		}
	}
	return Login{At: cert.NotBefore.Add(Backdate)}
}

// UserCertMFA tells whether a user's SSH certificate, which VerifyUserCert accepted, was issued upon a second factor.
func UserCertMFA(extensions map[string]string) bool {
	_, ok := extensions[extMFA]
	return ok
}
