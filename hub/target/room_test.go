package target

import (
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/grant"
	"hawser/tunnel/channel"
	"hawser/tunnel/channel/payload"
	"hawser/tunnel/pipe"
	"hawser/tunnel/wire"
)

// guest joins the session of an id, and returns his end of it.
func (w *world) guest(id, joins byte, mode string) (person *channel.Conn, over chan struct{}) {
	w.t.Helper()
	return w.granted(&grant.Grant{User: "bob", Login: "root", SessionID: [16]byte{id}, Join: [16]byte{joins}, JoinMode: mode, Channels: []string{"join"}})
}

// granted is session for a grant.
func (w *world) granted(g *grant.Grant) (person *channel.Conn, over chan struct{}) {
	a, b := pipe.New(nil, nil, nil)
	x := newSession(w.Targets, Device{Name: "cam3"}, g, a, 0)
	person, over = channel.New(b, channel.Options{}), make(chan struct{})
	w.spawn(func() {
		defer close(over)
		x.run(nil)
	})
	return person, over
}

// seen is what came out of a channel.
type seen struct {
	mu     sync.Mutex
	b      strings.Builder
	guests []payload.Guest
	status string
}

func (s *seen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *seen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func watch(c *channel.Conn) *seen {
	s := new(seen)
	go func() { _, _ = io.Copy(s, c) }()
	go func() { _, _ = io.Copy(s, c.StderrReader()) }()
	go func() {
		for r := range c.Requests() {
			s.mu.Lock()
			if g, err := payload.ParseGuest(r.Payload); err == nil && r.Type == payload.GuestRequest {
				s.guests = append(s.guests, g)
			}
			if p, err := payload.ParseExitStatus(r.Payload); err == nil && r.Type == "exit-status" {
				s.status = string('0' + rune(p.Status%10)) // 255 is 5
			}
			s.mu.Unlock()
			_ = r.Reply(false)
		}
	}()
	return s
}

// begin asks for a shell on a terminal.
func begin(c *channel.Conn, cols, rows uint32) {
	_, _ = c.SendRequest("pty-req", false, payload.PtyRequest{Term: "xterm", Columns: cols, Rows: rows}.Marshal())
	_, _ = c.SendRequest("shell", false, nil)
}

// A server without an agent is shown to the hub that logged in to it: there others see it too.
func TestASessionOnAServerIsJoinedAtItsHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var sizes []payload.WindowChange
		logins := 0
		w := newWorld(t, func(nch ssh.NewChannel) {
			mu.Lock()
			logins++
			mu.Unlock()
			ch, reqs, err := nch.Accept()
			if err != nil {
				return
			}
			go func() {
				for r := range reqs {
					if p, err := payload.ParseWindowChange(r.Payload); err == nil && r.Type == "window-change" {
						mu.Lock()
						sizes = append(sizes, p)
						mu.Unlock()
					}
					if r.WantReply {
						_ = r.Reply(true, nil)
					}
				}
			}()
			go func() {
				_, _ = io.Copy(ch, ch) // a terminal that echoes
				_ = ch.Close()
			}()
		})
		owner, ownerOver := w.granted(&grant.Grant{User: "ann", Login: "root", SessionID: [16]byte{1}, Record: "strict", RecordStdin: "full"})
		shown := watch(owner)
		begin(owner, 40, 10)
		_, _ = owner.Write([]byte("before"))
		synctest.Wait()

		bob, bobOver := w.guest(2, 1, "peer")
		his := watch(bob)
		begin(bob, 100, 30)
		time.Sleep(time.Second)
		if text := his.text(); !strings.Contains(text, "before") || !strings.Contains(text, "as root") {
			t.Errorf("who joined late saw %q", text)
		}
		_, _ = bob.Write([]byte("typed"))
		_, _ = owner.SendRequest("window-change", false, payload.WindowChange{Columns: 50, Rows: 12}.Marshal())
		time.Sleep(time.Second)
		if !strings.Contains(shown.text(), "typed") || !strings.Contains(his.text(), "typed") {
			t.Errorf("a peer typed; shown: %q and %q", shown.text(), his.text())
		}
		mu.Lock()
		// A pixel comes and goes, so that what fills the screen is drawn anew; the guest's own size is his.
		want := []payload.WindowChange{{Columns: 40, Rows: 10, Width: 1}, {Columns: 40, Rows: 10}, {Columns: 50, Rows: 12}}
		if len(sizes) != 3 || sizes[0] != want[0] || sizes[1] != want[1] || sizes[2] != want[2] {
			t.Errorf("the server was told the sizes %v, want %v", sizes, want)
		}
		mu.Unlock()

		ann, annOver := w.guest(3, 1, "observer")
		hers := watch(ann)
		begin(ann, 20, 5)
		time.Sleep(time.Second)
		_, _ = ann.Write([]byte("not-typed"))
		time.Sleep(time.Second)
		_, _ = ann.Write([]byte{3})
		took(t, "an observer's Ctrl-C", time.Second, annOver)
		synctest.Wait()
		if strings.Contains(shown.text(), "not-typed") || hers.status != "0" {
			t.Errorf("an observer left with %s, and the owner saw %q", hers.status, shown.text())
		}

		// What auth has for those who are in it reaches them here.
		if w.Tell([16]byte{9}, wire.Tell{What: wire.TellAll}) || !w.Tell([16]byte{1}, wire.Tell{What: wire.TellAll, Text: "@@@@"}) {
			t.Error("of two sessions one is here")
		}
		time.Sleep(time.Second)
		if !strings.Contains(his.text(), "@@@@") {
			t.Errorf("told: %q", his.text())
		}

		_ = owner.CloseWrite()
		took(t, "the end of the session", time.Second, ownerOver)
		took(t, "and of who had joined it", 2*time.Second, bobOver)
		synctest.Wait()
		if !strings.Contains(his.text(), "the session has ended") || his.status != "5" {
			t.Errorf("with status %s: %q", his.status, his.text())
		}
		var told []string
		for _, g := range shown.guests {
			if g.What != payload.GuestNotice {
				told = append(told, g.What+" "+g.User+g.Text)
			}
		}
		if got, want := strings.Join(told, ", "), "changed bobjoined, typed typed, changed bobjoined, changed bobleft, marked @@@@"; !strings.HasPrefix(got, want) {
			t.Errorf("the recorder was told: %s\nwant: %s", got, want)
		}
		if logins != 1 {
			t.Errorf("%d logins: who joins logs in to nothing", logins)
		}
		for _, c := range []*channel.Conn{owner, bob, ann} {
			_ = c.Close()
		}
		w.end()
	})
}

