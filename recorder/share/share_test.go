package share

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hawser/recorder/paint"
	"hawser/recorder/term"
)

// host is a session that keeps what it is told.
type host struct {
	mu     sync.Mutex
	typed  []string
	said   []string
	marked []string
	ended  string
	pause  []bool
	drawn  int
	broken string
}

func (h *host) add(list *[]string, s string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	*list = append(*list, s)
}

func (h *host) Type(m uint32, b []byte) error {
	h.add(&h.typed, fmt.Sprintf("%d:%s", m, b))
	return nil
}
func (h *host) Changed(m Member, change string) {
	h.add(&h.typed, fmt.Sprintf("%d:%s %s %s", m.ID, m.User, m.Mode, change))
}
func (h *host) Say(text string)   { h.add(&h.said, text) }
func (h *host) Mark(text string)  { h.add(&h.marked, text) }
func (h *host) End(reason string) { h.ended = reason }
func (h *host) Pause(on bool)     { h.pause = append(h.pause, on) }
func (h *host) Redraw()           { h.drawn++ }
func (h *host) Broken(panicked any, stack []byte) {
	h.broken = fmt.Sprintf("%v\n%s", panicked, stack)
}

// person is a guest at a terminal.
type person struct {
	*term.Screen
	mu     sync.Mutex
	in     *io.PipeWriter
	size   chan [2]int
	left   chan error
	stuck  chan struct{} // not nil: reads nothing until it is closed
	cancel context.CancelFunc
}

func (p *person) Write(b []byte) (int, error) {
	p.mu.Lock()
	stuck := p.stuck
	p.mu.Unlock()
	if stuck != nil {
		<-stuck
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.Screen.Write(b)
}

func (p *person) sees() string {
	synctest.Wait()
	time.Sleep(2 * pace)
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.TrimRight(strings.Join(p.Text(), "\n"), "\n")
}

// quiet is sees when no note is shown any more.
func (p *person) quiet() string {
	time.Sleep(noteTime)
	return p.sees()
}

func join(t *testing.T, r *Room, user string, m Mode, cols, rows int) *person {
	t.Helper()
	in, w := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	p := &person{Screen: term.New(cols, rows), in: w, size: make(chan [2]int), left: make(chan error, 1), cancel: cancel}
	var wg sync.WaitGroup
	go func() {
		p.left <- r.Join(ctx, Guest{User: user, Way: "hub h1", Mode: m, Cols: cols, Rows: rows, Resized: p.size, In: in, Out: p, Welcome: "welcome", Go: wg.Go})
		in.Close()
		wg.Wait()
	}()
	t.Cleanup(func() { cancel(); w.Close() })
	synctest.Wait()
	return p
}

func TestAGuestSeesTheScreenAsItIsAndWhatComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := new(host)
		r := New(h, 20, 5)
		r.Output([]byte("\x1b[1m$ ls\x1b[m\r\na  b"))
		p := join(t, r, "bob", Observer, 30, 8)
		if got := p.sees(); !strings.Contains(got, "welcome") || !strings.Contains(got, "$ ls") {
			t.Errorf("first picture:\n%s", got)
		}
		r.Output([]byte("\r\n$ exit"))
		if got := p.quiet(); got != "$ ls                │\na  b                │\n$ exit              │\n                    │\n                    │\n────────────────────┘" {
			t.Errorf("then:\n%s", got)
		}
		r.Resize(10, 2)
		if got := p.sees(); !strings.HasSuffix(got, "\n──────────┘") {
			t.Errorf("smaller:\n%s", got)
		}
		p.size <- [2]int{4, 1}
		if h.drawn != 1 {
			t.Errorf("the program was asked %d times to draw itself anew", h.drawn)
		}
		_, _ = p.in.Write([]byte("rm -rf /\r"))
		_, _ = p.in.Write([]byte{ctrlC})
		if err := <-p.left; !errors.Is(err, ErrLeft) {
			t.Errorf("left: %v", err)
		}
		if want := []string{"1:bob observer joined", "1:bob observer left"}; !slices.Equal(h.typed, want) {
			t.Errorf("the session got %q", h.typed)
		}
		if !slices.Equal(h.said, []string{"bob joined (observer, hub h1)", "bob left"}) {
			t.Errorf("the owner was told %q", h.said)
		}
		if p.AltScreen() || !p.CursorVisible() {
			t.Error("the guest's terminal is not as it was")
		}
	})
}

