package harness

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Ready is ready.json of `hawser up`.
type Ready struct {
	SSHAddr    string `json:"ssh_addr"`
	TunnelAddr string `json:"tunnel_addr"`
	APIAddr    string `json:"api_addr"`
	CAPin      string `json:"ca_pin"`
	Cluster    string `json:"cluster"`
	Home       string `json:"home"`
	SSHConfig  string `json:"ssh_config"`
	Devices    []struct {
		Name string `json:"name"`
		PID  int    `json:"pid"`
	} `json:"devices"`
	PID int `json:"pid"`
}

// Cluster is a running `hawser up`.
type Cluster struct {
	*Process
	Ready Ready
	Dir   string
}

// Up starts a whole cluster with n local devices below a new directory.
func Up(t testing.TB, n int, args ...string) *Cluster {
	t.Helper()
	return UpIn(t, t.TempDir(), n, args...)
}

// UpIn is Up on a directory that may have been used before.
func UpIn(t testing.TB, dir string, n int, args ...string) *Cluster {
	t.Helper()
	os.Remove(filepath.Join(dir, "ready.json"))
	c := &Cluster{Dir: dir}
	c.Process = Start(t, nil, Program(t, "hawser"), append([]string{"up", "--dir", dir, "--devices", strconv.Itoa(n)}, args...)...)
	Eventually(t, 60*time.Second, "hawser up writes ready.json", func() bool {
		select {
		case <-c.Done():
			t.Fatalf("hawser up ended: %v\n%s", c.Err(), c.Output())
		default:
		}
		b, err := os.ReadFile(filepath.Join(dir, "ready.json"))
		if errors.Is(err, fs.ErrNotExist) {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b, &c.Ready); err != nil {
			t.Fatalf("ready.json: %v\n%s", err, b)
		}
		return true
	})
	return c
}

// SSH runs ssh(1) with the cluster's configuration.
func (c *Cluster) SSH(t testing.TB, stdin []byte, args ...string) Result {
	t.Helper()
	return Run(t, stdin, "ssh", append([]string{"-F", c.Ready.SSHConfig}, args...)...)
}

// Hawser runs the admin's command line.
func (c *Cluster) Hawser(t testing.TB, stdin []byte, args ...string) Result {
	t.Helper()
	return RunEnv(t, []string{"HAWSER_HOME=" + c.Ready.Home}, stdin, Program(t, "hawser"), args...)
}

// Must is Hawser for what has to succeed: it returns standard output without
// its last newline.
func (c *Cluster) Must(t testing.TB, args ...string) string {
	t.Helper()
	r := c.Hawser(t, nil, args...)
	if r.Code != 0 {
		t.Fatalf("hawser %s: exit %d\nstdout %s\nstderr %s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return strings.TrimSuffix(string(r.Stdout), "\n")
}
