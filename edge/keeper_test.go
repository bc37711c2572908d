package edge

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hawser/auth/ca"
	"hawser/auth/grant"
	"hawser/auth/hublist"
	"hawser/tunnel"
	"hawser/tunnel/channel"
	"hawser/tunnel/channel/payload"
	"hawser/tunnel/identity"
	"hawser/tunnel/resume"
	"hawser/tunnel/wire"
)

// testPath is the way to a hub, both carriers on one port. What flows on it can be stopped, without a word to either end.
type testPath struct {
	address string
	udp     *net.UDPConn
	tcp     net.Listener
	hub     string

	noUDP, noTCP atomic.Bool  // nothing passes
	generation   atomic.Int32 // flows of an earlier one are dead

	wg sync.WaitGroup
	mu sync.Mutex
	// closers are what ends with the test.
	closers []io.Closer
	closed  bool
}

func newTestPath(t *testing.T, hub string) *testPath {
	t.Helper()
	p := &testPath{hub: hub}
	var err error
	for range 20 {
		if p.udp, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
			t.Fatal(err)
		}
		if p.tcp, err = net.Listen("tcp4", p.udp.LocalAddr().String()); err == nil {
			break
		}
		p.udp.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	p.address = p.udp.LocalAddr().String()
	p.keep(p.udp)
	p.keep(p.tcp)
	p.wg.Go(p.passUDP)
	p.wg.Go(func() {
		for {
			in, err := p.tcp.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.passTCP(in) })
		}
	})
	t.Cleanup(func() {
		p.mu.Lock()
		p.closed = true
		for _, c := range p.closers {
			c.Close()
		}
		p.mu.Unlock()
		p.wg.Wait()
	})
	return p
}

// keep closes c with the test; false: at once.
func (p *testPath) keep(c io.Closer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		c.Close()
		return false
	}
	p.closers = append(p.closers, c)
	return true
}

// cut kills the flows there are; new ones work.
func (p *testPath) cut() { p.generation.Add(1) }

func (p *testPath) passUDP() {
	type flow struct {
		out        *net.UDPConn
		generation int32
	}
	flows := map[netip.AddrPort]*flow{}
	to, _ := net.ResolveUDPAddr("udp4", p.hub)
	b := make([]byte, 1<<16)
	for {
		n, from, err := p.udp.ReadFromUDPAddrPort(b)
		if err != nil {
			return
		}
		if p.noUDP.Load() {
			continue
		}
		f := flows[from]
		if f == nil {
			out, err := net.DialUDP("udp4", nil, to)
			if err != nil || !p.keep(out) {
				continue
			}
			f = &flow{out, p.generation.Load()}
			flows[from] = f
			p.wg.Go(func() {
				b := make([]byte, 1<<16)
				for {
					n, err := out.Read(b)
					if err != nil {
						return
					}
					if f.generation == p.generation.Load() && !p.noUDP.Load() {
						p.udp.WriteToUDPAddrPort(b[:n], from)
					}
				}
			})
		}
		if f.generation == p.generation.Load() {
			f.out.Write(b[:n])
		}
	}
}

func (p *testPath) passTCP(in net.Conn) {
	if !p.keep(in) || p.noTCP.Load() {
		return // it hangs
	}
	out, err := net.Dial("tcp4", p.hub)
	if err != nil || !p.keep(out) {
		in.Close()
		return
	}
	generation := p.generation.Load()
	var wg sync.WaitGroup
	for _, d := range [][2]net.Conn{{in, out}, {out, in}} {
		wg.Go(func() {
			b := make([]byte, 1<<14)
			for {
				n, err := d[0].Read(b)
				if p.noTCP.Load() || generation != p.generation.Load() {
					return // nobody is told
				}
				if err != nil {
					d[1].Close()
					return
				}
				d[1].Write(b[:n])
			}
		})
	}
	wg.Wait()
}

// testMesh is a cluster of hubs that a device reaches by paths of its own, and which close the older tunnel of a slot.
type testMesh struct {
	t     *testing.T
	hubs  []*testHub
	paths map[*testHub]*testPath
	all   chan *testConn // registrations, wherever

	mu   sync.Mutex
	tell []byte // the signed list
	held map[uint8]*testConn
}

