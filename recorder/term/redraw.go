package term

import (
	"math"
	"strconv"

	"github.com/charmbracelet/x/ansi/parser"
)

// Reset brings a terminal that showed a session back to its defaults: main screen, plain text, no modes. What is on
// the main screen stays.
const Reset = "\x1b\\\x1b[?1049l\x1b[!p\x1b[?1;5;6;9;12;45;66;67;1000;1002;1003;1004;1005;1006;1007;1015;1016;2004;2026;2031l" +
	"\x1b[?7;25h\x1b[4;20l\x1b>\x1b(B\x1b)B\x1b*B\x1b+B\x0f\x1b[r\x1b[m\x1b[0 q\x1b[>4;0m\x1b[<8u"

// Redraw returns what brings a terminal of this size, fresh or used, into this one's state: the sequences for both
// screens, cursor, modes, tab stops and saved cursors, and the beginning of a sequence or character that was cut.
// Output from here on can follow.
func (s *Screen) Redraw() []byte {
	b, _ := s.RedrawWithin(math.MaxInt)
	return b
}

// RedrawWithin is Redraw where that takes so many bytes at most, or false.
func (s *Screen) RedrawWithin(size int) (b []byte, ok bool) {
	d := drawer{s: s, b: append(make([]byte, 0, 4096), Reset...), size: size}
	d.str("\x1b[H\x1b[2J\x1b[3g\x1b[?7l")
	for x, set := range s.tabs {
		if set {
			d.csi(csi, x+1, 0, 'G')
			d.str("\x1bH")
		}
	}
	lines := s.lines
	if s.alt {
		lines = s.main
	}
	d.lines(lines)
	d.save(lines, &s.saved[0])
	d.keys(&s.keys[0])
	if s.alt {
		// The saved cursor is in force here, so what 1049 saves is that.
		d.str("\x1b[?1049h")
		d.charset(home.charset, 0)
		d.str("\x1b[?6l\x1b[m\x1b[H\x1b[2J")
		d.pen = Style{}
		d.lines(s.lines)
		d.save(s.lines, &s.saved[1])
		d.keys(&s.keys[1])
	}
	d.charset(home.charset, 0)
	d.str("\x1b[?6l")
	d.state()
	d.b = append(d.b, s.pending()...)
	return d.b, len(d.b) <= size
}

// home is a saved cursor that nobody saved.
var home = cursor{charset: [4]byte{'B', 'B', 'B', 'B'}}

const csi = "\x1b["

type drawer struct {
	s    *Screen
	b    []byte
	pen  Style
	size int // of b: beyond it no cells are drawn
}

func (d *drawer) str(s string) { d.b = append(d.b, s...) }

// csi appends a control sequence of one number, or of two if b is not 0.
func (d *drawer) csi(begin string, a, b int, final byte) {
	d.str(begin)
	d.b = strconv.AppendInt(d.b, int64(a), 10)
	if b != 0 {
		d.b = append(d.b, ';')
		d.b = strconv.AppendInt(d.b, int64(b), 10)
	}
	d.b = append(d.b, final)
}

// lines draws all rows onto an empty screen, with wrapping off.
func (d *drawer) lines(lines []*line) {
	s := d.s
	for y, l := range lines {
		end := len(l.cells)
		if l.fill != (cell{}) {
			end = s.cols
		}
		at := -1 // the column the cursor is in, in this row
		for x := 0; x < end && len(d.b) <= d.size; x++ {
			c := l.at(x)
			if c.r == second || c.r == 0 && c.style == (Style{}) {
				continue
			}
			if at < 0 {
				d.csi(csi, y+1, x+1, 'H')
			} else if at < x {
				d.csi(csi, x-at, 0, 'C')
			}
			at = x + d.cell(c)
		}
	}
}

// cell draws a cell and returns its width.
func (d *drawer) cell(c *cell) int {
	d.style(c.style)
	if c.r == 0 {
		d.b = append(d.b, ' ')
		return 1
	}
	d.b = c.append(d.b)
	return width(c.r)
}

func (d *drawer) style(to Style) {
	if to == d.pen {
		return
	}
	d.pen = to
	d.b = to.Append(d.b)
}

// charset designates the sets that are not ASCII.
func (d *drawer) charset(sets [4]byte, gl uint8) {
	for i, c := range sets {
		d.b = append(d.b, 0x1b, "()*+"[i], c)
	}
	d.str([...]string{"\x0f", "\x0e", "\x1bn", "\x1bo"}[gl])
}

// to puts the cursor at a column and row of the screen or region. Behind the last column it gets by drawing what is
// there again.
func (d *drawer) to(lines []*line, x, y, top int) {
	s := d.s
	if x < s.cols {
		d.csi(csi, y-top+1, x+1, 'H')
		return
	}
	d.before(lines, x, y, top)
}

