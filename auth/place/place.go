// Package place counts: who holds how many connections and sessions over a cluster, under which caps, and how long a hub keeps what it was
// given.
//
// Auth has the [Table]; each run of a hub has a [Holder] and renews its lease with what [Holder.Renewal] says. The package is pure: no I/O, no
// clock; times and messages in, decisions out. Where both keep to it, never more is held than a cap says, and nothing that was lost on the way
// (an answer to Admit, a Release) stays counted for longer than two renewals.
//
// # The lease
//
// A place lives as long as the lease of the run of the hub that has it: TTL from the last renewal that auth heard. Under cap_mode exact the
// hub ends what it has at TTL - Margin from when it sent the last renewal that was answered; that is earlier by any clock that runs evenly, so
// that nobody else can be given the place before. A new run of a hub ends the lease of the run before at once, but for what is direct: that goes on
// at its device for as long as the hub's lease was said to last.
package place

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

const (
	// TTL is how long a lease lives without renewal.
	TTL = 15 * time.Second
	// RenewEvery is how often a hub renews: two may be lost.
	RenewEvery = 5 * time.Second
	// Margin is what a hub takes to end what it holds, before the lease is over.
	Margin = 2 * time.Second
	// Linger is how long Admit waits for a place under a cap that is full: a client that has seen its session end may come back before the
	// place is free.
	Linger = time.Second
	// releasedLife is how long a place given back is remembered: what asked for it, or told of it, may be that late.
	releasedLife = time.Minute
	// maxReleased of them are.
	maxReleased = 1 << 16
	// maxRuns of a hub that are over are remembered, so that none of them is taken for a newer one; and no more that are not over ask for places.
	maxRuns = 16
	// MaxHeld bounds the places of one run of a hub, of both kinds.
	MaxHeld = 1 << 17
)

// Kind is what is held.
type Kind uint8

// Kinds of places.
const (
	Connection Kind = 1
	Session    Kind = 2
)

// Run is one run of a hub. Of a hub that does not say it, Incarnation is zero.
type Run struct {
	Hub         string // UUID
	Incarnation [16]byte
}

// Place is a counted right to a connection or a session.
type Place struct {
	ID     [16]byte
	Kind   Kind
	User   string
	Device string // UUID; empty: a connection to a hub
	Client netip.AddrPort
	Run    Run
	// Inner: a connection end to end, which a connection to the hub carries. The two are one place, for they come from one address and port
	// to one hub; of several inner ones each further one is one more.
	Inner bool
	// Direct: the device serves it by itself, and may bind it to another hub's run when it has lost the first.
	Direct bool
	// Attempt is which Admit of the run asks for it: each has a higher number than those before. It tells a Release that is late, of an Admit
	// whose answer was lost, from one of what was asked for again since. It is not part of what the place is.
	Attempt uint64
}

// same tells whether both are one place, whoever asked when.
func (p Place) same(q Place) bool {
	p.Attempt, q.Attempt = 0, 0
	return p == q
}

// Returned is what a hub gives back. A zero Incarnation stands for every run of it, a zero Attempt for every attempt.
type Returned struct {
	Run     Run
	ID      [16]byte
	Attempt uint64
}

// of tells whether it gives back what the attempt of the run got.
func (r Returned) of(at Run, attempt uint64) bool {
	none := [16]byte{}
	return r.Run.Hub == at.Hub && (r.Run.Incarnation == at.Incarnation || r.Run.Incarnation == none || at.Incarnation == none) && (r.Attempt == 0 || attempt <= r.Attempt)
}

// Limits are what a place is counted against. Zero: no cap.
type Limits struct {
	Connections, Sessions        int // of the user, over the cluster
	PerSource, PerDevice, PerHub int
	// Kept: one place of PerDevice and PerHub is kept for roles with reserved. Reserved: this person has such a role.
	Kept, Reserved bool
}

// Counts tells whether a place of the kind is under any cap.
func (l Limits) Counts(k Kind) bool {
	if k == Session {
		return l.Sessions > 0 || l.PerDevice > 0
	}
	return l.Connections > 0 || l.PerSource > 0 || l.PerHub > 0
}

// Full is a cap that is reached.
type Full struct {
	Cap  string // as a role or the cluster spells it: max_connections, max_sessions, caps.per_source, caps.per_device, caps.per_hub
	Of   string // the user, the network, the UUID of the device or hub
	Max  int
	Held int
	Kept bool // the last one is kept for roles with reserved
}

func (f *Full) Error() string {
	return fmt.Sprintf("%s of %s is %d, and %d are held", f.Cap, f.Of, f.Max, f.Held)
}

// Errors of Table and Holder.
var (
	// ErrOver: the place was given back before it was asked for, or the run that asks is over.
	ErrOver = errors.New("place: the place, or the run of the hub that asks for it, is over")
	// ErrTaken: somebody else holds a place of this id.
	ErrTaken = errors.New("place: the id is taken")
	// ErrLapsed: the hub's lease may be over.
	ErrLapsed = errors.New("place: the hub has not renewed its lease")
	// ErrTooMany: the run holds MaxHeld.
	ErrTooMany = errors.New("place: the hub holds too many")
)

// Source is the network that caps.per_source counts by: an IPv4 address, or the /64 of an IPv6 address.
func Source(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}

// Renewal is what a hub renews with.
type Renewal struct {
	Seq      uint64
	Answered uint64 // the last that was answered before the lists were made
	Epoch    string // of that answer
	Held     [][16]byte
	Pending  [][16]byte
}
