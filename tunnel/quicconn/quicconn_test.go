package quicconn

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"

	"hawser/tunnel"
	"hawser/tunnel/tunneltest"
	"hawser/tunnel/wire"
)

func pair(t *testing.T, small bool) (hub, edge tunnel.Conn) {
	t.Helper()
	return pairBy(t, small, func(addr netip.AddrPort) netip.AddrPort { return addr })
}

// pairBy dials the address that via makes of the hub's.
func pairBy(t *testing.T, small bool, via func(addr netip.AddrPort) netip.AddrPort) (hub, edge tunnel.Conn) {
	t.Helper()
	hubTLS, edgeTLS := tunneltest.TLSConfigs(t)
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(udp, hubTLS, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	type accepted struct {
		c   tunnel.Conn
		err error
	}
	got := make(chan accepted, 1)
	go func() {
		c, err := l.Accept(context.Background())
		got <- accepted{c, err}
	}()
	edge, err = Dial(t.Context(), via(l.Addr()), edgeTLS, Options{Small: small})
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
	tunneltest.RunConformance(t, func(t *testing.T) (tunnel.Conn, tunnel.Conn) { return pair(t, false) })
}

func TestConformanceSmall(t *testing.T) {
	tunneltest.RunConformance(t, func(t *testing.T) (tunnel.Conn, tunnel.Conn) { return pair(t, true) })
}

// quic-go ends a connection's streams a moment before its context. A reader that woke in that moment took the end for a broken control
// stream, and the hub's reason for a protocol error of its own; one try in some fifty.
func TestTheReasonOfACloseIsNeverTakenForABrokenControlStream(t *testing.T) {
	for range 100 {
		hub, edge := pair(t, false)
		go hub.CloseWithError(wire.CloseBanned, "removed")
		_, err := edge.ReceiveControl(t.Context())
		if e, ok := errors.AsType[*wire.CloseError](err); !ok || e.Code != wire.CloseBanned || !e.Remote {
			t.Fatalf("got %v", err)
		}
		edge.CloseWithError(wire.CloseNormal, "")
	}
}

func TestStuckConformance(t *testing.T) {
	tunneltest.RunStuckConformance(t, func(t *testing.T) (hub, edge tunnel.Conn, freeze func()) {
		hub, edge = pairBy(t, false, func(addr netip.AddrPort) netip.AddrPort {
			addr, freeze = tunneltest.RelayUDP(t, addr)
			return addr
		})
		return hub, edge, freeze
	})
}
