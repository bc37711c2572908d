package fault_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hawser/test/harness"
)

// Whoever must be in a session is not in it when nothing that is shown reaches him: the hub that he came by was killed, and for that hub's streams the device waits.
func TestWhoseHubWasKilledDoesNotCount(t *testing.T) {
	w := harness.NewWorld(t, 2)
	s := w.AddSite(t, "gw-1")
	s.StartEdge(t)
	login := harness.Account(t)
	file := filepath.Join(t.TempDir(), "roles.yaml")
	if err := os.WriteFile(file, []byte(`kind: role
name: guarded
allow: {devices: {"*": ["*"]}, logins: ["*"], channels: [shell]}
options: {require_moderators: {count: 1, roles: [lead], on_leave: pause}}
---
kind: role
name: lead
allow: {devices: {"*": ["*"]}, logins: ["*"], join: [{roles: [guarded], modes: [moderator]}]}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	w.Must(t, "apply", "-f", file)
	by := func(user, role string, hub int, args ...string) *harness.Screen {
		key := filepath.Join(t.TempDir(), user)
		if r := harness.Run(t, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key); r.Code != 0 {
			t.Fatalf("ssh-keygen: %s", r.Stderr)
		}
		w.Must(t, "user", "add", user, "--key", key+".pub", "--role", role)
		command := w.OnLaptop("ssh", "-F", "/dev/null", "-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-i", key,
			"-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
			"-o", "HostName="+w.Hubs[hub-1].Addr, "-p", fmt.Sprint(harness.SSHPort), "-t")
		return harness.NewScreen(t, "xterm", "160", "30", append(command, args...)...)
	}
	owner := by("ann", "guarded", 2, "-l", login+"=gw-1", "gw-1")
	owner.Shows(t, "waits for 1 moderator with the role lead")
	_, line, _ := strings.Cut(owner.Text(t), "hawser join ")
	id := strings.Fields(line)[0]
	by("lou", "lead", 1, "hawser@hub", "join", id, "--mode", "moderator").Shows(t, "moderator of ann's session")
	owner.Shows(t, "the session begins")
	w.Hubs[0].Kill()
	owner.Shows(t, "paused until there is 1 moderator with the role lead")
}
