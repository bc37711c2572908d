package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

func TestFlagOutweighsEnvironmentOutweighsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "auth.yaml")
	if err := os.WriteFile(file, []byte("listen: 127.0.0.1:1\ncluster: file.example\nuser_ttl: 3h\npublic: [a.example:1, b.example:2]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := pflag.NewFlagSet("x", pflag.ContinueOnError)
	addFlags(f)
	if err := f.Parse([]string{"--config", file, "--listen", "127.0.0.1:3"}); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"HAWSER_LISTEN": "127.0.0.1:2", "HAWSER_CLUSTER": "env.example"}
	c, err := load(f, func(k string) (string, bool) { v, ok := env[k]; return v, ok })
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:3" || c.Cluster != "env.example" || c.UserTTL != 3*time.Hour || c.HubTTL != 168*time.Hour || len(c.Public) != 2 {
		t.Errorf("got %+v", c)
	}
}

func TestEveryConfigurationProblemIsNamedAtOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "auth.yaml")
	if err := os.WriteFile(file, []byte("listne: 127.0.0.1:1\nuser_ttl: soon\ncluster: UPPER CASE\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if code := execute(t.Context(), []string{"check-config", "--config", file}, &out, &errs); code != 2 {
		t.Errorf("got exit code %d, want 2", code)
	}
	for _, want := range []string{`"listne" is not known`, "user-ttl", "cluster"} {
		if !strings.Contains(errs.String(), want) {
			t.Errorf("%q is not in:\n%s", want, errs.String())
		}
	}
}

func TestSecondInitFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	var out, errs bytes.Buffer
	for i, want := range []int{0, 1} {
		if code := execute(t.Context(), []string{"init", "--data", dir, "--cluster", "a.example"}, &out, &errs); code != want {
			t.Errorf("init %d: got exit code %d, want %d: %s", i+1, code, want, errs.String())
		}
	}
	if code := execute(t.Context(), []string{"init", "--no-such-flag"}, &out, &errs); code != 2 {
		t.Errorf("unknown flag: got exit code %d, want 2", code)
	}
}
