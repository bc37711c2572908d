package edge

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hawser/auth/ca"
	"hawser/auth/grant"
	"hawser/auth/policy"
	"hawser/auth/seal"
	"hawser/recorder"
	"hawser/tunnel/identity"
	"hawser/tunnel/wire"
)

// word is what the hub of an upload says.
func word(next uint64, ack []byte) []byte {
	return append(binary.BigEndian.AppendUint64(nil, next), append(ack, make([]byte, seal.AckSize-len(ack))...)...)
}

// hubSide reads chunks of a recording off an Upload stream from the sequence on and acknowledges each in auth's words; it stops after n, or at the end of
// the stream.
func hubSide(t *testing.T, c io.ReadWriter, id [16]byte, from uint64, n int) (chunks [][]byte) {
	t.Helper()
	public := make([]byte, seal.PublicSize)
	if _, err := io.ReadFull(c, public); err != nil {
		t.Errorf("hub: %v", err)
	}
	tell := func(seq uint64, chunk []byte) {
		var ack []byte
		if _, _, sealed := seal.Head(chunk); sealed {
			key, _ := seal.Key(authSecret)
			plain, err := seal.Open(key, id, chunk)
			if err == nil {
				ack, err = seal.Acknowledge(key, id, public, seq, recorder.Hash(plain))
			}
			if err != nil {
				t.Errorf("auth: %v", err)
			}
		}
		if _, err := c.Write(word(seq, ack)); err != nil {
			t.Errorf("hub: %v", err)
		}
	}
	tell(from, nil)
	for len(chunks) < n {
		var size [4]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return chunks
		}
		chunk := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(c, chunk); err != nil {
			t.Errorf("hub: %v", err)
			return chunks
		}
		chunks = append(chunks, chunk)
		tell(from+uint64(len(chunks)), chunk)
	}
	return chunks
}

func TestABrokenUploadGoesOnWhereItWasDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := uploads{added: make(chan struct{}, 1)}
		up := all.add(&upload{id: [16]byte{1}, grant: []byte("grant")})
		want := [][]byte{[]byte("zero"), []byte("one"), []byte("two")}
		for i, c := range want {
			if err := up.sink(t.Context(), uint64(i), c); err != nil {
				t.Fatal(err)
			}
		}
		sent := make(chan error, 1)
		attach := func() net.Conn {
			a, b := net.Pipe()
			go func() { sent <- up.send(t.Context(), a); a.Close() }()
			return b
		}
		b := attach()
		got := hubSide(t, b, up.id, 0, 1)
		b.Close()
		if err := <-sent; err == nil {
			t.Fatal("a broken upload counts as done")
		}
		up.finish()
		b = attach()
		got = append(got, hubSide(t, b, up.id, 1, 2)...)
		b.Close()
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Errorf("chunk %d is %q", i, got[i])
			}
		}
		if !up.complete() {
			t.Error("not complete")
		}
	})
}

func TestAnUploadThatNobodyFetchesHoldsItsSessionOnlyForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := uploads{added: make(chan struct{}, 1)}
		up := all.add(&upload{id: [16]byte{1}, grant: []byte("grant")})
		chunk := make([]byte, 64<<10)
		var err error
		n := uint64(0)
		begun := time.Now()
		for ; err == nil; n++ {
			err = up.sink(t.Context(), n, chunk)
		}
		if !errors.Is(err, recorder.ErrNoRoom) || n != 1+uploadBuffer/(64<<10) || time.Since(begun) != uploadStall {
			t.Fatalf("%v after %d chunks and %v", err, n, time.Since(begun))
		}
		if err := up.sink(t.Context(), n-1, make([]byte, 1000)); err != nil || up.room() {
			t.Errorf("what says that something is missing: %v, room %t", err, up.room())
		}
		if err := up.durable(n, nil); err != nil || !up.room() {
			t.Errorf("when all is fetched: %v, room %t", err, up.room())
		}
	})
}

