package wire

import (
	"net/netip"
	"time"
)

// Heartbeat flags.
const (
	// HeartbeatAnswerWanted asks for an answer whatever the hub's own rule says.
	HeartbeatAnswerWanted uint8 = 1 << iota
	// HeartbeatKeepAlive says that no heartbeat follows: the kernel's TCP keepalive comes once in Interval.
	HeartbeatKeepAlive
)

// Heartbeat is sent by the edge, as a QUIC datagram or an outer frame on TLS; it may be lost.
type Heartbeat struct {
	Seq      uint32
	Flags    uint8
	Interval time.Duration // when the next is due; the hub allows for three of them
	// Again is the short form, one byte: what the last whole one told holds, and no answer is wanted. It has no other field. Idle devices
	// pay for each byte of it three and a half thousand times a day.
	Again bool
}

// again is the short form. A message's first byte is 0.
const again = 1

// HeartbeatAnswer is the hub's answer to some heartbeats.
type HeartbeatAnswer struct {
	Seq      uint32         // of the heartbeat answered
	Observed netip.AddrPort // the edge's address as the hub sees it
	Time     time.Time      // the hub's clock, unsigned: a hint, never trusted
	Interval time.Duration  // the hub's wish; 0 leaves it as it is
}

// Type implements Message.
func (Heartbeat) Type() Type       { return TypeHeartbeat }
func (HeartbeatAnswer) Type() Type { return TypeHeartbeatAnswer }

// Append implements Message.
func (m HeartbeatAnswer) Append(b []byte) []byte { return appendMessage(b, m.Type(), m.fields) }

// Append implements Message.
func (m Heartbeat) Append(b []byte) []byte {
	if m.Again {
		return append(b, again)
	}
	return appendMessage(b, m.Type(), m.fields)
}

// DecodeHeartbeat decodes what a hub receives as heartbeat.
func DecodeHeartbeat(b []byte) (Heartbeat, error) {
	if len(b) == 1 && b[0] == again {
		return Heartbeat{Again: true}, nil
	}
	return decodeAs[Heartbeat](b)
}

// DecodeHeartbeatAnswer decodes what an edge receives as heartbeat.
func DecodeHeartbeatAnswer(b []byte) (HeartbeatAnswer, error) {
	return decodeAs[HeartbeatAnswer](b)
}

func (m *Heartbeat) fields(c *codec) {
	c.u32(1, &m.Seq)
	c.u8(2, &m.Flags)
	c.duration(3, &m.Interval)
}

func (m *HeartbeatAnswer) fields(c *codec) {
	c.u32(1, &m.Seq)
	c.addrPort(2, &m.Observed)
	c.moment(3, &m.Time)
	c.duration(4, &m.Interval)
}
