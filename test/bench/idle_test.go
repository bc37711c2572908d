package bench_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"hawser/test/harness"
)

// idleDevice is one way to be idle.
type idleDevice struct {
	name, unit string
	world      *harness.World
	nat        int           // seconds a UDP mapping lives
	learns     time.Duration // how long learning it may take; 0: nothing is learned
	patience   time.Duration // two of what it sends
	env        []string
	budget     float64 // kB a day

	site                   *harness.Site
	seen                   uint64
	dirty                  bool // bytes moved when it was last looked at
	bursts                 int  // since it was learned
	joined, learned, begun sample
	perDay                 float64 // kB
	done                   bool
}

// homes is when a device that joined at another hub than the one it ranks first has moved there: once, for 22 kB, which are no day's.
const homes = 7 * time.Minute

type sample struct {
	at    time.Time
	bytes uint64
}

// step looks at the counters. What is counted begins and ends just after something was sent: whole intervals, or the figure depends on
// what falls into the window.
func (d *idleDevice) step(b *testing.B, count time.Duration) {
	if d.done {
		return
	}
	in, out := d.site.Traffic(b)
	now := sample{time.Now(), in + out}
	quiet := d.dirty && now.bytes == d.seen // a burst has ended
	d.dirty, d.seen = now.bytes != d.seen, now.bytes
	switch {
	case d.learned.at.IsZero():
		if d.learns == 0 || now.at.Sub(d.joined.at) > d.learns || strings.Contains(d.site.Edge.Output(), "NAT learned") {
			d.learned = now
		}
	case d.begun.at.IsZero():
		// The first after the learning tells the hub what was learned.
		if quiet {
			if d.bursts++; d.bursts == 2 && d.learns > 0 {
				d.learned = now
			}
		}
		if now.at.Sub(d.joined.at) < homes {
			return
		}
		if quiet && (d.learns == 0 || d.bursts > 2) || now.at.Sub(d.learned.at) > 2*d.patience {
			d.begun = now
		}
	case quiet && now.at.Sub(d.begun.at) >= count || now.at.Sub(d.begun.at) > count+d.patience:
		d.perDay = float64(now.bytes-d.begun.bytes) / now.at.Sub(d.begun.at).Seconds() * 86400 / 1000
		d.done = true
	}
}

// BenchmarkIdleBytes counts what a device without sessions sends and receives, all its tunnels together, as IP bytes at its router, and
// extrapolates to a day. What is paid once is apart: joining and the first registration (join-kB), and learning the NAT (learn-kB), which
// is done once a day on each network and is part of the day's figure. HAWSER_IDLE is the time it counts (default 4m, with HAWSER_LONG 20m).
// A NAT of 30 s is learned in three minutes and changes nothing, so it stands for one not learned; one of 120 s takes twelve: only
// HAWSER_LONG=1 waits for it.
func BenchmarkIdleBytes(b *testing.B) {
	count, err := time.ParseDuration(os.Getenv("HAWSER_IDLE"))
	if err != nil {
		count = 4 * time.Minute
		if harness.Long() {
			count = 20 * time.Minute
		}
	}
	one, two := harness.NewWorld(b, 1), harness.NewWorld(b, 2)
	quic, tls := time.Minute, 5*time.Minute
	short, long := 6*time.Minute, 20*time.Minute
	devices := []*idleDevice{
		{name: "gw-unlearned", unit: "quic-unlearned", world: one, nat: 30, learns: short, patience: quic,
			env: []string{"HAWSER_CARRIER=quic"}, budget: 500},
		{name: "gw-tls", unit: "tls", world: one, nat: 120, patience: tls, env: []string{"HAWSER_CARRIER=tls"}, budget: 500},
		{name: "gw-metered", unit: "metered", world: two, nat: 120, patience: 2 * tls, env: []string{"HAWSER_METERED=1"}, budget: 20},
		{name: "gw-two", unit: "two-hubs-unlearned", world: two, nat: 30, learns: short, patience: quic, budget: 500},
	}
	if harness.Long() {
		devices = append(devices,
			&idleDevice{name: "gw-learned", unit: "quic-learned-120s", world: one, nat: 120, learns: long, patience: 4 * quic,
				env: []string{"HAWSER_CARRIER=quic"}, budget: 150},
			&idleDevice{name: "gw-two-learned", unit: "two-hubs-learned-120s", world: two, nat: 120, learns: long, patience: 4 * quic, budget: 150})
	} else {
		b.Log("learned at a 120 s NAT: only with HAWSER_LONG=1")
	}
	for b.Loop() {
		for _, d := range devices {
			d.site = d.world.AddSite(b, d.name)
			d.site.UDPTimeout(b, d.nat)
			d.site.StartEdge(b, d.env...)
		}
		// The race, the standby tunnel and the first events are over then.
		time.Sleep(15 * time.Second)
		for _, d := range devices {
			in, out := d.site.Traffic(b)
			d.joined = sample{time.Now(), in + out}
			d.seen = in + out
			b.ReportMetric(float64(d.seen)/1000, d.unit+"-join-kB")
		}
		for left := len(devices); left > 0; {
			time.Sleep(time.Second)
			left = 0
			for _, d := range devices {
				if d.step(b, count); !d.done {
					left++
				}
			}
		}
		for _, d := range devices {
			took := d.learned.at.Sub(d.joined.at)
			learn := max(0, float64(d.learned.bytes-d.joined.bytes)/1000-d.perDay*took.Seconds()/86400)
			if d.learns > 0 {
				b.ReportMetric(learn, d.unit+"-learn-kB")
				d.perDay += learn
			}
			b.ReportMetric(d.perDay, d.unit+"-kB/day")
			b.Logf("%s: %.0f kB a day, the bar is %.0f; learning took %s and %.1f kB", d.unit, d.perDay, d.budget, took.Round(time.Second), learn)
		}
	}
	b.ReportMetric(0, "ns/op")
	fmt.Println() // the names are long
}
