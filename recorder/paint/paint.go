// Package paint shows a terminal's screen (recorder/term) on a viewer's terminal of another size: start from [New] and [Painter.Paint].
//
// Only cells are drawn, in their places: nothing that the one who is watched sends reaches the viewer's terminal. Each call sends the
// difference to what was shown last, so a viewer who is slow gets fewer pictures and holds up nobody.
package paint

import (
	"hash/maphash"
	"slices"
	"strconv"
	"unicode/utf8"

	"hawser/recorder/term"
)

// Enter prepares a viewer's terminal and Leave gives it back: the alternate screen, without what a person's keys are turned into.
const (
	Enter = "\x1b[?1049h\x1b[?25l\x1b[m\x1b[2J"
	Leave = "\x1b[m\x1b[?25h\x1b[?1049l"
)

// MaxSize bounds the columns and the rows that are drawn on, and MaxCells both together: a larger terminal of a viewer stays blank beyond. A
// Painter takes 8 bytes a cell.
const (
	MaxSize  = 1000
	MaxCells = 1 << 16
)

// Painter draws for one viewer. Not safe for concurrent use.
type Painter struct {
	cells, picture int // the bounds; picture is 0 where there is none
	cols, rows     int
	shown          []mark // what the viewer's terminal shows, row by row
	unknown        bool   // it shows something else
	drawn          [2]int // beyond these columns and rows it shows nothing, but for a note
	noted          bool
	from           int    // the row that the next picture begins with: each has its turn, however much the others change
	more           bool   // the last picture was cut
	x0, y0         int    // the part of the screen that is shown begins here
	cursor         [2]int // -1, -1: hidden
	pen            term.Style
	penKnown       bool
}

// cell is a position of the viewer's terminal. The second column of a wide character has the width 0.
type cell struct {
	text  string
	style term.Style
	width uint8
}

// mark stands for a cell: its width in the lowest two bits, a hash of the rest in the others. Cells that look alike have the same.
type mark uint64

// spoiled is the mark of no cell.
const spoiled mark = 3

var (
	seed  = maphash.MakeSeed()
	empty = cell{}.mark()
)

func (c cell) mark() mark {
	if (c.text == "" || c.text == " ") && c.width <= 1 {
		c.text, c.width = "", 1
	}
	sum := maphash.String(seed, c.text)
	for _, v := range [...]uint64{uint64(c.style.FG), uint64(c.style.BG), uint64(c.style.Line), uint64(c.style.Attr)} {
		sum = (sum ^ v) * 0x9e3779b97f4a7c15
		sum ^= sum >> 32
	}
	return mark(sum<<2) | mark(c.width)
}

// New returns a Painter for a terminal in the state that Enter leaves it in. A size of zero is 80 by 24.
func New(cols, rows int) *Painter { return NewBounded(cols, rows, MaxCells, 0) }

// NewBounded is New for a Painter that draws on no more than so many cells, and makes no picture much longer than so many bytes: while More says so, the rest
// comes with the next. A cell takes up to 90 bytes, in colours of its own and with marks.
func NewBounded(cols, rows, cells, picture int) *Painter {
	p := &Painter{cells: min(cells, MaxCells), picture: picture}
	p.Resize(cols, rows)
	return p
}

// More tells whether the last picture was cut because it was long.
func (p *Painter) More() bool { return p.more }

// Resize is told the size of the viewer's terminal; the next picture is drawn whole.
func (p *Painter) Resize(cols, rows int) {
	if cols <= 0 || rows <= 0 {
		cols, rows = 80, 24
	}
	p.cols = min(cols, MaxSize)
	p.rows = min(rows, MaxSize, max(p.cells/p.cols, 1))
	p.shown = make([]mark, p.cols*p.rows)
	p.unknown, p.from = true, 0
}

