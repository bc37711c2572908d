package auth

import (
	"bytes"
	"crypto/ed25519"
	"strings"
	"testing"

	"hawser/auth/api"
	"hawser/auth/grant"
	"hawser/auth/policy"
	"hawser/auth/store"
	"hawser/recorder"
	"hawser/recorder/reader"
	recordingseal "hawser/recorder/seal"
)

const auditor = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"

// Every session from then on is granted with the recipients; the device's own policy has them too.
func TestRecipientsGoToWhoeverRecords(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	cred, _ := b.device(t, h, "gw")
	key := b.user(t, "ann", "operator")
	if g := h.admit(t, request(key, "gw", "root")); len(g.Access.Recipients) != 0 {
		t.Errorf("%d recipients before there are any", len(g.Access.Recipients))
	}
	b.apply(t, "kind: cluster\nrecording_recipients: ["+auditor+"]\n")
	want, err := recordingseal.ParseRecipient(auditor)
	if err != nil {
		t.Fatal(err)
	}
	for _, way := range []string{policy.WayHub, policy.WayEndToEnd} {
		r := request(key, "gw", "root")
		r.Way = way
		res := h.admit(t, r)
		g, err := grant.Open(res.Grant, []ed25519.PublicKey{b.set.GrantKey().Public().(ed25519.PublicKey)})
		if err != nil || len(g.Recipients) != 1 || g.Recipients[0] != want || len(res.Access.Recipients) != 1 || !bytes.Equal(res.Access.Recipients[0], want[:]) {
			t.Errorf("%s: granted for %d and %d recipients, %v", way, len(g.Recipients), len(res.Access.Recipients), err)
		}
	}
	roles, rev := b.view.policies()
	blob, err := b.signedPolicy(b.view.device(cred.Uuid), roles, rev)
	if err != nil {
		t.Fatal(err)
	}
	p, err := policy.OpenCompiled(blob, []ed25519.PublicKey{b.set.GrantKey().Public().(ed25519.PublicKey)}, b.info.Cluster, cred.Uuid)
	if err != nil || len(p.Recipients) != 1 || p.Recipients[0] != want {
		t.Errorf("the device's policy: %d recipients, %v", len(p.Recipients), err)
	}
}

// Auth checks what it can of an encrypted recording, makes nothing of what is in it, and says so where one comes in clear.
func TestAuthMakesNothingOfAnEncryptedRecording(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	cred, device := b.device(t, h, "gw")
	key := b.user(t, "ann", "operator")
	b.apply(t, "kind: cluster\nrecording_recipients: ["+auditor+"]\n")
	upload := func(encrypt bool) (m store.Manifest) {
		t.Helper()
		witness := store.WitnessMatch
		if encrypt { // which auth cannot compare
			witness = store.WitnessSums
		}
		g := h.admit(t, request(key, "gw", "root"))
		p := passed{command: "id; a-secret", input: "typed\n", output: strings.Repeat("what happened ", 100), rule: recorder.InputFull}
		p.header = recorder.Header{ID: [16]byte(g.RecordingId), User: "ann", Login: "root", Device: "gw", DeviceUUID: cred.Uuid}
		if encrypt {
			k, wrapped := recordingseal.NewKey([][32]byte{[32]byte(g.Access.Recipients[0])})
			p.header.Keys, p.key = wrapped, (*[32]byte)(&k)
		}
		chunks := p.recording(t, h.key, p.witness(device), "")
		// An upload may ask first where to begin.
		for _, part := range [][]*api.Chunk{nil, chunks[:1], chunks[1:]} {
			r := &api.AppendRecordingRequest{RecordingId: g.RecordingId, Grant: g.Grant, Chunks: part}
			if _, err := h.Hub.AppendRecording(t.Context(), connectRequest(r)); err != nil {
				t.Fatal(err)
			}
			m, err := b.recordings.Manifest(t.Context(), [16]byte(g.RecordingId))
			if err != nil || m.Sealed != (encrypt || part == nil) {
				t.Errorf("as it grows: encrypted %v, %v", m.Sealed, err)
			}
		}
		r := &api.CloseRecordingRequest{RecordingId: g.RecordingId, Grant: g.Grant, Chunks: uint64(len(chunks))}
		if _, err := h.Hub.CloseRecording(t.Context(), connectRequest(r)); err != nil {
			t.Fatal(err)
		}
		b.checks.wait()
		m, err := b.recordings.Manifest(t.Context(), [16]byte(g.RecordingId))
		if err != nil || m.Verified != store.VerifiedOK || m.Witness != witness || m.Sealed != encrypt {
			t.Errorf("checked: %q %q, witness %q, encrypted %v, %v", m.Verified, m.Fault, m.Witness, m.Sealed, err)
		}
		return m
	}
	m := upload(true)
	if m.Command != "" || m.Kind != "exec" {
		t.Errorf("auth knows the command %q of kind %q", m.Command, m.Kind)
	}
	if err := b.indexing.index(t.Context(), m.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := b.recordings.Object(t.Context(), m.ID, store.IndexState, 0); err == nil {
		t.Error("there is an index of it")
	}
	res := searchAs(t, b.Server, "ann", policy.ScopeAll, "happened", nil)
	if res.Sealed != 1 || len(res.Recordings) != 0 {
		t.Errorf("found %d, encrypted %d", len(res.Recordings), res.Sealed)
	}
	if log := b.auditText(t); strings.Contains(log, "a-secret") || strings.Contains(log, "recording.unencrypted") {
		t.Errorf("the log tells of it: %s", log)
	}
	r := reader.New(chunksFrom(t.Context(), b.recordings, m.ID, 0))
	if h, err := r.Header(); err != nil || len(h.Keys) != 1 {
		t.Errorf("its header: %v", err)
	}
	upload(false)
	if log := b.auditText(t); !strings.Contains(log, "recording.unencrypted") {
		t.Error("one in clear is not told of")
	}
}
