package tunneltest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// RunConformance runs what tunnel.Conn promises against a carrier. pair returns both ends of a new tunnel; it may
// register its own clean-up, and the tunnel may be closed before.
func RunConformance(t *testing.T, pair func(t *testing.T) (hub, edge tunnel.Conn)) {
	for _, claim := range []struct {
		name string
		test func(t *testing.T, hub, edge tunnel.Conn)
	}{
		{"ControlMessagesArriveWholeAndInOrder", controlInOrder},
		{"ControlMessagesFromManySendersStayWhole", controlConcurrent},
		{"CancelledReceiveLosesNoControlMessage", controlCancel},
		{"OversizedMessagesAreRefused", oversized},
		{"HeartbeatsArriveBothWays", heartbeats},
		{"HeartbeatsNobodyReadsBlockNothing", heartbeatsDropped},
		{"OnlyTheHubOpensStreams", wrongSide},
		{"StreamsCarryBytesBothWays", streamBytes},
		{"BulkArrivesUnchangedBothWays", streamBulk},
		{"HalfCloseKeepsTheOtherDirectionOpen", halfClose},
		{"BytesBeforeCloseArrive", closeFlushes},
		{"CloseStopsThePeersWrites", closeStops},
		{"ResetCodeReachesThePeer", resetCode},
		{"ResetWakesLocalCalls", resetLocal},
		{"DeadlinesEndReadsAndWrites", deadlines},
		{"StalledStreamBlocksNeitherStreamsNorControl", stalled},
		{"OneStreamTooManyIsRefusedAtOnce", streamLimit},
		{"StreamsCanBeOpenedForEver", streamReuse},
		{"CloseCodeReachesTheEdge", func(t *testing.T, hub, edge tunnel.Conn) { closeCode(t, hub, edge, hub, edge) }},
		{"CloseCodeReachesTheHub", func(t *testing.T, hub, edge tunnel.Conn) { closeCode(t, hub, edge, edge, hub) }},
		{"CloseIsIdempotent", closeTwice},
	} {
		t.Run(claim.name, func(t *testing.T) {
			hub, edge := pair(t)
			t.Cleanup(func() {
				edge.CloseWithError(wire.CloseNormal, "")
				hub.CloseWithError(wire.CloseNormal, "")
			})
			claim.test(t, hub, edge)
		})
	}
}

func timeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

func check(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func controlInOrder(t *testing.T, hub, edge tunnel.Conn) {
	ctx := timeout(t)
	for _, way := range []struct{ from, to tunnel.Conn }{{hub, edge}, {edge, hub}} {
		want := [][]byte{{1}, bytes.Repeat([]byte("x"), wire.MaxControl), []byte("three")}
		var wg sync.WaitGroup
		wg.Go(func() {
			for _, m := range want {
				if err := way.from.SendControl(m); err != nil {
					t.Errorf("SendControl: %v", err)
				}
			}
		})
		for i, w := range want {
			got, err := way.to.ReceiveControl(ctx)
			check(t, "ReceiveControl", err)
			if !bytes.Equal(got, w) {
				t.Fatalf("message %d: got %d bytes, want %d", i, len(got), len(w))
			}
		}
		wg.Wait()
	}
}

func controlConcurrent(t *testing.T, hub, edge tunnel.Conn) {
	ctx := timeout(t)
	const senders, each = 8, 20
	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() {
			for range each {
				if err := edge.SendControl(bytes.Repeat([]byte{byte(i)}, 1000+i)); err != nil {
					t.Errorf("SendControl: %v", err)
				}
			}
		})
	}
	for range senders * each {
		got, err := hub.ReceiveControl(ctx)
		check(t, "ReceiveControl", err)
		if want := bytes.Repeat(got[:1], 1000+int(got[0])); !bytes.Equal(got, want) {
			t.Fatal("messages of two senders are mixed")
		}
	}
	wg.Wait()
}

func controlCancel(t *testing.T, hub, edge tunnel.Conn) {
	for i := range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		msg, err := edge.ReceiveControl(ctx)
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("cancelled ReceiveControl: %q, %v", msg, err)
		}
		check(t, "SendControl", hub.SendControl([]byte{byte(i + 1)}))
		msg, err = edge.ReceiveControl(timeout(t))
		check(t, "ReceiveControl", err)
		if len(msg) != 1 || msg[0] != byte(i+1) {
			t.Fatalf("got %v, want %d", msg, i+1)
		}
	}
}

