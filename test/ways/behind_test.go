package ways_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/test/harness"
)

// server is an sshd or dropbear without an agent.
type server struct {
	*harness.Process
	addr, dir string
	port      int
}

func keygen(t *testing.T, path string) {
	t.Helper()
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v %s", err, out)
	}
}

func (s *server) listens(t *testing.T) {
	t.Helper()
	harness.Eventually(t, 10*time.Second, "the server listens", func() bool {
		nc, err := net.Dial("tcp", s.addr)
		if err == nil {
			nc.Close()
		}
		return err == nil
	})
}

// start runs sshd with what is in its directory; it offers passwords, which nobody is to try.
func (s *server) start(t *testing.T) {
	t.Helper()
	os.MkdirAll("/run/sshd", 0o755)
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		sshd = "/usr/sbin/sshd"
	}
	s.Process = harness.Start(t, nil, sshd, "-D", "-e", "-f", s.dir+"/sshd_config")
	s.listens(t)
}

// openSSH is a server that takes the cluster's certificates by the lines that `ca export` prints.
func openSSH(t *testing.T, c *harness.Cluster) *server {
	t.Helper()
	s := &server{port: harness.FreePort(t), dir: t.TempDir()}
	s.addr = fmt.Sprintf("127.0.0.1:%d", s.port)
	keygen(t, s.dir+"/host")
	write(t, s.dir+"/ca.pub", c.Must(t, "ca", "export", "--kind", "target"))
	write(t, s.dir+"/sshd_config", fmt.Sprintf(`ListenAddress %s
HostKey %s/host
TrustedUserCAKeys %s/ca.pub
AuthorizedKeysFile none
StrictModes no
UsePAM no
PasswordAuthentication yes
KbdInteractiveAuthentication yes
PermitRootLogin yes
AcceptEnv LANG HAWSER_*
Subsystem sftp internal-sftp
PidFile none
LogLevel VERBOSE
`, s.addr, s.dir, s.dir))
	s.start(t)
	return s
}

// dropbear knows no certificates: it takes one key. It runs where its directory is root's home.
func dropbear(t *testing.T, authorized string) *server {
	t.Helper()
	harness.Need(t, "dropbear", "dropbearkey", "unshare")
	s := &server{port: harness.FreePort(t), dir: t.TempDir()}
	s.addr = fmt.Sprintf("127.0.0.1:%d", s.port)
	os.Mkdir(s.dir+"/.ssh", 0o700)
	os.Chmod(s.dir, 0o700)
	write(t, s.dir+"/.ssh/authorized_keys", authorized+"\n")
	os.Chmod(s.dir+"/.ssh/authorized_keys", 0o600)
	if out, err := exec.Command("dropbearkey", "-t", "ed25519", "-f", s.dir+"/host").CombinedOutput(); err != nil {
		t.Fatalf("dropbearkey: %v %s", err, out)
	}
	s.Process = harness.Start(t, nil, "unshare", "-m", "sh", "-c", fmt.Sprintf(
		`cp %[1]s/host /tmp/hostkey-%[2]d && mount --bind %[1]s /root && exec dropbear -F -E -r /tmp/hostkey-%[2]d -p 127.0.0.1:%[2]d -P ""`, s.dir, s.port))
	t.Cleanup(func() { os.Remove(fmt.Sprintf("/tmp/hostkey-%d", s.port)) })
	s.listens(t)
	return s
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func fingerprint(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command("ssh-keygen", "-lf", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))[1]
}

