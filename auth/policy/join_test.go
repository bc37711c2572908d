package policy

import (
	"math/rand/v2"
	"testing"
)

func TestWhoMayJoin(t *testing.T) {
	lead := Role{Name: "lead", Allow: Rule{
		Devices: map[string][]string{"site": {"ber"}}, Logins: []string{"root"}, Ways: []string{WayHub},
		Join: []Join{{Roles: []string{"field", "night-*"}, Modes: []string{JoinObserver, JoinModerator}}},
	}}
	dev := Device{Name: "gw-1", Labels: map[string]string{"site": "ber"}}
	q := Joined{Roles: []string{"field"}, Login: "root", Way: WayHub, Mode: JoinObserver}
	with := func(f func(*Joined)) Joined { c := q; f(&c); return c }
	admin, _ := Builtin("admin")
	auditor, _ := Builtin("auditor")
	never := Role{Name: "never", Deny: Rule{Join: []Join{{Roles: []string{"admin"}, Modes: []string{JoinPeer}}}}}
	for name, c := range map[string]struct {
		roles []Role
		dev   Device
		q     Joined
		want  bool
	}{
		"allowed":                       {[]Role{lead}, dev, q, true},
		"moderator":                     {[]Role{lead}, dev, with(func(q *Joined) { q.Mode = JoinModerator }), true},
		"not that mode":                 {[]Role{lead}, dev, with(func(q *Joined) { q.Mode = JoinPeer }), false},
		"not his sessions":              {[]Role{lead}, dev, with(func(q *Joined) { q.Roles = []string{"admin"} }), false},
		"one of the owner's roles does": {[]Role{lead}, dev, with(func(q *Joined) { q.Roles = []string{"x", "night-shift"} }), true},
		"not that login":                {[]Role{lead}, dev, with(func(q *Joined) { q.Login = "diag" }), false},
		"not that way":                  {[]Role{lead}, dev, with(func(q *Joined) { q.Way = WayEndToEnd }), false},
		"not that device":               {[]Role{lead}, Device{Name: "x"}, q, false},
		"no role":                       {nil, dev, q, false},
		"the auditor":                   {[]Role{auditor}, dev, q, false},
		"the auditor as peer":           {[]Role{auditor}, dev, with(func(q *Joined) { q.Mode = JoinPeer }), false},
		"the auditor as moderator":      {[]Role{auditor}, dev, with(func(q *Joined) { q.Mode = JoinModerator }), false},
		"the auditor end to end":        {[]Role{auditor}, dev, with(func(q *Joined) { q.Way = WayEndToEnd }), false},
		"the admin":                     {[]Role{admin}, dev, with(func(q *Joined) { q.Mode = JoinPeer }), true},
		"denied":                        {[]Role{admin, never}, dev, with(func(q *Joined) { q.Mode, q.Roles = JoinPeer, []string{"field", "admin"} }), false},
		"denied for others":             {[]Role{admin, never}, dev, with(func(q *Joined) { q.Mode = JoinPeer }), true},
	} {
		rand.Shuffle(len(c.roles), func(i, j int) { c.roles[i], c.roles[j] = c.roles[j], c.roles[i] })
		if got := MayJoin(c.roles, c.dev, c.q); got.Allowed != c.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestARoleThatJoinsOpensNothingAndOneThatDeniesJoiningDeniesNothingElse(t *testing.T) {
	lead := Role{Name: "lead", Allow: Rule{Devices: map[string][]string{"*": {"*"}}, Logins: []string{"*"}, Join: []Join{{Roles: []string{"*"}, Modes: []string{JoinObserver}}}}}
	dev := Device{Name: "gw-1"}
	for _, channel := range allChannels {
		if Evaluate([]Role{lead}, dev, "root", channel, WayHub).Allowed {
			t.Errorf("opens %s", channel)
		}
	}
	if !Evaluate([]Role{lead}, dev, "root", JoinSession, WayHub).Allowed {
		t.Error("joins nothing")
	}
	operator, _ := Builtin("operator")
	never := Role{Name: "never", Deny: Rule{Join: []Join{{Roles: []string{"*"}, Modes: []string{JoinPeer}}}}}
	if !Evaluate([]Role{operator, never}, dev, "root", Shell, WayHub).Allowed {
		t.Error("a denied mode of joining took the shell")
	}
	if !never.DeniesAccess() {
		t.Error("the denial would be forgotten for certificates that do not name the role")
	}
}
