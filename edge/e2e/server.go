package e2e

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/ca"
	"hawser/auth/forwarded"
	"hawser/auth/grant"
	"hawser/auth/policy"
	"hawser/edge/forward"
	"hawser/edge/login"
	"hawser/edge/session"
	"hawser/tunnel"
	"hawser/tunnel/idle"
)

// Ask is what a place is wanted for.
type Ask struct {
	Kind         grant.Kind
	ConnectionID [16]byte
	SessionID    [16]byte // of a session
	Cert         *ssh.Certificate
	Login        string
	ClientAddr   netip.AddrPort
	// Join is the beginning of the id of the session that is to be joined, and JoinMode how; empty: it is to be one of its own.
	Join, JoinMode string
}

// A Refusal is a place refused, in words for the person.
type Refusal struct {
	Message string
	Later   bool // nobody has judged it
}

func (r *Refusal) Error() string { return r.Message }

// Host is what the server needs of the agent. All methods are called from several goroutines.
type Host interface {
	// HostKey is the device's host key with its certificate.
	HostKey() (ssh.Signer, error)
	// VerifyUser checks a user certificate presented from remote, a *net.TCPAddr with the person's own address.
	VerifyUser(cert *ssh.Certificate, remote net.Addr) (ca.UserIdentity, error)
	// Denied is told, once for a connection that came to nothing, why the last key it showed would not do.
	Denied(keyID, login string, err error)
	// MayEnter is policy before a place is asked for: something on this device is open to these roles with this login.
	MayEnter(roles []string, login string) error
	// Place asks for a place and returns its grant, checked; a *Refusal is for the person to read.
	Place(ctx context.Context, a Ask) (*grant.Grant, error)
	// MaxChannels is how many channels the connection may have at once, once it has its place; 0: as many as there are here.
	MaxChannels() int
	// Release gives the place of a session or connection back.
	Release(id [16]byte, status uint32, reason string)
	// Allow is policy at the opening of a channel of the kind.
	Allow(g *grant.Grant, kind string) error
	// Access is where forwards of the grant may go.
	Access(g *grant.Grant) (forward.Access, error)
	// Moderated is whether enough people are in a session of the person's for a forward of the kind: a context that is over when they are not any more, and
	// what is to be called at the end. An error says who is missing.
	Moderated(ctx context.Context, g *grant.Grant, kind, what string) (context.Context, func(), error)
	// Forwarded tells of a forwarded connection that is open: auth, where it can be told past the hub, and the recordings of the connection's sessions, for which
	// it may wait. closed is for its end, with the bytes to the target and from it.
	Forwarded(g *grant.Grant, r forwarded.Report) (closed func(in, out int64))
	// Enter counts a session or connection in and gives it a context that a kill ends, and the function that counts it out.
	Enter(ctx context.Context, id [16]byte) (context.Context, func())
	// Limits is how long the connection's sessions, and it itself, may last, by the device's policy as it is now; once it has its place.
	Limits() policy.SessionLimits
	// OnPolicy has f called when that may have changed, until leave is called. f must not block.
	OnPolicy(f func()) (leave func())
	// Now is by the clock that certificates are held against.
	Now() time.Time
	// Serve runs a session of the grant in the engine, recorded as the grant says. It fills in what the grant knows.
	Serve(ctx context.Context, ch *Session, g *grant.Grant, p session.Params) session.Result
}

// Params are one connection's.
type Params struct {
	Host   Host
	Client netip.AddrPort // the person's address
	Server netip.AddrPort // as the person reached the hub; may be invalid
	Way    string         // for the log
	// Carried tells whether a tunnel that answers carries the connection now: a client that cannot be heard is not gone. Nil: always.
	Carried func() bool
	Logger  tunnel.Logger
}

// ErrClient wraps what ended a connection before anyone was authenticated.
var ErrClient = errors.New("no one authenticated")

// server is one connection.
type server struct {
	p     Params
	log   tunnel.Logger
	id    [16]byte
	conn  *ssh.ServerConn
	cert  *ssh.Certificate
	user  ca.UserIdentity
	login string
	room  chan struct{} // one token per open channel
	// waiting has one per connection that a listener accepted and that is served, or is about to.
	waiting chan struct{}

	meter    *idle.Meter // what it carries beside its sessions
	idle     *idle.Watch
	sessions atomic.Int32

	denied func() // tells of the last key that would not do; the handshake's
	ended  string // why; Serve's
	placed bool   // the connection has a place; written by the handshake, read after it

	mu        sync.Mutex
	forwards  *grant.Grant // the connection's, until it is over
	listeners map[string]*listener
	over      bool

	wg sync.WaitGroup // everything the connection started
}

// userKey is where the certificate travels from the check of a key to the check of its signature.
type userKey struct{}

type identified struct {
	cert *ssh.Certificate
	user ca.UserIdentity
}