// A strict session's recording is bounded by its window, not by what others leave.
func TestAStrictRecordingIsTakenWholeAndFetchedADayLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := uploads{added: make(chan struct{}, 1)}
		up := all.add(&upload{id: [16]byte{1}, grant: []byte("grant")})
		up.strict = true
		ended := make(chan error, 1)
		w := recorder.NewWriter(recorder.Header{ID: up.id}, recorder.Options{Sink: up.sink, ChunkAge: strictChunkAge, ChunkSize: strictChunk, Window: &recorder.Window{
			Bytes: strictBulk, Age: strictAge, Grace: strictGrace, Ended: func(err error) { ended <- err },
		}})
		up.writer.Store(w)
		started := make(chan error, 1)
		go func() { started <- w.Start("shell", "", "xterm", nil) }()
		synctest.Wait()
		if err := up.durable(1, nil); err != nil {
			t.Fatal(err)
		}
		if err := <-started; err != nil {
			t.Fatal(err)
		}
		all.bytes.Store(uploadsBuffer) // others fill what there is
		begun := time.Now()
		n := 0
		for w.Output(recorder.Stdout, make([]byte, 16<<10)) {
			n++
		}
		if err := <-ended; !errors.Is(err, recorder.ErrStalled) || n != strictBulk>>14 || time.Since(begun) > strictAge+strictGrace {
			t.Errorf("it ended after %v and %d writes: %v", time.Since(begun), n, err)
		}
		if err := w.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		up.finish()
		time.Sleep(23 * time.Hour)
		if idle, _ := all.pending(time.Now()); len(idle) != 1 {
			t.Fatal("no hub is asked to fetch it")
		}
		if err := up.durable(up.first+uint64(len(up.chunks)), nil); err != nil || !up.complete() {
			t.Errorf("fetched: %v", err)
		}
	})
}

func TestALyingHubCannotAckWhatWasNeverSent(t *testing.T) {
	all := uploads{added: make(chan struct{}, 1)}
	up := all.add(&upload{id: [16]byte{1}, grant: []byte("grant")})
	if err := up.sink(context.Background(), 0, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := up.durable(2, nil); err == nil {
		t.Error("chunk 2 was taken for durable with one made")
	}
	if err := up.durable(1, nil); err != nil {
		t.Error(err)
	}
	if err := up.durable(0, nil); err != nil || up.first != 1 { // overtaken by that of another stream
		t.Errorf("an old answer: %v, %d are forgotten", err, up.first)
	}
	if err := up.sink(context.Background(), 5, nil); err == nil {
		t.Error("a chunk out of order was taken")
	}
}

// Of what is sealed for auth, auth's own word alone has the edge forget anything: a hub that keeps a recording for itself cannot say that it is stored.
func TestALyingHubCannotAcknowledgeForAuth(t *testing.T) {
	key, _ := seal.Key(authSecret)
	id := [16]byte{1}
	all := uploads{added: make(chan struct{}, 1)}
	up := all.add(&upload{id: id, grant: []byte("grant")})
	up.sealFor(authSeal)
	chunks := [][]byte{[]byte("zero"), []byte("one")}
	for i, c := range chunks {
		if err := up.sink(t.Context(), uint64(i), c); err != nil {
			t.Fatal(err)
		}
	}
	ack := func(id [16]byte, public []byte, next uint64, last string) []byte {
		b, err := seal.Acknowledge(key, id, public, next, recorder.Hash([]byte(last)))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	other, err := seal.To(authSeal, id)
	if err != nil {
		t.Fatal(err)
	}
	own := up.sealed().Public()
	for name, bad := range map[string][]byte{
		"none": make([]byte, seal.AckSize), "short": nil, "of another chunk": ack(id, own, 1, "forged"), "of another number": ack(id, own, 2, "zero"),
		"of another recording": ack([16]byte{2}, own, 1, "zero"), "to another edge": ack(id, other.Public(), 1, "zero"),
	} {
		if err := up.durable(1, bad); !errors.Is(err, errNotAuths) || up.first != 0 {
			t.Errorf("%s: %v, %d chunks forgotten", name, err, up.first)
		}
	}
	if err := up.durable(2, ack(id, own, 2, "one")); err != nil || up.first != 2 {
		t.Errorf("auth's: %v, %d chunks forgotten", err, up.first)
	}
}

func TestALyingHubDoesNotLetAStrictSessionBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := uploads{added: make(chan struct{}, 1)}
		up := all.add(&upload{id: [16]byte{1}, grant: []byte("grant")})
		w := recorder.NewWriter(recorder.Header{ID: [16]byte{1}, Kind: "shell", Start: time.Now()}, recorder.Options{
			Sink: up.sink, Window: &recorder.Window{Bytes: 1 << 10, Age: time.Second, Grace: time.Second, Ended: func(error) {}},
		})
		up.writer.Store(w)
		begun := make(chan error, 1)
		go func() { begun <- w.Start("shell", "", "", nil) }()
		synctest.Wait()
		if err := up.durable(1<<62, nil); err == nil || len(begun) != 0 {
			t.Errorf("what was never sent was taken for stored: %v", err)
		}
		if err := <-begun; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it began with %v", err)
		}
		all.drop([16]byte{1})
		_ = w.Close(t.Context())
	})
}

func TestAllUploadsTogetherAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := uploads{added: make(chan struct{}, 1)}
		chunk := make([]byte, 64<<10)
		kept := func() (n int64) {
			for _, up := range all.byID {
				n += int64(up.bytes)
			}
			return n
		}
		for i := range byte(12) {
			up := all.add(&upload{id: [16]byte{i}, grant: []byte("grant")})
			for n := uint64(0); n < 8; n++ {
				if up.sink(t.Context(), n, chunk) != nil {
					break
				}
			}
			up.finish()
		}
		if got := kept(); got != all.bytes.Load() || got > uploadsBuffer+12*int64(len(chunk)) {
			t.Errorf("%d bytes kept, %d counted", got, all.bytes.Load())
		}
		all.pending(time.Now().Add(2 * uploadLinger))
		if all.bytes.Load() != 0 || len(all.byID) != 0 {
			t.Errorf("%d bytes of %d recordings after they were given up", all.bytes.Load(), len(all.byID))
		}
	})
}

func TestAHubThatIsAheadDoesNotMakeAnUploadWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := uploads{added: make(chan struct{}, 1)}
		up := all.add(&upload{id: [16]byte{1}, grant: []byte("grant")})
		for i := range uint64(4) {
			if err := up.sink(t.Context(), i, []byte{byte(i)}); err != nil {
				t.Fatal(err)
			}
		}
		a, b := net.Pipe()
		sent := make(chan error, 1)
		go func() { sent <- up.send(t.Context(), a); a.Close() }()
		// Auth has the first three already, by way of another hub.
		go func() {
			_, _ = b.Write(word(0, nil))
			_, _ = b.Write(word(3, nil))
		}()
		if _, err := io.ReadFull(b, make([]byte, seal.PublicSize)); err != nil {
			t.Fatal(err)
		}
		var frame [5]byte
		for {
			if _, err := io.ReadFull(b, frame[:]); err != nil {
				t.Fatal(err)
			}
			if frame[4] == 3 {
				break
			}
		}
		up.finish()
		if _, err := b.Write(word(4, nil)); err != nil {
			t.Fatal(err)
		}
		b.Close()
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
	})
}

// While there was no hub nothing forgot what direct sessions left behind: a command every ten seconds filled a small device's memory in a day.
func TestRecordingsOfSessionsThatNoHubKnowsOfAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := uploads{added: make(chan struct{}, 1)}
		for i := range 3000 {
			up := all.add(&upload{id: [16]byte{byte(i), byte(i >> 8)}})
			size := 1 << 10
			if i%2 == 0 {
				size = 60 << 10
			}
			if err := up.sink(t.Context(), 0, make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			up.finish()
			time.Sleep(time.Millisecond)
		}
		if n := all.bytes.Load(); len(all.byID) > maxOver || n > uploadsBuffer {
			t.Errorf("%d recordings of %d bytes are kept", len(all.byID), n)
		}
		if all.get([16]byte{2999 & 255, 2999 >> 8}) == nil {
			t.Error("the newest was given up")
		}
	})
}

// What had ended more than ten minutes before the hub came back was forgotten as it did, before its session was known there.
func TestARecordingWaitsForAHubToLearnOfItsSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := uploads{added: make(chan struct{}, 1)}
		up := all.add(&upload{id: [16]byte{1}})
		if err := up.sink(t.Context(), 0, []byte("zero")); err != nil {
			t.Fatal(err)
		}
		up.finish()
		time.Sleep(2 * uploadLinger)
		if idle, again := all.pending(time.Now()); len(idle) != 0 || !again.IsZero() || all.get(up.id) == nil {
			t.Fatalf("%d are asked for, the next at %v", len(idle), again)
		}
		hub := entry{hub: wire.UUID{1}}
		if err := up.mayGo(hub); err == nil {
			t.Error("a hub that granted nothing may have it")
		}
		up.bind(hub, []byte("grant"))
		time.Sleep(uploadLinger / 2)
		idle, _ := all.pending(time.Now())
		if len(idle) != 1 || idle[0].from != hub || string(idle[0].grant) != "grant" {
			t.Fatalf("asked for: %+v", idle)
		}
		if err := up.mayGo(entry{hub: wire.UUID{2}}); err == nil {
			t.Error("another hub may have it, unsealed")
		}
		if err := up.mayGo(hub); err != nil {
			t.Error(err)
		}
		up.sealFor([32]byte{9})
		if err := up.mayGo(entry{hub: wire.UUID{2}}); err != nil {
			t.Errorf("sealed for auth: %v", err)
		}
		all.pending(time.Now().Add(2 * uploadLinger))
		if all.get(up.id) != nil {
			t.Error("it is kept for good")
		}
	})
}

