package wire

import (
	"net/netip"
	"time"
)

// Version is the protocol version a hub says in its Challenge.
const Version = 1

// Label is one label of a device, or one piece of evidence about its hardware.
type Label struct{ Key, Value string }

// Challenge is the hub's first message.
type Challenge struct {
	Version        uint16
	HubUUID        UUID
	HubName        string
	Cluster        string
	HubIncarnation Incarnation
	Nonce          [32]byte // signed in Register
}

// Join asks for an identity, edge to hub, on a join-only tunnel: the client certificate is self-signed by the new
// device key. The edge has checked the hub by the token's pin before.
type Join struct {
	Secret       []byte // of the join token
	Name         string // wished device name; empty leaves it to auth
	Hostname     string
	Labels       []Label
	Evidence     []Label // serial numbers, MACs: hints, never identity
	Arch, OS     string
	AgentVersion string
}

// Joined answers Join with an identity.
type Joined struct {
	UUID    UUID
	Name    string
	Cluster string
	Chain   [][]byte // X.509, DER, leaf first
	SSHCert []byte   // SSH host certificate, wire form
	Trust   []byte   // signed trust bundle
	Hubs    []string // "host:port"
	Counter uint64   // generation of the certificate
}

// Refused answers Join, Register or Renew; the hub closes the tunnel after it, with the same code, except after a
// refused Renew on a registered tunnel.
type Refused struct {
	Code       CloseCode
	Message    string
	RetryAfter time.Duration
	Order      []byte // signed; only of a clone that is to become a device of its own
}

// Register claims a slot, edge to hub.
type Register struct {
	UUID        UUID
	Hub         UUID // the hub it is meant for
	Incarnation Incarnation
	Slot        uint8 // 0 or 1
	Counter     uint64
	Signature   []byte   // Ed25519 by the device key over RegisterTBS
	TimeNonce   [32]byte // auth signs it with the time, when it can be reached
	Info        Info
}

// Info describes the device; also sent alone when something in it changed. A changed Info replaces the whole.
type Info struct {
	Name         string
	Hostname     string
	AgentVersion string
	Arch, OS     string
	Labels       []Label
	Addresses    []string
	UID          uint32 // the agent's own user id
	Logins       []string
	Restart      bool // the first registration of this incarnation
	// Listen is the host:port at which the edge serves people, and hubs, itself; empty: nowhere. An unspecified address is any of its own.
	Listen string
	// TunnelOff: it keeps no tunnel of its own making; hubs dial Listen.
	TunnelOff bool
}

// Ack answers Register: from here the edge is registered.
type Ack struct {
	HubIncarnation Incarnation
	Heartbeat      time.Duration // wished interval
	RetryWindow    time.Duration // W of the first retry, rand(0, W)
	MaxStreams     uint16
	Observed       netip.AddrPort // the edge's address as the hub sees it
	LockRevision   uint64         // nothing is served before the edge holds it
	PolicyRevision uint64
	Time           []byte // signed beacon
	Hubs           []string
	ProbeKey       [16]byte // authorises NAT probes of the edge's at this hub (PROTOCOL.md, 5.1); zero: none
}

// Policy carries the device's compiled policy, signed by auth; hub to edge.
type Policy struct{ Blob []byte }

// Locks carries the locks in force, signed by auth; hub to edge.
type Locks struct {
	Revision uint64
	Blob     []byte
}

// Trust carries the signed trust bundle; hub to edge.
type Trust struct{ Blob []byte }

// Time carries a signed time; hub to edge.
type Time struct{ Blob []byte }

// PolicyHeld tells the hub which revisions the edge now enforces.
type PolicyHeld struct{ Policy, Locks, Hubs uint64 }

// Renew asks for new certificates for the key of the TLS peer; edge to hub.
type Renew struct{ Counter uint64 }

// Renewed answers Renew. The edge stores it before it acts on it.
type Renewed struct {
	Chain   [][]byte
	SSHCert []byte
	Trust   []byte
	Counter uint64
}

// PlaceKind is what a place is for.
type PlaceKind uint8

// Kinds of places.
const (
	PlaceConnection PlaceKind = 1
	PlaceSession    PlaceKind = 2
	PlaceForwards   PlaceKind = 3
	PlaceLease      PlaceKind = 4 // none: how long what the edge holds of this hub is its own
)

