package recorder

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// ErrNoRoom is what a Sink returns for a chunk that it cannot take now. The Writer drops what passed in it, and says so in a gap record as soon
// as it can. Sinks take small chunks beyond their bound, so that a recording that lost something can say so and be closed.
var ErrNoRoom = errors.New("recorder: no room for what was recorded")

// SmallChunk is the most bytes of a stored chunk that a Sink should take though it is full.
const SmallChunk = 4 << 10

const (
	// maxKept bounds what is kept of the facts in dropped chunks, which nothing depends on: small, so that it does not fill what lacks room.
	maxKept = 2 << 10
	// maxMerged is how many participants' and reasons' withheld input is told of, that was in dropped chunks; what is beyond counts as missing.
	maxMerged = 32
)

// missing is what was dropped and not told yet. It belongs to the Writer's goroutine. It is bounded, however long nothing finds room: a header, a start
// and an exit, which there is one of, and little else.
type missing struct {
	bytes    uint64
	time     uint64       // of the first record dropped, or where what was told of it ends
	kept     []keptRecord // that are not a stream's bytes, in order
	size     int          // of the facts among them
	withheld []keptWithheld
}

type keptRecord struct {
	t       RecordType
	at      uint64
	payload []byte
}

// keptWithheld is the input that was withheld of a participant for one reason.
type keptWithheld struct {
	participant, bytes, at uint64
	reason                 string
}

func (m *missing) any() bool { return m.bytes > 0 || len(m.kept) > 0 || len(m.withheld) > 0 }

// drop drops a chunk.
func (w *Writer) drop(records []byte, at uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := &w.missing
	if !m.any() {
		m.time = at
	}
	for len(records) > 0 {
		delta, n := binary.Uvarint(records[1:])
		length, l := binary.Uvarint(records[1+n:])
		t, p := RecordType(records[0]), records[1+n+l:][:length]
		records = records[1+n+l+int(length):]
		at += delta
		switch t {
		case RecordInput:
			_, n = binary.Uvarint(p)
			length -= uint64(n)
			w.sums.input -= length
		case RecordStdout:
			w.sums.stdout -= length
		case RecordStderr:
			w.sums.stderr -= length
		case RecordGap:
			length, _, _ = numbers(p, GapBytes, 0, 0)
			w.sums.gaps--
		case RecordWithheld:
			var by uint64
			var why string
			if length, by, why = numbers(p, WithheldBytes, WithheldParticipant, WithheldReason); m.merge(keptWithheld{by, length, at, why}) {
				continue
			}
			w.sums.withheld -= length
		case RecordHeader, RecordStart, RecordExit:
			m.kept = append(m.kept, keptRecord{t, at, bytes.Clone(p)})
			continue
		default:
			if m.size+len(p) < maxKept {
				m.size += len(p)
				m.kept = append(m.kept, keptRecord{t, at, bytes.Clone(p)})
				continue
			}
		}
		m.bytes += length
	}
}

// merge adds input that was withheld to that of the same participant and reason. False: there are too many.
func (m *missing) merge(k keptWithheld) bool {
	for i := range m.withheld {
		if h := &m.withheld[i]; h.participant == k.participant && h.reason == k.reason {
			h.bytes += k.bytes
			return true
		}
	}
	if len(m.withheld) == maxMerged {
		return false
	}
	m.withheld = append(m.withheld, k)
	return true
}

// numbers reads two numbers and a text of a payload that this package made.
func numbers(p []byte, first, second, third byte) (a, b uint64, text string) {
	for len(p) > 0 {
		n, l := binary.Uvarint(p[1:])
		tag, v := p[0], p[1+l:][:n]
		p = p[1+l+int(n):]
		switch tag {
		case first:
			a, _ = binary.Uvarint(v)
		case second:
			b, _ = binary.Uvarint(v)
		case third:
			text = string(v)
		}
	}
	return a, b, text
}

// lacksRoom tells whether the sink has no room since something was dropped: a gap record goes there when what comes after it can.
func (w *Writer) lacksRoom() bool {
	return w.missing.bytes > 0 && w.o.Room != nil && !w.o.Room()
}

// storeMissing tells what was dropped, in chunks of its own: the header, which nothing comes before, the gap, and what is kept.
func (w *Writer) storeMissing() error {
	m := &w.missing
	for m.any() {
		var r []byte
		at, taken, gap, withheld := m.time, 0, false, false
		put := func(t RecordType, when uint64, p []byte) bool {
			if len(r)+recordOverhead+len(p) > MaxChunk {
				return false
			}
			when = max(when, at)
			r = binary.AppendUvarint(append(r, byte(t)), when-at)
			r = append(binary.AppendUvarint(r, uint64(len(p))), p...)
			at = when
			return true
		}
		if len(m.kept) > 0 && m.kept[0].t == RecordHeader && put(RecordHeader, m.kept[0].at, m.kept[0].payload) {
			taken = 1
		}
		if taken == 0 || w.sealer == nil { // where it is encrypted the header stands alone
			gap = m.bytes > 0 && put(RecordGap, at, gapPayload(m.bytes, "no room to keep it until it could be stored"))
			for taken < len(m.kept) && put(m.kept[taken].t, m.kept[taken].at, m.kept[taken].payload) {
				taken++
			}
			if taken == len(m.kept) && len(r) < MaxChunk/2 { // they fit the other half, or come next
				for _, k := range m.withheld {
					withheld = put(RecordWithheld, k.at, appendWithheld(Withheld{Participant: uint32(k.participant), Bytes: k.bytes, Reason: k.reason}))
				}
			}
		}
		if len(r) == 0 { // none is so long
			m.kept = m.kept[min(1, len(m.kept)):]
			continue
		}
		if err := w.store(r, m.time, 0); err != nil {
			return err
		}
		m.time, m.kept = at, m.kept[taken:]
		if gap {
			w.mu.Lock()
			w.sums.gaps++
			w.mu.Unlock()
			m.bytes = 0
		}
		if withheld {
			m.withheld = nil
		}
	}
	w.missing = missing{}
	return nil
}
