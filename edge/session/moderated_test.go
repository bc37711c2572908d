package session

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pkg/sftp"

	"hawser/auth/policy"
	"hawser/recorder/observe"
	"hawser/recorder/share"
	"hawser/recorder/term"
	"hawser/tunnel"
	"hawser/tunnel/channel/payload"
)

var oneLead = []policy.Moderators{{Count: 1, Roles: []string{"lead"}, OnLeave: policy.OnLeavePause}}

// verdicts is a Tap that tells of input and the verdict on it, one after the other.
type verdicts struct {
	taps
	inputs chan string
}

func (v *verdicts) Input(b []byte, verdict byte) bool {
	v.inputs <- string(rune('0'+verdict)) + string(b)
	return true
}

func (v *verdicts) got(t *testing.T, want string) {
	t.Helper()
	if got := <-v.inputs; got != want {
		t.Fatalf("input %q, want %q", got, want)
	}
}

// taken types until the process gets it: what comes right after a pause counts as typed in it.
func (v *verdicts) taken(c *person, text string) {
	c.t.Helper()
	for got := ""; got != "2"+text; got = <-v.inputs {
		if got != "" && got != "4"+text {
			c.t.Fatalf("input %q", got)
		}
		_, _ = c.ch.Write([]byte(text))
	}
}

// shows reads what the person sees until it has a text.
func (c *person) shows(want string) {
	c.t.Helper()
	c.readUntil(c.ch, want)
}

func (c *person) readUntil(r io.Reader, want string) {
	c.t.Helper()
	seen := func() string {
		if c.screen != nil {
			return strings.Join(c.screen.Text(), "\n")
		}
		return c.out.String()
	}
	for b := make([]byte, 1); !strings.Contains(seen(), want); {
		if _, err := r.Read(b); err != nil {
			c.t.Fatalf("%v before %q:\n%s", err, want, seen())
		}
		if c.screen != nil {
			c.screen.Write(b)
		} else {
			c.out.Write(b)
		}
	}
}

// marked waits for a line of the recording.
func (c *person) marked(want string) {
	c.t.Helper()
	for text := range c.marks {
		if strings.Contains(text, want) {
			return
		}
	}
}

// newID is one that no session of a test before has, whose kill may be under way.
func newID() string { return strconv.FormatInt(time.Now().UnixNano(), 36)[2:] }

// lead joins a session as somebody with the role lead.
func lead(t *testing.T, e *Engine, id, user string, mode share.Mode) *person {
	t.Helper()
	for begun := time.Now(); e.rooms.get(id) == nil; time.Sleep(time.Millisecond) { // its kind was asked for, and answered before it has a room
		if time.Since(begun) > 10*time.Second {
			t.Fatal("there is no session to join")
		}
	}
	c := open(t, e, Params{SessionID: id + "-" + user + mode.String(), User: user, Join: &Join{Session: id, Mode: mode, Way: "by h1", Roles: []string{"lead"}}})
	c.screen = term.New(100, 30)
	c.ask("pty-req", payload.PtyRequest{Term: "xterm", Columns: 100, Rows: 30}.Marshal(), true)
	c.ask("shell", nil, true)
	return c
}

func TestNothingTypedBeforeTheModeratorOrInAPauseRuns(t *testing.T) {
	id, e, tap := newID(), engine(t), &verdicts{inputs: make(chan string)}
	c := open(t, e, Params{SessionID: id, Moderators: oneLead, TTY: new(TTY), Tap: tap, Recorded: policy.RecordBestEffort})
	c.ask("pty-req", payload.PtyRequest{Term: "xterm", Columns: 80, Rows: 24}.Marshal(), true)
	c.exec("echo ready; while read x; do echo got-$x; done")
	c.shows("waits for 1 moderator with the role lead; the line to hand over: hawser join " + id + " --mode moderator (Ctrl-C leaves)")
	_, _ = c.ch.Write([]byte("early\n"))
	tap.got(t, "4early\n")
	own := lead(t, e, id, "alice", share.Moderator) // who started it moderates nothing
	own.shows("moderator of alice's session")
	_, _ = c.ch.Write([]byte("again\n"))
	tap.got(t, "4again\n")
	m := lead(t, e, id, "mo", share.Moderator)
	c.marked("the session begins")
	c.shows("\nready")
	e.rooms.get(id).settles(t)
	_, _ = c.ch.Write([]byte("late\n"))
	tap.got(t, "2late\n")
	c.shows("got-late")

	_, _ = c.ch.Write([]byte("half")) // the terminal has it, and no process
	tap.got(t, "2half")
	_, _ = m.ch.Write([]byte("p"))
	c.marked("mo paused the session")
	_, _ = c.ch.Write([]byte("paused\n"))
	tap.got(t, "4paused\n")
	_, _ = m.ch.Write([]byte("r"))
	c.marked("goes on")
	tap.taken(c, "after\n")
	c.shows("got-after")

	m.ch.Close()
	c.marked("paused until there is 1 moderator with the role lead")
	_, _ = c.ch.Write([]byte("alone\n"))
	tap.got(t, "4alone\n")
	lead(t, e, id, "mia", share.Moderator)
	c.marked("here again")
	tap.taken(c, "two\n\x04")
	exit, _ := c.finish()
	if out := c.out.String(); exit != "0" || !strings.Contains(out, "got-two") || strings.Count(out, "\ngot-") != 3 {
		t.Errorf("%q, %q", exit, out)
	}
}

