package policy

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var gw = Device{UUID: "u-1", Name: "gw-1", Labels: map[string]string{"site": "ber", "env": "test", "name": "forged"}}

func every(channels ...string) Rule {
	return Rule{Devices: map[string][]string{"*": {"*"}}, Logins: []string{"*"}, Channels: channels}
}

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		devices map[string][]string
		want    bool
	}{
		{nil, false},
		{map[string][]string{"*": {"*"}}, true},
		{map[string][]string{"site": {"ams-*", "ber"}}, true},
		{map[string][]string{"site": {"ber"}, "env": {"prod"}}, false},
		{map[string][]string{"site": {"BER"}}, false},
		{map[string][]string{"role": {"*"}}, false},
		{map[string][]string{"name": {"gw-*"}}, true},
		{map[string][]string{"name": {"forged"}}, false},
		{map[string][]string{"uuid": {"u-1"}}, true},
		{map[string][]string{"site": {}}, false},
	} {
		if got := Match(tt.devices, gw); got != tt.want {
			t.Errorf("%v: %v", tt.devices, got)
		}
	}
	for p, want := range map[string]bool{"a*c": true, "*": true, "abc": true, "a*b": false, "*b*": true, "**": true, "": false, "a?c": false, "abc*": true} {
		if glob(p, "abc") != want {
			t.Errorf("glob %q: not %v", p, want)
		}
	}
}

func TestLoginAndChannelMustComeFromOneRole(t *testing.T) {
	shell, sftp := every(Shell), every(SFTP)
	shell.Logins, sftp.Logins = []string{"root"}, []string{"diag"}
	roles := []Role{{Name: "a", Allow: shell}, {Name: "b", Allow: sftp}}
	if !Evaluate(roles, gw, "root", Shell, WayHub).Allowed || Evaluate(roles, gw, "root", SFTP, WayHub).Allowed {
		t.Error("roles mixed")
	}
	if got := Merge(roles, gw).For("root", WayHub).Channels; !slices.Equal(got, []string{Shell}) {
		t.Errorf("root may %v", got)
	}
}

func TestDenyHoldsWhereAllItStatesHolds(t *testing.T) {
	roles := []Role{
		{Name: "all", Allow: every(allChannels...)},
		{Name: "noroot", Deny: Rule{Devices: map[string][]string{"site": {"ber"}}, Logins: []string{"root"}}},
		{Name: "noagent", Deny: Rule{Channels: []string{Agent}}},
		{Name: "noprod", Deny: Rule{Devices: map[string][]string{"env": {"prod"}}}},
		{Name: "nodb", Deny: Rule{ForwardTo: []string{"*:5432"}}},
	}
	prod := Device{Name: "p", Labels: map[string]string{"env": "prod"}}
	for _, tt := range []struct {
		dev            Device
		login, channel string
		want           string // denying or allowing role
	}{
		{gw, "root", Shell, "role noroot denies it"},
		{gw, "diag", Shell, "role all allows it"},
		{gw, "diag", Agent, "role noagent denies it"},
		{prod, "diag", Shell, "role noprod denies it"},
		{Device{Name: "x"}, "root", LocalForward, "role all allows it"},
	} {
		if got := Evaluate(roles, tt.dev, tt.login, tt.channel, WayHub); got.Rule != tt.want {
			t.Errorf("%s %s: %+v, want %s", tt.login, tt.channel, got, tt.want)
		}
	}
	a := Merge(roles, gw).For("diag", WayHub)
	ip := netip.MustParseAddr("10.0.0.1")
	if a.Forward("10.0.0.1", ip, 5432) || !a.Forward("10.0.0.1", ip, 80) {
		t.Error("denied target reached, or another refused")
	}
}

func TestAbsentMeansNoButForWays(t *testing.T) {
	for _, r := range []Rule{{}, {Devices: map[string][]string{"*": {"*"}}}, {Logins: []string{"*"}, Channels: []string{Shell}}} {
		if d := Evaluate([]Role{{Name: "r", Allow: r}}, gw, "root", Shell, WayHub); d.Allowed {
			t.Errorf("%+v allows", r)
		}
	}
	r := every(Shell)
	if !Evaluate([]Role{{Name: "r", Allow: r}}, gw, "root", Shell, WayEndToEnd).Allowed {
		t.Error("no ways named: refused")
	}
	r.Ways = []string{WayHub}
	if Evaluate([]Role{{Name: "r", Allow: r}}, gw, "root", Shell, WayEndToEnd).Allowed {
		t.Error("only hub named: end to end allowed")
	}
}

