package cross

import (
	"bytes"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hawser/test/harness"
)

// The agent of every architecture that is another family really runs: it joins,
// serves a shell, a command, a file transfer, and renews its certificate.
func TestAgentsServeUnderEmulation(t *testing.T) {
	harness.Root(t)
	harness.Need(t, "ssh", "sftp")
	// The certificate lives a minute, so that it must be renewed within the test.
	c := harness.Up(t, 0, "--device-ttl", "40s")
	for _, target := range Targets {
		if !target.Smoke {
			continue
		}
		t.Run(target.Name, func(t *testing.T) {
			t.Parallel() // most of it waits for the renewal
			emulator, err := exec.LookPath(target.Qemu)
			if err != nil {
				t.Fatalf("%s is not installed: make test installs it when root", target.Qemu)
			}
			name := "q-" + target.Name
			agent := c.Agent(t, name, emulator, agent(t, target))
			joined, err := c.Show(t, name)
			if err != nil {
				t.Fatal(err)
			}

			if r := c.SSH(t, nil, name, "echo o; echo e >&2; exit 7"); string(r.Stdout) != "o\n" || string(r.Stderr) != "e\n" || r.Code != 7 {
				t.Errorf("exec: %q %q %d", r.Stdout, r.Stderr, r.Code)
			}
			r := c.SSH(t, []byte("echo shell-$((6*7))\nstty size\nexit 3\n"), "-tt", name)
			if !strings.Contains(string(r.Stdout), "shell-42\r\n") || r.Code != 3 {
				t.Errorf("shell: %q %q %d", r.Stdout, r.Stderr, r.Code)
			}
			if r := c.SSH(t, nil, "e2e-"+name, "echo end to end"); string(r.Stdout) != "end to end\n" || r.Code != 0 {
				t.Errorf("end to end: %q %q %d", r.Stdout, r.Stderr, r.Code)
			}

			dir := t.TempDir()
			want := make([]byte, 700_001)
			rand.Read(want)
			if err := os.WriteFile(filepath.Join(dir, "a"), want, 0o600); err != nil {
				t.Fatal(err)
			}
			batch := "put " + dir + "/a " + dir + "/b\nget " + dir + "/b " + dir + "/c\n"
			if r := harness.Run(t, []byte(batch), "sftp", "-q", "-F", c.Ready.SSHConfig, "-b", "-", name); r.Code != 0 {
				t.Errorf("sftp: %q %q %d", r.Stdout, r.Stderr, r.Code)
			}
			if got, err := os.ReadFile(filepath.Join(dir, "c")); err != nil || !bytes.Equal(got, want) {
				t.Errorf("sftp brought back %d bytes of %d, %v", len(got), len(want), err)
			}

			harness.Eventually(t, 60*time.Second, name+" renews its certificate", func() bool {
				d, err := c.Show(t, name)
				return err == nil && d.CertNotAfter.After(joined.CertNotAfter)
			})
			if r := c.SSH(t, nil, name, "echo still here"); string(r.Stdout) != "still here\n" {
				t.Errorf("after the renewal: %q %q %d", r.Stdout, r.Stderr, r.Code)
			}
			agent.Stop(t)
		})
	}
}
