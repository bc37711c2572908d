package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"hawser/auth/policy"
	"hawser/auth/store"
)

// Keys of the state store. Values are JSON of the record types below; roles are
// JSON of policy.Role.ToMap.
const (
	userPrefix   = "user/"   // NAME
	rolePrefix   = "role/"   // NAME
	devicePrefix = "device/" // UUID
	namePrefix   = "name/"   // device or hub NAME → UUID, so that a name is taken once
	keyPrefix    = "key/"    // fingerprint of a registered key → user, so that a key belongs to one user
	hubPrefix    = "hub/"    // UUID
	tokenPrefix  = "token/"  // id
	seenPrefix   = "seen/"   // UUID of a device; lastSeen
	hubListKey   = "hublist" // hubListRecord
)

type userRecord struct {
	Name    string    `json:"name"`
	Roles   []string  `json:"roles"`
	Keys    [][]byte  `json:"keys,omitempty"` // SSH wire form
	Created time.Time `json:"created"`
}

type deviceRecord struct {
	UUID     string            `json:"uuid"`
	Name     string            `json:"name"`
	Key      []byte            `json:"key"` // Ed25519
	Labels   map[string]string `json:"labels,omitempty"`
	Evidence map[string]string `json:"evidence,omitempty"`
	Hostname string            `json:"hostname,omitempty"`
	Arch     string            `json:"arch,omitempty"`
	OS       string            `json:"os,omitempty"`
	Version  string            `json:"version,omitempty"`
	Joined   time.Time         `json:"joined"`
	// Counter is the generation of the newest credentials; Chain and SSHCert are
	// they, for a caller whose reply was lost.
	Counter  uint64    `json:"counter"`
	Chain    [][]byte  `json:"chain"`
	SSHCert  []byte    `json:"ssh_cert"`
	NotAfter time.Time `json:"not_after"`
}

func (d *deviceRecord) policy() policy.Device {
	return policy.Device{UUID: d.UUID, Name: d.Name, Labels: d.Labels}
}

type hubRecord struct {
	UUID     string    `json:"uuid"`
	Name     string    `json:"name"`
	Key      []byte    `json:"key"`
	SSH      []string  `json:"ssh,omitempty"`
	Tunnel   []string  `json:"tunnel,omitempty"`
	Version  string    `json:"version,omitempty"`
	Zone     string    `json:"zone,omitempty"`
	Joined   time.Time `json:"joined"`
	Up       time.Time `json:"up,omitzero"` // when it was up last, give or take upEvery
	Counter  uint64    `json:"counter"`
	Chain    [][]byte  `json:"chain"`
	SSHCert  []byte    `json:"ssh_cert"`
	NotAfter time.Time `json:"not_after"`
}

func (h *hubRecord) ref() hubRef { return hubRef{h.UUID, h.Name, h.Zone} }

type tokenRecord struct {
	ID      string            `json:"id"`   // of the secret's hash
	Hash    []byte            `json:"hash"` // SHA-256 of the secret, which has 160 random bits
	Kind    string            `json:"kind"`
	Uses    uint32            `json:"uses"`
	Left    uint32            `json:"left"`
	Expires time.Time         `json:"expires"`
	Labels  map[string]string `json:"labels,omitempty"`
	By      string            `json:"by"`
}

// get reads one record into v and returns its revision.
func (s *Server) get(ctx context.Context, key string, v any) (uint64, error) {
	kv, err := s.state.Get(ctx, key)
	if err != nil {
		return 0, err
	}
	if err := json.Unmarshal(kv.Value, v); err != nil {
		return 0, fmt.Errorf("record %s is damaged: %w; restore a backup", key, err)
	}
	return kv.ModRev, nil
}

// put makes the write of a record; the record types always marshal.
func put(key string, v any) store.Op {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("auth: record %s: %v", key, err))
	}
	return store.Put(key, b)
}

// commit writes and waits until the view shows it, so that whoever is answered
// after it sees its effect.
func (s *Server) commit(ctx context.Context, conds []store.Cond, ops ...store.Op) error {
	rev, err := s.state.Txn(ctx, conds, ops)
	if err != nil {
		return err
	}
	return s.view.wait(ctx, rev)
}

// list reads every record of a prefix, in order.
func list[T any](ctx context.Context, s *Server, prefix string) ([]T, error) {
	var out []T
	after := ""
	for {
		kvs, _, err := s.state.Range(ctx, prefix, after, pageSize)
		if err != nil {
			return nil, err
		}
		for _, kv := range kvs {
			var v T
			if err := json.Unmarshal(kv.Value, &v); err != nil {
				return nil, fmt.Errorf("record %s is damaged: %w; restore a backup", kv.Key, err)
			}
			out = append(out, v)
		}
		if len(kvs) < pageSize {
			return out, nil
		}
		after = kvs[len(kvs)-1].Key
	}
}

const pageSize = 1000

// retryConflict runs f until it fails with something else than store.ErrConflict;
// the bound is there for a store that never lets us through.
func retryConflict(ctx context.Context, f func() error) error {
	var err error
	for range 200 {
		if err = f(); !errors.Is(err, store.ErrConflict) {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return err
}