// PlaceRequest asks for a place for a person who came end to end; edge to hub.
type PlaceRequest struct {
	ID           uint32 // chosen by the edge, echoed
	Kind         PlaceKind
	ConnectionID [16]byte
	SessionID    [16]byte
	UserCert     []byte // the certificate that signed, SSH wire form
	Login        string
	ClientAddr   netip.AddrPort
	Channel      string // channel kind of auth/policy
	Command      string // cut at 4096 bytes
	// Direct: the person came to the edge's own port, not end to end by this hub.
	Direct bool
	// Join is the session of the device that he wants to join, the beginning of its id in hex, in the JoinMode of auth/policy; empty: it is to be one of his own.
	Join, JoinMode string
}

// PlaceReply answers PlaceRequest with a grant or a refusal.
type PlaceReply struct {
	ID          uint32
	Grant       []byte
	Refusal     string
	MaxChannels uint32 // of a connection, at once; 0: as many as the edge lets through
	// Lease is how long from the request on the place is the edge's, which asks for more in time or ends it (cap_mode exact); 0: until it is given back.
	Lease time.Duration
	Later bool // with a Refusal: nobody has judged it
}

// Release gives a place back; edge to hub.
type Release struct {
	SessionID  [16]byte
	ExitStatus int32
	Reason     string
}

// Denial tells of somebody whom the device's own SSH server let in by none of the keys that were shown, for the audit log; edge to hub.
type Denial struct {
	ClientAddr netip.AddrPort
	Name       string // the key id of the last certificate shown, which says no more than that
	Login      string
	Reason     string // one word
}

// ControlWanted asks the hub of a tunnel for its control stream: somebody came to the edge's own port; edge to hub.
type ControlWanted struct{}

// LogHead is a signed head of the audit log, or, with Older, the proof that the log of Size events begins with the first Older; hub to edge.
type LogHead struct {
	Size      uint64
	Root      [32]byte
	Time      uint64 // Unix seconds
	Signature []byte // over the head's text (PROTOCOL.md, 10.8)
	Older     uint64
	Proof     []byte // hashes of 32 bytes
}

// LogWanted asks for the proof that the log of Newer events begins with the first Older, edge to hub; or says that it does not, with the head
// of Older events that the edge holds.
type LogWanted struct {
	Older, Newer uint64
	Fork         bool
	Root         [32]byte
	Time         uint64
	Signature    []byte
}

// Forwarded tells auth of a connection that was forwarded end to end, sealed so that the hub cannot read it; edge to hub.
type Forwarded struct {
	ConnectionID [16]byte
	Sealed       []byte // auth/forwarded, sealed for auth by the key of the forwards grant
}

// UploadWanted asks the hub to open an Upload stream for a recording; edge to hub.
type UploadWanted struct {
	RecordingID [16]byte
	Grant       []byte // the session's: a hub that did not admit it, because its entry hub is gone, stores by it
}

// GoAway asks the edge to register elsewhere and tells when the hub closes.
type GoAway struct {
	Code       CloseCode
	Reason     string
	RetryAfter time.Duration
	Deadline   time.Duration // from receipt
}

// HubList carries the signed list of hubs; hub to edge.
type HubList struct{ Blob []byte }

// Kill ends a session and every process of it; hub to edge. The reason is shown to the person.
type Kill struct {
	SessionID [16]byte
	Reason    string
}

// What a Tell is about.
const (
	TellAll   = 1 // Text is shown to all who are in the session
	TellOut   = 2 // the guests called User are put out, for Text, and stay out
	TellLetIn = 3 // those called User may come again
)

// Tell is about the people in a session; hub to edge. What is not known means nothing.
type Tell struct {
	SessionID [16]byte
	What      uint8
	User      string
	Text      string
}

