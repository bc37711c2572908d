package tunnel

import (
	"cmp"
	"slices"
	"sync"
)

// maxCauses bounds the causes that a Tally tells apart.
const maxCauses = 64

// OtherCauses is what a Tally counts under that has no more room for a cause of its own.
const OtherCauses = "other causes"

// Tally counts what was refused, by cause, so that each cause is logged once however often a peer repeats it. The zero value is empty. Safe for
// concurrent use.
type Tally struct {
	mu sync.Mutex
	of map[string]uint64
}

// Add counts one, and reports whether it is the first of its cause.
func (t *Tally) Add(cause string) (first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of == nil {
		t.of = make(map[string]uint64)
	}
	if t.of[cause] == 0 && len(t.of) >= maxCauses {
		cause = OtherCauses
	}
	t.of[cause]++
	return t.of[cause] == 1
}

// Counted is how many there were of one cause.
type Counted struct {
	Cause string `json:"cause"`
	Times uint64 `json:"times"`
}

// Counts is what was counted, the most frequent first.
func (t *Tally) Counts() []Counted {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]Counted, 0, len(t.of))
	for cause, n := range t.of {
		out = append(out, Counted{cause, n})
	}
	slices.SortFunc(out, func(a, b Counted) int {
		return cmp.Or(cmp.Compare(b.Times, a.Times), cmp.Compare(a.Cause, b.Cause))
	})
	return out
}
