package authclient

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"net/netip"
	"sync"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/hublist"
	"hawser/auth/policy"
	"hawser/tunnel/wire"
)

// Events are told by Run's goroutine as they come; they must not block.
type Events struct {
	Trust         func()
	Device        func(*Device) // new or changed; its policy may be
	DeviceRemoved func(wire.UUID)
	Resynced      func()            // a whole state replaced the cache: what it lacks was removed
	UserChanged   func(name string) // changed or removed
	Locks         func()
	Time          func() // a new beacon of auth's; may be nil
	Config        func() // the cluster's configuration is another; may be nil
	HubList       func() // the signed list of hubs is another; may be nil
	Kill          func(session [16]byte, reason string)
	// KillAll is Kill for all of a user, or on a device by its UUID; the other is empty. May be nil.
	KillAll func(user, device, reason string)
	// Tell passes something on to the people in a session. May be nil.
	Tell     func(m wire.Tell)
	Sessions func() [][16]byte                  // those alive here, connections too
	Report   func(full bool) []*api.DeviceState // what to report: all, or what changed since
	// SessionStates is Report for sessions and connections: all, or those whose state or facts changed since. A session that has ended is
	// not named but released. May be nil.
	SessionStates func(full bool) []*api.SessionState
	// Lapsed names sessions and connections whose cap_mode is exact and that must end now: auth may soon give their places to others. They are
	// named again until they are released. May be nil.
	Lapsed func(ids [][16]byte)
}

// Run watches, reports, renews and releases until ctx ends, reconnecting with jitter.
func (x *Client) Run(ctx context.Context, e Events) {
	var wg sync.WaitGroup
	wg.Go(func() { x.renewals(ctx) })
	wg.Go(func() { x.releasing(ctx) })
	wg.Go(func() { x.renewing(ctx) })
	if e.Lapsed != nil {
		wg.Go(func() { x.fencing(ctx, e.Lapsed) })
	}
	wg.Go(func() { x.telling(ctx) })
	wg.Go(func() { x.tellRefusals(ctx) })
	wg.Go(func() { x.tellForwards(ctx) })
	wg.Go(func() { x.keepLogHeads(ctx) })
	revision, epoch, wait := uint64(0), "", retryMin
	for ctx.Err() == nil {
		began := x.c.Now()
		err := x.watch(ctx, e, &revision, &epoch)
		if ctx.Err() != nil {
			break
		}
		if x.c.Now().Sub(began) > time.Minute {
			wait = retryMin
		}
		wait = backoff(wait)
		x.c.Logger.Warn("auth connection lost", "error", err, "retry", wait)
		if !sleep(ctx, wait) {
			break
		}
	}
	wg.Wait()
	x.api.Close()
}

func (x *Client) watch(ctx context.Context, e Events, revision *uint64, epoch *string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var sessions [][]byte
	for _, id := range e.Sessions() {
		sessions = append(sessions, id[:])
	}
	stream, err := x.api.Hub.Watch(ctx, connect.NewRequest(&api.WatchRequest{
		Revision: *revision, Epoch: *epoch, SshAddresses: x.c.SSHAddrs, TunnelAddresses: x.c.TunnelAddrs, Sessions: sessions,
		Incarnation: x.c.Incarnation[:], Version: x.c.Version, Zone: x.c.Zone,
	}))
	if err != nil {
		return x.failed(err)
	}
	defer func() { _ = stream.Close() }()
	var reporting sync.WaitGroup
	defer reporting.Wait()
	defer cancel()
	up := false
	for stream.Receive() {
		m := stream.Msg()
		x.apply(m, e)
		if !m.Full || m.Synced {
			*revision, *epoch = m.Revision, m.Epoch
		}
		if !up && (m.Synced || !m.Full) {
			up = true
			x.c.Logger.Info("auth connection up", "revision", m.Revision)
			reporting.Go(func() { x.report(ctx, x.dirty, x.reportDevices(e)) })
			reporting.Go(func() { x.report(ctx, x.heldDirty, x.reportHeld) })
			if e.SessionStates != nil {
				reporting.Go(func() { x.report(ctx, x.sessionsDirty, x.reportSessions(e)) })
			}
		}
	}
	if err := stream.Err(); err != nil {
		return x.failed(err)
	}
	return errors.New("auth ended the watch")
}

