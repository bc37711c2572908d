package auth

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"hawser/auth/api"
	"hawser/auth/api/apiclient"
	"hawser/auth/ca"
	"hawser/auth/policy"
	"hawser/auth/store"
)

// The auditor was built in for the policy and unknown to the service: nobody could be given it, nor make one of that name.
func TestEveryBuiltInRoleCanBeGiven(t *testing.T) {
	b := start(t)
	for _, r := range policy.Builtins() {
		u, err := b.admin.Admin.AddUser(t.Context(), connect.NewRequest(&api.AddUserRequest{Name: "u-" + r.Name, Roles: []string{r.Name}}))
		if err != nil || !slices.Equal(u.Msg.Roles, []string{r.Name}) {
			t.Errorf("%s: %v, %v", r.Name, u, err)
		}
	}
}

func (b *bench) applied(t *testing.T, r *api.ApplyRequest) *api.ApplyResponse {
	t.Helper()
	res, err := b.admin.Admin.Apply(t.Context(), connect.NewRequest(r))
	if err != nil {
		t.Fatal(err)
	}
	return res.Msg
}

func (b *bench) yaml(t *testing.T, kind, name string) string {
	t.Helper()
	res, err := b.admin.Admin.Get(t.Context(), connect.NewRequest(&api.GetRequest{Kind: kind, Name: name}))
	if err != nil {
		t.Fatal(err)
	}
	return res.Msg.Yaml
}

// someYAML writes n roles of random keys, each in one of several spellings.
func someYAML(r *rand.Rand, n int) string {
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	var out strings.Builder
	for i := range n {
		fmt.Fprintf(&out, "---\nkind: role\nname: r%d\nallow:\n  devices: %s\n  logins: %s\n  channels: %s\n", i,
			pick("{}", `{"*": "*"}`, `{"*": ["*"]}`, `{site: [ber, "ams-*"], env: test}`, "{name: x, allow: [y], site: z}"),
			pick("[]", "root", "[root, diag, 'svc-*']", "['off', 'no', '1', '0x1', 'null']"), pick("[]", "shell", "[shell, exec, x11]"))
		for _, key := range []string{"  ways: [hub]\n", "  ways: [direct, end-to-end]\n", "  recordings: own\n", "  join: [{roles: [x], modes: [peer, observer]}]\n",
			"  admin: [{resources: '*', verbs: [get, list]}]\n", "  forward_to: ['127.0.0.1:80', '[::1]:1-9', '/run/*']\n"} {
			if r.IntN(2) == 0 && (key[2] != 'w' || !strings.Contains(out.String()[strings.LastIndex(out.String(), "---"):], "ways")) {
				out.WriteString(key)
			}
		}
		if r.IntN(2) == 0 {
			fmt.Fprintf(&out, "deny: {devices: {env: %s}}\n", pick("prod", "[prod, 'p*']"))
		}
		out.WriteString("options:\n")
		for _, key := range []string{"session_ttl: 480m", "detached_life: 0", "record: off", "mfa: login", "credentials: certificate", "reserved: false", "max_sessions: 3",
			"idle_timeout: 90d", "require_moderators: {count: 1, roles: lead, on_leave: pause}", "sudoers: ['ALL=(ALL) NOPASSWD: /bin/ls']"} {
			if r.IntN(3) == 0 {
				out.WriteString("  " + key + "\n")
			}
		}
	}
	return out.String()
}

func TestWhatGetPrintsIsUnchangedWhenApplied(t *testing.T) {
	b := start(t)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 20 {
		text := someYAML(r, 1+r.IntN(8))
		if i%3 == 0 {
			text += "---\nkind: cluster\nrecord: off\nways: [hub, end-to-end]\nretention: {recordings: " + fmt.Sprint(24*(i+1)) + "h}\n"
		}
		b.apply(t, text)
		// What was applied is unchanged, in its own spelling, too.
		for _, again := range []string{text, b.yaml(t, "role", "r0"), b.yaml(t, "cluster", "")} {
			for _, res := range b.applied(t, &api.ApplyRequest{Yaml: again, Show: true}).Resources {
				if res.Change != "unchanged" || res.Before != res.After {
					t.Fatalf("%s/%s is %s when applied again:\n%s\nbefore\n%s\nafter\n%s", res.Kind, res.Name, res.Change, again, res.Before, res.After)
				}
			}
		}
		printed := ""
		for _, role := range b.view.givenRoles() {
			if _, builtin := policy.Builtin(role.Name); !builtin {
				printed += "---\n" + b.yaml(t, "role", role.Name)
			}
		}
		for _, res := range b.applied(t, &api.ApplyRequest{Yaml: printed}).Resources {
			if res.Change != "unchanged" {
				t.Fatalf("%s is %s when what get printed is applied:\n%s", res.Name, res.Change, printed)
			}
		}
	}
}

