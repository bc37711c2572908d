package auth

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"hawser/auth/api"
	"hawser/auth/backup"
	"hawser/auth/store"
)

// fetch makes a backup through the API.
func (b *bench) fetch(t *testing.T, recordings bool) (file []byte, id *age.X25519Identity) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	stream, err := b.admin.Backup.CreateBackup(t.Context(), connectRequest(&api.CreateBackupRequest{Recipients: []string{id.Recipient().String()}, Recordings: recordings}))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	whole := false
	for stream.Receive() {
		file = append(file, stream.Msg().Data...)
		whole = stream.Msg().Summary != nil
	}
	if err := stream.Err(); err != nil || !whole {
		t.Fatalf("whole: %v, %v", whole, err)
	}
	return file, id
}

func plain(t *testing.T, file []byte, id age.Identity) io.Reader {
	t.Helper()
	r, err := backup.Decrypt(bytes.NewReader(file), id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Everything comes back from a backup that was made while the service served, and what others hold from after it goes on.
func TestRestoredServiceGoesOnWhereTheBackupWasMade(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	dev, dkey := b.device(t, h, "gw")
	key := b.user(t, "ann", "operator")
	b.applyRole(t, "kind: role\nname: field\nallow:\n  devices: {site: [ber]}\n  logins: [root]\n")
	unspent := b.token(t, &api.CreateTokenRequest{Kind: "edge", Uses: 5})
	g := h.admit(t, request(key, "gw", "root"))
	if _, err := h.Hub.AppendRecording(t.Context(), connectRequest(&api.AppendRecordingRequest{RecordingId: g.RecordingId, Grant: g.Grant, Chunks: chunksOf(t, g.RecordingId, 2, "x")[:1]})); err != nil {
		t.Fatal(err)
	}
	file, id := b.fetch(t, true)
	if bytes.Contains(file, []byte("test.example")) {
		t.Error("the backup is not encrypted")
	}
	report, err := VerifyBackup(plain(t, file, id))
	if err != nil || report.Kinds["device"] != 1 || report.Kinds["user"] != 2 || report.End.Recordings != 1 || report.End.Files == 0 {
		t.Fatalf("verify: %+v, %v", report, err)
	}

	// After the backup: the device and the hub renew, somebody joins, and revisions go on.
	renewed, err := h.Hub.RenewDevice(t.Context(), connectRequest(&api.RenewDeviceRequest{Uuid: dev.Uuid, PublicKey: dkey.Public().(ed25519.PublicKey), Counter: dev.Counter}))
	if err != nil {
		t.Fatal(err)
	}
	hub2, err := h.Join.RenewHub(t.Context(), connectRequest(&api.RenewHubRequest{Counter: h.res.Counter, SshAddresses: []string{"127.0.0.1:22"}, TunnelAddresses: []string{"127.0.0.1:443"}}))
	if err != nil {
		t.Fatal(err)
	}
	b.device(t, h, "later")
	_, before, err := b.state.Range(t.Context(), "", "", 1)
	if err != nil {
		t.Fatal(err)
	}
	b.stop()

	dir := filepath.Join(t.TempDir(), "restored")
	cfg := b.cfg
	cfg.Data = dir
	report, err = RestoreBackup(cfg, plain(t, file, id), RestoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if report.Dropped == 0 || len(report.Advice()) < 4 {
		t.Errorf("dropped %d tokens; advice %q", report.Dropped, report.Advice())
	}
	if _, err := RestoreBackup(cfg, plain(t, file, id), RestoreOptions{}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("a second restore: %v", err)
	}
	b.cfg = cfg
	b.run(t)
	_, after, err := b.state.Range(t.Context(), "", "", 1)
	if err != nil || after <= before {
		t.Errorf("revision %d after %d, %v", after, before, err)
	}
	for _, r := range []string{"device/" + dev.Uuid, "user/ann", "role/field"} {
		if _, err := b.state.Get(t.Context(), r); err != nil {
			t.Errorf("%s: %v", r, err)
		}
	}
	if _, err := b.state.Get(t.Context(), tokenPrefix+"x"); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	again := &testHub{b.dial(t, &tls.Certificate{Certificate: hub2.Msg.Chain, PrivateKey: h.key}), h.key, hub2.Msg}
	// The newer certificates are the same CA's: no rejoin, and no clone either.
	if _, err := again.Join.RenewHub(t.Context(), connectRequest(&api.RenewHubRequest{Counter: hub2.Msg.Counter})); err != nil {
		t.Errorf("the hub renews: %v", err)
	}
	if _, err := again.Hub.RenewDevice(t.Context(), connectRequest(&api.RenewDeviceRequest{Uuid: dev.Uuid, PublicKey: dkey.Public().(ed25519.PublicKey), Counter: renewed.Msg.Counter})); err != nil {
		t.Errorf("the device renews: %v", err)
	}
	again.admit(t, request(key, "gw", "root"))
	_, err = again.joinDevice(t.Context(), unspent.Secret, newKey(t), "new", "192.0.2.1:1")
	wantCode(t, "a token of before", err, api.Code_CODE_TOKEN_UNKNOWN)
	admin := b.dial(t, b.adminCert).Admin
	list, err := admin.ListRecordings(t.Context(), connectRequest(&api.ListRecordingsRequest{}))
	if err != nil || len(list.Msg.Recordings) != 1 || list.Msg.Recordings[0].Chunks != 1 {
		t.Errorf("recordings: %v, %v", list, err)
	}
}

func TestBackupOfAStoppedServiceAndOfARunningOneAreTheSame(t *testing.T) {
	b := start(t)
	b.user(t, "ann", "operator")
	var out bytes.Buffer
	if _, err := Backup(t.Context(), b.cfg, &out, false); err == nil || !strings.Contains(err.Error(), "hawser backup create") {
		t.Errorf("of one that runs: %v", err)
	}
	file, id := b.fetch(t, false)
	online, err := VerifyBackup(plain(t, file, id))
	if err != nil {
		t.Fatal(err)
	}
	b.stop()
	out.Reset()
	if _, err := Backup(t.Context(), b.cfg, &out, true); err != nil {
		t.Fatal(err)
	}
	offline, err := VerifyBackup(&out)
	if err != nil || offline.Kinds["user"] != online.Kinds["user"] || offline.Header.UUID != online.Header.UUID {
		t.Errorf("%+v, %+v, %v", offline, online, err)
	}
}

// A backup that is cut or changed is refused, and what a refused one left is no cluster: neither run nor init takes it for one.
func TestBrokenRestoreIsNoCluster(t *testing.T) {
	b := start(t)
	b.user(t, "ann", "operator")
	b.stop()
	var out bytes.Buffer
	if _, err := Backup(t.Context(), b.cfg, &out, false); err != nil {
		t.Fatal(err)
	}
	whole := out.Bytes()
	for cut := 1; cut < len(whole); cut += 1 + len(whole)/40 {
		if _, err := VerifyBackup(bytes.NewReader(whole[:cut])); err == nil {
			t.Fatalf("cut at %d of %d: verified", cut, len(whole))
		}
		cfg := b.cfg
		cfg.Data = filepath.Join(t.TempDir(), "restored")
		if _, err := RestoreBackup(cfg, bytes.NewReader(whole[:cut]), RestoreOptions{}); err == nil {
			t.Fatalf("cut at %d of %d: restored", cut, len(whole))
		}
		if err := Init(cfg); err == nil || !strings.Contains(err.Error(), "backup restore") {
			t.Fatalf("cut at %d: init: %v", cut, err)
		}
		if s, err := New(cfg); err == nil {
			_ = s.Close()
			t.Fatalf("cut at %d: a service starts", cut)
		}
	}
	// Records that the service would not take do not come in either.
	for _, bad := range [][2]string{{"role/x", `{"kind":"role","name":"y"}`}, {"user/ann", "not json"}, {"device/1", "[]"}} {
		var out bytes.Buffer
		w, err := backup.NewWriter(&out, backup.Header{Schema: schema(), Cluster: b.info.Cluster, UUID: b.info.UUID})
		if err == nil {
			err = errors.Join(w.Record(bad[0], []byte(bad[1])), w.Set(b.set.Marshal()))
		}
		if _, errEnd := w.End(1); errors.Join(err, errEnd) != nil {
			t.Fatal(err, errEnd)
		}
		if _, err := VerifyBackup(&out); !errors.Is(err, backup.ErrDamaged) {
			t.Errorf("%s %s: %v", bad[0], bad[1], err)
		}
	}
}

func TestBackupOfANewerReleaseIsRefused(t *testing.T) {
	b := start(t)
	var out bytes.Buffer
	w, err := backup.NewWriter(&out, backup.Header{Schema: schema() + 1, Version: "v9", Cluster: b.info.Cluster, UUID: b.info.UUID})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Set(b.set.Marshal()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.End(1); err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyBackup(&out); !errors.Is(err, backup.ErrNewer) || !strings.Contains(err.Error(), "v9") {
		t.Errorf("got %v", err)
	}
}

// Whatever file of the data directory is damaged: the service has every role, user and device, or does not start and names the way back.
func TestServiceNeverStartsWithPartOfItsData(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	b.user(t, "ann", "operator")
	b.applyRole(t, "kind: role\nname: field\nallow:\n  devices: {site: [ber]}\n  logins: [root]\ndeny:\n  logins: [oracle]\n")
	want := describeAll(b.Server)
	b.stop()
	names := []string{clusterFile, authoritiesFile, keyFile}
	logs, err := filepath.Glob(filepath.Join(b.cfg.Data, auditDir, "*"))
	if err != nil || len(logs) == 0 {
		t.Fatalf("no audit log: %v", err)
	}
	for _, name := range logs {
		names = append(names, filepath.Join(auditDir, filepath.Base(name)))
	}
	for _, name := range names {
		whole, err := os.ReadFile(filepath.Join(b.cfg.Data, name))
		if err != nil {
			t.Fatal(err)
		}
		places := 8
		if os.Getenv("HAWSER_LONG") != "" {
			places = 120
		}
		step := max(len(whole)/places, 1)
		for at := 0; at < len(whole); at += step {
			for what, bad := range map[string][]byte{"flipped": flip(whole, at), "cut": whole[:at]} {
				if err := os.WriteFile(filepath.Join(b.cfg.Data, name), bad, 0o600); err != nil {
					t.Fatal(err)
				}
				s, err := New(b.cfg)
				if err != nil {
					if !strings.Contains(err.Error(), "backup restore") && !errors.Is(err, ErrNotInitialized) {
						t.Errorf("%s %s at %d: %v", name, what, at, err)
					}
					continue
				}
				if got := describeAll(s); got != want {
					t.Errorf("%s %s at %d: it has %s, want %s", name, what, at, got, want)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		}
		if err := os.WriteFile(filepath.Join(b.cfg.Data, name), whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.run(t)
}

func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 0x04
	return b
}

// describeAll names who and what a service knows.
func describeAll(s *Server) string {
	var out []string
	out = append(out, s.info.Cluster, s.info.UUID, s.Pin())
	for _, d := range s.view.allDevices() {
		out = append(out, "device "+d.Name)
	}
	roles, _ := s.view.policies()
	for _, r := range roles {
		out = append(out, "role "+r.Name+strings.Join(r.Deny.Logins, ","))
	}
	for _, name := range []string{"admin", "ann"} {
		if u, roles := s.view.user(name); u != nil && len(roles) == 1 {
			out = append(out, "user "+name+" "+roles[0].Name)
		}
	}
	return strings.Join(out, "; ")
}

// Expired recordings go by themselves, and the audit log says so.
func TestRetentionOfTheClusterIsKept(t *testing.T) {
	b := start(t)
	now := b.Server.cfg.Now()
	for i, age := range []time.Duration{0, 20 * 24 * time.Hour, 60 * 24 * time.Hour} {
		if err := b.recordings.PutManifest(t.Context(), store.Manifest{ID: [16]byte{byte(i + 1)}, Start: now.Add(-age), User: "ann", Closed: true}); err != nil {
			t.Fatal(err)
		}
	}
	b.retain(t.Context())
	if all, err := b.recordings.List(t.Context(), store.Filter{}); err != nil || len(all) != 3 {
		t.Fatalf("without a retention: %d recordings, %v", len(all), err)
	}
	b.applyRole(t, "kind: cluster\nretention: {recordings: 720h}\n")
	b.retain(t.Context())
	all, err := b.recordings.List(t.Context(), store.Filter{})
	if err != nil || len(all) != 2 {
		t.Errorf("after 30 days: %d recordings, %v", len(all), err)
	}
	b.maintain()
}

// Rules keep recordings for longer or shorter, by labels of the device and roles of the person as they were; the audit log names the rule.
func TestRetentionGoesByRoleAndLabel(t *testing.T) {
	b := start(t)
	ctx, now := t.Context(), b.Server.cfg.Now()
	put := func(id byte, days int, env string, roles ...string) {
		t.Helper()
		m := store.Manifest{ID: [16]byte{id}, Start: now.AddDate(0, 0, -days), User: "ann", Device: "gw-1", Labels: map[string]string{"env": env}, Roles: roles, Closed: true}
		if err := b.recordings.PutManifest(ctx, m); err != nil {
			t.Fatal(err)
		}
	}
	put(1, 20, "lab", "field")
	put(2, 20, "prod", "field")
	put(3, 60, "prod", "field")
	put(4, 60, "lab", "dba")
	put(5, 60, "lab", "field")
	put(6, 400, "lab", "dba")
	left := func() (ids []byte) {
		t.Helper()
		all, err := b.recordings.List(ctx, store.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			ids = append(ids, m.ID[0])
		}
		slices.Sort(ids)
		return ids
	}
	b.applyRole(t, "kind: cluster\nretention: {recordings: 30d, rules: [{devices: {env: [lab]}, recordings: 7d}, {roles: [dba], recordings: 365d}]}\n")
	if err := func() error {
		_, err := b.recordings.Hold(ctx, [16]byte{5}, &store.Hold{By: "user:lea", Reason: "case 7"})
		return err
	}(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		b.retain(ctx)
		if got := left(); !slices.Equal(got, []byte{2, 4, 5}) {
			t.Fatalf("left %v", got)
		}
	}
	m, err := b.recordings.Manifest(ctx, [16]byte{4})
	if r := b.recordingOf(m); err != nil || r.KeepRule != "retention.rules[1]" || time.Unix(r.KeepUntilUnix, 0).Before(m.Start.AddDate(1, 0, 0)) {
		t.Errorf("kept until %v by %s, %v", time.Unix(r.KeepUntilUnix, 0), r.KeepRule, err)
	}
	// Released, it goes with the next hour's; so does what another rule is for.
	if _, err := b.recordings.Hold(ctx, [16]byte{5}, nil); err != nil {
		t.Fatal(err)
	}
	b.thinned.forget(store.Week(now.AddDate(0, 0, -60)))
	b.retain(ctx)
	if got := left(); !slices.Equal(got, []byte{2, 4}) {
		t.Errorf("left %v", got)
	}
	b.applyRole(t, "kind: cluster\nretention: {recordings: 30d, rules: [{roles: [dba], recordings: 14d}]}\n")
	b.retain(ctx)
	if got := left(); !slices.Equal(got, []byte{2}) {
		t.Errorf("after another rule: left %v", got)
	}
}

// What is held stays held, what was removed stays removed and says by whom, and what was made of a recording comes back with it.
func TestABackupKeepsHoldsTombstonesAndSideObjects(t *testing.T) {
	b := start(t)
	ctx, now := t.Context(), time.Now()
	for i := range byte(3) {
		m := store.Manifest{ID: [16]byte{i + 1}, Start: now.AddDate(0, 0, -int(i)), User: "ann", Closed: true}
		err := b.recordings.PutManifest(ctx, store.Manifest{ID: m.ID, Start: m.Start, User: "ann"})
		err = errors.Join(err, b.recordings.Append(ctx, m.ID, 0, []byte("chunk")), b.recordings.PutManifest(ctx, m))
		err = errors.Join(err, b.recordings.PutObjects(ctx, m.ID, store.Attachments, store.Object{N: store.AttachDeviceCertificate, Data: bytes.Repeat([]byte("c"), store.MaxObject)}))
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.recordings.Hold(ctx, [16]byte{2}, &store.Hold{By: "user:lea", Reason: "case 7"}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.recordings.Remove(ctx, [16]byte{3}, store.Removal{By: "user:lea"}); err != nil {
		t.Fatal(err)
	}
	b.stop()
	var out bytes.Buffer
	end, err := Backup(ctx, b.cfg, &out, true)
	if err != nil || end.Recordings != 3 || end.Objects != 2 || end.Chunks != 2 {
		t.Fatalf("%+v, %v", end, err)
	}
	c := b.cfg
	c.Data = filepath.Join(t.TempDir(), "restored")
	if _, err := RestoreBackup(c, &out, RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	r, err := store.OpenRecordings(filepath.Join(c.Data, recordingsDir), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	all, err := r.List(ctx, store.Filter{Removed: true})
	if err != nil || len(all) != 3 {
		t.Fatalf("%d recordings, %v", len(all), err)
	}
	for _, m := range all {
		if (m.Hold != nil) != (m.ID[0] == 2) || (m.Removed != nil) != (m.ID[0] == 3) || !m.Closed || m.Removed != nil && m.Removed.By != "user:lea" {
			t.Errorf("restored %+v", m)
		}
	}
	if b, err := r.Object(ctx, [16]byte{1}, store.Attachments, store.AttachDeviceCertificate); err != nil || len(b) != store.MaxObject {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}
