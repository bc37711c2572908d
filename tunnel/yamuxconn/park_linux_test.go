package yamuxconn

import (
	"bytes"
	"context"
	"io"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/tunneltest"
	"hawser/tunnel/wire"
)

// restless parks its tunnel before each receive, and opens streams on a parked one.
type restless struct{ tunnel.Conn }

func (r restless) rest(ctx context.Context) {
	woken := make(chan struct{})
	if r.Conn.(Parker).Park(func() { close(woken) }) {
		select {
		case <-woken:
		case <-ctx.Done():
		}
	}
}

func (r restless) ReceiveControl(ctx context.Context) ([]byte, error) {
	r.rest(ctx)
	return r.Conn.ReceiveControl(ctx)
}

func (r restless) ReceiveHeartbeat(ctx context.Context) ([]byte, error) {
	r.rest(ctx)
	return r.Conn.ReceiveHeartbeat(ctx)
}

func (r restless) OpenStream(ctx context.Context) (tunnel.Stream, error) {
	r.Conn.(Parker).Park(func() {})
	return r.Conn.OpenStream(ctx)
}

func TestConformanceOfParkedTunnels(t *testing.T) {
	tunneltest.RunConformance(t, func(t *testing.T) (tunnel.Conn, tunnel.Conn) {
		hub, edge := pair(t, Options{MuxIdle: time.Millisecond})
		return restless{hub}, edge
	})
}

// parked parks a tunnel and waits until the tunnel has no reader.
func parked(t *testing.T, c tunnel.Conn, wake func()) {
	t.Helper()
	if !c.(Parker).Park(wake) {
		t.Fatal("it does not park")
	}
	y := c.(*conn)
	for deadline := time.Now().Add(20 * time.Second); ; {
		y.park.mu.Lock()
		rests := y.park.parked != nil
		y.park.mu.Unlock()
		if rests {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the reader did not end")
		}
		time.Sleep(time.Millisecond)
	}
}

func readers() int {
	var b bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&b, 2)
	return strings.Count(b.String(), "yamuxconn.(*conn).run")
}

func TestParkedTunnelWakes(t *testing.T) {
	for _, why := range []string{"message", "heartbeat", "stream", "close", "peer's close", "peer's death"} {
		t.Run(why, func(t *testing.T) {
			hub, edge := pair(t, Options{})
			defer edge.CloseWithError(wire.CloseNormal, "")
			defer hub.CloseWithError(wire.CloseNormal, "")
			woken := make(chan struct{}, 2)
			parked(t, hub, func() { woken <- struct{}{} })
			for deadline := time.Now().Add(20 * time.Second); readers() != 1; time.Sleep(time.Millisecond) { // the edge's
				if time.Now().After(deadline) {
					t.Fatalf("%d readers", readers())
				}
			}
			var want string
			switch why {
			case "message":
				want = "m"
				if err := edge.SendControl([]byte(want)); err != nil {
					t.Fatal(err)
				}
			case "heartbeat":
				want = "h"
				if err := edge.SendHeartbeat([]byte(want)); err != nil {
					t.Fatal(err)
				}
			case "stream":
				h, e := tunneltest.Open(t, hub, edge, "x")
				if _, err := e.Write([]byte("y")); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(h, make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
			case "close":
				hub.CloseWithError(wire.CloseDrain, "")
			case "peer's close":
				edge.CloseWithError(wire.CloseDrain, "")
			case "peer's death":
				edge.(*conn).tc.NetConn().Close()
			}
			select {
			case <-woken:
			case <-time.After(20 * time.Second):
				t.Fatal("it was not woken")
			}
			if want != "" {
				got, heartbeat, err := hub.(Parker).Next(t.Context())
				if err != nil || string(got) != want || heartbeat != (why == "heartbeat") {
					t.Errorf("got %q, %v, %v", got, heartbeat, err)
				}
			}
			if why == "peer's death" {
				<-hub.Context().Done()
			}
			select {
			case <-woken:
				t.Error("it was woken twice")
			default:
			}
		})
	}
}

// An owner that came to rest between a frame's header and its body slept on the message: it was woken for the header only, and refuses to
// rest only when a whole message waits.
func TestWhoComesToRestWhileAMessageArrivesIsWoken(t *testing.T) {
	hub, edge := pair(t, Options{})
	defer edge.CloseWithError(wire.CloseNormal, "")
	defer hub.CloseWithError(wire.CloseNormal, "")
	next := func() ([]byte, bool) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		b, _, err := hub.(Parker).Next(ctx)
		return b, err == nil
	}
	for round := range 20 {
		woken := make(chan struct{}, 1)
		parked(t, hub, func() { woken <- struct{}{} })
		tc := edge.(*conn).tc
		if _, err := tc.Write([]byte{byte(frameControl), 0, 0, 1}); err != nil {
			t.Fatal(err)
		}
		<-woken // the reader is back, and at the header or behind it
		if _, ok := next(); ok {
			t.Fatal("a message without its body")
		}
		rests := hub.(Parker).Park(func() { woken <- struct{}{} })
		if _, err := tc.Write([]byte{'m'}); err != nil {
			t.Fatal(err)
		}
		for late := time.After(5 * time.Second); ; {
			if rests {
				select {
				case <-woken:
				case <-late:
					t.Fatalf("round %d: nobody was woken", round)
				}
			}
			if b, ok := next(); ok {
				if string(b) != "m" {
					t.Fatalf("got %q", b)
				}
				break
			}
			rests = hub.(Parker).Park(func() { woken <- struct{}{} })
		}
	}
}
