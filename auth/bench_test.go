package auth

import (
	"crypto/ed25519"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
)

// BenchmarkRenewals is how many devices renew in a second, asked by one hub with 64 calls at once: a certificate chain, a host certificate and
// a durable write each.
func BenchmarkRenewals(b *testing.B) {
	s := start(b)
	h := s.hub(b)
	type device struct {
		key  ed25519.PublicKey
		cred *api.DeviceCredentials
	}
	const callers = 64
	devices := make([]device, callers)
	for i := range devices {
		cred, key := s.device(b, h, fmt.Sprintf("gw-%d", i))
		devices[i] = device{key.Public().(ed25519.PublicKey), cred}
	}
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ResetTimer()
	var wg sync.WaitGroup
	for _, d := range devices {
		wg.Go(func() {
			for counter := d.cred.Counter; left.Add(-1) >= 0; {
				res, err := h.Hub.RenewDevice(b.Context(), connect.NewRequest(&api.RenewDeviceRequest{Uuid: d.cred.Uuid, PublicKey: d.key, Counter: counter, Source: "192.0.2.7:1"}))
				if err != nil {
					b.Error(err)
					return
				}
				counter = res.Msg.Counter
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "renewals/s")
}

// BenchmarkWatchFanOut is how long after an operator's change, counted from before it was asked for, each of 20 hubs has it.
func BenchmarkWatchFanOut(b *testing.B) {
	s := start(b)
	const hubs = 20
	got := make(chan time.Time, hubs)
	for range hubs {
		var last atomic.Uint64
		s.hub(b).up(b, &api.WatchRequest{}, func(m *api.WatchResponse) {
			if n := m.PolicyRevision; n != 0 && last.Swap(n) != n {
				select {
				case got <- time.Now():
				default: // the first, whole state
				}
			}
		})
	}
	var all []time.Duration
	for n := 0; b.Loop(); n++ {
		for len(got) > 0 {
			<-got
		}
		yaml := fmt.Sprintf("kind: role\nname: field\nallow:\n  logins: [root]\n  channels: [exec]\n  devices: {site: [s%d]}\n", n)
		began := time.Now()
		if _, err := s.admin.Admin.Apply(b.Context(), connect.NewRequest(&api.ApplyRequest{Yaml: yaml})); err != nil {
			b.Fatal(err)
		}
		for range hubs {
			all = append(all, (<-got).Sub(began))
		}
	}
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
}
