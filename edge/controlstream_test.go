package edge

import (
	"context"
	"errors"
	"testing"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// filled fills what the control stream of a hub takes unread, whose tunnel is gone, and returns it with how many messages that took.
func filled(t *testing.T, a *Agent, h *testHub) (cs *controlStream, n int) {
	t.Helper()
	from := entry{h.uuid, h.incarnation}
	eventually(t, "the control stream to be there, and detached", func() bool {
		cs = a.controls.get(from)
		return cs != nil && !cs.st.Attached()
	})
	for cs.send(wire.Denial{Name: "x", Login: "y", Reason: "policy"}) == nil {
		n++
	}
	return cs, n
}

// Of a session that ended while its hub took nothing the place stayed taken until the hub's control stream ended: nobody told it again.
func TestAPlaceIsGivenBackWhenTheHubTakesMessagesAgain(t *testing.T) {
	h := newTestHub(t)
	h.detachedLife = time.Minute
	a, stop := h.start(Config{Token: h.token("edge"), Name: "gw-1"})
	c := h.next()
	s := c.open(wire.KindControl, wire.OpenRequest{}, func(a *wire.Attach) { a.Open = nil })
	if code, err := attached(t, s); err != nil {
		t.Fatal(code, err)
	}
	c = c.cut()
	cs, before := filled(t, a, h)
	host := &host{a: a, from: entry{h.uuid, h.incarnation}}
	for i := range maxOwed {
		host.Release([16]byte{1, byte(i), byte(i >> 8)}, 7, "exited")
	}
	if err := cs.release(wire.Release{SessionID: [16]byte{2}}); !errors.Is(err, errControlFull) {
		t.Errorf("one more than is kept: %v", err)
	}
	if err := cs.send(wire.PlaceRequest{}); !errors.Is(err, errControlFull) {
		t.Errorf("a question before them: %v", err)
	}
	if err := c.resume(s); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	defer context.AfterFunc(ctx, func() { s.End(ctx.Err()) })()
	for i := range before + maxOwed {
		m, err := tunnel.ReceiveFrom(s)
		if err != nil {
			t.Fatalf("after %d of %d messages: %v", i, before+maxOwed, err)
		}
		if i < before {
			continue
		}
		i -= before
		if r, ok := m.(*wire.Release); !ok || r.SessionID != [16]byte{1, byte(i), byte(i >> 8)} || r.ExitStatus != 7 || r.Reason != "exited" {
			t.Fatalf("instead of release %d came %+v", i, m)
		}
	}
	eventually(t, "the stream to take messages again", func() bool { return cs.send(wire.PlaceRequest{}) == nil })
	// What is still owed at the end holds nothing up.
	c.cut()
	cs, _ = filled(t, a, h)
	if err := cs.release(wire.Release{SessionID: [16]byte{3}}); err != nil {
		t.Error(err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
