package shell

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"hawser/auth/policy"
	"hawser/tunnel/wire"
)

// Device is one that a person may reach.
type Device struct {
	UUID   wire.UUID
	Name   string
	Online bool
	Labels []wire.Label // sorted by key; not to be changed
	Used   time.Time    // when he was on it last, as far as this hub remembers
}

// label is the value of a label, empty where there is none.
func (d *Device) label(key string) string {
	for _, l := range d.Labels {
		if l.Key == key {
			return l.Value
		}
	}
	return ""
}

// environments are the labels that say what a device is for, the first that is there.
var environments = policy.EnvironmentLabels

// environment is what a device is for; careful tells that people depend on it.
func (d *Device) environment() (name string, careful bool) {
	for _, key := range environments {
		if name = d.label(key); name != "" {
			break
		}
	}
	low := strings.ToLower(name)
	return name, strings.HasPrefix(low, "prod") || low == "live"
}

// holds tells whether a word that was searched for is in the label; capitals do not matter.
func holds(l wire.Label, word string) bool {
	return strings.Contains(strings.ToLower(l.Key+"="+l.Value), word)
}

func quote(s string) string { return wire.Quote(s, 64) }

// words are the labels as people read them.
func words(labels []wire.Label, without ...string) string {
	var b strings.Builder
	for _, l := range labels {
		if slices.Contains(without, l.Key) {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(wire.Quote(l.Key, 64) + "=" + wire.Quote(l.Value, 64))
		if b.Len() > maxLabels {
			break
		}
	}
	return b.String()
}

// sorted has those used last first, and the others by name.
func sorted(devices []Device) {
	slices.SortFunc(devices, func(a, b Device) int {
		return cmp.Or(b.Used.Compare(a.Used), strings.Compare(a.Name, b.Name))
	})
}

// selector is one of "key=glob" and "key!=glob".
type selector struct {
	key, glob string
	not       bool
}

// maxSelectors are taken of one command.
const maxSelectors = 16

// parseSelectors reads them as `hawser ls -l` does: several are divided by commas, and all must match.
func parseSelectors(text string) ([]selector, error) {
	var all []selector
	for part := range strings.SplitSeq(text, ",") {
		key, glob, ok := strings.Cut(part, "=")
		key, not := strings.CutSuffix(key, "!")
		if !ok || key == "" {
			return nil, fmt.Errorf("selector \"%s\" is not key=glob or key!=glob", wire.Quote(part, 64))
		}
		if _, err := path.Match(glob, ""); err != nil {
			return nil, fmt.Errorf("selector \"%s\": %w", wire.Quote(part, 64), err)
		}
		if all = append(all, selector{key, glob, not}); len(all) > maxSelectors {
			return nil, fmt.Errorf("more than %d selectors", maxSelectors)
		}
	}
	return all, nil
}

func (s selector) matches(d *Device) bool {
	value := d.label(s.key)
	switch s.key {
	case "name":
		value = d.Name
	case "uuid":
		value = d.UUID.String()
	}
	match, _ := path.Match(s.glob, value)
	return match != s.not
}
