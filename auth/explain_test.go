package auth

import (
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/api/apiclient"
	"hawser/auth/ca"
	"hawser/auth/policy"
)

const explained = `kind: role
name: field
allow: {devices: {site: [ber]}, logins: [root, "svc-*"], channels: [shell, exec], ways: [hub]}
options: {mfa: login, max_sessions: 2}
---
kind: role
name: noroot
deny: {logins: [root], channels: [shell]}
---
kind: role
name: elsewhere
allow: {devices: {site: [ham]}, logins: ["*"], channels: [shell]}
`

func explain(t *testing.T, c *apiclient.Client, r *api.ExplainAccessRequest) *api.ExplainAccessResponse {
	t.Helper()
	res, err := c.Policy.ExplainAccess(t.Context(), connect.NewRequest(r))
	if err != nil {
		t.Fatal(err)
	}
	return res.Msg
}

func TestExplainSaysWhichRoleDecides(t *testing.T) {
	b := start(t)
	b.device(t, b.hub(t), "gw")
	b.apply(t, explained)
	b.user(t, "ann", "field")
	ask := func(login, channel, way string) *api.ExplainAccessResponse {
		return explain(t, b.admin, &api.ExplainAccessRequest{User: "ann", Device: "gw", Login: login, Channel: channel, Way: way})
	}
	got := ask("root", "shell", "hub")
	if !got.Allowed || len(got.Verdicts) != 1 || got.Verdicts[0].Rule != "role field allows it" || got.Demands.GetMfa() != "login" || len(got.Notes) != 1 ||
		!strings.Contains(got.Notes[0], "max_sessions: 2 at once over the cluster, 0 are open") {
		t.Errorf("got %v", got)
	}
	got = ask("root", "shell", "end-to-end")
	if got.Allowed || got.Demands != nil || !slices.Equal(got.Would, []string{"admin", "operator"}) || !strings.Contains(got.Lines[0].Text, "only ways [hub]") {
		t.Errorf("got %v", got)
	}
	got = ask("", "", "")
	if !got.Allowed || len(got.Reach) != 1 || !slices.Equal(got.Reach[0].Logins, []string{"root", "svc-*"}) {
		t.Errorf("got %v", got)
	}
	if _, err := b.admin.Policy.ExplainAccess(t.Context(), connect.NewRequest(&api.ExplainAccessRequest{User: "ann", Device: "gw", Channel: "fly"})); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("a channel that is none: %v", err)
	}
}

// Everyone may ask about himself, and learns of nothing that he does not see; about others only who may get users.
func TestExplainAndReviewTellNobodyOfOthers(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	b.apply(t, explained+"---\nkind: role\nname: none\n")
	ann, bob, anna := b.client(t, "ann", "field"), b.client(t, "bob", "none"), b.client(t, "anna", "auditor")
	if got := explain(t, ann, &api.ExplainAccessRequest{Device: "gw", Login: "root", Channel: "exec", Way: "hub"}); got.User != "ann" || !got.Allowed {
		t.Errorf("ann about herself: %v", got)
	}
	if got := explain(t, anna, &api.ExplainAccessRequest{User: "ann", Device: "gw", Login: "root", Channel: "exec", Way: "hub"}); !got.Allowed {
		t.Errorf("the auditor about ann: %v", got)
	}
	code := func(c *apiclient.Client, r *api.ExplainAccessRequest) (connect.Code, string) {
		_, err := c.Policy.ExplainAccess(t.Context(), connect.NewRequest(r))
		return connect.CodeOf(err), api.MessageOf(err)
	}
	hidden, text := code(bob, &api.ExplainAccessRequest{Device: "gw"})
	unknown, other := code(bob, &api.ExplainAccessRequest{Device: "no"})
	if hidden != connect.CodeNotFound || unknown != hidden || strings.Replace(text, `gw`, "no", 1) != other {
		t.Errorf("a device out of reach: %v %s, one that is none: %v %s", hidden, text, unknown, other)
	}
	for _, user := range []string{"ann", "nobody"} {
		if got, _ := code(bob, &api.ExplainAccessRequest{User: user, Device: "gw"}); got != connect.CodePermissionDenied {
			t.Errorf("bob about %s: %v", user, got)
		}
		if _, err := bob.Policy.ReviewAccess(t.Context(), connect.NewRequest(&api.ReviewAccessRequest{User: user})); connect.CodeOf(err) != connect.CodePermissionDenied {
			t.Errorf("bob reviews %s: %v", user, err)
		}
	}
	if _, err := ann.Policy.ReviewAccess(t.Context(), connect.NewRequest(&api.ReviewAccessRequest{Device: "gw"})); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("ann reviews who reaches gw: %v", err)
	}
	res, err := ann.Policy.ReviewAccess(t.Context(), connect.NewRequest(&api.ReviewAccessRequest{}))
	if err != nil || len(res.Msg.Reach) != 1 || res.Msg.Reach[0].Device != "gw" {
		t.Errorf("ann about herself: %v, %v", res, err)
	}
}

