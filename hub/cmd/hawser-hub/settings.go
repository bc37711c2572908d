package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"hawser/hub"
)

// settings are flags; where one is not given, the environment's HAWSER_NAME holds, then the file's key, then the default.
type settings struct {
	Config       string        `yaml:"-"`
	Data         string        `yaml:"data"`
	Token        string        `yaml:"token"`
	Auth         string        `yaml:"auth"`
	SSH          string        `yaml:"ssh"`
	Tunnel       string        `yaml:"tunnel"`
	Zone         string        `yaml:"zone"`
	Public       []string      `yaml:"public"`
	PublicSSH    []string      `yaml:"public-ssh"`
	ProxyFrom    []string      `yaml:"proxy-from"`
	DrainTimeout time.Duration `yaml:"drain-timeout"`
	AdmitRate    int           `yaml:"admit-rate"`
	SpoolSize    int           `yaml:"spool-size"`
	LinkNotice   string        `yaml:"link-notice"`
	Verbose      bool          `yaml:"verbose"`
}

func (s *settings) flags(f *pflag.FlagSet) {
	f.StringVar(&s.Config, "config", "", "YAML file with these settings (HAWSER_CONFIG)")
	f.StringVar(&s.Data, "data", "", "directory of the hub's identity (HAWSER_DATA)")
	f.StringVar(&s.Token, "token", "", "join token, for the first run (HAWSER_TOKEN keeps it out of the process list)")
	f.StringVar(&s.Auth, "auth", "", "host:port of the auth service, if not the token's (HAWSER_AUTH)")
	f.StringVar(&s.SSH, "ssh", "", "where people connect, host:port (HAWSER_SSH; :22)")
	f.StringVar(&s.Tunnel, "tunnel", "", "where devices connect, UDP and TCP, host:port (HAWSER_TUNNEL; :443)")
	f.StringVar(&s.Zone, "zone", "", "what this hub shares its fate with, as a room or a provider: a device's two tunnels go to two zones (HAWSER_ZONE)")
	f.StringSliceVar(&s.Public, "public", nil,
		"HOST[:PORT] by which devices reach this hub, and people by the same HOST; PORT where another one is forwarded (HAWSER_PUBLIC, comma-separated)")
	f.StringSliceVar(&s.PublicSSH, "public-ssh", nil, "HOST[:PORT] by which people reach this hub, if not as --public (HAWSER_PUBLIC_SSH)")
	f.StringSliceVar(&s.ProxyFrom, "proxy-from", nil,
		"NETWORK of load balancers that say by the PROXY protocol, version 2, whose connection it is; they must (HAWSER_PROXY_FROM, comma-separated)")
	f.DurationVar(&s.DrainTimeout, "drain-timeout", 0, "how long ending takes at most, to hand over devices and people (HAWSER_DRAIN_TIMEOUT; 30s)")
	f.IntVar(&s.SpoolSize, "spool-size", 0, "MiB of recordings kept on disk while auth cannot take them (HAWSER_SPOOL_SIZE; 1024)")
	f.IntVar(&s.AdmitRate, "admit-rate", 0, "handshakes of devices a second; the rest come again (HAWSER_ADMIT_RATE; 50 or more, by the fleet's size)")
	f.StringVar(&s.LinkNotice, "link-notice", "", "on or off: tell people on their terminal that a device's link is lost (HAWSER_LINK_NOTICE; on)")
	f.BoolVarP(&s.Verbose, "verbose", "v", false, "log more (HAWSER_VERBOSE=1)")
}

func (s *settings) level() slog.Level {
	if s.Verbose {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// load fills what no flag set from the environment and the file.
func (s *settings) load(f *pflag.FlagSet) (hub.Config, error) {
	env := func(name string) (string, bool) {
		return os.LookupEnv("HAWSER_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_")))
	}
	if v, ok := env("config"); ok && !f.Changed("config") {
		s.Config = v
	}
	var file settings
	if s.Config != "" {
		b, err := os.ReadFile(s.Config)
		if err != nil {
			return hub.Config{}, fmt.Errorf("read configuration: %w", err)
		}
		d := yaml.NewDecoder(bytes.NewReader(b))
		d.KnownFields(true)
		if err := d.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
			return hub.Config{}, fmt.Errorf("read %s: %w", s.Config, err)
		}
	}
	for _, x := range []struct {
		name     string
		to, from *string
	}{
		{"data", &s.Data, &file.Data}, {"token", &s.Token, &file.Token}, {"auth", &s.Auth, &file.Auth}, {"ssh", &s.SSH, &file.SSH},
		{"tunnel", &s.Tunnel, &file.Tunnel}, {"zone", &s.Zone, &file.Zone}, {"link-notice", &s.LinkNotice, &file.LinkNotice},
	} {
		if f.Changed(x.name) {
			continue
		}
		if v, ok := env(x.name); ok {
			*x.to = v
		} else {
			*x.to = *x.from
		}
	}
	for _, x := range []struct {
		name     string
		to, from *[]string
	}{{"public", &s.Public, &file.Public}, {"public-ssh", &s.PublicSSH, &file.PublicSSH}, {"proxy-from", &s.ProxyFrom, &file.ProxyFrom}} {
		if f.Changed(x.name) {
			continue
		}
		*x.to = *x.from
		if v, ok := env(x.name); ok {
			*x.to = strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' })
		}
	}
	if !f.Changed("drain-timeout") {
		s.DrainTimeout = file.DrainTimeout
		if v, ok := env("drain-timeout"); ok {
			var err error
			if s.DrainTimeout, err = time.ParseDuration(v); err != nil {
				return hub.Config{}, fmt.Errorf("HAWSER_DRAIN_TIMEOUT: %w; give it as 30s", err)
			}
		}
	}
	for _, x := range []struct {
		name     string
		to, from *int
	}{{"admit-rate", &s.AdmitRate, &file.AdmitRate}, {"spool-size", &s.SpoolSize, &file.SpoolSize}} {
		if f.Changed(x.name) {
			continue
		}
		*x.to = *x.from
		if v, ok := env(x.name); ok {
			var err error
			if *x.to, err = strconv.Atoi(v); err != nil {
				return hub.Config{}, fmt.Errorf("HAWSER_%s: %q is not a number", strings.ToUpper(strings.ReplaceAll(x.name, "-", "_")), v)
			}
		}
	}
	if !f.Changed("verbose") {
		s.Verbose = file.Verbose
		if v, ok := env("verbose"); ok {
			s.Verbose = v != "" && v != "0" && v != "false"
		}
	}
	if s.LinkNotice != "" && s.LinkNotice != "on" && s.LinkNotice != "off" {
		return hub.Config{}, fmt.Errorf("link-notice: %q is neither on nor off", s.LinkNotice)
	}
	var networks []netip.Prefix
	for _, n := range s.ProxyFrom {
		p, err := netip.ParsePrefix(n)
		if err != nil {
			return hub.Config{}, fmt.Errorf("proxy-from: %q is not a network such as 10.0.0.0/24", n)
		}
		networks = append(networks, p.Masked())
	}
	return hub.Config{
		ProxyFrom: networks,
		Data:      s.Data, Token: s.Token, AuthAddr: s.Auth, SSHListen: s.SSH, TunnelListen: s.Tunnel, Zone: s.Zone,
		Public: s.Public, PublicSSH: s.PublicSSH, DrainTimeout: s.DrainTimeout, AdmitRate: s.AdmitRate, SpoolSize: int64(s.SpoolSize) << 20, NoLinkNotice: s.LinkNotice == "off",
	}, nil
}
