package screen

import (
	"strings"
	"testing"
)

func TestALineOfOursIsShownOnlyWhereItSpoilsNothing(t *testing.T) {
	for _, c := range []struct {
		out  string
		free bool
	}{
		{"", false}, // nothing is known
		{"\r\n", true},
		{"login: root\r\n", true},
		{"root@gw:~# ", false},
		{"one\r\ntwo\nthree\r", true},
		{"one\r\n\n", true},
		{"50 %\r", true},
		{"50 %\r60 %", false},
		{"a\r\nb\b", false},
		{"\r\t", false},
		{"\r\n\x1b[31m\x1b[0m", true},
		{"\r\n\x1b[5C", false},
		{"\r\n\x1b[H", false},
		{"\r\n\x1b[", false},
		{"\r\n\x1b", false},
		{"\r\n\x1b(", false},
		{"\r\n\x1b(B", true},
		{"\x1b[?1049h\r\n", false},
		{"\x1b[?47h\r\n", false},
		{"\x1b[?1047h\r\n", false},
		{"\x1b[?1;1049h\r\n", false},
		{"\x1b[?1049;25h\r\n", false},
		{"\x1b[?1049h\r\n\x1b[?1049l", false},
		{"\x1b[?1049h\r\n\x1b[?1049l\r\n", true},
		{"\x1b[?1049h\x1b[?47l\r\n", true},
		{"\x1b[?1049s\x1b[?1049r\r\n", false}, // put back to what we do not know
		{"\x1b[?104\x189h\r\n", true},         // CAN: no sequence
		{"\x1b[?10\r49h\n", false},            // a control within one is done, and the sequence goes on
		{"\x1b[?00001049h\r\n", false},
		{"\x1b[?1049\x1b[0mh\r\n", true}, // another began
		{"\x1b]0;title\r\n", false},
		{"\x1b]0;title\x07\r\n", true},
		{"\x1b]0;title\x1b\\\r\n", true},
		{"\x1b]0;\x1b[?1049h\r\n", false}, // ESC ended the string
		{"\x1bPq\r\n", false},
		{"\x1bPq\x1b\\\r\n", true},
		{"\x1bP\x07\x1b\\\r\n", false}, // terminals disagree
		{"\x1b_x\r\n", false},
		{"\x9b?1049h\r\n", false}, // 8-bit controls
		{"\x9b?1049l\r\n", false},
		{"gr\xc3\xbcn\r\n", true},
		{"\xe2\x9b\xb5 \xf0\x9f\x9a\xa2\r\n", true}, // UTF-8 with 0x9b in it
		{"\r\n\xe2\x9b", false},                     // half a character
		{"\xe2\r\n", false},                         // no character at all
		{"\xff\r\n", false},
		{"\x1b[?1049h\x1bc\r\n", true}, // reset
		{"\x9b\x1bc\r\n", false},
		{"\x1b[" + strings.Repeat("9", 1<<20) + ";49h\r\n", true},
		{"\x1b[?" + strings.Repeat("1;", 1<<16) + "1049h\r\n", false},
		{"\r\n\x1b[1 q", false}, // with an intermediate
	} {
		var whole, bytewise Screen
		whole.Write([]byte(c.out))
		for i := range len(c.out) {
			bytewise.Write([]byte(c.out[i : i+1]))
		}
		if whole.Free() != c.free || bytewise != whole {
			out := c.out
			if len(out) > 60 {
				out = out[:60]
			}
			t.Errorf("%q: free %v, want %v", out, whole.Free(), c.free)
		}
	}
}

func TestAPromptIsToldFromAFullScreenProgram(t *testing.T) {
	for _, c := range []struct {
		out    string
		prompt bool
	}{
		{"root@gw:~# ", true},
		{"\r\n\x1b[?2004hroot@gw:~# ls\x1b[K\b\x1b[C", true},
		{"\x1b[H\x1b[2J\x1b[mtop - 12:00\x1b[K\r\n  PID\x1b[K\n\x1b[6;1H", false}, // top, which uses no alternate screen
		{"\x1b[?1049h\x1b[Hvim", false},
		{"\x1b[?1049h\x1b[10;1Hvim\x1b[?1049lroot@gw:~# ", true},
		{"\x1b[10;1Hfile\r\nroot@gw:~# ", true},
		{"root@gw:~# \x1b[", false},
		{"\x1b7\x1b[1;1Hclock\x1b8", false},
		{"\x9b", false},
	} {
		var s Screen
		s.Write([]byte(c.out))
		if s.Prompt() != c.prompt {
			t.Errorf("%q: %v, want %v", c.out, s.Prompt(), c.prompt)
		}
	}
}

func FuzzScreen(f *testing.F) {
	f.Add([]byte("\x1b[?1049h\x1bc\r\n\x9b"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s Screen
		s.Write(b)
		s.Write([]byte("\x1b[?1049h\r\n")) // whatever came before, this is the alternate screen, or not a sequence to any terminal
		if s.Free() && s.state == inText && s.alt {
			t.Error("free on the alternate screen")
		}
		if s.Free() && !s.Prompt() && !s.moved {
			t.Error("free, and no place for a line")
		}
		s.Write([]byte("x"))
		if s.Free() {
			t.Error("free behind a character")
		}
	})
}

func BenchmarkWrite(b *testing.B) {
	p := []byte(strings.Repeat("drwxr-xr-x 2 root root 4096 Nov 21 15:00 \x1b[34mdirectory\x1b[0m\r\n", 500))
	var s Screen
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		s.Write(p)
	}
}