func TestASessionEndsWithoutItsModeratorsOrWhenThePersonLeaves(t *testing.T) {
	e := engine(t)
	start := func(id string, list []policy.Moderators) *person {
		c := open(t, e, Params{SessionID: id, Moderators: list, TTY: new(TTY)})
		c.ask("pty-req", payload.PtyRequest{Term: "xterm", Columns: 80, Rows: 24}.Marshal(), true)
		c.exec("echo ready; cat")
		c.shows("--mode moderator")
		return c
	}
	id := newID()
	c := start(id, []policy.Moderators{{Count: 1, Roles: []string{"lead"}}})
	m := lead(t, e, id, "mo", share.Moderator)
	c.shows("\nready")
	m.ch.Close()
	if exit, r := c.finish(); exit != "HUP" || r.Err == nil || !strings.Contains(c.out.String(), "there is no longer 1 moderator with the role lead") {
		t.Errorf("%q %v:\n%s", exit, r.Err, c.out.String())
	}
	c = start(newID(), oneLead)
	_, _ = c.ch.Write([]byte("\x03"))
	if exit, r := c.finish(); exit != "255" || !errors.Is(r.Err, errLeft) || strings.Contains(c.out.String(), "\nready") {
		t.Errorf("%q %v:\n%s", exit, r.Err, c.out.String())
	}
	if len(e.rooms.byID) != 0 {
		t.Error("rooms are left")
	}
}

// Without a terminal nothing can be left out of the input, and nothing is.
func TestACommandsInputWaitsForTheModeratorWhole(t *testing.T) {
	id, e := newID(), engine(t)
	c := open(t, e, Params{SessionID: id, Moderators: oneLead})
	in := strings.Repeat("0123456789", 100)
	_, _ = io.WriteString(c.ch, in)
	_ = c.ch.CloseWrite()
	c.exec("cat; echo done >&2")
	c.readUntil(c.ch.StderrReader(), "--mode moderator\r\n")
	if p := lead(t, e, id, "pe", share.Peer); func() string { s, _ := p.finish(); return s }() != "255" {
		t.Error("a peer joined a session without a terminal")
	}
	m := lead(t, e, id, "mo", share.Moderator)
	m.shows("alice: exec on gw-1 as root")
	c.out.Reset()
	if exit, _ := c.finish(); exit != "0" || c.out.String() != in || !strings.HasSuffix(c.err.String(), "done\n") {
		t.Errorf("%s, %d bytes, %q", exit, c.out.Len(), c.err.String())
	}
}

// At a terminal a command may show nothing before it is done.
func TestWhoComesToACommandAtATerminalIsShownIt(t *testing.T) {
	id, e := newID(), engine(t)
	c := open(t, e, Params{SessionID: id, Moderators: oneLead})
	// A row of the command's never looks like one of ours, nor does it drive a screen, whatever size its owner chooses, and when.
	c.ask("pty-req", payload.PtyRequest{Term: "xterm", Columns: 60, Rows: 2}.Marshal(), true)
	c.exec("true '\x1b[2J" + strings.Repeat("x", 80-len("hawser: command: true '\\x1b[2J")) + "everybody required is here'; cat")
	c.shows("(Ctrl-C leaves)")
	c.ask("window-change", payload.WindowChange{Columns: 3, Rows: 1}.Marshal(), true)
	ob := lead(t, e, id, "ob", share.Observer)
	ob.shows("hawser: command: true '\\x1b[2Jx")
	ob.shows("\n  xeverybody required is here'; cat")
	m := lead(t, e, id, "mo", share.Moderator)
	m.shows("the session begins: true '\\x1b[2J") // on a row of his own, whatever the owner's terminal is
	c.marked("the session begins")
	_, _ = c.ch.Write([]byte("\x04"))
}

