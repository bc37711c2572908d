package edge

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// fakeProxy answers each connection by answer, after its header, and tells the headers it got.
func fakeProxy(t *testing.T, answer string) (addr string, heads <-chan string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 8)
	done := make(chan struct{})
	t.Cleanup(func() { ln.Close(); <-done })
	go func() {
		defer close(done)
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			r := bufio.NewReader(nc)
			head := ""
			for !strings.HasSuffix(head, "\r\n\r\n") {
				b, err := r.ReadByte()
				if err != nil {
					break
				}
				head += string(b)
			}
			got <- head
			_, _ = io.WriteString(nc, answer)
			if answer == "" {
				_, _ = io.Copy(io.Discard, r) // until the other side gives up
			}
			nc.Close()
		}
	}()
	return ln.Addr().String(), got
}

func TestAProxyIsAskedByTheHubsName(t *testing.T) {
	addr, heads := fakeProxy(t, "HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nthe tunnel")
	p, err := parseProxy("http://al%20ice:s%3Acret@" + addr)
	if err != nil {
		t.Fatal(err)
	}
	nc, err := (&Agent{proxy: p}).dialTCP(t.Context(), "hub.example:443", netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	want := "CONNECT hub.example:443 HTTP/1.1\r\nHost: hub.example:443\r\nProxy-Authorization: Basic YWwgaWNlOnM6Y3JldA==\r\n\r\n"
	if got := <-heads; got != want {
		t.Errorf("asked %q\nwant %q", got, want)
	}
	if rest, err := io.ReadAll(nc); err != nil || string(rest) != "the tunnel" {
		t.Errorf("behind the header: %q, %v", rest, err)
	}
}

func TestAProxysNoIsToldInWords(t *testing.T) {
	for answer, want := range map[string]string{
		"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n": "credentials",
		"HTTP/1.0 403 Forbidden\x1b[2J\r\n\r\n":              "forbids CONNECT",
		"HTTP/1.1 503 Service Unavailable\n\n":               "cannot reach the hub",
		"HTTP/1.1 301 Moved\r\n\r\n":                         "something else",
		"SSH-2.0-OpenSSH\r\n\r\n":                            "no HTTP proxy",
		"HTTP/1.1 2000 OK\r\n\r\n":                           "no HTTP proxy",
		"HTTP/1.1 200 OK\r\n":                                "no answer to CONNECT",
		strings.Repeat("a", maxProxyAnswer):                  "has no end",
	} {
		addr, heads := fakeProxy(t, answer)
		_, err := (&Agent{proxy: &proxy{addr: addr, auth: "Basic c2VjcmV0"}}).dialTCP(t.Context(), "hub.example:443", netip.AddrPort{})
		<-heads
		if err == nil || !strings.Contains(err.Error(), want) || strings.ContainsAny(err.Error(), "\x1b\r\n") || strings.Contains(err.Error(), "c2VjcmV0") {
			t.Errorf("%.40q: %v, want %q", answer, err, want)
		}
		if kind, _ := classify(err); kind != wire.EventProxy {
			t.Errorf("%.40q: classified as %v", answer, kind)
		}
	}
}

func TestASilentProxyIsLeftWithTheContext(t *testing.T) {
	addr, _ := fakeProxy(t, "")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := (&Agent{proxy: &proxy{addr: addr}}).dialTCP(ctx, "hub.example:443", netip.AddrPort{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestOnlyAProxyThatWasNamedIsUsed(t *testing.T) {
	for _, name := range []string{"https_proxy", "HTTPS_PROXY", "http_proxy"} {
		t.Setenv(name, "")
	}
	t.Setenv("HTTP_PROXY", "10.0.0.1:3128")
	if p, err := parseProxy(""); err != nil || p != nil {
		t.Errorf("without being told: %+v, %v", p, err)
	}
	if p, err := parseProxy("env"); err != nil || p == nil || p.addr != "10.0.0.1:3128" || p.auth != "" {
		t.Errorf("env: %+v, %v", p, err)
	}
	t.Setenv("HTTP_PROXY", "")
	if p, err := parseProxy("env"); err != nil || p != nil {
		t.Errorf("env without a proxy: %+v, %v", p, err)
	}
	if p, err := parseProxy("http://[2001:db8::1]/"); err != nil || p.addr != "[2001:db8::1]:80" {
		t.Errorf("%+v, %v", p, err)
	}
	for _, bad := range []string{"proxy:3128", "https://a:s3cret@b:1", "socks5://a:1", "http://", "http://a:s3cret@b:99999", "http://a:s3cret@b:x", "http://a/path", "%"} {
		if p, err := parseProxy(bad); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %+v, %v", bad, p, err)
		}
	}
	c := Config{State: "x", Proxy: "ftp://a"}
	if err := c.Validate(); !errors.Is(err, ErrConfig) {
		t.Errorf("%v", err)
	}
}

// A mobile network that drops what is above 1280 bytes, and the ICMP that would say so, must not stop a tunnel.
func TestTheHubIsToldToSendSmallSegments(t *testing.T) {
	var own net.IP
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			own = n.IP
		}
	}
	if own == nil {
		t.Skip("needs an IPv4 address besides loopback")
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(own.String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	nc, err := dialDirect(t.Context(), ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	for _, c := range []net.Conn{nc, far} {
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		mss := 0
		_ = raw.Control(func(fd uintptr) { mss, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG) })
		if err != nil || mss > dialSegment || mss < 500 {
			t.Errorf("segments of %d bytes, %v", mss, err)
		}
	}
}

func FuzzProxyAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\n"))
	f.Add([]byte("HTTP/1.0 407 \n\n"))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		headEnded(b)
		if status, reason, ok := parseStatus(b); ok && (status < 100 || status > 999 || strings.Contains(reason, "\n")) {
			t.Errorf("%q: %d %q", b, status, reason)
		}
	})
}

