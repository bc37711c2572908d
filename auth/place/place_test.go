package place

import (
	"errors"
	"net/netip"
	"testing"
	"time"
)

var began = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

func id(n byte) [16]byte { return [16]byte{15: n} }

func runOf(hub string, n byte) Run { return Run{Hub: hub, Incarnation: id(n)} }

func connection(n byte, user, client string, inner bool) Place {
	return Place{ID: id(n), Kind: Connection, User: user, Client: netip.MustParseAddrPort(client), Run: runOf("a", 1), Inner: inner}
}

func session(n byte, user, device string) Place {
	return Place{ID: id(n), Kind: Session, User: user, Device: device, Client: netip.MustParseAddrPort("192.0.2.1:1000"), Run: runOf("a", 1)}
}

func take(t *testing.T, x *Table, p Place, l Limits) *Full {
	t.Helper()
	_, err := x.Take(p, l, began)
	full, ok := errors.AsType[*Full](err)
	if err != nil && !ok {
		t.Fatalf("take %v: %v", p, err)
	}
	return full
}

// -J is a connection to the hub and one end to end in it: one person, one connection. A second one in the same is one more.
func TestAConnectionEndToEndAndTheOneThatCarriesItAreOne(t *testing.T) {
	x, l := NewTable("e"), Limits{Connections: 2}
	const from = "192.0.2.1:1000"
	steps := []struct {
		what string
		p    Place
		want int
		full bool
	}{
		{"the first", connection(1, "ann", from, false), 1, false},
		{"the one end to end in it", connection(2, "ann", from, true), 1, false},
		{"a second in it", connection(3, "ann", from, true), 2, false},
		{"a third in it", connection(4, "ann", from, true), 2, true},
		{"another to the hub", connection(5, "ann", "192.0.2.1:1001", false), 2, true},
		{"somebody else's", connection(6, "bob", "192.0.2.1:1001", false), 2, false},
	}
	for _, s := range steps {
		if full := take(t, x, s.p, l); (full != nil) != s.full {
			t.Errorf("%s: %v", s.what, full)
		}
		if got, _ := x.Used("ann"); got != s.want {
			t.Errorf("%s: %d are held, want %d", s.what, got, s.want)
		}
	}
	// The hub's may be told gone before the device's.
	x.Release(Returned{Run: Run{Hub: "a"}, ID: id(1)}, began)
	if got, _ := x.Used("ann"); got != 2 {
		t.Errorf("the carrier went: %d are held, want 2", got)
	}
	x.Release(Returned{Run: Run{Hub: "a"}, ID: id(2)}, began)
	x.Release(Returned{Run: Run{Hub: "a"}, ID: id(3)}, began)
	if got, _ := x.Used("ann"); got != 0 || len(x.groups) != 1 {
		t.Errorf("all went: %d are held, %d groups", got, len(x.groups))
	}
}

func TestEveryCapIsHeldAndNamed(t *testing.T) {
	for _, c := range []struct {
		name string
		l    Limits
		have []Place
		next Place
		want string
	}{
		{"user's connections", Limits{Connections: 1}, []Place{connection(1, "ann", "192.0.2.1:1", false)}, connection(2, "ann", "192.0.2.2:1", false), "max_connections"},
		{"user's sessions", Limits{Sessions: 1}, []Place{session(1, "ann", "x")}, session(2, "ann", "y"), "max_sessions"},
		{"address", Limits{PerSource: 1}, []Place{connection(1, "ann", "192.0.2.1:1", false)}, connection(2, "bob", "[::ffff:192.0.2.1]:2", false), "caps.per_source"},
		{"/64", Limits{PerSource: 1}, []Place{connection(1, "ann", "[2001:db8::1]:1", false)}, connection(2, "bob", "[2001:db8::2]:1", false), "caps.per_source"},
		{"device", Limits{PerDevice: 1}, []Place{session(1, "ann", "x")}, session(2, "bob", "x"), "caps.per_device"},
		{"hub", Limits{PerHub: 1}, []Place{connection(1, "ann", "192.0.2.1:1", false)}, connection(2, "bob", "192.0.2.2:1", false), "caps.per_hub"},
		{"device, the last kept", Limits{PerDevice: 2, Kept: true}, []Place{session(1, "ann", "x")}, session(2, "bob", "x"), "caps.per_device"},
		{"device, the last kept, for a reserved role", Limits{PerDevice: 2, Kept: true, Reserved: true}, []Place{session(1, "ann", "x")}, session(2, "bob", "x"), ""},
		{"device of one place: none is kept", Limits{PerDevice: 1, Kept: true}, nil, session(2, "bob", "x"), ""},
		{"another device", Limits{PerDevice: 1}, []Place{session(1, "ann", "x")}, session(2, "bob", "y"), ""},
		{"another address", Limits{PerSource: 1}, []Place{connection(1, "ann", "[2001:db8::1]:1", false)}, connection(2, "bob", "[2001:db8:0:1::1]:1", false), ""},
	} {
		x := NewTable("e")
		for _, p := range c.have {
			if full := take(t, x, p, Limits{}); full != nil {
				t.Fatal(full)
			}
		}
		full := take(t, x, c.next, c.l)
		if got := ""; full != nil {
			got = full.Cap
			if got != c.want || full.Held != 1 {
				t.Errorf("%s: %v", c.name, full)
			}
		} else if got != c.want {
			t.Errorf("%s: it was let in", c.name)
		}
	}
}

