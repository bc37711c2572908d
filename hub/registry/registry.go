// Package registry holds which device has which tunnels at this hub, and decides what a REGISTER may displace.
//
// It has no sockets and no clock. A Registry is safe for concurrent use.
package registry

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

const (
	// remembered is how many incarnations of a device keep their highest counter: a replayed REGISTER of one of them is refused.
	remembered = 8
	// slots a device may hold at one hub.
	slots = 2
	// cloneSwaps displacements of one incarnation by another and back within cloneWindow mean two machines with one identity.
	cloneSwaps  = 3
	cloneWindow = 2 * time.Minute
)

// Errors of Register.
var (
	ErrStale = errors.New("registration is not above an earlier one of the same incarnation")
	ErrSlot  = errors.New("no such slot")
	ErrClone = errors.New("two machines take turns with this identity")
)

// Tunnel is one registered tunnel. Its fields do not change after Register, but for what Update sets.
type Tunnel struct {
	Conn        tunnel.Conn
	UUID        wire.UUID
	Name        string
	Incarnation wire.Incarnation
	Slot        uint8
	Counter     uint64
	Since       time.Time

	mu   sync.Mutex
	info wire.Info
	held wire.PolicyHeld
}

// Info is what the edge last said of itself.
func (t *Tunnel) Info() wire.Info {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.info
}

// SetInfo replaces it.
func (t *Tunnel) SetInfo(i wire.Info) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.info = i
}

// Held is which revisions the edge last said it enforces.
func (t *Tunnel) Held() wire.PolicyHeld {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.held
}

// SetHeld replaces it.
func (t *Tunnel) SetHeld(h wire.PolicyHeld) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held = h
}

type seen struct {
	incarnation wire.Incarnation
	counter     uint64 // the highest accepted
}

type device struct {
	tunnels [slots]*Tunnel
	seen    []seen      // newest last, at most remembered
	swaps   []time.Time // when an earlier incarnation displaced a later one
}

// Registry is the hub's table. The zero value is ready.
type Registry struct {
	mu      sync.RWMutex
	devices map[wire.UUID]*device
}

// Register admits t or refuses it with ErrStale, ErrSlot or ErrClone. The tunnels it returns are displaced: they are no longer found
// and the caller closes them. With an error nothing has changed, but that ErrClone is remembered.
//
// Within an incarnation a higher counter takes its slot. Another incarnation takes all slots. An incarnation that was displaced comes
// back only with a counter above its own highest, and when that happens cloneSwaps times in cloneWindow it is refused.
func (r *Registry) Register(t *Tunnel, now time.Time) (displaced []*Tunnel, err error) {
	if int(t.Slot) >= slots {
		return nil, fmt.Errorf("%w: %d", ErrSlot, t.Slot)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.devices[t.UUID]
	if d == nil {
		d = new(device)
		if r.devices == nil {
			r.devices = make(map[wire.UUID]*device)
		}
		r.devices[t.UUID] = d
	}
	at := -1
	for i, s := range d.seen {
		if s.incarnation == t.Incarnation {
			at = i
		}
	}
	if at >= 0 && t.Counter <= d.seen[at].counter {
		return nil, ErrStale
	}
	if at >= 0 && at != len(d.seen)-1 {
		d.swaps = recent(append(d.swaps, now), now)
		if len(d.swaps) >= cloneSwaps {
			return nil, ErrClone
		}
	}
	if at >= 0 {
		d.seen = append(d.seen[:at], d.seen[at+1:]...)
	}
	d.seen = append(d.seen, seen{t.Incarnation, t.Counter})
	if len(d.seen) > remembered {
		d.seen = append(d.seen[:0], d.seen[1:]...)
	}
	for i, old := range d.tunnels {
		if old != nil && (old.Incarnation != t.Incarnation || i == int(t.Slot)) {
			displaced = append(displaced, old)
			d.tunnels[i] = nil
		}
	}
	d.tunnels[t.Slot] = t
	return displaced, nil
}

func recent(times []time.Time, now time.Time) []time.Time {
	for len(times) > 0 && now.Sub(times[0]) > cloneWindow {
		times = times[1:]
	}
	return times
}

// Remove forgets t if it still holds its slot, and tells whether the device now has no tunnel here because of that.
func (r *Registry) Remove(t *Tunnel) (gone bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.devices[t.UUID]
	if d == nil || int(t.Slot) >= slots || d.tunnels[t.Slot] != t {
		return false
	}
	d.tunnels[t.Slot] = nil
	return d.best() == nil
}

// Forget drops all memory of a device that was removed from the cluster; its tunnels are returned to be closed.
func (r *Registry) Forget(id wire.UUID) (displaced []*Tunnel) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d := r.devices[id]; d != nil {
		for _, t := range d.tunnels {
			if t != nil {
				displaced = append(displaced, t)
			}
		}
		delete(r.devices, id)
	}
	return displaced
}

// Lookup returns the tunnel to use for a device, nil if it has none here: slot 0 before slot 1.
func (r *Registry) Lookup(id wire.UUID) *Tunnel {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if d := r.devices[id]; d != nil {
		return d.best()
	}
	return nil
}

func (d *device) best() *Tunnel {
	for _, t := range d.tunnels {
		if t != nil {
			return t
		}
	}
	return nil
}

// All returns every registered tunnel.
func (r *Registry) All() []*Tunnel {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make([]*Tunnel, 0, len(r.devices))
	for _, d := range r.devices {
		for _, t := range d.tunnels {
			if t != nil {
				all = append(all, t)
			}
		}
	}
	return all
}
