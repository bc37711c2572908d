package share

import (
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhoIsNotReachedDoesNotCountUntilHeIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := new(host)
		r := New(h, 20, 2)
		r.Require(Rules{Owner: "ann", Needs: []Need{moderators(1, "lead", false)}})
		var there atomic.Bool
		there.Store(true)
		looked := 0
		comesBy(t, r, Guest{User: "bob", Roles: []string{"lead"}, Mode: Moderator, There: func() bool { looked++; return there.Load() }})
		if !begun(r) || stopped(r) {
			t.Fatal("does not go on")
		}
		there.Store(false) // his stream moves to another tunnel
		time.Sleep(reachGrace - reachPace)
		there.Store(true)
		time.Sleep(2 * reachGrace)
		if stopped(r) {
			t.Fatal("stopped while his stream moved")
		}
		there.Store(false)
		time.Sleep(reachGrace + 2*reachPace)
		synctest.Wait()
		if !stopped(r) || !slices.Contains(h.marked, "bob cannot be reached, and counts as gone") {
			t.Fatalf("goes on unseen; recorded: %q", h.marked)
		}
		there.Store(true)
		time.Sleep(2 * reachPace)
		synctest.Wait()
		if stopped(r) || !slices.Contains(h.marked, "bob is reached again") {
			t.Errorf("still stopped; recorded: %q", h.marked)
		}
		r.PutOut("bob", "enough")
		synctest.Wait()
		was := looked
		time.Sleep(time.Minute)
		if looked != was {
			t.Error("looked for one who is gone")
		}
	})
}

func TestNobodyLooksWhetherHeIsReachedWhoDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(new(host), 20, 2)
		r.Require(Rules{Owner: "ann", Needs: []Need{moderators(1, "lead", false)}})
		for _, g := range []Guest{{User: "bob", Mode: Moderator}, {User: "ann", Roles: []string{"lead"}, Mode: Moderator}} {
			g.There = func() bool { t.Error("looked for " + g.User); return true }
			comesBy(t, r, g)
		}
		time.Sleep(time.Minute)
	})
}
