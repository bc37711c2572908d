package hub

import (
	"testing"
	"testing/synctest"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// countedTCP is a TCP connection whose segments are the test's to count.
type countedTCP struct {
	tunnel.Conn
	segments uint32
	own      time.Duration // the hub's keepalive
	probed   int           // how often it was made to probe at once
}

func (c *countedTCP) Heard() (uint32, bool) { return c.segments, c.segments > 0 }

func (c *countedTCP) SetKeepAlive(d time.Duration) error {
	if c.own = d; d == time.Second {
		c.probed++
	}
	return nil
}

func TestAnIdleTLSTunnelIsHeardByItsEdgesProbes(t *testing.T) {
	const probes = 590 * time.Second
	start := time.Now()
	c := &countedTCP{segments: 7}
	var w keepAliveWatch
	wait := w.start(c, probes)
	if wait <= 0 || wait > probes || c.own != watchedKeepAlive {
		t.Fatalf("listens after %s, the hub probes each %s", wait, c.own)
	}
	// A day with an edge whose kernel is as late as kernels are.
	now, next, calls := start, start.Add(probes), 0
	for now = start.Add(wait); now.Before(start.Add(24 * time.Hour)); now = now.Add(wait) {
		for !next.After(now) {
			c.segments++
			next = next.Add(probes + probes/20)
		}
		calls++
		if wait = w.listen(now); wait <= 0 {
			t.Fatalf("listens no more after %s", now.Sub(start))
		}
	}
	if c.probed != 0 || calls > 24*3600/30 {
		t.Errorf("the hub probed %d times; %d looks", c.probed, calls)
	}
	// Then it is gone: the kernel is asked in time, and decides by itself.
	gone := w.at
	for c.probed == 0 && now.Before(gone.Add(time.Hour)) {
		now = now.Add(w.listen(now))
	}
	if late := now.Sub(gone); c.probed != 1 || late > probes*9/8+repeatedProbes+2*heardGrain {
		t.Errorf("probed %d times, %s after the last word", c.probed, late)
	}
	for range 30 {
		now = now.Add(w.listen(now))
	}
	if c.probed != 1 || c.own != time.Second {
		t.Errorf("probed %d times while the kernel waits for its answers", c.probed)
	}
}

// Behind a proxy that ends TCP the edge's probes never come: silence is no proof, so the hub's kernel asks, and goes on by itself.
func TestProbesThatAProxyAnswersAreNotMissed(t *testing.T) {
	c := &countedTCP{segments: 7}
	var w keepAliveWatch
	now := time.Now()
	wait := w.start(c, 270*time.Second)
	for range 1000 {
		now = now.Add(wait)
		if c.own == time.Second {
			c.segments++ // the proxy answers
		}
		if wait = w.listen(now); wait == 0 {
			break
		}
	}
	if wait != 0 || c.probed != maxAlarms || c.own != activeKeepAlive {
		t.Errorf("listens again after %s; probed %d times; the hub's own is %s", wait, c.probed, c.own)
	}
}

func TestWhoCannotBeHeardIsProbedByTheHub(t *testing.T) {
	for _, tt := range []struct {
		segments uint32
		probes   time.Duration
	}{{0, 590 * time.Second}, {7, 0}, {7, time.Second}} {
		c := &countedTCP{segments: tt.segments}
		var w keepAliveWatch
		if wait := w.start(c, tt.probes); wait != 0 || c.own != 0 {
			t.Errorf("%+v: listens after %s, keepalive set to %s", tt, wait, c.own)
		}
		if wait := w.listen(time.Now()); wait != 0 {
			t.Errorf("%+v: listens", tt)
		}
	}
	c := &countedTCP{segments: 7}
	var w keepAliveWatch
	w.start(c, 590*time.Second)
	if wait := w.start(c, 0); wait != 0 || c.own != activeKeepAlive {
		t.Errorf("an edge that tells no more: listens after %s, keepalive %s", wait, c.own)
	}
}

// From the heartbeat to the looks, and to their end with the tunnel.
func TestTheLastHeartbeatStartsTheListening(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, x, edge := servedTunnel(t)
		s := h.tunnels.of(x.Conn)
		c := &countedTCP{Conn: x.Conn, segments: 7}
		s.t.Conn = c
		if err := edge.SendHeartbeat(wire.Heartbeat{Seq: 1, Interval: 270 * time.Second, Flags: wire.HeartbeatKeepAlive}.Append(nil)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		time.Sleep(30 * time.Minute) // no probe comes, and this conn has no kernel that would end it
		synctest.Wait()
		if c.probed != 1 || edge.Context().Err() != nil {
			t.Errorf("the hub probed %d times; the tunnel: %v", c.probed, edge.Context().Err())
		}
		edge.CloseWithError(wire.CloseNormal, "")
		h.tunnels.wait()
	})
}
