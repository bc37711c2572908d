package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

func FuzzReadFile(f *testing.F) {
	file := filepath.Join(f.TempDir(), "auth.yaml")
	f.Add([]byte("audit_sinks: [{name: a, type: file, path: /x}]\n"))
	f.Add([]byte("audit_sinks:\n"))
	f.Add([]byte("listen: 127.0.0.1:1\ncluster: file.example\nuser_ttl: 3h\npublic: [a.example:1, b.example:2]\n"))
	f.Add([]byte("audit_sinks: [{name: a, type: file, path: /x}]\n"))
	f.Add([]byte("data: {a: b}\n")) // was the directory map[a:b]
	f.Add([]byte("audit_sinks: [{name: a, type: file, path: /x}]\n"))
	f.Add([]byte("data: {a: b}\npublic: [[a], ~]\nlisten:\n"))
	f.Add([]byte("audit_sinks: [{name: a, type: file, path: /x}]\n"))
	f.Add([]byte("data: 2026-01-01\ncluster: 1e3\nkey_file: !!binary YQ==\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		m, _, err := readFile(file)
		if err != nil {
			return
		}
		var raw map[string]any
		_ = yaml.Unmarshal(b, &raw)
		for key, v := range raw {
			switch v.(type) {
			case map[string]any, map[any]any, nil:
				t.Errorf("%s: %v became %q", key, v, m[key])
			}
		}
		fs := pflag.NewFlagSet("x", pflag.ContinueOnError)
		addFlags(fs)
		if err := fs.Parse([]string{"--config", file}); err != nil {
			t.Fatal(err)
		}
		c, err := load(fs, func(string) (string, bool) { return "", false })
		if err == nil && c.Validate() != nil {
			t.Errorf("loaded what is not valid: %+v", c)
		}
	})
}
