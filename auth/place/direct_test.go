package place

import (
	"math/rand/v2"
	"os"
	"testing"
	"time"
)

// The people of devices that serve them directly, under an exact cap: hubs lose auth, devices lose hubs, hubs are killed and come back, in any
// combination. A device goes by the lease its hub tells it and binds what goes on at another hub, as PROTOCOL.md, 6.6, has it; the hubs' and auth's
// sides are the real ones. However it goes, never are more on than the cap says; without the leases they are.
func TestDirectPlacesAreNeverMoreThanAnExactCap(t *testing.T) {
	n := uint64(30)
	if os.Getenv("HAWSER_LONG") != "" {
		n = 1000
	}
	for seed := range n {
		over, served := directWorld(seed, true)
		if over > 0 {
			t.Errorf("SAFETY: %d times more than the cap was on, in schedule %d", over, seed)
		}
		if served < 10 {
			t.Errorf("schedule %d: %d were served", seed, served)
		}
	}
	broken := 0
	for seed := range n / 3 {
		over, _ := directWorld(seed, false)
		broken += over
	}
	if broken == 0 {
		t.Error("no schedule is one that the leases are for")
	}
}

// directWorld runs half an hour in steps of 250 ms; it returns in how many of them the cap of 2 was broken.
func directWorld(seed uint64, leases bool) (over, served int) {
	const hubs, devices, limit, step = 3, 4, 2, 250 * time.Millisecond
	type hub struct {
		at     Run
		holder *Holder
		dead   bool
		cut    bool // from auth
		next   time.Time
	}
	type live struct {
		id     [16]byte
		device int
		at     Run // whose control stream holds it
		until  time.Time
		lost   time.Time
		asked  time.Time
	}
	r := rand.New(rand.NewPCG(seed, 3))
	table, now := NewTable("e"), began
	var all [hubs]*hub
	runs := byte(0)
	start := func(h int) {
		runs++
		all[h] = &hub{at: runOf(string(rune('a'+h)), runs), holder: NewHolder()}
	}
	for h := range all {
		start(h)
	}
	var away [devices][hubs]bool
	var on []*live
	left := func(h *hub) time.Duration {
		_, until := h.holder.Lapsed(now)
		return until.Sub(now)
	}
	// ask asks a hub for a place, or for one that goes on; full is a refusal.
	ask := func(h *hub, s *live) (ok, full bool) {
		if h.cut || !h.holder.Fresh(now) {
			return false, false
		}
		p := session(0, "ann", "")
		p.ID, p.Run, p.Direct, p.Attempt = s.id, h.at, true, h.holder.Ask(s.id)
		if _, err := table.Take(p, Limits{Sessions: limit}, now); err != nil {
			h.holder.Gone(s.id)
			return false, true
		}
		if h.holder.Granted(s.id, true, true, now) != nil {
			attempt, _ := h.holder.Gone(s.id)
			table.Release(Returned{h.at, s.id, attempt}, now)
			return false, false
		}
		s.at, s.lost, s.until = h.at, time.Time{}, now.Add(left(h))
		return true, false
	}
	ids := uint16(0)
	for range 30 * 60 * 4 {
		now = now.Add(step)
		table.Lapse(now, func(string) bool { return false })
		for h, x := range all {
			switch r.IntN(400) {
			case 0:
				x.cut = !x.cut
			case 1:
				x.dead = true
			case 2:
				if x.dead {
					start(h)
				}
			}
			if !x.dead && !x.cut && !now.Before(x.next) {
				m := x.holder.Renewal()
				if _, _, err := table.Renew(x.at, m, now); err == nil {
					x.holder.Renewed(m, "e", TTL, m.Held, m.Held, now)
				}
				x.next = now.Add(RenewEvery)
			}
		}
		for d := range away {
			if h := r.IntN(hubs); r.IntN(200) == 0 {
				away[d][h] = !away[d][h]
			}
		}
		kept := on[:0:0]
		for _, s := range on {
			var mine *hub
			for h, x := range all {
				if x.at == s.at && !x.dead && !away[s.device][h] {
					mine = x
				}
			}
			ends := r.IntN(200) == 0 // the person goes
			if mine != nil {
				if ids, _ := mine.holder.Lapsed(now); len(ids) > 0 { // its hub says so
					ends = true
				}
				s.lost = time.Time{}
				if d := left(mine); !ends && d > 0 && !now.Before(s.asked.Add(2*time.Second)) {
					s.asked, s.until = now, now.Add(d)
				}
			} else if s.lost.IsZero() {
				s.lost = now
			}
			if leases && !now.Before(s.until) {
				ends = true
			}
			if !ends && mine == nil && !now.Before(s.asked.Add(2*time.Second)) {
				s.asked = now
				for h, x := range all {
					if !x.dead && !away[s.device][h] {
						if ok, full := ask(x, s); full && now.Sub(s.lost) > TTL {
							ends = true
						} else if ok {
							mine = x
						}
						break
					}
				}
			}
			if !ends {
				kept = append(kept, s)
			} else if mine != nil {
				if attempt, _ := mine.holder.Gone(s.id); !mine.cut {
					table.Release(Returned{mine.at, s.id, attempt}, now)
				}
			}
		}
		on = kept
		if r.IntN(8) == 0 {
			ids++
			s := &live{id: [16]byte{1, byte(ids >> 8), byte(ids)}, device: r.IntN(devices), asked: now}
			for h, x := range all {
				if !x.dead && !away[s.device][h] {
					if ok, _ := ask(x, s); ok {
						on = append(on, s)
						served++
					}
					break
				}
			}
		}
		if len(on) > limit {
			over++
		}
	}
	return over, served
}
