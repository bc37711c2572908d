package edge

import (
	"cmp"
	"time"
)

// backoff decides how long to wait before the next attempt. It has no clock: random numbers in, durations out.
// It is not safe for concurrent use.
type backoff struct {
	rand   func(n int64) int64 // uniform in [0,n)
	window time.Duration       // W of the hub list; 0: defaultWindow
	limit  time.Duration       // the longest wait after a failure; 0: backoffCap
	last   time.Duration       // the previous wait of this run of failures; 0: none yet
}

// afterLoss is the wait after a tunnel that worked: uniform in [0, W], so that a hub's devices do not return as one.
func (b *backoff) afterLoss() time.Duration {
	b.last = 0
	w := b.window
	if w <= 0 {
		w = defaultWindow
	}
	return b.upTo(w)
}

// afterFailure is decorrelated jitter: uniform in [floor, 3 × last], at most the cap.
func (b *backoff) afterFailure() time.Duration {
	return b.decorrelated(backoffFloor, cmp.Or(b.limit, backoffCap))
}

// afterRefusal is the same in minutes: a refusal by authority is mended by a person, not by a retry.
func (b *backoff) afterRefusal() time.Duration { return b.decorrelated(refusedFloor, refusedCap) }

// atLeast is a hub's own retry-after with up to a quarter on top, so that those told the same do not return as one.
func (b *backoff) atLeast(d time.Duration) time.Duration {
	d = min(max(d, 0), time.Hour) // whatever a hub says: it may be wrong
	return d + b.upTo(d/4+time.Second)
}

func (b *backoff) decorrelated(floor, limit time.Duration) time.Duration {
	high := min(limit, max(3*b.last, 3*floor))
	b.last = floor + b.upTo(high-floor)
	return b.last
}

func (b *backoff) upTo(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(b.rand(int64(d) + 1))
}
