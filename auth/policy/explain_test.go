package policy

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// randomDevice draws labels that randomRole's rules match now and then.
func randomDevice(r *rand.Rand) Device {
	d := Device{UUID: fmt.Sprintf("u-%d", r.IntN(3)), Name: fmt.Sprintf("gw-%d", r.IntN(3)), Labels: map[string]string{}}
	for key, values := range map[string][]string{"site": {"ber", "x1"}, "env": {"test", "prod"}} {
		if i := r.IntN(len(values) + 1); i < len(values) {
			d.Labels[key] = values[i]
		}
	}
	return d
}

var someLogins = []string{"root", "diag", "dx", "d", "", "other"}

func TestReviewAndExplainAgreeWithTheDecision(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	yes := 0
	for range 400 {
		roles := make([]Role, 1+r.IntN(5))
		for i := range roles {
			roles[i] = randomRole(r, i)
		}
		config := Cluster{Ways: [...][]string{nil, {WayHub}, {WayEndToEnd}}[r.IntN(3)]}
		roles = config.Apply(roles)
		dev := randomDevice(r)
		back, err := Decode(encode(t, Compile(1, roles, dev)))
		if err != nil {
			t.Fatal(err)
		}
		reach := Review(roles, dev)
		for _, login := range someLogins {
			for _, channel := range rolesChannels {
				for _, way := range rolesWays {
					got := back.Evaluate(names(roles), login, channel, way)
					covered := slices.ContainsFunc(reach, func(x Reach) bool { return x.Covers(login, channel, way) })
					allows, denies := false, false
					if login != "" { // an empty one is a question left open
						for _, line := range Explain(roles, dev, Question{login, channel, way}) {
							allows = allows || line.Effect == EffectAllows
							denies = denies || line.Effect == EffectDenies
						}
					} else {
						allows = got.Allowed
					}
					if got.Allowed != covered || got.Allowed != (allows && !denies) {
						t.Fatalf("%q %s %s on %+v: decided %+v, reviewed %v of %+v, explained %v\nroles %+v", login, channel, way, dev, got, covered, reach, Explain(roles, dev, Question{login, channel, way}), roles)
					}
					if got.Allowed {
						yes++
					}
				}
			}
		}
	}
	if yes < 1000 {
		t.Errorf("only %d decisions were yes: the roles drawn are no test", yes)
	}
}

func TestReviewDoesNotDependOnTheOrderOfRoles(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for range 200 {
		roles := make([]Role, 2+r.IntN(4))
		for i := range roles {
			roles[i] = randomRole(r, i)
		}
		dev := randomDevice(r)
		want, lines := Review(roles, dev), Explain(roles, dev, Question{Login: "root"})
		r.Shuffle(len(roles), func(i, j int) { roles[i], roles[j] = roles[j], roles[i] })
		if got := Review(roles, dev); !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v, before %+v", got, want)
		}
		if got := Explain(roles, dev, Question{Login: "root"}); !reflect.DeepEqual(got, lines) {
			t.Fatalf("%+v, before %+v", got, lines)
		}
	}
}

