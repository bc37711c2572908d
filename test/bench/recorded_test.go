package bench_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const noiseSize = 64 << 20

// noise makes a file that no codec makes smaller, for everybody to read.
func noise(b *testing.B, size int) (path string) {
	b.Helper()
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	path = filepath.Join(dir, "noise")
	if out, err := exec.Command("sh", "-ec", fmt.Sprintf("chmod 711 %s; head -c %d /dev/urandom >%s", dir, size, path)).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	return path
}

// BenchmarkBulkNoise is 64 MiB of noise from the device, recorded and not, in turns within one run: MB/s, the ratio to sshd, and of recorded to unrecorded.
func BenchmarkBulkNoise(b *testing.B) {
	for _, carrier := range []string{"tls", "quic"} {
		b.Run(carrier, func(b *testing.B) {
			c, all := roads(b, carrier)
			all = slices.DeleteFunc(all, func(r road) bool { return r.name == "ssh-J" || r.name == "mesh" })
			path, file := noise(b, noiseSize), filepath.Join(b.TempDir(), "cluster.yaml")
			took := map[string][]float64{}
			for b.Loop() {
				for range 3 {
					for _, mode := range []string{"off", "best-effort"} {
						if err := os.WriteFile(file, []byte("kind: cluster\nrecord: "+mode+"\n"), 0o600); err != nil {
							b.Fatal(err)
						}
						c.Must(b, "apply", "-f", file)
						for _, r := range all {
							var errs bytes.Buffer
							cmd := r.ssh(r.host, "cat "+path)
							cmd.Stderr = &errs
							begun := time.Now()
							if err := cmd.Run(); err != nil {
								b.Fatalf("%s: %v\n%s", r.name, err, errs.Bytes())
							}
							took[r.name+"-"+mode] = append(took[r.name+"-"+mode], time.Since(begun).Seconds())
						}
					}
				}
			}
			base := median(slices.Concat(took["sshd-off"], took["sshd-best-effort"]))
			b.ReportMetric(noiseSize/1e6/base, "sshd-MB/s")
			for _, r := range all[1:] {
				off, on := median(took[r.name+"-off"]), median(took[r.name+"-best-effort"])
				b.ReportMetric(noiseSize/1e6/off, r.name+"-off-MB/s")
				b.ReportMetric(noiseSize/1e6/on, r.name+"-recorded-MB/s")
				b.ReportMetric(base/off, r.name+"-off/sshd")
				b.ReportMetric(base/on, r.name+"-recorded/sshd")
				b.ReportMetric(off/on, r.name+"-recorded/off")
			}
		})
	}
}

// BenchmarkEchoRecorded is one keystroke and its echo with recording off, best-effort with passwords withheld, best-effort and strict with all input, in turns
// within one run: the median of 7 sessions' p50, what recording adds to that, and the ratio.
func BenchmarkEchoRecorded(b *testing.B) {
	for _, carrier := range []string{"tls", "quic"} {
		b.Run(carrier, func(b *testing.B) {
			c, all := roads(b, carrier)
			all = slices.DeleteFunc(all, func(r road) bool { return r.name != "hub" && r.name != "e2e" })
			modes := []string{"off", "redacted", "best-effort", "strict"}
			settings := map[string]string{
				"off": "record: off\n", "redacted": "record: best-effort\nrecord_stdin: redacted\n",
				"best-effort": "record: best-effort\nrecord_stdin: full\n", "strict": "record: strict\nrecord_stdin: full\n",
			}
			p50 := map[string][]float64{}
			file := filepath.Join(b.TempDir(), "cluster.yaml")
			for b.Loop() {
				for range 7 {
					for _, mode := range modes {
						if err := os.WriteFile(file, []byte("kind: cluster\n"+settings[mode]), 0o600); err != nil {
							b.Fatal(err)
						}
						c.Must(b, "apply", "-f", file)
						for _, r := range all {
							d := keystrokes(b, r, 500)
							slices.Sort(d)
							key := r.name + "-" + mode
							p50[key] = append(p50[key], float64(d[len(d)/2])/float64(time.Microsecond))
						}
					}
				}
			}
			recorded := c.Must(b, "recordings", "ls", "-o", "name", "--limit", "1000")
			if n := len(strings.Fields(recorded)); n < 3*2*7 {
				b.Errorf("%d recordings: what was measured was not recorded", n)
			}
			for _, r := range all {
				off := median(p50[r.name+"-off"])
				b.ReportMetric(off, r.name+"-off-p50-us")
				for _, mode := range modes[1:] {
					on := median(p50[r.name+"-"+mode])
					b.ReportMetric(on-off, r.name+"-"+mode+"-added-us")
					b.ReportMetric(on/off, r.name+"-"+mode+"-ratio")
				}
			}
		})
	}
}