func TestForwardTargets(t *testing.T) {
	for _, tt := range []struct {
		list []string
		host string
		ip   string
		port uint16
		want bool
	}{
		{nil, "10.0.0.1", "10.0.0.1", 80, true},
		{nil, "169.254.169.254", "169.254.169.254", 80, false},
		{nil, "::ffff:169.254.169.254", "", 80, false},
		{nil, "meta.internal", "169.254.169.254", 80, false},
		{nil, "fe80::1%eth0", "", 80, false},
		{nil, "fd00:ec2::254", "", 80, false},
		{nil, "fd20:ce::254", "", 80, false},
		{nil, "64:ff9b::169.254.169.254", "", 80, false},
		{nil, "64:ff9b::10.0.0.1", "", 80, true},
		{nil, "meta.internal", "100.100.100.200", 80, false},
		{nil, "meta.internal", "", 80, true}, // not resolved
		{[]string{"*:80"}, "169.254.169.254", "", 80, false},
		{[]string{"*:80"}, "meta.internal", "fd00:ec2::254", 80, false},
		{[]string{"*:80"}, "127.0.0.1", "", 80, true},
		{[]string{"localhost:80"}, "localhost", "::1", 80, true},
		{[]string{"*.lan:80"}, "plc.lan", "127.0.0.1", 80, false}, // who answers for .lan does not open the device
		{[]string{"*.lan:80"}, "plc.lan", "0.0.0.0", 80, false},
		{[]string{"*.lan:80"}, "plc.lan", "169.254.169.254", 80, false},
		{[]string{"*.lan:80"}, "plc.lan", "", 80, true},
		{[]string{"*.lan:80", "127.0.0.0/8:80"}, "plc.lan", "127.0.0.1", 80, true},
		{[]string{"[fd00:ec2::254]:80"}, "fd00:ec2::254", "", 80, true},
		{nil, "224.0.0.1", "", 80, false},
		{[]string{"169.254.0.0/16:80"}, "169.254.169.254", "", 80, true},
		{[]string{"127.0.0.1:80"}, "localhost", "127.0.0.1", 80, true},
		{[]string{"127.0.0.1:80"}, "0.0.0.0", "", 80, true},
		{[]string{"127.0.0.1:80"}, "127.0.0.1", "", 81, false},
		{[]string{"192.168.0.0/16:500-502"}, "x", "192.168.3.4", 501, true},
		{[]string{"192.168.0.0/16:502"}, "x", "10.0.0.1", 502, false},
		{[]string{"192.168.0.0/16:502"}, "x", "", 502, true}, // not resolved: could be
		{[]string{"*.lan:*"}, "PLC.lan.", "10.0.0.1", 502, true},
		{[]string{"*.lan:*"}, "10.0.0.1", "10.0.0.1", 502, false},
		{[]string{"[2001:db8::/32]:22"}, "2001:db8::5", "", 22, true},
		{[]string{"/run/x.sock"}, "10.0.0.1", "", 80, false},
	} {
		ts, err := ParseTargets(tt.list)
		if err != nil {
			t.Fatal(err)
		}
		var ip netip.Addr
		if tt.ip != "" {
			ip = netip.MustParseAddr(tt.ip)
		}
		if got := ts.Forward(tt.host, ip, tt.port); got != tt.want {
			t.Errorf("%v %s %s %d: %v", tt.list, tt.host, tt.ip, tt.port, got)
		}
	}
	for _, bad := range []string{"", "x", ":80", "h:", "h:99999", "h:9-1", "10.*:80", "2001:db8::1:80", "[10.0.0.1]:80", "/a/../b", "h :80", "fe80::1%e:1"} {
		if _, err := ParseTargets([]string{bad}); !errors.Is(err, ErrTarget) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	ts, _ := ParseTargets([]string{"/run/*.sock"})
	if !ts.Socket("/run/a.sock") || ts.Socket("/run/../etc/a.sock") || ts.Socket("run/a.sock") || ts.Socket("/tmp/a") {
		t.Error("socket paths")
	}
}

// randomRole draws from small alphabets so that roles overlap, conflict and repeat.
func randomRole(r *rand.Rand, i int) Role {
	some := func(of []string) []string {
		var out []string
		for _, s := range of {
			if r.IntN(2) == 0 {
				out = append(out, s)
			}
		}
		return out
	}
	rule := func() Rule {
		return Rule{
			Devices: [...]map[string][]string{nil, {"*": {"*"}}, {"site": {"ber"}}, {"site": {"x*"}}}[r.IntN(4)],
			Logins:  some([]string{"root", "d*", "diag", "*"}), Channels: some(allChannels), Ways: some(allWays),
			ForwardTo: some([]string{"10.0.0.0/8:*", "*.lan:80", "/run/*"}),
		}
	}
	role := Role{Name: fmt.Sprintf("r%d", i), Allow: rule()}
	if r.IntN(3) == 0 {
		role.Deny = rule()
	}
	role.Options = Options{
		Record: []string{"", RecordOff, RecordBestEffort, RecordStrict}[r.IntN(4)], MFA: []string{"", MFANone, MFALogin, MFASession}[r.IntN(4)],
		LockMode: []string{"", LockBestEffort, LockStrict}[r.IntN(3)], Credentials: some([]string{CredentialCertificate, CredentialKey}),
		SessionTTL: time.Duration(r.IntN(3)) * time.Hour,
	}
	if r.IntN(2) == 0 {
		role.Options.DetachedLife = new(time.Duration(r.IntN(3)) * time.Minute)
	}
	return role
}

func TestMergeDoesNotDependOnTheOrderOfRoles(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		roles := make([]Role, 1+r.IntN(5))
		for i := range roles {
			roles[i] = randomRole(r, i)
		}
		want, wantBytes, all := Merge(roles, gw), encode(t, Compile(1, roles, gw)), summary(roles)
		for range 4 {
			r.Shuffle(len(roles), func(i, j int) { roles[i], roles[j] = roles[j], roles[i] })
			c := Compile(1, roles, gw)
			if !bytes.Equal(encode(t, c), wantBytes) || !reflect.DeepEqual(Merge(roles, gw), want) {
				t.Fatalf("order matters: %+v", roles)
			}
			if !reflect.DeepEqual(summary(roles), all) {
				t.Fatalf("order matters to what needs no device: %+v", roles)
			}
			back, err := Decode(wantBytes)
			if err != nil {
				t.Fatal(err)
			}
			// The order in which a user has his roles, too, and one held twice.
			held := append(names(roles), names(roles)[0])
			r.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
			for _, login := range []string{"root", "diag", "dx"} {
				for _, way := range allWays {
					narrow, direct := back.Access(held).For(login, way), Merge(roles, gw).For(login, way)
					if narrow.MFA() != direct.MFA() || !slices.Equal(narrow.Credentials(), direct.Credentials()) || narrow.StrictLocks() != direct.StrictLocks() ||
						narrow.Record != direct.Record || narrow.DetachedLife != direct.DetachedLife || !slices.Equal(narrow.ForwardTo, direct.ForwardTo) {
						t.Fatalf("%s %s: compiled %+v, from roles %+v", login, way, narrow, direct)
					}
					for _, ch := range allChannels {
						a, b := Evaluate(roles, gw, login, ch, way), back.Evaluate(held, login, ch, way)
						if a != b || a.Allowed != slices.Contains(narrow.Channels, ch) {
							t.Fatalf("%s %s %s: %+v, compiled %+v, access %v", login, ch, way, a, b, narrow.Channels)
						}
					}
				}
			}
		}
	}
}