// failed is fail; where the certificate was not accepted, it is over, or its CA was rotated away while this hub slept.
func (x *Client) failed(err error) error {
	if connect.CodeOf(err) == connect.CodeUnauthenticated {
		x.wantRenewal()
	}
	return fail(err)
}

// apply changes the cache by one step, then tells.
func (x *Client) apply(m *api.WatchResponse, e Events) {
	trustChanged := len(m.Trust) > 0 && x.applyTrust(m.Trust)
	keys, cluster := x.Trust().GrantKeys, x.Credentials().Cluster
	var devices []*Device
	for _, d := range m.Devices {
		if dev := x.device(d, keys, cluster); dev != nil {
			devices = append(devices, dev)
		}
	}
	list, listed := x.hubList(m.HubList, keys, cluster)
	locks, locked := x.openLocks(m.Locks)
	c := &x.Cache
	c.mu.Lock()
	if m.Full && m.Begin {
		c.clear()
	}
	for _, u := range m.Users {
		c.putUserLocked(u)
	}
	for _, u := range m.UsersRemoved {
		c.dropUserLocked(u)
	}
	for _, d := range devices {
		c.putDeviceLocked(d)
	}
	var removed []wire.UUID
	for _, s := range m.DevicesRemoved {
		if id, err := wire.ParseUUID(s); err == nil {
			c.dropDeviceLocked(id)
			removed = append(removed, id)
		}
	}
	if len(m.Hubs) > 0 {
		c.hubs = x.hubs(m.Hubs)
	}
	listed = listed && !bytes.Equal(c.hubListBlob, m.HubList)
	if listed {
		c.hubList, c.hubListBlob = list, m.HubList
	}
	if len(m.Time) > 0 {
		c.time, c.heard = m.Time, x.c.Now()
	}
	if locked {
		c.lockList, c.locks = locks, m.Locks.Blob
	}
	if m.PolicyRevision != 0 {
		c.policy = m.PolicyRevision
	}
	if m.Config != nil {
		c.config = clusterConfig(m.Config)
	}
	c.synced = c.synced || m.Synced || !m.Full
	c.partial = m.Full && !m.Synced
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()

	if trustChanged {
		e.Trust()
	}
	if m.Renew {
		x.wantRenewal()
	}
	x.logHead(m.LogHead)
	if locked {
		e.Locks()
	}
	if len(m.Time) > 0 && e.Time != nil {
		e.Time()
	}
	if m.Config != nil && e.Config != nil {
		e.Config()
	}
	if listed && e.HubList != nil {
		e.HubList()
	}
	for _, d := range devices {
		e.Device(d)
	}
	for _, id := range removed {
		e.DeviceRemoved(id)
	}
	if m.Full && m.Synced {
		e.Resynced()
	}
	for _, u := range m.Users {
		e.UserChanged(u.Name)
	}
	for _, u := range m.UsersRemoved {
		e.UserChanged(u)
	}
	if m.Locks != nil || trustChanged || m.PolicyRevision != 0 {
		x.HeldDirty() // by now all of it is in force here
	}
	for _, k := range m.Kills {
		if len(k.SessionId) == 16 {
			e.Kill([16]byte(k.SessionId), k.Reason)
		} else if (k.User != "" || k.DeviceUuid != "") && e.KillAll != nil {
			e.KillAll(k.User, k.DeviceUuid, k.Reason)
		}
	}
	for _, t := range m.Tells {
		if len(t.SessionId) == 16 && t.What <= 255 && e.Tell != nil {
			e.Tell(wire.Tell{SessionID: [16]byte(t.SessionId), What: uint8(t.What), User: wire.Quote(t.User, maxTold), Text: wire.Quote(t.Text, maxTold)})
		}
	}
}

