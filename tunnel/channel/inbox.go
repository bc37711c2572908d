package channel

import (
	"io"
	"sync"

	"hawser/tunnel/resume"
)

// inbox is the received, unread bytes of one direction and kind. Guarded by Conn.mu. The window bounds it.
type inbox struct {
	parts  []part
	head   int   // index of the first part in use
	window int64 // bytes the peer may still send
	taken  int64 // bytes read since the last WINDOW_ADJUST
	full   int64 // the window when everything is given back
	err    error // what Read returns once empty; nil while more may come

	readable sync.Cond // parts or err changed
}

// part is a slice of a shared segment, or bytes of its own when seg is nil.
type part struct {
	b   []byte
	seg *resume.Segment
}

// shareFrom is the length from which a message keeps its segment instead of being copied; at half a segment, what is pinned is at most
// twice what is counted.
const shareFrom = resume.MaxBody / 2

// put appends b, which lies in seg. It reports false when b exceeds the window.
func (x *inbox) put(b []byte, seg *resume.Segment) bool {
	if int64(len(b)) > x.window {
		return false
	}
	x.window -= int64(len(b))
	x.readable.Broadcast()
	if len(b) >= shareFrom {
		seg.Retain()
		x.parts = append(x.parts, part{b, seg})
		return true
	}
	if n := len(x.parts); n > x.head {
		if last := &x.parts[n-1]; last.seg == nil && cap(last.b)-len(last.b) >= len(b) {
			last.b = append(last.b, b...)
			return true
		}
	}
	own := make([]byte, 0, max(512, len(b)))
	x.parts = append(x.parts, part{append(own, b...), nil})
	return true
}

func (x *inbox) empty() bool { return x.head == len(x.parts) }

// read copies what is there into p.
func (x *inbox) read(p []byte) int {
	n := 0
	for n < len(p) && !x.empty() {
		f := &x.parts[x.head]
		k := copy(p[n:], f.b)
		n += k
		f.b = f.b[k:]
		if len(f.b) == 0 {
			x.drop()
		}
	}
	x.taken += int64(n)
	return n
}

// next takes the first part whole; the caller releases it.
func (x *inbox) next() part {
	f := x.parts[x.head]
	x.parts[x.head] = part{}
	x.advance()
	x.taken += int64(len(f.b))
	return f
}

func (x *inbox) drop() {
	if s := x.parts[x.head].seg; s != nil {
		s.Release()
	}
	x.parts[x.head] = part{}
	x.advance()
}

func (x *inbox) advance() {
	x.head++
	if x.empty() {
		x.parts, x.head = x.parts[:0], 0
	}
}

// discard drops everything unread and makes Read return err.
func (x *inbox) discard(err error) {
	for !x.empty() {
		x.drop()
	}
	x.parts = nil
	x.err = err
	x.readable.Broadcast()
}

// end marks that nothing more will come; the first reason stays.
func (x *inbox) end(err error) {
	if x.err == nil {
		x.err = err
		x.readable.Broadcast()
	}
}

// adjust decides how many bytes to give back to the peer now. prompt asks for it even when they are few, told even when the peer sends no more
// and wants only to know. The last rest bytes wait for the next time.
func (x *inbox) adjust(prompt, told bool, rest int) uint32 {
	ended := x.err != nil && !(told && x.err == io.EOF)
	if ended || x.taken <= int64(rest) || (x.taken < x.full/4 && !prompt) {
		return 0
	}
	n := x.taken - int64(rest)
	x.taken = int64(rest)
	x.window += n
	return uint32(n)
}