// Servers without an agent are devices to people: what works, what is refused and how it ends.
func TestServersBehindADevice(t *testing.T) {
	harness.Root(t)
	t.Parallel()
	whole := t
	c := harness.Up(t, 1)
	s := openSSH(t, c)
	if r := c.Hawser(t, nil, "device", "add", "cam3", "--via", "gw-1", "--address", s.addr); r.Code == 0 || !strings.Contains(string(r.Stderr), "--local") {
		t.Errorf("the device's own loopback without --local: %s", show(r))
	}
	c.Must(t, "device", "add", "cam3", "--via", "gw-1", "--address", s.addr, "--local", "--label", "kind=camera", "--login", "root")
	write(t, s.dir+"/more.yaml", fmt.Sprintf("- name: srv1\n  via: hub\n  address: %s\n  local: true\n  logins: [root]\n  labels: {kind: server}\n- name: srv2\n  via: gw-1\n  logins: [root]\n  address: 127.0.0.1:1\n  local: true\n", s.addr))
	c.Must(t, "device", "import", s.dir+"/more.yaml")
	ssh := func(stdin []byte, args ...string) harness.Result { t.Helper(); return c.SSH(t, stdin, args...) }
	harness.Eventually(t, 10*time.Second, "the hub knows cam3", func() bool { return ssh(nil, "cam3@hub", "true").Code == 0 })

	for _, name := range []string{"cam3", "srv1"} {
		if r := ssh([]byte("in"), name+"@hub", "cat; echo o; echo e >&2; exit 7"); string(r.Stdout) != "ino\n" || string(r.Stderr) != "e\n" || r.Code != 7 {
			t.Errorf("exec on %s: %s", name, show(r))
		}
	}
	if r := ssh(nil, "-o", "SetEnv=LANG=C.UTF-8", "cam3@hub", "echo $LANG $HAWSER_DEVICE $HAWSER_USER"); string(r.Stdout) != "C.UTF-8 cam3 admin\n" {
		t.Errorf("environment: %s", show(r))
	}
	if r := ssh(nil, "-tt", "cam3@hub", "tty >/dev/null && echo tty; exit 3"); string(r.Stdout) != "tty\r\n" || r.Code != 3 {
		t.Errorf("pty: %s", show(r))
	}
	if r := harness.Run(t, nil, "script", "-qec", "stty rows 41 cols 99; ssh -F "+c.Ready.SSHConfig+" -tt cam3@hub stty size", "/dev/null"); !strings.Contains(string(r.Stdout), "41 99") {
		t.Errorf("the window's size: %s", show(r))
	}
	if r := ssh(nil, "cam3@hub", "kill -TERM $$"); r.Code != 255 {
		t.Errorf("ended by a signal: %s", show(r))
	}
	big := bytes.Repeat([]byte("0123456789abcde\n"), 1<<16)
	if r := ssh(big, "cam3@hub", "cat"); !bytes.Equal(r.Stdout, big) {
		t.Errorf("1 MiB through cat: %d bytes, %s", len(r.Stdout), r.Stderr)
	}
	local, remote := s.dir+"/local", s.dir+"/remote"
	write(t, local, string(big))
	for _, old := range []string{"-s", "-O"} {
		os.Remove(remote)
		if r := harness.Run(t, nil, "scp", "-F", c.Ready.SSHConfig, "-q", old, local, "cam3@hub:"+remote); r.Code != 0 || harness.ReadFile(t, remote) != string(big) {
			t.Errorf("scp %s: %s", old, show(r))
		}
	}
	write(t, s.dir+"/batch", "get "+remote+" "+s.dir+"/back\nrename "+remote+" "+remote+"2\n")
	if r := harness.Run(t, nil, "sftp", "-F", c.Ready.SSHConfig, "-q", "-b", s.dir+"/batch", "cam3@hub"); r.Code != 0 || harness.ReadFile(t, s.dir+"/back") != string(big) {
		t.Errorf("sftp: %s", show(r))
	}
	if r := ssh([]byte("SSH-2.0-x\r\n"), "-W", s.addr, "cam3@hub"); !strings.HasPrefix(string(r.Stdout), "SSH-2.0-OpenSSH") {
		t.Errorf("-W to what the server reaches: %s", show(r))
	}
	for what, args := range map[string][]string{
		"-W to a name":          {"-W", "metadata.internal:80", "cam3@hub"},
		"-W to link-local":      {"-W", "169.254.169.254:80", "cam3@hub"},
		"a login it has not":    {"nobody=cam3@hub", "true"},
		"end to end":            {"-J", "hub", "-o", "StrictHostKeyChecking=no", "root@cam3", "true"},
		"a remote forward":      {"-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:9", "cam3@hub", "true"},
		"a server out of reach": {"srv2@hub", "true"},
	} {
		if r := ssh(nil, args...); r.Code == 0 {
			t.Errorf("%s: %s", what, show(r))
		} else {
			t.Logf("%s: %s", what, bytes.TrimSpace(r.Stderr))
		}
	}
	if out := s.Output(); strings.Contains(out, "Failed password") || strings.Contains(out, "keyboard-interactive") {
		t.Errorf("a password was offered:\n%s", out)
	}

	t.Run("shown", func(t *testing.T) {
		text := c.Must(t, "show", "cam3")
		for _, want := range []string{"gw-1", s.addr, fingerprint(t, s.dir+"/host.pub"), "certificates of the target CA", "online"} {
			if !strings.Contains(text, want) {
				t.Errorf("no %q in\n%s", want, text)
			}
		}
		if rec := c.Must(t, "recordings", "ls", "-o", "json"); !strings.Contains(rec, "cam3") {
			t.Errorf("nothing of cam3 is recorded: %s", rec)
		}
		if log := c.Must(t, "audit", "search", "-o", "json", "--device", "cam3"); !strings.Contains(log, "target.open") || !strings.Contains(log, "target.hostkey") || !strings.Contains(log, "session.end") {
			t.Errorf("audit: %s", log)
		}
	})

	t.Run("joined", func(t *testing.T) {
		terminal := []string{"ssh", "-F", c.Ready.SSHConfig, "-o", "LogLevel=ERROR", "-t"}
		owner := harness.NewScreen(t, "xterm", "80", "24", append(terminal, "cam3@hub", "echo before-$((1+1)); exec sh")...)
		owner.Shows(t, "before-2")
		var live []struct{ ID, Device string }
		harness.Eventually(t, 5*time.Second, "the session is listed", func() bool {
			if err := json.Unmarshal([]byte(c.Must(t, "sessions", "ls", "-o", "json")), &live); err != nil {
				t.Fatal(err)
			}
			live = slices.DeleteFunc(live, func(s struct{ ID, Device string }) bool { return s.Device != "cam3" })
			return len(live) == 1
		})
		observer := harness.NewScreen(t, "xterm", "100", "30", append(terminal, "hub", "join", live[0].ID)...)
		peer := harness.NewScreen(t, "xterm", "80", "24", "env", "HAWSER_HOME="+c.Ready.Home, harness.Program(t, "hawser"), "join", live[0].ID[:8], "--mode", "peer")
		peer.Shows(t, "before-2")
		peer.Types(t, "echo peer-$((2+3))", "Enter")
		for _, s := range []*harness.Screen{owner, observer} {
			s.Shows(t, "peer-5")
		}
		observer.Types(t, "C-c")
		observer.Shows(t, "code 0")
		owner.Types(t, "exit 3", "Enter")
		owner.Shows(t, "code 3")
		peer.Shows(t, "the session has ended")
		harness.Eventually(t, 10*time.Second, "its recording says who was in it", func() bool {
			text := c.Must(t, "recordings", "show", live[0].ID)
			return strings.Contains(text, "joined as peer") && strings.Contains(text, "joined as observer")
		})
	})

	t.Run("killed", func(t *testing.T) {
		cmd := exec.Command("ssh", "-F", c.Ready.SSHConfig, "-tt", "cam3@hub", "echo ready; exec sleep 4711.5")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		stdin, err := cmd.StdinPipe() // open: its end would be the session's
		if err != nil {
			t.Fatal(err)
		}
		defer stdin.Close()
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		out.Read(make([]byte, 6))
		var live []struct {
			ID     string `json:"id"`
			Device string `json:"device"`
			Kind   string `json:"kind"`
		}
		harness.Eventually(t, 5*time.Second, "the session is listed", func() bool {
			if err := json.Unmarshal([]byte(c.Must(t, "sessions", "ls", "-o", "json")), &live); err != nil {
				t.Fatal(err)
			}
			for _, x := range live {
				if x.Device == "cam3" {
					live[0] = x
					return true
				}
			}
			return false
		})
		began := time.Now()
		c.Must(t, "sessions", "kill", live[0].ID, "--reason", "enough")
		cmd.Wait()
		if took := time.Since(began); took > 3*time.Second || !strings.Contains(stderr.String(), "enough") || cmd.ProcessState.ExitCode() != 255 {
			t.Errorf("after %v: %v, %s", took, cmd.ProcessState, stderr.String())
		}
		harness.Eventually(t, 10*time.Second, "its process is gone", func() bool { return exec.Command("pgrep", "-f", "sleep 4711.5").Run() != nil })
	})

	t.Run("another host key", func(t *testing.T) {
		s.Stop(t)
		os.Remove(s.dir + "/host")
		os.Remove(s.dir + "/host.pub")
		keygen(t, s.dir+"/host")
		s.start(whole) // it is for what follows too
		now := fingerprint(t, s.dir+"/host.pub")
		line := "hawser device accept-key cam3 " + now
		if r := ssh(nil, "cam3@hub", "true"); r.Code != 255 || !strings.Contains(string(r.Stderr), line) {
			t.Errorf("it was not refused with `%s`: %s", line, show(r))
		}
		c.Must(t, strings.Fields(line)[1:]...)
		if r := ssh(nil, "cam3@hub", "true"); r.Code != 0 {
			t.Errorf("after it was accepted: %s", show(r))
		}
	})

	t.Run("a stored key", func(t *testing.T) {
		line := c.Must(t, "device", "key", "add", "cameras")
		d := dropbear(t, line)
		c.Must(t, "device", "add", "cam4", "--via", "gw-1", "--address", d.addr, "--local", "--key", "cameras")
		harness.Eventually(t, 10*time.Second, "the hub knows cam4", func() bool { return ssh(nil, "root=cam4@hub", "true").Code == 0 })
		if r := ssh([]byte("in"), "root=cam4@hub", "cat; echo o; echo e >&2; exit 7"); string(r.Stdout) != "ino\n" || string(r.Stderr) != "e\n" || r.Code != 7 {
			t.Errorf("exec: %s", show(r))
		}
		// dropbear takes the end of input for the end of the terminal.
		if r := harness.Run(t, nil, "sh", "-c", "sleep 2 | ssh -F "+c.Ready.SSHConfig+" -tt root=cam4@hub 'tty >/dev/null && echo tty'"); string(r.Stdout) != "tty\r\n" || r.Code != 0 {
			t.Errorf("pty: %s", show(r))
		}
		if r := harness.Run(t, nil, "scp", "-F", c.Ready.SSHConfig, "-q", "-O", local, "root=cam4@hub:"+remote); r.Code != 0 || harness.ReadFile(t, remote) != string(big) {
			t.Errorf("scp: %s", show(r))
		}
		if log := c.Must(t, "audit", "search", "-o", "json", "--device", "cam4"); !strings.Contains(log, "target.sign") {
			t.Errorf("audit: %s", log)
		}
		if r := c.Hawser(t, nil, "device", "key", "rm", "cameras"); r.Code == 0 {
			t.Error("a key that is used was removed")
		}
	})

	t.Run("the device that reaches it is away", func(t *testing.T) {
		p, err := os.FindProcess(c.Ready.Devices[0].PID)
		if err != nil {
			t.Fatal(err)
		}
		p.Kill()
		harness.Eventually(t, 15*time.Second, "cam3 is told to be offline with the device that reaches it", func() bool {
			r := ssh(nil, "cam3@hub", "true")
			return r.Code == 255 && strings.Contains(string(r.Stderr), "through gw-1")
		})
		if r := ssh(nil, "srv1@hub", "true"); r.Code != 255 || !strings.Contains(string(r.Stderr), "accept-key srv1") {
			t.Errorf("what the hub itself reaches, whose host key changed: %s", show(r))
		}
	})
}

