package access

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"hawser/test/harness"
)

// Work on many devices: each one's result, what failed and how to go on, across environments only when asked, within one's caps, and ended by
// Ctrl-C; and files to and from all.
func TestWorkOnManyDevices(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	c := harness.Up(t, 3)
	apply(t, c, everything("few", "max_connections: 2"))
	c.Must(t, "device", "label", "gw-3", "env=prod")
	ann := loggedIn(t, c, "ann", "few")
	todo := filepath.Join(t.TempDir(), "todo")
	script := []string{"--", "echo on $HAWSER_DEVICE; echo '\x1b]0;x' >&2; test $HAWSER_DEVICE != gw-2 -o -e " + todo + ".mended"}

	alone := exec.Command(harness.Program(t, "hawser"), append([]string{"exec", "-l", "*"}, script...)...)
	alone.Env, alone.SysProcAttr = append(os.Environ(), ann.env...), &syscall.SysProcAttr{Setsid: true} // nobody is there to be asked
	if out, err := alone.CombinedOutput(); err == nil || alone.ProcessState.ExitCode() != 2 || strings.Contains(string(out), "on gw-") ||
		!strings.Contains(string(out), "3 devices of 2 environments (1 env=prod, 2 without the label env)") {
		t.Errorf("two environments, and nobody to ask: exit %d\n%s", alone.ProcessState.ExitCode(), out)
	}
	d := talk(t, ann.env, harness.Program(t, "hawser"), append([]string{"exec", "-l", "*"}, script...)...)
	d.wait(`Go on\? \[y/N\] `)
	d.say("y")
	if code := d.code(); code != 1 || !strings.Contains(d.text(), "gw-3: on gw-3") || strings.Contains(d.text(), "\x1b]0") || !strings.Contains(d.text(), "2 at a time") {
		t.Errorf("at a terminal: exit %d\n%q", code, d.text())
	}

	r := ann.hawser(t, "", append([]string{"exec", "-l", "*", "--yes", "--retry", todo, "-o", "json"}, script...)...)
	got := map[string]int{}
	for line := range bytes.Lines(r.Stdout) {
		var o struct {
			Device, Stdout, Stderr string
			Exit                   *int
			Seconds                float64 `json:"duration_seconds"`
		}
		if err := json.Unmarshal(line, &o); err != nil || o.Exit == nil || o.Stdout != "on "+o.Device+"\n" || o.Stderr != "\x1b]0;x\n" || o.Seconds <= 0 {
			t.Errorf("%v: %s", err, line)
			continue
		}
		got[o.Device] = *o.Exit
	}
	if r.Code != 1 || len(got) != 3 || got["gw-1"] != 0 || got["gw-2"] != 1 || bytes.Contains(r.Stdout, []byte{0x1b}) {
		t.Errorf("json: exit %d, %v\n%s%s", r.Code, got, r.Stdout, r.Stderr)
	}
	if list := harness.ReadFile(t, todo); list != "gw-2 # exit 1\n" {
		t.Errorf("left: %q", list)
	}
	if err := os.WriteFile(todo+".mended", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r = ann.hawser(t, "", append([]string{"exec", "-l", "*", "--retry", todo}, script...)...) // one device is one environment
	if _, err := os.Stat(todo); r.Code != 0 || string(r.Stdout) != "gw-2: on gw-2\n" || !os.IsNotExist(err) {
		t.Errorf("once more: exit %d, %v\n%s%s", r.Code, err, r.Stdout, r.Stderr)
	}
	if r := ann.hawser(t, "", "exec", "gw-1", "--", "exit 7"); r.Code != 7 {
		t.Errorf("of one device: exit %d", r.Code)
	}
	if r := ann.hawser(t, "", "exec", "gw-1", "gw-9", "--", "true"); r.Code != 3 {
		t.Errorf("an unknown one: exit %d\n%s", r.Code, r.Stderr)
	}
	if r := ann.hawser(t, "", "exec", "gw-1", "--timeout", "1s", "--", "sleep 30"); r.Code != 1 || !strings.Contains(string(r.Stderr), "not done after 1s") {
		t.Errorf("a timeout: exit %d\n%s", r.Code, r.Stderr)
	}

	d = talk(t, ann.env, harness.Program(t, "hawser"), "exec", "gw-1", "gw-2", "--parallel", "1", "--", "echo begun; exec sleep 5711")
	d.wait("begun")
	d.say("\x03")
	if code := d.code(); code != 130 || !strings.Contains(d.text(), "done on 0 of 2 devices; 1 failed: gw-1 (interrupt") || !strings.Contains(d.text(), "1 not begun") {
		t.Errorf("Ctrl-C: exit %d\n%s", code, d.text())
	}
	harness.Eventually(t, 5*time.Second, "what Ctrl-C ended has ended on the device", func() bool {
		return exec.Command("pgrep", "-xf", "sleep 5711").Run() != nil
	})

	file := filepath.Join(t.TempDir(), "a:b")
	if err := os.WriteFile(file, []byte("text\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// The devices here share a disk.
	into := filepath.Join(t.TempDir(), "copied")
	if r := ann.hawser(t, "", "scp", "-l", "*", "--yes", file, ":"+into); r.Code != 0 || harness.ReadFile(t, into) != "text\n" {
		t.Errorf("scp to all: exit %d\n%s", r.Code, r.Stderr)
	}
	back := t.TempDir()
	if r := ann.hawser(t, "", "scp", "--devices", "gw-1,gw-2", ":"+into, back); r.Code != 0 ||
		harness.ReadFile(t, filepath.Join(back, "gw-1", "copied")) != "text\n" || harness.ReadFile(t, filepath.Join(back, "gw-2", "copied")) != "text\n" {
		t.Errorf("scp from two: exit %d\n%s", r.Code, r.Stderr)
	}
}

// Who watches sees what comes, passes and goes, on a screen and as lines, and ends it with a key.
func TestSessionsAreWatched(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	c := harness.Up(t, 1)
	apply(t, c, everything("capped", "max_sessions: 4"))
	ann := loggedIn(t, c, "ann", "capped")
	lines := harness.Start(t, []string{"HAWSER_HOME=" + c.Ready.Home}, harness.Program(t, "hawser"), "sessions", "watch", "-o", "json", "--interval", "500ms")
	screen := talk(t, []string{"HAWSER_HOME=" + c.Ready.Home, "TERM=xterm"}, "sh", "-c", "stty cols 120 rows 20; exec "+harness.Program(t, "hawser")+
		" sessions watch --interval 500ms")
	screen.wait("0 sessions of 0 users")
	own := ann.begin(t, "gw-1", "echo ready; head -c 3000000 /dev/zero; : '\x1b]0;x'; exec sleep 100")

	harness.Eventually(t, 10*time.Second, "the list says what passed, by which roles and caps, and from where to where", func() bool {
		var list []struct {
			User, Kind, From, Caps string
			At                     string `json:"device_address"`
			Roles                  []string
			Out                    uint64 `json:"bytes_out"`
			Activity               string `json:"last_activity"`
		}
		if err := json.Unmarshal([]byte(c.Must(t, "sessions", "ls", "-o", "json")), &list); err != nil {
			t.Fatal(err)
		}
		for _, s := range list {
			if s.Kind == "session" && s.User == "ann" && s.Out >= 3_000_000 && slices.Equal(s.Roles, []string{"capped"}) && s.Caps == "sessions 1/4" &&
				strings.HasPrefix(s.From, "127.0.0.1:") && strings.HasPrefix(s.At, "127.0.0.1:") && s.Activity != "" {
				return true
			}
		}
		return false
	})
	screen.wait(`ann +gw-1`)
	_, _ = screen.f.WriteString("k")
	screen.wait(`end ann's session on gw-1`)
	_, _ = screen.f.WriteString("y")
	own.cut(t, "a session killed on the screen", "")
	_, _ = screen.f.WriteString("q")
	if code := screen.code(); code != 0 || strings.Contains(screen.text(), "\x1b]0;x") {
		t.Errorf("exit %d\n%q", code, screen.text())
	}
	harness.Eventually(t, 5*time.Second, "the lines say that it ended", func() bool { return strings.Contains(lines.Output(), `"event":"end"`) })
	if out := lines.Output(); !strings.Contains(out, `"event":"start"`) || strings.Contains(out, "\x1b") {
		t.Errorf("%q", out)
	}
}