func TestWhoAsksAgainTakesNoSecondPlaceAndWhoComesLateGetsNone(t *testing.T) {
	x, l, p := NewTable("e"), Limits{Sessions: 1}, session(1, "ann", "x")
	for range 2 {
		if err := take(t, x, p, l); err != nil {
			t.Errorf("asked again, it was refused: %v", err)
		}
	}
	other := p
	other.User = "bob"
	if _, err := x.Take(other, Limits{}, began); !errors.Is(err, ErrTaken) {
		t.Errorf("another's claim to the id: %v", err)
	}
	if e, stale := x.Release(Returned{Run: Run{Hub: "b"}, ID: p.ID}, began); e != nil || !stale {
		t.Error("another hub gave it back")
	}
	x.Release(Returned{Run: Run{Hub: "a"}, ID: p.ID}, began)
	if _, err := x.Take(p, l, began); !errors.Is(err, ErrOver) {
		t.Errorf("asked for after it was given back: %v", err)
	}
	if x.Adopt(p, began) != nil {
		t.Error("a late report brought it back")
	}
}

// What no renewal names is free with the second answer after it was taken: the first may have been on its way already.
func TestALostReleaseIsFoundByTheSecondRenewal(t *testing.T) {
	x := NewTable("e")
	at := runOf("a", 1)
	renew := func(m Renewal) int {
		freed, _, err := x.Renew(at, m, began)
		if err != nil {
			t.Fatal(err)
		}
		return len(freed)
	}
	renew(Renewal{Seq: 1})
	take(t, x, session(1, "ann", "x"), Limits{})
	if n := renew(Renewal{Seq: 2, Answered: 1, Epoch: "e"}); n != 0 {
		t.Error("freed by a list that may have been made before it was asked for")
	}
	if n := renew(Renewal{Seq: 3, Answered: 2, Epoch: "of another run of auth"}); n != 0 {
		t.Error("freed by an answer of another run of auth")
	}
	if n := renew(Renewal{Seq: 4, Answered: 3, Epoch: "e", Pending: [][16]byte{id(1)}}); n != 0 {
		t.Error("freed though it is pending")
	}
	if n := renew(Renewal{Seq: 5, Answered: 4, Epoch: "e"}); n != 1 {
		t.Error("not freed")
	}
	if _, unknown, _ := x.Renew(at, Renewal{Seq: 6, Answered: 5, Epoch: "e", Held: [][16]byte{id(9)}}, began); !unknown {
		t.Error("what the hub holds and auth does not know is not asked for")
	}
}

