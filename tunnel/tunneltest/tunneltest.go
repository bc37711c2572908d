// Package tunneltest has what tests of tunnels need: a carrier in memory (Pair), TLS configurations for the real ones
// (TLSConfigs), and the suite every carrier must pass (RunConformance).
package tunneltest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// Pair returns both ends of a tunnel in memory, closed when the test ends.
func Pair(t testing.TB) (hub, edge tunnel.Conn) {
	h, e := newMemory()
	t.Cleanup(func() {
		e.CloseWithError(wire.CloseNormal, "the test ended")
		h.CloseWithError(wire.CloseNormal, "the test ended")
	})
	return h, e
}

// TLSConfigs returns configurations for a hub and an edge that accept each other's self-signed certificate and no other.
func TLSConfigs(t testing.TB) (hub, edge *tls.Config) {
	t.Helper()
	hubCert, edgeCert := selfSigned(t, "hub"), selfSigned(t, "edge")
	hubPool, edgePool := x509.NewCertPool(), x509.NewCertPool()
	hubPool.AddCert(hubCert.Leaf)
	edgePool.AddCert(edgeCert.Leaf)
	hub = &tls.Config{Certificates: []tls.Certificate{hubCert}, ClientAuth: tls.RequireAndVerifyClientCert,
		ClientCAs: edgePool, NextProtos: []string{tunnel.ALPN}, MinVersion: tls.VersionTLS13}
	edge = &tls.Config{Certificates: []tls.Certificate{edgeCert}, RootCAs: hubPool, ServerName: "hub",
		NextProtos: []string{tunnel.ALPN}, MinVersion: tls.VersionTLS13}
	return hub, edge
}

func selfSigned(t testing.TB, name string) tls.Certificate {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// Open opens a stream at the hub, writes hello to it and accepts it at the edge.
func Open(t testing.TB, hub, edge tunnel.Conn, hello string) (h, e tunnel.Stream) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	h, err := hub.OpenStream(ctx)
	if err != nil {
		t.Fatalf("OpenStream: %v", err)
	}
	if _, err := h.Write([]byte(hello)); err != nil {
		t.Fatalf("write the first bytes: %v", err)
	}
	if e, err = edge.AcceptStream(ctx); err != nil {
		t.Fatalf("AcceptStream: %v", err)
	}
	return h, e
}

// testTimeout bounds every wait of the suite: generous, for machines under load.
const testTimeout = 20 * time.Second
