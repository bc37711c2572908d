package wire

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// reserved are names a device may not have: they mean the hub, the cluster or this machine.
var reserved = map[string]bool{"hub": true, "cluster": true, "localhost": true, "hawser": true}

// endToEndPrefix marks the alias of a device reached end to end; a device of that name would shadow it.
const endToEndPrefix = "e2e-"

// CheckDeviceName tells whether s is a device name: [a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?, and not reserved. The error
// says what is wrong and may be shown to people.
func CheckDeviceName(s string) error {
	shown := Quote(s, 80)
	switch {
	case s == "":
		return fmt.Errorf("device name is empty; give one of a-z, 0-9, - and _")
	case len(s) > maxName:
		return fmt.Errorf("device name %q has %d bytes; at most %d are allowed", shown, len(s), maxName)
	case reserved[s]:
		return fmt.Errorf("device name %q is reserved; choose another", shown)
	case strings.HasPrefix(s, endToEndPrefix):
		return fmt.Errorf("device name %q begins with the reserved %q; choose another", shown, endToEndPrefix)
	}
	for i := range len(s) {
		alnum := 'a' <= s[i] && s[i] <= 'z' || '0' <= s[i] && s[i] <= '9'
		if inner := 0 < i && i < len(s)-1; !alnum && (!inner || s[i] != '-' && s[i] != '_') {
			return fmt.Errorf("device name %q is not allowed; use a-z and 0-9, and - or _ inside", shown)
		}
	}
	return nil
}

// CleanName makes a device name of a hostname: its first label, lower-cased, other characters as "-". The result
// passes CheckDeviceName whatever it was given; what leaves nothing becomes "device".
func CleanName(hostname string) string {
	if dot := strings.IndexByte(hostname, '.'); dot > 0 {
		hostname = hostname[:dot]
	}
	var b strings.Builder
	for _, r := range hostname {
		if b.Len() == maxName {
			break
		}
		switch r = unicode.ToLower(r); {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9', r == '_':
			b.WriteRune(r)
		default:
			b.WriteByte('-')
		}
	}
	name := strings.Trim(b.String(), "-_")
	for strings.HasPrefix(name, endToEndPrefix) {
		name = strings.TrimLeft(strings.TrimPrefix(name, endToEndPrefix), "-_")
	}
	switch {
	case name == "":
		return "device"
	case reserved[name]:
		return name + "-device"
	}
	return name
}

// Quote makes s safe for logs and terminals: control characters (C0, DEL, C1), invalid UTF-8, line separators, bidi and
// other invisible format characters, the double quote and the backslash become Go escapes, so that the result may
// stand between double quotes and drives no terminal. At most limit bytes of s are shown, then "…"; limit <= 0 is no limit.
func Quote(s string, limit int) string {
	cut := limit > 0 && len(s) > limit
	if cut {
		s = s[:limit]
		for n := 0; n < utf8.UTFMax-1 && len(s) > 0; n++ { // do not cut inside a rune
			if r, size := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || size != 1 {
				break
			}
			s = s[:len(s)-1]
		}
	}
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1, r < 0x20, r == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '"', r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == ' ' || unicode.IsPrint(r):
			b.WriteRune(r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
		i += size
	}
	if cut {
		b.WriteString("…")
	}
	return b.String()
}
