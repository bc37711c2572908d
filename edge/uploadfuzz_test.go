package edge

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"testing"

	"hawser/auth/seal"
)

// hubBytes is a stream on which the hub has said everything it will say.
type hubBytes struct {
	io.Reader
	sent bytes.Buffer
}

func (h *hubBytes) Write(b []byte) (int, error) { return h.sent.Write(b) }
func (h *hubBytes) Close() error                { return nil }

// Whatever the hub acknowledges, an upload ends, forgets only what was acknowledged, and counts as done only when that was all.
func FuzzUploadAcknowledgements(f *testing.F) {
	words := func(seqs ...uint64) (b []byte) {
		for _, s := range seqs {
			b = append(b, word(s, nil)...)
		}
		return b
	}
	f.Add(words(0, 1, 2, 3))
	f.Add(words(2, 3))
	f.Add(words(1, 0))
	f.Add(words(3, 4, 1<<64-1))
	f.Add(words(1)[:7])
	f.Fuzz(func(t *testing.T, b []byte) {
		all := uploads{added: make(chan struct{}, 1)}
		up := all.add(&upload{id: [16]byte{1}})
		for i := range 3 {
			if err := up.sink(t.Context(), uint64(i), fmt.Appendf(nil, "chunk %d", i)); err != nil {
				t.Fatal(err)
			}
		}
		up.finish()
		h := &hubBytes{Reader: bytes.NewReader(b)}
		err := up.send(t.Context(), h)
		up.mu.Lock()
		defer up.mu.Unlock()
		size := 0
		for i, c := range up.chunks {
			size += len(c)
			if string(c) != fmt.Sprint("chunk ", up.first+uint64(i)) {
				t.Errorf("%q is at %d", c, up.first+uint64(i))
			}
		}
		if size != up.bytes || up.first+uint64(len(up.chunks)) != 3 {
			t.Errorf("%d bytes counted as %d; chunks from %d on: %d", size, up.bytes, up.first, len(up.chunks))
		}
		if err == nil && len(up.chunks) != 0 {
			t.Error("done with chunks that are not durable")
		}
		for out := h.sent.Bytes()[seal.PublicSize:]; len(out) > 0; {
			if len(out) < 4 || uint64(len(out)-4) < uint64(binary.BigEndian.Uint32(out)) {
				t.Fatalf("a frame is cut: %q", out)
			}
			out = out[4+binary.BigEndian.Uint32(out):]
		}
	})
}