func TestAGuestWhoReadsNothingHoldsUpNobodyAndThenSeesTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(new(host), 20, 2)
		slow, fast := join(t, r, "slow", Observer, 20, 3), join(t, r, "fast", Observer, 20, 3)
		fast.quiet()
		stuck := make(chan struct{})
		slow.mu.Lock()
		slow.stuck = stuck
		slow.mu.Unlock()
		for i := range 100_000 {
			r.Output(fmt.Appendf(nil, "\r\n%d", i))
		}
		if got := fast.sees(); !strings.Contains(got, "99999") {
			t.Errorf("the other sees\n%s", got)
		}
		close(stuck)
		slow.mu.Lock()
		slow.stuck = nil
		slow.mu.Unlock()
		if got := slow.sees(); !strings.Contains(got, "99998\n99999") && !strings.Contains(got, "99999") {
			t.Errorf("he sees\n%s", got)
		}
	})
}

func TestAGuestWhoReadsNothingIsToldOfToWhoeverCanEndThat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, ends := range map[string]func(*Room){"put out": func(r *Room) { r.PutOut("bob", "enough") }, "over": func(r *Room) { r.Close("enough") }} {
			r := New(new(host), 20, 2)
			out, closes := io.Pipe() // nobody reads
			in, _ := io.Pipe()
			left := make(chan error, 1)
			go func() {
				left <- r.Join(t.Context(), Guest{
					User: "bob", Mode: Observer, Cols: 20, Rows: 3, In: in, Out: closes, Ends: func(error) { out.Close() }, Go: func(f func()) { go f() },
				})
				in.Close()
			}()
			synctest.Wait()
			ends(r)
			if err := <-left; !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("%s: %v", name, err)
			}
			if len(r.Members()) != 0 {
				t.Errorf("%s: he is still in", name)
			}
		}
	})
}

func TestAPeerTypesUnderHisOwnNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := new(host)
		r := New(h, 20, 2)
		join(t, r, "ann", Observer, 20, 3)
		p := join(t, r, "bob", Peer, 20, 3)
		_, _ = p.in.Write([]byte("id\x03"))
		p.in.Close()
		<-p.left
		if want := []string{"1:ann observer joined", "2:bob peer joined", "2:id\x03", "2:bob peer left"}; !slices.Equal(h.typed, want) {
			t.Errorf("%q", h.typed)
		}
		if m := r.Members(); len(m) != 1 || m[0].User != "ann" {
			t.Errorf("members: %v", m)
		}
	})
}

// slowHost is one whose Type stays until it is let on, and asks then who is in.
type slowHost struct {
	host
	r  *Room
	on chan struct{}
}

func (h *slowHost) Type(m uint32, b []byte) error {
	<-h.on
	if h.r.In(m) {
		return h.host.Type(m, b)
	}
	return ErrLeft
}

func TestNothingIsTakenOfAGuestAfterHisEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &slowHost{on: make(chan struct{})}
		r := New(h, 20, 2)
		h.r = r
		p := join(t, r, "bob", Peer, 20, 3)
		ctx, cancel := context.WithCancelCause(t.Context())
		in, w := io.Pipe()
		left, read := make(chan error, 1), make(chan struct{})
		var all sync.WaitGroup
		go func() {
			left <- r.Join(ctx, Guest{User: "eve", Mode: Peer, Cols: 20, Rows: 3, In: in, Out: io.Discard, Go: all.Go})
			all.Wait()
			close(read)
		}()
		synctest.Wait()
		killed := errors.New("killed")
		cancel(killed)
		if err := <-left; !errors.Is(err, killed) {
			t.Errorf("left: %v", err)
		}
		go func() { _, _ = w.Write([]byte("reboot\r")) }() // what her client had sent
		synctest.Wait()
		select {
		case <-read:
		default:
			t.Error("it is still taken")
		}
		_, _ = p.in.Write([]byte("halt\r")) // which waits
		synctest.Wait()
		p.cancel()
		<-p.left
		close(h.on)
		synctest.Wait()
		in.Close()
		if slices.ContainsFunc(h.typed, func(s string) bool { return strings.HasSuffix(s, "\r") }) {
			t.Errorf("the session got %q", h.typed)
		}
	})
}

func TestAModeratorPausesAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := new(host)
		r := New(h, 40, 2)
		o := join(t, r, "ann", Observer, 60, 5)
		p := join(t, r, "bob", Moderator, 60, 5)
		time.Sleep(greetTime)
		_, _ = p.in.Write([]byte("pp"))
		if got := o.sees(); !strings.Contains(got, "bob paused the session") {
			t.Errorf("the others see\n%s", got)
		}
		for _, keys := range []string{"r", "T", "p"} {
			_, _ = p.in.Write([]byte(keys))
		}
		time.Sleep(time.Second)
		p.cancel() // and with him whoever could let it go on
		<-p.left
		if !slices.Equal(h.pause, []bool{true, false, true, false}) || h.ended != "ended by the moderator bob" {
			t.Errorf("paused %v, ended %q", h.pause, h.ended)
		}
		for _, fact := range []string{"2:bob moderator paused", "2:bob moderator resumed", "2:bob moderator ended"} {
			if !slices.Contains(h.typed, fact) {
				t.Errorf("the recording is not told %q, but %q", fact, h.typed)
			}
		}
	})
}

// deafHost is one that takes nothing of what it is told, until it hears: its owner's stream is stuck.
type deafHost struct {
	host
	hears chan struct{}
}

func (h *deafHost) Changed(m Member, change string) { <-h.hears; h.host.Changed(m, change) }
func (h *deafHost) Say(text string)                 { <-h.hears; h.host.Say(text) }
func (h *deafHost) Mark(text string)                { <-h.hears; h.host.Mark(text) }

// A session's last words were never seen by a guest when it ended within the pace of pictures.
func TestAGuestSeesWhatASessionShowedLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(new(host), 40, 2)
		sent := new(bytes.Buffer)
		bob := comesBy(t, r, Guest{User: "bob", Mode: Observer, Out: sent})
		time.Sleep(time.Minute)
		r.Output([]byte("goodbye"))
		r.Close("the session has ended")
		<-bob.left
		if text := sent.String(); !strings.Contains(text, "goodbye") || !strings.HasSuffix(text, paint.Leave) {
			t.Errorf("he is sent %q", text)
		}
	})
}

// Why a session ended was kept from a guest until its owner's stream had taken that he left: where that was slow he read nothing.
func TestAGuestIsToldWhyHisStayIsOverBeforeAnybodyIsToldThatItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &deafHost{hears: make(chan struct{}, 1000)}
		r := New(h, 40, 2)
		over := make(chan error, 2)
		comesBy(t, r, Guest{User: "bob", Mode: Observer, Over: func(err error) { over <- err }})
		time.Sleep(time.Second)
		r.Close("the session has ended")
		synctest.Wait()
		select {
		case err := <-over:
			if _, ok := errors.AsType[*ClosedError](err); !ok {
				t.Errorf("told %v", err)
			}
		default:
			t.Error("he is not told until it heard who left")
		}
		for range 100 {
			h.hears <- struct{}{}
		}
		synctest.Wait()
		if len(over) != 0 {
			t.Error("told twice")
		}
	})
}

func TestNothingAModeratorDoesWaitsForWhoIsToldOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &deafHost{hears: make(chan struct{}, 1000)}
		r := New(h, 40, 2)
		r.Require(Rules{Owner: "ann", Needs: []Need{moderators(1, "lead", false)}})
		for range 1000 {
			h.hears <- struct{}{}
		}
		comes(t, r, "bob", Moderator, "lead").cancel()
		synctest.Wait()
		for range len(h.hears) { // from here on it is deaf
			<-h.hears
		}
		said := func() string {
			synctest.Wait()
			return fmt.Sprintf("%v %s %d", h.pause, h.ended, len(r.Members()))
		}
		if got := said(); got != "[true]  0" {
			t.Fatalf("it begins with %s", got)
		}
		cyd := comes(t, r, "cyd", Moderator, "lead")
		if got := said(); got != "[true false]  1" {
			t.Errorf("who comes does not count: %s", got)
		}
		for _, key := range "pT" {
			_, _ = cyd.in.Write([]byte(string(key)))
			time.Sleep(time.Second)
		}
		if got := said(); got != "[true false true] ended by the moderator cyd 1" {
			t.Errorf("p and T: %s", got)
		}
		_, _ = cyd.in.Write([]byte{ctrlC})
		synctest.Wait()
		if got := said(); !strings.HasSuffix(got, " 0") {
			t.Errorf("Ctrl-C: %s", got)
		}
		dan := comes(t, r, "dan", Moderator, "lead")
		if n := r.PutOut("dan", "enough"); n != 1 { // which returns
			t.Errorf("%d were put out", n)
		}
		time.Sleep(time.Second)
		if len(r.Members()) != 0 {
			t.Errorf("in are %v", r.Members())
		}
		close(h.hears)
		<-cyd.left
		<-dan.left
		for _, says := range []string{"cyd joined (moderator, )", "cyd left", "dan joined (moderator, )", "dan was put out"} {
			if !slices.Contains(h.said, says) {
				t.Errorf("the owner is not told %q, but %q", says, h.said)
			}
		}
		want := []string{
			"2:cyd moderator joined", "2:cyd moderator paused", "2:cyd moderator ended", "2:cyd moderator left",
			"3:dan moderator joined", "3:dan moderator put-out",
		}
		for i, fact := range want {
			if at := slices.Index(h.typed, fact); at < 0 || i%4 > 0 && at < slices.Index(h.typed, want[i-1]) {
				t.Errorf("%q is told out of order, or not: %q", fact, h.typed)
			}
		}
	})
}

