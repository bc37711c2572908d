package term

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// said writes to a screen and returns the lines that it handed out, with their marks.
func said(cols, rows int, out ...string) []string {
	s := New(cols, rows)
	var lines []string
	s.Lines(func(line string, first, last int64) {
		lines = append(lines, fmt.Sprintf("%d-%d %s", first, last, line))
	})
	for i, o := range out {
		s.At(int64(i))
		s.Write([]byte(o))
	}
	s.At(int64(len(out)))
	s.Flush()
	return lines
}

func TestEachLineThatWasOnTheScreenIsHandedOutOnce(t *testing.T) {
	for _, tc := range []struct {
		name string
		out  []string
		want []string
	}{
		{"scrolled off and left", []string{"1\r\n2\r\n3\r\n", "4\r\n5"}, []string{"0-0 1", "0-0 2", "0-0 3", "1-1 4", "1-1 5"}},
		{"wrapped", []string{"0123456789abcdefghijxyz\r\n"}, []string{"0-0 0123456789abcdefghijxyz"}},
		{"typed for a while", []string{"$ ", "l", "s\r\n"}, []string{"0-2 $ ls"}},
		{"progress", []string{"10%", "\r50%", "\r100%\r\nok"}, []string{"0-2 100%", "2-2 ok"}},
		{"cleared", []string{"one\r\ntwo", "\x1b[H\x1b[2J", "three"}, []string{"0-0 one", "0-0 two", "2-2 three"}},
		{"painted over", []string{"\x1b[HTasks 1\r\nload", "\x1b[HTasks 2\r\nload", "\x1b[HTasks 2\r\nload"}, []string{"0-0 Tasks 1", "1-2 Tasks 2", "0-2 load"}},
		{"alternate screen", []string{"$ vi\r\n", "\x1b[?1049htext", "\x1b[?1049l$ "}, []string{"1-1 text", "0-0 $ vi", "2-2 $"}},
		{"both screens", []string{"$ vi\r\n", "\x1b[?1049htext"}, []string{"0-0 $ vi", "1-1 text"}},
		{"page for page", []string{"a\r\nb\r\nc\x1b[2;1H\x1b[K", "B\x1b[3;1H\x1b[K", "C"}, []string{"0-0 b", "0-0 c", "0-0 a", "1-1 B", "2-2 C"}},
		{"reset", []string{"one", "\x1bc"}, []string{"0-0 one"}},
		{"blank", []string{"  \r\n \t \r\n"}, nil},
		{"wrapped at the region's edge", []string{"top\x1b[2;3r\x1b[2;1H0123456789ab\r\nx"}, []string{"0-0 0123456789ab", "0-0 top", "0-0 x"}},
		{"region", []string{"top\x1b[2;3r\x1b[2;1Ha\r\nb\r\nc\r\n"}, []string{"0-0 a", "0-0 b", "0-0 top", "0-0 c"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := said(10, 4, tc.out...); !slices.Equal(got, tc.want) {
				t.Errorf("got  %q\nwant %q", got, tc.want)
			}
		})
	}
}

func TestLinesThatAWindowCutsAreHandedOut(t *testing.T) {
	s := New(10, 4)
	var lines []string
	s.Lines(func(line string, _, _ int64) { lines = append(lines, line) })
	s.Write([]byte("1\r\n2\r\n3\r\n4"))
	s.Resize(10, 2)
	if want := []string{"1", "2"}; !slices.Equal(lines, want) {
		t.Errorf("got %q, want %q", lines, want)
	}
	if got := text(s); got != "3\n4" {
		t.Errorf("the screen is %q", got)
	}
}

func TestLinesAreBoundedByWhatWasWritten(t *testing.T) {
	s := New(1000, 100)
	said := 0
	s.Lines(func(line string, _, _ int64) { said += len(line) })
	full := []byte(strings.Repeat("日", 500))
	written := 0
	for y := range 100 {
		out := append(fmt.Appendf(nil, "\x1b[%dH", y+1), full...)
		s.Write(out)
		written += len(out)
	}
	// Each visit changes one character of a long row.
	for i := range 3000 {
		out := fmt.Appendf(nil, "\x1b[%dH%c", i%100+1, 'a'+i/100%2)
		s.Write(out)
		written += len(out)
	}
	if said > lineCredit+lineFactor*written {
		t.Errorf("%d bytes handed out for %d written", said, written)
	}
}

