package target

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/grant"
	"hawser/tunnel/channel"
	"hawser/tunnel/channel/payload"
	"hawser/tunnel/pipe"
	"hawser/tunnel/resume"
	"hawser/tunnel/wire"
)

// memConn is a connection to a server in memory. While frozen is true the server reads nothing, as when it was stopped.
type memConn struct {
	*pipe.Stream
	frozen *atomic.Bool
}

func (c memConn) Read(p []byte) (int, error) {
	n, err := c.Stream.Read(p)
	for err == nil && c.frozen.Load() {
		time.Sleep(50 * time.Millisecond)
	}
	return n, err
}

func (c memConn) Close() error {
	c.Reset(wire.StreamCancelled)
	return nil
}

func (memConn) LocalAddr() net.Addr  { return &net.TCPAddr{} }
func (memConn) RemoteAddr() net.Addr { return &net.TCPAddr{} }

// world is Targets with one server, whose channels serve handles. It is auth, too.
type world struct {
	*Targets
	t      *testing.T
	host   ssh.Signer
	frozen atomic.Bool
	served sync.WaitGroup
	pins   atomic.Int32
	serve  func(ssh.NewChannel)
	rekey  uint64
}

func newWorld(t *testing.T, serve func(ssh.NewChannel)) *world {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, serve: serve}
	if w.host, err = ssh.NewSignerFromKey(key); err != nil {
		t.Fatal(err)
	}
	w.Targets = New(Config{Auth: w, Dial: w.dial, Logger: slog.New(slog.DiscardHandler)})
	return w
}

func (w *world) dial(context.Context, *api.OpenTargetResponse, *grant.Grant) (net.Conn, error) {
	a, b := pipe.New(nil, nil, nil)
	w.served.Go(func() {
		config := &ssh.ServerConfig{NoClientAuth: true}
		config.RekeyThreshold = w.rekey
		config.AddHostKey(w.host)
		sc, chans, reqs, err := ssh.NewServerConn(memConn{b, &w.frozen}, config)
		if err != nil {
			return
		}
		go ssh.DiscardRequests(reqs)
		for nch := range chans {
			w.serve(nch)
		}
		_ = sc.Wait()
	})
	return memConn{a, new(atomic.Bool)}, nil
}

func (w *world) OpenTarget(context.Context, wire.UUID, *api.OpenTargetRequest) (*api.OpenTargetResponse, error) {
	return &api.OpenTargetResponse{Via: "hub", Address: "cam3:22", StoredKey: w.host.PublicKey().Marshal()}, nil
}

func (w *world) PinHostKey(ctx context.Context, _ *api.PinHostKeyRequest) (*api.PinHostKeyResponse, error) {
	w.pins.Add(1)
	return &api.PinHostKeyResponse{Ok: true}, ctx.Err()
}

func (w *world) SignForTarget(context.Context, *api.SignForTargetRequest) (*api.SignForTargetResponse, error) {
	return nil, errors.New("nobody asks for a signature")
}

// end stops everything, a server that was frozen too.
func (w *world) end() {
	w.frozen.Store(false)
	w.Close()
	w.served.Wait()
	time.Sleep(time.Minute) // in the bubble: x/crypto waits for none of its own
}

// held is how many connections to servers there are.
func (w *world) held() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open
}

// session logs in and relays a session, and returns the person's end of it; over is closed when nothing is left.
func (w *world) session(id byte) (person *channel.Conn, over chan struct{}) {
	w.t.Helper()
	a, b := pipe.New(nil, nil, nil)
	g := &grant.Grant{User: "ann", Login: "root", SessionID: [16]byte{id}}
	x := newSession(w.Targets, Device{Name: "cam3"}, g, a, 0)
	person, over = channel.New(b, channel.Options{}), make(chan struct{})
	w.spawn(func() {
		defer close(over)
		x.run(nil)
	})
	return person, over
}

// silent is a server that takes what is opened and never says a word.
func silent(nch ssh.NewChannel) {
	if _, reqs, err := nch.Accept(); err == nil {
		go ssh.DiscardRequests(reqs)
	}
}

// took waits for c, no longer than limit.
func took(t *testing.T, what string, limit time.Duration, c <-chan struct{}) {
	t.Helper()
	begun := time.Now()
	select {
	case <-c:
		t.Logf("%s: %v", what, time.Since(begun))
	case <-time.After(limit):
		t.Errorf("%s: it still waits after %v", what, limit)
	}
}