func newTestMesh(t *testing.T, zones ...string) *testMesh {
	t.Helper()
	m := &testMesh{t: t, paths: map[*testHub]*testPath{}, all: make(chan *testConn, 64), held: map[uint8]*testConn{}}
	set, err := ca.NewSet(testCluster, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	list := hublist.List{Cluster: testCluster, Revision: 1, Window: 100 * time.Millisecond}
	for i, zone := range zones {
		h := newTestHubOf(t, set)
		p := newTestPath(t, h.address)
		h.address = p.address // what tokens and lists name
		h.before, h.detachedLife = m.register, time.Minute
		m.hubs, m.paths[h] = append(m.hubs, h), p
		list.Hubs = append(list.Hubs, hublist.Hub{UUID: h.uuid, Name: fmt.Sprintf("hub-%d", i+1), Zone: zone, Tunnel: []string{p.address}})
	}
	if m.tell, err = hublist.Sign(list, set.GrantKey()); err != nil {
		t.Fatal(err)
	}
	return m
}

// register is what hubs do with a registration: the list first, and the slot's older tunnel is closed.
func (m *testMesh) register(c *testConn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old := m.held[c.register.Slot]; old != nil && old.register.Incarnation == c.register.Incarnation {
		if old.register.Counter >= c.register.Counter {
			m.t.Errorf("slot %d: counter %d came after %d", c.register.Slot, c.register.Counter, old.register.Counter)
		}
		go old.conn.CloseWithError(wire.CloseSuperseded, "a newer tunnel")
	}
	m.held[c.register.Slot] = c
	_ = tunnel.Send(c.conn, wire.HubList{Blob: m.tell})
	m.all <- c
}

// next is the next registration of a slot; others are passed over.
func (m *testMesh) next(slot uint8) *testConn {
	m.t.Helper()
	late := time.After(20 * time.Second)
	for {
		select {
		case c := <-m.all:
			if c.register.Slot == slot {
				return c
			}
		case <-late:
			m.t.Fatalf("no registration in slot %d within 20 s", slot)
		}
	}
}

// none fails the test if anything registers in slot within d.
func (m *testMesh) none(slot uint8, d time.Duration) {
	m.t.Helper()
	end := time.After(d)
	for {
		select {
		case c := <-m.all:
			if c.register.Slot == slot {
				m.t.Fatalf("slot %d registered again, by %v", slot, c.conn.Carrier())
			}
		case <-end:
			return
		}
	}
}

// shell is a session that is spoken to line by line.
type shell struct {
	t  testing.TB
	st *resume.Stream
	ch channel.Channel
}

func newShell(c *testConn) *shell {
	c.hub.t.Helper()
	s := openShell(c)
	s.exec()
	return s
}

func openShell(c *testConn) *shell {
	c.hub.t.Helper()
	st := c.open(wire.KindSession, wire.OpenRequest{Grant: c.grant(grant.Session, func(g *grant.Grant) { g.DetachedLife = time.Minute }), Window: 1 << 20}, nil)
	s := &shell{c.hub.t, st, channel.New(st, channel.Options{Window: 1 << 20})}
	c.hub.t.Cleanup(func() { s.ch.Close() })
	go func() {
		for r := range s.ch.Requests() {
			r.Reply(false)
		}
	}()
	return s
}

func (s *shell) exec() {
	s.t.Helper()
	if ok, err := s.ch.SendRequest("exec", true, payload.Exec{Command: "cat"}.Marshal()); err != nil || !ok {
		s.t.Fatal(ok, err)
	}
}

// say writes a line and waits for its echo.
func (s *shell) say(text string) {
	s.t.Helper()
	if _, err := io.WriteString(s.ch, text+"\n"); err != nil {
		s.t.Fatal(err)
	}
	b := make([]byte, len(text)+1)
	if _, err := io.ReadFull(s.ch, b); err != nil || string(b) != text+"\n" {
		s.t.Fatalf("%q, %v; want %q", b, err, text)
	}
}

// follow resumes the session over another tunnel, as its entry hub does.
func (s *shell) follow(c *testConn) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	select { // the hub has seen the older tunnel end
	case <-s.st.Detached():
	case <-ctx.Done():
		s.t.Fatal("the session is still on its old tunnel")
	}
	att, err := c.conn.OpenStream(ctx)
	if err == nil {
		err = s.st.Resume(ctx, att)
	}
	if err != nil {
		s.t.Fatalf("resume: %v", err)
	}
}

