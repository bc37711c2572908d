package command

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hawser/edge/session"
)

func TestMain(m *testing.M) {
	if code, ok := session.RunHelper(os.Args); ok {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// call runs one command line.
func call(args ...string) (code int, stdout, stderr string) {
	var out, words bytes.Buffer
	code = Main(args, &out, &words)
	return code, out.String(), words.String()
}

func TestExitCodesAndStreams(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing")
	for _, tt := range []struct {
		name   string
		args   []string
		code   int
		stdout string // must contain
		stderr string
	}{
		{"no command", nil, exitUsage, "", "no command"},
		{"help", []string{"help"}, exitOK, "hawser-edge run", ""},
		{"help of a command", []string{"run", "--help"}, exitOK, "hawser-edge run", ""},
		{"version", []string{"version"}, exitOK, "\n", ""},
		{"unknown command", []string{"fly\x1b[2J"}, exitUsage, "", `unknown command "fly\x1b[2J"`},
		{"unknown flag", []string{"run", "--state", dir, "--wings"}, exitUsage, "", "wings"},
		{"a flag of another command", []string{"leave", "--token", "x"}, exitUsage, "", "token"},
		{"an argument too many", []string{"run", "now"}, exitUsage, "", "now"},
		{"bad name", []string{"run", "--state", dir, "--name", "Gw.1"}, exitUsage, "", "device name"},
		{"a name with escape codes", []string{"run", "--state", dir, "--name", "gw\x1b]0;x\a"}, exitUsage, "", `x1b]0;x`},
		{"a name of 8 KiB", []string{"run", "--state", dir, "--name", strings.Repeat("a", 8192)}, exitUsage, "", "8192 bytes"},
		{"bad label", []string{"run", "--state", dir, "--label", "site"}, exitUsage, "", "key=value"},
		{"bad hub", []string{"run", "--state", dir, "--hub", "hub"}, exitUsage, "", "hub address"},
		{"bad carrier", []string{"run", "--state", dir, "--carrier", "pigeon"}, exitUsage, "", "pigeon"},
		{"bad level", []string{"run", "--state", dir, "--log-level", "loud"}, exitUsage, "", "loud"},
		{"bad token", []string{"join", "--state", dir, "--token", "hwt1_nonsense"}, exitFailed, "", "token"},
		{"no token", []string{"run", "--state", dir}, exitFailed, "", "hawser token create"},
		{"status of nothing", []string{"status", "--state", missing}, exitFailed, "", "does not exist"},
		{"leave of nothing", []string{"leave", "--state", missing}, exitFailed, "", "state directory"},
		{"a state directory that is a file", []string{"run", "--state", "/dev/null"}, exitFailed, "", "state directory"},
	} {
		code, stdout, stderr := call(tt.args...)
		if code != tt.code || !strings.Contains(stdout, tt.stdout) || !strings.Contains(stderr, tt.stderr) {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", tt.name, code, stdout, stderr)
		}
		if strings.ContainsAny(stderr, "\x1b\a") {
			t.Errorf("%s: stderr drives the terminal: %q", tt.name, stderr)
		}
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("asking for the status made the directory")
	}
}

func TestTheSecretOfATokenIsNeverPrinted(t *testing.T) {
	secret := "hwt1_c2VjcmV0c2VjcmV0"
	_, stdout, stderr := call("join", "--state", t.TempDir(), "--token", secret)
	if strings.Contains(stdout+stderr, secret) {
		t.Errorf("printed: %q %q", stdout, stderr)
	}
}

func TestInsideASessionStatusNamesIt(t *testing.T) {
	t.Setenv("HAWSER_SESSION", "00ff")
	t.Setenv("HAWSER_USER", "alice")
	t.Setenv("HAWSER_DEVICE", "gw-1")
	t.Setenv("HAWSER_AGENT", "")
	code, stdout, stderr := call("status", "--state", "/nonexistent")
	if code != exitOK || stdout != "session: 00ff\nuser: alice\ndevice: gw-1\nto join it: the agent of this session does not answer\n" {
		t.Errorf("exit %d, %q, %q", code, stdout, stderr)
	}
	if code, _, stderr := call("status", "--state", "/nonexistent", "--out", "bob"); code != exitFailed || !strings.Contains(stderr, "does not answer") {
		t.Errorf("a guest put out by nobody: exit %d, %q", code, stderr)
	}
	if code, _, _ := call("status", "--out", "bob", "--say", "bye"); code != exitUsage {
		t.Errorf("both at once: exit %d", code)
	}
	t.Setenv("HAWSER_SESSION", "")
	if code, _, stderr := call("status", "--say", "bye"); code != exitUsage || !strings.Contains(stderr, "inside a session") {
		t.Errorf("outside a session: exit %d, %q", code, stderr)
	}
}

func TestAFlagWinsOverTheEnvironment(t *testing.T) {
	t.Setenv("HAWSER_NAME", "from-env")
	t.Setenv("HAWSER_HUB", "a.example:443, b.example:443")
	o, err := parse("run", []string{"--name", "from-flag"})
	if err != nil || o.name != "from-flag" || len(o.hubs) != 2 || o.hubs[1] != "b.example:443" {
		t.Errorf("%+v, %v", o, err)
	}
	if o, err = parse("run", []string{"--hub", "c.example:443"}); err != nil || o.name != "from-env" || len(o.hubs) != 1 {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestDoctorFindsWhatIsMissing(t *testing.T) {
	code, stdout, _ := call("doctor", "--state", filepath.Join(t.TempDir(), "none"))
	if code != exitFailed || !strings.Contains(stdout, "FAIL state") || !strings.Contains(stdout, "FAIL hubs") {
		t.Errorf("exit %d\n%s", code, stdout)
	}
}