// Of a stored key a hub has the signatures, and in no shape the key, not even while a session goes on that it opened; auth's files have it sealed.
func TestAStoredKeyNeverLeavesAuth(t *testing.T) {
	t.Parallel()
	w := harness.NewWorld(t, 1)
	site := w.AddSite(t, "gw-1")
	site.StartEdge(t)
	server := site.StartSSHD(t)
	w.Must(t, "device", "key", "add", "cameras", "--file", server.Key)
	w.Must(t, "device", "add", "cam4", "--via", "gw-1", "--address", "192.168.77.2:22", "--key", "cameras")
	harness.Eventually(t, 10*time.Second, "the hub knows cam4", func() bool { return w.ListedOnline(t, 1, "cam4") })
	marker, end := talk(t, w, harness.HubMode, "cam4")
	defer end()
	if log := w.Must(t, "audit", "search", "-o", "json", "--device", "cam4"); !strings.Contains(log, "target.sign") {
		t.Fatalf("the stored key was not used: %s", log)
	}
	hub, keys := w.Hubs[0].Cmd.Process.Pid, shapes(t, server.Key)
	if n := inMemory(t, hub, keys...); n > 0 {
		t.Errorf("the hub's memory has the stored key, %d times", n)
	}
	for _, dir := range []string{w.Hubs[0].Data(), w.AuthData(), filepath.Join(w.Dir, "gw-1")} {
		for _, path := range filesWith(t, dir, keys) {
			t.Errorf("%s has the stored key in the clear", path)
		}
	}
	if out := w.Hubs[0].Output() + w.Auth.Output(); slices.ContainsFunc(keys, func(k string) bool { return strings.Contains(out, k) }) {
		t.Error("a log has the stored key")
	}
	// So that this can fail: what was typed in that session is in the hub's memory, the key in its file is found, and so it is where it is used.
	if inMemory(t, hub, marker) == 0 {
		t.Error("the marker is not in the hub's memory: this test sees nothing")
	}
	if found := filesWith(t, filepath.Dir(server.Key), keys); !slices.Contains(found, server.Key) {
		t.Errorf("the key is found in %v, and not in its own file: this test sees nothing", found)
	}
	harness.Eventually(t, 20*time.Second, "auth, which signs, has the key in its memory", func() bool {
		if inMemory(t, w.Auth.Cmd.Process.Pid, keys...) > 0 {
			return true
		}
		_, again := talk(t, w, harness.HubMode, "cam4") // what it had may have been written over
		again()
		return false
	})
}

