package yamuxconn

import (
	"context"
	"crypto/tls"
	"net"

	"hawser/tunnel"
)

type Options struct {
	Logger tunnel.Logger
}

func Client(ctx context.Context, nc net.Conn, tc *tls.Config, o Options) (tunnel.Conn, error) {
	panic("skeleton")
}
func Server(ctx context.Context, tc *tls.Conn, o Options) (tunnel.Conn, error) { panic("skeleton") }
