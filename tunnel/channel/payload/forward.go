package payload

import "encoding/binary"

// DirectTCPIP is the extra data of a "direct-tcpip" channel open: RFC 4254, section 7.2.
type DirectTCPIP struct {
	Host       string // to connect to
	Port       uint32
	OriginHost string
	OriginPort uint32
}

// Marshal encodes d.
func (d DirectTCPIP) Marshal() []byte {
	return u32(str(u32(str(nil, d.Host), d.Port), d.OriginHost), d.OriginPort)
}

// ParseDirectTCPIP decodes b.
func ParseDirectTCPIP(b []byte) (DirectTCPIP, error) {
	r := &reader{what: "direct-tcpip", b: b}
	return result(r, DirectTCPIP{r.name("host", maxHost), r.port("port"), r.str("origin host", maxHost), r.port("origin port")})
}

// ForwardedTCPIP is the extra data of a "forwarded-tcpip" channel open: RFC 4254, section 7.2.
type ForwardedTCPIP struct {
	Host       string // the listener's, as requested
	Port       uint32
	OriginHost string
	OriginPort uint32
}

// Marshal encodes f.
func (f ForwardedTCPIP) Marshal() []byte { return DirectTCPIP(f).Marshal() }

// ParseForwardedTCPIP decodes b.
func ParseForwardedTCPIP(b []byte) (ForwardedTCPIP, error) {
	r := &reader{what: "forwarded-tcpip", b: b}
	return result(r, ForwardedTCPIP{r.name("host", maxHost), r.port("port"), r.str("origin host", maxHost), r.port("origin port")})
}

// TCPIPForward is "tcpip-forward" and "cancel-tcpip-forward": RFC 4254, section 7.1.
type TCPIPForward struct {
	Host string // to bind
	Port uint32
}

// Marshal encodes t.
func (t TCPIPForward) Marshal() []byte { return u32(str(nil, t.Host), t.Port) }

// ParseTCPIPForward decodes b.
func ParseTCPIPForward(b []byte) (TCPIPForward, error) {
	r := &reader{what: "tcpip-forward", b: b}
	return result(r, TCPIPForward{r.name("host", maxHost), r.port("port")})
}

// DirectStreamlocal is the extra data of a "direct-streamlocal@openssh.com" channel open: OpenSSH PROTOCOL, section 2.4.
type DirectStreamlocal struct {
	Path     string
	Reserved string
	Extra    uint32 // reserved
}

// Marshal encodes d.
func (d DirectStreamlocal) Marshal() []byte {
	return u32(str(str(nil, d.Path), d.Reserved), d.Extra)
}

// ParseDirectStreamlocal decodes b.
func ParseDirectStreamlocal(b []byte) (DirectStreamlocal, error) {
	r := &reader{what: "direct-streamlocal", b: b}
	return result(r, DirectStreamlocal{r.name("path", maxPath), r.str("reserved", maxText), r.u32("reserved")})
}

// ForwardedStreamlocal is the extra data of a "forwarded-streamlocal@openssh.com" channel open: OpenSSH PROTOCOL, section 2.4.
type ForwardedStreamlocal struct {
	Path     string
	Reserved string
}

// Marshal encodes f.
func (f ForwardedStreamlocal) Marshal() []byte { return str(str(nil, f.Path), f.Reserved) }

// ParseForwardedStreamlocal decodes b.
func ParseForwardedStreamlocal(b []byte) (ForwardedStreamlocal, error) {
	r := &reader{what: "forwarded-streamlocal", b: b}
	return result(r, ForwardedStreamlocal{r.name("path", maxPath), r.str("reserved", maxText)})
}

// StreamlocalForward is "streamlocal-forward@openssh.com" and its cancel: OpenSSH PROTOCOL, section 2.4.
type StreamlocalForward struct{ Path string }

// Marshal encodes s.
func (s StreamlocalForward) Marshal() []byte { return str(nil, s.Path) }

// ParseStreamlocalForward decodes b.
func ParseStreamlocalForward(b []byte) (StreamlocalForward, error) {
	r := &reader{what: "streamlocal-forward", b: b}
	return result(r, StreamlocalForward{r.name("path", maxPath)})
}

// AgentChannel and X11Channel are the channel types for the person's own agent and X server.
const (
	AgentChannel = "auth-agent@openssh.com"
	X11Channel   = "x11"
)

// AcceptRequest is the name of the request by which the edge offers the hub a connection it accepted or an agent channel it wants.
const AcceptRequest = "hawser-accept@hawser"

// Accept is the payload of AcceptRequest: u64 ticket, then strings and uint32 as in RFC 4251.
//
//	u64    ticket
//	string kind: "auth-agent@openssh.com", "x11", "forwarded-tcpip" or "forwarded-streamlocal@openssh.com"
//	string origin host
//	u32    origin port
//	string connected host, or the path of a unix socket
//	u32    connected port, 0 for a unix socket
type Accept struct {
	Ticket        uint64 // named again in the OpenRequest of the stream that takes it
	Kind          string
	OriginHost    string
	OriginPort    uint32
	ConnectedHost string
	ConnectedPort uint32
}

// Marshal encodes a.
func (a Accept) Marshal() []byte {
	b := binary.BigEndian.AppendUint64(nil, a.Ticket)
	return u32(str(u32(str(str(b, a.Kind), a.OriginHost), a.OriginPort), a.ConnectedHost), a.ConnectedPort)
}

// ParseAccept decodes b.
func ParseAccept(b []byte) (Accept, error) {
	r := &reader{what: AcceptRequest, b: b}
	ticket := uint64(r.u32("ticket"))<<32 | uint64(r.u32("ticket"))
	return result(r, Accept{ticket, r.name("kind", maxName), r.str("origin host", maxHost), r.port("origin port"),
		r.str("connected host", maxPath), r.port("connected port")})
}

// BoundRequest is the name of the request that tells, before the SUCCESS of a tcpip-forward, which port was bound.
const BoundRequest = "hawser-bound@hawser"

// Bound is the payload of BoundRequest: u32 port.
type Bound struct{ Port uint32 }

// Marshal encodes p.
func (p Bound) Marshal() []byte { return u32(nil, p.Port) }

// ParseBound decodes b.
func ParseBound(b []byte) (Bound, error) {
	r := &reader{what: BoundRequest, b: b}
	return result(r, Bound{r.port("port")})
}
