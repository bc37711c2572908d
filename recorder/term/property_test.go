package term

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/charmbracelet/x/ansi/parser"
)

// stray is output as a program with a grudge writes it: mostly sequences that mean something, some that are cut,
// broken or absurd.
func stray(r *rand.Rand, n int) []byte {
	var b []byte
	small := func() int { return r.IntN(14) }
	words := []string{"x", "word", "a long run of text that wraps", "日本", "e\u0301", "é", "👍", "\u200d", "\u202e", "한", "\u0301", "q", "─"}
	modes := []int{1, 3, 5, 6, 7, 9, 12, 25, 45, 47, 66, 67, 1000, 1002, 1003, 1004, 1005, 1006, 1007, 1015, 1016, 1047, 1048, 1049, 2004, 2026, 2031, 9999}
	for len(b) < n {
		switch r.IntN(22) {
		case 0, 1, 2, 3, 4, 5:
			b = append(b, words[r.IntN(len(words))]...)
		case 6, 7:
			b = append(b, "\r\n\b\t\v\f\x0e\x0f\x07\x00\x7f"[r.IntN(11)])
		case 8, 9, 10:
			b = fmt.Appendf(b, "\x1b[%d;%dH", small(), small())
		case 11, 12, 13:
			b = fmt.Appendf(b, "\x1b[%d%c", small(), "@ABCDEFGIJKLMPSTXZ`abdefgsu"[r.IntN(27)])
		case 14, 15:
			styles := []string{"", "1", "0;7", "31", "38;5;200", "48;2;1;2;3", "4:3", "58:2::9:8:7", "58:5:3", "44", "53;9;8", "95;103", "21", "38:2:4:5:6", "22;24", "38;9;1", "999"}
			b = fmt.Appendf(b, "\x1b[%sm", styles[r.IntN(len(styles))])
		case 16:
			b = fmt.Appendf(b, "\x1b[?%d%c", modes[r.IntN(len(modes))], "hhl"[r.IntN(3)])
		case 17:
			b = fmt.Appendf(b, "\x1b[%d;%dr", small(), small())
		case 18:
			more := []string{"7", "8", "D", "E", "M", "H", "=", ">", "(0", "(B", ")0", "*A", "N", "O", "n", "o", "#8", "%G", "!z", "c"}
			b = append(append(b, 0x1b), more[r.IntN(len(more))]...)
		case 19:
			more := []string{"[4h", "[4l", "[20h", "[20l", "[!p", "[?J", "[?1K", "[3 q", "[2 @", "[2 A", "[2'}", "[2'~", "[3g",
				"[>4;2m", "[>5u", "[<u", "[=3;2u", "[1 2m", "[?1;6;7l", "[1:2;3H"}
			b = append(append(b, 0x1b), more[r.IntN(len(more))]...)
		case 20:
			more := []string{"\x1b]0;title\x07", "\x1b]2;t\u2713\x1b\\", "\x1bPq#0\x1b\\", "\x1b_app\x1b\\", "\x1b^pm\x1b\\", "\x1bXsos\x1b\\", "\x1b[", "\x1b", "\x1b]x",
				"\x1bP1;2", "\xe2\x82", "\xff", "\xf0\x9f\x91", "\u009b3C", "\u0085", "\x18", "\x1a", "\x1b[1;2;3;4;5;6;7;8;9;10;11;12;13;14;15;16;17;18;19;20;21;22;23;24;25;26;27;28;29;30;31;32;33;34m"}
			b = append(b, more[r.IntN(len(more))]...)
		case 21:
			b = append(b, byte(r.IntN(256)))
		}
	}
	return b
}

// shown is a cell as it is seen: what was never written looks like a space.
func shown(s *Screen, c *cell) (string, Style, bool) {
	if c.r == 0 {
		return " ", c.style, false
	}
	if c.r == second {
		return "", c.style, true
	}
	return c.text(), c.style, false
}