func (x *Client) applyTrust(blob []byte) bool {
	x.changing.Lock()
	defer x.changing.Unlock()
	old := x.Trust()
	t, err := ca.OpenNextTrust(blob, old)
	if err != nil {
		x.c.Logger.Error("trust bundle refused", "error", err)
		return false
	}
	if t.Revision == old.Revision {
		return false
	}
	creds := *x.Credentials()
	creds.Trust = blob
	if err := creds.Save(x.c.Dir); err != nil {
		x.c.Logger.Error("trust bundle not stored", "error", err)
	}
	x.trust.Store(t)
	x.creds.Store(&creds)
	x.c.Logger.Info("trust renewed", "revision", t.Revision)
	return true
}

// maxTold bounds a word to the people in a session: bytes.
const maxTold = 400

// maxQuarantine bounds what people are told of a device that is not served: bytes.
const maxQuarantine = 512

// hubs leaves out what it cannot read.
func (x *Client) hubs(list []*api.Hub) []Hub {
	out := make([]Hub, 0, len(list))
	for _, h := range list {
		id, err := wire.ParseUUID(h.Uuid)
		if err != nil {
			x.c.Logger.Error("hub from auth not understood", "hub", wire.Quote(h.Uuid, 64))
			continue
		}
		out = append(out, Hub{UUID: id, Name: h.Name, Zone: h.Zone, SSH: h.SshAddresses, Tunnel: h.TunnelAddresses, Online: h.Online})
	}
	return out
}

func (x *Client) hubList(blob []byte, keys []ed25519.PublicKey, cluster string) (hublist.List, bool) {
	if len(blob) == 0 {
		return hublist.List{}, false
	}
	l, err := hublist.Open(blob, keys, cluster)
	if err != nil {
		x.c.Logger.Error("hub list from auth refused", "error", err)
		return hublist.List{}, false
	}
	return l, true
}

func (x *Client) device(d *api.WatchDevice, keys []ed25519.PublicKey, cluster string) *Device {
	id, err := wire.ParseUUID(d.Uuid)
	if err != nil || wire.CheckDeviceName(d.Name) != nil || len(d.PublicKey) != ed25519.PublicKeySize && (d.Via == "" || len(d.PublicKey) != 0) {
		x.c.Logger.Error("device from auth not understood", "device", wire.Quote(d.Uuid, 64))
		return nil
	}
	dev := &Device{UUID: id, Name: d.Name, Key: d.PublicKey, Policy: d.Policy, Quarantine: wire.Quote(d.Quarantine, maxQuarantine)}
	dev.TunnelOff = d.TunnelOff
	if dev.Listen, err = netip.ParseAddrPort(d.ListenAddress); err != nil { // "" too
		dev.Listen = netip.AddrPort{}
	}
	if d.IssuedAfterUnix > 0 {
		dev.IssuedAfter = time.Unix(d.IssuedAfterUnix, 0)
	}
	if len(dev.Key) == 0 {
		dev.Key = nil
	}
	switch {
	case d.Via == "hub":
		dev.Behind = true
	case d.Via != "":
		if dev.Via, err = wire.ParseUUID(d.Via); err != nil || dev.Via.IsZero() {
			x.c.Logger.Error("device from auth not understood", "device", d.Name, "via", wire.Quote(d.Via, 64))
			return nil
		}
		dev.Behind = true
	}
	for _, l := range d.Labels {
		dev.Labels = append(dev.Labels, wire.Label{Key: l.Key, Value: l.Value})
	}
	if dev.Compiled, err = policy.OpenCompiled(d.Policy, keys, cluster, d.Uuid); err != nil {
		x.c.Logger.Error("policy from auth refused", "device", d.Name, "error", err) // the zero Compiled allows nothing
	}
	return dev
}
