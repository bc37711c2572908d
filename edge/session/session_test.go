package session

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pkg/sftp"

	"golang.org/x/sys/unix"

	"hawser/auth/policy"
	"hawser/edge/login"
	"hawser/edge/pty"
	"hawser/recorder"
	"hawser/recorder/observe"
	"hawser/recorder/share"
	"hawser/recorder/term"
	"hawser/tunnel/channel"
	"hawser/tunnel/channel/payload"
)

func TestMain(m *testing.M) {
	if code, ok := RunHelper(os.Args); ok {
		os.Exit(code)
	}
	if os.Getenv(asAgent) != "" {
		agentUntilKilled()
	}
	if os.Getenv(asHeadless) != "" {
		headless()
	}
	os.Exit(m.Run())
}

// person is the hub's end of a session: what a client would see.
type person struct {
	t        *testing.T
	ch       *channel.Conn
	out, err bytes.Buffer
	status   chan string
	done     chan struct{}
	result   chan Result
	cancel   context.CancelCauseFunc
	marks    chan string  // what belongs into the recording
	screen   *term.Screen // of one who joins; nil: he is no guest
}

const accounts = "root:x:0:0:root:/:/bin/sh\nbob:x:4242:4343:Bob:/nonexistent:/bin/sh\nnix:x:4244:4343::/:/usr/sbin/nologin\nold:x:4245:4343::/:/bin/sh\n"

func system(t *testing.T) login.System {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{"passwd": accounts, "group": "tty:x:5:\nteam:x:4400:bob\n", "shadow": "old:*:1:0:99999:7::2:\n"} {
		if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return login.System{Root: root}
}

func open(t *testing.T, e *Engine, p Params) *person {
	t.Helper()
	a, b := net.Pipe()
	hub, edge := channel.New(a, channel.Options{}), channel.New(b, channel.Options{})
	ctx, cancel := context.WithCancelCause(t.Context())
	c := &person{t: t, ch: hub, status: make(chan string, 1), done: make(chan struct{}), result: make(chan Result, 1), cancel: cancel, marks: make(chan string, 100)}
	if p.Login == "" {
		p.Login = "root"
	}
	if p.SessionID == "" {
		p.SessionID = fmt.Sprintf("test-%d", time.Now().UnixNano())
	}
	p.User = cmp.Or(p.User, "alice")
	if p.Guests == nil {
		p.Guests = share.NewTold(edge, p.Recorded != "", policy.StdinOff)
	}
	p.Client, p.Server = netip.MustParseAddrPort("192.0.2.1:1234"), netip.MustParseAddrPort("192.0.2.2:22")
	go func() { c.result <- e.Serve(ctx, edge, p) }()
	go func() {
		defer close(c.done)
		for r := range hub.Requests() {
			switch r.Type {
			case "exit-status":
				s, _ := payload.ParseExitStatus(r.Payload)
				c.status <- fmt.Sprint(s.Status)
			case "exit-signal":
				s, _ := payload.ParseExitSignal(r.Payload)
				c.status <- s.Signal
			case payload.GuestRequest:
				if g, _ := payload.ParseGuest(r.Payload); g.What == payload.GuestMarked {
					c.marks <- g.Text
				}
			}
			_ = r.Reply(false)
		}
	}()
	t.Cleanup(func() { hub.Close(); <-c.done })
	return c
}

func (c *person) ask(name string, p []byte, want bool) {
	c.t.Helper()
	got, err := c.ch.SendRequest(name, true, p)
	if err != nil || got != want {
		c.t.Fatalf("%s: got %v %v, want %v", name, got, err, want)
	}
}

func (c *person) exec(command string) { c.ask("exec", payload.Exec{Command: command}.Marshal(), true) }

// finish reads all output and returns the exit.
func (c *person) finish() (string, Result) {
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(&c.out, c.ch) })
	wg.Go(func() { _, _ = io.Copy(&c.err, c.ch.StderrReader()) })
	wg.Wait()
	select {
	case s := <-c.status:
		c.ch.Close()
		return s, <-c.result
	case <-c.done:
	}
	select {
	case s := <-c.status:
		return s, <-c.result
	default:
		return "", <-c.result
	}
}

func engine(t *testing.T) *Engine {
	e := New(Config{Device: func() string { return "gw-1" }, System: system(t)})
	t.Cleanup(e.Close)
	return e
}

