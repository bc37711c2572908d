package yamuxconn

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestTheKernelsKeepaliveFollowsWhatTheEdgeLearns(t *testing.T) {
	hub, edge := pair(t, Options{})
	defer hub.CloseWithError(0, "")
	defer edge.CloseWithError(0, "")
	c := edge.(*conn)
	idle := func() time.Duration { return time.Duration(option(t, c, unix.TCP_KEEPIDLE)) * time.Second }
	if got := idle(); got != defaultKeepAlive {
		t.Errorf("at first %s", got)
	}
	if err := c.SetKeepAlive(590 * time.Second); err != nil || idle() != 590*time.Second {
		t.Errorf("then %s, %v", idle(), err)
	}
}

// option is one of the kernel's about the connection below.
func option(t *testing.T, c *conn, name int) (n int) {
	t.Helper()
	raw, err := c.tc.NetConn().(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if cerr := raw.Control(func(fd uintptr) { n, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, name) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return n
}

// Bytes that nobody acknowledges end the connection: keepalive probes are not sent while there are any.
func TestTheKernelGivesUpOnWhatNobodyAcknowledges(t *testing.T) {
	hub, edge := pair(t, Options{})
	defer hub.CloseWithError(0, "")
	defer edge.CloseWithError(0, "")
	for _, c := range []*conn{hub.(*conn), edge.(*conn)} {
		if got := option(t, c, unix.TCP_USER_TIMEOUT); got != int(writeTimeout.Milliseconds()) {
			t.Errorf("%d ms, want %s", got, writeTimeout)
		}
	}
}

// A hub hears the edge's kernel without sending anything itself.
func TestTheOthersProbesAreHeard(t *testing.T) {
	hub, edge := pair(t, Options{})
	defer hub.CloseWithError(0, "")
	defer edge.CloseWithError(0, "")
	c := hub.(*conn)
	last, ok := c.Heard()
	if !ok {
		t.Skip("this kernel does not count segments")
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	end := time.Now().Add(30 * time.Second)
	heard := func() uint32 {
		t.Helper()
		<-tick.C
		n, ok := c.Heard()
		if !ok || time.Now().After(end) {
			t.Fatalf("%d segments, counted: %v", n, ok)
		}
		return n
	}
	for same := 0; same < 10; same++ { // the handshake's acknowledgements
		if n := heard(); n != last {
			last, same = n, 0
		}
	}
	if err := edge.(*conn).SetKeepAlive(time.Second); err != nil {
		t.Fatal(err)
	}
	for heard() == last {
	}
}
