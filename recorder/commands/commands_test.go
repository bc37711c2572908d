package commands

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"

	"hawser/recorder"
	"hawser/recorder/reader"
)

// typist types into a shell and tells a Finder what passes. Output is told before what is typed after it.
type typist struct {
	t     *testing.T
	f     *Finder
	pty   *os.File
	begun time.Time
	stdin string

	mu    sync.Mutex
	shown strings.Builder
	seen  int
	more  chan struct{}
	ended chan struct{}
}

func start(t *testing.T, stdin string, env []string, name string, args ...string) *typist {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "TERM=xterm", "HISTFILE=/dev/null"}, env...)
	p, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 60})
	if err != nil {
		t.Fatal(err)
	}
	y := &typist{t: t, f: New(recorder.Header{Width: 60, Height: 24, Term: "xterm"}), pty: p, begun: time.Now(), stdin: stdin, more: make(chan struct{}, 1), ended: make(chan struct{})}
	y.event(reader.Event{Type: recorder.RecordStart, Kind: "shell", Term: "xterm"})
	go func() {
		defer close(y.ended)
		b := make([]byte, 4096)
		for {
			n, err := p.Read(b)
			if n > 0 {
				y.event(reader.Event{Type: recorder.RecordStdout, Data: append([]byte(nil), b[:n]...)})
				y.mu.Lock()
				y.shown.Write(b[:n])
				y.mu.Unlock()
				select {
				case y.more <- struct{}{}:
				default:
				}
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // the terminal's reader ends with the last of its processes
		<-y.ended
		p.Close()
	})
	return y
}

func (y *typist) event(e reader.Event) {
	y.mu.Lock()
	defer y.mu.Unlock()
	e.Time = time.Since(y.begun)
	y.f.Event(e)
}

// sees waits for text that has not been seen yet.
func (y *typist) sees(text string) {
	y.t.Helper()
	expired := time.After(20 * time.Second)
	for {
		y.mu.Lock()
		shown := y.shown.String()
		i := strings.Index(shown[y.seen:], text)
		if i >= 0 {
			y.seen += i + len(text)
		}
		y.mu.Unlock()
		if i >= 0 {
			return
		}
		select {
		case <-y.more:
		case <-expired:
			y.t.Fatalf("%q is not shown: %q", text, shown)
		}
	}
}

// types gives keys, one at a time.
func (y *typist) types(keys string) {
	for _, k := range []byte(keys) {
		switch {
		case y.stdin == recorder.InputFull:
			y.event(reader.Event{Type: recorder.RecordInput, Data: []byte{k}})
		case k == '\r':
			y.event(reader.Event{Type: recorder.RecordWithheld, Withheld: &recorder.Withheld{Reason: y.stdin, Enter: true}})
		}
		if _, err := y.pty.Write([]byte{k}); err != nil {
			y.t.Fatal(err)
		}
	}
}

func (y *typist) texts(least uint8) []string {
	y.mu.Lock()
	defer y.mu.Unlock()
	var list []string
	for _, c := range y.f.Commands() {
		if c.Confidence >= least {
			list = append(list, c.Text)
		}
	}
	return list
}

func TestCommandsOfRealShells(t *testing.T) {
	shells := map[string][]string{"bash": {"--norc", "--noprofile", "-i"}, "busybox": {"ash", "-i"}, "dash": {"-i"}}
	prompts := map[string]string{"usual": "root@gw:~# ", "bare": "$ ", "odd": "gw ✓ "}
	for shell, args := range shells {
		for kind, prompt := range prompts {
			for _, stdin := range []string{recorder.InputFull, recorder.InputOff} {
				t.Run(fmt.Sprint(shell, " ", kind, " ", stdin), func(t *testing.T) {
					t.Parallel()
					y := start(t, stdin, []string{"PS1=" + prompt, "PS2=> ", "LC_ALL=C.UTF-8"}, shell, args...)
					for _, c := range []string{"echo one", "echo a rather long line that runs over the end of the sixty columns of this screen", "read -p 'name: ' x", "true"} {
						if shell == "dash" && strings.HasPrefix(c, "read") {
							c = "printf 'name: '; read x"
						}
						y.sees(prompt)
						y.types(c)
						y.sees(c[len(c)-1:])
						y.types("\r")
						if strings.Contains(c, "read") {
							y.sees("name: ")
							y.types("bob\r")
						}
					}
					y.sees(prompt)
					want := []string{"echo one", "echo a rather long line that runs over the end of the sixty columns of this screen", "read", "true"}
					got := y.texts(0)
					if len(got) != len(want) {
						t.Fatalf("found %q", got)
					}
					for i, w := range want {
						if got[i] != w && !(w == "read" && strings.Contains(got[i], "read ")) {
							t.Errorf("found %q, want %q", got[i], w)
						}
					}
				})
			}
		}
	}
}

