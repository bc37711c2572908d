package edge

import (
	"testing"
	"time"
)

func TestAClockBelowItsFloorIsNotBelieved(t *testing.T) {
	build := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	c := newClock(func() time.Time { return time.Unix(3600, 0) }, time.Time{}, build)
	if got := c.Now(); !got.Equal(build) {
		t.Fatalf("in 1970 the clock says %v, want the build time", got)
	}
	if c.Trusted() {
		t.Fatal("a floor is not a trusted time")
	}
}

func TestSignedTimeReplacesTheSystemClockInBothDirections(t *testing.T) {
	signed := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, system := range []time.Time{time.Unix(0, 0), time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC)} {
		now := system
		c := newClock(func() time.Time { return now })
		c.Adopt(signed, true)
		now = now.Add(5 * time.Second)
		if got := c.Now(); !got.Equal(signed.Add(5 * time.Second)) {
			t.Fatalf("5 s after the signed time on a machine in %d the clock says %v", system.Year(), got)
		}
		if !c.Trusted() {
			t.Fatal("signed time is not trusted")
		}
	}
}

func TestABeaconIsOnlyALowerBound(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	c := newClock(func() time.Time { return now })
	c.Adopt(now.Add(-40*time.Second), false)
	if got := c.Now(); !got.Equal(now) {
		t.Fatalf("a beacon 40 s old put the clock at %v, want it left at %v", got, now)
	}
	c.Adopt(now.Add(-20*time.Second), false)
	if got := c.Now(); !got.Equal(now) {
		t.Fatalf("an older beacon put the clock back to %v", got)
	}
	c.Adopt(now.Add(time.Hour), false)
	if got := c.Now(); !got.Equal(now.Add(time.Hour)) {
		t.Fatalf("a beacon an hour ahead left the clock at %v", got)
	}
}

// A hub that kept back auth's answer and played a beacon of last week set a right clock back by that week, and what had expired in it was good again.
func TestAnOldBeaconDoesNotSetARightClockBack(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	c := newClock(func() time.Time { return now })
	c.Adopt(now.AddDate(0, 0, -7), false)
	if got := c.Now(); !got.Equal(now) {
		t.Errorf("the clock says %v, want %v", got, now)
	}
	broken := time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC)
	c = newClock(func() time.Time { return broken })
	c.Adopt(now, false)
	if got := c.Now(); !got.Equal(now) {
		t.Errorf("a clock in 2050 says %v after a beacon, want %v", got, now)
	}
}

// A device that started in 1970 knew from its flash that it was November. A beacon of May, played by a hub that kept back auth's answer, made it May, and
// what had expired since was good again.
func TestAnOldBeaconDoesNotGoBelowTheFloor(t *testing.T) {
	floor := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for _, system := range []time.Time{time.Unix(3600, 0), time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC)} {
		c := newClock(func() time.Time { return system }, floor)
		c.Adopt(floor.AddDate(0, -6, 0), false)
		if got := c.Now(); got.Before(floor) {
			t.Errorf("on a machine in %d the clock says %v, and knew that it was %v", system.Year(), got, floor)
		}
	}
}

func TestTheStoredFloorMovesRarelyAndNeverFar(t *testing.T) {
	stored := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name         string
		signed, want time.Time
	}{
		{"a day later is no reason to write", stored.AddDate(0, 0, 1), stored},
		{"earlier never", stored.AddDate(-1, 0, 0), stored},
		{"two months later", stored.AddDate(0, 2, 0), stored.AddDate(0, 2, 0)},
		{"a century later is a year", stored.AddDate(100, 0, 0), stored.Add(floorLeap)},
	} {
		if got := nextFloor(stored, tt.signed); !got.Equal(tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}
