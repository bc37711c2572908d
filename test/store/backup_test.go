package store_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hawser/test/harness"
)

// auth runs hawser-auth to its end.
func auth(t *testing.T, args ...string) harness.Result {
	t.Helper()
	return harness.Run(t, nil, harness.Program(t, "hawser-auth"), args...)
}

// As an operator does it: back up a running service under load, check the file, lose the machine, restore, start, go on.
func TestOperatorRestoresWhatHeBackedUp(t *testing.T) {
	t.Setenv("HAWSER_BACKUP_PASSPHRASE", "correct horse battery staple")
	s := newService(t, t.TempDir())
	s.start(t)
	s.serving(t)
	dir := t.TempDir()
	role := filepath.Join(dir, "role.yaml")
	if err := os.WriteFile(role, []byte("kind: role\nname: field\nallow:\n  devices: {site: [ber]}\n  logins: [root]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	must := func(r harness.Result) string {
		t.Helper()
		if r.Code != 0 {
			t.Fatalf("exit %d: %s%s", r.Code, r.Stdout, r.Stderr)
		}
		return string(r.Stdout) + string(r.Stderr)
	}
	must(s.hawser(t, "apply", "-f", role))
	d := s.load(t, "b")
	d.more(t, "device", 4, harnessWait)
	before := must(s.hawser(t, "get", "role", "field"))
	file := filepath.Join(dir, "cluster.hawser-backup")
	must(s.hawser(t, "backup", "create", file))
	if r := s.hawser(t, "backup", "create", file); r.Code == 0 || !strings.Contains(string(r.Stderr), "is there already") {
		t.Errorf("over a file: exit %d, %s", r.Code, r.Stderr)
	}
	if b := harness.ReadFile(t, file); strings.Contains(b, "store.example") || strings.Contains(b, "field") {
		t.Error("the file shows what is in it")
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if text := must(s.hawser(t, "backup", "verify", file)); !strings.Contains(text, "store.example") || !strings.Contains(text, "device") {
		t.Errorf("verify: %s", text)
	}
	if r := auth(t, "backup", "create", "--data", s.data, filepath.Join(dir, "x")); r.Code == 0 || !strings.Contains(string(r.Stderr), "hawser backup create") {
		t.Errorf("of a running service: exit %d, %s", r.Code, r.Stderr)
	}
	d.stop()
	s.Stop(t)

	for what, do := range map[string]func() (string, string){
		"a changed byte": func() (string, string) {
			b := []byte(harness.ReadFile(t, file))
			b[len(b)/2] ^= 1
			bad := filepath.Join(dir, "changed")
			_ = os.WriteFile(bad, b, 0o600)
			return bad, "damaged"
		},
		"a cut file": func() (string, string) {
			b := []byte(harness.ReadFile(t, file))
			bad := filepath.Join(dir, "cut")
			_ = os.WriteFile(bad, b[:len(b)-9], 0o600)
			return bad, "damaged"
		},
		"another file": func() (string, string) { return role, "not a backup" },
	} {
		bad, want := do()
		if r := auth(t, "backup", "verify", bad); r.Code != 1 || !strings.Contains(string(r.Stderr), want) {
			t.Errorf("%s: exit %d, %s", what, r.Code, r.Stderr)
		}
	}

	if r := auth(t, "backup", "restore", "--data", s.data, file); r.Code == 0 || !strings.Contains(string(r.Stderr), "not empty") {
		t.Errorf("over a cluster: exit %d, %s", r.Code, r.Stderr)
	}
	s.data = filepath.Join(dir, "restored")
	advice := must(auth(t, "backup", "restore", "--data", s.data, file))
	for _, want := range []string{"hawser-auth run --data", "hawser lock add", "hawser token create", "accept-log", "tokens and invitations"} {
		if !strings.Contains(advice, want) {
			t.Errorf("the advice does not name %q: %s", want, advice)
		}
	}
	s.start(t)
	s.serving(t)
	if after := must(s.hawser(t, "get", "role", "field")); after != before {
		t.Errorf("role %q, was %q", after, before)
	}
	if names := must(s.hawser(t, "ls", "-o", "name")); strings.Count(names, "b-") < 4 {
		t.Errorf("devices %q", names)
	}
	t.Setenv("HAWSER_BACKUP_PASSPHRASE", "wrong")
	if r := auth(t, "backup", "verify", file); r.Code != 1 || !strings.Contains(string(r.Stderr), "passphrase") {
		t.Errorf("a wrong passphrase: exit %d, %s", r.Code, r.Stderr)
	}
}
