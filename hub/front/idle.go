package front

import (
	"errors"

	"hawser/tunnel/idle"
)

// limits are the place's, as auth granted it.
func (p *Place) limits() idle.Limits {
	return idle.Limits{SessionLimits: p.Session, Expires: p.Expires}
}

// limitsNow are granted, with what the roles say by now where that is known.
func (s *Server) limitsNow(what Live, wanted string, granted idle.Limits) idle.Limits {
	if s.c.Limits != nil {
		if l, ok := s.c.Limits(what, wanted); ok {
			granted.SessionLimits = l
		}
	}
	return granted
}

// watchIdle begins to hold the connection against its limits. It is judged by what its forwards carry, and not at all while it has a session,
// which is judged by itself, or somebody on it is end to end on a device, which judges him.
func (c *conn) watchIdle() {
	w := idle.Start(idle.Config{
		Meter: c.meter, Now: c.s.c.Now, Busy: c.busy,
		End: func(reason string) {
			c.s.c.Logger.Info("connection ended", "user", c.identity.User, "client", c.client.String(), "reason", reason)
			c.mu.Lock()
			c.endReason = reason
			c.mu.Unlock()
			c.end(errors.New(reason))
		},
	}, c.s.limitsNow(c.live(), c.name.Device, c.granted))
	c.mu.Lock()
	c.watch = w
	c.mu.Unlock()
}

// ended is how the connection ended, for auth.
func (c *conn) ended() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.endReason != "" {
		return c.endReason
	}
	return "closed"
}

// watching is the connection's watch; nil before it is authenticated.
func (c *conn) watching() *idle.Watch {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.watch
}

func (c *conn) busy() bool {
	c.mu.Lock()
	n := len(c.sessions)
	c.mu.Unlock()
	return n > 0 || c.piped()
}

// left is called when a session or a pipe has ended: from now on the connection may be idle.
func (c *conn) left() {
	c.meter.Touch()
	if w := c.watching(); w != nil {
		w.Look()
	}
}

// late is why nothing more may begin on the connection; empty: it may.
func (c *conn) late() string {
	if w := c.watching(); w != nil {
		if why := w.Late(); why != "" {
			return "this connection opens nothing more: " + why + "; connect again"
		}
	}
	return ""
}

// relimit puts in force what the roles say now.
func (c *conn) relimit() {
	if w := c.watching(); w != nil {
		w.Set(c.s.limitsNow(c.live(), c.name.Device, c.granted))
	}
}

// watchIdle begins to hold the session against its limits: those of its connection until it has a place of its own.
func (x *session) watchIdle() *idle.Watch {
	return idle.Start(idle.Config{
		Meter: x.meter, Now: x.c.s.c.Now, Terminal: x.pty.Load, Busy: x.waiting.Load,
		Warn: func(text string) bool { return x.live.Load() != nil && x.notices.warn(text) }, // what the hub itself shows is not followed
		End:  x.expire,
	}, x.c.s.limitsNow(x.c.live(), x.c.name.Device, x.c.granted))
}

// limit puts the limits of the session's place in force.
func (x *session) limit(p *Place) {
	x.watch.Set(x.c.s.limitsNow(x.subject(), "", p.limits()))
}

// expire ends the session because it has lasted too long.
func (x *session) expire(reason string) {
	x.c.s.c.Logger.Info("session ends", "user", x.c.identity.User, "client", x.c.client.String(), "reason", reason)
	x.kill(reason)
}

// counted are the facts of what passed for State.
func counted(s *State, m *idle.Meter, terminal bool) {
	s.BytesIn, s.BytesOut = m.Bytes()
	s.LastActivity = m.Last(terminal)
}
