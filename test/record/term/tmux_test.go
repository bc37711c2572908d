package term_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"maps"

	"hawser/recorder/term"
	"hawser/test/harness"
)

// tmux is a server of its own, with one session for each output that is shown.
type tmux struct {
	dir string
}

func startTmux(t *testing.T) *tmux {
	t.Helper()
	harness.Need(t, "tmux")
	m := &tmux{dir: t.TempDir()}
	conf := "set -g status off\nset -g history-limit 0\nset -s exit-empty off\nset -g default-terminal tmux-256color\n"
	if err := os.WriteFile(filepath.Join(m.dir, "conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = exec.Command("tmux", "-S", filepath.Join(m.dir, "s"), "kill-server").Run() })
	m.run(t, "start-server")
	return m
}

func (m *tmux) run(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "tmux", append([]string{"-u", "-S", filepath.Join(m.dir, "s"), "-f", filepath.Join(m.dir, "conf")}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("tmux %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// captured is what tmux shows: the rows' text, the rows with their renditions, and the cursor.
type captured struct {
	text, styled []string
	state        string
}

// show has tmux show an output. A question that tmux answers when it has come to it says that all was read.
func (m *tmux) show(t *testing.T, name string, cols, rows int, out []byte) captured {
	t.Helper()
	file := filepath.Join(m.dir, name)
	if err := os.WriteFile(file, out, 0o600); err != nil {
		t.Fatal(err)
	}
	// The answers to the questions in the output itself come first; of ours it is known how it ends.
	script := fmt.Sprintf(`stty raw -echo; cat %s; printf '\033[5n'; s=; while [ "${s%%0n}" = "$s" ]; do s=$s$(dd bs=1 count=1 2>/dev/null); done; tmux -S %s wait-for -S %s; exec sleep 1000`,
		file, filepath.Join(m.dir, "s"), name)
	m.run(t, "new-session", "-d", "-s", name, "-x", fmt.Sprint(cols), "-y", fmt.Sprint(rows), script)
	m.run(t, "wait-for", name)
	c := captured{state: strings.TrimSpace(m.run(t, "display-message", "-p", "-t", name, "#{cursor_x},#{cursor_y} alternate #{alternate_on} visible #{cursor_flag}"))}
	c.text = strings.Split(strings.TrimSuffix(m.run(t, "capture-pane", "-p", "-t", name), "\n"), "\n")
	c.styled = strings.Split(strings.TrimSuffix(m.run(t, "capture-pane", "-p", "-e", "-t", name), "\n"), "\n")
	m.run(t, "kill-session", "-t", name)
	return c
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// compareTmux tells where the model and tmux differ: text, cursor, and the renditions of what is no blank.
func compareTmux(t *testing.T, m *tmux, name string, cols, rows int, out []byte) {
	t.Helper()
	s := term.New(cols, rows)
	s.Write(out)
	got := m.show(t, strings.NewReplacer(" ", "-", ".", "-").Replace(name), cols, rows, out)
	x, y := s.Cursor()
	if want := fmt.Sprintf("%d,%d alternate %d visible %d", x, y, flag(s.AltScreen()), flag(s.CursorVisible())); strings.Replace(got.state, fmt.Sprintf("%d,", cols), fmt.Sprintf("%d,", cols-1), 1) != want {
		t.Errorf("%s: %s, in tmux %s", name, want, got.state)
	}
	text := s.Text()
	for y := range text {
		if text[y] != strings.TrimRight(got.text[y], " ") {
			t.Errorf("%s: row %d:\n%q, in tmux\n%q", name, y, text[y], got.text[y])
			return
		}
	}
	// A row begins with the rendition the one before ended with.
	other := term.New(cols, rows)
	other.Write([]byte("\x1b[?7l" + strings.Join(got.styled, "\r\n")))
	for y := range rows {
		theirs := slices.Clone(other.Row(y))
		for x, c := range s.Row(y) {
			if c.Text == "" || c.Text == " " {
				continue
			}
			// Kept, but not told.
			c.Style.Line, theirs[x].Style.Line = 0, 0
			if c != theirs[x] {
				t.Errorf("%s: row %d column %d: %+v, in tmux %+v\n%q", name, y, x, c, theirs[x], got.styled[y])
				return
			}
		}
	}
}

func TestRecordingsOfProgramsLookAsInTmux(t *testing.T) {
	t.Parallel()
	m := startTmux(t)
	recordings := corpus(t)
	for _, name := range slices.Sorted(maps.Keys(recordings)) {
		if name == "vttest-charset" {
			continue // tmux does not know the British set
		}
		out := recordings[name]
		for part := range 2 {
			compareTmux(t, m, fmt.Sprintf("%s %d", name, part), 80, 24, out[:(part+1)*len(out)/2])
		}
	}
}

// More of these find where tmux 3.3a stands alone, and xterm.js is with us: it erases nothing by an ECH that begins within a wide character, and a wrap that
// pends at the right margin outlives LF and VPA.
func TestSequencesLookAsInTmux(t *testing.T) {
	t.Parallel()
	m := startTmux(t)
	for seed := range 30 {
		r := rand.New(rand.NewPCG(uint64(seed), 3))
		var out []byte
		for _, p := range sequences(r, 40, 3) {
			out = append(out, p...)
		}
		compareTmux(t, m, fmt.Sprintf("sequences %d", seed), 20, 10, out)
	}
}
