package target

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/grant"
	"hawser/tunnel"
	"hawser/tunnel/channel"
	"hawser/tunnel/channel/payload"
	"hawser/tunnel/wire"
)

// statusRefused is the exit status of everything that Hawser itself refused or broke, as ssh's own.
const statusRefused = 255

// session is one session on a server, between the front's channel and one of our own.
type session struct {
	t      *Targets
	d      Device
	g      *grant.Grant
	front  *channel.Conn
	ctx    context.Context
	cancel context.CancelCauseFunc
	cut    func() // ends the connection to the server, which is this session's alone
	pty    atomic.Bool
	stored bool

	size   payload.WindowChange // of the person's terminal; of the goroutine that takes his requests
	room   atomic.Pointer[room] // once something may run on a terminal
	redraw chan struct{}        // one token: somebody has come who is to see the screen whole
	// verdict of recorder/observe on the input that was read last.
	verdict atomic.Uint32
}

// newSession makes one of the stream from the front.
func newSession(t *Targets, d Device, g *grant.Grant, st io.ReadWriteCloser, window uint32) *session {
	x := &session{t: t, d: d, g: g, redraw: make(chan struct{}, 1)}
	x.front = channel.New(st, channel.Options{PeerWindow: window, Tag: x.tag})
	return x
}

func (t *Targets) serveSession(d Device, g *grant.Grant, req wire.OpenRequest, head wire.Attach, st tunnel.Stream) {
	rs, err := t.accept(st, head)
	if err != nil {
		return
	}
	x := newSession(t, d, g, rs, req.Window)
	x.run(req.Grant)
	<-rs.Done()
}

// run serves the session, against its grant, to its end.
func (x *session) run(blob []byte) {
	t, d, g := x.t, x.d, x.g
	x.ctx, x.cancel = context.WithCancelCause(t.ctx)
	defer x.cancel(nil)
	defer func() { _ = x.front.Close() }()
	t.mu.Lock()
	t.sessions[g.SessionID] = x
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.sessions[g.SessionID] == x {
			delete(t.sessions, g.SessionID)
		}
	}()
	// Whatever ends the person's side ends what is done for him.
	var watching sync.WaitGroup
	t.guard(&watching, func() { x.cancel(nil) }, func() {
		select {
		case <-x.front.Done():
			x.cancel(io.EOF)
		case <-x.ctx.Done():
		}
	})
	defer watching.Wait()
	defer x.cancel(nil)
	if g.JoinMode != "" {
		x.join()
		return
	}

	c, err := t.connect(x.ctx, d, g, blob)
	if err != nil {
		t.c.Logger.Warn("login to a server failed", "device", d.Name, "user", g.User, "login", wire.Quote(g.Login, 64), "error", err)
		x.refuse(x.why(err))
		return
	}
	defer c.Close()
	x.stored, x.cut = c.stored, func() { _ = c.Conn.Close() }
	ch, reqs, err := x.open(c)
	if err != nil {
		x.refuse(d.Name + " opens no session: " + wire.Quote(err.Error(), 300))
		return
	}
	x.relay(ch, reqs)
}

// why is what the person is told of the end.
func (x *session) why(err error) string {
	if k, ok := errors.AsType[*killed](context.Cause(x.ctx)); ok {
		return k.Error()
	}
	return x.t.explain(x.d, err)
}

// open opens the session's channel; a server that does not answer holds nobody beyond connectTimeout.
func (x *session) open(c *client) (ssh.Channel, <-chan *ssh.Request, error) {
	defer time.AfterFunc(connectTimeout, x.cut).Stop()
	defer context.AfterFunc(x.ctx, x.cut)()
	return c.OpenChannel("session", nil)
}

// relay moves everything both ways until the server has closed its channel, or the session is to end. Whatever the server does, it returns soon
// after that: a hub that stops waits for it.
func (x *session) relay(ch ssh.Channel, reqs <-chan *ssh.Request) {
	var out, rest sync.WaitGroup
	defer x.closeRoom()
	x.t.guard(&out, x.cut, func() { _, _ = x.front.ReadFrom(shown{x, ch}) })
	x.t.guard(&out, x.cut, func() { _, _ = io.Copy(x.front.Stderr(), ch.Stderr()) })
	asked := make(chan struct{})
	x.t.guard(&rest, x.cut, func() {
		<-asked // input, and its end above all, must not overtake what it is for: dropbear then runs nothing
		x.input(ch)
		_ = ch.CloseWrite()
	})
	x.t.guard(&rest, x.cut, func() { x.requests(ch, sync.OnceFunc(func() { close(asked) })) })
	closed, ended := make(chan struct{}), make(chan struct{})
	stop := context.AfterFunc(x.ctx, func() {
		defer close(ended)
		defer x.t.recovered(x.cut)
		x.end(ch, closed)
	})
	exit, status := x.serverRequests(ch, reqs) // until the server closed the channel, or the connection was cut
	close(closed)
	x.closeRoom() // one that is paused has its last output still to show
	if x.ctx.Err() == nil {
		out.Wait()
		if exit == "" {
			x.last(x.d.Name + " ended the session, or the connection to it was lost, without an exit status")
		} else {
			x.finish(exit, status)
		}
	}
	if !stop() {
		<-ended
	}
	_ = x.front.Close() // ends what reads from it
	x.cut()             // what is still written to the server ends
	out.Wait()
	rest.Wait()
}

