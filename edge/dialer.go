package edge

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"hawser/tunnel/wire"
)

const (
	// maxProxyAnswer bounds the header a proxy answers CONNECT with.
	maxProxyAnswer = 8 << 10
	// proxyFromEnv as Config.Proxy means the variables that other programs go by.
	proxyFromEnv = "env"
	// dialSegment is TCP_MAXSEG: with headers and options a packet of at most 1280 bytes, which every path must carry. Path MTU discovery needs
	// ICMP, which many mobile networks drop: without this a tunnel hangs at its first full packet.
	dialSegment = 1220
)

// proxy is an HTTP proxy that TCP goes through. Its password is in no error and no log line.
type proxy struct {
	addr string // host:port
	auth string // of Proxy-Authorization; empty: none
}

// parseProxy reads http://[USER:PASSWORD@]HOST[:PORT], "env", or nothing, which is no proxy and nil.
func parseProxy(s string) (*proxy, error) {
	if s == proxyFromEnv {
		s = ""
		for _, name := range []string{"https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"} {
			if s = os.Getenv(name); s != "" {
				break
			}
		}
		if s != "" && !strings.Contains(s, "://") {
			s = "http://" + s
		}
	}
	if s == "" {
		return nil, nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" || u.Hostname() == "" || u.Opaque != "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" {
		return nil, errors.New("a proxy is http://[USER:PASSWORD@]HOST[:PORT], or \"env\" for HTTPS_PROXY") // not the URL: it may hold a password
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	p := &proxy{addr: net.JoinHostPort(u.Hostname(), port)}
	if _, _, err := splitHostPort(p.addr); err != nil {
		return nil, fmt.Errorf("proxy %s: %w", wire.Quote(p.addr, 80), err)
	}
	if u.User != nil {
		password, _ := u.User.Password()
		p.auth = "Basic " + base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password))
	}
	return p, nil
}

// A proxyError is what the proxy said instead of connecting, or that it could not be reached.
type proxyError struct {
	addr   string
	status int    // 0: no answer of HTTP
	reason string // the proxy's own
	err    error
}

func (e *proxyError) Error() string {
	text := "proxy " + e.addr + ": "
	switch {
	case e.err != nil:
		return text + e.err.Error()
	case e.status == 407:
		text += "it wants other credentials; give them in --proxy http://USER:PASSWORD@HOST:PORT"
	case e.status == 403 || e.status == 405:
		text += "it forbids CONNECT to this hub and port; its administrator has to allow it"
	case e.status >= 500:
		text += "it cannot reach the hub"
	default:
		text += "it answered CONNECT by something else"
	}
	return text + " (" + strconv.Itoa(e.status) + " " + wire.Quote(e.reason, 80) + ")"
}

func (e *proxyError) Unwrap() error { return e.err }

// dialTCP connects to a hub: directly to addr, or through the proxy, which resolves host (host:port as the hub is named) itself.
func (a *Agent) dialTCP(ctx context.Context, host string, addr netip.AddrPort) (net.Conn, error) {
	if a.proxy == nil {
		return dialDirect(ctx, addr.String())
	}
	nc, err := dialDirect(ctx, a.proxy.addr)
	if err != nil {
		return nil, &proxyError{addr: a.proxy.addr, err: err}
	}
	if err := a.proxy.connect(ctx, nc, host); err != nil {
		nc.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	return nc, nil
}

func dialDirect(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{Control: func(_, address string, c syscall.RawConn) error { // yamuxconn sets keepalive and TCP_USER_TIMEOUT
		if ap, err := netip.ParseAddrPort(address); err == nil && ap.Addr().IsLoopback() {
			return nil
		}
		return c.Control(func(fd uintptr) { // one that fails costs a black hole its cure, nothing else
			_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, dialSegment)
		})
	}}
	return d.DialContext(ctx, "tcp", addr)
}

// connect asks the proxy for a way to host:port (RFC 9110, section 9.3.6). After an error nc is unusable.
func (p *proxy) connect(ctx context.Context, nc net.Conn, host string) error {
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	request := "CONNECT " + host + " HTTP/1.1\r\nHost: " + host + "\r\n"
	if p.auth != "" {
		request += "Proxy-Authorization: " + p.auth + "\r\n"
	}
	if _, err := nc.Write([]byte(request + "\r\n")); err != nil {
		return &proxyError{addr: p.addr, err: err}
	}
	// Byte by byte: what follows the header is the tunnel's.
	head := make([]byte, 0, 512)
	for !headEnded(head) {
		if len(head) == maxProxyAnswer {
			return &proxyError{addr: p.addr, err: errors.New("its answer has no end")}
		}
		var b [1]byte
		if _, err := nc.Read(b[:]); err != nil {
			return &proxyError{addr: p.addr, err: fmt.Errorf("no answer to CONNECT: %w", err)}
		}
		head = append(head, b[0])
	}
	status, reason, ok := parseStatus(head)
	switch {
	case !ok:
		return &proxyError{addr: p.addr, err: errors.New("it is no HTTP proxy")}
	case status/100 != 2:
		return &proxyError{addr: p.addr, status: status, reason: reason}
	}
	return nil
}

// headEnded reports whether an HTTP header is complete. A bare LF is taken for CRLF (RFC 9112, section 2.2).
func headEnded(b []byte) bool {
	n := len(b)
	return n >= 2 && b[n-1] == '\n' && (b[n-2] == '\n' || n >= 4 && b[n-2] == '\r' && b[n-3] == '\n')
}

// parseStatus reads the status line, "HTTP/1.1 200 Connection established".
func parseStatus(head []byte) (status int, reason string, ok bool) {
	line, _, _ := strings.Cut(string(head), "\n")
	version, rest, _ := strings.Cut(strings.TrimSuffix(line, "\r"), " ")
	if version != "HTTP/1.1" && version != "HTTP/1.0" {
		return 0, "", false
	}
	code, reason, _ := strings.Cut(rest, " ")
	n, err := strconv.ParseUint(code, 10, 16)
	if err != nil || len(code) != 3 || n < 100 {
		return 0, "", false
	}
	return int(n), reason, true
}
