package hub

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"
)

// Config is all that a Hub is told. The zero value of a field means the default named beside it.
type Config struct {
	// Data is the state directory (identity, spool); created 0700 if absent. Required.
	Data string
	// Token joins the cluster; needed only while Data holds no identity.
	Token string
	// Name is the wished name, when it joins; empty: the hostname.
	Name string
	// AuthAddr is host:port of the auth service; empty: what the token or the stored identity says.
	AuthAddr string
	// SSHListen is where people connect, host:port; empty: ":22". Port 0 chooses one.
	SSHListen string
	// TunnelListen is where devices connect, host:port for UDP and TCP alike; empty: ":443". Port 0 chooses one.
	TunnelListen string
	// Zone names the part of the network this hub is in: a device that holds two tunnels holds them in two zones. May be empty.
	Zone string
	// Public lists the names and addresses (host or host:port) by which devices reach this hub, and people where PublicSSH is empty; a
	// host without a port gets the port that is bound. Where a port is forwarded, the port given here is the public one. Empty: the
	// address it is bound to.
	Public []string
	// PublicSSH is the same for people; its default is Public's hosts with the SSH port that is bound.
	PublicSSH []string
	// ProxyFrom are the networks of load balancers, for people's and devices' TCP: a connection from there begins with a header of the PROXY
	// protocol, version 2, and its address is the client's. From elsewhere a header is refused. Empty: there are none.
	ProxyFrom []netip.Prefix
	// DrainTimeout is how long a hub that was told to stop takes at most to hand over its devices and people; 0: 30 s.
	DrainTimeout time.Duration
	// AdmitRate is how many handshakes of devices a second are admitted; 0: 50, or three times its share of the devices within
	// the window of the hub list, or what lets all devices return to the hubs that are up within 30 s, whichever is most.
	AdmitRate int
	// SpoolSize bounds, in bytes, what is kept on disk of recordings while auth cannot take them; 0: 1 GiB.
	SpoolSize int64
	// NoLinkNotice keeps from people's terminals that a device's link is lost, and back.
	NoLinkNotice bool
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
	defaultUnauthenticated    = 200 // about 3 MB of handshake state
	defaultUnauthenticatedSrc = 32  // a build farm behind one NAT, not one attacker
	defaultDrainTimeout       = 30 * time.Second
	defaultSpoolSize          = 1 << 30          // a thousand terminals for a day, or a minute of bulk that does not compress
	defaultHandshakeTimeout   = 20 * time.Second // 3 RTT on the worst satellite link, and a touch on a security key
)

// maxZone is the longest name of a zone, in bytes: what the signed hub list holds.
const maxZone = 63

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
	for _, list := range []struct {
		key   string
		hosts []string
	}{{"public", c.Public}, {"public-ssh", c.PublicSSH}} {
		for _, p := range list.hosts {
			if p == "" || strings.ContainsAny(p, " \t\r\n/") {
				errs = append(errs, fmt.Errorf("%s: %q is not a host or host:port", list.key, p))
			}
		}
	}
	if len(c.Zone) > maxZone || strings.ContainsFunc(c.Zone, func(r rune) bool { return r <= ' ' || r > '~' }) {
		errs = append(errs, fmt.Errorf("zone: %q is not a word of at most %d letters", c.Zone, maxZone))
	}
	for _, p := range c.ProxyFrom {
		if !p.IsValid() || p.Bits() == 0 {
			errs = append(errs, fmt.Errorf("proxy-from: %v would let everyone say where he comes from; name the load balancers' networks", p))
		}
	}
	if c.DrainTimeout < 0 {
		errs = append(errs, errors.New("drain-timeout: must not be negative"))
	}
	if c.SpoolSize < 0 {
		errs = append(errs, errors.New("spool-size: must not be negative"))
	}
	if c.AdmitRate < 0 {
		errs = append(errs, errors.New("admit-rate: must not be negative"))
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
	if c.SpoolSize == 0 {
		c.SpoolSize = defaultSpoolSize
	}
	if c.DrainTimeout == 0 {
		c.DrainTimeout = defaultDrainTimeout
	}
	if c.Name == "" {
		c.Name = hostname()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}
