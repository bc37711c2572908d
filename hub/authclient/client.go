// Package authclient is the hub's side of the auth service: it joins, renews, watches what the hub caches, and passes on what the hub asks
// and reports.
//
// Start from Open, which loads the hub's identity or joins with a token, then Run. The cache answers while auth is away.
package authclient

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/api/apiclient"
	"hawser/auth/ca"
	"hawser/auth/place"
	"hawser/tunnel/identity"
	"hawser/tunnel/wire"
)

const (
	callTimeout = 15 * time.Second
	// retryMin and retryMax bound the decorrelated wait between attempts to reach auth.
	retryMin = 200 * time.Millisecond
	// A hub that waits longer than this after auth is back would keep `hawser ls` untrue for as long.
	retryMax = 3 * time.Second
	// authAddrFile keeps where auth was last reached.
	authAddrFile = "auth-addr"
	// releaseQueue sessions may wait to be given back; further ones are left to the list each Watch carries.
	releaseQueue = 4096
)

// ErrNotJoined: no identity and no token.
var ErrNotJoined = errors.New("this hub has not joined a cluster; give it a token: `hawser token create --kind hub`")

// Config of a Client.
type Config struct {
	Dir         *identity.Dir
	Token       string // used when Dir holds no identity
	AuthAddr    string // host:port; empty: the token's or the stored one
	Name        string // wished
	SSHAddrs    []string
	TunnelAddrs []string
	Zone        string // what fails together; may be empty
	Version     string
	Incarnation wire.Incarnation
	Logger      *slog.Logger
	Now         func() time.Time
}

// Client is safe for concurrent use.
type Client struct {
	c     Config
	addr  string
	creds atomic.Pointer[identity.Credentials]
	cert  atomic.Pointer[tls.Certificate]
	trust atomic.Pointer[ca.Trust]
	api   *apiclient.Client
	Cache Cache

	changing sync.Mutex    // held while creds and trust are replaced, on disk first
	renewNow chan struct{} // a token: what signs for hubs is another now

	places        *place.Holder
	allSessions   atomic.Bool // the next report of sessions is to name all
	releases      chan *api.ReleaseRequest
	dirty         chan struct{} // a token: devices are to be reported
	sessionsDirty chan struct{} // so for sessions
	heldDirty     chan struct{} // so for what this hub enforces
	outbox        outbox
	refusals      refusals
	forwards      forwards
	heads         logHeads
}

// Open loads the identity in Dir, or joins. It renews an identity that has expired.
func Open(ctx context.Context, c Config) (*Client, error) {
	x := &Client{c: c, places: place.NewHolder(), releases: make(chan *api.ReleaseRequest, releaseQueue), dirty: make(chan struct{}, 1), sessionsDirty: make(chan struct{}, 1), heldDirty: make(chan struct{}, 1), renewNow: make(chan struct{}, 1)}
	x.outbox.init()
	x.refusals.init()
	x.forwards.init()
	x.loadLogHead()
	x.Cache.init()
	creds, err := identity.Load(c.Dir)
	switch {
	case errors.Is(err, identity.ErrNotExist):
		if err := x.join(ctx); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, fmt.Errorf("read identity: %w", err)
	default:
		if err := x.load(creds); err != nil {
			return nil, err
		}
	}
	x.loadLocks()
	x.api, err = apiclient.Dial(apiclient.Options{
		Addr: x.addr, Verify: apiclient.ByTrust(x.Trust, c.Now), Certificate: x.cert.Load,
	})
	if err != nil {
		return nil, err
	}
	if !c.Now().Before(x.NotAfter()) {
		if err := x.renew(ctx); err != nil {
			return nil, fmt.Errorf("the identity of this hub expired and could not be renewed: %w", err)
		}
	}
	return x, nil
}

// Address is where auth is: host:port, perhaps several with commas.
func (x *Client) Address() string { return x.addr }

