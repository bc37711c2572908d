package yamuxconn

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/tunneltest"
)

func pair(t *testing.T, o Options) (hub, edge tunnel.Conn) {
	t.Helper()
	return pairBy(t, o, func(addr string) string { return addr })
}

// pairBy dials the address that via makes of the hub's.
func pairBy(t testing.TB, o Options, via func(addr string) string) (hub, edge tunnel.Conn) {
	t.Helper()
	hubTLS, edgeTLS := tunneltest.TLSConfigs(t)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	type accepted struct {
		c   tunnel.Conn
		err error
	}
	got := make(chan accepted, 1)
	go func() {
		nc, err := l.Accept()
		if err != nil {
			got <- accepted{nil, err}
			return
		}
		c, err := Server(t.Context(), tls.Server(nc, hubTLS), o)
		got <- accepted{c, err}
	}()
	nc, err := net.Dial("tcp4", via(l.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	edge, err = Client(t.Context(), nc, edgeTLS, o)
	if err != nil {
		t.Fatal(err)
	}
	a := <-got
	if a.err != nil {
		t.Fatal(a.err)
	}
	return a.c, edge
}

func TestConformance(t *testing.T) {
	tunneltest.RunConformance(t, func(t *testing.T) (tunnel.Conn, tunnel.Conn) { return pair(t, Options{}) })
}

// TestConformanceWithSessionsThatStop runs the suite while sessions stop whenever no stream is open.
func TestConformanceWithSessionsThatStop(t *testing.T) {
	tunneltest.RunConformance(t, func(t *testing.T) (tunnel.Conn, tunnel.Conn) {
		return pair(t, Options{MuxIdle: 2 * time.Millisecond})
	})
}

func TestStuckConformance(t *testing.T) {
	tunneltest.RunStuckConformance(t, func(t *testing.T) (hub, edge tunnel.Conn, freeze func()) {
		hub, edge = pairBy(t, Options{}, func(addr string) string {
			addr, freeze = tunneltest.RelayTCP(t, addr)
			return addr
		})
		return hub, edge, freeze
	})
}
