package share

import (
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hawser/recorder/term"
)

// moderators is a need of so many with a role.
func moderators(n int, role string, ends bool) Need {
	return Need{
		Count: n, Ends: ends, Words: func(n int) string { return strconv.Itoa(n) + " " + role },
		Counts: func(roles []string, m Mode) bool { return m == Moderator && slices.Contains(roles, role) },
	}
}

// comes is join with roles.
func comes(t *testing.T, r *Room, user string, m Mode, roles ...string) *person {
	t.Helper()
	return comesBy(t, r, Guest{User: user, Roles: roles, Mode: m})
}

// admitted is comes; the error is why there was no place.
func admitted(t *testing.T, r *Room, user string, m Mode, roles ...string) error {
	t.Helper()
	select {
	case err := <-comes(t, r, user, m, roles...).left:
		return err
	default:
		return nil
	}
}

// comesBy is comes with more of the guest.
func comesBy(t *testing.T, r *Room, g Guest) *person {
	t.Helper()
	in, w := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	p := &person{Screen: term.New(80, 5), in: w, left: make(chan error, 1), cancel: cancel}
	var wg sync.WaitGroup
	go func() {
		g.Cols, g.Rows, g.In, g.Go = 80, 5, in, wg.Go
		if g.Out == nil {
			g.Out = p
		}
		p.left <- r.Join(ctx, g)
		in.Close()
		wg.Wait()
	}()
	t.Cleanup(func() { cancel(); w.Close() })
	synctest.Wait()
	return p
}

func stopped(r *Room) bool {
	r.turn.Lock()
	defer r.turn.Unlock()
	return r.stopped
}

func begun(r *Room) bool {
	select {
	case <-r.Ready():
		return true
	default:
		return false
	}
}

func TestWhoHasASessionBeginByHisComingCanReadHisKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(new(host), 40, 2)
		r.Require(Rules{Owner: "ann", Needs: []Need{moderators(1, "lead", false)}})
		p := comesBy(t, r, Guest{User: "bob", Roles: []string{"lead"}, Mode: Moderator, Welcome: "p pauses"})
		shows := func(want string, not ...string) {
			t.Helper()
			got := p.sees()
			for _, n := range not {
				if strings.Contains(got, n) {
					t.Errorf("he sees %q:\n%s", n, got)
				}
			}
			if !strings.Contains(got, want) {
				t.Errorf("he does not see %q:\n%s", want, got)
			}
		}
		shows("p pauses")
		r.Note("the last of what came")
		time.Sleep(greetTime - 4*pace)
		shows("p pauses", "the last of what came")
		time.Sleep(4 * pace)
		shows("the last of what came", "p pauses")
		time.Sleep(noteTime - greetTime)
		r.Note("at once")
		shows("at once")
		time.Sleep(noteTime)
		shows("", "at once", "what came", "p pauses")
	})
}

// What runs from the beginning on could have a note shown in the place of the one that says what it is.
func TestNoOtherNoteTakesThePlaceOfTheOneThatSaysWhatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := new(host)
		r := New(h, 40, 2)
		r.Require(Rules{Owner: "ann", Needs: []Need{moderators(2, "lead", false)}, Begins: "reboot"})
		cyd := comesBy(t, r, Guest{User: "cyd", Roles: []string{"lead"}, Mode: Moderator, Welcome: "p pauses"})
		time.Sleep(greetTime)
		bob := comesBy(t, r, Guest{User: "bob", Roles: []string{"lead"}, Mode: Moderator, Welcome: "p pauses"})
		both := func(ofCyd, ofBob string) {
			t.Helper()
			for p, want := range map[*person]string{cyd: ofCyd, bob: ofBob} {
				if got := p.sees(); !strings.Contains(got, want) {
					t.Errorf("he does not see %q:\n%s", want, got)
				}
			}
		}
		for range 3 {
			r.Note("nothing to see")
		}
		both("begins: reboot", "p pauses")
		time.Sleep(greetTime)
		r.Note("nothing at all")
		both("begins: reboot", "begins: reboot")
		time.Sleep(noteTime - greetTime - 16*pace)
		r.Note("last")
		both("begins: reboot", "begins: reboot")
		time.Sleep(16 * pace)
		both("last", "begins: reboot")
		time.Sleep(greetTime)
		both("last", "last")
		time.Sleep(noteTime)
		if got := bob.sees() + cyd.sees(); strings.Contains(got, "last") || strings.Contains(got, "begins") {
			t.Errorf("at the end:\n%s", got)
		}
		if want := "everybody required is here: the session begins: reboot"; !slices.Contains(h.marked, want) || !slices.Contains(h.said, want) {
			t.Errorf("marked %q, said %q", h.marked, h.said)
		}
	})
}

