package auth

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"hawser/auth/api"
	"hawser/auth/store"
	"hawser/tunnel/wire"
)

// presence is what hubs say of one device. It stays when the device goes, for it is then what people ask for.
type presence struct {
	// tunnels are those it has, the one in use first; at most one for each hub and slot.
	tunnels []deviceTunnel
	last    lastSeen
	history []*api.DeviceEvent // the device's own memory of its connections, oldest first, by auth's clock; see maxHistory

	saved   time.Time // when last was written to the store
	unsaved bool      // last has changed since
}

type deviceTunnel struct {
	*api.DeviceState
	hub hubRef
}

type hubRef struct{ uuid, name, zone string }

// lastSeen is where a device was last: kept in the store, so that a restart of the service forgets nothing but the histories.
// It is written when it changes, for one device once a minute at most.
type lastSeen struct {
	At      time.Time `json:"at"`
	Hub     string    `json:"hub,omitempty"` // name
	Zone    string    `json:"zone,omitempty"`
	Carrier string    `json:"carrier,omitempty"`
	Reason  string    `json:"reason,omitempty"` // why it went; empty: it had not gone
}

// online reports whether the device can be reached: whether it has a tunnel that is not silent.
func (p *presence) online() bool { return len(p.tunnels) > 0 && !p.tunnels[0].Silent }

func (p *presence) sort() {
	slices.SortStableFunc(p.tunnels, func(a, b deviceTunnel) int {
		silent := func(t deviceTunnel) int {
			if t.Silent {
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(silent(a), silent(b)), cmp.Compare(a.Slot, b.Slot), cmp.Compare(b.SinceUnix, a.SinceUnix))
	})
}

func (t *hubTable) presenceLocked(uuid string) *presence {
	p := t.devices[uuid]
	if p == nil {
		p = new(presence)
		t.devices[uuid] = p
	}
	return p
}

// setLocked replaces what one hub has of a device. reason and at say why and when it went, where it went.
func (t *hubTable) setLocked(uuid string, hub hubRef, tunnels []deviceTunnel, reason string, at time.Time) {
	p := t.presenceLocked(uuid)
	was := slices.Clone(p.tunnels)
	wasOnline := p.online()
	p.tunnels = slices.DeleteFunc(p.tunnels, func(d deviceTunnel) bool { return d.hub.uuid == hub.uuid })
	p.tunnels = append(p.tunnels, tunnels...)
	p.sort()
	switch {
	case p.online():
		use := p.tunnels[0]
		now := lastSeen{At: at, Hub: use.hub.name, Zone: use.hub.zone, Carrier: use.Carrier}
		if wasOnline {
			now.At = p.last.At
		}
		if now != p.last {
			now.At = at
			p.last, p.unsaved = now, true
		}
	case wasOnline:
		if reason == "" && len(p.tunnels) > 0 {
			reason = "heartbeats are overdue"
		}
		p.last = lastSeen{At: at, Hub: was[0].hub.name, Zone: was[0].hub.zone, Carrier: was[0].Carrier, Reason: reason}
		p.unsaved = true
	case reason == "":
	case len(was) == 0 && at.After(p.last.At):
		// It came and went between two reports, or while this service was away.
		p.last = lastSeen{At: at, Hub: hub.name, Zone: hub.zone, Carrier: p.last.Carrier, Reason: reason}
		p.unsaved = true
	case len(was) > 0 && p.last.Reason != reason || p.last.Reason == "":
		// Silent since then, and now closed.
		p.last.Reason, p.unsaved = reason, true
	}
}

// offlineLocked takes the hub's tunnels away, but for those of the devices in except.
func (t *hubTable) offlineLocked(hub hubRef, reason string, now time.Time, except map[string][]*api.DeviceState) {
	for uuid, p := range t.devices {
		if except[uuid] == nil && slices.ContainsFunc(p.tunnels, func(d deviceTunnel) bool { return d.hub.uuid == hub.uuid }) {
			t.setLocked(uuid, hub, nil, reason, now)
		}
	}
}

// report takes over what the hub has of each device named; ok is false if the hub has no Watch open.
func (t *hubTable) report(hub hubRef, full bool, states []*api.DeviceState, now time.Time) (ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.watches[hub.uuid] == nil {
		return false
	}
	named := make(map[string][]*api.DeviceState, len(states))
	for _, st := range states {
		named[st.Uuid] = append(named[st.Uuid], st)
	}
	for uuid, states := range named {
		var tunnels []deviceTunnel
		reason, at := "", now
		for _, st := range states {
			if !st.Online {
				reason = st.Reason
				if end := time.Unix(st.SinceUnix, 0); st.SinceUnix > 0 && end.Before(now) {
					at = end
				}
			} else if !slices.ContainsFunc(tunnels, func(d deviceTunnel) bool { return d.Slot == st.Slot }) && len(tunnels) < maxSlots {
				tunnels = append(tunnels, deviceTunnel{st, hub})
			}
		}
		t.setLocked(uuid, hub, tunnels, reason, at)
	}
	if full {
		t.offlineLocked(hub, "", now, named)
	}
	t.heldLocked()
	return true
}

// device returns the tunnels of a device, the one in use first, and where it was last.
func (t *hubTable) device(uuid string) (tunnels []deviceTunnel, last lastSeen, online bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.devices[uuid]
	if p == nil {
		return nil, lastSeen{}, false
	}
	return slices.Clone(p.tunnels), p.last, p.online()
}

// forget drops a removed device.
func (t *hubTable) forget(uuid string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.devices, uuid)
}