// summary is all that roles mean where no device is known.
func summary(roles []Role) []any {
	return []any{
		MFA(roles), Credentials(roles), LockMode(roles), SessionTTL(roles, time.Hour), RecordingScope(roles), SessionScope(roles), AuditScope(roles),
		MayAdmin(roles, "role", "list"), Explain(roles, gw, Question{}), Review(roles, gw),
	}
}

func TestMoreDenyNeverAllowsMore(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		roles := []Role{randomRole(r, 0), randomRole(r, 1)}
		extra := Role{Name: "x", Deny: randomRole(r, 2).Allow}
		for _, ch := range allChannels {
			if Evaluate(append(slices.Clone(roles), extra), gw, "diag", ch, WayHub).Allowed && !Evaluate(roles, gw, "diag", ch, WayHub).Allowed {
				t.Fatalf("a deny allowed %s", ch)
			}
		}
	}
}

func encode(t testing.TB, c Compiled) []byte {
	t.Helper()
	b, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSignedPolicyIsForOneDevice(t *testing.T) {
	admin, _ := Builtin("admin")
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	keys := []ed25519.PublicKey{key.Public().(ed25519.PublicKey)}
	blob, err := SignCompiled(key, "c", "u-1", Compile(7, []Role{admin}, gw))
	if err != nil {
		t.Fatal(err)
	}
	c, err := OpenCompiled(blob, keys, "c", "u-1")
	if err != nil || c.Revision != 7 || !c.Evaluate([]string{"admin"}, "root", Shell, WayHub).Allowed || c.Evaluate([]string{"x"}, "root", Shell, WayHub).Allowed {
		t.Errorf("%+v %v", c, err)
	}
	for want, open := range map[error]func() (Compiled, error){
		ErrWrongCluster: func() (Compiled, error) { return OpenCompiled(blob, keys, "d", "u-1") },
		ErrWrongDevice:  func() (Compiled, error) { return OpenCompiled(blob, keys, "c", "u-2") },
		ErrSignature:    func() (Compiled, error) { return OpenCompiled(blob, nil, "c", "u-1") },
		ErrMalformed:    func() (Compiled, error) { return OpenCompiled(blob[:9], keys, "c", "u-1") },
	} {
		if _, err := open(); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

func TestPolicyAbove16KiBIsRefused(t *testing.T) {
	var roles []Role
	for i := range 200 {
		r := Role{Name: fmt.Sprintf("r%d", i), Allow: every(allChannels...)}
		r.Allow.Logins = []string{strings.Repeat("x", 200)}
		roles = append(roles, r)
	}
	if _, err := Compile(1, roles, gw).Encode(); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v", err)
	}
}

func resource() map[string]any {
	return map[string]any{
		"kind": "role", "name": "field",
		"allow": map[string]any{
			"devices": map[string]any{"site": []any{"ber", "ams-*"}}, "logins": []any{"root"}, "channels": []any{"shell"},
			"forward_to": []any{"127.0.0.1:80"}, "recordings": "own", "ways": []any{"hub"},
			"admin": []any{map[string]any{"resources": []any{"token"}, "verbs": []any{"create"}}},
		},
		"deny":    map[string]any{"devices": map[string]any{"env": []any{"prod"}}},
		"options": map[string]any{"session_ttl": "8h", "record": "best-effort"},
	}
}

func TestRoleRoundTripsAsAResource(t *testing.T) {
	r, err := FromMap(resource())
	if err != nil {
		t.Fatal(err)
	}
	if got := r.ToMap(); !reflect.DeepEqual(got, resource()) {
		t.Errorf("got %v", got)
	}
	if r.Options.SessionTTL != 8*time.Hour || SessionTTL([]Role{r, {}}, time.Hour) != 8*time.Hour || SessionTTL(nil, time.Hour) != time.Hour {
		t.Error("session_ttl")
	}
}

func TestResourceErrorsNameTheKey(t *testing.T) {
	set := func(path string, v any) map[string]any {
		m := resource()
		at := m
		keys := strings.Split(path, ".")
		for _, k := range keys[:len(keys)-1] {
			at = at[k].(map[string]any)
		}
		at[keys[len(keys)-1]] = v
		return m
	}
	for _, tt := range []struct {
		path string
		v    any
		want string
	}{
		{"kind", "cluster", "kind: is not role"},
		{"name", "admin", "name: role admin is built in"},
		{"name", "a b", "name: use 1 to 63"},
		{"color", "red", "color: unknown key"},
		{"idle_timeout", "15m", "idle_timeout: unknown key"},
		{"allow.login", []any{"x"}, "allow.login: unknown key"},
		{"allow.logins", 7, "allow.logins: wants a list"},
		{"allow.logins", []any{7}, "allow.logins[0]: wants text"},
		{"allow.devices", map[string]any{"*": []any{"x"}}, `allow.devices.*: stands for every device`},
		{"allow.channels", []any{"fly"}, `allow.channels: "fly" is not one of`},
		{"allow.ways", []any{"hubs"}, `allow.ways: "hubs" is not one of hub, end-to-end, direct`},
		{"allow.join", []any{map[string]any{"roles": []any{"x"}}}, "allow.join[0]: needs roles and modes"},
		{"allow.join", []any{map[string]any{"roles": []any{"x"}, "modes": []any{"watcher"}}}, `allow.join[0].modes: "watcher" is not one of`},
		{"allow.audit", "some", "allow.audit: "},
		{"allow.admin", []any{map[string]any{"resource": "x"}}, "allow.admin[0].resource: unknown key"},
		{"allow.forward_to", []any{"x"}, "allow.forward_to: "},
		{"allow.recordings", "some", "allow.recordings: "},
		{"options.session_ttl", "8", "options.session_ttl: wants a duration"},
		{"options.max_sessions", "x", "options.max_sessions: wants a whole number"},
		{"options.record", "loud", `options.record: "loud" is not one of best-effort, off, strict`},
		{"options.presence_check", "1s", "options.presence_check: 0, which is never, or 10s to 24h"},
		{"options.record_stdin", "loud", "options.record_stdin: "},
		{"options.mfa", "always", `options.mfa: "always" is not one of none, login, session`},
		{"options.credentials", []any{"password"}, "options.credentials: "},
		{"options.require_moderators", map[string]any{"count": 1}, "options.require_moderators.roles: name at least one role"},
		{"options.require_moderators", map[string]any{"roles": "lead"}, "options.require_moderators.count: 1 to 16"},
		{"options.reserved", "yes", "options.reserved: wants true or false"},
		{"options.x\x1b[2J", 1, `options."x\x1b[2J": unknown key`},
	} {
		_, err := FromMap(set(tt.path, tt.v))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s = %v: got %v, want %s", tt.path, tt.v, err, tt.want)
		}
	}
	defaults := set("options", map[string]any{
		"max_sessions": 0, "reserved": false, "detached_life": "10m", "presence_check": "0s", "record_stdin": false,
		"mfa": "none", "lock_mode": "best-effort", "cap_mode": "available", "credentials": []any{"key", "certificate"},
		"create_host_user": "off",
	})
	if _, err := FromMap(defaults); err != nil {
		t.Errorf("defaults spelled out: %v", err)
	}
}

func TestBuiltinRoles(t *testing.T) {
	for name, want := range map[string][3]bool{"admin": {true, true, true}, "operator": {true, false, true}, "auditor": {false, false, true}} {
		r, ok := Builtin(name)
		if !ok || len(Validate(r)) > 0 {
			t.Fatalf("%s: %v", name, Validate(r))
		}
		rs := []Role{r}
		got := [3]bool{Evaluate(rs, gw, "root", Shell, WayEndToEnd).Allowed, MayAdmin(rs, "token", "create").Allowed, RecordingScope(rs) == ScopeAll}
		if got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if _, ok := Builtin("root"); ok {
		t.Error("root is built in")
	}
	deny := Role{Name: "d", Deny: Rule{Recordings: ScopeAll, Admin: []Admin{{Resources: []string{"token"}, Verbs: []string{"*"}}}}}
	admin, _ := Builtin("admin")
	if rs := []Role{admin, deny}; RecordingScope(rs) != ScopeOwn || MayAdmin(rs, "token", "create").Allowed || !MayAdmin(rs, "user", "get").Allowed {
		t.Error("deny does not win over admin")
	}
}

func FuzzDecode(f *testing.F) {
	admin, _ := Builtin("admin")
	f.Add(encode(f, Compile(1, []Role{admin}, gw)))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Decode(b)
		if err != nil {
			return
		}
		c.Evaluate([]string{"admin"}, "root", Shell, WayHub)
		if out, err := c.Encode(); err == nil {
			if _, err := Decode(out); err != nil {
				t.Error(err)
			}
		}
	})
}

