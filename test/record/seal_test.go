package record_test

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"hawser/test/harness"
)

// auditor makes an identity file of age, and its recipient.
func auditor(t *testing.T, dir, name string) (file, recipient string) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, name+".key")
	if err := os.WriteFile(file, []byte("# "+name+"\n"+id.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, id.Recipient().String()
}

// holds tells which files below dir hold a piece of b.
func holds(t *testing.T, dir string, b []byte) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // what goes while it is looked at
		}
		text, err := os.ReadFile(path)
		if err == nil && (bytes.Contains(text, b[1000:1024]) || bytes.Contains(text, b[len(b)-1000:len(b)-976])) {
			names = append(names, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// With recipients set no byte on any disk of the cluster shows what passed; who has a key plays, searches, exports and verifies it, and nobody else.
func TestRecordingsAreForTheirAuditorsAlone(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	c := harness.Up(t, 1)
	dir := t.TempDir()
	ann, toAnn := auditor(t, dir, "ann")
	bob, toBob := auditor(t, dir, "bob")
	eve, _ := auditor(t, dir, "eve")
	ways := ways(harness.Account(t))
	run := func(way string, stdin []byte, command string) string {
		t.Helper()
		return string(c.SSH(t, stdin, append(append([]string{"-o", "LogLevel=ERROR"}, ways[way]...), command)...).Stdout)
	}
	recorded := func(n int) (list []shown) {
		t.Helper()
		return recordings(t, c, n, func(r shown) bool { return r.Verified == "ok" })
	}
	random := func() []byte {
		b := make([]byte, 100_000) // which no codec makes shorter
		rand.Read(b)
		return b
	}
	clear := random()
	if got := run("hub", clear, "cat"); got != string(clear) {
		t.Fatalf("%d bytes came back", len(got))
	}
	recorded(1)
	if len(holds(t, c.Dir, clear)) == 0 {
		t.Fatal("what is recorded in clear is not found on the disk: this test finds nothing")
	}

	for bad, want := range map[string]string{
		toAnn[:len(toAnn)-2] + "qq": "mistyped", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA": "SSH key",
		strings.Split(harness.ReadFile(t, ann), "\n")[1]: "secret half",
	} {
		r := c.Hawser(t, []byte("kind: cluster\nrecording_recipients: ['"+bad+"']\n"), "apply", "-f", "-")
		if r.Code == 0 || !strings.Contains(string(r.Stderr), want) || strings.Contains(string(r.Stderr), bad[17:]) {
			t.Errorf("%.20s is a recipient: %s", bad, r.Stderr)
		}
	}
	r := c.Hawser(t, []byte("kind: cluster\nrecording_recipients: ["+toAnn+", "+toBob+"]\nrecord_stdin: full\n"), "apply", "-f", "-")
	if r.Code != 0 || strings.Contains(string(r.Stderr), "later version") {
		t.Fatalf("%d %s", r.Code, r.Stderr)
	}
	secret := random()
	for _, way := range []string{"hub", "end-to-end"} {
		if got := run(way, secret, "cat; echo marker-"+way); !strings.HasSuffix(got, "marker-"+way+"\n") {
			t.Fatalf("%s: %d bytes came back", way, len(got))
		}
	}
	ids := map[string]string{}
	for _, r := range recorded(3) {
		if r.Sealed {
			ids[r.Way] = r.ID
		}
	}
	if len(ids) != 2 {
		t.Fatalf("%d recordings are encrypted", len(ids))
	}
	if names := holds(t, c.Dir, secret); len(names) > 0 {
		t.Errorf("what passed is on the disk: %q", names)
	}

	words := func(want string, args ...string) {
		t.Helper()
		if r := c.Hawser(t, nil, args...); r.Code == 0 || !strings.Contains(string(r.Stderr), want) || len(r.Stdout) > 0 {
			t.Errorf("%q: %d, %.100q, %s", args, r.Code, r.Stdout, r.Stderr)
		}
	}
	for way, id := range ids {
		words("--identity FILE", "play", "--text", id)
		words("none of the identities", "play", "--text", id, "--identity", eve)
		for _, who := range []string{ann, bob} {
			if got := c.Hawser(t, nil, "play", "--raw", id, "--identity", eve, "--identity", who); string(got.Stdout) != string(secret)+"marker-"+way+"\n" {
				t.Errorf("%s by %s: %d bytes, %s", way, who, len(got.Stdout), got.Stderr)
			}
		}
		var s shown
		out := c.Must(t, "recordings", "show", id, "-o", "json", "--identity", ann)
		if err := json.Unmarshal([]byte(out), &s); err != nil || s.Command != "cat; echo marker-"+way || len(s.Events) == 0 {
			t.Errorf("shown %+v, %v", s, err)
		}
		if out := c.Must(t, "recordings", "show", id); strings.Contains(out, "marker") || !strings.Contains(out, "to auditors") {
			t.Errorf("shown without a key: %s", out)
		}
		if out := c.Must(t, "recordings", "verify", id); !strings.Contains(out, "verified") || !strings.Contains(out, "looks into it") {
			t.Errorf("verified without a key: %s", out)
		}
		if out := c.Must(t, "recordings", "verify", id, "--identity", bob); !strings.Contains(out, "verified") || strings.Contains(out, "looks into it") {
			t.Errorf("verified: %s", out)
		}
		file := filepath.Join(dir, way+".hwr")
		c.Must(t, "recordings", "export", id, "--chunks", "--file", file)
		sealed(t, []byte(harness.ReadFile(t, file)))
		words("--identity FILE", "play", "--text", file)
		if out := c.Must(t, "recordings", "export", file, "--text", "--identity", ann); !strings.Contains(out, "marker-"+way) {
			t.Errorf("exported: %.100q", out)
		}
	}

	// Search: auth cannot, the auditor can, and the second time of what he has.
	r = c.Hawser(t, nil, "recordings", "search", "marker-")
	if r.Code != 0 || len(r.Stdout) > 0 || !strings.Contains(string(r.Stderr), "2 recordings are encrypted to auditors") {
		t.Errorf("searched by auth: %s%s", r.Stdout, r.Stderr)
	}
	for range 2 {
		var found []struct{ Recording, Line string }
		if err := json.Unmarshal([]byte(c.Must(t, "recordings", "search", "MARKER-", "--identity", bob, "-o", "json", "--since", "1h")), &found); err != nil {
			t.Fatal(err)
		}
		lines := map[string]bool{}
		for _, f := range found {
			lines[f.Recording] = true
		}
		if !lines[ids["hub"]] || !lines[ids["end-to-end"]] || len(lines) != 2 {
			t.Errorf("found %+v", found)
		}
		kept, err := os.ReadDir(filepath.Join(c.Ready.Home, "cache", "index"))
		if err != nil || len(kept) != 2 {
			t.Errorf("%d indexes are kept, %v", len(kept), err)
		}
		for _, k := range kept {
			if st, err := k.Info(); err != nil || st.Mode() != 0o600 {
				t.Errorf("%s: %v", k.Name(), st.Mode())
			}
		}
	}
	r = c.Hawser(t, nil, "recordings", "search", "marker-", "--identity", eve)
	if len(r.Stdout) > 0 || !strings.Contains(string(r.Stderr), "2 recordings are encrypted to others") {
		t.Errorf("searched by eve: %s%s", r.Stdout, r.Stderr)
	}
	if log := c.Must(t, "audit", "search", "--type", "session.commands", "-o", "json"); strings.Contains(log, ids["hub"]) {
		t.Errorf("what was run is in the audit log: %s", log)
	}
	c.Must(t, "recordings", "rm", ids["hub"], "--reason", "a password was shown", "--yes")
	c.Must(t, "recordings", "search", "marker-", "--identity", bob)
	if kept, err := os.ReadDir(filepath.Join(c.Ready.Home, "cache", "index")); err != nil || len(kept) != 1 || strings.Contains(ids["hub"], kept[0].Name()) {
		t.Errorf("%d indexes are kept after a removal, %v", len(kept), err)
	}
}

// sealed checks by the format alone that every chunk but the first and the closing one is encrypted.
func sealed(t *testing.T, file []byte) {
	t.Helper()
	n := 0
	for ; len(file) > 68 && string(file[:4]) == "HWRC"; n++ {
		body := binary.BigEndian.Uint32(file[28:])
		if last, sealed := file[6]&1 != 0, file[6]&2 != 0; sealed == (n == 0 || last) {
			t.Errorf("chunk %d has the flags %d", n, file[6])
		}
		file = file[64+body+4:]
	}
	if n < 4 {
		t.Errorf("%d chunks", n)
	}
}
