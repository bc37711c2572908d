package hub

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"hawser/hub/authclient"
	"hawser/hub/registry"
	"hawser/tunnel"
	"hawser/tunnel/tunneltest"
	"hawser/tunnel/wire"
)

// servedTunnel registers a tunnel in memory at a hub that has nothing else, and returns the hub, the tunnel and the edge's end.
func servedTunnel(t *testing.T) (*Hub, *registry.Tunnel, tunnel.Conn) {
	t.Helper()
	h, err := New(Config{Data: "unused"})
	if err != nil {
		t.Fatal(err)
	}
	h.auth = new(authclient.Client)
	x, edge := addTunnel(t, h, testUUID)
	return h, x, edge
}

func addTunnel(t *testing.T, h *Hub, id wire.UUID) (*registry.Tunnel, tunnel.Conn) {
	t.Helper()
	c, edge := tunneltest.Pair(t)
	_, key, _ := ed25519.GenerateKey(nil)
	x := &registry.Tunnel{Conn: c, UUID: id, Name: "gw-1", Incarnation: wire.Incarnation{1}, Counter: 1, Since: time.Now(), Signature: key[:64]}
	if _, err := h.registry.Register(x, time.Now()); err != nil {
		t.Fatal(err)
	}
	s := newServed(h, x)
	h.tunnels.serve(c, func() bool {
		h.tunnels.registered(s)
		s.start()
		return true
	})
	synctest.Wait()
	return x, edge
}

func beat(t *testing.T, edge tunnel.Conn, seq uint32, interval time.Duration) {
	t.Helper()
	if err := edge.SendHeartbeat(wire.Heartbeat{Seq: seq, Interval: interval}.Append(nil)); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func answers(edge tunnel.Conn) (n int) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for {
		done := make(chan error, 1)
		go func() {
			_, err := edge.ReceiveHeartbeat(ctx)
			done <- err
		}()
		synctest.Wait()
		select {
		case err := <-done:
			if err != nil {
				return n
			}
			n++
		default:
			cancel()
			<-done
			return n
		}
	}
}

func TestATunnelWithoutStreamsIsClosedWhenHeartbeatsStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _, edge := servedTunnel(t)
		beat(t, edge, 1, 20*time.Second)
		time.Sleep(3*20*time.Second + beatSlack - time.Millisecond)
		synctest.Wait()
		if edge.Context().Err() != nil {
			t.Fatal("closed before its deadline")
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		if e, ok := errors.AsType[*wire.CloseError](context.Cause(edge.Context())); !ok || e.Code != wire.CloseIdle {
			t.Errorf("closed by %v", context.Cause(edge.Context()))
		}
		h.tunnels.wait()
		if h.registry.Lookup(testUUID) != nil {
			t.Error("still registered")
		}
		if end, _ := h.ends.get(testUUID); end.reason != "heartbeats stopped" {
			t.Errorf("the reason is %q", end.reason)
		}
	})
}

func TestATunnelWithStreamsIsSilentWhenHeartbeatsStopAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, x, edge := servedTunnel(t)
		s := h.tunnels.of(x.Conn)
		stream, err := h.openLocal(t.Context(), x)
		if err != nil {
			t.Fatal(err)
		}
		beat(t, edge, 1, time.Second)
		time.Sleep(3*time.Second + beatSlack + time.Millisecond)
		synctest.Wait()
		if !s.isSilent() || edge.Context().Err() != nil {
			t.Fatalf("silent %v, ended %v", s.isSilent(), edge.Context().Err())
		}
		time.Sleep(maxSilent - time.Minute)
		beat(t, edge, 2, time.Second)
		if s.isSilent() {
			t.Error("silent after a heartbeat")
		}
		time.Sleep(3*time.Second + beatSlack + time.Millisecond)
		synctest.Wait()
		if !s.isSilent() {
			t.Error("not silent the second time")
		}
		stream.Reset(wire.StreamCancelled)
		stream.Close()
		synctest.Wait()
		if edge.Context().Err() == nil {
			t.Error("a silent tunnel without streams goes on")
		}
		h.tunnels.wait()
	})
}

