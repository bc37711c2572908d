package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"hawser/auth/policy"
	"hawser/auth/store"
)

// view is what Admit and the hubs' Watches read: users, roles, devices and hubs in
// memory, as of one revision of the store, fed by the store's own watch. Records in
// it are never changed, only replaced, so that they may be read without the lock.
//
// Watchers hold no queue here: each remembers the revision it has and asks for what
// came after. A slow one costs nothing and gets everything anew once the ring of
// recent changes no longer reaches back to it.
type view struct {
	mu      sync.Mutex
	rev     uint64
	changed chan struct{} // closed and replaced when rev rises
	ended   error         // set when the feed ended: nothing will change any more

	users   map[string]*userRecord
	owners  map[string]string // registered key, SSH wire form → user
	custom  map[string]policy.Role
	devices map[string]*deviceRecord
	names   map[string]string // device name → UUID
	hubs    map[string]*hubRecord

	roles     []policy.Role // built-in and custom, by name; replaced, never changed
	policyRev uint64        // grows with each change of a role

	ring     []change
	ringFrom uint64 // changes after this revision are all in the ring
}

type change struct {
	rev uint64
	key string
}

func newView() *view {
	v := &view{changed: make(chan struct{})}
	v.resetLocked()
	return v
}

func (v *view) resetLocked() {
	v.users = make(map[string]*userRecord)
	v.owners = make(map[string]string)
	v.custom = make(map[string]policy.Role)
	v.devices = make(map[string]*deviceRecord)
	v.names = make(map[string]string)
	v.hubs = make(map[string]*hubRecord)
	v.ring = nil
	v.policyRev = 1
}