// Type implements Message.
func (Challenge) Type() Type     { return TypeChallenge }
func (Join) Type() Type          { return TypeJoin }
func (Joined) Type() Type        { return TypeJoined }
func (Refused) Type() Type       { return TypeRefused }
func (Register) Type() Type      { return TypeRegister }
func (Info) Type() Type          { return TypeInfo }
func (Ack) Type() Type           { return TypeAck }
func (Policy) Type() Type        { return TypePolicy }
func (Locks) Type() Type         { return TypeLocks }
func (Trust) Type() Type         { return TypeTrust }
func (Time) Type() Type          { return TypeTime }
func (PolicyHeld) Type() Type    { return TypePolicyHeld }
func (Renew) Type() Type         { return TypeRenew }
func (Renewed) Type() Type       { return TypeRenewed }
func (PlaceRequest) Type() Type  { return TypePlaceRequest }
func (PlaceReply) Type() Type    { return TypePlaceReply }
func (Release) Type() Type       { return TypeRelease }
func (Denial) Type() Type        { return TypeDenial }
func (ControlWanted) Type() Type { return TypeControlWanted }
func (LogHead) Type() Type       { return TypeLogHead }
func (LogWanted) Type() Type     { return TypeLogWanted }
func (UploadWanted) Type() Type  { return TypeUploadWanted }
func (Forwarded) Type() Type     { return TypeForwarded }
func (GoAway) Type() Type        { return TypeGoAway }
func (HubList) Type() Type       { return TypeHubList }
func (Kill) Type() Type          { return TypeKill }
func (Tell) Type() Type          { return TypeTell }

// Append implements Message.
func (m Challenge) Append(b []byte) []byte     { return appendMessage(b, m.Type(), m.fields) }
func (m Join) Append(b []byte) []byte          { return appendMessage(b, m.Type(), m.fields) }
func (m Joined) Append(b []byte) []byte        { return appendMessage(b, m.Type(), m.fields) }
func (m Refused) Append(b []byte) []byte       { return appendMessage(b, m.Type(), m.fields) }
func (m Register) Append(b []byte) []byte      { return appendMessage(b, m.Type(), m.fields) }
func (m Info) Append(b []byte) []byte          { return appendMessage(b, m.Type(), m.fields) }
func (m Ack) Append(b []byte) []byte           { return appendMessage(b, m.Type(), m.fields) }
func (m Policy) Append(b []byte) []byte        { return appendMessage(b, m.Type(), m.fields) }
func (m Locks) Append(b []byte) []byte         { return appendMessage(b, m.Type(), m.fields) }
func (m Trust) Append(b []byte) []byte         { return appendMessage(b, m.Type(), m.fields) }
func (m Time) Append(b []byte) []byte          { return appendMessage(b, m.Type(), m.fields) }
func (m PolicyHeld) Append(b []byte) []byte    { return appendMessage(b, m.Type(), m.fields) }
func (m Renew) Append(b []byte) []byte         { return appendMessage(b, m.Type(), m.fields) }
func (m Renewed) Append(b []byte) []byte       { return appendMessage(b, m.Type(), m.fields) }
func (m PlaceRequest) Append(b []byte) []byte  { return appendMessage(b, m.Type(), m.fields) }
func (m PlaceReply) Append(b []byte) []byte    { return appendMessage(b, m.Type(), m.fields) }
func (m Release) Append(b []byte) []byte       { return appendMessage(b, m.Type(), m.fields) }
func (m Denial) Append(b []byte) []byte        { return appendMessage(b, m.Type(), m.fields) }
func (m ControlWanted) Append(b []byte) []byte { return appendMessage(b, m.Type(), m.fields) }
func (m LogHead) Append(b []byte) []byte       { return appendMessage(b, m.Type(), m.fields) }
func (m LogWanted) Append(b []byte) []byte     { return appendMessage(b, m.Type(), m.fields) }
func (m Forwarded) Append(b []byte) []byte     { return appendMessage(b, m.Type(), m.fields) }
func (m UploadWanted) Append(b []byte) []byte  { return appendMessage(b, m.Type(), m.fields) }
func (m GoAway) Append(b []byte) []byte        { return appendMessage(b, m.Type(), m.fields) }
func (m HubList) Append(b []byte) []byte       { return appendMessage(b, m.Type(), m.fields) }
func (m Kill) Append(b []byte) []byte          { return appendMessage(b, m.Type(), m.fields) }
func (m Tell) Append(b []byte) []byte          { return appendMessage(b, m.Type(), m.fields) }
