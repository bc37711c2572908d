package resume

import (
	"encoding/binary"
	"fmt"

	"hawser/tunnel/wire"
)

// Machine is one end of a resumable stream without I/O, clock or lock: it keeps what was written until it is acknowledged, says what to
// put on the current attachment, and counts what came. It does not keep received bytes: its owner does, and tells it what the program
// took. Not safe for concurrent use.
type Machine struct {
	sendBuffer, recvBuffer uint64

	// Our direction. acked ≤ next ≤ end (+1 with FIN); high is the highest next ever.
	chunks []*chunk // bytes [acked, end), whole chunks, oldest first
	acked  uint64
	next   uint64
	high   uint64
	end    uint64
	limit  uint64 // the peer takes bytes below it
	asked  uint64 // end of the last DATA_ASK on this attachment
	fin    bool   // nothing follows end; FIN takes offset end

	// The peer's direction. consumed ≤ received ≤ told.
	received uint64 // next offset expected; past FIN once it came
	consumed uint64
	told     uint64 // highest limit given to the peer
	ackedIn  uint64 // consumed as last sent
	asks     [2]uint64
	ackDue   bool
	peerFin  bool

	attached  bool
	resetOut  *ResetError // to be sent
	resetLate bool        // only behind our FIN
	resetDone bool        // RESET has left: nothing else may
	resetIn   *ResetError
}

// NewMachine returns the end of a stream at offset 0, not yet attached. Buffers are bytes.
func NewMachine(sendBuffer, recvBuffer int) *Machine {
	m := &Machine{
		sendBuffer: uint64(max(sendBuffer, smallChunk)),
		recvBuffer: uint64(max(recvBuffer, InitialWindow)),
		limit:      InitialWindow,
		told:       InitialWindow,
	}
	m.ackDue = m.recvBuffer > InitialWindow
	return m
}

// Append takes as much of p as the send buffer has room for and returns how many bytes. total is the length of the write p is part of,
// by which pieces are laid out. Nothing is taken after Finish or a reset.
func (m *Machine) Append(p []byte, total int) int {
	if m.fin || m.resetOut != nil || m.resetIn != nil {
		return 0
	}
	p = p[:min(uint64(len(p)), m.sendBuffer-min(m.sendBuffer, m.end-m.acked))]
	taken := 0
	for len(p) > 0 {
		var last *chunk
		if n := len(m.chunks); n > 0 {
			last = m.chunks[n-1]
		}
		if last == nil || last.room() == 0 || (taken == 0 && total >= alignFrom && total <= MaxSend && last.room() < len(p)) {
			last = newChunk(m.end, len(m.chunks) > 0 || total > smallChunk-frameHeader)
			m.chunks = append(m.chunks, last)
		}
		n := last.fill(p)
		m.end += uint64(n)
		taken += n
		p = p[n:]
	}
	return taken
}

// Finish ends our direction after what was appended.
func (m *Machine) Finish() { m.fin = true }

// Reset ends both directions: RESET leaves next and nothing after it.
func (m *Machine) Reset(code wire.StreamCode, text string) {
	if m.resetOut == nil || m.resetLate {
		m.resetOut, m.resetLate = &ResetError{Code: code, Text: text}, false
		m.drop()
	}
}

// ResetAfterFin is Reset behind everything appended and FIN: the peer gets what we wrote, we want no more of what it writes.
func (m *Machine) ResetAfterFin(code wire.StreamCode) {
	m.fin = true
	if m.resetOut == nil {
		m.resetOut, m.resetLate = &ResetError{Code: code}, true
	}
}