// Paint appends to b what makes the terminal show s: as much as there is room for, with the cursor in it, or all of it and a border. A note
// takes the last row while it is not empty; what of it is not printable is left out.
func (p *Painter) Paint(b []byte, s *term.Screen, note string) []byte {
	cols, rows := s.Size()
	end := len(b) + p.picture
	room := p.rows
	if note != "" && room > 1 {
		room--
	}
	cx, cy := s.Cursor()
	p.x0, p.y0 = window(p.x0, cx, cols, p.cols), window(p.y0, cy, rows, room)
	if p.unknown {
		b = append(b, "\x1b[m\x1b[2J"...)
		for i := range p.shown {
			p.shown[i] = empty
		}
		p.drawn, p.noted = [2]int{}, false
		p.unknown, p.pen, p.penKnown, p.cursor = false, term.Style{}, true, [2]int{-1, -1}
		b = append(b, "\x1b[?25l"...)
	}
	begun := len(b)
	if p.cursor[0] >= 0 {
		b = append(b, "\x1b[?25l"...)
	}
	hidden := len(b)
	at := position{-1, -1}
	// What is behind the border takes no time: it was blanked.
	wide, high := min(max(cols-p.x0+1, 1), p.cols), min(max(rows-p.y0+1, 1), p.rows)
	line := make([]cell, p.cols)
	first := p.from
	p.from, p.more = 0, false
	for i := range p.rows {
		y := (first + i) % p.rows
		line := line[:max(wide, p.drawn[0])]
		if y == p.rows-1 && (room < p.rows || p.noted) {
			line = line[:p.cols]
		} else if y >= max(high, p.drawn[1]) {
			continue
		}
		clear(line)
		switch {
		case y == p.rows-1 && room < p.rows:
			noteLine(line, note)
		case p.y0+y < rows:
			for x, c := range s.Row(p.y0 + y) {
				if i := x - p.x0; i >= 0 && i < p.cols {
					line[i] = cell{c.Text, c.Style, c.Width}
				}
			}
			cut(line)
			if cols-p.x0 < p.cols {
				line[cols-p.x0] = cell{"│", border, 1}
			}
		case p.y0+y == rows:
			for x := range min(cols-p.x0, p.cols) {
				line[x] = cell{"─", border, 1}
			}
			if cols-p.x0 < p.cols {
				line[cols-p.x0] = cell{"┘", border, 1}
			}
		}
		if b = p.line(b, y, line, &at, end); p.more {
			p.from = y
			break
		}
	}
	if p.more { // the rest still shows what it did
		wide, high = max(wide, p.drawn[0]), max(high, p.drawn[1])
	}
	p.drawn, p.noted = [2]int{wide, high}, room < p.rows || p.more && p.noted
	if len(b) == hidden { // nothing is drawn
		b = b[:begun]
	}
	x, y := cx-p.x0, cy-p.y0
	show := s.CursorVisible() && x >= 0 && x < p.cols && y >= 0 && y < room
	switch {
	case show && (p.cursor != [2]int{x, y} || len(b) > begun):
		b = move(b, x, y)
		b = append(b, "\x1b[?25h"...)
		p.cursor = [2]int{x, y}
	case !show && p.cursor[0] >= 0:
		if len(b) == begun {
			b = append(b, "\x1b[?25l"...)
		}
		p.cursor = [2]int{-1, -1}
	}
	return b
}

// border is how the edge of a smaller screen is drawn.
var border = term.Style{Attr: term.Faint}

// window is where the part shown begins so that the cursor is in it, moved no more than it must. A cursor that went back has what is before it shown too: a
// program that clears the screen and writes two lines was seen without the first.
func window(begin, cursor, size, room int) int {
	if size <= room {
		return 0
	}
	if begin = min(begin, size-room); cursor < begin {
		return max(cursor-room/2, 0)
	}
	return max(begin, cursor-room+1)
}

// noteLine fills a row with a note.
func noteLine(line []cell, note string) {
	style := term.Style{Attr: term.Reverse}
	x := 0
	for _, r := range note {
		w := term.Width(r)
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == utf8.RuneError || w < 1 || x+w > len(line) {
			continue
		}
		line[x] = cell{string(r), style, uint8(w)}
		if w == 2 {
			line[x+1] = cell{"", style, 0}
		}
		x += w
	}
	for ; x < len(line); x++ {
		line[x] = cell{" ", style, 1}
	}
}

// cut blanks what the edge of the picture leaves of a wide character.
func cut(line []cell) {
	if last := len(line) - 1; line[last].width == 2 {
		line[last] = cell{"", line[last].style, 1}
	}
	if line[0].width == 0 && line[0].text == "" {
		line[0].width = 1
	}
}

type position struct{ x, y int }

// line draws what differs of a row, unless b is as long as the bound says: then there is more.
func (p *Painter) line(b []byte, y int, line []cell, at *position, end int) []byte {
	shown := p.shown[y*p.cols : (y+1)*p.cols]
	var marks [2]mark
	for x := 0; x < len(line); {
		c := line[x]
		if c.width == 0 { // nothing was there, or it is behind what was drawn
			c.width = 1
		}
		w := int(c.width)
		for i := range w {
			marks[i] = line[x+i].mark()
		}
		if slices.Equal(shown[x:x+w], marks[:w]) {
			x += w
			continue
		}
		if p.picture > 0 && len(b) >= end {
			p.more = true
			return b
		}
		if *at != (position{x, y}) {
			b = move(b, x, y)
		}
		if !p.penKnown || p.pen != c.style {
			b = c.style.Append(b)
			p.pen, p.penKnown = c.style, true
		}
		if c.text == "" {
			b = append(b, ' ')
		} else {
			b = append(b, c.text...)
		}
		// Half of a wide character that was there is gone with its other half.
		for i := x; i < x+w; i++ {
			if shown[i]&3 == 2 && i+1 < len(shown) {
				shown[i+1] = spoiled
			}
		}
		copy(shown[x:], marks[:w])
		x += w
		*at = position{x, y}
		if x >= p.cols {
			*at = position{-1, -1} // where the cursor is behind the last column, terminals differ
		}
	}
	return b
}

func move(b []byte, x, y int) []byte {
	b = append(b, "\x1b["...)
	b = strconv.AppendInt(b, int64(y+1), 10)
	b = append(b, ';')
	b = strconv.AppendInt(b, int64(x+1), 10)
	return append(b, 'H')
}
