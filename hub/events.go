package hub

import (
	"encoding/hex"
	"sync"

	"hawser/auth/api"
	"hawser/hub/authclient"
	"hawser/hub/registry"
	"hawser/tunnel/wire"
)

// changedDevices is what auth is still to be told of.
type changedDevices struct {
	mu  sync.Mutex
	ids map[wire.UUID]struct{}
}

func (c *changedDevices) add(id wire.UUID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ids == nil {
		c.ids = make(map[wire.UUID]struct{})
	}
	c.ids[id] = struct{}{}
}

func (c *changedDevices) take() map[wire.UUID]struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	ids := c.ids
	c.ids = nil
	return ids
}

// report notes that a device came, went or changed.
func (h *Hub) report(id wire.UUID) {
	h.changes.add(id)
	h.auth.Dirty()
}

// states is what this hub has of a device: one of each tunnel, or how the last one ended.
func (h *Hub) states(id wire.UUID) []*api.DeviceState {
	tunnels := h.registry.Tunnels(id)
	if len(tunnels) == 0 {
		d := &api.DeviceState{Uuid: id.String()}
		if end, ok := h.ends.get(id); ok {
			d.Reason, d.SinceUnix = end.reason, end.at.Unix()
		}
		return []*api.DeviceState{d}
	}
	states := make([]*api.DeviceState, 0, len(tunnels))
	for _, t := range tunnels {
		states = append(states, h.deviceState(t))
	}
	return states
}

func (h *Hub) deviceState(t *registry.Tunnel) *api.DeviceState {
	i, held := t.Info(), t.Held()
	s := h.tunnels.of(t.Conn)
	return &api.DeviceState{
		Uuid: t.UUID.String(), Online: true, Incarnation: t.Incarnation[:], Carrier: t.Conn.Carrier().String(),
		Observed: t.Conn.RemoteAddr().String(), Hostname: i.Hostname, AgentVersion: i.AgentVersion, Arch: i.Arch, Os: i.OS,
		Addresses: i.Addresses, SinceUnix: t.Since.Unix(), PolicyRevision: held.Policy, LocksRevision: held.Locks, Uid: i.UID,
		Slot: uint32(t.Slot), Silent: s != nil && s.isSilent(), Listen: i.Listen, TunnelOff: i.TunnelOff,
	}
}

// events says what the hub does with what auth tells.
func (h *Hub) events() authclient.Events {
	return authclient.Events{
		Trust: func() { h.broadcast(wire.Trust{Blob: h.auth.TrustBlob()}) },
		Locks: h.locksChanged,
		Time:  h.sendTime,
		Device: func(d *authclient.Device) {
			for _, t := range h.registry.Tunnels(d.UUID) {
				h.send(t, wire.Policy{Blob: d.Policy})
			}
			h.deviceChanged(d)
			h.dials.set(d.UUID, d)
			h.policyChanged()
		},
		HubList: func() {
			if _, blob := h.auth.Cache.HubList(); blob != nil {
				h.broadcast(wire.HubList{Blob: blob})
			}
		},
		DeviceRemoved: h.removeDevice,
		Resynced: func() {
			h.dials.keep(h.auth.Cache.Devices())
			for _, t := range h.registry.All() {
				if h.auth.Cache.Device(t.UUID) == nil {
					h.removeDevice(t.UUID)
				}
			}
		},
		UserChanged: func(name string) {
			if _, ok := h.auth.Cache.User(name); !ok {
				h.front.EndUser(name, "the user was removed")
			}
			h.policyChanged()
		},
		Kill:          h.kill,
		KillAll:       h.killAll,
		Tell:          h.tell,
		SessionStates: func(full bool) []*api.SessionState { return h.told.news(full, h.sessionStates(full)) },
		Lapsed:        h.lapsed,
		Sessions:      func() [][16]byte { return append(h.front.Sessions(), h.granted.alive()...) },
		Report: func(full bool) []*api.DeviceState {
			ids := h.changes.take()
			var states []*api.DeviceState
			if full {
				seen := make(map[wire.UUID]bool)
				for _, t := range h.registry.All() {
					seen[t.UUID] = true
					states = append(states, h.deviceState(t))
				}
				for _, id := range h.ends.recent(h.config.Now()) {
					if !seen[id] {
						states = append(states, h.states(id)...)
					}
				}
				return states
			}
			for id := range ids {
				states = append(states, h.states(id)...)
			}
			return states
		},
	}
}

// removeDevice ends the tunnels of a device that is no longer in the cluster, and what is open on a server without an agent, which has none.
func (h *Hub) removeDevice(id wire.UUID) {
	const reason = "the device was removed from the cluster"
	h.dials.set(id, nil)
	h.dropDevice(id, reason)
	h.endDevice(id, reason)
}

// endDevice ends what people have open on a device, their forwards too, and the logins that forwards share.
func (h *Hub) endDevice(id wire.UUID, reason string) {
	h.targets.EndDevice(id)
	h.front.EndDevice(id, h.deviceName(id), reason)
}

// dropDevice ends the tunnels of an identity that is void.
func (h *Hub) dropDevice(id wire.UUID, reason string) {
	for _, t := range h.registry.Forget(id) {
		h.tunnels.spawn(func() { _ = t.Conn.CloseWithError(wire.CloseBanned, reason) })
	}
}

// kill ends a session wherever it is served.
func (h *Hub) kill(id [16]byte, reason string) {
	h.config.Logger.Info("session killed", "session", hex.EncodeToString(id[:]), "reason", wire.Quote(reason, 256))
	if device, ok := h.granted.deviceOf(id); ok {
		h.killOnDevice(device, id, reason)
		return
	}
	// It is noted first: a session that is not found is held against it when it comes.
	h.early.put(id, reason, h.config.Now())
	h.front.Kill(id, reason)
}

// killAll ends all that a user has here, or all that is open on a device, wherever it is served.
func (h *Hub) killAll(user, device, reason string) {
	h.config.Logger.Info("sessions killed", "user", user, "device", device, "reason", wire.Quote(reason, 256))
	id, err := wire.ParseUUID(device)
	for _, s := range h.granted.states(false) {
		if on, ok := h.granted.deviceOf([16]byte(s.Id)); ok && (user != "" && s.User == user || err == nil && on == id) {
			h.killOnDevice(on, [16]byte(s.Id), reason)
		}
	}
	if user != "" {
		h.front.EndUser(user, reason)
	}
	if err == nil {
		h.endDevice(id, reason)
	}
}

// send sends without waiting for a peer that does not read.
func (h *Hub) send(t *registry.Tunnel, m wire.Message) {
	if s := h.tunnels.of(t.Conn); s != nil {
		s.send(m)
	}
}

// broadcast sends to every device here; the message is encoded once.
func (h *Hub) broadcast(m wire.Message) {
	b, err := wire.Encode(m)
	if err != nil {
		h.config.Logger.Error("message not sent", "error", err)
		return
	}
	for _, s := range h.tunnels.all() {
		s.enqueue(queued{m.Type(), b})
	}
}
