package quicconn

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// ALPNPeer names this version of what hubs speak among themselves on the tunnels' port.
const ALPNPeer = "hawser-peer/1"

const (
	// peerStreams is how many streams each side of a peer connection may hold open.
	peerStreams = 4096
	// peerIdleTimeout of a peer connection: heartbeats, one a second, decide before.
	peerIdleTimeout = 15 * time.Second
	// tunnelQueue and peerQueue connections wait to be accepted; further ones are refused. They are apart, and quic-go's own queue (32) is
	// always emptied, so that a storm of devices keeps no hub out, and hubs no device.
	tunnelQueue = 256
	peerQueue   = 32
	// busyRetry is what a refused tunnel is asked to wait.
	busyRetry = time.Second
)

// Peer is a connection between two hubs: a tunnel.Conn on which both sides open and accept streams. The side that was dialled opens the
// control stream.
type Peer = tunnel.Conn

// Listener is a hub's end of many tunnels, and of its connections with other hubs, on one UDP socket.
type Listener struct {
	tr      *quic.Transport
	ln      *quic.Listener
	pc      net.PacketConn
	options Options

	tunnels, peers chan *quic.Conn
	over           chan struct{} // closed when nothing more comes
	err            error         // why; read it after over
	wg             sync.WaitGroup
}

// Listen serves tunnels on pc, best a *net.UDPConn as it is, and owns pc from then on. tc must ask for client certificates and decide in
// VerifyConnection, whose NegotiatedProtocol tells tunnels and peers (ALPNPeer) apart.
func Listen(pc net.PacketConn, tc *tls.Config, o Options) (*Listener, error) {
	tr := &quic.Transport{Conn: pc, StatelessResetKey: o.StatelessResetKey}
	o.admit(tr)
	ln, err := tr.Listen(tlsConfig(tc, tunnel.ALPN, ALPNPeer), o.config(false))
	if err != nil {
		return nil, fmt.Errorf("listen for QUIC on %s: %w", pc.LocalAddr(), err)
	}
	l := &Listener{
		tr: tr, ln: ln, pc: pc, options: o, tunnels: make(chan *quic.Conn, tunnelQueue), peers: make(chan *quic.Conn, peerQueue),
		over: make(chan struct{}),
	}
	l.wg.Go(l.sort)
	return l, nil
}

// sort puts each connection into its queue, until the listener is closed.
func (l *Listener) sort() {
	defer close(l.over)
	for {
		qc, err := l.ln.Accept(context.Background())
		if err != nil {
			if l.err = err; errors.Is(err, quic.ErrServerClosed) || errors.Is(err, quic.ErrTransportClosed) {
				l.err = net.ErrClosed
			}
			return
		}
		queue := l.tunnels
		if qc.ConnectionState().TLS.NegotiatedProtocol == ALPNPeer {
			queue = l.peers
		}
		select {
		case queue <- qc:
		default:
			qc.CloseWithError(packCode(&wire.CloseError{Code: wire.CloseRate, RetryAfter: busyRetry}), "too many at once")
		}
	}
}

// Accept returns the next tunnel whose handshake is complete. Accept again at once: 256 wait at most, others are refused. After Close the
// error wraps net.ErrClosed.
func (l *Listener) Accept(ctx context.Context) (tunnel.Conn, error) {
	c, err := l.accept(ctx, l.tunnels, hubSide)
	if err != nil {
		return nil, fmt.Errorf("accept a tunnel: %w", err)
	}
	// Until there are heartbeats, which look as well, somebody must: who has not registered yet may be anybody.
	ctx, settle := context.WithCancel(c.qc.Context())
	c.settle = settle
	l.wg.Go(func() {
		if _, err := c.qc.AcceptStream(ctx); err == nil {
			c.CloseWithError(wire.CloseProtocol, edgeOpened)
		}
	})
	return c, nil
}

// AcceptPeer returns the next connection of another hub, as Accept does tunnels.
func (l *Listener) AcceptPeer(ctx context.Context) (Peer, error) {
	c, err := l.accept(ctx, l.peers, peerSide)
	if err != nil {
		return nil, fmt.Errorf("accept a peer: %w", err)
	}
	return c, nil
}

func (l *Listener) accept(ctx context.Context, queue <-chan *quic.Conn, side side) (*conn, error) {
	for {
		var qc *quic.Conn
		select {
		case qc = <-queue:
		case <-l.over:
			return nil, l.err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		control, err := qc.OpenStream()
		if err != nil {
			// Gone again, or no edge: it allows no streams.
			qc.CloseWithError(quic.ApplicationErrorCode(wire.CloseProtocol), "no control stream")
			continue
		}
		c := newConn(qc, control, side, nil)
		// An empty message makes the stream visible to the other side before there is a first message.
		if _, err := control.Write(make([]byte, controlHeaderLen)); err != nil {
			c.CloseWithError(wire.CloseProtocol, "no control stream")
			continue
		}
		return c, nil
	}
}

// DialPeer connects to another hub, from the socket tunnels come in on. It returns when the other hub has accepted the certificate tc
// carries and opened the control stream. tc must verify the other hub.
func (l *Listener) DialPeer(ctx context.Context, addr netip.AddrPort, tc *tls.Config) (Peer, error) {
	config := l.options.config(false)
	if config.MaxIdleTimeout = peerIdleTimeout; l.options.IdleTimeout > 0 {
		config.MaxIdleTimeout = l.options.IdleTimeout
	}
	qc, err := l.tr.Dial(ctx, net.UDPAddrFromAddrPort(addr), tlsConfig(tc, ALPNPeer), config)
	if err != nil {
		return nil, fmt.Errorf("dial hub at %s: %w", addr, closeCause(err))
	}
	control, err := qc.AcceptStream(ctx)
	if err == nil && control.StreamID() != controlStreamID {
		err = fmt.Errorf("its first stream is %d", control.StreamID())
	}
	if err != nil {
		qc.CloseWithError(quic.ApplicationErrorCode(wire.CloseProtocol), "")
		return nil, fmt.Errorf("dial hub at %s: %w", addr, closeCause(err))
	}
	return newConn(qc, control, peerSide, nil), nil
}

// Addr returns the address listened on.
func (l *Listener) Addr() netip.AddrPort { return addrPort(l.pc.LocalAddr()) }

// Close ends the listener, its socket, and every tunnel and peer connection of it. Close those first, so that their other ends learn why.
func (l *Listener) Close() error {
	l.ln.Close()
	err := l.tr.Close()
	l.pc.Close()
	l.wg.Wait()
	return err
}
