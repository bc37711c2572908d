// Package inner is TLS 1.3 over a stream of a tunnel, as a stream again. A stream whose entry hub is not the tunnel's TLS peer carries one
// of its own (PROTOCOL.md, section 6), so that the home hub between the two moves ciphertext: it can end such a stream, and nothing else.
//
// The entry hub calls Client, the edge Server. Who the peer is says the configuration's VerifyConnection, which must be set; a stream's end
// is the peer's close_notify, and one without it io.ErrUnexpectedEOF.
package inner

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// ALPN names what is spoken inside.
const ALPN = "hawser-stream/1"

var (
	errUnverified = errors.New("inner TLS without VerifyConnection would trust anybody")
	errALPN       = errors.New("the peer does not speak " + ALPN)
	// errTruncated is not io.ErrUnexpectedEOF itself: that one crypto/tls takes for io.EOF where it comes between two records.
	errTruncated = fmt.Errorf("stream cut short: %w", io.ErrUnexpectedEOF)
)

// Client writes outer, as an Attach that says inner TLS, to the fresh stream st and handshakes on it with a configuration made of tc. After
// an error st is closed.
func Client(ctx context.Context, st tunnel.Stream, outer wire.Attach, tc *tls.Config) (tunnel.Stream, error) {
	outer.InnerTLS = true
	outer.Counter, outer.Sent, outer.Received, outer.Open = 0, 0, 0, nil
	s, _, err := handshake(ctx, &conn{Stream: st, preface: outer.Append(nil)}, tc, tls.Client)
	return s, err
}

// Server handshakes on st, whose outer Attach was read, with a configuration made of tc. The client is asked for a certificate. After an error st
// is closed.
func Server(ctx context.Context, st tunnel.Stream, tc *tls.Config) (tunnel.Stream, tls.ConnectionState, error) {
	return handshake(ctx, &conn{Stream: st}, tc, tls.Server)
}

func handshake(ctx context.Context, c *conn, tc *tls.Config, side func(net.Conn, *tls.Config) *tls.Conn) (tunnel.Stream, tls.ConnectionState, error) {
	fail := func(err error) (tunnel.Stream, tls.ConnectionState, error) {
		c.Stream.Reset(wire.StreamCancelled)
		_ = c.Stream.Close()
		return nil, tls.ConnectionState{}, fmt.Errorf("inner TLS: %w", err)
	}
	if tc.VerifyConnection == nil {
		return fail(errUnverified)
	}
	tc = tc.Clone()
	tc.MinVersion = tls.VersionTLS13
	tc.NextProtos = []string{ALPN}
	tc.ClientAuth = max(tc.ClientAuth, tls.RequireAnyClientCert)
	tc.SessionTicketsDisabled = true // a handshake per attachment: what has changed since counts
	tc.DynamicRecordSizingDisabled = true
	t := side(c, tc)
	if err := t.HandshakeContext(ctx); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fail(err)
	}
	cs := t.ConnectionState()
	if cs.NegotiatedProtocol != ALPN {
		return fail(errALPN)
	}
	return &stream{c: c, tls: t}, cs, nil
}

// conn is a tunnel.Stream as crypto/tls wants it.
type conn struct {
	tunnel.Stream
	preface []byte // goes before the first write, and with it
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Stream.Read(p)
	if err == io.EOF {
		if err = errTruncated; n > 0 {
			err = nil // crypto/tls would drop the bytes that come with an error, close_notify among them; it asks again
		}
	}
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	if c.preface == nil {
		return c.Stream.Write(p)
	}
	n, err := c.Stream.Write(append(c.preface, p...))
	n = max(0, n-len(c.preface))
	c.preface = nil
	return n, err
}

// addr is of neither end: a stream has none of its own.
type addr struct{}

func (addr) Network() string { return "tunnel" }
func (addr) String() string  { return "stream" }

func (*conn) LocalAddr() net.Addr  { return addr{} }
func (*conn) RemoteAddr() net.Addr { return addr{} }

// stream implements tunnel.Stream.
type stream struct {
	c   *conn
	tls *tls.Conn
}

func (s *stream) Read(p []byte) (int, error)         { return s.tls.Read(p) }
func (s *stream) Write(p []byte) (int, error)        { return s.tls.Write(p) }
func (s *stream) SetDeadline(t time.Time) error      { return s.tls.SetDeadline(t) }
func (s *stream) SetReadDeadline(t time.Time) error  { return s.tls.SetReadDeadline(t) }
func (s *stream) SetWriteDeadline(t time.Time) error { return s.tls.SetWriteDeadline(t) }

// CloseWrite says close_notify, and ends the bytes below.
func (s *stream) CloseWrite() error {
	err := s.tls.CloseWrite()
	_ = s.c.SetWriteDeadline(time.Time{}) // crypto/tls leaves one that has passed
	return errors.Join(err, s.c.CloseWrite())
}

// Close waits at most 5 s for close_notify to leave.
func (s *stream) Close() error {
	err := s.tls.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Reset goes to the stream below: the peer gets its code from whoever carries it, not from us.
func (s *stream) Reset(code wire.StreamCode) { s.c.Reset(code) }