// differ says how two screens differ, "" if they do not.
func differ(a, b *Screen) string {
	if a.cols != b.cols || a.rows != b.rows || a.alt != b.alt {
		return fmt.Sprintf("size or screen: %dx%d alt %v, %dx%d alt %v", a.cols, a.rows, a.alt, b.cols, b.rows, b.alt)
	}
	var d []string
	cells := func(name string, x, y []*line) {
		for i := range x {
			for j := range a.cols {
				t1, s1, c1 := shown(a, x[i].at(j))
				t2, s2, c2 := shown(b, y[i].at(j))
				if t1 != t2 || s1 != s2 || c1 != c2 {
					d = append(d, fmt.Sprintf("%s row %d column %d: %q %x, %q %x", name, i, j, t1, s1, t2, s2))
					return
				}
			}
		}
	}
	cells("shown", a.lines, b.lines)
	field := func(name string, x, y any) {
		if x != y {
			d = append(d, fmt.Sprintf("%s: %v, %v", name, x, y))
		}
	}
	if a.alt {
		cells("main", a.main, b.main)
		field("alternate's saved cursor", a.saved[1], b.saved[1])
		field("alternate's keys", a.keys[1].String(), b.keys[1].String())
	}
	field("keys", a.keys[0].String(), b.keys[0].String())
	field("x", a.x, b.x)
	field("y", a.y, b.y)
	field("pen", a.pen, b.pen)
	field("top", a.top, b.top)
	field("bottom", a.bottom, b.bottom)
	field("modes", a.modes, b.modes)
	field("charset", a.charset, b.charset)
	field("gl", a.gl, b.gl)
	field("single", a.single, b.single)
	field("saved cursor", a.saved[0], b.saved[0])
	field("cursor style", a.cursorStyle, b.cursorStyle)
	field("mouse", a.mouse, b.mouse)
	field("mouse form", a.mouseForm, b.mouseForm)
	field("other keys", a.otherKeys, b.otherKeys)
	if a.modes&insert == 0 {
		field("REP", a.last, b.last)
	}
	if !slices.Equal(a.tabs, b.tabs) {
		d = append(d, "tab stops")
	}
	field("parser", string(a.pending()), string(b.pending()))
	return strings.Join(d, "; ")
}

func (k keyStack) String() string { return fmt.Sprint(k.flags[:k.n]) }

func rounds(t *testing.T, n int, f func(t *testing.T, r *rand.Rand, seed uint64)) {
	t.Helper()
	if os.Getenv("HAWSER_LONG") != "" {
		n *= 20
	}
	for seed := range uint64(n) {
		f(t, rand.New(rand.NewPCG(seed, 6)), seed)
		if t.Failed() {
			return
		}
	}
}

func size(r *rand.Rand) (int, int) { return 2 + r.IntN(20), 1 + r.IntN(12) }

func TestRedrawBringsAFreshAndAUsedTerminalIntoTheState(t *testing.T) {
	rounds(t, 800, func(t *testing.T, r *rand.Rand, seed uint64) {
		cols, rows := size(r)
		s := New(cols, rows)
		s.Write(stray(r, r.IntN(600)))
		if r.IntN(3) == 0 {
			cols, rows = size(r)
			s.Resize(cols, rows)
			s.Write(stray(r, r.IntN(200)))
		}
		redraw := s.Redraw()
		fresh, used := New(cols, rows), New(cols, rows)
		used.Write(stray(r, 300))
		fresh.Write(redraw)
		used.Write(redraw)
		if d := differ(s, fresh); d != "" {
			t.Fatalf("seed %d, fresh: %s\n%q", seed, d, redraw)
		}
		if d := differ(s, used); d != "" {
			t.Fatalf("seed %d, used: %s\n%q", seed, d, redraw)
		}
		// What follows means the same to both. Only a backspace over a wrapped row's start needs more than is
		// seen, and insert mode loses what REP would repeat.
		if s.modes&insert != 0 {
			return
		}
		more := bytes.ReplaceAll(stray(r, 300), []byte("\x1b[?45h"), nil)
		if s.modes&reverseWrap != 0 {
			return
		}
		s.Write(more)
		fresh.Write(more)
		if d := differ(s, fresh); d != "" {
			t.Fatalf("seed %d, after %q: %s", seed, more, d)
		}
	})
}

