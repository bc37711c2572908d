package shell

import (
	"cmp"
	"slices"
	"strings"
)

// Near are the names of devices that somebody may have meant by a name that none has. The work is bounded by the number of devices alone,
// and they are those he may reach: the answer tells nothing of others.
func Near(name string, devices []Device) []string {
	name = strings.ToLower(name[:min(len(name), maxQuery)])
	if name == "" {
		return nil
	}
	limit := max(1, min(3, len(name)/3))
	type candidate struct {
		name     string
		distance int
	}
	var best []candidate
	for i := range devices[:min(len(devices), maxCompared)] {
		d := candidate{name: devices[i].Name}
		if d.distance = distance(name, d.name, limit); d.distance > limit {
			if len(name) < 2 || !strings.HasPrefix(d.name, name) {
				continue
			}
			d.distance = limit + 1
		}
		at, _ := slices.BinarySearchFunc(best, d, func(a, b candidate) int {
			return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(a.name, b.name))
		})
		if at < maxNear {
			best = slices.Insert(best, at, d)
			best = best[:min(len(best), maxNear)]
		}
	}
	names := make([]string, len(best))
	for i, c := range best {
		names[i] = c.name
	}
	return names
}

// distance is how many letters are wrong, missing, too many or in each other's place, in bytes; more than limit is not told apart.
func distance(a, b string, limit int) int {
	if len(a)-len(b) > limit || len(b)-len(a) > limit {
		return limit + 1
	}
	var rows [3][maxQuery + 1]int
	if len(b) > maxQuery {
		return limit + 1
	}
	before, last, now := &rows[0], &rows[1], &rows[2]
	for j := range len(b) + 1 {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		now[0] = i
		least := i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			now[j] = min(last[j]+1, now[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				now[j] = min(now[j], before[j-2]+1)
			}
			least = min(least, now[j])
		}
		if least > limit {
			return limit + 1
		}
		before, last, now = last, now, before
	}
	return last[len(b)]
}