func oversized(t *testing.T, hub, edge tunnel.Conn) {
	if err := edge.SendControl(make([]byte, wire.MaxControl+1)); !errors.Is(err, tunnel.ErrTooLong) {
		t.Errorf("control: %v, want ErrTooLong", err)
	}
	if err := edge.SendHeartbeat(make([]byte, wire.MaxHeartbeat+1)); !errors.Is(err, tunnel.ErrTooLong) {
		t.Errorf("heartbeat: %v, want ErrTooLong", err)
	}
	check(t, "SendControl", edge.SendControl([]byte("fine")))
	if _, err := hub.ReceiveControl(timeout(t)); err != nil {
		t.Errorf("the tunnel did not survive: %v", err)
	}
}

func heartbeats(t *testing.T, hub, edge tunnel.Conn) {
	ctx := timeout(t)
	for _, way := range []struct{ from, to tunnel.Conn }{{edge, hub}, {hub, edge}} {
		want := wire.Heartbeat{Seq: 7, Interval: 25 * time.Second}.Append(nil)
		check(t, "SendHeartbeat", way.from.SendHeartbeat(want))
		got, err := way.to.ReceiveHeartbeat(ctx)
		check(t, "ReceiveHeartbeat", err)
		if !bytes.Equal(got, want) {
			t.Errorf("got %x, want %x", got, want)
		}
	}
}

func heartbeatsDropped(t *testing.T, hub, edge tunnel.Conn) {
	for range 1000 {
		check(t, "SendHeartbeat", edge.SendHeartbeat(make([]byte, 100)))
	}
	check(t, "SendControl", edge.SendControl([]byte("after")))
	_, err := hub.ReceiveControl(timeout(t))
	check(t, "ReceiveControl", err)
}

func wrongSide(t *testing.T, hub, edge tunnel.Conn) {
	if _, err := edge.OpenStream(timeout(t)); !errors.Is(err, tunnel.ErrWrongSide) {
		t.Errorf("edge.OpenStream: %v, want ErrWrongSide", err)
	}
	if _, err := hub.AcceptStream(timeout(t)); !errors.Is(err, tunnel.ErrWrongSide) {
		t.Errorf("hub.AcceptStream: %v, want ErrWrongSide", err)
	}
}

func streamBytes(t *testing.T, hub, edge tunnel.Conn) {
	h, e := Open(t, hub, edge, "ping")
	got := make([]byte, 4)
	_, err := io.ReadFull(e, got)
	check(t, "read at the edge", err)
	_, err = e.Write([]byte("pong"))
	check(t, "write at the edge", err)
	_, err = io.ReadFull(h, got)
	check(t, "read at the hub", err)
	if string(got) != "pong" {
		t.Errorf("got %q", got)
	}
}

func streamBulk(t *testing.T, hub, edge tunnel.Conn) {
	const size = 8 << 20
	h, e := Open(t, hub, edge, "!")
	_, err := io.ReadFull(e, make([]byte, 1))
	check(t, "read", err)
	data := make([]byte, size)
	rand.Read(data)
	want := sha256.Sum256(data)
	var wg sync.WaitGroup
	for _, end := range []tunnel.Stream{h, e} {
		wg.Go(func() {
			if _, err := end.Write(data); err != nil {
				t.Errorf("write: %v", err)
			}
			if err := end.CloseWrite(); err != nil {
				t.Errorf("CloseWrite: %v", err)
			}
		})
		wg.Go(func() {
			sum := sha256.New()
			n, err := io.Copy(sum, end)
			if err != nil || n != size || [32]byte(sum.Sum(nil)) != want {
				t.Errorf("got %d bytes, %v; want %d, unchanged", n, err, size)
			}
		})
	}
	wg.Wait()
}

func halfClose(t *testing.T, hub, edge tunnel.Conn) {
	h, e := Open(t, hub, edge, "question")
	check(t, "CloseWrite", h.CloseWrite())
	got, err := io.ReadAll(e)
	check(t, "read to the end", err)
	if string(got) != "question" {
		t.Errorf("got %q", got)
	}
	if _, err := h.Write([]byte("x")); err == nil {
		t.Error("a write after CloseWrite succeeded")
	}
	_, err = e.Write([]byte("answer"))
	check(t, "write after the peer's end", err)
	check(t, "CloseWrite", e.CloseWrite())
	got, err = io.ReadAll(h)
	check(t, "read the answer", err)
	if string(got) != "answer" {
		t.Errorf("got %q", got)
	}
}

