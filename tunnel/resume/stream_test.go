package resume

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// tcpStream makes a tunnel.Stream of a loopback connection.
type tcpStream struct{ *net.TCPConn }

func (s tcpStream) Reset(wire.StreamCode) { _ = s.SetLinger(0); _ = s.TCPConn.Close() }

func pair(t testing.TB) (hub, edge tunnel.Stream) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); d.Close() })
	return tcpStream{c.(*net.TCPConn)}, tcpStream{d.(*net.TCPConn)}
}

func open(t testing.TB, o Options) (hub, edge *Stream, cut func()) {
	t.Helper()
	h, e := pair(t)
	hub = Open(h, wire.Attach{Kind: wire.KindSession, ID: wire.StreamID{1}, Open: []byte("open")}, o)
	edge = accept(t, e, o)
	t.Cleanup(func() {
		hub.End(net.ErrClosed)
		edge.End(net.ErrClosed)
		<-hub.Done()
		<-edge.Done()
	})
	return hub, edge, func() { h.Reset(0); e.Reset(0) }
}

func accept(t testing.TB, att tunnel.Stream, o Options) *Stream {
	t.Helper()
	a, err := ReadAttach(t.Context(), att)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Accept(att, a, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStreamCarriesBothWaysAndHalfCloses(t *testing.T) {
	hub, edge, _ := open(t, Options{})
	if err := hub.WaitAttached(t.Context()); err != nil {
		t.Fatal(err)
	}
	if edge.ID() != hub.ID() || string(edge.Header().Open) != "open" {
		t.Error("header did not arrive")
	}
	data := make([]byte, 5<<20)
	for i := range data {
		data[i] = byte(i * i >> 3)
	}
	send := func(s *Stream) error {
		_, err := io.Copy(s, struct{ io.Reader }{bytes.NewReader(data)})
		return errors.Join(err, s.CloseWrite())
	}
	recv := func(s *Stream) error {
		got, err := io.ReadAll(s)
		if err == nil && !bytes.Equal(got, data) {
			err = errors.New("bytes differ")
		}
		return err
	}
	errs := make(chan error, 4)
	for _, s := range []*Stream{hub, edge} {
		go func() { errs <- send(s) }()
		go func() { errs <- recv(s) }()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	hub.Close()
	edge.Close()
	<-hub.Done()
	<-edge.Done()
}

func TestWhatIsWrittenBeforeAttachedArrives(t *testing.T) {
	h, e := pair(t)
	hub := Open(h, wire.Attach{}, Options{})
	if _, err := hub.Write([]byte("early")); err != nil {
		t.Fatal(err)
	}
	if err := hub.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	edge := accept(t, e, Options{})
	if got, err := io.ReadAll(edge); err != nil || string(got) != "early" {
		t.Errorf("got %q, %v", got, err)
	}
	edge.Close()
	if err := hub.WaitAttached(t.Context()); err != nil {
		t.Error(err)
	}
	hub.Close()
	<-hub.Done()
	<-edge.Done()
}

func TestRefusalReachesTheOpener(t *testing.T) {
	h, e := pair(t)
	hub := Open(h, wire.Attach{}, Options{})
	if _, err := ReadAttach(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	Refuse(e, wire.StreamDenied, "no\x1b[31m")
	err := hub.WaitAttached(t.Context())
	refused, ok := errors.AsType[*RefusedError](err)
	if !ok || refused.Code != wire.StreamDenied {
		t.Fatalf("got %v", err)
	}
	if bytes.ContainsRune([]byte(err.Error()), 0x1b) {
		t.Errorf("error not quoted: %q", err)
	}
	if _, err := hub.Read(make([]byte, 1)); !errors.As(err, &refused) {
		t.Errorf("Read: %v", err)
	}
	<-hub.Done()
}

func TestAPeerThatNeverReadsBlocksOneDirectionOnly(t *testing.T) {
	hub, edge, _ := open(t, Options{SendBuffer: 64 << 10, RecvBuffer: 64 << 10})
	_ = hub.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	n, err := hub.Write(make([]byte, 10<<20))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("write of 10 MB: %v", err)
	}
	if n > 64<<10 {
		t.Errorf("%d bytes taken with nobody reading", n)
	}
	if _, err := edge.Write([]byte("back")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4)
	if _, err := io.ReadFull(hub, b); err != nil || string(b) != "back" {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestResetEndsBothSides(t *testing.T) {
	hub, edge, _ := open(t, Options{})
	hub.Reset(wire.StreamDenied)
	_, err := edge.Read(make([]byte, 1))
	if e, ok := errors.AsType[*ResetError](err); !ok || e.Code != wire.StreamDenied || !e.Remote {
		t.Errorf("peer's Read: %v", err)
	}
	if _, err := hub.Write([]byte("x")); err == nil {
		t.Error("Write after Reset succeeded")
	}
	<-edge.Done()
	<-hub.Done()
}

func TestCloseDeliversWhatWasWrittenAndStopsThePeer(t *testing.T) {
	hub, edge, _ := open(t, Options{})
	if _, err := hub.Write([]byte("bye")); err != nil {
		t.Fatal(err)
	}
	hub.Close()
	if got, err := io.ReadAll(edge); err != nil || string(got) != "bye" {
		t.Errorf("got %q, %v", got, err)
	}
	for { // the peer's writes fail soon
		if _, err := edge.Write(make([]byte, 1000)); err != nil {
			break
		}
	}
	<-hub.Done()
	<-edge.Done()
}

func TestLostTunnelEndsTheStreamWithoutDetachedLife(t *testing.T) {
	hub, edge, cut := open(t, Options{})
	if err := hub.WaitAttached(t.Context()); err != nil {
		t.Fatal(err)
	}
	cut()
	for _, s := range []*Stream{hub, edge} {
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, ErrDetached) {
			t.Errorf("Read: %v", err)
		}
		<-s.Done()
	}
}

func TestDetachedLifeIsBounded(t *testing.T) {
	hub, _, cut := open(t, Options{DetachedLife: 20 * time.Millisecond})
	cut()
	if _, err := hub.Read(make([]byte, 1)); !errors.Is(err, ErrDetached) {
		t.Errorf("Read: %v", err)
	}
}

func TestStaleAttachmentIsRefused(t *testing.T) {
	hub, edge, _ := open(t, Options{DetachedLife: time.Minute})
	_, e := pair(t)
	if err := edge.Reattach(e, wire.Attach{Counter: 0}); !errors.Is(err, ErrStale) {
		t.Errorf("counter 0: %v", err)
	}
	if _, err := hub.Write([]byte("alive")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(edge, b); err != nil {
		t.Errorf("the stream suffered: %v", err)
	}
}

// A stream under load loses its tunnel again and again, in the middle of frames, and neither program sees more than a pause.
func TestStreamSurvivesCuts(t *testing.T) {
	o := Options{DetachedLife: time.Minute, SendBuffer: 128 << 10, RecvBuffer: 128 << 10}
	hub, edge, cut := open(t, o)
	const total = 20 << 20
	var wg sync.WaitGroup
	for i, s := range []*Stream{hub, edge} {
		peer := []*Stream{edge, hub}[i]
		sent, got := sha256.New(), sha256.New()
		wg.Go(func() {
			r := io.LimitReader(rand.NewChaCha8([32]byte{byte(i)}), total)
			if _, err := io.Copy(io.MultiWriter(s, sent), r); err != nil {
				t.Error(err)
			}
			if err := s.CloseWrite(); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if n, err := io.Copy(got, peer); err != nil || n != total {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
		defer func() {
			if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
				t.Error("bytes differ")
			}
		}()
	}
	finished := make(chan struct{})
	go func() { wg.Wait(); close(finished) }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for cuts := 0; ; {
		select {
		case <-finished:
			t.Logf("%d cuts", cuts)
			return
		case <-tick.C:
		}
		if cuts >= 30 {
			<-finished
			continue
		}
		cuts++
		if cuts%3 != 0 { // every third time the new attachment displaces one that stands
			cut()
		}
		h, e := pair(t)
		errs := make(chan error, 1)
		go func() {
			a, err := ReadAttach(context.Background(), e)
			if err == nil {
				err = edge.Reattach(e, a)
			}
			errs <- err
		}()
		err := errors.Join(hub.Resume(t.Context(), h), <-errs)
		select {
		case <-finished: // then it may have come too late
		default:
			if err != nil {
				t.Fatal(err)
			}
		}
		cut = func() { h.Reset(0); e.Reset(0) }
	}
}

func BenchmarkStream(b *testing.B) {
	hub, edge, _ := open(b, Options{SendBuffer: 1 << 20, RecvBuffer: 1 << 20})
	go func() { _, _ = io.Copy(io.Discard, struct{ io.Reader }{hub}) }()
	p := make([]byte, MaxSend)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		if _, err := edge.Write(p); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTCPBaseline(b *testing.B) {
	h, e := pair(b)
	go func() {
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{h}, make([]byte, 32<<10))
	}()
	p := make([]byte, MaxSend)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		if _, err := e.Write(p); err != nil {
			b.Fatal(err)
		}
	}
}

// Frames of 513 bytes took a segment of 32 KiB each: 64 times what the window allows.
func TestNoLengthOfFramesCostsMoreThanTwiceTheirBytes(t *testing.T) {
	for _, n := range []int{1, coalesce, coalesce + 1, 4 << 10, MaxBody/2 - 1, MaxBody/2 + 1, MaxBody} {
		s := newStream(wire.Attach{}, Options{}, false)
		total, memory := 0, 0
		for total+n <= 256<<10 {
			f := newSmallSegment(coalesce)
			if n > coalesce {
				f = NewSegment()
			}
			f.Bytes = f.Bytes[:n]
			s.pushLocked(f)
			total += n
		}
		for _, f := range s.queue {
			memory += len(f.buf)
		}
		if memory > 2*total+MaxBody {
			t.Errorf("frames of %d bytes: %d bytes take %d", n, total, memory)
		}
	}
}

// gated blocks in Write while its gate is shut.
type gated struct {
	tunnel.Stream
	gate    sync.Mutex
	writing chan struct{}
}

func (g *gated) Write(p []byte) (int, error) {
	select {
	case g.writing <- struct{}{}:
	default:
	}
	g.gate.Lock()
	defer g.gate.Unlock()
	return g.Stream.Write(p)
}

// A Reset while the last ACK was being written came behind the end, where nobody was left to send it: the stream waited half a minute for
// another attachment.
func TestAResetBehindTheEndChangesNothing(t *testing.T) {
	h, e := pair(t)
	o := Options{DetachedLife: time.Minute}
	hub := Open(h, wire.Attach{Kind: wire.KindSession, ID: wire.StreamID{1}}, o)
	g := &gated{Stream: e, writing: make(chan struct{}, 1)}
	edge := accept(t, g, o)
	t.Cleanup(func() { hub.End(net.ErrClosed); edge.End(net.ErrClosed) })
	_ = edge.CloseWrite()
	if _, err := hub.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal(err)
	}
	for acked := false; !acked; runtime.Gosched() {
		edge.mu.Lock()
		acked = edge.m.acked == 1
		edge.mu.Unlock()
	}
	g.gate.Lock()
	for len(g.writing) > 0 {
		<-g.writing
	}
	_ = hub.CloseWrite()
	if _, err := edge.Read(make([]byte, 1)); err != io.EOF {
		t.Fatal(err)
	}
	<-g.writing // the last ACK
	edge.Reset(wire.StreamCancelled)
	g.gate.Unlock()
	for _, s := range []*Stream{hub, edge} {
		select {
		case <-s.Done():
		case <-time.After(10 * time.Second):
			t.Fatal("no end")
		}
	}
}
