package index

import (
	"encoding/binary"
	"fmt"
	"time"

	"hawser/recorder"
)

// maxState bounds a state uncompressed.
const maxState = 2 << 20

// State is where the builder stands, to go on from by Resume, in at most MaxObject bytes; call it after Flush. nil: that would be larger,
// so the index of a recording that grows is to be begun anew.
func (b *Builder) State() []byte {
	var raw []byte
	flags := uint64(0)
	for i, on := range []bool{b.over, b.resized, b.t.cr} {
		if on {
			flags |= 1 << i
		}
	}
	for _, v := range []uint64{
		flags, b.next, uint64(b.total), b.blocks, b.groups, uint64(b.kept), uint64(b.framed.Microseconds()), uint64(b.written),
		uint64(b.now.Microseconds()), uint64(b.cur.lines), uint64(b.cur.last),
	} {
		raw = binary.AppendUvarint(raw, v)
	}
	for _, p := range [][]byte{b.cur.text, b.cur.about, appendFrames(nil, b.frames), b.t.Marshal()} {
		raw = append(binary.AppendUvarint(raw, uint64(len(p))), p...)
	}
	if len(raw) > maxState {
		return nil
	}
	object := encoder().EncodeAll(raw, binary.AppendUvarint([]byte{Version}, uint64(len(raw))))
	if len(object) > MaxObject {
		return nil
	}
	return object
}

// Resume goes on from a state of a recording with that header.
func Resume(h recorder.Header, state []byte, emit func(Object) error) (*Builder, error) {
	if len(state) == 0 || state[0] != Version {
		return nil, fmt.Errorf("%w: no state of version %d", ErrFormat, Version)
	}
	length, n := binary.Uvarint(state[1:])
	if n <= 0 || length > maxState {
		return nil, fmt.Errorf("%w: length of the state", ErrFormat)
	}
	raw, err := decompress(state[1+n:], nil, int(length))
	if err != nil {
		return nil, err
	}
	b := &Builder{header: h, emit: emit}
	var v [11]uint64
	for i := range v {
		n, w := binary.Uvarint(raw)
		if w <= 0 || n > 1<<62 {
			return nil, fmt.Errorf("%w: state", ErrFormat)
		}
		v[i], raw = n, raw[w:]
	}
	var parts [4][]byte
	for i := range parts {
		n, w := binary.Uvarint(raw)
		if w <= 0 || n > uint64(len(raw)-w) {
			return nil, fmt.Errorf("%w: state", ErrFormat)
		}
		end := w + int(n)
		parts[i], raw = raw[w:end:end], raw[end:] // what is appended goes elsewhere
	}
	b.over, b.resized, b.next, b.total, b.blocks, b.groups = v[0]&1 != 0, v[0]&2 != 0, v[1], int(v[2]), v[3], v[4]
	b.kept, b.written = int(min(v[5], 2*keepFrames)), int(v[7])
	b.framed, b.now = time.Duration(min(v[6], 1<<52))*time.Microsecond, time.Duration(min(v[8], 1<<52))*time.Microsecond
	b.cur = block{text: parts[0], about: parts[1], lines: int(min(v[9], 1<<20)), last: int64(v[10])}
	if len(b.cur.text) > maxText || b.cur.lines > maxLines || len(b.cur.about) > maxLines*lineBytes {
		return nil, fmt.Errorf("%w: state", ErrFormat)
	}
	if b.frames, err = parseFrames(parts[2]); err != nil {
		return nil, err
	}
	t, err := Restore(h, parts[3])
	if err != nil {
		return nil, err
	}
	t.cr = v[0]&4 != 0
	b.begin(t)
	b.refill = b.now
	return b, nil
}

// Status says how far an index is: what is kept beside it.
type Status struct {
	Finished  bool   // it is of the whole recording
	Truncated bool   // but not of all its text
	Failed    bool   // the recording cannot be read to its end; the index is of what comes before
	Chunks    uint64 // that it is of
}

// Marshal is the status as an object.
func (s Status) Marshal() []byte {
	flags := byte(0)
	for i, on := range []bool{s.Finished, s.Truncated, s.Failed} {
		if on {
			flags |= 1 << i
		}
	}
	return binary.AppendUvarint([]byte{Version, flags}, s.Chunks)
}

// OpenStatus reads one.
func OpenStatus(b []byte) (Status, error) {
	if len(b) < 3 || b[0] != Version {
		return Status{}, fmt.Errorf("%w: no status of version %d", ErrFormat, Version)
	}
	n, w := binary.Uvarint(b[2:])
	if w <= 0 {
		return Status{}, fmt.Errorf("%w: status", ErrFormat)
	}
	return Status{b[1]&1 != 0, b[1]&2 != 0, b[1]&4 != 0, n}, nil
}
