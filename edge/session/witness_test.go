package session

import (
	"crypto/ed25519"
	"testing"

	"hawser/recorder"
	"hawser/recorder/observe"
)

// What answers a prompt that does not echo is in no hash, and what a terminal took is hashed when the hub has been told that it may keep it.
func TestTheWitnessHashesOnlyInputThatMayBeKept(t *testing.T) {
	for rule, want := range map[string]string{recorder.InputRedacted: "ls\nexit\n", recorder.InputFull: "ls\nexit\n", recorder.InputOff: ""} {
		w := NewWitness(recorder.Testimony{Rule: rule}, nil)
		for _, in := range []struct {
			text    string
			verdict byte
			told    bool
		}{{"ls\n", observe.Keep, true}, {"hunter2\n", observe.Withhold, true}, {"exit\n", observe.Keep, true}, {"not told\n", observe.Keep, false}} {
			w.Took([]byte(in.text), in.verdict)
			if in.told {
				w.Acknowledged(uint32(len(in.text)), in.verdict)
			}
		}
		var s recorder.Sums
		s.Pass(recorder.Stdin, []byte(want))
		if got := w.sums.Hash(recorder.Stdin); got != s.Hash(recorder.Stdin) || w.sums.Bytes(recorder.Stdin) != uint64(len(want)) || w.testimony.Input != 16 {
			t.Errorf("%s: %d of %d bytes are hashed, want %d", rule, w.sums.Bytes(recorder.Stdin), w.testimony.Input, len(want))
		}
	}
}

// A keystroke and its echo cost what the device adds to both; the witness itself is made once.
func BenchmarkWitness(b *testing.B) {
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	fresh := func() *Witness {
		return NewWitness(recorder.Testimony{Rule: recorder.InputRedacted}, func(m []byte) []byte { return ed25519.Sign(key, m) })
	}
	b.Run("key", func(b *testing.B) {
		w, k := fresh(), []byte("k")
		for b.Loop() {
			w.Took(k, observe.Keep)
			w.Acknowledged(1, observe.Keep)
			w.Sent(false, k)
		}
	})
	b.Run("output", func(b *testing.B) {
		w, p := fresh(), make([]byte, 32<<10)
		b.SetBytes(int64(len(p)))
		for b.Loop() {
			w.Sent(false, p)
		}
	})
	b.Run("last", func(b *testing.B) {
		w := fresh()
		w.Sent(false, []byte("x"))
		var n int
		for b.Loop() {
			_, p := w.Last()
			n = len(p)
		}
		b.ReportMetric(float64(n), "bytes")
	})
}
