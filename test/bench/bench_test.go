// Package bench_test measures Hawser beside plain OpenSSH on the same machine,
// in turns within one run, and reports ratios: on a shared machine a single
// time means little.
package bench_test

import (
	"bytes"
	"fmt"
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

type road struct{ name, config, host string }

func roads(b *testing.B) (*harness.Cluster, []road) {
	harness.Root(b)
	c, s := harness.Up(b, 1), harness.StartSSHD(b)
	return c, []road{{"sshd", s.Config, "plain"}, {"hub", c.Ready.SSHConfig, "gw-1"}, {"e2e", c.Ready.SSHConfig, "e2e-gw-1"}}
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// BenchmarkConnect is `ssh HOST true`, from start to exit.
func BenchmarkConnect(b *testing.B) {
	_, roads := roads(b)
	times := make([][]time.Duration, len(roads))
	for b.Loop() {
		for round := range 22 {
			for i, r := range roads {
				start := time.Now()
				if out, err := exec.Command("ssh", "-F", r.config, r.host, "true").CombinedOutput(); err != nil {
					b.Fatalf("%s: %v\n%s", r.name, err, out)
				}
				if round > 0 { // the first warms the caches
					times[i] = append(times[i], time.Since(start))
				}
			}
		}
	}
	report(b, roads, func(i int) float64 { return median(times[i]).Seconds() * 1000 }, "ms")
}

// BenchmarkBulk is 256 MiB from the device, in MB/s.
func BenchmarkBulk(b *testing.B) {
	_, roads := roads(b)
	const size = 256 << 20
	times := make([][]time.Duration, len(roads))
	for b.Loop() {
		for range 5 {
			for i, r := range roads {
				start := time.Now()
				var errs bytes.Buffer
				cmd := exec.Command("ssh", "-F", r.config, r.host, fmt.Sprintf("dd if=/dev/zero bs=64k count=%d 2>/dev/null", size>>16))
				cmd.Stderr = &errs
				cmd.Stdout = nil
				if err := cmd.Run(); err != nil {
					b.Fatalf("%s: %v\n%s", r.name, err, errs.Bytes())
				}
				times[i] = append(times[i], time.Since(start))
			}
		}
	}
	report(b, roads, func(i int) float64 { return size / 1e6 / median(times[i]).Seconds() }, "MB/s")
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
	c, _ := roads(b)
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
