package auth

import (
	"strings"
	"testing"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/grant"
	"hawser/auth/policy"
)

const guarded = `kind: role
name: guarded
allow: {devices: {"*": ["*"]}, logins: [root], channels: [shell, exec, local-forward], join: [{roles: [guarded], modes: [moderator, peer]}]}
options: {presence_check: 30s, require_moderators: [{count: COUNT, roles: [lead], channels: [shell, exec]}, {count: 1, roles: [net], channels: [local-forward]}]}
`

func TestWhoMustBeThereIsInTheGrant(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.apply(t, strings.Replace(guarded, "COUNT", "1", 1))
	h := b.hub(t)
	b.device(t, h, "gw")
	ann := b.user(t, "ann", "guarded")
	res := h.admit(t, request(ann, "gw", "root"))
	if res.Refusal != nil {
		t.Fatal(res.Refusal.Message)
	}
	g, err := grant.Open(res.Grant, b.set.Ever(ca.GrantKey))
	if err != nil {
		t.Fatal(err)
	}
	// Those for forwards, too: who is in the session is asked for their presence.
	if len(g.Moderators) != 2 || g.PresenceCheck.String() != "30s" {
		t.Errorf("granted with %+v, a key each %s", g.Moderators, g.PresenceCheck)
	}
	forwards := request(ann, "gw", "root")
	forwards.Kind, forwards.SessionId = api.Kind_KIND_FORWARDS, nil
	if res := h.admit(t, forwards); res.Refusal != nil {
		t.Error(res.Refusal.Message)
	} else if g, err := grant.Open(res.Grant, b.set.Ever(ca.GrantKey)); err != nil || len(g.Moderators) != 1 || g.Moderators[0].Roles[0] != "net" {
		t.Errorf("forwards granted with %+v, %v", g, err)
	}
	if own := h.admit(t, joinRequest(ann, res.SessionId, "moderator", "")); own.Refusal == nil || !strings.Contains(own.Refusal.Message, "somebody else") {
		t.Errorf("who started it moderates it: %v", own)
	}
	if own := h.admit(t, joinRequest(ann, res.SessionId, "peer", "")); own.Refusal != nil {
		t.Errorf("from another terminal: %v", own.Refusal)
	}

	live := func() *session {
		for _, s := range b.hubs.list() {
			if s.user == "ann" && s.joins == [16]byte{} {
				return s
			}
		}
		t.Fatal("not listed")
		return nil
	}
	if why := b.judgeAgain(live()); why != nil {
		t.Errorf("nothing has changed: %v", why)
	}
	b.apply(t, strings.Replace(guarded, "COUNT", "2", 1))
	soon(t, "a session that was opened with fewer ends", func() bool {
		why := b.judgeAgain(live())
		return why != nil && strings.Contains(why.message, "2 moderators with the role lead")
	})
}

// Who must be in a session, auth knows by its grant alone: of one from before its own start the device says whether anybody can join.
func TestWhatHasNoScreenIsJoinedWhereModeratorsMayBeWantedInIt(t *testing.T) {
	s := new(Server)
	lead := []policy.Moderators{{Count: 1, Roles: []string{"lead"}}}
	for name, c := range map[string]struct {
		session
		joins bool
	}{
		"a shell":                    {session{channel: policy.Shell, opens: []string{policy.Shell}}, true},
		"sftp":                       {session{channel: policy.SFTP, opens: []string{policy.SFTP}}, false},
		"sftp with moderators":       {session{channel: policy.SFTP, opens: []string{policy.SFTP}, moderators: lead}, true},
		"sftp from before a restart": {session{channel: policy.SFTP}, true},
	} {
		if ref := s.unjoinable(&c.session); (ref == nil) != c.joins {
			t.Errorf("%s: %+v", name, ref)
		}
	}
}
