package tunneltest

import (
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// atOnce is what "at once" may take on a machine under load; it is below tunnel.CloseTimeout, which nothing here may wait for.
const atOnce = tunnel.CloseTimeout / 2

// RunStuckConformance runs what tunnel.Conn promises of a peer that is dead while nobody knows it yet: whoever moves streams to another
// tunnel closes the old one, and waits for none of it. pair returns both ends of a new tunnel and what freezes the path between them.
func RunStuckConformance(t *testing.T, pair func(t *testing.T) (hub, edge tunnel.Conn, freeze func())) {
	for _, claim := range []struct {
		name string
		test func(t *testing.T, hub, edge tunnel.Conn, freeze func())
	}{
		{"ClosingAtTheHubFailsEverythingAtOnce", func(t *testing.T, hub, edge tunnel.Conn, freeze func()) {
			closeStuck(t, hub, edge, freeze, true)
		}},
		{"ClosingAtTheEdgeFailsEverythingAtOnce", func(t *testing.T, hub, edge tunnel.Conn, freeze func()) {
			closeStuck(t, hub, edge, freeze, false)
		}},
		{"ResetAndCloseNeverWaitForThePeer", endStuck},
		{"AnOpenThatStartsTheSessionFailsAtOnce", openStuck},
	} {
		t.Run(claim.name, func(t *testing.T) {
			hub, edge, freeze := pair(t)
			t.Cleanup(func() {
				var wg sync.WaitGroup
				for _, c := range []tunnel.Conn{edge, hub} {
					wg.Go(func() { c.CloseWithError(wire.CloseNormal, "") })
				}
				wg.Wait()
			})
			claim.test(t, hub, edge, freeze)
		})
	}
}

// fill writes in the background, and returns when the path takes no more.
func fill(wg *sync.WaitGroup, s tunnel.Stream) {
	wrote := make(chan struct{}, 1)
	wg.Go(func() {
		for {
			if _, err := s.Write(make([]byte, 64<<10)); err != nil {
				return
			}
			select {
			case wrote <- struct{}{}:
			default:
			}
		}
	})
	stall(wrote)
}

// stall returns when nothing has come for a while.
func stall(progress <-chan struct{}) {
	const quiet = 200 * time.Millisecond
	for t := time.NewTimer(quiet); ; t.Reset(quiet) {
		select {
		case <-progress:
		case <-t.C:
			return
		}
	}
}

func closeStuck(t *testing.T, hub, edge tunnel.Conn, freeze func(), atHub bool) {
	const streams = 4
	var ours []tunnel.Stream
	for range streams {
		h, e := Open(t, hub, edge, "!")
		_, err := io.ReadFull(e, make([]byte, 1))
		check(t, "read", err)
		_, err = e.Write([]byte("!"))
		check(t, "write", err)
		_, err = io.ReadFull(h, make([]byte, 1))
		check(t, "read", err)
		if atHub {
			ours = append(ours, h)
		} else {
			ours = append(ours, e)
		}
	}
	freeze()
	c := edge
	if atHub {
		c = hub
	}
	want := wire.CloseError{Code: wire.CloseSuperseded, Reason: "a newer tunnel"}
	var wg sync.WaitGroup
	var mu sync.Mutex
	late := make(map[string]struct{})
	call := func(what string, f func() error) {
		mu.Lock()
		late[what] = struct{}{}
		mu.Unlock()
		wg.Go(func() {
			err := f()
			for ; err == nil; err = f() {
			}
			if ce, ok := errors.AsType[*wire.CloseError](err); !ok || *ce != want {
				t.Errorf("%s: %v, want %v", what, err, &want)
			}
			mu.Lock()
			delete(late, what)
			mu.Unlock()
		})
	}
	call("Read", func() error { _, err := ours[0].Read(make([]byte, 1)); return err })
	for i, what := range []string{"Write", "Write on another stream", "a third Write"} {
		call(what, func() error { _, err := ours[i].Write(make([]byte, 64<<10)); return err })
	}
	if atHub { // its count is the limit's: what it opens it lets go
		call("OpenStream", func() error {
			s, err := hub.OpenStream(timeout(t))
			if err != nil {
				if errors.Is(err, tunnel.ErrTooManyStreams) {
					<-c.Context().Done()
					return nil
				}
				return err
			}
			s.Reset(wire.StreamCancelled)
			return nil
		})
	} else {
		call("AcceptStream", func() error { _, err := edge.AcceptStream(timeout(t)); return err })
	}
	call("ReceiveControl", func() error { _, err := c.ReceiveControl(timeout(t)); return err })
	// Let the writers come to where they block.
	time.Sleep(300 * time.Millisecond)
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		c.CloseWith(&want)
	}()
	<-c.Context().Done()
	returned := make(chan struct{})
	go func() {
		wg.Wait()
		close(returned)
	}()
	select {
	case <-returned:
	case <-time.After(atOnce):
		mu.Lock()
		t.Errorf("%v after the end these have not returned: %v", atOnce, late)
		mu.Unlock()
		<-returned
	}
	start := time.Now()
	for _, s := range ours {
		_, err := s.Read(make([]byte, 1))
		if ce, ok := errors.AsType[*wire.CloseError](err); !ok || *ce != want {
			t.Errorf("Read after the end: %v", err)
		}
		_, err = s.Write([]byte("x"))
		if ce, ok := errors.AsType[*wire.CloseError](err); !ok || *ce != want {
			t.Errorf("Write after the end: %v", err)
		}
		s.Reset(wire.StreamCancelled)
		s.Close()
	}
	if took := time.Since(start); took > atOnce {
		t.Errorf("calls after the end took %v", took)
	}
	select {
	case <-closed:
	case <-time.After(tunnel.CloseTimeout + testTimeout/4):
		t.Error("CloseWith did not return")
	}
}