func TestWhoCannotJoinASessionOnAServerIsToldWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, silent)
		owner, _ := w.session(1)
		watch(owner)
		_, _ = owner.SendRequest("exec", false, payload.Exec{Command: "true"}.Marshal())
		for name, tt := range map[string]struct {
			terminal bool
			want     string
		}{"without a terminal": {false, "ssh -t"}, "a session without one": {true, "no terminal"}} {
			bob, over := w.guest(2, 1, "observer")
			his := watch(bob)
			if tt.terminal {
				begin(bob, 80, 24)
			} else {
				_, _ = bob.SendRequest("shell", false, nil)
			}
			took(t, name, time.Second, over)
			synctest.Wait()
			if !strings.Contains(his.text(), tt.want) || his.status != "5" {
				t.Errorf("%s: status %s, %q", name, his.status, his.text())
			}
			_ = bob.Close()
		}
		_ = owner.Close()
		w.end()
	})
}

// redraws is a server that draws the whole screen anew, over and over, for 8 seconds; it stays then until its client has sent all, or not.
func redraws(stays bool) func(ssh.NewChannel) {
	return func(nch ssh.NewChannel) {
		ch, reqs, err := nch.Accept()
		if err != nil {
			return
		}
		go func() {
			for r := range reqs {
				if r.WantReply {
					_ = r.Reply(true, nil)
				}
			}
		}()
		go func() {
			for i := range 200 {
				_, _ = ch.Write([]byte("\x1b[H" + strings.Repeat(string('a'+rune(i%26)), 300*100)))
				time.Sleep(40 * time.Millisecond)
			}
			if stays {
				_, _ = io.Copy(io.Discard, ch)
			}
			_ = ch.Close()
		}()
	}
}

// A guest that reads nothing holds up neither the session nor its own end.
func TestAGuestOfAServerWhoReadsNothingHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, redraws(false))
		owner, over := w.session(1)
		watch(owner)
		begin(owner, 300, 100)
		time.Sleep(time.Millisecond)
		bob, bobOver := w.guest(2, 1, "observer")
		begin(bob, 300, 100)
		took(t, "the session", 9*time.Second, over)
		took(t, "who reads nothing", 3*time.Second, bobOver)
		_ = owner.Close()
		_ = bob.Close()
		w.end()
	})
}

