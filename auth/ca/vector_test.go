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
	s := &setState{cluster: "ber.example", revision: 1}
	for k := Kind(1); k <= kinds; k++ {
		seed := make([]byte, ed25519.SeedSize)
		for i := range seed {
			seed[i] = byte(k)
		}
		s.byKind[k].current = &Authority{Kind: k, Cluster: s.cluster, Created: t0, key: ed25519.NewKeyFromSeed(seed)}
	}
	tunnel := s.byKind[TunnelCA].current
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{s.cluster}, CommonName: "Hawser tunnel CA"},
		NotBefore: t0, NotAfter: t0.Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	var err error
	if tunnel.certificate, err = x509.CreateCertificate(rand.Reader, template, template, tunnel.Public(), tunnel.key); err != nil {
		t.Fatal(err)
	}
	return setOf(s)
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
	// The tunnel CA is rotated: a second one, of another seed, that the first certified.
	rotating := fixedRotation(t, s)
	next := rotating.Trust(8)
	nextBlob, err := rotating.SignTrust(next)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := OpenNextTrust(nextBlob, trust); err != nil || !reflect.DeepEqual(*got, next) {
		t.Errorf("opened as %+v, %v; want %+v", got, err, next)
	}
	// And it is over.
	ended, err := rotating.Advance([]Kind{TunnelCA}, t0)
	if err == nil {
		ended, err = ended.Advance([]Kind{TunnelCA}, t0)
	}
	if err != nil {
		t.Fatal(err)
	}
	last := ended.Trust(9)
	lastBlob, err := ended.SignTrust(last)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := OpenNextTrust(lastBlob, trust); err != nil || !reflect.DeepEqual(*got, last) {
		t.Errorf("opened as %+v, %v; want %+v", got, err, last)
	}
	vectors.Check(t, "../../tunnel/testdata/trust.txt",
		"Trust and time of PROTOCOL.md sections 10.3 and 10.4: the seeds of the tunnel CA and of the time key, the pin, then the blobs.",
		[]vectors.Vector{
			{Name: "TunnelCASeed", Bytes: s.Authority(TunnelCA).key.Seed()}, {Name: "TimeKeySeed", Bytes: s.Authority(TimeKey).key.Seed()},
			{Name: "Pin", Bytes: []byte(pin)}, {Name: "Trust", Bytes: blob},
			{Name: "NextTunnelCASeed", Bytes: rotating.Next(TunnelCA).key.Seed()}, {Name: "TrustRotating", Bytes: nextBlob}, {Name: "TrustRotated", Bytes: lastBlob},
			{Name: "Beacon", Bytes: beacon}, {Name: "Answer", Bytes: answer},
		})
}

// fixedRotation is s in update-clients of a rotation of the tunnel CA, with a fixed next one.
func fixedRotation(t *testing.T, s *Set) *Set {
	t.Helper()
	seed := make([]byte, ed25519.SeedSize)
	for i := range seed {
		seed[i] = 0x15
	}
	old := s.Authority(TunnelCA)
	parent, err := x509.ParseCertificate(old.certificate)
	if err != nil {
		t.Fatal(err)
	}
	next := &Authority{Kind: TunnelCA, Cluster: "ber.example", Created: t0, key: ed25519.NewKeyFromSeed(seed)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: parent.Subject, NotBefore: t0, NotAfter: t0.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	if next.certificate, err = x509.CreateCertificate(rand.Reader, template, template, next.Public(), next.key); err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(3)
	st := s.state().clone(t0)
	e := &st.byKind[TunnelCA]
	if e.cross, err = x509.CreateCertificate(rand.Reader, template, parent, next.Public(), old.key); err != nil {
		t.Fatal(err)
	}
	e.next, e.Grace = next, time.Hour
	e.enter(PhaseUpdateClients, t0, true)
	return setOf(st)
}
