package hub

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/seal"
	"hawser/recorder"
	"hawser/tunnel"
	"hawser/tunnel/resume"
	"hawser/tunnel/wire"
)

// AppendRecording is auth with chunk 0 of every recording on its disk.
func (a *authTwin) AppendRecording(_ context.Context, r *connect.Request[api.AppendRecordingRequest]) (*connect.Response[api.AppendRecordingResponse], error) {
	next := uint64(1)
	for _, c := range r.Msg.Chunks {
		next = c.Seq + 1
	}
	return connect.NewResponse(&api.AppendRecordingResponse{NextSeq: next, Ack: r.Msg.AckKey}), nil
}

// CloseRecording tells the test.
func (a *authTwin) CloseRecording(_ context.Context, r *connect.Request[api.CloseRecordingRequest]) (*connect.Response[api.CloseRecordingResponse], error) {
	a.closed <- r.Msg.Chunks
	return connect.NewResponse(new(api.CloseRecordingResponse)), nil
}

// Release tells the test.
func (a *authTwin) Release(_ context.Context, r *connect.Request[api.ReleaseRequest]) (*connect.Response[api.ReleaseResponse], error) {
	a.released <- r.Msg
	return connect.NewResponse(new(api.ReleaseResponse)), nil
}

// registered is a device with a tunnel at the hub.
func registered(t *testing.T, a *authTwin, h *Hub, e testEdge) tunnel.Conn {
	t.Helper()
	c, ch := e.dial(t, h, tunnel.CarrierTLS)
	e.register(t, c, ch, testUUID, 1)
	receive[*wire.Ack](t, c)
	return c
}

func within[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(10 * time.Second):
		t.Fatalf("waited 10 s for %s", what)
		panic("not reached")
	}
}

// The hub began every upload with chunk 0, which an edge no longer has once it was told that it is stored: an upload that broke never ended.
func TestABrokenUploadGoesOnWhereAuthHasItAndIsClosed(t *testing.T) {
	a, h, key := newCluster(t)
	c := registered(t, a, h, a.edge(t, key, testUUID, time.Hour))
	id := [16]byte{9}
	if err := tunnel.Send(c, wire.UploadWanted{RecordingID: id, Grant: uploadGrant(t, h, id, nil, a.set.GrantKey())}); err != nil {
		t.Fatal(err)
	}
	att, err := c.AcceptStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	head, err := resume.ReadAttach(t.Context(), att)
	if err != nil {
		t.Fatal(err)
	}
	s, err := resume.Accept(att, head, resume.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	public := bytes.Repeat([]byte{3}, seal.PublicSize)
	if _, err := s.Write(public); err != nil {
		t.Fatal(err)
	}
	wants := func(want uint64) {
		t.Helper()
		var word [8 + seal.AckSize]byte
		if _, err := io.ReadFull(s, word[:]); err != nil || binary.BigEndian.Uint64(word[:]) != want || !bytes.Equal(word[8:], public) {
			t.Fatalf("the hub wants chunk %x, %v; want %d, in auth's words", word, err, want)
		}
	}
	wants(1)
	w := recorder.NewWriter(recorder.Header{ID: id}, recorder.Options{Sink: func(_ context.Context, seq uint64, chunk []byte) error {
		if seq == 0 {
			return nil
		}
		_, err := s.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(chunk))), chunk...))
		return err
	}})
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	wants(2)
	if n := within(t, a.closed, "the recording to be closed"); n != 2 {
		t.Errorf("closed with %d chunks, want 2", n)
	}
}

// Eight sessions that stood still kept a ninth from being recorded, and those that came by the tunnel its certificate from being renewed.
func TestManySessionsOfADeviceAreRecordedAtOnce(t *testing.T) {
	a, h, key := newCluster(t)
	c := registered(t, a, h, a.edge(t, key, testUUID, time.Hour))
	const n = 2 * maxRequests
	for i := range n {
		id := [16]byte{9, byte(i)}
		if err := tunnel.Send(c, wire.UploadWanted{RecordingID: id, Grant: uploadGrant(t, h, id, nil, a.set.GrantKey())}); err != nil {
			t.Fatal(err)
		}
	}
	for range n {
		att, err := c.AcceptStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer att.Reset(wire.StreamCancelled)
		if head, err := resume.ReadAttach(t.Context(), att); err != nil || head.Kind != wire.KindUpload {
			t.Fatalf("%+v, %v", head, err)
		}
	}
}

// Of an idle session the upload ended every two minutes, said so in the log each time, and was begun anew.
func TestAnUploadWaitsForASessionThatStandsStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, edge := net.Pipe()
		defer edge.Close()
		done := make(chan error, 1)
		go func() {
			done <- takeUpload(hub, func(_ []byte, chunk *api.Chunk, _ bool) (taken, error) {
				if chunk == nil {
					return taken{}, nil
				}
				return taken{next: chunk.Seq + 1}, nil
			})
		}()
		_, _ = edge.Write(make([]byte, seal.PublicSize))
		wants := func(want uint64) {
			t.Helper()
			var word [8 + seal.AckSize]byte
			if _, err := io.ReadFull(edge, word[:]); err != nil || binary.BigEndian.Uint64(word[:]) != want {
				t.Fatalf("the hub wants %x, %v", word, err)
			}
		}
		wants(0)
		time.Sleep(48 * time.Hour)
		var chunk []byte
		w := recorder.NewWriter(recorder.Header{}, recorder.Options{Sink: func(_ context.Context, seq uint64, b []byte) error {
			if seq == 0 {
				chunk = append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
			}
			return nil
		}})
		if err := w.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, _ = edge.Write(chunk)
		wants(1)
		_, _ = edge.Write(chunk[:9])
		begun := time.Now()
		if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begun) != uploadStall {
			t.Errorf("half a chunk: %v after %v", err, time.Since(begun))
		}
	})
}

// A session that lived through 65,536 others was forgotten: no kill reached it, and its place was never given back.
func TestALiveSessionIsNotForgottenForLaterOnes(t *testing.T) {
	var g grantedSessions
	s := &controlStream{c: &control{device: testUUID}}
	id := func(i int) [16]byte { return [16]byte{byte(i), byte(i >> 8), byte(i >> 16)} }
	for i := range 1 << 17 {
		if err := g.add(id(i), s, nil, nil); err != nil {
			t.Fatal(err)
		}
		if i > 0 && !g.released(id(i), testUUID) {
			t.Fatalf("session %d is not there", i)
		}
	}
	if on, ok := g.deviceOf(id(0)); !ok || on != testUUID || len(g.live) != 1 || g.of[testUUID] != 1 {
		t.Errorf("the first is known: %v, among %d", ok, len(g.live))
	}
	for i := 1; i < maxGranted; i++ {
		if err := g.add(id(i), s, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.add(id(maxGranted), s, nil, nil); !errors.Is(err, errManyPlaces) {
		t.Errorf("one too many: %v", err)
	}
	if err := g.add(id(1), s, nil, nil); err != nil { // asked for again
		t.Error(err)
	}
	if n := len(g.lost(s)); n != maxGranted || len(g.of) != 0 {
		t.Errorf("%d were lost, %d devices are left", n, len(g.of))
	}
	// What auth grants behind that nobody would give back.
	let := false
	if err := g.add(id(0), s, nil, func() { let = true }); !errors.Is(err, errStreamOver) || !let || len(g.live) != 0 {
		t.Errorf("granted over a stream that has ended: %v, %v", err, let)
	}
}
