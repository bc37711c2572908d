package front

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/crypto/ssh"

	"hawser/auth/ca"
)

// Refused is what this hub refused by itself, for the audit log. User and device are what the stranger said, unless he has authenticated.
type Refused struct {
	Type                                string // user or forward
	Reason                              string // one word
	User, Device, Login, Method, Detail string
	Client                              netip.AddrPort
	Connection                          [16]byte
}

// refusal tells of one.
func (c *conn) refusal(r Refused) {
	if c.s.c.Refused == nil {
		return
	}
	r.Client, r.Connection = c.client, c.id
	c.s.c.Refused(r)
}

// faults is what was wrong with what a connection offered before it authenticated. One goroutine, that of the handshake.
type faults struct {
	keys   int    // that nobody registered
	method string // the last of them
	reason string
	shown  ssh.PublicKey // the last that would do, if its holder had signed with it
	signed bool          // one of them did
	unread error         // why the library took what was offered for no key at all
}

// declined is why offered says no, to be told from what the library says.
type declined struct{ error }

func (d declined) Unwrap() error { return d.error }

// attempted is told by the library of each try to authenticate. What it cannot read as a key or certificate, such as one nested in another, nobody but it
// ever sees.
func (c *conn) attempted(meta ssh.ConnMetadata, method string, err error) {
	if _, ours := errors.AsType[declined](err); err == nil || ours || method != "publickey" || c.faults.shown != nil || c.faults.signed {
		return
	}
	c.sshUser, c.faults.unread = meta.User(), err
}

// offeredInVain notes a key that will not do. A certificate is told at once, for each fault has its own reason; of keys, of which people's
// agents offer many, one is told where none did.
func (c *conn) offeredInVain(key ssh.PublicKey, sshUser string, err error) {
	reason := ca.Reason(err)
	if cert, ok := key.(*ssh.Certificate); ok {
		if reason == "" {
			reason = "certificate"
		}
		// The signature of the CA may be what is wrong: what the certificate says of its user is a claim.
		c.refusal(Refused{
			Type: "user", Reason: reason, User: cert.KeyId, Method: fmt.Sprintf("certificate %d", cert.Serial),
			Detail: "offered as " + sshUser + " with the key " + ssh.FingerprintSHA256(cert.Key),
		})
		return
	}
	c.faults.keys++
	c.faults.method = "key " + ssh.FingerprintSHA256(key)
	if reason == "" {
		reason = "unknown-key"
	}
	c.faults.reason = reason
}

// neverKnown tells of a connection that ended before anybody authenticated.
func (c *conn) neverKnown() {
	if err := c.faults.unread; err != nil {
		c.refusal(Refused{Type: "user", Reason: "malformed", User: c.sshUser, Detail: err.Error()})
	}
	detail := ""
	switch shown := c.faults.shown; {
	case shown != nil:
		r := Refused{Type: "user", Reason: "unproven", User: c.sshUser, Method: "key " + ssh.FingerprintSHA256(shown)}
		if cert, ok := shown.(*ssh.Certificate); ok {
			r.User, r.Method = cert.KeyId, fmt.Sprintf("certificate %d", cert.Serial)
		}
		c.refusal(r)
		return
	case c.faults.keys == 0:
		return // certificates were told when they were refused; scanners and ssh-keyscan offer nothing
	case c.faults.keys > 1:
		detail = fmt.Sprintf("%d keys were offered", c.faults.keys)
	}
	c.refusal(Refused{Type: "user", Reason: c.faults.reason, User: c.sshUser, Method: c.faults.method, Detail: detail})
}

// forwardRefused tells of a forward that is not allowed.
func (c *conn) forwardRefused(reason, kind, target string) {
	c.refusal(Refused{Type: "forward", Reason: reason, User: c.identity.User, Device: c.name.Device, Login: c.name.Login, Method: kind, Detail: target})
}
