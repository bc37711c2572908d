package mesh

import (
	"maps"
	"sync"
	"time"

	"hawser/tunnel/wire"
)

// Kinds of incidents.
const (
	BadSignature   = "announcement-signature"  // not signed by the device for this hub
	Replayed       = "announcement-replayed"   // the hub itself said that it is over
	FutureStamp    = "announcement-stamp"      // ahead of this hub's clock: that hub's clock is wrong, or it lies
	UnknownDevice  = "announcement-device"     // no such device
	BadMessage     = "peer-message"            // not understood, or no message of hubs
	WrongHello     = "peer-hello"              // names another hub, cluster or version
	BadOpen        = "peer-stream"             // the head of a stream is none, or without inner TLS
	WrongEntryHub  = "peer-stream-entry-hub"   // a stream said to come from another hub
	StreamFlood    = "peer-stream-flood"       // more streams than allowed
	AnnounceFlood  = "announcement-flood"      // more refused announcements than allowed
	UnreachedStale = "announcement-superseded" // counted only: another hub was first, as happens when a device moves
)

// Incident is what a hub did that none does that keeps to the protocol. Each kind is told once a minute and peer at most.
type Incident struct {
	Kind   string
	Peer   wire.UUID
	Device wire.UUID // zero: none
	Detail string
	Count  uint64 // of this kind and peer so far
}

// incidentEvery bounds how often a kind is told, for a peer.
const incidentEvery = time.Minute

type incidents struct {
	mu   sync.Mutex
	seen map[string]uint64
	told map[string]time.Time
}

// add counts one, and tells whether it is to be told: logged is true the first time.
func (i *incidents) add(kind string, now time.Time) (count uint64, log, tell bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.seen == nil {
		i.seen, i.told = make(map[string]uint64), make(map[string]time.Time)
	}
	i.seen[kind]++
	last, told := i.told[kind]
	if tell = !told || now.Sub(last) >= incidentEvery; tell {
		i.told[kind] = now
	}
	return i.seen[kind], !told, tell
}

func (i *incidents) counts() map[string]uint64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	return maps.Clone(i.seen)
}

// incident counts what a peer did, and tells.
func (p *peer) incident(kind string, device wire.UUID, detail string) {
	count, log, tell := p.incidents.add(kind, p.m.c.Now())
	if kind == UnreachedStale {
		return
	}
	if log {
		p.m.c.Logger.Warn("a hub broke the rules", "kind", kind, "hub", p.id.String(), "device", device.String(), "detail", wire.Quote(detail, 256))
	}
	if tell {
		p.m.c.Incident(Incident{Kind: kind, Peer: p.id, Device: device, Detail: detail, Count: count})
	}
}

// bucket allows burst at once and rate a second. Not safe for concurrent use.
type bucket struct {
	rate, burst float64
	level       float64 // used
	last        time.Time
}

func (b *bucket) take(now time.Time) bool {
	b.level = max(0, b.level-now.Sub(b.last).Seconds()*b.rate)
	b.last = now
	if b.level+1 > b.burst {
		return false
	}
	b.level++
	return true
}
