package reader

import "hawser/recorder"

// From reads a recording from the middle: next returns the chunk of that number first. What comes before is not known, so the chain is
// checked from there on only, and the head's sums are not compared: read a recording once from its beginning, or Verify it, before it is
// believed. h is its header.
func From(h recorder.Header, seq uint64, next func() ([]byte, error)) *Reader {
	if seq == 0 {
		return New(next)
	}
	return &Reader{next: next, header: &h, seq: seq, middle: true}
}

// Chunk is the number of the chunk that the last event was in.
func (r *Reader) Chunk() uint64 { return max(r.seq, 1) - 1 }
