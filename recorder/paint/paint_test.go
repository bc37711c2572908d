package paint

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"hawser/recorder/term"
)

// viewer is a terminal that is painted on.
func viewer(cols, rows int) *term.Screen {
	v := term.New(cols, rows)
	v.Write([]byte(Enter))
	return v
}

func TestAViewerSeesTheScreenThatIsSmallerOrLargerThanHis(t *testing.T) {
	s := term.New(10, 3)
	s.Write([]byte("\x1b[1mbold\x1b[m\r\nwide 宽字\r\nend"))
	v, p := viewer(14, 6), New(14, 6)
	v.Write(p.Paint(nil, s, ""))
	if got := strings.Join(v.Text(), "\n"); got != "bold      │\nwide 宽字 │\nend       │\n──────────┘\n\n" {
		t.Errorf("larger:\n%s", got)
	}
	if x, y := v.Cursor(); x != 3 || y != 2 || !v.CursorVisible() {
		t.Errorf("the cursor is at %d %d", x, y)
	}
	v, p = viewer(6, 2), New(6, 2)
	v.Write(p.Paint(nil, s, "")) // the cursor, behind "end", decides which part
	if got := strings.Join(v.Text(), "\n"); got != "wide\nend" {
		t.Errorf("smaller:\n%q", got)
	}
	v.Write(p.Paint(nil, s, "bob joined\x1b[2J\n"))
	if got := strings.Join(v.Text(), "\n"); got != "end\nbob jo" {
		t.Errorf("with a note:\n%q", got)
	}
}

func TestWhatIsAsItWasCostsNothing(t *testing.T) {
	s := term.New(80, 24)
	s.Write([]byte("hello"))
	p := New(80, 24)
	p.Paint(nil, s, "")
	if got := p.Paint(nil, s, ""); len(got) != 0 {
		t.Errorf("nothing has changed, and %q was sent", got)
	}
	s.Write([]byte("!"))
	if got := p.Paint(nil, s, ""); len(got) == 0 || len(got) > 40 {
		t.Errorf("one character took %q", got)
	}
}

// Whatever a session shows, and however much of it a viewer misses, after each picture his terminal shows the same cells.
func TestEachPictureIsWhole(t *testing.T) {
	pieces := []string{
		"a", "hello world", "\r\n", "宽", "é", "🙂", "\x1b[H", "\x1b[2J", "\x1b[5;5H", "\x1b[7m", "\x1b[m", "\x1b[38;5;200m", "\x1b[48;2;1;2;3m", "\x1b[4:3m",
		"\x1b[K", "\x1b[1K", "\x1b[3P", "\x1b[2@", "\x1b[L", "\x1b[M", "\x1b[2;6r", "\x1bM", "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25l", "\x1b[?25h", "\x1b(0qqx\x1b(B",
		"\x1b]0;title\x07", "\x1b[c", "\x1bP+q\x1b\\", "\x08", "\t",
	}
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 1))
		cols, rows := 4+r.IntN(20), 2+r.IntN(8)
		s := term.New(cols, rows)
		bound := []int{0, 30, 100}[seed%3]
		v, p := viewer(cols, rows), NewBounded(cols, rows, MaxCells, bound)
		for step := range 60 {
			for range r.IntN(12) {
				s.Write([]byte(pieces[r.IntN(len(pieces))]))
			}
			out := p.Paint(nil, s, "")
			if bound > 0 && len(out) > bound+200 {
				t.Fatalf("seed %d step %d: a picture of %d bytes", seed, step, len(out))
			}
			if bytes.ContainsAny(out, "\x07\n\r\t") || bytes.Contains(out, []byte("\x1b]")) || bytes.Contains(out, []byte("\x1bP")) {
				t.Fatalf("seed %d: %q reached the viewer", seed, out)
			}
			v.Write(out)
			for p.More() && step%3 > 0 { // else more comes before the rest is shown
				v.Write(p.Paint(nil, s, ""))
			}
			if p.More() {
				continue
			}
			for y := range rows {
				want := fmt.Sprint(shown(s.Row(y)))
				if got := fmt.Sprint(shown(v.Row(y))); got != want {
					t.Fatalf("seed %d step %d row %d:\n got %s\nwant %s\nby %q", seed, step, y, got, want, out)
				}
			}
			wx, wy := s.Cursor()
			if x, y := v.Cursor(); v.CursorVisible() != s.CursorVisible() || s.CursorVisible() && (x != wx || y != wy) {
				t.Fatalf("seed %d step %d: the cursor is at %d %d %v, not at %d %d %v", seed, step, x, y, v.CursorVisible(), wx, wy, s.CursorVisible())
			}
		}
	}
}