func TestAnySplitOfTheOutputMeansTheSame(t *testing.T) {
	rounds(t, 400, func(t *testing.T, r *rand.Rand, seed uint64) {
		cols, rows := size(r)
		out := stray(r, 400)
		whole, split, single := New(cols, rows), New(cols, rows), New(cols, rows)
		whole.Write(out)
		for rest := out; len(rest) > 0; {
			n := 1 + r.IntN(min(len(rest), 20))
			split.Write(rest[:n])
			rest = rest[n:]
		}
		for i := range out {
			single.Write(out[i : i+1])
		}
		if d := differ(whole, split) + differ(whole, single); d != "" {
			t.Fatalf("seed %d: %s\n%q", seed, d, out)
		}
	})
}

func TestAKeyframeHoldsTheWholeState(t *testing.T) {
	rounds(t, 800, func(t *testing.T, r *rand.Rand, seed uint64) {
		cols, rows := size(r)
		s := New(cols, rows)
		s.Write(stray(r, r.IntN(600)))
		frame := s.Marshal()
		back, err := Unmarshal(frame)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if d := differ(s, back); d != "" {
			t.Fatalf("seed %d: %s", seed, d)
		}
		if again := back.Marshal(); !bytes.Equal(again, frame) {
			t.Fatalf("seed %d: the keyframe of the keyframe is another", seed)
		}
		more := stray(r, 300)
		s.Write(more)
		back.Write(more)
		if d := differ(s, back); d != "" {
			t.Fatalf("seed %d, after %q: %s", seed, more, d)
		}
		// Cut or changed it is refused, or makes a screen that works.
		hurt := slices.Clone(frame)
		for range 1 + r.IntN(3) {
			hurt[r.IntN(len(hurt))] = byte(r.IntN(256))
		}
		if s, err := Unmarshal(hurt[:len(hurt)-r.IntN(2)*r.IntN(len(hurt))]); err == nil {
			s.Write(more)
			check(t, s)
		}
	})
}

// check looks for what must hold of every screen.
func check(t *testing.T, s *Screen) {
	t.Helper()
	if s.x < 0 || s.x > s.cols || s.y < 0 || s.y >= s.rows || s.top > s.bottom || s.bottom >= s.rows {
		t.Fatalf("cursor %d,%d, region %d to %d of %dx%d", s.x, s.y, s.top, s.bottom, s.cols, s.rows)
	}
	if len(s.lines) != s.rows || len(s.tabs) != s.cols || s.alt != (s.main != nil) {
		t.Fatalf("%d lines, %d tabs, main %v", len(s.lines), len(s.tabs), s.main != nil)
	}
	for _, lines := range [][]*line{s.lines, s.main} {
		for y, l := range lines {
			if len(l.cells) > s.cols {
				t.Fatalf("row %d has %d cells of %d", y, len(l.cells), s.cols)
			}
			for x, c := range l.cells {
				wide := x > 0 && width(l.cells[x-1].r) == 2
				if (c.r == second) != wide || c.r > 0 && !printable(c.r) {
					t.Fatalf("row %d column %d: %+v", y, x, c)
				}
			}
			if n := len(l.cells); n > 0 && width(l.cells[n-1].r) == 2 {
				t.Fatalf("row %d ends within a wide character", y)
			}
		}
	}
	if s.state > csiIgnore || s.state == parser.Utf8State {
		t.Fatalf("parser state %d", s.state)
	}
	for y := range s.rows {
		if n := len(s.Row(y)); n != s.cols {
			t.Fatalf("row %d has %d cells", y, n)
		}
	}
}

func TestNothingWrittenBreaksTheScreen(t *testing.T) {
	rounds(t, 400, func(t *testing.T, r *rand.Rand, seed uint64) {
		cols, rows := size(r)
		s := New(cols, rows)
		for range 6 {
			s.Write(stray(r, 100))
			check(t, s)
			s.Resize(size(r))
			check(t, s)
		}
	})
}