// Nor does he stay when he is put out, or goes: not for all that he had sent before.
func TestAGuestOfAServerWhoReadsNothingIsOutWhenHeIsPutOutOrGoes(t *testing.T) {
	for what, does := range map[string]func(*world, *channel.Conn){
		"put out": func(w *world, _ *channel.Conn) {
			w.Tell([16]byte{1}, wire.Tell{What: wire.TellOut, User: "bob", Text: "enough"})
		},
		"gone": func(_ *world, bob *channel.Conn) { _ = bob.Close() },
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, redraws(true))
			owner, over := w.session(1)
			watch(owner)
			begin(owner, 300, 100)
			time.Sleep(time.Millisecond)
			bob, bobOver := w.guest(2, 1, "observer")
			begin(bob, 300, 100)
			time.Sleep(9 * time.Second)
			for i := range 40 {
				_, _ = bob.SendRequest("window-change", false, payload.WindowChange{Columns: 300, Rows: 60 + uint32(i)}.Marshal())
			}
			does(w, bob)
			took(t, what, 3*time.Second, bobOver)
			if m := w.roomOf([16]byte{1}); len(m.Members()) != 0 {
				t.Errorf("%s: he is still in", what)
			}
			_ = owner.Close()
			_ = bob.Close()
			took(t, "the session", 3*time.Second, over)
			w.end()
		})
	}
}

// What is typed while a moderator has paused a session on a server is thrown away, the owner's, a peer's and a signal; what the server says meanwhile is shown after it.
func TestNothingTypedInAPauseReachesTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := new(seen)
		says := make(chan string, 1)
		signals := make(chan struct{}, 9)
		w := newWorld(t, func(nch ssh.NewChannel) {
			ch, reqs, err := nch.Accept()
			if err != nil {
				return
			}
			go func() {
				for r := range reqs {
					if r.Type == "signal" {
						signals <- struct{}{}
					}
					_ = r.Reply(true, nil)
				}
			}()
			go func() {
				for s := range says {
					_, _ = io.WriteString(ch, s)
				}
				_ = ch.Close()
			}()
			_, _ = io.Copy(got, ch)
		})
		owner, ownerOver := w.session(1)
		shown := watch(owner)
		begin(owner, 80, 24)
		synctest.Wait() // it has begun
		mod, _ := w.guest(2, 1, "moderator")
		peer, _ := w.guest(3, 1, "peer")
		for _, c := range []*channel.Conn{mod, peer} {
			watch(c)
			begin(c, 80, 24)
		}
		types := func(c *channel.Conn, text string) {
			_, _ = c.Write([]byte(text))
			time.Sleep(time.Second)
		}
		time.Sleep(time.Second)
		types(owner, "before ")
		types(mod, "p")
		says <- "meanwhile"
		types(owner, "rm -rf /\n")
		types(peer, "reboot\n")
		if ok, _ := owner.SendRequest("signal", true, payload.Signal{Name: "INT"}.Marshal()); ok || len(signals) > 0 {
			t.Error("a signal passed")
		}
		if text := shown.text(); strings.Contains(text, "meanwhile") {
			t.Errorf("in the pause the owner was shown %q", text)
		}
		_, _ = mod.Write([]byte("r"))
		synctest.Wait()
		types(owner, "on its way when it went on\n")
		types(owner, "after ")
		types(peer, "and")
		if text := got.text(); text != "before after and" {
			t.Errorf("the server was given %q", text)
		}
		if text := shown.text(); !strings.Contains(text, "meanwhile") {
			t.Errorf("after the pause the owner was shown %q", text)
		}
		types(mod, "p")
		close(says) // the server ends it in a pause
		took(t, "the end in a pause", 2*time.Second, ownerOver)
		for _, c := range []*channel.Conn{owner, mod, peer} {
			_ = c.Close()
		}
		w.end()
	})
}

func TestThePanicOfARoomsScreenIsInTheLogWithItsPlace(t *testing.T) {
	var log strings.Builder
	m := &room{x: &session{t: New(Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}), d: Device{Name: "cam3"}, g: &grant.Grant{SessionID: [16]byte{0x3f}}}}
	m.Broken(errors.New("index out of range"), []byte("term.(*Screen).Write"))
	for _, want := range []string{"level=ERROR", "cam3", "3f000000", "index out of range", "term.(*Screen).Write"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %q in %q", want, log.String())
		}
	}
}