// However the session's window and the notes change, a picture that was drawn over others looks as one drawn anew.
func TestAPictureOverOthersLooksAsOneDrawnAnew(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 2))
		cols, rows := 3+r.IntN(24), 2+r.IntN(9)
		s := term.New(12, 5)
		v, p := viewer(cols, rows), NewBounded(cols, rows, MaxCells, []int{0, 30}[seed%2])
		for step := range 40 {
			if r.IntN(4) == 0 {
				s.Resize(2+r.IntN(30), 2+r.IntN(12))
			}
			fmt.Fprintf(s, "\x1b[%d;%dH%s", 1+r.IntN(12), 1+r.IntN(30), []string{"some words", "宽字", "\x1b[2J", "\x1b[7mx\x1b[m", "\n\n"}[r.IntN(5)])
			note := []string{"", "", "bob joined", "宽"}[r.IntN(4)]
			anew := New(cols, rows)
			anew.x0, anew.y0 = p.x0, p.y0
			v.Write(p.Paint(nil, s, note))
			for p.More() && step%3 > 0 {
				v.Write(p.Paint(nil, s, note))
			}
			if p.More() {
				continue
			}
			w := viewer(cols, rows)
			w.Write(anew.Paint(nil, s, note))
			for y := range rows {
				if got, want := fmt.Sprint(shown(v.Row(y))), fmt.Sprint(shown(w.Row(y))); got != want {
					t.Fatalf("seed %d step %d row %d:\n got %s\nwant %s", seed, step, y, got, want)
				}
			}
		}
	}
}

// Sixteen guests with the largest windows there are must not take the memory of a small device.
func TestAViewersWindowIsBounded(t *testing.T) {
	var before, after runtime.MemStats
	s := term.New(80, 24)
	runtime.ReadMemStats(&before)
	New(1<<20, 1<<20).Paint(nil, s, "note")
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("a guest with a large window takes %d bytes", n)
	}
}

// A session that changes its first rows faster than a viewer is sent them must not keep the others from him.
func TestEachRowHasItsTurn(t *testing.T) {
	s, p := term.New(80, 24), NewBounded(80, 24, MaxCells, 100)
	v := viewer(80, 24)
	for i := range 100 {
		fmt.Fprintf(s, "\x1b[1;1H%s\x1b[24;1Hseen", strings.Repeat(string(rune('a'+i%26)), 400))
		v.Write(p.Paint(nil, s, ""))
	}
	if got := v.Text()[23]; got != "seen" {
		t.Errorf("the last row is %q", got)
	}
}

// shown is how cells look: a blank is a blank.
func shown(row []term.Cell) []string {
	var out []string
	for _, c := range row {
		if c.Text == "" && c.Width == 1 {
			c.Text = " "
		}
		out = append(out, fmt.Sprintf("%q%d%v", c.Text, c.Width, c.Style))
	}
	return out
}

func BenchmarkPaint(b *testing.B) {
	s := term.New(200, 50)
	p := New(200, 50)
	var buf []byte
	for i := 0; b.Loop(); i++ {
		fmt.Fprintf(s, "\x1b[%d;1Hline %d of something that moves", 1+i%50, i)
		buf = p.Paint(buf[:0], s, "")
	}
}
