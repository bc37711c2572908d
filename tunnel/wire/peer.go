package wire

import (
	"fmt"
	"net/netip"
	"time"
)

// Messages between hubs, on the control stream of a peer connection, and the header of a stream on one.

// PeerHello is the first message of either hub on a peer connection.
type PeerHello struct {
	Version     uint16
	HubUUID     UUID
	HubName     string
	Cluster     string
	Incarnation Incarnation
	Clock       Stamp // the sender's hybrid logical clock
}

// Stamp is a hybrid logical clock's reading: milliseconds since 1970 in the upper 48 bits, a counter in the lower 16.
// Later is larger. The zero Stamp is no time.
type Stamp uint64

// Time is the stamp's milliseconds as a time.
func (s Stamp) Time() time.Time { return time.UnixMilli(int64(s >> 16)).UTC() }

// Announce tells another hub of a tunnel registered at the sender: the fields the device signed, with the nonce and the
// signature it signed them with, the stamp of the hub that accepted the incarnation first, and what the hub knows of the
// device. The tunnel's hub is the sender: nobody announces for another.
type Announce struct {
	UUID        UUID
	Incarnation Incarnation
	Slot        uint8
	Counter     uint64
	Nonce       [32]byte
	Signature   []byte
	Stamp       Stamp
	Carrier     uint8 // tunnel.Carrier
	Since       time.Time
	Observed    netip.AddrPort
	Silent      bool // its heartbeats are overdue
	UID         uint32
	Logins      []string
}

// Withdraw takes an Announce back: the tunnel of this registration has ended.
type Withdraw struct {
	UUID        UUID
	Incarnation Incarnation
	Slot        uint8
	Counter     uint64
	Code        CloseCode
	Reason      string
}

// Announced ends the announcements that follow a PeerHello: what the receiver holds of the sender and was not named
// since is over.
type Announced struct{}

// PeerOpen is the first message of a stream on a peer connection, opener to home hub: the device whose tunnel the rest
// of the stream is for. What follows is an Attach with InnerTLS.
type PeerOpen struct {
	Device UUID
	Slot   uint8 // wished; the home hub takes the other slot when that is all it has
}

// HubQuery asks how another hub is, edge to hub: the entry hub of streams the edge holds detached.
type HubQuery struct{ Hub UUID }

// HubState is how a hub is, as another sees it.
type HubState uint8

// States of a hub.
const (
	HubUnknown HubState = 0 // not in the cluster, or never seen since the asked hub started
	HubUp      HubState = 1
	HubGone    HubState = 2
)

// HubStatus answers HubQuery, and is sent unasked to devices when a hub that has used them changes.
type HubStatus struct {
	Hub         UUID
	State       HubState
	Incarnation Incarnation   // the last one seen
	Gone        time.Duration // since it was last heard of; 0 while up
}

// EventKind is what happened to a device's connection.
type EventKind uint8

// Kinds of connection events. Their numbers never change; a receiver shows one it does not know by its number.
const (
	EventStarted      EventKind = 1  // the agent started
	EventRegistered   EventKind = 2  // a tunnel stands
	EventLost         EventKind = 3  // a tunnel ended without a word
	EventClosed       EventKind = 4  // a tunnel was closed with a code
	EventRefused      EventKind = 5  // a hub refused
	EventDNS          EventKind = 6  // the hub's name did not resolve
	EventUDPBlocked   EventKind = 7  // QUIC got no answer while TLS did
	EventNoRoute      EventKind = 8  // no network
	EventUnreachable  EventKind = 9  // neither carrier got an answer
	EventIntercepted  EventKind = 10 // a captive portal or a TLS middlebox answered
	EventProxy        EventKind = 11 // the HTTP proxy refused or failed
	EventMoved        EventKind = 12 // the device's address or network changed
	EventCarrier      EventKind = 13 // one carrier replaced the other
	EventCertificate  EventKind = 14 // the certificate was not accepted, or had to be renewed
	EventUnauthorized EventKind = 15 // authority said no
	EventSilent       EventKind = 16 // a tunnel did not answer for a while, and was kept: it answered again, was replaced, or ended
)

var eventNames = [...]string{"", "started", "registered", "lost", "closed", "refused", "dns-failed", "udp-blocked",
	"no-network", "unreachable", "intercepted", "proxy-failed", "moved", "carrier-changed", "certificate", "unauthorized", "silent"}

// String returns the kind's name as PROTOCOL.md has it.
func (k EventKind) String() string {
	if k == 0 || int(k) >= len(eventNames) {
		return "unknown"
	}
	return eventNames[k]
}

