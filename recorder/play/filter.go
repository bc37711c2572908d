package play

import (
	"bytes"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Filter passes text, colours and cursor movement on and drops whatever else a terminal understands: OSC, DCS,
// APC, PM and SOS strings, titles, queries a terminal would answer, mouse, paste and keyboard modes, printing,
// window operations, character-set switches and marks that turn text around. What it does not know it drops.
type Filter struct {
	out     io.Writer
	state   state
	seq     []byte // the sequence so far, after ESC
	char    []byte // an unfinished UTF-8 character
	buf     bytes.Buffer
	length  int // of the string being dropped
	alt     bool
	touched bool
	moved   bool // margins, or where positions count from
}

type state uint8

const (
	text state = iota
	escape
	csi
	str    // in a string, dropped until ST or BEL
	strEsc // in a string, after ESC
)

const (
	maxSequence = 128     // bytes of a control sequence; a longer one is dropped
	maxString   = 1 << 20 // bytes of a string; an endless one must not hide the rest
)

// NewFilter filters what is written to it on to out.
func NewFilter(out io.Writer) *Filter { return &Filter{out: out} }

// Write implements io.Writer. Sequences and characters may be split across calls.
func (f *Filter) Write(p []byte) (int, error) {
	f.buf.Reset()
	for _, b := range p {
		f.utf8(b)
	}
	if _, err := f.out.Write(f.buf.Bytes()); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Restore brings the terminal back after what was passed on: main screen, visible cursor, plain text, no modes, no margins. Where there were
// margins the cursor goes to the last row: what takes them back loses its place.
func (f *Filter) Restore() error {
	if !f.touched {
		return nil
	}
	s := "\x1b[m\x1b[?5;12;2026l\x1b[?7;25h\x1b[4l\x1b[20l\x1b[0 q\x1b>\x1b(B\x1b)B"
	if f.alt {
		s = "\x1b[?1049l" + s
	}
	if f.moved {
		s += "\x1b[?69l\x1b[?6l\x1b[r\x1b[9999H"
	}
	_, err := io.WriteString(f.out, s)
	return err
}

// utf8 collects whole characters, so that a byte of 0x80 to 0x9f inside one is not taken for a C1 control.
// A C1 control character is treated as its two-byte form, an invalid byte becomes U+FFFD.
func (f *Filter) utf8(b byte) {
	if len(f.char) > 0 && b&0xc0 != 0x80 {
		f.char = f.char[:0]
		f.rune([]byte("\ufffd"))
	}
	if b < 0x80 {
		f.byte(b)
		return
	}
	f.char = append(f.char, b)
	if !utf8.FullRune(f.char) {
		return
	}
	r, _ := utf8.DecodeRune(f.char)
	whole := f.char
	f.char = f.char[:0]
	switch {
	case r >= 0x80 && r < 0xa0:
		f.byte(0x1b)
		f.byte(byte(r) - 0x40)
	case r == utf8.RuneError:
		f.rune([]byte("\ufffd"))
	default:
		f.rune(whole)
	}
}

// rune handles a character beyond ASCII: text, or the inside of a string, or the end of a broken sequence.
func (f *Filter) rune(c []byte) {
	switch f.state {
	case str, strEsc:
		f.state = str
		f.dropped(len(c))
	default:
		f.state = text
		if r, _ := utf8.DecodeRune(c); !unicode.Is(unicode.Bidi_Control, r) {
			f.buf.Write(c)
		}
	}
}

// dropped counts a string's bytes and gives up on an endless one.
func (f *Filter) dropped(n int) {
	if f.length += n; f.length > maxString {
		f.state = text
	}
}

func (f *Filter) byte(b byte) {
	switch f.state {
	case str:
		switch b {
		case 0x07, 0x18, 0x1a:
			f.state = text
		case 0x1b:
			f.state = strEsc
		default:
			f.dropped(1)
		}
		return
	case strEsc:
		if b == '\\' {
			f.state = text
			return
		}
		f.state, f.seq = escape, f.seq[:0] // as xterm: another sequence ends the string
	}
	switch {
	case b == 0x1b:
		f.state, f.seq = escape, f.seq[:0]
	case b == 0x18 || b == 0x1a:
		f.state = text
	case b < 0x20 || b == 0x7f:
		if b >= 0x07 && b <= 0x0d {
			f.buf.WriteByte(b)
		}
	case f.state == text:
		f.buf.WriteByte(b)
	case f.state == escape:
		f.escape(b)
	default:
		f.csi(b)
	}
}

// escape handles the bytes after ESC.
func (f *Filter) escape(b byte) {
	if len(f.seq) == 0 {
		switch b {
		case '[':
			f.state = csi
			return
		case ']', 'P', '_', '^', 'X', 'k': // k: the title of GNU screen
			f.state, f.length = str, 0
			return
		}
	}
	if b < 0x30 {
		if f.seq = append(f.seq, b); len(f.seq) > 4 {
			f.state = text
		}
		return
	}
	f.state = text
	switch {
	case len(f.seq) == 0 && strings.IndexByte("78DEHM=>", b) >= 0,
		len(f.seq) == 1 && (f.seq[0] == '(' || f.seq[0] == ')') && strings.IndexByte("0AB", b) >= 0,
		len(f.seq) == 1 && f.seq[0] == '#' && b == '8':
		f.pass("\x1b", b)
	}
}

// csi handles the bytes after CSI.
func (f *Filter) csi(b byte) {
	if b < 0x40 {
		if f.seq = append(f.seq, b); len(f.seq) > maxSequence {
			f.state = text
		}
		return
	}
	f.state = text
	params := string(f.seq)
	switch {
	case params == "!" && b == 'p', strings.HasSuffix(params, " ") && b == 'q' && plain(params[:len(params)-1]):
		f.pass("\x1b[", b)
	case plain(params) && strings.IndexByte("@ABCDEFGHIJKLMPSTXZ`abdefgmrsu", b) >= 0:
		f.moved = f.moved || b == 'r'
		f.pass("\x1b[", b)
	case b == 'h' || b == 'l':
		f.mode(params, b)
	}
}

// plain tells whether parameters are numbers a terminal handles in no time.
func plain(params string) bool {
	digits := 0
	for i := range len(params) {
		switch c := params[i]; {
		case c >= '0' && c <= '9':
			if digits++; digits > 4 {
				return false
			}
		case c == ';' || c == ':':
			digits = 0
		default:
			return false
		}
	}
	return true
}

// mode passes on those of the modes that only change how output looks.
func (f *Filter) mode(params string, b byte) {
	allowed, prefix := " 4 20 ", ""
	if rest, private := strings.CutPrefix(params, "?"); private {
		allowed, prefix, params = " 5 6 7 12 25 47 69 1047 1048 1049 2026 ", "?", rest
	}
	var kept []string
	for _, p := range strings.Split(params, ";") {
		if p == "" || !plain(p) || !strings.Contains(allowed, " "+p+" ") {
			continue
		}
		kept = append(kept, p)
		f.moved = f.moved || p == "6" || p == "69"
		if prefix != "" && (p == "47" || p == "1047" || p == "1049") {
			f.alt = b == 'h'
		}
	}
	if len(kept) > 0 {
		f.seq = append(f.seq[:0], prefix+strings.Join(kept, ";")...)
		f.pass("\x1b[", b)
	}
}

func (f *Filter) pass(intro string, final byte) {
	f.touched = true
	f.buf.WriteString(intro)
	f.buf.Write(f.seq)
	f.buf.WriteByte(final)
}
