package edge

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"hawser/auth/ca"
	"hawser/tunnel"
	"hawser/tunnel/wire"
	"hawser/tunnel/yamuxconn"
)

// answerer is a TCP server that is no hub.
func answerer(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { ln.Close(); <-done })
	go func() {
		defer close(done)
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			serve(nc)
			nc.Close()
		}
	}()
	return ln.Addr().String()
}

// portalCert is what a portal shows: a name, no Hawser role.
func portalCert(t *testing.T, name string) tls.Certificate {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestWhatAnswersInAHubsPlaceIsNamed(t *testing.T) {
	cert := portalCert(t, "Hotel\x1b[2J WiFi")
	own := portalCert(t, "device")
	trust := &ca.Trust{Cluster: "c"}
	dial := func(addr string) error {
		a := &Agent{clock: newClock(time.Now)}
		nc, err := a.dialTCP(t.Context(), "", mustAddr(addr))
		if err != nil {
			return err
		}
		defer nc.Close()
		_, err = yamuxconn.Client(t.Context(), nc, clientTLS(own, func(cs tls.ConnectionState) error { return a.verifyHub(cs, trust) }, tunnel.ALPN), yamuxconn.Options{})
		return err
	}
	server := func(c *tls.Config) func(net.Conn) {
		return func(nc net.Conn) {
			s := tls.Server(nc, c)
			_ = s.Handshake()
			_, _ = io.Copy(io.Discard, s)
		}
	}
	for name, serve := range map[string]func(net.Conn){
		"a portal with TLS 1.3": server(&tls.Config{Certificates: []tls.Certificate{cert}}),
		"one with TLS 1.2":      server(&tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: tls.VersionTLS12}),
		"one with HTTP/2 only":  server(&tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}),
		"plain HTTP": func(nc net.Conn) {
			_, _ = nc.Read(make([]byte, 1))
			_, _ = io.WriteString(nc, "HTTP/1.1 302 Found\r\nLocation: http://portal/\r\n\r\n")
			_, _ = io.Copy(io.Discard, nc)
		},
	} {
		err := dial(answerer(t, serve))
		kind, text := classify(err)
		if kind != wire.EventIntercepted || !strings.Contains(text, "captive portal") || strings.Contains(text, "\x1b") {
			t.Errorf("%s: %v %q (%v)", name, kind, text, err)
		}
		if name == "a portal with TLS 1.3" && !(errors.Is(err, ErrHub) && strings.Contains(text, `subject "Hotel\x1b[2J WiFi"`)) {
			t.Errorf("%s: %q", name, text)
		}
	}
}

func TestAFailureIsClassifiedByWhatTellsMost(t *testing.T) {
	op := func(e error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", e)}
	}
	for _, tt := range []struct {
		err  error
		kind wire.EventKind
		text string
	}{
		{&net.DNSError{Err: "no such host", Name: "hub.example"}, wire.EventDNS, "no such host"},
		{&net.DNSError{Err: "dial udp 192.0.2.1:53: connect: network is unreachable", Name: "h"}, wire.EventNoRoute, "no network"},
		{op(syscall.ENETUNREACH), wire.EventNoRoute, "no route"},
		{op(syscall.EPERM), wire.EventNoRoute, "firewall"},
		{op(syscall.ECONNREFUSED), wire.EventUnreachable, "refused"},
		{context.DeadlineExceeded, wire.EventUnreachable, "no answer"},
		{errors.Join(fmt.Errorf("quic: %w", os.ErrDeadlineExceeded), op(syscall.ENETUNREACH)), wire.EventUnreachable, "no answer"},
		{errors.Join(op(syscall.ENETUNREACH), op(syscall.ECONNREFUSED)), wire.EventUnreachable, "closed"},
		{errors.Join(op(syscall.ECONNREFUSED), &foreignError{issuer: "x", subject: "y"}), wire.EventIntercepted, `issuer "x"`},
		{&proxyError{addr: "p:1", err: op(syscall.ENETUNREACH)}, wire.EventNoRoute, ""},
		{&proxyError{addr: "p:1", err: op(syscall.ECONNREFUSED)}, wire.EventProxy, "p:1"},
		{&finalError{&RefusedError{What: "register", Code: wire.CloseBanned}}, wire.EventUnauthorized, "register refused"},
		{&RefusedError{What: "register", Code: wire.CloseRate}, wire.EventRefused, ""},
		{&RefusedError{What: "register", Code: wire.CloseExpired}, wire.EventCertificate, ""},
		{fmt.Errorf("%w: x", ErrHub), wire.EventCertificate, ""},
		{errors.New("remote error: tls: no application protocol"), wire.EventIntercepted, "a hub of another version"},
		{errors.Join(versionError(7), op(syscall.ECONNREFUSED)), wire.EventRefused, "the hub speaks version 7"},
		{errors.New("odd"), wire.EventUnreachable, "odd"},
	} {
		if kind, text := classify(tt.err); kind != tt.kind || !strings.Contains(text, tt.text) {
			t.Errorf("%v: %v %q, want %v %q", tt.err, kind, text, tt.kind, tt.text)
		}
	}
}

func TestBehindAPortalTheAgentComesBackSoonAndNotAtOnce(t *testing.T) {
	a := &Agent{}
	for _, random := range []func(int64) int64{func(int64) int64 { return 0 }, func(n int64) int64 { return n - 1 }} {
		b := &backoff{rand: random}
		for range 20 {
			if d := a.retryDelay(b, &foreignError{issuer: "x", subject: "y"}); d < 30*time.Second || d > 120*time.Second {
				t.Errorf("waits %s", d)
			}
		}
	}
	if list := a.history.list(time.Now()); len(list) != 1 || list[0].Kind != wire.EventIntercepted || list[0].Times != 40 {
		t.Errorf("%+v", list)
	}
}

func mustAddr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
