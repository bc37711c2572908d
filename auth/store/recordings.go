package store

import (
	"context"
	"time"
)

// Recordings keeps recordings: for each a manifest, chunks that only grow, and side objects made of them. All methods are safe for concurrent
// use. What a method has acknowledged is durable.
type Recordings interface {
	// PutManifest writes a recording's manifest; the first creates the recording. A later one with another start is an error; one with
	// Closed ends it. Chunks, Bytes, Hold and Removed are the store's: what m says of them is not looked at.
	PutManifest(ctx context.Context, m Manifest) error
	// UpdateManifest calls fn with the manifest as it is and writes what fn makes of it, with nothing in between, and returns that. An
	// error of fn is returned and changes nothing. fn must not call the store; it may be called more than once.
	UpdateManifest(ctx context.Context, id [16]byte, fn func(*Manifest) error) (Manifest, error)
	// Manifest returns a recording's manifest, or ErrNotFound. That of a removed recording stays, with Removed set.
	Manifest(ctx context.Context, id [16]byte) (Manifest, error)
	// List returns the manifests that match, newest start first: with a limit no more than the newest so many.
	List(ctx context.Context, f Filter) ([]Manifest, error)

	// Append stores chunks that follow each other, the first as number seq. A chunk that is already there with the same bytes is accepted
	// again, with others it is ErrConflict. ErrGap: an earlier one is missing, see Next. ErrNotFound: there is no manifest. ErrClosed: the
	// recording (or the store) is closed. ErrRemoved: it was removed. ErrNoSpace, ErrQuota: there is no room. After an error some of the
	// chunks may be stored.
	Append(ctx context.Context, id [16]byte, seq uint64, chunks ...[]byte) error
	// Next is the sequence number of the chunk wanted next: where an interrupted upload goes on.
	Next(ctx context.Context, id [16]byte) (uint64, error)
	// Chunks calls fn for each stored chunk from the sequence number on, in order; the chunk is fn's. ErrDamaged: one cannot be read as it
	// was written, or is missing. ErrRemoved: they were removed.
	Chunks(ctx context.Context, id [16]byte, from uint64, fn func(seq uint64, chunk []byte) error) error

	// PutObjects writes side objects of a recording, open or closed; one of the same number is replaced. Of many some may be stored after
	// an error.
	PutObjects(ctx context.Context, id [16]byte, kind ObjectKind, objects ...Object) error
	// Object returns one side object, or ErrNotFound.
	Object(ctx context.Context, id [16]byte, kind ObjectKind, n uint64) ([]byte, error)
	// Objects calls fn for each side object of the kind from number on, in order. data is valid until fn returns.
	Objects(ctx context.Context, id [16]byte, kind ObjectKind, from uint64, fn func(n uint64, data []byte) error) error
	// ObjectsOf calls fn for each side object of the kind of every recording that matches, those of one recording together and in order,
	// newer weeks first. It is what a search over all recordings reads. data is valid until fn returns. f.Limit is not looked at.
	ObjectsOf(ctx context.Context, f Filter, kind ObjectKind, fn func(m Manifest, n uint64, data []byte) error) error

	// Hold keeps a recording from retention and from Remove; nil lets it go again. It returns the manifest after it.
	Hold(ctx context.Context, id [16]byte, hold *Hold) (Manifest, error)
	// Remove removes a recording's chunks and side objects and leaves its manifest, with Removed set, until retention would have removed
	// it. ErrHeld: it is held. Removing one that was removed goes on with what was broken off. It returns the manifest before it.
	Remove(ctx context.Context, id [16]byte, r Removal) (Manifest, error)
	// Retain removes the recordings of the weeks that ended before the given time, but those that are held. Who still reads one
	// reads on, and the week goes from the disk when nobody does. A recording is kept until the whole week of its start is old enough, and
	// until it is closed.
	Retain(ctx context.Context, before time.Time) ([]Expired, error)

	// Thin removes single recordings of ended weeks, but those that are held or not closed. A week of which nothing else is left goes as with Retain.
	Thin(ctx context.Context, t Thinning) ([]Expired, error)

	// SetQuota bounds Usage.Bytes from now on; 0: not bounded. What is there stays: beyond it nothing is taken.
	SetQuota(bytes uint64)
	// Usage tells how much there is.
	Usage() (Usage, error)
	// Maintain gives space back.
	Maintain() error
	// Close waits for what was taken. Idempotent.
	Close() error
}

// ObjectKind is a kind of side object.
type ObjectKind byte

// Kinds of side objects. Further ones are lower-case letters; m, r, n, b and d are taken.
const (
	Keyframes   ObjectKind = 'k' // the screen at times
	Index       ObjectKind = 'i' // rendered text, in blocks
	IndexFilter ObjectKind = 'f' // what may be in a block of text
	IndexState  ObjectKind = 'x' // how far the index is
	Attachments ObjectKind = 'a' // by the numbers below
)

// Attachments.
const (
	AttachDeviceCertificate = 1 // of the device at the time, with which its witness and its signatures are judged: its chain, DER
	AttachHubCertificate    = 2 // of the hub that recorded, the same
)

func (k ObjectKind) valid() bool {
	switch k {
	case 'm', 'r', 'n', 'b', 'd':
		return false
	}
	return k >= 'a' && k <= 'z'
}

// ObjectKinds are all there can be.
func ObjectKinds() (all []ObjectKind) {
	for k := ObjectKind('a'); k <= 'z'; k++ {
		if k.valid() {
			all = append(all, k)
		}
	}
	return all
}

// Object is a side object: one of its kind by its number, with 1 to MaxObject bytes.
type Object struct {
	N    uint64
	Data []byte
}

// Hold says who keeps a recording from being removed, and why.
type Hold struct {
	By     string
	At     time.Time
	Reason string
}

// Removal says who removed a recording, and why.
type Removal struct {
	By     string
	At     time.Time
	Reason string
}

// Thinning says which recordings Thin removes.
type Thinning struct {
	// Before: only of weeks that ended before, and of those only where Skip does not say that there is nothing to be found; nil: of all.
	Before time.Time
	Skip   func(week string, end time.Time) bool
	// Over: only such. It may be asked while nothing can be written, and more than once.
	Over func(Manifest) bool
}

// Expired is what Retain or Thin removed at once: a week, or one recording of one.
type Expired struct {
	Week       string
	ID         [16]byte // zero: the week
	Manifest   Manifest // of the one recording, where Thin removed it
	Recordings int      // removed with it
	Held       int      // of the week, kept
}

// Usage is how much there is.
type Usage struct {
	Bytes uint64 // of chunks and side objects
	Quota uint64 // 0: none
	Free  uint64 // on the file system
	// MinFree is the free space below which nothing more is taken.
	MinFree uint64
	Weeks   int
}

// Full tells whether chunks are refused now.
func (u Usage) Full() bool { return u.Free < u.MinFree || u.Quota > 0 && u.Bytes >= u.Quota }

// Low tells whether they will be soon: with less than twice the free space that is wanted, or a tenth of the quota left.
func (u Usage) Low() bool {
	return u.Free < 2*u.MinFree || u.Quota > 0 && u.Bytes >= u.Quota-u.Quota/10
}
