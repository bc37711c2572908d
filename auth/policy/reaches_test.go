package policy

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestReachesSaysWhatAccessSays(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	yes := 0
	for range 3000 {
		var roles []Role
		for i := range 1 + r.IntN(4) {
			roles = append(roles, randomRole(r, i))
		}
		c, held := Compile(1, roles, gw), names(roles)
		held = held[:r.IntN(len(held)+1)]
		a := c.Access(held)
		for _, way := range append([]string{""}, allWays...) {
			want := len(a.Channels) > 0 && (way == "" || slices.Contains(a.Ways, way))
			if got := c.Reaches(held, way); got != want {
				t.Fatalf("%v by %q: %v, want %v; %+v", held, way, got, want, roles)
			} else if got {
				yes++
			}
		}
	}
	if yes < 100 {
		t.Errorf("only %d of the cases reach anything", yes)
	}
}

func BenchmarkReaches(b *testing.B) {
	_, c, held := site(b)
	b.ReportAllocs()
	for b.Loop() {
		if !c.Reaches(held, "") {
			b.Fatal("nothing")
		}
	}
}