func TestResizeCutsAndAddsRowsAsXtermDoes(t *testing.T) {
	for _, tc := range []struct {
		name, out  string
		cols, rows int
		want       string
		x, y       int
	}{
		{"lower, cursor at the end", "1\r\n2\r\n3\r\n4", 10, 2, "3\n4", 1, 1},
		{"lower, cursor at the top", "1\r\n2\r\n3\r\n4\x1b[H", 10, 2, "1\n2", 0, 0},
		{"higher", "1\r\n2", 10, 8, "1\n2", 1, 1},
		{"narrower", "0123456789\r\nab", 5, 4, "01234\nab", 2, 1},
		{"narrower through a wide character", "a日本", 4, 4, "a日", 3, 0},
		{"wider after a colour", "\x1b[41m\x1b[2Jx", 12, 4, "x", 1, 0},
		{"behind the last column", "0123456789", 12, 4, "0123456789", 10, 0},
		{"main under the alternate", "1\r\n2\r\n3\r\n4\x1b[?1049hx\x1b[?1049l", 10, 2, "3\n4", 1, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := write(t, 10, 4, tc.out)
			s.Resize(tc.cols, tc.rows)
			x, y := s.Cursor()
			if got := text(s); got != tc.want || x != tc.x || y != tc.y {
				t.Errorf("%q, cursor %d,%d; want %q, %d,%d", got, x, y, tc.want, tc.x, tc.y)
			}
			check(t, s)
		})
	}
	s := write(t, 10, 4, "1\r\n2\r\n3\r\n4\x1b[?1049h")
	s.Resize(10, 2)
	s.Write([]byte("\x1b[?1049l"))
	if got := text(s); got != "3\n4" {
		t.Errorf("the main screen after a change under the alternate: %q", got)
	}
	if c := write(t, 10, 4, "\x1b[41m\x1b[2J"); c != nil {
		c.Resize(12, 4)
		if r := c.Row(0); r[9].Style.BG.Default() || !r[10].Style.BG.Default() {
			t.Error("new columns have the old ones' colour")
		}
	}
}

func TestSizesAreBounded(t *testing.T) {
	for _, tc := range [][4]int{{0, 0, 2, 1}, {-5, 3, 2, 3}, {1 << 30, 1 << 30, 1000, 131}, {10, 5000, 10, 1000}, {640, 180, 640, 180}} {
		if c, r := New(tc[0], tc[1]).Size(); c != tc[2] || r != tc[3] {
			t.Errorf("%d by %d became %d by %d", tc[0], tc[1], c, r)
		}
		s := New(80, 24)
		s.Resize(tc[0], tc[1])
		if c, r := s.Size(); c != tc[2] || r != tc[3] {
			t.Errorf("resized to %d by %d it is %d by %d", tc[0], tc[1], c, r)
		}
	}
}

// grudges are sequences that cost a terminal the most per byte.
var grudges = []string{
	"\x1b[2J", "\x1b[41m\x1b[J\x1b[1J", "\x1b#8", "x\x1b[65535b", "\x1b[65535L", "\x1b[65535M", "\x1b[65535S", "\x1b[65535@", "\x1b[65535P", "\x1b[65535X",
	"\x1b[A\x1bM", "\x1b[H\x1b[L\x1bM", "\x1bc", "\x1b[?1049h\x1b[?1049l", "\x1b[?2J", "\x1b[65535I\x1b[65535Z", "e\u0301\u0302\u0303",
	"\x1b[1;2;3;4;5;6;7;8;9;1;2;3;4;5;6;7;8;9;1;2;3;4;5;6;7;8;9;1;2;3;4m", "\x1b[H日\x1b[2Gx", "\n", "\x1b[4h日", "\x1b]0;", "\x1bP", "\x1b#8\x1b[?2J",
}

func TestNoSequenceCostsMuchMoreThanItsBytes(t *testing.T) {
	// The worst there is, on the largest screen, in the processor's time, which other programs do not take.
	const limit = 2 * time.Second
	for _, g := range grudges {
		s := New(MaxCols, MaxRows)
		s.Lines(func(string, int64, int64) {})
		// Rows that hold something.
		for range MaxRows {
			s.Write([]byte(strings.Repeat("x", 100) + "\r\n"))
		}
		out := bytes.Repeat([]byte(g), 4<<10/len(g))
		start := processor(t)
		s.Write(out)
		if d := processor(t) - start; d > limit {
			t.Errorf("%q: 4 KiB took %v", g, d)
		}
	}
}

func processor(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano())
}

