package auth

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/api/apiclient"
	"hawser/tunnel/wire"
)

// sharing is a live session of ann's, with people around it.
type sharing struct {
	*bench
	h        *testHub
	id       []byte
	ann, bob *apiclient.Client
	bobKey   ssh.PublicKey
	tells    chan *api.Tell
	kills    chan *api.Kill
}

func shareSession(t *testing.T) *sharing {
	t.Helper()
	b := start(t)
	b.apply(t, "kind: role\nname: field\nallow: {devices: {\"*\": [\"*\"]}, logins: [root], channels: [exec]}\n")
	b.apply(t, "kind: role\nname: lead\nallow: {devices: {\"*\": [\"*\"]}, logins: [\"*\"], join: [{roles: [field], modes: [observer, peer]}]}\n")
	x := &sharing{bench: b, h: b.hub(t), tells: make(chan *api.Tell, 32), kills: make(chan *api.Kill, 8)}
	b.device(t, x.h, "gw")
	x.h.up(t, &api.WatchRequest{}, func(m *api.WatchResponse) {
		for _, tell := range m.Tells {
			x.tells <- tell
		}
		for _, k := range m.Kills {
			x.kills <- k
		}
	})
	x.ann, x.bob = b.client(t, "ann", "field"), b.client(t, "bob", "lead")
	sess := x.h.admit(t, request(b.registered(t, "ann"), "gw", "root"))
	if sess.Refusal != nil {
		t.Fatal(sess.Refusal.Message)
	}
	x.id, x.bobKey = sess.SessionId, b.registered(t, "bob")
	return x
}

