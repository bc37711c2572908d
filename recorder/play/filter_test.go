package play

import (
	"bytes"
	"testing"

	"hawser/recorder/term"
)

func TestFilterKeepsLooksAndDropsWhatDrivesTheTerminal(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"plain ✓ text\r\n", "plain ✓ text\r\n"},
		{"\x1b[1;31mred\x1b[m", "\x1b[1;31mred\x1b[m"},
		{"a\x1b]0;title\x07b", "ab"},
		{"a\x1b]52;c;ZXZpbA==\x1b\\b", "ab"},
		{"a\u009d0;title ✓\u009cb", "ab"},
		{"a\x1bP$q\"p\x1b\\b", "ab"},
		{"a\x1b[6nb\x1b[cb\x1b[>0qb\x1b[21tb", "abbbb"},
		{"\x1b[?1049;2004;1000h", "\x1b[?1049h"},
		{"\x1b[5i", ""},
		{"\x1b[99999999b", ""},
		{"a\x9bb", "a\ufffdb"},
	} {
		for split := range len(c.in) {
			var out bytes.Buffer
			f := NewFilter(&out)
			_, _ = f.Write([]byte(c.in[:split]))
			_, _ = f.Write([]byte(c.in[split:]))
			if out.String() != c.want {
				t.Errorf("%q split at %d: got %q, want %q", c.in, split, out.String(), c.want)
				break
			}
		}
	}
}

// Whatever a recording leaves behind, the viewer's next command is shown as ever.
func TestATerminalIsItsOwnersAgain(t *testing.T) {
	for _, in := range []string{
		"\x1b[?7l\x1b[4h\x1b[20h\x1b[1;2r\x1b[?2026h", "\x1b[?6h\x1b[5;9r\x1b[7m", "\x1b[?69h\x1b[3;9s", "\x1b[?1049h\x1b[?25l\x1b[?5h", "\x1b(0\x1b)0\x1b=\x1b[?7l", "\x1b[5 q",
	} {
		v := term.New(40, 10)
		f := NewFilter(v)
		if _, err := f.Write([]byte(in)); err != nil {
			t.Fatal(err)
		}
		if err := f.Restore(); err != nil {
			t.Fatal(err)
		}
		fresh := term.New(40, 10)
		for _, s := range []*term.Screen{v, fresh} {
			s.Write([]byte("\x1b[2J\x1b[H\x1b7$ "))
		}
		if got, want := string(v.Redraw()), string(fresh.Redraw()); got != want {
			t.Errorf("after %q the terminal differs from a fresh one:\n got %q\nwant %q", in, got, want)
		}
	}
}

func FuzzFilter(f *testing.F) {
	f.Add([]byte("\x1b]0;x\x07\x1b[31m\u009b6n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var once, twice bytes.Buffer
		if _, err := NewFilter(&once).Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := NewFilter(&twice).Write(once.Bytes()); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(once.Bytes(), twice.Bytes()) {
			t.Errorf("filtered output is filtered again: %q, %q", once.Bytes(), twice.Bytes())
		}
	})
}
