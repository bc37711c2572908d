package quicconn

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/tunneltest"
	"hawser/tunnel/wire"
)

// natProxy is a NAT between edges and a hub: one mapping for each source it sees, and a switch that swallows everything.
type natProxy struct {
	in  *net.UDPConn
	hub *net.UDPAddr

	dark atomic.Bool

	mu       sync.Mutex
	mappings map[netip.AddrPort]*net.UDPConn
	broken   map[netip.AddrPort]bool
	closed   bool
	wg       sync.WaitGroup
}

func newNATProxy(t *testing.T, hub netip.AddrPort) *natProxy {
	t.Helper()
	in, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	p := &natProxy{in: in, hub: net.UDPAddrFromAddrPort(hub), mappings: map[netip.AddrPort]*net.UDPConn{}, broken: map[netip.AddrPort]bool{}}
	p.wg.Go(p.forward)
	t.Cleanup(func() {
		p.in.Close()
		p.mu.Lock()
		p.closed = true
		for _, m := range p.mappings {
			m.Close()
		}
		p.mu.Unlock()
		p.wg.Wait()
	})
	return p
}

func (p *natProxy) addr() netip.AddrPort { return addrPort(p.in.LocalAddr()) }

func (p *natProxy) forward() {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := p.in.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		m, known := p.mappings[from]
		if p.dark.Load() {
			if !known {
				p.broken[from] = true
			}
			p.mu.Unlock()
			continue
		}
		if p.broken[from] || p.closed {
			p.mu.Unlock()
			continue
		}
		if !known {
			if m, err = net.DialUDP("udp4", nil, p.hub); err != nil {
				p.mu.Unlock()
				continue
			}
			p.mappings[from] = m
			p.wg.Go(func() {
				back := make([]byte, 1<<16)
				for {
					n, err := m.Read(back)
					if err != nil {
						return
					}
					if !p.dark.Load() {
						p.in.WriteToUDPAddrPort(back[:n], from)
					}
				}
			})
		}
		p.mu.Unlock()
		m.Write(buf[:n])
	}
}

func (p *natProxy) sources() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.mappings)
}

// natPair is a tunnel through a natProxy, and a stream on it on which the hub echoes.
func natPair(t *testing.T, small bool) (hub tunnel.Conn, edge *edgeConn, nat *natProxy) {
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
	nat = newNATProxy(t, l.Addr())
	got := make(chan tunnel.Conn, 1)
	go func() {
		c, err := l.Accept(context.Background())
		if err != nil {
			t.Error(err)
		}
		got <- c
	}()
	e, err := Dial(t.Context(), nat.addr(), edgeTLS, Options{Small: small})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.CloseWithError(wire.CloseNormal, "") })
	return <-got, e.(*edgeConn), nat
}

