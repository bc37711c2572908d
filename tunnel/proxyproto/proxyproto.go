// Package proxyproto speaks version 2 of the PROXY protocol (haproxy.org/download/3.0/doc/proxy-protocol.txt): the
// binary header by which a load balancer, or a hub that passes a connection on to auth, says whose connection it is.
// Version 1 is not spoken: it is text that a person's own bytes may look like.
//
// A header is believed for one reason only: the connection that brings it comes from a network that the operator
// named, or from a peer that has proved who it is. Start with Append and Read; Listener does it for a whole listener.
package proxyproto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// What the specification fixes.
const (
	signature = "\r\n\r\n\x00\r\nQUIT\n"
	fixed     = len(signature) + 4 // with version and command, family and protocol, length

	versionLocal = 0x20 // version 2, LOCAL: the proxy speaks for itself, as in a health check
	versionProxy = 0x21 // version 2, PROXY

	unspecified = 0x00
	tcp4        = 0x11
	tcp6        = 0x21
	size4       = 4 + 4 + 2 + 2
	size6       = 16 + 16 + 2 + 2
)

// MaxHeader is the longest header read, in bytes: the addresses, and what a proxy adds about its own TLS. We chose it.
const MaxHeader = 2048

// Errors of Parse and Read.
var (
	ErrShort    = errors.New("PROXY header: not all there yet")
	ErrNoHeader = errors.New("PROXY header: connection does not begin with one of version 2")
	ErrHeader   = errors.New("PROXY header: malformed")
)

// Header is what one header says. With Local the connection is the proxy's own, and there are no addresses.
type Header struct {
	Local               bool
	Source, Destination netip.AddrPort
}

// Append appends the header's bytes. Addresses of two families become IPv6, and an address that is missing is said as
// zero: the reader refuses it as a source.
func (h Header) Append(b []byte) []byte {
	b = append(b, signature...)
	if h.Local {
		return append(b, versionLocal, unspecified, 0, 0)
	}
	src, dst := h.Source.Addr().Unmap(), h.Destination.Addr().Unmap()
	if src.Is4() && (dst.Is4() || !dst.IsValid()) {
		b = append(b, versionProxy, tcp4, 0, size4)
		b = appendAddr4(appendAddr4(b, src), dst)
	} else {
		b = append(b, versionProxy, tcp6, 0, size6)
		b = appendAddr6(appendAddr6(b, src), dst)
	}
	b = binary.BigEndian.AppendUint16(b, h.Source.Port())
	return binary.BigEndian.AppendUint16(b, h.Destination.Port())
}

func appendAddr4(b []byte, a netip.Addr) []byte {
	if !a.Is4() {
		return append(b, 0, 0, 0, 0)
	}
	v := a.As4()
	return append(b, v[:]...)
}

func appendAddr6(b []byte, a netip.Addr) []byte {
	var v [16]byte
	if a.IsValid() {
		v = a.As16()
	}
	return append(b, v[:]...)
}

// Begins tells whether b is, as far as it goes, the beginning of a header of version 2.
func Begins(b []byte) bool {
	n := min(len(b), len(signature))
	return string(b[:n]) == signature[:n]
}

// Parse decodes the header that b begins with and returns how many bytes it has. ErrShort: b is the beginning of one.
func Parse(b []byte) (Header, int, error) {
	if !Begins(b) {
		return Header{}, 0, ErrNoHeader
	}
	if len(b) < fixed {
		return Header{}, 0, ErrShort
	}
	n, err := length(b)
	if err != nil {
		return Header{}, 0, err
	}
	if len(b) < n {
		return Header{}, 0, ErrShort
	}
	h, err := decode(b[12], b[13], b[fixed:n])
	return h, n, err
}

// length is the whole header's, from its fixed part.
func length(b []byte) (int, error) {
	n := fixed + int(binary.BigEndian.Uint16(b[14:]))
	if n > MaxHeader {
		return 0, fmt.Errorf("%w: %d bytes are more than %d", ErrHeader, n, MaxHeader)
	}
	return n, nil
}

func decode(command, family byte, body []byte) (Header, error) {
	switch command {
	case versionLocal:
		return Header{Local: true}, nil // whatever follows is to be skipped
	case versionProxy:
	default:
		return Header{}, fmt.Errorf("%w: version and command %#02x", ErrHeader, command)
	}
	var src, dst netip.Addr
	var ports []byte
	switch {
	case family == unspecified:
		return Header{Local: true}, nil // the proxy does not know: the connection's own addresses stand
	case family == tcp4 && len(body) >= size4:
		src, dst, ports = netip.AddrFrom4([4]byte(body)), netip.AddrFrom4([4]byte(body[4:])), body[8:]
	case family == tcp6 && len(body) >= size6:
		src, dst, ports = netip.AddrFrom16([16]byte(body)).Unmap(), netip.AddrFrom16([16]byte(body[16:])).Unmap(), body[32:]
	default:
		return Header{}, fmt.Errorf("%w: family %#02x with %d bytes is not TCP", ErrHeader, family, len(body))
	}
	if src.IsUnspecified() || src.IsMulticast() {
		return Header{}, fmt.Errorf("%w: %s is nobody's address", ErrHeader, src)
	}
	return Header{
		Source:      netip.AddrPortFrom(src, binary.BigEndian.Uint16(ports)),
		Destination: netip.AddrPortFrom(dst, binary.BigEndian.Uint16(ports[2:])),
	}, nil
}

// Read reads one header and no byte beyond it. Set a deadline on the connection before.
func Read(r io.Reader) (Header, error) {
	var b [MaxHeader]byte
	if _, err := io.ReadFull(r, b[:fixed]); err != nil {
		return Header{}, fmt.Errorf("read the PROXY header: %w", err)
	}
	if !Begins(b[:fixed]) {
		return Header{}, ErrNoHeader
	}
	n, err := length(b[:fixed])
	if err != nil {
		return Header{}, err
	}
	if _, err := io.ReadFull(r, b[fixed:n]); err != nil {
		return Header{}, fmt.Errorf("read the PROXY header: %w", err)
	}
	h, _, err := Parse(b[:n])
	return h, err
}
