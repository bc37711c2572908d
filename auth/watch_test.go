package auth

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"net/http"
	"slices"
	"testing"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/api/apiconnect"
	"hawser/auth/ca"
	"hawser/auth/lock"
	"hawser/auth/policy"
	"hawser/auth/store"
)

// A hub that comes back with the revision and the epoch it had hears of what changed meanwhile, and of nothing else.
func TestAWatchGoesOnWhereItEnded(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	for _, name := range []string{"ann", "ben", "cleo"} {
		b.user(t, name, "operator")
	}
	first, stop := h.watchFrom(t, 0, "")
	if !first.Full || len(first.Users) != 4 || len(first.Devices) != 1 {
		t.Fatalf("the first state: %v", first)
	}
	stop()
	key, err := ssh.NewPublicKey(newKey(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.admin.User.AddUserKey(t.Context(), connect.NewRequest(&api.AddUserKeyRequest{Name: "ann", AuthorizedKey: string(ssh.MarshalAuthorizedKey(key))})); err != nil {
		t.Fatal(err)
	}
	if _, err := b.admin.Admin.RemoveUser(t.Context(), connect.NewRequest(&api.RemoveUserRequest{Name: "ben"})); err != nil {
		t.Fatal(err)
	}
	next, stop := h.watchFrom(t, first.Revision, first.Epoch)
	if next.Full || len(next.Users) != 1 || next.Users[0].Name != "ann" || len(next.Users[0].Keys) != 2 || !slices.Equal(next.UsersRemoved, []string{"ben"}) ||
		len(next.Devices) != 0 || next.Config != nil || next.PolicyRevision != 0 {
		t.Errorf("what changed meanwhile: %v", next)
	}
	stop()
	last, _ := h.watchFrom(t, next.Revision, next.Epoch)
	if last.Full || len(last.Users) != 0 || len(last.UsersRemoved) != 0 || !last.Synced {
		t.Errorf("nothing changed meanwhile: %v", last)
	}
}

// What a hub has of another run of the service, or has from before what is remembered, it gets anew.
func TestAWatchThatCannotGoOnGetsAllAnew(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	first, stop := h.watchFrom(t, 0, "")
	stop()
	for what, r := range map[string]*api.WatchRequest{
		"another epoch":              {Revision: first.Revision, Epoch: first.Epoch + "x"},
		"no epoch":                   {Revision: first.Revision},
		"no revision":                {Epoch: first.Epoch},
		"a revision not yet reached": {Revision: first.Revision + 1000, Epoch: first.Epoch},
	} {
		m, stop := h.watchFrom(t, r.Revision, r.Epoch)
		stop()
		if !m.Full || !m.Begin || !m.Synced || len(m.Users) != 1 {
			t.Errorf("%s: %v", what, m)
		}
	}

	changes := 0
	change := func(n int) { // as that many users are added
		t.Helper()
		for n > 0 {
			var ops []store.Op
			for range min(n, 256) {
				name := fmt.Sprintf("user-%04d", changes)
				ops = append(ops, put(userPrefix+name, userRecord{Name: name}))
				changes++
				n--
			}
			if err := b.commit(t.Context(), nil, ops...); err != nil {
				t.Fatal(err)
			}
		}
	}
	change(ringSize - 256) // some room for what the service stores by itself
	m, stop := h.watchFrom(t, first.Revision, first.Epoch)
	stop()
	if m.Full || len(m.Users) != changes {
		t.Errorf("%d changes behind: full %v, %d users", changes, m.Full, len(m.Users))
	}
	change(257)
	m, _ = h.watchFrom(t, first.Revision, first.Epoch)
	if !m.Full || !m.Synced || len(m.Users) != changes+1 {
		t.Errorf("%d changes behind: full %v, %d users", changes, m.Full, len(m.Users))
	}
}

// A hub that was away while the key that signs policies was rotated has, once it is back, policies and locks that hold under the keys it is given. It was
// once sent what had changed in the store alone, and its devices got policies signed by a key that nobody trusts any more.
func TestAHubThatComesBackAfterARotationHasPoliciesThatHold(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	for _, name := range []string{"gw-1", "gw-2"} {
		b.device(t, h, name)
	}
	first, stop := h.watchFrom(t, 0, "")
	held, err := ca.OpenStoredTrust(first.Trust)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	b.rotate(t, &api.RotateCARequest{Kinds: []string{"grant"}, Manual: true})
	for range 3 {
		b.advance(t)
	}
	b.user(t, "ann", "operator") // something else changed, too

	next, _ := h.watchFrom(t, first.Revision, first.Epoch)
	if held, err = ca.OpenNextTrust(next.Trust, held); err != nil {
		t.Fatal(err)
	}
	policies, locks := make(map[string][]byte), first.Locks
	for _, m := range []*api.WatchResponse{first, next} { // as a hub keeps them
		if m.Full {
			clear(policies)
		}
		for _, d := range m.Devices {
			policies[d.Uuid] = d.Policy
		}
		if m.Locks != nil {
			locks = m.Locks
		}
	}
	if len(policies) != 2 {
		t.Errorf("%d devices", len(policies))
	}
	for uuid, blob := range policies {
		if _, err := policy.OpenCompiled(blob, held.GrantKeys, b.Cluster(), uuid); err != nil {
			t.Errorf("policy of %s: %v", uuid, err)
		}
	}
	if _, err := lock.Open(locks.Blob, held.GrantKeys, b.Cluster()); err != nil {
		t.Errorf("locks: %v", err)
	}
}

// A hub that does not read is sent what there is when it reads again, not all that was meanwhile.
func TestChangesForASlowHubAreMerged(t *testing.T) {
	const changes, size = 50, 8 << 10
	b := start(t)
	h := b.hub(t)
	// As apiclient connects, with room for two changes between the service and who reads.
	tr := &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*h.certificate()}},
		ForceAttemptHTTP2: true, HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 2 * size},
	}
	t.Cleanup(tr.CloseIdleConnections)
	h.Hub = apiconnect.NewHubServiceClient(&http.Client{Transport: tr}, "https://"+b.Addr())
	stream, _ := h.watch(t)
	blob := make([]byte, size)
	rand.Read(blob) // for what is sent is compressed
	for n := range changes {
		u := userRecord{Name: "ann", Roles: []string{fmt.Sprint("role-", n)}, Keys: []userKey{{Blob: blob}}}
		if err := b.commit(t.Context(), nil, put(userPrefix+"ann", u)); err != nil {
			t.Fatal(err)
		}
	}
	told, last := 0, ""
	for last != fmt.Sprint("role-", changes-1) {
		if !stream.Receive() {
			t.Fatal(stream.Err())
		}
		for _, u := range stream.Msg().Users {
			told, last = told+1, u.Roles[0]
		}
	}
	if told > changes/5 {
		t.Errorf("%d changes were told one by one, of %d", told, changes)
	}
}

// watchFrom opens the hub's Watch from a revision on and returns what it begins with; stop ends it.
func (h *testHub) watchFrom(t *testing.T, revision uint64, epoch string) (state *api.WatchResponse, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	_, state = h.watchBy(ctx, t, &api.WatchRequest{Revision: revision, Epoch: epoch})
	return state, cancel
}