func endStuck(t *testing.T, hub, edge tunnel.Conn, freeze func()) {
	var ours []tunnel.Stream
	for range 3 {
		h, e := Open(t, hub, edge, "!")
		ours = append(ours, h, e)
	}
	freeze()
	var wg sync.WaitGroup
	fill(&wg, ours[0])
	fill(&wg, ours[1])
	start := time.Now()
	ours[0].Reset(wire.StreamCancelled)
	ours[1].Reset(wire.StreamCancelled)
	ours[2].Close()
	ours[3].Close()
	ours[4].Reset(wire.StreamDenied)
	ours[5].Reset(wire.StreamDenied)
	if took := time.Since(start); took > atOnce {
		t.Errorf("Reset and Close took %v", took)
	}
	for _, c := range []tunnel.Conn{hub, edge} {
		wg.Go(func() { c.CloseWithError(wire.CloseNormal, "") })
	}
	wg.Wait()
}

// openStuck opens the first stream of a tunnel whose path is full of control messages.
func openStuck(t *testing.T, hub, edge tunnel.Conn, freeze func()) {
	freeze()
	var wg sync.WaitGroup
	defer wg.Wait()
	sent := make(chan struct{}, 1)
	wg.Go(func() {
		for {
			if err := hub.SendControl(make([]byte, wire.MaxControl)); err != nil {
				return
			}
			select {
			case sent <- struct{}{}:
			default:
			}
		}
	})
	stall(sent)
	opened := make(chan error, 1)
	wg.Go(func() {
		s, err := hub.OpenStream(timeout(t))
		for err == nil { // without a round trip it may succeed: then its first bytes wait
			_, err = s.Write(make([]byte, 64<<10))
		}
		opened <- err
	})
	time.Sleep(50 * time.Millisecond)
	wg.Go(func() { hub.CloseWithError(wire.CloseSuperseded, "") })
	<-hub.Context().Done()
	select {
	case err := <-opened:
		if ce, ok := errors.AsType[*wire.CloseError](err); !ok || ce.Code != wire.CloseSuperseded {
			t.Errorf("got %v", err)
		}
	case <-time.After(atOnce):
		t.Error("the open waited for the socket")
	}
}
