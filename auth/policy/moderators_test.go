package policy

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"
)

// FuzzDecodeModerators: what decodes encodes to the same, and asks for somebody.
func FuzzDecodeModerators(f *testing.F) {
	f.Add(Moderators{Count: 1, Roles: []string{"lead"}}.Encode())
	f.Add(Moderators{Count: 2, Roles: []string{"sec-*", "lead"}, Modes: []string{JoinPeer}, Channels: []string{SFTP}, OnLeave: OnLeavePause}.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeModerators(b)
		if err != nil {
			return
		}
		if m.Count < 1 || m.Counts(nil, JoinModerator) {
			t.Errorf("%+v is met by nobody", m)
		}
		again, err := DecodeModerators(m.Encode())
		if err != nil || !reflect.DeepEqual(m, again) {
			t.Errorf("%+v came back as %+v, %v", m, again, err)
		}
	})
}

// moderatedRole is one with requirements by chance.
func moderatedRole(r *rand.Rand, name string) Role {
	one := func(of ...string) string { return of[r.IntN(len(of))] }
	role := Role{Name: name, Allow: every(one(Shell, Exec, SFTP, LocalForward))}
	role.Allow.Logins = []string{one("*", "root", "diag")}
	if r.IntN(3) == 0 {
		role.Allow.Devices = map[string][]string{"site": {one("ber", "ams")}}
	}
	if r.IntN(6) == 0 {
		role.Deny = Rule{Channels: []string{one(Shell, Exec)}}
	}
	for range r.IntN(3) {
		m := Moderators{Count: 1 + r.IntN(2), Roles: []string{one("lead", "sec-*"), one("lead", "boss")}, OnLeave: one("", OnLeaveTerminate, OnLeavePause)}
		if r.IntN(2) == 0 {
			m.Channels = []string{one(Shell, Exec), one(SFTP, LocalForward)}
		}
		if r.IntN(2) == 0 {
			m.Modes = []string{one(JoinObserver, JoinModerator)}
		}
		role.Options.RequireModerators = append(role.Options.RequireModerators, m)
	}
	role.Options.PresenceCheck = time.Duration(r.IntN(3)) * 20 * time.Second
	return role
}

// All requirements of all roles that allow something hold, in whatever order they and their parts come; one role more never takes one away, unless it denies.
func TestModeratorsDoNotDependOnTheOrderOfRoles(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 400 {
		var roles []Role
		for i := range 1 + r.IntN(4) {
			roles = append(roles, moderatedRole(r, string(rune('a'+i))))
		}
		a := Merge(roles, gw).For("root", WayHub)
		shuffled := slices.Clone(roles)
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		for i := range shuffled {
			list := slices.Clone(shuffled[i].Options.RequireModerators)
			for k := range list {
				list[k].Roles = slices.Clone(list[k].Roles)
				slices.Reverse(list[k].Roles)
			}
			slices.Reverse(list)
			shuffled[i].Options.RequireModerators = list
		}
		b := Merge(shuffled, gw).For("root", WayHub)
		if !reflect.DeepEqual(a.Moderators, b.Moderators) || a.PresenceCheck != b.PresenceCheck || a.Moderated() != b.Moderated() {
			t.Fatalf("%+v\nand in another order %+v", a.Moderators, b.Moderators)
		}
		if a.Moderated() != (len(a.Moderators) > 0) {
			t.Fatalf("a device that was not told whom %+v requires goes by %v", a.Moderators, a.Moderated())
		}
		for _, role := range roles {
			alone := Merge([]Role{role}, gw).For("root", WayHub)
			denied := slices.ContainsFunc(roles, func(o Role) bool { return len(o.Deny.Channels) > 0 })
			for _, m := range alone.Moderators {
				if !denied && !slices.ContainsFunc(a.Moderators, func(held Moderators) bool { return held.Covers(m) }) {
					t.Fatalf("%+v of role %s is lost among %+v", m, role.Name, a.Moderators)
				}
			}
			if p := alone.PresenceCheck; !denied && p > 0 && (a.PresenceCheck == 0 || a.PresenceCheck > p) {
				t.Fatalf("a key each %s, where a role says each %s", a.PresenceCheck, p)
			}
		}
		for _, m := range a.Moderators {
			got, err := DecodeModerators(m.Encode())
			if err != nil || !reflect.DeepEqual(got, m) {
				t.Fatalf("%+v came back as %+v, %v", m, got, err)
			}
		}
	}
}

func TestModeratorsOfARole(t *testing.T) {
	parse := func(v any) (Role, error) {
		return FromMap(map[string]any{"kind": "role", "name": "field", "options": map[string]any{"require_moderators": v}})
	}
	one := map[string]any{"count": 1, "roles": "lead"}
	r, err := parse(one)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := FromMap(r.ToMap()); err != nil || !reflect.DeepEqual(again, r) {
		t.Errorf("%+v came back as %+v, %v", r, again, err)
	}
	m := r.Options.RequireModerators[0]
	for _, c := range []struct {
		roles []string
		mode  string
		want  bool
	}{
		{[]string{"x", "lead"}, JoinModerator, true}, {[]string{"lead"}, JoinPeer, false}, {[]string{"leader"}, JoinModerator, false}, {nil, JoinModerator, false},
	} {
		if m.Counts(c.roles, c.mode) != c.want {
			t.Errorf("%v as %s: not %v", c.roles, c.mode, c.want)
		}
	}
	if len(ModeratorsFor([]Moderators{m}, SFTP)) != 1 || len(ModeratorsFor([]Moderators{m}, Agent, X11, JoinSession)) != 0 {
		t.Error("without channels it is not for all that can have moderators")
	}
	two := Moderators{Count: 2, Roles: []string{"lead", "sec-*"}}
	if got := m.Words(1) + "; " + two.Words(2); got != "1 moderator with the role lead; 2 moderators with one of the roles lead, sec-*" {
		t.Error(got)
	}
	if !(Moderators{Count: 2, Roles: []string{"lead"}}).Covers(m) || m.Covers(two) {
		t.Error("covers")
	}
	for _, bad := range []any{
		map[string]any{"count": 0, "roles": "lead"}, map[string]any{"count": 1}, map[string]any{"count": 17, "roles": "lead"}, []any{one, map[string]any{"count": 1}},
		map[string]any{"count": 1, "roles": "lead", "channels": "agent"}, map[string]any{"count": 1, "roles": "lead", "modes": "god"},
		map[string]any{"count": 1, "roles": "lead", "on_leave": "wait"}, "lead",
	} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%v is accepted", bad)
		}
	}
	if _, err := DecodeModerators(Moderators{Roles: []string{"x"}}.Encode()); !errors.Is(err, ErrModerators) {
		t.Errorf("nobody at all: %v", err)
	}
}
