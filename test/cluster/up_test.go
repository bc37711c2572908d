// Package cluster_test runs whole clusters: in one process and as separate
// programs in network namespaces, through restarts, joins and bad input.
package cluster_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hawser/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

func TestASecondRunKeepsEverything(t *testing.T) {
	harness.Root(t)
	dir := t.TempDir()
	c := harness.UpIn(t, dir, 2)
	if len(c.Ready.Devices) != 2 || c.Ready.PID != c.Cmd.Process.Pid {
		t.Fatalf("ready.json: %+v", c.Ready)
	}
	before, err := c.Show(t, "gw-2")
	if err != nil {
		t.Fatal(err)
	}
	if r := c.SSH(t, nil, "gw-2", "echo remember"); r.Code != 0 {
		t.Fatalf("%d %s", r.Code, r.Stderr)
	}
	key := filepath.Join(t.TempDir(), "k")
	harness.Run(t, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	c.Must(t, "user", "add", "bob", "--role", "operator", "--key", key+".pub")
	var ids string
	harness.Eventually(t, 10*time.Second, "the recording is complete", func() bool {
		ids = c.Must(t, "recordings", "ls", "-o", "name")
		return strings.Contains(c.Must(t, "recordings", "ls"), "complete") && ids != ""
	})
	cert := harness.ReadFile(t, filepath.Join(c.Ready.Home, "id_ed25519-cert.pub"))
	children := c.Ready.Devices

	c.Stop(t)
	if _, err := os.Stat(filepath.Join(dir, "ready.json")); err == nil {
		t.Error("ready.json is there after the end")
	}
	for _, d := range children {
		if syscall.Kill(d.PID, 0) == nil {
			t.Errorf("the agent %s outlived hawser up", d.Name)
		}
	}

	c = harness.UpIn(t, dir, 2)
	after, err := c.Show(t, "gw-2")
	if err != nil {
		t.Fatal(err)
	}
	if after.UUID != before.UUID {
		t.Errorf("gw-2 was %s and is %s", before.UUID, after.UUID)
	}
	if got := c.Must(t, "recordings", "ls", "-o", "name"); got != ids {
		t.Errorf("recordings were %q and are %q", ids, got)
	}
	if !strings.Contains(c.Must(t, "user", "ls"), "bob") {
		t.Error("bob is gone")
	}
	if harness.ReadFile(t, filepath.Join(c.Ready.Home, "id_ed25519-cert.pub")) == cert {
		t.Error("the admin's certificate was not renewed")
	}
	if r := c.SSH(t, nil, "gw-1", "echo again"); string(r.Stdout) != "again\n" {
		t.Errorf("%d %s", r.Code, r.Stderr)
	}
}

func TestEndsWithinFiveSecondsOfSIGTERM(t *testing.T) {
	c := harness.Up(t, 2)
	session := harness.Start(t, nil, "ssh", "-F", c.Ready.SSHConfig, "gw-1", "sleep 1000")
	harness.Eventually(t, 10*time.Second, "the session is live", func() bool {
		return strings.Contains(c.Must(t, "sessions", "ls"), "gw-1")
	})
	start := time.Now()
	c.Cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("still running")
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("took %v", d)
	}
	if err := c.Err(); err != nil {
		t.Errorf("ended with %v", err)
	}
	<-session.Done()
}

func TestTheAdminsCertificateIsRenewedWhileUp(t *testing.T) {
	c := harness.Up(t, 1, "--user-ttl", "6s")
	cert := filepath.Join(c.Ready.Home, "id_ed25519-cert.pub")
	first := harness.ReadFile(t, cert)
	harness.Eventually(t, 20*time.Second, "the certificate changes", func() bool { return harness.ReadFile(t, cert) != first })
	if r := c.SSH(t, nil, "gw-1", "echo fresh"); string(r.Stdout) != "fresh\n" {
		t.Errorf("%d %s", r.Code, r.Stderr)
	}
}

// Auth knows a hub by the connection it calls over: one kept open by a stream
// outlives the certificate it was made with, and must not be the one that is
// used after the renewal.
func TestTheHubOutlivesItsCertificate(t *testing.T) {
	const ttl = 8 * time.Second
	c := harness.Up(t, 1, "--hub-ttl", ttl.String(), "-v")
	start := time.Now()
	harness.Eventually(t, 60*time.Second, "two lives of a certificate pass", func() bool { return time.Since(start) > 2*ttl })
	for _, host := range []string{"gw-1", "e2e-gw-1"} {
		if r := c.SSH(t, nil, host, "echo x"); string(r.Stdout) != "x\n" || r.Code != 0 {
			t.Errorf("%s: %d %q %q", host, r.Code, r.Stdout, r.Stderr)
		}
	}
	if n := strings.Count(c.Output(), "msg=renewed"); n < 2 || n > 8 {
		t.Errorf("the hub renewed %d times in two lives, want 2 to 8", n)
	}
	if got := c.Must(t, "ls"); !strings.Contains(got, "online") {
		t.Error(got)
	}
}

func TestOneTokenAdmitsOneOfFiftyAgents(t *testing.T) {
	c := harness.Up(t, 0)
	token := c.Must(t, "token", "create", "--kind", "edge")
	n := 50
	var wg sync.WaitGroup
	codes := make([]int, n)
	// Ten at a time: the race is at auth, not for this machine's memory.
	gate := make(chan struct{}, 10)
	for i := range n {
		wg.Go(func() {
			gate <- struct{}{}
			defer func() { <-gate }()
			r := harness.RunEnv(t, []string{"HAWSER_TOKEN=" + token}, nil, harness.Program(t, "hawser-edge"),
				"join", "--state", filepath.Join(t.TempDir(), fmt.Sprint(i)), "--name", "racer")
			codes[i] = r.Code
			if strings.Contains(string(r.Stderr), token) {
				t.Error("the token is in what the agent wrote")
			}
		})
	}
	wg.Wait()
	won := 0
	for _, code := range codes {
		if code == 0 {
			won++
		}
	}
	if won != 1 {
		t.Errorf("%d of %d agents joined by a single-use token, want 1", won, n)
	}
	if got := c.Must(t, "ls", "-o", "name"); got != "racer" {
		t.Errorf("devices: %q, want racer", got)
	}
}
