package edge

import (
	"cmp"
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
		out = append(out, resolved{hub: "hub.example:443", addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 443)})
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

func at(d time.Duration, list ...attempt) stage {
	return stage{at: d, find: func(context.Context) ([]attempt, error) { return list, nil }}
}

func TestTheNextHubWaitsItsTurnUnlessAllBeforeFailed(t *testing.T) {
	first, second := addrs(2)[0], addrs(2)[1]
	for _, tt := range []struct {
		name string
		wait time.Duration // of the first hub; 0: it fails at once
		want time.Duration
	}{
		{"the first answers nothing", time.Hour, 2*time.Second + 100*time.Millisecond},
		{"the first refuses", 0, tcpDelay + 100*time.Millisecond}, // its TLS attempt, too
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				r, late, err := raceStages(t.Context(), []stage{
					at(0, plan([]resolved{first}, AnyCarrier)...),
					at(2*time.Second, plan([]resolved{second}, AnyCarrier)...),
				}, quicGrace, func(ctx context.Context, a attempt) (netip.AddrPort, error) {
					if a.addr == first.addr {
						if tt.wait == 0 {
							return a.addr, errors.New("refused")
						}
						return a.addr, cmp.Or(sleep(ctx, tt.wait), errors.New("no answer"))
					}
					return a.addr, sleep(ctx, 100*time.Millisecond)
				}, func(netip.AddrPort) {})
				if err != nil || r.value != second.addr || time.Since(start) != tt.want {
					t.Fatalf("%v after %v (%v), want %v after %v", r.value, time.Since(start), err, second.addr, tt.want)
				}
				<-late
			})
		})
	}
}

func TestAHubThatCannotBeResolvedIsSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lost := stage{find: func(context.Context) ([]attempt, error) { return nil, errors.New("no such host") }}
		_, late, err := raceStages(t.Context(), []stage{lost, at(time.Hour, plan(addrs(1), AnyCarrier)...)}, 0, after(time.Second, 0), func(tunnel.Carrier) {})
		if err != nil {
			t.Fatal(err)
		}
		<-late
		if _, late, err = raceStages(t.Context(), []stage{lost, lost}, 0, after(time.Second, 0), func(tunnel.Carrier) {}); err == nil {
			t.Fatal("a race was won without runners")
		}
		<-late
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, late, err = raceStages(ctx, []stage{at(0, plan(addrs(1), AnyCarrier)...), lost}, 0, after(time.Hour, time.Hour), func(tunnel.Carrier) {}); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		<-late
	})
}
