package access

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hawser/test/harness"
)

// caStatus is `hawser ca status -o json`.
type caStatus struct {
	TrustRevision uint64 `json:"trust_revision"`
	Authorities   []struct {
		Kind, Phase, Fingerprint string
	} `json:"authorities"`
	Behind []struct {
		Kind, Name string
		MustRejoin bool `json:"must_rejoin"`
	} `json:"behind"`
}

func statusOf(t *testing.T, c *harness.Cluster) (s caStatus, ok bool) {
	t.Helper()
	r := c.Hawser(t, nil, "ca", "status", "-o", "json")
	return s, r.Code == 0 && json.Unmarshal(r.Stdout, &s) == nil // between two phases the profile is written anew
}

// renewed waits until nobody who is connected holds certificates of the wrong CA; but those who are not may.
func renewed(t *testing.T, c *harness.Cluster, but ...string) {
	t.Helper()
	harness.Eventually(t, 30*time.Second, "all have renewed", func() bool {
		s, ok := statusOf(t, c)
		for _, b := range s.Behind {
			ok = ok && strings.Contains(strings.Join(but, " "), b.Name)
		}
		return ok
	})
}

// rotate takes every CA through a whole rotation, by hand.
func rotate(t *testing.T, c *harness.Cluster, each func(phase string), but ...string) {
	t.Helper()
	c.Must(t, "ca", "rotate", "--manual", "--grace", "3s")
	for _, phase := range []string{"init", "update-clients", "update-servers"} {
		renewed(t, c, but...)
		if each != nil {
			each(phase)
		}
		harness.Eventually(t, 20*time.Second, "the phase after "+phase, func() bool { return c.Hawser(t, nil, "ca", "advance").Code == 0 })
	}
	s, _ := statusOf(t, c)
	for _, a := range s.Authorities {
		if a.Phase != "standby" {
			t.Fatalf("%s is in phase %s", a.Kind, a.Phase)
		}
	}
}

// counted is a session that echoes numbered lines, and counts what comes back wrong.
type counted struct {
	cmd         *exec.Cmd
	in          io.WriteCloser
	sent, back  atomic.Int64
	wrong       atomic.Int64
	ended, quit chan struct{}
	stderr      strings.Builder
}

const filler = 1 << 10 // bytes of a line: a rekey is due every thousand

func count(t *testing.T, c *harness.Cluster, host string) *counted {
	t.Helper()
	x := &counted{
		// Keys are exchanged anew every MB: a client of OpenSSH before 10.4 dies of a host key that changes then.
		cmd:   exec.Command("ssh", "-F", c.Ready.SSHConfig, "-o", "RekeyLimit=1M", host, "cat"),
		ended: make(chan struct{}), quit: make(chan struct{}),
	}
	var err error
	if x.in, err = x.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := x.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	x.cmd.Stderr = &x.stderr
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = x.cmd.Process.Kill(); <-x.ended })
	go func() {
		pad := strings.Repeat("x", filler)
		for n := int64(0); ; n++ {
			select {
			case <-x.quit:
				_ = x.in.Close()
				return
			case <-x.ended:
				return
			case <-time.After(400 * time.Microsecond): // some 2 MB a second
			}
			if _, err := fmt.Fprintf(x.in, "%d %s\n", n, pad); err != nil {
				return
			}
			x.sent.Add(1)
		}
	}()
	go func() {
		r := bufio.NewReader(out)
		for want := int64(0); ; want++ {
			line, err := r.ReadString('\n')
			if err != nil {
				break
			}
			var n int64
			if _, err := fmt.Sscan(line, &n); err != nil || n != want {
				x.wrong.Add(1)
			}
			x.back.Add(1)
		}
		_ = x.cmd.Wait()
		close(x.ended)
	}()
	return x
}

