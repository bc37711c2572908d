package quicconn

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"hawser/tunnel"
	"hawser/tunnel/tunneltest"
	"hawser/tunnel/wire"
)

// dyingSocket is a hub's socket that the hub's sudden end leaves silent: nothing is sent any more, so no edge is told of the end.
type dyingSocket struct {
	net.PacketConn
	dead chan struct{}
}

func (s *dyingSocket) WriteTo(b []byte, to net.Addr) (int, error) {
	select {
	case <-s.dead:
		return len(b), nil
	default:
		return s.PacketConn.WriteTo(b, to)
	}
}

func TestARestartedHubTellsItsEdgesAtOnce(t *testing.T) {
	hubTLS, edgeTLS := tunneltest.TLSConfigs(t)
	key := &quic.StatelessResetKey{1, 2, 3}
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	at := udp.LocalAddr().(*net.UDPAddr)
	socket := &dyingSocket{udp, make(chan struct{})}
	first, err := Listen(socket, hubTLS, Options{StatelessResetKey: key})
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan tunnel.Conn, 1)
	go func() {
		c, _ := first.Accept(context.Background())
		accepted <- c
	}()
	edge, err := Dial(t.Context(), at.AddrPort(), edgeTLS, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer edge.CloseWithError(wire.CloseNormal, "")
	if hub := <-accepted; hub == nil {
		t.Fatal("not accepted")
	} else if err := hub.SendControl([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := edge.ReceiveControl(t.Context()); err != nil { // the handshake is confirmed, and with it the reset token known
		t.Fatal(err)
	}
	close(socket.dead) // kill -9
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		first.Close()
	}()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Fatal("Listener.Close hangs")
	}
	if edge.Context().Err() != nil {
		t.Fatalf("the edge was told of the end: %v", context.Cause(edge.Context()))
	}
	if udp, err = net.ListenUDP("udp4", at); err != nil {
		t.Fatal(err)
	}
	second, err := Listen(udp, hubTLS, Options{StatelessResetKey: key})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	go func() {
		for {
			c, err := second.Accept(context.Background())
			if err != nil {
				return
			}
			c.CloseWithError(wire.CloseNormal, "")
		}
	}()
	heartbeats := time.NewTicker(100 * time.Millisecond)
	defer heartbeats.Stop()
	timeout := time.After(5 * time.Second)
	for {
		select {
		case <-heartbeats.C:
			_ = edge.SendHeartbeat(wire.Heartbeat{Seq: 1, Interval: time.Second}.Append(nil))
		case <-edge.Context().Done():
			if cause := context.Cause(edge.Context()); !errors.Is(cause, tunnel.ErrLost) {
				t.Errorf("lost by %v", cause)
			}
			return
		case <-timeout:
			t.Fatal("the edge did not learn of the restart")
		}
	}
}
