package yamuxconn

import (
	"net"

	"golang.org/x/sys/unix"
)

// Heard counts the TCP segments that came, the other side's keepalive probes among them, which nobody else sees. It is for telling whether any
// came since; ok is false where the kernel does not count.
func (c *conn) Heard() (segments uint32, ok bool) {
	t, ok := socket(c.tc).(*net.TCPConn)
	if !ok {
		return 0, false
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return 0, false
	}
	var info *unix.TCPInfo
	if cerr := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); cerr != nil || err != nil {
		return 0, false
	}
	return info.Segs_in, info.Segs_in > 0
}
