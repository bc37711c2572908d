// Package screen follows a terminal's output, for whoever has a line of his own to say there: start from [Screen.Write], and ask before.
package screen

// Screen follows a terminal's output just far enough to know whether a line of ours would spoil what is shown: it would on the alternate
// screen, behind a part of a line, or within a control sequence. The output is a stranger's: memory is fixed, and where terminals
// disagree about a sequence the answer is no for good. The zero value is a terminal about which nothing is known yet.
type Screen struct {
	state   state
	column0 bool // the cursor is at the left margin
	alt     bool // the alternate screen is shown
	doubt   bool // something was sent that terminals understand differently
	moved   bool // since the last line feed the cursor was moved to other lines, as full-screen programs do

	more    int8 // bytes that the UTF-8 character under way still has
	private bool // CSI ?
	param   int  // number being read
	altMode bool // one of the parameters is that of the alternate screen
	middle  bool // intermediate bytes were read
}

type state uint8

const (
	inText state = iota
	inEscape
	inCSI
	inOSC    // ends by BEL or ST
	inString // DCS, SOS, PM, APC: ends by ST
)

// Free tells whether a line may be shown now.
func (s *Screen) Free() bool {
	return s.state == inText && s.more == 0 && s.column0 && !s.alt && !s.doubt
}

// Prompt tells whether text of ours may be shown now if it begins and ends with a new line: nothing full-screen is there, but there may be a
// prompt, and what was typed at it.
func (s *Screen) Prompt() bool {
	return s.state == inText && s.more == 0 && !s.alt && !s.doubt && !s.moved
}

// Write takes note of output.
func (s *Screen) Write(p []byte) {
	for _, b := range p {
		if b >= 0x20 && b < 0x7f && s.state == inText && s.more == 0 { // most of it
			s.column0 = false
			continue
		}
		s.put(b)
	}
}

func (s *Screen) put(b byte) {
	switch {
	case s.more > 0 && b&0xc0 == 0x80:
		s.more--
		return
	case s.more > 0: // not UTF-8: it may be an 8-bit terminal's
		s.more, s.doubt = 0, true
	}
	switch {
	case b >= 0x80:
		s.high(b)
	case b == 0x18 || b == 0x1a: // CAN, SUB: whatever was under way is off
		s.state = inText
	case b == 0x1b:
		s.state, s.middle = inEscape, false
	case s.state == inOSC && b == 0x07:
		s.state = inText
	case s.state == inString && b == 0x07: // some end here, some do not
		s.doubt = true
	case s.state == inOSC || s.state == inString:
	case b < 0x20: // also within a sequence
		s.control(b)
	case s.state == inEscape:
		s.escape(b)
	case s.state == inCSI:
		s.csi(b)
	default:
		s.column0 = false
	}
}

// high begins a character of more than one byte. A C1 control outside of one is for terminals that are not ours.
func (s *Screen) high(b byte) {
	switch {
	case b >= 0xc2 && b <= 0xdf:
		s.more = 1
	case b >= 0xe0 && b <= 0xef:
		s.more = 2
	case b >= 0xf0 && b <= 0xf4:
		s.more = 3
	default:
		s.doubt = true
	}
	if s.state == inText {
		s.column0 = false
	}
}

func (s *Screen) control(b byte) {
	switch b {
	case '\r':
		s.column0 = true
	case '\n':
		s.moved = false
	case '\v', '\f', 0x00, 0x07, 0x0e, 0x0f: // down, or nowhere
	default: // back, tabs and what else there may be
		s.column0 = false
	}
}

func (s *Screen) escape(b byte) {
	if b < 0x30 {
		s.middle = true
		return
	}
	s.state = inText
	switch {
	case s.middle: // a character set, as a rule
	case b == '[':
		s.state = inCSI
		s.private, s.altMode, s.param = false, false, 0
	case b == ']':
		s.state = inOSC
	case b == 'P' || b == 'X' || b == '^' || b == '_':
		s.state = inString
	case b == '\\' || b == '=' || b == '>' || b == 'D':
	case b == '7' || b == 'M':
		s.moved = true
	case b == 'c': // reset
		*s = Screen{doubt: s.doubt}
	default:
		s.column0, s.moved = false, true
	}
}

func (s *Screen) csi(b byte) {
	switch {
	case b >= '0' && b <= '9':
		s.param = min(s.param*10+int(b-'0'), 1<<20)
	case b == '?' && s.param == 0:
		s.private = true
	case b < 0x40: // the next parameter, or an intermediate
		s.endParam()
		s.middle = s.middle || b < 0x30
	default:
		s.endParam()
		s.state = inText
		s.final(b)
		s.middle = false
	}
}

func (s *Screen) endParam() {
	s.altMode = s.altMode || s.param == 47 || s.param == 1047 || s.param == 1049
	s.param = 0
}

func (s *Screen) final(b byte) {
	switch {
	case s.middle:
		s.column0 = false
	case s.altMode && (s.private && b == 'r' || !s.private && (b == 'h' || b == 'l')): // restored to what it was; ANSI or not
		s.doubt = true
	case s.altMode && b == 'h':
		s.alt = true
	case s.altMode && b == 'l':
		s.alt, s.column0, s.moved = false, false, false // where the cursor was is not known
	case b == 'm' || b == 'K' || b == 'J' || b == 'h' || b == 'l' || b == 'n' || b == 'c' || b == 't':
	case b == 'A' || b == 'B':
		s.moved = true
	case b == 'C' || b == 'D' || b == 'G' || b == 'P' || b == 'X' || b == '@': // within the line, as its editor does
		s.column0 = false
	default:
		s.column0, s.moved = false, true
	}
}
