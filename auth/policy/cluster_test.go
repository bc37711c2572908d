package policy

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestTheMostThatAnyRoleHasRecordedOfStdinCounts(t *testing.T) {
	roles := []Role{
		{Name: "none", Allow: every(Shell)},
		{Name: "off", Allow: every(Shell), Options: Options{RecordStdin: StdinOff}},
		{Name: "redacted", Allow: every(Shell), Options: Options{RecordStdin: StdinRedacted}},
		{Name: "full", Allow: every(Shell), Options: Options{RecordStdin: StdinFull}},
		{Name: "elsewhere", Allow: every(Exec), Options: Options{RecordStdin: StdinFull}},
	}
	roles[4].Allow.Logins = []string{"diag"}
	for want, names := range map[string][]string{
		"": {"none", "off"}, StdinRedacted: {"redacted", "none", "off", "elsewhere"}, StdinFull: {"off", "full", "redacted"},
	} {
		blob, err := Compile(1, roles, Device{}).Encode()
		if err != nil {
			t.Fatal(err)
		}
		c, err := Decode(blob)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Access(names).For("root", WayHub).RecordStdin; got != want {
			t.Errorf("%v: stdin is recorded %q, want %q", names, got, want)
		}
	}
}

func TestStrictestDemandOfTheRolesThatAllowCounts(t *testing.T) {
	everyone := map[string][]string{"*": {"*"}}
	with := func(name string, login string, o Options) Role {
		return Role{Name: name, Allow: Rule{Devices: everyone, Logins: []string{login}, Channels: []string{Shell}}, Options: o}
	}
	roles := []Role{
		with("a", "root", Options{MFA: MFALogin, Credentials: []string{CredentialCertificate}}),
		with("b", "*", Options{}),
		with("c", "diag", Options{MFA: MFASession, LockMode: LockStrict, Credentials: []string{CredentialKey, CredentialCertificate}}),
		{Name: "d", Options: Options{MFA: MFASession, Credentials: []string{CredentialKey}}}, // allows nothing
	}
	for login, want := range map[string]struct {
		mfa, lock   string
		credentials []string
	}{
		"root":  {MFALogin, LockBestEffort, []string{CredentialCertificate}},
		"diag":  {MFASession, LockStrict, []string{CredentialCertificate, CredentialKey}},
		"other": {MFANone, LockBestEffort, []string{CredentialCertificate, CredentialKey}},
	} {
		a := Merge(roles, gw).For(login, WayHub)
		if a.MFA() != want.mfa || a.LockMode() != want.lock || a.StrictLocks() != (want.lock == LockStrict) || !slices.Equal(a.Credentials(), want.credentials) {
			t.Errorf("%s: %s, %s, %v", login, a.MFA(), a.LockMode(), a.Credentials())
		}
	}
	if got := Credentials(roles); len(got) != 0 {
		t.Errorf("roles that accept nothing in common accept %v", got)
	}
	if MFA(roles) != MFASession || LockMode(roles) != LockStrict {
		t.Error("strictest of all")
	}
}

func TestClusterGivesDefaultsAndBoundsWays(t *testing.T) {
	c := Cluster{Record: RecordOff, MFA: MFALogin, IdleTimeout: time.Minute, Ways: []string{WayHub}}
	loud := Role{Name: "loud", Allow: every(Shell), Options: Options{Record: RecordStrict, MFA: MFANone, IdleTimeout: time.Hour}}
	e2e := Role{Name: "e2e", Allow: every(Shell)}
	e2e.Allow.Ways = []string{WayEndToEnd}
	admin, _ := Builtin("admin")
	given := []Role{{Name: "plain", Allow: every(Shell)}, loud, e2e, admin}
	before := names(given)
	roles := c.Apply(given)
	if !slices.Equal(names(given), before) || given[0].Options.MFA != "" || given[0].Allow.Ways != nil {
		t.Error("Apply changed what it was given")
	}
	if o := roles[0].Options; o.Record != RecordOff || o.MFA != MFALogin || o.IdleTimeout != time.Minute {
		t.Errorf("plain got %+v", o)
	}
	if o := roles[1].Options; o.Record != RecordStrict || o.MFA != MFANone || o.IdleTimeout != time.Hour {
		t.Errorf("loud got %+v", o)
	}
	for i, want := range []bool{true, true, false, true} {
		one := roles[i : i+1]
		if got := Evaluate(one, gw, "root", Shell, WayHub).Allowed; got != want {
			t.Errorf("%s by hub: %v", one[0].Name, got)
		}
		if Evaluate(one, gw, "root", Shell, WayEndToEnd).Allowed {
			t.Errorf("%s has a way that the cluster does not", one[0].Name)
		}
	}
	if got := Merge(c.Apply([]Role{e2e}), gw); len(got.Ways) > 0 || len(got.Logins) > 0 || len(Review(c.Apply([]Role{e2e}), gw)) > 0 {
		t.Errorf("a role without a way left has %+v", got)
	}
}

