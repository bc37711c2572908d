package front

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// quickConn sets TCP_QUICKACK again before each of its first reads, for the kernel clears it. SSH set-up is ping-pong of small segments:
// a delayed ACK of ours meets the client's Nagle and costs 40 ms a step. One goroutine reads.
type quickConn struct {
	net.Conn
	raw  syscall.RawConn
	left int
}

// quick wraps c if it is a TCP connection, or one whose address a proxy told.
func quick(c net.Conn) net.Conn {
	inner := c
	for {
		w, ok := inner.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		inner = w.NetConn()
	}
	t, ok := inner.(*net.TCPConn)
	if !ok {
		return c
	}
	_ = t.SetNoDelay(true) // Go's default, said because keystrokes depend on it
	raw, err := t.SyscallConn()
	if err != nil {
		return c
	}
	return &quickConn{Conn: c, raw: raw, left: quickReads}
}

func (q *quickConn) Read(b []byte) (int, error) {
	if q.left > 0 {
		q.left--
		_ = q.raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
		})
	}
	return q.Conn.Read(b)
}
