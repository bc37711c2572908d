package access

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hawser/test/harness"
)

// person adds a user with a key of his own and returns what makes ssh use it and nothing else.
func person(t *testing.T, c *harness.Cluster, name string, roles ...string) []string {
	t.Helper()
	key := filepath.Join(t.TempDir(), name)
	harness.Run(t, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	args := []string{"user", "add", name, "--key", key + ".pub"}
	for _, r := range roles {
		args = append(args, "--role", r)
	}
	c.Must(t, args...)
	config := harness.ReadFile(t, c.Ready.SSHConfig)
	var known string
	for line := range strings.Lines(config) {
		if f := strings.Fields(line); len(f) > 1 && strings.EqualFold(f[0], "UserKnownHostsFile") {
			known = strings.Trim(f[1], `"`)
		}
	}
	host, port, _ := strings.Cut(c.Ready.SSHAddr, ":")
	return []string{
		"-F", "/dev/null", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-i", key, "-o", "UserKnownHostsFile=" + known, "-o", "BatchMode=yes",
		"-o", "HostName=" + host, "-p", port,
	}
}

func TestRolesByApplyDecideAndExplainAndReviewAgreeWithSSH(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	c := harness.Up(t, 2)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("field.yaml", `kind: role
name: field
allow: {devices: {name: ["gw-*"]}, logins: [root], channels: [exec], ways: [hub]}
options: {create_host_user: keep}
---
kind: role
name: lab
allow: {devices: {name: [gw-2]}, logins: ["*"], channels: [exec, sftp]}
`)
	write("deny.yml", "kind: role\nname: notwo\ndeny: {devices: {name: [gw-2]}, channels: [sftp]}\n")
	write("ignored.txt", "no resource")

	if r := c.Hawser(t, nil, "diff", "-f", dir); r.Code != 1 || !strings.Contains(string(r.Stdout), "+++ role/field (file)") || !strings.Contains(string(r.Stdout), "+  logins: [root]") {
		t.Errorf("diff of new roles: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	if got := c.Must(t, "apply", "-f", dir, "--dry-run"); !strings.Contains(got, "role/field created (dry run)") || strings.Contains(c.Must(t, "role", "ls"), "field") {
		t.Errorf("dry run: %s", got)
	}
	r := c.Hawser(t, nil, "apply", "-f", dir)
	if r.Code != 0 || !strings.Contains(string(r.Stderr), "warning: role/field: options.create_host_user is kept, and in force from a later version") {
		t.Errorf("apply: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	if r := c.Hawser(t, nil, "diff", "-f", dir); r.Code != 0 || len(r.Stdout) > 0 {
		t.Errorf("diff of what was applied: exit %d\n%s", r.Code, r.Stdout)
	}
	printed := c.Must(t, "get", "role", "field", "-o", "yaml")
	if r := c.Hawser(t, []byte(printed), "apply", "-f", "-"); string(r.Stdout) != "role/field unchanged\n" {
		t.Errorf("apply of get: %s%s", r.Stdout, r.Stderr)
	}
	changed := strings.Replace(printed, "[root]", "[root, diag]", 1)
	if r := c.Hawser(t, []byte(changed), "diff", "--color", "always", "-f", "-"); r.Code != 1 || !strings.Contains(string(r.Stdout), "\x1b[31m-  logins: [root]") {
		t.Errorf("diff: exit %d\n%s", r.Code, r.Stdout)
	}

	ssh := person(t, c, "ann", "field", "lab", "notwo")
	type reach struct {
		Device   string   `json:"device"`
		Logins   []string `json:"logins"`
		Except   []string `json:"except"`
		Channels []string `json:"channels"`
		Ways     []string `json:"ways"`
	}
	var reviewed []reach
	if err := json.Unmarshal([]byte(c.Must(t, "access", "review", "--user", "ann", "-o", "json")), &reviewed); err != nil {
		t.Fatal(err)
	}
	covers := func(device, login, channel, way string) bool {
		return slices.ContainsFunc(reviewed, func(r reach) bool {
			return r.Device == device && (slices.Contains(r.Logins, login) || slices.Contains(r.Logins, "*")) && slices.Contains(r.Channels, channel) && slices.Contains(r.Ways, way)
		})
	}
	for _, device := range []string{"gw-1", "gw-2"} {
		for _, login := range []string{"root", "nobody"} {
			for _, channel := range []string{"exec", "sftp"} {
				way := "hub"
				explained := c.Hawser(t, nil, "access", "explain", "ann", device, login, channel, "--way", way)
				if code := map[bool]int{true: 0, false: 5}[covers(device, login, channel, way)]; explained.Code != code {
					t.Errorf("%s %s %s: review says %v, explain exits %d:\n%s%s", device, login, channel, covers(device, login, channel, way), explained.Code, explained.Stdout, explained.Stderr)
				}
				if login != "root" {
					continue // accounts of this machine are not this test's
				}
				args := append(slices.Clone(ssh), login+"="+device+"@hub")
				if channel == "sftp" {
					args = append(slices.Clone(ssh), "-s", login+"="+device+"@hub", "sftp")
				} else {
					args = append(args, "true")
				}
				if got := harness.Run(t, nil, "ssh", args...); (got.Code == 0) != covers(device, login, channel, way) {
					t.Errorf("%s %s %s: review says %v, ssh exits %d: %s", device, login, channel, covers(device, login, channel, way), got.Code, got.Stderr)
				}
			}
		}
	}
	if got := c.Must(t, "access", "review", "--device", "gw-2"); !strings.Contains(got, "ann") || !strings.Contains(got, "lab") {
		t.Errorf("review of a device:\n%s", got)
	}
	if got := string(c.Hawser(t, nil, "access", "explain", "ann", "gw-2", "root", "sftp").Stdout); !strings.Contains(got, "- role notwo") || !strings.Contains(got, "denies it: devices {name: [gw-2]}, channels [sftp]") {
		t.Errorf("explain does not name the rule:\n%s", got)
	}

	if r := c.Hawser(t, nil, "role", "rm", "lab"); r.Code == 0 || !strings.Contains(string(r.Stderr), "ann has role lab") {
		t.Errorf("a role that is held: exit %d %s", r.Code, r.Stderr)
	}
	c.Must(t, "role", "rm", "lab", "--force")
	if got := harness.Run(t, nil, "ssh", append(slices.Clone(ssh), "nobody=gw-2@hub", "true")...); got.Code != 255 {
		t.Errorf("after the role was removed ssh exits %d", got.Code)
	}
}

func TestClusterByApplyIsInForceAndRefusalsNameTheOtherWay(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	c := harness.Up(t, 1)
	ssh := person(t, c, "bob", "operator")
	direct := func(args ...string) harness.Result {
		return harness.Run(t, nil, "ssh", append(slices.Clone(ssh), args...)...)
	}
	before := c.Must(t, "get", "cluster")
	if !strings.Contains(before, "record: best-effort\n") || !strings.Contains(before, "name: "+c.Ready.Cluster+"\n") {
		t.Errorf("defaults:\n%s", before)
	}
	if got := direct("root=gw-1@hub", "echo one"); got.Code != 0 {
		t.Fatalf("%d %s", got.Code, got.Stderr)
	}
	begin := time.Now()
	if r := c.Hawser(t, []byte("kind: cluster\nways: [end-to-end]\nrecord: off\n"), "apply", "-f", "-"); r.Code != 0 || !strings.Contains(string(r.Stdout), " changed") {
		t.Fatalf("%d %s%s", r.Code, r.Stdout, r.Stderr)
	}
	if got := direct("root=gw-1@hub", "echo two"); got.Code != 255 || !strings.Contains(string(got.Stderr), "this way works: ssh -J ") {
		t.Errorf("a way that the cluster has no more: %d %s", got.Code, got.Stderr)
	}
	// The edge decides by the policy that it was sent; the admin's certificate, for a registered key does not open this way.
	recordings := c.Must(t, "recordings", "ls", "-o", "name")
	harness.Eventually(t, 5*time.Second, "the edge serves end to end unrecorded", func() bool {
		return string(c.SSH(t, nil, "e2e-gw-1", "echo three").Stdout) == "three\n"
	})
	if after := c.Must(t, "recordings", "ls", "-o", "name"); len(after) > len(recordings) {
		t.Errorf("recorded though the cluster says off:\n%s", after)
	}
	if r := c.Hawser(t, []byte("kind: cluster\nways: [hub]\n"), "apply", "-f", "-"); r.Code != 0 {
		t.Fatalf("%d %s", r.Code, r.Stderr)
	}
	if got := c.SSH(t, nil, "e2e-gw-1", "echo four"); got.Code != 255 || !strings.Contains(string(got.Stderr), "this way works: ssh -p ") {
		t.Errorf("end to end: %d %s", got.Code, got.Stderr)
	}
	if got := direct("root=gw-1@hub", "echo five"); string(got.Stdout) != "five\n" {
		t.Errorf("by the hub again: %d %s", got.Code, got.Stderr)
	}
	if d := time.Since(begin); d > 30*time.Second { // 5 s each, and as much for ssh on a shared machine
		t.Errorf("three changes took %v", d)
	}
	if r := c.Hawser(t, []byte("kind: cluster\nways: [tunnel]\n"), "apply", "-f", "-"); r.Code != 2 || !strings.Contains(string(r.Stderr), "end-to-end") {
		t.Errorf("a cluster with a way in that there is not: exit %d %s", r.Code, r.Stderr)
	}
}

// What a role says goes before the cluster's word, in each way in. The strictest of several holds.
func TestARoleSaysThatNothingIsRecorded(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	c := harness.Up(t, 1)
	apply(t, c, everything("unseen", "record: off"))
	apply(t, c, everything("seen", "record: best-effort"))
	una, sam := loggedIn(t, c, "una", "unseen"), loggedIn(t, c, "sam", "unseen", "seen")
	for _, p := range []*laptop{una, sam} { // una first: what is recorded of her has come when it has of him
		for _, to := range []string{"gw-1", "root@e2e-gw-1"} {
			if r := p.ssh(t, to, "echo ran"); string(r.Stdout) != "ran\n" {
				t.Fatalf("%s to %s: exit %d, %s", p.name, to, r.Code, r.Stderr)
			}
		}
	}
	var list []struct{ User, Way, State string }
	harness.Eventually(t, 20*time.Second, "both recordings of sam are complete", func() bool {
		if err := json.Unmarshal([]byte(c.Must(t, "recordings", "ls", "-o", "json")), &list); err != nil {
			t.Fatal(err)
		}
		ways := map[string]bool{}
		for _, r := range list {
			ways[r.Way] = ways[r.Way] || r.User == "sam" && r.State == "complete"
		}
		return ways["hub"] && ways["end-to-end"]
	})
	for _, r := range list {
		if r.User != "sam" {
			t.Errorf("%s's session by %s is recorded", r.User, r.Way)
		}
	}
	if said := c.Must(t, "audit", "search", "--type", "session.end", "--user", "una", "-o", "json"); strings.Count(said, `"kind":"session"`) != 2 {
		t.Errorf("the audit log has of una\n%s", said)
	}
}

func TestTheAuditorSeesAndOpensNothing(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	c := harness.Up(t, 1)
	ssh := person(t, c, "anna", "auditor")
	for _, line := range []string{"true", ""} {
		if got := harness.Run(t, nil, "ssh", append(slices.Clone(ssh), "root=gw-1@hub", line)...); got.Code != 255 {
			t.Errorf("%q: exit %d", line, got.Code)
		}
	}
	certified := loggedIn(t, c, "arno", "auditor")
	for _, to := range []string{"gw-1", "root@e2e-gw-1"} {
		if got := certified.ssh(t, to, "echo ran"); got.Code != 255 || len(got.Stdout) > 0 {
			t.Errorf("with a certificate to %s: exit %d, %s%s", to, got.Code, got.Stdout, got.Stderr)
		}
	}
	if got := c.Hawser(t, nil, "access", "explain", "anna", "gw-1"); got.Code != 5 || !strings.Contains(string(got.Stdout), "role auditor  allows no device") {
		t.Errorf("exit %d\n%s%s", got.Code, got.Stdout, got.Stderr)
	}
	if got := c.Must(t, "access", "review", "--user", "anna", "-o", "json"); got != "[]" {
		t.Errorf("reaches %s", got)
	}
}