func (x *counted) finish(t *testing.T, what string) {
	t.Helper()
	select {
	case <-x.ended:
		t.Fatalf("%s: the session ended during the rotation: %v\n%s", what, x.cmd.ProcessState, x.stderr.String())
	default:
	}
	close(x.quit)
	select {
	case <-x.ended:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s: no end 30 s after its input's", what)
	}
	if x.cmd.ProcessState.ExitCode() != 0 || x.wrong.Load() != 0 || x.sent.Load() != x.back.Load() {
		t.Errorf("%s: exit %d, %d lines sent, %d back, %d wrong\n%s", what, x.cmd.ProcessState.ExitCode(), x.sent.Load(), x.back.Load(), x.wrong.Load(), x.stderr.String())
	}
	if mb := x.back.Load() * filler >> 20; mb < 20 {
		// A slow machine sends less in the time; a host key that changed would have shown at the first rekey.
		t.Logf("%s: %d MB, %d rekeys at most", what, mb, mb)
	}
}

// copyProfile keeps the key and certificates of the person whose profile is at home as they are now.
func copyProfile(t *testing.T, home string) string {
	t.Helper()
	dir := t.TempDir()
	files, err := os.ReadDir(home)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(home, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, f.Name()), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Sessions in both ways in go through a whole rotation of every CA and key, bulk and rekeys included; new ones begin in every phase; what
// the old CAs signed is refused after it.
func TestALiveSessionOutlivesTheRotationOfEveryCA(t *testing.T) {
	t.Parallel()
	c := harness.Up(t, 1, "--hubs", "2")
	old := copyProfile(t, c.Ready.Home)
	ann := copyProfile(t, loggedIn(t, c, "ann", "operator").home) // nobody registered her key
	hub, e2e := count(t, c, "gw-1"), count(t, c, "e2e-gw-1")
	works := func(when string) {
		t.Helper()
		for _, host := range []string{"gw-1", "e2e-gw-1"} {
			harness.Eventually(t, 10*time.Second, host+" "+when, func() bool {
				r := c.SSH(t, nil, "-o", "ConnectTimeout=5", host, "echo", "here")
				return r.Code == 0 && string(r.Stdout) == "here\n"
			})
		}
	}
	before, _ := statusOf(t, c)
	login := c.SSH(t, nil, "e2e-gw-1", "id", "-un")
	oldAPI := func() bool {
		r := harness.RunEnv(t, []string{"HAWSER_HOME=" + old}, nil, harness.Program(t, "hawser"), "ls")
		return r.Code == 0
	}
	oldSSH := func() bool {
		r := harness.Run(t, nil, "ssh", "-F", "/dev/null", "-o", "ProxyCommand=ssh -F "+c.Ready.SSHConfig+" -W gw-1:22 hub", "-o", "UserKnownHostsFile="+filepath.Join(c.Dir, "known_hosts"),
			"-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-i", filepath.Join(old, "id_ed25519"),
			"-o", "CertificateFile="+filepath.Join(old, "id_ed25519-cert.pub"), "-l", strings.TrimSpace(string(login.Stdout)), "gw-1", "true")
		return r.Code == 0
	}
	oldHub := func() bool {
		host, port, _ := net.SplitHostPort(c.Ready.SSHAddr)
		r := harness.Run(t, nil, "ssh", "-F", "/dev/null", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none",
			"-o", "BatchMode=yes", "-i", filepath.Join(ann, "id_ed25519"), "-o", "CertificateFile="+filepath.Join(ann, "id_ed25519-cert.pub"), "-p", port, "hawser@"+host, "ls")
		return r.Code == 0
	}
	if !oldAPI() || !oldSSH() || !oldHub() {
		t.Fatal("what is to be refused after the rotation does not work before it")
	}
	rotate(t, c, func(phase string) { works("in phase " + phase) })
	ended := time.Now()
	after, _ := statusOf(t, c)
	for i, a := range after.Authorities {
		if a.Fingerprint == before.Authorities[i].Fingerprint {
			t.Errorf("%s is the same as before", a.Kind)
		}
	}

	// The old certificates: at auth, at the device, which takes certificates alone, and at the hub.
	refused := func(what string, try func() bool) {
		t.Helper()
		harness.Eventually(t, time.Minute-time.Since(ended), what+" is refused within a minute of the last phase", func() bool { return !try() })
	}
	refused("the old API certificate", oldAPI)
	refused("the old SSH certificate at the device", oldSSH)
	refused("the old SSH certificate at the hub", oldHub)
	t.Logf("refused %v after the last phase", time.Since(ended).Round(time.Millisecond))
	works("after the rotation")
	hub.finish(t, "hub mode")
	e2e.finish(t, "end to end")

	host := c.Must(t, "ca", "export", "--kind", "host")
	if n := strings.Count(host, "@cert-authority * ssh-ed25519 "); n != 2 {
		t.Errorf("%d host authorities exported:\n%s", n, host)
	}
	if pem := c.Must(t, "ca", "export", "--kind", "tunnel"); strings.Count(pem, "BEGIN CERTIFICATE") != 1 {
		t.Errorf("exported:\n%s", pem)
	}
}

// edge is a device of its own, that can be stopped and started again.
type edge struct {
	c           *harness.Cluster
	name, state string
	p           *harness.Process
}

func (e *edge) start(t *testing.T, token string) {
	t.Helper()
	var env []string
	if token != "" {
		env = append(env, "HAWSER_TOKEN="+token)
	}
	e.p = harness.Start(t, env, harness.Program(t, "hawser-edge"), "run", "--state", e.state, "--name", e.name)
}

func (e *edge) online(t *testing.T) {
	t.Helper()
	harness.Eventually(t, 30*time.Second, e.name+" is online", func() bool {
		d, err := e.c.Show(t, e.name)
		return err == nil && d.Online
	})
	harness.Eventually(t, 15*time.Second, e.name+" is reached", func() bool {
		return c0(e.c.SSH(t, nil, "-o", "ConnectTimeout=5", e.name, "true")) && c0(e.c.SSH(t, nil, "-o", "ConnectTimeout=5", "e2e-"+e.name, "true"))
	})
}

func c0(r harness.Result) bool { return r.Code == 0 }

// A device that slept through a whole rotation knows the hub by the cross-certificate and renews itself; one that slept through a
// compromise is listed, does not come back by itself, and joins again, as who it was, with a new token. An old token is of no use by
// then.
func TestADeviceThatSleptThroughRotations(t *testing.T) {
	t.Parallel()
	c := harness.Up(t, 1)
	e := &edge{c: c, name: "sleeper", state: t.TempDir()}
	e.start(t, c.Must(t, "token", "create", "--kind", "edge"))
	e.online(t)
	uuid, err := c.Show(t, e.name)
	if err != nil {
		t.Fatal(err)
	}
	e.p.Stop(t)
	stale := c.Must(t, "token", "create", "--kind", "edge")
	rotate(t, c, nil, e.name)
	e.start(t, "")
	e.online(t)
	renewed(t, c)
	late := &edge{c: c, name: "late", state: t.TempDir()}
	late.start(t, stale)
	select {
	case <-late.p.Done():
		if out := late.p.Output(); !strings.Contains(out, "hawser token create") {
			t.Errorf("a token of the old CA: the mend is not named:\n%s", out)
		}
	case <-time.After(20 * time.Second):
		t.Errorf("a token of the old CA is not refused:\n%s", late.p.Output())
	}

	e.p.Stop(t)
	r := c.Hawser(t, nil, "ca", "rotate", "--compromised")
	if r.Code != 0 {
		t.Fatalf("exit %d: %s", r.Code, r.Stderr)
	}
	harness.Eventually(t, 20*time.Second, "the sleeper is listed as one that must join again, and nobody else", func() bool {
		s, ok := statusOf(t, c)
		return ok && len(s.Behind) == 1 && s.Behind[0].Name == e.name && s.Behind[0].MustRejoin
	})
	harness.Eventually(t, 10*time.Second, "the other device is reached", func() bool { return c0(c.SSH(t, nil, "gw-1", "true")) })
	e.start(t, "")
	harness.Eventually(t, 20*time.Second, "the sleeper does not know the hub", func() bool { return strings.Contains(e.p.Output(), "unknown CA") })
	if d, err := c.Show(t, e.name); err != nil || d.Online {
		t.Errorf("online %v, %v", d.Online, err)
	}
	e.p.Stop(t)
	e.start(t, c.Must(t, "token", "create", "--kind", "edge"))
	e.online(t)
	if d, err := c.Show(t, e.name); err != nil || d.UUID != uuid.UUID {
		t.Errorf("%s became %s: %v", uuid.UUID, d.UUID, err)
	}
	renewed(t, c)
}
