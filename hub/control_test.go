package hub

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hawser/auth/api"
	"hawser/auth/grant"
	"hawser/auth/seal"
	"hawser/recorder"
	"hawser/tunnel"
	"hawser/tunnel/resume"
	"hawser/tunnel/wire"
)

// controlAt is a control stream as the device has it.
type controlAt struct {
	*resume.Stream
	t *testing.T
}

// acceptControl takes the next stream of a tunnel, which must be a control stream: a new one, or on goes old. Tries that the hub gave up, as it
// does when the routes change, are passed over, and without old those to go on with one.
func acceptControl(t *testing.T, c tunnel.Conn, old *controlAt) controlAt {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var att tunnel.Stream
	var head wire.Attach
	for {
		var err error
		if att, err = c.AcceptStream(ctx); err != nil {
			t.Fatal(err)
		}
		if head, err = resume.ReadAttach(ctx, att); err != nil {
			if _, ok := errors.AsType[*tunnel.StreamError](err); !ok {
				t.Fatal(err)
			}
			continue
		}
		if old != nil || head.Counter == 0 {
			break
		}
		resume.Refuse(att, wire.StreamNotFound, "")
	}
	if old != nil {
		if err := old.Reattach(att, head); err != nil {
			t.Fatal(err)
		}
		return *old
	}
	if head.Kind != wire.KindControl {
		t.Fatalf("a stream of kind %v came", head.Kind)
	}
	s, err := resume.Accept(att, head, resume.Options{DetachedLife: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.End(errors.New("the test ended")) })
	return controlAt{s, t}
}

func (c controlAt) receive() wire.Message {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	m, err := tunnel.ReceiveFrom(c)
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}

