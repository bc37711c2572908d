package front

import (
	"slices"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

// stuckChannel is a person's channel on which a write lasts until the test says so.
type stuckChannel struct {
	ssh.Channel
	writes, goesOn chan struct{}

	mu   sync.Mutex
	sent []string
}

func (c *stuckChannel) note(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent = append(c.sent, what)
}

func (c *stuckChannel) Write(p []byte) (int, error) {
	c.writes <- struct{}{}
	<-c.goesOn
	c.note("line")
	return len(p), nil
}

func (c *stuckChannel) CloseWrite() error { c.note("EOF"); return nil }

func (c *stuckChannel) SendRequest(name string, _ bool, _ []byte) (bool, error) {
	c.note(name)
	return true, nil
}

// x/crypto's channels may not be told of the end while they are written to, and a client that reads nothing must not hold the end up.
func TestNoNoticeIsWrittenWhileOrAfterTheEndIsSent(t *testing.T) {
	for _, tt := range []struct {
		during bool
		want   []string
	}{{true, []string{"exit-status", "line"}}, {false, []string{"exit-status", "EOF"}}} {
		ch := &stuckChannel{writes: make(chan struct{}, 1), goesOn: make(chan struct{})}
		x := &session{ch: ch, c: &conn{s: &Server{}}}
		x.pty.Store(true)
		x.notices.set(x)
		var wg sync.WaitGroup
		if tt.during {
			wg.Go(func() { x.notices.warn("soon") })
			<-ch.writes
		}
		x.end(newExit(0))
		close(ch.goesOn)
		wg.Wait()
		x.notices.warn("late")
		if !slices.Equal(ch.sent, tt.want) {
			t.Errorf("a notice is under way: %v; sent %q, want %q", tt.during, ch.sent, tt.want)
		}
	}
}