func FuzzProxyURL(f *testing.F) {
	for _, s := range []string{"http://u:p@h:1", "http://h", "env", "", "http://[::1]:80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if s == proxyFromEnv {
			return
		}
		p, err := parseProxy(s)
		if err != nil || p == nil {
			return
		}
		if _, _, err := splitHostPort(p.addr); err != nil || strings.ContainsAny(p.auth, "\r\n") {
			t.Errorf("%q: %+v, %v", s, p, err)
		}
	})
}

// connectProxy is an HTTP proxy that serves CONNECT by dialling to, whatever it is asked for, and tells what it was asked.
func connectProxy(t *testing.T, to string) (addr string, asked <-chan string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 64)
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); ln.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer nc.Close()
				stop := context.AfterFunc(ctx, func() { nc.Close() })
				defer stop()
				r := bufio.NewReader(nc)
				first, _ := r.ReadString('\n')
				for line := first; line != "\r\n" && line != ""; {
					line, _ = r.ReadString('\n')
				}
				select {
				case got <- first:
				default:
				}
				far, err := net.Dial("tcp", to)
				if err != nil {
					_, _ = io.WriteString(nc, "HTTP/1.1 502 Bad Gateway\r\n\r\n")
					return
				}
				defer far.Close()
				_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\n\r\n")
				wg.Go(func() { _, _ = io.Copy(far, r); far.Close() })
				_, _ = io.Copy(nc, far)
			})
		}
	})
	return ln.Addr().String(), got
}

func TestAnAgentWithoutDNSRegistersThroughAProxy(t *testing.T) {
	h := newTestHub(t)
	addr, asked := connectProxy(t, h.address)
	dir := t.TempDir()
	h.start(Config{State: dir, Token: h.token("edge"), Name: "gw-1", Proxy: "http://" + addr, Hubs: []string{"hub.invalid:443"}})
	if c := h.next(); c.conn.Carrier() != tunnel.CarrierTLS {
		t.Errorf("registered by %s", c.conn.Carrier())
	}
	if got := <-asked; got != "CONNECT hub.invalid:443 HTTP/1.1\r\n" {
		t.Errorf("asked %q", got)
	}
}
