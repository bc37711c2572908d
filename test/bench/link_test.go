package bench_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"hawser/test/harness"
)

const linkSize = 32 << 20

// BenchmarkLink is 32 MiB of noise from a device whose link carries 100 Mbit/s, behind NAT, by sshd on the device and in hub mode, recorded and not, in
// turns within one run: MB/s, the ratio to sshd, and of recorded to unrecorded.
func BenchmarkLink(b *testing.B) {
	for _, carrier := range []string{"tls", "quic"} {
		b.Run(carrier, func(b *testing.B) {
			w := harness.NewWorld(b, 1)
			s := w.AddSite(b, "gw-1")
			s.StartEdge(b, "HAWSER_CARRIER="+carrier)
			plain, user := s.StartSSHD(b), harness.Account(b)
			s.Rate(b, 100)
			dir, err := os.MkdirTemp("", "")
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { _ = os.RemoveAll(dir) })
			path := filepath.Join(dir, "noise")
			if out, err := exec.Command("sh", "-ec", "chmod 711 "+dir+"; head -c 33554432 /dev/urandom >"+path).CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
			direct := w.OnLaptop("ssh", "-F", plain.Config, "-l", user, "plain", "cat "+path)
			copied := w.OnLaptop("scp", "-q", "-F", plain.Config, user+"@plain:"+path, "/dev/null")
			exec1, scp1 := append(w.SSH(1, harness.HubMode, "gw-1"), "cat "+path), w.SCP(1, "gw-1", path)
			ways := []struct {
				name, record string
				exec, scp    []string
			}{{"sshd", "off", direct, copied}, {"off", "off", exec1, scp1}, {"recorded", "best-effort", exec1, scp1}, {"strict", "strict", exec1, scp1}}
			took := map[string][]float64{}
			file := filepath.Join(b.TempDir(), "cluster.yaml")
			for b.Loop() {
				for range 3 {
					for _, way := range ways {
						if err := os.WriteFile(file, []byte("kind: cluster\nrecord: "+way.record+"\n"), 0o600); err != nil {
							b.Fatal(err)
						}
						w.Must(b, "apply", "-f", file)
						for kind, args := range map[string][]string{"exec": way.exec, "scp": way.scp} {
							var errs bytes.Buffer
							cmd := exec.Command(args[0], args[1:]...)
							cmd.Stderr = &errs
							begun := time.Now()
							if err := cmd.Run(); err != nil {
								b.Fatalf("%s by %s: %v\n%s", kind, way.name, err, errs.Bytes())
							}
							took[kind+"-"+way.name] = append(took[kind+"-"+way.name], time.Since(begun).Seconds())
						}
					}
				}
			}
			for _, kind := range []string{"exec", "scp"} {
				base, off := median(took[kind+"-sshd"]), median(took[kind+"-off"])
				for _, way := range ways {
					t := median(took[kind+"-"+way.name])
					b.ReportMetric(linkSize/1e6/t, kind+"-"+way.name+"-MB/s")
					switch way.name {
					case "sshd":
					case "off":
						b.ReportMetric(base/t, kind+"-off/sshd")
					default:
						b.ReportMetric(base/t, kind+"-"+way.name+"/sshd")
						b.ReportMetric(off/t, kind+"-"+way.name+"/off")
					}
				}
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}
