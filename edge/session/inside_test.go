package session

import (
	"bytes"
	"net"
	"testing"
	"time"

	"hawser/recorder/share"
	"hawser/tunnel/channel"
	"hawser/tunnel/channel/payload"
	"hawser/tunnel/wire"
)

// heard are Guests of whom only the owner's words count here.
type heard struct {
	Guests
	said chan string
}

func (h heard) Say(text string) { h.said <- text }

func (heard) Mark(string) {}

func TestASessionTellsItsOwnLoginOfItself(t *testing.T) {
	e := New(Config{Device: func() string { return "gw-1" }, System: system(t), Agent: "@agent"})
	defer e.Close()
	h := heard{said: make(chan string, 1)}
	c := open(t, e, Params{SessionID: "inside", Recorded: "strict", Guests: h})
	c.ask("pty-req", payload.PtyRequest{Term: "xterm", Columns: 80, Rows: 24}.Marshal(), true)
	c.exec(`echo "$HAWSER_AGENT $HAWSER_SESSION"; read x`)
	got := make([]byte, 64)
	n, err := c.ch.Read(got)
	if err != nil || !bytes.Contains(got[:n], []byte("@agent inside")) {
		t.Errorf("the process sees %q, %v", got[:n], err)
	}
	in, ok := e.Inside("inside", 0)
	if !ok || in.User != "alice" || in.Login != "root" || in.Recorded != "strict" || len(in.Guests) != 0 {
		t.Errorf("told %+v, %v", in, ok)
	}
	if _, ok := e.Inside("inside", 4242); ok || e.Hosts(4242) || !e.Hosts(0) {
		t.Error("another login was told of it")
	}
	if _, ok := e.Inside("other", 0); ok || e.Tell("other", wire.Tell{What: wire.TellAll, Text: "x"}) {
		t.Error("there is another")
	}
	if !e.Tell("inside", wire.Tell{What: wire.TellAll, Text: "look"}) {
		t.Error("not told")
	}
	select {
	case text := <-h.said:
		if text != "look" {
			t.Errorf("the owner is told %q", text)
		}
	case <-time.After(10 * time.Second):
		t.Error("the owner is told nothing")
	}
	_, _ = c.ch.Write([]byte("\n"))
	if status, _ := c.finish(); status != "0" {
		t.Errorf("ended with %s", status)
	}
	if e.Tell("inside", wire.Tell{What: wire.TellAll, Text: "late"}) || e.Hosts(0) {
		t.Error("it is over")
	}
}

// He takes nothing, and has sent more sizes of his window than anybody holds.
func TestAGuestWhoReadsNothingIsOutWhenHeIsPutOut(t *testing.T) {
	id, e := newID(), engine(t)
	c := open(t, e, Params{SessionID: id})
	c.ask("pty-req", payload.PtyRequest{Term: "xterm", Columns: 80, Rows: 24}.Marshal(), true)
	c.exec("echo ready; read x")
	c.shows("ready")
	a, b := net.Pipe()
	bob, there := channel.New(a, channel.Options{}), channel.New(b, channel.Options{PeerWindow: 16})
	defer bob.Close()
	over := make(chan Result, 1)
	go func() {
		over <- e.Serve(t.Context(), there, Params{SessionID: id + "-bob", User: "bob", Login: "root", Join: &Join{Session: id, Mode: share.Moderator, Way: "by h1"}})
	}()
	for _, name := range []string{"pty-req", "shell"} {
		if ok, err := bob.SendRequest(name, true, payload.PtyRequest{Term: "xterm", Columns: 80, Rows: 24}.Marshal()); !ok || err != nil {
			t.Fatal(name, err)
		}
	}
	inside := func(n int) {
		t.Helper()
		for late := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if in, _ := e.Inside(id, 0); len(in.Guests) == n {
				return
			} else if time.Now().After(late) {
				t.Fatalf("in are %v, want %d", in.Guests, n)
			}
		}
	}
	inside(1)
	for range 40 {
		if ok, err := bob.SendRequest("window-change", true, payload.WindowChange{Columns: 90, Rows: 30}.Marshal()); !ok || err != nil {
			t.Fatal("a size is not taken:", err)
		}
	}
	if !e.Tell(id, wire.Tell{What: wire.TellOut, User: "bob", Text: "enough"}) {
		t.Error("nobody is told")
	}
	inside(0)
	_ = bob.Close()
	<-over
	_, _ = c.ch.Write([]byte("\n"))
	c.finish()
}
