package channel

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"hawser/tunnel"
	"hawser/tunnel/resume"
	"hawser/tunnel/tunneltest"
	"hawser/tunnel/wire"
)

// overStreams runs a channel over resumable streams over an in-memory tunnel.
func overStreams(t testing.TB) (hub, edge *Conn) {
	t.Helper()
	h, e := tunneltest.Pair(t)
	accepted := make(chan *resume.Stream, 1)
	go func() { accepted <- acceptOne(t, e) }()
	att, err := h.OpenStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hub = New(resume.Open(att, wire.Attach{Kind: wire.KindSession, ID: wire.StreamID{7}}, resume.Options{}), Options{})
	s := <-accepted
	if s == nil {
		t.FailNow()
	}
	edge = New(s, Options{})
	t.Cleanup(func() { hub.Close(); edge.Close(); <-s.Done() })
	return hub, edge
}

func acceptOne(t testing.TB, c tunnel.Conn) *resume.Stream {
	att, err := c.AcceptStream(t.Context())
	if err != nil {
		t.Error(err)
		return nil
	}
	a, err := resume.ReadAttach(t.Context(), att)
	if err != nil {
		t.Error(err)
		return nil
	}
	s, err := resume.Accept(att, a, resume.Options{})
	if err != nil {
		t.Error(err)
		return nil
	}
	return s
}

func TestChannelOverAResumableStream(t *testing.T) {
	hub, edge := overStreams(t)
	in := bytes.Repeat([]byte("0123456789"), 300_000)
	errs := make(chan error, 2)
	go func() { // a cat with an exit status
		_, err := io.Copy(edge, edge)
		_, err2 := edge.SendRequest("exit-status", false, []byte{0, 0, 0, 0})
		errs <- errors.Join(err, err2, edge.Close())
	}()
	go func() {
		_, err := hub.Write(in)
		errs <- errors.Join(err, hub.CloseWrite())
	}()
	out, err := io.ReadAll(hub)
	if err != nil || !bytes.Equal(out, in) {
		t.Errorf("%d bytes, %v", len(out), err)
	}
	if r := <-hub.Requests(); r == nil || r.Type != "exit-status" {
		t.Errorf("request %+v", r)
	}
	if err := errors.Join(<-errs, <-errs, hub.Close()); err != nil {
		t.Error(err)
	}
}

func BenchmarkChannel(b *testing.B) {
	hub, edge := overStreams(b)
	go func() { _, _ = io.Copy(io.Discard, struct{ io.Reader }{hub}) }()
	p := make([]byte, MaxData)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		if _, err := edge.Write(p); err != nil {
			b.Fatal(err)
		}
	}
}