func closeFlushes(t *testing.T, hub, edge tunnel.Conn) {
	for range 10 {
		h, e := Open(t, hub, edge, "all of this")
		check(t, "Close", h.Close())
		check(t, "second Close", h.Close())
		got, err := io.ReadAll(e)
		check(t, "read", err)
		if string(got) != "all of this" {
			t.Errorf("got %q", got)
		}
		e.Close()
	}
}

func closeStops(t *testing.T, hub, edge tunnel.Conn) {
	h, e := Open(t, hub, edge, "!")
	check(t, "Close", h.Close())
	e.SetWriteDeadline(time.Now().Add(testTimeout))
	var err error
	for err == nil {
		_, err = e.Write(make([]byte, 32<<10))
	}
	if se, ok := errors.AsType[*tunnel.StreamError](err); !ok || !se.Remote || se.Code != wire.StreamOK {
		t.Errorf("write after the peer's Close: %v, want a remote StreamError of code ok", err)
	}
	e.Close()
}

func resetCode(t *testing.T, hub, edge tunnel.Conn) {
	want := &tunnel.StreamError{Code: wire.StreamDenied, Remote: true}
	for _, fromHub := range []bool{true, false} {
		h, e := Open(t, hub, edge, "!")
		from, to := h, e
		if !fromHub {
			from, to = e, h
		} else if _, err := io.ReadFull(e, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		from.Reset(wire.StreamDenied)
		to.SetDeadline(time.Now().Add(testTimeout))
		_, err := to.Read(make([]byte, 1))
		if se, ok := errors.AsType[*tunnel.StreamError](err); !ok || *se != *want {
			t.Errorf("read: %v, want %v", err, want)
		}
		for err = nil; err == nil; {
			_, err = to.Write(make([]byte, 1024))
		}
		if se, ok := errors.AsType[*tunnel.StreamError](err); !ok || *se != *want {
			t.Errorf("write: %v, want %v", err, want)
		}
		to.Close()
	}
}

func resetLocal(t *testing.T, hub, edge tunnel.Conn) {
	h, _ := Open(t, hub, edge, "!")
	errs := make(chan error, 2)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _, err := h.Read(make([]byte, 1)); errs <- err })
	wg.Go(func() {
		var err error
		for err == nil {
			_, err = h.Write(make([]byte, 64<<10))
		}
		errs <- err
	})
	h.Reset(wire.StreamCancelled)
	for range 2 {
		select {
		case err := <-errs:
			if se, ok := errors.AsType[*tunnel.StreamError](err); !ok || se.Remote || se.Code != wire.StreamCancelled {
				t.Errorf("got %v, want our own reset", err)
			}
		case <-timeout(t).Done():
			t.Fatal("a call did not return")
		}
	}
}

func deadlines(t *testing.T, hub, edge tunnel.Conn) {
	h, e := Open(t, hub, edge, "!")
	h.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := h.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v, want ErrDeadlineExceeded", err)
	}
	h.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	var err error
	for err == nil {
		_, err = h.Write(make([]byte, 32<<10))
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write: %v, want ErrDeadlineExceeded", err)
	}
	h.SetDeadline(time.Time{})
	_, err = e.Write([]byte("x"))
	check(t, "write", err)
	_, err = io.ReadFull(h, make([]byte, 1))
	check(t, "read without a deadline", err)
}

func stalled(t *testing.T, hub, edge tunnel.Conn) {
	ctx := timeout(t)
	stuck, _ := Open(t, hub, edge, "!")
	stuck.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	for err := error(nil); err == nil; {
		_, err = stuck.Write(make([]byte, 32<<10))
	}
	streamBytes(t, hub, edge)
	check(t, "SendControl", hub.SendControl([]byte("x")))
	_, err := edge.ReceiveControl(ctx)
	check(t, "ReceiveControl", err)
}

