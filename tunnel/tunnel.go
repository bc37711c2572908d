// Package tunnel is the connection between an edge and a hub: one interface, Conn, with streams, control messages,
// heartbeats and close codes, and two carriers below it, QUIC (tunnel/quicconn) and TLS with yamux (tunnel/yamuxconn).
// PROTOCOL.md specifies every byte; tunnel/wire encodes the messages; tunnel/tunneltest has a carrier in memory and the
// conformance suite all three pass.
//
// The edge dials and the hub opens streams. Nothing here decides who may do what: the hub and the edge do.
package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"hawser/tunnel/wire"
)

// ALPN names this version of the tunnel. ALPNAPI says on the same TCP port that what follows is for auth, whose API takes it for h2; ALPNPass is
// what a hub speaks with auth to pass such a connection on: a PROXY protocol header, then the person's TLS.
const (
	ALPN     = "hawser-tunnel/1"
	ALPNAPI  = "hawser-api/1"
	ALPNPass = "hawser-pass/1"
)

// MaxStreams is how many streams a hub may hold open on one tunnel; one more is refused at once.
const MaxStreams = 128

// Carrier says what a tunnel runs over.
type Carrier uint8

// The carriers.
const (
	CarrierQUIC   Carrier = 1
	CarrierTLS    Carrier = 2
	CarrierMemory Carrier = 3 // tests
)

// String returns "quic", "tls" or "memory".
func (c Carrier) String() string {
	switch c {
	case CarrierQUIC:
		return "quic"
	case CarrierTLS:
		return "tls"
	case CarrierMemory:
		return "memory"
	}
	return fmt.Sprintf("carrier-%d", uint8(c))
}

// Errors of Conn and Stream. When a tunnel has ended, every method of it and of its streams returns the cause of its
// Context: a *wire.CloseError if one side said why, else an error wrapping ErrLost.
var (
	// ErrLost means that the tunnel ended without a word: time-out, reset, broken TLS.
	ErrLost = errors.New("tunnel lost")
	// ErrWrongSide means that an edge opened a stream or a hub accepted one.
	ErrWrongSide = errors.New("only the hub opens streams")
	// ErrTooManyStreams means that the tunnel holds MaxStreams streams, or as many as its peer allows.
	ErrTooManyStreams = errors.New("too many streams on this tunnel")
	// ErrTooLong means that a control message or heartbeat passes its limit; nothing was sent.
	ErrTooLong = errors.New("message too long for the tunnel")
)

// StreamError is why a stream, not its tunnel, ended before its time.
type StreamError struct {
	Code   wire.StreamCode
	Remote bool // the peer did it
}

func (e *StreamError) Error() string {
	if e.Remote {
		return "stream reset by the peer: " + e.Code.String()
	}
	return "stream reset: " + e.Code.String()
}

// Conn is one authenticated edge-hub connection. All methods are safe for concurrent use except as said.
type Conn interface {
	// OpenStream opens a stream; hub only. It waits for no round trip: at MaxStreams it fails with ErrTooManyStreams.
	// The edge sees the stream when the first byte is written to it.
	OpenStream(ctx context.Context) (Stream, error)
	// AcceptStream returns the next stream; edge only.
	AcceptStream(ctx context.Context) (Stream, error)
	// SendControl sends one whole control message of at most wire.MaxControl bytes, reliably and in order. It blocks
	// while the peer does not read.
	SendControl(msg []byte) error
	// ReceiveControl returns the next control message, which is the caller's to keep. For one goroutine, which must
	// keep at it: what is not received holds up the tunnel. A cancelled ctx loses nothing.
	ReceiveControl(ctx context.Context) ([]byte, error)
	// SendHeartbeat sends at most wire.MaxHeartbeat bytes that may be lost.
	SendHeartbeat(b []byte) error
	// ReceiveHeartbeat returns the next heartbeat. Ones that nobody receives are dropped, the oldest first.
	ReceiveHeartbeat(ctx context.Context) ([]byte, error)
	// CloseWithError is CloseWith for a code and a reason.
	CloseWithError(code wire.CloseCode, reason string) error
	// CloseWith ends the tunnel and tells the peer why; the peer's cause is a *wire.CloseError with Remote set. It is
	// idempotent and returns when everything the Conn started has ended, which takes at most CloseTimeout.
	CloseWith(e *wire.CloseError) error
	// Context is done when the tunnel has ended; context.Cause tells why.
	Context() context.Context
	Carrier() Carrier
	LocalAddr() netip.AddrPort
	// RemoteAddr is the peer's address now; on QUIC it follows a peer that moves.
	RemoteAddr() netip.AddrPort
	// ConnectionState is the TLS state with the peer's certificates; zero in memory.
	ConnectionState() tls.ConnectionState
}

// Mover is a Conn that can leave its network path for a fresh one: the edge's end of a QUIC tunnel.
type Mover interface {
	// Migrate tries the hub from a fresh local port and moves the tunnel there when it answers, with what was lost on the old path sent
	// again at once. After an error the tunnel is where it was. Safe for concurrent use: calls take turns.
	Migrate(ctx context.Context) error
}

// A Hearer is an edge's Conn on which the peer acknowledges each heartbeat below it.
type Hearer interface {
	// Heard counts what came from the peer, of whatever kind.
	Heard() uint64
}

// CloseTimeout bounds how long a closing side waits for its peer to have read the reason.
const CloseTimeout = 2 * time.Second

// Stream is one ordered, reliable byte stream of a Conn, with half-close. Read and Write may run at the same time, but
// each for one goroutine.
type Stream interface {
	// Read returns io.EOF only after the peer's CloseWrite or Close; a tunnel that ended is its cause.
	io.Reader
	io.Writer
	// CloseWrite ends this side's bytes: the peer reads io.EOF after them. Reading goes on.
	CloseWrite() error
	// Close is CloseWrite, and no more reading: the peer's writes fail from then on with a *StreamError whose code is
	// StreamOK. Bytes written before reach the peer. Idempotent.
	Close() error
	// Reset ends both directions at once: what is under way may be lost. The peer's calls fail with a *StreamError of
	// this code. After Close it does nothing.
	Reset(code wire.StreamCode)
	SetDeadline(t time.Time) error
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
}

// Send encodes m, checks it, and sends it as a control message.
func Send(c Conn, m wire.Message) error {
	b, err := wire.Encode(m)
	if err != nil {
		return err
	}
	return c.SendControl(b)
}

// Receive returns the next control message of a type this version knows. A malformed one is an error wrapping
// wire.ErrMalformed, after which the caller closes the tunnel with wire.CloseProtocol.
func Receive(ctx context.Context, c Conn) (wire.Message, error) {
	for {
		b, err := c.ReceiveControl(ctx)
		if err != nil {
			return nil, err
		}
		m, err := wire.Decode(b)
		if !errors.Is(err, wire.ErrUnknownType) {
			return m, err
		}
	}
}
