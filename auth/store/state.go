package store

import (
	"context"
	"errors"
	"time"
)

// Errors of State and Recordings. Callers branch on them with errors.Is.
var (
	ErrNotFound  = errors.New("store: not found")
	ErrConflict  = errors.New("store: precondition failed")
	ErrCompacted = errors.New("store: revision compacted, list again")
	ErrNoSpace   = errors.New("store: too little free disk space")
	ErrTooLarge  = errors.New("store: key, value or transaction too large")
	ErrClosed    = errors.New("store: closed")
	ErrDamaged   = errors.New("store: damaged")
	ErrInUse     = errors.New("store: in use by another process")
	ErrGap       = errors.New("store: chunk out of sequence")
	ErrQuota     = errors.New("store: the quota of recordings is used up")
	ErrRemoved   = errors.New("store: recording was removed")
	ErrHeld      = errors.New("store: recording is held")
)

// LeaseID names a lease. Zero is no lease.
type LeaseID uint64

// KV is one key with its value and revisions.
type KV struct {
	Key       string
	Value     []byte
	CreateRev uint64 // revision of the transaction that created the key
	ModRev    uint64 // revision of the transaction that last wrote it
	Lease     LeaseID
}

// EventType says what happened to a key.
type EventType uint8

// Event types.
const (
	EventPut    EventType = 1
	EventDelete EventType = 2
)

// Event is one change. For EventDelete, KV holds the key and, in ModRev, the deletion's revision.
type Event struct {
	Type EventType
	KV   KV
}

// Cond is a precondition of a transaction. Make them with IfAbsent, IfExists and IfModRev.
type Cond struct {
	Key    string
	kind   condKind
	modRev uint64
}

type condKind uint8

const (
	condAbsent condKind = iota + 1
	condExists
	condModRev
)

// IfAbsent holds when the key does not exist.
func IfAbsent(key string) Cond { return Cond{Key: key, kind: condAbsent} }

// IfExists holds when the key exists.
func IfExists(key string) Cond { return Cond{Key: key, kind: condExists} }

// IfModRev holds when the key exists and was last written at rev.
func IfModRev(key string, rev uint64) Cond { return Cond{Key: key, kind: condModRev, modRev: rev} }

// Op is one write of a transaction. Make them with Put, PutLease and Delete.
type Op struct {
	Key    string
	value  []byte
	lease  LeaseID
	delete bool
	urgent bool
}

// Put writes a value and detaches the key from any lease.
func Put(key string, value []byte) Op { return Op{Key: key, value: value} }

// PutLease writes a value that lives as long as the lease.
func PutLease(key string, value []byte, lease LeaseID) Op {
	return Op{Key: key, value: value, lease: lease}
}

// Delete removes a key. Removing an absent key is not an error and makes no event.
func Delete(key string) Op { return Op{Key: key, delete: true} }

// Urgent makes a write one that is taken as long as deletions are, with half the free space that others need: for what keeps somebody out.
func Urgent(op Op) Op {
	op.urgent = true
	return op
}

// State is the store of the auth service's records, with etcd's contract.
//
// There is one revision for the whole store; each transaction that changes something raises it by one.
// A transaction is acknowledged when it is durable. All methods are safe for concurrent use. Values
// returned are the caller's.
type State interface {
	// Get returns one key, or ErrNotFound.
	Get(ctx context.Context, key string) (KV, error)
	// Range returns up to limit keys (0 is all) with the prefix, in byte order, that sort after `after` (""
	// is from the first), and the revision at which they were read. A page is full when it has limit keys.
	Range(ctx context.Context, prefix, after string, limit int) ([]KV, uint64, error)
	// Snapshot calls fn with every key of one revision, in byte order, and returns that revision. Writes go on meanwhile. fn must not
	// call the store.
	Snapshot(ctx context.Context, fn func(KV) error) (uint64, error)
	// Txn writes all ops if all conds hold, or nothing and ErrConflict. It returns the revision after it.
	// After an error of the context the transaction may or may not have been done.
	Txn(ctx context.Context, conds []Cond, ops []Op) (uint64, error)
	// Watch delivers, in order and without holes, the events of keys with the prefix after revision from
	// (what Range returned). It returns ErrCompacted if from is older than the log, or newer than the store
	// (a restored backup): list again. The channel closes when ctx or the store ends, or when the watcher fell
	// behind the log; watching again from the last event's revision then says ErrCompacted. One receive is the
	// events of one transaction or more, never part of one.
	Watch(ctx context.Context, prefix string, from uint64) (<-chan []Event, error)
	// Grant makes a lease. When it ends, its keys are deleted in one transaction that watchers see. After
	// a restart of the store a lease lives at least min(ttl, one minute) more, for its holder to come back.
	Grant(ctx context.Context, ttl time.Duration) (LeaseID, error)
	// KeepAlive renews a lease for its ttl. ErrNotFound: it has ended.
	KeepAlive(ctx context.Context, id LeaseID) error
	// Revoke ends a lease now. Revoking one that has ended is not an error.
	Revoke(ctx context.Context, id LeaseID) error
	// Close ends watchers, waits for them and flushes. Idempotent.
	Close() error
}
