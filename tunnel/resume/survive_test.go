package resume

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/tunneltest"
	"hawser/tunnel/wire"
)

// carriers are two ends of a tunnel in memory.
type carriers struct{ hub, edge tunnel.Conn }

func newCarriers(t *testing.T) carriers {
	h, e := tunneltest.Pair(t)
	return carriers{h, e}
}

func (c carriers) open(t *testing.T, o Options) (hub, edge *Stream) {
	t.Helper()
	att, err := c.hub.OpenStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hub = Open(att, wire.Attach{Kind: wire.KindSession, ID: wire.StreamID{1}}, o)
	edge = accept(t, c.accept(t), o)
	t.Cleanup(func() {
		hub.End(net.ErrClosed)
		edge.End(net.ErrClosed)
	})
	if err := hub.WaitAttached(t.Context()); err != nil {
		t.Fatal(err)
	}
	return hub, edge
}

func (c carriers) accept(t *testing.T) tunnel.Stream {
	t.Helper()
	att, err := c.edge.AcceptStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return att
}

// cut ends the tunnel without a word.
func (c carriers) cut() {
	_ = c.hub.CloseWithError(wire.CloseIdle, "")
	_ = c.edge.CloseWithError(wire.CloseIdle, "")
}

// resume resumes hub over c; take says what the edge does.
func (c carriers) resume(t *testing.T, hub *Stream, take func(att tunnel.Stream, a wire.Attach)) error {
	t.Helper()
	att, err := c.hub.OpenStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		at := c.accept(t)
		a, err := ReadAttach(t.Context(), at)
		if err != nil {
			t.Error(err)
			return
		}
		take(at, a)
	}()
	defer func() { <-done }()
	return hub.Resume(t.Context(), att)
}

func within(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(10 * time.Second):
		t.Fatal("waited 10 s for " + what)
	}
}

const minute = time.Minute

