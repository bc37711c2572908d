package auth

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/grant"
)

// joinRequest asks to join a session, of the device's present agent where the device is named.
func joinRequest(key ssh.PublicKey, id []byte, mode, device string) *api.AdmitRequest {
	r := request(key, device, "")
	r.Join, r.JoinMode = hex.EncodeToString(id)[:10], mode
	return r
}

func TestWhoJoinsASessionIsGrantedThatSessionAlone(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.apply(t, `kind: role
name: field
allow: {devices: {"*": ["*"]}, logins: [root], channels: [exec]}
`)
	b.apply(t, `kind: role
name: lead
allow: {devices: {"*": ["*"]}, logins: ["*"], join: [{roles: [field], modes: [observer]}]}
`)
	h := b.hub(t)
	b.device(t, h, "gw")
	ann, lead, auditor := b.user(t, "ann", "field"), b.user(t, "lou", "lead"), b.user(t, "art", "auditor")
	sess := h.admit(t, request(ann, "gw", "root"))
	if sess.Refusal != nil {
		t.Fatal(sess.Refusal.Message)
	}

	asked := h.admit(t, joinRequest(lead, sess.SessionId, "", ""))
	if asked.Refusal != nil || len(asked.Grant) != 0 || asked.DeviceUuid != sess.DeviceUuid {
		t.Fatalf("which device: %v", asked)
	}
	res := h.admit(t, joinRequest(lead, sess.SessionId, "", asked.DeviceUuid))
	if res.Refusal != nil {
		t.Fatal(res.Refusal.Message)
	}
	g, err := grant.Open(res.Grant, b.set.Ever(ca.GrantKey))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(g.Join[:], sess.SessionId) || g.JoinMode != "observer" || strings.Join(g.Channels, " ") != "join" || g.Login != "root" || g.Record != "" {
		t.Errorf("granted %+v", g)
	}
	for name, r := range map[string]*api.AdmitRequest{
		"a mode that the role does not have": joinRequest(lead, sess.SessionId, "peer", ""),
		"an auditor":                         joinRequest(auditor, sess.SessionId, "", ""),
		"an auditor as peer":                 joinRequest(auditor, sess.SessionId, "peer", ""),
		"an auditor as moderator":            joinRequest(auditor, sess.SessionId, "moderator", ""),
		"who has no join":                    joinRequest(ann, sess.SessionId, "", ""),
		"no such session":                    joinRequest(lead, id16(), "", ""),
		"who has joined himself":             joinRequest(lead, res.SessionId, "", ""),
		"a shell by the right to join":       request(lead, "gw", "root"),
	} {
		got := h.admit(t, r)
		if got.Refusal == nil && !(name == "a shell by the right to join" && strings.Join(got.GetAccess().GetChannels(), " ") == "join") {
			t.Errorf("%s: %v", name, got)
		}
	}

	list, err := b.client(t, "amy", "admin").Admin.ListSessions(t.Context(), connect.NewRequest(&api.ListSessionsRequest{User: "lou"}))
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, s := range list.Msg.Sessions {
		found = found || bytes.Equal(s.Joins, sess.SessionId) && s.JoinMode == "observer" && s.Device == "gw"
	}
	if !found {
		t.Errorf("listed: %v", list.Msg.Sessions)
	}
	// The role goes, and with it whoever is in by it.
	b.apply(t, `kind: role
name: lead
allow: {devices: {"*": ["*"]}, logins: ["*"], join: [{roles: [nobody], modes: [observer]}]}
`)
	soon(t, "the guest is ended", func() bool {
		for _, s := range b.hubs.list() {
			if s.joins != [16]byte{} && s.user == "lou" && b.judgeAgain(s) == nil {
				return false
			}
		}
		return true
	})
}

