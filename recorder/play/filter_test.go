package play

import (
	"bytes"
	"testing"
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