// tunnelsOf counts the tunnels each hub has.
func (t *hubTable) tunnelsOf() map[string]uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := make(map[string]uint32)
	for _, p := range t.devices {
		for _, d := range p.tunnels {
			n[d.hub.uuid]++
		}
	}
	return n
}

// remember merges what a device told a hub of its connections, oldest first, into what is known. Each hub is told all that it has not been told
// yet, so what two of them pass on overlaps, and one that could not reach this service comes late; between its first and its last event the new
// telling is whole.
func (t *hubTable) remember(uuid string, events []*api.DeviceEvent) {
	if len(events) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.presenceLocked(uuid)
	// A second on either side: the same event is told as so long ago each time, and calls take their time.
	from, to := events[0].AtUnixNano-int64(time.Second), events[len(events)-1].AtUnixNano+int64(time.Second)
	all := slices.DeleteFunc(slices.Clone(p.history), func(e *api.DeviceEvent) bool { return e.AtUnixNano >= from && e.AtUnixNano <= to })
	all = append(all, events...)
	slices.SortStableFunc(all, func(a, b *api.DeviceEvent) int { return cmp.Compare(a.AtUnixNano, b.AtUnixNano) })
	p.history = slices.Clone(all[max(0, len(all)-maxHistory):])
}

func (t *hubTable) historyOf(uuid string) []*api.DeviceEvent {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.devices[uuid]; p != nil {
		return slices.Clone(p.history)
	}
	return nil
}

// takeUnsaved returns up to n of what is to be written now: not what was written less than every ago.
func (t *hubTable) takeUnsaved(n int, every time.Duration, now time.Time) map[string]lastSeen {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make(map[string]lastSeen)
	for uuid, p := range t.devices {
		if len(out) == n {
			break
		}
		if p.unsaved && now.Sub(p.saved) >= every {
			p.unsaved, p.saved = false, now
			out[uuid] = p.last
		}
	}
	return out
}

func (t *hubTable) saveAgain(of map[string]lastSeen) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for uuid := range of {
		if p := t.devices[uuid]; p != nil {
			p.unsaved = true
		}
	}
}

// loadLastSeen reads where devices were last, when the service starts.
func (s *Server) loadLastSeen(ctx context.Context) error {
	after := ""
	for {
		kvs, _, err := s.state.Range(ctx, seenPrefix, after, pageSize)
		if err != nil {
			return err
		}
		for _, kv := range kvs {
			var l lastSeen
			uuid := kv.Key[len(seenPrefix):]
			// It is no loss that is worth a refusal to start.
			if err := json.Unmarshal(kv.Value, &l); err != nil {
				s.log.Warn("record of where a device was last is damaged", "device", uuid, "error", err)
				continue
			}
			if s.view.device(uuid) != nil {
				s.hubs.devices[uuid] = &presence{last: l}
			}
		}
		if len(kvs) < pageSize {
			return nil
		}
		after = kvs[len(kvs)-1].Key
	}
}

// sweep writes where devices were last, and ends the sessions of hubs that do not come back, until ctx ends.
func (s *Server) sweep(ctx context.Context) {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.saveLastSeenNow(ctx, saveDevice)
			s.noteListen(ctx, nil)
			for _, sess := range s.hubs.expire(s.cfg.Now()) {
				s.recordEnd(sess, "its hub is gone", nil)
			}
		case <-ctx.Done():
			return
		}
	}
}

// saveLastSeenNow writes what changed, of devices not written for so long.
func (s *Server) saveLastSeenNow(ctx context.Context, every time.Duration) {
	for {
		batch := s.hubs.takeUnsaved(saveBatch, every, s.cfg.Now())
		if len(batch) == 0 {
			return
		}
		var ops []store.Op
		for uuid, l := range batch {
			if s.view.device(uuid) != nil { // not removed meanwhile
				ops = append(ops, put(seenPrefix+uuid, l))
			}
		}
		if len(ops) == 0 {
			continue
		}
		if _, err := s.state.Txn(ctx, nil, ops); err != nil {
			s.hubs.saveAgain(batch)
			if ctx.Err() == nil && !errors.Is(err, store.ErrClosed) {
				s.log.Warn("where devices were last is not stored", "error", err)
			}
			return
		}
	}
}

// deviceEvents makes what a hub passes on of a device's memory fit to be kept and shown.
func deviceEvents(events []*api.DeviceEvent, now time.Time) []*api.DeviceEvent {
	out := make([]*api.DeviceEvent, 0, min(len(events), maxHistory))
	for _, e := range events[max(0, len(events)-maxHistory):] {
		const longest = uint64(366 * 24 * time.Hour / time.Millisecond)
		ago := time.Duration(min(e.GetAgoMs(), longest)) * time.Millisecond
		out = append(out, &api.DeviceEvent{
			Kind: e.GetKind(), Name: wire.EventKind(min(e.GetKind(), 255)).String(), AtUnixNano: now.Add(-ago).UnixNano(),
			LastedMs: min(e.GetLastedMs(), longest), Times: e.GetTimes(), Hub: wire.Quote(e.GetHub(), maxText), Carrier: wire.Quote(e.GetCarrier(), 16),
			Code: e.GetCode(), Text: wire.Quote(e.GetText(), maxText),
		})
	}
	slices.SortStableFunc(out, func(a, b *api.DeviceEvent) int { return cmp.Compare(a.AtUnixNano, b.AtUnixNano) })
	return out
}
