package hub

import (
	"context"
	"time"

	"hawser/auth/api"
	"hawser/auth/policy"
	"hawser/hub/front"
	"hawser/hub/shell"
	"hawser/tunnel/wire"
)

// List implements front.Backend.
func (b *backend) List(id front.Identity) []front.Listed {
	all, roles := b.h.auth.Cache.Devices(), b.roles(id)
	list := make([]front.Listed, 0, len(all))
	for _, d := range all {
		if d.Compiled.Reaches(roles, "") {
			list = append(list, front.Listed{UUID: d.UUID, Name: d.Name, Online: b.h.online(d), Labels: d.Labels})
		}
	}
	return list
}

// Online implements front.Backend.
func (b *backend) Online(device wire.UUID) bool {
	d := b.h.auth.Cache.Device(device)
	return d != nil && b.h.online(d)
}

// awaitPause is the least time between two looks at whether a device is there that is waited for: auth may tell of ten thousand others.
const awaitPause = 250 * time.Millisecond

// Await implements front.Backend.
func (b *backend) Await(ctx context.Context, id front.Identity, device string) error {
	for {
		changed := b.h.auth.Cache.Changed()
		var routes <-chan struct{} // of a device that is not for him nothing is looked at
		if d := b.h.auth.Cache.ByName(device); d != nil && b.reach(id, d, policy.WayHub) {
			routes = b.h.registry.Changed(b.h.carrierOf(d.UUID))
			if b.h.online(d) || d.Quarantine != "" { // auth says what is wrong with one in quarantine
				return nil
			}
		}
		select {
		case <-changed:
		case <-routes:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		t := time.NewTimer(awaitPause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
	}
}

// LastSeen implements front.Backend.
func (b *backend) LastSeen(ctx context.Context, id front.Identity, device string) (shell.Seen, error) {
	d := b.h.auth.Cache.ByName(device)
	if d == nil || !b.reach(id, d, "") {
		return shell.Seen{}, &front.Refusal{Message: front.UnknownDevice(device)}
	}
	carrier := b.h.carrierOf(d.UUID)
	r, err := b.h.auth.LastSeen(ctx, &api.LastSeenRequest{DeviceUuid: carrier.String()})
	if err != nil {
		return shell.Seen{}, err
	}
	seen := shell.Seen{Hub: r.Hub, Carrier: r.Carrier, Reason: r.Reason}
	if r.AtUnix != 0 {
		seen.At = time.Unix(r.AtUnix, 0)
	}
	if gw := b.h.auth.Cache.Device(carrier); gw != nil && carrier != d.UUID {
		seen.Through = gw.Name
	}
	return seen, nil
}
