package share

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhatIsTypedBeforeTheBeginningOrInAPauseIsNotTakenHoweverLateItComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate()
		takes := func(when string, turn uint64, want bool) {
			t.Helper()
			if g.Takes(turn) != want {
				t.Errorf("%s: taken %v", when, !want)
			}
		}
		begin := func() error { return g.Begin(t.Context(), func() {}) }
		takes("nothing was ever in the way", g.Turn(), true)
		before := g.Turn()
		g.Gather()
		waiting := g.Turn()
		if err := begin(); err != nil {
			t.Fatal(err)
		}
		takes("just after the beginning", g.Turn(), false)
		time.Sleep(resumeWait)
		takes("typed after the beginning", g.Turn(), true)
		takes("typed before people were waited for", before, false)
		takes("typed while they were", waiting, false)

		typed := g.Turn()
		g.Pause(true, nil)
		takes("in a pause", g.Turn(), false)
		paused := g.Turn()
		g.Pause(false, nil)
		takes("just after a pause", g.Turn(), false)
		time.Sleep(resumeWait)
		takes("typed after the pause", g.Turn(), true)
		takes("typed in it, read late", paused, false)
		takes("typed before it, read late", typed, false)
		g.CaughtUp(typed) // its reader was held up until now: what came meanwhile is behind it
		takes("behind what was held up", g.Turn(), false)
		time.Sleep(resumeWait)
		g.CaughtUp(g.Turn())
		takes("behind nothing", g.Turn(), true)
	})
}

func TestNothingBeginsInAPauseOrAfterItsEnd(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	g, begun := NewGate(), 0
	g.Pause(true, nil)
	if err := g.Begin(ctx, func() { begun++ }); err != ErrPaused || begun != 0 {
		t.Errorf("in a pause: %v, begun %d times", err, begun)
	}
	g.Pause(false, nil)
	over := errors.New("over")
	cancel(over)
	if err := g.Begin(ctx, func() { begun++ }); err != over || begun != 0 {
		t.Errorf("after its end: %v, begun %d times", err, begun)
	}
}

func TestTheEndLetsAllGoWhoWaitInAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate()
		g.Pause(true, nil)
		went := make(chan bool, 2)
		for range 2 {
			go func() { went <- g.GoesOn() }()
		}
		synctest.Wait()
		if len(went) != 0 {
			t.Fatal("a pause holds nobody")
		}
		g.End()
		if one, two := <-went, <-went; one || two || g.Paused() {
			t.Error("they were told that it goes on")
		}
		g.Pause(true, func() { t.Error("something was done with a session that is over") })
	})
}
