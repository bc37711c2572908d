package mesh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"hawser/auth/ca"
	"hawser/hub/registry"
	"hawser/tunnel"
	"hawser/tunnel/quicconn"
	"hawser/tunnel/tunneltest"
	"hawser/tunnel/wire"
)

const (
	cluster  = "mesh.example"
	patience = 20 * time.Second
)

// world is a cluster: a CA, hubs, devices.
type world struct {
	t   testing.TB
	set *ca.Set

	mu      sync.Mutex
	listed  []Hub
	keys    map[wire.UUID]ed25519.PublicKey
	changed chan struct{}
}

// node is a hub of it.
type node struct {
	w         *world
	id        wire.UUID
	cert      tls.Certificate
	inc       wire.Incarnation
	listener  *quicconn.Listener
	registry  *registry.Registry
	mesh      *Mesh
	incidents chan Incident
	hubs      chan wire.UUID // those that changed
	displaced chan *registry.Tunnel
	stop      func()
}

func newWorld(t testing.TB) *world {
	t.Helper()
	set, err := ca.NewSet(cluster, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, set: set, keys: make(map[wire.UUID]ed25519.PublicKey), changed: make(chan struct{})}
}

func (w *world) update(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	close(w.changed)
	w.changed = make(chan struct{})
}

// credential is a hub's.
func (w *world) credential(id wire.UUID) tls.Certificate {
	w.t.Helper()
	_, key, _ := ed25519.GenerateKey(nil)
	chain, _, err := w.set.IssueHub(ca.HubRequest{
		UUID: id.String(), Name: "hub-" + id.String()[:2], Principals: []string{"hub"}, Key: key.Public().(ed25519.PublicKey), TTL: time.Hour, Now: time.Now(),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return tls.Certificate{Certificate: chain, PrivateKey: key}
}

func (w *world) identify(cs tls.ConnectionState) (wire.UUID, error) {
	trust := w.set.Trust(1)
	id, err := ca.VerifyPeer(cs.PeerCertificates, &trust, time.Now())
	if err != nil {
		return wire.UUID{}, err
	}
	if err := id.Require(ca.RoleHub); err != nil {
		return wire.UUID{}, err
	}
	return wire.ParseUUID(id.UUID)
}

func (w *world) tls(cert *tls.Certificate, want func(wire.UUID) bool) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*cert}, ClientAuth: tls.RequireAnyClientCert, InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			id, err := w.identify(cs)
			if err == nil && !want(id) {
				err = errors.New("another hub")
			}
			return err
		},
	}
}

func anyHub(wire.UUID) bool { return true }