func TestASessionBeginsWhenAllAreThereAndNotBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(new(host), 20, 2)
		var waits []string
		r.Require(Rules{Owner: "ann", Needs: []Need{moderators(2, "lead", true), moderators(1, "sec", false)}, Waits: func(m string) { waits = append(waits, m) }})
		if r.Waits() != "2 lead and 1 sec" {
			t.Errorf("waits for %q", r.Waits())
		}
		comes(t, r, "ann", Moderator, "lead", "sec") // who started it
		comes(t, r, "bob", Moderator, "lead")
		comes(t, r, "bob", Moderator, "lead") // the same man twice
		comes(t, r, "cyd", Observer, "lead")  // not as a moderator
		comes(t, r, "dan", Moderator, "else")
		if begun(r) || r.Waits() != "1 lead and 1 sec" {
			t.Fatalf("begun %v, waits for %q", begun(r), r.Waits())
		}
		comes(t, r, "eve", Moderator, "lead", "sec") // one person for two needs
		if !begun(r) || r.Waits() != "" {
			t.Errorf("not begun, waits for %q", r.Waits())
		}
		if want := []string{"1 lead and 1 sec"}; !slices.Equal(waits, want) {
			t.Errorf("told %q", waits)
		}
	})
}

func TestPlacesAreKeptForThoseWhoCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(new(host), 20, 2)
		r.Require(Rules{Owner: "ann", Needs: []Need{moderators(1, "lead", false)}})
		in := func(user string, m Mode, roles ...string) error { return admitted(t, r, user, m, roles...) }
		for i := range ownPlaces {
			if err := in("eve", Observer); err != nil {
				t.Fatalf("%d: %v", i, err)
			}
		}
		if err := in("eve", Observer); !errors.Is(err, ErrOften) {
			t.Errorf("the same user once more: %v", err)
		}
		for i := range MaxGuests - placesKept - ownPlaces {
			if err := in("u"+strconv.Itoa(i), Observer, "lead"); err != nil {
				t.Fatalf("%d: %v", i, err)
			}
		}
		if err := in("zoe", Observer, "lead"); !errors.Is(err, ErrFull) {
			t.Errorf("an observer in a place of those who count: %v", err)
		}
		if err := in("bob", Moderator, "lead"); err != nil || !begun(r) {
			t.Errorf("the moderator: %v, begun %v", err, begun(r))
		}
	})
}

// A moderator with four terminals had all the places that are kept, and the second who was required did not come in.
func TestOneWhoCountsDoesNotTakeThePlacesKeptForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(new(host), 20, 2)
		r.Require(Rules{Owner: "ann", Needs: []Need{moderators(5, "lead", false)}})
		in := func(user string, m Mode, roles ...string) error { return admitted(t, r, user, m, roles...) }
		for range ownPlaces {
			if err := in("mal", Moderator, "lead"); err != nil {
				t.Fatal(err)
			}
		}
		for i := range MaxGuests - 5 - (ownPlaces - 1) {
			if err := in("u"+strconv.Itoa(i), Observer); err != nil {
				t.Fatal(i, err)
			}
		}
		if err := in("zoe", Observer); !errors.Is(err, ErrFull) {
			t.Errorf("an observer in a place that is kept: %v", err)
		}
		for i := range 4 {
			if err := in("m"+strconv.Itoa(i), Moderator, "lead"); err != nil {
				t.Errorf("moderator %d: %v", i+2, err)
			}
		}
		if !begun(r) {
			t.Error("five are there, and it does not begin")
		}
	})
}