func clusterResource() map[string]any {
	return map[string]any{
		"kind": "cluster", "name": "ber.example", "record": "best-effort", "record_stdin": "off", "idle_timeout": "15m", "mfa": "login",
		"ways": []any{"direct", "end-to-end", "hub"}, "recording_recipients": []any{}, "retention": map[string]any{"recordings": "90d", "audit": "0s"},
		"recording_quota": "50GiB",
		"caps":            map[string]any{"per_source": 4, "per_device": 0, "per_hub": 0, "per_connection": 0},
		"hub_list":        map[string]any{"window": "0s"}, "clone": "quarantine", "rejoin_window": "365d", "approve": false,
	}
}

func TestClusterRoundTripsAsAResource(t *testing.T) {
	c, err := ClusterFromMap(clusterResource())
	if err != nil {
		t.Fatal(err)
	}
	if got := c.ToMap(); !reflect.DeepEqual(got, clusterResource()) {
		t.Errorf("got %v", got)
	}
	short, err := ClusterFromMap(map[string]any{"kind": "cluster"})
	if err != nil || !reflect.DeepEqual(short.ToMap(), Cluster{}.ToMap()) {
		t.Errorf("an empty one is not the default: %v, %v", short, err)
	}
	if len(PendingCluster(short)) > 0 {
		t.Errorf("defaults are pending: %v", PendingCluster(short))
	}
	for path, tt := range map[string]struct {
		v    any
		want string
	}{
		"kind":                 {"role", "kind: is not cluster"},
		"colour":               {1, "colour: unknown key"},
		"ways":                 {[]any{"mosh"}, "ways: "},
		"clone":                {"kill", `clone: "kill" is not one of quarantine, replace, split`},
		"retention":            {map[string]any{"recordings": "1m"}, "retention.recordings: 0, which is for ever, or 24h to 36500d"},
		"recording_quota":      {"5GB", "recording_quota: "},
		"rejoin_window":        {"90", "rejoin_window: wants a duration"},
		"recording_recipients": {"ssh-ed25519", "recording_recipients: "},
		"idle_timeout":         {"10ms", "idle_timeout: 0, which is no limit, or at least 1s"},
		"hub_list":             {map[string]any{"window": "1ms"}, "hub_list.window: "},
		"caps":                 {map[string]any{"per_user": 1}, "caps.per_user: unknown key"},
	} {
		m := clusterResource()
		m[path] = tt.v
		if _, err := ClusterFromMap(m); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", path, err, tt.want)
		}
	}
}

// Of the rules for a recording the one that keeps it longest counts, in whatever order they stand; without one the cluster's own period.
func TestTheRuleThatKeepsARecordingLongestCounts(t *testing.T) {
	const day = 24 * time.Hour
	lab := RetentionRule{Devices: map[string][]string{"env": {"lab*"}}, Recordings: 7 * day}
	prod := RetentionRule{Devices: map[string][]string{"env": {"prod"}}, Roles: []string{"contractor-*"}, Recordings: 730 * day}
	dba := RetentionRule{Roles: []string{"dba"}, Recordings: 400 * day}
	ever := RetentionRule{Roles: []string{"root"}}
	r := Retention{Recordings: 90 * day, Rules: []RetentionRule{lab, prod, dba, ever}}
	env := func(v string) Device { return Device{Name: "gw-1", Labels: map[string]string{"env": v}} }
	for _, tt := range []struct {
		roles []string
		dev   Device
		want  time.Duration
		key   string
	}{
		{nil, Device{}, 90 * day, "retention.recordings"},
		{[]string{"field"}, env("prod"), 90 * day, "retention.recordings"},
		{[]string{"field"}, env("lab-2"), 7 * day, "retention.rules[0]"},
		{[]string{"contractor-x"}, env("prod"), 730 * day, "retention.rules[1]"},
		{[]string{"contractor-x"}, env("lab"), 7 * day, "retention.rules[0]"},
		{[]string{"dba", "field"}, env("lab"), 400 * day, "retention.rules[2]"},
		{[]string{"dba", "contractor-x"}, env("prod"), 730 * day, "retention.rules[1]"},
		{[]string{"contractor-x", "root", "dba"}, env("prod"), 0, "retention.rules[3]"},
	} {
		got, key := r.Keeps(tt.roles, tt.dev)
		if got != tt.want || key != tt.key {
			t.Errorf("%v on %v: %v by %s, want %v by %s", tt.roles, tt.dev.Labels, got, key, tt.want, tt.key)
		}
		back := Retention{Recordings: r.Recordings, Rules: slices.Clone(r.Rules)}
		slices.Reverse(back.Rules)
		if again, _ := back.Keeps(tt.roles, tt.dev); again != got {
			t.Errorf("%v on %v: %v, and %v in another order", tt.roles, tt.dev.Labels, got, again)
		}
	}
	if p := r.Periods(); !slices.Equal(p, []time.Duration{7 * day, 90 * day, 400 * day, 730 * day, 0}) {
		t.Errorf("periods %v", p)
	}
}

