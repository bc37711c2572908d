package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"hawser/hub"
)

// settings are flags; where one is not given, the environment's HAWSER_NAME holds, then the file's key, then the default.
type settings struct {
	Config  string   `yaml:"-"`
	Data    string   `yaml:"data"`
	Token   string   `yaml:"token"`
	Auth    string   `yaml:"auth"`
	SSH     string   `yaml:"ssh"`
	Tunnel  string   `yaml:"tunnel"`
	Public  []string `yaml:"public"`
	Verbose bool     `yaml:"verbose"`
}

func (s *settings) flags(f *pflag.FlagSet) {
	f.StringVar(&s.Config, "config", "", "YAML file with these settings (HAWSER_CONFIG)")
	f.StringVar(&s.Data, "data", "", "directory of the hub's identity (HAWSER_DATA)")
	f.StringVar(&s.Token, "token", "", "join token, for the first run (HAWSER_TOKEN keeps it out of the process list)")
	f.StringVar(&s.Auth, "auth", "", "host:port of the auth service, if not the token's (HAWSER_AUTH)")
	f.StringVar(&s.SSH, "ssh", "", "where people connect, host:port (HAWSER_SSH; :22)")
	f.StringVar(&s.Tunnel, "tunnel", "", "where devices connect, UDP and TCP, host:port (HAWSER_TUNNEL; :443)")
	f.StringSliceVar(&s.Public, "public", nil, "name or address by which people and devices reach this hub (HAWSER_PUBLIC, comma-separated)")
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
	env := func(name string) (string, bool) { return os.LookupEnv("HAWSER_" + strings.ToUpper(name)) }
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
		{"tunnel", &s.Tunnel, &file.Tunnel},
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
	if !f.Changed("public") {
		s.Public = file.Public
		if v, ok := env("public"); ok {
			s.Public = strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' })
		}
	}
	if !f.Changed("verbose") {
		s.Verbose = file.Verbose
		if v, ok := env("verbose"); ok {
			s.Verbose = v != "" && v != "0" && v != "false"
		}
	}
	return hub.Config{
		Data: s.Data, Token: s.Token, AuthAddr: s.Auth, SSHListen: s.SSH, TunnelListen: s.Tunnel, Public: s.Public,
	}, nil
}
