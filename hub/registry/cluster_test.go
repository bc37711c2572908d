package registry

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"hawser/tunnel/wire"
)

var (
	hubX = wire.UUID{0xA}
	hubY = wire.UUID{0xB}
)

func ann(i wire.Incarnation, slot uint8, counter uint64, at time.Time) *wire.Announce {
	return &wire.Announce{UUID: gw, Incarnation: i, Slot: slot, Counter: counter, Stamp: stampOf(at), Since: at, Carrier: 1}
}

func announce(t *testing.T, r *Registry, from wire.UUID, a *wire.Announce, want error, displaces ...*Tunnel) {
	t.Helper()
	got, err := r.Announce(from, a, start)
	if !errors.Is(err, want) || len(got) != len(displaces) {
		t.Fatalf("announce %v/%d/%d: displaced %v, error %v; want %v, %v", a.Incarnation, a.Slot, a.Counter, got, err, displaces, want)
	}
}

func wantHub(t *testing.T, r *Registry, hubs ...wire.UUID) {
	t.Helper()
	var got []wire.UUID
	for _, route := range r.Routes(gw) {
		got = append(got, route.Hub)
	}
	if fmt.Sprint(got) != fmt.Sprint(hubs) {
		t.Fatalf("routes at %v, want %v", got, hubs)
	}
}

func TestNewerCounterAtAnotherHubDisplacesOurs(t *testing.T) {
	var r Registry
	a := reg(run1, 0, 1)
	accept(t, &r, a)
	announce(t, &r, hubX, ann(run1, 1, 1, start), nil)
	wantHub(t, &r, wire.UUID{}, hubX)
	announce(t, &r, hubX, ann(run1, 0, 2, start), nil, a)
	wantHub(t, &r, hubX, hubX)
	if r.Lookup(gw) != nil || r.Remove(a) {
		t.Error("the displaced tunnel is still there")
	}
	refuse(t, &r, reg(run1, 0, 2), ErrStale)
	accept(t, &r, reg(run1, 0, 3))
	wantHub(t, &r, wire.UUID{}, hubX)
}

func TestAnAnnouncementNotAboveIsRefusedWhateverItsStamp(t *testing.T) {
	var r Registry
	accept(t, &r, reg(run1, 0, 5))
	late := start.Add(time.Second)
	announce(t, &r, hubX, ann(run1, 0, 5, late), ErrStale)
	announce(t, &r, hubX, ann(run1, 0, 6, start), nil, r.Lookup(gw))
	accept(t, &r, reg(run2, 0, 1))
	announce(t, &r, hubX, ann(run1, 0, 6, late), ErrFenced) // what it said before, with a stamp that would win
	announce(t, &r, hubX, ann(run1, 0, 5, late), ErrReplay)
	wantHub(t, &r, wire.UUID{})
	announce(t, &r, hubX, ann(wire.Incarnation{3}, 0, 6, start.Add(maxAhead+time.Millisecond)), ErrFuture)
	announce(t, &r, hubX, &wire.Announce{UUID: gw, Incarnation: wire.Incarnation{4}, Counter: 1}, ErrFuture)
}

func TestHighestCountersAreRememberedAcrossWithdraw(t *testing.T) {
	var r Registry
	announce(t, &r, hubX, ann(run1, 0, 5, start), nil)
	r.Withdraw(hubY, &wire.Withdraw{UUID: gw, Incarnation: run1, Counter: 5}) // not its own
	r.Withdraw(hubX, &wire.Withdraw{UUID: gw, Incarnation: run1, Counter: 4}) // an earlier one, late
	wantHub(t, &r, hubX)
	r.Withdraw(hubX, &wire.Withdraw{UUID: gw, Incarnation: run1, Counter: 1 << 60}) // said of what came and went unannounced; raises nothing
	wantHub(t, &r)
	announce(t, &r, hubX, ann(run1, 0, 5, start), ErrReplay)
	announce(t, &r, hubY, ann(run1, 0, 5, start), ErrStale)
	announce(t, &r, hubY, ann(run1, 0, 6, start), nil)
}

