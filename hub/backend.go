package hub

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/policy"
	"hawser/hub/authclient"
	"hawser/hub/front"
	"hawser/hub/target"
	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// backend is the hub as its front sees it.
type backend struct{ h *Hub }

func tcpAddr(a netip.AddrPort) net.Addr { return net.TCPAddrFromAddrPort(a) }

var errUnknownKey = errors.New("key is not registered")

// Identify implements front.Backend. A certificate is judged by the trust bundle, a key by its exact blob.
func (b *backend) Identify(key ssh.PublicKey, remote net.Addr) (front.Identity, error) {
	if cert, ok := key.(*ssh.Certificate); ok {
		u, err := ca.VerifyUserCert(cert, b.h.auth.Trust(), b.h.config.Now(), remote)
		if err != nil {
			return front.Identity{}, err
		}
		return front.Identity{User: u.Name, Roles: u.Roles, Certificate: cert.Marshal(), Fingerprint: ssh.FingerprintSHA256(cert.Key), Issued: u.IssuedAt}, nil
	}
	if err := ca.CheckKey(key); err != nil {
		return front.Identity{}, err
	}
	blob := key.Marshal()
	u, ok := b.h.auth.Cache.ByKey(blob)
	if !ok {
		return front.Identity{}, errUnknownKey
	}
	return front.Identity{User: u.Name, Roles: u.Roles, Key: blob, Fingerprint: ssh.FingerprintSHA256(key)}, nil
}

// IsDevice implements front.Backend.
func (b *backend) IsDevice(id front.Identity, name string) bool {
	d := b.h.auth.Cache.ByName(name)
	return d != nil && b.reach(id, d, "")
}

// reach is whether somebody may use a device at all in a way; an empty way is any.
func (b *backend) reach(id front.Identity, d *authclient.Device, way string) bool {
	return d.Compiled.Reaches(b.roles(id), way)
}

// roles are a person's now: those auth told, for a certificate may be older than a change.
func (b *backend) roles(id front.Identity) []string {
	if u, ok := b.h.auth.Cache.User(id.User); ok {
		return u.Roles
	}
	return id.Roles
}

// Reach implements front.Backend.
func (b *backend) Reach(ctx context.Context, id front.Identity, device string) (to wire.UUID, release func(), err error) {
	d := b.h.auth.Cache.ByName(device)
	if d == nil || !b.reach(id, d, "") {
		return wire.UUID{}, nil, &front.Refusal{Reason: front.RefusedDevice, Message: front.UnknownDevice(device)}
	}
	if d.Behind {
		return wire.UUID{}, nil, &front.Refusal{Message: b.h.onlyHere(d)}
	}
	if !b.reach(id, d, policy.WayEndToEnd) {
		at, _ := b.h.publicAddresses()
		return wire.UUID{}, nil, &front.Refusal{Message: "your roles do not allow the way " + policy.WayEndToEnd + " to " + d.Name +
			"; this way works: " + policy.WayIn([]string{policy.WayHub}, d.Name, "", at[0])}
	}
	if why := b.h.deniedLive(front.Live{Kind: front.Pipe, Identity: id, Device: d.UUID}); why != "" {
		return wire.UUID{}, nil, &front.Refusal{Message: why}
	}
	if d.Quarantine != "" {
		return wire.UUID{}, nil, &front.Refusal{Message: d.Quarantine}
	}
	if len(b.h.routes(ctx, d.UUID)) == 0 {
		return wire.UUID{}, nil, front.ErrOffline
	}
	_, release = b.h.holdControl(d.UUID)
	return d.UUID, release, nil
}

