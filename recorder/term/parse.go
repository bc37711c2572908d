package term

import (
	"sync"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi/parser"
)

// csiIgnore is the state of a control sequence that is not one, up to its final byte. The library's table has none.
const csiIgnore parser.State = 15

// tooMany stands for more than one intermediate: no sequence here has two.
const tooMany = 0xff

// transitions is the library's table with what a terminal does otherwise. Bytes beyond ASCII never reach it inside
// a character: characters are put together first, and of those only the C1 controls are looked up.
var transitions = sync.OnceValue(func() parser.TransitionTable {
	t := parser.GenerateTransitionTable()
	ignore := func(from, to byte, s parser.State, next parser.State) {
		t.AddRange(from, to, s, parser.IgnoreAction, next)
	}
	// Parameters after an intermediate, or a private marker among them, spoil the sequence: the rest of it must
	// not be printed.
	ignore(0x30, 0x3f, parser.CsiIntermediateState, csiIgnore)
	ignore(0x3c, 0x3f, parser.CsiParamState, csiIgnore)
	ignore(0x20, 0x3f, csiIgnore, csiIgnore)
	ignore(0x40, 0x7e, csiIgnore, parser.GroundState)
	ignore(0x7f, 0x7f, csiIgnore, csiIgnore)
	for c := 0; c < 0xa0; c++ {
		if c < 0x20 || c >= 0x80 {
			next, action := t.Transition(parser.CsiParamState, byte(c))
			if next == parser.CsiParamState {
				next = csiIgnore
			}
			t.AddOne(byte(c), csiIgnore, action, next)
		}
	}
	// A DCS may end before it began, and holds no other string.
	for _, s := range []parser.State{parser.DcsEntryState, parser.DcsParamState, parser.DcsIntermediateState} {
		ignore(0x00, 0x17, s, s)
		t.AddOne(0x1b, s, parser.ClearAction, parser.EscapeState)
		t.AddOne(0x9c, s, parser.IgnoreAction, parser.GroundState)
	}
	return t
})

// Write interprets output. It takes every byte and never fails; characters and sequences may be split across calls.
func (s *Screen) Write(p []byte) (int, error) {
	s.hook.credit = min(s.hook.credit+lineFactor*len(p), lineCredit+lineFactor*len(p))
	for i := 0; i < len(p); {
		b := p[i]
		switch {
		case s.nchar > 0:
			if b&0xc0 == 0x80 {
				s.char[s.nchar] = b
				if !utf8.FullRune(s.char[:s.nchar+1]) {
					s.nchar++
					i++
					continue
				}
				if r, n := utf8.DecodeRune(s.char[:s.nchar+1]); n > 1 {
					s.nchar = 0
					i++
					s.step(r)
					continue
				}
			}
			// One replacement for the beginning of a character; the byte that does not belong to it is taken anew.
			s.nchar = 0
			s.step(utf8.RuneError)
		case b >= 0x80:
			r, n := utf8.DecodeRune(p[i:])
			if n > 1 || utf8.FullRune(p[i:i+1]) {
				i += n
				s.step(r)
				continue
			}
			s.char[0], s.nchar = b, 1
			i++
		case s.state == parser.GroundState && b >= 0x20 && b < 0x7f:
			j := i + 1
			for j < len(p) && p[j] >= 0x20 && p[j] < 0x7f {
				j++
			}
			s.printASCII(p[i:j])
			i = j
		default:
			i++
			s.step(rune(b))
		}
	}
	return len(p), nil
}

// step takes the next character.
func (s *Screen) step(r rune) {
	if r >= 0xa0 {
		switch s.state {
		case parser.GroundState:
			s.print(r)
		case parser.OscStringState, parser.DcsStringState, parser.SosStringState, parser.PmStringState, parser.ApcStringState, csiIgnore:
		default:
			s.state = parser.GroundState
		}
		return
	}
	c := byte(r)
	from := s.state
	next, action := s.table.Transition(from, c)
	s.state = next
	if c == 0x1b {
		action = parser.ClearAction
	}
	switch action {
	case parser.PrintAction:
		s.print(r)
		return
	case parser.ExecuteAction:
		if c == 0x7f {
			return
		}
		s.single = 0
		s.execute(c)
		s.last = 0
	case parser.ClearAction:
		s.prefix, s.inter, s.params, s.sub, s.over = 0, 0, 0, 0, false
	case parser.PrefixAction:
		s.prefix = c
	case parser.CollectAction:
		if s.inter != 0 {
			c = tooMany
		}
		s.inter = c
	case parser.ParamAction:
		s.parameter(c)
	case parser.DispatchAction:
		s.single = 0
		switch from {
		case parser.EscapeState, parser.EscapeIntermediateState:
			s.escape(c)
		case parser.CsiEntryState, parser.CsiParamState, parser.CsiIntermediateState:
			s.control(c)
		}
		s.last = 0
	}
}

// parameter takes a byte of a control sequence's parameters.
func (s *Screen) parameter(c byte) {
	if s.params == 0 {
		s.param[0], s.params = 0, 1
	}
	if c == ';' || c == ':' {
		if s.params == maxParams {
			s.over = true
			return
		}
		if c == ':' {
			s.sub |= 1 << s.params
		}
		s.param[s.params] = 0
		s.params++
		return
	}
	if s.over {
		return
	}
	p := &s.param[s.params-1]
	*p = uint16(min(uint32(*p)*10+uint32(c-'0'), maxParam))
}

func (s *Screen) isSub(i int) bool { return s.sub>>i&1 != 0 }

// arg is the control sequence's parameter i, not counting sub-parameters; def if it is 0 or not there.
func (s *Screen) arg(i, def int) int {
	for j := 0; j < s.params; j++ {
		if s.isSub(j) {
			continue
		}
		if i == 0 {
			if s.param[j] != 0 {
				return int(s.param[j])
			}
			break
		}
		i--
	}
	return def
}
