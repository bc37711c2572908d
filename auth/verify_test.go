package auth

import (
	"crypto/ed25519"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hawser/auth/api"
	"hawser/auth/loghead"
	"hawser/auth/store"
)

// With a copy of auth's data, a head that was kept elsewhere and nothing else it is found what was changed, removed or put in, and what was
// removed by somebody who was allowed to is told apart.
func TestDataThatWasChangedIsFoundOffline(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	key := b.user(t, "ann", "operator")
	var ids [][16]byte
	for range 4 {
		g, _ := b.recorded(t, h, request(key, "gw", "root"))
		ids = append(ids, [16]byte(g.RecordingId))
	}
	if _, err := b.admin.Recording.RemoveRecording(t.Context(), connectRequest(&api.RemoveRecordingRequest{Id: hexOf(ids[3][:])})); err != nil {
		t.Fatal(err)
	}
	res, err := b.admin.Audit.GetLogHead(t.Context(), connectRequest(&api.GetLogHeadRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	public, _ := b.Server.set.LogSigner()
	keys := []ed25519.PublicKey{public}
	kept, err := loghead.Open([]byte(res.Msg.Head), b.cfg.Cluster, keys)
	if err != nil {
		t.Fatal(err)
	}
	b.stop()
	judge := func(t *testing.T, change func(t *testing.T, dir string)) DataReport {
		t.Helper()
		c := b.cfg
		c.Data = filepath.Join(t.TempDir(), "data")
		for _, part := range []string{auditDir, recordingsDir} {
			if err := os.CopyFS(filepath.Join(c.Data, part), os.DirFS(filepath.Join(b.cfg.Data, part))); err != nil {
				t.Fatal(err)
			}
		}
		if change != nil {
			change(t, c.Data)
		}
		rep, err := VerifyData(t.Context(), c, keys, &kept)
		if err != nil {
			t.Fatal(err)
		}
		return rep
	}
	rep := judge(t, nil)
	if len(rep.Faults)+len(rep.Audit.Faults) > 0 || rep.Recordings != 3 || rep.Incomplete != 0 || rep.Removed != 1 || !rep.Audit.Signed {
		t.Fatalf("unchanged: %+v", rep)
	}
	in := func(t *testing.T, dir string, f func(r store.Recordings) error) {
		t.Helper()
		r, err := store.OpenRecordings(filepath.Join(dir, recordingsDir), store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := f(r); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, x := range []struct {
		name   string
		change func(t *testing.T, dir string)
		want   string
	}{
		{"a week's directory removed", func(t *testing.T, dir string) {
			weeks, err := filepath.Glob(filepath.Join(dir, recordingsDir, "*-W*"))
			if err != nil || len(weeks) != 1 {
				t.Fatal(weeks, err)
			}
			if err := os.RemoveAll(weeks[0]); err != nil {
				t.Fatal(err)
			}
		}, "recording " + hexOf(ids[0][:]) + " is missing"},
		{"a recording removed by who has the disk", func(t *testing.T, dir string) {
			in(t, dir, func(r store.Recordings) error {
				_, err := r.Remove(t.Context(), ids[1], store.Removal{By: "user:ann"})
				return err
			})
		}, "recording " + hexOf(ids[1][:]) + " is marked as removed, and the log has nobody remove it"},
		{"a recording exchanged for another", func(t *testing.T, dir string) {
			in(t, dir, func(r store.Recordings) error {
				m, err := r.Manifest(t.Context(), ids[0])
				if err != nil {
					return err
				}
				m.ID = [16]byte{9}
				if err := r.PutManifest(t.Context(), m); err != nil {
					return err
				}
				return nil
			})
		}, "recording 09000000000000000000000000000000 is not in the log"},
		{"an event edited", func(t *testing.T, dir string) {
			days, err := filepath.Glob(filepath.Join(dir, auditDir, "*.jsonl"))
			if err != nil || len(days) == 0 {
				t.Fatal(days, err)
			}
			text, err := os.ReadFile(days[0])
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(days[0], []byte(strings.Replace(string(text), `"user:`, `"user.`, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "was changed"},
	} {
		t.Run(x.name, func(t *testing.T) {
			rep := judge(t, x.change)
			if text := strings.Join(append(rep.Audit.Faults, rep.Faults...), "\n"); !strings.Contains(text, x.want) {
				t.Errorf("found %q, want %q", text, x.want)
			}
		})
	}
}
