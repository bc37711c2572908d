package auth

import (
	"sync"
	"time"
)

// guesses is a token bucket per source. Safe for concurrent use; bounded: when
// maxSources are remembered, full buckets and then any one are forgotten.
type guesses struct {
	burst float64
	every time.Duration // one more

	mu      sync.Mutex
	buckets map[string]bucket
}

type bucket struct {
	left float64
	at   time.Time
}

func newGuesses(burst int, every time.Duration) *guesses {
	return &guesses{burst: float64(burst), every: every, buckets: make(map[string]bucket)}
}

// wait returns how long source must wait before its next try, zero for not at all.
func (g *guesses) wait(source string, now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	left := g.leftLocked(source, now)
	if left >= 1 {
		return 0
	}
	return time.Duration((1 - left) * float64(g.every))
}

// take charges source one try and reports whether it had one.
func (g *guesses) take(source string, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	left := g.leftLocked(source, now)
	if left < 1 {
		return false
	}
	if _, known := g.buckets[source]; !known && len(g.buckets) >= maxSources {
		g.forgetLocked(now)
	}
	g.buckets[source] = bucket{left: left - 1, at: now}
	return true
}

// forget gives source its whole burst again.
func (g *guesses) forget(source string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.buckets, source)
}

func (g *guesses) leftLocked(source string, now time.Time) float64 {
	b, ok := g.buckets[source]
	if !ok {
		return g.burst
	}
	return min(g.burst, b.left+float64(now.Sub(b.at))/float64(g.every))
}

func (g *guesses) forgetLocked(now time.Time) {
	for source := range g.buckets {
		if g.leftLocked(source, now) >= g.burst {
			delete(g.buckets, source)
		}
	}
	for source := range g.buckets {
		if len(g.buckets) < maxSources {
			return
		}
		delete(g.buckets, source)
	}
}
