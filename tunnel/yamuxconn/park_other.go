//go:build !linux

package yamuxconn

import (
	"errors"
	"net"
)

// waitedFD does not exist without epoll.
type waitedFD struct{}

func canPark(net.Conn) bool { return false }

func waitReadable(net.Conn, func()) (*waitedFD, error) { return nil, errors.ErrUnsupported }

func (*waitedFD) forget() {}
