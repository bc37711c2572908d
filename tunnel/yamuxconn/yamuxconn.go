// Package yamuxconn carries a tunnel over TCP: TLS 1.3, in it outer frames (type, length), and in those control
// messages, heartbeats, the close code and, while streams are open, the bytes of a yamux session. An idle tunnel has
// no session. PROTOCOL.md, "TLS", specifies it.
//
// The edge calls Client, the hub Server.
package yamuxconn

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// Options are the choices of one end. The zero value is right.
type Options struct {
	// Logger may be nil.
	Logger tunnel.Logger
	// KeepAlive is the kernel's keepalive interval, 0 is 270 s: shorter than the four minutes of the shortest TCP
	// mappings measured in home gateways.
	KeepAlive time.Duration
	// MuxIdle is how long the hub keeps a yamux session without streams, 0 is 30 s.
	MuxIdle time.Duration
}

const (
	defaultKeepAlive = 270 * time.Second
	defaultMuxIdle   = 30 * time.Second
	writeTimeout     = 60 * time.Second // of one record; a slower link is taken for dead, as TCP_USER_TIMEOUT does
	edgeWindow       = 256 << 10        // bytes per stream, the least yamux allows
	hubWindow        = 4 << 20          // bytes per stream: bulk comes from devices, and waits only if the person is slow
)

func (o Options) withDefaults() Options {
	if o.KeepAlive == 0 {
		o.KeepAlive = defaultKeepAlive
	}
	if o.MuxIdle == 0 {
		o.MuxIdle = defaultMuxIdle
	}
	return o
}

// Client makes a tunnel of nc, a connection to a hub, and owns nc from then on. tc must verify the hub and carry the
// edge's certificate. That the hub refused it shows at the first ReceiveControl.
func Client(ctx context.Context, nc net.Conn, tc *tls.Config, o Options) (tunnel.Conn, error) {
	tc = tc.Clone()
	tc.MinVersion = tls.VersionTLS13
	tc.NextProtos = []string{tunnel.ALPN}
	tc.DynamicRecordSizingDisabled = true // a yamux frame is one record, from the first
	return start(ctx, tls.Client(nc, tc), false, o)
}

// Server makes a tunnel of a hub's TLS connection and owns it from then on. The handshake is finished if it was not.
func Server(ctx context.Context, tc *tls.Conn, o Options) (tunnel.Conn, error) {
	return start(ctx, tc, true, o)
}

func start(ctx context.Context, tc *tls.Conn, hub bool, o Options) (tunnel.Conn, error) {
	o = o.withDefaults()
	if err := tc.HandshakeContext(ctx); err != nil {
		tc.NetConn().Close()
		return nil, fmt.Errorf("TLS handshake with %s: %w", tc.RemoteAddr(), err)
	}
	state := tc.ConnectionState()
	if state.Version != tls.VersionTLS13 || state.NegotiatedProtocol != tunnel.ALPN {
		tc.NetConn().Close()
		return nil, fmt.Errorf("TLS with %s: version %s and protocol %q, want TLS 1.3 and %q", tc.RemoteAddr(),
			tls.VersionName(state.Version), wire.Quote(state.NegotiatedProtocol, 64), tunnel.ALPN)
	}
	if t, ok := socket(tc).(*net.TCPConn); ok {
		if err := tune(t, o.KeepAlive); err != nil {
			// A tunnel without kernel keepalive works; its heartbeats just have more to do.
			tunnel.Debug(o.Logger, "TCP options not set", "error", err)
		}
	}
	return newConn(tc, hub, o), nil
}

// tune sets keepalive and TCP_USER_TIMEOUT: the kernel finds a dead peer while no heartbeat is sent.
func tune(t *net.TCPConn, keepAlive time.Duration) error {
	return errors.Join(
		t.SetNoDelay(true),
		t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: keepAlive, Interval: 15 * time.Second, Count: 4}),
		setUserTimeout(t, writeTimeout),
	)
}
