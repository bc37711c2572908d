package term

import (
	"encoding/binary"
	"errors"
	"unicode/utf8"
)

// keyframeVersion is the first byte of a keyframe. Keyframes are made anew from the recording, so there is no
// reader of old versions.
const keyframeVersion = 1

// ErrKeyframe is what Unmarshal returns for bytes that are no keyframe of this version.
var ErrKeyframe = errors.New("term: not a keyframe of this version: make it anew from the recording")

// Marshal returns the whole state, for Unmarshal: a keyframe. The Lines function and what it was not told yet are
// no part of it.
func (s *Screen) Marshal() []byte {
	e := encoder{s: s, b: make([]byte, 0, 2048)}
	e.b = append(e.b, keyframeVersion)
	e.num(uint64(s.cols))
	e.num(uint64(s.rows))
	e.flag(s.alt)
	e.cursor(&cursor{x: s.x, y: s.y, pen: s.pen, charset: s.charset, gl: s.gl})
	e.num(uint64(s.top))
	e.num(uint64(s.bottom))
	e.num(uint64(s.modes))
	e.num(uint64(s.single))
	e.num(uint64(s.last))
	e.num(uint64(s.cursorStyle))
	e.num(uint64(s.mouse))
	e.num(uint64(s.mouseForm))
	e.num(uint64(s.otherKeys))
	for i := range s.saved {
		e.cursor(&s.saved[i])
		e.num(uint64(s.keys[i].n))
		e.b = append(e.b, s.keys[i].flags[:s.keys[i].n]...)
	}
	// Tab stops as the distances between them, 0 at the end.
	last := -1
	for x, set := range s.tabs {
		if set {
			e.num(uint64(x - last))
			last = x
		}
	}
	e.num(0)
	e.lines(s.lines)
	if s.alt {
		e.lines(s.main)
	}
	pending := s.pending()
	e.num(uint64(len(pending)))
	return append(e.b, pending...)
}

type encoder struct {
	s   *Screen
	b   []byte
	pen Style
}

func (e *encoder) num(v uint64) { e.b = binary.AppendUvarint(e.b, v) }

func (e *encoder) flag(v bool) {
	if v {
		e.num(1)
	} else {
		e.num(0)
	}
}

func (e *encoder) style(s Style) {
	e.num(uint64(s.FG))
	e.num(uint64(s.BG))
	e.num(uint64(s.Line))
	e.num(uint64(s.Attr))
}

func (e *encoder) cursor(c *cursor) {
	e.num(uint64(c.x))
	e.num(uint64(c.y))
	e.style(c.pen)
	e.b = append(e.b, c.charset[:]...)
	e.num(uint64(c.gl))
	e.flag(c.origin)
}

// The kinds of runs, in the two lowest bits of a run's number; the others count its cells.
const (
	runSame  = 0 // one cell, so many times
	runText  = 1 // so many cells of one character each
	runStyle = 2 // no cells: the style from here on
)

// lines writes each row: twice its real cells, plus one if it is wrapped; its fill; runs of cells.
func (e *encoder) lines(lines []*line) {
	for _, l := range lines {
		n := uint64(len(l.cells)) << 1
		if l.wrapped {
			n |= 1
		}
		e.num(n)
		e.run([]cell{l.fill})
		for c := l.cells; len(c) > 0; {
			c = c[e.run(c):]
		}
	}
}

// run writes a run at the beginning of the cells and returns its length.
func (e *encoder) run(c []cell) int {
	if c[0].style != e.pen {
		e.pen = c[0].style
		e.num(runStyle)
		e.style(e.pen)
	}
	same := 1
	for same < len(c) && c[same] == c[0] {
		same++
	}
	if same > 2 || same == len(c) {
		e.num(uint64(same)<<2 | runSame)
		e.char(c[0])
		return same
	}
	n := same
	for n < len(c) && c[n].style == e.pen && (n+2 >= len(c) || c[n] != c[n+1] || c[n] != c[n+2]) {
		n++
	}
	e.num(uint64(n)<<2 | runText)
	for _, c := range c[:n] {
		e.char(c)
	}
	return n
}

