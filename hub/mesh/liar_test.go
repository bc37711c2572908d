package mesh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"hawser/hub/registry"
	"hawser/tunnel"
	"hawser/tunnel/inner"
	"hawser/tunnel/quicconn"
	"hawser/tunnel/wire"
)

// liar is a hub with a real credential of the cluster that says what it likes.
type liar struct {
	t    testing.TB
	id   wire.UUID
	inc  wire.Incarnation
	conn quicconn.Peer
	cert tls.Certificate
	l    *quicconn.Listener
	to   *node
}

func (w *world) liar(victim *node) *liar {
	w.t.Helper()
	x := &liar{t: w.t, id: wire.UUID{0xEE}, inc: wire.NewIncarnation(), to: victim}
	x.cert = w.credential(x.id)
	x.l = w.listen(&x.cert, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	w.t.Cleanup(func() { x.l.Close() })
	w.update(func() { w.listed = append(w.listed, Hub{UUID: x.id, Name: "liar"}) }) // no address: it dials
	x.connect()
	return x
}

// connect dials until it is let in, and says a hub's hello.
func (x *liar) connect() {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(x.t.Context(), patience)
	defer cancel()
	for {
		c, err := x.l.DialPeer(ctx, x.to.listener.Addr(), x.to.w.tls(&x.cert, anyHub))
		if err == nil {
			x.conn = c
			x.send(wire.PeerHello{Version: Version, HubUUID: x.id, Cluster: cluster, Incarnation: x.inc})
			// What the victim says after its hello shows that it has let us in.
			if _, err = tunnel.Receive(ctx, c); err == nil {
				_, err = tunnel.Receive(ctx, c)
			}
		}
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			x.t.Fatalf("the victim never lets the hub in: %v", err)
		}
	}
	c := x.conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(quick.Heartbeat)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_ = c.SendHeartbeat(wire.Heartbeat{}.Append(nil))
			case <-c.Context().Done():
				return
			}
		}
	}()
	x.t.Cleanup(func() {
		_ = c.CloseWithError(wire.CloseNormal, "")
		<-done
	})
}

// dial only dials.
func (x *liar) dial() (quicconn.Peer, error) {
	return x.l.DialPeer(x.t.Context(), x.to.listener.Addr(), x.to.w.tls(&x.cert, anyHub))
}

func (x *liar) send(m wire.Message) {
	x.t.Helper()
	if err := tunnel.Send(x.conn, m); err != nil {
		x.t.Fatal(err)
	}
}

// announcement is true in all it says, if the tunnel registered at this hub.
func announcement(t *registry.Tunnel) wire.Announce {
	return wire.Announce{
		UUID: t.UUID, Incarnation: t.Incarnation, Slot: t.Slot, Counter: t.Counter, Nonce: t.Nonce, Signature: t.Signature,
		Stamp: wire.Stamp(time.Now().UnixMilli()) << 16, Since: time.Now(), Carrier: 1,
	}
}

