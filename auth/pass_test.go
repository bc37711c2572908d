package auth

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/api/apiclient"
	"hawser/tunnel"
	"hawser/tunnel/proxyproto"
)

// passingHub is a hub's program in the hands of somebody who wants to know and change what people say to auth: it has the hub's credentials and
// passes people's bytes on, keeping and altering what it likes.
type passingHub struct {
	addr   string
	claims netip.AddrPort
	alter  func(toAuth bool, at int, b []byte)

	mu   sync.Mutex
	seen bytes.Buffer // all that went through, both ways
}

// dialPass connects to auth as a hub does to pass a connection on.
func dialPass(ctx context.Context, b *bench, cert *tls.Certificate) (*tls.Conn, error) {
	d := tls.Dialer{Config: &tls.Config{
		NextProtos: []string{tunnel.ALPNPass}, InsecureSkipVerify: true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil },
	}}
	c, err := d.DialContext(ctx, "tcp", b.Addr())
	if err != nil {
		return nil, err
	}
	return c.(*tls.Conn), nil
}

func startPassingHub(t *testing.T, b *bench, cert *tls.Certificate) *passingHub {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &passingHub{addr: l.Addr().String(), claims: netip.MustParseAddrPort("203.0.113.9:4711")}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			person, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer person.Close()
				up, err := dialPass(t.Context(), b, cert)
				if err != nil {
					return
				}
				defer up.Close()
				if _, err := up.Write(proxyproto.Header{Source: h.claims, Destination: h.claims}.Append(nil)); err != nil {
					return
				}
				wg.Go(func() { h.copy(person, up, false) })
				h.copy(up, person, true)
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return h
}