func TestReviewIsShort(t *testing.T) {
	operator, _ := Builtin("operator")
	noroot := Role{Name: "noroot", Deny: Rule{Logins: []string{"root", "sys*"}, Channels: []string{Shell, Exec}}}
	got := Review([]Role{operator, noroot}, gw)
	want := []Reach{
		{Role: "operator", Logins: []string{"*"}, Channels: []string{Agent, JoinSession, LocalForward, RemoteForward, SFTP, SocketForward, X11}, Ways: []string{WayDirect, WayEndToEnd, WayHub}},
		{Role: "operator", Logins: []string{"*"}, Except: []string{"root", "sys*"}, Channels: []string{Exec, Shell}, Ways: []string{WayDirect, WayEndToEnd, WayHub}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
}

func TestGlobsOverlapExactlyWhereATextMatchesBoth(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	text := func(alphabet string, n int) string {
		var b strings.Builder
		for range r.IntN(n + 1) {
			b.WriteByte(alphabet[r.IntN(len(alphabet))])
		}
		return b.String()
	}
	var all []string // every text of a and b up to a length that is enough for patterns of four
	for n := range 8 {
		for i := range 1 << n {
			s := make([]byte, n)
			for j := range s {
				s[j] = "ab"[i>>j&1]
			}
			all = append(all, string(s))
		}
	}
	met := 0
	for range 2000 {
		a, b := text("ab*", 4), text("ab*", 4)
		want := slices.ContainsFunc(all, func(s string) bool { return glob(a, s) && glob(b, s) })
		if got := overlap(a, b); got != want || overlap(b, a) != want {
			t.Fatalf("%q and %q: %v, want %v", a, b, got, want)
		}
		if want {
			met++
		}
	}
	if met < 200 || met > 1800 {
		t.Errorf("%d of 2000 met: the patterns drawn are no test", met)
	}
}

func TestExplainNamesTheRuleAndTheLabel(t *testing.T) {
	roles := []Role{
		{Name: "field", Allow: Rule{Devices: map[string][]string{"site": {"ber"}}, Logins: []string{"root"}, Channels: []string{Shell}, Ways: []string{WayHub}}},
		{Name: "harbour", Allow: Rule{Devices: map[string][]string{"site": {"ham"}}, Logins: []string{"*"}, Channels: []string{Shell}}},
		{Name: "noprod", Deny: Rule{Devices: map[string][]string{"env": {"prod"}}}},
		{Name: "noroot", Deny: Rule{Logins: []string{"root"}}},
		{Name: "nothing"},
	}
	got := Explain(roles, gw, Question{"root", Shell, WayHub})
	want := []Line{
		{"field", EffectAllows, "allows it: devices {site: [ber]}, logins [root], channels [shell], ways [hub]"},
		{"harbour", EffectNone, "allows devices {site: [ham]}, and gw-1 has site=ber"},
		{"noprod", EffectNone, "denies devices {env: [prod]}, and gw-1 has env=test"},
		{"noroot", EffectDenies, "denies it: logins [root]"},
		{"nothing", EffectNone, "allows no device"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	got = Explain(roles, gw, Question{"diag", SFTP, WayEndToEnd})
	if want := "allows the device, but only logins [root] and channels [shell] and ways [hub]"; got[0].Text != want {
		t.Errorf("got %+v", got[0])
	}
}

func TestRefusalNamesTheCommandOfTheWayThatWorks(t *testing.T) {
	for _, tt := range []struct {
		ways             []string
		login, hub, want string
	}{
		{[]string{WayHub}, "", "hub.example.com:22", "ssh gw-1@hub.example.com"},
		{[]string{WayHub}, "root", "hub.example.com:2222", "ssh -p 2222 root=gw-1@hub.example.com"},
		{[]string{WayEndToEnd}, "root", "hub.example.com:22", "ssh -J hub.example.com root@gw-1"},
		{[]string{WayEndToEnd}, "", "[2001:db8::1]:2222", "ssh -J [2001:db8::1]:2222 LOGIN@gw-1"},
		{[]string{WayHub}, "", "hub", "ssh gw-1@hub"},
		{[]string{WayDirect}, "root", "hub", "ssh root@direct-gw-1, as `hawser config ssh` has it"},
		{nil, "", "hub", ""},
	} {
		if got := WayIn(tt.ways, "gw-1", tt.login, tt.hub); got != tt.want {
			t.Errorf("%v: got %q, want %q", tt, got, tt.want)
		}
	}
}

func TestADecisionAllocatesNothing(t *testing.T) {
	operator, _ := Builtin("operator")
	c := Compile(1, []Role{{Name: "noroot", Deny: Rule{Logins: []string{"root"}}}, operator}, gw)
	held := []string{"noroot", "operator"}
	for _, login := range []string{"diag", "root"} {
		if n := testing.AllocsPerRun(100, func() { c.Evaluate(held, login, SFTP, WayHub) }); n > 0 {
			t.Errorf("%s: %v allocations", login, n)
		}
	}
}
