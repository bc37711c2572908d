package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// FromMap reads a role from what a YAML or JSON decoder makes of the resource, and validates it. Its error joins every
// problem, each with the path of its key; a key that is not known, or a value of the wrong kind, is one. Durations are
// strings such as 15m, or 0; a list of one may be written without brackets.
func FromMap(m map[string]any) (Role, error) {
	var r Role
	d := &decoder{}
	rest := maps.Clone(m)
	if kind, ok := rest["kind"]; !ok || kind != "role" {
		d.add("kind", "is not role")
	}
	delete(rest, "kind")
	d.object("", rest, r.fields())
	if _, builtin := Builtin(r.Name); builtin {
		d.add("name", "role %s is built in; choose another name", r.Name)
	}
	if len(d.problems) == 0 {
		d.problems = Validate(r)
	}
	if len(d.problems) > 0 {
		return Role{}, errors.Join(d.problems...)
	}
	return r, nil
}

// ToMap is the reverse of FromMap: absent what has its zero value, of strings, numbers, lists ([]any) and maps only.
func (r Role) ToMap() map[string]any {
	m := toMap(r.fields())
	m["kind"] = "role"
	return m
}

type decoder struct{ validator }

func (d *decoder) object(path string, v any, fields []field) {
	if v == nil {
		return // a key with nothing behind it, in YAML
	}
	m, ok := v.(map[string]any)
	if !ok {
		d.add(strings.TrimSuffix(path, "."), "wants keys and values")
		return
	}
	for _, key := range sortedKeys(m) {
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == key })
		if i < 0 {
			d.add(fmt.Sprintf("%s%.100s", path, quoteOdd(key)), "unknown key")
			continue
		}
		d.value(path+key, m[key], fields[i].at)
	}
}

func (d *decoder) value(path string, v, at any) {
	switch p := at.(type) {
	case *string:
		*p = d.text(path, v)
	case *bool:
		b, ok := v.(bool)
		if !ok {
			d.add(path, "wants true or false")
		}
		*p = b
	case *int:
		*p = d.count(path, v)
	case *time.Duration:
		*p = d.duration(path, v)
	case **time.Duration:
		*p = new(d.duration(path, v))
	case *[]string:
		*p = d.list(path, v)
	case *map[string][]string:
		m, ok := v.(map[string]any)
		if !ok {
			d.add(path, "wants labels and values, such as {site: [ber]}")
			return
		}
		*p = make(map[string][]string, len(m))
		for _, key := range sortedKeys(m) {
			(*p)[key] = d.list(path+"."+quoteOdd(key), m[key])
		}
	case table:
		d.object(path+".", v, p.fields())
	case *[]Moderators:
		one := func(at string, e any) {
			var m Moderators
			d.object(at+".", e, m.fields())
			*p = append(*p, m)
		}
		if _, ok := v.(map[string]any); ok { // one needs no brackets
			one(path, v)
			return
		}
		d.elements(path, v, one)
	case *[]Join:
		d.elements(path, v, func(at string, e any) {
			var j Join
			d.object(at+".", e, j.fields())
			*p = append(*p, j)
		})
	case *[]RetentionRule:
		d.elements(path, v, func(at string, e any) {
			var r RetentionRule
			d.object(at+".", e, r.fields())
			*p = append(*p, r)
		})
	case *[]Admin:
		d.elements(path, v, func(at string, e any) {
			var a Admin
			d.object(at+".", e, a.fields())
			*p = append(*p, a)
		})
	default:
		panic(fmt.Sprintf("policy: field of type %T", at)) // a table in fields.go names a type not handled here
	}
}

func (d *decoder) elements(path string, v any, f func(at string, e any)) {
	list, ok := v.([]any)
	if !ok || len(list) > maxList {
		d.add(path, "wants a list of at most %d", maxList)
		return
	}
	for i, e := range list {
		f(fmt.Sprintf("%s[%d]", path, i), e)
	}
}

func (d *decoder) text(path string, v any) string {
	s, ok := v.(string)
	if b, isBool := v.(bool); isBool && !b {
		return "off" // YAML 1.1 readers take a bare off for false
	}
	if !ok {
		d.add(path, "wants text")
	}
	return s
}

func (d *decoder) count(path string, v any) int {
	var n int64
	switch v := v.(type) {
	case int:
		n = int64(v)
	case int64:
		n = v
	case uint64:
		n = int64(min(v, 1<<40))
	case float64:
		n = int64(v)
		if float64(n) != v {
			n = -1
		}
	default:
		n = -1
	}
	if n < 0 || n > 1<<30 {
		d.add(path, "wants a whole number, 0 or more")
		return 0
	}
	return int(n)
}

