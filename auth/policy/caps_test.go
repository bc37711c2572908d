package policy

import "testing"

func TestTheLowestCapOfAllRolesCountsWhateverTheirOrder(t *testing.T) {
	a := Role{Name: "a", Options: Options{MaxConnections: 5, MaxSessions: 3}}
	b := Role{Name: "b", Options: Options{MaxConnections: 2, Reserved: true}}
	none := Role{Name: "none"}
	exact := Role{Name: "exact", Options: Options{CapMode: CapExact}}
	for _, roles := range [][]Role{{a, b, none, exact}, {exact, none, b, a}} {
		if got, want := CapsOf(roles), (RoleCaps{Connections: 2, Sessions: 3, Exact: true, Reserved: true}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	if got := CapsOf([]Role{none}); got != (RoleCaps{}) {
		t.Errorf("a role without caps: %+v", got)
	}
}