func TestFalseAnnouncementsAreRefusedAndTold(t *testing.T) {
	for _, c := range []struct {
		name, kind string
		say        func(x *liar, d *device) []wire.Message
	}{
		{"no signature", BadSignature, func(x *liar, d *device) []wire.Message {
			a := announcement(d.tunnelAt(x.id, 0))
			a.Signature = nil
			return []wire.Message{a}
		}},
		{"a signature that is none", BadSignature, func(x *liar, d *device) []wire.Message {
			a := announcement(d.tunnelAt(x.id, 0))
			a.Signature[3] ^= 1
			return []wire.Message{a}
		}},
		{"by another key", BadSignature, func(x *liar, d *device) []wire.Message {
			_, key, _ := ed25519.GenerateKey(nil)
			other := *d
			other.key = key
			return []wire.Message{announcement(other.tunnelAt(x.id, 0))}
		}},
		{"another's nonce", BadSignature, func(x *liar, d *device) []wire.Message {
			a := announcement(d.tunnelAt(x.id, 0))
			a.Nonce[0] ^= 1
			return []wire.Message{a}
		}},
		{"registered at a third hub", BadSignature, func(x *liar, d *device) []wire.Message {
			return []wire.Message{announcement(d.tunnelAt(wire.UUID{3}, 0))}
		}},
		{"registered at the victim", BadSignature, func(x *liar, d *device) []wire.Message {
			return []wire.Message{announcement(d.tunnelAt(x.to.id, 0))}
		}},
		{"a raised counter", BadSignature, func(x *liar, d *device) []wire.Message {
			a := announcement(d.tunnelAt(x.id, 0))
			a.Counter = 1 << 40
			return []wire.Message{a}
		}},
		{"the other slot", BadSignature, func(x *liar, d *device) []wire.Message {
			a := announcement(d.tunnelAt(x.id, 0))
			a.Slot = 1
			return []wire.Message{a}
		}},
		{"a counter it went past", Replayed, func(x *liar, d *device) []wire.Message {
			old := announcement(d.tunnelAt(x.id, 1))
			end := announcement(d.tunnelAt(x.id, 1))
			return []wire.Message{end, wire.Withdraw{UUID: end.UUID, Incarnation: end.Incarnation, Slot: 1, Counter: end.Counter}, old}
		}},
		{"what it took back", Replayed, func(x *liar, d *device) []wire.Message {
			a := announcement(d.tunnelAt(x.id, 1))
			return []wire.Message{a, wire.Withdraw{UUID: a.UUID, Incarnation: a.Incarnation, Slot: 1, Counter: a.Counter}, a}
		}},
		{"a future stamp", FutureStamp, func(x *liar, d *device) []wire.Message {
			a := announcement(d.tunnelAt(x.id, 0))
			a.Stamp = wire.Stamp(time.Now().Add(time.Hour).UnixMilli()) << 16
			return []wire.Message{a}
		}},
		{"no stamp", FutureStamp, func(x *liar, d *device) []wire.Message {
			a := announcement(d.tunnelAt(x.id, 0))
			a.Stamp = 0
			return []wire.Message{a}
		}},
		{"a device that is none", UnknownDevice, func(x *liar, d *device) []wire.Message {
			_, key, _ := ed25519.GenerateKey(nil)
			return []wire.Message{announcement((&device{id: wire.UUID{0xDD}, key: key, inc: d.inc}).tunnelAt(x.id, 0))}
		}},
		{"no such slot", BadSignature, func(x *liar, d *device) []wire.Message {
			a := announcement(d.tunnelAt(x.id, 0))
			a.Slot = 7
			return []wire.Message{a}
		}},
		{"no message of hubs", BadMessage, func(*liar, *device) []wire.Message { return []wire.Message{wire.GoAway{}} }},
		{"a second hello", BadMessage, func(x *liar, _ *device) []wire.Message { return []wire.Message{wire.PeerHello{HubUUID: x.to.id}} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			v := w.hub(1)
			x := w.liar(v)
			d := w.device(1)
			tu, _ := d.register(t, v, 0)
			for _, m := range c.say(x, d) {
				x.send(m)
			}
			if i := v.incident(t, c.kind); i.Peer != x.id {
				t.Errorf("incident %+v", i)
			}
			if r := v.registry.Routes(d.id); len(r) != 1 || r[0].Tunnel != tu {
				t.Errorf("the device is now at %+v", r)
			}
			if r := v.registry.Routes(wire.UUID{0xDD}); len(r) != 0 {
				t.Errorf("a device that is none is at %+v", r)
			}
			if c.kind == BadMessage {
				<-x.conn.Context().Done()
			}
		})
	}
}

func TestGarbageOnTheControlStreamEndsTheConnection(t *testing.T) {
	w := newWorld(t)
	v := w.hub(1)
	x := w.liar(v)
	for _, garbage := range [][]byte{
		{0}, bytes.Repeat([]byte{0xFF}, 100), {0, 65, 0, 0, 0, 9}, {0, 65, 0, 0, 0, 5, 3, 0, 0, 9, 1}, wire.Announce{Slot: 1}.Append(nil)[:8],
		append([]byte{0, 65, 0, 0, 0, 8}, bytes.Repeat([]byte{3, 0, 0, 0}, 2)...),
	} {
		if err := x.conn.SendControl(garbage); err != nil {
			t.Fatal(err)
		}
		<-x.conn.Context().Done()
		x.connect() // it is let in again after a while
	}
	if i := v.incident(t, BadMessage); i.Peer != x.id {
		t.Errorf("incident %+v", i)
	}
	if n := v.mesh.Peers()[0].Refused[BadMessage]; n != 6 {
		t.Errorf("%d counted, want 6", n)
	}
}

