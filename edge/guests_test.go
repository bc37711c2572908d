package edge

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hawser/recorder"
	"hawser/recorder/observe"
	"hawser/recorder/share"
)

// A strict recording that is behind holds what a guest types as it holds what the owner does.
func TestAStrictRecordingHoldsGuestsToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w *recorder.Writer
		var sent atomic.Uint64
		tp := &tap{stdin: recorder.InputRedacted, begin: func(h recorder.Header, _ bool) *recorder.Writer {
			w = recorder.NewWriter(h, recorder.Options{
				Sink:     func(context.Context, uint64, []byte) error { sent.Add(1); return nil },
				ChunkAge: 100 * time.Millisecond,
				Window:   &recorder.Window{Bytes: 64 << 10, Age: 2 * time.Second, Grace: time.Minute, Ended: func(error) {}},
			})
			return w
		}}
		tp.terminal = true
		begun := make(chan error, 1)
		go func() { begun <- tp.Start("shell", "", "xterm", nil) }()
		time.Sleep(time.Second)
		w.Acknowledge(sent.Load())
		if err := <-begun; err != nil {
			t.Fatal(err)
		}
		g := guests{tap: tp}
		g.Changed(share.Member{ID: 1, User: "bob", Mode: share.Peer}, share.Joined)
		if !g.Ready(1) || !g.Typed(1, []byte("ls\r"), observe.Keep) {
			t.Fatal("held back too early")
		}
		time.Sleep(3 * time.Second)
		ready := make(chan bool, 1)
		go func() { ready <- g.Ready(1) }()
		time.Sleep(time.Second)
		if len(ready) != 0 {
			t.Error("a guest types on while nothing is stored")
		}
		w.Acknowledge(sent.Load())
		if !<-ready {
			t.Error("refused after the acknowledgement")
		}
		if err := w.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
