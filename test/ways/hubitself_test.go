package ways_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"hawser/test/harness"
)

// A person at a terminal finds a device, is on it, and gets his terminal back; on a dumb one and a narrow one too. The tests below share a
// cluster.
func TestThePicker(t *testing.T) {
	harness.Root(t)
	c := harness.Up(t, 2)
	c.Must(t, "device", "label", "gw-2", "env=prod")
	ssh := []string{"ssh", "-F", c.Ready.SSHConfig, "-o", "LogLevel=ERROR"}
	harness.Eventually(t, 10*time.Second, "the hub has the label", func() bool {
		return string(c.SSH(t, nil, "hub", "ls", "-q", "-l", "env=prod").Stdout) == "gw-2\n"
	})
	t.Run("search, connect, resize", func(t *testing.T) {
		s := harness.NewScreen(t, "xterm-256color", "90", "20", append(ssh, "hub")...)
		s.Shows(t, "Enter connects")
		s.Shows(t, "[!prod]")
		s.Tmux(t, "resize-window", "-x", "70", "-y", "12")
		s.Types(t, "gw-2", "Enter")
		s.Types(t, "echo on $HAWSER_DEVICE as $TERM; stty size; exit 7", "Enter")
		s.Shows(t, "on gw-2 as xterm-256color")
		s.Shows(t, "12 70")
		s.Shows(t, "code 7")
		if list := c.Must(t, "recordings", "ls"); !strings.Contains(list, "gw-2") {
			t.Errorf("not recorded:\n%s", list)
		}
	})
	t.Run("twenty columns, and leaving", func(t *testing.T) {
		s := harness.NewScreen(t, "xterm", "20", "8", append(ssh, "hub")...)
		s.Shows(t, "+ gw-2 [!prod]")
		s.Types(t, "q")
		s.Shows(t, "code 0")
		if text := s.Tmux(t, "capture-pane", "-p"); strings.Contains(text, "search") {
			t.Errorf("the picker is left behind:\n%s", text)
		}
	})
	t.Run("dumb", func(t *testing.T) {
		s := harness.NewScreen(t, "dumb", "80", "24", append(ssh, "hub")...)
		s.Shows(t, "or part of its name")
		s.Types(t, "gw-1", "Enter")
		s.Types(t, "echo on $HAWSER_DEVICE; exit", "Enter")
		s.Shows(t, "on gw-1")
		s.Shows(t, "code 0")
	})
	t.Run("an unknown name", func(t *testing.T) {
		s := harness.NewScreen(t, "xterm", "80", "24", append(ssh, "-l", "gw-12", "hub")...)
		s.Shows(t, "search: gw-12_")
		s.Shows(t, "> gw-1")
		s.Types(t, "C-c")
		s.Shows(t, "code 0")
		r := c.SSH(t, nil, "-l", "gw-12", "hub", "ls")
		if r.Code != 255 || len(r.Stdout) != 0 || !strings.Contains(string(r.Stderr), "near: gw-1, gw-2") {
			t.Errorf("with a command: %s", show(r))
		}
		if r := harness.Run(t, nil, "sftp", "-q", "-F", c.Ready.SSHConfig, "-b", "-", "gw-12@hub"); r.Code != 255 {
			t.Errorf("sftp: %s", show(r))
		}
		if r := c.SSH(t, nil, "-l", "gw-12", "-N", "hub"); r.Code != 255 { // 5 s
			t.Errorf("-N: %s", show(r))
		}
	})
}

// Who waits is connected when the device wakes, whatever the client; before that he can read since when it is away.
func TestWaitingForADevice(t *testing.T) {
	harness.Root(t)
	c := harness.Up(t, 0)
	edge := func() *harness.Process {
		token := c.Must(t, "token", "create", "--kind", "edge", "--uses", "1")
		return harness.Start(t, []string{"HAWSER_TOKEN=" + token}, harness.Program(t, "hawser-edge"), "run", "--state", filepath.Join(c.Dir, "sleeper"), "--name", "sleeper")
	}
	host, port, _ := net.SplitHostPort(c.Ready.SSHAddr)
	ssh := func(args ...string) []string {
		return append([]string{"-F", c.Ready.SSHConfig, "-p", port, "-o", "BatchMode=yes", "-o", "HostName=" + host, "-l", "sleeper"}, args...)
	}
	file := filepath.Join(t.TempDir(), "file")
	// One that was never there is waited for like one that sleeps.
	first := harness.Start(t, nil, "ssh", ssh("-o", "SetEnv=HAWSER_WAIT=1m", "hub", "echo never seen before")...)
	said := func(p *harness.Process, within time.Duration, want string) {
		t.Helper()
		harness.Eventually(t, within, want, func() bool { return strings.Contains(p.Output(), want) })
	}
	const waiting = "waiting for sleeper until"
	said(first, 10*time.Second, waiting)
	running := edge()
	said(first, 30*time.Second, "never seen before")
	running.Stop(t)
	harness.Eventually(t, 20*time.Second, "it is away", func() bool {
		r := harness.Run(t, nil, "ssh", ssh("hub", "true")...)
		_, why, told := strings.Cut(string(r.Stderr), "sleeper is offline, last seen ")
		return r.Code == 255 && told && strings.Contains(why, " via ")
	})
	r := harness.Run(t, nil, "ssh", ssh("-o", "SetEnv=HAWSER_WAIT=1s", "hub", "true")...)
	if r.Code != 255 || !strings.Contains(string(r.Stderr), "did not come within 1s") {
		t.Errorf("a wait in vain: %s", show(r))
	}
	os.WriteFile(file, []byte("by scp"), 0o600)
	waits := []*harness.Process{
		harness.Start(t, []string{"HAWSER_HOME=" + c.Ready.Home}, harness.Program(t, "hawser"),
			"ssh", "--wait", "1m", "-l", "sleeper", "hub", "echo by hawser"),
		harness.Start(t, []string{"HAWSER_WAIT=1m"}, "scp", "-F", c.Ready.SSHConfig, file, "sleeper@hub:"+file+".copy"),
		harness.Start(t, nil, "sftp", "-F", c.Ready.SSHConfig, "-o", "SetEnv=HAWSER_WAIT=1m", "sleeper@hub:"+file, file+".sftp"),
	}
	for _, w := range waits {
		said(w, 10*time.Second, waiting)
	}
	edge()
	for i, w := range waits {
		select {
		case <-w.Done():
		case <-time.After(30 * time.Second):
			t.Fatalf("wait %d goes on\n%s", i, w.Output())
		}
	}
	if harness.ReadFile(t, file+".copy") != "by scp" || harness.ReadFile(t, file+".sftp") != "by scp" ||
		!strings.Contains(waits[0].Output(), "by hawser") {
		t.Errorf("hawser ssh: %s\nscp: %s\nsftp: %s", waits[0].Output(), waits[1].Output(), waits[2].Output())
	}
}

// The picker's library must not ask the terminal that a program of ours was started at.
func TestProgramsAskTheirOwnTerminalForNothing(t *testing.T) {
	for _, program := range []string{"hawser", "hawser-hub"} {
		cmd := exec.Command(harness.Program(t, program), "--help")
		cmd.Env = append(os.Environ(), "TERM=xterm-256color")
		f, err := pty.Start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		var out []byte
		for b := make([]byte, 4096); ; {
			n, err := f.Read(b)
			if out = append(out, b[:n]...); err != nil {
				break
			}
		}
		_ = cmd.Wait()
		f.Close()
		if len(out) == 0 || strings.Contains(string(out), "\x1b") {
			t.Errorf("%s: %q", program, out)
		}
	}
}
