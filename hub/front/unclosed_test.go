package front

import (
	"bytes"
	"io"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/tunnel/channel/payload"
)

// unclosed is a session channel of a client that asks for something, hears its end and never answers CLOSE.
type unclosed struct {
	ssh.Channel
	reqs     chan *ssh.Request
	ended    chan struct{} // closed with the hub's CLOSE, or its refusal
	rejected bool
}

func newUnclosed(command string) *unclosed {
	u := &unclosed{reqs: make(chan *ssh.Request, 1), ended: make(chan struct{})}
	u.reqs <- &ssh.Request{Type: "exec", Payload: payload.Exec{Command: command}.Marshal()}
	return u
}

func (u *unclosed) Accept() (ssh.Channel, <-chan *ssh.Request, error) { return u, u.reqs, nil }
func (u *unclosed) Reject(ssh.RejectionReason, string) error {
	u.rejected = true
	close(u.ended)
	return nil
}
func (u *unclosed) ChannelType() string                            { return "session" }
func (u *unclosed) ExtraData() []byte                              { return nil }
func (u *unclosed) Read([]byte) (int, error)                       { return 0, io.EOF }
func (u *unclosed) Write(p []byte) (int, error)                    { return len(p), nil }
func (u *unclosed) Stderr() io.ReadWriter                          { return new(bytes.Buffer) }
func (u *unclosed) CloseWrite() error                              { return nil }
func (u *unclosed) SendRequest(string, bool, []byte) (bool, error) { return true, nil }
func (u *unclosed) Close() error {
	select {
	case <-u.ended:
	default:
		close(u.ended)
	}
	return nil
}

// The slot of a channel came back when the hub had closed it. A client that never does kept a goroutine and the session's structs of each: a gigabyte
// of a hundred thousand, on one connection and without a call to auth.
func TestChannelsThatTheClientDoesNotCloseAreBounded(t *testing.T) {
	f := start(t)
	client, _, err := f.dial(t, "hub")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.NewSession(); err != nil {
		t.Fatal(err)
	}
	var c *conn
	f.server.mu.Lock()
	for c = range f.server.conns {
	}
	f.server.mu.Unlock()
	var all []*unclosed
	open := func() bool {
		u := newUnclosed("help")
		c.open(u)
		select {
		case <-u.ended:
		case <-time.After(5 * time.Second):
			t.Fatal("a channel was not ended")
		}
		if !u.rejected {
			all = append(all, u)
		}
		return !u.rejected
	}
	t.Cleanup(func() {
		for _, u := range all {
			close(u.reqs)
		}
	})
	for range 3 * maxUnclosed {
		if !open() {
			break
		}
	}
	if len(all) == 0 || len(all) > maxUnclosed {
		t.Fatalf("%d channels are left", len(all))
	}
	close(all[0].reqs) // it closes one
	all = all[1:]
	wait(t, "room", func() bool { return open() })
}