func (x *Client) load(creds *identity.Credentials) error {
	x.addr = x.c.AuthAddr
	if x.addr == "" {
		b, err := x.c.Dir.Read(authAddrFile)
		if err != nil {
			return fmt.Errorf("read the address of auth (or give --auth): %w", err)
		}
		x.addr = string(b)
	}
	t, err := ca.OpenStoredTrust(creds.Trust)
	if err != nil {
		return fmt.Errorf("read identity: %w", err)
	}
	x.trust.Store(t)
	return x.adopt(creds)
}

// adopt makes credentials the current ones.
func (x *Client) adopt(creds *identity.Credentials) error {
	cert := creds.TLSCertificate()
	leaf, err := x509.ParseCertificate(creds.Chain[0])
	if err != nil {
		return fmt.Errorf("read identity: %w", err)
	}
	cert.Leaf = leaf
	x.creds.Store(creds)
	x.cert.Store(&cert)
	return nil
}

// join proves the token to auth, which has proved itself by the token's pin before.
func (x *Client) join(ctx context.Context) error {
	if x.c.Token == "" {
		return ErrNotJoined
	}
	token, err := ca.ParseToken(x.c.Token)
	if err != nil {
		return fmt.Errorf("join token: %w", err)
	}
	if token.Kind != ca.TokenHub {
		return fmt.Errorf("this token is for an %s, not for a hub; `hawser token create --kind hub` makes one", token.Kind)
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	self, err := ca.SelfSigned(key, x.c.Now())
	if err != nil {
		return err
	}
	addresses := token.Addresses
	if x.c.AuthAddr != "" {
		addresses = []string{x.c.AuthAddr}
	}
	var errs []error
	for _, addr := range addresses {
		creds, err := x.joinAt(ctx, addr, token, key, self)
		if err != nil {
			errs = append(errs, fmt.Errorf("join at %s: %w", addr, err))
			continue
		}
		x.addr = addr
		if err := x.c.Dir.Write(authAddrFile, []byte(addr)); err != nil {
			return err
		}
		if err := creds.Save(x.c.Dir); err != nil {
			return fmt.Errorf("store identity: %w", err)
		}
		x.c.Logger.Info("joined", "cluster", creds.Cluster, "name", creds.Name)
		return x.adopt(creds)
	}
	return errors.Join(errs...)
}

func (x *Client) joinAt(ctx context.Context, addr string, token ca.Token, key ed25519.PrivateKey, self []byte) (*identity.Credentials, error) {
	cert := &tls.Certificate{Certificate: [][]byte{self}, PrivateKey: key}
	c, err := apiclient.Dial(apiclient.Options{
		Addr: addr, Verify: apiclient.ByPin(token.Cluster, token.Pin, x.c.Now), Certificate: func() *tls.Certificate { return cert },
	})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := c.Join.JoinHub(ctx, connect.NewRequest(&api.JoinHubRequest{
		Secret: token.Secret, Name: x.c.Name, SshAddresses: x.c.SSHAddrs, TunnelAddresses: x.c.TunnelAddrs, Version: x.c.Version, Zone: x.c.Zone,
	}))
	if err != nil {
		return nil, fail(err)
	}
	trust, err := ca.OpenTrust(r.Msg.Trust, token.Pin)
	if err != nil {
		return nil, err
	}
	x.trust.Store(trust)
	return credentials(r.Msg, key)
}

func credentials(r *api.JoinHubResponse, key ed25519.PrivateKey) (*identity.Credentials, error) {
	if len(r.Chain) == 0 {
		return nil, errors.New("auth sent no certificate")
	}
	return &identity.Credentials{
		Key: key, Chain: r.Chain, SSHCert: r.SshCertificate, Trust: r.Trust, UUID: r.Uuid, Name: r.Name, Cluster: r.Cluster,
		Counter: r.Counter,
	}, nil
}

// fail turns a call's error into words.
func fail(err error) error {
	if m := api.MessageOf(err); m != "" {
		return fmt.Errorf("%s: %s", connect.CodeOf(err), wire.Quote(m, 512))
	}
	return err
}

// renew gets new certificates for the same key.
func (x *Client) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	old := x.Credentials()
	r, err := x.api.Join.RenewHub(ctx, connect.NewRequest(&api.RenewHubRequest{
		Counter: old.Counter, SshAddresses: x.c.SSHAddrs, TunnelAddresses: x.c.TunnelAddrs, Version: x.c.Version, Zone: x.c.Zone,
	}))
	if err != nil {
		return fail(err)
	}
	creds, err := credentials(r.Msg, old.Key)
	if err != nil {
		return err
	}
	if err := x.renewed(creds); err != nil {
		return err
	}
	x.api.Reconnect()
	x.c.Logger.Info("renewed", "until", x.NotAfter())
	return nil
}

