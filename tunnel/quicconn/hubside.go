package quicconn

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"github.com/quic-go/quic-go"
)

// errNotAdmitted refuses a connection before any TLS: the peer gets CONNECTION_REFUSED, which says nothing else.
var errNotAdmitted = errors.New("not admitted")

// admit makes the transport ask the options before it spends anything on a new connection.
func (o Options) admit(tr *quic.Transport) {
	if o.Verify != nil {
		tr.VerifySourceAddress = func(net.Addr) bool { return o.Verify() }
	}
	if o.Admit != nil {
		tr.ConnContext = func(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
			if !o.Admit(addrPort(info.RemoteAddr)) {
				return nil, errNotAdmitted
			}
			return ctx, nil
		}
	}
}

// ReadOther returns the next datagram on the listener's socket that is not QUIC. Ones that nobody reads are dropped.
func (l *Listener) ReadOther(ctx context.Context, b []byte) (int, netip.AddrPort, error) {
	n, addr, err := l.tr.ReadNonQUICPacket(ctx, b)
	if err != nil {
		return 0, netip.AddrPort{}, err
	}
	return n, addrPort(addr), nil
}

// WriteOther sends a datagram that is not QUIC.
func (l *Listener) WriteOther(b []byte, to netip.AddrPort) error {
	_, err := l.tr.WriteTo(b, net.UDPAddrFromAddrPort(to))
	return err
}
