package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"hawser/auth"
	"hawser/auth/audit"
)

// setting is one thing that can be configured: as --a-b, HAWSER_A_B and a_b.
type setting struct{ name, def, help string }

var settings = []setting{
	{"data", "/var/lib/hawser-auth", "`DIR`ectory of all state"},
	{"listen", "0.0.0.0:3025", "`ADDR` (host:port) of the API"},
	{"cluster", "", "`NAME` of the cluster, fixed by init (default: this machine's hostname)"},
	{"public", "", "`ADDR`,... under which hubs reach the API"},
	{"key-file", "", "`FILE` of the key that seals the CA keys (default: auth.key in --data)"},
	{"device-ttl", "2160h", "`DURATION` of devices' certificates"},
	{"hub-ttl", "168h", "`DURATION` of hubs' certificates"},
	{"user-ttl", "12h", "`DURATION` of users' certificates, unless a role says otherwise"},
}

func addFlags(f *pflag.FlagSet) {
	f.String("config", "", "YAML `FILE`; its keys are the flags' names with _ for -")
	for _, s := range settings {
		f.String(s.name, s.def, s.help)
	}
}

// load merges flags, environment, file and defaults, and reports every problem at once.
func load(f *pflag.FlagSet, env func(string) (string, bool)) (auth.Config, error) {
	file := map[string]string{}
	var sinks []audit.SinkConfig
	path, _ := env("HAWSER_CONFIG")
	if fl := f.Lookup("config"); fl.Changed {
		path = fl.Value.String()
	}
	var errs []error
	if path != "" {
		var err error
		if file, sinks, err = readFile(path); err != nil {
			errs = append(errs, err)
		}
	}
	value := func(name string) string {
		fl := f.Lookup(name)
		if fl.Changed {
			return fl.Value.String()
		}
		key := strings.ReplaceAll(name, "-", "_")
		if v, ok := env("HAWSER_" + strings.ToUpper(key)); ok {
			return v
		}
		if v, ok := file[key]; ok {
			return v
		}
		return fl.DefValue
	}
	duration := func(name string) time.Duration {
		d, err := time.ParseDuration(value(name))
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %q is not a duration such as 12h", name, value(name)))
		}
		return d
	}
	pass, _ := env("HAWSER_PASSPHRASE")
	c := auth.Config{
		Data: value("data"), Listen: value("listen"), Cluster: value("cluster"), KeyFile: value("key-file"), Passphrase: auth.Passphrase(pass),
		DeviceTTL: duration("device-ttl"), HubTTL: duration("hub-ttl"), UserTTL: duration("user-ttl"),
	}
	for p := range strings.SplitSeq(value("public"), ",") {
		if p = strings.TrimSpace(p); p != "" {
			c.Public = append(c.Public, p)
		}
	}
	c.AuditSinks = sinks
	return c, errors.Join(append(errs, c.Validate())...)
}

// readFile reads the YAML file; public may be a list.
func readFile(path string) (map[string]string, []audit.SinkConfig, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("config: %w", err)
	}
	var m map[string]any
	if err := yaml.NewDecoder(bytes.NewReader(b)).Decode(&m); err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, fmt.Errorf("config %s: %w", path, err)
	}
	var sinks []audit.SinkConfig
	if v, ok := m[sinksKey]; ok {
		sinks, err = readSinks(path, v)
		delete(m, sinksKey)
	}
	known := map[string]bool{}
	for _, s := range settings {
		known[strings.ReplaceAll(s.name, "-", "_")] = true
	}
	out := map[string]string{}
	errs := []error{err}
	for key, v := range m {
		list, isList := v.([]any)
		kind := reflect.ValueOf(v).Kind()
		switch {
		case !known[key]:
			errs = append(errs, fmt.Errorf("config %s: key %q is not known; `hawser-auth run --help` lists the flags, whose names the keys have", path, key))
		case isList && key == "public":
			var parts []string
			for _, p := range list {
				parts = append(parts, fmt.Sprint(p))
			}
			out[key] = strings.Join(parts, ",")
		case isList || kind == reflect.Map || v == nil || v == "":
			errs = append(errs, fmt.Errorf("config %s: key %q needs one value", path, key))
		default:
			out[key] = fmt.Sprint(v)
		}
	}
	return out, sinks, errors.Join(errs...)
}

// sinksKey is the key of the file that is a list of where audit events go; docs/audit.md.
const sinksKey = "audit_sinks"

func readSinks(path string, v any) ([]audit.SinkConfig, error) {
	if _, ok := v.([]any); !ok {
		return nil, fmt.Errorf("config %s: %s is no list; docs/audit.md shows one", path, sinksKey)
	}
	b, err := yaml.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("config %s: %s: %w", path, sinksKey, err)
	}
	var sinks []audit.SinkConfig
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&sinks); err != nil {
		return nil, fmt.Errorf("config %s: %s: %w", path, sinksKey, err)
	}
	return sinks, nil
}