// Past the hubs it is the device that asks, for whoever has come to it as a login: auth does not let him into what is elsewhere.
func TestWhoJoinsPastTheHubsIsWhereTheSessionIs(t *testing.T) {
	t.Parallel()
	b := start(t)
	h := b.hub(t)
	gw, _ := b.device(t, h, "gw")
	other, _ := b.device(t, h, "other")
	ann, bob := b.user(t, "ann", "operator"), b.user(t, "bob", "operator")
	sess := h.admit(t, request(ann, "gw", "root"))
	for name, tt := range map[string]struct{ device, login, want string }{
		"there":                {gw.Uuid, "root", ""},
		"on another device":    {other.Uuid, "root", "is on gw, and so not here"},
		"as another login":     {gw.Uuid, "diag", "connect as root"},
		"no device, and so it": {"", "root", "is on gw"},
	} {
		r := joinRequest(bob, sess.SessionId, "peer", tt.device)
		r.Way, r.Login = "end-to-end", tt.login
		res := h.admit(t, r)
		if res.GetRefusal().GetMessage() == "" != (tt.want == "") || !strings.Contains(res.GetRefusal().GetMessage(), tt.want) {
			t.Errorf("%s: %v", name, res.Refusal)
		}
		if g, err := grant.Open(res.Grant, b.set.Ever(ca.GrantKey)); tt.want == "" && (err != nil || g.JoinMode != "peer" || !bytes.Equal(g.Join[:], sess.SessionId)) {
			t.Errorf("%s: %+v, %v", name, g, err)
		}
	}
}

// The screen of a server without an agent is at the hub that logged in to it.
func TestASessionOnAServerIsJoinedByItsOwnHubAlone(t *testing.T) {
	t.Parallel()
	b := behind(t, false)
	lou := b.user(t, "lou", "operator")
	ask := func(h *testHub, device string) *api.AdmitResponse {
		t.Helper()
		r := joinRequest(lou, b.place.SessionId, "peer", device)
		r.Incarnation = nil
		return h.admit(t, r)
	}
	second := b.bench.hub(t)
	for _, device := range []string{"", b.place.DeviceUuid} {
		if res := ask(second, device); !strings.Contains(res.GetRefusal().GetMessage(), "ssh -t hawser@127.0.0.1 join "+hex.EncodeToString(b.place.SessionId[:4])+" --mode peer") {
			t.Errorf("by another hub: %v", res)
		}
	}
	which := ask(b.hub, "")
	if which.Refusal != nil || which.DeviceUuid != b.place.DeviceUuid {
		t.Fatalf("which device: %v", which)
	}
	res := ask(b.hub, which.DeviceUuid)
	g, err := grant.Open(res.Grant, b.set.Ever(ca.GrantKey))
	if err != nil || g.JoinMode != "peer" || !bytes.Equal(g.Join[:], b.place.SessionId) {
		t.Fatalf("granted %+v, %v: %v", g, err, res.Refusal)
	}
	if _, err := b.open(t, b.hub, res.Grant); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("who joins logs in: %v", err)
	}
}

// It is a hub that says who has come to it. One in wrong hands let itself into every session that came past it, and saw and typed.
func TestAHubLetsNobodyIntoWhatCameByRolesWithoutTheWayByHub(t *testing.T) {
	t.Parallel()
	b := start(t)
	for name, ways := range map[string]string{"past": "end-to-end", "both": "hub, end-to-end"} {
		b.apply(t, "kind: role\nname: private\nallow: {devices: {\"*\": [\"*\"]}, logins: [root], channels: [shell, exec], ways: ["+ways+"]}\n")
		h := b.hub(t)
		d, _ := b.device(t, h, name)
		r := request(b.user(t, "ann"+name, "private"), d.Name, "root")
		r.Way = "end-to-end"
		sess := h.admit(t, r)
		if sess.Refusal != nil {
			t.Fatal(sess.Refusal)
		}
		bob := b.user(t, "bob"+name, "operator")
		res := h.admit(t, joinRequest(bob, sess.SessionId, "", ""))
		if ways == "end-to-end" {
			if m := res.GetRefusal().GetMessage(); !strings.Contains(m, "hawser join "+hex.EncodeToString(sess.SessionId[:4])) {
				t.Errorf("by a hub, which his roles do not let in: %v", res)
			}
		} else if res.Refusal != nil {
			t.Errorf("by a hub, which could open one for him: %v", res.Refusal)
		}
		past := joinRequest(bob, sess.SessionId, "", d.Uuid)
		past.Way, past.Login = "end-to-end", "root"
		if res := h.admit(t, past); res.Refusal != nil {
			t.Errorf("past the hub: %v", res.Refusal)
		}
	}
}