// talk opens a stream on which each byte the edge writes comes back from the hub.
func talk(t *testing.T, hub, edge tunnel.Conn) func(within time.Duration) error {
	t.Helper()
	hs, err := hub.OpenStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hs.Write([]byte{0})
	es, err := edge.AcceptStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(es, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	go io.Copy(hs, hs)
	next := byte(1)
	unread := 0
	return func(within time.Duration) error {
		if unread == 0 {
			if _, err := es.Write([]byte{next}); err != nil {
				return err
			}
			next++
			unread++
		}
		es.SetReadDeadline(time.Now().Add(within))
		b := make([]byte, 1)
		if _, err := io.ReadFull(es, b); err != nil {
			return err
		}
		unread--
		if b[0] != next-1 {
			t.Fatalf("echo of %d, want %d", b[0], next-1)
		}
		return nil
	}
}

func TestAMigrationAtTheHealEndsTheStallAtOnce(t *testing.T) {
	for _, small := range []bool{false, true} {
		t.Run(map[bool]string{false: "batched", true: "small"}[small], func(t *testing.T) {
			t.Parallel()
			hub, edge, nat := natPair(t, small)
			echo := talk(t, hub, edge)
			if err := echo(time.Second); err != nil {
				t.Fatal(err)
			}
			before := hub.RemoteAddr()
			nat.dark.Store(true)
			heal := time.Now().Add(4 * time.Second)
			for time.Now().Before(heal) { // as the agent does: a try a second; what it sends while dark ends in mappings that never work
				if err := echo(time.Second); err == nil {
					t.Fatal("the blackhole let bytes through")
				}
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				if err := edge.Migrate(ctx); err == nil {
					t.Fatal("moved in the dark")
				}
				cancel()
			}
			nat.dark.Store(false)
			start := time.Now()
			moveSoon(t, edge)
			if err := echo(time.Second); err != nil {
				t.Fatalf("%v after the move: %v", time.Since(start), err)
			}
			t.Logf("data %v after the heal", time.Since(start))
			moved(t, hub, before, echo)
			for range 5 { // and again, back and forth over the two sockets
				last := hub.RemoteAddr()
				if err := edge.Migrate(t.Context()); err != nil {
					t.Fatal(err)
				}
				moved(t, hub, last, echo)
			}
		})
	}
}

// moved waits until the hub sends elsewhere than before: it does when data comes by a path that it has validated.
func moved(t *testing.T, hub tunnel.Conn, before netip.AddrPort, echo func(time.Duration) error) {
	t.Helper()
	for late := time.Now().Add(10 * time.Second); hub.RemoteAddr() == before; {
		if time.Now().After(late) {
			t.Fatalf("the hub still sends to %v", before)
		}
		if err := echo(time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if err := echo(time.Second); err != nil {
		t.Fatal(err)
	}
}

func TestFailedMigrationsLeaveThePathAloneAndLeakNothing(t *testing.T) {
	hub, edge, nat := natPair(t, false)
	echo := talk(t, hub, edge)
	if err := echo(time.Second); err != nil {
		t.Fatal(err)
	}
	nat.dark.Store(true)
	fail := func(n int) {
		for range n {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Millisecond)
			if err := edge.Migrate(ctx); err == nil {
				t.Fatal("moved in the dark")
			}
			cancel()
		}
	}
	fail(5)
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	fail(300)
	if g, f := runtime.NumGoroutine(), openFiles(t); g > goroutines+2 || f > files {
		t.Errorf("%d goroutines and %d files after 300 failed moves, %d and %d before", g, f, goroutines, files)
	}
	nat.dark.Store(false)
	if err := echo(10 * time.Second); err != nil {
		t.Fatalf("the path that was left alone: %v", err)
	}
	moveSoon(t, edge)
	if err := echo(time.Second); err != nil {
		t.Fatal(err)
	}
}

// moveSoon moves a tunnel whose spare port may be one that never works: it is kept for another probe or two, and then there is a fresh one.
func moveSoon(t *testing.T, e *edgeConn) {
	t.Helper()
	var err error
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		err = e.Migrate(ctx)
		cancel()
		if err == nil {
			return
		}
	}
	t.Fatal(err)
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestMigrationsTakeTurnsAndEndWithTheTunnel(t *testing.T) {
	hub, edge, nat := natPair(t, false)
	echo := talk(t, hub, edge)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := edge.Migrate(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := echo(time.Second); err != nil {
		t.Fatal(err)
	}
	if n := nat.sources(); n < 2 || n > 3 { // the first, and one for all that waited for it
		t.Errorf("%d sources after 8 moves at once", n)
	}
	nat.dark.Store(true)
	for range 3 {
		wg.Go(func() {
			if err := edge.Migrate(t.Context()); err == nil {
				t.Error("moved in the dark")
			}
		})
	}
	edge.CloseWithError(wire.CloseNormal, "")
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("a Migrate outlived its tunnel")
	}
	if err := edge.Migrate(t.Context()); err == nil {
		t.Error("an ended tunnel moved")
	}
}