func TestApplyStoresAllOrNothingAndSaysWhatIsNotInForce(t *testing.T) {
	b := start(t)
	good, bad := "kind: role\nname: a\noptions: {create_host_user: keep, mfa: login, record: strict}\n", "kind: role\nname: b\ncolour: red\n"
	_, err := b.admin.Admin.Apply(t.Context(), connect.NewRequest(&api.ApplyRequest{Files: []*api.ApplyFile{{Name: "roles/a.yaml", Yaml: good}, {Name: "roles/b.yaml", Yaml: bad}}}))
	if connect.CodeOf(err) != connect.CodeInvalidArgument || !strings.Contains(api.MessageOf(err), "roles/b.yaml: document 1: colour: unknown key") {
		t.Errorf("got %v", err)
	}
	if got := b.applied(t, &api.ApplyRequest{Yaml: good, DryRun: true}).Resources[0]; got.Change != "created" {
		t.Errorf("dry run: %v", got)
	}
	if len(b.view.givenRoles()) != len(policy.Builtins()) {
		t.Error("something was stored")
	}
	got := b.applied(t, &api.ApplyRequest{Yaml: good, Show: true}).Resources[0]
	if len(got.Warnings) != 1 || !strings.HasPrefix(got.Warnings[0], "options.create_host_user is kept, and in force from a later version") || got.Before != "" || got.After == "" {
		t.Errorf("got %v", got)
	}
	if got := b.applied(t, &api.ApplyRequest{Yaml: good + "allow: {logins: [root]}\n", DryRun: true, Show: true}).Resources[0]; got.Change != "changed" ||
		strings.Contains(got.Before, "root") || !strings.Contains(got.After, "logins: [root]\n") {
		t.Errorf("got %v", got)
	}
}

func TestAuditSaysWhatAnApplyChanged(t *testing.T) {
	b := start(t)
	b.apply(t, "kind: role\nname: a\nallow: {logins: [root]}\noptions: {mfa: login}\n")
	b.apply(t, "kind: role\nname: a\nallow: {logins: [root, diag]}\n---\nkind: cluster\nmfa: login\n")
	want := map[string]string{ // by object, the last of each
		"a":            `changed: allow.logins ["root"] -> ["root","diag"]; options.mfa "login" -> null;`,
		"test.example": `changed: mfa "none" -> "login";`,
	}
	for line := range strings.Lines(b.auditText(t)) {
		var e Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if (e.Type == "admin.role.apply" || e.Type == "admin.cluster.apply") && e.Actor == "user:admin" && e.Reason == want[e.Object] {
			delete(want, e.Object)
		}
	}
	if len(want) > 0 {
		t.Errorf("not found: %v in\n%s", want, b.auditText(t))
	}
}

// A device whose policy grew too large kept the one it had, and those whom the new one shuts out with it.
func TestRolesTooLargeForADeviceAreRefused(t *testing.T) {
	b := start(t)
	b.device(t, b.hub(t), "gw")
	var text strings.Builder
	for i := range 4 {
		fmt.Fprintf(&text, "---\nkind: role\nname: big%d\nallow:\n  devices: {site: [%s]}\n  channels: [shell]\n  logins:\n", i, []string{"ber", "ham"}[i/2])
		for j := range 60 {
			fmt.Fprintf(&text, "  - x%0250d\n", j)
		}
	}
	if _, err := b.admin.Admin.Apply(t.Context(), connect.NewRequest(&api.ApplyRequest{Yaml: text.String()})); err == nil || !strings.Contains(err.Error(), "policy of device gw") {
		t.Errorf("got %v", err)
	}
	// The same two of them elsewhere concern no device that there is.
	b.apply(t, strings.ReplaceAll(text.String(), "[ber]", "[elsewhere]"))
}

