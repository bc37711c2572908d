package quicconn

import (
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// freshPort makes a socket that the kernel gave its port take another one with its next packet, and with it another NAT mapping: connecting
// to AF_UNSPEC dissolves the association of a UDP socket (connect(2)) and with it a port nobody asked for by number. The socket stays the same, so
// its options, its reader and the quic.Transport above do not notice. Where it fails the socket keeps its port.
func freshPort(udp *net.UDPConn) {
	raw, err := udp.SyscallConn()
	if err != nil {
		return
	}
	unspec := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_ = raw.Control(func(fd uintptr) {
		_, _, _ = unix.Syscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&unspec)), unsafe.Sizeof(unspec))
	})
}
