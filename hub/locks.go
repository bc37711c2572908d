package hub

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/lock"
	"hawser/auth/policy"
	"hawser/hub/front"
	"hawser/tunnel/wire"
)

const (
	// lockedRetry is when a locked device is asked to come back: someone may have lifted the lock.
	lockedRetry = 5 * time.Minute
	// lockedGrace is how long the tunnel of a device that was just locked stays, for it to tell those who are on end to end.
	lockedGrace = 500 * time.Millisecond
	// strictEvery is how often it is looked whether auth has been silent for too long.
	strictEvery = 5 * time.Second
	// earlyLife is how long a kill waits for a session that is not known yet, and maxEarly how many do; the oldest is dropped.
	earlyLife = time.Minute
	maxEarly  = 1024
)

// subject is a person as locks see him.
func (b *backend) subject(id front.Identity) lock.Subject {
	return lock.Subject{User: id.User, Roles: b.allRoles(id), Key: id.Fingerprint, IssuedAt: id.Issued}
}

// allRoles are those a lock on a role looks at: what auth told and what the certificate says.
func (b *backend) allRoles(id front.Identity) []string {
	u, ok := b.h.auth.Cache.User(id.User)
	if !ok {
		return id.Roles
	}
	return append(slices.Clone(u.Roles), id.Roles...)
}

// refused is what of the locks refuses a claim.
func (b *backend) refused(c *front.Claim, device wire.UUID, login string) error {
	sub := b.subject(c.Identity)
	sub.Source, sub.Login = c.ClientAddr.Addr(), login
	if !device.IsZero() {
		sub.Device = device.String()
	}
	if d := b.h.auth.Cache.Denied(b.h.config.Now(), sub); d != nil {
		b.h.config.Logger.Info("refused", "user", c.Identity.User, "client", c.ClientAddr.String(), "reason", d.Reason(), "rule", d.Rule())
		return &front.Refusal{Message: d.Error()}
	}
	return nil
}

// deniedLive is front.Config.Denied: why something that is live may not go on, by what auth told last.
func (h *Hub) deniedLive(l front.Live) string {
	if why := h.early.get(l.ID); why != "" {
		return why
	}
	b := &backend{h}
	sub := b.subject(l.Identity)
	sub.Source, sub.Login = l.Client, l.Login
	if !l.Device.IsZero() {
		sub.Device = l.Device.String()
	}
	if d := h.auth.Cache.Denied(h.config.Now(), sub); d != nil {
		return d.Error()
	}
	d := h.auth.Cache.Device(l.Device)
	user, known := h.auth.Cache.User(l.Identity.User)
	if d == nil || !known { // the ends of those who were removed are told apart
		return ""
	}
	way := policy.WayHub
	if l.Kind == front.Pipe {
		way = policy.WayEndToEnd
	}
	access := d.Compiled.Access(heldRoles(user.Roles, l.Identity))
	if l.Login != "" {
		access = access.For(l.Login, way)
	}
	switch {
	case len(access.Channels) == 0, !slices.Contains(access.Ways, way):
		return "your roles do not allow this on " + d.Name + " any more"
	case l.Channel != "" && !slices.Contains(access.Channels, l.Channel):
		return fmt.Sprintf("your roles do not allow %s on %s any more", l.Channel, d.Name)
	case access.StrictLocks() && h.deaf():
		return deafText
	}
	return ""
}

const deafText = "this hub has not heard from the auth service for 5 minutes, and your roles are strict about locks (lock_mode); " +
	"it works again when the auth service does"

// deaf tells whether auth has been silent for so long that locks may be missing.
func (h *Hub) deaf() bool {
	heard := h.auth.Cache.Heard()
	return heard.IsZero() || h.config.Now().Sub(heard) > lock.StrictAfter
}

// watchStrict ends what strict roles hold here while auth is silent, until ctx ends.
func (h *Hub) watchStrict(ctx context.Context) {
	t := time.NewTicker(strictEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if h.deaf() {
				h.front.Recheck()
			}
		case <-ctx.Done():
			return
		}
	}
}