func TestARoleThatIsHeldIsNotRemovedUnlessForced(t *testing.T) {
	b := start(t)
	b.apply(t, fieldRole)
	b.user(t, "ann", "field")
	remove := func(name string, force bool) ([]string, error) {
		res, err := b.admin.Policy.RemoveRole(t.Context(), connect.NewRequest(&api.RemoveRoleRequest{Name: name, Force: force}))
		if err != nil {
			return nil, err
		}
		return res.Msg.Users, nil
	}
	if _, err := remove("field", false); connect.CodeOf(err) != connect.CodeFailedPrecondition || !strings.Contains(api.MessageOf(err), "ann has role field") {
		t.Errorf("held: %v", err)
	}
	if _, err := remove("admin", true); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("built in: %v", err)
	}
	if _, err := remove("none", true); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("none such: %v", err)
	}
	if users, err := remove("field", true); err != nil || !slices.Equal(users, []string{"ann"}) {
		t.Errorf("forced: %v, %v", users, err)
	}
	// Made anew, it is nobody's.
	b.apply(t, fieldRole)
	if u, roles := b.view.user("ann"); len(u.Roles) > 0 || len(roles) > 0 {
		t.Errorf("ann has %v again", u.Roles)
	}
	if _, err := remove("field", false); err != nil {
		t.Error(err)
	}
}

// To remove a role that people hold is to change those people: a role may be what denies something, or what makes an admin.
func TestWhoRemovesRolesMayNotSoTakeThemFromPeople(t *testing.T) {
	b := start(t)
	b.apply(t, "kind: role\nname: tidy\nallow: {admin: [{resources: [role], verbs: [delete]}]}\n---\nkind: role\nname: barred\ndeny: {channels: [exec]}\n")
	tidy := b.client(t, "tim", "tidy")
	b.user(t, "ann", "barred")
	remove := func(c *apiclient.Client, name string) error {
		_, err := c.Policy.RemoveRole(t.Context(), connect.NewRequest(&api.RemoveRoleRequest{Name: name, Force: true}))
		return err
	}
	if err := remove(tidy, "barred"); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("taken from ann by who may only remove roles: %v", err)
	}
	if u, _ := b.view.user("ann"); !slices.Equal(u.Roles, []string{"barred"}) {
		t.Errorf("ann has %v", u.Roles)
	}
	// Nor does an admin's own hand leave nobody who gives roles.
	b.apply(t, "kind: role\nname: boss\nallow: {admin: [{resources: [\"*\"], verbs: [\"*\"]}]}\n")
	boss := b.client(t, "bea", "boss")
	if _, err := b.admin.User.SetUserRoles(t.Context(), connect.NewRequest(&api.SetUserRolesRequest{Name: "admin", Roles: []string{"operator"}})); err != nil {
		t.Fatal(err)
	}
	if err := remove(boss, "boss"); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("nobody would give roles any more: %v", err)
	}
}

// Edits at once end as one of them whole, never as a mixture.
func TestConcurrentAppliesNeverMix(t *testing.T) {
	b := start(t)
	const n = 20
	text := func(i int) string {
		return fmt.Sprintf("kind: role\nname: a\nallow: {logins: [u%d]}\n---\nkind: role\nname: b\nallow: {logins: [u%d]}\n", i, i)
	}
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if _, err := b.admin.Admin.Apply(t.Context(), connect.NewRequest(&api.ApplyRequest{Yaml: text(i)})); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	a, c := b.yaml(t, "role", "a"), b.yaml(t, "role", "b")
	if strings.Replace(a, "name: a", "name: b", 1) != c || !strings.Contains(a, "logins: [u") {
		t.Errorf("ended as\n%s\nand\n%s", a, c)
	}
}

