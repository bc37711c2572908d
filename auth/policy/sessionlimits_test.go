package policy

import (
	"net/netip"
	"testing"
	"time"
)

func TestTheShortestOfWhatRolesSayLimitsASession(t *testing.T) {
	role := func(name string, login string, o Options) Role {
		return Role{Name: name, Allow: Rule{Devices: map[string][]string{"*": {"*"}}, Logins: []string{login}, Channels: []string{Shell}}, Options: o}
	}
	roles := []Role{
		role("a", "*", Options{IdleTimeout: time.Hour, MaxSessionDuration: 2 * time.Hour}),
		role("b", "*", Options{IdleTimeout: 20 * time.Minute}),
		role("root", "root", Options{IdleTimeout: time.Minute, MaxSessionDuration: 3 * time.Hour, DisconnectExpiredCert: true}),
		role("elsewhere", "nobody", Options{IdleTimeout: time.Second}),
		{Name: "denies", Deny: Rule{Channels: []string{Agent}}, Options: Options{IdleTimeout: time.Second}},
	}
	c := Compile(1, roles, Device{Name: "gw-1"})
	blob, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	decoded, err := Decode(blob)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		login string
		roles []string
		want  SessionLimits
	}{
		{"diag", []string{"a"}, SessionLimits{Idle: time.Hour, Duration: 2 * time.Hour}},
		{"diag", []string{"a", "b", "root", "denies"}, SessionLimits{Idle: 20 * time.Minute, Duration: 2 * time.Hour}},
		{"root", []string{"a", "b", "root", "elsewhere"}, SessionLimits{Idle: time.Minute, Duration: 2 * time.Hour, EndWithCredential: true}},
		{"root", []string{"denies"}, SessionLimits{}},
	} {
		for _, c := range []Compiled{c, decoded} {
			if got := c.Access(tt.roles).For(tt.login, WayHub).Session; got != tt.want {
				t.Errorf("%s with %v: %+v, want %+v", tt.login, tt.roles, got, tt.want)
			}
		}
	}
	want := SessionLimits{Idle: time.Second, Duration: 2 * time.Hour, EndWithCredential: true}
	if got := LimitsOf(roles); got != want {
		t.Errorf("of all roles: %+v, want %+v", got, want)
	}
}

// A limit that rounding or a hostile encoding turned into none, or into the past, would be believed in.
func TestALimitIsNeverLostInItsEncoding(t *testing.T) {
	for _, d := range []time.Duration{time.Nanosecond, 1500 * time.Microsecond, 1<<63 - 1} {
		r := compiledRole{name: "a", idle: d, duration: d, detachedLife: DefaultDetachedLife}
		blob, err := Compiled{roles: []compiledRole{r}}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		c, err := Decode(blob)
		if d > time.Hour && err != nil {
			continue // refused whole, which denies
		}
		if err != nil || c.roles[0].idle < time.Millisecond || c.roles[0].duration < time.Millisecond {
			t.Errorf("%v came back as %+v, %v", d, c.roles, err)
		}
	}
}

func TestALimitTooShortToBeMeantIsRefused(t *testing.T) {
	for _, o := range []Options{{IdleTimeout: time.Millisecond}, {MaxSessionDuration: -time.Hour}} {
		if errs := Validate(Role{Name: "x", Options: o}); len(errs) != 1 {
			t.Errorf("%+v: %v", o, errs)
		}
	}
	if errs := Validate(Role{Name: "x", Options: Options{IdleTimeout: time.Second}}); len(errs) > 0 {
		t.Errorf("1s: %v", errs)
	}
}

// An agent that is older than a demand of a role cannot hold its holders to it. As a known demand it reaches as far as the role does, whatever else the
// person holds: a second role that allows the same once let him in without it.
func TestARoleWithADemandThatIsNotKnownOpensNothingWithAnyOther(t *testing.T) {
	devices := map[string][]string{"*": {"*"}}
	rule := Rule{Devices: devices, Logins: []string{"*"}, Channels: []string{Shell, LocalForward}}
	diag := Rule{Devices: devices, Logins: []string{"diag"}, Channels: []string{Exec}, Ways: []string{WayHub}}
	roles := []Role{
		{Name: "diag", Allow: diag},
		{Name: "new", Allow: rule, Deny: Rule{Logins: []string{"root"}}},
		{Name: "old", Allow: rule},
		{Name: "none", Deny: Rule{Logins: []string{"nobody"}}},
	}
	for _, tt := range []struct {
		add        demands
		to         string
		login, way string
		roles      []string
		want       bool
	}{
		{0, "new", "diag", WayHub, []string{"new"}, true},
		{0, "new", "diag", WayHub, []string{"new", "old"}, true},
		{1 << knownDemands, "new", "diag", WayHub, []string{"new"}, false},
		{1 << knownDemands, "new", "diag", WayDirect, []string{"new", "old"}, false},
		{1 << 63, "new", "diag", WayHub, []string{"old", "new"}, false},
		{1 << 63, "new", "diag", WayHub, []string{"old"}, true}, // not his
		{1 << 63, "new", "root", WayHub, []string{"new", "old"}, false},
		{1 << 63, "none", "diag", WayHub, []string{"none", "old"}, true}, // allows nothing
		{1 << 63, "diag", "diag", WayHub, []string{"diag", "old"}, false},
		{1 << 63, "diag", "diag", WayDirect, []string{"diag", "old"}, true}, // allows nothing that way
		{1 << 63, "diag", "root", WayHub, []string{"diag", "old"}, true},    // or with that login
	} {
		c := Compile(1, roles, Device{Name: "gw-1"})
		c.roles[c.find(tt.to)].demands |= tt.add
		c, err := Decode(encode(t, c))
		if err != nil {
			t.Fatal(err)
		}
		all := c.Access(tt.roles)
		access := all.For(tt.login, tt.way)
		forward := access.Forward("localhost", netip.Addr{}, 80)
		d := c.Evaluate(tt.roles, tt.login, Shell, tt.way)
		if d.Allowed != tt.want || len(access.Channels) > 0 != tt.want || forward != tt.want {
			t.Errorf("%b of %s, %s by %s as %q: allowed %t (%s), channels %q, forwards %t", tt.add, tt.to, tt.login, tt.way, tt.roles, d.Allowed, d.Rule, access.Channels, forward)
		}
		if got := c.Reaches(tt.roles, ""); got != (len(all.Channels) > 0) {
			t.Errorf("%b of %s, as %q: reaches %t, all channels %q", tt.add, tt.to, tt.roles, got, all.Channels)
		}
	}
}

func TestWhyADemandThatIsNotKnownOpensNothingIsSaid(t *testing.T) {
	rule := Rule{Devices: map[string][]string{"*": {"*"}}, Logins: []string{"*"}, Channels: []string{Shell}}
	c := Compile(1, []Role{{Name: "new", Allow: rule}, {Name: "old", Allow: rule}}, Device{Name: "gw-1"})
	c.roles[c.find("new")].demands |= 1 << knownDemands
	if got := c.Evaluate([]string{"new", "old"}, "root", Shell, WayHub).Rule; got != "role new demands what this version does not know" {
		t.Errorf("it says %q", got)
	}
}