func (c controlAt) send(m wire.Message) {
	c.t.Helper()
	b, err := wire.Encode(m)
	if err == nil {
		_, err = c.Write(b)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// grantOver enters a session that the device was granted over the control stream.
func grantOver(t *testing.T, h *Hub, id [16]byte) {
	t.Helper()
	h.controls.mu.Lock()
	c := h.controls.of[testUUID]
	h.controls.mu.Unlock()
	var stream *controlStream
	waitFor(t, "the control stream", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		stream = c.stream
		return stream != nil
	})
	if err := h.granted.add(id, stream, &api.SessionState{Id: id[:]}, nil); err != nil {
		t.Fatal(err)
	}
}

func (e testEdge) registerAgain(t *testing.T, h *Hub, counter uint64) tunnel.Conn {
	t.Helper()
	c, ch := e.dial(t, h, tunnel.CarrierTLS)
	e.register(t, c, ch, testUUID, counter)
	receive[*wire.Ack](t, c)
	return c
}

// A session was released with its tunnel. Now it lives as long as its control stream, whatever tunnels that has.
func TestPlacesOutliveTunnelsAndEndWithTheirControlStream(t *testing.T) {
	a, h, key := newCluster(t)
	e := a.edge(t, key, testUUID, time.Hour)
	conn := registered(t, a, h, e)
	_, release := h.holdControl(testUUID)
	defer release()
	c := acceptControl(t, conn, nil)
	c.send(wire.UploadWanted{}) // refused; and it shows that the stream stands
	one, two := [16]byte{1}, [16]byte{2}
	grantOver(t, h, one)
	grantOver(t, h, two)

	_ = conn.CloseWithError(wire.CloseNormal, "")
	h.kill(one, "while it was away")
	waitFor(t, "detached sessions", func() bool {
		s := h.granted.states(true)
		return len(s) == 2 && s[0].DetachedSinceUnixNano != 0
	})
	conn = e.registerAgain(t, h, 2)
	acceptControl(t, conn, &c)
	if k, ok := c.receive().(*wire.Kill); !ok || k.SessionID != one || k.Reason != "while it was away" {
		t.Errorf("got %+v", k)
	}
	waitFor(t, "attached sessions", func() bool { return h.granted.states(true)[0].DetachedSinceUnixNano == 0 })
	c.send(wire.Release{SessionID: one, ExitStatus: 3})
	if r := within(t, a.released, "the release"); [16]byte(r.SessionId) != one || r.ExitStatus != 3 {
		t.Errorf("released %v", r)
	}
	c.send(wire.Release{SessionID: [16]byte{9}}) // another's: nothing happens

	c.End(errors.New("the agent was restarted"))
	_ = conn.CloseWithError(wire.CloseNormal, "")
	conn = e.registerAgain(t, h, 3)
	acceptControl(t, conn, nil) // not the old one; and somebody is still there end to end
	if r := within(t, a.released, "the release of what was lost"); [16]byte(r.SessionId) != two || r.ExitStatus != -1 {
		t.Errorf("released %v", r)
	}
}

// Places that nobody would release any more stayed in the lists for the device's whole detached life.
func TestPlacesOfARemovedDeviceAreReleased(t *testing.T) {
	for _, away := range []bool{false, true} {
		a, h, key := newCluster(t)
		e := a.edge(t, key, testUUID, time.Hour)
		conn := registered(t, a, h, e)
		_, release := h.holdControl(testUUID)
		defer release()
		c := acceptControl(t, conn, nil)
		c.send(wire.UploadWanted{})
		id := [16]byte{1}
		grantOver(t, h, id)
		if away {
			_ = conn.CloseWithError(wire.CloseNormal, "")
			waitFor(t, "a detached session", func() bool { return h.granted.states(true)[0].DetachedSinceUnixNano != 0 })
		}
		begun := time.Now()
		a.mu.Lock()
		a.gone = []string{testUUID.String()}
		close(a.found)
		a.found = make(chan struct{})
		a.mu.Unlock()
		if r := within(t, a.released, "the release"); [16]byte(r.SessionId) != id {
			t.Errorf("released %v", r)
		}
		if took := time.Since(begun); took > 2*time.Second {
			t.Errorf("away %v: it took %s", away, took)
		}
		if !away {
			<-conn.Context().Done()
			if c, ok := errors.AsType[*wire.CloseError](context.Cause(conn.Context())); !ok || c.Code != wire.CloseBanned {
				t.Errorf("the tunnel ended with %v", context.Cause(conn.Context()))
			}
		}
	}
}

func TestAKillWaitsForItsDevice(t *testing.T) {
	a, h, key := newCluster(t)
	e := a.edge(t, key, testUUID, time.Hour)
	waitFor(t, "synced cache", func() bool { return h.auth.Cache.Device(testUUID) != nil })
	h.killOnDevice(testUUID, [16]byte{5}, "gone")
	conn := registered(t, a, h, e)
	// At its limit of streams the device refuses the control stream too: somebody who holds them all must not be safe from a kill.
	att, err := conn.AcceptStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := resume.ReadAttach(t.Context(), att); err != nil {
		t.Fatal(err)
	}
	resume.Refuse(att, wire.StreamResourceShortage, "too many streams")
	if k, ok := acceptControl(t, conn, nil).receive().(*wire.Kill); !ok || k.SessionID != [16]byte{5} {
		t.Errorf("got %+v", k)
	}
}

// A device that was away had dropped its control stream, and with it the kill that waited on ours.
func TestAKillOutlivesItsControlStream(t *testing.T) {
	a, h, key := newCluster(t)
	e := a.edge(t, key, testUUID, time.Hour)
	conn := registered(t, a, h, e)
	control, release := h.holdControl(testUUID)
	defer release()
	c := acceptControl(t, conn, nil)
	stream := func() *controlStream {
		control.mu.Lock()
		defer control.mu.Unlock()
		return control.stream
	}
	waitFor(t, "the control stream", func() bool { return stream() != nil })
	s := stream()
	_ = conn.CloseWithError(wire.CloseNormal, "")
	waitFor(t, "its loss", func() bool { return !s.Attached() })
	h.killOnDevice(testUUID, [16]byte{5}, "gone")
	c.End(errors.New("nobody is here end to end"))
	conn = e.registerAgain(t, h, 2)
	if k, ok := acceptControl(t, conn, nil).receive().(*wire.Kill); !ok || k.SessionID != [16]byte{5} {
		t.Errorf("got %+v", k)
	}
}

func TestWhatADeviceMaySayOnAControlStreamIsBounded(t *testing.T) {
	a, h, key := newCluster(t)
	conn := registered(t, a, h, a.edge(t, key, testUUID, time.Hour))
	_, release := h.holdControl(testUUID)
	defer release()
	c := acceptControl(t, conn, nil)
	c.send(wire.PlaceRequest{ID: 7, UserCert: []byte("no certificate")})
	if r, ok := c.receive().(*wire.PlaceReply); !ok || r.ID != 7 || r.Refusal == "" || r.Grant != nil {
		t.Errorf("got %+v", r)
	}
	c.send(wire.Renew{Counter: 1})                                     // not for this stream: ignored
	if _, err := c.Write([]byte{0xff, 0xff, 0, 0, 0, 0}); err != nil { // unknown
		t.Fatal(err)
	}
	// Beyond what the hub takes in hand at once it answers at once, and nobody waits for anybody.
	for i := range uint32(4 * maxPlaces) {
		c.send(wire.PlaceRequest{ID: 100 + i, UserCert: []byte("x")})
	}
	for range 4 * maxPlaces {
		if r, ok := c.receive().(*wire.PlaceReply); !ok || r.Refusal == "" {
			t.Errorf("got %+v", r)
		}
	}
	if _, err := c.Write([]byte{0, 15, 0xff, 0xff, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	_, err := tunnel.ReceiveFrom(c)
	if e, ok := errors.AsType[*resume.ResetError](err); !ok || e.Code != wire.StreamProtocol {
		t.Errorf("a message without end: %v", err)
	}
	acceptControl(t, conn, nil) // another, for somebody is still there
}

// uploadGrant is the grant of a session, long expired, by which a device has its recording fetched.
func uploadGrant(t *testing.T, h *Hub, id [16]byte, change func(*grant.Grant), k ed25519.PrivateKey) []byte {
	t.Helper()
	g := grant.Grant{
		Cluster: testCluster, ID: wire.NewStreamID(), SessionID: id, ConnectionID: [16]byte{4}, Kind: grant.Session, User: "alice",
		Method: "certificate", ClientAddr: netip.MustParseAddrPort("192.0.2.9:4000"), Roles: []string{"admin"}, Device: testUUID, Incarnation: [16]byte{1}, Login: "root",
		Channels: []string{"shell"}, EntryHub: h.auth.UUID(), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(-58 * time.Minute),
	}
	if change != nil {
		change(&g)
	}
	b, err := g.Sign(k)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A hub that was restarted knows no grants: the device shows its own.
func TestAnUploadOutlivesTheHubsMemory(t *testing.T) {
	a, h, key := newCluster(t)
	conn := registered(t, a, h, a.edge(t, key, testUUID, time.Hour))
	id := [16]byte{9}
	sign := func(change func(*grant.Grant), k ed25519.PrivateKey) []byte { return uploadGrant(t, h, id, change, k) }
	grantKey := a.set.GrantKey()
	good := sign(nil, grantKey)
	_, other, _ := ed25519.GenerateKey(nil)
	for name, bad := range map[string][]byte{
		"none":           nil,
		"another's":      sign(func(g *grant.Grant) { g.Device = [16]byte{8} }, grantKey),
		"another hub's":  sign(func(g *grant.Grant) { g.EntryHub = [16]byte{8} }, grantKey),
		"of another":     sign(func(g *grant.Grant) { g.SessionID = [16]byte{8} }, grantKey),
		"by nobody":      sign(nil, other),
		"not a grant":    []byte("grant"),
		"of a forward's": sign(func(g *grant.Grant) { g.Kind, g.SessionID = grant.Forwards, [16]byte{} }, grantKey),
	} {
		if err := h.mayTake(testUUID, &wire.UploadWanted{RecordingID: id, Grant: bad}); !errors.Is(err, errNotGranted) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What is sealed for auth any hub may bring there: that by which it came may be gone.
	sealed := sign(func(g *grant.Grant) { g.EntryHub, g.SealKey = [16]byte{8}, [32]byte{1} }, grantKey)
	if err := h.mayTake(testUUID, &wire.UploadWanted{RecordingID: id, Grant: sealed}); err != nil {
		t.Errorf("another hub's, sealed for auth: %v", err)
	}
	if err := tunnel.Send(conn, wire.UploadWanted{RecordingID: id, Grant: good}); err != nil {
		t.Fatal(err)
	}
	att, err := conn.AcceptStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	head, err := resume.ReadAttach(t.Context(), att)
	if err != nil || head.Kind != wire.KindUpload {
		t.Fatalf("%+v, %v", head, err)
	}
	att.Reset(wire.StreamCancelled)
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no " + what)
		}
	}
}

func FuzzControlStream(f *testing.F) {
	for _, m := range []wire.Message{wire.PlaceRequest{ID: 1}, wire.Release{}, wire.UploadWanted{Grant: []byte("g")}} {
		f.Add(m.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		for {
			m, err := tunnel.ReceiveFrom(r)
			if errors.Is(err, wire.ErrUnknownType) {
				continue
			}
			if err != nil {
				return
			}
			if _, err := wire.Encode(m); err != nil {
				t.Errorf("%T was read and cannot be sent: %v", m, err)
			}
		}
	})
}

// uploaded is an upload stream with bytes of a device in it.
type uploaded struct {
	io.Reader
	io.Writer
}

func (uploaded) SetReadDeadline(time.Time) error { return nil }

func FuzzTakeUpload(f *testing.F) {
	var whole []byte
	w := recorder.NewWriter(recorder.Header{ID: [16]byte{9}}, recorder.Options{Sink: func(_ context.Context, _ uint64, chunk []byte) error {
		whole = append(append(whole, binary.BigEndian.AppendUint32(nil, uint32(len(chunk)))...), chunk...)
		return nil
	}})
	w.Output(recorder.Stdout, []byte("hello"))
	if err := w.Close(f.Context()); err != nil {
		f.Fatal(err)
	}
	whole = append(make([]byte, seal.PublicSize), whole...)
	f.Add(whole)
	f.Add(whole[:20])
	f.Add(whole[:seal.PublicSize+20])
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		stored, closed := 0, false
		err := takeUpload(uploaded{bytes.NewReader(b), io.Discard}, func(_ []byte, chunk *api.Chunk, last bool) (taken, error) {
			if chunk == nil {
				return taken{}, nil
			}
			if closed {
				t.Error("a chunk after the last")
			}
			if n := len(chunk.Data); n == 0 || n > recorder.MaxStoredChunk {
				t.Errorf("a chunk of %d bytes", n)
			}
			stored += 4 + len(chunk.Data)
			closed = last
			return taken{next: chunk.Seq + 1}, nil
		})
		if err == nil && seal.PublicSize+stored != len(b) {
			t.Errorf("%d bytes stored of %d, and no error", stored, len(b))
		}
	})
}

// While auth hung, sixty sessions that were lost with their device took a minute to be released, one after the other, before the device had a control
// stream again.
func TestWhatWasLostIsReleasedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun, n := time.Now(), atomic.Int32{}
		releaseAll(make([][16]byte, 2*maxReleases), func([16]byte) {
			time.Sleep(time.Second) // as long as a Release waits for auth
			n.Add(1)
		})
		if took := time.Since(begun); took > 2*time.Second || n.Load() != 2*maxReleases {
			t.Errorf("%d were released in %v", n.Load(), took)
		}
	})
}

// The session was over, auth was away, and 30 s later the control stream ended with the upload of what the session had been.
func TestAnUploadKeepsItsControlStream(t *testing.T) {
	a, h, key := newCluster(t)
	conn := registered(t, a, h, a.edge(t, key, testUUID, time.Hour))
	c, release := h.holdControl(testUUID)
	s := acceptControl(t, conn, nil)
	id := [16]byte{9}
	s.send(wire.UploadWanted{RecordingID: id, Grant: uploadGrant(t, h, id, nil, a.set.GrantKey())})
	att, err := conn.AcceptStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	release()
	c.idle() // as the linger's end does
	if c.ctx.Err() != nil {
		t.Fatal("it ended")
	}
	att.Reset(wire.StreamCancelled)
	waitFor(t, "end of the upload", func() bool {
		h.controls.mu.Lock()
		defer h.controls.mu.Unlock()
		return c.users == 0
	})
	c.idle()
	if c.ctx.Err() == nil {
		t.Error("it stays, though nobody needs it")
	}
}
