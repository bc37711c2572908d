package record_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"hawser/test/harness"
)

// drawn is what a session on the device writes: colours, a character that is wide, and sequences that would drive the terminal of who plays it.
const drawn = `stty -echo; printf '\033[31mred\033[m caf\303\251 \346\227\245\346\234\254\r\n'; printf '\033]0;ev%s title\007\033]52;c;ZXZpbA==\007\033[6n\033[?1000h' il; ` +
	`echo marker-xyzzy-$((40+2)); for i in 1 2 3; do sleep 0.4; echo step $i; done; echo '</script><b>end'; exit 3`

// A recorded session is found by what its terminal showed, played in a real terminal that stays the viewer's, and exported.
func TestRecordingsAreFoundPlayedAndExported(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	harness.Need(t, "tmux", "asciinema")
	c := harness.Up(t, 1)
	hawser := []string{"env", "HAWSER_HOME=" + c.Ready.Home, harness.Program(t, "hawser")}
	// By the account that the harness keeps for it: this one's shell writes nothing of its own.
	ssh := append([]string{"ssh", "-F", c.Ready.SSHConfig, "-o", "LogLevel=ERROR", "-tt"}, ways(harness.Account(t))["hub"]...)
	s := harness.NewScreen(t, "xterm", "90", "20", append(ssh, "sh")...)
	s.Types(t, "-l", "PS1='$ '; "+drawn)
	s.Types(t, "Enter")
	s.Shows(t, "code 3")
	plain := c.SSH(t, nil, append(append([]string{"-o", "LogLevel=ERROR"}, ways(harness.Account(t))["hub"]...), "printf 'a\\000b\\377\\033[31mc\\n'; echo err >&2")...)

	var id, other string
	harness.Eventually(t, 20*time.Second, "the sessions' recordings are complete", func() bool {
		var list []struct{ ID, Command, State string }
		if err := json.Unmarshal([]byte(c.Must(t, "recordings", "ls", "--since", "1h", "--user", "admin", "--device", "gw-1", "-o", "json")), &list); err != nil {
			t.Fatal(err)
		}
		id, other = "", ""
		for _, r := range list {
			switch {
			case r.State == "complete" && r.Command == "sh":
				id = r.ID
			case r.State == "complete":
				other = r.ID
			}
		}
		return id != "" && other != ""
	})
	if out := c.Must(t, "recordings", "ls", "--until", "1h"); strings.Contains(out, id[:12]) {
		t.Errorf("begun more than an hour ago: %s", out)
	}

	// Search: whatever the capitals, at its time, by filters.
	type match struct {
		Recording, Kind, Line string
		Offset                float64
	}
	var found []match
	harness.Eventually(t, 20*time.Second, "the recording is searchable", func() bool {
		found = nil
		if err := json.Unmarshal([]byte(c.Must(t, "recordings", "search", "MARKER-xyzzy-42", "--since", "30d", "--user", "admin", "-o", "json")), &found); err != nil {
			t.Fatal(err)
		}
		return len(found) > 0
	})
	if f := found[0]; f.Recording != id || f.Kind != "screen" || f.Line != "marker-xyzzy-42" || f.Offset <= 0 {
		t.Errorf("found %+v", found)
	}
	for _, none := range [][]string{{"MARKER-xyzzy-42", "--exact"}, {"marker-xyzzy-42", "-l", "site=nowhere"}, {"marker-xyzzy-42", "--until", "1h"}, {"evil title"}} {
		if out := c.Must(t, append([]string{"recordings", "search", "-o", "json"}, none...)...); strings.TrimSpace(out) != "[]" {
			t.Errorf("%q finds %s", none, out)
		}
	}

	// Play, in a terminal.
	p := harness.NewScreen(t, "xterm", "100", "24", append(hawser, "play", id[:10])...)
	title := p.Tmux(t, "display-message", "-p", "#{pane_title}")
	p.Shows(t, "end")
	p.Shows(t, "step 3")
	p.Types(t, "g")
	p.Types(t, "/")
	p.Types(t, "-l", "xyzzy-42")
	p.Types(t, "Enter")
	p.Shows(t, "match 1 of")
	p.Shows(t, "café 日本")
	p.Types(t, "G")
	p.Shows(t, "</script><b>end")
	p.Types(t, "?")
	p.Shows(t, "5 s back, forward")
	p.Types(t, "x")
	p.Types(t, "q")
	p.Shows(t, "code 0")
	if text := p.Text(t); strings.Contains(text, "step 3") {
		t.Errorf("what was played is left on the screen:\n%s", text)
	}
	if state := p.Tmux(t, "display-message", "-p", "#{pane_title}#{mouse_any_flag}#{alternate_on}#{cursor_flag}"); state != strings.TrimSuffix(title, "\n")+"001\n" {
		t.Errorf("title, mouse, screen and cursor are %q; the title was %q", state, title)
	}
	// Ended by a signal it gives the terminal back too.
	k := harness.NewScreen(t, "xterm", "100", "24", append(hawser, "play", "--paused", id)...)
	k.Shows(t, "paused")
	shell := strings.TrimSpace(k.Tmux(t, "display-message", "-p", "#{pane_pid}"))
	children, err := os.ReadFile("/proc/" + shell + "/task/" + shell + "/children")
	player, bad := strconv.Atoi(strings.TrimSpace(string(children)))
	if err != nil || bad != nil {
		t.Fatal(err, bad)
	}
	if err := syscall.Kill(player, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	k.Shows(t, "code 1")
	k.Types(t, "-l", "typed again")
	k.Shows(t, "typed again")

	// At the hub, with ssh alone.
	h := harness.NewScreen(t, "xterm", "100", "24", "ssh", "-F", c.Ready.SSHConfig, "-o", "LogLevel=ERROR", "-tt", "hub", "play "+id[:10])
	h.Shows(t, "admin on gw-1")
	h.Types(t, "G")
	h.Types(t, "C")
	h.Shows(t, "command: ")
	h.Types(t, "G")
	h.Shows(t, "</script><b>end")
	h.Types(t, "q")
	h.Shows(t, "code 0")
	if r := c.SSH(t, nil, "-o", "LogLevel=ERROR", "hub", "play", id[:10]); r.Code != 0 || !strings.Contains(string(r.Stdout), "red café 日本\n") || bytes.ContainsRune(r.Stdout, '\x1b') {
		t.Errorf("at the hub without a terminal: %d, %q, %s", r.Code, r.Stdout, r.Stderr)
	}
	if r := c.SSH(t, nil, "-o", "LogLevel=ERROR", "hub", "play", "777777"); r.Code != 255 || !strings.Contains(string(r.Stderr), "no recording") {
		t.Errorf("at the hub, one that there is not: %d, %s", r.Code, r.Stderr)
	}

	// Text and bytes.
	if out := c.Must(t, "play", "--text", id); !strings.Contains(out, "red café 日本\n") || strings.Contains(out, "\x1b") || strings.Contains(out, "evil title") {
		t.Errorf("as text: %q", out)
	}
	raw := c.Hawser(t, nil, "play", "--raw", other)
	if want := append(bytes.Clone(plain.Stdout), plain.Stderr...); len(raw.Stdout) != len(want) || !bytes.Contains(raw.Stdout, plain.Stdout) {
		t.Errorf("raw: %q, and ssh had %q and %q", raw.Stdout, plain.Stdout, plain.Stderr)
	}

	// Exports: asciinema plays one; a page is one file; the stored chunks play without auth.
	file := func(name string) string { return filepath.Join(c.Dir, name) }
	c.Must(t, "recordings", "export", id, "--cast-v2", "--file", file("v2.cast"))
	c.Must(t, "recordings", "export", id, "--cast", "--file", file("v3.cast"))
	c.Must(t, "recordings", "export", id, "--html", "--file", file("page.html"))
	c.Must(t, "recordings", "export", id, "--chunks", "--file", file("chunks"))
	a := harness.NewScreen(t, "xterm", "100", "30", "asciinema", "play", "-s", "10", file("v2.cast"))
	a.Shows(t, "code 0")
	for _, want := range []string{"red café 日本", "marker-xyzzy-42", "</script><b>end"} {
		if !strings.Contains(a.Text(t), want) {
			t.Errorf("asciinema shows no %q:\n%s", want, a.Text(t))
		}
	}
	if b, err := os.ReadFile(file("v3.cast")); err != nil || !bytes.HasPrefix(b, []byte(`{"version":3,"term":{"cols":90,`)) || bytes.Contains(b, []byte("evil")) {
		t.Errorf("version 3: %.200q, %v", b, err)
	}
	if b, err := os.ReadFile(file("page.html")); err != nil || bytes.Count(b, []byte("</script")) != 2 || !bytes.Contains(b, []byte("marker-xyzzy-42")) {
		t.Errorf("the page: %d bytes, %v", len(b), err)
	}
	if r := c.Hawser(t, nil, "recordings", "export", id, "--text", "--file", file("page.html")); r.Code == 0 {
		t.Error("a file that is there is written over")
	}
	if out := harness.RunEnv(t, []string{"HAWSER_HOME=" + file("none")}, nil, harness.Program(t, "hawser"), "play", "--text", file("chunks")); out.Code != 0 || !strings.Contains(string(out.Stdout), "marker-xyzzy-42") {
		t.Errorf("a file is not played without auth: %d %s", out.Code, out.Stderr)
	}
	if out := c.Must(t, "audit", "search", "--type", "recording.search", "-o", "json"); !strings.Contains(out, "MARKER-xyzzy-42") {
		t.Errorf("the audit log has no search: %s", out)
	}
}
