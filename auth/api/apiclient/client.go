// Package apiclient connects to the auth service: start from Dial with ByTrust (a
// member of the cluster) or ByPin (a joiner). The service is authenticated before
// a byte of a request leaves, whatever name or address it was reached by.
package apiclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"hawser/auth/api/apiconnect"
	"hawser/auth/ca"
	"hawser/tunnel"
)

const (
	dialTimeout = 10 * time.Second
	// pingAfter finds a dead connection under a quiet Watch, which hears a beacon each minute.
	pingAfter   = 15 * time.Second
	pingTimeout = 10 * time.Second
	// idleClose lets a command's or a quiet hub's connection go.
	idleClose = 5 * time.Minute
)

// Verify judges the chain a server presented.
type Verify func(chain []*x509.Certificate) error

// ByPin accepts the auth service of cluster under the tunnel CA that matches pin.
// now may be nil for time.Now.
func ByPin(cluster, pin string, now func() time.Time) Verify {
	return func(chain []*x509.Certificate) error {
		trust, err := ca.PinnedTrust(chain, cluster, pin)
		if err != nil {
			return err
		}
		return verify(chain, trust, now)
	}
}

// ByTrust accepts the auth service of the cluster whose trust is returned. trust
// is called at each handshake, so that a rotation is followed.
func ByTrust(trust func() *ca.Trust, now func() time.Time) Verify {
	return func(chain []*x509.Certificate) error {
		t := trust()
		if t == nil {
			return errors.New("no trust bundle yet")
		}
		return verify(chain, t, now)
	}
}

func verify(chain []*x509.Certificate, trust *ca.Trust, now func() time.Time) error {
	if now == nil {
		now = time.Now
	}
	id, err := ca.VerifyPeer(chain, trust, now())
	if err != nil {
		return err
	}
	return id.Require(ca.RoleAuth)
}

// Options of Dial.
type Options struct {
	// Addr is the auth service's host:port.
	Addr string
	// More are host:port at which it is reached as well: its own, or tunnel addresses of hubs, which pass TLS on to it. They are tried in
	// turn, and from then on the one that answered first. With More, Addr may be empty.
	More []string
	// Reached, unless nil, is told by which address a connection was made.
	Reached func(addr string)
	// Verify is required.
	Verify Verify
	// Certificate returns what to present: a member's, or a joiner's self-signed
	// one. It is asked at each handshake, so that a renewed one is used. Nil or a
	// nil result presents none.
	Certificate func() *tls.Certificate
	// DialContext replaces the net.Dialer (nil).
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Client has one connection to the auth service, dialled when needed and again
// after it was lost. Safe for concurrent use.
type Client struct {
	Join      apiconnect.JoinServiceClient
	Hub       apiconnect.HubServiceClient
	Place     apiconnect.PlaceServiceClient
	Presence  apiconnect.PresenceServiceClient
	Admin     apiconnect.AdminServiceClient
	Login     apiconnect.LoginServiceClient
	User      apiconnect.UserServiceClient
	Policy    apiconnect.PolicyServiceClient
	CA        apiconnect.CAServiceClient
	Device    apiconnect.DeviceServiceClient
	Target    apiconnect.TargetServiceClient
	Lock      apiconnect.LockServiceClient
	Audit     apiconnect.AuditServiceClient
	Backup    apiconnect.BackupServiceClient
	Recording apiconnect.RecordingServiceClient
	Search    apiconnect.SearchServiceClient
	Forward   apiconnect.ForwardServiceClient
	Replay    apiconnect.ReplayServiceClient
	Sharing   apiconnect.SharingServiceClient

	transport *renewable
}

// renewable is a transport that can be replaced. A connection is who it was when
// its handshake ended: HTTP/2 would go on calling as that, over one kept open by
// a stream, long after the certificate was renewed, and has expired.
type renewable struct {
	fresh   func() *http.Transport
	current atomic.Pointer[http.Transport]
}

func (r *renewable) RoundTrip(req *http.Request) (*http.Response, error) {
	return r.current.Load().RoundTrip(req)
}

func (r *renewable) replace() {
	if old := r.current.Swap(r.fresh()); old != nil {
		old.CloseIdleConnections()
	}
}

// Dial makes a Client; it connects at the first call.
func Dial(o Options) (*Client, error) {
	if o.Verify == nil {
		return nil, errors.New("apiclient: no Verify")
	}
	addrs := o.More
	if o.Addr != "" || len(addrs) == 0 {
		addrs = append([]string{o.Addr}, addrs...)
	}
	for _, a := range addrs {
		if _, _, err := net.SplitHostPort(a); err != nil {
			return nil, fmt.Errorf("auth address %q: %w", a, err)
		}
	}
	tc := &tls.Config{
		MinVersion: tls.VersionTLS13,
		// By the first a hub knows what to pass on; auth answers with the second.
		NextProtos: []string{tunnel.ALPNAPI, "h2", "http/1.1"},
		// Names prove nothing here: the chain is judged under the cluster's own CA.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			return o.Verify(cs.PeerCertificates)
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if o.Certificate != nil {
				if c := o.Certificate(); c != nil {
					return c, nil
				}
			}
			return new(tls.Certificate), nil
		},
	}
	dial := o.DialContext
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	d := &dialer{addrs: addrs, tls: tc, dial: dial, told: o.Reached}
	transport := &renewable{fresh: func() *http.Transport {
		return &http.Transport{
			DialTLSContext:    d.dialTLS,
			ForceAttemptHTTP2: true,
			IdleConnTimeout:   idleClose,
			HTTP2:             &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		}
	}}
	transport.replace()
	hc := &http.Client{Transport: transport}
	base := "https://" + addrs[0]
	return &Client{
		Join:      apiconnect.NewJoinServiceClient(hc, base),
		Hub:       apiconnect.NewHubServiceClient(hc, base),
		Place:     apiconnect.NewPlaceServiceClient(hc, base),
		Presence:  apiconnect.NewPresenceServiceClient(hc, base),
		Admin:     apiconnect.NewAdminServiceClient(hc, base),
		Login:     apiconnect.NewLoginServiceClient(hc, base),
		User:      apiconnect.NewUserServiceClient(hc, base),
		Policy:    apiconnect.NewPolicyServiceClient(hc, base),
		CA:        apiconnect.NewCAServiceClient(hc, base),
		Device:    apiconnect.NewDeviceServiceClient(hc, base),
		Target:    apiconnect.NewTargetServiceClient(hc, base),
		Lock:      apiconnect.NewLockServiceClient(hc, base),
		Audit:     apiconnect.NewAuditServiceClient(hc, base),
		Backup:    apiconnect.NewBackupServiceClient(hc, base),
		Recording: apiconnect.NewRecordingServiceClient(hc, base),
		Search:    apiconnect.NewSearchServiceClient(hc, base),
		Forward:   apiconnect.NewForwardServiceClient(hc, base),
		Replay:    apiconnect.NewReplayServiceClient(hc, base),
		Sharing:   apiconnect.NewSharingServiceClient(hc, base),
		transport: transport,
	}, nil
}

// Reconnect makes the calls from now on use a new connection, and so present the
// certificate of now. Calls in progress go on over the old one, which closes
// when it has been idle for a while.
func (c *Client) Reconnect() { c.transport.replace() }

// Close lets idle connections go; one with a call in progress closes after it.
func (c *Client) Close() { c.transport.current.Load().CloseIdleConnections() }
