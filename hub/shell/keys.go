package shell

import (
	"bytes"
	"strconv"
	"unicode"
	"unicode/utf8"
)

// key is one that a person pressed.
type key struct {
	kind keyKind
	r    rune // of a letter
	more bool // more keys were typed, or pasted, behind it
}

type keyKind uint8

const (
	noKey keyKind = iota // what was sent means nothing here
	letter
	enter
	leave // Esc, Ctrl-C, Ctrl-D
	tab
	erase
	eraseWord
	eraseAll
	redraw
	up
	down
	pageUp
	pageDown
	home
	end
)

// controls are keys by the byte they send, or by the letter that is pressed with Ctrl, less 0x60.
var controls = map[rune]keyKind{
	0x03: leave, 0x04: leave, 0x1b: leave, 0x09: tab, 0x0a: enter, 0x0d: enter, 0x0c: redraw, 0x0e: down, 0x10: up,
	0x08: erase, 0x7f: erase, 0x15: eraseAll, 0x17: eraseWord,
}

// decode reads one key of what a terminal sent. n is how many bytes it is made of; 0: more must come. last tells that nothing more comes.
func decode(b []byte, last bool) (k key, n int) {
	switch {
	case len(b) == 0:
		return key{}, 0
	case b[0] == 0x1b:
		return escape(b, last)
	case b[0] < 0x20 || b[0] == 0x7f:
		return key{kind: controls[rune(b[0])]}, 1
	case !last && !utf8.FullRune(b):
		return key{}, 0
	}
	r, n := utf8.DecodeRune(b)
	return typed(r), n
}

func typed(r rune) key {
	if r == utf8.RuneError || !unicode.IsPrint(r) {
		return key{}
	}
	return key{kind: letter, r: r}
}

// finals are keys by the byte that ends their sequence, and numbered those by the number in front of a tilde.
var (
	finals   = map[byte]keyKind{'A': up, 'B': down, 'H': home, 'F': end}
	numbered = map[int]keyKind{1: home, 7: home, 4: end, 8: end, 5: pageUp, 6: pageDown}
)

// escape reads what begins with ESC: the key of that name, or a sequence.
func escape(b []byte, last bool) (key, int) {
	switch {
	case len(b) == 1 && !last:
		return key{}, 0
	case len(b) == 1, b[1] != '[' && b[1] != 'O':
		return key{kind: leave}, 1
	}
	for i := 2; i < min(len(b), maxSequence); i++ {
		switch c := b[i]; {
		case c >= 0x40 && c <= 0x7e:
			return sequence(b[1], b[2:i], c), i + 1
		case c < 0x20 || c > 0x7e: // no sequence goes on so
			return key{}, i
		}
	}
	if last || len(b) >= maxSequence {
		return key{}, min(len(b), maxSequence)
	}
	return key{}, 0
}

// sequence reads a whole one. Bubble Tea makes terminals that can say every key with Ctrl or Shift by its code: CSI code ; modifiers u, or
// CSI 27 ; modifiers ; code ~.
func sequence(introducer byte, params []byte, final byte) key {
	if introducer == 'O' {
		if final == 'M' { // of the keypad
			return key{kind: enter}
		}
		return key{kind: finals[final]}
	}
	var p [3]int
	for i, field := range bytes.SplitN(params, []byte{';'}, 4) {
		if i == len(p) {
			return key{}
		}
		digits, _, _ := bytes.Cut(field, []byte{':'}) // what follows is the key's place, or that it was let go
		p[i], _ = strconv.Atoi(string(digits))
	}
	switch {
	case final == 'u':
		return coded(p[0], p[1])
	case final == '~' && p[0] == 27 && p[2] != 0:
		return coded(p[2], p[1])
	case final == '~':
		return key{kind: numbered[p[0]]}
	}
	return key{kind: finals[final]}
}

// coded is a key by its code and modifiers, which are one more than the bits 1 Shift, 2 Alt, 4 Ctrl.
func coded(code, modifiers int) key {
	const alt, ctrl = 2, 4
	if modifiers = max(0, modifiers-1); code <= 0 || code > unicode.MaxRune {
		return key{}
	}
	r := rune(code)
	switch {
	case r < 0x20 || r == 0x7f:
		return key{kind: controls[r]}
	case modifiers&ctrl != 0:
		if r = unicode.ToLower(r); r < 'a' || r > 'z' {
			return key{}
		}
		return key{kind: controls[r-0x60]}
	case modifiers&alt != 0:
		return key{}
	}
	return typed(r)
}
