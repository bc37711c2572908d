package access

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hawser/test/harness"
)

// newSSHKey makes a key with ssh-keygen and returns the path of its private half.
func newSSHKey(t *testing.T, args ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "id")
	if out, err := exec.Command("ssh-keygen", append([]string{"-q", "-N", "", "-f", file}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	return file
}

// keyArgs are those of a stock ssh with nothing of Hawser's on the laptop.
func keyArgs(t *testing.T, c *harness.Cluster, key string) []string {
	t.Helper()
	host, port, ok := strings.Cut(c.Ready.SSHAddr, ":")
	if !ok {
		t.Fatalf("address %q", c.Ready.SSHAddr)
	}
	return []string{"-F", "/dev/null", "-i", key, "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-o", "HostName=" + host, "-o", "Port=" + port}
}

func withKey(t *testing.T, c *harness.Cluster, key string, args ...string) harness.Result {
	t.Helper()
	return harness.Run(t, nil, "ssh", append(append(keyArgs(t, c, key), "root=gw-1@hub"), args...)...)
}

func TestARegisteredKeyWorksWithinItsLimitsAlone(t *testing.T) {
	t.Parallel()
	c := harness.Up(t, 1)
	plain, forced, far, short := newSSHKey(t, "-t", "ed25519"), newSSHKey(t, "-t", "ecdsa"), newSSHKey(t, "-t", "rsa", "-b", "2048"), newSSHKey(t)
	c.Must(t, "user", "add", "kim", "--role", "operator", "--key", plain+".pub")
	c.Must(t, "user", "key", "add", forced+".pub", "--user", "kim", "--force-command", "echo only $SSH_ORIGINAL_COMMAND")
	c.Must(t, "user", "key", "add", far+".pub", "--user", "kim", "--source", "203.0.113.0/24")
	if r := withKey(t, c, plain, "echo here"); r.Code != 0 || string(r.Stdout) != "here\n" {
		t.Errorf("plain key: exit %d, %q, %s", r.Code, r.Stdout, r.Stderr)
	}
	if r := withKey(t, c, forced, "rm", "-rf", "it"); r.Code != 0 || string(r.Stdout) != "only rm -rf it\n" {
		t.Errorf("key with a command: exit %d, %q, %s", r.Code, r.Stdout, r.Stderr)
	}
	if r := withKey(t, c, forced, "-s", "sftp"); r.Code == 0 {
		t.Error("a key with a command opened sftp")
	}
	if r := withKey(t, c, far, "true"); r.Code != 255 || !strings.Contains(string(r.Stderr), "from this address") {
		t.Errorf("key of another network: exit %d, %s", r.Code, r.Stderr)
	}
	c.Must(t, "user", "key", "add", short+".pub", "--user", "kim", "--ttl", "2s")
	harness.Eventually(t, time.Minute, "the key to expire", func() bool {
		r := withKey(t, c, short, "true")
		return r.Code == 255 && strings.Contains(string(r.Stderr), "your key expired") && strings.Contains(string(r.Stderr), "hawser login")
	})
	list := c.Must(t, "user", "show", "kim", "-o", "yaml")
	if strings.Count(list, "last_used_from: 127.0.0.1:") < 2 || !strings.Contains(list, "expired: true") || !strings.Contains(list, "force_command: echo only") {
		t.Errorf("user show says\n%s", list)
	}
}

func TestARemovedUserIsOutAtOnce(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	c := harness.Up(t, 1)
	key := newSSHKey(t)
	c.Must(t, "user", "add", "kim", "--role", "operator", "--key", key+".pub")
	d := talk(t, nil, "ssh", append(keyArgs(t, c, key), "root=gw-1@hub", "echo ready; exec sleep 100")...)
	d.wait("ready")
	lee := loggedIn(t, c, "lee", "operator")
	hub, hubMark := lee.beginStubborn(t, "gw-1")
	direct, directMark := lee.beginStubborn(t, "root@e2e-gw-1")
	given := time.Now()
	c.Must(t, "user", "rm", "kim")
	d.cutSince(t, given, "a removed user's session", "the user was removed")
	given = time.Now()
	c.Must(t, "user", "rm", "lee")
	hub.killedSince(t, given, "a removed user's session through the hub", hubMark, "hawser: ")
	direct.killedSince(t, given, "a removed user's session end to end", directMark, "hawser: ")
	if r := withKey(t, c, key, "true"); r.Code != 255 {
		t.Errorf("the key of a removed user: exit %d", r.Code)
	}
	if r := c.Hawser(t, nil, "user", "rm", "admin"); r.Code == 0 || !strings.Contains(string(r.Stderr), "nobody would be left") {
		t.Errorf("the last admin: exit %d, %s", r.Code, r.Stderr)
	}
}

// A person registers a key for himself with what he knows and what he has, and changes his password.
func TestAPersonMindsHisOwnKeyAndPassword(t *testing.T) {
	t.Parallel()
	c := harness.Up(t, 1)
	p := loggedIn(t, c, "lou", "operator")
	key := newSSHKey(t, "-C", "lou's laptop")
	if r := p.hawser(t, "not it at all\n\n", "user", "key", "add", key+".pub"); r.Code == 0 {
		t.Error("a key was registered with a wrong password")
	}
	if r := p.hawser(t, password+"\n\n", "user", "key", "add", key+".pub"); r.Code != 0 {
		t.Fatalf("key add: exit %d, %s", r.Code, r.Stderr)
	}
	if r := withKey(t, c, key, "echo here"); string(r.Stdout) != "here\n" {
		t.Errorf("own key: exit %d, %s", r.Code, r.Stderr)
	}
	if list := p.must(t, "user", "key", "ls"); !strings.Contains(list, "lou's laptop") || !strings.Contains(list, "127.0.0.1:") {
		t.Errorf("key ls says\n%s", list)
	}
	// The public half alone is nobody's key to register.
	found := newSSHKey(t) + ".pub"
	if err := os.Remove(strings.TrimSuffix(found, ".pub")); err != nil {
		t.Fatal(err)
	}
	if r := p.hawser(t, password+"\n\n", "user", "key", "add", found); r.Code == 0 {
		t.Error("a public key without its private half was registered")
	}
	if r := p.hawser(t, password+"\n\nfive green copper drums\n", "user", "password"); r.Code != 0 {
		t.Fatalf("user password: exit %d, %s", r.Code, r.Stderr)
	}
	if r := p.hawser(t, password+"\n", "login", "--password-stdin", "--no-otp", "--no-agent"); r.Code == 0 {
		t.Error("the old password still logs in")
	}
	if r := p.hawser(t, "five green copper drums\n", "login", "--password-stdin", "--no-otp", "--no-agent"); r.Code != 0 {
		t.Errorf("the new password: exit %d, %s", r.Code, r.Stderr)
	}
	if r := p.hawser(t, "", "user", "rm", "admin"); r.Code != 5 {
		t.Errorf("an operator removes an admin: exit %d, want 5 (denied)", r.Code)
	}
}
