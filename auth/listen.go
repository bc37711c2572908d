package auth

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"hawser/auth/api"
	"hawser/auth/policy"
)

// listenEvery is how often one device's change of its address is stored: a device that says another each second must not fill the disk and the log.
const listenEvery = 10 * time.Second

// listening is where devices say that they listen, until it is stored. The zero value is ready.
type listening struct {
	mu     sync.Mutex
	stored map[string]time.Time // when a device's was last, by UUID
	later  map[string]listenAt  // what is to be stored when listenEvery has passed
}

// listenAt is where a device serves people, and hubs, itself.
type listenAt struct {
	Address   string `json:"address"` // ip:port
	TunnelOff bool   `json:"tunnel_off,omitempty"`
}

// listenOf makes an address of what a device says of its port: one that is unspecified is, of those that the device has, the one that a hub sees; where there is a NAT
// between, the first. had stays where it is as good. A device on another machine than the hub has no loopback for anybody else.
func listenOf(st *api.DeviceState, had string) (at listenAt, ok bool) {
	if st.Listen == "" {
		return at, true
	}
	said, err := netip.ParseAddrPort(st.Listen)
	if err != nil || said.Port() == 0 || said.Addr().Zone() != "" {
		return at, false
	}
	ip := said.Addr().Unmap()
	seen, _ := netip.ParseAddrPort(st.Observed)
	observed := seen.Addr().Unmap()
	if ip.IsUnspecified() {
		var own []netip.Addr
		for _, a := range st.Addresses {
			if a, err := netip.ParseAddr(a); err == nil && (!said.Addr().Is4() || a.Unmap().Is4()) {
				own = append(own, a.Unmap())
			}
		}
		before, _ := netip.ParseAddrPort(had)
		switch {
		case slices.Contains(own, before.Addr()):
			ip = before.Addr()
		case observed.IsLoopback() || slices.Contains(own, observed) || len(own) == 0:
			ip = observed
		default:
			ip = own[0]
		}
	}
	switch {
	case !ip.IsValid(), !policy.OfOneHost(ip), ip.IsLinkLocalUnicast(), policy.Translated(ip).IsLoopback() && !observed.IsLoopback():
		return at, false
	}
	return listenAt{netip.AddrPortFrom(ip, said.Port()).String(), st.TunnelOff}, true
}

func (d *deviceRecord) listen() listenAt {
	if d.Listen == nil {
		return listenAt{}
	}
	return *d.Listen
}

// noteListen stores where devices listen, as hubs report it, and what waited.
func (s *Server) noteListen(ctx context.Context, states []*api.DeviceState) {
	now, l := s.cfg.Now(), &s.listening
	due := make(map[string]listenAt)
	l.mu.Lock()
	for uuid, at := range l.later {
		if now.Sub(l.stored[uuid]) >= listenEvery {
			due[uuid] = at
			delete(l.later, uuid)
		}
	}
	for uuid, t := range l.stored {
		if _, waits := l.later[uuid]; !waits && now.Sub(t) >= listenEvery {
			delete(l.stored, uuid)
		}
	}
	for _, st := range states {
		d := s.view.device(st.Uuid)
		if !st.Online || st.Slot != 0 && st.Listen == "" || d == nil {
			continue
		}
		at, ok := listenOf(st, d.listen().Address)
		if !ok {
			continue
		}
		if at == d.listen() { // it is back where it was: what waits is of between
			delete(l.later, st.Uuid)
			continue
		}
		if _, recently := l.stored[st.Uuid]; recently {
			if l.later == nil {
				l.later = make(map[string]listenAt)
			}
			l.later[st.Uuid] = at
			continue
		}
		due[st.Uuid] = at
	}
	for uuid := range due {
		if l.stored == nil {
			l.stored = make(map[string]time.Time)
		}
		l.stored[uuid] = now
	}
	l.mu.Unlock()
	for uuid, at := range due {
		d, err := s.changeDevice(ctx, uuid, func(d *deviceRecord) error {
			if d.Listen = &at; at == (listenAt{}) {
				d.Listen = nil
			}
			return nil
		})
		if err != nil {
			s.log.Warn("where a device listens is not stored", "device", uuid, "error", err)
			continue
		}
		e := Event{Type: "device.listen", Device: d.Name, DeviceUUID: d.UUID, Object: at.Address}
		if at.TunnelOff {
			e.Reason = "hubs dial it"
		}
		s.record(e)
	}
}