// What the shell makes of the keys is what was run.
func TestCompletedAndCorrectedCommandsAreReadAsTheyWere(t *testing.T) {
	y := start(t, recorder.InputFull, []string{"PS1=root@gw:~# "}, "bash", "--norc", "--noprofile", "-i")
	const prompt = "root@gw:~# "
	y.sees(prompt)
	y.types("ecxx\x7f\x7fho hi\r")
	y.sees("hi\r\n")
	y.sees(prompt)
	y.types("\x1b[A\x1b[D\x1b[Dt")
	y.sees("t")
	y.types("\r")
	y.sees(prompt)
	y.types("ls /etc/hostnam\t")
	y.sees("hostname")
	y.types("\r")
	y.sees(prompt)
	y.types("never run")
	y.sees("never run")
	y.types("\x03")
	y.sees("^C") // with it the kernel throws away what waits to be read, the next prompt now and then
	if got, want := y.texts(60), []string{"echo hi", "echo thi", "ls /etc/hostname"}; !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}

func TestWhatIsTypedInAnEditorIsNoCommand(t *testing.T) {
	f := New(recorder.Header{Width: 80, Height: 24})
	for i, e := range []reader.Event{
		{Type: recorder.RecordStart},
		{Type: recorder.RecordStdout, Data: []byte("$ ")},
		{Type: recorder.RecordInput, Data: []byte("vi x\r")},
		{Type: recorder.RecordStdout, Data: []byte("vi x\r\n\x1b[?1049h\x1b[H$ ")},
		{Type: recorder.RecordInput, Data: []byte("i$ rm -rf /\r")},
		{Type: recorder.RecordStdout, Data: []byte("rm -rf /\r\n\x1b[?1049l\r\n$ ")},
		{Type: recorder.RecordInput, Data: []byte("date\r")},
		{Type: recorder.RecordStdout, Data: []byte("date\r\nnow\r\n$ ")},
	} {
		e.Time = time.Duration(i) * time.Second
		f.Event(e)
	}
	got := f.Commands()
	if len(got) != 2 || got[0].Text != "vi x" || got[1].Text != "date" || got[1].At != 6*time.Second {
		t.Errorf("found %+v", got)
	}
}

func TestTheRequestsCommandIsCertain(t *testing.T) {
	f := New(recorder.Header{})
	f.Event(reader.Event{Type: recorder.RecordStart, Kind: "exec", Command: "uname -a"})
	f.Event(reader.Event{Type: recorder.RecordStdout, Data: []byte("$ Linux\n")})
	f.Event(reader.Event{Type: recorder.RecordExit, Status: 3})
	got := f.Commands()
	if len(got) != 1 || got[0].Text != "uname -a" || got[0].Source != Exec || got[0].Confidence != 100 || got[0].Status == nil || *got[0].Status != 3 {
		t.Errorf("found %+v", got)
	}
}

func TestLinesForAShellWithoutATerminalAreCommands(t *testing.T) {
	f := New(recorder.Header{})
	f.Event(reader.Event{Type: recorder.RecordStart, Kind: "shell"})
	f.Event(reader.Event{Type: recorder.RecordInput, Data: []byte("id\nuname\n")})
	if got := f.Commands(); len(got) != 2 || got[1].Text != "uname" || got[1].Source != Input {
		t.Errorf("found %+v", got)
	}
}

func TestPrompt(t *testing.T) {
	for row, want := range map[string]string{
		"root@gw:~# iptables -F": "iptables -F", "$ ls": "ls", "/ # cat x": "cat x", "[bob@gw dir]$ ls -l": "ls -l", "~ % who": "who", ">>> print(1)": "print(1)",
		"total 12": "", "a line > of text": "", "$": "", "": "", "Password:": "", "bash-5.2$ a # b": "a # b",
	} {
		if got, _, _ := Prompt(row); got != want {
			t.Errorf("%q: %q, want %q", row, got, want)
		}
	}
}

func FuzzFinder(f *testing.F) {
	f.Add([]byte("$ ls\r\nx\r\n$ "), []byte("ls\r"), byte(3))
	f.Add([]byte("\x1b[?1049h$ \x1b[2;1Hx\r\n"), []byte("\x1b[A\r\x7f\x03"), byte(1))
	f.Fuzz(func(t *testing.T, out, in []byte, step byte) {
		d := New(recorder.Header{Width: uint32(step)*2 + 1, Height: 3})
		d.Event(reader.Event{Type: recorder.RecordStart})
		for n := int(step)%16 + 1; len(out)+len(in) > 0; {
			k := min(n, len(in))
			d.Event(reader.Event{Type: recorder.RecordInput, Data: in[:k]})
			in = in[k:]
			k = min(n, len(out))
			d.Event(reader.Event{Type: recorder.RecordStdout, Data: out[:k]})
			out = out[k:]
		}
		for _, c := range d.Commands() {
			if c.Text == "" || c.Confidence > 100 {
				t.Errorf("%+v", c)
			}
		}
	})
}

