package authclient

import (
	"crypto/ed25519"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"hawser/auth/api"
	"hawser/auth/hublist"
	"hawser/auth/lock"
	"hawser/auth/policy"
	"hawser/tunnel/wire"
)

// User is a person as auth told.
type User struct {
	Name  string
	Roles []string
	Keys  [][]byte // SSH wire form
}

// Device is a device as auth told. Not to be changed.
type Device struct {
	UUID     wire.UUID
	Name     string
	Key      ed25519.PublicKey // nil where it has no agent
	Labels   []wire.Label
	Policy   []byte // signed
	Compiled policy.Compiled
	// Quarantine is why nobody may be served on it, for people and its log; empty: it is served.
	Quarantine string
	// IssuedAfter: certificates issued before are to be renewed first; zero: none is.
	IssuedAfter time.Time
	// Listen is the address of the device's own port; invalid: it has none. TunnelOff: it keeps no tunnel, hubs dial that.
	Listen    netip.AddrPort
	TunnelOff bool
	// Behind: it is a server without an agent. Via is the device that reaches it; zero: hubs do.
	Behind bool
	Via    wire.UUID
}

// Hub is one of the cluster's as auth told, this one included. Not to be changed.
type Hub struct {
	UUID        wire.UUID
	Name, Zone  string
	SSH, Tunnel []string // host:port that people and edges, and other hubs, reach
	Online      bool     // its Watch of auth is open
}

// Cache is what Watch told last. Safe for concurrent use.
type Cache struct {
	mu          sync.RWMutex
	synced      bool
	partial     bool // a whole state is on its way: what is not there may yet come
	users       map[string]User
	keys        map[string]string // SSH wire form to user
	devices     map[wire.UUID]*Device
	deviceKeys  map[string]wire.UUID // Ed25519 public key to device
	names       map[string]wire.UUID
	hubs        []Hub
	hubList     hublist.List
	hubListBlob []byte
	time        []byte
	heard       time.Time // when it came
	lockList    lock.List
	locks       []byte // the same, signed
	policy      uint64 // revision of the roles
	config      ClusterConfig
	changed     chan struct{} // closed and replaced at each change
}

func (c *Cache) init() {
	c.clear()
	c.changed = make(chan struct{})
}

func (c *Cache) clear() {
	c.users, c.keys = make(map[string]User), make(map[string]string)
	c.devices, c.names, c.deviceKeys = make(map[wire.UUID]*Device), make(map[string]wire.UUID), make(map[string]wire.UUID)
}

// Synced tells whether a whole state was ever received.
func (c *Cache) Synced() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.synced
}

// Removed tells whether the device is surely not in the cluster: a whole state lacks it.
func (c *Cache) Removed(id wire.UUID) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.synced && !c.partial && c.devices[id] == nil
}

// Changed returns a channel that is closed at the next change.
func (c *Cache) Changed() <-chan struct{} {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.changed
}

// ByKey returns whose registered key this is: the exact blob decides.
func (c *Cache) ByKey(key []byte) (User, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	u, ok := c.users[c.keys[string(key)]]
	return u, ok
}

// User returns a user by name.
func (c *Cache) User(name string) (User, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	u, ok := c.users[name]
	return u, ok
}

// Device returns a device by UUID, nil if there is none.
func (c *Cache) Device(id wire.UUID) *Device {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.devices[id]
}

// ByName returns a device by name, nil if there is none.
func (c *Cache) ByName(name string) *Device {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if id, ok := c.names[name]; ok {
		return c.devices[id]
	}
	return nil
}

// ByDeviceKey returns the device with this key, nil if there is none.
func (c *Cache) ByDeviceKey(key ed25519.PublicKey) *Device {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if id, ok := c.deviceKeys[string(key)]; ok {
		return c.devices[id]
	}
	return nil
}

// Devices returns all.
func (c *Cache) Devices() []*Device {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Collect(maps.Values(c.devices))
}

// DeviceCount is how many there are.
func (c *Cache) DeviceCount() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.devices)
}

// HubAddresses are tunnel addresses of the hubs for edges that hold no hub list, at most as many as an Ack carries: hubs that are up
// first, and one address of each before the second of any.
func (c *Cache) HubAddresses() []string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	var all []string
	for _, online := range []bool{true, false} {
		for i, more := 0, true; more && len(all) < maxAddresses; i++ {
			more = false
			for _, h := range c.hubs {
				if h.Online == online && i < len(h.Tunnel) && len(all) < maxAddresses {
					all, more = append(all, h.Tunnel[i]), true
				}
			}
		}
	}
	return all
}

// maxAddresses is how many hubs an Ack may name.
const maxAddresses = 64

// Hubs are all of the cluster's, in the order of their names.
func (c *Cache) Hubs() []Hub {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.hubs
}

// HubList is the newest that auth signed, and as it goes to edges; the blob is nil before the first.
func (c *Cache) HubList() (list hublist.List, blob []byte) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.hubList, c.hubListBlob
}

// Time is the newest signed beacon.
func (c *Cache) Time() []byte {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.time
}

// Config is the cluster's configuration as auth told; zero before it did.
func (c *Cache) Config() ClusterConfig {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.config
}

func (c *Cache) putUserLocked(u *api.WatchUser) {
	c.dropUserLocked(u.Name)
	c.users[u.Name] = User{Name: u.Name, Roles: u.Roles, Keys: u.Keys}
	for _, k := range u.Keys {
		c.keys[string(k)] = u.Name
	}
}

func (c *Cache) dropUserLocked(name string) {
	for _, k := range c.users[name].Keys {
		if c.keys[string(k)] == name {
			delete(c.keys, string(k))
		}
	}
	delete(c.users, name)
}

func (c *Cache) putDeviceLocked(d *Device) {
	c.dropDeviceLocked(d.UUID)
	c.devices[d.UUID] = d
	c.names[d.Name] = d.UUID
	if d.Key != nil {
		c.deviceKeys[string(d.Key)] = d.UUID
	}
}

func (c *Cache) dropDeviceLocked(id wire.UUID) {
	if old := c.devices[id]; old != nil {
		if c.names[old.Name] == id {
			delete(c.names, old.Name)
		}
		if c.deviceKeys[string(old.Key)] == id {
			delete(c.deviceKeys, string(old.Key))
		}
		delete(c.devices, id)
	}
}