func TestOutputErrorAndStatusStayApart(t *testing.T) {
	e := engine(t)
	for _, tc := range []struct{ command, out, err, exit string }{
		{"echo o; echo e >&2; exit 7", "o\n", "e\n", "7"},
		{"kill -TERM $$", "", "", "TERM"},
		{"true", "", "", "0"},
		{"nosuchcommand 2>/dev/null", "", "", "127"},
	} {
		c := open(t, e, Params{})
		c.exec(tc.command)
		_ = c.ch.CloseWrite()
		exit, _ := c.finish()
		if c.out.String() != tc.out || c.err.String() != tc.err || exit != tc.exit {
			t.Errorf("%q: %q %q %q", tc.command, c.out.String(), c.err.String(), exit)
		}
	}
}

func TestNoOutputIsEverEmpty(t *testing.T) {
	e := engine(t)
	for i := range 200 {
		c := open(t, e, Params{})
		c.exec("echo x")
		if exit, _ := c.finish(); c.out.String() != "x\n" || exit != "0" {
			t.Fatalf("run %d: %q %q", i, c.out.String(), exit)
		}
	}
}

func TestFiftyMegabytesBothWays(t *testing.T) {
	c := open(t, engine(t), Params{})
	c.exec("cat")
	in, out := sha256.New(), sha256.New()
	go func() {
		b := bytes.Repeat([]byte("0123456789abcdefghijklmnopqrstuv"), 1024)
		for i := range 1600 {
			b[0] = byte(i)
			in.Write(b)
			_, _ = c.ch.Write(b)
		}
		_ = c.ch.CloseWrite()
	}()
	n, err := io.Copy(out, c.ch)
	if err != nil || n != 1600*32768 || !bytes.Equal(in.Sum(nil), out.Sum(nil)) {
		t.Fatalf("%d bytes, %v", n, err)
	}
}

func TestTheEnvironmentCanNotBeForged(t *testing.T) {
	c := open(t, engine(t), Params{SessionID: "the-id"})
	for name, ok := range map[string]bool{"LC_ALL": true, "LANG": true, "HAWSER_USER": false, "LD_PRELOAD": false, "PATH": false, "BASH_ENV": false} {
		c.ask("env", payload.Env{Name: name, Value: "mine"}.Marshal(), ok)
	}
	c.exec("env; pwd")
	c.finish()
	for _, want := range []string{"HAWSER_SESSION=the-id", "HAWSER_USER=alice", "HAWSER_DEVICE=gw-1", "LC_ALL=mine", "SSH_CONNECTION=192.0.2.1 1234 192.0.2.2 22", "LOGNAME=root"} {
		if !strings.Contains("\n"+c.out.String(), "\n"+want+"\n") {
			t.Errorf("no %s in\n%s", want, c.out.String())
		}
	}
	if strings.Contains(c.out.String(), "PRELOAD") || strings.Contains(c.out.String(), "PATH=mine") {
		t.Error(c.out.String())
	}
}

func TestProcessRunsAsTheLogin(t *testing.T) {
	c := open(t, engine(t), Params{Login: "bob"})
	c.exec("id -u; id -g; id -G; pwd")
	c.finish()
	if got := c.out.String(); got != "4242\n4343\n4343 4400\n/\n" {
		t.Errorf("%q %q", got, c.err.String())
	}
}

func TestRefusalsAreTheSameForEveryKind(t *testing.T) {
	e := engine(t)
	for _, name := range []string{"nobody-here", "old"} {
		for _, kind := range []string{"shell", "exec", "subsystem"} {
			c := open(t, e, Params{Login: name})
			c.ask(kind, map[string][]byte{"exec": payload.Exec{Command: "id"}.Marshal(), "subsystem": payload.Subsystem{Name: "sftp"}.Marshal()}[kind], true)
			exit, r := c.finish()
			if exit != "255" || !strings.Contains(c.err.String(), name) || !(errors.Is(r.Err, login.ErrUnknown) || errors.Is(r.Err, login.ErrRefused)) {
				t.Errorf("%s %s: %q %q %v", name, kind, exit, c.err.String(), r.Err)
			}
		}
	}
}

func TestMalformedRequestsAreRefusedAndTheSessionLives(t *testing.T) {
	c := open(t, engine(t), Params{})
	for _, bad := range [][]byte{nil, {0xff, 0xff, 0xff, 0xff}, {0, 0, 0, 2, 'a'}, {0, 0, 0, 1, 'a', 'b'}} {
		for _, kind := range []string{"exec", "env", "pty-req", "subsystem", "signal", "window-change"} {
			c.ask(kind, bad, false)
		}
	}
	c.exec("echo alive")
	if c.finish(); c.out.String() != "alive\n" {
		t.Error(c.out.String())
	}
}