func TestFilesWaitForTheModeratorWhoSeesThem(t *testing.T) {
	t.Run("asked for alone", func(t *testing.T) { filesWait(t, false) })
	t.Run("asked for at a terminal", func(t *testing.T) { filesWait(t, true) })
}

func filesWait(t *testing.T, terminal bool) {
	id, e := newID(), engine(t)
	dir, err := os.MkdirTemp("", "") // a short name: the page breaks long lines
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := open(t, e, Params{SessionID: id, Moderators: oneLead})
	if terminal {
		c.ask("pty-req", payload.PtyRequest{Term: "xterm", Columns: 80, Rows: 24}.Marshal(), true)
	}
	c.ask("subsystem", payload.Subsystem{Name: "sftp"}.Marshal(), true)
	c.readUntil(c.ch.StderrReader(), "--mode moderator\r\n")
	m := lead(t, e, id, "mo", share.Moderator)
	m.shows("alice: sftp on gw-1 as root")
	c.marked("begins")
	client, err := sftp.NewClientPipe(c.ch, writeCloser{c.ch})
	if err != nil {
		t.Fatal(err)
	}
	f, err := client.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(f)
	f.Close()
	if err != nil || string(got) != "content" {
		t.Errorf("%q, %v", got, err)
	}
	m.shows(filepath.Base(path) + ", 7 bytes")
	client.Close()
}

