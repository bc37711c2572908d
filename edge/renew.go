package edge

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"hawser/auth/ca"
	"hawser/tunnel"
	"hawser/tunnel/identity"
	"hawser/tunnel/wire"
)

// renewAt is the moment to renew a certificate: at 50 to 70 % of its life, which begins ca.DeviceBackdate after NotBefore, for issuers set that back.
func renewAt(notBefore, notAfter time.Time, fraction float64) time.Time {
	issued := notBefore.Add(ca.DeviceBackdate)
	if !issued.Before(notAfter) {
		issued = notBefore
	}
	return issued.Add(time.Duration(float64(notAfter.Sub(issued)) * (0.5 + 0.2*fraction)))
}

// renewLoop renews the certificates while the link lives.
func (l *link) renewLoop(ctx context.Context) error {
	a := l.a
	fraction := rand.Float64()
	for failures := 0; ; {
		notBefore, notAfter, err := validity(a.state.get())
		if err != nil {
			return err
		}
		now := a.clock.Now()
		wait := renewAt(notBefore, notAfter, fraction).Sub(now)
		if failures > 0 {
			// Again after a tenth of what is left, between a second and an hour.
			wait = min(max(notAfter.Sub(now)/10, time.Second), time.Hour)
		}
		// Woken at least hourly, for the clock may be corrected in between.
		if wait > time.Hour {
			if err := sleep(ctx, time.Hour); err != nil {
				return nil
			}
			continue
		}
		if err := sleep(ctx, wait); err != nil {
			return nil
		}
		select {
		case <-l.replaced:
			return nil
		case <-l.away: // a hub that leaves is not the one to ask
			return nil
		default:
		}
		if err := l.renew(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			failures++
			tunnel.Warn(a.log, "certificate not renewed", "error", err, "valid", notAfter.Sub(a.clock.Now()).Round(time.Second))
			continue
		}
		failures, fraction = 0, rand.Float64()
	}
}

func (l *link) renew(ctx context.Context) error {
	select {
	case <-l.renewal: // a late answer to an attempt that was given up
	default:
	}
	if err := tunnel.Send(l.conn, wire.Renew{Counter: l.a.state.get().Counter}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	select {
	case m := <-l.renewal:
		return l.a.renewed(m)
	case <-ctx.Done():
		return fmt.Errorf("no answer: %w", context.Cause(ctx))
	}
}

// renewed checks and stores the answer to RENEW.
func (a *Agent) renewed(m wire.Message) error {
	switch m := m.(type) {
	case *wire.Refused:
		return refused("renew", m)
	case *wire.Renewed:
		c, trust := a.state.get(), a.state.anchors()
		blob := c.Trust
		if len(m.Trust) > 0 {
			next, err := ca.OpenTrust(m.Trust, trust.Pins()...)
			if err != nil {
				return fmt.Errorf("trust: %w", err)
			}
			if next.Cluster != c.Cluster {
				return fmt.Errorf("trust: of cluster \"%s\"", wire.Quote(next.Cluster, 80))
			}
			if next.Revision >= trust.Revision {
				trust, blob = next, m.Trust
			}
		}
		if err := checkIssued(c.Key, c.UUID, c.Cluster, m.Chain, m.SSHCert, trust); err != nil {
			return err
		}
		if err := a.state.replace(trust, func(c *identity.Credentials) {
			c.Chain, c.SSHCert, c.Counter, c.Trust = m.Chain, m.SSHCert, m.Counter, blob
		}); err != nil {
			return err
		}
		_, notAfter, _ := validity(a.state.get())
		tunnel.Info(a.log, "certificate renewed", "until", notAfter.UTC().Format(time.RFC3339), "generation", m.Counter)
		return nil
	default:
		return errors.New("not an answer to renew")
	}
}
