package edge

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestTheFirstRetryAfterAWorkingTunnelIsUniformInTheWindow(t *testing.T) {
	b := backoff{rand: rand.Int64N, window: 8 * time.Second}
	var low, high int
	for range 1000 {
		d := b.afterLoss()
		if d < 0 || d > 8*time.Second {
			t.Fatalf("waited %v, want within 8 s", d)
		}
		if d < 2*time.Second {
			low++
		}
		if d > 6*time.Second {
			high++
		}
	}
	if low < 150 || high < 150 {
		t.Fatalf("%d of 1000 in the first quarter and %d in the last: not spread", low, high)
	}
}

func TestFailuresBackOffWithinTheirBoundsAndALossStartsAnew(t *testing.T) {
	b := backoff{rand: rand.Int64N}
	var longest time.Duration
	for range 1000 {
		d := b.afterFailure()
		if d < backoffFloor || d > backoffCap {
			t.Fatalf("waited %v, want %v to %v", d, backoffFloor, backoffCap)
		}
		longest = max(longest, d)
	}
	if longest < backoffCap/2 {
		t.Fatalf("the longest of 1000 waits was %v: it never backed off", longest)
	}
	b.afterLoss()
	if d := b.afterFailure(); d > 3*backoffFloor {
		t.Fatalf("first failure after a working tunnel waited %v, want at most %v", d, 3*backoffFloor)
	}
}

func TestARefusalWaitsMinutes(t *testing.T) {
	b := backoff{rand: rand.Int64N}
	for range 100 {
		if d := b.afterRefusal(); d < refusedFloor || d > refusedCap {
			t.Fatalf("waited %v, want %v to %v", d, refusedFloor, refusedCap)
		}
	}
}

func TestRetryAfterIsHonouredAndSpread(t *testing.T) {
	b := backoff{rand: rand.Int64N}
	for range 100 {
		if d := b.atLeast(40 * time.Second); d < 40*time.Second || d > 51*time.Second {
			t.Fatalf("waited %v for a retry-after of 40 s", d)
		}
	}
	if d := b.atLeast(-time.Hour); d < 0 || d > time.Second {
		t.Fatalf("a negative retry-after waited %v", d)
	}
	if d := b.atLeast(1 << 62); d > 31*time.Hour {
		t.Fatalf("a retry-after of centuries waited %v", d)
	}
}
