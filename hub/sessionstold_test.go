package hub

import (
	"testing"

	"hawser/auth/api"
)

func TestAuthIsToldOfTheSessionsThatChangedAndAfterAFailureOfAll(t *testing.T) {
	var told toldSessions
	state := func(id string, in uint64) *api.SessionState { return &api.SessionState{Id: []byte(id), BytesIn: in} }
	for i, step := range []struct {
		full   bool
		states []*api.SessionState
		want   string
	}{
		{true, []*api.SessionState{state("a", 1), state("b", 1)}, "ab"},
		{false, []*api.SessionState{state("a", 1), state("b", 1)}, ""},
		{false, []*api.SessionState{state("a", 2), state("b", 1), state("c", 0)}, "ac"},
		{false, []*api.SessionState{state("a", 2), state("c", 0)}, ""},
		{false, []*api.SessionState{state("b", 1)}, "b"}, // an id that came back
		{true, []*api.SessionState{state("b", 1)}, "b"},
	} {
		got := ""
		for _, s := range told.news(step.full, step.states) {
			got += string(s.Id)
		}
		if got != step.want {
			t.Errorf("step %d: told of %q, want %q", i, got, step.want)
		}
	}
}