func TestAHelloThatIsNotTheHubsOwnIsRefused(t *testing.T) {
	for _, h := range []wire.Message{
		wire.PeerHello{Version: Version, HubUUID: wire.UUID{3}, Cluster: cluster, Incarnation: wire.Incarnation{1}},
		wire.PeerHello{Version: Version, HubUUID: wire.UUID{1}, Cluster: cluster, Incarnation: wire.Incarnation{1}},
		wire.PeerHello{Version: Version, HubUUID: wire.UUID{0xEE}, Cluster: "other.example", Incarnation: wire.Incarnation{1}},
		wire.PeerHello{Version: Version, HubUUID: wire.UUID{0xEE}, Cluster: cluster},
		wire.PeerHello{HubUUID: wire.UUID{0xEE}, Cluster: cluster, Incarnation: wire.Incarnation{1}},
		wire.PeerHello{Version: Version + 1, HubUUID: wire.UUID{0xEE}, Cluster: cluster, Incarnation: wire.Incarnation{1}},
		wire.Announced{},
	} {
		t.Run(fmt.Sprintf("%+v", h), func(t *testing.T) {
			w := newWorld(t)
			v := w.hub(1)
			x := w.liar(v)
			c, err := x.dial()
			if err != nil {
				t.Fatal(err)
			}
			if err := tunnel.Send(c, h); err != nil {
				t.Fatal(err)
			}
			<-c.Context().Done()
			want := wire.CloseProtocol
			if h, ok := h.(wire.PeerHello); ok && h.Version != Version {
				want = wire.CloseUpgrade
			}
			if e, ok := errors.AsType[*wire.CloseError](context.Cause(c.Context())); !ok || e.Code != want {
				t.Errorf("closed by %v, want %v", context.Cause(c.Context()), want)
			}
			if i := v.incident(t, WrongHello); i.Peer != x.id {
				t.Errorf("incident %+v", i)
			}
		})
	}
}

func TestAHubThatIsNotOfTheListIsNotLetIn(t *testing.T) {
	w := newWorld(t)
	v := w.hub(1)
	x := w.liar(v)
	w.update(func() { w.listed = w.listed[:1] })
	<-x.conn.Context().Done()
	c, err := x.dial()
	if err == nil {
		_ = tunnel.Send(c, wire.PeerHello{Version: Version, HubUUID: x.id, Cluster: cluster, Incarnation: x.inc})
		<-c.Context().Done()
		err = context.Cause(c.Context())
	}
	if e, ok := errors.AsType[*wire.CloseError](err); !ok || e.Code != wire.CloseUnavailable {
		t.Errorf("closed by %v", err)
	}
}

// head opens a stream at the victim and says this first.
func (x *liar) head(msgs ...wire.Message) tunnel.Stream {
	x.t.Helper()
	s, err := x.conn.OpenStream(x.t.Context())
	if err != nil {
		x.t.Fatal(err)
	}
	var b []byte
	for _, m := range msgs {
		b = m.Append(b)
	}
	if _, err := s.Write(b); err != nil {
		x.t.Fatal(err)
	}
	return s
}

func TestStreamsThatAreNotAsTheyMustBeAreRefused(t *testing.T) {
	w := newWorld(t)
	v, third := w.hub(1), w.hub(2)
	x := w.liar(v)
	d, far := w.device(1), w.device(2)
	d.register(t, v, 0)
	far.register(t, third, 0)
	v.at(t, far.id, third.id)
	good := wire.Attach{Kind: wire.KindSession, ID: wire.NewStreamID(), EntryHub: x.id, EntryHubIncarnation: x.inc, InnerTLS: true}
	with := func(f func(*wire.Attach)) wire.Attach {
		a := good
		f(&a)
		return a
	}
	for _, c := range []struct {
		name string
		code wire.StreamCode
		kind string // of the incident; empty: none, for it happens to the honest
		head []wire.Message
	}{
		{"unknown device", wire.StreamNotFound, "", []wire.Message{wire.PeerOpen{Device: wire.UUID{9}}, good}},
		{"device at another hub: no second hop", wire.StreamNotFound, "", []wire.Message{wire.PeerOpen{Device: far.id}, good}},
		{"another entry hub", wire.StreamDenied, WrongEntryHub, []wire.Message{wire.PeerOpen{Device: d.id}, with(func(a *wire.Attach) { a.EntryHub = third.id })}},
		{"the home hub as entry hub", wire.StreamDenied, "", []wire.Message{wire.PeerOpen{Device: d.id}, with(func(a *wire.Attach) { a.EntryHub, a.EntryHubIncarnation = v.id, v.inc })}},
		{"another incarnation", wire.StreamDenied, "", []wire.Message{wire.PeerOpen{Device: d.id}, with(func(a *wire.Attach) { a.EntryHubIncarnation[0] ^= 1 })}},
		{"no inner TLS", wire.StreamDenied, BadOpen, []wire.Message{wire.PeerOpen{Device: d.id}, with(func(a *wire.Attach) { a.InnerTLS = false })}},
		{"a resumption outside", wire.StreamDenied, "", []wire.Message{wire.PeerOpen{Device: d.id}, with(func(a *wire.Attach) { a.Counter = 2 })}},
		{"an opening outside", wire.StreamDenied, "", []wire.Message{wire.PeerOpen{Device: d.id}, with(func(a *wire.Attach) { a.Open = []byte{1} })}},
		{"no PeerOpen", wire.StreamProtocol, "", []wire.Message{good, good}},
		{"no Attach", wire.StreamProtocol, "", []wire.Message{wire.PeerOpen{Device: d.id}, wire.PeerOpen{Device: d.id}}},
		{"a head too long", wire.StreamProtocol, "", []wire.Message{wire.PeerOpen{Device: d.id}, with(func(a *wire.Attach) { a.Open = make([]byte, 9000) })}},
	} {
		s := x.head(c.head...)
		if _, err := s.Read(make([]byte, 1)); !isCode(err, c.code) {
			t.Errorf("%s: %v, want %v", c.name, err, c.code)
		}
		if c.kind != "" {
			if i := v.incident(t, c.kind); i.Peer != x.id {
				t.Errorf("%s: %+v", c.name, i)
			}
		}
	}
	stats := v.mesh.Peers()
	refused := stats[len(stats)-1].Refused
	for _, s := range stats {
		if s.Hub.UUID == x.id {
			refused = s.Refused
		}
	}
	if refused[WrongEntryHub] != 3 || refused[BadOpen] != 6 {
		t.Errorf("counted %v", refused)
	}
}

