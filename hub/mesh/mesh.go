// Package mesh is how the hubs of a cluster know of one another's devices and carry one another's streams (PROTOCOL.md, "Between hubs").
//
// A Mesh keeps one connection to each other hub of the cluster's list, announces on it the tunnels registered here, takes theirs into the
// registry, and opens and serves the streams between them: a stream for a device at another hub goes there in one hop and no further.
// Start from New and Run; Open opens such a stream and HubStatus tells how another hub is.
//
// It believes no hub: an announcement counts with the device's own signature over the announcing hub, a stream is relayed only for the hub
// it comes from and only as inner TLS, of which this hub can read nothing. What is not as it must be is refused, counted, and told once a
// cause to the log and to Config.Incident.
package mesh

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"hawser/hub/registry"
	"hawser/tunnel"
	"hawser/tunnel/quicconn"
	"hawser/tunnel/wire"
)

// Version of the protocol between hubs.
const Version = 1

// ErrUnreachable: there is no connection to that hub now.
var ErrUnreachable = errors.New("the device's hub cannot be reached from this one")

// Hub is a hub of the cluster.
type Hub struct {
	UUID  wire.UUID
	Name  string
	Addrs []string // "host:port" of its tunnels
}

// Transport is a *quicconn.Listener.
type Transport interface {
	AcceptPeer(ctx context.Context) (quicconn.Peer, error)
	DialPeer(ctx context.Context, addr netip.AddrPort, tc *tls.Config) (quicconn.Peer, error)
}

// Config of a Mesh. All functions are set and safe for concurrent use; those that tell something do not block.
type Config struct {
	Self        Hub // without Addrs
	Cluster     string
	Incarnation wire.Incarnation
	Registry    *registry.Registry
	Transport   Transport
	// TLS is what to dial that hub with: it presents this hub's certificate and admits no other hub.
	TLS func(wire.UUID) *tls.Config
	// Identify tells which hub a connection's certificate is of; an error is none of the cluster's.
	Identify func(tls.ConnectionState) (wire.UUID, error)
	// Hubs are those of the cluster, this one among them or not, and DeviceKey a device's key, nil of one that is not known (yet). Changed
	// returns a channel that is closed when they may say something else.
	Hubs      func() []Hub
	DeviceKey func(wire.UUID) ed25519.PublicKey
	Changed   func() <-chan struct{}
	// Displaced tunnels of this hub are to be closed: the device has newer ones elsewhere.
	Displaced func([]*registry.Tunnel)
	// OpenLocal opens a stream on a tunnel of this hub.
	OpenLocal func(context.Context, *registry.Tunnel) (tunnel.Stream, error)
	// HubChanged tells that a hub was lost for longer than the grace, is back after that, or restarted.
	HubChanged func(wire.UUID)
	// Incident tells that a hub did what none does that keeps to the protocol.
	Incident func(Incident)
	Logger   *slog.Logger
	Now      func() time.Time
	Timing   Timing
}

// Timing is how soon things happen; zero fields are the defaults, which tests shorten.
type Timing struct {
	Heartbeat   time.Duration // between heartbeats: 1 s
	Dead        time.Duration // without any, a connection is lost: 3 s
	Grace       time.Duration // for which a lost hub's devices stay in the registry: 3 s
	RedialMin   time.Duration // 200 ms
	RedialMax   time.Duration // 5 s
	Handshake   time.Duration // for dialling, hellos, and the head of a stream: 5 s
	PendingLife time.Duration // after which an announced device that nobody knows is an incident: 30 s
	Banned      time.Duration // for which a hub that broke the protocol is not connected to: 30 s
}

func (t *Timing) setDefaults() {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&t.Heartbeat, time.Second}, {&t.Dead, 3 * time.Second}, {&t.Grace, 3 * time.Second}, {&t.RedialMin, 200 * time.Millisecond},
		{&t.RedialMax, 5 * time.Second}, {&t.Handshake, 5 * time.Second}, {&t.PendingLife, 30 * time.Second}, {&t.Banned, 30 * time.Second},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
}

// Mesh is safe for concurrent use. New makes it, Run runs it once.
type Mesh struct {
	c Config

	// relays are the streams carried for other hubs. They end with their link, but a device that does not read may hold one up until its
	// tunnel ends, and the link must not wait for that.
	relays sync.WaitGroup
	links  sync.WaitGroup // connections this hub dialled
	done   chan struct{}

	mu    sync.Mutex
	peers map[wire.UUID]*peer
}

// New starts nothing.
func New(c Config) *Mesh {
	c.Timing.setDefaults()
	return &Mesh{c: c, peers: make(map[wire.UUID]*peer), done: make(chan struct{})}
}

