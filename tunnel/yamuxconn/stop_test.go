package yamuxconn

import (
	"bytes"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/tunneltest"
	"hawser/tunnel/wire"
)

// A reader that is late reads all, and an end, though its session has been stopped for want of open streams.
func TestAStoppedSessionCutsNoReaderShort(t *testing.T) {
	for _, late := range []string{"hub", "edge"} {
		t.Run(late, func(t *testing.T) {
			hub, edge := pair(t, Options{MuxIdle: time.Millisecond})
			defer hub.CloseWithError(wire.CloseNormal, "")
			defer edge.CloseWithError(wire.CloseNormal, "")
			for range 20 {
				h, e := tunneltest.Open(t, hub, edge, "x")
				if _, err := io.ReadFull(e, make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				slow, fast := h, e
				if late == "edge" {
					slow, fast = e, h
				}
				want := bytes.Repeat([]byte("0123456789abcdef"), 12<<10) // less than a window
				if _, err := fast.Write(want); err != nil {
					t.Fatal(err)
				}
				for _, s := range []tunnel.Stream{slow, fast} {
					if err := s.CloseWrite(); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := io.ReadAll(fast); err != nil {
					t.Fatal(err)
				}
				stopped := func() bool {
					c := hub.(*conn)
					c.muxMu.Lock()
					defer c.muxMu.Unlock()
					return c.mux == nil && c.stopping == 0
				}
				for deadline := time.Now().Add(20 * time.Second); !stopped(); time.Sleep(time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatal("the session did not stop")
					}
				}
				got, err := io.ReadAll(slow)
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("read %d of %d bytes, %v", len(got), len(want), err)
				}
				slow.Close()
				fast.Close()
			}
		})
	}
}

// Between yamux's end and the word that it was an orderly one a stream that had all its bytes was reset.
func TestWhetherAStoppedSessionIsWholeIsWaitedFor(t *testing.T) {
	for _, drained := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			m := &mux{settled: make(chan struct{})}
			whole := make(chan bool, 1)
			go func() { whole <- m.whole() }()
			synctest.Wait()
			if len(whole) != 0 {
				t.Fatal("it is not waited for")
			}
			m.complete.Store(drained)
			close(m.settled)
			if got := <-whole; got != drained {
				t.Errorf("drained %t: whole %t", drained, got)
			}
		})
	}
	p := newMuxPipe()
	if p.Close(); p.drained.Load() {
		t.Error("a pipe that was closed counts as read to its end")
	}
	p = newMuxPipe()
	p.deliver(t.Context(), nil)
	if _, err := p.Read(make([]byte, 1)); err != io.EOF || !p.drained.Load() {
		t.Errorf("read to its end: %v, drained %t", err, p.drained.Load())
	}
}
