package recorder

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"
)

// A chunk is all there is in a frame of an Upload stream, so this is what the hub makes of one.
func FuzzParseChunk(f *testing.F) {
	seal := func(b []byte) []byte { return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)) }
	h := ChunkHeader{Version: Version, Flags: FlagLast, Seq: 1<<64 - 1, RawLen: 9, BodyLen: 4}
	f.Add(append(h.appendHeader(nil), "body"...))
	h.Flags, h.BodyLen = FlagSealed, h.RawLen+SealOverhead
	f.Add(append(h.appendHeader(nil), "encrypted, with a tag...."...))
	h.Flags, h.BodyLen = FlagLast, 0
	f.Add(h.appendHeader(nil))
	h.RawLen, h.BodyLen = MaxChunk+1, 1<<32-1
	f.Add(h.appendHeader(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, err := ParseChunk(b); err == nil && len(b) < ChunkHeaderSize+ChunkTrailerSize {
			t.Error("a chunk without room for its frame")
		}
		b = seal(bytes.Clone(b)) // as whoever forges one does
		h, body, err := ParseChunk(b)
		if err != nil {
			return
		}
		if len(body) > MaxChunk+SealOverhead || h.Size() > len(b) || h.Size() > MaxStoredChunk {
			t.Fatalf("%d bytes of body, %d in all of %d", len(body), h.Size(), len(b))
		}
		want := bytes.Clone(b[:h.Size()])
		copy(want[h.Size()-ChunkTrailerSize:], seal(bytes.Clone(want[:h.Size()-ChunkTrailerSize]))[h.Size()-ChunkTrailerSize:])
		if got := seal(append(h.appendHeader(nil), body...)); !bytes.Equal(got, want) {
			t.Errorf("%x is written as %x", want, got)
		}
	})
}