func TestRetentionRulesAreResources(t *testing.T) {
	rules := func(r ...any) map[string]any {
		return map[string]any{"kind": "cluster", "retention": map[string]any{"recordings": "90d", "rules": r}}
	}
	c, err := ClusterFromMap(rules(map[string]any{"devices": map[string]any{"env": "lab"}, "recordings": "7d"}, map[string]any{"roles": []any{"dba"}, "recordings": 0}))
	if err != nil || len(c.Retention.Rules) != 2 {
		t.Fatal(c.Retention, err)
	}
	again, err := ClusterFromMap(c.ToMap())
	if err != nil || !reflect.DeepEqual(again, c) {
		t.Errorf("came back as %+v, %v", again, err)
	}
	for want, rule := range map[string]map[string]any{
		"names neither devices nor roles":            {"recordings": "7d"},
		"retention.rules[0].recordings: 0, which is": {"roles": "dba", "recordings": "1h"},
		"retention.rules[0].devices.env: matches":    {"devices": map[string]any{"env": []any{}}},
		"retention.rules[0].days: unknown key":       {"roles": "dba", "days": 1},
	} {
		if _, err := ClusterFromMap(rules(rule)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestQuotaIsASize(t *testing.T) {
	for text, want := range map[string]uint64{"": 0, QuotaNone: 0, "1GiB": 1 << 30, "50GiB": 50 << 30, "2TiB": 2 << 40} {
		if got := (Cluster{RecordingQuota: text}).QuotaBytes(); got != want || len(ValidateCluster(Cluster{RecordingQuota: text})) > 0 {
			t.Errorf("%q: got %d, want %d", text, got, want)
		}
	}
	for _, text := range []string{"0", "0GiB", "01GiB", "-1GiB", "1", "1.5GiB", "GiB", "99999999TiB", "50 GiB", "50GB"} {
		if len(ValidateCluster(Cluster{RecordingQuota: text})) == 0 {
			t.Errorf("%q is a quota", text)
		}
	}
}

func FuzzClusterFromMap(f *testing.F) {
	for _, m := range []map[string]any{clusterResource(), {"kind": "cluster"}, {"kind": "cluster", "caps": nil, "ways": "hub", "idle_timeout": 0, "retention": map[string]any{"audit": "9999d"}}} {
		b, err := json.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m map[string]any
		if json.Unmarshal(b, &m) != nil {
			return
		}
		c, err := ClusterFromMap(m)
		if err != nil {
			return
		}
		again, err := ClusterFromMap(c.ToMap())
		if err != nil || !reflect.DeepEqual(again.ToMap(), c.ToMap()) {
			t.Errorf("%+v came back as %+v, %v", c, again, err)
		}
		c.Apply(Builtins())
	})
}

// Whatever a role states is in force, or said not to be: a key is in one of the two lists.
func TestWhatIsNotInForceIsSaid(t *testing.T) {
	r := Role{Name: "all", Options: Options{
		MaxConnections: 1, MaxSessions: 1, Reserved: true, PresenceCheck: time.Minute, IdleTimeout: time.Minute, MaxSessionDuration: time.Hour,
		DisconnectExpiredCert: true, Record: RecordStrict, RecordStdin: "redacted", CapMode: "exact", CreateHostUser: "keep", HostGroups: []string{"x"},
		Sudoers: []string{"ALL"}, RequireModerators: []Moderators{{Count: 1, Roles: []string{"lead"}}},
		DetachedLife: new(time.Minute), SessionTTL: time.Hour, MFA: MFALogin, LockMode: LockStrict, Credentials: []string{CredentialCertificate},
	}}
	r.Allow = Rule{Channels: []string{X11}, Ways: []string{WayDirect}, Join: []Join{{Roles: []string{"x"}, Modes: []string{"peer"}}}}
	said := strings.Join(Pending(r), "\n")
	inForce := []string{"detached_life", "session_ttl", "mfa", "lock_mode", "credentials", "idle_timeout", "max_session_duration", "disconnect_expired_cert",
		"max_connections", "max_sessions", "reserved", "cap_mode", "record", "record_stdin", "require_moderators", "presence_check"}
	for _, f := range r.Options.fields() {
		if (strings.Contains(said, "options."+f.key+" ") || strings.Contains(said, "options."+f.key+":")) == slices.Contains(inForce, f.key) {
			t.Errorf("%s is neither in force nor said not to be, or both", f.key)
		}
	}
	for _, b := range Builtins() {
		if p := Pending(b); len(p) > 0 {
			t.Errorf("built-in %s: %v", b.Name, p)
		}
	}
	if p := Pending(Role{Name: "x", Options: Options{Record: RecordOff, CapMode: "available", CreateHostUser: "off", RecordStdin: "off"}}); len(p) > 0 {
		t.Errorf("what happens anyway is said not to be in force: %v", p)
	}
}