// Run keeps the connections until ctx ends; then it tells the other hubs, and returns when all it started has ended.
func (m *Mesh) Run(ctx context.Context) {
	defer close(m.done)
	var wg sync.WaitGroup
	wg.Go(func() { m.accept(ctx, &wg) })
	for ctx.Err() == nil {
		changed := m.c.Changed()
		m.follow(ctx, &wg)
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	wg.Wait()
	m.links.Wait()
	m.relays.Wait()
	for _, p := range m.all() {
		p.timer.Stop()
	}
}

// Done is closed when Run has returned.
func (m *Mesh) Done() <-chan struct{} { return m.done }

func (m *Mesh) all() []*peer {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]*peer, 0, len(m.peers))
	for _, p := range m.peers {
		all = append(all, p)
	}
	return all
}

// follow keeps a connection to each hub of the list, and none to others.
func (m *Mesh) follow(ctx context.Context, wg *sync.WaitGroup) {
	listed := m.c.Hubs()
	for _, h := range listed {
		if h.UUID == m.c.Self.UUID || h.UUID == (wire.UUID{}) {
			continue
		}
		m.mu.Lock()
		p := m.peers[h.UUID]
		if p == nil {
			p = newPeer(m, h)
			m.peers[h.UUID] = p
			kctx, stop := context.WithCancelCause(ctx)
			p.stop = stop
			wg.Go(func() { m.guard("keep", func() { p.keep(kctx) }) })
		}
		m.mu.Unlock()
		p.mu.Lock()
		p.hub = h
		p.mu.Unlock()
	}
	for _, p := range m.all() {
		if !slices.ContainsFunc(listed, func(h Hub) bool { return h.UUID == p.id }) {
			m.mu.Lock()
			delete(m.peers, p.id)
			m.mu.Unlock()
			p.remove()
		}
	}
}

func (m *Mesh) peer(id wire.UUID) *peer {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.peers[id]
}

// guard keeps a panic in a peer's connection from taking the hub with it.
func (m *Mesh) guard(what string, f func()) {
	defer func() {
		if p := recover(); p != nil {
			m.c.Logger.Error("panic between hubs", "in", what, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	f()
}

func (m *Mesh) accept(ctx context.Context, wg *sync.WaitGroup) {
	for {
		c, err := m.c.Transport.AcceptPeer(ctx)
		if err != nil {
			if ctx.Err() == nil {
				m.c.Logger.Error("hubs are not accepted any more", "error", err)
			}
			return
		}
		wg.Go(func() {
			defer func() { _ = c.CloseWithError(wire.CloseInternal, "the hub failed") }()
			m.guard("accepted connection", func() { m.serve(ctx, c, false) })
		})
	}
}

// Open opens a stream for a device at its home hub: what is written to it goes to the device, and must be an Attach with inner TLS.
func (m *Mesh) Open(ctx context.Context, hub, device wire.UUID, slot uint8) (tunnel.Stream, error) {
	var l *link
	if p := m.peer(hub); p != nil {
		l = p.current()
	}
	if l == nil {
		return nil, ErrUnreachable
	}
	s, err := l.conn.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	l.used.Store(true)
	return &prefaced{Stream: s, preface: wire.PeerOpen{Device: device, Slot: slot}.Append(nil)}, nil
}

// prefaced is a stream whose first bytes go with whatever is written first.
type prefaced struct {
	tunnel.Stream
	preface []byte
}

func (s *prefaced) Write(p []byte) (int, error) {
	if s.preface == nil {
		return s.Stream.Write(p)
	}
	n, err := s.Stream.Write(append(s.preface, p...))
	n = max(0, n-len(s.preface))
	s.preface = nil
	return n, err
}

// HubStatus tells how a hub is, as this one knows.
func (m *Mesh) HubStatus(id wire.UUID) wire.HubStatus {
	if id == m.c.Self.UUID {
		return wire.HubStatus{Hub: id, State: wire.HubUp, Incarnation: m.c.Incarnation}
	}
	s := wire.HubStatus{Hub: id}
	p := m.peer(id)
	if p == nil {
		return s
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.link != nil:
		s.State, s.Incarnation = wire.HubUp, p.incarnation
	case p.incarnation != wire.Incarnation{}:
		s.State, s.Incarnation, s.Gone = wire.HubGone, p.incarnation, max(m.c.Now().Sub(p.heard), time.Millisecond)
	}
	return s
}

// PeerStats are what is known of another hub, for people.
type PeerStats struct {
	Hub       Hub
	Connected bool
	Heard     time.Time // zero: never
	Announced uint64    // taken from it since this hub started
	Relayed   uint64    // its streams, likewise
	Refused   map[string]uint64
}

// Peers are the other hubs, in the order of their names.
func (m *Mesh) Peers() []PeerStats {
	var all []PeerStats
	for _, p := range m.all() {
		p.mu.Lock()
		s := PeerStats{Hub: p.hub, Connected: p.link != nil, Heard: p.heard, Announced: p.announced.Load(), Relayed: p.relayed.Load()}
		if p.link != nil {
			s.Heard = p.link.heardAt()
		}
		p.mu.Unlock()
		s.Refused = p.incidents.counts()
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b PeerStats) int {
		if a.Hub.Name != b.Hub.Name {
			if a.Hub.Name < b.Hub.Name {
				return -1
			}
			return 1
		}
		return slices.Compare(a.Hub.UUID[:], b.Hub.UUID[:])
	})
	return all
}
