package proxyproto

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
)

// listening is a Listener on loopback that believes headers from networks, and what it refused.
func listening(t *testing.T, networks ...string) (*Listener, chan error) {
	t.Helper()
	nl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := make(chan error, 10)
	l := &Listener{Listener: nl, Refused: func(_ net.Addr, err error) { refused <- err }}
	for _, n := range networks {
		l.From = append(l.From, netip.MustParsePrefix(n))
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, refused
}

func dial(t *testing.T, l *Listener, says []byte) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := c.Write(says); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAHeaderFromANamedNetworkIsBelieved(t *testing.T) {
	l, _ := listening(t, "10.0.0.0/8", "127.0.0.0/8")
	h := pair("192.0.2.7:40000", "198.51.100.1:22")
	dial(t, l, append(h.Append(nil), "SSH-2.0-x\r\n"...))
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := make([]byte, 11)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "SSH-2.0-x\r\n" {
		t.Errorf("after the header came %q, %v", b, err)
	}
	if c.RemoteAddr().String() != h.Source.String() || c.LocalAddr().String() != h.Destination.String() {
		t.Errorf("addresses %v and %v", c.RemoteAddr(), c.LocalAddr())
	}
}

func TestANamedNetworkMustSendAHeader(t *testing.T) {
	l, refused := listening(t, "127.0.0.0/8")
	go func() { _, _ = l.Accept() }()
	c := dial(t, l, []byte("SSH-2.0-OpenSSH_10.0 and more\r\n"))
	if err := <-refused; !errors.Is(err, ErrNoHeader) {
		t.Errorf("refused with %v", err)
	}
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes came", n)
	}
}

func TestASilentProxyHoldsUpNobody(t *testing.T) {
	l, _ := listening(t, "127.0.0.0/8")
	dial(t, l, nil)
	h := pair("192.0.2.7:40000", "198.51.100.1:22")
	dial(t, l, h.Append(nil))
	c, err := l.Accept()
	if err != nil || c.RemoteAddr().String() != h.Source.String() {
		t.Fatalf("Accept = %v, %v", c, err)
	}
	_ = c.Close()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// TestAHeaderFromElsewhereIsRefused: with and without networks named, and however it is cut into pieces.
func TestAHeaderFromElsewhereIsRefused(t *testing.T) {
	header := pair("192.0.2.7:40000", "198.51.100.1:22").Append(nil)
	for _, networks := range [][]string{nil, {"10.0.0.0/8"}} {
		for _, at := range []int{5, 11, 12, len(header)} {
			l, refused := listening(t, networks...)
			client := dial(t, l, header[:at])
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if c.RemoteAddr().String() != client.LocalAddr().String() {
				t.Errorf("believed: %v", c.RemoteAddr())
			}
			go func() { _, _ = client.Write(header[at:]) }()
			b := make([]byte, 3)
			for err == nil {
				_, err = c.Read(b)
			}
			if !errors.Is(err, ErrRefused) {
				t.Errorf("networks %v, cut at %d: %v", networks, at, err)
			}
			if got := <-refused; !errors.Is(got, ErrRefused) {
				t.Errorf("refused with %v", got)
			}
		}
	}
}

func TestWhatIsNoHeaderPasses(t *testing.T) {
	l, _ := listening(t)
	dial(t, l, []byte("\r\n\r\n\x00\r\nQUIX and on"))
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := make([]byte, 18)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "\r\n\r\n\x00\r\nQUIX and on" {
		t.Errorf("%q, %v", b, err)
	}
}
