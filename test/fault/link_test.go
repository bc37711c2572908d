package fault_test

import (
	"fmt"
	"testing"
	"time"

	"hawser/test/harness"
)

// linkFault is something that happens between a device and its hubs.
type linkFault struct {
	name     string
	carriers []string // HAWSER_CARRIER of the agent
	bound    time.Duration
	rtt      time.Duration // of the path while the pause counts
	size     int           // bytes a line; 0: 24
	prepare  func(t *testing.T, s *harness.Site)
	// happen breaks and mends; the pause counts from the time it returns.
	happen func(t *testing.T, s *harness.Site) time.Time
}

var both = []string{"quic", "tls"}

// healed waits out the outage and mends it.
func healed(outage time.Duration, mend func()) time.Time {
	time.Sleep(outage)
	mend()
	return time.Now()
}

var linkFaults = []linkFault{
	{name: "cable out and in", carriers: both, bound: seen, happen: func(t *testing.T, s *harness.Site) time.Time {
		s.Unplug(t)
		return healed(period(5*time.Second, 5*time.Minute), func() { s.Plug(t) })
	}},
	{name: "link silently gone and back", carriers: both, bound: silent, happen: func(t *testing.T, s *harness.Site) time.Time {
		s.Drop(t, "")
		return healed(period(5*time.Second, 5*time.Minute), func() { s.Heal(t) })
	}},
	{name: "interface down and up", carriers: both, bound: seen, happen: func(t *testing.T, s *harness.Site) time.Time {
		s.Down(t)
		return healed(3*time.Second, func() { s.Up(t, harness.DeviceAddr) })
	}},
	{name: "network restarted, other address", carriers: both, bound: seen, happen: func(t *testing.T, s *harness.Site) time.Time {
		s.Down(t)
		return healed(3*time.Second, func() { s.Up(t, "192.168.77.99") })
	}},
	{name: "address changed", carriers: both, bound: seen, happen: func(t *testing.T, s *harness.Site) time.Time {
		s.Renumber(t, harness.DeviceAddr, "192.168.77.50")
		return time.Now()
	}},
	{name: "NAT rebinding", carriers: []string{"quic"}, bound: silent, happen: rebind},
	{name: "NAT rebinding", carriers: []string{"tls"}, bound: change, happen: rebind},
	{name: "local firewall (EPERM) and back", carriers: both, bound: silent, happen: func(t *testing.T, s *harness.Site) time.Time {
		s.Refuse(t, `oifname "lan1"`)
		return healed(5*time.Second, func() { s.Allow(t) })
	}},
	{name: "half-open TCP", carriers: []string{"tls"}, bound: change, happen: func(t *testing.T, s *harness.Site) time.Time {
		s.HalfOpen(t)
		return time.Now()
	}},
	{name: "MTU 1280, lines of 4 KiB", carriers: both, bound: silent, size: 4096,
		prepare: func(t *testing.T, s *harness.Site) { s.MTU(t, 1280) },
		happen: func(*testing.T, *harness.Site) time.Time {
			since := time.Now()
			time.Sleep(3 * time.Second)
			return since
		}},
	{name: "PMTU black hole, lines of 4 KiB", carriers: both, bound: change, size: 4096, happen: func(t *testing.T, s *harness.Site) time.Time {
		s.BlackHole(t, 1280)
		return time.Now()
	}},
	{name: "2 % loss, 150 ms each way", carriers: both, bound: lossy, rtt: 300 * time.Millisecond, happen: func(t *testing.T, s *harness.Site) time.Time {
		heal := s.Impair(t, 150*time.Millisecond, 0.02)
		t.Cleanup(heal)
		since := time.Now()
		time.Sleep(period(10*time.Second, 5*time.Minute))
		return since
	}},
}

func rebind(t *testing.T, s *harness.Site) time.Time {
	s.Rebind(t, s.Moved)
	return time.Now()
}

func TestASessionOutlivesItsLink(t *testing.T) {
	t.Parallel()
	const hubs = 2
	w := harness.NewWorld(t, hubs)
	turns := 0
	for _, f := range linkFaults {
		for i, carrier := range f.carriers {
			turn := turns
			turns++
			t.Run(f.name+"/"+carrier, func(t *testing.T) {
				t.Parallel()
				s := w.AddSite(t, fmt.Sprintf("gw-%s-%d-%s", slug(f.name), i, carrier))
				if f.prepare != nil {
					f.prepare(t, s)
				}
				s.StartEdge(t, "HAWSER_CARRIER="+carrier)
				rate, size := 50, f.size
				if size == 0 {
					size = 24
				}
				if harness.Long() && size == 24 {
					// What five streams of a device write in 5 min has to be less than the 1 MiB that it keeps for all of them.
					rate = 10
				}
				streams := open(t, s, turn, hubs, rate, size)
				flowing(t, streams, time.Now(), 10*time.Second)
				time.Sleep(time.Second)
				since := f.happen(t, s)
				flowing(t, streams, time.Now(), 20*time.Second)
				s.Stacks(t)
				time.Sleep(2 * time.Second)
				judge(t, f.name, carrier, streams, since, f.bound+2*f.rtt)
			})
		}
	}
}

// slug makes a device's name of a row's.
func slug(s string) string {
	var b []byte
	for i := range len(s) {
		if c := s[i] | 0x20; c >= 'a' && c <= 'z' && len(b) < 20 {
			b = append(b, c)
		}
	}
	return string(b)
}

// UDP blocked in mid-session: on to TLS. Allowed again: back to QUIC at a re-probe, once; blocked and allowed once more, it stays on TLS, for one
// return in 10 min is all that flapping may cost.
func TestBackToQUICOnce(t *testing.T) {
	t.Parallel()
	const hubs = 2
	w := harness.NewWorld(t, hubs)
	s := w.AddSite(t, "gw-flap")
	var env []string
	if !harness.Long() { // there it looks when it looks: after 5 min first
		env = append(env, "HAWSER_REPROBE=3s")
	}
	s.StartEdge(t, env...)
	on := func(carrier string, within time.Duration) {
		t.Helper()
		harness.Eventually(t, within, "the carrier is "+carrier, func() bool {
			d, err := w.Show(t, s.Name)
			return err == nil && d.Online && d.Carrier == carrier
		})
	}
	on("quic", 20*time.Second)
	streams := open(t, s, 1, hubs, 50, 24)
	time.Sleep(time.Second)
	since := time.Now()
	s.Drop(t, "meta l4proto udp")
	on("tls", 20*time.Second)
	flowing(t, streams, time.Now(), 10*time.Second)
	s.Heal(t)
	on("quic", period(30*time.Second, 7*time.Minute))
	flowing(t, streams, time.Now(), 10*time.Second)
	s.Drop(t, "meta l4proto udp")
	on("tls", 20*time.Second)
	flowing(t, streams, time.Now(), 10*time.Second)
	s.Heal(t)
	for end := time.Now().Add(period(12*time.Second, 9*time.Minute)); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		if d, err := w.Show(t, s.Name); err != nil || d.Carrier != "tls" {
			t.Fatalf("carrier %q, %v: want tls until 10 min after the last return to QUIC", d.Carrier, err)
		}
	}
	judge(t, "UDP blocked, allowed, blocked, allowed", "any", streams, since, change)
}