func TestANewRunOfAHubEndsTheOneBeforeAndIsNotEndedByIt(t *testing.T) {
	x := NewTable("e")
	if _, _, err := x.Renew(runOf("a", 1), Renewal{Seq: 1}, began); err != nil {
		t.Fatal(err)
	}
	take(t, x, session(1, "ann", "x"), Limits{})
	freed, _, err := x.Renew(runOf("a", 2), Renewal{Seq: 1}, began)
	if err != nil || len(freed) != 1 {
		t.Errorf("the new run freed %d places, %v", len(freed), err)
	}
	if _, _, err := x.Renew(runOf("a", 1), Renewal{Seq: 2}, began); !errors.Is(err, ErrOver) {
		t.Errorf("the run before renews: %v", err)
	}
	if _, err := x.Take(session(2, "ann", "x"), Limits{}, began); !errors.Is(err, ErrOver) {
		t.Errorf("the run before takes a place: %v", err)
	}
}

func TestALeaseNotRenewedEndsAndAnExactHubIsDoneBefore(t *testing.T) {
	x, h := NewTable("e"), NewHolder()
	if err := h.Granted(id(1), true, true, began); !errors.Is(err, ErrLapsed) {
		t.Errorf("an exact place without a lease: %v", err)
	}
	h.Ask(id(1))
	m := h.Renewal()
	if len(m.Pending) != 1 || m.Seq != 1 {
		t.Errorf("got %+v", m)
	}
	if _, _, err := x.Renew(runOf("a", 1), m, began.Add(time.Second)); err != nil { // it was a second on its way
		t.Fatal(err)
	}
	take(t, x, session(1, "ann", "x"), Limits{Sessions: 1})
	h.Renewed(m, "e", TTL, nil, nil, began)
	if err := h.Granted(id(1), true, true, began); err != nil {
		t.Fatal(err)
	}
	if ids, next := h.Lapsed(began.Add(TTL - Margin - 1)); len(ids) != 0 || !next.Equal(began.Add(TTL-Margin)) {
		t.Errorf("lapsed too early: %v, %v", ids, next)
	}
	if ids, _ := h.Lapsed(began.Add(TTL - Margin)); len(ids) != 1 {
		t.Error("not lapsed")
	}
	up := func(string) bool { return true }
	if lost := x.Lapse(began.Add(time.Second+TTL), up); len(lost) != 0 {
		t.Error("auth ended the lease before its time")
	}
	if lost := x.Lapse(began.Add(time.Second+TTL+1), up); len(lost[runOf("a", 1)]) != 1 {
		t.Error("auth keeps a lease that was not renewed")
	}
	if attempt, counted := h.Gone(id(1)); !counted || attempt != 1 {
		t.Error("the place was not counted")
	}
}

// A person waits for a device, auth does not answer once, and the hub asks again with the same id. The Release of the first attempt came first, and
// the second was refused; or it came late, and freed the place of a live session under the feet of its cap.
func TestAReleaseOfALostAnswerTakesNothingThatWasAskedForAgain(t *testing.T) {
	x, l := NewTable("e"), Limits{Sessions: 1}
	at := runOf("a", 1)
	if _, _, err := x.Renew(at, Renewal{Seq: 1}, began); err != nil {
		t.Fatal(err)
	}
	again := func(p Place, attempt uint64) Place {
		p.Attempt = attempt
		return p
	}
	// The Release overtakes: of the first attempt, which comes late, nothing is held; the second gets the place.
	p := session(1, "ann", "x")
	x.Release(Returned{at, p.ID, 1}, began)
	if _, err := x.Take(again(p, 1), l, began); !errors.Is(err, ErrOver) {
		t.Errorf("an attempt that was given back: %v", err)
	}
	if full := take(t, x, again(p, 2), l); full != nil {
		t.Fatal(full)
	}
	// It is late: what the later attempt took stays, and whoever is next is refused.
	if e, stale := x.Release(Returned{at, p.ID, 1}, began); e != nil || !stale {
		t.Errorf("a late Release of the first attempt freed the second's place")
	}
	if _, err := x.Take(again(p, 1), l, began); err != nil { // late as well: it is there
		t.Error(err)
	}
	if _, stale := x.Release(Returned{at, p.ID, 1}, began); !stale {
		t.Error("an attempt that came late took the place over")
	}
	if full := take(t, x, again(session(2, "ann", "x"), 3), l); full == nil {
		t.Error("another was admitted over the cap")
	}
	// A renewal that was made before it was asked for again does not name it.
	for seq := range uint64(2) {
		if freed, _, err := x.Renew(at, Renewal{Seq: 2 + seq, Answered: 1 + seq, Epoch: "e", Held: [][16]byte{p.ID}}, began); err != nil || len(freed) != 0 {
			t.Fatal(freed, err)
		}
	}
	take(t, x, again(p, 4), l)
	if freed, _, _ := x.Renew(at, Renewal{Seq: 4, Answered: 3, Epoch: "e"}, began); len(freed) != 0 {
		t.Error("a renewal from before freed what was asked for again")
	}
	if e, _ := x.Release(Returned{at, p.ID, 4}, began); e == nil {
		t.Error("its own Release frees nothing")
	}
}