func (m *testMesh) start(cfg Config) *Agent {
	m.t.Helper()
	if cfg.Token == "" {
		cfg.Token, cfg.Name = m.hubs[0].token("edge"), "gw-1"
	}
	a, _ := m.hubs[0].start(cfg)
	return a
}

func TestTwoTunnelsAtTwoHubsAndOneServesWithoutTheOther(t *testing.T) {
	t.Parallel()
	m := newTestMesh(t, "a", "a", "b")
	m.start(Config{})
	first := m.next(slotActive)
	if first.conn.Carrier() != tunnel.CarrierQUIC {
		t.Errorf("the active tunnel is on %v", first.conn.Carrier())
	}
	standby := m.next(slotStandby)
	if standby.conn.Carrier() != tunnel.CarrierTLS || standby.hub == first.hub {
		t.Errorf("the standby is on %v at the same hub: %v", standby.conn.Carrier(), standby.hub == first.hub)
	}
	if first.hub != m.hubs[2] && standby.hub != m.hubs[2] {
		t.Error("both tunnels are in one zone")
	}
	s := newShell(first)
	s.say("one")
	m.paths[first.hub].noUDP.Store(true)
	m.paths[first.hub].noTCP.Store(true)
	first.conn.CloseWithError(wire.CloseNormal, "crash") // the hub's end; the edge hears nothing
	standbyShell := newShell(standby)
	standbyShell.say("two")
	again := m.next(slotActive)
	if again.hub == first.hub || again.register.Counter <= first.register.Counter {
		t.Errorf("came back to the dead hub: %v, with counter %d", again.hub == first.hub, again.register.Counter)
	}
	standbyShell.say("three")
}

func TestADrainMovesTheTunnelBeforeItEnds(t *testing.T) {
	t.Parallel()
	m := newTestMesh(t, "", "", "")
	m.start(Config{NoStandby: true})
	first := m.next(slotActive)
	if err := tunnel.Send(first.conn, wire.GoAway{Code: wire.CloseDrain, Reason: "upgrade", Deadline: time.Minute}); err != nil {
		t.Fatal(err)
	}
	second := m.next(slotActive)
	if second.hub == first.hub {
		t.Error("came back to the hub that goes away")
	}
	newShell(second).say("moved")
	second.conn.CloseWith(&wire.CloseError{Code: wire.CloseUnavailable, Reason: "no auth"})
	third := m.next(slotActive)
	if third.hub == second.hub || third.hub == first.hub {
		t.Error("did not take the one hub that neither goes away nor lacks auth")
	}
}

func TestADeviceReturnsToTheHubItRanksFirst(t *testing.T) {
	t.Parallel()
	m := newTestMesh(t, "a", "b", "c")
	a := m.start(Config{Reprobe: 300 * time.Millisecond})
	at := m.next(slotActive)
	eventually(t, "the agent holds the list of hubs", func() bool { return a.hubList().Revision == 1 })
	list, err := hublist.Open(m.tell, []ed25519.PublicKey{m.hubs[0].set.GrantKey().Public().(ed25519.PublicKey)}, testCluster)
	if err != nil {
		t.Fatal(err)
	}
	first := wire.UUID(hublist.Order(list, at.register.UUID)[0].UUID)
	for at.hub.uuid != first { // it joined by the address of another
		at = m.next(slotActive)
	}
	eventually(t, "the agent knows that it is there", func() bool {
		l := a.keepers[slotActive].current.Load()
		return l != nil && l.challenge.HubUUID == first
	})
	path := m.paths[at.hub]
	path.noUDP.Store(true)
	path.noTCP.Store(true)
	at.conn.CloseWithError(wire.CloseNormal, "crash")
	if fled := m.next(slotActive); fled.hub.uuid == first {
		t.Fatal("came back to the dead hub")
	}
	path.noUDP.Store(false)
	path.noTCP.Store(false)
	for m.next(slotActive).hub.uuid != first { // until it has noticed, it may try in vain
	}
	m.none(slotActive, time.Second)
}

func TestASessionOnADeadQUICPathMovesToAnother(t *testing.T) {
	t.Parallel()
	m := newTestMesh(t, "")
	m.start(Config{})
	c := m.next(slotActive)
	s := newShell(c)
	s.say("before")
	was := c.conn.RemoteAddr()
	start := time.Now()
	m.paths[c.hub].cut()
	s.say("after") // on the same tunnel by a fresh path, or on the next
	if d := time.Since(start); d > 4*time.Second {
		t.Errorf("the session stood still for %v", d)
	}
	if c.conn.Context().Err() == nil && c.conn.RemoteAddr() == was {
		t.Error("nothing moved")
	}
}

