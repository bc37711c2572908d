package tunnel

import (
	"fmt"
	"testing"
)

func TestATallyTellsEachCauseOnceAndIsBounded(t *testing.T) {
	var tally Tally
	for i, want := range []bool{true, false, false} {
		if got := tally.Add("list"); got != want {
			t.Errorf("time %d: first is %v", i+1, got)
		}
	}
	told := 0
	for i := range 10 * maxCauses {
		if tally.Add(fmt.Sprint(i)) {
			told++
		}
	}
	counts := tally.Counts()
	if told != maxCauses || len(counts) != maxCauses+1 {
		t.Errorf("%d told, %d counted, want %d and one more", told, len(counts), maxCauses)
	}
	if counts[0] != (Counted{OtherCauses, 10*maxCauses - (maxCauses - 1)}) || counts[1] != (Counted{"list", 3}) {
		t.Errorf("counted first %v", counts[:2])
	}
}
