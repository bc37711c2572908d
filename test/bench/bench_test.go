// Package bench_test measures Hawser beside plain OpenSSH on the same machine,
// in turns within one run, and reports ratios: on a shared machine a single
// time means little.
package bench_test

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"hawser/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// login is an account with a plain shell: what a person's own start-up files do is not ours to measure.
const login = "hawserbench"

type road struct{ name, config, login, host, jump string }

// ssh is a command line over the road.
func (r road) ssh(args ...string) *exec.Cmd {
	road := []string{"-F", r.config, "-l", r.login}
	if r.jump != "" {
		road = append(road, "-J", r.jump)
	}
	return exec.Command("ssh", append(road, args...)...)
}

// roads starts a cluster of two hubs whose agent uses one carrier, and a plain sshd. A person comes by the hub that has the device's
// active tunnel, to it (hub) or through it (e2e), or by the other one (mesh).
func roads(b *testing.B, carrier string) (*harness.Cluster, []road) {
	harness.Root(b)
	harness.Need(b, "useradd", "userdel")
	_ = exec.Command("userdel", login).Run() // of a run that was killed
	if out, err := exec.Command("useradd", "-M", "-d", "/tmp", "-s", "/bin/sh", "-p", "*", login).CombinedOutput(); err != nil {
		b.Fatalf("useradd: %v: %s", err, out)
	}
	b.Cleanup(func() { _ = exec.Command("userdel", login).Run() })
	b.Setenv("HAWSER_CARRIER", carrier)
	c, s := harness.Up(b, 1, "--hubs", "2"), harness.StartSSHD(b)
	home, other := "hub", "hub-2"
	harness.Eventually(b, 30*time.Second, "the device is online", func() bool {
		d, err := c.Show(b, "gw-1")
		if d.Hub == other {
			home, other = other, home
		}
		return err == nil && d.Hub == home
	})
	return c, []road{
		{"sshd", s.Config, login, "plain", ""},
		{"ssh-J", s.Config, login, "plain", login + "@plain"},
		{"hub", c.Ready.SSHConfig, login + "=gw-1", home, ""},
		{"e2e", c.Ready.SSHConfig, login, "e2e-gw-1", home},
		{"mesh", c.Ready.SSHConfig, login + "=gw-1", other, ""},
	}
}

// overCarriers runs a benchmark on each carrier.
func overCarriers(b *testing.B, f func(b *testing.B, roads []road)) {
	for _, carrier := range []string{"tls", "quic"} {
		b.Run(carrier, func(b *testing.B) {
			_, roads := roads(b, carrier)
			f(b, roads)
		})
	}
}

func median[T cmp.Ordered](d []T) T {
	slices.Sort(d)
	return d[len(d)/2]
}

// BenchmarkConnect is `ssh HOST true`, from start to exit.
func BenchmarkConnect(b *testing.B) {
	overCarriers(b, func(b *testing.B, roads []road) {
		times := make([][]time.Duration, len(roads))
		for b.Loop() {
			for round := range 22 {
				for i, r := range roads {
					start := time.Now()
					if out, err := r.ssh(r.host, "true").CombinedOutput(); err != nil {
						b.Fatalf("%s: %v\n%s", r.name, err, out)
					}
					if round > 0 { // the first warms the caches
						times[i] = append(times[i], time.Since(start))
					}
				}
			}
		}
		report(b, roads, func(i int) float64 { return median(times[i]).Seconds() * 1000 }, "ms")
	})
}

const bulkSize = 256 << 20

// BenchmarkBulk is 256 MiB from the device, in MB/s. Hub mode is recorded.
func BenchmarkBulk(b *testing.B) {
	bulk(b, func(r road) *exec.Cmd {
		return r.ssh(r.host, fmt.Sprintf("dd if=/dev/zero bs=64k count=%d 2>/dev/null", bulkSize>>16))
	})
}

