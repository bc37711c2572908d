package hub

import (
	"context"
	"encoding/binary"
	"io"
	"testing"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
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
	return connect.NewResponse(&api.AppendRecordingResponse{NextSeq: next}), nil
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
	h.granted.add(id, &controlStream{c: &control{device: testUUID}}, []byte("grant"), nil)
	if err := tunnel.Send(c, wire.UploadWanted{RecordingID: id}); err != nil {
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
	wants := func(want uint64) {
		t.Helper()
		var word [8]byte
		if _, err := io.ReadFull(s, word[:]); err != nil || binary.BigEndian.Uint64(word[:]) != want {
			t.Fatalf("the hub wants chunk %x, %v; want %d", word, err, want)
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
