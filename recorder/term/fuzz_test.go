package term

import (
	"math/rand/v2"
	"testing"
)

func seeds(f *testing.F) [][]byte {
	f.Helper()
	var out [][]byte
	for seed := range uint64(20) {
		out = append(out, stray(rand.New(rand.NewPCG(seed, 7)), 200))
	}
	return out
}

func FuzzWrite(f *testing.F) {
	for i, b := range seeds(f) {
		f.Add(uint16(20+i), uint16(5+i), b)
	}
	f.Fuzz(func(t *testing.T, cols, rows uint16, out []byte) {
		s := New(int(cols%80), int(rows%40))
		said := 0
		s.Lines(func(line string, _, _ int64) { said += len(line) })
		s.Write(out[:len(out)/2])
		s.Resize(int(rows%80), int(cols%40))
		s.Write(out[len(out)/2:])
		check(t, s)
		s.Flush()
		if said > lineCredit+lineFactor*len(out) {
			t.Fatalf("%d bytes of lines from %d bytes of output", said, len(out))
		}
		fresh := New(s.Size())
		fresh.Write(s.Redraw())
		if d := differ(s, fresh); d != "" {
			t.Fatalf("redrawn: %s", d)
		}
		back, err := Unmarshal(s.Marshal())
		if err != nil {
			t.Fatal(err)
		}
		if d := differ(s, back); d != "" {
			t.Fatalf("keyframe: %s", d)
		}
	})
}

func FuzzUnmarshal(f *testing.F) {
	for _, b := range seeds(f) {
		s := New(20, 6)
		s.Write(b)
		f.Add(s.Marshal())
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		s, err := Unmarshal(frame)
		if err != nil {
			return
		}
		check(t, s)
		if _, err := Unmarshal(s.Marshal()); err != nil {
			t.Fatalf("what came of a keyframe makes none: %v", err)
		}
		fresh := New(s.Size())
		fresh.Write(s.Redraw())
		if d := differ(s, fresh); d != "" {
			t.Fatalf("redrawn: %s", d)
		}
	})
}