func TestASessionWithoutUDPGoesOnOverTLSAndReturnsToQUICOnce(t *testing.T) {
	t.Parallel()
	m := newTestMesh(t, "")
	m.start(Config{Reprobe: 300 * time.Millisecond})
	c := m.next(slotActive)
	s := newShell(c)
	s.say("quic")
	start := time.Now()
	m.paths[c.hub].noUDP.Store(true)
	c = m.next(slotActive)
	if d := time.Since(start); c.conn.Carrier() != tunnel.CarrierTLS || d > 4500*time.Millisecond {
		t.Fatalf("after %v on %v", d, c.conn.Carrier())
	}
	s.follow(c)
	s.say("tls")
	m.paths[c.hub].noUDP.Store(false)
	c = m.next(slotActive)
	if c.conn.Carrier() != tunnel.CarrierQUIC {
		t.Fatalf("came back by %v", c.conn.Carrier())
	}
	s.follow(c)
	s.say("quic again")
	m.paths[c.hub].noUDP.Store(true)
	if c = m.next(slotActive); c.conn.Carrier() != tunnel.CarrierTLS {
		t.Fatalf("on %v without UDP", c.conn.Carrier())
	}
	s.follow(c)
	m.paths[c.hub].noUDP.Store(false)
	s.say("tls again")
	m.none(slotActive, 3*time.Second) // ten minutes, if it were to wait
	s.say("still there")
}

func TestASessionOnADeadTLSConnectionGetsAnotherBesideIt(t *testing.T) {
	t.Parallel()
	m := newTestMesh(t, "")
	m.start(Config{Carriers: OnlyTLS})
	c := m.next(slotActive)
	s := newShell(c)
	s.say("before")
	start := time.Now()
	m.paths[c.hub].cut()
	next := m.next(slotActive)
	if d := time.Since(start); d > 4*time.Second {
		t.Errorf("a new tunnel after %v", d)
	}
	s.follow(next)
	s.say("after")
	m.none(slotActive, 2*time.Second)
	s.say("and later")
}

func TestAMeteredDeviceIdlesOnTLSAndServesOnQUIC(t *testing.T) {
	t.Parallel()
	m := newTestMesh(t, "", "")
	a := m.start(Config{Metered: true})
	c := m.next(slotActive)
	if c.conn.Carrier() != tunnel.CarrierTLS {
		t.Fatalf("idles on %v", c.conn.Carrier())
	}
	m.none(slotStandby, time.Second)
	s := openShell(c)
	c = m.next(slotActive)
	if c.conn.Carrier() != tunnel.CarrierQUIC {
		t.Fatalf("serves on %v", c.conn.Carrier())
	}
	s.follow(c)
	s.exec()
	s.say("quic")
	k := a.keepers[slotActive]
	idle := &keeper{a: &Agent{cfg: a.cfg, streams: newStreams(nil, 1)}}
	idle.current.Store(k.current.Load())
	now := time.Now()
	idle.used, idle.home = now, now.Add(time.Hour) // which hub is no matter here
	if p := idle.goal(now.Add(meteredLinger - time.Second)); p != forNothing {
		t.Errorf("just after the last stream: %d", p)
	}
	if p := idle.goal(now.Add(meteredLinger)); p != forTLS {
		t.Errorf("a minute after the last stream: %d", p)
	}
}

func TestQUICIsTriedAgainAtGrowingIntervalsAndReturnsOnceInTenMinutes(t *testing.T) {
	a := &Agent{}
	k := &keeper{a: a}
	now := time.Unix(1e9, 0)
	var at []time.Duration
	passed := time.Duration(0)
	for k.probed = range 5 {
		passed += k.probeAt(now).Sub(now)
		at = append(at, passed)
	}
	if got, want := fmt.Sprint(at), "[5m0s 15m0s 1h0m0s 2h0m0s 3h0m0s]"; got != want {
		t.Errorf("tried after %s, want %s", got, want)
	}
	k.probed = 0
	k.returned = now.Add(-time.Minute)
	if wait := k.probeAt(now).Sub(now); wait != 9*time.Minute {
		t.Errorf("a minute after a return the next try is in %v", wait)
	}
}

