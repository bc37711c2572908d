package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"hawser/auth/attest"
	"hawser/auth/ca"
	"hawser/recorder"
	"hawser/recorder/reader"
	"hawser/recorder/seal"
)

// madeFile is a recording's file, by whom and with what auth says of it.
type madeFile struct {
	header recorder.Header
	signer ed25519.PrivateKey
	word   *attest.Word // nil: none
	wordBy ed25519.PrivateKey
}

type issued struct {
	set         *ca.Set
	pin         string
	trust       []byte
	hub, device ed25519.PrivateKey
	chains      [2][]byte
}

const (
	deviceUUID = "00000000-0000-4000-8000-00000000000d"
	hubUUID    = "00000000-0000-4000-8000-00000000000a"
)

func issue(t *testing.T) issued {
	t.Helper()
	begun := time.Now().Add(-time.Hour)
	set, err := ca.NewSet("ber.example", begun)
	if err != nil {
		t.Fatal(err)
	}
	i := issued{set: set}
	trust := set.Trust(1)
	if i.trust, err = set.SignTrust(trust); err != nil {
		t.Fatal(err)
	}
	if i.pin, err = ca.Pin(trust.TunnelCA[0]); err != nil {
		t.Fatal(err)
	}
	key := func() ed25519.PrivateKey { _, k, _ := ed25519.GenerateKey(nil); return k }
	i.hub, i.device = key(), key()
	hub, _, err := set.IssueHub(ca.HubRequest{UUID: hubUUID, Name: "hub-1", Principals: []string{"hub-1"},
		Key: i.hub.Public().(ed25519.PublicKey), Now: begun, TTL: 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	device, _, err := set.IssueDevice(ca.DeviceRequest{UUID: deviceUUID, Name: "gw-1",
		Key: i.device.Public().(ed25519.PublicKey), Now: begun, TTL: 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	i.chains = [2][]byte{bytes.Join(device, nil), bytes.Join(hub, nil)}
	return i
}

// file writes it, and returns its name and the word on it that is true.
func (i issued) file(t *testing.T, e madeFile) (string, *attest.Word) {
	t.Helper()
	var b bytes.Buffer
	var key *[32]byte
	if len(e.header.Keys) > 0 {
		key = new([32]byte)
	}
	w := recorder.NewWriter(e.header, recorder.Options{
		Digest: true, Key: key, Sign: func(m []byte) []byte { return ed25519.Sign(e.signer, m) },
		Sink: func(_ context.Context, _ uint64, c []byte) error { b.Write(c); return nil },
	})
	_ = w.Start(e.header.Kind, "", "", nil)
	w.Output(recorder.Stdout, []byte("what is said to have happened"))
	w.Witness(nil, recorder.WithoutLost)
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	rep, err := reader.VerifyWith(reader.Chunks(bytes.NewReader(b.Bytes())), reader.Check{Sealed: true})
	if err != nil {
		t.Fatal(err)
	}
	evidence := reader.Evidence{Device: i.chains[0], Hub: i.chains[1], Trust: i.trust}
	if e.word != nil {
		word := *e.word
		if word.Complete && word.Closing == [32]byte{} {
			word.Closing = rep.Last
		}
		evidence.Word = word.Sign(e.wordBy)
	}
	name := filepath.Join(t.TempDir(), "session.hwrec")
	if err := os.WriteFile(name, evidence.Append(b.Bytes()), 0o600); err != nil {
		t.Fatal(err)
	}
	return name, e.word
}

func verifiedFile(t *testing.T, name, pin string) (*verified, string) {
	t.Helper()
	var out bytes.Buffer
	c := &cobra.Command{}
	c.SetContext(t.Context())
	c.SetOut(&out)
	v, err := verifyRecording(c, name, []string{pin}, &identities{})
	if err != nil {
		t.Fatal(err)
	}
	v.print(c)
	return v, out.String()
}

// Who was to make the recording in a file, and when, is what auth signed, and not what the recording says of itself.
func TestAFileIsVerifiedByAuthsWordAndNotByItsOwn(t *testing.T) {
	i := issue(t)
	now := time.Now()
	header := func(way string, start time.Time) recorder.Header {
		return recorder.Header{
			ID: [16]byte{5}, Cluster: "ber.example", User: "alice", Login: "root",
			Device: "gw-1", DeviceUUID: deviceUUID, Way: way, Hub: "hub-1", Kind: "shell", Start: start,
		}
	}
	word := func(way, by string) *attest.Word {
		return &attest.Word{Cluster: "ber.example", ID: [16]byte{5}, User: "alice", Login: "root",
			Device: deviceUUID, Recorder: by, Way: way, Start: now, End: now, Complete: true}
	}
	said := func(w *attest.Word, f func(w *attest.Word)) *attest.Word { f(w); return w }
	grants := i.set.GrantKey()
	other := issue(t)
	for _, c := range []struct {
		name  string
		e     madeFile
		fault string // "": verified
	}{
		{"a hub's", madeFile{header("hub", now), i.hub, word("hub", "hub"), grants}, ""},
		{"the hub's that was to record", madeFile{header("hub", now), i.hub,
			said(word("hub", "hub"), func(w *attest.Word) { w.Hub = hubUUID }), grants}, ""},
		{"another hub's", madeFile{header("hub", now), i.hub,
			said(word("hub", "hub"), func(w *attest.Word) { w.Hub = deviceUUID }), grants}, "another was to record the session"},
		{"one that ended otherwise", madeFile{header("hub", now), i.hub,
			said(word("hub", "hub"), func(w *attest.Word) { w.Closing[0] = 1 }), grants}, "its last chunk is not the one that auth wrote"},
		{"one with a word of before its end", madeFile{header("hub", now), i.hub,
			said(word("hub", "hub"), func(w *attest.Word) { w.Complete, w.End = false, time.Time{} }), grants}, "before it was closed"},
		{"a device's", madeFile{header("end-to-end", now), i.device, word("end-to-end", "device"), grants}, ""},
		{"a device's whose clock is far off", madeFile{header("end-to-end", time.Unix(0, 0)), i.device, word("end-to-end", "device"), grants}, ""},
		{"a hub's of a session past it", madeFile{header("hub", now), i.hub, word("end-to-end", "device"), grants}, "the signature at its end is not by"},
		{"a device's, as if a hub had made it", madeFile{header("hub", now), i.device, word("end-to-end", "device"), grants}, `came by the way "hub"`},
		{"a hub's of a session that nobody knows", madeFile{header("hub", now), i.hub, nil, nil}, "holds no word of auth"},
		{"a hub's with a word of its own making", madeFile{header("hub", now), i.hub, word("hub", "hub"), i.hub}, "holds no word of auth"},
		{"a hub's with a word of another cluster", madeFile{header("hub", now), i.hub, word("hub", "hub"), other.set.GrantKey()}, "holds no word of auth"},
		{"one with the word on another", madeFile{func() recorder.Header { h := header("hub", now); h.ID[0]++; return h }(),
			i.hub, word("hub", "hub"), grants}, "and auth speaks of"},
		{"one of another user", madeFile{func() recorder.Header { h := header("hub", now); h.User = "bob"; return h }(),
			i.hub, word("hub", "hub"), grants}, `auth knows it as a session of "alice"`},
	} {
		name, _ := i.file(t, c.e)
		v, out := verifiedFile(t, name, i.pin)
		if all := strings.Join(v.Faults, "; "); (c.fault == "") != (len(v.Faults) == 0) || !strings.Contains(all, c.fault) {
			t.Errorf("%s: %s", c.name, out)
		}
	}
}

// Whose identity opens other recordings is told what anybody is told of this one.
func TestAnEncryptedRecordingIsVerifiedByWhoHasAnotherKey(t *testing.T) {
	i := issue(t)
	to, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	recipient, err := seal.ParseRecipient(to.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "auditor.key")
	if err := os.WriteFile(file, []byte(other.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(identityEnv, file)
	now := time.Now()
	h := recorder.Header{ID: [16]byte{5}, Cluster: "ber.example", User: "alice", Login: "root",
		Device: "gw-1", DeviceUUID: deviceUUID, Way: "hub", Hub: "hub-1", Kind: "shell", Start: now}
	_, h.Keys = seal.NewKey([][32]byte{recipient})
	word := &attest.Word{Cluster: "ber.example", ID: h.ID, User: "alice", Login: "root", Device: deviceUUID, Recorder: "hub", Way: "hub",
		Start: now, End: now, Complete: true}
	name, _ := i.file(t, madeFile{h, i.hub, word, i.set.GrantKey()})
	v, out := verifiedFile(t, name, i.pin)
	if len(v.Faults) > 0 || !strings.Contains(out, "none of the identities") || !strings.Contains(out, "it is encrypted to auditors") {
		t.Error(out)
	}
}

// A recording's file may be a stranger's: nothing of it reaches the terminal as it is.
func TestVerifyShowsAStrangersBytesAsText(t *testing.T) {
	i := issue(t)
	evil := "\x1b]52;c;cm0gLXJmIC8=\x07\x1b[2A\u009b2J\u202everified"
	e := madeFile{header: recorder.Header{
		ID: [16]byte{5}, Cluster: evil, User: evil, Login: evil,
		Device: evil, DeviceUUID: evil, Way: evil, ClientAddr: evil, Hub: evil, Kind: evil, Command: evil, Term: evil,
		Start: time.Now(), Input: evil,
	}, signer: i.hub}
	for _, way := range []string{evil, "hub", "end-to-end"} {
		e.header.Way = way
		name, _ := i.file(t, e)
		v, out := verifiedFile(t, name, i.pin)
		if len(v.Faults) == 0 || !strings.Contains(out, `\x1b]52`) {
			t.Errorf("way %q: %s", way, out)
		}
		for _, s := range append([]string{out, v.User, v.Login, v.Device, v.Signer, v.Witness}, v.Faults...) {
			if strings.ContainsAny(s, "\x1b\x07\u009b\u202e") {
				t.Errorf("way %q: %q", way, s)
			}
		}
	}
}

// A file in the directory does not stand for the recording of that id.
func TestAnIDIsNoFile(t *testing.T) {
	t.Setenv("HAWSER_HOME", t.TempDir())
	t.Chdir(t.TempDir())
	const id = "5f0c2a"
	if err := os.WriteFile(id, []byte("not auth's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := openSource(t.Context(), id); err == nil {
		t.Errorf("opened %v in place of a recording", s)
	}
	s, err := openSource(t.Context(), "./"+id)
	if err != nil {
		t.Fatal(err)
	}
	_ = s.close()
	for name, want := range map[string]bool{"5f0c2a": true, "5F0C2A": true, "5f0c2": false, fmt.Sprintf("%x", [16]byte{}): true,
		"session.hwrec": false, "5f0c2a.hwrec": false, "deadbeefs": false} {
		if isID(name) != want {
			t.Errorf("%s is an id: %t", name, !want)
		}
	}
}