func (h *passingHub) copy(to, from net.Conn, toAuth bool) {
	defer to.Close()
	defer from.Close()
	buf, at := make([]byte, 4096), 0
	for {
		n, err := from.Read(buf)
		h.mu.Lock()
		h.seen.Write(buf[:n])
		h.mu.Unlock()
		if h.alter != nil {
			h.alter(toAuth, at, buf[:n])
		}
		at += n
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

func (b *bench) through(t *testing.T, cert *tls.Certificate, addrs ...string) *apiclient.Client {
	t.Helper()
	c, err := apiclient.Dial(apiclient.Options{
		More: addrs, Verify: apiclient.ByPin(b.Cluster(), b.Pin(), nil), Certificate: func() *tls.Certificate { return cert },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func addUser(c *apiclient.Client, name string) error { return addUserWithin(c, name, 10*time.Second) }

func addUserWithin(c *apiclient.Client, name string, d time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	_, err := c.Admin.AddUser(ctx, connect.NewRequest(&api.AddUserRequest{Name: name, Roles: []string{"operator"}}))
	return err
}

func TestHubThatPassesTLSReadsNothingAndIsNamedForWhatItClaims(t *testing.T) {
	b := start(t)
	hub := b.hub(t)
	h := startPassingHub(t, b, hub.certificate())
	if err := addUser(b.through(t, b.adminCert, h.addr), "quite-a-secret"); err != nil {
		t.Fatal(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.seen.Len() < 2000 {
		t.Fatalf("only %d bytes went through the hub", h.seen.Len())
	}
	for _, secret := range []string{"quite-a-secret", "operator", "AddUser", "admin"} {
		if bytes.Contains(h.seen.Bytes(), []byte(secret)) {
			t.Errorf("the hub saw %q", secret)
		}
	}
	for line := range strings.Lines(b.auditText(t)) {
		var e Event
		if json.Unmarshal([]byte(line), &e) == nil && e.Object == "quite-a-secret" {
			if e.Source != "203.0.113.9:4711" || e.Via != hub.res.Name {
				t.Errorf("the event says source %q via %q, want the hub's claim and its name", e.Source, e.Via)
			}
			return
		}
	}
	t.Error("no event names the user")
}

// One bit is changed in each of many places of either direction: the call fails each time, and auth has done nothing.
func TestHubThatPassesTLSCannotAlterIt(t *testing.T) {
	b := start(t)
	cert := b.hub(t).certificate()
	for _, toAuth := range []bool{true, false} {
		for _, target := range []int{0, 3, 40, 400, 1500, 2000, 2400} {
			h := startPassingHub(t, b, cert)
			var changed atomic.Bool
			h.alter = func(dir bool, at int, p []byte) {
				if dir == toAuth && !changed.Load() && target >= at && target < at+len(p) {
					p[target-at] ^= 0x10
					changed.Store(true)
				}
			}
			// A length that was altered makes one end wait.
			err := addUserWithin(b.through(t, b.adminCert, h.addr), "altered", time.Second)
			if !changed.Load() {
				continue // so far it did not get
			}
			if err == nil {
				t.Errorf("byte %d, to auth %v: the call was answered", target, toAuth)
			}
			if toAuth {
				if u, _ := b.view.user("altered"); u != nil {
					t.Fatalf("byte %d: auth acted on an altered call", target)
				}
			}
		}
	}
}

func TestOnlyAHubPassesConnections(t *testing.T) {
	b := start(t)
	hub := b.hub(t)
	good := hub.certificate()
	if err := passOnce(t, b, good); err != nil {
		t.Fatalf("a hub: %v", err)
	}
	device, key := b.device(t, hub, "gw")
	for name, cert := range map[string]*tls.Certificate{
		"a device":      {Certificate: device.Chain, PrivateKey: key},
		"nobody":        {},
		"a joiner":      selfSigned(t, newKey(t)),
		"a person":      b.adminCert,
		"another's hub": start(t).hub(t).certificate(),
	} {
		if err := passOnce(t, b, cert); err == nil {
			t.Errorf("%s passed a connection", name)
		}
	}
	// A hub that is removed passes nothing more, through what it has open neither.
	h := startPassingHub(t, b, good)
	through := b.through(t, b.adminCert, h.addr)
	if err := addUser(through, "before"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.admin.Admin.RemoveHub(t.Context(), connect.NewRequest(&api.RemoveHubRequest{Hub: hub.res.Uuid})); err != nil {
		t.Fatal(err)
	}
	if err := addUser(through, "after"); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("through a hub that was removed: %v", err)
	}
	if err := passOnce(t, b, good); err == nil {
		t.Error("a hub that was removed passed a connection")
	}
}

// passOnce passes one TLS handshake.
func passOnce(t *testing.T, b *bench, cert *tls.Certificate) error {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c, err := dialPass(ctx, b, cert)
	if err != nil {
		return err
	}
	defer c.Close()
	at := netip.MustParseAddrPort("203.0.113.9:4711")
	if _, err := c.Write(proxyproto.Header{Source: at, Destination: at}.Append(nil)); err != nil {
		return err
	}
	inner := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{tunnel.ALPNAPI, "h2"}})
	if err := inner.HandshakeContext(ctx); err != nil {
		return err
	}
	if p := inner.ConnectionState().NegotiatedProtocol; p != "h2" {
		return errors.New("auth chose " + p)
	}
	return nil
}

func TestPassedConnectionWithoutAClientIsClosed(t *testing.T) {
	b := start(t)
	cert := b.hub(t).certificate()
	for name, first := range map[string][]byte{
		"LOCAL":     proxyproto.Header{Local: true}.Append(nil),
		"no header": bytes.Repeat([]byte{22, 3, 1}, 100),
	} {
		c, err := dialPass(t.Context(), b, cert)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write(first); err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v, want the end", name, err)
		}
	}
}

func TestClientTakesTheNextAddressAndKeepsWhatAnswered(t *testing.T) {
	b := start(t)
	h := startPassingHub(t, b, b.hub(t).certificate())
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := dead.Addr().String()
	dead.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, by its backlog, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	stranger := start(t).Addr() // an auth service, of another cluster
	var reached []string
	c, err := apiclient.Dial(apiclient.Options{
		Addr: gone, More: []string{stranger, silent.Addr().String(), h.addr}, Verify: apiclient.ByPin(b.Cluster(), b.Pin(), nil),
		Certificate: func() *tls.Certificate { return b.adminCert }, Reached: func(a string) { reached = append(reached, a) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	began := time.Now()
	if err := addUser(c, "first"); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(began); d > 8*time.Second {
		t.Errorf("took %v with a silent address among them", d)
	}
	c.Reconnect()
	if err := addUser(c, "second"); err != nil {
		t.Fatal(err)
	}
	if len(reached) != 2 || reached[0] != h.addr || reached[1] != h.addr {
		t.Errorf("reached %q, want the hub twice", reached)
	}
}
