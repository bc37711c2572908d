//go:build !linux

package yamuxconn

import (
	"net"
	"time"
)

// setUserTimeout does nothing where there is no TCP_USER_TIMEOUT; the kernel's own retransmission limit stands.
func setUserTimeout(*net.TCPConn, time.Duration) error { return nil }
