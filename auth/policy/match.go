package policy

// Match reports whether the device has every label that devices asks for. An empty map matches no device.
func Match(devices map[string][]string, dev Device) bool {
	if len(devices) == 0 {
		return false
	}
	for key, globs := range devices {
		value, ok := dev.label(key)
		if key != "*" && (!ok || !matchAny(globs, value)) {
			return false
		}
		if key == "*" && !matchAny(globs, "*") {
			return false
		}
	}
	return true
}

func (d Device) label(key string) (string, bool) {
	switch key {
	case "name":
		return d.Name, true
	case "uuid":
		return d.UUID, true
	}
	v, ok := d.Labels[key]
	return v, ok
}

func matchAny(globs []string, s string) bool {
	for _, g := range globs {
		if glob(g, s) {
			return true
		}
	}
	return false
}

// glob matches s against a pattern in which * stands for any run of characters, none included. Its cost is bounded by the
// product of the lengths: it goes back to the last * only.
func glob(pattern, s string) bool {
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}