// BenchmarkBulkUp is 256 MiB to the device.
func BenchmarkBulkUp(b *testing.B) {
	bulk(b, func(r road) *exec.Cmd {
		cmd := r.ssh(r.host, "cat >/dev/null")
		cmd.Stdin = io.LimitReader(zeros{}, bulkSize)
		return cmd
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func bulk(b *testing.B, command func(road) *exec.Cmd) {
	overCarriers(b, func(b *testing.B, roads []road) {
		times := make([][]time.Duration, len(roads))
		for b.Loop() {
			for range 5 {
				for i, r := range roads {
					var errs bytes.Buffer
					cmd := command(r)
					cmd.Stderr = &errs
					start := time.Now()
					if err := cmd.Run(); err != nil {
						b.Fatalf("%s: %v\n%s", r.name, err, errs.Bytes())
					}
					times[i] = append(times[i], time.Since(start))
				}
			}
		}
		report(b, roads, func(i int) float64 { return bulkSize / 1e6 / median(times[i]).Seconds() }, "MB/s")
	})
}

// BenchmarkEcho is one keystroke and its echo by the terminal of an established session: the median of 5 sessions' p50 and p99, and what
// Hawser adds.
func BenchmarkEcho(b *testing.B) {
	overCarriers(b, func(b *testing.B, roads []road) {
		p50, p99 := make([][]float64, len(roads)), make([][]float64, len(roads))
		for b.Loop() {
			for range 5 {
				for i, r := range roads {
					d := keystrokes(b, r, 500)
					slices.Sort(d)
					p50[i] = append(p50[i], float64(d[len(d)/2].Microseconds()))
					p99[i] = append(p99[i], float64(d[len(d)*99/100].Microseconds()))
				}
			}
		}
		for i, r := range roads {
			b.ReportMetric(median(p50[i]), r.name+"-p50-us")
			b.ReportMetric(median(p99[i]), r.name+"-p99-us")
			if i > 0 {
				b.ReportMetric(median(p50[i])/median(p50[0]), r.name+"/sshd")
				b.ReportMetric(median(p50[i])-median(p50[0]), r.name+"-p50-added-us")
				b.ReportMetric(median(p99[i])-median(p99[0]), r.name+"-p99-added-us")
			}
		}
	})
}

// keystrokes opens a session with a terminal and types n bytes, 3 ms apart.
func keystrokes(b *testing.B, r road, n int) []time.Duration {
	// A later client spreads keystrokes over 20 ms steps unless told not to.
	cmd := r.ssh("-tt", "-e", "none", "-o", "IgnoreUnknown=ObscureKeystrokeTiming", "-o", "ObscureKeystrokeTiming=no", r.host,
		"stty -icanon; printf R; exec sleep 60")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	var c [1]byte
	for c[0] != 'R' {
		if _, err := io.ReadFull(stdout, c[:]); err != nil {
			b.Fatalf("%s: %v", r.name, err)
		}
	}
	times := make([]time.Duration, n)
	for i := range times {
		time.Sleep(3 * time.Millisecond)
		start := time.Now()
		if _, err := stdin.Write([]byte{'x'}); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(stdout, c[:]); err != nil || c[0] != 'x' {
			b.Fatalf("%s: echo %q, %v", r.name, c, err)
		}
		times[i] = time.Since(start)
	}
	return times
}

// report prints each road's figure and its ratio to sshd's.
func report(b *testing.B, roads []road, figure func(int) float64, unit string) {
	base := figure(0)
	for i, r := range roads {
		b.ReportMetric(figure(i), r.name+"-"+unit)
		if i > 0 {
			b.ReportMetric(figure(i)/base, r.name+"/sshd")
		}
	}
}

// BenchmarkAgentMemory is the resident size of an idle agent, in kB.
func BenchmarkAgentMemory(b *testing.B) {
	c, _ := roads(b, "any")
	for b.Loop() {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Ready.Devices[0].PID))
		if err != nil {
			b.Fatal(err)
		}
		for line := range strings.Lines(string(status)) {
			f := strings.Fields(line)
			if f[0] == "VmRSS:" || f[0] == "RssAnon:" {
				kb, err := strconv.ParseFloat(f[1], 64)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(kb, strings.TrimSuffix(f[0], ":")+"-kB")
			}
		}
	}
}
