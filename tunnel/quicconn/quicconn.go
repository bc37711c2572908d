package quicconn

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"

	"github.com/quic-go/quic-go"

	"hawser/tunnel"
)

type Options struct {
	Small             bool
	Logger            tunnel.Logger
	StatelessResetKey *quic.StatelessResetKey
}

type Listener struct{}

func Dial(ctx context.Context, addr netip.AddrPort, tc *tls.Config, o Options) (tunnel.Conn, error) {
	panic("skeleton")
}
func Listen(pc net.PacketConn, tc *tls.Config, o Options) (*Listener, error) { panic("skeleton") }
func (l *Listener) Accept(ctx context.Context) (tunnel.Conn, error)          { panic("skeleton") }
func (l *Listener) Close() error                                             { panic("skeleton") }
func (l *Listener) Addr() netip.AddrPort                                     { panic("skeleton") }