// Attach begins a new attachment whose peer expects peerReceived next and has ever sent peerSent. After an error the Machine is unchanged.
func (m *Machine) Attach(peerSent, peerReceived uint64) error {
	if m.resetOut != nil && !m.resetLate { // the peer may not have it: it goes again, and nothing else ever
		m.resetDone = false
		m.attached = true
		return nil
	}
	if peerReceived < m.acked || peerReceived > m.high {
		return fmt.Errorf("%w: the peer expects offset %d, we hold %d to %d", ErrProtocol, peerReceived, m.acked, m.high)
	}
	if peerSent < m.received {
		return fmt.Errorf("%w: the peer says it sent %d, we have %d", ErrProtocol, peerSent, m.received)
	}
	m.next = peerReceived
	m.asked = m.acked
	m.resetDone = false                                             // the same for one behind our FIN
	m.ackDue = m.ackDue || m.consumed > 0 || m.told > InitialWindow // the last ACK may have been lost
	m.attached = true
	return nil
}

// Detach ends the attachment: nothing is emitted until the next.
func (m *Machine) Detach() { m.attached = false }

// Position returns what Attach and Attached say: the end of what was ever sent, and the next offset expected.
func (m *Machine) Position() (sent, received uint64) { return m.high, m.received }

// Emit returns the next bytes for the attachment: frames appended to buf up to its capacity or at least one frame, and then, to be written after them, a whole
// frame held by the Machine (nil: none). The caller calls Sent when it has written that. Nothing at all means: nothing to send now.
func (m *Machine) Emit(buf []byte) (small []byte, big *Frame) {
	if !m.attached || m.resetDone || m.resetIn != nil {
		return buf, nil
	}
	if m.resetOut != nil && (!m.resetLate || m.next > m.end) {
		m.resetDone = true
		return appendReset(buf, m.resetOut), nil
	}
	if m.ackDue {
		m.ackDue = false
		m.ackedIn = m.consumed
		m.told = max(m.told, m.consumed+m.recvBuffer)
		buf = appendAck(buf, m.consumed, uint32(m.told-m.consumed))
	}
	for m.next < m.end && m.next < m.limit {
		c := m.chunkAt(m.next)
		b := c.bytes(m.next)
		b = b[:min(uint64(len(b)), m.limit-m.next)]
		if m.next == c.start && len(b) >= alignFrom && !c.pinned {
			c.pinned = true
			frame := c.buf[:frameHeader+len(b)]
			appendHeader(frame[:0], m.dataType(len(b)), len(b))
			m.advance(len(b))
			return buf, &Frame{Bytes: frame, c: c}
		}
		if room := cap(buf) - len(buf) - frameHeader; room < len(b) && len(buf) > 0 {
			return buf, nil
		}
		buf = appendHeader(buf, m.dataType(len(b)), len(b))
		buf = append(buf, b...)
		m.advance(len(b))
	}
	if m.fin && m.next == m.end {
		buf = appendHeader(buf, FrameFin, 0)
		m.advance(1)
		if m.resetOut != nil {
			m.resetDone = true
			buf = appendReset(buf, m.resetOut)
		}
	}
	return buf, nil
}

// Frame is a frame whose memory the Machine owns.
type Frame struct {
	Bytes []byte
	c     *chunk
}

// Sent tells that f was written, or will never be.
func (m *Machine) Sent(f *Frame) { f.sent() }

func (f *Frame) sent() { f.c.unpin() }

func (m *Machine) advance(n int) {
	m.next += uint64(n)
	m.high = max(m.high, m.next)
}

// dataType decides whether the DATA frame of n bytes at next asks for an ACK.
func (m *Machine) dataType(n int) FrameType {
	if m.next+uint64(n)-m.asked >= m.sendBuffer/4 {
		m.asked = m.next + uint64(n)
		return FrameDataAsk
	}
	return FrameData
}

// chunkAt finds the chunk with offset off; there is one.
func (m *Machine) chunkAt(off uint64) *chunk {
	for i := len(m.chunks) - 1; ; i-- { // sending goes on near the end, but for a resumption
		if m.chunks[i].start <= off {
			return m.chunks[i]
		}
	}
}

// Data takes note of a DATA frame of n bytes; the caller then keeps its bytes, unless there is an error.
func (m *Machine) Data(n int, ask bool) error {
	if m.peerFin {
		return fmt.Errorf("%w: DATA after FIN", ErrProtocol)
	}
	if m.received+uint64(n) > m.told {
		return fmt.Errorf("%w: DATA to %d, past the window's %d", ErrProtocol, m.received+uint64(n), m.told)
	}
	m.received += uint64(n)
	if ask {
		if m.asks[0] == 0 {
			m.asks[0] = m.received
		}
		m.asks[1] = m.received
	}
	return nil
}

