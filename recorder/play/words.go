package play

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxWords bounds a remark, in bytes.
const maxWords = 1 << 10

// plainWords makes one line of text of what others wrote.
func plainWords(s string) string {
	if len(s) > maxWords {
		s = strings.ToValidUTF8(s[:maxWords], "")
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n' || r == '\r':
			return ' '
		case !unicode.IsPrint(r):
			return utf8.RuneError
		}
		return r
	}, s)
}
