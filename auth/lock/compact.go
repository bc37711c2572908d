package lock

import (
	"cmp"
	"slices"
	"time"
)

// Compact drops from l what refuses nobody any more at now, keeps one void of each user, the latest, and, where they are still more than
// keep, makes those with the earliest dates one void of everybody: whoever logged in since loses nothing, all others log in again. It
// changes l's slices.
func (l *List) Compact(now time.Time, keep int) {
	l.Locks = slices.DeleteFunc(l.Locks, func(k Lock) bool { return !k.Expires.IsZero() && !now.Before(k.Expires) })
	latest := make(map[string]Void)
	for _, v := range l.Voids {
		if !now.Before(v.Until) {
			continue
		}
		if old, ok := latest[v.User]; ok {
			// Those of both dates end with the later Until, which is never the wrong one to keep.
			v = Void{User: v.User, Before: later(old.Before, v.Before), Until: later(old.Until, v.Until)}
		}
		latest[v.User] = v
	}
	l.Voids = l.Voids[:0]
	for _, v := range latest {
		if all, ok := latest[Everybody]; v.User == Everybody || !ok || v.Before.After(all.Before) || v.Until.After(all.Until) {
			l.Voids = append(l.Voids, v)
		}
	}
	slices.SortFunc(l.Voids, func(a, b Void) int { return cmp.Or(a.Before.Compare(b.Before), cmp.Compare(a.User, b.User)) })
	if n := len(l.Voids) - keep; n > 0 {
		all := Void{User: Everybody}
		var rest []Void
		for i, v := range l.Voids {
			if i <= n || v.User == Everybody {
				all.Before, all.Until = later(all.Before, v.Before), later(all.Until, v.Until)
			} else {
				rest = append(rest, v)
			}
		}
		l.Voids = append([]Void{all}, rest...)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