func FuzzOpenCompiled(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := OpenCompiled(b, nil, "c", "d"); err == nil {
			t.Error("opened without a key")
		}
	})
}

func FuzzParseTargets(f *testing.F) {
	for _, s := range []string{"10.0.0.0/8:1-2", "[::1]:*", "/run/*", "*.lan:80"} {
		f.Add(s, "h")
	}
	f.Fuzz(func(t *testing.T, s, host string) {
		if ts, err := ParseTargets([]string{s}); err == nil {
			ts.Forward(host, netip.Addr{}, 80)
			ts.Socket(host)
		}
	})
}

func TestShortestDetachedLifeOfTheRolesThatAllowCounts(t *testing.T) {
	with := func(name string, life *time.Duration, allow bool) Role {
		r := Role{Name: name, Options: Options{DetachedLife: life}}
		if allow {
			r.Allow = Rule{Devices: map[string][]string{"*": {"*"}}, Logins: []string{"root"}, Channels: []string{Shell}}
		}
		return r
	}
	unsaid, short, none := with("unsaid", nil, true), with("short", new(time.Minute), true), with("none", new(time.Duration(0)), true)
	long, elsewhere := with("long", new(time.Hour), true), with("elsewhere", new(time.Second), false)
	for name, tt := range map[string]struct {
		roles []Role
		want  time.Duration
	}{
		"no role":                       {nil, 0},
		"unsaid":                        {[]Role{unsaid}, DefaultDetachedLife},
		"short and unsaid":              {[]Role{unsaid, short}, time.Minute},
		"short and long":                {[]Role{long, short}, time.Minute},
		"long and unsaid":               {[]Role{long, unsaid}, DefaultDetachedLife},
		"long alone":                    {[]Role{long}, time.Hour},
		"none is shortest":              {[]Role{short, none, unsaid}, 0},
		"a role that allows nothing":    {[]Role{elsewhere, unsaid}, DefaultDetachedLife},
		"the order makes no difference": {[]Role{none, short}, 0},
	} {
		if got := Merge(tt.roles, gw).For("root", WayHub).DetachedLife; got != tt.want {
			t.Errorf("%s: got %v, want %v", name, got, tt.want)
		}
		b, err := Compile(1, tt.roles, gw).Encode()
		if err != nil {
			t.Fatal(err)
		}
		c, err := Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Access(names(tt.roles)).DetachedLife; got != tt.want {
			t.Errorf("%s: the device reads %v, want %v", name, got, tt.want)
		}
	}
}