// A session of which no hub knew stood still for a minute when its recording had no room, for a hub that was not there.
func TestASessionDoesNotWaitForRoomThatNoHubMakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := uploads{added: make(chan struct{}, 1)}
		old := all.add(&upload{id: [16]byte{2}})
		chunk := make([]byte, 60<<10)
		for n := range uint64(8) {
			if err := old.sink(t.Context(), n, chunk); err != nil {
				t.Fatal(err)
			}
		}
		old.finish()
		begun := time.Now()
		kept := 0
		for i := range byte(6) {
			up := all.add(&upload{id: [16]byte{3, i}})
			var n uint64
			var err error
			for err == nil {
				if err = up.sink(t.Context(), n, chunk); err == nil {
					n++
				}
			}
			if !errors.Is(err, recorder.ErrNoRoom) || up.room() {
				t.Fatalf("%v after %d chunks", err, n)
			}
			if err := up.sink(t.Context(), n, make([]byte, 200)); err != nil { // the gap record
				t.Errorf("it cannot say so: %v", err)
			}
			kept += up.bytes
		}
		if time.Since(begun) != 0 {
			t.Errorf("waited %v", time.Since(begun))
		}
		if all.get(old.id) != nil {
			t.Error("what is over was kept, and what goes on was not")
		}
		if int64(kept) != all.bytes.Load() || kept > uploadsBuffer+6*(len(chunk)+maxExtra) {
			t.Errorf("%d bytes kept, %d counted", kept, all.bytes.Load())
		}
	})
}

// Both happen when a tunnel comes back: the grant is set, and read to be told. Run with the race detector.
func TestAnUploadIsAskedForWhileItsHubChanges(t *testing.T) {
	all := uploads{added: make(chan struct{}, 1)}
	up := all.add(&upload{id: [16]byte{1}})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 1000 {
			up.bind(entry{hub: wire.UUID{byte(i)}}, make([]byte, i%7+1))
		}
	}()
	for range 1000 {
		idle, _ := all.pending(time.Now().Add(time.Hour))
		for _, w := range idle {
			if len(w.grant) == 0 {
				t.Error("a hub is asked without a grant")
			}
		}
	}
	<-done
}

// A hub fetched a recording between its being added and its key being made: it was sent in clear, or auth's word was asked for by no key, and a
// session that must be recorded ended before it began.
func TestARecordingIsAddedWithItsKey(t *testing.T) {
	_, key, _ := ed25519.GenerateKey(nil)
	a := &Agent{clock: newClock(time.Now), state: &state{creds: &identity.Credentials{Key: key}}}
	a.uploads.added = make(chan struct{}, 1)
	h := &host{a: a, from: entry{hub: wire.UUID{1}}}
	var done sync.WaitGroup
	defer done.Wait()
	for i := range 200 {
		id := [16]byte{1, byte(i)}
		h.keepGrant(id, []byte("grant"))
		done.Go(func() {
			h.record(&grant.Grant{SessionID: id, SealKey: authSeal, Record: policy.RecordStrict}, recorder.Header{}, true)
		})
		<-a.uploads.added
		up := a.uploads.get(id)
		if up == nil || up.sealed() == nil || !up.strict || up.mayGo(entry{hub: wire.UUID{2}}) != nil {
			t.Fatalf("recording %d: %+v", i, up)
		}
	}
}

