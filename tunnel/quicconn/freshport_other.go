//go:build !linux

package quicconn

import "net"

// freshPort does nothing where edges do not run: a migration still leaves the old path.
func freshPort(*net.UDPConn) {}