func TestDetachedLifeOfARoleHasBounds(t *testing.T) {
	for text, ok := range map[string]bool{"0s": true, "10m": true, "60m": true, "61m": false, "-1s": false} {
		m := resource()
		m["options"] = map[string]any{"detached_life": text}
		r, err := FromMap(m)
		if (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
		if ok && text == "0s" && (r.Options.DetachedLife == nil || *r.Options.DetachedLife != 0) {
			t.Error("0s was taken for unsaid")
		}
	}
}

func TestAllIsEachOfWhatItStandsFor(t *testing.T) {
	all := Admin{Resources: []string{"*"}, Verbs: []string{"*"}}
	admin, _ := Builtin("admin")
	noCA := Role{Name: "no-ca", Deny: Rule{Admin: []Admin{{Resources: []string{"ca"}, Verbs: []string{"update"}}}}}
	users := Role{Name: "users", Allow: Rule{Admin: []Admin{{Resources: []string{"user"}, Verbs: []string{"*"}}}}}
	for _, c := range []struct {
		what  string
		roles []Role
		rule  Admin
		want  bool
	}{
		{"all of who has all", []Role{admin}, all, true},
		{"all of who is denied a part", []Role{admin, noCA}, all, false},
		{"a verb over all, denied another", []Role{admin, noCA}, Admin{[]string{"*"}, []string{"list"}}, true},
		{"all verbs over what he has", []Role{users}, Admin{[]string{"user"}, []string{"*"}}, true},
		{"a verb over more than he has", []Role{users}, Admin{[]string{"*"}, []string{"list"}}, false},
	} {
		if got := MayAdminAll(c.roles, c.rule); got != c.want {
			t.Errorf("%s: got %v, want %v", c.what, got, c.want)
		}
	}
}
