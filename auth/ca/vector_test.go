package ca

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"reflect"
	"testing"
	"time"

	"hawser/auth/internal/vectors"
)

// fixedSet has the keys of seeds of one repeated byte, the kind's number.
func fixedSet(t *testing.T) *Set {
	t.Helper()
	s := &Set{cluster: "ber.example"}
	for k := Kind(1); k <= kinds; k++ {
		seed := make([]byte, ed25519.SeedSize)
		for i := range seed {
			seed[i] = byte(k)
		}
		s.byKind[k] = &Authority{Kind: k, Cluster: s.cluster, Created: t0, key: ed25519.NewKeyFromSeed(seed)}
	}
	tunnel := s.byKind[TunnelCA]
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{s.cluster}, CommonName: "Hawser tunnel CA"},
		NotBefore: t0, NotAfter: t0.Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	var err error
	if tunnel.certificate, err = x509.CreateCertificate(rand.Reader, template, template, tunnel.Public(), tunnel.key); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestVectorsOfTrustAndTime(t *testing.T) {
	s := fixedSet(t)
	want := s.Trust(7)
	blob, err := s.SignTrust(want)
	if err != nil {
		t.Fatal(err)
	}
	pin, err := Pin(want.TunnelCA[0])
	if err != nil {
		t.Fatal(err)
	}
	trust, err := OpenTrust(blob, pin)
	if err != nil || !reflect.DeepEqual(*trust, want) {
		t.Errorf("opened as %+v, %v; want %+v", trust, err, want)
	}
	nonce := [32]byte{1, 2, 3}
	beacon, answer := s.SignTime(t0, nil), s.SignTime(t0, &nonce)
	for _, b := range [][]byte{beacon, answer} {
		if at, _, err := OpenTime(b, trust); err != nil || !at.Equal(t0) {
			t.Errorf("opened as %v, %v", at, err)
		}
	}
	vectors.Check(t, "../../tunnel/testdata/trust.txt",
		"Trust and time of PROTOCOL.md sections 10.3 and 10.4: the seeds of the tunnel CA and of the time key, the pin, then the blobs.",
		[]vectors.Vector{
			{Name: "TunnelCASeed", Bytes: s.byKind[TunnelCA].key.Seed()}, {Name: "TimeKeySeed", Bytes: s.byKind[TimeKey].key.Seed()},
			{Name: "Pin", Bytes: []byte(pin)}, {Name: "Trust", Bytes: blob}, {Name: "Beacon", Bytes: beacon}, {Name: "Answer", Bytes: answer},
		})
}
