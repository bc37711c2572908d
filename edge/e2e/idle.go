package e2e

import (
	"context"
	"errors"
	"io"
	"sync"

	"golang.org/x/crypto/ssh"

	"hawser/auth/ca"
	"hawser/edge/session"
	"hawser/tunnel/idle"
	"hawser/tunnel/screen"
)

// limits are those of the device's own policy for the person's roles, as it is now.
func (s *server) limits() idle.Limits {
	return idle.Limits{SessionLimits: s.p.Host.Limits(), Expires: ca.ExpiresAt(s.cert)}
}

// watch holds something of the connection against the limits until stop is called; cancel ends it.
func (s *server) watch(c idle.Config, cancel context.CancelCauseFunc) (w *idle.Watch, stop func()) {
	c.Now, c.End = s.p.Host.Now, func(reason string) { cancel(errors.New(reason)) }
	if s.p.Carried != nil {
		c.Away = func() bool { return !s.p.Carried() }
	}
	w = idle.Start(c, s.limits())
	leave := s.p.Host.OnPolicy(func() { w.Set(s.limits()) })
	return w, func() {
		leave()
		w.Stop()
	}
}

// watchConnection is for what the connection has beside its sessions, which are watched by themselves.
func (s *server) watchConnection(cancel context.CancelCauseFunc) (stop func()) {
	s.idle, stop = s.watch(idle.Config{Meter: s.meter, Busy: func() bool { return s.sessions.Load() > 0 }}, cancel)
	return stop
}

// watchSession counts what passes on a session's channel, and holds it against the limits.
func (s *server) watchSession(raw ssh.Channel, tty *session.TTY, cancel context.CancelCauseFunc) (ch *noticed, stop func()) {
	m := idle.NewMeter()
	n := &noticed{Channel: idle.Channel(raw, m), tty: tty}
	n.guests = screen.NewTeller(n.sayOfGuests)
	s.sessions.Add(1)
	_, end := s.watch(idle.Config{Meter: m, Terminal: tty.Open, Warn: n.warn}, cancel)
	return n, func() {
		end()
		n.guests.Stop()
		s.meter.Touch()
		s.sessions.Add(-1)
		s.idle.Look()
	}
}

// late is why nothing more may begin on the connection; nil: it may.
func (s *server) late() error {
	if why := s.idle.Late(); why != "" {
		return &Refusal{Message: "this connection opens nothing more: " + why + "; connect again"}
	}
	return nil
}

// noticed is a session's channel, where a line of our own may be written between what the processes write, if that spoils nothing.
type noticed struct {
	ssh.Channel
	tty *session.TTY

	guests *screen.Teller // of who joined and left

	writing sync.Mutex // a notice only tries for it: what blocks a write blocks it too
	screen  screen.Screen
	errors  sync.Mutex // the same for stderr: two at once write on one buffer, in x/crypto
}

func (n *noticed) Write(p []byte) (int, error) {
	n.writing.Lock()
	defer n.writing.Unlock()
	if n.tty.Open() {
		n.screen.Write(p)
	}
	return n.Channel.Write(p)
}

// Stderr implements ssh.Channel.
func (n *noticed) Stderr() io.ReadWriter { return noticedErr{n.Channel.Stderr(), &n.errors} }

type noticedErr struct {
	io.ReadWriter
	writing *sync.Mutex
}

func (e noticedErr) Write(p []byte) (int, error) {
	e.writing.Lock()
	defer e.writing.Unlock()
	return e.ReadWriter.Write(p)
}

// CloseWrite implements ssh.Channel. While somebody writes, x/crypto may not be told of the end: that the channel is closed says it too.
func (n *noticed) CloseWrite() error {
	if !n.writing.TryLock() {
		return nil
	}
	defer n.writing.Unlock()
	if !n.errors.TryLock() {
		return nil
	}
	defer n.errors.Unlock()
	return n.Channel.CloseWrite()
}

// sayOfGuests is warn for a line that is tried again; true too where the person wants none.
func (n *noticed) sayOfGuests(text string) bool { return n.tty.Quiet() || n.warn(text) }

// warn writes a line, behind a prompt too; false: it would spoil what is shown, or the person wants none.
func (n *noticed) warn(text string) bool {
	if n.tty.Quiet() || !n.writing.TryLock() {
		return false
	}
	defer n.writing.Unlock()
	text = "hawser: " + text + "\r\n"
	switch {
	case n.screen.Free():
	case n.screen.Prompt():
		text = "\r\n" + text
	default:
		return false
	}
	n.screen.Write([]byte(text))
	_, err := io.WriteString(n.Channel, text)
	return err == nil
}