func TestASessionThatNeedsNobodyBeginsAtOnce(t *testing.T) {
	r := New(new(host), 20, 2)
	r.Require(Rules{Owner: "ann", Others: []Need{moderators(1, "lead", true)}})
	if !begun(r) || r.Meets("ann", []Need{moderators(1, "lead", true)}) {
		t.Error("not begun, or somebody is there")
	}
}

func TestWhenTooFewAreLeftTheSessionPausesOrEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := new(host)
		r := New(h, 20, 2)
		r.Require(Rules{Owner: "ann", Needs: []Need{moderators(1, "lead", false)}})
		for range 2 {
			p := comes(t, r, "bob", Moderator, "lead")
			if !begun(r) || stopped(r) {
				t.Fatal("does not go on")
			}
			p.cancel()
			<-p.left
			if !stopped(r) {
				t.Fatal("goes on alone")
			}
		}
		x := comes(t, r, "dan", Moderator, "else")
		_, _ = x.in.Write([]byte("r")) // who does not count does not resume either
		synctest.Wait()
		if !stopped(r) {
			t.Error("resumed by somebody")
		}
		if !slices.Equal(h.pause, []bool{true, false, true}) || h.ended != "" {
			t.Errorf("paused %v, ended %q", h.pause, h.ended)
		}
		if !slices.Contains(h.marked, "paused until there is 1 lead") || !slices.Contains(h.marked, "everybody required is here again") {
			t.Errorf("recorded: %q", h.marked)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		h := new(host)
		r := New(h, 20, 2)
		r.Require(Rules{Owner: "ann", Needs: []Need{moderators(1, "lead", true), moderators(1, "sec", false)}})
		a, b := comes(t, r, "bob", Moderator, "lead"), comes(t, r, "sue", Moderator, "sec")
		b.cancel()
		<-b.left
		if !stopped(r) || h.ended != "" {
			t.Fatalf("stopped %v, ended %q", stopped(r), h.ended)
		}
		r.PutOut("bob", "enough")
		if h.ended == "" {
			t.Error("goes on without the one who ends it")
		}
		<-a.left
	})
}

func TestAModeratorsPauseAndAQuorumsAreNotTakenForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := new(host)
		r := New(h, 20, 2)
		r.Require(Rules{Owner: "ann", Needs: []Need{moderators(2, "lead", false)}})
		a, b := comes(t, r, "bob", Moderator, "lead"), comes(t, r, "eve", Moderator, "lead")
		_, _ = a.in.Write([]byte("p"))
		b.cancel()
		<-b.left
		_, _ = a.in.Write([]byte("r"))
		time.Sleep(changePace)
		synctest.Wait()
		if !stopped(r) {
			t.Error("one resumed alone what takes two")
		}
		_, _ = a.in.Write([]byte("p"))
		comes(t, r, "eve", Moderator, "lead")
		if !stopped(r) {
			t.Error("who came undid a moderator's pause")
		}
		_, _ = a.in.Write([]byte("r"))
		time.Sleep(changePace)
		synctest.Wait()
		if stopped(r) || !slices.Equal(h.pause, []bool{true, false}) {
			t.Errorf("paused %v", h.pause)
		}
	})
}

func TestAModeratorWhoPressesNoKeyIsWarnedAndThenCountsAsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := new(host)
		r := New(h, 20, 2)
		r.Require(Rules{Owner: "ann", Needs: []Need{moderators(1, "lead", false)}, Presence: 30 * time.Second})
		p := comes(t, r, "bob", Moderator, "lead")
		o := comes(t, r, "cyd", Observer)
		time.Sleep(19 * time.Second)
		_, _ = p.in.Write([]byte(" "))
		time.Sleep(19 * time.Second)
		if got := p.sees(); strings.Contains(got, "are you there") {
			t.Errorf("warned early:\n%s", got)
		}
		time.Sleep(2 * time.Second)
		if got := p.sees(); !strings.Contains(got, "are you there? press a key within 10s") || stopped(r) {
			t.Errorf("not warned:\n%s", got)
		}
		if got := o.sees(); strings.Contains(got, "are you there") {
			t.Errorf("one who does not count is asked:\n%s", got)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if !stopped(r) || begun(r) != true {
			t.Fatal("an empty chair moderates")
		}
		if got := p.quiet(); !strings.Contains(got, "count as gone") {
			t.Errorf("he is not told:\n%s", got)
		}
		_, _ = p.in.Write([]byte(" "))
		synctest.Wait()
		if stopped(r) {
			t.Error("he is back, and does not count")
		}
		if got := p.quiet(); strings.Contains(got, "gone") {
			t.Errorf("still told:\n%s", got)
		}
		p.cancel()
		<-p.left
	})
}