func (d *decoder) duration(path string, v any) time.Duration {
	if v == 0 || v == int64(0) || v == float64(0) {
		return 0
	}
	s, _ := v.(string)
	t, err := parseDuration(s)
	if err != nil || t < 0 {
		d.add(path, "wants a duration such as 15m or 8h")
		return 0
	}
	return t
}

func (d *decoder) list(path string, v any) []string {
	if s, ok := v.(string); ok {
		return []string{s}
	}
	var out []string
	switch list := v.(type) {
	case nil:
	case []string:
		out = slices.Clone(list)
	case []any:
		for i, e := range list {
			s, ok := e.(string)
			if !ok {
				d.add(fmt.Sprintf("%s[%d]", path, i), "wants text; quote it")
			}
			out = append(out, s)
		}
	default:
		d.add(path, "wants a list")
	}
	return out
}

// parseDuration is time.ParseDuration that takes days too, 90d.
func parseDuration(s string) (time.Duration, error) {
	if n, ok := strings.CutSuffix(s, "d"); ok {
		days, err := strconv.ParseUint(n, 10, 16)
		return time.Duration(days) * 24 * time.Hour, err
	}
	return time.ParseDuration(s)
}

// toWholeMap is toMap with the zero values in it, but for empty text.
func toWholeMap(fields []field) map[string]any {
	m := toMap(fields)
	for _, f := range fields {
		switch p := f.at.(type) {
		case *bool:
			m[f.key] = *p
		case *int:
			m[f.key] = *p
		case *time.Duration:
			m[f.key] = durationText(*p)
		case *[]string:
			if len(*p) == 0 {
				m[f.key] = []any{}
			}
		case table:
			m[f.key] = toWholeMap(p.fields())
		}
	}
	return m
}

func toMap(fields []field) map[string]any {
	m := make(map[string]any)
	for _, f := range fields {
		if v := plain(f.at); v != nil {
			m[f.key] = v
		}
	}
	return m
}

// plain returns the value behind a field's pointer, nil when it is the zero value.
func plain(at any) any {
	switch p := at.(type) {
	case *string:
		if *p != "" {
			return *p
		}
	case *bool:
		if *p {
			return true
		}
	case *int:
		if *p != 0 {
			return *p
		}
	case *time.Duration:
		if *p != 0 {
			return durationText(*p)
		}
	case **time.Duration:
		if *p != nil {
			return durationText(**p)
		}
	case *[]string:
		return anyList(*p)
	case *map[string][]string:
		if len(*p) > 0 {
			m := make(map[string]any, len(*p))
			for k, v := range *p {
				m[k] = anyList(v)
			}
			return m
		}
	case table:
		return nonEmpty(toMap(p.fields()))
	case *[]Moderators:
		var list []any
		for _, m := range *p {
			list = append(list, toMap(m.fields()))
		}
		return nonEmptyList(list)
	case *[]Join:
		var list []any
		for _, j := range *p {
			list = append(list, toMap(j.fields()))
		}
		return nonEmptyList(list)
	case *[]RetentionRule:
		var list []any
		for _, r := range *p {
			m := toMap(r.fields())
			m["recordings"] = durationText(r.Recordings) // 0s says something here
			list = append(list, m)
		}
		return nonEmptyList(list)
	case *[]Admin:
		var list []any
		for _, a := range *p {
			list = append(list, toMap(a.fields()))
		}
		return nonEmptyList(list)
	}
	return nil
}

func anyList(list []string) any {
	var out []any
	for _, s := range list {
		out = append(out, s)
	}
	return nonEmptyList(out)
}

// nonEmpty and nonEmptyList turn what is empty into an untyped nil.
func nonEmpty(m map[string]any) any {
	if len(m) == 0 {
		return nil
	}
	return m
}

func nonEmptyList(list []any) any {
	if len(list) == 0 {
		return nil
	}
	return list
}

// durationText writes 8h rather than Go's 8h0m0s, and whole days from two on as 90d.
func durationText(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= 2*day && d%day == 0 {
		return strconv.Itoa(int(d/day)) + "d"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// quoteOdd quotes a key that could do harm to the terminal an error is shown on.
func quoteOdd(key string) string {
	if key == "" || len(key) > maxLabel || !printable(key) {
		return fmt.Sprintf("%.100q", key)
	}
	return key
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