func TestAnIdleTunnelThatIsDeadShowsWhenAStreamIsOpened(t *testing.T) {
	for _, interval := range []time.Duration{0, 100 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			h, x, edge := servedTunnel(t)
			s := h.tunnels.of(x.Conn)
			beat(t, edge, 1, interval)
			short, err := h.openLocal(t.Context(), x)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(wakeWait / 2)
			short.Reset(wire.StreamCancelled) // it was over before the edge said anything: nothing is known
			time.Sleep(wakeWait)
			synctest.Wait()
			if s.isSilent() || edge.Context().Err() != nil {
				t.Fatalf("interval %v: silent %v, ended %v for a short stream", interval, s.isSilent(), edge.Context().Err())
			}
			stream, err := h.openLocal(t.Context(), x)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(wakeWait + time.Millisecond)
			synctest.Wait()
			if !s.isSilent() || edge.Context().Err() != nil {
				t.Fatalf("interval %v: silent %v, ended %v", interval, s.isSilent(), edge.Context().Err())
			}
			beat(t, edge, 2, time.Second)
			if s.isSilent() {
				t.Error("silent after a heartbeat")
			}
			beat(t, edge, 3, interval)
			stream.Reset(wire.StreamCancelled)
			edge.CloseWithError(wire.CloseNormal, "")
			h.tunnels.wait()
		})
	}
}

func TestASilentTunnelIsNotKeptForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, x, edge := servedTunnel(t)
		if _, err := h.openLocal(t.Context(), x); err != nil {
			t.Fatal(err)
		}
		time.Sleep(missedBeats*heartbeatWish + beatSlack + maxSilent + time.Second)
		synctest.Wait()
		if edge.Context().Err() == nil {
			t.Error("it goes on")
		}
		h.tunnels.wait()
	})
}

func TestAnIdleTLSTunnelHasNoHeartbeatDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _, edge := servedTunnel(t)
		beat(t, edge, 1, 0)
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if edge.Context().Err() != nil {
			t.Errorf("closed: %v", context.Cause(edge.Context()))
		}
		edge.CloseWithError(wire.CloseNormal, "")
		h.tunnels.wait()
	})
}

func TestHeartbeatsAreAnsweredAlwaysWithStreamsAndElseWhenTheyAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, x, edge := servedTunnel(t)
		send := func(hb wire.Heartbeat) {
			t.Helper()
			if err := edge.SendHeartbeat(hb.Append(nil)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		for seq := range uint32(20) {
			beat(t, edge, seq+1, heartbeatWish)
		}
		if n := answers(edge); n != 0 {
			t.Errorf("%d answers to 20 idle heartbeats", n)
		}
		send(wire.Heartbeat{Seq: 21, Interval: heartbeatWish, Flags: wire.HeartbeatAnswerWanted})
		if n := answers(edge); n != 1 {
			t.Errorf("%d answers to one that asked", n)
		}
		// The short form holds the tunnel as long as the last whole one told, and is not answered.
		for range 10 {
			time.Sleep(missedBeats * heartbeatWish)
			send(wire.Heartbeat{Again: true})
		}
		if n := answers(edge); n != 0 || edge.Context().Err() != nil {
			t.Errorf("%d answers to 10 short heartbeats; the tunnel: %v", n, context.Cause(edge.Context()))
		}
		beat(t, edge, 22, time.Second)
		if n := answers(edge); n != 1 {
			t.Errorf("%d answers to a new interval", n)
		}
		stream, err := h.openLocal(t.Context(), x)
		if err != nil {
			t.Fatal(err)
		}
		for seq := range uint32(5) {
			beat(t, edge, seq+31, time.Second)
		}
		if n := answers(edge); n != 5 {
			t.Errorf("%d answers to 5 heartbeats with a stream", n)
		}
		stream.Close()
		edge.CloseWithError(wire.CloseNormal, "")
		h.tunnels.wait()
	})
}

