package quicconn

import (
	"errors"
	"net"
	"syscall"
	"testing"
)

// quic-go v0.65 ended a connection at the first failed sendmsg: an address that went took every session with it.
func TestFailedSendIsALostPacket(t *testing.T) {
	for _, lost := range []error{syscall.ENETUNREACH, syscall.EPERM, syscall.EHOSTUNREACH, syscall.ENOBUFS, syscall.EINVAL} {
		if err := sendError(&net.OpError{Err: lost}); err != nil {
			t.Errorf("%v was passed on", lost)
		}
	}
	for _, passed := range []error{syscall.EMSGSIZE, syscall.EIO, net.ErrClosed} {
		if err := sendError(&net.OpError{Err: passed}); !errors.Is(err, passed) {
			t.Errorf("%v was hidden", passed)
		}
	}
}
