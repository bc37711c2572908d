package term

// blank is what an erased cell is: empty, with the background in use.
func (s *Screen) blank() *cell { return &cell{style: Style{BG: s.pen.BG}} }

// erase makes columns of a row blank.
func (s *Screen) erase(y, x0, x1 int, blank *cell) {
	l := s.lines[y]
	if l.unsaid && x0 < len(l.cells) {
		s.spoil(y)
	}
	l.erase(x0, x1, s.cols, blank)
}

// scroll moves the rows from top to bottom up by n, or down if n is negative.
func (s *Screen) scroll(top, bottom, n int) {
	if top > bottom {
		return
	}
	s.hook.stint++
	blank := s.blank()
	rows := s.lines[top : bottom+1]
	up := n > 0
	n = min(max(n, -n), len(rows))
	gone := 0
	if !up {
		gone = len(rows) - n
	}
	for i := gone; i < gone+n; i++ {
		s.say(top + i)
		rows[i].clear(blank)
	}
	// What the first row to stay was wrapped from is gone, and so it is with the row below the region.
	if up {
		rotate(rows, n)
		rows[0].wrapped = false
	} else {
		rotate(rows, len(rows)-n)
		rows[min(n, len(rows)-1)].wrapped = false
	}
	if bottom+1 < s.rows {
		s.lines[bottom+1].wrapped = false
	}
}

// rotate brings the first n to the end.
func rotate(l []*line, n int) {
	if n == 1 {
		first := l[0]
		copy(l, l[1:])
		l[len(l)-1] = first
		return
	}
	if n == len(l)-1 {
		last := l[n]
		copy(l[1:], l)
		l[0] = last
		return
	}
	reverse(l[:n])
	reverse(l[n:])
	reverse(l)
}

func reverse(l []*line) {
	for i, j := 0, len(l)-1; i < j; i, j = i+1, j-1 {
		l[i], l[j] = l[j], l[i]
	}
}

// down moves the cursor a row down and scrolls at the region's end. It reports whether it is in another row.
func (s *Screen) down() bool {
	s.hook.stint++
	switch {
	case s.y == s.bottom:
		s.scroll(s.top, s.bottom, 1)
	case s.y < s.rows-1:
		s.y++
	default:
		return false
	}
	return true
}

// up moves the cursor a row up and scrolls at the region's begin.
func (s *Screen) up() {
	s.hook.stint++
	switch {
	case s.y == s.top:
		s.scroll(s.top, s.bottom, -1)
	case s.y > 0:
		s.y--
	}
}

// index is a line feed: a cursor after the last column comes back to it.
func (s *Screen) index() {
	s.down()
	s.x = min(s.x, s.cols-1)
	s.lines[s.y].wrapped = false
}

// goTo puts the cursor at a position of the screen, or of the region in origin mode.
func (s *Screen) goTo(x, y int) {
	top, bottom := 0, s.rows-1
	if s.modes&origin != 0 {
		top, bottom = s.top, s.bottom
		y += top
	}
	s.move(x, min(max(y, top), bottom))
}

func (s *Screen) move(x, y int) {
	if y != s.y {
		s.hook.stint++
	}
	s.x, s.y = min(max(x, 0), s.cols-1), y
}

// moveBy moves within the screen; the region's edges stop a cursor inside.
func (s *Screen) moveBy(dx, dy int) {
	top, bottom := 0, s.rows-1
	if s.y >= s.top {
		top = s.top
	}
	if s.y <= s.bottom {
		bottom = s.bottom
	}
	s.move(min(s.x, s.cols-1)+dx, min(max(s.y+dy, top), bottom))
}

func (s *Screen) inRegion() bool { return s.y >= s.top && s.y <= s.bottom }

// tab moves to the nth tab stop after the cursor, or before it if n is negative.
func (s *Screen) tab(n int) {
	if s.x >= s.cols {
		return
	}
	for ; n > 0 && s.x < s.cols-1; n-- {
		for s.x++; s.x < s.cols-1 && !s.tabs[s.x]; {
			s.x++
		}
	}
	for ; n < 0 && s.x > 0; n++ {
		for s.x--; s.x > 0 && !s.tabs[s.x]; {
			s.x--
		}
	}
}

