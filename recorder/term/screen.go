package term

import (
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi/parser"
)

// modes that are on or off.
type mode uint32

const (
	cursorKeys    mode = 1 << iota // DECCKM
	reverseScreen                  // DECSCNM
	origin                         // DECOM
	autowrap                       // DECAWM
	blinkCursor
	showCursor  // DECTCEM
	reverseWrap // a backspace goes back over a wrapped row's start
	keypad      // DECNKM, DECKPAM
	backarrow   // DECBKM
	focusEvents
	alternateScroll
	bracketedPaste
	colorScheme // reports of the terminal's colour scheme
	insert      // IRM
	newline     // LNM

	resetModes = autowrap | showCursor
)

// decModes are the DEC private modes that only have to be remembered.
var decModes = [...]struct {
	number uint16
	mode   mode
}{
	{1, cursorKeys}, {5, reverseScreen}, {7, autowrap}, {12, blinkCursor}, {25, showCursor},
	{45, reverseWrap}, {66, keypad}, {67, backarrow}, {1004, focusEvents}, {1007, alternateScroll}, {2004, bracketedPaste},
	{2031, colorScheme},
}

// cursor is what DECSC saves.
type cursor struct {
	x, y    int // x is the number of columns after the last one was written: the next character wraps
	pen     Style
	charset [4]byte
	gl      uint8
	origin  bool
}

// Screen is a terminal's state. Make one with New.
type Screen struct {
	cols, rows int
	// lines is the screen shown, main the other one while that is the alternate screen.
	lines, main []*line
	spare       []*line // the alternate screen's that is not shown, to be used again
	alt         bool

	x, y        int
	pen         Style
	top, bottom int // the scroll region, inclusive
	modes       mode
	charset     [4]byte // G0 to G3: 'B' ASCII, 'A' British, '0' line drawing
	gl          uint8
	single      uint8 // the set of the next character, plus one, after SS2 or SS3
	last        rune  // what REP repeats, 0 after anything but a character
	tabs        []bool
	saved       [2]cursor // of the main and the alternate screen
	cursorStyle uint8     // DECSCUSR
	mouse       uint16    // 9, 1000, 1002, 1003
	mouseForm   uint16    // 1005, 1006, 1015, 1016
	otherKeys   uint8     // xterm's modifyOtherKeys
	keys        [2]keyStack

	hook hook
	row  []Cell

	// The parser: what of a sequence and of a character was seen.
	table  parser.TransitionTable
	state  parser.State
	prefix byte
	inter  byte // the intermediate; tooMany if there were more
	params int
	param  [maxParams]uint16
	sub    uint32 // bit i: param[i] is a sub-parameter
	over   bool   // there were too many parameters
	char   [utf8.UTFMax]byte
	nchar  int
}

// keyStack is the kitty keyboard protocol's stack of flags.
type keyStack struct {
	flags [maxKeyStack]uint8
	n     int
}

// New returns a terminal as it is after a reset. A size beyond MaxCols, MaxRows and MaxCells is cut, one below 2
// columns or 1 row made so large.
func New(cols, rows int) *Screen {
	s := &Screen{table: transitions()}
	s.cols, s.rows = clamp(cols, rows)
	s.lines = newLines(s.rows)
	s.reset()
	return s
}

func clamp(cols, rows int) (int, int) {
	cols, rows = min(max(cols, 2), MaxCols), min(max(rows, 1), MaxRows)
	return cols, min(rows, MaxCells/cols)
}

func newLines(n int) []*line {
	block := make([]line, n)
	l := make([]*line, n)
	for i := range l {
		l[i] = &block[i]
	}
	return l
}

// reset is RIS, but for the cells.
func (s *Screen) reset() {
	s.x, s.y, s.pen = 0, 0, Style{}
	s.top, s.bottom = 0, s.rows-1
	s.modes = resetModes
	s.charset, s.gl, s.single, s.last = [4]byte{'B', 'B', 'B', 'B'}, 0, 0, 0
	s.tabs = appendTabs(s.tabs[:0], s.cols)
	home := cursor{charset: s.charset}
	s.saved = [2]cursor{home, home}
	s.cursorStyle, s.mouse, s.mouseForm, s.otherKeys = 0, 0, 0, 0
	s.keys = [2]keyStack{}
}

func appendTabs(t []bool, cols int) []bool {
	for len(t) < cols {
		t = append(t, len(t)%8 == 0)
	}
	return t[:cols]
}

// Size is the number of columns and rows.
func (s *Screen) Size() (cols, rows int) { return s.cols, s.rows }