// before draws the cell before a column, so that the cursor is in the column.
func (d *drawer) before(lines []*line, x, y, top int) {
	l := lines[y]
	x--
	if l.at(x).r == second {
		x--
	}
	d.csi(csi, y-top+1, x+1, 'H')
	d.cell(l.at(x))
}

// save has the terminal save a cursor, and leaves it in force.
func (d *drawer) save(lines []*line, c *cursor) {
	if c.origin {
		// The region is all of the screen here, so the position is the same.
		d.str("\x1b[?6h")
	}
	d.to(lines, c.x, c.y, 0)
	d.charset(c.charset, c.gl)
	d.style(c.pen)
	d.str("\x1b7")
}

func (d *drawer) keys(k *keyStack) {
	for _, f := range k.flags[:k.n] {
		d.csi("\x1b[>", int(f), 0, 'u')
	}
}

// state sets what is no cell, the cursor last.
func (d *drawer) state() {
	s := d.s
	for _, m := range decModes {
		final := byte('l')
		if s.modes&m.mode != 0 {
			final = 'h'
		}
		if m.mode != autowrap && s.modes&m.mode != resetModes&m.mode {
			d.csi("\x1b[?", int(m.number), 0, final)
		}
	}
	if s.modes&newline != 0 {
		d.str("\x1b[20h")
	}
	for _, v := range [...]uint16{s.mouse, s.mouseForm} {
		if v != 0 {
			d.csi("\x1b[?", int(v), 0, 'h')
		}
	}
	if s.otherKeys != 0 {
		d.csi("\x1b[>4;", int(s.otherKeys), 0, 'm')
	}
	if s.cursorStyle != 0 {
		d.csi(csi, int(s.cursorStyle), 0, ' ')
		d.str("q")
	}
	top := 0
	if s.top != 0 || s.bottom != s.rows-1 {
		d.csi(csi, s.top+1, s.bottom+1, 'r')
	}
	if s.modes&origin != 0 {
		d.str("\x1b[?6h")
		top = s.top
	}
	if s.modes&autowrap != 0 {
		d.str("\x1b[?7h")
	}
	// What REP would repeat is the character printed last, and nothing may come after it.
	if s.repeats() && s.modes&insert == 0 {
		d.charset(s.charset, s.gl)
		d.style(s.pen)
		d.before(s.lines, s.x, s.y, top)
		return
	}
	d.to(s.lines, s.x, s.y, top)
	d.charset(s.charset, s.gl)
	d.style(s.pen)
	if s.modes&insert != 0 {
		d.str("\x1b[4h")
	}
	switch s.single {
	case 3:
		d.str("\x1bN")
	case 4:
		d.str("\x1bO")
	}
}

// before is the character before the cursor.
func (s *Screen) before() *cell {
	l := s.lines[s.y]
	x := max(s.x-1, 0)
	if l.at(x).r == second {
		x--
	}
	return l.at(x)
}

// repeats reports whether REP repeats the character before the cursor: it was printed there just now.
func (s *Screen) repeats() bool {
	if s.last == 0 || s.x == 0 {
		return false
	}
	c := s.before()
	return c.r == s.last && c.style == s.pen
}

// begins brings a parser into each of its states.
var begins = [...]string{
	parser.EscapeState:             "\x1b",
	parser.EscapeIntermediateState: "\x1b",
	parser.CsiEntryState:           "\x1b[",
	parser.CsiParamState:           "\x1b[",
	parser.CsiIntermediateState:    "\x1b[",
	csiIgnore:                      "\x1b[0<",
	parser.DcsEntryState:           "\x1bP",
	parser.DcsParamState:           "\x1bP0",
	parser.DcsIntermediateState:    "\x1bP0!",
	parser.DcsStringState:          "\x1bP0!z",
	parser.OscStringState:          "\x1b]9999;",
	parser.SosStringState:          "\x1bX",
	parser.PmStringState:           "\x1b^",
	parser.ApcStringState:          "\x1b_",
}

// pending is a beginning of the sequence and character that the parser is within, as far as it matters for the
// rest: of strings nothing is kept, so they begin as one that nobody knows.
func (s *Screen) pending() []byte {
	b := append([]byte(nil), begins[s.state]...)
	switch s.state {
	case parser.CsiParamState, parser.CsiIntermediateState:
		if s.prefix != 0 {
			b = append(b, s.prefix)
		}
		for i := 0; i < s.params; i++ {
			if s.isSub(i) {
				b = append(b, ':')
			} else if i > 0 {
				b = append(b, ';')
			}
			b = strconv.AppendUint(b, uint64(s.param[i]), 10)
		}
		if s.over {
			b = append(b, ';')
		}
		fallthrough
	case parser.EscapeIntermediateState:
		switch s.inter {
		case 0:
		case tooMany:
			b = append(b, '!', '!')
		default:
			b = append(b, s.inter)
		}
	}
	return append(b, s.char[:s.nchar]...)
}