func TestTheLastEightIncarnationsAreRemembered(t *testing.T) {
	var r Registry
	for i := range byte(9) {
		announce(t, &r, hubX, ann(wire.Incarnation{i + 1}, 0, 5, start.Add(time.Duration(i)*time.Millisecond)), nil)
	}
	for i := byte(2); i <= 9; i++ {
		announce(t, &r, hubY, ann(wire.Incarnation{i}, 0, 5, start.Add(time.Second)), ErrStale)
	}
}

// A device is switched off and returns at another hub: its REGISTER is never refused, and no hub goes on believing in the tunnel of the
// run before, even where a REGISTER of that run was still under way.
func TestADeviceThatPowerCyclesNeverMeetsItsGhost(t *testing.T) {
	var x, y Registry
	old := &Tunnel{UUID: gw, Incarnation: run1, Counter: 7, Challenged: x.Clock(start)}
	accept(t, &x, old)
	feed := x.Feed()
	say, _ := feed.Next(10)
	a := say[0].(wire.Announce)
	announce(t, &y, hubX, &a, nil)
	underWay := &Tunnel{UUID: gw, Incarnation: run1, Counter: 8, Challenged: x.Clock(start)}

	back := start.Add(3 * time.Second)
	fresh := &Tunnel{UUID: gw, Incarnation: run2, Counter: 1, Challenged: y.Clock(back)}
	if _, err := y.Register(fresh, back); err != nil {
		t.Fatal(err)
	}
	yFeed := y.Feed()
	say, _ = yFeed.Next(10)
	a = say[0].(wire.Announce)
	displaced, err := x.Announce(hubY, &a, back)
	if err != nil || len(displaced) != 1 || displaced[0] != old {
		t.Fatalf("displaced %v, %v", displaced, err)
	}
	if _, err := x.Register(underWay, back); !errors.Is(err, ErrStale) {
		t.Fatalf("the ghost's REGISTER: %v", err)
	}
	if got := x.Routes(gw); len(got) != 1 || got[0].Hub != hubY {
		t.Fatalf("routes %v", got)
	}
	if say, _ = feed.Next(10); len(say) != 1 || say[0].(wire.Withdraw).Incarnation != run1 {
		t.Errorf("said %v, want the old tunnel taken back", say)
	}
}

// Only what registers here counts: another hub that shows registrations it kept to itself gets nobody refused.
func TestAnotherHubsAnnouncementsAreNoClone(t *testing.T) {
	var r Registry
	accept(t, &r, reg(run1, 0, 1))
	for n := range uint64(10) {
		announce(t, &r, hubX, ann(wire.Incarnation{0x70 + byte(n)}, 0, 1, start.Add(time.Duration(n+1)*time.Millisecond)), nil, reg(run1, 0, n+1))
		accept(t, &r, reg(run1, 0, n+2))
	}
}

func TestASnapshotEndsWhatItDoesNotName(t *testing.T) {
	var r Registry
	r.BeginSnapshot(hubX)
	announce(t, &r, hubX, ann(run1, 0, 1, start), nil)
	announce(t, &r, hubX, ann(run1, 1, 1, start), nil)
	r.EndSnapshot(hubX)
	wantHub(t, &r, hubX, hubX)
	r.BeginSnapshot(hubX)
	announce(t, &r, hubX, ann(run1, 1, 1, start), nil)
	r.EndSnapshot(hubX)
	wantHub(t, &r, hubX)
	announce(t, &r, hubX, ann(run1, 0, 1, start), ErrReplay)
}

func TestAHubThatWasLostNamesItsTunnelsAgain(t *testing.T) {
	var r Registry
	announce(t, &r, hubX, ann(run1, 0, 1, start), nil)
	if n := r.DropHub(hubX); n != 1 {
		t.Fatalf("dropped %d", n)
	}
	wantHub(t, &r)
	announce(t, &r, hubX, ann(run1, 0, 1, start), nil)
	wantHub(t, &r, hubX)
}

func TestSilentTunnelsAreTheLastChoice(t *testing.T) {
	var r Registry
	a := reg(run1, 0, 1)
	accept(t, &r, a)
	announce(t, &r, hubX, ann(run1, 1, 1, start), nil)
	changed := r.Changed(gw)
	r.SetSilent(a, true)
	<-changed
	wantHub(t, &r, hubX, wire.UUID{})
	silent := ann(run1, 1, 1, start)
	silent.Silent = true
	changed = r.Changed(gw)
	announce(t, &r, hubX, silent, nil)
	<-changed
	if r.Online(gw) {
		t.Error("a device whose heartbeats are all overdue is online")
	}
}

