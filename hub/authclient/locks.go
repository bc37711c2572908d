package authclient

import (
	"bytes"
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/lock"
	"hawser/tunnel/identity"
	"hawser/tunnel/wire"
)

// locksFile keeps the locks in the hub's directory: one that restarts while auth is away enforces them before it serves anybody.
const locksFile = "locks"

// Locks are those in force, as they go to devices.
func (c *Cache) Locks() (revision uint64, blob []byte) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.lockList.Revision, c.locks
}

// Denied is what of the locks refuses sub; nil: nothing does.
func (c *Cache) Denied(now time.Time, sub lock.Subject) *lock.Denied {
	c.mu.RLock()
	l := c.lockList // its slices are never changed
	c.mu.RUnlock()
	return l.Match(now, sub)
}

// Heard is when auth last gave its time; zero: it has not in this run.
func (c *Cache) Heard() time.Time {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.heard
}

// loadLocks reads the stored locks. Those that do not hold are none: devices bring theirs, and auth brings others.
func (x *Client) loadLocks() {
	blob, err := x.c.Dir.Read(locksFile)
	if errors.Is(err, identity.ErrNotExist) {
		return
	}
	var l lock.List
	if err == nil {
		l, err = lock.Open(blob, x.Trust().GrantKeys, x.Credentials().Cluster)
	}
	if err != nil {
		x.c.Logger.Warn("the stored locks do not hold; waiting for auth's", "error", err)
		return
	}
	x.Cache.lockList, x.Cache.locks = l, blob
}

// openLocks reads locks from auth; ok is false for those that are not to be adopted. An older list never replaces a newer: auth hears which one
// is held, and numbers its own anew.
func (x *Client) openLocks(m *api.Locks) (l lock.List, ok bool) {
	if m == nil {
		return l, false
	}
	l, err := lock.Open(m.Blob, x.Trust().GrantKeys, x.Credentials().Cluster)
	if err != nil {
		x.c.Logger.Error("locks from auth refused", "error", err)
		return l, false
	}
	held, blob := x.Cache.Locks()
	if l.Revision < held {
		x.c.Logger.Error("locks from auth are older than those held, which stay in force", "revision", l.Revision, "held", held)
		return l, false
	}
	if !bytes.Equal(blob, m.Blob) {
		if err := x.c.Dir.Write(locksFile, m.Blob); err != nil {
			x.c.Logger.Error("locks not stored; they are lost if this hub restarts while auth is away", "error", err)
		}
	}
	return l, true
}

// HeldDirty says that what this hub enforces is another: auth is told.
func (x *Client) HeldDirty() { wake(x.heldDirty) }

// reportHeld tells auth what this hub enforces.
func (x *Client) reportHeld(ctx context.Context, _ bool) error {
	locks, _ := x.Cache.Locks()
	_, err := x.api.Hub.ReportRevisions(ctx, connect.NewRequest(&api.ReportRevisionsRequest{
		Locks: locks, Policy: x.Cache.policyRevision(), Trust: x.Trust().Revision,
	}))
	return err
}

func (c *Cache) policyRevision() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.policy
}

// SignedTime is the newest beacon as a message to a device; nil: there is none yet.
func (c *Cache) SignedTime() wire.Message {
	if t := c.Time(); t != nil {
		return wire.Time{Blob: t}
	}
	return nil
}
