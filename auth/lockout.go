package auth

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// lockout slows down who guesses passwords and codes. Three things are counted:
//
//   - a source with a user: freeFailures cost nothing, each one more doubles a delay from a second to maxDelay;
//   - a source, over all users, by a bucket: one password tried on many names;
//   - a user, over all sources, by a bucket: a guess spread over many machines. Empty, it holds off only sources the user has
//     not logged in from lately, so that a stranger cannot lock a person out of where he works.
//
// It counts names that do not exist as those that do, for it answers before it is known. It is in memory, bounded: what was
// forgotten by a restart or for want of room starts anew. Safe for concurrent use.
type lockout struct {
	mu      sync.Mutex
	pairs   map[pair]failures
	sources *guesses
	users   *guesses
}

type pair struct{ source, user string }

type failures struct {
	n    int
	last time.Time
}

func newLockout() *lockout {
	return &lockout{pairs: make(map[pair]failures), sources: newGuesses(sourceFailures, sourceFailureEvery), users: newGuesses(userFailures, userFailureEvery)}
}

func (f failures) wait(now time.Time) time.Duration {
	if f.n <= freeFailures || now.Sub(f.last) > failureLife {
		return 0
	}
	delay := maxDelay
	if shift := f.n - freeFailures - 1; shift < 16 {
		delay = min(maxDelay, time.Second<<shift)
	}
	return max(0, f.last.Add(delay).Sub(now))
}

// wait returns how long nothing would be looked at, and what for: "source and user", "source" or "user".
func (l *lockout) wait(source, user string, known bool, now time.Time) (time.Duration, string) {
	l.mu.Lock()
	w := l.pairs[pair{source, user}].wait(now)
	l.mu.Unlock()
	if w > 0 {
		return w, "source and user"
	}
	if known {
		return 0, ""
	}
	if w := l.sources.wait(source, now); w > 0 {
		return w, "source"
	}
	if w := l.users.wait(user, now); w > 0 {
		return w, "user"
	}
	return 0, ""
}

// failed counts a failure, and says whether a delay of note begins with it, and which.
func (l *lockout) failed(source, user string, now time.Time) (locked string) {
	l.mu.Lock()
	p := pair{source, user}
	f, there := l.pairs[p]
	if now.Sub(f.last) > failureLife {
		f.n = 0
	}
	if !there && len(l.pairs) >= maxSources {
		l.forgetLocked(now)
	}
	f.n, f.last = f.n+1, now
	l.pairs[p] = f
	l.mu.Unlock()
	if f.n == freeFailures+5 {
		locked = "source and user"
	}
	full := l.sources.wait(source, now) == 0
	l.sources.take(source, now)
	if full && l.sources.wait(source, now) > 0 {
		locked = "source"
	}
	full = l.users.wait(user, now) == 0
	l.users.take(user, now)
	if full && l.users.wait(user, now) > 0 {
		locked = "user"
	}
	return locked
}

// good forgets what a source failed at for a user, who has now logged in from it.
func (l *lockout) good(source, user string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.pairs, pair{source, user})
}

// unlock forgets all failures for a user.
func (l *lockout) unlock(user string) {
	l.mu.Lock()
	for p := range l.pairs {
		if p.user == user {
			delete(l.pairs, p)
		}
	}
	l.mu.Unlock()
	l.users.forget(user)
}

// lockedUntil is the latest time at which some source's delay for the user ends, zero for none.
func (l *lockout) lockedUntil(user string, now time.Time) time.Time {
	var until time.Time
	if w := l.users.wait(user, now); w > 0 {
		until = now.Add(w)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for p, f := range l.pairs {
		if w := f.wait(now); p.user == user && f.n >= freeFailures+5 && now.Add(w).After(until) && w > 0 {
			until = now.Add(w)
		}
	}
	return until
}

// forgetLocked makes room: what no longer counts goes, then the oldest eighth.
func (l *lockout) forgetLocked(now time.Time) {
	for p, f := range l.pairs {
		if now.Sub(f.last) > failureLife {
			delete(l.pairs, p)
		}
	}
	if len(l.pairs) < maxSources*7/8 {
		return
	}
	type aged struct {
		pair
		time.Time
	}
	all := make([]aged, 0, len(l.pairs))
	for p, f := range l.pairs {
		all = append(all, aged{p, f.last})
	}
	slices.SortFunc(all, func(a, b aged) int { return cmp.Compare(a.UnixNano(), b.UnixNano()) })
	for _, a := range all[:maxSources/8] {
		delete(l.pairs, a.pair)
	}
}

// sourceOf is what counts as one source: an IPv4 address, or an IPv6 network of /56, which one customer has.
func sourceOf(addr string) string {
	host := addr
	if h, _, err := net.SplitHostPort(addr); err == nil {
		host = h
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return clip(host)
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	p, err := ip.Prefix(56)
	if err != nil {
		return ip.String()
	}
	return p.String()
}
