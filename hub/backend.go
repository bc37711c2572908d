package hub

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/policy"
	"hawser/hub/authclient"
	"hawser/hub/front"
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
		return front.Identity{User: u.Name, Roles: u.Roles, Certificate: cert.Marshal()}, nil
	}
	if err := ca.CheckKey(key); err != nil {
		return front.Identity{}, err
	}
	blob := key.Marshal()
	u, ok := b.h.auth.Cache.ByKey(blob)
	if !ok {
		return front.Identity{}, errUnknownKey
	}
	return front.Identity{User: u.Name, Roles: u.Roles, Key: blob}, nil
}

// IsDevice implements front.Backend.
func (b *backend) IsDevice(id front.Identity, name string) bool {
	d := b.h.auth.Cache.ByName(name)
	return d != nil && b.reach(id, d, "")
}

// reach is whether somebody may use a device at all in a way; an empty way is any.
func (b *backend) reach(id front.Identity, d *authclient.Device, way string) bool {
	a := d.Compiled.Access(b.roles(id))
	return len(a.Channels) > 0 && (way == "" || slices.Contains(a.Ways, way))
}

// roles are a person's now: those auth told, for a certificate may be older than a change.
func (b *backend) roles(id front.Identity) []string {
	if u, ok := b.h.auth.Cache.User(id.User); ok {
		return u.Roles
	}
	return id.Roles
}

// List implements front.Backend.
func (b *backend) List(id front.Identity) []front.Listed {
	var list []front.Listed
	for _, d := range b.h.auth.Cache.Devices() {
		if !b.reach(id, d, "") {
			continue
		}
		l := front.Listed{Name: d.Name, Online: b.h.registry.Online(d.UUID)}
		for _, label := range d.Labels {
			l.Labels = append(l.Labels, label.Key+"="+label.Value)
		}
		slices.Sort(l.Labels)
		list = append(list, l)
	}
	slices.SortFunc(list, func(a, b front.Listed) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Reach implements front.Backend.
func (b *backend) Reach(id front.Identity, device string) (to wire.UUID, release func(), err error) {
	d := b.h.auth.Cache.ByName(device)
	if d == nil || !b.reach(id, d, policy.WayEndToEnd) {
		return wire.UUID{}, nil, &front.Refusal{Message: front.UnknownDevice(device)}
	}
	if len(b.h.registry.Routes(d.UUID)) == 0 {
		return wire.UUID{}, nil, front.ErrOffline
	}
	_, release = b.h.holdControl(d.UUID)
	return d.UUID, release, nil
}

// Admit implements front.Backend.
func (b *backend) Admit(ctx context.Context, c front.Claim) (*front.Place, error) {
	r := &api.AdmitRequest{
		User: c.Identity.User, PublicKey: c.Identity.Key, Certificate: c.Identity.Certificate, ConnectionId: c.ConnectionID[:],
		Device: c.Device, Login: c.Login, Way: policy.WayHub, ClientAddress: c.ClientAddr.String(), UserAgent: c.UserAgent,
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
		if d := b.h.auth.Cache.ByName(c.Device); d != nil {
			routes := b.h.registry.Routes(d.UUID)
			if len(routes) == 0 && b.reach(c.Identity, d, policy.WayHub) {
				return nil, front.ErrOffline
			}
			if len(routes) > 0 {
				// The device goes by the name the person gave: a refusal repeats it, and must not tell that the device exists.
				r.Incarnation, r.DefaultLogin = routes[0].Incarnation[:], routes[0].Login
			}
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
		return nil, &front.Refusal{Message: resp.Refusal.Message}
	}
	p := &front.Place{
		Grant: resp.Grant, DeviceName: resp.DeviceName, Login: resp.GetAccess().GetLogin(), Channels: resp.GetAccess().GetChannels(),
		Recorded: len(resp.RecordingId) == 16, NotAfter: time.Unix(resp.NotAfterUnix, 0),
		DetachedLife: time.Duration(resp.GetAccess().GetDetachedLifeMs()) * time.Millisecond,
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

// Release implements front.Backend.
func (b *backend) Release(id [16]byte, status int32, reason string) {
	b.h.auth.Release(id, status, reason)
}

// OpenStream implements front.Backend.
func (b *backend) OpenStream(ctx context.Context, device wire.UUID, a *wire.Attach) (tunnel.Stream, error) {
	return b.h.openStream(ctx, device, a)
}

// RouteChanged implements front.Routes.
func (b *backend) RouteChanged(device wire.UUID) <-chan struct{} { return b.h.registry.Changed(device) }

// Silent implements front.Routes.
func (b *backend) Silent(device wire.UUID) (some, all bool) {
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
	b.h.killOnDevice(device, session, reason)
}
