package front

import (
	"fmt"
	"testing"
	"time"
)

// Each name that does not exist was held against all devices: one client could take both cores of a hub with opens to nowhere.
func TestNearNamesAreLookedForOnceASecond(t *testing.T) {
	var l listing
	now := time.Now()
	for i, step := range []struct {
		user  string
		after time.Duration
		want  bool
	}{
		{"ann", 0, true},
		{"ann", 0, false},
		{"bob", 0, true},
		{"ann", nearEvery / 2, false},
		{"ann", nearEvery / 2, true},
		{"ann", 0, false},
	} {
		now = now.Add(step.after)
		if got := l.mayNear(step.user, now); got != step.want {
			t.Errorf("step %d: %s gets near names: %v", i, step.user, got)
		}
	}
	for i := range 3 * maxNear {
		l.mayNear(fmt.Sprint("user ", i), now)
	}
	if len(l.near) > maxNear {
		t.Errorf("%d people are remembered", len(l.near))
	}
}
