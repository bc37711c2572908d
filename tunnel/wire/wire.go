// Package wire is the tunnel's wire format: control messages, heartbeats, the header every stream begins with, the
// identifiers and codes they use, and the grammar of names. PROTOCOL.md, one directory up, specifies all of it, and the
// vectors in ../testdata are this package's test input. There is no I/O and no clock here.
//
// Start from Encode and Decode. Decode returns pointers (*Challenge, *Ack, ...). Unknown fields are ignored, and an
// unknown message type is ErrUnknownType, which a receiver skips: that is how the format grows. Version 1 messages keep
// their types and tags for ever.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Type is the type of a message, its first two bytes.
type Type uint16

// Message types. The direction is told at each struct.
const (
	TypeChallenge Type = 1 + iota
	TypeJoin
	TypeJoined
	TypeRefused
	TypeRegister
	TypeInfo
	TypeAck
	TypePolicy
	TypeLocks
	TypeTrust
	TypeTime
	TypePolicyHeld
	TypeRenew
	TypeRenewed
	TypePlaceRequest
	TypePlaceReply
	TypeRelease
	TypeUploadWanted
	TypeGoAway
	TypeHubList
	TypeKill
	TypeHubQuery
	TypeHubStatus
	TypeHistory
	TypeDenial
	TypeControlWanted
	TypeLogHead
	TypeLogWanted
	TypeForwarded
	TypeTell

	TypeHeartbeat       Type = 32
	TypeHeartbeatAnswer Type = 33

	TypeAttach      Type = 48
	TypeAttached    Type = 49
	TypeOpenRequest Type = 50

	TypePeerHello Type = 64
	TypeAnnounce  Type = 65
	TypeWithdraw  Type = 66
	TypeAnnounced Type = 67
	TypePeerOpen  Type = 68
)

// ErrUnknownType is returned by Decode for a message of a later version; the receiver ignores it.
var ErrUnknownType = errors.New("unknown message type")

// Message is one of this package's messages, as a value or a pointer.
type Message interface {
	// Type is the message's type.
	Type() Type
	// Append appends the encoded message to b. It does not check limits: Encode does.
	Append(b []byte) []byte
}

// decodable is what the pointers Decode makes have in common.
type decodable interface {
	Message
	fields(*codec)
}

// Encode returns m's bytes, or an error wrapping ErrTooLong or ErrMalformed when a peer would refuse them.
func Encode(m Message) ([]byte, error) {
	b := m.Append(nil)
	if len(b) > MaxControl {
		return nil, fmt.Errorf("%w: message %d: %d bytes, at most %d", ErrTooLong, m.Type(), len(b), MaxControl)
	}
	// What we would not accept we do not send; this also catches the limits of fields.
	if _, err := Decode(b); err != nil {
		return nil, fmt.Errorf("encode message %d: %w", m.Type(), err)
	}
	return b, nil
}

// MessageLen returns the length of a whole message, header included, from its first HeaderLen bytes; more than limit
// is an error. It lets a reader of a byte stream know how much to read before it allocates.
func MessageLen(header []byte, limit int) (int, error) {
	if len(header) < HeaderLen {
		return 0, fmt.Errorf("%w: a header of %d bytes", ErrMalformed, len(header))
	}
	n := uint64(binary.BigEndian.Uint32(header[2:])) + HeaderLen
	if n > uint64(limit) {
		return 0, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, n, limit)
	}
	return int(n), nil
}

// Decode decodes one whole message of any type and returns a pointer to it. The result shares no memory with msg.
func Decode(msg []byte) (Message, error) {
	n, err := MessageLen(msg, MaxControl)
	if err != nil {
		return nil, err
	}
	if n != len(msg) {
		return nil, fmt.Errorf("%w: %d bytes, its header says %d", ErrMalformed, len(msg), n)
	}
	t := Type(binary.BigEndian.Uint16(msg))
	m := newMessage(t)
	if m == nil {
		return nil, fmt.Errorf("%w: %d", ErrUnknownType, t)
	}
	c := codec{}
	if c.parse(msg[HeaderLen:]); c.err == nil {
		m.fields(&c)
	}
	if c.err != nil {
		return nil, fmt.Errorf("message %d: %w", t, c.err)
	}
	return m, nil
}

// decodeAs decodes a message that must be of one type.
func decodeAs[T any](msg []byte) (T, error) {
	var zero T
	m, err := Decode(msg)
	if err != nil {
		return zero, err
	}
	p, ok := m.(any).(*T)
	if !ok {
		return zero, fmt.Errorf("%w: message %d where another was due", ErrMalformed, m.Type())
	}
	return *p, nil
}

// appendMessage appends the header and the fields of a message.
func appendMessage(b []byte, t Type, fields func(*codec)) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint16(b, uint16(t))
	c := codec{encoding: true, out: append(b, 0, 0, 0, 0)}
	fields(&c)
	binary.BigEndian.PutUint32(c.out[start+2:], uint32(len(c.out)-start-HeaderLen))
	return c.out
}

func newMessage(t Type) decodable {
	switch t {
	case TypeChallenge:
		return new(Challenge)
	case TypeJoin:
		return new(Join)
	case TypeJoined:
		return new(Joined)
	case TypeRefused:
		return new(Refused)
	case TypeRegister:
		return new(Register)
	case TypeInfo:
		return new(Info)
	case TypeAck:
		return new(Ack)
	case TypePolicy:
		return new(Policy)
	case TypeLocks:
		return new(Locks)
	case TypeTrust:
		return new(Trust)
	case TypeTime:
		return new(Time)
	case TypePolicyHeld:
		return new(PolicyHeld)
	case TypeRenew:
		return new(Renew)
	case TypeRenewed:
		return new(Renewed)
	case TypePlaceRequest:
		return new(PlaceRequest)
	case TypePlaceReply:
		return new(PlaceReply)
	case TypeRelease:
		return new(Release)
	case TypeUploadWanted:
		return new(UploadWanted)
	case TypeGoAway:
		return new(GoAway)
	case TypeHubList:
		return new(HubList)
	case TypeKill:
		return new(Kill)
	case TypeHubQuery:
		return new(HubQuery)
	case TypeHubStatus:
		return new(HubStatus)
	case TypeDenial:
		return new(Denial)
	case TypeControlWanted:
		return new(ControlWanted)
	case TypeLogHead:
		return new(LogHead)
	case TypeLogWanted:
		return new(LogWanted)
	case TypeForwarded:
		return new(Forwarded)
	case TypeTell:
		return new(Tell)
	case TypeHistory:
		return new(History)
	case TypePeerHello:
		return new(PeerHello)
	case TypeAnnounce:
		return new(Announce)
	case TypeWithdraw:
		return new(Withdraw)
	case TypeAnnounced:
		return new(Announced)
	case TypePeerOpen:
		return new(PeerOpen)
	case TypeHeartbeat:
		return new(Heartbeat)
	case TypeHeartbeatAnswer:
		return new(HeartbeatAnswer)
	case TypeAttach:
		return new(Attach)
	case TypeAttached:
		return new(Attached)
	case TypeOpenRequest:
		return new(OpenRequest)
	}
	return nil
}