// end has the server end what it runs, harder each time, and closes the channel. One that does not know signals ends processes by the closed
// channel, as far as it does. One that does not close it either, or takes nothing any more, loses the connection. closed: it has closed it.
func (x *session) end(ch ssh.Channel, closed <-chan struct{}) {
	var asking sync.WaitGroup
	limit, told := closeWait, make(chan struct{})
	k, kill := errors.AsType[*killed](context.Cause(x.ctx))
	if kill {
		limit += 2 * signalWait
		x.t.guard(&asking, nil, func() { // a person who reads nothing holds up nobody else
			defer close(told)
			x.last(k.Error())
		})
	} else {
		close(told)
	}
	x.t.guard(&asking, nil, func() {
		if kill {
			for _, name := range []string{"HUP", "TERM", "KILL"} {
				_, _ = ch.SendRequest("signal", false, payload.Signal{Name: name}.Marshal())
				if name != "KILL" && within(signalWait, closed) {
					break
				}
			}
		}
		_ = ch.Close()
	})
	if !within(limit, closed) {
		x.cut()
	}
	within(closeWait, told)
	_ = x.front.Close()
	asking.Wait()
}

// requests passes on what the person asks for, in order, and tells when the server was asked to run something, or will not be.
func (x *session) requests(ch ssh.Channel, asked func()) {
	defer asked()
	for {
		select {
		case r, ok := <-x.front.Requests():
			if !ok {
				return
			}
			_ = r.Reply(x.request(ch, r))
			if starts(r) {
				asked()
			}
		case <-x.redraw:
			x.wiggle(ch)
		}
	}
}

func starts(r *channel.Request) bool {
	return r.Type == "shell" || r.Type == "exec" || r.Type == "subsystem"
}

func (x *session) request(ch ssh.Channel, r *channel.Request) bool {
	typ, body := r.Type, r.Payload
	switch r.Type {
	case "pty-req":
		if p, err := payload.ParsePtyRequest(r.Payload); err == nil {
			x.size = payload.WindowChange{Columns: p.Columns, Rows: p.Rows, Width: p.Width, Height: p.Height}
		}
		x.pty.Store(true)
	case "env":
		if p, err := payload.ParseEnv(r.Payload); err != nil || strings.HasPrefix(p.Name, "HAWSER_") {
			return false
		}
	case "window-change":
		p, err := payload.ParseWindowChange(r.Payload)
		if err != nil {
			return false
		}
		x.size = p
		if m := x.room.Load(); m != nil {
			m.Resize(int(p.Columns), int(p.Rows))
		}
	case "signal", "break":
		if x.room.Load().gate().Paused() {
			return false
		}
	case "eow@openssh.com":
	case "shell", "exec", "subsystem":
		for _, v := range [][2]string{{"SESSION", hex.EncodeToString(x.g.SessionID[:])}, {"USER", x.g.User}, {"DEVICE", x.d.Name}} {
			_, _ = ch.SendRequest("env", false, payload.Env{Name: "HAWSER_" + v[0], Value: v[1]}.Marshal()) // for a server that takes them
		}
		// A certificate has the server itself see to it.
		if x.stored && x.g.ForceCommand != "" {
			typ, body = "exec", payload.Exec{Command: x.g.ForceCommand}.Marshal()
		}
		if typ != "subsystem" {
			x.openRoom(ch) // before it shows something
		}
	default:
		return false // agent and X11 would need channels back
	}
	ok, err := ch.SendRequest(typ, r.WantReply, body)
	return ok && err == nil
}

// serverRequests handles what the server asks until its channel is closed, and returns how the process ended.
func (x *session) serverRequests(ch ssh.Channel, reqs <-chan *ssh.Request) (exit string, body []byte) {
	for r := range reqs {
		switch r.Type {
		case "exit-status":
			if _, err := payload.ParseExitStatus(r.Payload); err == nil && exit == "" {
				exit, body = r.Type, r.Payload
			}
		case "exit-signal":
			if _, err := payload.ParseExitSignal(r.Payload); err == nil && exit == "" {
				exit, body = r.Type, r.Payload
			}
		case "eow@openssh.com":
			_, _ = x.front.SendRequest(r.Type, false, nil)
		}
		if r.WantReply {
			_ = r.Reply(false, nil) // keepalives too: any answer will do
		}
	}
	return exit, body
}

// finish ends the person's channel with how the process ended.
func (x *session) finish(exit string, body []byte) {
	_, _ = x.front.SendRequest(exit, false, body)
	_ = x.front.CloseWrite()
}

// last says why the session ends, and ends it.
func (x *session) last(message string) {
	x.say(message)
	x.finish("exit-status", payload.ExitStatus{Status: statusRefused}.Marshal())
	_ = x.front.Close()
}

// say writes a line of our own to the person.
func (x *session) say(message string) {
	end := "\n"
	if x.pty.Load() {
		end = "\r\n"
	}
	_, _ = io.WriteString(x.front.Stderr(), "hawser: "+message+end)
}

// refuse says why there is no session once the person's client has asked for something to run: only then does it show it.
func (x *session) refuse(message string) {
	expired := time.NewTimer(startWait)
	defer expired.Stop()
	for started := false; !started; {
		select {
		case r, ok := <-x.front.Requests():
			if !ok {
				return
			}
			started = starts(r)
			if r.Type == "pty-req" {
				x.pty.Store(true)
			}
			_ = r.Reply(started || r.Type == "pty-req" || r.Type == "env")
		case <-expired.C:
			started = true
		}
	}
	x.last(message)
}
