package edge

import (
	"time"

	"hawser/auth/policy"
)

// Limits is how long what the person has may last, by the policy that the device holds now.
func (h *host) Limits() policy.SessionLimits { return h.may.limits() }

// Now is by the clock that certificates are held against.
func (h *host) Now() time.Time { return h.a.clock.Now() }

// OnPolicy has f called when the policy may have changed, until leave is called.
func (h *host) OnPolicy(f func()) (leave func()) { return h.may.onChange(f) }

// limits are of the tenure's roles and login.
func (t *tenure) limits() policy.SessionLimits {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.g == nil {
		return policy.SessionLimits{}
	}
	p, _, _ := t.a.held()
	return p.Access(t.g.Roles).For(t.g.Login, t.way).Session
}

// onChange has f called at each changed, until leave is called.
func (t *tenure) onChange(f func()) (leave func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.watched == nil {
		t.watched = map[*func()]struct{}{}
	}
	t.watched[&f] = struct{}{}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.watched, &f)
	}
}

// changed tells those who asked.
func (t *tenure) changed() {
	t.mu.Lock()
	all := make([]func(), 0, len(t.watched))
	for f := range t.watched {
		all = append(all, *f)
	}
	t.mu.Unlock()
	for _, f := range all {
		f()
	}
}
