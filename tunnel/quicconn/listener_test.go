package quicconn

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"hawser/tunnel"
	"hawser/tunnel/tunneltest"
	"hawser/tunnel/wire"
)

func listen(t *testing.T, tc *tls.Config) *Listener {
	t.Helper()
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(udp, tc, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// peerPair is two hubs, a dialled by b.
func peerPair(t *testing.T) (a, b Peer) {
	t.Helper()
	hubTLS, dialTLS := tunneltest.TLSConfigs(t)
	la, lb := listen(t, hubTLS), listen(t, hubTLS)
	var wg sync.WaitGroup
	wg.Go(func() {
		var err error
		if b, err = lb.DialPeer(t.Context(), la.Addr(), dialTLS); err != nil {
			t.Error(err)
		}
	})
	a, err := la.AcceptPeer(t.Context())
	if wg.Wait(); err != nil || b == nil {
		t.Fatal(err)
	}
	if b.LocalAddr().Port() != lb.Addr().Port() {
		t.Errorf("dialled from port %d, want the tunnels' port %d", b.LocalAddr().Port(), lb.Addr().Port())
	}
	return a, b
}

func TestPeersOpenStreamsBothWays(t *testing.T) {
	a, b := peerPair(t)
	for _, dir := range []struct{ from, to Peer }{{a, b}, {b, a}} {
		out, err := dir.from.OpenStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if err := out.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		in, err := dir.to.AcceptStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(in); err != nil || string(got) != "hello" {
			t.Fatalf("%q, %v", got, err)
		}
		in.Reset(wire.StreamDenied)
		if _, err := out.Read(make([]byte, 1)); !isCode(err, wire.StreamDenied) {
			t.Errorf("read %v, want the code of the reset", err)
		}
		if err := dir.from.SendControl([]byte("control")); err != nil {
			t.Fatal(err)
		}
		if got, err := dir.to.ReceiveControl(t.Context()); err != nil || string(got) != "control" {
			t.Fatalf("%q, %v", got, err)
		}
	}
}

// Three devices without a link, with what was on its way to them unread at their hub, stopped every other stream between the two hubs.
func TestStreamsNobodyReadsDoNotStopTheOthersOfAPeer(t *testing.T) {
	a, b := peerPair(t)
	const unread = 256 << 10 // what an edge takes ahead of its reader
	for range 64 {
		s, err := a.OpenStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = s.SetWriteDeadline(time.Now().Add(10 * time.Second))
		if _, err := s.Write(make([]byte, unread)); err != nil {
			t.Fatalf("write what nobody reads: %v", err)
		}
		if _, err := b.AcceptStream(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	s, err := a.OpenStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = s.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if _, err := s.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	in, err := b.AcceptStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = in.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(in, make([]byte, 5)); err != nil {
		t.Errorf("a stream beside those nobody reads: %v", err)
	}
}

func isCode(err error, code wire.StreamCode) bool {
	e, ok := errors.AsType[*tunnel.StreamError](err)
	return ok && e.Code == code
}

func TestPeersHoldThousandsOfStreams(t *testing.T) {
	a, b := peerPair(t)
	for _, dir := range []struct{ from, to Peer }{{a, b}, {b, a}} {
		var wg sync.WaitGroup
		wg.Go(func() {
			for range peerStreams - 1 { // one side's control stream counts
				if _, err := dir.to.AcceptStream(t.Context()); err != nil {
					t.Error(err)
					return
				}
			}
		})
		for n := range peerStreams - 1 {
			s, err := dir.from.OpenStream(t.Context())
			if err != nil {
				t.Fatalf("stream %d: %v", n, err)
			}
			if _, err := s.Write([]byte{1}); err != nil {
				t.Fatal(err)
			}
		}
		wg.Wait()
	}
}

// Nobody accepts tunnels, and more than all queues hold come in: a hub gets through, and so do tunnels when hubs are the many.
func TestTunnelsAndPeersDoNotStarveOneAnother(t *testing.T) {
	hubTLS, edgeTLS := tunneltest.TLSConfigs(t)
	l, other := listen(t, hubTLS), listen(t, hubTLS)
	flood := func(full func() bool, dial func() (tunnel.Conn, error)) {
		var wg sync.WaitGroup
		late := time.Now().Add(2 * time.Minute)
		for range 16 {
			wg.Go(func() {
				for more := 3; more > 0 && time.Now().Before(late); {
					if c, err := dial(); err == nil {
						t.Cleanup(func() { c.CloseWithError(wire.CloseNormal, "") })
					}
					if full() {
						more--
					}
				}
			})
		}
		wg.Wait()
	}
	dialEdge := func() (tunnel.Conn, error) {
		// The control stream of a tunnel that nobody accepted never comes.
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		c, err := rawEdge(ctx, l, edgeTLS)
		return c, err
	}
	flood(func() bool { return len(l.tunnels) == tunnelQueue }, dialEdge)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	got := make(chan error, 1)
	go func() {
		_, err := l.AcceptPeer(ctx)
		got <- err
	}()
	if _, err := other.DialPeer(ctx, l.Addr(), edgeTLS); err != nil {
		t.Fatalf("a hub behind a storm of devices: %v", err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if n := len(l.tunnels); n != tunnelQueue {
		t.Errorf("%d tunnels wait, want the queue full at %d", n, tunnelQueue)
	}
}

// rawEdge finishes a handshake and waits for nothing else.
func rawEdge(ctx context.Context, l *Listener, tc *tls.Config) (tunnel.Conn, error) {
	udp, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return nil, err
	}
	tr := &quic.Transport{Conn: udp}
	release := func() {
		tr.Close()
		udp.Close()
	}
	qc, err := tr.Dial(ctx, net.UDPAddrFromAddrPort(l.Addr()), tlsConfig(tc, tunnel.ALPN), Options{}.config(true))
	if err != nil {
		release()
		return nil, err
	}
	return newConn(qc, nil, edgeSide, release), nil
}

func TestAnEdgeThatOpensAStreamLosesItsTunnel(t *testing.T) {
	hubTLS, edgeTLS := tunneltest.TLSConfigs(t)
	l := listen(t, hubTLS)
	edge, err := rawEdge(t.Context(), l, edgeTLS)
	if err != nil {
		t.Fatal(err)
	}
	hub, err := l.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s, err := edge.(*conn).qc.OpenStreamSync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	<-hub.Context().Done()
	if e, ok := errors.AsType[*wire.CloseError](context.Cause(hub.Context())); !ok || e.Code != wire.CloseProtocol {
		t.Errorf("closed by %v", context.Cause(hub.Context()))
	}
	edge.CloseWithError(wire.CloseNormal, "")
}
