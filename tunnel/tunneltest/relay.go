package tunneltest

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
)

// A relay stands between an edge and a hub and can be frozen: from then on it passes nothing and reads nothing, as a path that died does.
type relay struct {
	frozen chan struct{}
	freeze func()
	ended  chan struct{}
	wg     sync.WaitGroup
}

func newRelay(t testing.TB, closer io.Closer) *relay {
	r := &relay{frozen: make(chan struct{}), ended: make(chan struct{})}
	r.freeze = sync.OnceFunc(func() { close(r.frozen) })
	t.Cleanup(func() {
		close(r.ended)
		_ = closer.Close()
		r.wg.Wait()
	})
	return r
}

// pass tells whether the relay may go on; it waits for the test's end once the relay is frozen.
func (r *relay) pass() bool {
	select {
	case <-r.frozen:
		<-r.ended
		return false
	default:
		return true
	}
}

// RelayTCP passes connections on to an address until it is frozen. Nothing is closed by that.
func RelayTCP(t testing.TB, to string) (addr string, freeze func()) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := newRelay(t, l)
	copyUntilFrozen := func(dst, src net.Conn) {
		defer dst.Close()
		defer src.Close()
		b := make([]byte, 16<<10)
		for {
			n, err := src.Read(b)
			if err != nil || !r.pass() {
				return
			}
			if _, err := dst.Write(b[:n]); err != nil {
				return
			}
		}
	}
	r.wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp4", to)
			if err != nil {
				in.Close()
				continue
			}
			// Small buffers, so that a frozen relay blocks its writers soon.
			in.(*net.TCPConn).SetReadBuffer(16 << 10)
			out.(*net.TCPConn).SetReadBuffer(16 << 10)
			r.wg.Go(func() { copyUntilFrozen(in, out) })
			r.wg.Go(func() { copyUntilFrozen(out, in) })
			r.wg.Go(func() {
				<-r.ended
				in.Close()
				out.Close()
			})
		}
	})
	return l.Addr().String(), r.freeze
}

// RelayUDP passes the datagrams of one client on to an address until it is frozen.
func RelayUDP(t testing.TB, to netip.AddrPort) (addr netip.AddrPort, freeze func()) {
	t.Helper()
	in, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	out, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	r := newRelay(t, closers{in, out})
	var mu sync.Mutex
	var client netip.AddrPort
	r.wg.Go(func() {
		b := make([]byte, 2048)
		for {
			n, from, err := in.ReadFromUDPAddrPort(b)
			if err != nil || !r.pass() {
				return
			}
			mu.Lock()
			client = from
			mu.Unlock()
			_, _ = out.Write(b[:n]) // a datagram may be lost
		}
	})
	r.wg.Go(func() {
		b := make([]byte, 2048)
		for {
			n, err := out.Read(b)
			if err != nil || !r.pass() {
				return
			}
			mu.Lock()
			dst := client
			mu.Unlock()
			_, _ = in.WriteToUDPAddrPort(b[:n], dst)
		}
	})
	return in.LocalAddr().(*net.UDPAddr).AddrPort(), r.freeze
}

type closers []io.Closer

func (c closers) Close() error {
	for _, x := range c {
		_ = x.Close()
	}
	return nil
}
