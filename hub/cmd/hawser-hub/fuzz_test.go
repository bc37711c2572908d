package main

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"hawser/hub"
)

func FuzzSettings(f *testing.F) {
	file := filepath.Join(f.TempDir(), "hub.yaml")
	f.Add([]byte("data: /d\ntoken: t\nauth: a:1\nssh: :22\ntunnel: '[::]:443'\npublic: [h, h:1]\nzone: eu\npublic-ssh: [s:2]\ndrain-timeout: 1m\nadmit-rate: 7\nspool-size: 100\nlink-notice: off\nverbose: true\n"))
	f.Add([]byte("data: {a: b}\npublic: h\n"))
	f.Add([]byte("data: &a x\ntoken: *a\nverbose: yes\npublic: [~, 1e3]\n"))
	f.Add([]byte("dta: x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		load := func(b []byte) (settings, hub.Config, error) {
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
			var s settings
			fs := pflag.NewFlagSet("x", pflag.ContinueOnError)
			s.flags(fs)
			if err := fs.Parse([]string{"--config", file}); err != nil {
				t.Fatal(err)
			}
			c, err := s.load(fs)
			return s, c, err
		}
		s, c, err := load(b)
		if err != nil {
			return
		}
		out, err := yaml.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		s2, again, err := load(out)
		if len(c.Public) == 0 {
			c.Public = again.Public
		}
		if len(c.PublicSSH) == 0 {
			c.PublicSSH = again.PublicSSH
		}
		if err != nil || s2.Verbose != s.Verbose || !reflect.DeepEqual(c, again) {
			t.Errorf("%+v came back as %+v, %v, from\n%s", c, again, err, out)
		}
	})
}
