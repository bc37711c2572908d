package bench_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// BenchmarkEchoRecorded is one keystroke and its echo with recording off, best-effort and strict, input included, in turns within one run: the median
// of 7 sessions' p50, what recording adds to that, and the ratio.
func BenchmarkEchoRecorded(b *testing.B) {
	for _, carrier := range []string{"tls", "quic"} {
		b.Run(carrier, func(b *testing.B) {
			c, all := roads(b, carrier)
			all = slices.DeleteFunc(all, func(r road) bool { return r.name != "hub" && r.name != "e2e" })
			modes := []string{"off", "best-effort", "strict"}
			p50 := map[string][]float64{}
			file := filepath.Join(b.TempDir(), "cluster.yaml")
			for b.Loop() {
				for range 7 {
					for _, mode := range modes {
						if err := os.WriteFile(file, []byte("kind: cluster\nrecord_stdin: full\nrecord: "+mode+"\n"), 0o600); err != nil {
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
			if n := len(strings.Fields(recorded)); n < 2*2*7 {
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
