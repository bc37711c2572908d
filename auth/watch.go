package auth

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/policy"
	"hawser/auth/store"
)

// policyCache holds the signed policy of each device, made once for all hubs.
type policyCache struct {
	mu sync.Mutex
	of map[string]cachedPolicy
}

type cachedPolicy struct {
	device *deviceRecord
	rev    uint64
	signer ed25519.PublicKey
	blob   []byte
}

// forget drops a removed device.
func (c *policyCache) forget(uuid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.of, uuid)
}

func (s *Server) signedPolicy(d *deviceRecord, roles []policy.Role, rev uint64) ([]byte, error) {
	s.policies.mu.Lock()
	c, ok := s.policies.of[d.UUID]
	s.policies.mu.Unlock()
	signer := s.signer()
	if ok && c.device == d && c.rev == rev && c.signer.Equal(signer) {
		return c.blob, nil
	}
	compiled := policy.Compile(rev, roles, d.policy())
	compiled.Recipients = s.view.recipients()
	blob, err := policy.SignCompiled(s.set.GrantKey(), s.info.Cluster, d.UUID, compiled)
	if err != nil {
		return nil, err
	}
	s.policies.mu.Lock()
	defer s.policies.mu.Unlock()
	if s.policies.of == nil {
		s.policies.of = make(map[string]cachedPolicy)
	}
	s.policies.of[d.UUID] = cachedPolicy{d, rev, signer, blob}
	return blob, nil
}

// Watch sends what the hub caches, then what changes, until either side ends it.
func (s hubService) Watch(ctx context.Context, req *connect.Request[api.WatchRequest], stream *connect.ServerStream[api.WatchResponse]) error {
	c, r := callerOf(ctx), req.Msg
	h, err := s.updateHub(ctx, c.id.UUID, r)
	if err != nil {
		return err
	}
	w, ended := s.hubs.begin(h.ref(), r.Sessions, s.cfg.Now())
	defer func() {
		reason := "hub " + h.Name + " is gone"
		if s.stopping() {
			reason = "" // it is this service that goes: the hub will say where the device is
		}
		s.hubs.end(w, reason, s.cfg.Now())
	}()
	// At once, so that the first state has the hub itself in the list that its devices get.
	if err := s.updateHubList(ctx); err != nil {
		s.log.Error("hub list not made", "error", err)
	}
	for _, old := range ended {
		s.recordEnd(old, "hub restarted", nil)
	}
	s.record(Event{Type: "hub.connect", Hub: c.id.Name, Source: c.addr})
	defer s.record(Event{Type: "hub.disconnect", Hub: c.id.Name, Source: c.addr})

	beacon := time.NewTicker(beaconEvery)
	defer beacon.Stop()
	// Each is taken anew before what it told of is read, and only then: what changes in between is told again.
	moved, newList, rotated := s.hubs.moved(), s.lists.moved(), s.rotated()
	signer := s.signer() // of the policies sent
	epoch := s.epochOf(signer)
	rev, full, first := r.Revision, r.Epoch != epoch || r.Revision == 0, true
	var listed uint64 // revision of the hub list sent last
	var told uint64   // that of the trust bundle
	sendHubs := func() error {
		m := &api.WatchResponse{Revision: rev, Epoch: epoch}
		s.withHubs(m, &listed)
		return stream.Send(m)
	}
	for {
		d, changed, some, err := s.view.since(rev, full)
		if err != nil {
			return err
		}
		if some || first {
			if err := s.sendDelta(stream, d, epoch, &listed, &told); err != nil {
				return err
			}
		}
		if first {
			m := &api.WatchResponse{Revision: d.rev, Epoch: epoch, Time: s.set.SignTime(s.cfg.Now(), nil),
				Renew: s.hubBehind(c.id.UUID), LogHead: s.newestHead(ctx)}
			if !d.full {
				s.withHubs(m, &listed) // others may have come and gone meanwhile
			}
			if err := stream.Send(m); err != nil {
				return err
			}
		}
		rev, full, first = d.rev, false, false
		select {
		case <-changed:
		case <-moved:
			moved = s.hubs.moved()
			if err := sendHubs(); err != nil {
				return err
			}
		case <-rotated:
			rotated = s.rotated()
			// The keys before what they sign; the time, for its key may be another too.
			t := s.rotation.now.Load()
			told = t.trust.Revision
			if err := stream.Send(&api.WatchResponse{
				Revision: rev, Epoch: epoch, Trust: t.blob, Time: s.set.SignTime(s.cfg.Now(), nil), Renew: s.hubBehind(c.id.UUID),
			}); err != nil {
				return err
			}
			if now := s.signer(); !now.Equal(signer) {
				// The epoch of the new signer comes with the last of what it signed: who comes back with the old one gets all anew.
				signer = now
				if err := s.sendDelta(stream, delta{rev: rev, policyChange: true, devices: s.view.allDevices()}, epoch, &listed, &told); err != nil {
					return err
				}
				epoch = s.epochOf(signer)
				if err := stream.Send(&api.WatchResponse{Revision: rev, Epoch: epoch}); err != nil {
					return err
				}
			}
		case <-newList:
			newList = s.lists.moved()
			if err := sendHubs(); err != nil {
				return err
			}
		case <-w.wake:
			if err := stream.Send(&api.WatchResponse{Revision: rev, Epoch: epoch, Kills: s.hubs.takeKills(w), Tells: s.hubs.takeTells(w)}); err != nil {
				return err
			}
		case <-beacon.C:
			if s.view.hub(c.id.UUID) == nil {
				return connect.NewError(connect.CodeUnauthenticated, errGone)
			}
			if _, err := s.updateHub(ctx, c.id.UUID, r); err != nil {
				s.log.Warn("not stored that a hub is up", "hub", h.Name, "error", err)
			}
			if err := stream.Send(&api.WatchResponse{Revision: rev, Epoch: epoch, Time: s.set.SignTime(s.cfg.Now(), nil),
				Renew: s.hubBehind(c.id.UUID), LogHead: s.audit.Head()}); err != nil {
				return err
			}
		case <-w.gone:
			return connect.NewError(connect.CodeAborted, errors.New("a newer Watch of this hub took over, or the hub was removed"))
		case <-ctx.Done():
			return connect.NewError(connect.CodeUnavailable, context.Cause(ctx))
		}
	}
}

