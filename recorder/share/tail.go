package share

import "bytes"

// tail is the end of a session's output, from a place where a terminal can begin.
type tail struct {
	b   []byte
	alt bool // what was dropped left the terminal on the alternate screen
	cut bool // something was dropped
}

var (
	altOn  = []byte("\x1b[?1049h")
	altOff = []byte("\x1b[?1049l")
)

// write keeps p, and drops what is before the last tailSize bytes: a quarter at a time, so that it is moved seldom.
func (t *tail) write(p []byte) {
	t.b = append(t.b, p...)
	if len(t.b) <= tailSize {
		return
	}
	drop := max(len(t.b)-tailSize*3/4, 0)
	// A line or a sequence begins there, or else the beginning is a piece of one.
	if i := bytes.IndexAny(t.b[drop:min(drop+1024, len(t.b))], "\n\x1b"); i >= 0 {
		drop += i
	}
	// The sequence may lie across the edge, so the search goes on a little behind it; what is found twice says the same twice.
	seen := t.b[:min(drop+len(altOn)-1, len(t.b))]
	if on, off := bytes.LastIndex(seen, altOn), bytes.LastIndex(seen, altOff); on != off {
		t.alt = on > off
	}
	n := copy(t.b, t.b[drop:])
	t.b, t.cut = t.b[:n], true
}

// set makes exact what is kept.
func (t *tail) set(b []byte) { *t = tail{b: b} }
