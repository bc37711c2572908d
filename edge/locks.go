package edge

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"hawser/auth/grant"
	"hawser/auth/lock"
	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// locksFile keeps the newest signed locks, so that a device that restarts enforces them before it hears of any.
const locksFile = "locks"

var (
	errNoLonger = errors.New("your roles do not allow this any more")
	errStale    = errors.New("this device has not heard from the auth service for 5 minutes, and your roles are strict about locks (lock_mode)")
)

// loadLocks reads the stored locks. Those that do not verify are none: nobody is served before a hub has brought others.
func (a *Agent) loadLocks() {
	b, err := a.state.read(locksFile)
	trust := a.state.anchors()
	if err != nil || trust == nil {
		return
	}
	l, err := lock.Open(b, trust.GrantKeys, trust.Cluster)
	if err != nil {
		tunnel.Warn(a.log, "the stored locks do not hold", "error", err)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.locks = l
}

// adoptLocks takes locks that auth signed, ends what they refuse, and only then confirms them. An older list never replaces a newer; flash is
// written only when it changed.
func (l *link) adoptLocks(m *wire.Locks) error {
	a := l.a
	trust := a.state.anchors()
	list, err := lock.Open(m.Blob, trust.GrantKeys, trust.Cluster)
	if err != nil {
		return fmt.Errorf("locks: %w", err)
	}
	// Under the lock: the other tunnel may bring one in this moment.
	var p, held uint64
	a.update(func() {
		p, held = a.policy.Revision, a.locks.Revision
		if list.Revision > held {
			a.locks = list
		}
	})
	if list.Revision < held {
		return fmt.Errorf("locks: revision %d is older than %d, which is in force", list.Revision, held)
	}
	if list.Revision > held {
		a.live.recheck()
		if err := a.state.writeList(storedLocks, list.Revision, locksFile, m.Blob); err != nil {
			tunnel.Warn(a.log, "could not store the locks", "error", err)
		}
	}
	return tunnel.Send(l.conn, wire.PolicyHeld{Policy: p, Locks: list.Revision})
}

// lockedOut is what of the locks refuses sub on this device; nil: nothing does.
func (a *Agent) lockedOut(sub lock.Subject) error {
	sub.Device = a.state.get().UUID
	a.mu.Lock()
	l := a.locks
	a.mu.Unlock()
	if d := l.Match(a.clock.Now(), sub); d != nil {
		tunnel.Warn(a.log, "refused", "user", sub.User, "client", sub.Source, "rule", d.Rule())
		return d
	}
	return nil
}

// subjectOf is whom a grant is for, as locks see him.
func subjectOf(g *grant.Grant) lock.Subject {
	return lock.Subject{User: g.User, Roles: g.Roles, Login: g.Login, Source: g.ClientAddr.Addr()}
}

// tenure is what something live rests on. It is held against policy, locks and time when it begins and whenever they change.
type tenure struct {
	a   *Agent
	way string

	mu    sync.Mutex
	g     *grant.Grant // nil: nobody is admitted yet
	sub   lock.Subject
	kinds []string // channels opened; few
	// watched are told when the policy may have changed; bounded by e2e's channel limit.
	watched map[*func()]struct{}
}

func (a *Agent) tenure(g *grant.Grant, way string) *tenure {
	return &tenure{a: a, way: way, g: g, sub: subjectOf(g)}
}

// set says whom it is for.
func (t *tenure) set(g *grant.Grant, sub lock.Subject) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.g, t.sub = g, sub
}

// allow is policy at a channel's opening: the grant names the kind, and the device's own policy and the locks allow it now.
func (t *tenure) allow(g *grant.Grant, kind string) error {
	err := t.stands()
	if err == nil {
		err = t.a.allow(g, t.way, kind)
	}
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range t.kinds {
		if k == kind {
			return nil
		}
	}
	t.kinds = append(t.kinds, kind)
	return nil
}

// stands is why it may not go on; nil: it may.
func (t *tenure) stands() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	g, a := t.g, t.a
	if g == nil {
		return nil
	}
	if err := a.lockedOut(t.sub); err != nil {
		return err
	}
	if behind(g) {
		return nil // the roles were held against another device than this, by auth and by the hub that serves the person
	}
	p, _, _ := a.held()
	access := p.Access(g.Roles).For(g.Login, t.way)
	for _, kind := range t.kinds {
		if !p.Evaluate(g.Roles, g.Login, kind, t.way).Allowed {
			return errNoLonger
		}
	}
	if len(access.Channels) == 0 {
		return errNoLonger
	}
	if access.StrictLocks() && a.clock.stale() {
		return errStale
	}
	return nil
}

// begin is stands for what is about to begin: where the time is too old, the hub's newest is waited for, which comes with the first stream.
func (t *tenure) begin(ctx context.Context) error {
	timer := time.NewTimer(staleWait)
	defer timer.Stop()
	for {
		_, _, changed := t.a.held()
		err := t.stands()
		if err != errStale {
			return err
		}
		select {
		case <-changed:
		case <-timer.C:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// rechecked arms the timer that ends what strict roles hold when no signed time has come for too long.
func (a *Agent) rechecked() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.strict == nil {
		a.strict = time.AfterFunc(lock.StrictAfter+time.Second, a.live.recheck)
	} else {
		a.strict.Reset(lock.StrictAfter + time.Second)
	}
}
