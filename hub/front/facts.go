package front

import (
	"io"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/recorder"
	"hawser/recorder/observe"
	"hawser/tunnel/wire"
)

// recordedInput lets what the person sends be recorded before it goes to the device.
type recordedInput struct {
	x *session
	r io.Reader
}

func (i recordedInput) Read(p []byte) (int, error) {
	n, err := i.r.Read(p)
	if n > 0 {
		if w, _ := i.x.sawSession(); w != nil && !w.Passed(recorder.Stdin, nil) {
			return 0, recorder.ErrStalled
		}
		if err := i.x.held.Add(p[:n]); err != nil {
			return 0, err
		}
	}
	return n, err
}

// judged is told by the device's channel what the device took of the input, and whether it may be recorded.
func (x *session) judged(n uint32, tag byte) {
	if x.held != nil {
		x.held.Judged(n, tag)
	}
}

// runs is what the device starts where that was asked for: a key's own command goes before.
func (x *session) runs(kind, command string) (string, string) {
	if x.place.ForceCommand == "" {
		return kind, command
	}
	return "exec", x.place.ForceCommand
}

// observed begins to take facts out of what passes.
func (x *session) observed(kind, command string, h *recorder.Header) *observe.Session {
	if x.place.ForceCommand != "" { // recorded as bytes, whatever it is
		kind, command = "exec", ""
	}
	// The device gives sftp no terminal, whatever was asked for.
	seen := observe.NewSession(kind, command, x.pty.Load() && kind != "sftp", x.place.RecordStdin)
	h.Input, h.Unkept = seen.Kept(), seen.Unkept()
	return seen
}

// sawSession is what records, and what takes facts; nil: nothing does.
func (x *session) sawSession() (Recording, *observe.Session) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.tap, x.facts
}

// followed is a channel to the person's client, where what passes is looked at.
type followed struct {
	ssh.Channel
	io.ReadWriteCloser
}

func (f followed) Read(b []byte) (int, error)  { return f.ReadWriteCloser.Read(b) }
func (f followed) Write(b []byte) (int, error) { return f.ReadWriteCloser.Write(b) }
func (f followed) Close() error                { return f.ReadWriteCloser.Close() }

// followAgent records what is done over a channel to the person's agent.
func (x *session) followAgent(ch ssh.Channel) ssh.Channel {
	w, _ := x.sawSession()
	if w == nil {
		return ch
	}
	return followed{ch, observe.NewAgent(w.AgentUse).Channel(ch)}
}

// Forwarded is one forwarded connection that has been opened, or has ended.
type Forwarded struct {
	ID         uint64 // the same at both
	Connection [16]byte
	User       string
	Device     wire.UUID
	DeviceName string
	Login      string
	Client     string
	Channel    string // local-forward, remote-forward, socket-forward
	Target     string
	Origin     string
	Closed     bool
	In, Out    uint64 // bytes to the target and from it, once closed
	Lasted     time.Duration
}

// forwardKinds are recorder.Forward's for those of auth/policy.
var forwardKinds = map[string]string{"local-forward": "local", "remote-forward": "remote", "socket-forward": "socket"}

var forwardIDs atomic.Uint64 // unique in each recording

// forwardOpened tells auth of a forwarded connection, and records it with the connection's sessions. closed is for its end.
func (c *conn) forwardOpened(p *Place, channel, target, origin string) (closed func(in, out int64)) {
	f := Forwarded{
		Connection: c.id, User: c.identity.User, Device: p.Device, DeviceName: p.DeviceName, Login: p.Login, Client: c.client.String(),
		Channel: channel, Target: wire.Quote(target, maxForwardTarget), Origin: wire.Quote(origin, maxForwardTarget),
	}
	begun := c.s.c.Now()
	r := recorder.Forward{Kind: forwardKinds[channel], Target: f.Target, Origin: f.Origin, State: "open", ID: forwardIDs.Add(1)}
	f.ID = r.ID
	c.recordForward(r)
	c.s.c.Backend.Forwarded(f)
	return func(in, out int64) {
		r.State, r.In, r.Out = "close", uint64(in), uint64(out)
		c.recordForward(r)
		f.Closed, f.In, f.Out, f.Lasted = true, r.In, r.Out, c.s.c.Now().Sub(begun)
		c.s.c.Backend.Forwarded(f)
	}
}

// recordForward puts a fact into the recordings of the sessions that the connection has now.
func (c *conn) recordForward(f recorder.Forward) {
	c.mu.Lock()
	sessions := make([]*session, 0, len(c.sessions))
	for x := range c.sessions {
		sessions = append(sessions, x)
	}
	c.mu.Unlock()
	for _, x := range sessions {
		if w, _ := x.sawSession(); w != nil {
			w.Forward(f)
		}
	}
}
