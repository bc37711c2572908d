package access

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hawser/test/harness"
)

// run starts an agent on a state directory.
func run(t *testing.T, state, token string, args ...string) *harness.Process {
	t.Helper()
	return harness.Start(t, []string{"HAWSER_TOKEN=" + token}, harness.Program(t, "hawser-edge"), append([]string{"run", "--state", state}, args...)...)
}

// online waits until a device is, and answers a person.
func online(t *testing.T, c *harness.Cluster, name string) {
	t.Helper()
	harness.Eventually(t, 60*time.Second, name+" is online", func() bool {
		d, err := c.Show(t, name)
		return err == nil && d.Online && strings.Contains(harness.ReadFile(t, c.Ready.SSHConfig), "Host "+name+"\n")
	})
	if r := c.SSH(t, nil, name, "echo $HAWSER_DEVICE"); r.Code != 0 || strings.TrimSpace(string(r.Stdout)) != name {
		t.Fatalf("ssh %s: exit %d: %s%s", name, r.Code, r.Stdout, r.Stderr)
	}
}

type waiting struct {
	Name, State, Fingerprint string
	CloneOf                  string `json:"clone_of"`
}

func pending(t *testing.T, c *harness.Cluster) []waiting {
	t.Helper()
	var list []waiting
	if err := json.Unmarshal([]byte(c.Must(t, "device", "ls", "--pending", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	return list
}

// state is what `hawser show` says of a device.
func state(t *testing.T, c *harness.Cluster, name string) string {
	t.Helper()
	var v struct{ State string }
	if err := json.Unmarshal([]byte(c.Must(t, "show", "-o", "json", name)), &v); err != nil {
		t.Fatal(err)
	}
	return v.State
}

// auditHas tells whether an event of the type holds all the words.
func auditHas(t *testing.T, c *harness.Cluster, kind string, words ...string) bool {
	t.Helper()
	r := c.Hawser(t, nil, "audit", "search", "-o", "json", "--type", kind)
	text := string(r.Stdout)
	if r.Code != 0 {
		t.Fatalf("audit search: %s", r.Stderr)
	}
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return strings.Contains(text, kind)
}

func TestADeviceWaitsForApprovalThroughARestartAndServesOnceApproved(t *testing.T) {
	t.Parallel()
	c := harness.Up(t, 0)
	token := c.Must(t, "token", "create", "--kind", "edge", "--approve", "--name", "gw-*", "--from", "127.0.0.0/8", "--label", "site=ber")
	dir := t.TempDir()
	p := run(t, dir, token, "--name", "gw-new")
	harness.Eventually(t, 20*time.Second, "the device waits", func() bool { return len(pending(t, c)) == 1 })
	status := func() string {
		r := harness.Run(t, nil, harness.Program(t, "hawser-edge"), "status", "--state", dir)
		return string(r.Stdout) + string(r.Stderr)
	}
	harness.Eventually(t, 10*time.Second, "the agent says that it waits", func() bool {
		return strings.Contains(p.Output(), "waits for approval") && strings.Contains(status(), "hawser device approve gw-new")
	})
	p.Stop(t)
	p = run(t, dir, token, "--name", "gw-new")
	harness.Eventually(t, 20*time.Second, "it waits again after a restart", func() bool { return strings.Contains(p.Output(), "waits for approval") })
	if list := pending(t, c); len(list) != 1 || list[0].Name != "gw-new" || !strings.Contains(status(), list[0].Fingerprint) {
		t.Fatalf("pending are %v", list)
	}
	if r := c.SSH(t, nil, "gw-new=gw-new", "true"); r.Code == 0 {
		t.Fatal("a device is served that nobody approved")
	}
	if got := c.Must(t, "device", "approve", "gw-new", "--set-label", "rack=7"); got != "gw-new" {
		t.Fatalf("approved %q", got)
	}
	online(t, c, "gw-new")

	c.Must(t, "device", "rename", "gw-new", "gate")
	online(t, c, "gate")
	harness.Eventually(t, 10*time.Second, "the device has its name on flash", func() bool { return strings.Contains(status(), "name: gate\n") })
	if r := c.SSH(t, nil, "e2e-gate", "true"); r.Code != 0 {
		t.Errorf("end to end under the new name: %s", r.Stderr)
	}
	c.Must(t, "device", "label", "gate", "site=ham", "rack-")
	if d, err := c.Show(t, "gate"); err != nil || len(d.Labels) != 1 || d.Labels["site"] != "ham" {
		t.Errorf("labels are %v, %v", d.Labels, err)
	}
	p.Stop(t)
}

func TestAnImportedKeyJoinsWithAStringThatIsNoRight(t *testing.T) {
	t.Parallel()
	c := harness.Up(t, 0)
	known, unknown := t.TempDir(), t.TempDir()
	key := harness.Run(t, nil, harness.Program(t, "hawser-edge"), "key", "--state", known)
	if key.Code != 0 || !strings.HasPrefix(string(key.Stdout), "SHA256:") {
		t.Fatalf("hawser-edge key: %s%s", key.Stdout, key.Stderr)
	}
	file := filepath.Join(t.TempDir(), "devices.csv")
	line := "name,key,label:site\nfab-1," + strings.TrimSpace(string(key.Stdout)) + ",ber\n"
	if err := os.WriteFile(file, []byte(line+"fab-1,SHA256:x,\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := c.Hawser(t, nil, "device", "import", file); r.Code == 0 || !strings.Contains(string(r.Stderr), "line 3") {
		t.Fatalf("a wrong file: exit %d: %s", r.Code, r.Stderr)
	}
	if err := os.WriteFile(file, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Must(t, "device", "import", file)
	c.Must(t, "device", "import", file)
	token := c.Must(t, "token", "create", "--kind", "edge", "--factory")
	p := run(t, known, token, "--name", "whatever")
	q := run(t, unknown, token)
	online(t, c, "fab-1")
	harness.Eventually(t, 10*time.Second, "the other is told what is missing", func() bool { return strings.Contains(q.Output(), "hawser device import") })
	if d, err := c.Show(t, "fab-1"); err != nil || d.Labels["site"] != "ber" {
		t.Errorf("labels are %v, %v", d.Labels, err)
	}
	q.Stop(t)
	p.Stop(t)
}

// copyState is what somebody does who copies a flash.
func copyState(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(filepath.Join(to, "s"), os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(to, "s")
}

func TestACopiedFlashIsServedToNobodyUntilOneCommandRecoversIt(t *testing.T) {
	t.Parallel()
	c := harness.Up(t, 0)
	dir := t.TempDir()
	p := run(t, dir, c.Must(t, "token", "create", "--kind", "edge"), "--name", "gw")
	online(t, c, "gw")
	p.Stop(t)
	twin := copyState(t, dir)
	p = run(t, dir, "")
	q := run(t, twin, "")
	harness.Eventually(t, 2*time.Minute, "the device is in quarantine", func() bool { return state(t, c, "gw") == "quarantined" })
	harness.Eventually(t, 10*time.Second, "an agent is told why", func() bool { return strings.Contains(p.Output()+q.Output(), "quarantine") })
	if r := c.SSH(t, nil, "gw", "true"); r.Code == 0 || !strings.Contains(string(r.Stderr), "hawser device recover gw") {
		t.Errorf("a person is told (exit %d) %s", r.Code, r.Stderr)
	}
	q.Stop(t)
	p.Stop(t)
	c.Must(t, "device", "recover", "gw")
	p = run(t, dir, "")
	online(t, c, "gw")
	if !auditHas(t, c, "device.clone", "quarantine", " and 127.0.0.1:") {
		t.Error("the audit log does not name both")
	}
	p.Stop(t)
}

func TestASplitCopyBecomesADeviceThatWaits(t *testing.T) {
	t.Parallel()
	c := harness.Up(t, 0)
	file := filepath.Join(t.TempDir(), "cluster.yaml")
	if err := os.WriteFile(file, []byte("kind: cluster\nclone: split\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Must(t, "apply", "-f", file)
	dir := t.TempDir()
	p := run(t, dir, c.Must(t, "token", "create", "--kind", "edge"), "--name", "gw")
	online(t, c, "gw")
	p.Stop(t)
	twin := copyState(t, dir)
	p = run(t, dir, "")
	q := run(t, twin, "")
	harness.Eventually(t, 2*time.Minute, "one of the two waits for approval", func() bool { return len(pending(t, c)) == 1 })
	list := pending(t, c)
	if list[0].CloneOf != "gw" {
		t.Errorf("pending is %v", list)
	}
	name := c.Must(t, "device", "approve", list[0].Fingerprint)
	online(t, c, name)
	online(t, c, "gw")
	q.Stop(t)
	p.Stop(t)
}
