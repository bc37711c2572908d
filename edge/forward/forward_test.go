package forward

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"hawser/edge/login"
)

type rule bool

func (r rule) Forward(string, netip.Addr, uint16) bool { return bool(r) }
func (r rule) Socket(string) bool                      { return bool(r) }

var root = login.Account{Name: "root", Groups: []uint32{0}}
var bob = login.Account{Name: "bob", UID: 4242, GID: 4343, Groups: []uint32{4343}}

func TestDialAsksAboutTheAddress(t *testing.T) {
	l, err := Listen(t.Context(), root, "tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for _, host := range []string{"127.0.0.1", "localhost", "0.0.0.0", "::ffff:127.0.0.1"} {
		c, err := Dial(t.Context(), root, rule(true), "tcp", net.JoinHostPort(host, port))
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		c.Close()
		if _, err := Dial(t.Context(), root, rule(false), "tcp", net.JoinHostPort(host, port)); !errors.Is(err, ErrForbidden) {
			t.Errorf("%s: %v", host, err)
		}
	}
	for _, bad := range []string{"", ":1", "h", "127.0.0.1:0", "127.0.0.1:65536"} {
		if _, err := Dial(t.Context(), root, rule(true), "tcp", bad); !errors.Is(err, ErrConnect) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestListenersStayOnTheLoopback(t *testing.T) {
	for _, host := range []string{"", "0.0.0.0", "192.0.2.1", "*"} {
		l, err := Listen(t.Context(), bob, "tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Fatal(err)
		}
		if !l.Addr().(*net.TCPAddr).IP.IsLoopback() {
			t.Errorf("%q: %v", host, l.Addr())
		}
		l.Close()
	}
	if _, err := Listen(t.Context(), bob, "tcp", "localhost:80"); !errors.Is(err, ErrListen) {
		t.Error(err)
	}
}

func TestSocketsAreTheLogins(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := os.MkdirTemp("/tmp", "hawser-forward-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	if _, err := Listen(t.Context(), bob, "unix", path); !errors.Is(err, ErrListen) {
		t.Error("in root's directory:", err)
	}
	l, err := Listen(t.Context(), root, "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = os.Chmod(dir, 0o755)
	if _, err := Dial(t.Context(), bob, rule(true), "unix", path); !errors.Is(err, ErrConnect) {
		t.Error("bob reached root's socket:", err)
	}
	c, err := Dial(t.Context(), root, rule(true), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	l.Close()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Error("socket left:", err)
	}
}

// "localhost" is either address: who connects by the other one finds the same listener, as with sshd.
func TestListenersAreOnBothLoopbackAddresses(t *testing.T) {
	if l, err := net.Listen("tcp6", "[::1]:0"); err != nil {
		t.Skip("no IPv6 here")
	} else {
		l.Close()
	}
	l, err := Listen(t.Context(), root, "tcp", "localhost:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for _, ip := range []string{"127.0.0.1", "::1"} {
		c, err := net.Dial("tcp", net.JoinHostPort(ip, port))
		if err != nil {
			t.Fatal(err)
		}
		got, err := l.Accept()
		if err != nil || got.RemoteAddr().String() != c.LocalAddr().String() {
			t.Errorf("%s: %v", ip, err)
		}
		got.Close()
		c.Close()
	}
	l.Close()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}
