package wire

import "net/netip"

// StreamKind is what a stream is for.
type StreamKind uint8

// Kinds of streams.
const (
	KindSession  StreamKind = 1 // one RFC 4254 session channel (tunnel/channel)
	KindForward  StreamKind = 2 // bytes to a target in the device's network
	KindListen   StreamKind = 3 // a listener on the device (-R)
	KindAccepted StreamKind = 4 // one connection the device accepted, or an agent channel
	KindEndToEnd StreamKind = 5 // a person's SSH connection to the edge's own server
	KindUpload   StreamKind = 6 // a recording the edge made
	KindControl  StreamKind = 7 // control messages between the entry hub and the edge, through whatever hub
)

var kindNames = [...]string{"", "session", "forward", "listen", "accepted", "end-to-end", "upload", "control"}

// String returns the kind's name.
func (k StreamKind) String() string {
	if k == 0 || int(k) >= len(kindNames) {
		return "unknown"
	}
	return kindNames[k]
}

// Attach is the first message of every stream, hub to edge.
type Attach struct {
	Kind                StreamKind
	ID                  StreamID
	Counter             uint32 // of attachments: 0 opens the stream, more resume it
	Sent                uint64 // bytes the hub has sent: where its DATA goes on
	Received            uint64 // bytes the hub has consumed: where the edge's DATA goes on
	EntryHub            UUID
	EntryHubIncarnation Incarnation
	InnerTLS            bool   // nothing else here counts: TLS 1.3 of the entry hub's own follows, and in it the real Attach
	Open                []byte // encoded OpenRequest, only when Counter is 0
}

// Attached answers Attach, edge to hub. After a code other than StreamOK the stream ends.
type Attached struct {
	Code     StreamCode
	Message  string
	Received uint64 // the next offset the edge expects
	Sent     uint64 // the offset after the last byte the edge ever sent
}

// Networks of OpenRequest.
const (
	NetworkTCP  = "tcp"
	NetworkUnix = "unix"
)

// OpenRequest says what a new stream is to do. Which fields matter depends on the kind (PROTOCOL.md, "Streams").
type OpenRequest struct {
	Grant       []byte
	ClientAddr  netip.AddrPort // the person's
	ServerAddr  netip.AddrPort // the hub's, as the person reached it
	Target      string         // "host:port", or a unix path; any bytes
	Network     string         // NetworkTCP or NetworkUnix
	Parent      StreamID       // Accepted: the Session or Listen stream it belongs to
	Ticket      uint64         // Accepted: which of the parent's pending connections
	RecordingID [16]byte       // Upload
	Window      uint32         // the hub's channel receive window
}

// Type implements Message.
func (Attach) Type() Type      { return TypeAttach }
func (Attached) Type() Type    { return TypeAttached }
func (OpenRequest) Type() Type { return TypeOpenRequest }

// Append implements Message.
func (m Attach) Append(b []byte) []byte      { return appendMessage(b, m.Type(), m.fields) }
func (m Attached) Append(b []byte) []byte    { return appendMessage(b, m.Type(), m.fields) }
func (m OpenRequest) Append(b []byte) []byte { return appendMessage(b, m.Type(), m.fields) }

// DecodeAttach decodes a whole message that must be an Attach.
func DecodeAttach(msg []byte) (Attach, error) { return decodeAs[Attach](msg) }

// DecodeAttached decodes a whole message that must be an Attached.
func DecodeAttached(msg []byte) (Attached, error) { return decodeAs[Attached](msg) }

// DecodeOpenRequest decodes the Open field of an Attach.
func DecodeOpenRequest(msg []byte) (OpenRequest, error) { return decodeAs[OpenRequest](msg) }

func (m *Attach) fields(c *codec) {
	number(c, 1, &m.Kind, 1)
	c.array(2, m.ID[:])
	c.u32(3, &m.Counter)
	c.u64(4, &m.Sent)
	c.u64(5, &m.Received)
	c.array(6, m.EntryHub[:])
	c.array(7, m.EntryHubIncarnation[:])
	c.flag(8, &m.InnerTLS)
	c.bytes(9, &m.Open, MaxAttach)
}

func (m *Attached) fields(c *codec) {
	number(c, 1, &m.Code, 2)
	c.text(2, &m.Message, maxText)
	c.u64(3, &m.Received)
	c.u64(4, &m.Sent)
}

func (m *OpenRequest) fields(c *codec) {
	c.bytes(1, &m.Grant, maxGrant)
	c.addrPort(2, &m.ClientAddr)
	c.addrPort(3, &m.ServerAddr)
	c.path(4, &m.Target, maxTarget)
	c.str(5, &m.Network, maxVersion)
	c.array(6, m.Parent[:])
	c.u64(7, &m.Ticket)
	c.array(8, m.RecordingID[:])
	c.u32(9, &m.Window)
}
