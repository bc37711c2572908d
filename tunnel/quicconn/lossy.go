package quicconn

import (
	"errors"
	"net"
	"syscall"
	"time"
)

// quic-go ends a connection at the first sendmsg that fails, though QUIC is made to lose packets: a pulled cable, an
// address that goes, a firewall rule would each end every session in 0.2 s. The edge's socket therefore reports such a
// failure as success, and loss recovery does the rest. What quic-go acts on is passed: EMSGSIZE (path MTU), EIO (GSO)
// and a closed socket.

// lossy wraps an edge's socket.
func lossy(udp *net.UDPConn, small bool) net.PacketConn {
	if small {
		return plainConn{udp}
	}
	return &lossyConn{UDPConn: udp}
}

func sendError(err error) error {
	if err == nil || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EMSGSIZE) || errors.Is(err, syscall.EIO) {
		return err
	}
	return nil
}

// lossyConn keeps quic-go's fast path: batched reads, GSO and ECN.
type lossyConn struct{ *net.UDPConn }

// WriteMsgUDP implements quic.OOBCapablePacketConn.
func (c *lossyConn) WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	n, oobn, err = c.UDPConn.WriteMsgUDP(b, oob, addr)
	if err != nil && sendError(err) == nil {
		return len(b), len(oob), nil
	}
	return n, oobn, err
}

// WriteTo implements net.PacketConn.
func (c *lossyConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	n, err := c.UDPConn.WriteTo(b, addr)
	if err != nil && sendError(err) == nil {
		return len(b), nil
	}
	return n, err
}

// plainConn hides what GSO, ECN and batches need, so that quic-go uses one recvfrom and sendto per packet. It keeps
// SyscallConn, for the don't-fragment flag that path MTU discovery needs, and pretends to have set buffers: the edge
// sets its own.
type plainConn struct{ udp *net.UDPConn }

func (c plainConn) ReadFrom(b []byte) (int, net.Addr, error) { return c.udp.ReadFrom(b) }
func (c plainConn) Close() error                             { return c.udp.Close() }
func (c plainConn) LocalAddr() net.Addr                      { return c.udp.LocalAddr() }
func (c plainConn) SetDeadline(t time.Time) error            { return c.udp.SetDeadline(t) }
func (c plainConn) SetReadDeadline(t time.Time) error        { return c.udp.SetReadDeadline(t) }
func (c plainConn) SetWriteDeadline(t time.Time) error       { return c.udp.SetWriteDeadline(t) }
func (c plainConn) SyscallConn() (syscall.RawConn, error)    { return c.udp.SyscallConn() }

func (c plainConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	return (&lossyConn{c.udp}).WriteTo(b, addr)
}
