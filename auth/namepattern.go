package auth

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"hawser/tunnel/wire"
)

// A name pattern is what a token says of the names of the devices that join by it. With "*", "?" or "[" it is a glob that the wished name
// must match. Else it is the name, in which {name}, {hostname}, {serial}, {mac}, {label:KEY} stand for what the device says of itself, {n} for
// the number of the token's use, and {n:4} for that with four digits.

// wish is what a name is made of.
type wish struct {
	name, hostname, serial, mac string
	labels                      map[string]string
	n                           uint32
}

func isGlob(pattern string) bool { return strings.ContainsAny(pattern, "*?[") }

// checkPattern tells what is wrong with a pattern; the empty one is none.
func checkPattern(pattern string) error {
	switch {
	case pattern == "":
		return nil
	case len(pattern) > maxPattern:
		return invalid("the name pattern has more than %d bytes", maxPattern)
	case isGlob(pattern):
		if _, err := path.Match(pattern, ""); err != nil || strings.ContainsAny(pattern, "{}/\\") {
			return invalid("name pattern %q: a glob has *, ? and [a-z] beside the characters of names, and no {placeholders}", wire.Quote(pattern, 64))
		}
		return nil
	}
	// Any device's name will do to find what is wrong with the text.
	labels := make(map[string]string)
	for rest := pattern; ; {
		_, after, ok := strings.Cut(rest, "{label:")
		if !ok {
			break
		}
		key, _, _ := strings.Cut(after, "}")
		labels[key], rest = "x", after
	}
	_, err := nameBy(pattern, wish{name: "x", hostname: "x", serial: "x", mac: "x", labels: labels, n: 1})
	return err
}

// nameBy returns the name a device gets by a pattern, before it is made unique.
func nameBy(pattern string, w wish) (string, error) {
	wished := w.name
	if wished == "" {
		wished = wire.CleanName(w.hostname)
	}
	if pattern == "" {
		return wished, nil
	}
	if isGlob(pattern) {
		if ok, err := path.Match(pattern, wished); err != nil || !ok {
			return "", fmt.Errorf("the token is for names that match %q, and this device would be %q; give it another with --name", wire.Quote(pattern, 64), wire.Quote(wished, 64))
		}
		return wished, nil
	}
	var b strings.Builder
	for rest := pattern; rest != ""; {
		text, after, open := strings.Cut(rest, "{")
		if strings.ContainsFunc(text, func(r rune) bool { return !nameRune(r) }) {
			return "", invalid("name pattern %q: names have a-z, 0-9, - and _", wire.Quote(pattern, 64))
		}
		b.WriteString(text)
		if !open {
			break
		}
		key, more, closed := strings.Cut(after, "}")
		if !closed {
			return "", invalid("name pattern %q: a } is missing", wire.Quote(pattern, 64))
		}
		value, err := w.value(key, wished)
		if err != nil {
			return "", err
		}
		if value == "" {
			return "", fmt.Errorf("the token makes the name of the device's %s, and this one does not say it", wire.Quote(key, 64))
		}
		b.WriteString(value)
		rest = more
	}
	return wire.CleanName(b.String()), nil
}

func nameRune(r rune) bool {
	return 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '_'
}

func (w wish) value(key, wished string) (string, error) {
	kind, arg, _ := strings.Cut(key, ":")
	switch kind {
	case "name":
		return wished, nil
	case "hostname":
		return wire.CleanName(w.hostname), nil
	case "serial":
		return clean(w.serial), nil
	case "mac":
		return clean(strings.ReplaceAll(w.mac, ":", "")), nil
	case "label":
		return clean(w.labels[arg]), nil
	case "n":
		digits := 0
		if arg != "" {
			n, err := strconv.Atoi(arg)
			if err != nil || n < 1 || n > 9 {
				return "", invalid("{n:%s}: the number of digits is 1 to 9", wire.Quote(arg, 16))
			}
			digits = n
		}
		return fmt.Sprintf("%0*d", digits, w.n), nil
	}
	return "", invalid("{%s} is none of {name}, {hostname}, {serial}, {mac}, {label:KEY}, {n} and {n:DIGITS}", wire.Quote(key, 32))
}

// clean is CleanName for a part of a name, dots and all; empty stays empty.
func clean(text string) string {
	text = strings.ReplaceAll(strings.TrimSpace(text), ".", "-")
	if text == "" {
		return ""
	}
	return wire.CleanName(text)
}
