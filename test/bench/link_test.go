package bench_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hawser/test/harness"
)

const linkSize = 32 << 20

// server sends a file to whoever connects to it.
const server = `
import socket, sys
data = open(sys.argv[1], "rb").read()
s = socket.create_server(("127.0.0.1", 7000))
print("serves", flush=True)
while True:
    c, _ = s.accept()
    c.sendall(data)
    c.close()
`

// BenchmarkLink is 32 MiB of noise from a device whose link carries 100 Mbit/s, behind NAT, by sshd on the device, in hub mode and end to end, recorded and not,
// and by a forward, in turns within one run: MB/s, the ratio to sshd, and of recorded to unrecorded. End to end the recording goes over the same link.
func BenchmarkLink(b *testing.B) {
	for _, carrier := range []string{"tls", "quic"} {
		b.Run(carrier, func(b *testing.B) {
			w := harness.NewWorld(b, 1)
			s := w.AddSite(b, "gw-1")
			s.StartEdge(b, "HAWSER_CARRIER="+carrier)
			plain, user := s.StartSSHD(b), harness.Account(b)
			s.Rate(b, 100)
			path := noise(b, linkSize)
			served := "127.0.0.1:7000" // on the device: what a forward carries
			p := harness.Start(b, nil, "ip", "netns", "exec", s.Device, "python3", "-c", server, path)
			harness.Eventually(b, 10*time.Second, "the forwards' server listens", func() bool { return strings.Contains(p.Output(), "serves") })
			plainly := func(program string, args ...string) []string {
				return w.OnLaptop(append([]string{program, "-F", plain.Config}, args...)...)
			}
			exec1, scp1 := append(w.SSH(1, harness.HubMode, "gw-1"), "cat "+path), w.SCP(1, "gw-1", path)
			e2e := append(w.SSH(1, harness.EndToEnd, "gw-1"), "cat "+path)
			ways := []struct {
				name, record, off string // off is beside what it stands where it is recorded
				args              map[string][]string
			}{
				{"sshd", "off", "", map[string][]string{
					"exec": plainly("ssh", "-l", user, "plain", "cat "+path), "scp": plainly("scp", "-q", user+"@plain:"+path, "/dev/null"),
					"forward": plainly("ssh", "-l", user, "-W", served, "plain"),
				}},
				{"off", "off", "", map[string][]string{"exec": exec1, "scp": scp1}},
				{"recorded", "best-effort", "off", map[string][]string{"exec": exec1, "scp": scp1, "forward": w.SSH(1, harness.HubMode, "gw-1", "-W", served)}},
				{"strict", "strict", "off", map[string][]string{"exec": exec1, "scp": scp1}},
				{"e2e-off", "off", "", map[string][]string{"exec": e2e}},
				{"e2e-recorded", "best-effort", "e2e-off", map[string][]string{"exec": e2e}},
			}
			took := map[string][]float64{}
			file := filepath.Join(b.TempDir(), "cluster.yaml")
			for b.Loop() {
				for range 3 {
					for _, way := range ways {
						if err := os.WriteFile(file, []byte("kind: cluster\nrecord: "+way.record+"\n"), 0o600); err != nil {
							b.Fatal(err)
						}
						w.Must(b, "apply", "-f", file)
						for kind, args := range way.args {
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
			for _, kind := range []string{"exec", "scp", "forward"} {
				base := median(took[kind+"-sshd"])
				for _, way := range ways {
					if way.args[kind] == nil {
						continue
					}
					t := median(took[kind+"-"+way.name])
					b.ReportMetric(linkSize/1e6/t, kind+"-"+way.name+"-MB/s")
					if way.name != "sshd" {
						b.ReportMetric(base/t, kind+"-"+way.name+"/sshd")
					}
					if off := took[kind+"-"+way.off]; len(off) > 0 {
						b.ReportMetric(median(off)/t, kind+"-"+way.name+"/"+way.off)
					}
				}
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}