func TestAForwardIsOpenWhileAModeratorIsInASession(t *testing.T) {
	id, e := newID(), engine(t)
	ctx := t.Context()
	_, leave, err := e.Moderated(ctx, "alice", oneLead, "x")
	if err == nil || !strings.Contains(err.Error(), "1 moderator with the role lead") {
		t.Errorf("nobody is anywhere: %v", err)
	}
	leave() // there is one after a refusal too
	if _, leave, err = e.Moderated(ctx, "alice", nil, "x"); err != nil {
		t.Error(err)
	}
	leave()
	forwardsOnly := []policy.Moderators{{Count: 1, Roles: []string{"lead"}, Channels: []string{policy.LocalForward}}}
	c := open(t, e, Params{SessionID: id, Moderators: forwardsOnly})
	c.exec("echo ready; cat")
	c.shows("ready") // it needs nobody itself
	needs := policy.ModeratorsFor(forwardsOnly, policy.LocalForward)
	if _, _, err := e.Moderated(ctx, "alice", needs, "x"); err == nil {
		t.Error("opened alone")
	}
	lead(t, e, id, "ob", share.Observer).shows("alice: exec")
	m := lead(t, e, id, "mo", share.Moderator)
	m.shows("alice: exec")
	if _, _, err := e.Moderated(ctx, "eve", needs, "x"); err == nil {
		t.Error("somebody else's opened")
	}
	open, leave, err := e.Moderated(ctx, "alice", needs, "a forward to 192.0.2.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	m.shows("192.0.2.1:80")
	m.ch.Close()
	<-open.Done()
	if !errors.Is(context.Cause(open), errUnmoderated) {
		t.Error(context.Cause(open))
	}
}

// A peer is held to the same as the owner.
func TestWhatAPeerTypesInAPauseIsThrownAway(t *testing.T) {
	id, e := newID(), engine(t)
	told := &toldOf{typed: make(chan byte, 10)}
	c := open(t, e, Params{SessionID: id, TTY: new(TTY), Guests: told})
	c.ask("pty-req", payload.PtyRequest{Term: "xterm", Columns: 80, Rows: 24}.Marshal(), true)
	c.exec("echo ready; while read x; do echo got-$x; done")
	c.shows("ready")
	m := lead(t, e, id, "mo", share.Moderator)
	m.shows("moderator of")
	p := lead(t, e, id, "pe", share.Peer)
	p.shows("peer of")
	_, _ = m.ch.Write([]byte("p"))
	p.shows("paused")
	_, _ = p.ch.Write([]byte("one\n"))
	if v := <-told.typed; v != observe.Dropped {
		t.Errorf("verdict %d", v)
	}
	_, _ = m.ch.Write([]byte("r"))
	p.shows("goes on")
	for v := byte(observe.Dropped); v == observe.Dropped; v = <-told.typed {
		_, _ = p.ch.Write([]byte("two\n\x04"))
	}
	if exit, r := c.finish(); exit != "0" || strings.Contains(c.out.String(), "got-one") || !strings.Contains(c.out.String(), "got-two") {
		t.Errorf("%s %v %q", exit, r.Err, c.out.String())
	}
}

type toldOf struct{ typed chan byte }

func (g *toldOf) Changed(share.Member, string) {}
func (g *toldOf) Ready(uint32) bool            { return true }
func (g *toldOf) Say(string)                   {}
func (g *toldOf) Mark(string)                  {}

func (g *toldOf) Typed(_ uint32, _ []byte, verdict byte) bool {
	g.typed <- verdict
	return true
}

// What comes before the start may take long, and a moderator may end the session meanwhile: nothing is started then.
func TestASessionEndedBeforeItsStartStartsNothing(t *testing.T) {
	e, dir := engine(t), t.TempDir()
	slow, ran := filepath.Join(dir, "xauth"), filepath.Join(dir, "ran")
	// By a shell: a file that a child of ours still has open for writing cannot be run.
	script := "#!/bin/sh\ncat >/dev/null\nuntil [ -e " + dir + "/go ]; do sleep 0.02; done\n"
	write := exec.Command("sh", "-c", `cat >"$0" && chmod 700 "$0"`, slow)
	write.Stdin = strings.NewReader(script)
	if err := write.Run(); err != nil {
		t.Fatal(err)
	}
	defer func(was []string) { xauths = was }(xauths)
	xauths = []string{slow}
	openBack := func(context.Context, payload.Accept) (io.ReadWriteCloser, error) { return nil, io.EOF }
	begin := func() (owner, moderator *person) {
		id := newID()
		c := open(t, e, Params{SessionID: id, TTY: new(TTY), OpenBack: openBack})
		c.ask("pty-req", payload.PtyRequest{Term: "xterm", Columns: 80, Rows: 24}.Marshal(), true)
		c.ask("x11-req", payload.X11Request{Protocol: "MIT-MAGIC-COOKIE-1", Cookie: "00"}.Marshal(), true)
		c.exec("echo x >>" + ran + "; echo ready")
		m := lead(t, e, id, "mo", share.Moderator)
		m.shows("moderator of")
		return c, m
	}
	c, m := begin()
	_, _ = m.ch.Write([]byte("T"))
	if _, r := c.finish(); r.Err == nil {
		t.Error("it has no reason")
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("it was started")
	}

	c, m = begin()
	_, _ = m.ch.Write([]byte("p"))
	c.marked("mo paused the session")
	if err := os.WriteFile(dir+"/go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, _ = c.ch.Write([]byte("\x03")) // leaves, as before the start of one that waits for its moderators
	if exit, r := c.finish(); exit != "255" || !errors.Is(r.Err, errLeft) {
		t.Errorf("%s %v", exit, r.Err)
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("it was started in a pause")
	}
}

// settles waits until what is typed is no longer taken for typed before the session began or went on.
func (m *room) settles(t *testing.T) {
	t.Helper()
	for begun := time.Now(); !m.held.Takes(m.held.Turn()); time.Sleep(time.Millisecond) {
		if time.Since(begun) > 10*time.Second {
			t.Fatal("nothing that is typed is taken")
		}
	}
}

// held is a recording that is behind until it is let go.
type held struct {
	verdicts
	toldOf
	asked, letGo chan struct{}
}

func (h *held) wait() bool {
	select {
	case h.asked <- struct{}{}:
	default:
	}
	<-h.letGo
	return true
}

func (h *held) Ready() bool { return h.wait() }

type heldGuests struct{ *held }

func (h heldGuests) Ready(uint32) bool { return h.wait() }

func (h heldGuests) Typed(m uint32, b []byte, verdict byte) bool {
	return h.toldOf.Typed(m, b, verdict)
}
func (h heldGuests) Changed(share.Member, string) {}
func (h heldGuests) Say(string)                   {}
func (h heldGuests) Mark(string)                  {}

// A recording that is behind holds up what is typed; a pause that begins and ends meanwhile was a pause for it all the same.
func TestWhatIsHeldUpOverAPauseIsThrownAway(t *testing.T) {
	for _, who := range []string{"owner", "peer"} {
		id, e := newID(), engine(t)
		h := &held{asked: make(chan struct{}, 1), letGo: make(chan struct{})}
		h.inputs, h.typed = make(chan string, 10), make(chan byte, 10)
		params := Params{SessionID: id, TTY: new(TTY), Recorded: policy.RecordBestEffort}
		if who == "owner" {
			params.Tap = h
		} else {
			params.Guests = heldGuests{h}
		}
		c := open(t, e, params)
		c.ask("pty-req", payload.PtyRequest{Term: "xterm", Columns: 80, Rows: 24}.Marshal(), true)
		c.exec("echo ready; while read x; do echo got-$x; done")
		c.shows("ready")
		m := lead(t, e, id, "mo", share.Moderator)
		m.shows("moderator of")
		typist := c
		if who == "peer" {
			typist = lead(t, e, id, "pe", share.Peer)
			typist.shows("peer of")
		}
		_, _ = typist.ch.Write([]byte("one\n"))
		<-h.asked
		_, _ = m.ch.Write([]byte("p"))
		m.shows("mo paused")
		_, _ = m.ch.Write([]byte("r"))
		m.shows("goes on")
		room := e.rooms.get(id)
		room.settles(t)
		close(h.letGo)
		if who == "owner" {
			if got := <-h.inputs; got != "4one\n" {
				t.Errorf("%s: %q", who, got)
			}
		} else if v := <-h.typed; v != observe.Dropped {
			t.Errorf("%s: verdict %d", who, v)
		}
		c.ch.Close()
		if r := <-c.result; strings.Contains(c.out.String(), "got-") {
			t.Errorf("%s: %v %q", who, r, c.out.String())
		}
	}
}

// What is typed into a window goes by no terminal, and past the moderators.
func TestNoX11WhereModeratorsAreRequiredAndAnAgentWaitsInAPause(t *testing.T) {
	e := engine(t)
	defer func(was []string) { xauths = was }(xauths)
	xauths = []string{"/bin/true"}
	openBack := func(context.Context, payload.Accept) (io.ReadWriteCloser, error) { return nil, io.EOF }
	cookie := payload.X11Request{Protocol: "MIT-MAGIC-COOKIE-1", Cookie: "00"}.Marshal()
	c := open(t, e, Params{Moderators: oneLead, OpenBack: openBack})
	c.ask("x11-req", cookie, false)
	c = open(t, e, Params{Moderators: []policy.Moderators{{Count: 1, Channels: []string{policy.LocalForward}}}, OpenBack: openBack})
	c.ask("x11-req", cookie, true)

	m := &room{held: share.NewGate()}
	m.held.Pause(true, nil)
	s := &session{params: Params{OpenBack: func(context.Context, payload.Accept) (io.ReadWriteCloser, error) {
		return asked{t: t}, nil
	}}}
	s.shared.Store(m)
	ch, err := s.openAgent()(t.Context(), payload.Accept{})
	if err != nil {
		t.Fatal(err)
	}
	m.end() // and the session is over before it goes on
	if _, err := ch.Write([]byte("sign")); !errors.Is(err, observe.ErrOver) {
		t.Error(err)
	}
}

// asked is an agent that may not be asked.
type asked struct {
	io.ReadWriteCloser
	t *testing.T
}

func (a asked) Write(b []byte) (int, error) {
	a.t.Error("it was asked")
	return len(b), nil
}

func TestThePanicOfARoomsScreenIsInTheLogWithItsPlace(t *testing.T) {
	var log strings.Builder
	e := New(Config{Logger: tunnel.NewTextLogger(&log, tunnel.LevelInfo)})
	(&room{s: &session{engine: e, params: Params{SessionID: "3f2a91"}}}).Broken(errors.New("index out of range"), []byte("term.(*Screen).Write"))
	for _, want := range []string{"level=error", "3f2a91", "index out of range", "term.(*Screen).Write"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %q in %q", want, log.String())
		}
	}
}
