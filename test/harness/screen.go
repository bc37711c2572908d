package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Screen is a terminal of tmux's with a program in it, as a person has it before him.
type Screen struct{ socket string }

// NewScreen runs a command on one of that TERM and size. The shell behind it stays until the end of the test, and says the command's exit status as "code N".
func NewScreen(t testing.TB, term, columns, rows string, command ...string) *Screen {
	t.Helper()
	Need(t, "tmux")
	dir, err := os.MkdirTemp("", "tm") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	s := &Screen{filepath.Join(dir, "s")}
	t.Cleanup(func() {
		_ = exec.Command("tmux", "-S", s.socket, "kill-server").Run()
		os.RemoveAll(dir)
	})
	quoted := make([]string, len(command))
	for i, c := range command {
		quoted[i] = "'" + c + "'"
	}
	// The shell stays, so that what is left of the terminal can be looked at.
	line := "TERM=" + term + " " + strings.Join(quoted, " ") + "; echo code $?; exec cat"
	s.Tmux(t, "-f", "/dev/null", "new-session", "-d", "-x", columns, "-y", rows, line)
	return s
}

// Tmux runs a command of tmux on it.
func (s *Screen) Tmux(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("tmux", append([]string{"-S", s.socket}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("tmux %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// Shows waits until the screen has a text.
func (s *Screen) Shows(t testing.TB, want string) {
	t.Helper()
	text := ""
	defer func() {
		if t.Failed() {
			t.Logf("the screen:\n%s", text)
		}
	}()
	Eventually(t, 20*time.Second, "the screen shows "+want, func() bool {
		text = s.Tmux(t, "capture-pane", "-p")
		return strings.Contains(text, want)
	})
}

// Types sends keys, by tmux's names.
func (s *Screen) Types(t testing.TB, keys ...string) {
	t.Helper()
	s.Tmux(t, append([]string{"send-keys"}, keys...)...)
}

// Text is what the screen shows.
func (s *Screen) Text(t testing.TB) string {
	t.Helper()
	return s.Tmux(t, "capture-pane", "-p")
}