// Serve serves one connection until it ends; it closes nc. It returns when everything it started has ended.
func Serve(ctx context.Context, nc net.Conn, p Params) error {
	defer nc.Close()
	if !p.Client.IsValid() {
		return errors.New("the hub did not say whence the person comes")
	}
	s := &server{p: p, log: p.Logger, room: make(chan struct{}, maxChannels), ended: "connection ended", listeners: map[string]*listener{},
		waiting: make(chan struct{}, maxWaiting)}
	rand.Read(s.id[:])
	signer, err := p.Host.HostKey()
	if err != nil {
		return fmt.Errorf("host key: %w", err)
	}
	ctx, leave := p.Host.Enter(ctx, s.id)
	defer leave()

	stop := context.AfterFunc(ctx, func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(handshakeTimeout))
	conn, channels, requests, err := ssh.NewServerConn(&addressed{nc, tcpAddr(p.Client), tcpAddr(p.Server)}, s.config(ctx, signer))
	if s.placed { // a handshake may still fail after it
		defer func() { p.Host.Release(s.id, 0, s.ended) }()
	}
	if err != nil {
		stop()
		if s.denied != nil {
			s.denied()
		}
		return fmt.Errorf("%w: %w", ErrClient, err)
	}
	if !stop() {
		conn.Close()
		return context.Cause(ctx)
	}
	_ = nc.SetDeadline(time.Time{})
	s.conn = conn
	id := conn.Permissions.ExtraData[userKey{}].(identified)
	s.cert, s.user = id.cert, id.user
	tunnel.Info(s.log, "connected", "way", p.Way, "user", s.user.Name, "login", s.login, "client", p.Client, "connection", fmt.Sprintf("%x", s.id))
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	s.meter = idle.NewMeter()
	defer s.watchConnection(end)()
	s.serve(ctx, channels, requests)
	if ctx.Err() != nil {
		s.ended = context.Cause(ctx).Error()
	}
	tunnel.Info(s.log, "connection ended", "user", s.user.Name, "connection", fmt.Sprintf("%x", s.id))
	return nil
}

// config is the server's side of the handshake and the authentication.
func (s *server) config(ctx context.Context, signer ssh.Signer) *ssh.ServerConfig {
	c := &ssh.ServerConfig{
		Config:                  ssh.Config{KeyExchanges: keyExchanges, Ciphers: ciphers, MACs: macs},
		PublicKeyAuthAlgorithms: publicKeyAlgorithms,
		MaxAuthTries:            maxAuthTries,
		ServerVersion:           "SSH-2.0-Hawser",
		// The key is only named here, not yet proven: nothing but checks.
		PublicKeyCallback: func(meta ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			cert, ok := key.(*ssh.Certificate)
			if !ok {
				return nil, s.deny(meta, "", errNoCertificate)
			}
			user, err := s.p.Host.VerifyUser(cert, meta.RemoteAddr())
			if err != nil {
				tunnel.Warn(s.log, "user certificate refused", "client", meta.RemoteAddr(), "login", meta.User(), "key-id", cert.KeyId, "error", err)
				return nil, s.deny(meta, cert.KeyId, err)
			}
			if err := s.p.Host.MayEnter(user.Roles, meta.User()); err != nil {
				tunnel.Warn(s.log, "user refused", "client", meta.RemoteAddr(), "login", meta.User(), "user", user.Name, "error", err)
				return nil, s.deny(meta, cert.KeyId, err)
			}
			_ = s.deny(meta, cert.KeyId, ErrUnproven)
			return &ssh.Permissions{
				CriticalOptions: cert.CriticalOptions,
				ExtraData:       map[any]any{userKey{}: identified{cert, user}},
			}, nil
		},
		// The key has signed: from here it is the user. The only point where a refusal can still be a banner, for -N has no channel.
		VerifiedPublicKeyCallback: func(meta ssh.ConnMetadata, _ ssh.PublicKey, perms *ssh.Permissions, _ string) (*ssh.Permissions, error) {
			id := perms.ExtraData[userKey{}].(identified)
			if _, err := (login.System{}).Lookup(meta.User()); err != nil { // before a place: the client goes on with its next key
				return nil, &ssh.BannerError{Err: s.deny(meta, id.cert.KeyId, err), Message: "hawser: " + err.Error() + "\r\n"}
			}
			s.login, s.denied = meta.User(), nil // what is refused from here, who keeps the places tells of
			_, err := s.p.Host.Place(ctx, Ask{
				Kind: grant.Connection, ConnectionID: s.id, Cert: id.cert, Login: meta.User(), ClientAddr: s.p.Client,
			})
			if err != nil {
				tunnel.Warn(s.log, "connection refused", "user", id.user.Name, "login", meta.User(), "error", err)
				return nil, &ssh.BannerError{Err: err, Message: words(err) + "\r\n"}
			}
			s.placed = true
			return perms, nil
		},
		// What the library cannot read as a key or certificate, such as one nested in another, comes to none of the above.
		AuthLogCallback: func(meta ssh.ConnMetadata, method string, err error) {
			if method == "publickey" && err != nil && s.denied == nil && s.login == "" {
				_ = s.deny(meta, "", fmt.Errorf("%w: %w", ca.ErrMalformed, err))
			}
		},
	}
	c.AddHostKey(signer)
	return c
}

