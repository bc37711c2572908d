package front

import (
	"strings"
	"testing"
	"time"
)

func TestADrainIsToldAtATerminalAndTakesNobodyNew(t *testing.T) {
	f := start(t)
	shown, _ := f.terminal(t, true, "print hello\r\n")
	piped, _ := f.terminal(t, false, "cat")
	wait(t, "sessions", func() bool { return f.server.Connections() == 2 })
	wait(t, "streams", func() bool {
		f.server.mu.Lock()
		defer f.server.mu.Unlock()
		n := 0
		for _, x := range f.server.sessions {
			if x.live.Load() != nil {
				n++
			}
		}
		return n == 2
	})
	wait(t, "output", func() bool { return shown.shown() != "" }) // a terminal at a line's start
	f.server.Drain(time.Minute)
	wait(t, "notice", func() bool { return strings.Contains(shown.shown(), "hub hub-1 goes down in") })
	if _, _, err := f.dial(t, "gw-1"); err == nil {
		t.Error("somebody new was let in")
	}
	for _, x := range []*terminal{shown, piped} { // sessions go on
		if _, err := x.in.Write([]byte("still here\n")); err != nil {
			t.Fatal(err)
		}
		wait(t, "echo", func() bool { return strings.Contains(x.shown(), "still here") })
	}
	if strings.Contains(piped.shown(), "goes down") || strings.Count(shown.shown(), "goes down") != 1 {
		t.Errorf("%q and %q", piped.shown(), shown.shown())
	}
	_ = shown.in.Close()
	_ = piped.in.Close()
	_ = shown.Wait()
	_ = piped.Wait()
}
