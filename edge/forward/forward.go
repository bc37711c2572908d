// Package forward makes the connections and listeners of port forwarding in the device's network, with the login's rights: sockets in the
// file system are reached and made as that account, and the policy is asked about the very address that is dialled.
//
// Start from Dial for what a person reaches through the device, Listen for what the device reaches at the person's side.
package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"hawser/edge/login"
)

// Errors to branch on.
var (
	// ErrForbidden: the policy, or the login's rights, do not allow this target.
	ErrForbidden = errors.New("target not allowed")
	// ErrConnect: the target is allowed and could not be reached.
	ErrConnect = errors.New("connect failed")
	// ErrListen: the listener could not be made.
	ErrListen = errors.New("cannot listen")
)

const (
	// dialTimeout is for one address. A host that drops packets should not hold a channel for the kernel's two minutes.
	dialTimeout = 20 * time.Second
	// maxAddresses of a name are tried.
	maxAddresses = 8
	// maxPath is the longest socket path, sockaddr_un's 108 with its end.
	maxPath = 107
	// firstFree is the first port that needs no privilege.
	firstFree = 1024
)

// Access is the policy about targets; safe for concurrent use.
type Access interface {
	// Forward reports whether port of ip may be reached; host is the name the person used.
	Forward(host string, ip netip.Addr, port uint16) bool
	// Socket reports whether the socket at path may be reached.
	Socket(path string) bool
}

// Dial connects to target: "host:port" for network tcp, a path for unix.
//
// A name is resolved here, each address is put to access, and only allowed addresses are dialled, as numbers: nothing is resolved twice.
func Dial(ctx context.Context, a login.Account, access Access, network, target string) (net.Conn, error) {
	switch network {
	case "tcp":
		return dialTCP(ctx, access, target)
	case "unix":
		return dialUnix(ctx, a, access, target)
	}
	return nil, fmt.Errorf("%w: network %q", ErrForbidden, network)
}

func dialTCP(ctx context.Context, access Access, target string) (net.Conn, error) {
	host, port, err := splitHostPort(target)
	if err != nil || host == "" || port == 0 {
		return nil, fmt.Errorf("%w: target %q is not host:port", ErrConnect, target)
	}
	addrs, err := resolve(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConnect, err)
	}
	failed := fmt.Errorf("%w: %q", ErrForbidden, target)
	for _, ip := range addrs {
		if !access.Forward(host, ip, port) {
			continue
		}
		d := net.Dialer{Timeout: dialTimeout}
		c, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(ip, port).String())
		if err == nil {
			return c, nil
		}
		failed = fmt.Errorf("%w: %w", ErrConnect, err)
	}
	return nil, failed
}

// resolve gives the addresses to ask the policy about. The unspecified address means this host to the kernel, so it is named for what it is.
func resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	addrs := []netip.Addr{}
	if ip, err := netip.ParseAddr(host); err == nil {
		addrs = append(addrs, ip)
	} else if addrs, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host); err != nil {
		if host != "localhost" { // a device without /etc/hosts still has one
			return nil, err
		}
		addrs = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	addrs = addrs[:min(len(addrs), maxAddresses)]
	for i, ip := range addrs {
		ip = ip.Unmap()
		switch ip {
		case netip.IPv4Unspecified():
			ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		case netip.IPv6Unspecified():
			ip = netip.IPv6Loopback()
		}
		addrs[i] = ip
	}
	return addrs, nil
}

func dialUnix(ctx context.Context, a login.Account, access Access, path string) (c net.Conn, err error) {
	if err := checkPath(path); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForbidden, err)
	}
	if !access.Socket(path) {
		return nil, fmt.Errorf("%w: %q", ErrForbidden, path)
	}
	err = a.As(func() error {
		var d net.Dialer
		c, err = d.DialContext(ctx, "unix", path)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConnect, err)
	}
	return c, nil
}

// Listen makes the listener a person asked for: network tcp with "host:port" (port 0 is any free one), or unix with a path.
//
// As with OpenSSH's GatewayPorts=no, a TCP listener is on the loopback whatever host says, on both addresses unless host is one of them; ports below 1024 are for uid 0 only. A socket is
// made, owned and finally removed as the login, mode 0600; an existing file is left alone and is an error.
func Listen(ctx context.Context, a login.Account, network, address string) (net.Listener, error) {
	var l net.Listener
	var err error
	switch network {
	case "tcp":
		l, err = listenTCP(ctx, a, address)
	case "unix":
		l, err = listenUnix(a, address)
	default:
		err = fmt.Errorf("network %q", network)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrListen, err)
	}
	return l, nil
}

func listenTCP(ctx context.Context, a login.Account, address string) (net.Listener, error) {
	host, port, err := splitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("%q is not host:port", address)
	}
	if port != 0 && port < firstFree && a.UID != 0 {
		return nil, fmt.Errorf("port %d needs the login root", port)
	}
	var lc net.ListenConfig
	on := func(network, ip string) (net.Listener, error) {
		return lc.Listen(ctx, network, net.JoinHostPort(ip, strconv.Itoa(int(port))))
	}
	if host == "::1" {
		return on("tcp6", host)
	}
	four, err := on("tcp4", "127.0.0.1")
	if host == "127.0.0.1" {
		return four, err
	}
	if err == nil {
		port = uint16(four.Addr().(*net.TCPAddr).Port)
	}
	six, err6 := on("tcp6", "::1")
	switch {
	case err != nil && err6 != nil:
		return nil, err
	case err != nil:
		return six, nil
	case err6 != nil:
		return four, nil
	}
	return newBoth(four, six), nil
}

// both is a listener on the two loopback addresses: "localhost" is one or the other.
type both struct {
	net.Listener // IPv4
	six          net.Listener
	accepted     chan accepted
	closed       chan struct{}
	once         sync.Once
	wg           sync.WaitGroup
}

type accepted struct {
	c   net.Conn
	err error
}

func newBoth(four, six net.Listener) *both {
	b := &both{Listener: four, six: six, accepted: make(chan accepted), closed: make(chan struct{})}
	for _, l := range []net.Listener{four, six} {
		b.wg.Go(func() {
			for {
				c, err := l.Accept()
				select {
				case b.accepted <- accepted{c, err}:
				case <-b.closed:
					if c != nil {
						c.Close()
					}
					return
				}
			}
		})
	}
	return b
}

func (b *both) Accept() (net.Conn, error) {
	select {
	case a := <-b.accepted:
		return a.c, a.err
	case <-b.closed:
		return nil, net.ErrClosed
	}
}

func (b *both) Close() error {
	b.once.Do(func() {
		close(b.closed)
		_ = b.Listener.Close()
		_ = b.six.Close()
		b.wg.Wait()
	})
	return nil
}

func listenUnix(a login.Account, path string) (net.Listener, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	return a.ListenUnix(path)
}

func checkPath(path string) error {
	if !filepath.IsAbs(path) || len(path) > maxPath {
		return fmt.Errorf("%q is not an absolute path of at most %d bytes", path[:min(len(path), maxPath)], maxPath)
	}
	return nil
}

func splitHostPort(s string) (string, uint16, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return host, uint16(n), err
}
