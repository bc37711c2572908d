package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"hawser/auth/policy"
	"hawser/auth/store"
)

// Keys of the state store. Values are JSON of the record types below; roles are
// JSON of policy.Role.ToMap.
const (
	userPrefix   = "user/"      // NAME
	rolePrefix   = "role/"      // NAME
	devicePrefix = "device/"    // UUID
	namePrefix   = "name/"      // device or hub NAME → UUID, so that a name is taken once
	keyPrefix    = "key/"       // fingerprint of a registered key → user, so that a key belongs to one user
	hubPrefix    = "hub/"       // UUID
	tokenPrefix  = "token/"     // id
	enrollPrefix = "enroll/"    // SHA-256 of a key that is not a device's yet, hex
	importPrefix = "import/"    // id of an import that is complete
	seenPrefix   = "seen/"      // UUID of a device; lastSeen
	hubListKey   = "hublist"    // hubListRecord
	locksKey     = "locks"      // locksRecord
	loginPrefix  = "login/"     // NAME of a user; loginRecord
	invitePrefix = "invite/"    // id; inviteRecord
	targetKeys   = "targetkey/" // NAME; targetKeyRecord
	clusterKey   = "cluster"    // JSON of policy.Cluster.ToMap; absent: defaults
)

type userRecord struct {
	Name     string    `json:"name"`
	Roles    []string  `json:"roles"`
	Keys     []userKey `json:"keys,omitempty"`
	Created  time.Time `json:"created"`
	Sources  []string  `json:"sources,omitempty"`  // networks he may come from; empty: anywhere
	Password string    `json:"password,omitempty"` // argon2id, PHC string
	TOTP     []byte    `json:"totp,omitempty"`     // sealed
}

// userKey is a registered SSH key.
type userKey struct {
	Blob         []byte    `json:"blob"` // SSH wire form
	Comment      string    `json:"comment,omitempty"`
	Added        time.Time `json:"added,omitzero"`
	Expires      time.Time `json:"expires,omitzero"`
	Sources      []string  `json:"sources,omitempty"` // networks it is good from; empty: anywhere
	ForceCommand string    `json:"force_command,omitempty"`
}

// UnmarshalJSON also takes a key as the first version wrote it: the blob alone.
func (k *userKey) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		*k = userKey{}
		return json.Unmarshal(b, &k.Blob)
	}
	type plain userKey // without this method
	return json.Unmarshal(b, (*plain)(k))
}

// key finds a key of the user by its blob; nil if he has none such.
func (u *userRecord) key(blob []byte) *userKey {
	for i := range u.Keys {
		if bytes.Equal(u.Keys[i].Blob, blob) {
			return &u.Keys[i]
		}
	}
	return nil
}

// loginRecord is what changes as a user logs in; it is apart from userRecord, whose changes all hubs are told.
type loginRecord struct {
	Step   uint64               `json:"step,omitempty"` // of the last code accepted
	Last   time.Time            `json:"last,omitzero"`
	Source string               `json:"source,omitempty"`
	Good   map[string]time.Time `json:"good,omitempty"` // sources he logged in from, sourceOf
	Keys   map[string]keyUse    `json:"keys,omitempty"` // fingerprint → its last use
	// Enrol is a new authenticator's sealed secret that has not been confirmed, and until when it can be.
	Enrol    []byte    `json:"enrol,omitempty"`
	EnrolEnd time.Time `json:"enrol_end,omitzero"`
}

type keyUse struct {
	At     time.Time `json:"at"`
	Source string    `json:"source"`
}