// A session that no hub knew of, and one granted just before its recording began, was never fetched.
func TestAGrantThatComesBeforeItsRecordingIsItsOwn(t *testing.T) {
	public, private, _ := ed25519.GenerateKey(nil)
	a := &Agent{clock: newClock(time.Now), state: &state{creds: &identity.Credentials{Key: private}, trust: &ca.Trust{GrantKeys: []ed25519.PublicKey{public}}}}
	a.uploads.added = make(chan struct{}, 1)
	h := &host{a: a, from: entry{hub: wire.UUID{1}}}
	for i := range 200 {
		offline := &grant.Grant{
			ID: [16]byte{9}, Cluster: "ber.example", SessionID: [16]byte{1, byte(i)}, ConnectionID: [16]byte{2}, Device: [16]byte{4}, Roles: []string{"field"}, Kind: grant.Session, User: "alice", Method: "certificate", Login: "root", Offline: true, Channels: []string{"shell"}, Incarnation: [16]byte{5}, EntryHub: [16]byte{6}, Record: "best-effort", ClientAddr: netip.MustParseAddrPort("192.0.2.1:4711"),
		}
		offline.NotBefore, offline.NotAfter = grant.Window(time.Now())
		signed := *offline
		signed.SealKey, signed.Offline = authSeal, false
		blob, err := signed.Sign(private)
		if err != nil {
			t.Fatal(err)
		}
		var both sync.WaitGroup
		both.Go(func() { h.granted(offline.SessionID, blob) })
		both.Go(func() { h.record(offline, recorder.Header{}, true) })
		both.Wait()
		up := a.uploads.get(offline.SessionID)
		if up.sealed() == nil || up.mayGo(entry{}) != nil {
			t.Fatalf("recording %d is for nobody", i)
		}
	}
}

// A stream that ended early was followed by the next after 5 s: a session that must be recorded had ended by then.
func TestAnUploadThatEndsEarlyIsAskedForAgainAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := uploads{added: make(chan struct{}, 1)}
		up := all.add(&upload{id: [16]byte{1}, grant: []byte("grant")})
		for i := range uint64(3) {
			if err := up.sink(t.Context(), i, []byte("chunk")); err != nil {
				t.Fatal(err)
			}
		}
		asked := func() (after time.Duration) { // as askLoop does
			begun := time.Now()
			for {
				idle, again := all.pending(time.Now())
				if len(idle) > 0 || all.get(up.id) == nil {
					return time.Since(begun)
				}
				if again.IsZero() || !again.After(time.Now()) {
					t.Fatalf("asked again at %v", again)
				}
				time.Sleep(time.Until(again))
			}
		}
		if after := asked(); after != 0 {
			t.Errorf("first asked after %v", after)
		}
		if after := asked(); after != askEvery/2 {
			t.Errorf("no hub came: asked again after %v", after)
		}
		broken := func() time.Duration {
			if !up.begin() {
				t.Fatal("another stream sends it")
			}
			if idle, again := all.pending(time.Now().Add(time.Hour)); len(idle) != 0 || !again.IsZero() {
				t.Errorf("asked for while it is sent: %d, %v", len(idle), again)
			}
			up.end()
			return asked()
		}
		for want := askAgain; want < askLive; want *= 2 {
			if after := broken(); after != want {
				t.Errorf("asked again after %v, want %v", after, want)
			}
		}
		for range 2 {
			if after := broken(); after != askLive {
				t.Errorf("asked again after %v, want %v", after, askLive)
			}
		}
		all.again() // another tunnel
		if after := asked(); after != 0 {
			t.Errorf("with another tunnel: asked after %v", after)
		}
		if err := up.durable(1, nil); err != nil {
			t.Fatal(err)
		}
		if after := broken(); after != askAgain {
			t.Errorf("after one that stored something: asked again after %v", after)
		}
		// One that auth never takes must not keep a quiet device talking.
		up.finish()
		streams := 0
		for begun := time.Now(); time.Since(begun) < uploadLinger; streams++ {
			if asked(); all.get(up.id) == nil || !up.begin() {
				break
			}
			up.end()
		}
		if streams > 320 {
			t.Errorf("%d streams in a day", streams)
		}
	})
}

// Two thousand recordings that auth had no room for held 119 MiB on a device of 64.
func TestRecordingsThatNoHubFetchesMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := uploads{added: make(chan struct{}, 1)}
		for i := range 2000 {
			up := all.add(&upload{id: [16]byte{byte(i), byte(i >> 8)}, grant: []byte("grant"), strict: i%2 == 0})
			if err := up.sink(t.Context(), 0, make([]byte, 60<<10)); err != nil {
				t.Fatal(err)
			}
			up.finish()
			if i == 0 && all.get(up.id) == nil {
				t.Fatal("given up at once")
			}
			time.Sleep(time.Second)
		}
		if n := all.bytes.Load(); n > uploadsBuffer+int64(fetchWait/time.Second)*60<<10 || n < uploadsBuffer/2 {
			t.Errorf("%d bytes are kept", n)
		}
		time.Sleep(fetchWait)
		all.trim(0)
		if n := all.bytes.Load(); n > uploadsBuffer || all.get([16]byte{1999 & 0xff, 1999 >> 8}) == nil {
			t.Errorf("%d bytes are kept, of the newest: %v", n, all.get([16]byte{1999 & 0xff, 1999 >> 8}))
		}
	})
}