// An agent whose hubs do not answer dials each second while people wait, and by its back-off while none does.
func TestUrgencyDialsEachSecondWithinItsBound(t *testing.T) {
	for _, tt := range []struct {
		name     string
		streams  bool
		min, max int // rounds in the first minute
	}{{"people wait", true, 55, 62}, {"nobody waits", false, 2, 12}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &Agent{cfg: Config{Hubs: []string{"192.0.2.1:443"}}, streams: newStreams(nil, 1), rests: map[string]time.Time{}}
				for slot := range a.keepers {
					a.keepers[slot] = newKeeper(a, uint8(slot))
				}
				if tt.streams {
					a.streams.byID[wire.StreamID{1}] = &stream{kind: wire.KindSession}
				}
				k := a.keepers[slotActive]
				k.purpose, k.b.rand = forTunnel, func(n int64) int64 { return n / 2 }
				began, most := 0, 0
				start := time.Now()
				for time.Since(start) < time.Minute {
					now := time.Now()
					next := k.plan(now, func(bool) {
						began++
						_, cancel := context.WithCancel(t.Context())
						k.rounds = append(k.rounds, &round{k: k, cancel: cancel, purpose: forTunnel, urgent: tt.streams})
						most = max(most, len(k.rounds))
					})
					for len(k.rounds) >= maxRounds || len(k.rounds) > 0 && !tt.streams { // no answer, in the end
						k.finished(t.Context(), t.Context(), outcome{round: k.rounds[0], err: context.DeadlineExceeded})
						next = k.plan(now, func(bool) { t.Error("began twice at once") })
					}
					time.Sleep(max(next.Sub(now), time.Millisecond))
				}
				if began < tt.min || began > tt.max || most > maxRounds {
					t.Errorf("%d rounds in a minute, %d at once", began, most)
				}
			})
		})
	}
}

// The first packets on a path that has just come up were lost, and a lost SYN is sent again after a second: sessions stood for it.
func TestASecondRoundFollowsAChangeOfTheNetworkSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &Agent{cfg: Config{Hubs: []string{"192.0.2.1:443"}}, streams: newStreams(nil, 1), rests: map[string]time.Time{}}
		for slot := range a.keepers {
			a.keepers[slot] = newKeeper(a, uint8(slot))
		}
		a.streams.byID[wire.StreamID{1}] = &stream{kind: wire.KindSession}
		k := a.keepers[slotActive]
		k.purpose = forTunnel
		var began []time.Duration
		start := time.Now()
		k.networkChanged(nil)
		for time.Since(start) < 3*time.Second {
			next := k.plan(time.Now(), func(bool) { began = append(began, time.Since(start)) })
			time.Sleep(max(time.Until(next), time.Millisecond))
		}
		if len(began) < 4 || began[1] != freshAgain || began[2] != freshAgain+urgentEvery {
			t.Errorf("rounds began after %v", began)
		}
	})
}

// With a signed list in hand a device that had slept while every hub moved away tried nothing else, for ever.
func TestAddressesItJoinedByAreTriedAfterThoseOfTheList(t *testing.T) {
	a := &Agent{
		streams: newStreams(nil, 1), rests: map[string]time.Time{},
		state: &state{creds: &identity.Credentials{UUID: wire.UUID{1}.String(), Hubs: []string{"old.example:443", "new.example:443"}}},
		list:  hublist.List{Cluster: testCluster, Revision: 1, Hubs: []hublist.Hub{{UUID: wire.UUID{2}, Tunnel: []string{"new.example:443"}}}},
	}
	for slot := range a.keepers {
		a.keepers[slot] = newKeeper(a, uint8(slot))
	}
	if got := a.beginnings(a.ranked()); len(got) != 1 || got[0].addrs[0] != "old.example:443" {
		t.Errorf("beginnings %v", got)
	}
	for _, tt := range []struct {
		purpose purpose
		urgent  bool
		stages  int
	}{{forTunnel, false, 2}, {forTunnel, true, 1}, {forHome, false, 1}} {
		r := &round{k: a.keepers[slotActive], purpose: tt.purpose, urgent: tt.urgent}
		if got, err := r.stages(AnyCarrier, lead{}); err != nil || len(got) != tt.stages {
			t.Errorf("purpose %d, urgent %v: %d stages, %v", tt.purpose, tt.urgent, len(got), err)
		}
	}
}

