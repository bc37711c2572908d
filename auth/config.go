package auth

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"hawser/auth/audit"
	"hawser/auth/ca"
)

// Config of the auth service.
type Config struct {
	// Data is the directory of all state. Required.
	Data string
	// Listen is the host:port of the API. Required by New; port 0 chooses a free one.
	Listen string
	// Cluster is the cluster's name, fixed by Init. Empty: this machine's hostname.
	// Given to New it must be the name Init fixed.
	Cluster string
	// Public are the host:port addresses under which hubs reach the API, put into
	// hub tokens. Empty: the address bound, or the hostname where it is a wildcard.
	Public []string
	// KeyFile holds the 32-byte key (base64) that seals the CA keys at rest. Empty
	// with no Passphrase: "auth.key" in Data. Init creates it, mode 0600.
	KeyFile string
	// Passphrase seals the CA keys instead of KeyFile.
	Passphrase Passphrase
	// DeviceTTL, HubTTL and UserTTL are the lives of certificates. Zero: 90 d, 7 d
	// and 12 h; at least a second each. A role's session_ttl overrides UserTTL.
	DeviceTTL, HubTTL, UserTTL time.Duration
	// AuditSinks are where every audit event goes besides the log.
	AuditSinks []audit.SinkConfig
	// Logger may be nil, which discards.
	Logger *slog.Logger
	// Now may be nil for time.Now.
	Now func() time.Time
}

// Passphrase prints as [redacted].
type Passphrase string

// String hides the passphrase.
func (Passphrase) String() string { return "[redacted]" }

// GoString hides the passphrase.
func (Passphrase) GoString() string { return "[redacted]" }

// LogValue hides the passphrase.
func (Passphrase) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// Validate reports every problem at once.
func (c Config) Validate() error {
	var errs []error
	if c.Data == "" {
		errs = append(errs, errors.New("data: the directory is missing; give --data DIR"))
	}
	if c.Listen != "" {
		if err := checkAddr(c.Listen); err != nil {
			errs = append(errs, fmt.Errorf("listen: %w", err))
		}
	}
	if c.Cluster != "" {
		if err := ca.CheckCluster(c.Cluster); err != nil {
			errs = append(errs, fmt.Errorf("cluster: %w", err))
		}
	}
	if len(c.Public) > maxAddresses {
		errs = append(errs, fmt.Errorf("public: more than %d addresses", maxAddresses))
	}
	for _, p := range c.Public {
		if err := checkAddr(p); err != nil {
			errs = append(errs, fmt.Errorf("public: %w", err))
		}
	}
	if c.KeyFile != "" && c.Passphrase != "" {
		errs = append(errs, errors.New("key_file and a passphrase are both given; give one"))
	}
	for _, ttl := range []struct {
		name string
		d    time.Duration
	}{{"device_ttl", c.DeviceTTL}, {"hub_ttl", c.HubTTL}, {"user_ttl", c.UserTTL}} {
		if ttl.d != 0 && ttl.d < time.Second || ttl.d > maxTTL {
			errs = append(errs, fmt.Errorf("%s: %v is not between 1s and %v", ttl.name, ttl.d, maxTTL))
		}
	}
	errs = append(errs, audit.ValidateSinks(c.AuditSinks))
	return errors.Join(errs...)
}

// checkAddr accepts host:port with a numeric port and a host a TLV or a log may hold.
func checkAddr(s string) error {
	if len(s) > maxAddress {
		return fmt.Errorf("an address is longer than %d bytes", maxAddress)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q is not host:port", s)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return fmt.Errorf("%q has no valid port", s)
	}
	for _, r := range host {
		if r <= ' ' || r > '~' {
			return fmt.Errorf("%q is not a host name or address", s)
		}
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.DeviceTTL == 0 {
		c.DeviceTTL = 90 * 24 * time.Hour
	}
	if c.HubTTL == 0 {
		c.HubTTL = 7 * 24 * time.Hour
	}
	if c.UserTTL == 0 {
		c.UserTTL = 12 * time.Hour
	}
	return c
}
