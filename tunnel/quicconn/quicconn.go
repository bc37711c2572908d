// Package quicconn carries a tunnel over QUIC (RFC 9000): the control stream is the hub's first bidirectional stream,
// heartbeats are datagrams, and each tunnel stream is a QUIC stream. PROTOCOL.md, "QUIC", specifies it.
//
// The edge calls Dial; the hub calls Listen and then Accept in a loop.
package quicconn

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// Options are the choices of one end. The zero value is right for a hub.
type Options struct {
	// Small is for machines with little memory or an old kernel (edge only): no GSO, no ECN, no batched reads, and
	// socket buffers of 256 KiB.
	Small bool
	// Logger may be nil.
	Logger tunnel.Logger
	// StatelessResetKey lets a restarted hub tell its edges at once that their tunnels are gone; a hub keeps one for
	// ever. Nil means none.
	StatelessResetKey *quic.StatelessResetKey
	// Admit is asked of each new connection at a hub before any TLS; nil admits all. It gets no address that was not shown to be the
	// peer's while Verify returns true.
	Admit func(from netip.AddrPort) bool
	// Verify tells whether a new peer must first show by a Retry that the address is its own; nil is never.
	Verify func() bool
	// IdleTimeout ends a tunnel on which nothing arrived for so long; the lower of both ends counts. 0 is 11 minutes:
	// twice the longest heartbeat interval and a minute, for heartbeats decide before.
	IdleTimeout time.Duration
}

const (
	defaultIdleTimeout = 11 * time.Minute
	handshakeTimeout   = 10 * time.Second // of silence; quic-go allows twice that in all
	initialPacketSize  = 1200             // bytes of UDP payload: fits a 1280-byte path inside another tunnel
	smallSocketBuffer  = 256 << 10        // bytes; quic-go asks for 7 MiB, and as root gets them
	maxReason          = 512              // bytes of a close reason: it must fit one packet
)

// config returns the QUIC configuration of one end.
func (o Options) config(edge bool) *quic.Config {
	c := &quic.Config{
		HandshakeIdleTimeout:  handshakeTimeout,
		MaxIdleTimeout:        o.IdleTimeout,
		KeepAlivePeriod:       0, // heartbeats keep the path alive, and they alone
		InitialPacketSize:     initialPacketSize,
		EnableDatagrams:       true,
		MaxIncomingUniStreams: -1,
		Allow0RTT:             false,
	}
	if c.MaxIdleTimeout == 0 {
		c.MaxIdleTimeout = defaultIdleTimeout
	}
	if edge {
		c.MaxIncomingStreams = tunnel.MaxStreams + 1 // and the control stream
		c.InitialStreamReceiveWindow = 64 << 10
		c.MaxStreamReceiveWindow = 256 << 10
		c.InitialConnectionReceiveWindow = 128 << 10
		c.MaxConnectionReceiveWindow = 512 << 10
		return c
	}
	// The hub receives bulk from devices. A window costs memory only while data waits in it. Streams are for peers, who speak another ALPN,
	// which is not known yet when this must be: a tunnel on which the edge opens one is ended (Listener.Accept).
	c.MaxIncomingStreams = peerStreams
	c.InitialStreamReceiveWindow = 512 << 10
	c.MaxStreamReceiveWindow = 6 << 20
	// A peer's streams are of many devices, and one whose link is down leaves unread what is on its way to it: up to what a device takes
	// ahead, 256 KiB. With a window of the usual size three such devices stopped the streams of all.
	c.InitialConnectionReceiveWindow = 64 << 20
	c.MaxConnectionReceiveWindow = 64 << 20
	return c
}

// tlsConfig returns tc with these ALPNs and without tickets: every handshake is checked in full.
func tlsConfig(tc *tls.Config, alpn ...string) *tls.Config {
	tc = tc.Clone()
	tc.MinVersion = tls.VersionTLS13
	tc.NextProtos = alpn
	tc.SessionTicketsDisabled = true
	return tc
}

// Dial connects an edge to the hub at addr. It returns when the hub has accepted the edge's certificate and opened the
// control stream. tc must verify the hub and carry the edge's certificate. Its socket is unbound, so that the tunnel
// survives a change of the device's address.
func Dial(ctx context.Context, addr netip.AddrPort, tc *tls.Config, o Options) (tunnel.Conn, error) {
	network := "udp4"
	if addr.Addr().Unmap().Is6() {
		network = "udp6"
	}
	r, err := newRoute(network, o.Small)
	if err != nil {
		return nil, err
	}
	qc, err := r.tr.Dial(ctx, net.UDPAddrFromAddrPort(addr), tlsConfig(tc, tunnel.ALPN), o.config(true))
	if err != nil {
		r.close()
		return nil, fmt.Errorf("dial %s: %w", addr, closeCause(err))
	}
	r.started(o.Small)
	control, err := qc.AcceptStream(ctx)
	if err == nil && control.StreamID() != controlStreamID {
		err = fmt.Errorf("the hub's first stream is %d", control.StreamID())
	}
	if err != nil {
		// The hub refused the certificate, or the caller gave up.
		qc.CloseWithError(quic.ApplicationErrorCode(wire.CloseProtocol), "")
		r.close()
		return nil, fmt.Errorf("dial %s: %w", addr, closeCause(err))
	}
	e := &edgeConn{network: network, small: o.Small, turn: make(chan struct{}, 1), used: r, routes: []*route{r}}
	e.conn = newConn(qc, control, edgeSide, e.releaseRoutes)
	return e, nil
}

func addrPort(a net.Addr) netip.AddrPort {
	if u, ok := a.(*net.UDPAddr); ok {
		p := u.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return netip.AddrPort{}
}
