package edge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/ca"
	"hawser/tunnel"
	"hawser/tunnel/identity"
	"hawser/tunnel/wire"
)

// renewAt is the moment to renew a certificate: at 50 to 70 % of its life, which begins ca.DeviceBackdate after NotBefore, for issuers
// set that back.
func renewAt(notBefore, notAfter time.Time, fraction float64) time.Time {
	issued := notBefore.Add(ca.DeviceBackdate)
	if !issued.Before(notAfter) {
		issued = notBefore
	}
	return issued.Add(time.Duration(float64(notAfter.Sub(issued)) * (0.5 + 0.2*fraction)))
}

// renewDue is when to renew: at the certificate's time, or, where another CA signs now, at a moment between now, when that was learned,
// and the one that auth named, for a fleet must not come at once.
func (a *Agent) renewDue(fraction float64, now time.Time, learned *time.Time) (due, last time.Time, err error) {
	c, trust := a.state.get(), a.state.anchors()
	certs, err := parseChain(c.Chain)
	if err != nil {
		return due, last, err
	}
	host, err := hostSigner(c)
	if err != nil {
		return due, last, err
	}
	due, last = renewAt(certs[0].NotBefore, certs[0].NotAfter, fraction), certs[0].NotAfter
	switch {
	case trust.Newest(certs[0], host.PublicKey().(*ssh.Certificate), ca.DeviceHostCA):
		*learned = time.Time{}
		return due, last, nil
	case !a.clock.Trusted(): // it tells when that is so
		return due, last, nil
	case learned.IsZero():
		*learned = now
	}
	spread := trust.RenewBy.Sub(*learned)
	if spread <= 0 {
		spread = rotationSpread
	}
	if at := learned.Add(time.Duration(fraction * float64(spread))); at.Before(due) {
		due = at
	}
	if last.After(trust.RenewBy) {
		last = trust.RenewBy
	}
	return due, last, nil
}

// renewLoop renews the certificates while the link lives.
func (l *link) renewLoop(ctx context.Context) error {
	a := l.a
	fraction := rand.Float64()
	var learned, retry time.Time
	for {
		_, _, changed := a.held()
		now := a.clock.Now()
		due, last, err := a.renewDue(fraction, now, &learned)
		if err != nil {
			return err
		}
		if due.Before(retry) {
			due = retry
		}
		if wait := due.Sub(now); wait > 0 {
			// Woken at least hourly, for the clock may be corrected in between.
			timer := time.NewTimer(min(wait, time.Hour))
			select {
			case <-timer.C:
			case <-changed:
			case <-ctx.Done():
			}
			timer.Stop()
			if ctx.Err() != nil {
				return nil
			}
			continue // the other tunnel may have renewed meanwhile
		}
		select {
		case <-l.replaced:
			return nil
		case <-l.away: // a hub that leaves is not the one to ask
			return nil
		default:
		}
		// Again after a tenth of what is left, between ten seconds and an hour.
		retry = now.Add(min(max(last.Sub(now)/10, retryRenewal), time.Hour))
		if err := l.renew(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			tunnel.Warn(a.log, "certificate not renewed", "error", err, "valid", last.Sub(a.clock.Now()).Round(time.Second))
			continue
		}
		fraction = rand.Float64()
		// What was answered may be what was issued before, where the reply was lost.
		if _, _, err := a.renewDue(fraction, now, &learned); err != nil || learned.IsZero() {
			retry = time.Time{}
		}
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
	case err := <-l.renewal:
		return err
	case <-ctx.Done():
		return fmt.Errorf("no answer: %w", context.Cause(ctx))
	}
}

// renewed checks and stores the answer to RENEW, also one that nobody waits for: the device has another name.
func (a *Agent) renewed(m wire.Message) error {
	switch m := m.(type) {
	case *wire.Refused:
		return refused("renew", m)
	case *wire.Renewed:
		c, trust := a.state.get(), a.state.anchors()
		if len(m.Trust) > 0 {
			next, err := ca.OpenNextTrust(m.Trust, trust)
			if err == nil {
				trust = next
			} else if !errors.Is(err, ca.ErrOldTrust) {
				return fmt.Errorf("trust: %w", err)
			}
		}
		name, err := checkIssued(c.Key, c.UUID, c.Cluster, m.Chain, m.SSHCert, trust)
		if err != nil {
			return err
		}
		if m.Counter < c.Counter || bytes.Equal(m.Chain[0], c.Chain[0]) {
			return nil // it came by the other tunnel before, or that has brought a newer one
		}
		if len(m.Trust) == 0 {
			trust = nil
		}
		if err := a.state.replace(trust, m.Trust, func(c *identity.Credentials) {
			c.Name, c.Chain, c.SSHCert, c.Counter = name, m.Chain, m.SSHCert, m.Counter
		}); err != nil {
			return err
		}
		_, notAfter, _ := validity(a.state.get())
		tunnel.Info(a.log, "certificate renewed", "device", name, "until", notAfter.UTC().Format(time.RFC3339), "generation", m.Counter)
		return nil
	default:
		return errors.New("not an answer to renew")
	}
}