// load reads the whole store.
func (v *view) load(ctx context.Context, state store.State) error {
	var all []store.KV
	after, rev := "", uint64(0)
	for {
		kvs, at, err := state.Range(ctx, "", after, pageSize)
		if err != nil {
			return fmt.Errorf("read the state: %w", err)
		}
		// The first page's revision: what later pages hold that is newer, the watch says again.
		if after == "" {
			rev = at
		}
		all = append(all, kvs...)
		if len(kvs) < pageSize {
			break
		}
		after = kvs[len(kvs)-1].Key
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.resetLocked()
	for _, kv := range all {
		if err := v.applyLocked(store.Event{Type: store.EventPut, KV: kv}); err != nil {
			return err
		}
	}
	v.rolesLocked()
	v.ring, v.ringFrom = nil, rev
	v.moveLocked(rev)
	return nil
}

// follow applies the store's changes until ctx ends.
func (v *view) follow(ctx context.Context, state store.State) error {
	err := v.followAll(ctx, state)
	v.mu.Lock()
	v.ended = err
	v.moveLocked(v.rev)
	v.mu.Unlock()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (v *view) followAll(ctx context.Context, state store.State) error {
	for {
		v.mu.Lock()
		from := v.rev
		v.mu.Unlock()
		events, err := state.Watch(ctx, "", from)
		if errors.Is(err, store.ErrCompacted) {
			if err := v.load(ctx, state); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("watch the state: %w", err)
		}
		for batch := range events {
			if err := v.applyAll(batch); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

func (v *view) applyAll(batch []store.Event) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	rev := v.rev
	for _, e := range batch {
		if err := v.applyLocked(e); err != nil {
			return err
		}
		rev = max(rev, e.KV.ModRev)
		if seen(e.KV.Key) {
			v.ring = append(v.ring, change{e.KV.ModRev, e.KV.Key})
		}
	}
	if n := len(v.ring) - ringSize; n > 0 {
		v.ringFrom = v.ring[n-1].rev
		// A revision half forgotten is forgotten.
		v.ring = slices.DeleteFunc(v.ring, func(c change) bool { return c.rev <= v.ringFrom })
	}
	if slices.ContainsFunc(batch, func(e store.Event) bool { return strings.HasPrefix(e.KV.Key, rolePrefix) }) {
		v.rolesLocked()
	}
	v.moveLocked(rev)
	return nil
}

// seen tells whether hubs see a change of key.
func seen(key string) bool {
	for _, p := range []string{userPrefix, rolePrefix, devicePrefix, hubPrefix} {
		if strings.HasPrefix(key, p) {
			return true
		}
	}
	return false
}

func (v *view) moveLocked(rev uint64) {
	v.rev = rev
	close(v.changed)
	v.changed = make(chan struct{})
}

func (v *view) applyLocked(e store.Event) error {
	kind, name, _ := strings.Cut(e.KV.Key, "/")
	gone := e.Type == store.EventDelete
	var err error
	switch kind + "/" {
	case userPrefix:
		if old := v.users[name]; old != nil {
			for _, k := range old.Keys {
				delete(v.owners, string(k))
			}
			delete(v.users, name)
		}
		if !gone {
			u := new(userRecord)
			if err = json.Unmarshal(e.KV.Value, u); err == nil {
				v.users[name] = u
				for _, k := range u.Keys {
					v.owners[string(k)] = name
				}
			}
		}
	case rolePrefix:
		v.policyRev = max(v.policyRev, e.KV.ModRev)
		delete(v.custom, name)
		if !gone {
			var r policy.Role
			if r, err = decodeRole(e.KV.Value); err == nil {
				v.custom[name] = r
			}
		}
	case devicePrefix:
		if old := v.devices[name]; old != nil {
			delete(v.names, old.Name)
			delete(v.devices, name)
		}
		if !gone {
			d := new(deviceRecord)
			if err = json.Unmarshal(e.KV.Value, d); err == nil {
				v.devices[name] = d
				v.names[d.Name] = name
			}
		}
	case hubPrefix:
		delete(v.hubs, name)
		if !gone {
			h := new(hubRecord)
			if err = json.Unmarshal(e.KV.Value, h); err == nil {
				v.hubs[name] = h
			}
		}
	}
	if err != nil {
		return fmt.Errorf("record %q is damaged: %w; restore a backup", e.KV.Key, err)
	}
	return nil
}

func (v *view) rolesLocked() {
	roles := policy.Builtins()
	for _, name := range slices.Sorted(maps.Keys(v.custom)) {
		roles = append(roles, v.custom[name])
	}
	v.roles = roles
}

// wait returns when the view has reached rev.
func (v *view) wait(ctx context.Context, rev uint64) error {
	for {
		v.mu.Lock()
		at, changed, ended := v.rev, v.changed, v.ended
		v.mu.Unlock()
		switch {
		case at >= rev:
			return nil
		case ended != nil:
			return ended
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// user returns a user and the roles he has that exist; nil if there is none.
func (v *view) user(name string) (*userRecord, []policy.Role) {
	v.mu.Lock()
	defer v.mu.Unlock()
	u := v.users[name]
	if u == nil {
		return nil, nil
	}
	return u, pick(v.roles, u.Roles)
}

func pick(roles []policy.Role, names []string) []policy.Role {
	var out []policy.Role
	for _, r := range roles {
		if slices.Contains(names, r.Name) {
			out = append(out, r)
		}
	}
	return out
}

// owner returns the user who registered key.
func (v *view) owner(key []byte) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.owners[string(key)]
}

// device finds a device by UUID or name; nil if there is none.
func (v *view) device(idOrName string) *deviceRecord {
	v.mu.Lock()
	defer v.mu.Unlock()
	if d := v.devices[idOrName]; d != nil {
		return d
	}
	return v.devices[v.names[idOrName]]
}

func (v *view) allDevices() []*deviceRecord {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.SortedFunc(maps.Values(v.devices), func(a, b *deviceRecord) int { return strings.Compare(a.Name, b.Name) })
}

func (v *view) allHubs() []*hubRecord {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.SortedFunc(maps.Values(v.hubs), func(a, b *hubRecord) int { return strings.Compare(a.Name, b.Name) })
}

func (v *view) deviceCount() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.devices)
}

// moved returns a channel that closes at the next change.
func (v *view) moved() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.changed
}

func (v *view) hub(uuid string) *hubRecord {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.hubs[uuid]
}

func (v *view) policies() ([]policy.Role, uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.roles, v.policyRev
}

// delta is what changed after a revision: the named records as they are now, gone
// ones by name alone.
type delta struct {
	rev          uint64
	full         bool
	users        []*userRecord
	usersGone    []string
	devices      []*deviceRecord
	devicesGone  []string
	hubsChanged  bool
	policyChange bool
}

// since returns what came after rev, and a channel that closes at the next change.
// ok is false when nothing came.
func (v *view) since(rev uint64, full bool) (d delta, changed <-chan struct{}, ok bool, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	d.rev = v.rev
	if v.ended != nil {
		return d, nil, false, v.ended
	}
	if full || rev < v.ringFrom || rev > v.rev {
		d.full, d.hubsChanged, d.policyChange = true, true, true
		d.users = slices.Collect(maps.Values(v.users))
		d.devices = slices.Collect(maps.Values(v.devices))
		return d, v.changed, true, nil
	}
	keys := make(map[string]bool)
	for _, c := range slices.Backward(v.ring) {
		if c.rev <= rev {
			break
		}
		keys[c.key] = true
	}
	for key := range keys {
		kind, name, _ := strings.Cut(key, "/")
		switch kind + "/" {
		case userPrefix:
			if u := v.users[name]; u != nil {
				d.users = append(d.users, u)
			} else {
				d.usersGone = append(d.usersGone, name)
			}
		case devicePrefix:
			if dev := v.devices[name]; dev != nil {
				d.devices = append(d.devices, dev)
			} else {
				d.devicesGone = append(d.devicesGone, name)
			}
		case hubPrefix:
			d.hubsChanged = true
		case rolePrefix:
			d.policyChange = true
		}
	}
	if d.policyChange {
		d.devices = slices.Collect(maps.Values(v.devices))
	}
	return d, v.changed, len(keys) > 0, nil
}