// renewed stores and adopts new certificates, and the bundle that came with them unless a newer one came by Watch.
func (x *Client) renewed(creds *identity.Credentials) error {
	x.changing.Lock()
	defer x.changing.Unlock()
	held := x.Trust()
	trust, err := ca.OpenNextTrust(creds.Trust, held)
	switch {
	case errors.Is(err, ca.ErrOldTrust):
		trust, creds.Trust = held, x.TrustBlob()
	case err != nil:
		return err
	}
	if err := creds.Save(x.c.Dir); err != nil {
		return fmt.Errorf("store identity: %w", err)
	}
	x.trust.Store(trust)
	return x.adopt(creds)
}

// wantRenewal makes renewals renew at once.
func (x *Client) wantRenewal() {
	select {
	case x.renewNow <- struct{}{}:
	default:
	}
}

// renewals renews at a random point of 50-70 % of each certificate's life, when what signs for hubs has changed, and again after failures.
func (x *Client) renewals(ctx context.Context) {
	for {
		leaf := x.cert.Load().Leaf
		begin := leaf.NotBefore.Add(ca.Backdate) // issuers set it back
		life := leaf.NotAfter.Sub(begin)
		at := begin.Add(time.Duration((0.5 + 0.2*rand.Float64()) * float64(life)))
		t := time.NewTimer(max(0, at.Sub(x.c.Now())))
		select {
		case <-t.C:
		case <-x.renewNow:
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			return
		}
		for wait := retryMin; ; {
			err := x.renew(ctx)
			if err == nil {
				break
			}
			x.c.Logger.Warn("renewal failed", "error", err)
			wait = backoff(wait)
			if !sleep(ctx, wait) {
				return
			}
		}
	}
}

func backoff(last time.Duration) time.Duration {
	return min(retryMax, retryMin+rand.N(3*last))
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d < 0 {
		d = 0
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Credentials are the hub's current ones; not to be changed.
func (x *Client) Credentials() *identity.Credentials { return x.creds.Load() }

// Certificate is the current TLS certificate.
func (x *Client) Certificate() *tls.Certificate { return x.cert.Load() }

// Trust is the current trust bundle.
func (x *Client) Trust() *ca.Trust { return x.trust.Load() }

// TrustBlob is the same, signed, for edges.
func (x *Client) TrustBlob() []byte { return x.creds.Load().Trust }

// NotAfter is when the identity ends.
func (x *Client) NotAfter() time.Time { return x.cert.Load().Leaf.NotAfter }

// UUID is the hub's.
func (x *Client) UUID() wire.UUID {
	u, _ := wire.ParseUUID(x.Credentials().UUID)
	return u
}

// HostCertificate is the SSH host certificate, nil if there is none that can be read.
func (x *Client) HostCertificate() *ssh.Certificate {
	k, err := ssh.ParsePublicKey(x.Credentials().SSHCert)
	if err != nil {
		return nil
	}
	cert, _ := k.(*ssh.Certificate)
	return cert
}

// Signer is the SSH host key, the same key as the TLS certificate's.
func (x *Client) Signer() (ssh.Signer, error) { return ssh.NewSignerFromSigner(x.Credentials().Key) }