func TestALossIsToldAndAResumedStreamGoesOn(t *testing.T) {
	c := newCarriers(t)
	hub, edge := c.open(t, Options{DetachedLife: minute})
	if !hub.Attached() || !edge.Attached() || !hub.DetachedSince().IsZero() {
		t.Error("not attached")
	}
	c.cut()
	within(t, "the hub's loss", hub.Detached())
	within(t, "the edge's loss", edge.Detached())
	if hub.Attached() || hub.DetachedSince().IsZero() {
		t.Error("still attached")
	}
	if _, err := edge.Write([]byte("while away")); err != nil {
		t.Fatal(err)
	}
	if n := edge.Unacknowledged(); n != 10 || edge.Buffered() != 10 {
		t.Errorf("%d unacknowledged, %d held", n, edge.Buffered())
	}
	before := hub.Activity()
	c = newCarriers(t)
	if err := c.resume(t, hub, func(att tunnel.Stream, a wire.Attach) {
		if err := edge.Reattach(att, a); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	if _, err := io.ReadFull(hub, b); err != nil || string(b) != "while away" {
		t.Errorf("%q, %v", b, err)
	}
	if got := hub.Activity() - before; got != 10 {
		t.Errorf("activity of %d", got)
	}
}

// Back-pressure while detached: what is written is bounded, and nothing of it is lost.
func TestADetachedStreamHoldsNoMoreThanItsBuffer(t *testing.T) {
	c := newCarriers(t)
	hub, edge := c.open(t, Options{DetachedLife: minute, SendBuffer: 64 << 10})
	c.cut()
	within(t, "the loss", edge.Detached())
	var written atomic.Int64
	go func() {
		b := make([]byte, 1000)
		for {
			n, err := edge.Write(b)
			written.Add(int64(n))
			if err != nil {
				return
			}
		}
	}()
	for written.Load() < 60<<10 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
	if n := edge.Unacknowledged(); n > 64<<10 {
		t.Errorf("holds %d bytes", n)
	}
	edge.End(net.ErrClosed)
	_ = hub
}

func TestAPeerThatForgotTheStreamEndsIt(t *testing.T) {
	for name, c := range map[string]struct {
		hub, edge bool // had finished
		want      error
	}{
		"neither had finished": {want: ErrGone},
		"only we had":          {hub: true, want: ErrGone},
		"only the peer had":    {edge: true, want: ErrGone},
		"both had":             {hub: true, edge: true}, // its last words were lost
	} {
		carrier := newCarriers(t)
		hub, edge := carrier.open(t, Options{DetachedLife: minute})
		if c.edge {
			_ = edge.CloseWrite()
			for !func() bool { hub.mu.Lock(); defer hub.mu.Unlock(); return hub.m.PeerFinished() }() {
				time.Sleep(time.Millisecond)
			}
		}
		if c.hub {
			_ = hub.CloseWrite()
		}
		carrier.cut()
		within(t, "the loss", hub.Detached())
		edge.End(net.ErrClosed)
		err := newCarriers(t).resume(t, hub, func(att tunnel.Stream, a wire.Attach) {
			err := edge.Reattach(att, a)
			if code := CodeOf(err); err == nil || code != wire.StreamNotFound {
				t.Errorf("an ended stream took an attachment: %v, code %v", err, code)
			}
			Refuse(att, CodeOf(err), "")
		})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: Resume: %v", name, err)
		}
		within(t, "the end", hub.Done())
		_, err = hub.Read(make([]byte, 1))
		if c.edge && err != io.EOF || !c.edge && !errors.Is(err, ErrGone) {
			t.Errorf("%s: Read: %v", name, err)
		}
	}
}

// Two tunnels come at the same time; the answer to the first arrives after the second has begun.
func TestTheLoserOfARaceHarmsNobody(t *testing.T) {
	c := newCarriers(t)
	hub, edge := c.open(t, Options{DetachedLife: minute})
	c.cut()
	within(t, "the loss", hub.Detached())
	c = newCarriers(t)
	slow, err := c.hub.OpenStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	lost := make(chan error, 1)
	go func() { lost <- hub.Resume(t.Context(), slow) }()
	slowEdge := c.accept(t)
	slowHead, err := ReadAttach(t.Context(), slowEdge)
	if err != nil {
		t.Fatal(err)
	}
	take := func(att tunnel.Stream, a wire.Attach) {
		if err := edge.Reattach(att, a); err != nil {
			t.Error(err)
		}
	}
	if err := newCarriers(t).resume(t, hub, take); err != nil {
		t.Fatal(err)
	}
	err = edge.Reattach(slowEdge, slowHead) // too late
	if !errors.Is(err, ErrStale) || CodeOf(err) != wire.StreamProtocol {
		t.Errorf("the edge took a stale attachment: %v", err)
	}
	if _, err := slowEdge.Write(wire.Attached{}.Append(nil)); err != nil { // even if it had not
		t.Fatal(err)
	}
	if err := <-lost; !errors.Is(err, ErrStale) {
		t.Errorf("the loser: %v", err)
	}
	if !hub.Attached() || !edge.Attached() {
		t.Fatal("the winner suffered")
	}
	if _, err := hub.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(edge, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

// A refusal was lost when the opener's next write failed before it was read.
func TestARefusalIsReadAlthoughTheNextWriteFails(t *testing.T) {
	for range 200 {
		c := newCarriers(t)
		att, err := c.hub.OpenStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		hub := Open(att, wire.Attach{Kind: wire.KindSession}, Options{DetachedLife: minute})
		at := c.accept(t)
		if _, err := ReadAttach(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		go func() {
			for err := error(nil); err == nil; {
				_, err = hub.Write([]byte("more"))
			}
		}()
		Refuse(at, wire.StreamDenied, "no")
		within(t, "the end", hub.Done())
		if r, ok := errors.AsType[*RefusedError](hub.WaitAttached(t.Context())); !ok || r.Code != wire.StreamDenied {
			t.Fatalf("got %v", hub.WaitAttached(t.Context()))
		}
	}
}

// stuck is a carrier's stream on which everything hangs.
type stuck struct {
	tunnel.Stream
	free chan struct{}
}

func (s stuck) Read([]byte) (int, error)        { <-s.free; return 0, tunnel.ErrLost }
func (s stuck) Write([]byte) (int, error)       { <-s.free; return 0, tunnel.ErrLost }
func (s stuck) Reset(wire.StreamCode)           { <-s.free }
func (s stuck) Close() error                    { <-s.free; return nil }
func (s stuck) CloseWrite() error               { <-s.free; return nil }
func (s stuck) SetDeadline(time.Time) error     { return nil }
func (s stuck) SetReadDeadline(time.Time) error { return nil }

func TestAStuckCarrierHoldsUpNothing(t *testing.T) {
	free := make(chan struct{})
	edge, err := Accept(stuck{free: free}, wire.Attach{ID: wire.StreamID{1}}, Options{DetachedLife: minute})
	if err != nil {
		t.Fatal(err)
	}
	for i := uint32(1); i < 40; i++ {
		err = edge.Reattach(stuck{free: free}, wire.Attach{Counter: i})
		if err != nil {
			break
		}
	}
	if CodeOf(err) != wire.StreamResourceShortage { // what hangs is bounded
		t.Errorf("got %v", err)
	}
	close(free)
	edge.End(net.ErrClosed)
	within(t, "the end of all goroutines", edge.Done())
}

// A bug that one stream's bytes meet ends that stream, and nobody waits for it for ever.
func TestAPanicEndsTheStreamAndLeavesNobodyWaiting(t *testing.T) {
	c := newCarriers(t)
	hub, edge := c.open(t, Options{DetachedLife: minute})
	hub.mu.Lock()
	hub.m.chunks = []*chunk{nil} // Emit will not survive this, with mu held
	hub.m.end = hub.m.next + 1
	hub.wakeLocked()
	hub.mu.Unlock()
	within(t, "the end", hub.Done())
	if _, err := hub.Read(make([]byte, 1)); !errors.Is(err, ErrProtocol) {
		t.Errorf("Read: %v", err)
	}
	if _, err := hub.Write(make([]byte, 1)); !errors.Is(err, ErrProtocol) {
		t.Errorf("Write: %v", err)
	}
	_ = hub.Close()
	within(t, "the peer's loss", edge.Detached())
}

// The peer of a stream that is reset while it is away learns so when it is back.
func TestAResetWaitsForThePeer(t *testing.T) {
	c := newCarriers(t)
	hub, edge := c.open(t, Options{DetachedLife: minute})
	c.cut()
	within(t, "the loss", hub.Detached())
	hub.Reset(wire.StreamDenied)
	if _, err := hub.Read(make([]byte, 1)); err == nil {
		t.Error("read after Reset")
	}
	if err := newCarriers(t).resume(t, hub, func(att tunnel.Stream, a wire.Attach) {
		if err := edge.Reattach(att, a); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	_, err := edge.Read(make([]byte, 1))
	if e, ok := errors.AsType[*ResetError](err); !ok || e.Code != wire.StreamDenied || !e.Remote {
		t.Errorf("got %v", err)
	}
	within(t, "the end", hub.Done())
	within(t, "the peer's end", edge.Done())
}

// What a program wrote before it ended, and closed while nobody was there, is kept for as long as a detached stream is.
func TestAClosedStreamKeepsItsLastWords(t *testing.T) {
	c := newCarriers(t)
	hub, edge := c.open(t, Options{DetachedLife: minute})
	c.cut()
	within(t, "the loss", hub.Detached())
	if _, err := edge.Write([]byte("exit status 3")); err != nil {
		t.Fatal(err)
	}
	_ = edge.Close()
	if err := newCarriers(t).resume(t, hub, func(att tunnel.Stream, a wire.Attach) {
		if err := edge.Reattach(att, a); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(hub); err != nil || string(got) != "exit status 3" {
		t.Errorf("%q, %v", got, err)
	}
	_ = hub.Close()
	within(t, "the end", hub.Done())
	within(t, "the peer's end", edge.Done())
}

func TestALifeCanBeShortenedWhileItRuns(t *testing.T) {
	c := newCarriers(t)
	hub, _ := c.open(t, Options{DetachedLife: time.Hour})
	c.cut()
	within(t, "the loss", hub.Detached())
	hub.SetDetachedLife(10 * time.Millisecond)
	within(t, "the end", hub.Done())
	if _, err := hub.Read(make([]byte, 1)); !errors.Is(err, ErrDetached) {
		t.Errorf("got %v", err)
	}
}

func TestResumeEndsWithItsContext(t *testing.T) {
	c := newCarriers(t)
	hub, _ := c.open(t, Options{DetachedLife: minute})
	c.cut()
	within(t, "the loss", hub.Detached())
	att, err := newCarriers(t).hub.OpenStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(t.Context())
	go cancel(why)
	if err := hub.Resume(ctx, att); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	within(t, "another token", hub.Detached())
}

// counting counts the bytes that pass.
type counting struct {
	tunnel.Stream
	n *atomic.Int64
}

func (c counting) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return c.Stream.Write(p)
}

// BenchmarkOverhead is what a resumable stream costs beside the stream that carries it: time, and bytes in both directions per byte carried.
func BenchmarkOverhead(b *testing.B) {
	for _, size := range []struct {
		name  string
		bytes int
	}{{"keys64B", 64}, {"bulk32KiB", MaxSend}} {
		p := make([]byte, size.bytes)
		bench := func(b *testing.B, w io.Writer, r io.Reader, wire *atomic.Int64) {
			got := make([]byte, len(p))
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			if size.bytes < 1000 { // one at a time, as keys come
				for b.Loop() {
					if _, err := w.Write(p); err != nil {
						b.Fatal(err)
					}
					if _, err := io.ReadFull(r, got); err != nil {
						b.Fatal(err)
					}
				}
			} else {
				done := make(chan struct{})
				go func() {
					defer close(done)
					_, _ = io.Copy(io.Discard, struct{ io.Reader }{r})
				}()
				for b.Loop() {
					if _, err := w.Write(p); err != nil {
						b.Fatal(err)
					}
				}
			}
			if wire != nil {
				b.ReportMetric(float64(wire.Load())/float64(b.N*len(p)), "wire-B/B")
			}
		}
		b.Run(size.name+"/bare", func(b *testing.B) {
			h, e := pair(b)
			bench(b, e, h, nil)
		})
		b.Run(size.name+"/resumable", func(b *testing.B) {
			h, e := pair(b)
			var n atomic.Int64
			o := Options{DetachedLife: minute}
			hub := Open(counting{h, &n}, wire.Attach{Kind: wire.KindSession}, o)
			a, err := ReadAttach(b.Context(), e)
			if err != nil {
				b.Fatal(err)
			}
			edge, err := Accept(counting{e, &n}, a, o)
			if err != nil {
				b.Fatal(err)
			}
			defer hub.End(net.ErrClosed)
			defer edge.End(net.ErrClosed)
			bench(b, edge, hub, &n)
		})
	}
}