func TestTerminalEchoesResizesAndEndsWithItsLeader(t *testing.T) {
	tty := new(TTY)
	c := open(t, engine(t), Params{TTY: tty, Redact: true})
	c.ask("pty-req", payload.PtyRequest{Term: "xterm", Columns: 80, Rows: 24, Modes: "\x35\x00\x00\x00\x00\x00"}.Marshal(), true)
	c.ask("window-change", payload.WindowChange{Columns: 100, Rows: 50}.Marshal(), true)
	c.exec("stty size; echo $TERM; (sleep 60 &); tty; read x; echo got $x")
	_, _ = c.ch.Write([]byte("hello\n"))
	exit, _ := c.finish()
	got := c.out.String()
	if !strings.HasPrefix(got, "50 100\r\nxterm\r\n/dev/pts/") || !strings.HasSuffix(got, "got hello\r\n") || exit != "0" {
		t.Errorf("%q %q", got, exit)
	}
	if tty.Tag() != observe.Withhold {
		t.Error("ECHO was off and lines were read: the tag must say so")
	}
}

// taps keeps what a Tap is told.
type taps struct {
	mu             sync.Mutex
	kept, withheld bytes.Buffer
	uses           []recorder.AgentUse
}

func (p *taps) Start(string, string, string, []string) error { return nil }
func (p *taps) Output(byte, []byte) bool                     { return true }
func (p *taps) Resize(uint32, uint32)                        {}
func (p *taps) Exit(uint32, string)                          {}
func (p *taps) Ready() bool                                  { return true }

func (p *taps) Input(b []byte, verdict byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if verdict == observe.Keep {
		p.kept.Write(b)
	} else {
		p.withheld.Write(b)
	}
	return true
}

func (p *taps) AgentUse(u recorder.AgentUse) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.uses = append(p.uses, u)
}

func TestOnlyWhatAPromptEchoesIsToldAsKept(t *testing.T) {
	tap := new(taps)
	c := open(t, engine(t), Params{TTY: new(TTY), Tap: tap, Redact: true})
	c.ask("pty-req", payload.PtyRequest{Term: "xterm", Columns: 80, Rows: 24}.Marshal(), true)
	// Who hides the echo within microseconds of an Enter may have that withheld.
	c.exec("read a; sleep 1; stty -echo; echo password; read b; stty echo; echo again; read c; stty raw -echo; echo raw; head -c 3; stty sane; echo $a $c")
	for _, step := range [][2]string{{"", "first\n"}, {"password", "secret\n"}, {"again", "third\n"}, {"raw", "raw"}} {
		for shown := ""; !strings.Contains(shown, step[0]); {
			b := make([]byte, 1)
			if _, err := c.ch.Read(b); err != nil {
				t.Fatal(err)
			}
			shown += string(b)
		}
		_, _ = c.ch.Write([]byte(step[1]))
	}
	if exit, _ := c.finish(); exit != "0" || !strings.Contains(c.out.String(), "first third") {
		t.Errorf("%q %q", c.out.String(), exit)
	}
	if tap.kept.String() != "first\nthird\nraw" || tap.withheld.String() != "secret\n" {
		t.Errorf("kept %q, withheld %q", tap.kept.String(), tap.withheld.String())
	}
}

func TestNoTerminalIsToldAndTheSessionGoesOn(t *testing.T) {
	e := engine(t)
	e.openPTY = func() (*pty.PTY, error) { return nil, pty.ErrUnavailable }
	c := open(t, e, Params{})
	c.ask("pty-req", payload.PtyRequest{Term: "xterm"}.Marshal(), false)
	c.exec("echo x")
	if c.finish(); c.out.String() != "x\n" || !strings.Contains(c.err.String(), "ssh -T") {
		t.Errorf("%q %q", c.out.String(), c.err.String())
	}
}

func TestSignalReachesTheGroup(t *testing.T) {
	c := open(t, engine(t), Params{})
	c.exec("trap 'echo caught; exit 3' USR1; echo ready; while :; do sleep 0.05; done")
	b := make([]byte, 6)
	if _, err := io.ReadFull(c.ch, b); err != nil {
		t.Fatal(err)
	}
	c.ask("signal", payload.Signal{Name: "USR1"}.Marshal(), true)
	if exit, _ := c.finish(); exit != "3" || !strings.Contains(c.out.String(), "caught") {
		t.Errorf("%q %q", exit, c.out.String())
	}
}