func TestWidths(t *testing.T) {
	for r, want := range map[rune]int{
		'a': 1, 'é': 1, '─': 1, '日': 2, '한': 2, 'ｶ': 1, 'Ａ': 2, '👍': 2, '\u0301': 0, '\u200d': 0, '\ufe0f': 0, '\u00ad': 1, 'ก': 1, '\u0e31': 0,
		'\u1160': 0, '\u202e': 0, '⌚': 2, '☺': 1, '\ufffd': 1, 0x20000: 2, 0x10ffff: 1, 'α': 1, '\u3000': 2,
	} {
		if got := width(r); got != want {
			t.Errorf("%U takes %d columns, not %d", r, got, want)
		}
	}
	for _, table := range [][]runeRange{wideRanges[:], zeroRanges[:]} {
		for i, r := range table {
			if r.lo > r.hi || i > 0 && r.lo <= table[i-1].hi {
				t.Errorf("range %d, %x to %x, is out of order", i, r.lo, r.hi)
			}
		}
	}
}

func TestNoCellHoldsAControlOrBidirectionalMark(t *testing.T) {
	s := write(t, 20, 2, "a\u202eb\u2066c\u200f\u061cd\ufeff\x7f\u0085e\u009cf\u2028")
	for y := range 2 {
		for _, c := range s.Row(y) {
			for _, r := range c.Text {
				if r < 0x20 || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0x200e || r == 0x200f || r == 0x61c {
					t.Errorf("a cell holds %U", r)
				}
			}
		}
	}
}

func TestACellHasTheMarksOfItsCharacter(t *testing.T) {
	s := write(t, 20, 1, "e\u0301\u0323\u0308 日\u0301x")
	var got []string
	for _, c := range s.Row(0)[:5] {
		got = append(got, fmt.Sprint(c.Text, c.Width))
	}
	// The third has no room.
	if want := []string{"e\u0301\u03231", " 1", "日\u03012", "0", "x1"}; !slices.Equal(got, want) {
		t.Errorf("%q, not %q", got, want)
	}
}

func TestModesAreInTheRedraw(t *testing.T) {
	s := write(t, 20, 5, "\x1b[?1;1002;1006;2004h\x1b=\x1b[?25l\x1b[4 q\x1b[>4;2m\x1b[>5u")
	d := string(s.Redraw())
	for _, want := range []string{"\x1b[?1h", "\x1b[?1002h", "\x1b[?1006h", "\x1b[?2004h", "\x1b[?66h", "\x1b[?25l", "\x1b[4 q", "\x1b[>4;2m", "\x1b[>5u"} {
		if !strings.Contains(d[len(Reset):], want) {
			t.Errorf("%q is not in %q", want, d)
		}
	}
	if s.CursorVisible() {
		t.Error("the cursor is visible")
	}
}

func benchmark(b *testing.B, out []byte) {
	s := New(80, 24)
	b.SetBytes(int64(len(out)))
	b.ReportAllocs()
	for b.Loop() {
		s.Write(out)
	}
}

// Hostile output that changes screens all the time must not cost memory each time.
func TestTheAlternateScreenIsUsedAgain(t *testing.T) {
	s := New(80, 1000)
	there := []byte("\x1b[?47hx\x1b[?47l")
	s.Write(there)
	if n := testing.AllocsPerRun(100, func() { s.Write(there) }); n > 2 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkText(b *testing.B) {
	benchmark(b, bytes.Repeat([]byte("-rw-r--r-- 1 root root  1869 Nov 21 17:40 bash.out\r\n"), 1000))
}

func BenchmarkSequences(b *testing.B) {
	var out []byte
	for i := range 1000 {
		out = fmt.Appendf(out, "\x1b[%d;%dH\x1b[1;3%dmword\x1b[m %d \x1b[K", i%24+1, i%70+1, i%8, i)
	}
	benchmark(b, out)
}

func BenchmarkWide(b *testing.B) {
	benchmark(b, bytes.Repeat([]byte("日本語のテキスト、長い行\r\n"), 1000))
}

func full() *Screen {
	s := New(80, 24)
	for i := range 40 {
		s.Write(fmt.Appendf(nil, "\x1b[3%dm-rw-r--r--\x1b[m 1 root root  1869 Nov 21 17:40 bash.out %d\r\n", i%8, i))
	}
	return s
}

func BenchmarkRedraw(b *testing.B) {
	s := full()
	b.SetBytes(int64(len(s.Redraw())))
	for b.Loop() {
		s.Redraw()
	}
}

func BenchmarkKeyframe(b *testing.B) {
	s := full()
	b.SetBytes(int64(len(s.Marshal())))
	for b.Loop() {
		if _, err := Unmarshal(s.Marshal()); err != nil {
			b.Fatal(err)
		}
	}
}
