package resume

import (
	"sync"
	"sync/atomic"
)

// Segment is a piece of received bytes that is handed on without copying. Its memory is used again after the last Release.
type Segment struct {
	// Bytes may be shortened and resliced by its holder, not written to.
	Bytes []byte

	buf  []byte
	refs atomic.Int32
}

var segments = sync.Pool{New: func() any { return &Segment{buf: make([]byte, MaxBody)} }}

// NewSegment returns a segment of MaxBody bytes to be filled, with one reference.
func NewSegment() *Segment {
	s := segments.Get().(*Segment)
	s.Bytes = s.buf
	s.refs.Store(1)
	return s
}

// newSmallSegment returns a segment of n bytes that no pool takes back.
func newSmallSegment(n int) *Segment {
	s := &Segment{buf: make([]byte, n)}
	s.Bytes = s.buf
	s.refs.Store(1)
	return s
}

// Retain adds a reference.
func (s *Segment) Retain() { s.refs.Add(1) }

// Release drops a reference. The caller must not touch Bytes afterwards.
func (s *Segment) Release() {
	switch n := s.refs.Add(-1); {
	case n < 0:
		panic("resume: segment released twice")
	case n == 0:
		s.Bytes = nil
		if len(s.buf) == MaxBody {
			segments.Put(s)
		}
	}
}