func TestASessionThatMustBeSeenEndsWhenItsScreenCannotBeFollowed(t *testing.T) {
	for _, must := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			h := new(host)
			var changed atomic.Int32
			r := New(h, 20, 2)
			rules := Rules{Owner: "ann", Changed: func() { changed.Add(1) }}
			if must {
				rules.Needs = []Need{moderators(1, "lead", false)}
			}
			r.Require(rules)
			bob := comes(t, r, "bob", Moderator, "lead")
			r.mu.Lock()
			r.screen = new(term.Screen) // no terminal is ever so
			r.mu.Unlock()
			before := changed.Load()
			r.Output([]byte("x"))
			if must != strings.Contains(h.ended, unfollowed) || changed.Load() == before {
				t.Errorf("must be seen %v: ended %q, %d changes", must, h.ended, changed.Load()-before)
			}
			if err := <-bob.left; err == nil || err.Error() != unfollowed {
				t.Errorf("bob: %v", err)
			}
			if !strings.Contains(h.broken, "index out of range") || !strings.Contains(h.broken, "term.(*Screen)") {
				t.Errorf("for the log: %q", h.broken)
			}
		})
	}
}

// The last guest's leave draws the screen for whoever comes next. A panic there went through Join before anybody had looked who is missing, and the session went on
// unseen.
func TestASessionThatMustBeSeenEndsWhenTheLeaveOfItsModeratorPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := new(host)
		r := New(h, 20, 2)
		missed := 0
		r.Require(Rules{Owner: "ann", Needs: []Need{moderators(1, "lead", false)}, Changed: func() { missed++ }})
		bob := comes(t, r, "bob", Moderator, "lead")
		r.mu.Lock()
		r.screen = new(term.Screen) // no terminal is ever so
		r.mu.Unlock()
		missed = 0
		bob.cancel()
		if err := <-bob.left; !errors.Is(err, context.Canceled) {
			t.Errorf("bob: %v", err)
		}
		synctest.Wait()
		if missed == 0 || !strings.Contains(h.ended, unfollowed) || !strings.Contains(h.broken, "term.(*Screen).Redraw") || len(r.Members()) > 0 {
			t.Errorf("decided %d times, ended %q, for the log %q, in it %v", missed, h.ended, h.broken, r.Members())
		}
	})
}

// breaking is a guest's terminal that panics when it is to show a word.
type breaking struct{ word string }

func (b breaking) Write(p []byte) (int, error) {
	if strings.Contains(string(p), b.word) {
		panic("the terminal")
	}
	return len(p), nil
}

func TestAModeratorWhoseTerminalPanicsIsMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(new(host), 20, 2)
		r.Require(Rules{Owner: "ann", Needs: []Need{moderators(1, "lead", false)}})
		in, w := io.Pipe()
		var wg sync.WaitGroup
		wg.Go(func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic is not known to who called")
				}
				_ = in.Close()
			}()
			_ = r.Join(t.Context(), Guest{User: "bob", Roles: []string{"lead"}, Mode: Moderator, Cols: 20, Rows: 2, In: in, Out: breaking{"word"}, Go: wg.Go})
		})
		<-r.Ready()
		r.Output([]byte("word"))
		wg.Wait()
		_ = w.Close()
		if !stopped(r) || len(r.Members()) > 0 {
			t.Errorf("stopped %v, in it %v", stopped(r), r.Members())
		}
	})
}
