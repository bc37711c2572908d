package hub

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"
)

// Config is all that a Hub is told. The zero value of a field means the default named beside it.
type Config struct {
	// Data is the state directory (identity, spool); created 0700 if absent. Required.
	Data string
	// Token joins the cluster; needed only while Data holds no identity.
	Token string
	// AuthAddr is host:port of the auth service; empty: what the token or the stored identity says.
	AuthAddr string
	// SSHListen is where people connect, host:port; empty: ":22". Port 0 chooses one.
	SSHListen string
	// TunnelListen is where devices connect, host:port for UDP and TCP alike; empty: ":443". Port 0 chooses one.
	TunnelListen string
	// Public lists the names and addresses (host or host:port) by which devices and people reach this hub; a host without a port
	// gets the tunnel's port. Empty: the address it is bound to.
	Public []string
	// MaxUnauthenticated bounds SSH connections that have not authenticated yet, in all; 0: 200.
	MaxUnauthenticated int
	// MaxUnauthenticatedPerSource bounds the same per source address (IPv6: /64); 0: 32.
	MaxUnauthenticatedPerSource int
	// HandshakeTimeout bounds TCP accept to authenticated, for people and for tunnels; 0: 20 s.
	HandshakeTimeout time.Duration
	// Logger receives what happens; nil discards.
	Logger *slog.Logger
	// Now is the clock, for tests; nil: time.Now.
	Now func() time.Time
}

// Defaults of Config, with their reasons.
const (
	defaultSSHListen          = ":22"
	defaultTunnelListen       = ":443"
	defaultUnauthenticated    = 200              // about 3 MB of handshake state
	defaultUnauthenticatedSrc = 32               // a build farm behind one NAT, not one attacker
	defaultHandshakeTimeout   = 20 * time.Second // 3 RTT on the worst satellite link, and a touch on a security key
)

// Validate reports every problem at once.
func (c Config) Validate() error {
	var errs []error
	if c.Data == "" {
		errs = append(errs, errors.New("data: no directory given; set --data DIR"))
	}
	for _, a := range []struct{ key, addr string }{{"ssh", c.SSHListen}, {"tunnel", c.TunnelListen}, {"auth", c.AuthAddr}} {
		if a.addr == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(a.addr); err != nil {
			errs = append(errs, fmt.Errorf("%s: %q is not host:port", a.key, a.addr))
		}
	}
	for _, p := range c.Public {
		if p == "" || strings.ContainsAny(p, " \t\r\n/") {
			errs = append(errs, fmt.Errorf("public: %q is not a host or host:port", p))
		}
	}
	if c.MaxUnauthenticated < 0 || c.MaxUnauthenticatedPerSource < 0 {
		errs = append(errs, errors.New("limits: must not be negative"))
	}
	if c.HandshakeTimeout < 0 {
		errs = append(errs, errors.New("handshake timeout: must not be negative"))
	}
	return errors.Join(errs...)
}

// withDefaults fills what was left zero.
func (c Config) withDefaults() Config {
	if c.SSHListen == "" {
		c.SSHListen = defaultSSHListen
	}
	if c.TunnelListen == "" {
		c.TunnelListen = defaultTunnelListen
	}
	if c.MaxUnauthenticated == 0 {
		c.MaxUnauthenticated = defaultUnauthenticated
	}
	if c.MaxUnauthenticatedPerSource == 0 {
		c.MaxUnauthenticatedPerSource = defaultUnauthenticatedSrc
	}
	if c.HandshakeTimeout == 0 {
		c.HandshakeTimeout = defaultHandshakeTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}