// Control takes any frame other than DATA and DATA_ASK.
func (m *Machine) Control(t FrameType, body []byte) error {
	switch t {
	case FrameAck:
		if len(body) != ackBody {
			return fmt.Errorf("%w: ACK of %d bytes", ErrProtocol, len(body))
		}
		return m.gotAck(binary.BigEndian.Uint64(body), binary.BigEndian.Uint32(body[8:]))
	case FrameFin:
		if m.peerFin {
			return fmt.Errorf("%w: second FIN", ErrProtocol)
		}
		m.peerFin = true
		m.received++
	case FrameReset:
		e, err := parseReset(body)
		if err != nil {
			return err
		}
		m.resetIn = e
		m.drop()
	default:
		return fmt.Errorf("%w: frame type %d", ErrProtocol, t)
	}
	return nil
}

func (m *Machine) gotAck(consumed uint64, window uint32) error {
	if m.resetOut != nil && !m.resetLate {
		return nil // nothing is kept
	}
	if consumed > m.next || consumed+uint64(window) < consumed {
		return fmt.Errorf("%w: ACK of %d, sent to %d", ErrProtocol, consumed, m.next)
	}
	// An ACK below the last is refused although an attachment keeps order: it would show a peer that lost its place.
	if consumed < m.acked || consumed+uint64(window) < m.limit {
		return fmt.Errorf("%w: ACK goes back", ErrProtocol)
	}
	m.acked = consumed
	m.limit = consumed + uint64(window)
	i := 0
	for i < len(m.chunks) && m.chunks[i].end() <= consumed {
		m.chunks[i].release()
		m.chunks[i] = nil
		i++
	}
	if i == len(m.chunks) {
		m.chunks = m.chunks[:0]
	} else {
		m.chunks = m.chunks[i:]
	}
	return nil
}

// drop frees the send buffer.
func (m *Machine) drop() {
	for _, c := range m.chunks {
		c.release()
	}
	m.chunks = nil
	m.next = m.end // nothing of it is sent any more
	m.acked = m.end
}

// Consume takes note that the program took n more bytes, in order.
func (m *Machine) Consume(n int) {
	m.consumed += uint64(n)
	if m.asks[0] != 0 && m.consumed >= m.asks[0] {
		m.ackDue = true
		m.asks[0] = 0
		if m.asks[1] > m.consumed {
			m.asks[0] = m.asks[1]
		}
	}
	if m.consumed+m.recvBuffer-m.told >= m.recvBuffer/4 && !m.peerFin {
		m.ackDue = true
	}
}

// ConsumeFin takes note that the program saw the end, after all bytes.
func (m *Machine) ConsumeFin() {
	if m.peerFin && m.consumed == m.received-1 {
		m.consumed++
		m.ackDue = true
	}
}

// PeerFinished tells whether FIN came; PeerReset the RESET that came, or nil.
func (m *Machine) PeerFinished() bool     { return m.peerFin }
func (m *Machine) PeerReset() *ResetError { return m.resetIn }

// Over tells whether nothing is left to do: both directions were acknowledged to their ends, or a RESET came or left.
func (m *Machine) Over() bool {
	if m.resetDone || m.resetIn != nil {
		return true
	}
	return m.fin && m.acked == m.end+1 && m.peerFin && m.ackedIn == m.received && !m.ackDue
}

// Unacknowledged is how many bytes the send buffer holds.
func (m *Machine) Unacknowledged() int {
	if m.acked >= m.end {
		return 0
	}
	return int(m.end - m.acked)
}

// Unread is how many bytes came that the program has not taken.
func (m *Machine) Unread() int {
	n := m.received - m.consumed
	if m.peerFin && n > 0 {
		n--
	}
	return int(n)
}

// Moved is how many bytes were ever sent and received.
func (m *Machine) Moved() uint64 { return m.high + m.received }
