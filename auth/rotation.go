package auth

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"hawser/auth/ca"
)

const (
	// retiredLife is how long a tunnel CA that was rotated away still renews what it signed, and cross-certificates vouch for its successor.
	retiredLife = rejoinWindow
	// handoverPoll is how often it is looked whether all that are connected have left a compromised CA.
	handoverPoll = 250 * time.Millisecond
	// rotationRetry is when a phase that could not be stored is tried again.
	rotationRetry = 10 * time.Second

	defaultGrace  = 48 * time.Hour
	defaultManual = time.Hour
)

// rotation is what the Set amounts to now, for all who verify or show it.
type rotation struct {
	changing sync.Mutex // held while a change is made and stored
	now      atomic.Pointer[published]
	// fail may be nil. It is called before each step of a change, by the step's name; an error ends the change there, as a crash would.
	fail func(step string) error
}

// published is never changed, but for changed, which is closed when another takes its place.
type published struct {
	trust    *ca.Trust
	blob     []byte
	pin, old string // of the tunnel CA that signs for servers, and of the one before while it is still trusted
	changed  chan struct{}
}

// publish makes what the Set amounts to known. Nothing is stored.
func (s *Server) publish(set *ca.Set) error {
	p, err := publication(set)
	if err != nil {
		return err
	}
	if old := s.rotation.now.Swap(p); old != nil {
		close(old.changed)
	}
	return nil
}

func publication(set *ca.Set) (*published, error) {
	trust := set.Trust(set.Revision())
	blob, err := set.SignTrust(trust)
	if err != nil {
		return nil, err
	}
	pin, err := ca.Pin(set.Authority(ca.TunnelCA).Certificate())
	if err != nil {
		return nil, err
	}
	p := &published{trust: &trust, blob: blob, pin: pin, changed: make(chan struct{})}
	if next := set.Next(ca.TunnelCA); next != nil && set.Rotation(ca.TunnelCA).Phase == ca.PhaseUpdateServers {
		p.old = pin
		if p.pin, err = ca.Pin(next.Certificate()); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// trusted is every public key the cluster trusts now.
func (s *Server) trusted() *ca.Trust { return s.rotation.now.Load().trust }

// rotated returns a channel that closes at the next change of a phase.
func (s *Server) rotated() <-chan struct{} { return s.rotation.now.Load().changed }

// Rotated returns a channel that closes when the trust bundle changes next.
func (s *Server) Rotated() <-chan struct{} { return s.rotated() }

// Trust is the signed trust bundle.
func (s *Server) Trust() []byte { return s.rotation.now.Load().blob }

// Pin is the tunnel CA's, by which joiners know this cluster: the one that every hub that is up can show.
func (s *Server) Pin() string {
	p := s.rotation.now.Load()
	if p.old != "" && s.anyHubBehind() {
		return p.old
	}
	return p.pin
}

// signer is the public half of the key that signs grants, policies and the hub list now.
func (s *Server) signer() ed25519.PublicKey { return s.set.GrantKey().Public().(ed25519.PublicKey) }

// hubBehind tells whether the hub's certificates are by another than signs for hubs now.
func (s *Server) hubBehind(uuid string) bool {
	h := s.view.hub(uuid)
	return h != nil && s.set.Behind(ca.RoleHub, h.Chain, h.SSHCert)
}

func (s *Server) anyHubBehind() bool {
	return slices.ContainsFunc(s.view.allHubs(), func(h *hubRecord) bool {
		up, _ := s.hubs.up(h.UUID)
		return up && s.hubBehind(h.UUID)
	})
}

func (s *Server) anyDeviceBehind() bool {
	return slices.ContainsFunc(s.view.allDevices(), func(d *deviceRecord) bool {
		_, _, online := s.hubs.device(d.UUID)
		return online && s.set.Behind(ca.RoleDevice, d.Chain, d.SSHCert)
	})
}

// changeSet stores what change makes of the Set, and only then acts by it and tells it. A crash before the file is replaced leaves all as
// it was; after it, New finds the new phase, and everything else follows from that. Of the kinds is recorded, as that type of event, in
// which phase they are.
func (s *Server) changeSet(e Event, kinds []ca.Kind, change func(*ca.Set) (*ca.Set, error)) error {
	s.rotation.changing.Lock()
	defer s.rotation.changing.Unlock()
	step := func(name string) error {
		if s.rotation.fail == nil {
			return nil
		}
		return s.rotation.fail(name)
	}
	next, err := change(s.set)
	if err != nil {
		return err
	}
	if _, err := publication(next); err != nil {
		return fmt.Errorf("sign the trust bundle: %w", err)
	}
	sealed, err := seal(s.cfg, s.info, next.Marshal())
	if err != nil {
		return fmt.Errorf("seal the CA keys: %w", err)
	}
	root, err := os.OpenRoot(s.cfg.Data)
	if err != nil {
		return fmt.Errorf("open the data directory: %w", err)
	}
	defer root.Close()
	if err := step("write"); err != nil {
		return err
	}
	if err := writeAtomic(root, authoritiesFile, sealed); err != nil {
		return fmt.Errorf("store the CA keys: %w", err)
	}
	if err := step("adopt"); err != nil {
		return err
	}
	s.set.Become(next)
	s.certMu.Lock()
	s.cert = nil
	s.certMu.Unlock()
	if err := step("publish"); err != nil {
		return err
	}
	if err := s.publish(next); err != nil {
		return err
	}
	for _, k := range kinds {
		r := next.Rotation(k)
		e.Object, e.Reason = kindName(k), "phase "+r.Phase.String()
		if r.Compromised {
			e.Reason += ", the old key is compromised"
		}
		s.record(e)
		s.log.Info("CA rotation", "kind", e.Object, "phase", r.Phase.String(), "until", r.Until, "revision", next.Revision())
	}
	return nil
}

// keepRotating begins phases when they are due and forgets what was retired long ago, until ctx ends. What a crash or a stop interrupted
// goes on.
func (s *Server) keepRotating(ctx context.Context) {
	for _, k := range s.set.Rotating() {
		s.record(Event{Type: "ca.resume", Actor: "auth", Object: kindName(k), Reason: "phase " + s.set.Rotation(k).Phase.String()})
	}
	for {
		rotated, wait := s.rotated(), time.Hour
		now := s.cfg.Now()
		due, next := s.set.Due(now)
		if !next.IsZero() {
			wait = min(wait, next.Sub(now))
		}
		if r := s.set.Rotation(ca.TunnelCA); r.Compromised && len(due) == 0 {
			wait = min(wait, handoverPoll)
			// Nobody is waited for who is not there, and nobody for longer than need be.
			if r.Phase == ca.PhaseUpdateClients && !s.anyDeviceBehind() || r.Phase == ca.PhaseUpdateServers && !s.anyHubBehind() {
				due = []ca.Kind{ca.TunnelCA}
			}
		}
		var err error
		if len(due) > 0 {
			err = s.changeSet(Event{Type: "ca.phase", Actor: "auth"}, due, func(set *ca.Set) (*ca.Set, error) { return set.Advance(due, s.cfg.Now()) })
		} else if old, some := s.set.Forget(now.Add(-retiredLife), now); some && old != nil {
			err = s.changeSet(Event{}, nil, func(set *ca.Set) (*ca.Set, error) {
				set, _ = set.Forget(now.Add(-retiredLife), now)
				return set, nil
			})
		}
		if err != nil {
			s.log.Error("a phase of the CA rotation could not be begun; trying again", "error", err)
			wait, rotated = rotationRetry, nil
		}
		t := time.NewTimer(max(wait, 0))
		select {
		case <-rotated:
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}