// told gives a Finder what passed in a session of ann's that bob, participant 2, has joined.
func told(events ...reader.Event) []Command {
	f := New(recorder.Header{User: "ann", Width: 60, Height: 24, Term: "xterm"})
	f.Event(reader.Event{Type: recorder.RecordStart, Kind: "shell", Term: "xterm"})
	f.Event(reader.Event{Type: recorder.RecordParticipant, Joined: &recorder.Participant{ID: 2, User: "bob", Mode: "peer", State: "joined"}})
	for i, e := range events {
		e.Time = time.Duration(i) * time.Second
		f.Event(e)
	}
	return f.Commands()
}

func shows(text string) reader.Event {
	return reader.Event{Type: recorder.RecordStdout, Data: []byte(text)}
}

func types(by uint32, text string) reader.Event {
	return reader.Event{Type: recorder.RecordInput, Participant: by, Data: []byte(text)}
}

func withheld(by uint32, reason string, enter bool) reader.Event {
	return reader.Event{Type: recorder.RecordWithheld, Withheld: &recorder.Withheld{Participant: by, Bytes: 1, Reason: reason, Enter: enter}}
}

func TestACommandIsOfWhoGaveIt(t *testing.T) {
	for name, tt := range map[string]struct {
		events []reader.Event
		want   string
	}{
		"input kept": {[]reader.Event{shows("$ "), types(2, "rm -rf /x"), shows("rm -rf /x"), types(2, "\r"), shows("\r\n$ "), types(0, "ls"), shows("ls"), types(0, "\r"), shows("\r\n$ ")},
			"bob 98 rm -rf /x,  98 ls"},
		"input off": {[]reader.Event{shows("$ "), shows("rm -rf /x"), withheld(2, "off", true), shows("\r\n$ "), shows("ls"), withheld(0, "off", true), shows("\r\n$ ")},
			"bob 85 rm -rf /x,  85 ls"},
		"two in a line": {[]reader.Event{shows("$ "), types(0, "rm -rf "), types(2, "/x"), shows("rm -rf /x"), types(2, "\r"), shows("\r\n$ ")},
			"bob 85 rm -rf /x"},
		"a guest's password is not the owner's line": {[]reader.Event{shows("$ "), types(0, "ls"), shows("ls"), withheld(2, "redacted", false), types(0, "\r"), shows("\r\n$ ")},
			" 98 ls"},
		"what a pause threw away is on no line": {[]reader.Event{shows("$ "), withheld(2, "paused", false), types(0, "ls"), shows("ls"), types(0, "\r"), shows("\r\n$ ")},
			" 98 ls"},
	} {
		var got []string
		for _, c := range told(tt.events...) {
			got = append(got, fmt.Sprintf("%s %d %s", c.User, c.Confidence, c.Text))
		}
		if s := strings.Join(got, ", "); s != tt.want {
			t.Errorf("%s: %q, want %q", name, s, tt.want)
		}
	}
}

// What was typed is not known: an Enter just after a program has printed is that of the line which is being typed, and one that is told after its echo is
// that of the line before.
func TestAnEnterBelongsToTheLineThatWasTyped(t *testing.T) {
	enter := func(ms int) reader.Event {
		return reader.Event{Time: time.Duration(ms) * time.Millisecond, Type: recorder.RecordWithheld, Withheld: &recorder.Withheld{Reason: recorder.InputOff, Enter: true}}
	}
	out := func(ms int, text string) reader.Event {
		return reader.Event{Time: time.Duration(ms) * time.Millisecond, Type: recorder.RecordStdout, Data: []byte(text)}
	}
	for name, events := range map[string][]reader.Event{
		"typed at once": {
			out(0, "$ "), out(1, "one"), enter(2), out(3, "\r\n"), out(4, "printed\r\n$ "), out(5, "two"), enter(6), out(7, "\r\n$ "), out(8, "three"), enter(9), out(10, "\r\n$ "),
		},
		"told after its echo": {
			out(0, "$ "), out(1, "one\r\n"), enter(2), out(4, "printed\r\n$ "), out(5, "two\r\n$ "), enter(6), out(8, "three\r\n$ "), enter(9),
		},
	} {
		f := New(recorder.Header{Width: 60, Height: 24, Term: "xterm"})
		f.Event(reader.Event{Type: recorder.RecordStart, Kind: "shell", Term: "xterm"})
		var got []string
		for _, e := range events {
			f.Event(e)
		}
		for _, c := range f.Commands() {
			got = append(got, c.Text)
		}
		if want := []string{"one", "two", "three"}; !slices.Equal(got, want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}
