//go:build !linux

package front

import "net"

// quick does nothing where there is no TCP_QUICKACK.
func quick(c net.Conn) net.Conn { return c }