func streamLimit(t *testing.T, hub, edge tunnel.Conn) {
	ctx := timeout(t)
	var open []tunnel.Stream
	for i := range tunnel.MaxStreams {
		s, err := hub.OpenStream(ctx)
		if err != nil {
			t.Fatalf("stream %d: %v", i, err)
		}
		_, err = s.Write([]byte{1})
		check(t, "write", err)
		open = append(open, s)
	}
	if _, err := hub.OpenStream(ctx); !errors.Is(err, tunnel.ErrTooManyStreams) {
		t.Fatalf("stream %d: %v, want ErrTooManyStreams", tunnel.MaxStreams, err)
	}
	open[0].Close()
	for range tunnel.MaxStreams {
		e, err := edge.AcceptStream(ctx)
		check(t, "AcceptStream", err)
		e.Close()
	}
	for { // the place comes back when both ends have closed
		s, err := hub.OpenStream(ctx)
		if err == nil {
			s.Close()
			break
		}
		if !errors.Is(err, tunnel.ErrTooManyStreams) || ctx.Err() != nil {
			t.Fatalf("after streams closed: %v", err)
		}
		check(t, "SendControl", hub.SendControl([]byte("turn")))
		_, err = edge.ReceiveControl(ctx)
		check(t, "ReceiveControl", err)
	}
}

func streamReuse(t *testing.T, hub, edge tunnel.Conn) {
	for i := range 3 * tunnel.MaxStreams {
		h, e := Open(t, hub, edge, fmt.Sprint(i))
		check(t, "CloseWrite", h.CloseWrite())
		got, err := io.ReadAll(e)
		check(t, "read", err)
		if string(got) != fmt.Sprint(i) {
			t.Fatalf("got %q, want %d", got, i)
		}
		check(t, "Close", e.Close())
		_, err = io.ReadAll(h)
		check(t, "read", err)
		check(t, "Close", h.Close())
	}
}

func closeCode(t *testing.T, hub, edge, from, to tunnel.Conn) {
	h, e := Open(t, hub, edge, "!")
	peerStream := e
	if to == hub {
		peerStream = h
	} else if _, err := io.ReadFull(e, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	want := wire.CloseError{Code: wire.CloseDrain, Reason: "moving \x1b[31mhouse", RetryAfter: 1500 * time.Millisecond}
	start := time.Now()
	check(t, "CloseWith", from.CloseWith(&want))
	if took := time.Since(start); took > tunnel.CloseTimeout+testTimeout/4 {
		t.Errorf("CloseWith took %v", took)
	}
	if ce, ok := errors.AsType[*wire.CloseError](context.Cause(from.Context())); !ok || *ce != want {
		t.Errorf("our cause is %v, want what we said", context.Cause(from.Context()))
	}
	want.Remote = true
	select {
	case <-to.Context().Done():
	case <-timeout(t).Done():
		t.Fatal("the peer did not notice")
	}
	expect := func(what string, err error) {
		t.Helper()
		if ce, ok := errors.AsType[*wire.CloseError](err); !ok || *ce != want {
			t.Errorf("%s: %v, want %v", what, err, &want)
		}
	}
	expect("cause", context.Cause(to.Context()))
	_, err := to.ReceiveControl(timeout(t))
	expect("ReceiveControl", err)
	_, err = to.ReceiveHeartbeat(timeout(t))
	expect("ReceiveHeartbeat", err)
	expect("SendControl", to.SendControl([]byte("x")))
	_, err = peerStream.Read(make([]byte, 1))
	expect("Read", err)
	_, err = peerStream.Write(make([]byte, 1))
	expect("Write", err)
	if to == hub {
		_, err = hub.OpenStream(timeout(t))
		expect("OpenStream", err)
	} else {
		_, err = edge.AcceptStream(timeout(t))
		expect("AcceptStream", err)
	}
}

func closeTwice(t *testing.T, hub, edge tunnel.Conn) {
	check(t, "first", hub.CloseWithError(wire.CloseIdle, "one"))
	check(t, "second", hub.CloseWithError(wire.CloseBanned, "two"))
	if ce, ok := errors.AsType[*wire.CloseError](context.Cause(hub.Context())); !ok || ce.Code != wire.CloseIdle {
		t.Errorf("cause %v, want the first", context.Cause(hub.Context()))
	}
	check(t, "the peer's", edge.CloseWithError(wire.CloseNormal, ""))
}
