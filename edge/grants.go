package edge

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"hawser/auth/grant"
	"hawser/auth/policy"
	"hawser/edge/forward"
	"hawser/tunnel/wire"
)

// Errors of opening a stream. They go to our log; the hub learns the code.
var (
	errNotReady = errors.New("this device has not got its current policy, locks and time yet")
	errPolicy   = errors.New("the device's own policy does not allow it")
)

// ready waits until the agent holds what the ACK announced: policy, locks, and a time it can trust. Nothing is served before.
func (l *link) ready(ctx context.Context) error {
	timer := time.NewTimer(readyTimeout)
	defer timer.Stop()
	for {
		p, locks, changed := l.a.held()
		if p.Revision >= l.ack.PolicyRevision && locks >= max(l.ack.LockRevision, 1) && l.a.clock.Trusted() {
			return nil
		}
		select {
		case <-changed:
		case <-timer.C:
			return errNotReady
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// checkGrant opens a grant and holds it against this device, this run, the hub it came by and the time; a session grant is spent by it.
func (a *Agent) checkGrant(blob []byte, kind grant.Kind, hub wire.UUID) (*grant.Grant, error) {
	c := a.state.get()
	uuid, err := wire.ParseUUID(c.UUID)
	if err != nil {
		return nil, err
	}
	g, err := grant.Open(blob, a.state.anchors().GrantKeys)
	if err != nil {
		return nil, err
	}
	if err := a.lockedOut(subjectOf(g)); err != nil {
		return nil, err
	}
	now := a.clock.Now()
	if err := g.Check(grant.Want{
		Cluster: c.Cluster, Device: uuid, Incarnation: a.incarnation, Hub: hub, Kind: kind, Now: now,
	}); err != nil {
		return nil, err
	}
	if kind == grant.Session {
		a.mu.Lock()
		defer a.mu.Unlock()
		return g, a.spent.Spend(g, now)
	}
	return g, nil
}

// detachedLife is how long what the grant opens waits for another tunnel.
func detachedLife(g *grant.Grant) time.Duration { return g.DetachedLife }

// allow is policy at a channel's opening: the grant names the kind, and the device's own policy allows it now.
func (a *Agent) allow(g *grant.Grant, way, kind string) error {
	if !g.Permits(kind) {
		return fmt.Errorf("%s: not granted", kind)
	}
	p, _, _ := a.held()
	if !p.Evaluate(g.Roles, g.Login, kind, way).Allowed {
		return fmt.Errorf("%s: %w", kind, errPolicy)
	}
	return nil
}

// access is where forwards of the grant may go: where both the grant and the device's own policy say so.
func (a *Agent) access(g *grant.Grant, way string) (forward.Access, error) {
	granted, err := policy.ParseTargets(g.ForwardTo)
	if err != nil {
		return nil, err
	}
	p, _, _ := a.held()
	return bothAccess{granted, p.Access(g.Roles).For(g.Login, way)}, nil
}

// bothAccess is what both allow.
type bothAccess struct {
	granted policy.Targets
	own     policy.Access
}

func (b bothAccess) Forward(host string, ip netip.Addr, port uint16) bool {
	return b.granted.Forward(host, ip, port) && b.own.Forward(host, ip, port)
}

func (b bothAccess) Socket(path string) bool { return b.granted.Socket(path) && b.own.Socket(path) }
