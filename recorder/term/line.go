package term

import (
	"slices"
	"unicode/utf8"
)

// cell is one position.
type cell struct {
	r     rune      // 0: nothing was written here
	marks [2]uint16 // combining marks, 0 where there is none
	style Style
}

// second is what the second position of a wide character holds.
const second rune = -1

// append appends the character and its marks.
func (c *cell) append(b []byte) []byte {
	b = utf8.AppendRune(b, c.r)
	for _, m := range c.marks {
		if m != 0 {
			b = utf8.AppendRune(b, rune(m))
		}
	}
	return b
}

// line is one row: its first len(cells) cells, the rest looks like fill. So an erase of a large screen is cheap,
// and an empty one small.
type line struct {
	cells []cell
	fill  cell
	// wrapped: the row goes on from the one above, because the text ran over its end.
	wrapped bool
	// unsaid: there is text that was not handed out yet; first and last are the marks of when it was begun and
	// written last, and stint is the stay of the cursor in this row that did the latter.
	unsaid      bool
	stint       uint32
	first, last int64
}

// at is the cell of a column, to be read.
func (l *line) at(x int) *cell {
	if x < len(l.cells) {
		return &l.cells[x]
	}
	return &l.fill
}

// grow makes at least n of a row's cells real, and takes no room for more than it has.
func (l *line) grow(n, cols int) {
	if n > cap(l.cells) {
		l.cells = append(make([]cell, 0, max(n, min(2*cap(l.cells), cols))), l.cells...)
	}
	for len(l.cells) < n {
		l.cells = append(l.cells, l.fill)
	}
}

// split clears a wide character that a cut before column x would halve.
func (l *line) split(x int, blank *cell) {
	if x > 0 && x < len(l.cells) && l.cells[x].r == second {
		l.cells[x-1], l.cells[x] = *blank, *blank
	}
}

func (l *line) clear(blank *cell) {
	l.cells, l.fill, l.wrapped = l.cells[:0], *blank, false
}

// erase makes the columns from x0 to before x1 of a row of cols blank.
func (l *line) erase(x0, x1, cols int, blank *cell) {
	if x0 >= x1 {
		return
	}
	l.split(x0, blank)
	if x1 >= cols {
		if l.fill != *blank {
			l.grow(x0, cols)
		}
		l.cells, l.fill = l.cells[:min(x0, len(l.cells))], *blank
		return
	}
	l.split(x1, blank)
	if x0 >= len(l.cells) && l.fill == *blank {
		return
	}
	l.grow(x1, cols)
	for x := x0; x < x1; x++ {
		l.cells[x] = *blank
	}
}

// insert moves what is at x and after by n columns to the right.
func (l *line) insert(x, n, cols int, blank *cell) {
	n = min(n, cols-x)
	l.split(x, blank)
	if x >= len(l.cells) && l.fill == *blank {
		return
	}
	l.grow(x, cols)
	end := min(len(l.cells)+n, cols)
	l.grow(end, cols)
	copy(l.cells[x+n:end], l.cells[x:])
	for i := x; i < x+n; i++ {
		l.cells[i] = *blank
	}
	// A wide character whose second half went over the edge.
	if end == cols && width(l.cells[cols-1].r) == 2 {
		l.cells[cols-1] = *blank
	}
}

// remove takes n columns out at x; the end of the row becomes blank.
func (l *line) remove(x, n, cols int, blank *cell) {
	n = min(n, cols-x)
	l.split(x, blank)
	l.split(x+n, blank)
	if l.fill != *blank {
		l.grow(cols, cols)
		l.fill = *blank
	}
	if x < len(l.cells) {
		l.cells = append(l.cells[:x], l.cells[min(x+n, len(l.cells)):]...)
	}
}

// resize cuts the row to cols, or gives it plain cells up to there.
func (l *line) resize(old, cols int) {
	if cols > old && l.fill != (cell{}) {
		l.grow(old, cols)
		l.fill = cell{}
	}
	if len(l.cells) > cols {
		l.split(cols, &cell{})
		l.cells = l.cells[:cols]
	}
	if cap(l.cells) > cols {
		l.cells = slices.Clone(l.cells)
	}
}

// blankEnd is the column after the last that holds a character.
func (l *line) blankEnd() int {
	if l.fill.r != 0 {
		return -1
	}
	n := len(l.cells)
	for n > 0 && l.cells[n-1].r == 0 {
		n--
	}
	return n
}
