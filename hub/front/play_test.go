package front

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"hawser/recorder"
	"hawser/recorder/index/indextest"
)

// Replay gives alice a recording of a minute, of a known id.
func (b *twin) Replay(ctx context.Context, c Claim, id string) (*Replay, error) {
	if c.Identity.User != "alice" || c.ConnectionID == [16]byte{} || !strings.HasPrefix("5f0c2a99", id) && id != "5ea1ed" && id != "f100d" {
		return nil, &Refusal{Message: "no recording \"" + id + "\""}
	}
	rec := indextest.NewChunks([16]byte{1}, time.Now(), 40, 10)
	rec.Record(time.Second, recorder.RecordStdout, []byte("\x1b]0;title\x07$ uptime\r\nup \x1b[31m3 days\x1b[m\r\n"))
	for i := range 100 {
		if id == "f100d" { // more than a client's window
			rec.Record(time.Duration(i)*time.Second, recorder.RecordStdout, []byte(strings.Repeat(strings.Repeat("x", 38)+"\r\n", 1000)))
		}
	}
	rec.Record(time.Minute, recorder.RecordStdout, []byte("finished\r\n"))
	chunks := rec.Close()
	return &Replay{Title: "bob on gw-1", Sealed: id == "5ea1ed", Close: func() {}, Next: func() ([]byte, error) {
		if len(chunks) == 0 {
			return nil, io.EOF
		}
		c := chunks[0]
		chunks = chunks[1:]
		return c, nil
	}}, nil
}

// plays runs the hub's play at a terminal.
func (f *fixture) plays(t *testing.T, command string) *terminal {
	t.Helper()
	c, _, err := f.dial(t, "hawser")
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
	if err := s.RequestPty("xterm", 30, 100, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(command); err != nil {
		t.Fatal(err)
	}
	return x
}

func TestARecordingIsPlayedAtTheHub(t *testing.T) {
	f := start(t)
	x := f.plays(t, "play 5f0c2a --from 30s --speed 4")
	x.shows(t, "bob on gw-1")
	x.shows(t, "3 days")
	if err := x.WindowChange(20, 60); err != nil {
		t.Fatal(err)
	}
	x.types(t, "G")
	x.shows(t, "finished")
	x.types(t, "q")
	x.ends(t, 0)
	if out := x.shown(); strings.Contains(out, "title") || !strings.HasSuffix(out, "\x1b[?1049l") && !strings.Contains(out[max(0, len(out)-40):], "\x1b[?1049l") {
		t.Errorf("the recording drove the terminal, or that is not as it was: %q", out)
	}
	if f.server.replays.total != 0 {
		t.Errorf("%d players are still counted", f.server.replays.total)
	}
	// Without a terminal it is text.
	out, stderr, status := f.run(t, "hawser", "play 5f0c2a")
	if out != "$ uptime\nup 3 days\nfinished\n" || stderr != "" || status != 0 {
		t.Errorf("as text: %q, %q, %d", out, stderr, status)
	}
	for command, want := range map[string]struct {
		words  string
		status int
	}{
		"play": {"play ID", 2}, "play a b": {"play ID", 2}, "play --from x a": {"play ID", 2}, "play --speed 0 a": {"play ID", 2}, "play --from": {"play ID", 2},
		"play 777777": {"no recording", statusRefused}, "play 5ea1ed": {"encrypted to auditors", statusRefused},
	} {
		if _, stderr, status := f.run(t, "hawser", command); status != want.status || !strings.Contains(stderr, want.words) {
			t.Errorf("%s: %q, %d", command, stderr, status)
		}
	}
}

func TestAKillEndsAPlayerWithItsReasonAndPlayersAreBounded(t *testing.T) {
	f := start(t)
	var all []*terminal
	for range maxUserReplays {
		x := f.plays(t, "play 5f0c2a")
		x.shows(t, "3 days")
		all = append(all, x)
	}
	x := f.plays(t, "play 5f0c2a")
	x.shows(t, "too many recordings are played here")
	x.ends(t, statusRefused)
	f.server.EndUser("alice", "you are locked")
	for _, x := range all {
		x.shows(t, "session ended: you are locked")
		if !strings.Contains(x.shown(), "\x1b[?1049l") {
			t.Error("the terminal is not restored")
		}
	}
}

// Whoever stops reading keeps no player.
func TestAPlayerWhoseClientReadsNothingEnds(t *testing.T) {
	f := start(t, func(c *Config) { c.ReplayIdle = 100 * time.Millisecond })
	for _, pty := range []bool{false, true} {
		c, _, err := f.dial(t, "hawser")
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		out, err := s.StdoutPipe() // nobody reads it
		if err != nil {
			t.Fatal(err)
		}
		if pty {
			if err := s.RequestPty("xterm", 30, 100, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Start("play f100d --text"); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- s.Wait() }()
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Fatalf("pty %t: it holds its player", pty)
		}
		if n, _ := io.Copy(io.Discard, out); n == 0 || n >= 4_000_000 {
			t.Errorf("pty %t: %d bytes", pty, n)
		}
	}
}

func FuzzParsePlay(f *testing.F) {
	for _, s := range []string{"5f0c2a --from 12m --speed=2 --text", "--from", "a b", "--speed NaN x", "--from=-1s x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		p, err := parsePlay(strings.Fields(line))
		if err == nil && (p.id == "" || strings.HasPrefix(p.id, "-") || p.o.From < 0 || !(p.o.Speed > 0)) {
			t.Errorf("%q is %+v", line, p)
		}
	})
}
