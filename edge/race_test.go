package edge

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hawser/tunnel"
)

func addrs(n int) []resolved {
	var out []resolved
	for i := range n {
		out = append(out, resolved{"hub.example:443", netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 443)})
	}
	return out
}

// after returns a try that succeeds on each carrier after its time; 0: never.
func after(quic, tls time.Duration) func(context.Context, attempt) (tunnel.Carrier, error) {
	return func(ctx context.Context, a attempt) (tunnel.Carrier, error) {
		d := quic
		if a.carrier == tunnel.CarrierTLS {
			d = tls
		}
		if d == 0 {
			return 0, errors.New("blocked")
		}
		return a.carrier, sleep(ctx, d)
	}
}

func TestTheFirstRegisteredWins(t *testing.T) {
	for _, tt := range []struct {
		name      string
		quic, tls time.Duration
		winner    tunnel.Carrier
		at        time.Duration
		late      bool
	}{
		{"QUIC alone, when it is quick", 100 * time.Millisecond, 100 * time.Millisecond, tunnel.CarrierQUIC, 100 * time.Millisecond, false},
		{"TLS, where UDP is blocked", 0, 100 * time.Millisecond, tunnel.CarrierTLS, 350 * time.Millisecond, false},
		{"TLS first, and QUIC after it within the grace", time.Second, 100 * time.Millisecond, tunnel.CarrierTLS, 350 * time.Millisecond, true},
		{"TLS, where QUIC takes longer than the grace", 9 * time.Second, 100 * time.Millisecond, tunnel.CarrierTLS, 350 * time.Millisecond, false},
		{"QUIC, where TCP is blocked", 3 * time.Second, 0, tunnel.CarrierQUIC, 3 * time.Second, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				r, late, err := race(t.Context(), plan(addrs(1), AnyCarrier), quicGrace, after(tt.quic, tt.tls), func(tunnel.Carrier) {})
				if err != nil || r.value != tt.winner || time.Since(start) != tt.at {
					t.Fatalf("%v won after %v (%v), want %v after %v", r.value, time.Since(start), err, tt.winner, tt.at)
				}
				if l := <-late; (l != nil) != tt.late || l != nil && l.value != tunnel.CarrierQUIC {
					t.Fatalf("late %+v, want QUIC: %v", l, tt.late)
				}
			})
		})
	}
}

func TestEveryAddressIsTriedAndEveryLoserIsDiscarded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		seen := map[netip.AddrPort]bool{}
		discarded := 0
		r, late, err := race(t.Context(), plan(addrs(4), AnyCarrier), quicGrace, func(ctx context.Context, a attempt) (attempt, error) {
			mu.Lock()
			seen[a.addr] = true
			mu.Unlock()
			if a.addr.Addr().As4()[3] < 3 {
				return a, errors.New("connection refused")
			}
			time.Sleep(time.Second) // registers whatever the context says: the loser that came too late to be stopped
			return a, nil
		}, func(attempt) { discarded++ })
		if err != nil || r.value.addr.Addr().As4()[3] != 3 || r.value.carrier != tunnel.CarrierQUIC {
			t.Fatalf("won %+v, %v", r.value, err)
		}
		<-late
		if len(seen) != 4 || discarded != 3 {
			t.Fatalf("%d addresses tried, %d discarded; want 4 and 3", len(seen), discarded)
		}
	})
}

func TestARefusalByAuthorityEndsTheRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := errors.New("refused")
		calls := 0
		_, late, err := race(t.Context(), plan(addrs(3), AnyCarrier), quicGrace, func(context.Context, attempt) (int, error) {
			calls++
			return 0, &finalError{refused}
		}, func(int) {})
		<-late
		if !errors.Is(err, refused) || calls != 1 {
			t.Fatalf("%v after %d calls", err, calls)
		}
	})
}

func TestARaceWithoutAddressesSaysSo(t *testing.T) {
	_, late, err := race(t.Context(), nil, 0, after(0, 0), func(tunnel.Carrier) {})
	if <-late; !errors.Is(err, errNoAddress) {
		t.Fatal(err)
	}
}