// shapes are what the secret of a private key in a file looks like to who finds it: as it is, in hex or base64, and as the lines of that file, those in
// base64 too.
func shapes(t *testing.T, file string) []string {
	t.Helper()
	text := harness.ReadFile(t, file)
	private, err := ssh.ParseRawPrivateKey([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	seed := string(private.(*ed25519.PrivateKey).Seed())
	all := append(encoded(seed), hex.EncodeToString([]byte(seed)))
	for line := range strings.Lines(text) {
		const part = 16 // characters that the line has of it: it may begin in one line and go on in the next
		for _, shape := range encoded(seed) {
			for i := range len(shape) - part + 1 {
				if strings.Contains(line, shape[i:i+part]) {
					all = append(all, encoded(shape[i:i+part])...)
					break
				}
			}
		}
	}
	return all
}

// encoded is a text, and what is the same of its base64 whatever is around it, at each of the three places that it may begin at.
func encoded(text string) []string {
	all := []string{text}
	for before := range 3 {
		s := base64.StdEncoding.EncodeToString(append(make([]byte, before), text...))
		all = append(all, s[(before*8+5)/6:(before+len(text))*8/6])
	}
	return all
}

// filesWith are the files below a directory that have one of these texts.
func filesWith(t *testing.T, dir string, texts []string) (found []string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			return nil
		}
		var b []byte
		if err == nil && e.Type().IsRegular() {
			b, err = os.ReadFile(path)
			files++
		}
		if errors.Is(err, fs.ErrNotExist) { // a program removed it meanwhile
			return nil
		}
		if slices.ContainsFunc(texts, func(s string) bool { return bytes.Contains(b, []byte(s)) }) {
			found = append(found, path)
		}
		return err
	})
	if err != nil || files == 0 {
		t.Errorf("%d files in %s, %v", files, dir, err)
	}
	return found
}