// execute carries out a control character.
func (s *Screen) execute(c byte) {
	switch c {
	case '\b':
		s.backspace()
	case '\t':
		s.tab(1)
	case '\n', '\v', '\f':
		s.index()
		if s.modes&newline != 0 {
			s.x = 0
		}
	case '\r':
		s.x = 0
	case 0x0e:
		s.gl = 1
	case 0x0f:
		s.gl = 0
	case 0x84, 0x85, 0x88, 0x8d, 0x8e, 0x8f:
		// The eight-bit form of an escape sequence; what an earlier one collected is not its.
		s.inter = 0
		s.escape(c - 0x40)
	}
}

func (s *Screen) backspace() {
	if s.modes&reverseWrap == 0 {
		s.x = max(min(s.x, s.cols-1)-1, 0)
		return
	}
	if s.x > 0 {
		s.x--
		return
	}
	if l := s.lines[s.y]; l.wrapped && s.y > s.top && s.y <= s.bottom {
		l.wrapped = false
		s.move(s.cols-1, s.y-1)
		if c := s.lines[s.y].at(s.x); (c.r == 0 || c.r == ' ') && width(l.at(0).r) == 2 {
			// Left empty by a wide character that did not fit.
			s.x--
		}
	}
}

// escape carries out an escape sequence, inter being its intermediate.
func (s *Screen) escape(c byte) {
	switch s.inter {
	case 0:
	case '(', ')', '*', '+':
		switch c {
		case '0', 'A':
		default:
			c = 'B'
		}
		s.charset[s.inter-'('] = c
		return
	case '#':
		if c == '8' {
			s.align()
		}
		return
	case '%':
		if c == '@' || c == 'G' {
			s.charset, s.gl = [4]byte{'B', 'B', 'B', 'B'}, 0
		}
		return
	default:
		return
	}
	switch c {
	case '7':
		s.save()
	case '8':
		s.restore()
	case 'D':
		s.index()
	case 'E':
		s.index()
		s.x = 0
	case 'H':
		s.tabs[min(s.x, s.cols-1)] = true
	case 'M':
		s.x = min(s.x, s.cols-1)
		s.up()
	case 'N':
		s.single = 3
	case 'O':
		s.single = 4
	case '=':
		s.modes |= keypad
	case '>':
		s.modes &^= keypad
	case 'c':
		s.sayAll()
		s.leaveAlt()
		for _, l := range s.lines {
			l.clear(&cell{})
		}
		s.reset()
	case 'n':
		s.gl = 2
	case 'o':
		s.gl = 3
	}
}

// align fills the screen with E, for those who adjust its focus (DECALN).
func (s *Screen) align() {
	s.sayAll()
	for _, l := range s.lines {
		l.clear(&cell{r: 'E'})
	}
	s.top, s.bottom = 0, s.rows-1
	s.modes &^= origin
	s.move(0, 0)
}

func (s *Screen) shown() int {
	if s.alt {
		return 1
	}
	return 0
}

func (s *Screen) save() {
	s.saved[s.shown()] = cursor{x: s.x, y: s.y, pen: s.pen, charset: s.charset, gl: s.gl, origin: s.modes&origin != 0}
}

func (s *Screen) restore() {
	c := s.saved[s.shown()]
	s.pen, s.charset, s.gl = c.pen, c.charset, c.gl
	s.modes &^= origin
	y := c.y
	if c.origin {
		s.modes |= origin
		y = min(max(y, s.top), s.bottom)
	}
	s.move(c.x, y)
	s.x = c.x
}

// enterAlt shows the alternate screen, empty.
func (s *Screen) enterAlt() {
	if s.alt {
		return
	}
	s.hook.stint++
	s.main = s.lines
	if s.lines, s.spare = s.spare, nil; len(s.lines) != s.rows {
		s.lines = newLines(s.rows)
	}
	blank := s.blank()
	for _, l := range s.lines {
		*l = line{cells: l.cells[:0], fill: *blank}
	}
	s.alt = true
	s.saved[1] = cursor{charset: [4]byte{'B', 'B', 'B', 'B'}}
	s.keys[1] = keyStack{}
}

