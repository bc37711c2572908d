package front

import (
	"context"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"

	"hawser/hub/names"
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
		AuthLogCallback:           c.attempted,
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
		c.sshUser = meta.User()
		c.offeredInVain(key, meta.User(), err)
		return nil, declined{err}
	}
	p := permissions(key)
	if _, untouched := p.Extensions["no-touch-required"]; untouched {
		return nil, declined{errUntouched}
	}
	c.sshUser, c.faults.shown = meta.User(), key
	return p, nil
}

// errUntouched: a security key is there to be touched. The library would take a certificate's word that it need not be.
var errUntouched = errors.New("certificate lets a security key sign without touch")

// permissions are what the library holds the connection to.
func permissions(key ssh.PublicKey) *ssh.Permissions {
	p := new(ssh.Permissions)
	if cert, ok := key.(*ssh.Certificate); ok {
		p.CriticalOptions = cert.CriticalOptions
		p.Extensions = cert.Extensions
	}
	return p
}

// verified runs once per good signature: who it is follows from this key alone. Here the connection takes its place, for this is the only
// point where a refusal can be shown to a client that opens no channel. Where auth wants a second factor first, nothing but that is offered
// from then on, to the person whose key has signed.
func (c *conn) verified(meta ssh.ConnMetadata, key ssh.PublicKey, _ *ssh.Permissions, _ string) (*ssh.Permissions, error) {
	c.faults.shown, c.faults.signed = nil, true
	id, err := c.s.c.Backend.Identify(key, meta.RemoteAddr())
	if err != nil {
		return nil, err
	}
	err = c.takePlace(meta, id)
	if r, ok := errors.AsType[*Refusal](err); ok && r.Reason == RefusedFactor {
		if !c.factor.begin(c, id.User) {
			return nil, refusedBanner(&Refusal{Message: "too many connections of yours wait for a code; end some, or answer them"})
		}
		return nil, &ssh.PartialSuccessError{Next: ssh.ServerAuthCallbacks{
			KeyboardInteractiveCallback: func(meta ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
				return c.secondFactor(meta, key, id, ask)
			},
		}}
	}
	if err != nil {
		return nil, c.refused(meta, id, err)
	}
	return c.authenticated(key, id), nil
}

// authenticated is what a connection that has its place goes on with; whatever restricts the key is in it, however many factors there were.
func (c *conn) authenticated(key ssh.PublicKey, id Identity) *ssh.Permissions {
	p := permissions(key)
	p.ExtraData = map[any]any{identityKey{}: id}
	return p
}

// takePlace asks auth for the connection's place.
func (c *conn) takePlace(meta ssh.ConnMetadata, id Identity) error {
	ctx, cancel := context.WithTimeout(c.ctx, admitTimeout)
	defer cancel()
	place, err := c.s.c.Backend.Admit(ctx, c.claim(meta, id))
	if c.placed = err == nil; c.placed {
		c.forced, c.granted, c.most = place.ForceCommand != "", place.limits(), int32(min(place.MaxChannels, maxChannels))
	}
	return err
}

func (c *conn) claim(meta ssh.ConnMetadata, id Identity) Claim {
	claim := Claim{
		Kind: Connection, Identity: id, ConnectionID: c.id, ClientAddr: addrPort(meta.RemoteAddr()),
		UserAgent: wire.Quote(string(meta.ClientVersion()), 128),
	}
	n := names.Resolve(meta.User(), id.User, func(device string) bool { return c.s.c.Backend.IsDevice(id, device) })
	if n.Kind == names.OfDevice {
		claim.Wanted = n.Device
	}
	return claim
}

func (c *conn) refused(meta ssh.ConnMetadata, id Identity, err error) error {
	c.s.c.Logger.Warn("connection refused", "user", id.User, "client", meta.RemoteAddr().String(), "error", err)
	return refusedBanner(err)
}

// refusedBanner shows an error where a stock client shows it: ssh prints a banner to stderr.
func refusedBanner(err error) error {
	return &ssh.BannerError{Err: err, Message: "hawser: " + explain(err) + "\r\n"}
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
	case errors.Is(err, ErrSilent):
		return "the device has a tunnel but does not answer over it; its link may be bad now: try again in a minute"
	case errors.Is(err, ErrOffline):
		return "the device is not connected now; `ssh hawser@HUB ls` shows which are"
	case errors.Is(err, ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return "the hub cannot reach the auth service, so nothing new can be opened; try again in a minute"
	}
	return "the hub could not open this; its log says why"
}