// ErrUnproven is a certificate shown by somebody who did not sign with its key.
var ErrUnproven = errors.New("the certificate's key did not sign")

var errNoCertificate = fmt.Errorf("%w; only certificates are accepted here: run `hawser login`", ca.ErrNoCertificate)

// deny keeps what is to be told of a key when none other is accepted after it, and returns err.
func (s *server) deny(meta ssh.ConnMetadata, keyID string, err error) error {
	s.denied = func() { s.p.Host.Denied(keyID, meta.User(), err) }
	return err
}

// words is an error as the person sees it.
func words(err error) string { return "hawser: " + why(err) }

// why is what of an error is the person's: a refusal says itself, anything else is not theirs.
func why(err error) string {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Message
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "the hub did not answer in time; try again"
	}
	return "no place could be had: the device could not ask its hub; try again"
}

// serve runs the authenticated connection until it ends.
func (s *server) serve(ctx context.Context, channels <-chan ssh.NewChannel, requests <-chan *ssh.Request) {
	sessions, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan struct{})
	var closer sync.WaitGroup
	closer.Go(func() {
		select {
		case <-ended:
		case <-ctx.Done(): // the sessions tell the person why; then the connection goes
			s.waitSessions()
			s.conn.Close()
		}
	})
	s.goDo("requests", func() { s.globalRequests(ctx, requests) })
	s.goDo("keepalive", func() { s.keepalive(ended) })
	for nc := range channels {
		select {
		case s.room <- struct{}{}:
		default:
			_ = nc.Reject(ssh.ResourceShortage, fmt.Sprintf("%d channels are open, which is the most", maxChannels))
			continue
		}
		over := s.tooMany(len(s.room))
		s.goDo("channel", func() {
			defer func() { <-s.room }()
			if over != nil {
				s.refuseChannel(ctx, nc, over)
				return
			}
			s.channel(sessions, nc)
		})
	}
	close(ended)
	closer.Wait()
	s.closeListeners()
	s.wg.Wait()
	s.conn.Close()
}

// waitSessions waits for the channels to end, for endGrace.
func (s *server) waitSessions() {
	deadline := time.NewTimer(endGrace)
	defer deadline.Stop()
	for range maxChannels {
		select {
		case s.room <- struct{}{}:
		case <-deadline.C:
			return
		}
	}
}

// goDo runs f in a goroutine of the connection; a panic ends the connection.
func (s *server) goDo(what string, f func()) {
	s.wg.Go(func() {
		defer s.recovered(what)
		f()
	})
}

// recovered is deferred by the connection's goroutines.
func (s *server) recovered(what string) {
	if r := recover(); r != nil {
		tunnel.Error(s.log, "panic", "in", what, "value", fmt.Sprint(r), "stack", string(debug.Stack()))
		s.conn.Close()
	}
}

// keepalive finds a client that is gone while the stream to its hub is fine.
func (s *server) keepalive(ended <-chan struct{}) {
	ticker := time.NewTicker(keepaliveEvery)
	defer ticker.Stop()
	var pending chan struct{}
	missed := 0
	for {
		select {
		case <-ended:
			return
		case <-pending:
			pending, missed = nil, 0
		case <-ticker.C:
			if s.p.Carried != nil && !s.p.Carried() {
				missed = 0
				continue
			}
			if pending != nil {
				if missed++; missed >= keepaliveCount {
					tunnel.Info(s.log, "client is gone", "user", s.user.Name)
					s.conn.Close()
					return
				}
				continue
			}
			answered := make(chan struct{})
			pending = answered
			s.wg.Go(func() { // ends with the answer or with the connection
				if _, _, err := s.conn.SendRequest("keepalive@openssh.com", true, nil); err == nil {
					close(answered)
				}
			})
		}
	}
}

// addressed gives a stream the addresses of the person and of what the person dialled: source-address in a certificate needs the first.
type addressed struct {
	net.Conn
	remote, local net.Addr
}

func (a *addressed) RemoteAddr() net.Addr { return a.remote }
func (a *addressed) LocalAddr() net.Addr  { return a.local }

func tcpAddr(a netip.AddrPort) net.Addr {
	if !a.IsValid() {
		return &net.TCPAddr{}
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(a.Addr().Unmap(), a.Port()))
}