// locksChanged puts a list in force: for who comes by the cache, for who is here now, and on the devices.
func (h *Hub) locksChanged() {
	revision, blob := h.auth.Cache.Locks()
	h.broadcast(wire.Locks{Revision: revision, Blob: blob})
	h.front.Recheck()
	for _, s := range h.tunnels.all() {
		h.sendAwayLocked(s)
	}
}

// lockedDevice is what of the locks refuses a device's own tunnel.
func (h *Hub) lockedDevice(id wire.UUID, key ed25519.PublicKey) *lock.Denied {
	sub := lock.Subject{Device: id.String()}
	if k, err := ssh.NewPublicKey(key); err == nil {
		sub.Key = ssh.FingerprintSHA256(k)
	}
	return h.auth.Cache.Denied(h.config.Now(), sub)
}

// sendAwayLocked closes the tunnel of a device that is locked.
func (h *Hub) sendAwayLocked(s *served) {
	var key ed25519.PublicKey
	if d := h.auth.Cache.Device(s.t.UUID); d != nil {
		key = d.Key
	}
	d := h.lockedDevice(s.t.UUID, key)
	if d == nil {
		return
	}
	h.config.Logger.Warn("device locked", "device", s.t.Name, "rule", d.Rule())
	why := "the device is " + d.Error()
	h.front.CutDevice(s.t.UUID, why)
	time.AfterFunc(lockedGrace, func() {
		if h.lockedDevice(s.t.UUID, key) != nil {
			h.tunnels.spawn(func() {
				_ = s.t.Conn.CloseWith(&wire.CloseError{Code: wire.CloseBanned, Reason: wire.Quote(why, 400), RetryAfter: lockedRetry})
			})
		}
	})
}

// policyChanged holds what is live against what auth has just told of a device or a user.
func (h *Hub) policyChanged() { h.rechecks.wake(h.front.Recheck) }

// coalesced runs a function soon after it was wanted, once for all that wanted it meanwhile. The zero value is ready.
type coalesced struct {
	mu      sync.Mutex
	pending bool
}

// coalesceFor is how long it waits for more: a change of a role comes as one of every device.
const coalesceFor = 20 * time.Millisecond

func (c *coalesced) wake(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending {
		return
	}
	c.pending = true
	time.AfterFunc(coalesceFor, func() {
		c.mu.Lock()
		c.pending = false
		c.mu.Unlock()
		f()
	})
}

// sendTime gives the newest beacon to the devices that serve somebody: where the lock mode is strict they go by its age.
func (h *Hub) sendTime() {
	m := h.auth.Cache.SignedTime()
	if m == nil {
		return
	}
	for _, s := range h.tunnels.all() {
		if s.busy() {
			s.sendTime(m)
		}
	}
}

// busy tells whether the tunnel carries streams.
func (s *served) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams > 0
}

// sendTime sends a beacon unless the device has it.
func (s *served) sendTime(m wire.Message) {
	t, ok := m.(wire.Time)
	if !ok || len(t.Blob) == 0 {
		return
	}
	s.mu.Lock()
	had := s.timed
	s.timed = &t.Blob[0]
	s.mu.Unlock()
	if had != &t.Blob[0] {
		s.send(t)
	}
}

// earlyKills are those of sessions that this hub does not know yet: auth's answer to Admit and the kill come by different ways.
type earlyKills struct {
	mu   sync.Mutex
	of   map[[16]byte]earlyKill
	list [][16]byte // the oldest first
}

type earlyKill struct {
	reason string
	at     time.Time
}

func (e *earlyKills) put(id [16]byte, reason string, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.of == nil {
		e.of = make(map[[16]byte]earlyKill)
	}
	for len(e.list) > 0 && (len(e.list) >= maxEarly || now.Sub(e.of[e.list[0]].at) > earlyLife) {
		delete(e.of, e.list[0])
		e.list = e.list[1:]
	}
	if _, ok := e.of[id]; !ok {
		e.list = append(e.list, id)
	}
	e.of[id] = earlyKill{reason, now}
}

// get is why a session is to end that is just becoming known; empty: it is not.
func (e *earlyKills) get(id [16]byte) string {
	if id == [16]byte{} {
		return ""
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.of[id].reason
}