func TestAModeratorsKeysFillNoRecording(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := new(host)
		r := New(h, 40, 2)
		p := join(t, r, "bob", Moderator, 60, 5)
		began := time.Now()
		for range 50 {
			_, _ = p.in.Write([]byte(strings.Repeat("pr", guestInput/2)))
			_, _ = p.in.Write([]byte(strings.Repeat("rp", guestInput/2)))
		}
		synctest.Wait()
		if most := 2 + 2*int(time.Since(began)/changePace); len(h.marked) > most || len(h.pause) > most || r.PausedBy() != "bob" {
			t.Errorf("%d marks, %d pauses in %v; paused by %q, who pressed p last", len(h.marked), len(h.pause), time.Since(began), r.PausedBy())
		}
	})
}

// Nobody who leaves undoes the pause of one who comes meanwhile.
func TestAPauseLastsWhileAModeratorIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := new(host)
		r := New(h, 40, 2)
		ann := join(t, r, "ann", Moderator, 60, 5)
		bob := join(t, r, "bob", Moderator, 60, 5)
		_, _ = ann.in.Write([]byte("p"))
		synctest.Wait() // what is read and not heeded yet ends with her stay
		ann.cancel()
		<-ann.left
		if r.pause("", r.moderatedLocked) != nil || !slices.Equal(h.pause, []bool{true}) || r.PausedBy() != "ann" {
			t.Errorf("bob is there, and it goes on: %v", h.pause)
		}
		bob.cancel()
		synctest.Wait()
		if <-bob.left; !slices.Equal(h.pause, []bool{true, false}) {
			t.Errorf("nobody can let it go on: %v", h.pause)
		}
	})
}

func TestGuestsArePutOutAndTheRoomCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := new(host)
		r := New(h, 20, 2)
		a, b := join(t, r, "ann", Observer, 20, 3), join(t, r, "bob", Observer, 20, 3)
		if n := r.PutOut("ann", "enough"); n != 1 {
			t.Errorf("%d were put out", n)
		}
		if err := <-a.left; err.Error() != "enough" {
			t.Errorf("ann: %v", err)
		}
		r.Close("over")
		if err := <-b.left; err.Error() != "over" {
			t.Errorf("bob: %v", err)
		}
		if err := r.Join(t.Context(), Guest{}); err == nil || err.Error() != "over" {
			t.Errorf("a closed room let somebody in: %v", err)
		}
		r.Output([]byte("on"))
		if !slices.Contains(h.typed, "1:ann observer put-out") {
			t.Errorf("%q", h.typed)
		}
	})
}

func TestARoomTakesSixteen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(new(host), 20, 2)
		for i := range MaxGuests {
			join(t, r, fmt.Sprint("x", i), Observer, 20, 3)
		}
		if err := r.Join(t.Context(), Guest{Go: func(func()) {}}); !errors.Is(err, ErrFull) {
			t.Errorf("the next: %v", err)
		}
	})
}

