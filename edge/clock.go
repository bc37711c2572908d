package edge

import (
	"sync"
	"time"

	"hawser/auth/lock"
)

// clock is the time an agent acts on. A device may have no clock battery and may be started by anyone with any clock, so
// the system clock is believed only above a floor (the build, the newest signed time stored), and not at all once auth has signed the
// time of this run: from then on it is that time and the monotonic clock since. Safe for concurrent use.
type clock struct {
	system func() time.Time

	mu     sync.Mutex
	floor  time.Time
	offset time.Duration // added to the monotonic time since base
	signed time.Time     // the newest signed time of this run
	base   time.Time     // a reading of system with its monotonic part; zero: no signed time in this run
}

func newClock(system func() time.Time, floors ...time.Time) *clock {
	c := &clock{system: system}
	for _, f := range floors {
		if f.After(c.floor) {
			c.floor = f
		}
	}
	return c
}

// Now is the best time known.
func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nowLocked()
}

func (c *clock) nowLocked() time.Time {
	now := c.system()
	if !c.base.IsZero() {
		// Sub uses the monotonic readings, so a step of the wall clock during the run changes nothing.
		return c.base.Round(0).Add(c.offset + now.Sub(c.base))
	}
	now = now.Round(0)
	if now.Before(c.floor) {
		return c.floor
	}
	return now
}

// Trusted reports whether a signed time was adopted in this run.
func (c *clock) Trusted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.base.IsZero()
}

// age is how old the newest signed time is, and what came with it.
func (c *clock) age() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nowLocked().Sub(c.signed)
}

// stale reports whether the newest signed time is too old for those who are strict about locks.
func (c *clock) stale() bool {
	return c.age() > lock.StrictAfter
}

// Adopt takes a time that auth signed. An exact one (signed over our own nonce) replaces whatever we thought; any other is a
// lower bound, and is exact enough when there is nothing better.
func (c *clock) Adopt(signed time.Time, exact bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if signed.After(c.signed) {
		c.signed = signed
	}
	if !exact && !signed.After(c.nowLocked()) && !c.base.IsZero() {
		return
	}
	if !exact && c.base.IsZero() && c.system().After(signed) && !c.system().Round(0).Before(c.floor) && c.system().Sub(signed) < beaconTrust {
		signed = c.system().Round(0) // the system clock agrees with the beacon and is the fresher of the two
	}
	if !exact && signed.Before(c.floor) {
		signed = c.floor // a lower bound lowers nothing
	}
	now := c.system()
	c.base = now
	c.offset = signed.Sub(now.Round(0))
	if signed.After(c.floor) {
		c.floor = signed
	}
}

// nextFloor is what to store as floor for the signed time given what is stored: unchanged unless the step is worth a write, and
// at most a year more, so that one lie cannot put the device into the next century.
func nextFloor(stored, signed time.Time) time.Time {
	if signed.Sub(stored) < floorStep {
		return stored
	}
	if !stored.IsZero() && signed.Sub(stored) > floorLeap {
		return stored.Add(floorLeap)
	}
	return signed
}