// A server that hangs, stopped or hostile, held a goroutine and a place of a session that was over, and the whole hub's end: x/crypto's channel is
// closed when the other side has closed it, and nothing else ended that wait.
func TestAServerThatHangsHoldsNothing(t *testing.T) {
	ends := map[string]func(*world, *channel.Conn){
		"the person leaves": func(_ *world, person *channel.Conn) { _ = person.Close() },
		"a kill":            func(w *world, _ *channel.Conn) { w.Kill([16]byte{1}, "enough") },
		"the hub stops":     func(w *world, _ *channel.Conn) { w.stop(errStopping) },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, silent)
				person, over := w.session(1)
				go func() { _, _ = io.Copy(io.Discard, person) }()
				go func() { _, _ = io.Copy(io.Discard, person.StderrReader()) }()
				synctest.Wait()
				w.frozen.Store(true)
				go end(w, person)
				took(t, name, 4*time.Second, over)
				if n := w.held(); n != 0 {
					t.Errorf("%d places are still held", n)
				}
				stopped := make(chan struct{})
				go func() { w.Close(); close(stopped) }()
				took(t, "Close", 3*time.Second, stopped)
				_ = person.Close()
				<-stopped
				w.end()
			})
		})
	}
}

// A server frozen between the login and the session's channel.
func TestAServerThatOpensNoSessionHoldsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(ssh.NewChannel) {})
		person, over := w.session(1)
		synctest.Wait()
		go func() { _ = person.Close() }()
		took(t, "the person leaves", 3*time.Second, over)
		w.end()
	})
}

// What was fed to a command, and its end, came to the server before the command: dropbear then ended without running it, now and then.
func TestInputDoesNotOvertakeTheCommandItIsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := make(chan string, 5)
		w := newWorld(t, func(nch ssh.NewChannel) {
			ch, reqs, err := nch.Accept()
			if err != nil {
				return
			}
			go func() {
				for r := range reqs {
					got <- r.Type
					_ = r.Reply(true, nil)
				}
			}()
			go func() {
				b, _ := io.ReadAll(ch)
				got <- string(b)
				_ = ch.Close()
			}()
		})
		person, over := w.session(1)
		if _, err := person.Write([]byte("in")); err != nil {
			t.Fatal(err)
		}
		_ = person.CloseWrite()
		synctest.Wait()
		if len(got) != 0 {
			t.Errorf("before anything was asked for the server had %q", <-got)
		}
		_, _ = person.SendRequest("exec", false, payload.Exec{Command: "cat"}.Marshal())
		all := []string{<-got, <-got, <-got, <-got, <-got}
		if slices.Sort(all); !slices.Equal(all, []string{"env", "env", "env", "exec", "in"}) {
			t.Errorf("the server had %q", all)
		}
		_ = person.Close()
		<-over
		w.end()
	})
}

func TestAKillGoesFromHUPToKILL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var got []string
		begun := time.Now()
		w := newWorld(t, func(nch ssh.NewChannel) {
			_, reqs, err := nch.Accept()
			if err != nil {
				return
			}
			go func() {
				for r := range reqs {
					if r.Type == "signal" {
						mu.Lock()
						got = append(got, time.Since(begun).String()+" "+string(r.Payload[4:]))
						mu.Unlock()
					}
				}
			}()
		})
		person, over := w.session(1)
		var said strings.Builder
		go func() { _, _ = io.Copy(io.Discard, person) }()
		read := make(chan struct{})
		go func() { _, _ = io.Copy(&said, person.StderrReader()); close(read) }()
		synctest.Wait()
		w.Kill([16]byte{1}, "enough")
		<-over
		<-read
		mu.Lock()
		defer mu.Unlock()
		if want := "0s HUP, 1s TERM, 2s KILL"; strings.Join(got, ", ") != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if !strings.Contains(said.String(), "enough") {
			t.Errorf("the person was told %q", said.String())
		}
		_ = person.Close()
		w.end()
	})
}

