package front

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/tunnel/wire"
)

// outcome is how a session ended, as auth is told it.
func outcome(exit *exitInfo, err error) (status int32, reason string) {
	switch {
	case exit != nil && exit.signal != "":
		return 128, "signal " + wire.Quote(exit.signal, 32)
	case exit != nil:
		return int32(exit.status), "exited"
	case err != nil:
		return statusRefused, wire.Quote(err.Error(), 256)
	}
	return statusRefused, "failed"
}

// giveBack releases the session's place, once. It comes before the client sees the end, unless the hub ended the session (a kill, a lock, a
// limit, a recording that cannot be made): whoever starts the next one when this is over must not be refused for it.
func (x *session) giveBack(status int32, reason string) {
	x.given.Do(func() {
		if why := x.why.Load(); why != nil {
			reason = wire.Quote(*why, 256)
		}
		ran := x.state()
		x.c.s.c.Backend.Release(x.id, Ended{ExitStatus: status, Reason: reason, Channel: ran.Channel, Command: ran.Command})
	})
}

// settle waits for the turn of a session that the hub ended, and returns what ends that.
func (s *Server) settle() (settled func()) {
	select {
	case s.settling <- struct{}{}:
		return func() { <-s.settling }
	case <-time.After(settleWait):
		return func() {}
	}
}

// overCap says why a channel more is more than the cluster lets a connection have (caps.per_connection); empty: it is not.
func (c *conn) overCap(open int32) string {
	if c.most == 0 || open <= c.most {
		return ""
	}
	return fmt.Sprintf("a connection may have %d channels at once and %d are open (caps.per_connection); close one, or use another connection", c.most, open-1)
}

// refuseSession shows a refusal where people look: on stderr of a channel that was accepted.
func (c *conn) refuseSession(why string) func(ssh.NewChannel) {
	return func(nch ssh.NewChannel) {
		c.acceptSession(nch, func(x *session) { x.refuse(why) })
	}
}

// CutClient ends the connection from an address and port at once, and so whatever is piped through it.
func (s *Server) CutClient(client netip.AddrPort, reason string) {
	s.mu.Lock()
	var found []*conn
	for c := range s.conns {
		if c.user.Load() != nil && c.client == client {
			found = append(found, c)
		}
	}
	s.mu.Unlock()
	for _, c := range found {
		c.end(&killedError{reason})
	}
}
