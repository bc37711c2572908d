package resume

import "sync"

// chunk is a piece of the send buffer: the bytes from offset start, behind room for a frame header, so that a whole chunk leaves in one
// write without another copy. Bytes once in it are not touched again; only the header room is, by the one who sends.
type chunk struct {
	start  uint64
	buf    []byte // frameHeader + capacity
	n      int    // bytes filled
	pinned bool   // a write of it is under way outside the lock
	dead   bool   // acknowledged while pinned
}

var (
	smallChunks = sync.Pool{New: func() any { return &chunk{buf: make([]byte, smallChunk)} }}
	largeChunks = sync.Pool{New: func() any { return &chunk{buf: make([]byte, largeChunk)} }}
)

func newChunk(start uint64, large bool) *chunk {
	pool := &smallChunks
	if large {
		pool = &largeChunks
	}
	c := pool.Get().(*chunk)
	c.start, c.n, c.pinned, c.dead = start, 0, false, false
	return c
}

func (c *chunk) room() int   { return len(c.buf) - frameHeader - c.n }
func (c *chunk) end() uint64 { return c.start + uint64(c.n) }

// bytes returns what lies from offset off on.
func (c *chunk) bytes(off uint64) []byte {
	return c.buf[frameHeader+int(off-c.start) : frameHeader+c.n]
}

func (c *chunk) fill(p []byte) int {
	n := copy(c.buf[frameHeader+c.n:], p)
	c.n += n
	return n
}

// release gives the memory back, or lets unpin do it.
func (c *chunk) release() {
	if c.pinned {
		c.dead = true
		return
	}
	if len(c.buf) == largeChunk {
		largeChunks.Put(c)
	} else {
		smallChunks.Put(c)
	}
}

func (c *chunk) unpin() {
	c.pinned = false
	if c.dead {
		c.release()
	}
}
