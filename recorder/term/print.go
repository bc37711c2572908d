package term

// drawing is what the DEC special characters from 0x60 to 0x7e look like.
var drawing = [...]rune{
	'◆', '▒', '␉', '␌', '␍', '␊', '°', '±', '␤', '␋', '┘', '┐', '┌', '└', '┼', '⎺',
	'⎻', '─', '⎼', '⎽', '├', '┤', '┴', '┬', '│', '≤', '≥', 'π', '≠', '£', '·',
}

// shifted is what a printable ASCII character stands for in the set that is in use.
func (s *Screen) shifted(r rune) rune {
	set := s.charset[s.gl]
	if s.single != 0 {
		set = s.charset[s.single-1]
	}
	switch {
	case set == '0' && r >= 0x60 && r < 0x7f:
		return drawing[r-0x60]
	case set == 'A' && r == '#':
		return '£'
	}
	return r
}

// printASCII prints a run of printable ASCII.
func (s *Screen) printASCII(p []byte) {
	if s.single != 0 || s.charset[s.gl] != 'B' || s.modes&(insert|autowrap) != autowrap {
		for _, b := range p {
			s.print(rune(b))
		}
		return
	}
	s.last = rune(p[len(p)-1])
	for len(p) > 0 {
		if s.x >= s.cols {
			s.wrap()
		}
		l := s.lines[s.y]
		n := min(len(p), s.cols-s.x)
		end := s.x + n
		l.split(s.x, &cell{style: s.pen})
		l.split(end, &cell{style: s.pen})
		l.grow(end, s.cols)
		cells := l.cells[s.x:end]
		spoilt := !l.unsaid || l.stint == s.hook.stint
		for i := range cells {
			c := &cells[i]
			if !spoilt && c.r > ' ' && c.r != rune(p[i]) {
				s.say(s.y)
				spoilt = true
			}
			*c = cell{r: rune(p[i]), style: s.pen}
		}
		s.wrote(l)
		s.x = end
		p = p[n:]
	}
}

// wrap goes to the next row's start because the text ran over the end, or back to the last column where that is
// switched off.
func (s *Screen) wrap() {
	if s.modes&autowrap == 0 {
		s.x = s.cols - 1
		return
	}
	s.x = 0
	if s.down() {
		s.lines[s.y].wrapped = true
	}
}

// print prints a character that was written.
func (s *Screen) print(r rune) {
	if r < 0x7f {
		r = s.shifted(r)
	}
	s.single = 0
	s.put(r)
}

// put puts a character at the cursor.
func (s *Screen) put(r rune) {
	w := width(r)
	if w == 0 {
		s.join(r)
		return
	}
	if s.x+w > s.cols {
		if s.modes&autowrap == 0 && w == 2 {
			s.x, s.last = s.cols-1, 0
			return
		}
		if s.x < s.cols {
			// A wide character before the last column: that stays empty.
			s.erase(s.y, s.x, s.cols, &cell{style: s.pen})
		}
		s.wrap()
	}
	l := s.lines[s.y]
	blank := &cell{style: s.pen}
	if s.modes&insert != 0 {
		s.spoil(s.y)
		l.insert(s.x, w, s.cols, blank)
	}
	end := s.x + w
	l.split(s.x, blank)
	l.split(end, blank)
	l.grow(end, s.cols)
	if old := l.cells[s.x].r; old > ' ' && old != r {
		s.spoil(s.y)
	}
	l.cells[s.x] = cell{r: r, style: s.pen}
	if w == 2 {
		l.cells[s.x+1] = cell{r: second, style: s.pen}
	}
	s.wrote(l)
	s.x = end
	s.last = r
}

// join adds a mark to the character before the cursor.
func (s *Screen) join(r rune) {
	if s.x == 0 || !mark(r) {
		return
	}
	l := s.lines[s.y]
	x := s.x - 1
	l.grow(x+1, s.cols)
	if l.cells[x].r == second {
		x--
	}
	c := &l.cells[x]
	if c.r == 0 {
		c.r = ' '
	}
	for i := range c.marks {
		if c.marks[i] == 0 {
			c.marks[i] = uint16(r)
			s.wrote(l)
			break
		}
	}
}
