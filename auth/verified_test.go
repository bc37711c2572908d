package auth

import (
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"hawser/auth/ca"
)

// What a connection's certificate proved is remembered for a second, under the trust that proved it, and never what failed.
func TestAPeerIsVerifiedAgainAfterASecondAndAfterARotation(t *testing.T) {
	b := start(t)
	key, _, _ := ed25519.GenerateKey(nil)
	now := b.cfg.Now()
	der, err := b.set.IssueUserX509(ca.UserX509Request{Name: "ann", Cluster: b.Cluster(), Key: key, TTL: time.Hour, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	var chain []*x509.Certificate
	for _, d := range der {
		c, err := x509.ParseCertificate(d)
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, c)
	}
	trust, v := b.trusted(), new(verified)
	over := now.Add(2 * time.Hour)
	for range 2 {
		if _, err := v.peer(chain, trust, over); !errors.Is(err, ca.ErrExpired) {
			t.Fatalf("expired: %v", err)
		}
	}
	if id, err := v.peer(chain, trust, now); err != nil || id.Name != "ann" {
		t.Fatalf("%+v, %v", id, err)
	}
	if _, err := v.peer(chain, trust, over); !errors.Is(err, ca.ErrExpired) {
		t.Errorf("expired meanwhile: %v", err)
	}
	if _, err := v.peer(chain, &ca.Trust{Cluster: b.Cluster()}, now); err == nil {
		t.Error("still believed when nobody trusts its CA any more")
	}
	if _, err := v.peer(nil, trust, now); !errors.Is(err, ca.ErrNoCertificate) {
		t.Errorf("without a certificate: %v", err)
	}
}
