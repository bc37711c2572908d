package edge

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// Carriers says which carriers an agent may dial.
type Carriers uint8

const (
	// AnyCarrier races QUIC and TLS; the zero value.
	AnyCarrier Carriers = iota
	// OnlyQUIC dials UDP alone.
	OnlyQUIC
	// OnlyTLS dials TCP alone.
	OnlyTLS
)

// Config is what an agent is told. The zero value of a field means what its comment says.
type Config struct {
	// State is the directory that holds the identity. Required. Created 0700 when absent.
	State string
	// Token joins a cluster when State holds no identity yet; empty: State must hold one. "@FILE" is a file with it, read anew at each attempt.
	Token string
	// Name is the device name wanted at the join; empty: the cleaned hostname. Ignored once joined.
	Name string
	// Labels travel with the registration; policy matches those that auth has from the token, not these.
	Labels []wire.Label
	// Hubs are addresses (host:port) dialled instead of those of the token or the identity; empty: those. "@FILE" is a file with more of them,
	// separated by white space and read anew at each attempt.
	Hubs []string
	// Metered is for a link whose bytes are paid for: one tunnel, idle on TCP with the kernel's keepalive alone, on QUIC while streams are open.
	Metered bool
	// NoStandby keeps a device to one tunnel where it would hold a second at another hub.
	NoStandby bool
	// Reprobe is when QUIC is tried again after TLS had to do: then, after three times and twelve times as long, and every that long; 0: 5 min.
	// A tunnel at another hub than the first in this device's order is moved there between one and three times as long after it was made.
	Reprobe time.Duration
	// Listen is the address (IP:PORT, or :PORT for all) of a port of the agent's own, where it serves people directly; empty: none.
	Listen string
	// TunnelOff keeps no tunnel of the agent's own making: hubs dial Listen, which it wants.
	TunnelOff bool
	// Carriers restricts what is dialled.
	Carriers Carriers
	// Proxy is the HTTP proxy that TCP goes through, http://[USER:PASSWORD@]HOST[:PORT]; "env": that of HTTPS_PROXY; empty: none, whatever
	// the environment says. UDP is tried directly all the same.
	Proxy string
	// Version is what the agent calls itself; empty: "dev".
	Version string
	// BuildTime is the earliest the clock can be, from the link; zero: no floor from the build.
	BuildTime time.Time
	// Logger is told what happens; nil discards.
	Logger tunnel.Logger
	// Now is the system clock; nil: time.Now.
	Now func() time.Time
}

// ErrConfig wraps every problem Validate finds.
var ErrConfig = errors.New("bad configuration")

// Validate reports every problem at once.
func (c *Config) Validate() error {
	var problems []error
	bad := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("%w: %w", ErrConfig, fmt.Errorf(format, args...)))
	}
	if c.State == "" {
		bad("no state directory; give --state DIR")
	}
	if c.Name != "" {
		if err := wire.CheckDeviceName(c.Name); err != nil {
			bad("name: %w", err)
		}
	}
	for _, h := range c.Hubs {
		if strings.HasPrefix(h, "@") {
			continue
		}
		if _, _, err := splitHostPort(h); err != nil {
			bad("hub address %s: %w", wire.Quote(h, 80), err)
		}
	}
	if len(c.Labels) > maxLabels {
		bad("%d labels; at most %d", len(c.Labels), maxLabels)
	}
	for _, l := range c.Labels {
		if len(l.Key) < 1 || len(l.Key) > maxLabelKey || len(l.Value) > maxLabelValue || !utf8.ValidString(l.Key+l.Value) {
			bad("label %s: its key has 1 to %d bytes and its value at most %d, in UTF-8", wire.Quote(l.Key, 80), maxLabelKey, maxLabelValue)
		}
	}
	if _, err := parseProxy(c.Proxy); err != nil {
		bad("%w", err)
	}
	if c.Listen != "" {
		if _, err := parsePort(c.Listen); err != nil {
			bad("%w", err)
		}
	} else if c.TunnelOff {
		bad("no tunnel and no port: give --listen ADDR beside --tunnel off, where hubs and people reach this device")
	}
	if c.Reprobe < 0 {
		bad("QUIC tried again after %v", c.Reprobe)
	}
	if c.Carriers > OnlyTLS {
		bad("carrier %d does not exist", c.Carriers)
	}
	return errors.Join(problems...)
}