// What review lists, explain allows, and what Admit decides.
func TestReviewExplainAndAdmitAgree(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	for _, name := range []string{"gw", "gw2"} {
		b.device(t, h, name)
	}
	b.apply(t, explained)
	key := b.user(t, "ann", "field")
	if _, err := b.admin.User.SetUserRoles(t.Context(), connect.NewRequest(&api.SetUserRolesRequest{Name: "ann", Roles: []string{"field", "noroot", "elsewhere"}})); err != nil {
		t.Fatal(err)
	}
	b.apply(t, "kind: cluster\nmfa: none\n---\nkind: role\nname: field\nallow: {devices: {site: [ber], name: [gw]}, logins: [root, 'svc-*'], channels: [shell, exec], ways: [hub]}\n")
	res, err := b.admin.Policy.ReviewAccess(t.Context(), connect.NewRequest(&api.ReviewAccessRequest{User: "ann"}))
	if err != nil {
		t.Fatal(err)
	}
	yes := 0
	for _, device := range []string{"gw", "gw2"} {
		for _, login := range []string{"root", "svc-a", "diag"} {
			for _, channel := range []string{"shell", "exec", "sftp"} {
				for _, way := range []string{"hub", "end-to-end"} {
					reviewed := slices.ContainsFunc(res.Msg.Reach, func(r *api.Reach) bool {
						return r.Device == device && (policy.Reach{Logins: r.Logins, Except: r.Except, Channels: r.Channels, Ways: r.Ways}).Covers(login, channel, way)
					})
					explained := explain(t, b.admin, &api.ExplainAccessRequest{User: "ann", Device: device, Login: login, Channel: channel, Way: way})
					r := request(key, device, login)
					r.Channel, r.Way = channel, way
					admitted := h.admit(t, r).Refusal == nil
					if reviewed != explained.Allowed || reviewed != admitted {
						t.Errorf("%s %s %s %s: reviewed %v, explained %v, admitted %v", device, login, channel, way, reviewed, explained.Allowed, admitted)
					}
					if reviewed {
						yes++
					}
				}
			}
		}
	}
	if yes != 3 {
		t.Errorf("%d are allowed, want exec as root, and shell and exec as svc-a", yes)
	}
}

func TestRefusalOfAWayNamesTheOne(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	b.apply(t, `kind: role
name: recorded
allow: {devices: {"*": ["*"]}, logins: [diag], channels: [shell, exec], ways: [hub]}
---
kind: role
name: private
allow: {devices: {"*": ["*"]}, logins: [root], channels: [sftp], ways: [end-to-end]}
`)
	key := b.user(t, "ann", "recorded")
	r := request(key, "gw", "diag")
	r.Way = "end-to-end"
	if ref := h.admit(t, r).Refusal; ref.GetReason() != "way" || !strings.HasSuffix(ref.GetMessage(), "this way works: ssh diag=gw@127.0.0.1") {
		t.Errorf("got %v", ref)
	}
	if _, err := b.admin.User.SetUserRoles(t.Context(), connect.NewRequest(&api.SetUserRolesRequest{Name: "ann", Roles: []string{"recorded", "private"}})); err != nil {
		t.Fatal(err)
	}
	// Both ways are open now, each to another login.
	r = request(key, "gw", "root")
	r.Channel = "sftp"
	if ref := h.admit(t, r).Refusal; ref.GetReason() != "way" || !strings.HasSuffix(ref.GetMessage(), "this way works: ssh -J 127.0.0.1 root@gw") {
		t.Errorf("got %v", ref)
	}
	r.Login, r.Channel = "nobody", "exec"
	if ref := h.admit(t, r).Refusal; ref.GetReason() != "login" {
		t.Errorf("a login that no way allows: %v", ref)
	}
}

// Both kinds of proof are held against what the roles accept; roles that agree on none let nobody in.
func TestCredentialsOfTheRolesAreHeldAgainstCertificatesToo(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	for name, list := range map[string]string{"certs": "certificate", "keys": "key"} {
		b.apply(t, "kind: role\nname: "+name+"\nallow: {devices: {'*': '*'}, logins: ['*'], channels: [exec]}\noptions: {credentials: "+list+"}\n")
	}
	key := b.user(t, "ann", "certs")
	for _, tt := range []struct {
		roles                []string
		byKey, byCertificate bool
	}{{[]string{"certs"}, false, true}, {[]string{"keys"}, true, false}, {[]string{"certs", "keys"}, false, false}, {[]string{"operator"}, true, true}} {
		if _, err := b.admin.User.SetUserRoles(t.Context(), connect.NewRequest(&api.SetUserRolesRequest{Name: "ann", Roles: tt.roles})); err != nil {
			t.Fatal(err)
		}
		b.now.Add(int64(2 * time.Second)) // past the void that taking a role leaves
		cert, err := b.set.IssueUser(ca.UserRequest{Name: "ann", Roles: tt.roles, Key: key, TTL: time.Hour, Now: b.cfg.Now(), Cluster: b.Cluster()})
		if err != nil {
			t.Fatal(err)
		}
		byKey, byCertificate := request(key, "gw", "root"), request(key, "gw", "root")
		byCertificate.PublicKey, byCertificate.Certificate = nil, cert.Marshal()
		if ref := h.admit(t, byKey).Refusal; (ref == nil) != tt.byKey || ref != nil && ref.Reason != "credentials" {
			t.Errorf("%v, by key: %v", tt.roles, ref)
		}
		if ref := h.admit(t, byCertificate).Refusal; (ref == nil) != tt.byCertificate || ref != nil && ref.Reason != "credentials" {
			t.Errorf("%v, by certificate: %v", tt.roles, ref)
		}
	}
}
