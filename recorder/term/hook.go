package term

import "unicode/utf8"

// hook hands out the text that was on the screen.
type hook struct {
	f      func(line string, first, last int64)
	at     int64
	stint  uint32 // counts the cursor's moves from row to row
	credit int    // bytes that may be handed out
	buf    []byte
}

// Lines has f called with each line of text that was on the screen, without the blanks at its end, once: when it
// scrolls off, is erased, overwritten after the cursor had gone elsewhere, or left behind with the alternate
// screen. Rows that a long line was wrapped to are one line. first is what At had said when the line was begun, last
// when text was last put into it: from then on it was on the screen as it is handed out. A line
// that is rewritten while the cursor stays in it, as by a progress bar or while a command is typed, is handed out
// as it was at last. A program that rewrites lines faster than it writes bytes is not followed to the end: in all
// lineFactor bytes of text for each byte written.
//
// f must not call the Screen. Nothing is kept for lines of the time before Lines was called. Call Flush at the end.
func (s *Screen) Lines(f func(line string, first, last int64)) { s.hook.f = f }

// At sets what Lines' function is told for the text written from now on: the time, as the caller counts it.
func (s *Screen) At(at int64) { s.hook.at = at }

// Flush hands out the lines that are on the screen, and were not handed out yet.
func (s *Screen) Flush() {
	if s.alt {
		// Older than what is shown.
		shown := s.lines
		s.lines = s.main
		s.sayAll()
		s.lines = shown
	}
	s.sayAll()
}

func (s *Screen) sayAll() {
	for y := range s.lines {
		s.say(y)
	}
}

// wrote notes that text went into a row.
func (s *Screen) wrote(l *line) {
	if !l.unsaid {
		l.unsaid, l.first = true, s.hook.at
	}
	l.stint, l.last = s.hook.stint, s.hook.at
}

// spoil is called before text of row y is overwritten.
func (s *Screen) spoil(y int) {
	if l := s.lines[y]; l.unsaid && l.stint != s.hook.stint {
		s.say(y)
	}
}

// say hands out the line that row y is part of.
func (s *Screen) say(y int) {
	if !s.lines[y].unsaid {
		return
	}
	from, to := y, y
	for from > 0 && s.lines[from].wrapped {
		from--
	}
	for to+1 < len(s.lines) && s.lines[to+1].wrapped {
		to++
	}
	first, last := s.lines[y].first, s.lines[y].last
	cost := 0
	for _, l := range s.lines[from : to+1] {
		if l.unsaid {
			first, last = min(first, l.first), max(last, l.last)
		}
		l.unsaid = false
		cost += len(l.cells)
	}
	// What cannot be paid for is not put together either.
	if s.hook.f == nil || s.hook.credit < cost {
		return
	}
	b := s.hook.buf[:0]
	for i := from; i <= to && len(b) < maxLine; i++ {
		b = s.appendText(b, s.lines[i])
	}
	s.hook.buf = b[:0]
	if n := maxLine; n < len(b) {
		for !utf8.RuneStart(b[n]) {
			n--
		}
		b = b[:n]
	}
	b = trimBlanks(b)
	cost = max(cost, len(b))
	if s.hook.credit -= cost; len(b) == 0 || s.hook.credit < 0 {
		s.hook.credit = max(s.hook.credit, 0)
		return
	}
	s.hook.f(string(b), first, last)
}