func TestClusterIsInForceAtOnceAndKept(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	d, _ := b.device(t, h, "gw")
	key := b.user(t, "ann", "operator")
	stream, full := h.watch(t)
	if c := full.Config; c.GetRecord() != "best-effort" || c.GetMfa() != "none" || !slices.Equal(c.GetWays(), []string{"direct", "end-to-end", "hub"}) || c.GetRevision() == 0 {
		t.Fatalf("before anything was said hubs were told %v", c)
	}
	if !strings.Contains(b.yaml(t, "cluster", ""), "name: test.example\nrecord: best-effort\n") {
		t.Errorf("defaults are printed as\n%s", b.yaml(t, "cluster", ""))
	}
	text := "kind: cluster\nrecord: off\nways: [end-to-end]\nhub_list: {window: 7s}\ncaps: {per_source: 4}\n"
	if got := b.applied(t, &api.ApplyRequest{Yaml: text}).Resources[0]; got.Change != "changed" || got.Name != "test.example" || len(got.Warnings) != 0 {
		t.Errorf("got %v", got)
	}
	told := &api.WatchResponse{}
	for told.Config == nil || len(told.Devices) == 0 {
		if !stream.Receive() {
			t.Fatal(stream.Err())
		}
		proto.Merge(told, stream.Msg())
	}
	if c := told.Config; c.Revision <= full.Config.Revision || c.Record != "off" || c.Caps.PerSource != 4 || !slices.Equal(c.Ways, []string{"end-to-end"}) {
		t.Errorf("hubs were told %v", c)
	}
	c, err := policy.OpenCompiled(told.Devices[0].Policy, b.trusted().GrantKeys, b.Cluster(), d.Uuid)
	if err != nil || c.Evaluate([]string{"admin"}, "root", "exec", "hub").Allowed || !c.Evaluate([]string{"admin"}, "root", "exec", "end-to-end").Allowed ||
		c.Access([]string{"admin"}).Record != "off" {
		t.Errorf("the device's policy is %+v, %v", c.Access([]string{"admin"}), err)
	}
	r := request(key, "gw", "root")
	ref := h.admit(t, r).Refusal
	if ref.GetReason() != "way" || !strings.Contains(ref.GetMessage(), "this way works: ssh -J 127.0.0.1 root@gw") {
		t.Errorf("by the hub: %v", ref)
	}
	r.Way = "end-to-end"
	if res := h.admit(t, r); res.Refusal != nil || len(res.RecordingId) > 0 {
		t.Errorf("end to end: %v", res)
	}
	await(t, "the list says so", func() bool { list, _ := b.lists.get(); return list.Window == 7*time.Second })

	for name, bad := range map[string]string{"another name": "kind: cluster\nname: other\n", "twice": "kind: cluster\n---\nkind: cluster\n"} {
		if _, err := b.admin.Admin.Apply(t.Context(), connect.NewRequest(&api.ApplyRequest{Yaml: bad})); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Who may write roles alone may not write the cluster, nor read it.
	b.apply(t, "kind: role\nname: roles\nallow: {admin: [{resources: [role], verbs: ['*']}]}\n")
	roles := b.client(t, "rob", "roles")
	if _, err := roles.Admin.Apply(t.Context(), connect.NewRequest(&api.ApplyRequest{Yaml: text, DryRun: true})); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("cluster by who may write roles: %v", err)
	}
	if _, err := roles.Admin.Get(t.Context(), connect.NewRequest(&api.GetRequest{Kind: "cluster"})); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("cluster read by who may write roles: %v", err)
	}
	before := b.yaml(t, "cluster", "")
	b.stop()
	b.run(t)
	b.admin = b.dial(t, b.adminCert)
	if after := b.yaml(t, "cluster", ""); after != before || b.view.cluster().Record != "off" {
		t.Errorf("after a restart:\n%s\nbefore\n%s", after, before)
	}
	// Gone from the store, the defaults are back.
	if err := b.commit(t.Context(), nil, store.Delete(clusterKey)); err != nil || b.view.cluster().Record != "best-effort" {
		t.Errorf("deleted: %v, %+v", err, b.view.cluster())
	}
}

// client makes a user with a role and logs him in.
func (b *bench) client(t *testing.T, name, role string) *apiclient.Client {
	t.Helper()
	b.user(t, name, role)
	tlsKey := newKey(t)
	chain, err := b.set.IssueUserX509(ca.UserX509Request{Name: name, Cluster: b.Cluster(), Key: tlsKey.Public(), TTL: time.Hour, Now: b.cfg.Now(), Login: ca.Login{At: b.cfg.Now(), MFA: true}})
	if err != nil {
		t.Fatal(err)
	}
	return b.dial(t, &tls.Certificate{Certificate: chain, PrivateKey: tlsKey})
}
