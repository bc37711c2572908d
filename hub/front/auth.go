package front

import (
	"context"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"

	"hawser/tunnel/wire"
)

// identityKey is where the verified identity travels in ssh.Permissions.
type identityKey struct{}

// serverConfig is made for each connection: the callbacks hold nothing of the offers, and the certificate is the current one.
func (c *conn) serverConfig() *ssh.ServerConfig {
	config := &ssh.ServerConfig{
		Config:                    algorithms(),
		PublicKeyAuthAlgorithms:   userAlgorithms(),
		MaxAuthTries:              maxTries,
		ServerVersion:             serverVersion,
		PublicKeyCallback:         c.offered,
		VerifiedPublicKeyCallback: c.verified,
	}
	config.AddHostKey(c.s.c.HostKey)
	if c.s.c.Certificate != nil {
		if cert := c.s.c.Certificate(); cert != nil {
			if signer, err := ssh.NewCertSigner(cert, c.s.c.HostKey); err == nil {
				config.AddHostKey(signer)
			} else {
				c.s.c.Logger.Error("host certificate not usable", "error", err)
			}
		}
	}
	return config
}

// offered says whether a signature by this key would do. What it returns carries the certificate's options, which the library enforces,
// and no identity.
func (c *conn) offered(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	if _, err := c.s.c.Backend.Identify(key, meta.RemoteAddr()); err != nil {
		return nil, err
	}
	p := new(ssh.Permissions)
	if cert, ok := key.(*ssh.Certificate); ok {
		p.CriticalOptions = cert.CriticalOptions
		p.Extensions = cert.Extensions
	}
	return p, nil
}

// verified runs once per good signature: who it is follows from this key alone. Here the connection takes its place, for this is the only
// point where a refusal can be shown to a client that opens no channel.
func (c *conn) verified(meta ssh.ConnMetadata, key ssh.PublicKey, p *ssh.Permissions, _ string) (*ssh.Permissions, error) {
	id, err := c.s.c.Backend.Identify(key, meta.RemoteAddr())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(c.ctx, admitTimeout)
	defer cancel()
	_, err = c.s.c.Backend.Admit(ctx, Claim{
		Kind: Connection, Identity: id, ConnectionID: c.id, ClientAddr: addrPort(meta.RemoteAddr()),
		UserAgent: wire.Quote(string(meta.ClientVersion()), 128),
	})
	if err != nil {
		c.s.c.Logger.Warn("connection refused", "user", id.User, "client", meta.RemoteAddr().String(), "error", err)
		return nil, &ssh.BannerError{Err: err, Message: "hawser: " + explain(err) + "\r\n"}
	}
	c.placed = true
	p.ExtraData = map[any]any{identityKey{}: id}
	return p, nil
}

// printable makes a message safe for a terminal, with its quotes as they are.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s[:min(len(s), 1024)])
}

// explain says an error of Admit or OpenStream to the person.
func explain(err error) string {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return printable(r.Message)
	}
	switch {
	case errors.Is(err, ErrOffline):
		return "the device is not connected now; `ssh hawser@HUB ls` shows which are"
	case errors.Is(err, ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return "the hub cannot reach the auth service, so nothing new can be opened; try again in a minute"
	}
	return "the hub could not open this; its log says why"
}