// epochOf is within what a hub may go on from where it was: this run of auth, and one signer of policies, for those of another are worth nothing.
func (s *Server) epochOf(signer ed25519.PublicKey) string {
	return s.epoch + "." + base64.RawURLEncoding.EncodeToString(signer)
}

// sendDelta sends one step, in parts of a bounded size. It reads records that never change, so a slow stream holds no lock.
func (s *Server) sendDelta(stream *connect.ServerStream[api.WatchResponse], d delta, epoch string, listed, told *uint64) error {
	roles, policyRev := s.view.policies()
	m := &api.WatchResponse{Revision: d.rev, Epoch: epoch, Full: d.full, Begin: d.full, UsersRemoved: d.usersGone, DevicesRemoved: d.devicesGone}
	if t := s.rotation.now.Load(); d.full || t.trust.Revision != *told {
		m.Trust, *told = t.blob, t.trust.Revision // before what its keys sign
	}
	if d.locksChange {
		locks, err := s.signedLocks()
		if err != nil {
			return err
		}
		m.Locks = locks
	}
	if d.policyChange {
		m.PolicyRevision = policyRev
	}
	if d.configChange {
		m.Config = s.clusterConfig()
	}
	if d.hubsChanged {
		s.withHubs(m, listed)
	}
	n := 0
	next := func() error {
		if n++; n < maxDevicesOp {
			return nil
		}
		n = 0
		part := m
		m = &api.WatchResponse{Revision: d.rev, Epoch: epoch, Full: d.full}
		return stream.Send(part)
	}
	for _, u := range d.users {
		m.Users = append(m.Users, watchUser(u))
		if err := next(); err != nil {
			return err
		}
	}
	for _, dev := range d.devices {
		blob, err := s.signedPolicy(dev, roles, policyRev)
		if err != nil {
			// One device whose policy is too large must not stop the hubs; it keeps the policy it has.
			s.log.Error("policy of a device cannot be made", "device", dev.Name, "error", err)
		}
		m.Devices = append(m.Devices, &api.WatchDevice{Uuid: dev.UUID, Name: dev.Name, PublicKey: dev.Key, Labels: labelList(dev.Labels), Policy: blob, Counter: dev.Counter,
			Quarantine: quarantineText(dev), IssuedAfterUnix: unixOf(dev.Recovered), Via: dev.via(),
			ListenAddress: dev.listen().Address, TunnelOff: dev.listen().TunnelOff})
		if err := next(); err != nil {
			return err
		}
	}
	m.Synced = true
	return stream.Send(m)
}

// withHubs puts the hubs into m, and their signed list if it is another than the one sent last.
func (s *Server) withHubs(m *api.WatchResponse, listed *uint64) {
	m.Hubs = s.hubList()
	if list, blob := s.lists.get(); list.Revision != *listed {
		m.HubList, *listed = blob, list.Revision
	}
}

// updateHub stores the addresses and the zone the hub has now, if they are others, and now and then that it is up.
func (s *Server) updateHub(ctx context.Context, uuid string, r *api.WatchRequest) (*hubRecord, error) {
	if err := checkHub(r.SshAddresses, r.TunnelAddresses, r.Zone); err != nil {
		return nil, err
	}
	var h hubRecord
	err := retryConflict(ctx, func() error {
		h = hubRecord{}
		rev, err := s.get(ctx, hubPrefix+uuid, &h)
		if err != nil {
			return err
		}
		now := s.cfg.Now()
		if slices.Equal(h.SSH, r.SshAddresses) && slices.Equal(h.Tunnel, r.TunnelAddresses) && h.Version == clip(r.Version) && h.Zone == r.Zone &&
			now.Sub(h.Up).Abs() < upEvery {
			return nil
		}
		h.SSH, h.Tunnel, h.Version, h.Zone, h.Up = r.SshAddresses, r.TunnelAddresses, clip(r.Version), r.Zone, now
		return s.commit(ctx, []store.Cond{store.IfModRev(hubPrefix+uuid, rev)}, put(hubPrefix+uuid, h))
	})
	return &h, err
}

func (s *Server) hubList() []*api.Hub {
	var out []*api.Hub
	for _, h := range s.view.allHubs() {
		up, _ := s.hubs.up(h.UUID)
		out = append(out, &api.Hub{Uuid: h.UUID, Name: h.Name, Zone: h.Zone, SshAddresses: h.SSH, TunnelAddresses: h.Tunnel, Online: up, Version: h.Version})
	}
	return out
}

// SignTime signs the time over a nonce.
func (s hubService) SignTime(_ context.Context, req *connect.Request[api.SignTimeRequest]) (*connect.Response[api.SignTimeResponse], error) {
	var nonce *[32]byte
	switch len(req.Msg.Nonce) {
	case 0:
	case 32:
		nonce = (*[32]byte)(req.Msg.Nonce)
	default:
		return nil, invalid("a nonce has 32 bytes")
	}
	return connect.NewResponse(&api.SignTimeResponse{Time: s.set.SignTime(s.cfg.Now(), nonce)}), nil
}