func (w *world) listen(cert *tls.Certificate, at *net.UDPAddr) *quicconn.Listener {
	w.t.Helper()
	udp, err := net.ListenUDP("udp4", at)
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := quicconn.Listen(udp, w.tls(cert, anyHub), quicconn.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

var quick = Timing{
	Heartbeat: 100 * time.Millisecond, Dead: time.Second, Grace: time.Second, RedialMin: 10 * time.Millisecond, RedialMax: 50 * time.Millisecond,
	PendingLife: 300 * time.Millisecond, Banned: 300 * time.Millisecond,
}

// hub starts one and lists it.
func (w *world) hub(n byte) *node {
	w.t.Helper()
	id := wire.UUID{n}
	h := &node{w: w, id: id, cert: w.credential(id)}
	h.start(&net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	w.t.Cleanup(func() { h.stop() })
	w.update(func() {
		w.listed = append(w.listed, Hub{UUID: id, Name: id.String()[:2], Addrs: []string{h.listener.Addr().String()}})
	})
	return h
}

func (h *node) start(at *net.UDPAddr) {
	w := h.w
	h.listener = w.listen(&h.cert, at)
	h.registry, h.inc = new(registry.Registry), wire.NewIncarnation()
	h.incidents, h.hubs, h.displaced = make(chan Incident, 1000), make(chan wire.UUID, 1000), make(chan *registry.Tunnel, 1000)
	h.mesh = New(Config{
		Self: Hub{UUID: h.id}, Cluster: cluster, Incarnation: h.inc, Registry: h.registry, Transport: h.listener, Identify: w.identify,
		TLS: func(id wire.UUID) *tls.Config { return w.tls(&h.cert, func(got wire.UUID) bool { return got == id }) },
		Hubs: func() []Hub {
			w.mu.Lock()
			defer w.mu.Unlock()
			return append([]Hub(nil), w.listed...)
		},
		DeviceKey: func(id wire.UUID) ed25519.PublicKey {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.keys[id]
		},
		Changed: func() <-chan struct{} {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.changed
		},
		Displaced: func(all []*registry.Tunnel) {
			for _, t := range all {
				h.displaced <- t
			}
		},
		OpenLocal: func(ctx context.Context, t *registry.Tunnel) (tunnel.Stream, error) { return t.Conn.OpenStream(ctx) },
		HubChanged: func(id wire.UUID) {
			h.mesh.HubStatus(id) // who is told asks
			select {
			case h.hubs <- id:
			default:
			}
		},
		Incident: func(i Incident) { h.incidents <- i },
		Logger:   slog.New(slog.DiscardHandler), Now: time.Now, Timing: quick,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.mesh.Run(ctx)
	}()
	h.stop = sync.OnceFunc(func() {
		cancel()
		<-done
		h.listener.Close()
	})
}

// device is a device's key and its ends of tunnels.
type device struct {
	id      wire.UUID
	key     ed25519.PrivateKey
	inc     wire.Incarnation
	counter uint64
}

func (w *world) device(n byte) *device {
	pub, key, _ := ed25519.GenerateKey(nil)
	d := &device{id: wire.UUID{0xD0, n}, key: key, inc: wire.NewIncarnation()}
	w.update(func() { w.keys[d.id] = pub })
	return d
}

// tunnelAt makes what the device registers at a hub with.
func (d *device) tunnelAt(hub wire.UUID, slot uint8) *registry.Tunnel {
	d.counter++
	t := &registry.Tunnel{UUID: d.id, Incarnation: d.inc, Slot: slot, Counter: d.counter, Since: time.Now(), Nonce: [32]byte{1, byte(d.counter)}}
	t.Signature = ed25519.Sign(d.key, wire.RegisterTBS(t.Nonce, wire.Register{UUID: d.id, Hub: hub, Incarnation: d.inc, Slot: slot, Counter: d.counter}))
	return t
}

// register registers at a hub and returns the device's end.
func (d *device) register(t *testing.T, h *node, slot uint8) (*registry.Tunnel, tunnel.Conn) {
	t.Helper()
	hub, edge := tunneltest.Pair(t)
	tu := d.tunnelAt(h.id, slot)
	tu.Conn, tu.Challenged = hub, h.registry.Clock(time.Now())
	if _, err := h.registry.Register(tu, time.Now()); err != nil {
		t.Fatal(err)
	}
	return tu, edge
}

// at waits until the hub has the device's routes at these hubs.
func (h *node) at(t testing.TB, id wire.UUID, hubs ...wire.UUID) {
	t.Helper()
	late := time.After(patience)
	for {
		changed := h.registry.Changed(id)
		var got []wire.UUID
		for _, r := range h.registry.Routes(id) {
			got = append(got, r.Hub)
		}
		if len(got) == len(hubs) {
			same := true
			for i := range got {
				same = same && got[i] == hubs[i]
			}
			if same {
				return
			}
		}
		select {
		case <-changed:
		case <-late:
			t.Fatalf("hub %v has the device at %v, want %v", h.id, got, hubs)
		}
	}
}

// up waits until the hub has a connection with the other.
func (h *node) up(t *testing.T, other *node) {
	t.Helper()
	h.status(t, other.id, func(s wire.HubStatus) bool { return s.State == wire.HubUp && s.Incarnation == other.inc })
}

func (h *node) status(t *testing.T, id wire.UUID, want func(wire.HubStatus) bool) {
	t.Helper()
	late := time.After(patience)
	for {
		if s := h.mesh.HubStatus(id); want(s) {
			return
		}
		select {
		case <-h.hubs:
		case <-late:
			t.Fatalf("hub status %+v", h.mesh.HubStatus(id))
		}
	}
}

func (h *node) incident(t *testing.T, kind string) Incident {
	t.Helper()
	late := time.After(patience)
	for {
		select {
		case i := <-h.incidents:
			if i.Kind == kind {
				return i
			}
			t.Errorf("incident %+v", i)
		case <-late:
			t.Fatalf("no incident %q", kind)
		}
	}
}

func (h *node) attach() wire.Attach {
	return wire.Attach{Kind: wire.KindSession, ID: wire.NewStreamID(), EntryHub: h.id, EntryHubIncarnation: h.inc, InnerTLS: true}
}

// open opens a stream from a hub for a device and returns both its ends.
func open(t testing.TB, from *node, to wire.UUID, d *device, slot uint8, edge tunnel.Conn) (hubEnd, edgeEnd tunnel.Stream) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	// Of two connections of a pair one goes, a moment after both stood, and with it what was opened on it: that is opened again, as a session's stream is.
	// What does not come while its connection lives is lost.
	for ctx.Err() == nil {
		l := from.mesh.peer(to).current()
		s, err := from.mesh.Open(ctx, to, d.id, slot)
		if err != nil {
			runtime.Gosched()
			continue
		}
		if l != nil && l == from.mesh.peer(to).current() {
			a := from.attach()
			_, err := s.Write(a.Append(nil)) // an error may come a moment before the connection's end
			edgeEnd = arrives(t, ctx, from, a.ID, edge, l.conn.Context())
			switch gone := l.conn.Context().Err() != nil; {
			case !gone && edgeEnd != nil:
				return s, edgeEnd
			case !gone:
				t.Fatalf("a stream does not reach the device (%v), and the hubs' connection lives", err)
			}
		}
		s.Reset(wire.StreamCancelled)
	}
	t.Fatal("no stream reaches the device: no connection of the hubs lives that long")
	return nil, nil
}

// arrives is the device's end of a stream; nil: it does not come while the connection lives.
func arrives(t testing.TB, ctx context.Context, from *node, id wire.StreamID, edge tunnel.Conn, connection context.Context) tunnel.Stream {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(connection, cancel)()
	for {
		e, err := edge.AcceptStream(ctx)
		if err != nil {
			return nil
		}
		raw, err := readMessage(e)
		if err != nil {
			continue
		}
		got, err := wire.DecodeAttach(raw)
		if err != nil || got.EntryHub != from.id || !got.InnerTLS {
			t.Fatalf("the device got %+v, %v", got, err)
		}
		if got.ID == id {
			return e
		}
	}
}

func TestAnyHubReachesADeviceInOneHop(t *testing.T) {
	w := newWorld(t)
	a, b, c := w.hub(1), w.hub(2), w.hub(3)
	d := w.device(1)
	_, edge := d.register(t, a, 0)
	b.at(t, d.id, a.id)
	c.at(t, d.id, a.id)
	for _, from := range []*node{b, c} {
		s, e := open(t, from, a.id, d, 0, edge)
		want := bytes.Repeat([]byte("0123456789abcdef"), 16<<10)
		var wg sync.WaitGroup
		wg.Go(func() { // the device echoes, to the end
			if _, err := io.Copy(e, struct{ io.Reader }{e}); err != nil {
				t.Error(err)
			}
			_ = e.CloseWrite()
		})
		wg.Go(func() {
			if _, err := s.Write(want); err != nil {
				t.Error(err)
			}
			_ = s.CloseWrite()
		})
		if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes came back, %v; want %d", len(got), err, len(want))
		}
		wg.Wait()
	}
	s, e := open(t, b, a.id, d, 0, edge)
	e.Reset(wire.StreamConnectFailed)
	if _, err := s.Read(make([]byte, 1)); !isCode(err, wire.StreamConnectFailed) {
		t.Errorf("read %v, want the device's reset", err)
	}
	s, e = open(t, b, a.id, d, 0, edge)
	s.Reset(wire.StreamCancelled)
	if _, err := e.Read(make([]byte, 1)); !isCode(err, wire.StreamCancelled) {
		t.Errorf("the device read %v, want the entry hub's reset", err)
	}
}

func isCode(err error, code wire.StreamCode) bool {
	e, ok := errors.AsType[*tunnel.StreamError](err)
	return ok && e.Code == code
}

func TestTheHomeHubTakesTheOtherSlotWhenItMust(t *testing.T) {
	w := newWorld(t)
	a, b := w.hub(1), w.hub(2)
	d := w.device(1)
	_, edge := d.register(t, a, 1)
	b.at(t, d.id, a.id)
	open(t, b, a.id, d, 0, edge)
}

func TestADeviceThatMovesIsDisplacedWhereItWas(t *testing.T) {
	w := newWorld(t)
	a, b, c := w.hub(1), w.hub(2), w.hub(3)
	d := w.device(1)
	old, _ := d.register(t, a, 0)
	b.at(t, d.id, a.id)
	c.at(t, d.id, a.id)
	d.register(t, b, 0)
	if got := <-a.displaced; got != old {
		t.Errorf("displaced %+v", got)
	}
	a.at(t, d.id, b.id)
	c.at(t, d.id, b.id)
}

// The snapshot and the deltas of 2000 devices, half of them gone again before they are told.
func TestManyDevicesAreAnnounced(t *testing.T) {
	w := newWorld(t)
	a := w.hub(1)
	const devices = 2000
	var ds []*device
	for n := range devices {
		d := w.device(0)
		d.id = wire.UUID{0xD1, byte(n), byte(n >> 8)}
		w.update(func() { w.keys[d.id] = d.key.Public().(ed25519.PublicKey) })
		tu := d.tunnelAt(a.id, 0)
		if _, err := a.registry.Register(tu, time.Now()); err != nil {
			t.Fatal(err)
		}
		if n%2 == 1 {
			a.registry.Remove(tu)
		}
		ds = append(ds, d)
	}
	b := w.hub(2)
	b.at(t, ds[devices-2].id, a.id)
	for n, d := range ds {
		if n%2 == 0 {
			b.at(t, d.id, a.id)
		} else if r := b.registry.Routes(d.id); len(r) != 0 {
			t.Fatalf("a device that is gone has routes %v", r)
		}
	}
}

func TestALostHubsDevicesAreDroppedAfterTheGraceAndItsReturnIsSeen(t *testing.T) {
	w := newWorld(t)
	a, b := w.hub(1), w.hub(2)
	d := w.device(1)
	d.register(t, a, 0)
	b.at(t, d.id, a.id)
	at := net.UDPAddrFromAddrPort(a.listener.Addr())
	was := a.inc
	a.stop()
	b.status(t, a.id, func(s wire.HubStatus) bool { return s.State == wire.HubGone && s.Incarnation == was && s.Gone > 0 })
	if _, err := b.mesh.Open(t.Context(), a.id, d.id, 0); !errors.Is(err, ErrUnreachable) {
		t.Errorf("open: %v", err)
	}
	b.at(t, d.id)
	a.start(at)
	t.Cleanup(func() { a.stop() })
	b.up(t, a)
	if got := b.mesh.HubStatus(a.id); got.Incarnation == was {
		t.Error("the restart was not seen")
	}
	d.register(t, a, 0)
	b.at(t, d.id, a.id)
}

func TestAShortLossDisturbsNothing(t *testing.T) {
	w := newWorld(t)
	a, b := w.hub(1), w.hub(2)
	d := w.device(1)
	_, edge := d.register(t, a, 0)
	b.at(t, d.id, a.id)
	b.up(t, a)
	for range 3 {
		l := b.mesh.peer(a.id).current()
		back := b.registry.Changed(d.id)
		_ = l.conn.CloseWithError(wire.CloseInternal, "test")
		select {
		case <-back: // HubBack wakes whoever waits to reach the device
		case <-time.After(patience):
			t.Fatal("not connected again")
		}
		if r := b.registry.Routes(d.id); len(r) != 1 || r[0].Hub != a.id {
			t.Fatalf("routes %v", r)
		}
		open(t, b, a.id, d, 0, edge)
	}
}

func TestAHubNewToTheClusterIsUsedAtOnceAndARemovedOneNoMore(t *testing.T) {
	w := newWorld(t)
	a, b := w.hub(1), w.hub(2)
	d := w.device(1)
	d.register(t, a, 0)
	b.at(t, d.id, a.id)
	c := w.hub(3)
	c.at(t, d.id, a.id)
	w.update(func() { w.listed = w.listed[1:] }) // a is no longer of the cluster
	b.at(t, d.id)
	c.at(t, d.id)
	if s := b.mesh.HubStatus(a.id); s.State != wire.HubUnknown {
		t.Errorf("status %+v", s)
	}
}

func TestADeviceThatIsNotKnownYetWaits(t *testing.T) {
	w := newWorld(t)
	a, b := w.hub(1), w.hub(2)
	d := w.device(1)
	key := w.keys[d.id]
	w.update(func() { delete(w.keys, d.id) })
	d.register(t, a, 0)
	b.up(t, a)
	if i := b.incident(t, UnknownDevice); i.Device != d.id || i.Peer != a.id {
		t.Errorf("incident %+v", i)
	}
	w.update(func() { w.keys[d.id] = key })
	b.at(t, d.id, a.id)
}

// When both dial at the same moment, one connection stays, the same at both ends, and nothing else ends.
func TestOfTwoConnectionsTheLowerUUIDsStays(t *testing.T) {
	for range 10 {
		w := newWorld(t)
		a, b := w.hub(1), w.hub(2)
		a.up(t, b)
		b.up(t, a)
		// b dials, as if it did not know.
		p := b.mesh.peer(a.id)
		kept := a.mesh.peer(b.id).current()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		c, err := p.dial(ctx)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		b.mesh.serve(t.Context(), c, true) // returns when it is refused
		if !kept.byLower {
			continue // a was slow, and b had dialled first: then nothing forbids the newer
		}
		if got := a.mesh.peer(b.id).current(); got != kept || kept.conn.Context().Err() != nil {
			t.Fatal("the connection that stays was replaced")
		}
		a.stop()
		b.stop()
	}
}

func (w *world) deviceCredential(d *device) tls.Certificate {
	w.t.Helper()
	chain, _, err := w.set.IssueDevice(ca.DeviceRequest{
		UUID: d.id.String(), Name: "gw-1", Key: d.key.Public().(ed25519.PublicKey), TTL: time.Hour, Now: time.Now(),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return tls.Certificate{Certificate: chain, PrivateKey: d.key}
}

func (w *world) checkDevice(cs tls.ConnectionState, d *device) error {
	trust := w.set.Trust(1)
	id, err := ca.VerifyPeer(cs.PeerCertificates, &trust, time.Now())
	if err == nil && (id.Role != ca.RoleDevice || id.UUID != d.id.String()) {
		err = errors.New("not the device")
	}
	return err
}

func serverTLS(cert tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true, VerifyConnection: func(tls.ConnectionState) error { return nil }}
}

func BenchmarkRelay(b *testing.B) {
	w := newWorld(b)
	home, entry := w.hub(1), w.hub(2)
	d := w.device(1)
	hub, edge := tunneltest.Pair(b)
	tu := d.tunnelAt(home.id, 0)
	tu.Conn = hub
	if _, err := home.registry.Register(tu, time.Now()); err != nil {
		b.Fatal(err)
	}
	entry.at(b, d.id, home.id)
	s, e := open(b, entry, home.id, d, 0, edge)
	block := make([]byte, 32<<10)
	b.SetBytes(int64(len(block)))
	var wg sync.WaitGroup
	wg.Go(func() {
		for range b.N {
			if _, err := e.Write(block); err != nil {
				b.Error(err)
				return
			}
		}
		_ = e.CloseWrite()
	})
	b.ResetTimer()
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{s}); err != nil {
		b.Fatal(err)
	}
	wg.Wait()
}

// What an idle stream of another hub's costs the home hub, its two carriers aside.
func TestIdleRelaysAreSmall(t *testing.T) {
	const streams = 100
	w := newWorld(t)
	home, entry := w.hub(1), w.hub(2)
	d := w.device(1)
	_, edge := d.register(t, home, 0)
	entry.at(t, d.id, home.id)
	measure := func() int {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc + m.StackInuse)
	}
	before := measure()
	for range streams {
		open(t, entry, home.id, d, 0, edge)
	}
	per := (measure() - before) / streams
	t.Logf("%d bytes for each, with both ends of both carriers", per)
	if per > 64<<10 {
		t.Errorf("%d bytes", per)
	}
}