// registered is the one key of a user that client has made.
func (b *bench) registered(t *testing.T, name string) ssh.PublicKey {
	t.Helper()
	u, _ := b.view.user(name)
	key, err := ssh.ParsePublicKey(u.Keys[0].Blob)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// joins has bob in the session.
func (x *sharing) joins(t *testing.T, mode string) *api.AdmitResponse {
	t.Helper()
	asked := x.h.admit(t, joinRequest(x.bobKey, x.id, mode, ""))
	res := x.h.admit(t, joinRequest(x.bobKey, x.id, mode, asked.DeviceUuid))
	if res.Refusal != nil {
		t.Fatal(res.Refusal.Message)
	}
	return res
}

func (x *sharing) invite(t *testing.T, by *apiclient.Client, user, mode string, ttl uint64) (*api.InviteToSessionResponse, error) {
	t.Helper()
	res, err := by.Sharing.InviteToSession(t.Context(), connect.NewRequest(&api.InviteToSessionRequest{Id: hexOf(x.id)[:8], User: user, Mode: mode, TtlSeconds: ttl}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

func joinable(t *testing.T, c *apiclient.Client) []*api.JoinableSession {
	t.Helper()
	res, err := c.Sharing.ListJoinable(t.Context(), connect.NewRequest(&api.ListJoinableRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	return res.Msg.Sessions
}

func TestAnInvitationIsToldAndOpensNothing(t *testing.T) {
	t.Parallel()
	x := shareSession(t)
	cyd := x.client(t, "cyd", "field") // joins nobody
	cydKey := x.registered(t, "cyd")

	if list := joinable(t, x.bob); len(list) != 1 || !bytes.Equal(list[0].Id, x.id) || strings.Join(list[0].ModesByHub, " ") != "observer peer" || list[0].Invitation != nil {
		t.Fatalf("bob may join: %v", list)
	}
	if list := joinable(t, cyd); len(list) != 0 {
		t.Fatalf("cyd may join: %v", list)
	}
	for _, c := range []struct {
		by             *apiclient.Client
		name, user, as string
		may            bool
		code           connect.Code
	}{
		{x.ann, "who may join", "bob", "peer", true, 0},
		{x.ann, "a mode that his roles lack", "bob", "moderator", false, 0},
		{x.ann, "who may not join", "cyd", "observer", false, 0},
		{x.ann, "nobody, as who may not", "nosuch", "observer", false, 0},
		{x.ann, "herself", "ann", "observer", false, connect.CodeInvalidArgument},
		{x.ann, "no mode", "bob", "god", false, connect.CodeInvalidArgument},
		{x.bob, "by a stranger to it", "cyd", "observer", false, connect.CodeNotFound},
	} {
		res, err := x.invite(t, c.by, c.user, c.as, 0)
		if got := connect.CodeOf(err); err != nil && got != c.code || err == nil && (c.code != 0 || res.May != c.may || res.Login != "root") {
			t.Errorf("%s: %v, %v", c.name, res, err)
		}
	}
	list := joinable(t, cyd)
	if len(list) != 1 || list[0].Invitation.GetBy() != "ann" || len(list[0].ModesByHub) != 0 {
		t.Errorf("cyd was invited: %v", list)
	}
	asked := x.h.admit(t, joinRequest(cydKey, x.id, "", ""))
	if asked.Refusal == nil {
		t.Error("an invitation let in who may not join")
	}
	res, err := x.h.Sharing.ListJoinableOf(t.Context(), connect.NewRequest(&api.ListJoinableOfRequest{PublicKey: x.bobKey.Marshal(), ClientAddress: "192.0.2.1:4711"}))
	if err != nil || len(res.Msg.Sessions) != 1 || res.Msg.Sessions[0].Invitation.GetMode() != "moderator" {
		t.Errorf("a hub asks for bob: %v, %v", res, err)
	}
	stranger, err := ssh.NewPublicKey(newKey(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.h.Sharing.ListJoinableOf(t.Context(), connect.NewRequest(&api.ListJoinableOfRequest{PublicKey: stranger.Marshal(), ClientAddress: "192.0.2.1:4711"})); err == nil {
		t.Error("a hub asked for nobody")
	}

	x.now.Add(int64(inviteLife))
	if list := joinable(t, cyd); len(list) != 0 {
		t.Errorf("after its time: %v", list)
	}
	if _, err := x.invite(t, x.ann, "cyd", "", 3600); err != nil {
		t.Fatal(err)
	}
	if _, err := x.h.Hub.Release(t.Context(), connect.NewRequest(&api.ReleaseRequest{SessionId: x.id})); err != nil {
		t.Fatal(err)
	}
	if list := joinable(t, cyd); len(list) != 0 {
		t.Errorf("after the session's end: %v", list)
	}
}

func TestWordsGoToTheHubOfTheSession(t *testing.T) {
	t.Parallel()
	x := shareSession(t)
	say := func(c *apiclient.Client, text string) error {
		_, err := c.Sharing.MessageSession(t.Context(), connect.NewRequest(&api.MessageSessionRequest{Id: hexOf(x.id), Text: text}))
		return err
	}
	if err := say(x.bob, "hello"); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("by who is not in it: %v", err)
	}
	for _, text := range []string{"", "a\x1b[2Jb", "a\nb", strings.Repeat("x", maxMessage+1)} {
		if err := say(x.ann, text); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%q: %v", text, err)
		}
	}
	x.joins(t, "observer")
	for _, c := range []*apiclient.Client{x.ann, x.bob, x.admin} {
		if err := say(c, "hello"); err != nil {
			t.Error(err)
		}
	}
	for _, want := range []string{"ann: hello", "bob: hello", "admin: hello"} {
		if m := <-x.tells; m.What != wire.TellAll || m.Text != want || !bytes.Equal(m.SessionId, x.id) {
			t.Errorf("told %v, want %q", m, want)
		}
	}
}

// The device puts a guest out; one that it does not is ended as any session is.
func TestWhoIsPutOutGoes(t *testing.T) {
	t.Parallel()
	x := shareSession(t)
	put := func(c *apiclient.Client, user string) error {
		_, err := c.Sharing.PutOutOfSession(t.Context(), connect.NewRequest(&api.PutOutOfSessionRequest{Id: hexOf(x.id), User: user}))
		return err
	}
	if err := put(x.ann, "bob"); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("who is not in it: %v", err)
	}
	guest := x.joins(t, "peer")
	if err := put(x.bob, "bob"); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("by a guest: %v", err)
	}
	gone := make(chan error, 1)
	go func() { gone <- put(x.ann, "bob") }()
	m := <-x.tells
	if m.What != wire.TellOut || m.User != "bob" || m.Text != "put out by ann" {
		t.Errorf("told %v", m)
	}
	if _, err := x.h.Hub.Release(t.Context(), connect.NewRequest(&api.ReleaseRequest{SessionId: guest.SessionId})); err != nil {
		t.Fatal(err)
	}
	if err := <-gone; err != nil || len(x.kills) != 0 {
		t.Errorf("%v, %d kills", err, len(x.kills))
	}
	if _, err := x.invite(t, x.ann, "bob", "", 0); err != nil {
		t.Fatal(err)
	}
	if m := <-x.tells; m.What != wire.TellLetIn || m.User != "bob" {
		t.Errorf("told %v", m)
	}
	guest = x.joins(t, "observer")
	if err := put(x.admin, "bob"); err != nil { // the hub does nothing
		t.Fatal(err)
	}
	if k := <-x.kills; !bytes.Equal(k.SessionId, guest.SessionId) || k.Reason != "put out by admin" {
		t.Errorf("ended %v", k)
	}
}

func TestInvitationsAreBounded(t *testing.T) {
	var table invitations
	now, live := time.Now(), func(id [16]byte) bool { return id[0] < 2 }
	for i := range maxInvited {
		if !table.add([16]byte{1}, invitation{user: strings.Repeat("x", i+1), until: now.Add(time.Minute)}, now, live) {
			t.Fatalf("the %dth was not taken", i)
		}
	}
	if table.add([16]byte{1}, invitation{user: "more", until: now.Add(time.Minute)}, now, live) {
		t.Error("more than there may be to one session")
	}
	if !table.add([16]byte{1}, invitation{user: "x", mode: "peer", until: now.Add(time.Minute)}, now, live) {
		t.Error("a newer one does not take the place of an older")
	}
	if i, ok := table.get([16]byte{1}, "x", now); !ok || i.mode != "peer" {
		t.Errorf("%v", i)
	}
	for i := 2; table.count < maxInvitations; i++ {
		table.add([16]byte{byte(i/250) + 2, byte(i % 250)}, invitation{user: "u", until: now.Add(time.Hour)}, now, func([16]byte) bool { return true })
	}
	// Those of sessions that have ended make room.
	if !table.add([16]byte{0}, invitation{user: "u", until: now.Add(time.Hour)}, now, live) || table.count > maxInvited+1 {
		t.Errorf("%d are kept", table.count)
	}
	users := func() (list []string) {
		for _, i := range table.of[[16]byte{0}] {
			list = append(list, i.user)
		}
		return list
	}
	table.take([16]byte{0}, "u")
	if got := users(); !slices.Equal(got, nil) {
		t.Errorf("left %v", got)
	}
}
