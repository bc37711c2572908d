package term

import "strconv"

// Color is a colour of a cell: the default (zero), an index of the palette, or red, green and blue.
type Color uint32

const (
	colorKind Color = 3 << 24
	basic     Color = 1 << 24 // one of the 16, set by SGR 30 to 37 and 90 to 97
	indexed   Color = 2 << 24 // one of the 256, set by SGR 38;5
	direct    Color = 3 << 24
)

// Default reports whether it is the terminal's own colour.
func (c Color) Default() bool { return c&colorKind == 0 }

// Index is the colour's place in the palette of 256; false if it is the default or given as red, green and blue.
func (c Color) Index() (uint8, bool) {
	k := c & colorKind
	return uint8(c), k == basic || k == indexed
}

// RGB are the colour's red, green and blue; false if it has an index or is the default.
func (c Color) RGB() (r, g, b uint8, ok bool) {
	return uint8(c >> 16), uint8(c >> 8), uint8(c), c&colorKind == direct
}

// Attr is a set of a cell's attributes.
type Attr uint16

// The attributes.
const (
	Bold Attr = 1 << iota
	Faint
	Italic
	Blink
	Reverse
	Conceal
	Strike
	Overline
	underlineShift = iota
	underlineMask  = 7 << underlineShift
)

// Underline is a style of underlining.
type Underline uint8

// The underline styles, in SGR 4's numbers.
const (
	NoUnderline Underline = iota
	SingleUnderline
	DoubleUnderline
	CurlyUnderline
	DottedUnderline
	DashedUnderline
)

// Style is how a cell looks. Styles can be compared.
type Style struct {
	FG, BG Color
	// Line is the underline's colour; the default is the text's.
	Line Color
	Attr Attr
}

// Underline is the style's underlining.
func (s Style) Underline() Underline { return Underline(s.Attr & underlineMask >> underlineShift) }

func (s *Style) underline(u Underline) {
	s.Attr = s.Attr&^underlineMask | Attr(u)<<underlineShift
}

// sgr carries out Select Graphic Rendition.
func (s *Screen) sgr() {
	if s.params == 0 {
		s.param, s.sub, s.params = [maxParams]uint16{}, 0, 1
	}
	p := &s.pen
	for i := 0; i < s.params; i++ {
		v := s.param[i]
		// subs are the sub-parameters, after colons.
		subs := 0
		for i+subs+1 < s.params && s.isSub(i+subs+1) {
			subs++
		}
		switch {
		case v == 0:
			*p = Style{}
		case v == 4 && subs > 0:
			u := Underline(min(s.param[i+1], 255))
			if u > DashedUnderline {
				u = SingleUnderline
			}
			p.underline(u)
		case v == 38 || v == 48 || v == 58:
			c, ok, used := s.color(i, subs)
			if ok {
				switch v {
				case 38:
					p.FG = c
				case 48:
					p.BG = c
				default:
					p.Line = c
				}
			}
			i += used
			continue
		case v >= 30 && v <= 37:
			p.FG = basic | Color(v-30)
		case v >= 40 && v <= 47:
			p.BG = basic | Color(v-40)
		case v >= 90 && v <= 97:
			p.FG = basic | Color(v-90+8)
		case v >= 100 && v <= 107:
			p.BG = basic | Color(v-100+8)
		case v == 39:
			p.FG = 0
		case v == 49:
			p.BG = 0
		case v == 59:
			p.Line = 0
		case v == 4:
			p.underline(SingleUnderline)
		case v == 21:
			p.underline(DoubleUnderline)
		case v == 24:
			p.underline(NoUnderline)
		case v == 22:
			p.Attr &^= Bold | Faint
		default:
			for _, a := range sgrAttr {
				if v == uint16(a.on) {
					p.Attr |= a.attr
				} else if v == uint16(a.off) {
					p.Attr &^= a.attr
				}
			}
		}
		i += subs
	}
}

// sgrAttr are the attributes that SGR switches on and off by a number each. Rapid blinking is blinking.
var sgrAttr = [...]struct {
	on, off uint8
	attr    Attr
}{
	{1, 22, Bold}, {2, 22, Faint}, {3, 23, Italic}, {5, 25, Blink}, {6, 25, Blink}, {7, 27, Reverse},
	{8, 28, Conceal}, {9, 29, Strike}, {53, 55, Overline},
}

// color reads the colour after a 38, 48 or 58 at i, with colons (ISO 8613-6, with or without its colour space) or
// semicolons (xterm). used is how many parameters it took.
func (s *Screen) color(i, subs int) (c Color, ok bool, used int) {
	colons := subs > 0
	rest := s.param[i+1 : s.params]
	if colons {
		rest = s.param[i+1 : i+1+subs]
	}
	if len(rest) == 0 {
		return 0, false, 0
	}
	at := func(n int) Color {
		if n < len(rest) {
			return Color(rest[n] & 0xff)
		}
		return 0
	}
	switch rest[0] {
	case 5:
		c, ok, used = indexed|at(1), true, 2
	case 2:
		n := 1
		if colons && len(rest) >= 5 {
			n = 2
		}
		c, ok, used = direct|at(n)<<16|at(n+1)<<8|at(n+2), true, 4
	default:
		// An unknown kind: what follows cannot be told from other renditions.
		used = len(rest)
	}
	if colons {
		used = subs
	}
	return c, ok, min(used, len(rest))
}

// Append appends the rendition that makes a terminal of any state draw as s says.
func (s Style) Append(b []byte) []byte {
	b = append(b, "\x1b[0"...)
	for _, a := range sgrAttr {
		if s.Attr&a.attr != 0 && a.on != 6 {
			b = strconv.AppendInt(append(b, ';'), int64(a.on), 10)
		}
	}
	switch u := s.Underline(); u {
	case NoUnderline:
	case SingleUnderline:
		b = append(b, ";4"...)
	default:
		b = append(b, ';', '4', ':', '0'+byte(u))
	}
	b = s.FG.append(b, 30)
	b = s.BG.append(b, 40)
	b = s.Line.append(b, 50)
	return append(b, 'm')
}

// append appends the parameters that set the colour of base: 30 text, 40 background, 50 underline.
func (c Color) append(b []byte, base int) []byte {
	// An underline's colour is given with colons: who does not know 58 must not take what follows for something.
	sep := byte(';')
	if base == 50 {
		sep = ':'
	}
	num := func(lead byte, v int) { b = strconv.AppendInt(append(b, lead), int64(v), 10) }
	switch c & colorKind {
	case basic:
		if i := int(c & 0xff); i < 8 {
			num(';', base+i)
		} else {
			num(';', base+60+i-8)
		}
	case indexed:
		num(';', base+8)
		num(sep, 5)
		num(sep, int(c&0xff))
	case direct:
		num(';', base+8)
		num(sep, 2)
		if sep == ':' {
			b = append(b, ':')
		}
		for shift := 16; shift >= 0; shift -= 8 {
			num(sep, int(c>>shift&0xff))
		}
	}
	return b
}