// After a restart of auth a guest was a session of his own: what he was in it by could be taken from him, and he stayed.
func TestAGuestIsOneAfterARestartOfAuth(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.apply(t, "kind: role\nname: lead\nallow: {devices: {\"*\": [\"*\"]}, logins: [\"*\"], channels: [shell], join: [{roles: [operator], modes: [peer]}]}\n")
	h := b.hub(t)
	d, _ := b.device(t, h, "gw")
	ann, lou := request(b.user(t, "ann", "operator"), "gw", "root"), joinRequest(b.user(t, "lou", "lead"), id16(), "peer", d.Uuid)
	owned := h.admit(t, ann)
	lou.Join = hex.EncodeToString(owned.SessionId)
	if res := h.admit(t, lou); res.Refusal != nil {
		t.Fatal(res.Refusal)
	}
	b.stop()
	b.run(t)
	b.admin, h = b.dial(t, b.adminCert), b.again(t, h)
	h.up(t, &api.WatchRequest{Sessions: [][]byte{owned.SessionId, lou.SessionId}}, nil)
	state := func(r *api.AdmitRequest, user, channel string) *api.SessionState {
		return &api.SessionState{Id: r.SessionId, ConnectionId: r.ConnectionId, Kind: api.Kind_KIND_SESSION, User: user, DeviceUuid: d.Uuid, Login: "root", Way: "hub",
			Channel: channel, ClientAddress: r.ClientAddress, StartUnixNano: 1, PublicKey: r.PublicKey}
	}
	guest := state(lou, "lou", "join")
	guest.Joins, guest.JoinMode = owned.SessionId, "peer"
	if _, err := h.Hub.ReportSessions(t.Context(), connect.NewRequest(&api.ReportSessionsRequest{Full: true, Sessions: []*api.SessionState{state(ann, "ann", "shell"), guest}})); err != nil {
		t.Fatal(err)
	}
	judged := func() *refusal {
		for _, s := range b.hubs.list() {
			if s.user == "lou" {
				return b.judgeAgain(s)
			}
		}
		t.Fatal("the guest is not listed")
		return nil
	}
	if why := judged(); why != nil {
		t.Errorf("while he may: %v", why)
	}
	b.apply(t, "kind: role\nname: lead\nallow: {devices: {\"*\": [\"*\"]}, logins: [\"*\"], channels: [shell], join: [{roles: [operator], modes: [observer]}]}\n")
	if why := judged(); why == nil || why.reason != "join" {
		t.Errorf("without the mode: %v", why)
	}
}

// Its device counts a guest by the roles of his grant: who has lost one of them is out, even where another lets him join as before.
func TestAGuestWhoLostARoleIsOutThoughAnotherLetsHimJoin(t *testing.T) {
	t.Parallel()
	b := start(t)
	for _, name := range []string{"chief", "helper"} {
		b.apply(t, "kind: role\nname: "+name+"\nallow: {devices: {\"*\": [\"*\"]}, logins: [\"*\"], join: [{roles: [\"*\"], modes: [moderator]}]}\n")
	}
	h := b.hub(t)
	b.device(t, h, "gw")
	b.apply(t, "kind: role\nname: field\nallow: {devices: {\"*\": [\"*\"]}, logins: [root], channels: [exec]}\n")
	ann, lou := b.user(t, "ann", "field"), b.user(t, "lou", "chief")
	roles := func(names ...string) {
		if _, err := b.admin.User.SetUserRoles(t.Context(), connect.NewRequest(&api.SetUserRolesRequest{Name: "lou", Roles: names})); err != nil {
			t.Fatal(err)
		}
	}
	roles("chief", "helper")
	sess := h.admit(t, request(ann, "gw", "root"))
	if res := h.admit(t, joinRequest(lou, sess.SessionId, "moderator", sess.DeviceUuid)); res.Refusal != nil {
		t.Fatal(res.Refusal.Message)
	}
	judged := func() *refusal {
		for _, s := range b.hubs.list() {
			if s.user == "lou" {
				return b.judgeAgain(s)
			}
		}
		t.Fatal("there is no guest")
		return nil
	}
	if why := judged(); why != nil {
		t.Fatal(why)
	}
	roles("helper")
	soon(t, "the guest is ended", func() bool { why := judged(); return why != nil && why.rule == "role chief" })
}