// Whatever three hubs and two addresses of each are dead, the urgent rounds of a session's whole life come by every other.
func TestUrgentRoundsComeByEveryHubAndAddress(t *testing.T) {
	for hubs := 1; hubs <= 9; hubs++ {
		for addresses := 1; addresses <= 6; addresses++ {
			a := &Agent{
				streams: newStreams(nil, 1), rests: map[string]time.Time{}, resolver: newResolver(false),
				state: &state{creds: &identity.Credentials{UUID: wire.UUID{1}.String()}},
				list:  hublist.List{Cluster: testCluster, Revision: 1},
			}
			a.resolver.lookup = func(_ context.Context, _, host string) (ips []netip.Addr, err error) {
				for i := range addresses {
					ips = append(ips, netip.AddrFrom4([4]byte{10, 0, host[0], byte(i)}))
				}
				return ips, nil
			}
			for slot := range a.keepers {
				a.keepers[slot] = newKeeper(a, uint8(slot))
			}
			for i := range hubs {
				a.list.Hubs = append(a.list.Hubs, hublist.Hub{UUID: wire.UUID{2, byte(i)}, Tunnel: []string{string(rune('a'+i)) + ".example:443"}})
			}
			k, seen := a.keepers[slotActive], map[netip.AddrPort]bool{}
			for range 4 * 9 * 6 {
				r := k.round(true)
				stages, err := r.stages(OnlyQUIC, lead{})
				if err != nil || len(stages) > urgentHubs {
					t.Fatalf("%d hubs: %d at once, %v", hubs, len(stages), err)
				}
				for _, s := range stages {
					found, err := s.find(t.Context())
					if err != nil || len(found) > urgentAddresses {
						t.Fatalf("%d addresses: %d at once, %v", addresses, len(found), err)
					}
					for _, at := range found {
						seen[at.addr] = true
					}
				}
			}
			if len(seen) != hubs*addresses {
				t.Errorf("%d hubs of %d addresses: %d of them dialled", hubs, addresses, len(seen))
			}
		}
	}
}

func TestTokenAndAddressesInFilesAreReadAnewAtEachAttempt(t *testing.T) {
	h := newTestHub(t)
	dir := t.TempDir()
	tokenFile, hubFile := filepath.Join(dir, "token"), filepath.Join(dir, "hubs")
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Error(err)
		}
	}
	write(tokenFile, h.token("edge")+"\n")
	write(hubFile, "127.0.0.1:1\n")
	state := filepath.Join(dir, "state")
	h.start(Config{State: state, Token: "@" + tokenFile, Name: "gw-1", Hubs: []string{"@" + hubFile}})
	write(hubFile, "not an address\n"+h.address)
	h.next()
	if err := os.Remove(tokenFile); err != nil {
		t.Fatal(err)
	}
	a, err := New(Config{State: t.TempDir(), Token: "@" + tokenFile})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Join(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without identity and token file: %v", err)
	}
}

func TestABurstOfNetworkChangesIsToldAFewTimesAndAtItsEnd(t *testing.T) {
	var n nudges
	start := time.Unix(1e9, 0)
	told, last := 0, time.Duration(0)
	for at := time.Duration(0); at < time.Minute; at += 50 * time.Millisecond { // a storm
		if n.next(start.Add(at), false) == 0 {
			told, last = told+1, at
		}
	}
	if told < 12 || told > 16 {
		t.Errorf("told %d times in a minute", told)
	}
	at := last + 20*time.Millisecond
	wait := n.next(start.Add(at), false)
	if wait <= 0 || wait > 3*nudgeEvery || n.next(start.Add(at+wait), false) != 0 {
		t.Errorf("the last of the storm waits %v, and then is not told", wait)
	}
	at += wait
	if wait := n.next(start.Add(at+nudgeGrain), true); wait != 0 {
		t.Errorf("another network waits %v", wait)
	}
}

