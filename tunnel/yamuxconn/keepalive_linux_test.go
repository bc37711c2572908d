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
	idle := func() time.Duration {
		t.Helper()
		raw, err := c.tc.NetConn().(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		if cerr := raw.Control(func(fd uintptr) { n, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE) }); cerr != nil || err != nil {
			t.Fatal(cerr, err)
		}
		return time.Duration(n) * time.Second
	}
	if got := idle(); got != defaultKeepAlive {
		t.Errorf("at first %s", got)
	}
	if err := c.SetKeepAlive(590 * time.Second); err != nil || idle() != 590*time.Second {
		t.Errorf("then %s, %v", idle(), err)
	}
}