func TestKillEndsEveryProcessAndSaysWhy(t *testing.T) {
	id := fmt.Sprintf("kill-%d", os.Getpid())
	c := open(t, engine(t), Params{SessionID: id})
	c.exec("setsid sh -c 'trap \"\" HUP TERM; while :; do sleep 1; done' & nohup sleep 100 >/dev/null & echo ready; wait")
	b := make([]byte, 6)
	if _, err := io.ReadFull(c.ch, b); err != nil {
		t.Fatal(err)
	}
	c.cancel(errors.New("locked by carol"))
	_, r := c.finish()
	if !strings.Contains(c.err.String(), "locked by carol") || r.Err == nil {
		t.Errorf("%q %v", c.err.String(), r.Err)
	}
	if left := living(id); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func living(id string) []process {
	list, err := (&family{id: id, sessions: map[int]bool{}, known: map[int]string{}}).members()
	if err != nil {
		panic(err)
	}
	return list
}

func looked(known []process) []process {
	list, err := look(known)
	if err != nil {
		panic(err)
	}
	return list
}

// Its parent ends by the first signal, and then nothing says whose it is.
func TestKillFindsWhatLeftItsEnvironmentAndItsSession(t *testing.T) {
	for i, command := range []string{"env -i setsid sleep %s & echo ready; wait", "sh -c 'env -i setsid sleep %s & wait' & echo ready; wait"} {
		number := fmt.Sprintf("%d%d.5", 1000+i, os.Getpid())
		running := func() bool {
			for _, p := range looked(nil) {
				if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid)); string(b) == "sleep\x00"+number+"\x00" {
					return true
				}
			}
			return false
		}
		c := open(t, engine(t), Params{SessionID: "escape-" + number})
		c.exec(fmt.Sprintf(command, number))
		for end := time.Now().Add(10 * time.Second); !running(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("it does not run")
			}
		}
		c.cancel(errors.New("enough"))
		c.finish()
		if running() {
			t.Errorf("%s: it runs still", command)
		}
	}
}

func TestKillSendsHUPOnce(t *testing.T) {
	id, told := fmt.Sprintf("once-%d", os.Getpid()), filepath.Join(t.TempDir(), "told")
	c := open(t, engine(t), Params{SessionID: id})
	c.exec("trap 'echo hup >>" + told + "' HUP; trap '' TERM; echo ready; while :; do sleep 0.01; done")
	if _, err := io.ReadFull(c.ch, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	c.cancel(errors.New("enough"))
	c.finish()
	if b, _ := os.ReadFile(told); string(b) != "hup\n" {
		t.Errorf("the leader was told %q", b)
	}
}

func TestWhatWasOfASessionStaysOfIt(t *testing.T) {
	cmd := exec.Command("sh", "-c", "read x; exec env -i sleep 1000")
	cmd.Env = append(os.Environ(), sessionVariable+"=once")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	mark := func(list []process) string {
		for _, p := range list {
			if p.pid == cmd.Process.Pid {
				return p.mark
			}
		}
		return "gone"
	}
	first := looked(nil)
	if m := mark(first); m != "once" {
		t.Fatalf("first it is of %q", m)
	}
	_, _ = in.Write([]byte("\n"))
	for end := time.Now().Add(10 * time.Second); mark(looked(nil)) != ""; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it was replaced by nothing")
		}
	}
	if m := mark(looked(first)); m != "once" {
		t.Errorf("then it is of %q", m)
	}
	for i := range first {
		first[i].start = "an earlier one's"
	}
	if m := mark(looked(first)); m != "" {
		t.Errorf("by the number of an earlier process it is of %q", m)
	}
}

// The shell of `nohup prog &` ends before nohup has begun; a HUP at once killed it.
func TestWhatGoesToTheBackgroundLastLivesOnWithNohup(t *testing.T) {
	e := engine(t)
	for i := range 10 {
		id := fmt.Sprintf("nohup-%d-%d", os.Getpid(), i)
		c := open(t, e, Params{SessionID: id})
		c.exec("exec >/dev/null 2>&1 </dev/null; nohup sleep 1234 & setsid sleep 1234 & sleep 1234 &")
		if exit, _ := c.finish(); exit != "0" {
			t.Errorf("exit %q", exit)
		}
		left := living(id)
		for end := time.Now().Add(2 * time.Second); len(left) > 2 && time.Now().Before(end); time.Sleep(pollKill) {
			left = living(id) // a HUP takes its time
		}
		for _, p := range left {
			_ = unix.Kill(p.pid, unix.SIGKILL)
		}
		if len(left) != 2 {
			t.Fatalf("run %d: %d processes live on, want the two of nohup and setsid", i, len(left))
		}
	}
}