func TestAFloodOfFalseAnnouncementsEndsInABan(t *testing.T) {
	w := newWorld(t)
	v := w.hub(1)
	x := w.liar(v)
	d := w.device(1)
	d.register(t, v, 0)
	a := announcement(d.tunnelAt(wire.UUID{3}, 0))
	for range 100 * refusalBurst {
		if tunnel.Send(x.conn, a) != nil {
			break
		}
	}
	<-x.conn.Context().Done()
	v.incident(t, BadSignature)
	if i := v.incident(t, AnnounceFlood); i.Peer != x.id {
		t.Errorf("incident %+v", i)
	}
	if n := v.mesh.Peers()[0].Refused[BadSignature]; n > 2*refusalBurst {
		t.Errorf("%d were judged", n)
	}
	x.connect() // not for ever
}

func TestAFloodOfUnknownDevicesIsHeldInBounds(t *testing.T) {
	w := newWorld(t)
	v := w.hub(1)
	x := w.liar(v)
	_, key, _ := ed25519.GenerateKey(nil)
	for n := range maxPending + 500 {
		d := &device{id: wire.UUID{0xDD, byte(n), byte(n >> 8)}, key: key, inc: wire.Incarnation{1}}
		a := announcement(&registry.Tunnel{UUID: d.id, Incarnation: d.inc, Counter: 1, Signature: make([]byte, 64)})
		x.send(a)
	}
	x.send(wire.Announced{})
	v.incident(t, UnknownDevice)
	l := v.mesh.peer(x.id).current()
	l.pendingMu.Lock()
	n := len(l.pending)
	l.pendingMu.Unlock()
	if n > maxPending {
		t.Errorf("%d announcements wait", n)
	}
	if s := v.registry.Stats(); s.Devices != 0 {
		t.Errorf("%+v in the registry", s)
	}
}

