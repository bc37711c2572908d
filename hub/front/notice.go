package front

import (
	"io"
	"sync"
	"sync/atomic"
	"time"

	"hawser/tunnel/screen"
)

// noticeVariable is the environment variable by which a person says no to notices: `ssh -o SetEnv=HAWSER_NOTICE=off`. The device does not see it.
const noticeVariable = "HAWSER_NOTICE"

// notices tell a person at a terminal that the device's link is lost, and is back, where a line of the hub's own spoils nothing. The zero
// value tells nothing.
type notices struct {
	x *session

	// writing is held while something is written to the person, so that nothing of ours comes into a line of the device's; what blocks
	// the write blocks those behind it anyway. A notice only tries for it.
	writing sync.Mutex
	screen  screen.Screen

	drain  atomic.Bool    // told that the hub ends
	guests *screen.Teller // of who joined and left

	mu    sync.Mutex
	off   bool
	told  bool        // that it is lost
	timer *time.Timer // while it is lost
	ended bool
}

func (n *notices) set(x *session) {
	n.x = x
	n.guests = screen.NewTeller(n.sayOfGuests)
}

// sayOfGuests is warn for a line that is tried again; true too where the person wants none.
func (n *notices) sayOfGuests(text string) bool {
	defer n.x.c.s.recovered(n.x.c)
	return n.unwanted() || n.warn(text)
}

func (n *notices) unwanted() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.off || n.ended || n.x.c.s.c.NoNotice || !n.x.pty.Load()
}

// wanted is what the person said.
func (n *notices) wanted(yes bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.off = !yes
}

// output writes the device's bytes to the person.
func (n *notices) output(w io.Writer, p []byte) (int, error) {
	n.writing.Lock()
	defer n.writing.Unlock()
	if n.x.pty.Load() { // bulk is not looked at: it costs a third of the throughput, and nobody is told without a terminal
		n.screen.Write(p)
	}
	return w.Write(p)
}

// link is told when the device's link is lost, and when it is back.
func (n *notices) link(attached bool) {
	n.mu.Lock()
	told := n.told
	if n.timer != nil {
		n.timer.Stop()
		n.timer = nil
	}
	n.told = false
	if !attached && !n.ended {
		n.timer = time.AfterFunc(n.x.c.s.c.NoticeAfter, n.lost)
	}
	n.mu.Unlock()
	if attached && told {
		n.say("is back")
	}
}

// lost is called while the link is, until the person could be told.
func (n *notices) lost() {
	defer n.x.c.s.recovered(n.x.c)
	told := n.say("is lost, waiting for it")
	n.mu.Lock()
	back := n.timer == nil // it came back while that was written: nobody else says so
	if !back {
		if n.told = told; !told {
			n.timer.Reset(n.x.c.s.c.NoticeAfter)
		}
	}
	n.mu.Unlock()
	if back && told {
		n.say("is back")
	}
}

// say writes a line about the link if that spoils nothing now.
func (n *notices) say(what string) bool {
	return n.write("the link to " + n.x.place.DeviceName + " " + what)
}

// write writes a line if that spoils nothing now.
func (n *notices) write(text string) bool { return n.line(text, false) }

// warn is write for what the person must know while he can do something about it: behind a prompt, or what he has typed at one, too.
func (n *notices) warn(text string) bool { return n.line(text, true) }

func (n *notices) line(text string, atPrompt bool) bool {
	if n.unwanted() || !n.writing.TryLock() {
		return false
	}
	defer n.writing.Unlock()
	text = "hawser: " + text + "\r\n"
	switch {
	case n.screen.Free():
	case atPrompt && n.screen.Prompt():
		text = "\r\n" + text
	default:
		return false
	}
	n.screen.Write([]byte(text))
	_, err := io.WriteString(n.x.ch, text)
	return err == nil
}

// closeWrite ends all of it, and sends EOF. While a line is being written x/crypto may not be told of the end: that the channel is closed says it too.
func (n *notices) closeWrite() {
	n.stop()
	if n.writing.TryLock() {
		defer n.writing.Unlock()
		_ = n.x.ch.CloseWrite()
	}
}

// stop ends all of it.
func (n *notices) stop() {
	n.guests.Stop()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ended = true
	if n.timer != nil {
		n.timer.Stop()
		n.timer = nil
	}
}