func (s *Screen) leaveAlt() {
	if !s.alt {
		return
	}
	s.hook.stint++
	s.sayAll()
	s.lines, s.main, s.spare = s.main, nil, s.lines
	s.alt = false
}

// control carries out a control sequence.
func (s *Screen) control(c byte) {
	n := s.arg(0, 1)
	switch s.prefix {
	case 0:
	case '?':
		switch {
		case s.inter == 0 && (c == 'h' || c == 'l'):
			s.eachArg(func(v uint16) { s.setPrivate(v, c == 'h') })
		case s.inter == 0 && c == 'J':
			// Nothing protects a cell from a selective erase here, so it is an erase.
			s.eraseDisplay()
		case s.inter == 0 && c == 'K':
			s.eraseLine()
		}
		return
	default:
		if s.inter == 0 {
			s.keyboard(c)
		}
		return
	}
	switch s.inter {
	case 0:
	case ' ':
		if v := s.arg(0, 0); c == 'q' && v <= 6 {
			s.cursorStyle = uint8(v)
		}
		return
	case '!':
		if c == 'p' {
			s.softReset()
		}
		return
	default:
		return
	}
	switch c {
	case '@':
		s.x = min(s.x, s.cols-1)
		s.spoil(s.y)
		s.lines[s.y].insert(s.x, n, s.cols, s.blank())
	case 'A':
		s.moveBy(0, -n)
	case 'B':
		s.moveBy(0, n)
	case 'e':
		// The region stops it in origin mode alone.
		y := s.y + n
		if s.modes&origin != 0 {
			y -= s.top
		}
		s.goTo(min(s.x, s.cols-1), y)
	case 'C', 'a':
		s.moveBy(n, 0)
	case 'D':
		s.moveBy(-n, 0)
	case 'E':
		s.moveBy(0, n)
		s.x = 0
	case 'F':
		s.moveBy(0, -n)
		s.x = 0
	case 'G', '`':
		s.x = min(n, s.cols) - 1
	case 'H', 'f':
		s.goTo(s.arg(1, 1)-1, n-1)
	case 'I':
		s.tab(n)
	case 'Z':
		s.tab(-n)
	case 'J':
		s.eraseDisplay()
	case 'K':
		s.eraseLine()
	case 'L':
		s.x = min(s.x, s.cols-1)
		if s.inRegion() {
			s.scroll(s.y, s.bottom, -n)
			s.x = 0
		}
	case 'M':
		s.x = min(s.x, s.cols-1)
		if s.inRegion() {
			s.scroll(s.y, s.bottom, n)
			s.x = 0
		}
	case 'P':
		s.x = min(s.x, s.cols-1)
		s.spoil(s.y)
		s.lines[s.y].remove(s.x, n, s.cols, s.blank())
	case 'S':
		s.scroll(s.top, s.bottom, n)
	case 'T':
		if s.params < 5 { // those are mouse highlighting
			s.scroll(s.top, s.bottom, -n)
		}
	case 'X':
		s.x = min(s.x, s.cols-1)
		s.erase(s.y, s.x, min(s.x+n, s.cols), s.blank())
	case 'b':
		if s.repeats() {
			c := s.before()
			char, marks := c.r, c.marks
			// Programs repeat within a row; ten bytes must not fill a screen.
			for range min(n, s.cols) {
				s.put(char)
				s.before().marks = marks
			}
		}
	case 'd':
		s.goTo(min(s.x, s.cols-1), n-1)
	case 'g':
		switch s.arg(0, 0) {
		case 0:
			if s.x < s.cols {
				s.tabs[s.x] = false
			}
		case 3:
			clear(s.tabs)
		}
	case 'h', 'l':
		s.eachArg(func(v uint16) {
			switch v {
			case 4:
				s.set(insert, c == 'h')
			case 20:
				s.set(newline, c == 'h')
			}
		})
	case 'm':
		s.sgr()
	case 'r':
		top, bottom := n, min(s.arg(1, s.rows), s.rows)
		if top < bottom {
			s.top, s.bottom = top-1, bottom-1
			s.goTo(0, 0)
		}
	case 's':
		s.save()
	case 'u':
		s.restore()
	}
}