// char writes a character, twice, plus one if its two marks follow. The second column of a wide character is one
// beyond Unicode.
func (e *encoder) char(c cell) {
	switch {
	case c.r == second:
		e.num((utf8.MaxRune + 1) << 1)
	case c.marks[0] != 0:
		e.num(uint64(c.r)<<1 | 1)
		e.num(uint64(c.marks[0]))
		e.num(uint64(c.marks[1]))
	default:
		e.num(uint64(c.r) << 1)
	}
}

// Unmarshal returns the Screen a keyframe was made of. The keyframe is not trusted: whatever Unmarshal returns
// without an error is a Screen that output could have made, of the size it says, or near to it.
func Unmarshal(keyframe []byte) (*Screen, error) {
	d := decoder{b: keyframe}
	if d.num(keyframeVersion) != keyframeVersion {
		return nil, ErrKeyframe
	}
	cols, rows := int(d.num(MaxCols)), int(d.num(MaxRows))
	if c, r := clamp(cols, rows); d.bad || c != cols || r != rows {
		return nil, ErrKeyframe
	}
	// A row takes 3 bytes at least.
	if len(d.b) < 3*rows {
		return nil, ErrKeyframe
	}
	s := New(cols, rows)
	d.s = s
	s.alt = d.num(1) == 1
	now := d.cursor()
	s.x, s.y, s.pen, s.charset, s.gl = now.x, now.y, now.pen, now.charset, now.gl
	s.top, s.bottom = int(d.num(uint64(rows-1))), int(d.num(uint64(rows-1)))
	s.modes = mode(d.num(uint64(newline<<1 - 1)))
	s.single = uint8(d.num(4))
	s.last = rune(d.num(utf8.MaxRune))
	s.cursorStyle = uint8(d.num(6))
	s.mouse = uint16(d.num(maxParam))
	s.mouseForm = uint16(d.num(maxParam))
	s.otherKeys = uint8(d.num(3))
	for i := range s.saved {
		s.saved[i] = d.cursor()
		k := &s.keys[i]
		k.n = int(d.num(maxKeyStack))
		for j, f := range d.bytes(k.n) {
			k.flags[j] = f & 31
		}
	}
	clear(s.tabs)
	for x := -1; ; {
		n := int(d.num(uint64(cols)))
		if n == 0 {
			break
		}
		if x += n; x >= cols {
			d.bad = true
			break
		}
		s.tabs[x] = true
	}
	d.lines(s.lines)
	if s.alt {
		s.main = newLines(rows)
		d.lines(s.main)
	}
	pending := d.bytes(int(d.num(maxPending)))
	if d.bad || len(d.b) != 0 || !s.sound() {
		return nil, ErrKeyframe
	}
	s.Write(pending)
	return s, nil
}

// maxPending is the most that a beginning of a sequence takes: parameters of 5 digits and their separators.
const maxPending = 6*maxParams + 16

// sound reports whether the state outside the cells is one that output can make.
func (s *Screen) sound() bool {
	// A region of one row is there only on a screen of one.
	if s.top >= s.bottom && s.rows > 1 || s.modes&origin != 0 && !s.inRegion() {
		return false
	}
	if s.single == 1 || s.single == 2 || s.single != 0 && s.last != 0 {
		return false
	}
	switch s.mouse {
	case 0, 9, 1000, 1002, 1003:
	default:
		return false
	}
	switch s.mouseForm {
	case 0, 1005, 1006, 1015, 1016:
	default:
		return false
	}
	// What the set in use makes another of was not printed under it.
	return s.last == 0 || s.repeats() && s.shifted(s.last) == s.last
}

