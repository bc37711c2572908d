package front

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/tunnel/wire"
)

// person begins a session with a terminal of 100x30 and a shell.
func (f *fixture) person(t *testing.T, user string, env ...string) *terminal {
	t.Helper()
	c, _, err := f.dial(t, user)
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	x := &terminal{Session: s}
	s.Stdout, s.Stderr = x, x
	if x.in, err = s.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(env); i += 2 {
		if err := s.Setenv(env[i], env[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.RequestPty("xterm", 30, 100, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	return x
}

func (x *terminal) shows(t *testing.T, want string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !strings.Contains(x.shown(), want); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %q in %q", want, x.shown())
		}
	}
}

func (x *terminal) types(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(x.in, text); err != nil {
		t.Fatal(err)
	}
}

func (x *terminal) ends(t *testing.T, want int) {
	t.Helper()
	err := x.Wait()
	status := 0
	if e, ok := err.(*ssh.ExitError); ok {
		status = e.ExitStatus()
	} else if err != nil {
		t.Fatal(err)
	}
	if status != want {
		t.Errorf("status %d, want %d; shown %q", status, want, x.shown())
	}
}

// The same channel becomes the session on the device, with the terminal as it is then, the environment and what was typed ahead.
func TestAPickedDeviceGetsTheTerminalAndWhatWasTyped(t *testing.T) {
	f := start(t)
	for _, user := range []string{"hawser", "alice", "gw-7", "root=gw-l", "No Such Name"} {
		x := f.person(t, user, "LANG", "C.UTF-8")
		x.shows(t, "search:")
		if err := x.WindowChange(31, 101); err != nil {
			t.Fatal(err)
		}
		x.types(t, "\x15gw-1\rtyped ahead.")
		x.ends(t, 7)
		if out := x.shown(); !strings.Contains(out, "shell xterm 101x31 LANG=C.UTF-8: typed ahead.") {
			t.Errorf("%s: %q", user, out)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	last := f.claims[len(f.claims)-1]
	if last.Device != "gw-1" || last.Kind != Session || !strings.Contains(f.shown.String(), "typed ahead") {
		t.Errorf("admitted %+v, recorded %q", last, f.shown.String())
	}
	if len(f.ended) < 5 {
		t.Errorf("released %v", f.ended)
	}
	if used := f.server.recent.of("alice"); used[gwUUID].IsZero() {
		t.Error("the device is not remembered")
	}
	if f.server.pickers.total != 0 {
		t.Errorf("%d pickers are still counted", f.server.pickers.total)
	}
}

func TestLeavingThePickerEndsTheSessionWell(t *testing.T) {
	f := start(t)
	for _, key := range []string{"\x03", "q", "\x1b"} {
		x := f.person(t, "hawser")
		x.shows(t, "Enter connects")
		x.types(t, key)
		x.ends(t, 0)
	}
}

func TestAKillEndsAPickerWithItsReason(t *testing.T) {
	f := start(t)
	x := f.person(t, "hawser")
	x.shows(t, "Enter connects")
	f.server.EndUser("alice", "you are locked")
	x.shows(t, "session ended: you are locked")
	if !strings.Contains(x.shown(), "\x1b[?1049l") {
		t.Error("the terminal is not restored")
	}
}

func TestPickersAreBounded(t *testing.T) {
	f := start(t)
	for range maxUserPickers {
		f.person(t, "hawser").shows(t, "Enter connects")
	}
	x := f.person(t, "hawser")
	x.shows(t, "too many pickers")
	x.ends(t, statusRefused)
}

func TestTheHubsOwnCommands(t *testing.T) {
	f := start(t)
	for command, want := range map[string]struct {
		out    string
		status int
	}{
		"ls -q": {"gw-1\n", 0}, "ls -q -l site=ber": {"gw-1\n", 0}, "ls -q -l site=ams": {"", 0},
		"ls -x": {"", 2}, "help me": {"", 2}, "id": {"", 127},
	} {
		if out, _, status := f.run(t, "hawser", command); out != want.out || status != want.status {
			t.Errorf("%s: %q, %d", command, out, status)
		}
	}
	// Without a terminal there is the list.
	c, _, err := f.dial(t, "hawser")
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(out); !strings.Contains(string(b), "gw-1") {
		t.Errorf("a shell without a terminal: %q", b)
	}
}

func TestAnUnknownDeviceWithACommandIsRefusedWithNearNames(t *testing.T) {
	for user, near := range map[string]string{"gw-7": "; near: gw-1\n", "elsewhere": "shows those they do\n"} {
		f := start(t) // near names are given to a person once a second
		if out, stderr, status := f.run(t, user, "ls"); out != "" || status != statusRefused || !strings.HasSuffix(stderr, near) {
			t.Errorf("%s: %q, %q, %d", user, out, stderr, status)
		}
	}
}

func TestAnOfflineDeviceIsToldOfWithWhenItWasSeen(t *testing.T) {
	f := start(t)
	f.cut()
	out, stderr, status := f.run(t, "gw-1", "true")
	const want = "gw-1 is offline, last seen 3 h ago via hub-2, quic: heartbeats stopped"
	if out != "" || status != statusRefused || !strings.Contains(stderr, want) {
		t.Errorf("%q, %q, %d", out, stderr, status)
	}
}

// waiter begins a session that waits.
func (f *fixture) waiter(t *testing.T, user, wait, command string) *terminal {
	t.Helper()
	c, _, err := f.dial(t, user)
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	x := &terminal{Session: s}
	if err := s.Setenv(waitVariable, wait); err != nil {
		t.Fatal(err)
	}
	for _, pipe := range []func() (io.Reader, error){s.StdoutPipe, s.StderrPipe} { // what is said before the command has its answer, too
		r, err := pipe()
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.Copy(x, r) }()
	}
	t.Cleanup(func() { _ = s.Close() })
	go func() { _ = s.Start(command) }()
	return x
}

func TestAWaitConnectsWhenTheDeviceComes(t *testing.T) {
	f := start(t)
	f.cut()
	x := f.waiter(t, "gw-1", "1h", "hello")
	x.shows(t, "waiting for gw-1 until")
	f.heal(t)
	x.shows(t, "out hello")
	wait(t, "release", func() bool {
		f.server.waits.mu.Lock()
		defer f.server.waits.mu.Unlock()
		return f.server.waits.total == 0 && len(f.server.waits.byUser) == 0
	})
}

func TestAWaitAtATerminalIsEndedByCtrlCAndKeepsWhatIsTyped(t *testing.T) {
	f := start(t)
	f.cut()
	x := f.person(t, "gw-1", waitVariable, "1h")
	x.shows(t, "waiting for gw-1 until")
	x.types(t, "\x03")
	x.shows(t, "you ended the wait")
	x.ends(t, statusRefused)
	x = f.person(t, "gw-1", waitVariable, "1h")
	x.shows(t, "waiting for gw-1 until")
	x.types(t, "for the device.")
	f.heal(t)
	x.shows(t, "shell xterm 100x30: for the device.")
	x.ends(t, 7)
}

// Who waits for a name that is not there learns from words and time as much as who waits for a device of others: the twin refuses both
// alike, and the hub does not tell them apart. A wait that ends says the same in every case.
func TestAWaitForNothingSaysWhatAWaitForADeviceSays(t *testing.T) {
	f := start(t)
	f.cut()
	var said []string
	for _, device := range []string{"gw-1", "gw-x"} {
		x := f.waiter(t, device, "1s", "true")
		x.shows(t, "did not come within 1s")
		text := strings.ReplaceAll(x.shown(), device, "DEVICE")
		before, after, _ := strings.Cut(text, " until ")
		said = append(said, before+after[len("15:04:05"):])
	}
	if said[0] != said[1] {
		t.Errorf("%q differs from %q", said[0], said[1])
	}
}

func TestWaitsAreBoundedAndEndWithTheClient(t *testing.T) {
	f := start(t)
	for range maxUserWaits {
		if !f.server.waits.enter("alice", maxUserWaits, maxWaits) {
			t.Fatal("bounded too early")
		}
	}
	f.cut()
	f.waiter(t, "gw-1", "1h", "true").shows(t, "too many sessions wait")
	f.waiter(t, "gw-1", "25h", "true").shows(t, "at most 24h")
	f.server.waits.leave("alice")
	x := f.waiter(t, "gw-1", "1h", "true")
	x.shows(t, "waiting for")
	_ = x.Close()
	wait(t, "end of the wait", func() bool { return f.server.waits.enter("alice", maxUserWaits, maxWaits) })
}

// A forgotten person's devices are bounded, and so are people.
func TestWhatIsRememberedOfPeopleIsBounded(t *testing.T) {
	var r recents
	at := time.Unix(0, 0)
	for i := range 2 * maxRecent {
		at = at.Add(time.Second)
		r.note("ann", wire.UUID{byte(i)}, at)
	}
	used := r.of("ann")
	if len(used) != maxRecent || used[wire.UUID{2*maxRecent - 1}].IsZero() {
		t.Errorf("%d are remembered", len(used))
	}
	for i := range maxRecentUsers + 10 {
		r.note(string(rune(0x4e00+i)), wire.UUID{1}, at)
	}
	if len(r.byUser) > maxRecentUsers {
		t.Errorf("%d people are remembered", len(r.byUser))
	}
}

func TestTheInputCanBeGivenUp(t *testing.T) {
	f := start(t)
	r, w := io.Pipe()
	c := &conn{s: f.server}
	in := c.newInput(t.Context(), r)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if b, err := in.Next(ctx, time.Hour); b != nil || err == nil {
		t.Errorf("%q, %v", b, err)
	}
	go func() {
		_, _ = io.WriteString(w, "one")
		_, _ = io.WriteString(w, "two")
		_ = w.Close()
	}()
	b, err := in.Next(t.Context(), time.Hour)
	if string(b) != "one" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	in.Unread(b[1:])
	if all, err := io.ReadAll(in); string(all) != "netwo" || err != nil {
		t.Errorf("%q, %v", all, err)
	}
	c.wg.Wait()
}

// The picker's other list is of sessions, and what is picked there is joined.
func TestASessionIsPickedAndJoined(t *testing.T) {
	f := start(t)
	x := f.person(t, "hawser")
	x.shows(t, "search:")
	x.types(t, "\t")
	x.shows(t, "ann on gw-1 as root")
	x.types(t, "\r.")
	x.ends(t, 7) // of the device's shell request
	f.mu.Lock()
	last := f.claims[len(f.claims)-1]
	f.mu.Unlock()
	if last.Joins != (Joining{joinableID, "observer"}) || last.Device != "" {
		t.Errorf("asked for %+v", last)
	}
	if out, _, status := f.run(t, "hawser", "join"); status != 0 || !strings.Contains(out, "001122334455") {
		t.Errorf("without a terminal: %d: %q", status, out)
	}
}
