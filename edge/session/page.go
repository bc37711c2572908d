package session

import (
	"strconv"
	"sync"
	"unicode"
	"unicode/utf8"

	"hawser/recorder"
	"hawser/recorder/observe"
	"hawser/tunnel/wire"
)

// page shows a session without a terminal to those who look on: who, what, and what becomes of it, line by line. It is the session's Tap, before the one that records.
type page struct {
	m    *room
	tap  Tap // nil: nobody records here
	seen *observe.Session

	mu   sync.Mutex
	row  []byte // what the process wrote on the row that it is on, since it last went to its start, with beside; empty: it begins one
	used int    // cells of it
}

const (
	// pageCols and pageRows are the size of the page's screen.
	pageCols, pageRows = 80, 24
	// lineRows are the most that a line of ours is shown on: with who came and that the session begins, a command still is on the page.
	lineRows = 16
	// maxShown of what a process writes at once is shown: more than a page has room for.
	maxShown = 4 << 10
	// beside stands before each row of the process's, and hanging before what does not fit on the first row of a line of ours: what others choose the words of
	// never stands where a line of ours begins.
	beside, hanging = "| ", "  "
)

func (m *room) openPage(kind, command string) {
	s := m.s
	p := &page{m: m, tap: s.params.Tap, seen: observe.NewSession(kind, command, false, recorder.InputOff)}
	p.seen.Attach(pageWriter{m})
	m.page, s.params.Tap = p, p
	p.line(s.params.User + ": " + kind + " on " + s.engine.config.Device() + " as " + s.params.Login)
	if command != "" {
		p.line("command: " + command)
	}
}

// cells is how many cells a character has a row's room for: two unless it is ASCII, whatever a terminal makes of it. So no row runs over its end on the page's
// screen, nor on that of a viewer whose terminal has other widths.
func cells(r rune) int {
	if r < utf8.RuneSelf {
		return 1
	}
	return 2
}

// fits tells whether so many cells have room on a row of a screen with that many columns. Its last cell stays empty: where the cursor is behind that, terminals differ.
func fits(n, cols int) bool { return n < cols }

// line adds a line of ours.
func (p *page) line(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var b []byte
	if len(p.row) > 0 {
		b = append(b, "\r\n"...)
	}
	p.row, p.used = p.row[:0], 0
	p.m.Output(appendLine(b, text, pageCols))
}

// appendLine appends a line of ours, on lineRows of a screen with that many columns at most, and how much of it is not shown.
func appendLine(b []byte, text string, cols int) []byte {
	used, rows := 0, 1
	for i, n := 0, 0; i < len(text); i += n {
		_, n = utf8.DecodeRuneInString(text[i:])
		shown := wire.Quote(text[i:i+n], 0)
		wide := 0
		for _, r := range shown {
			wide += cells(r)
		}
		if !fits(used+wide, cols) {
			b, used = append(b, "\r\n"+hanging...), len(hanging)
			if rows++; rows > lineRows {
				return append(b, "… and "+strconv.Itoa(len(text)-i)+" bytes that are not shown\r\n"...)
			}
		}
		b, used = append(b, shown...), used+wide
	}
	return append(b, "\r\n"...)
}

// print adds what the process writes. Nothing of it drives a terminal.
//
// The cursor is left at the start of the row, which is written anew when more comes: a viewer with a smaller terminal is shown the part that the cursor is in, and
// must see beside.
func (p *page) print(b []byte) {
	b = b[max(0, len(b)-maxShown):]
	p.mu.Lock()
	defer p.mu.Unlock()
	shown := append(make([]byte, 0, len(p.row)+len(b)+len(b)/8+64), p.row...)
	begin := func() {
		p.row, p.used = append(p.row[:0], beside...), len(beside)
		shown = append(shown, beside...)
	}
	for n := 0; len(b) > 0; b = b[n:] {
		var r rune
		r, n = utf8.DecodeRune(b)
		if r == '\n' {
			shown = append(shown, "\r\n"...)
			p.row, p.used = p.row[:0], 0
			continue
		}
		if len(p.row) == 0 {
			begin()
		}
		text, wide := b[:n], cells(r)
		switch {
		case r == '\r':
			shown = append(shown, '\r')
			begin()
			continue
		case r == '\t':
			wide = 8 - p.used%8
		case !unicode.IsPrint(r), r == utf8.RuneError && n == 1:
			text, wide = []byte{'.'}, 1
		}
		if !fits(p.used+wide, pageCols) {
			shown = append(shown, "\r\n"...)
			begin()
		}
		p.row, p.used = append(p.row, text...), p.used+wide
		shown = append(shown, text...)
	}
	if len(p.row) > 0 {
		shown = append(shown, '\r')
	}
	p.m.Output(shown)
}

// Start implements Tap: it was told to the one behind.
func (p *page) Start(string, string, string, []string) error { return nil }

// Input implements Tap.
func (p *page) Input(b []byte, verdict byte) bool {
	return p.m.held.GoesOn() && p.seen.Input(b, verdict) && (p.tap == nil || p.tap.Input(b, verdict))
}

// Ready implements Tap.
func (p *page) Ready() bool { return p.m.held.GoesOn() && (p.tap == nil || p.tap.Ready()) }

// Output implements Tap.
func (p *page) Output(stream byte, b []byte) bool {
	return p.m.held.GoesOn() && p.seen.Output(stream, b) && (p.tap == nil || p.tap.Output(stream, b))
}

// Resize implements Tap.
func (p *page) Resize(width, height uint32) {
	if p.tap != nil {
		p.tap.Resize(width, height)
	}
}

// Exit implements Tap.
func (p *page) Exit(status uint32, signal string) {
	p.line("ended: " + signal + " exit status " + strconv.FormatUint(uint64(status), 10))
	if p.tap != nil {
		p.tap.Exit(status, signal)
	}
}

// AgentUse implements Tap.
func (p *page) AgentUse(u recorder.AgentUse) {
	p.line("agent: " + u.What + " " + u.Fingerprint)
	if p.tap != nil {
		p.tap.AgentUse(u)
	}
}

// pageWriter is the observe.Writer of a page.
type pageWriter struct{ m *room }

func (w pageWriter) Output(_ byte, b []byte) bool {
	w.m.page.print(b)
	return true
}

func (w pageWriter) InputFrom(uint32, []byte) bool { return true }
func (w pageWriter) Passed(byte, []byte) bool      { return true }
func (w pageWriter) Withheld(recorder.Withheld)    {}
func (w pageWriter) Marker(text string)            { w.m.page.line(text) }

func (w pageWriter) FileOp(f recorder.FileOp) {
	text := f.Op + " " + f.Path
	if f.Path2 != "" {
		text += " to " + f.Path2
	}
	if n := f.Read + f.Written; n > 0 {
		text += ", " + strconv.FormatUint(n, 10) + " bytes"
	}
	if f.Status != 0 {
		text += ", refused"
	}
	w.m.page.line(text)
}
