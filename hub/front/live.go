package front

import (
	"net/netip"
	"slices"
	"time"

	"hawser/tunnel/idle"
	"hawser/tunnel/wire"
)

// Kinds of Live beside those of places.
const (
	// Forward is one forwarded connection, a listener, or agent forwarding.
	Forward Kind = iota + 10
	// Pipe is a connection end to end, as far as the hub has a part in it.
	Pipe
)

// Live is something that was admitted and is served now.
type Live struct {
	ID       [16]byte // of a Connection or Session
	Kind     Kind
	Identity Identity
	Client   netip.Addr
	Device   wire.UUID // zero: the hub itself
	Login    string    // empty: not known here
	Channel  string    // channel kind of auth/policy; empty: several, or not known yet
}

// live is what a connection has beside its sessions.
type live struct {
	what  Live
	end   func()
	meter *idle.Meter // of a pipe
}

// denied is why something may not go on, in words for the person; empty: it may.
func (s *Server) denied(what Live) string {
	if s.c.Denied == nil {
		return ""
	}
	return s.c.Denied(what)
}

// Recheck holds all that is live against Config.Denied and ends what is not allowed any more. It does not wait for the ends. What was admitted
// and is not live yet is held against it when it becomes so.
func (s *Server) Recheck() {
	s.checks.Add(1)
	s.mu.Lock()
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		if c.user.Load() != nil {
			conns = append(conns, c)
		}
	}
	sessions := make([]*session, 0, len(s.sessions))
	for _, x := range s.sessions {
		sessions = append(sessions, x)
	}
	s.mu.Unlock()
	for _, c := range conns {
		c.recheck()
	}
	for _, x := range sessions {
		x.recheck()
	}
}

// recheck ends the connection, or what of it is not allowed any more; its sessions see to themselves.
func (c *conn) recheck() {
	if why := c.s.denied(c.live()); why != "" {
		c.endSessions(why)
		return
	}
	c.relimit()
	c.mu.Lock()
	held := make([]*live, 0, len(c.held))
	for l := range c.held {
		held = append(held, l)
	}
	c.mu.Unlock()
	for _, l := range held {
		if why := c.s.denied(l.what); why != "" {
			c.s.c.Logger.Info("forward ended", "user", c.identity.User, "client", c.client.String(), "channel", l.what.Channel, "reason", wire.Quote(why, 256))
			l.end()
		}
	}
}

func (c *conn) live() Live {
	return Live{ID: c.id, Kind: Connection, Identity: c.identity, Client: c.client.Addr()}
}

// hold enters something into what recheck looks at, and returns the function that takes it out. end must not block; it may be called at once.
func (c *conn) hold(what Live, end func()) (release func()) { return c.holdMetered(what, nil, end) }

func (c *conn) holdMetered(what Live, m *idle.Meter, end func()) (release func()) {
	what.Identity, what.Client = c.identity, c.client.Addr()
	l := &live{what: what, end: end, meter: m}
	c.mu.Lock()
	if c.held == nil {
		c.held = make(map[*live]struct{})
	}
	c.held[l] = struct{}{}
	c.mu.Unlock()
	if c.s.denied(what) != "" {
		end()
	}
	return func() {
		c.mu.Lock()
		delete(c.held, l)
		c.mu.Unlock()
		if what.Kind == Pipe {
			c.left()
		}
	}
}

// piped tells whether somebody is on end to end by this connection.
func (c *conn) piped() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for l := range c.held {
		if l.what.Kind == Pipe {
			return true
		}
	}
	return false
}

// PipeKey is whose pipes end to end to which device: several at once cannot be told apart.
type PipeKey struct {
	Device wire.UUID
	Client netip.AddrPort
}

// Pipes are the bytes that pipes carried, from the person and to him. The hub cannot read them: they are counted as they are.
func (s *Server) Pipes() map[PipeKey][2]uint64 {
	s.mu.Lock()
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		if c.user.Load() != nil {
			conns = append(conns, c)
		}
	}
	s.mu.Unlock()
	pipes := make(map[PipeKey][2]uint64)
	for _, c := range conns {
		c.mu.Lock()
		for l := range c.held {
			if l.meter != nil {
				in, out := l.meter.Bytes()
				sum := pipes[PipeKey{l.what.Device, c.client}]
				pipes[PipeKey{l.what.Device, c.client}] = [2]uint64{sum[0] + in, sum[1] + out}
			}
		}
		c.mu.Unlock()
	}
	return pipes
}

// recheck ends the session if it is not allowed any more. The place is there.
func (x *session) recheck() {
	if why := x.c.s.denied(x.subject()); why != "" {
		x.kill(why)
		return
	}
	x.mu.Lock()
	place := x.place
	x.mu.Unlock()
	x.limit(place)
}

func (x *session) subject() Live {
	x.mu.Lock()
	defer x.mu.Unlock()
	l := Live{ID: x.id, Kind: Session, Identity: x.c.identity, Client: x.c.client.Addr(), Channel: x.what[0]}
	if x.place != nil {
		l.Device, l.Login = x.place.Device, x.place.Login
	}
	return l
}

// EndDevice ends whatever is on a device, or is being opened there, with the reason shown.
func (s *Server) EndDevice(device wire.UUID, name, reason string) {
	s.mu.Lock()
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		if c.user.Load() != nil {
			conns = append(conns, c)
		}
	}
	s.mu.Unlock()
	for _, c := range conns {
		var sessions []*session
		var held []*live
		c.mu.Lock()
		for x := range c.sessions {
			sessions = append(sessions, x)
		}
		for l := range c.held {
			if l.what.Device == device {
				held = append(held, l)
			}
		}
		c.mu.Unlock()
		for _, x := range sessions {
			if x.goesTo(device, name) {
				x.kill(reason)
			}
		}
		for _, l := range held {
			l.end()
		}
	}
}

// goesTo tells whether the session is on a device, or waits for its place there.
func (x *session) goesTo(device wire.UUID, name string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.place == nil {
		return x.c.name.Device == name
	}
	return x.place.Device == device
}

// CutDevice ends at once whatever is on a device: its tunnels are about to be closed, and it is not waited for.
func (s *Server) CutDevice(device wire.UUID, reason string) {
	s.mu.Lock()
	var sessions []*session
	for _, x := range s.sessions {
		sessions = append(sessions, x)
	}
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	sessions = slices.DeleteFunc(sessions, func(x *session) bool { return x.subject().Device != device })
	for _, x := range sessions {
		x.cancel(&killedError{reason})
		time.AfterFunc(killGrace, func() { _ = x.ch.Close() }) // a client that reads nothing holds up the last words
	}
	for _, c := range conns {
		c.mu.Lock()
		for l := range c.held {
			if l.what.Device == device {
				l.end()
			}
		}
		c.mu.Unlock()
	}
}
