package auth

import (
	"errors"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
)

// replay asks for a recording as a hub does, and counts the chunks that come.
func (h *testHub) replay(t *testing.T, r *api.ReplayRecordingRequest) (recording *api.Recording, chunks int, err error) {
	t.Helper()
	stream, err := h.Replay.ReplayRecording(t.Context(), connect.NewRequest(r))
	if err != nil {
		return nil, 0, err
	}
	defer stream.Close()
	for stream.Receive() {
		if m := stream.Msg().Recording; m != nil {
			recording = m
		}
		chunks += len(stream.Msg().Chunks)
	}
	return recording, chunks, stream.Err()
}

// A hub is sent recordings for somebody who has a connection to it, by his roles as far as what he came with is enough for them.
func TestAHubReplaysOnlyForWhoIsThere(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.apply(t, "kind: role\nname: viewer\nallow: {recordings: all}\n")
	b.apply(t, "kind: role\nname: careful\nallow: {recordings: all}\noptions: {credentials: [certificate]}\n")
	b.apply(t, "kind: role\nname: plain\nallow: {devices: {\"*\": [\"*\"]}, logins: [root], channels: [shell]}\n")
	h, other := b.hub(t), b.hub(t)
	b.device(t, h, "gw")
	ann := b.user(t, "ann", "operator")
	g := h.admit(t, request(ann, "gw", "root"))
	chunks := chunksOf(t, g.RecordingId, 4, "what happened ")
	if _, err := h.Hub.AppendRecording(t.Context(), connect.NewRequest(&api.AppendRecordingRequest{RecordingId: g.RecordingId, Grant: g.Grant, Chunks: chunks})); err != nil {
		t.Fatal(err)
	}
	id := hexOf(g.RecordingId)
	connected := func(h *testHub, key ssh.PublicKey) *api.ReplayRecordingRequest {
		t.Helper()
		r := request(key, "", "")
		r.Kind, r.Channel, r.Command, r.SessionId = api.Kind_KIND_CONNECTION, "", "", nil
		if res := h.admit(t, r); res.Refusal != nil {
			t.Fatal(res.Refusal.Message)
		}
		return &api.ReplayRecordingRequest{Id: id[:12], PublicKey: key.Marshal(), ClientAddress: r.ClientAddress, ConnectionId: r.ConnectionId}
	}
	vic := b.user(t, "vic", "viewer")
	cat := b.user(t, "cat", "plain")
	if _, err := b.admin.User.SetUserRoles(t.Context(), connect.NewRequest(&api.SetUserRolesRequest{Name: "cat", Roles: []string{"careful", "plain"}})); err != nil {
		t.Fatal(err)
	}
	here := connected(h, vic)
	if rec, n, err := h.replay(t, here); err != nil || n != 4 || rec.GetUser() != "ann" || rec.GetDevice() != "gw" {
		t.Errorf("%v, %d chunks, %v", rec, n, err)
	}
	for what, tt := range map[string]struct {
		hub   *testHub
		r     *api.ReplayRecordingRequest
		words string
	}{
		"by a hub that he is not at":                  {other, here, "no connection of yours"},
		"by a connection that is not his":             {h, &api.ReplayRecordingRequest{Id: id, PublicKey: ann.Marshal(), ClientAddress: here.ClientAddress, ConnectionId: here.ConnectionId}, "no connection of yours"},
		"by one that there is not":                    {h, &api.ReplayRecordingRequest{Id: id, PublicKey: vic.Marshal(), ClientAddress: here.ClientAddress, ConnectionId: id16()}, "no connection of yours"},
		"by a key that nobody has":                    {h, &api.ReplayRecordingRequest{Id: id, PublicKey: []byte("key"), ClientAddress: here.ClientAddress, ConnectionId: here.ConnectionId}, "key"},
		"by no key":                                   {h, &api.ReplayRecordingRequest{Id: id, ClientAddress: here.ClientAddress, ConnectionId: here.ConnectionId}, "key or the certificate"},
		"who may see none":                            {h, connected(h, b.user(t, "amy", "plain")), "no recording"},
		"one that there is not":                       {h, &api.ReplayRecordingRequest{Id: "777777", PublicKey: vic.Marshal(), ClientAddress: here.ClientAddress, ConnectionId: here.ConnectionId}, "no recording"},
		"by a key where the role wants a certificate": {h, connected(h, cat), "hawser login"},
	} {
		if _, n, err := tt.hub.replay(t, tt.r); err == nil || n != 0 || !strings.Contains(api.MessageOf(err), tt.words) {
			t.Errorf("%s: %d chunks, %v", what, n, err)
		}
	}
	b.lock(t, &api.AddLockRequest{Lock: &api.StandingLock{User: "vic"}})
	if _, _, err := h.replay(t, here); err == nil {
		t.Error("a locked person is played a recording")
	} else if _, ok := errors.AsType[*connect.Error](err); !ok {
		t.Error(err)
	}
	log := b.auditText(t)
	if n := strings.Count(log, `"recording.replay"`); n != 1 || !strings.Contains(log, `"actor":"user:vic"`) || !strings.Contains(log, `"recording.replay.refuse"`) {
		t.Errorf("%d replays in the log", n)
	}
}