func TestInAStormAllHaveOneTunnelBeforeAnyHasTwo(t *testing.T) {
	now := time.Unix(1e9, 0)
	a := &Agent{}
	for slot := range a.keepers {
		a.keepers[slot] = newKeeper(a, uint8(slot))
		a.keepers[slot].b.rand = func(n int64) int64 { return n - 1 } // the longest
	}
	active, standby := a.keepers[slotActive], a.keepers[slotStandby]
	standby.next = now
	if !standby.follow(now) {
		t.Fatal("a standby is dialled while nothing serves")
	}
	active.current.Store(&link{})
	if standby.follow(now) || standby.next != now.Add(calmWindows*defaultWindow) {
		t.Fatalf("the standby is due %v after the active one, want up to %v", standby.next.Sub(now), calmWindows*defaultWindow)
	}
	if standby.follow(now.Add(time.Second)) || standby.next != now.Add(calmWindows*defaultWindow) {
		t.Fatal("its time was put off again")
	}

	active.current.Store(nil)
	standby.current.Store(&link{})
	active.next, active.calm = now.Add(calmWindows*defaultWindow), true
	if active.follow(now) || active.next != now.Add(calmWindows*defaultWindow) {
		t.Fatal("the active one hurries though the standby serves")
	}
	standby.current.Store(nil)
	if active.follow(now); active.next != now.Add(defaultWindow) {
		t.Fatalf("with both lost the active one is due in %v, want within %v", active.next.Sub(now), defaultWindow)
	}
	for w, want := range map[time.Duration]time.Duration{5 * time.Second: 20 * time.Second, 15 * time.Second: calmMost, 45 * time.Second: 45 * time.Second} {
		if a.list.Window = w; active.calmWindow() != want {
			t.Errorf("W %v: a return beside another tunnel is spread over %v, want %v", w, active.calmWindow(), want)
		}
	}
}

// A registration that was sent may be the newest that the hubs hold, however little it is wanted by the time of its answer. Once such a tunnel was closed
// as the race's loser, the tunnel that had won had been closed for it, and the device was away.
func TestATunnelThatTheHubsHoldAsTheNewestIsNeverClosed(t *testing.T) {
	t.Parallel()
	m := newTestMesh(t, "")
	path, h := m.paths[m.hubs[0]], m.hubs[0]
	register := h.before
	h.before = func(c *testConn) {
		register(c)
		if c.conn.Carrier() == tunnel.CarrierQUIC {
			time.Sleep(quicGrace - 100*time.Millisecond) // the grace for QUIC is over by then: its first packets were lost
		}
	}
	path.noUDP.Store(true)
	m.start(Config{})
	if first := m.next(slotActive); first.conn.Carrier() != tunnel.CarrierTLS {
		t.Fatal("UDP passes")
	}
	path.noUDP.Store(false)
	late := m.next(slotActive)
	if late.conn.Carrier() != tunnel.CarrierQUIC {
		t.Fatal("not QUIC")
	}
	m.none(slotActive, 5*time.Second)
	if err := late.conn.Context().Err(); err != nil {
		t.Errorf("the newest tunnel was closed: %v", context.Cause(late.conn.Context()))
	}
}

func TestNothingRegistersAfterTheWinnerButQUICAfterTLSAndOnce(t *testing.T) {
	k := newKeeper(&Agent{}, slotActive)
	first := &round{k: k}
	second := &round{k: k}
	if first.mayRegister(tunnel.CarrierTLS) != nil || second.mayRegister(tunnel.CarrierQUIC) != nil {
		t.Error("with no winner, somebody may not")
	}
	k.winner.Store(first) // on TLS
	if first.mayRegister(tunnel.CarrierTLS) == nil || first.mayRegister(tunnel.CarrierQUIC) != nil || second.mayRegister(tunnel.CarrierQUIC) == nil {
		t.Error("after TLS has won only its round's QUIC may")
	}
	first.quic = true
	if first.mayRegister(tunnel.CarrierQUIC) == nil {
		t.Error("QUIC may twice, or where it is not to replace TLS")
	}
}

func TestAHubThatSendsAwayWhoeverComesIsNotAskedAllTheTime(t *testing.T) {
	t.Parallel()
	m := newTestMesh(t, "")
	h := m.hubs[0]
	register := h.before
	h.before = func(c *testConn) {
		register(c)
		_ = tunnel.Send(c.conn, wire.GoAway{Code: wire.CloseDrain, Reason: "go", Deadline: time.Minute})
	}
	m.start(Config{})
	n := 0
	for end := time.After(4 * time.Second); ; n++ {
		select {
		case <-m.all:
			continue
		case <-end:
		}
		break
	}
	if n < 1 || n > 5 {
		t.Errorf("%d registrations in 4 s", n)
	}
}