// A hub that calls its tunnel silent and not a thousand times a second woke all who have streams to the device as often, and each of them
// moved its streams, those by other hubs too.
func TestAHubCannotMakeWaitersRunBySilence(t *testing.T) {
	var r Registry
	now := time.Now()
	a := ann(wire.Incarnation{1}, 1, 1, now)
	announce(t, &r, hubID(0), a, nil)
	woken := 0
	for i := range 10_000 {
		changed := r.Changed(a.UUID)
		a.Silent = i%2 == 0
		if _, err := r.Announce(hubID(0), a, now.Add(time.Duration(i)*time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		select {
		case <-changed:
			woken++
		default:
		}
	}
	if woken > 10 {
		t.Errorf("woken %d times in 10 s", woken)
	}
	// What is true is heard at once.
	for i, silent := range []bool{true, false, true} {
		a.Silent = silent
		if _, err := r.Announce(hubID(0), a, now.Add(time.Minute+time.Duration(i)*5*time.Second)); err != nil {
			t.Fatal(err)
		}
		if got := r.Routes(a.UUID)[0].Silent; got != silent {
			t.Errorf("silent %v, announced %v", got, silent)
		}
	}
}

func TestAForgottenDeviceIsTakenBack(t *testing.T) {
	var r Registry
	a := reg(run1, 0, 1)
	accept(t, &r, a)
	feed := r.Feed()
	feed.Next(10)
	if got := r.Forget(gw); len(got) != 1 || got[0] != a {
		t.Fatalf("to be closed: %v", got)
	}
	<-feed.Wake()
	say, more := feed.Next(10)
	if w, ok := say[0].(wire.Withdraw); !ok || len(say) != 1 || more || w.Counter != 1 {
		t.Errorf("said %v", say)
	}
}

func TestWaitersAreBounded(t *testing.T) {
	var r Registry
	first := r.Changed(wire.UUID{1})
	for i := range 3 * maxWaiters {
		r.Changed(wire.UUID{2, byte(i), byte(i >> 8)})
	}
	<-first
	if n := len(r.waiters); n > maxWaiters {
		t.Errorf("%d waiters are kept", n)
	}
}

// With more devices waited for than the bound, each that waited anew woke all the others, which waited anew.
func TestManyWaitersDoNotWakeEachOther(t *testing.T) {
	var r Registry
	ids := make([]wire.UUID, maxWaiters+2)
	var woken []<-chan struct{}
	for i := range ids {
		ids[i] = wire.UUID{2, byte(i), byte(i >> 8)}
		n := reg(wire.Incarnation{1}, 0, 1)
		n.UUID = ids[i]
		accept(t, &r, n)
	}
	for _, id := range ids {
		woken = append(woken, r.Changed(id))
	}
	for _, c := range woken {
		select {
		case <-c:
			t.Fatal("one was woken without a change")
		default:
		}
	}
}

// cluster is three hubs and the messages between them.
type cluster struct {
	rnd   *rand.Rand
	now   time.Time
	skew  [3]time.Duration
	hubs  [3]*Registry
	links [3][3]*link // from, to
	old   []told      // for replays
}

type link struct {
	feed  *Feed
	queue []any // wire.Message, or the marks of a snapshot
}

type (
	beginning struct{}
	ending    struct{}
	told      struct {
		from int
		a    wire.Announce
	}
)

func (c *cluster) clock(hub int) time.Time { return c.now.Add(c.skew[hub]) }

func hubID(n int) wire.UUID { return wire.UUID{0x50 + byte(n)} }

// connect begins a new peer connection: a snapshot, then deltas.
func (c *cluster) connect(from, to int) {
	if old := c.links[from][to]; old != nil {
		old.feed.Close()
	}
	l := &link{feed: c.hubs[from].Feed(), queue: []any{beginning{}}}
	c.links[from][to] = l
	c.say(from, to)
	l.queue = append(l.queue, ending{})
}

func (c *cluster) say(from, to int) {
	l := c.links[from][to]
	for more := true; more; {
		var say []wire.Message
		say, more = l.feed.Next(3)
		for _, m := range say {
			l.queue = append(l.queue, m)
			if a, ok := m.(wire.Announce); ok {
				c.old = append(c.old, told{from, a})
			}
		}
	}
}

// deliver hands over one message.
func (c *cluster) deliver(t *testing.T, from, to int) bool {
	l := c.links[from][to]
	if len(l.queue) == 0 {
		return false
	}
	m := l.queue[0]
	l.queue = l.queue[1:]
	r := c.hubs[to]
	switch m := m.(type) {
	case beginning:
		r.BeginSnapshot(hubID(from))
	case ending:
		r.EndSnapshot(hubID(from))
	case wire.Withdraw:
		r.Withdraw(hubID(from), &m)
	case wire.Announce:
		if _, err := r.Announce(hubID(from), &m, c.clock(to)); err != nil && !errors.Is(err, ErrStale) && !errors.Is(err, ErrFenced) {
			t.Fatalf("hub %d refused what hub %d said in good faith: %v", to, from, err)
		}
	}
	return true
}

// The devices' own order is the truth: the last REGISTER that was accepted of the newest run. Whatever is late, repeated, or lost with a
// crash, when the queues are empty every hub holds that one and no other.
func TestAllHubsConvergeOnTheNewestRegistration(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			c := &cluster{rnd: rand.New(rand.NewPCG(seed, 1)), now: start}
			for i := range c.hubs {
				c.hubs[i] = new(Registry)
				c.skew[i] = time.Duration(c.rnd.IntN(1000)) * time.Millisecond
			}
			for from := range c.hubs {
				for to := range c.hubs {
					if from != to {
						c.connect(from, to)
					}
				}
			}
			const devices = 3
			type device struct {
				run     wire.Incarnation
				runs    byte
				counter uint64
				at      [slots]int // hub, -1: none
				held    [slots]*Tunnel
			}
			var ds [devices]device
			for n := range ds {
				ds[n].at = [slots]int{-1, -1}
			}
			type ghost struct {
				r *Registry
				t *Tunnel
			}
			var ghosts []ghost // replaced by the device, or of a run before: their hub sees their end some time
			replaced := func(d *device, slot int) {
				if d.held[slot] != nil {
					ghosts = append(ghosts, ghost{c.hubs[d.at[slot]], d.held[slot]})
				}
			}
			register := func(n, hub int, slot uint8) {
				d := &ds[n]
				d.counter++
				replaced(d, int(slot))
				tu := &Tunnel{UUID: wire.UUID{byte(n + 1)}, Incarnation: d.run, Slot: slot, Counter: d.counter, Challenged: c.hubs[hub].Clock(c.clock(hub)), Since: c.now}
				if _, err := c.hubs[hub].Register(tu, c.clock(hub)); err != nil {
					t.Fatalf("a device that is alive was refused: %v", err)
				}
				d.at[slot], d.held[slot] = hub, tu
			}
			restart := func(n int) {
				c.now = c.now.Add(3 * time.Second)
				d := &ds[n]
				replaced(d, 0)
				replaced(d, 1)
				d.runs++
				d.run, d.counter, d.at, d.held = wire.Incarnation{byte(c.rnd.IntN(256)), byte(n), d.runs}, 0, [slots]int{-1, -1}, [slots]*Tunnel{}
			}
			for n := range ds {
				restart(n)
			}
			for range 150 {
				c.now = c.now.Add(time.Duration(c.rnd.IntN(20)) * time.Millisecond)
				n, hub, slot := c.rnd.IntN(devices), c.rnd.IntN(3), uint8(c.rnd.IntN(slots))
				d := &ds[n]
				switch c.rnd.IntN(12) {
				case 0, 1, 2: // moves, or comes
					register(n, hub, slot)
				case 3:
					restart(n)
					register(n, hub, slot)
				case 4: // a tunnel ends
					if tu := d.held[slot]; tu != nil {
						c.hubs[d.at[slot]].Remove(tu)
						d.at[slot], d.held[slot] = -1, nil
					}
				case 5: // a hub crashes and comes back with nothing; the devices return
					c.hubs[hub] = new(Registry)
					for other := range c.hubs {
						if other != hub {
							c.hubs[other].DropHub(hubID(hub))
							c.connect(hub, other)
							c.connect(other, hub)
						}
					}
					for m := range ds {
						for s := range ds[m].at {
							if ds[m].at[s] == hub {
								register(m, (hub+1+c.rnd.IntN(2))%3, uint8(s))
							}
						}
					}
				case 6: // a peer connection breaks: what was under way is lost
					if other := (hub + 1) % 3; c.rnd.IntN(2) == 0 {
						c.hubs[other].DropHub(hubID(hub))
						c.connect(hub, other)
					} else {
						c.connect(hub, other) // back within the grace
					}
				case 7: // a hub repeats, with a stamp that would win, what it announced once
					if len(c.old) > 0 {
						x := c.old[c.rnd.IntN(len(c.old))]
						x.a.Stamp = stampOf(c.clock(hub).Add(maxAhead))
						dev := c.hubs[hub].devices[x.a.UUID]
						if hub == x.from || dev == nil {
							break
						}
						// To a hub that heard of it, that is: one that did not, because it restarted, can be told of it once.
						if i := dev.find(x.a.Incarnation); i >= 0 && !dev.seen[i].above(x.a.Slot, x.a.Counter) {
							before := c.hubs[hub].Routes(x.a.UUID)
							_, _ = c.hubs[hub].Announce(hubID(x.from), &x.a, c.clock(hub))
							after := c.hubs[hub].Routes(x.a.UUID)
							for _, route := range before {
								if !slices.ContainsFunc(after, func(r Route) bool {
									return r.Slot == route.Slot && r.Tunnel == route.Tunnel && r.Hub == route.Hub && r.Incarnation == route.Incarnation
								}) {
									t.Fatalf("a replay changed the routes from %v to %v", before, after)
								}
							}
						}
					}
				default:
					for range 1 + c.rnd.IntN(6) {
						from := c.rnd.IntN(3)
						to := (from + 1 + c.rnd.IntN(2)) % 3
						c.say(from, to)
						c.deliver(t, from, to)
					}
				}
			}
			settle := func() {
				for again := true; again; {
					again = false
					for from := range c.hubs {
						for to := range c.hubs {
							if from != to {
								c.say(from, to)
								again = c.deliver(t, from, to) || again
							}
						}
					}
				}
			}
			check := func(ghosts bool) {
				t.Helper()
				for n := range ds {
					d := &ds[n]
					for hub, r := range c.hubs {
						var want, got [slots]string
						for s := range want {
							if d.at[s] >= 0 {
								want[s] = fmt.Sprintf("%d/%v", d.at[s], d.run)
							}
						}
						for _, route := range r.Routes(wire.UUID{byte(n + 1)}) {
							at := hub
							if route.Tunnel == nil {
								at = int(route.Hub[0] - 0x50)
							}
							got[route.Slot] = fmt.Sprintf("%d/%v", at, route.Incarnation)
							if ghosts && want[route.Slot] == "" && (want[1-route.Slot] == "" || route.Incarnation == d.run) {
								got[route.Slot] = "" // nobody could tell the hubs yet that this one is over
							}
						}
						if got != want {
							t.Errorf("hub %d has device %d at %q, want %q", hub, n, got, want)
						}
					}
				}
			}
			settle()
			check(true)
			for _, g := range ghosts {
				g.r.Remove(g.t)
			}
			settle()
			check(false)
		})
	}
}

func TestBytesPerDevice(t *testing.T) {
	const devices = 20000
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	var r Registry
	for i := range devices {
		a := ann(run1, 0, 1, start)
		a.UUID = wire.UUID{1, byte(i), byte(i >> 8), byte(i >> 16)}
		a.Logins = []string{"root"}
		if _, err := r.Announce(hubX, a, start); err != nil {
			t.Fatal(err)
		}
		a.Slot = 1
		if _, err := r.Announce(hubY, a, start); err != nil {
			t.Fatal(err)
		}
	}
	per := (heap() - before) / devices
	t.Logf("%d bytes for a device with two tunnels at other hubs", per)
	if per > 700 {
		t.Errorf("%d bytes a device", per)
	}
	runtime.KeepAlive(&r)
}