// AltScreen reports whether the alternate screen is shown, as by an editor or a pager.
func (s *Screen) AltScreen() bool { return s.alt }

// Cursor is where the cursor stands, from 0; after a character in the last column it is there.
func (s *Screen) Cursor() (x, y int) { return min(s.x, s.cols-1), s.y }

// CursorVisible reports whether the program shows the cursor.
func (s *Screen) CursorVisible() bool { return s.modes&showCursor != 0 }

// Cell is one position of the screen.
type Cell struct {
	// Text is the character with its combining marks; "" where nothing was written, which looks like a space,
	// and in the second column of a wide character. It holds no control character and no bidirectional mark.
	Text string
	// Width is 1, 2 for a wide character, 0 for its second column.
	Width uint8
	Style Style
}

// Row returns the cells of row y, as many as there are columns; none if there is no such row. They are valid until
// the next call.
func (s *Screen) Row(y int) []Cell {
	s.row = s.row[:0]
	if y < 0 || y >= s.rows {
		return s.row
	}
	l := s.lines[y]
	for x := 0; x < s.cols; x++ {
		c := l.at(x)
		out := Cell{Width: 1, Style: c.style}
		switch {
		case c.r == second:
			out.Width = 0
		case c.r != 0:
			out.Text = c.text()
			out.Width = uint8(width(c.r))
		}
		s.row = append(s.row, out)
	}
	return s.row
}

func (c *cell) text() string {
	if c.r < 0x80 && c.marks[0] == 0 {
		// No allocation, of which a screen would be two thousand.
		return ascii[c.r : c.r+1]
	}
	return string(c.append(nil))
}

// Wrapped reports whether the text of row y goes on in row y+1 because it ran over the end.
func (s *Screen) Wrapped(y int) bool { return y >= 0 && y+1 < s.rows && s.lines[y+1].wrapped }

// Text returns the rows as text, without the blanks at their ends.
func (s *Screen) Text() []string {
	out := make([]string, s.rows)
	var b []byte
	for y, l := range s.lines {
		b = trimBlanks(s.appendText(b[:0], l))
		out[y] = string(b)
	}
	return out
}

func trimBlanks(b []byte) []byte {
	for len(b) > 0 && b[len(b)-1] == ' ' {
		b = b[:len(b)-1]
	}
	return b
}

// appendText appends a row up to its last character.
func (s *Screen) appendText(b []byte, l *line) []byte {
	end := l.blankEnd()
	if end < 0 {
		end = s.cols
	}
	for x := 0; x < end; x++ {
		switch c := l.at(x); {
		case c.r == second:
		case c.r == 0:
			b = append(b, ' ')
		default:
			b = c.append(b)
		}
	}
	return b
}

// Resize changes the size as xterm does: rows are cut or added, not wrapped anew. Of a screen that gets lower, the
// rows below the cursor go first, then those at the top.
func (s *Screen) Resize(cols, rows int) {
	cols, rows = clamp(cols, rows)
	if cols == s.cols && rows == s.rows {
		return
	}
	s.hook.stint++
	s.last, s.spare = 0, nil
	if s.alt {
		var up int
		s.main, up = s.resized(s.main, s.saved[0].y, cols, rows, false)
		s.saved[0].y -= up
	}
	var up int
	s.lines, up = s.resized(s.lines, s.y, cols, rows, true)
	s.y -= up
	if !s.alt {
		s.saved[0].y = max(s.saved[0].y-up, 0)
	}
	s.tabs = appendTabs(s.tabs, cols)
	s.cols, s.rows = cols, rows
	s.top, s.bottom = 0, rows-1
	s.x, s.y = min(s.x, cols-1), min(s.y, rows-1)
	for i := range s.saved {
		c := &s.saved[i]
		c.x, c.y = min(c.x, cols-1), min(c.y, rows-1)
	}
}

// resized returns the rows with their new size, and how many went at the top.
func (s *Screen) resized(lines []*line, y, cols, rows int, shown bool) ([]*line, int) {
	up := 0
	if n := len(lines) - rows; n > 0 {
		up = max(0, y+1-rows)
		if shown {
			for i := range lines {
				if i < up || i >= up+rows {
					s.say(i)
				}
			}
		}
		copy(lines, lines[up:])
		clear(lines[rows:])
		lines = lines[:rows]
	} else if n < 0 {
		lines = append(lines, newLines(-n)...)
	}
	for _, l := range lines {
		l.resize(s.cols, cols)
	}
	return lines, up
}

// ascii holds what a cell's Text is for most characters.
const ascii = "\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f" +
	"\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f" +
	" !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~\x7f"