// x/crypto asks for the host key at every key exchange. The connection that pinned the key asked auth again at its first rekey, with a context
// that was over: an hour into the first session with a server, or after 1 GiB, it was cut.
func TestTheConnectionThatPinnedAHostKeyOutlivesItsRekeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(nch ssh.NewChannel) {
			ch, reqs, err := nch.Accept()
			if err != nil {
				return
			}
			go ssh.DiscardRequests(reqs)
			go func() {
				for range 40 {
					if _, err := ch.Write(make([]byte, 1000)); err != nil {
						return
					}
					time.Sleep(time.Second) // a key exchange gets its turn
				}
				_ = ch.Close()
			}()
		})
		w.rekey = 4096
		c, err := w.connect(t.Context(), Device{Name: "cam3"}, &grant.Grant{User: "ann", Login: "root"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		ch, reqs, err := c.OpenChannel("session", nil)
		if err != nil {
			t.Fatal(err)
		}
		go ssh.DiscardRequests(reqs)
		if n, err := io.Copy(io.Discard, ch); n != 40_000 || err != nil {
			t.Errorf("read %d bytes, %v", n, err)
		}
		if n := w.pins.Load(); n != 1 {
			t.Errorf("auth was asked for the host key %d times", n)
		}
		c.Close()
		w.end()
	})
}

// An application that keeps connections whose other half is closed held the login after the person had gone, and a server that hangs does too.
func TestAForwardDoesNotOutliveThePerson(t *testing.T) {
	for _, name := range []string{"a far side that keeps half", "a server that hangs"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, silent)
				s, giveBack, err := w.borrow(t.Context(), Device{Name: "cam3"}, &grant.Grant{User: "ann", Login: "root"}, nil)
				if err != nil {
					t.Fatal(err)
				}
				ours, theirs := pipe.New(nil, nil, nil)
				a := wire.Attach{Kind: wire.KindForward, ID: wire.NewStreamID()}
				person := resume.Open(ours, a, resume.Options{SendBuffer: buffer, RecvBuffer: buffer})
				over := make(chan struct{})
				w.spawn(func() {
					defer close(over)
					defer giveBack()
					head, err := resume.ReadAttach(t.Context(), theirs)
					if err != nil {
						t.Error(err)
						return
					}
					rs, err := w.accept(theirs, head)
					if err != nil {
						t.Error(err)
						return
					}
					ch, reqs, err := w.openForward(t.Context(), s.client, s, "direct-tcpip", nil)
					if err != nil {
						t.Error(err)
						return
					}
					w.join(s, ch, reqs, rs)
				})
				synctest.Wait()
				w.frozen.Store(name == "a server that hangs")
				_ = person.Close()
				took(t, "the forward", 20*time.Second, over)
				time.Sleep(idleLife + time.Second)
				if n := w.held(); n != 0 {
					t.Errorf("%d connections are still held", n)
				}
				w.end()
				<-person.Done()
			})
		})
	}
}

// A server that was moved or removed was still reached over the login that forwards share.
func TestForwardsToAServerThatWentEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, silent)
		gone, stays := wire.UUID{1}, wire.UUID{2}
		var all []*shared
		for _, id := range []wire.UUID{gone, stays} {
			s, _, err := w.borrow(t.Context(), Device{UUID: id, Name: "cam3"}, &grant.Grant{User: "ann", Login: "root"}, nil)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, s)
		}
		w.EndDevice(gone)
		<-all[0].client.done
		synctest.Wait()
		if n := w.held(); n != 1 {
			t.Errorf("%d logins are open", n)
		}
		s, _, err := w.borrow(t.Context(), Device{UUID: gone, Name: "cam3"}, &grant.Grant{User: "ann", Login: "root"}, nil)
		if err != nil || s == all[0] {
			t.Errorf("the next forward got the login that ended, %v", err)
		}
		w.end()
	})
}

// One who opened sessions without end took all 4096 connections, and everybody else was refused.
func TestOneUserLeavesConnectionsForOthers(t *testing.T) {
	w := newWorld(t, nil)
	var all []func()
	for range maxUserConnections {
		release, err := w.place("mallory")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, release)
	}
	if _, err := w.place("mallory"); err == nil || !strings.Contains(err.Error(), "for you") {
		t.Errorf("one more: %v", err)
	}
	release, err := w.place("ann")
	if err != nil {
		t.Fatal(err)
	}
	release()
	release() // once
	all[0]()
	if _, err = w.place("mallory"); err != nil {
		t.Error(err)
	}
	if w.held() != maxUserConnections {
		t.Errorf("%d are held", w.held())
	}
}

// What relays a stranger's bytes may not be the end of the hub.
func TestAPanicEndsItsStreamAlone(t *testing.T) {
	w := newWorld(t, nil)
	var wg sync.WaitGroup
	cut := false
	w.guard(&wg, func() { cut = true }, func() { panic("a reply nobody thought of") })
	wg.Wait()
	if !cut {
		t.Error("its connection stays")
	}
}
