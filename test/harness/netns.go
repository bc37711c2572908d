package harness

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
)

// Net is a small internet in network namespaces:
//
//	laptop 10.99.2.2 ── cloud 10.99.2.1, 10.99.1.1 ── router 10.99.1.2 | 192.168.77.1 ── device 192.168.77.2
//
// The router masquerades: nothing in the cloud can dial the device.
type Net struct {
	Cloud, Router, Laptop, Device string // names of the namespaces
}

// Addresses in a Net.
const (
	CloudAddr  = "10.99.1.1"
	RouterAddr = "10.99.1.2"
	DeviceAddr = "192.168.77.2"
	LANAddr    = "192.168.77.1"
)

var netCount atomic.Int32

// NewNet makes the namespaces and removes them when the test ends.
func NewNet(t testing.TB) *Net {
	t.Helper()
	Root(t)
	Need(t, "ip", "nft")
	p := fmt.Sprintf("hw%d-%d-", os.Getpid()%100000, netCount.Add(1))
	n := &Net{Cloud: p + "c", Router: p + "r", Laptop: p + "l", Device: p + "d"}
	for _, ns := range []string{n.Cloud, n.Router, n.Laptop, n.Device} {
		sh(t, "ip", "netns", "add", ns)
		t.Cleanup(func() { exec.Command("ip", "netns", "del", ns).Run() })
		n.In(t, ns, "ip", "link", "set", "lo", "up")
	}
	n.link(t, n.Cloud, "10.99.1.1/24", n.Router, "10.99.1.2/24", "wan")
	n.link(t, n.Cloud, "10.99.2.1/24", n.Laptop, "10.99.2.2/24", "lap")
	n.link(t, n.Router, "192.168.77.1/24", n.Device, "192.168.77.2/24", "lan")
	n.In(t, n.Laptop, "ip", "route", "add", "default", "via", "10.99.2.1")
	n.In(t, n.Device, "ip", "route", "add", "default", "via", "192.168.77.1")
	n.In(t, n.Cloud, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	n.In(t, n.Router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	nft := exec.Command("ip", "netns", "exec", n.Router, "nft", "-f", "-")
	nft.Stdin = strings.NewReader("table ip nat {\n chain post {\n  type nat hook postrouting priority 100;\n  ip saddr 192.168.77.0/24 oifname \"wan1\" masquerade\n }\n}\n")
	if out, err := nft.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
	return n
}

// link joins two namespaces by a veth pair, name0 in a and name1 in b.
func (n *Net) link(t testing.TB, a, addrA, b, addrB, name string) {
	t.Helper()
	sh(t, "ip", "link", "add", name+"0", "netns", a, "type", "veth", "peer", "name", name+"1", "netns", b)
	n.In(t, a, "ip", "addr", "add", addrA, "dev", name+"0")
	n.In(t, b, "ip", "addr", "add", addrB, "dev", name+"1")
	n.In(t, a, "ip", "link", "set", name+"0", "up")
	n.In(t, b, "ip", "link", "set", name+"1", "up")
}

// In runs a command in a namespace; it has to succeed.
func (n *Net) In(t testing.TB, ns string, args ...string) string {
	t.Helper()
	return sh(t, append([]string{"ip", "netns", "exec", ns}, args...)...)
}

// Start runs a program in a namespace until the test ends.
func (n *Net) Start(t testing.TB, ns string, env []string, args ...string) *Process {
	t.Helper()
	return Start(t, env, "ip", append([]string{"netns", "exec", ns}, args...)...)
}

// Run runs a client in a namespace to its end.
func (n *Net) Run(t testing.TB, ns string, env []string, stdin []byte, args ...string) Result {
	t.Helper()
	return RunEnv(t, env, stdin, "ip", append([]string{"netns", "exec", ns}, args...)...)
}

func sh(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