// ConnEvent is one entry of an edge's memory of its connections.
type ConnEvent struct {
	Kind    EventKind
	Ago     time.Duration // before the message was sent: a device's clock may be wrong
	Lasted  time.Duration // of a state that was seen Times times in a row; 0: a moment
	Times   uint32
	Hub     string
	Carrier uint8 // tunnel.Carrier; 0: none
	Code    CloseCode
	Text    string
}

// History is what an edge remembers of its connections, oldest first, edge to hub after each registration.
type History struct{ Events []ConnEvent }

// Type implements Message.
func (PeerHello) Type() Type { return TypePeerHello }
func (Announce) Type() Type  { return TypeAnnounce }
func (Withdraw) Type() Type  { return TypeWithdraw }
func (Announced) Type() Type { return TypeAnnounced }
func (PeerOpen) Type() Type  { return TypePeerOpen }
func (HubQuery) Type() Type  { return TypeHubQuery }
func (HubStatus) Type() Type { return TypeHubStatus }
func (History) Type() Type   { return TypeHistory }

// Append implements Message.
func (m PeerHello) Append(b []byte) []byte { return appendMessage(b, m.Type(), m.fields) }
func (m Announce) Append(b []byte) []byte  { return appendMessage(b, m.Type(), m.fields) }
func (m Withdraw) Append(b []byte) []byte  { return appendMessage(b, m.Type(), m.fields) }
func (m Announced) Append(b []byte) []byte { return appendMessage(b, m.Type(), m.fields) }
func (m PeerOpen) Append(b []byte) []byte  { return appendMessage(b, m.Type(), m.fields) }
func (m HubQuery) Append(b []byte) []byte  { return appendMessage(b, m.Type(), m.fields) }
func (m HubStatus) Append(b []byte) []byte { return appendMessage(b, m.Type(), m.fields) }
func (m History) Append(b []byte) []byte   { return appendMessage(b, m.Type(), m.fields) }

func (m *PeerHello) fields(c *codec) {
	c.u16(1, &m.Version)
	c.array(2, m.HubUUID[:])
	c.str(3, &m.HubName, maxCluster)
	c.str(4, &m.Cluster, maxCluster)
	c.array(5, m.Incarnation[:])
	number(c, 6, &m.Clock, 8)
}

func (m *Announce) fields(c *codec) {
	c.array(1, m.UUID[:])
	c.array(2, m.Incarnation[:])
	c.u8(3, &m.Slot)
	c.u64(4, &m.Counter)
	c.array(5, m.Nonce[:])
	c.bytes(6, &m.Signature, maxSignature)
	number(c, 7, &m.Stamp, 8)
	c.u8(8, &m.Carrier)
	c.moment(9, &m.Since)
	c.addrPort(10, &m.Observed)
	c.flag(11, &m.Silent)
	c.u32(12, &m.UID)
	c.strs(13, &m.Logins, maxLogins, maxLogin)
}

func (m *Withdraw) fields(c *codec) {
	c.array(1, m.UUID[:])
	c.array(2, m.Incarnation[:])
	c.u8(3, &m.Slot)
	c.u64(4, &m.Counter)
	number(c, 5, &m.Code, 2)
	c.text(6, &m.Reason, maxText)
}

func (m *Announced) fields(*codec) {}

func (m *PeerOpen) fields(c *codec) {
	c.array(1, m.Device[:])
	c.u8(2, &m.Slot)
}

func (m *HubQuery) fields(c *codec) { c.array(1, m.Hub[:]) }

func (m *HubStatus) fields(c *codec) {
	c.array(1, m.Hub[:])
	number(c, 2, &m.State, 1)
	c.array(3, m.Incarnation[:])
	c.duration(4, &m.Gone)
}

func (m *History) fields(c *codec) {
	nestedList(c, 1, &m.Events, maxEvents, maxEvent, (*ConnEvent).fields)
}

func (m *ConnEvent) fields(c *codec) {
	number(c, 1, &m.Kind, 1)
	c.duration(2, &m.Ago)
	c.duration(3, &m.Lasted)
	c.u32(4, &m.Times)
	c.text(5, &m.Hub, maxCluster)
	c.u8(6, &m.Carrier)
	number(c, 7, &m.Code, 2)
	c.text(8, &m.Text, maxEventText)
}

// nestedList carries several of what nested carries one of.
func nestedList[T any](c *codec, tag uint8, list *[]T, limit, maxEach int, fields func(*T, *codec)) {
	if c.encoding {
		for i := range *list {
			inner := codec{encoding: true}
			fields(&(*list)[i], &inner)
			c.put(tag, inner.out)
		}
		return
	}
	for _, b := range c.all(tag, limit, maxEach) {
		var inner codec
		var v T
		if inner.parse(b); inner.err == nil {
			fields(&v, &inner)
		}
		if inner.err != nil {
			c.err = fmt.Errorf("field %d: %w", tag, inner.err)
			return
		}
		*list = append(*list, v)
	}
}