// Who comes late, to a session of any length, sees what he would see had he been there, as far as its last 48 KiB say.
func TestALateGuestSeesAFullScreenProgramWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(new(host), 40, 5)
		seen := term.New(40, 5)
		out := func(s string) {
			r.Output([]byte(s))
			seen.Write([]byte(s))
		}
		out("shell\r\n\x1b[?1049h\x1b[2J")
		for i := range 20_000 {
			out(fmt.Sprintf("\x1b[%d;1H\x1b[Kline %d", 1+i%5, i))
		}
		for range 2 { // and again when all have gone
			p := join(t, r, "bob", Observer, 40, 5)
			if got, want := p.quiet(), strings.Join(seen.Text(), "\n"); got != want {
				t.Errorf("sees\n%s\nnot\n%s", got, want)
			}
			p.cancel()
			<-p.left
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if !bytes.Contains(r.tail.b, altOn) || len(r.tail.b) > 2*tailSize {
			t.Errorf("%d bytes are kept: %.60q", len(r.tail.b), r.tail.b)
		}
	})
}

// Where it takes more to say what the screen shows than a tail has room for, it was said all the same, in megabytes.
func TestAScreenThatNoTailSaysIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, seen := New(new(host), 100, 40), term.New(100, 40)
		out := func(s string) {
			r.Output([]byte(s))
			seen.Write([]byte(s))
		}
		for range 2 {
			p := join(t, r, "bob", Observer, 100, 40)
			for i := range 100*40 - 10 {
				out(fmt.Sprintf("\x1b[38;2;%d;%d;1m%c", i&0xff, i>>8, 'a'+i%26))
			}
			p.cancel()
			<-p.left
			out("\x1b[H")
		}
		p := join(t, r, "bob", Observer, 100, 40)
		time.Sleep(time.Second) // a picture that is so long comes in pieces
		if got, want := p.quiet(), strings.Join(seen.Text(), "\n"); got != want {
			t.Errorf("sees\n%s\nnot\n%s", got, want)
		}
		p.cancel()
		<-p.left
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.screen == nil || len(r.tail.b) != 0 {
			t.Errorf("a tail of %d bytes is kept, and a screen: %v", len(r.tail.b), r.screen != nil)
		}
	})
}

func TestGuestsAreToldWhatTheyAreNotShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(new(host), 60, 5)
		r.MaxCells = 600
		for i := range 30 {
			r.Output(fmt.Appendf(nil, "\r\nline %d", i))
		}
		p := join(t, r, "bob", Observer, 60, 10)
		if got := p.quiet(); strings.Contains(got, "are shown") {
			t.Errorf("all of it is shown:\n%s", got)
		}
		r.Resize(60, 30)
		if got := p.sees(); !strings.Contains(got, "this terminal has 30 rows, and the first 10 are shown") {
			t.Errorf("he sees\n%s", got)
		}
		late := join(t, r, "ann", Observer, 60, 10)
		if got := late.sees(); !strings.Contains(got, "welcome") {
			t.Errorf("at first\n%s", got)
		}
		time.Sleep(greetTime)
		if got := late.sees(); !strings.Contains(got, "this terminal has 30 rows, and the first 10 are shown") {
			t.Errorf("then\n%s", got)
		}
		r.Output([]byte("\x1b[2J\x1b[H"))
		for i := range 30 {
			r.Output(fmt.Appendf(nil, "\r\nrow %d", i))
		}
		if got := late.quiet(); !strings.Contains(got, "row 29") || strings.Count(got, "row") != 10 {
			t.Errorf("with more output\n%s", got)
		}
	})
}

func TestATailBeginsWhereATerminalCan(t *testing.T) {
	for _, size := range []int{tailSize - 1, tailSize, tailSize + 1, 3 * tailSize, 10 * tailSize} {
		for _, piece := range []string{"\x1b[31mred\x1b[m\r\n", strings.Repeat("x", 30_000) + "\n", "\x1b[?1049h\x1b[?1049l"} {
			var tl tail
			for n := 0; n < size; n += len(piece) {
				tl.write([]byte(piece))
			}
			if len(tl.b) > tailSize || len(tl.b) == 0 || tl.alt {
				t.Errorf("%d of %.10q: %d are kept, alternate screen %v", size, piece, len(tl.b), tl.alt)
			}
			if c := tl.b[0]; tl.cut && len(piece) < 1024 && c != '\n' && c != 0x1b {
				t.Errorf("%d of %.10q: begins with %.20q", size, piece, tl.b)
			}
		}
	}
}

func TestEveryPictureBeginsOnTheAlternateScreen(t *testing.T) {
	if !strings.HasPrefix(paint.Enter, string(altOn)) || !strings.HasSuffix(paint.Leave, string(altOff)) {
		t.Error("a guest's own screen would be drawn on")
	}
}