func printable(r rune) bool {
	return r >= ' ' && r < 0x7f || r >= 0xa0 && utf8.ValidRune(r) && width(r) > 0
}

type decoder struct {
	s    *Screen
	b    []byte
	pen  Style
	bad  bool
	rest int // cells of the run that were not taken
	same bool
	cell cell
}

// num reads a number of at most limit; 0 after an error.
func (d *decoder) num(limit uint64) uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || v > limit {
		d.bad = true
	}
	if d.bad {
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes(n int) []byte {
	if n > len(d.b) {
		d.bad = true
	}
	if d.bad {
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) color() Color {
	c := Color(d.num(uint64(direct | (1<<24 - 1))))
	switch limit := (Color)(0xff); c & colorKind {
	case 0:
		d.bad = d.bad || c != 0
	case basic:
		limit = 15
		fallthrough
	case indexed:
		d.bad = d.bad || c&^colorKind > limit
	}
	return c
}

func (d *decoder) style() Style {
	s := Style{FG: d.color(), BG: d.color(), Line: d.color(), Attr: Attr(d.num(1<<(underlineShift+3) - 1))}
	if s.Underline() > DashedUnderline || s.Line&colorKind == basic {
		d.bad = true
	}
	return s
}

func (d *decoder) cursor() cursor {
	c := cursor{x: int(d.num(uint64(d.s.cols))), y: int(d.num(uint64(d.s.rows - 1))), pen: d.style()}
	copy(c.charset[:], d.bytes(4))
	for _, set := range c.charset {
		if set != '0' && set != 'A' && set != 'B' {
			d.bad = true
		}
	}
	c.gl = uint8(d.num(3))
	c.origin = d.num(1) == 1
	return c
}

func (d *decoder) lines(lines []*line) {
	for _, l := range lines {
		n := d.num(uint64(d.s.cols)<<1 | 1)
		l.wrapped = n&1 != 0
		l.fill = d.next()
		if l.fill.marks[0] != 0 || l.fill.r != 0 && l.fill.r != 'E' || d.rest != 0 {
			d.bad = true
		}
		for range n >> 1 {
			c := d.next()
			// A wide character's second column comes after it, and nowhere else.
			w := 1
			if i := len(l.cells); i > 0 {
				w = width(l.cells[i-1].r)
			}
			if d.bad || (c.r == second) != (w == 2) {
				d.bad = true
				return
			}
			l.cells = append(l.cells, c)
		}
		if i := len(l.cells); d.rest != 0 || i > 0 && width(l.cells[i-1].r) == 2 {
			d.bad = true
		}
	}
}

// next reads a cell.
func (d *decoder) next() cell {
	for d.rest == 0 && !d.bad {
		n := d.num(MaxCols<<2 | 3)
		switch n & 3 {
		case runStyle:
			d.pen = d.style()
			continue
		case runSame, runText:
			d.rest, d.same = int(n>>2), n&3 == runSame
			if d.rest == 0 {
				d.bad = true
			}
			d.cell = d.char()
			d.rest--
			return d.cell
		default:
			d.bad = true
		}
	}
	if d.bad {
		return cell{}
	}
	if !d.same {
		d.cell = d.char()
	}
	d.rest--
	return d.cell
}

func (d *decoder) char() cell {
	v := d.num((utf8.MaxRune+1)<<1 | 1)
	c := cell{r: rune(v >> 1), style: d.pen}
	if v == (utf8.MaxRune+1)<<1 {
		return cell{r: second, style: d.pen}
	}
	if c.r != 0 && !printable(c.r) {
		d.bad = true
		return cell{}
	}
	if v&1 == 0 {
		return c
	}
	for i := range c.marks {
		m := rune(d.num(0xffff))
		if m != 0 && (width(m) != 0 || !mark(m)) || m == 0 && i == 0 || c.r == 0 {
			d.bad = true
			return cell{}
		}
		c.marks[i] = uint16(m)
	}
	return c
}