func TestWhoGoesAwayHangsUp(t *testing.T) {
	id := fmt.Sprintf("gone-%d", os.Getpid())
	c := open(t, engine(t), Params{SessionID: id})
	c.exec("echo ready; sleep 100; echo never")
	b := make([]byte, 6)
	if _, err := io.ReadFull(c.ch, b); err != nil {
		t.Fatal(err)
	}
	c.ch.Close()
	if r := <-c.result; !errors.Is(r.Err, errGone) {
		t.Error(r.Err)
	}
	left := living(id)
	for end := time.Now().Add(5 * time.Second); len(left) > 0 && time.Now().Before(end); time.Sleep(pollKill) {
		left = living(id) // a HUP takes its time
	}
	if len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestSFTPWritesAsTheLogin(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "hawser-sftp-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chown(dir, 4242, 4343); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bob", "root"} {
		c := open(t, engine(t), Params{Login: name})
		c.ask("subsystem", payload.Subsystem{Name: "sftp"}.Marshal(), true)
		client, err := sftp.NewClientPipe(c.ch, writeCloser{c.ch})
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		f, err := client.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = f.Write([]byte("content"))
		f.Close()
		_, err = client.Open("/etc/shadow")
		if (err == nil) != (name == "root") {
			t.Errorf("%s reads shadow: %v", name, err)
		}
		client.Close()
		if r := <-c.result; r.Status != 0 || r.Kind != "sftp" {
			t.Errorf("%+v", r)
		}
	}
}

type writeCloser struct{ *channel.Conn }

func (w writeCloser) Close() error { return w.CloseWrite() }

func TestAgentSocketIsTheLoginsAndIsRemoved(t *testing.T) {
	c := open(t, engine(t), Params{Login: "bob", OpenBack: func(context.Context, payload.Accept) (io.ReadWriteCloser, error) {
		a, b := net.Pipe()
		go func() { _, _ = io.Copy(b, b) }()
		return a, nil
	}})
	c.ask("auth-agent-req@openssh.com", nil, true)
	c.exec("echo $SSH_AUTH_SOCK; stat -c '%a %u' $(dirname $SSH_AUTH_SOCK) $SSH_AUTH_SOCK")
	c.finish()
	lines := strings.Split(c.out.String(), "\n")
	if len(lines) < 3 || lines[1] != "700 4242" || lines[2] != "600 4242" {
		t.Fatalf("%q", lines)
	}
	if _, err := os.Stat(filepath.Dir(lines[0])); !os.IsNotExist(err) {
		t.Error("directory left:", err)
	}
}

// asAgent is set in the copy of the test that is an agent to be killed.
const asAgent = "HAWSER_TEST_AGENT"

// agentUntilKilled starts the processes of two sessions, tells their numbers and waits for its end.
func agentUntilKilled() {
	var r reaper
	s := &session{account: login.Account{Name: "me", UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), Home: "/", Shell: "/bin/sh"}}
	for _, command := range []string{"exec sleep 1234", "trap '' HUP; exec sleep 1234"} { // the second is nohup
		c, err := r.start(s.command("exec", command, nil))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(c.pid)
	}
	for range 100 { // threads end while the agent lives
		_ = s.account.As(func() error { return nil })
	}
	fmt.Println("ready")
	select {}
}

func TestAKilledAgentLeavesNoSessions(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asAgent+"=1")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
	var plain, nohup int
	var ready string
	if _, err := fmt.Fscan(out, &plain, &nohup, &ready); err != nil || ready != "ready" {
		t.Fatal(err)
	}
	defer syscall.Kill(nohup, syscall.SIGKILL)
	runs := func(pid int) bool {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return len(b) > 0 && !bytes.Contains(b, []byte(") Z "))
	}
	if !runs(plain) || !runs(nohup) {
		t.Fatal("a process ended with some thread of the agent")
	}
	for b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", nohup)); !bytes.HasPrefix(b, []byte("sleep")); { // then it ignores HUP
		time.Sleep(time.Millisecond)
		b, _ = os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", nohup))
	}
	_ = cmd.Process.Kill()
	for end := time.Now().Add(10 * time.Second); runs(plain); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			syscall.Kill(plain, syscall.SIGKILL)
			t.Fatal("the session's process outlives its killed agent")
		}
	}
	if !runs(nohup) {
		t.Error("what ignores HUP has ended too")
	}
}
