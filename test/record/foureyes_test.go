package record_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hawser/test/harness"
)

// keyed makes a user who comes by a key, and returns the arguments by which ssh is his.
func keyed(t *testing.T, c *harness.Cluster, name string, roles ...string) []string {
	t.Helper()
	key := filepath.Join(t.TempDir(), name)
	if r := harness.Run(t, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key); r.Code != 0 {
		t.Fatalf("ssh-keygen: %s", r.Stderr)
	}
	args := []string{"user", "add", name, "--key", key + ".pub"}
	for _, r := range roles {
		args = append(args, "--role", r)
	}
	c.Must(t, args...)
	host, port, _ := strings.Cut(c.Ready.SSHAddr, ":")
	return []string{
		"-F", "/dev/null", "-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-i", key, "-o", "BatchMode=yes",
		"-o", "UserKnownHostsFile=" + filepath.Join(c.Dir, "known_hosts"), "-o", "HostName=" + host, "-p", port,
	}
}

// Stock ssh at real terminals: nothing runs before the moderator is there, nothing that is typed before or in a pause ever does, and without him it stops or ends.
func TestFourEyes(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	c := harness.Up(t, 1)
	login := harness.Account(t)
	file := filepath.Join(t.TempDir(), "roles.yaml")
	if err := os.WriteFile(file, []byte(`kind: role
name: guarded
allow: {devices: {"*": ["*"]}, logins: ["*"], channels: [shell, exec, sftp, local-forward]}
options: {record_stdin: full, require_moderators: {count: 1, roles: [lead], on_leave: pause}}
---
kind: role
name: strictly
allow: {devices: {"*": ["*"]}, logins: ["*"], channels: [exec]}
options: {require_moderators: {count: 1, roles: [lead]}}
---
kind: role
name: lead
allow: {devices: {"*": ["*"]}, logins: ["*"], join: [{roles: [guarded, strictly], modes: [moderator, observer]}]}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := c.Hawser(t, nil, "apply", "-f", file); r.Code != 0 || strings.Contains(string(r.Stderr), "later version") {
		t.Fatalf("%d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	c.Must(t, "user", "set-roles", "admin", "admin", "guarded")
	c.Stop(t)
	c = harness.UpIn(t, c.Dir, 1) // where the admin's next certificate has the role
	ann, joe := keyed(t, c, "ann", "guarded"), keyed(t, c, "joe", "strictly")
	lou := keyed(t, c, "lou", "lead")
	ssh := func(who []string, args ...string) []string { return append(append([]string{"ssh"}, who...), args...) }
	moderator := func(id string) *harness.Screen {
		return harness.NewScreen(t, "xterm", "100", "30", ssh(lou, "-t", "hawser@hub", "join", id, "--mode", "moderator")...)
	}
	// waits finds the id in the line to hand over.
	waits := func(text string) string {
		t.Helper()
		_, after, ok := strings.Cut(text, "hawser join ")
		if !ok {
			t.Fatalf("nothing to hand over:\n%s", text)
		}
		return strings.Fields(after)[0]
	}

	t.Run("shell", func(t *testing.T) {
		owner := harness.NewScreen(t, "xterm", "160", "24", ssh(ann, "-t", "-l", login+"=gw-1", "gw-1")...)
		owner.Shows(t, "waits for 1 moderator with the role lead")
		owner.Types(t, "echo early-$((1+1))", "Enter")
		m := moderator(waits(owner.Text(t)))
		owner.Shows(t, "lou joined (moderator")
		owner.Shows(t, "$")
		// What arrives as it begins may have been typed before, and is thrown away.
		harness.Eventually(t, 10*time.Second, "what is typed is taken", func() bool {
			owner.Types(t, "PS1='> '; clear; echo ran-$((1+2))", "Enter")
			return strings.Contains(owner.Text(t), "ran-3")
		})
		m.Shows(t, "ran-3")
		m.Types(t, "p")
		m.Shows(t, "lou paused the session")
		owner.Types(t, "echo paused-$((2+2))", "Enter")
		m.Types(t, "C-c")
		m.Shows(t, "code 0")
		owner.Types(t, "echo alone-$((3+3))", "Enter")
		m = moderator(waits("hawser join " + sessionIDs(t, c)["gw-1"]))
		m.Shows(t, "ran-3")
		owner.Shows(t, "everybody required is here again")
		m.Types(t, "p")
		m.Shows(t, "lou paused the session")
		m.Types(t, "r")
		m.Shows(t, "goes on")
		harness.Eventually(t, 10*time.Second, "it goes on", func() bool {
			owner.Types(t, "echo end-$((3+4))", "Enter")
			return strings.Contains(owner.Text(t), "end-7")
		})
		owner.Types(t, "exit", "Enter")
		owner.Shows(t, "code 0")
		for _, never := range []string{"early-2", "paused-4", "alone-6"} {
			if text := owner.Text(t); strings.Contains(text, never) {
				t.Errorf("%s ran:\n%s", never, text)
			}
		}
	})
	t.Run("left before it began", func(t *testing.T) {
		owner := harness.NewScreen(t, "xterm", "160", "24", ssh(ann, "-t", "-l", login+"=gw-1", "gw-1")...)
		owner.Shows(t, "Ctrl-C leaves")
		owner.Types(t, "C-c")
		owner.Shows(t, "code 255")
	})
	t.Run("command", func(t *testing.T) {
		owner := harness.NewScreen(t, "xterm", "160", "24", ssh(joe, "-l", login+"=gw-1", "gw-1", "echo ran; exec sleep 60")...)
		owner.Shows(t, "hawser: waits for 1 moderator")
		m := moderator(waits(owner.Text(t)))
		m.Shows(t, "joe: exec on gw-1")
		owner.Shows(t, "ran")
		m.Types(t, "C-c")
		owner.Shows(t, "there is no longer 1 moderator")
		owner.Shows(t, "code 255")
	})
	t.Run("end to end", func(t *testing.T) {
		owner := harness.NewScreen(t, "xterm", "160", "24", "ssh", "-F", c.Ready.SSHConfig, "-l", login, "e2e-gw-1", "echo ran; exec sleep 60")
		owner.Shows(t, "hawser: waits for 1 moderator")
		m := moderator(waits(owner.Text(t)))
		m.Shows(t, "admin: exec on gw-1")
		owner.Shows(t, "ran")
		m.Types(t, "T")
		owner.Shows(t, "ended by the moderator lou")
		owner.Shows(t, "code 255")
		r := c.SSH(t, nil, "-l", login, "-W", "127.0.0.1:9", "e2e-gw-1")
		if r.Code == 0 || !strings.Contains(string(r.Stderr), "1 moderator with the role lead") {
			t.Errorf("%d: %s", r.Code, r.Stderr)
		}
	})
	t.Run("forward", func(t *testing.T) {
		r := harness.Run(t, nil, "ssh", append([]string{"-o", "LogLevel=INFO"}, append(ann, "-l", login+"=gw-1", "-W", "127.0.0.1:9", "gw-1")...)...)
		if r.Code == 0 || !strings.Contains(string(r.Stderr), "1 moderator with the role lead") {
			t.Errorf("%d: %s", r.Code, r.Stderr)
		}
	})
	// The recordings agree with what the device says that its processes took: of what went nowhere it says so.
	var last harness.Result
	harness.Eventually(t, 20*time.Second, "the recordings are complete", func() bool {
		last = c.Hawser(t, nil, "recordings", "ls", "-o", "json")
		return !strings.Contains(string(last.Stdout), `"open"`)
	})
	var list []struct{ ID, State string }
	if err := json.Unmarshal(last.Stdout, &list); err != nil || len(list) < 3 {
		t.Fatalf("%v: %s", err, last.Stdout)
	}
	for _, r := range list {
		if v := c.Hawser(t, nil, "recordings", "verify", r.ID); v.Code != 0 {
			t.Errorf("%+v: %s%s", r, v.Stdout, v.Stderr)
		}
	}
}