// Admit implements front.Backend.
func (b *backend) Admit(ctx context.Context, c front.Claim) (*front.Place, error) {
	if err := b.refused(&c, wire.UUID{}, c.Login); err != nil {
		return nil, err
	}
	r := &api.AdmitRequest{
		User: c.Identity.User, PublicKey: c.Identity.Key, Certificate: c.Identity.Certificate, ConnectionId: c.ConnectionID[:],
		WantedDevice: c.Wanted, Device: c.Device, Login: c.Login, Way: policy.WayHub, ClientAddress: c.ClientAddr.String(), UserAgent: c.UserAgent,
	}
	switch c.Kind {
	case front.Connection:
		r.Kind = api.Kind_KIND_CONNECTION
	case front.Session:
		r.Kind = api.Kind_KIND_SESSION
		r.SessionId = c.SessionID[:]
	case front.Forwards:
		r.Kind = api.Kind_KIND_FORWARDS
	}
	if c.Kind != front.Connection {
		// A device that is away is told to those who may use it; to others it is as unknown as one that never was, and auth says so.
		if d := b.h.auth.Cache.ByName(c.Device); d != nil && d.Behind {
			if d.Quarantine == "" && b.reach(c.Identity, d, policy.WayHub) {
				if err := b.h.wayTo(ctx, d); err != nil {
					return nil, err
				}
			}
		} else if d != nil {
			routes := b.h.registry.Routes(d.UUID)
			if len(routes) == 0 && d.Quarantine == "" && b.reach(c.Identity, d, policy.WayHub) { // in quarantine auth says why
				if routes = b.h.routes(ctx, d.UUID); len(routes) == 0 {
					return nil, front.ErrOffline
				}
			}
			if len(routes) > 0 {
				// The device goes by the name the person gave: a refusal repeats it, and must not tell that the device exists.
				r.Incarnation, r.DefaultLogin = routes[0].Incarnation[:], routes[0].Login
			}
		}
	}
	if c.Joins.Session != "" {
		// auth knows on which device that session is; then we name the run of its agent.
		r.Join, r.JoinMode = c.Joins.Session, c.Joins.Mode
		if err := b.joined(ctx, r); err != nil {
			return nil, err
		}
	}
	resp, err := b.h.auth.Admit(ctx, r)
	switch {
	case errors.Is(err, authclient.ErrUnavailable):
		return nil, errors.Join(front.ErrUnavailable, err)
	case err != nil:
		return nil, err
	case resp.Refusal != nil:
		b.h.config.Logger.Info("refused by auth", "user", c.Identity.User, "reason", wire.Quote(resp.Refusal.Reason, 32))
		return nil, &front.Refusal{Reason: resp.Refusal.Reason, Message: resp.Refusal.Message}
	}
	p := &front.Place{
		Grant: resp.Grant, DeviceName: resp.DeviceName, Login: resp.GetAccess().GetLogin(), Channels: resp.GetAccess().GetChannels(),
		Recorded: len(resp.RecordingId) == 16, Record: resp.GetAccess().GetRecord(), RecordStdin: resp.GetAccess().GetRecordStdin(), NotAfter: time.Unix(resp.NotAfterUnix, 0),
		Recipients:   recipientsIn(resp.GetAccess()),
		DetachedLife: time.Duration(resp.GetAccess().GetDetachedLifeMs()) * time.Millisecond, ForceCommand: resp.GetAccess().GetForceCommand(),
		Session: limitsIn(resp.GetAccess()), Expires: timeOf(resp.GetAccess().GetCredentialExpiresUnixNano()),
		MaxChannels: resp.GetAccess().GetMaxChannels(),
	}
	if c.Joins.Session != "" {
		p.Joins, p.JoinMode = b.h.joinedBy(resp.Grant)
	}
	if len(resp.SessionId) == 16 {
		p.SessionID = [16]byte(resp.SessionId)
	}
	if resp.DeviceUuid != "" {
		if p.Device, err = wire.ParseUUID(resp.DeviceUuid); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// recipientsIn are those that the session's recording is encrypted to.
func recipientsIn(a *api.Access) (list [][32]byte) {
	for _, r := range a.GetRecipients() {
		var key [32]byte // of another length it is nobody's
		copy(key[:], r)
		list = append(list, key)
	}
	return list
}

// joined asks which device the session is on that somebody wants to join, and fills in its tunnel.
func (b *backend) joined(ctx context.Context, r *api.AdmitRequest) error {
	resp, err := b.h.auth.Admit(ctx, r)
	switch {
	case errors.Is(err, authclient.ErrUnavailable):
		return errors.Join(front.ErrUnavailable, err)
	case err != nil:
		return err
	case resp.Refusal != nil:
		return &front.Refusal{Reason: resp.Refusal.Reason, Message: resp.Refusal.Message}
	}
	id, err := wire.ParseUUID(resp.DeviceUuid)
	if err != nil {
		return err
	}
	if d := b.h.auth.Cache.Device(id); d != nil && d.Behind { // the session is on this hub, or auth had named another
		r.Device = resp.DeviceUuid
		return nil
	}
	routes := b.h.registry.Routes(id)
	if len(routes) == 0 {
		if routes = b.h.routes(ctx, id); len(routes) == 0 {
			return front.ErrOffline
		}
	}
	r.Device, r.Incarnation = resp.DeviceUuid, routes[0].Incarnation[:]
	return nil
}

// SecondFactor implements front.Backend.
func (b *backend) SecondFactor(ctx context.Context, c front.Claim, code string) (ok bool, message string, err error) {
	r, err := b.h.auth.CheckSecondFactor(ctx, &api.CheckSecondFactorRequest{
		PublicKey: c.Identity.Key, Certificate: c.Identity.Certificate, ConnectionId: c.ConnectionID[:],
		ClientAddress: c.ClientAddr.String(), Code: code,
	})
	switch {
	case errors.Is(err, authclient.ErrUnavailable):
		return false, "", errors.Join(front.ErrUnavailable, err)
	case err != nil:
		return false, "", err
	}
	return r.Ok, r.Message, nil
}

// Release implements front.Backend.
func (b *backend) Release(id [16]byte, end front.Ended) {
	b.h.deliveries.sessionEnded(id, ending{end.ExitStatus, end.Reason})
	b.h.auth.ReleaseRan(id, end.ExitStatus, end.Reason, end.Channel, end.Command)
}

// OpenStream implements front.Backend.
func (b *backend) OpenStream(ctx context.Context, device wire.UUID, a *wire.Attach) (tunnel.Stream, error) {
	if d := b.h.auth.Cache.Device(device); d != nil && d.Behind {
		return b.h.targets.Open(target.Device{UUID: d.UUID, Name: d.Name})
	}
	return b.h.openStream(ctx, device, a)
}

// RouteChanged implements front.Routes.
func (b *backend) RouteChanged(device wire.UUID) <-chan struct{} {
	return b.h.registry.Changed(b.h.carrierOf(device))
}

// Silent implements front.Routes.
func (b *backend) Silent(device wire.UUID) (some, all bool) {
	if via := b.h.carrierOf(device); via != device {
		lost := b.h.lost(via)
		return lost, lost // the stream itself is in this hub: there is no better way to move it to
	}
	routes := b.h.registry.Routes(device)
	all = len(routes) > 0
	for _, r := range routes {
		some = some || r.Silent
		all = all && r.Silent
	}
	return some, all
}

// KillOnDevice implements front.Backend.
func (b *backend) KillOnDevice(device wire.UUID, session [16]byte, reason string) {
	if b.h.targets.Kill(session, reason) {
		return
	}
	b.h.killOnDevice(device, session, reason)
}