// inviteRecord is a link by which one user sets a password and an authenticator, once.
type inviteRecord struct {
	ID      string    `json:"id"`   // of the secret's hash
	Hash    []byte    `json:"hash"` // SHA-256 of the secret, which has 160 random bits
	User    string    `json:"user"`
	Of      time.Time `json:"of"` // the user's Created: not for another who has the name later
	Reset   bool      `json:"reset,omitempty"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	By      string    `json:"by"`
	TOTP    []byte    `json:"totp,omitempty"` // sealed, of the last OpenInvitation
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
	// Issued is when they were made, Prev the counter presented for them; Source where the caller was.
	Issued time.Time `json:"issued,omitzero"`
	Prev   uint64    `json:"prev,omitempty"`
	Source string    `json:"source,omitempty"`
	// Fresh: its key has renewed nothing yet, so that who joins with it again has lost the answer.
	Fresh      bool        `json:"fresh,omitempty"`
	Note       string      `json:"note,omitempty"`   // for people
	Former     []string    `json:"former,omitempty"` // names, the newest last
	Quarantine *quarantine `json:"quarantine,omitempty"`
	// Waiting is since when it waits to be let back, its certificate having expired long ago.
	Waiting time.Time `json:"waiting,omitzero"`
	// Recovered is when a person let it back: certificates of before are to be renewed first. Recovering: none was since.
	Recovered  time.Time `json:"recovered,omitzero"`
	Recovering bool      `json:"recovering,omitempty"`
	// Target is where it is and how it is logged in to, of a server without an agent, which has no Key; nil: it has one.
	Target *targetRecord `json:"target,omitempty"`
	// Listen is where its agent serves people itself; nil: nowhere.
	Listen *listenAt `json:"listen,omitempty"`
}

// quarantine is why a device is not served.
type quarantine struct {
	Since   time.Time `json:"since"`
	Reason  string    `json:"reason"`
	Sources []string  `json:"sources,omitempty"` // where the two were
}

// enrollRecord is a key that is not a device's yet.
type enrollRecord struct {
	UUID        string            `json:"uuid"` // which the device will have
	State       string            `json:"state"`
	Name        string            `json:"name"` // imported: taken; else the wish
	Fingerprint string            `json:"fingerprint"`
	Key         []byte            `json:"key,omitempty"` // Ed25519; of an imported fingerprint none
	Labels      map[string]string `json:"labels,omitempty"`
	Evidence    map[string]string `json:"evidence,omitempty"`
	Hostname    string            `json:"hostname,omitempty"`
	Arch        string            `json:"arch,omitempty"`
	OS          string            `json:"os,omitempty"`
	Version     string            `json:"version,omitempty"`
	Source      string            `json:"source,omitempty"`
	By          string            `json:"by"` // token, or the person who imported or rejected
	Parent      string            `json:"parent,omitempty"`
	Created     time.Time         `json:"created"`
	Seen        time.Time         `json:"seen,omitzero"` // give or take seenEvery
	// Import is the import that it came by, and counts only when that is complete; until then Before is what counts.
	Import string        `json:"import,omitempty"`
	Before *enrollRecord `json:"before,omitempty"`
}

// States of an enrollRecord.
const (
	statePending  = "pending"
	stateRejected = "rejected"
	stateImported = "imported"
)

// importRecord says that an import is complete.
type importRecord struct {
	At      time.Time `json:"at"`
	By      string    `json:"by"`
	Devices int       `json:"devices"`
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
	Pin     string            `json:"pin,omitempty"`     // of the CA it names; tokens of before CAs were rotated have none
	Name    string            `json:"name,omitempty"`    // pattern or template of the names of those who join by it
	Sources []netip.Prefix    `json:"sources,omitempty"` // where it may be used
	Approve bool              `json:"approve,omitempty"` // who joins by it waits for approval
	Parent  string            `json:"parent,omitempty"`  // UUID of the device that a clone of it is split from
}

// get reads one record into v and returns its revision.
func (s *Server) get(ctx context.Context, key string, v any) (uint64, error) {
	kv, err := s.state.Get(ctx, key)
	if err != nil {
		return 0, err
	}
	if err := json.Unmarshal(kv.Value, v); err != nil {
		return 0, fmt.Errorf("record %s is damaged: %w; %s", key, err, restoreHint)
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
// after it sees its effect. Once begun it does not end with ctx: what was written
// and called a failure would be in force, and in no audit log.
func (s *Server) commit(ctx context.Context, conds []store.Cond, ops ...store.Op) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	ctx = context.WithoutCancel(ctx)
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
				return nil, fmt.Errorf("record %s is damaged: %w; %s", kv.Key, err, restoreHint)
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
