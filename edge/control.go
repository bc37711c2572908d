package edge

import (
	"errors"
	"fmt"
	"time"

	"hawser/auth/ca"
	"hawser/auth/policy"
	"hawser/tunnel"
	"hawser/tunnel/identity"
	"hawser/tunnel/wire"
)

// handle acts on one control message. An error leaves everything as it was.
func (l *link) handle(m wire.Message) error {
	a := l.a
	switch m := m.(type) {
	case *wire.Policy:
		return l.adoptPolicy(m.Blob)
	case *wire.Locks:
		return l.adoptLocks(m)
	case *wire.Trust:
		return a.adoptTrust(m.Blob)
	case *wire.Time:
		l.adoptTime(m.Blob)
	case *wire.HubStatus:
		a.streams.hubStatus(l, m)
	case *wire.Renewed, *wire.Refused:
		err := a.renewed(m)
		a.obey(err)
		select {
		case l.renewal <- err: // who waits says it
		default:
			return err
		}
	case *wire.GoAway:
		l.goAway(m)
	case *wire.HubList:
		return l.adoptHubList(m.Blob)
	case *wire.LogHead:
		return l.adoptLogHead(m)
	default:
		return errors.New("not a message from a hub to a registered edge")
	}
	return nil
}

// adoptPolicy takes a compiled policy that auth signed for this device. An older revision never replaces a newer.
func (l *link) adoptPolicy(blob []byte) error {
	a := l.a
	c, trust := a.state.get(), a.state.anchors()
	p, err := policy.OpenCompiled(blob, trust.GrantKeys, c.Cluster, c.UUID)
	if err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	// Under the lock: the other tunnel may bring one in this moment.
	var held, locks uint64
	a.update(func() {
		if held, locks = a.policy.Revision, a.locks.Revision; p.Revision >= held {
			a.policy = p
		}
	})
	if p.Revision < held {
		return fmt.Errorf("policy: revision %d is older than %d, which is in force", p.Revision, held)
	}
	a.live.recheck()
	tunnel.Debug(a.log, "policy in force", "revision", p.Revision)
	return tunnel.Send(l.conn, wire.PolicyHeld{Policy: p.Revision, Locks: locks})
}

// adoptTrust takes a trust bundle signed by a tunnel CA that we trust, or that one we trust certified, stores it when it is newer, and then acts on it.
func (a *Agent) adoptTrust(blob []byte) error {
	now := a.state.anchors()
	next, err := ca.OpenNextTrust(blob, now)
	if err != nil {
		return fmt.Errorf("trust: %w", err)
	}
	if next.Revision == now.Revision {
		return nil
	}
	if err := a.state.replace(next, blob, func(*identity.Credentials) {}); err != nil {
		return err
	}
	a.update(func() {}) // what signs for us may be another
	tunnel.Info(a.log, "trust renewed", "revision", next.Revision)
	return nil
}

// adoptTime takes a time that auth signed: exact when it is over our nonce, else a lower bound. Then the hub's own certificate, which may have passed
// on a clock that proves nothing, is held against the time it says the tunnel was opened, and against what was trusted then: neither a rotation nor a
// certificate that has run out since ends a tunnel.
func (l *link) adoptTime(blob []byte) {
	if len(blob) == 0 {
		return
	}
	a := l.a
	t, nonce, err := ca.OpenTime(blob, a.state.anchors())
	if err != nil {
		tunnel.Warn(a.log, "refused a signed time", "error", err)
		return
	}
	if nonce != nil && *nonce != l.nonce {
		tunnel.Warn(a.log, "refused a signed time", "error", "it answers another question")
		return
	}
	before := a.clock.Now()
	a.update(func() { a.clock.Adopt(t, nonce != nil) })
	a.rechecked()
	if off := a.clock.Now().Sub(before); off.Abs() > time.Minute {
		tunnel.Info(a.log, "clock corrected by signed time", "by", off.Round(time.Second))
	}
	if err := a.state.raiseFloor(t); err != nil {
		tunnel.Warn(a.log, "could not store the time", "error", err)
	}
	if _, err := a.hubIdentity(l.conn.ConnectionState(), l.trust, time.Since(l.since)); err != nil {
		tunnel.Warn(a.log, "the hub's certificate does not hold at the signed time", "error", err)
		l.closeSoon(wire.CloseAuth, "certificate does not hold at the signed time")
	}
}

// goAway notes that the hub leaves, and when it closes the tunnel.
func (l *link) goAway(m *wire.GoAway) {
	tunnel.Info(l.a.log, "the hub asks to go elsewhere", "code", m.Code, "reason", m.Reason, "deadline", m.Deadline)
	select {
	case <-l.away:
	default:
		close(l.away)
	}
}
