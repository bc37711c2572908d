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

	"hawser/auth/lock"
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
	names   map[string]string        // device name → UUID
	keys    map[string]string        // device key → UUID
	enrolls map[string]*enrollRecord // by the hash of the key
	imports map[string]bool          // that are complete
	hubs    map[string]*hubRecord

	given      []policy.Role // built-in and custom as they were given, by name; replaced, never changed
	roles      []policy.Role // likewise, with the cluster's defaults: what is in force
	policyRev  uint64        // grows with each change of a role or the cluster
	config     policy.Cluster
	clusterRev uint64     // of config; 1: nobody gave one yet
	auditors   [][32]byte // config.Recipients; replaced, never changed

	locks       *locksRecord // replaced, never changed
	lockedBy    *lock.List   // the same, as it is matched
	decisiveRev uint64       // of the last change of what live sessions were admitted by

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
	v.keys = make(map[string]string)
	v.enrolls = make(map[string]*enrollRecord)
	v.imports = make(map[string]bool)
	v.hubs = make(map[string]*hubRecord)
	v.ring = nil
	v.locks = new(locksRecord)
	v.lockedBy = v.locks.list("-")
	v.policyRev, v.clusterRev = 1, 1
	v.config = policy.Cluster{}.WithDefaults()
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
	if slices.ContainsFunc(batch, func(e store.Event) bool { return strings.HasPrefix(e.KV.Key, rolePrefix) || e.KV.Key == clusterKey }) {
		v.rolesLocked()
	}
	v.moveLocked(rev)
	return nil
}

// seen tells whether hubs see a change of key.
func seen(key string) bool {
	for _, p := range []string{userPrefix, rolePrefix, devicePrefix, hubPrefix, clusterKey, locksKey} {
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
	if seen(e.KV.Key) && kind+"/" != hubPrefix {
		v.decisiveRev = max(v.decisiveRev, e.KV.ModRev)
	}
	var err error
	switch kind + "/" {
	case userPrefix:
		if old := v.users[name]; old != nil {
			for _, k := range old.Keys {
				delete(v.owners, string(k.Blob))
			}
			delete(v.users, name)
		}
		if !gone {
			u := new(userRecord)
			if err = json.Unmarshal(e.KV.Value, u); err == nil {
				v.users[name] = u
				for _, k := range u.Keys {
					v.owners[string(k.Blob)] = name
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
	case clusterKey + "/":
		v.policyRev, v.clusterRev = max(v.policyRev, e.KV.ModRev), max(v.clusterRev, e.KV.ModRev)
		v.config = policy.Cluster{}.WithDefaults()
		if !gone {
			v.config, err = decodeCluster(e.KV.Value)
		}
		v.auditors = v.config.Recipients()
	case locksKey + "/":
		r := new(locksRecord)
		if !gone {
			err = json.Unmarshal(e.KV.Value, r)
		}
		if err == nil {
			v.locks, v.lockedBy = r, r.list("-")
		}
	case devicePrefix:
		if old := v.devices[name]; old != nil {
			delete(v.names, old.Name)
			delete(v.keys, string(old.Key))
			delete(v.devices, name)
		}
		if !gone {
			d := new(deviceRecord)
			if err = json.Unmarshal(e.KV.Value, d); err == nil {
				v.devices[name] = d
				v.names[d.Name] = name
				if len(d.Key) > 0 {
					v.keys[string(d.Key)] = name
				}
			}
		}
	case enrollPrefix:
		delete(v.enrolls, name)
		if !gone {
			r := new(enrollRecord)
			if err = json.Unmarshal(e.KV.Value, r); err == nil {
				v.enrolls[name] = r
			}
		}
	case importPrefix:
		v.imports[name] = true
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
		return fmt.Errorf("record %q is damaged: %w; %s", e.KV.Key, err, restoreHint)
	}
	return nil
}

func (v *view) rolesLocked() {
	roles := policy.Builtins()
	for _, name := range slices.Sorted(maps.Keys(v.custom)) {
		roles = append(roles, v.custom[name])
	}
	v.given, v.roles = roles, v.config.Apply(roles)
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

// standing is user with what is locked and void, all as of one revision.
func (v *view) standing(name string) (*userRecord, []policy.Role, *lock.List) {
	v.mu.Lock()
	defer v.mu.Unlock()
	u := v.users[name]
	if u == nil {
		return nil, nil, v.lockedBy
	}
	return u, pick(v.roles, u.Roles), v.lockedBy
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

// inForce are the roles of a person who proved some of those he has, by a certificate: of the others only what they deny.
func inForce(roles []policy.Role, has, proved []string) []policy.Role {
	out := pick(roles, proved)
	for _, r := range pick(roles, has) {
		if !slices.Contains(proved, r.Name) && r.DeniesAccess() {
			out = append(out, policy.Role{Name: r.Name, Deny: r.Deny})
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

func (v *view) allUsers() []*userRecord {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.SortedFunc(maps.Values(v.users), func(a, b *userRecord) int { return strings.Compare(a.Name, b.Name) })
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

// revision is the store's that the view shows.
func (v *view) revision() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.rev
}

func (v *view) hub(uuid string) *hubRecord {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.hubs[uuid]
}

// policies returns the roles in force and their revision.
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
	configChange bool
	locksChange  bool
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
		d.full, d.hubsChanged, d.policyChange, d.configChange, d.locksChange = true, true, true, true, true
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
		case clusterKey + "/":
			d.policyChange, d.configChange = true, true
		case locksKey + "/":
			d.locksChange = true
		}
	}
	if d.policyChange {
		d.devices = slices.Collect(maps.Values(v.devices))
	}
	return d, v.changed, len(keys) > 0, nil
}
