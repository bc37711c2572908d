package share

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hawser/tunnel/wire"
)

func TestWhoIsPutOutStaysOutUntilHeIsLetIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := new(host)
		r := New(h, 20, 2)
		p := join(t, r, "bob", Peer, 20, 3)
		r.Heed(wire.Tell{What: wire.TellOut, User: "bob", Text: "put out by ann"})
		var closed *ClosedError
		if err := <-p.left; !errors.As(err, &closed) || closed.Reason != "put out by ann" {
			t.Errorf("put out: %v", err)
		}
		synctest.Wait()
		if !slices.Contains(h.typed, "1:bob peer put-out") {
			t.Errorf("the session was told %q", h.typed)
		}
		if err := <-join(t, r, "bob", Observer, 20, 3).left; !errors.Is(err, ErrBarred) {
			t.Errorf("again: %v", err)
		}
		r.Heed(wire.Tell{What: wire.TellLetIn, User: "bob"})
		join(t, r, "bob", Observer, 20, 3)
		if m := r.Members(); len(m) != 1 || m[0].User != "bob" {
			t.Errorf("let in: %v", m)
		}
		for i := range 2 * maxBarred {
			r.PutOut(fmt.Sprint(i), "x")
		}
		if len(r.barred) != maxBarred {
			t.Errorf("%d are remembered", len(r.barred))
		}
	})
}

func TestAWordIsShownToAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := new(host)
		r := New(h, 40, 2)
		p := join(t, r, "bob", Observer, 60, 5)
		time.Sleep(greetTime)
		r.Heed(wire.Tell{What: wire.TellAll, Text: "ann: look at this"})
		if got := p.sees(); !strings.Contains(got, "ann: look at this") {
			t.Errorf("the guest sees\n%s", got)
		}
		if !slices.Contains(h.said, "ann: look at this") {
			t.Errorf("the owner was told %q", h.said)
		}
		r.Heed(wire.Tell{What: 77, Text: "from a later version"})
		if slices.Contains(h.said, "from a later version") {
			t.Error("what is not known meant something")
		}
	})
}
