package front

import (
	"context"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/tunnel/wire"
)

// factorWaits counts the connections that wait for a second factor.
type factorWaits struct {
	all   int
	users map[string]int
}

// factorWait is a connection's part in it.
type factorWait struct {
	user  string // empty: it does not wait
	codes int    // that were wrong
	note  string // why the last one was, for the next question: a client may be told to show no banners
}

// begin makes the connection wait: from now on for a person and not for a stranger. It tells whether it may.
func (f *factorWait) begin(c *conn, user string) bool {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &s.factors
	if w.all >= maxFactorWaits || w.users[user] >= maxUserFactorWaits {
		return false
	}
	if w.users == nil {
		w.users = make(map[string]int)
	}
	w.all++
	w.users[user]++
	f.user = user
	if c.known != nil {
		c.known()
	}
	_ = c.nc.SetDeadline(time.Now().Add(factorTime))
	return true
}

// end gives the place among those that wait back.
func (f *factorWait) end(s *Server) {
	if f.user == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.factors.all--
	if s.factors.users[f.user]--; s.factors.users[f.user] == 0 {
		delete(s.factors.users, f.user)
	}
	f.user = ""
}

// secondFactor asks for a code. key is what signed, and id whose it is: nothing that the client says after that changes either. Auth judges
// the code and remembers it for this connection; the place is asked for again then, as before.
func (c *conn) secondFactor(meta ssh.ConnMetadata, key ssh.PublicKey, id Identity, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
	if c.factor.codes >= maxCodes {
		return nil, refusedBanner(&Refusal{Message: "too many wrong codes; connect again, or ask an admin for `hawser user reset`"})
	}
	answers, err := ask("", c.factor.note, []string{"Code of " + printable(id.User) + "'s authenticator: "}, []bool{true})
	if err != nil {
		return nil, err
	}
	code := ""
	if len(answers) == 1 {
		code = strings.ReplaceAll(answers[0], " ", "")
	}
	if len(code) > maxCode {
		code = "" // as wrong as any
	}
	ctx, cancel := context.WithTimeout(c.ctx, admitTimeout)
	ok, message, err := c.s.c.Backend.SecondFactor(ctx, c.claim(meta, id), code)
	cancel()
	switch {
	case err != nil:
		return nil, c.refused(meta, id, err)
	case !ok:
		c.factor.codes++
		c.s.c.Logger.Info("second factor refused", "user", id.User, "client", meta.RemoteAddr().String(), "reason", wire.Quote(message, 256))
		c.factor.note = "hawser: " + printable(message)
		return nil, &Refusal{Message: message}
	}
	if err := c.takePlace(meta, id); err != nil {
		return nil, c.refused(meta, id, err)
	}
	return c.authenticated(key, id), nil
}
