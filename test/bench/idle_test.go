package bench_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"hawser/test/harness"
)

// BenchmarkIdleBytes counts what a device without sessions sends and receives, all its tunnels together, as IP bytes at its router, and extrapolates
// to a day. Joining and the first registration are apart. HAWSER_IDLE is the time it counts (default 4m; TLS beats every 270 s, so a longer one is
// more exact). What is learned about the NAT takes minutes: only HAWSER_LONG=1 waits for it.
func BenchmarkIdleBytes(b *testing.B) {
	count, err := time.ParseDuration(os.Getenv("HAWSER_IDLE"))
	if err != nil {
		count = 4 * time.Minute
		if harness.Long() {
			count = 20 * time.Minute
		}
	}
	// Cliffs of 30, 60, 120 and 180 s, two of two, and time to settle.
	learn := 20 * time.Minute

	one, two := harness.NewWorld(b, 1), harness.NewWorld(b, 2)
	type device struct {
		name, unit string
		world      *harness.World
		nat        int // seconds a UDP mapping lives
		learn      bool
		env        []string
		budget     float64 // kB a day

		site  *harness.Site
		begun uint64 // bytes when the count began
	}
	devices := []*device{
		{name: "gw-unlearned", unit: "quic-unlearned", world: one, nat: 30, env: []string{"HAWSER_CARRIER=quic"}, budget: 500},
		{name: "gw-tls", unit: "tls", world: one, nat: 120, env: []string{"HAWSER_CARRIER=tls"}, budget: 500},
		{name: "gw-metered", unit: "metered", world: two, nat: 120, env: []string{"HAWSER_METERED=1"}, budget: 20},
		{name: "gw-two", unit: "two-hubs-unlearned", world: two, nat: 30, budget: 500},
	}
	if harness.Long() {
		devices = append(devices,
			&device{name: "gw-learned", unit: "quic-learned-120s", world: one, nat: 120, learn: true, env: []string{"HAWSER_CARRIER=quic"}, budget: 150},
			&device{name: "gw-two-learned", unit: "two-hubs-learned-120s", world: two, nat: 120, learn: true, budget: 150})
	} else {
		b.Log("learned at a 120 s NAT: only with HAWSER_LONG=1")
	}
	bytes := func(d *device) uint64 {
		in, out := d.site.Traffic(b)
		return in + out
	}
	begin := func(learned bool) {
		for _, d := range devices {
			if d.learn == learned {
				d.begun = bytes(d)
			}
		}
	}
	report := func(learned bool, took time.Duration) {
		for _, d := range devices {
			if d.learn != learned {
				continue
			}
			day := float64(bytes(d)-d.begun) / took.Seconds() * 86400 / 1000
			b.ReportMetric(day, d.unit+"-kB/day")
			if day > d.budget {
				b.Logf("%s: %.0f kB a day, the bar is %.0f", d.unit, day, d.budget)
			}
		}
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
			b.ReportMetric(float64(bytes(d))/1000, d.unit+"-join-kB")
		}
		begin(false)
		start := time.Now()
		time.Sleep(count)
		report(false, time.Since(start))
		if harness.Long() {
			time.Sleep(max(0, learn-time.Since(start)))
			begin(true)
			start = time.Now()
			time.Sleep(count)
			report(true, time.Since(start))
		}
	}
	b.ReportMetric(0, "ns/op")
	fmt.Println() // the names are long
}