// A direct place that was bound anew at the same hub, or at another, while the hub's Release for the lost device was under way.
func TestALateReleaseLeavesADirectPlaceThatWasBoundAnew(t *testing.T) {
	for _, to := range []Run{runOf("a", 1), runOf("b", 1)} {
		x, l, p := NewTable("e"), Limits{Sessions: 1}, session(1, "ann", "x")
		p.Direct, p.Attempt = true, 1
		take(t, x, p, l)
		if to.Hub == "a" {
			x.Release(Returned{p.Run, p.ID, 1}, began)
		}
		bound := p
		bound.Run, bound.Attempt = to, 2
		if full := take(t, x, bound, l); full != nil {
			t.Fatal(full)
		}
		if e, stale := x.Release(Returned{p.Run, p.ID, 1}, began); e != nil || !stale || x.Get(p.ID) == nil {
			t.Errorf("bound to %s, it was freed", to.Hub)
		}
	}
}

// A hub that says another incarnation with each Admit was remembered for each.
func TestRunsThatNeverRenewAreForgotten(t *testing.T) {
	x := NewTable("e")
	for n := range byte(100) {
		p := session(n, "ann", "x")
		p.Run = runOf("a", n+1)
		if _, err := x.Take(p, Limits{}, began); (err != nil) != (n >= maxRuns) {
			t.Fatalf("run %d: %v", n, err)
		}
	}
	x.Lapse(began.Add(TTL+1), func(string) bool { return false })
	if len(x.runs) != 0 || len(x.entries) != 0 {
		t.Errorf("%d runs and %d places are left", len(x.runs), len(x.entries))
	}
}

// FuzzTable holds the counts against what is held, whatever comes.
func FuzzTable(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		x := NewTable("e")
		for i := 0; i+2 < len(b); i += 3 {
			n, who := b[i+1]%16, []string{"ann", "bob"}[b[i+2]%2]
			at := runOf([]string{"a", "b"}[b[i+2]>>1%2], b[i+2]>>2%3)
			switch b[i] % 6 {
			case 0:
				p := connection(n, who, "192.0.2.1:1", b[i]&64 != 0)
				p.Run, p.Attempt = at, uint64(b[i]>>4)
				_, _ = x.Take(p, Limits{Connections: 3}, began)
			case 1:
				p := session(n, who, "x")
				p.Run, p.Direct, p.Attempt = at, b[i]&64 != 0, uint64(b[i]>>4)
				_, _ = x.Take(p, Limits{Sessions: 3}, began)
			case 2:
				x.Release(Returned{at, id(n), uint64(b[i] >> 4)}, began)
			case 3:
				_, _, _ = x.Renew(at, Renewal{Seq: uint64(n), Answered: uint64(n) - 1, Epoch: "e", Held: [][16]byte{id(n)}}, began)
			case 4:
				x.Lapse(began.Add(TTL*time.Duration(n)), func(string) bool { return false })
			case 5:
				x.Adopt(session(n, who, "x"), began)
			}
		}
		sessions, groups := map[string]int{}, map[group]inGroup{}
		x.All(func(e *Entry) {
			if e.Kind == Session {
				sessions[e.User]++
				return
			}
			g := groups[groupOf(e.Place)]
			if e.Inner {
				g.inner++
			} else {
				g.outer++
			}
			groups[groupOf(e.Place)] = g
		})
		connections := map[string]int{}
		for k, g := range groups {
			connections[k.user] += g.count()
		}
		for _, who := range []string{"ann", "bob"} {
			if c, s := x.Used(who); c != connections[who] || s != sessions[who] {
				t.Fatalf("%s: counted %d and %d, held %d and %d", who, c, s, connections[who], sessions[who])
			}
		}
	})
}