func TestAnEdgeThatDoesNotReadIsClosedAndHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, x, edge := servedTunnel(t)
		for i := range 1000 { // of which only the newest is kept
			h.send(x, wire.Locks{Revision: uint64(i)})
		}
		synctest.Wait()
		if edge.Context().Err() != nil {
			t.Fatalf("closed for messages of which only the newest counts: %v", context.Cause(edge.Context()))
		}
		for range 2 * maxQueued {
			h.send(x, wire.Kill{Reason: "x"})
		}
		synctest.Wait()
		if edge.Context().Err() == nil {
			t.Error("it goes on")
		}
		h.tunnels.wait()
	})
}

func TestGoAwaysAreSpreadAndReachEverybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _, first := servedTunnel(t)
		const n = 2000
		edges := []tunnel.Conn{first}
		for i := range n - 1 {
			_, edge := addTunnel(t, h, fleetUUID(i))
			edges = append(edges, edge)
		}
		perSecond := make([]int, 60)
		start := time.Now()
		got := make(chan int, n)
		for _, edge := range edges {
			go func() {
				m, err := tunnel.Receive(t.Context(), edge)
				if g, ok := m.(*wire.GoAway); err != nil || !ok || g.Code != wire.CloseDrain || g.Deadline <= 0 {
					got <- -1
					return
				}
				got <- int(time.Since(start) / time.Second)
			}()
		}
		h.tellGoAway(t.Context(), 15*time.Second, start.Add(24*time.Second))
		for range n {
			at := <-got
			if at < 0 {
				t.Fatal("no GOAWAY came")
			}
			perSecond[at]++
		}
		for i, c := range perSecond {
			if c > 2*n/15 {
				t.Errorf("%d in second %d", c, i)
			}
		}
		for _, edge := range edges {
			edge.CloseWithError(wire.CloseNormal, "")
		}
		h.tunnels.wait()
	})
}

func TestTheOnlyHubDrainsAtOnceAndSaysWhy(t *testing.T) {
	a, h, key := newCluster(t)
	e := a.edge(t, key, testUUID, time.Hour)
	for i, carrier := range []tunnel.Carrier{tunnel.CarrierTLS, tunnel.CarrierQUIC} {
		c, ch := e.dial(t, h, carrier)
		e.register(t, c, ch, testUUID, uint64(i+1))
		receive[*wire.Ack](t, c)
		if i == 0 {
			continue
		}
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) { // until the displaced tunnel is gone
			st, err := ReadStatus(h.config.Data)
			if err == nil && st.Live != nil && st.Live.Tunnels.Active == 1 && st.Live.Tunnels.QUIC == 1 && st.Live.Drain == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("status %+v, %v", st.Live, err)
			}
		}
		start := time.Now()
		drained := make(chan error, 1)
		go func() { drained <- DrainRunning(t.Context(), h.config.Data) }()
		select {
		case err := <-drained:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("it did not end")
		}
		if took := time.Since(start); took > 8*time.Second {
			t.Errorf("it took %v", took)
		}
		<-c.Context().Done()
		if e, ok := errors.AsType[*wire.CloseError](context.Cause(c.Context())); !ok || e.Code != wire.CloseDrain {
			t.Errorf("closed by %v", context.Cause(c.Context()))
		}
	}
}

func TestTheStatelessResetKeyStays(t *testing.T) {
	dir := t.TempDir()
	var keys []string
	for range 2 {
		d := openDir(t, dir)
		k, err := statelessResetKey(d)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, fmt.Sprintf("%x", *k))
		_ = d.Close()
	}
	if keys[0] != keys[1] || keys[0] == fmt.Sprintf("%x", [32]byte{}) {
		t.Errorf("%v", keys)
	}
}