func (s *Screen) eachArg(f func(uint16)) {
	for i := 0; i < s.params; i++ {
		if !s.isSub(i) {
			f(s.param[i])
		}
	}
}

func (s *Screen) set(m mode, on bool) {
	if on {
		s.modes |= m
	} else {
		s.modes &^= m
	}
}

func (s *Screen) setPrivate(v uint16, on bool) {
	switch v {
	case 6:
		s.set(origin, on)
		s.goTo(0, 0)
	case 9, 1000, 1002, 1003:
		s.mouse = 0
		if on {
			s.mouse = v
		}
	case 1005, 1006, 1015, 1016:
		s.mouseForm = 0
		if on {
			s.mouseForm = v
		}
	case 47, 1047, 1049:
		if on {
			if v == 1049 {
				s.save()
			}
			s.enterAlt()
			return
		}
		s.leaveAlt()
		if v == 1049 {
			s.restore()
		}
	case 1048:
		if on {
			s.save()
		} else {
			s.restore()
		}
	default:
		for _, m := range decModes {
			if m.number == v {
				s.set(m.mode, on)
			}
		}
	}
}

// keyboard carries out what programs set about keys: xterm's modifyOtherKeys and kitty's flags.
func (s *Screen) keyboard(c byte) {
	k := &s.keys[s.shown()]
	switch {
	case s.prefix == '>' && c == 'm' && s.arg(0, 0) == 4:
		s.otherKeys = uint8(min(s.arg(1, 0), 3))
	case s.prefix == '>' && c == 'm' && s.arg(0, 0) == 0, s.prefix == '>' && c == 'n' && s.arg(0, 0) == 4:
		s.otherKeys = 0
	case s.prefix == '>' && c == 'u':
		if k.n == maxKeyStack {
			copy(k.flags[:], k.flags[1:])
			k.n--
		}
		k.flags[k.n] = uint8(s.arg(0, 0) & 31)
		k.n++
	case s.prefix == '<' && c == 'u':
		k.n -= min(s.arg(0, 1), k.n)
	case s.prefix == '=' && c == 'u':
		if k.n == 0 {
			k.flags[0], k.n = 0, 1
		}
		f, v := &k.flags[k.n-1], uint8(s.arg(0, 0)&31)
		switch s.arg(1, 1) {
		case 1:
			*f = v
		case 2:
			*f |= v
		case 3:
			*f &^= v
		}
	}
}

// softReset is DECSTR.
func (s *Screen) softReset() {
	s.modes = s.modes&^(cursorKeys|origin|keypad|insert|reverseWrap|bracketedPaste) | autowrap | showCursor
	s.top, s.bottom = 0, s.rows-1
	s.pen = Style{}
	s.charset, s.gl = [4]byte{'B', 'B', 'B', 'B'}, 0
	s.saved[s.shown()] = cursor{charset: s.charset}
}

// eraseDisplay is ED.
func (s *Screen) eraseDisplay() {
	y0, y1 := 0, s.rows
	blank := s.blank()
	switch s.arg(0, 0) {
	case 0:
		y0 = s.y + 1
		s.eraseLine()
	case 1:
		y1 = s.y
		s.eraseLine()
		s.lines[s.y].wrapped = false
		if s.x+1 >= s.cols && s.y+1 < s.rows {
			s.lines[s.y+1].wrapped = false
		}
	case 2:
	default:
		return
	}
	for y := y0; y < y1; y++ {
		s.say(y)
		s.lines[y].clear(blank)
	}
}

// eraseLine is EL.
func (s *Screen) eraseLine() {
	x0, x1 := 0, s.cols
	switch s.arg(0, 0) {
	case 0:
		x0 = s.x
	case 1:
		x1 = min(s.x+1, s.cols)
	case 2:
	default:
		return
	}
	s.erase(s.y, x0, x1, s.blank())
	if x0 == 0 && x1 == s.cols {
		s.lines[s.y].wrapped = false
	}
}