func TestAFloodOfStreamsIsRefusedAndTheHubServesOn(t *testing.T) {
	w := newWorld(t)
	v, b := w.hub(1), w.hub(2)
	x := w.liar(v)
	d := w.device(1)
	_, edge := d.register(t, v, 0)
	b.at(t, d.id, v.id)
	var all []tunnel.Stream
	for range maxOpening + 200 { // their heads never come
		s, err := x.conn.OpenStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write([]byte{0}); err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	if i := v.incident(t, StreamFlood); i.Peer != x.id {
		t.Errorf("incident %+v", i)
	}
	open(t, b, v.id, d, 0, edge)
	shortage := 0
	for _, s := range all {
		if _, err := s.Read(make([]byte, 1)); isCode(err, wire.StreamResourceShortage) {
			shortage++
		} else if !isCode(err, wire.StreamProtocol) {
			t.Fatal(err)
		}
	}
	if shortage != 200 {
		t.Errorf("%d were refused, want 200", shortage)
	}
}

// A lying home hub has the device's tunnel and what the entry hub sends. It changes, cuts short, repeats, or answers itself: the entry
// hub reads nothing that the device did not write to it.
func TestALyingHomeHubCanOnlyEndAStream(t *testing.T) {
	w := newWorld(t)
	v := w.hub(1)
	x := w.liar(v)
	d := w.device(1)
	x.send(announcement(d.tunnelAt(x.id, 0)))
	v.at(t, d.id, x.id)
	deviceCert := w.deviceCredential(d)
	check := func(cs tls.ConnectionState) error { return w.checkDevice(cs, d) }

	// relay serves one stream of the victim's: the device at the far end of pipe is real, and tamper changes what it writes.
	for _, c := range []struct {
		name   string
		serve  func(s tunnel.Stream)
		hello  bool // the handshake is left alone
		reads  string
		failed error
	}{
		{name: "answers as itself", serve: func(s tunnel.Stream) {
			_, _, err := inner.Server(t.Context(), s, &tls.Config{Certificates: []tls.Certificate{x.cert}, InsecureSkipVerify: true,
				VerifyConnection: func(tls.ConnectionState) error { return nil }})
			if err == nil {
				t.Error("the entry hub took a hub for the device")
			}
		}},
		{name: "changes a byte", hello: true, serve: func(s tunnel.Stream) {
			in, _, err := inner.Server(t.Context(), &tampered{Stream: s, after: true}, serverTLS(deviceCert))
			if err == nil {
				_, _ = in.Write([]byte("from the device"))
				s.(interface{ CloseWrite() error }).CloseWrite()
			}
		}},
		{name: "cuts short", hello: true, reads: "from the device", serve: func(s tunnel.Stream) {
			in, _, err := inner.Server(t.Context(), s, serverTLS(deviceCert))
			if err == nil {
				_, _ = in.Write([]byte("from the device"))
				_ = s.CloseWrite() // without close_notify
			}
		}},
		{name: "repeats", hello: true, reads: "from the device", serve: func(s tunnel.Stream) {
			r := &tampered{Stream: s, twice: true}
			in, _, err := inner.Server(t.Context(), r, serverTLS(deviceCert))
			if err == nil {
				r.on = true
				_, _ = in.Write([]byte("from the device"))
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			done := make(chan struct{})
			go func() {
				defer close(done)
				s, err := x.conn.AcceptStream(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				if _, _, _, err := readHead(s); err != nil {
					t.Error(err)
				}
				c.serve(s)
			}()
			s, err := v.mesh.Open(t.Context(), x.id, d.id, 0)
			if err != nil {
				t.Fatal(err)
			}
			in, err := inner.Client(t.Context(), s, v.attach(), &tls.Config{Certificates: []tls.Certificate{v.cert}, InsecureSkipVerify: true, VerifyConnection: check})
			if !c.hello {
				if err == nil {
					t.Fatal("the handshake went through")
				}
				<-done
				return
			}
			var got []byte
			if err == nil {
				b := make([]byte, 100)
				for err == nil {
					var n int
					n, err = in.Read(b)
					got = append(got, b[:n]...)
				}
			}
			if err == nil || string(got) != c.reads {
				t.Errorf("read %q, %v; want %q and an error", got, err, c.reads)
			}
			if err != nil && err.Error() == "EOF" {
				t.Error("a cut stream looks like one that ended")
			}
			s.Reset(wire.StreamCancelled)
			<-done
		})
	}
}

// tampered changes what is written through it.
type tampered struct {
	tunnel.Stream
	after, twice, on bool
	writes           int
}

func (s *tampered) Write(b []byte) (int, error) {
	s.writes++
	if s.after && s.writes > 1 { // after the handshake's flight
		b = bytes.Clone(b)
		b[len(b)-1] ^= 1
	}
	if s.twice && s.on {
		_, _ = s.Stream.Write(b)
	}
	return s.Stream.Write(b)
}

// What a stream between hubs may begin with is read before anything is known of it.
func FuzzHead(f *testing.F) {
	good := wire.Attach{Kind: wire.KindSession, EntryHub: wire.UUID{1}, InnerTLS: true}.Append(wire.PeerOpen{Device: wire.UUID{2}, Slot: 1}.Append(nil))
	f.Add(good)
	f.Add(good[:20])
	f.Add(append([]byte{0, 68, 0, 0, 0xFF, 0xFF}, good...))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		open, attach, raw, err := readHead(r)
		if err != nil {
			return
		}
		if len(raw) > maxHead || len(b)-r.Len() > 2*maxHead {
			t.Errorf("read %d bytes", len(b)-r.Len())
		}
		if again, err := wire.DecodeAttach(raw); err != nil || again.ID != attach.ID {
			t.Errorf("what is passed on is not what was judged: %v", err)
		}
		_ = open
	})
}
