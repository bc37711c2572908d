package harness

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// World is a cluster of separate programs in network namespaces around one bridge, the cloud:
//
//	auth 10.99.0.2   laptop 10.99.0.3   hub k 10.99.1.k   site s: router 10.99.2.s | 192.168.77.1 ── device 192.168.77.2
//
// Each site's router masquerades, so nothing in the cloud can dial a device. Names of namespaces begin with a prefix of this world's own, and only those
// are removed.
type World struct {
	Dir, Home string // Home is the admin's profile
	Cluster   string
	Hubs      []*HubHost
	Auth      *Process

	prefix string
	sites  atomic.Int32
	config string // ssh_config
	trust  string // known_hosts
	authNS string
	laptop string
	cloud  string
}

// Addresses of a World.
const (
	AuthHost   = "10.99.0.2"
	LaptopHost = "10.99.0.3"
	TunnelPort = 8443
	SSHPort    = 2222
)

// Site is one device behind its own NAT router.
type Site struct {
	Name           string // the device's
	Router, Device string // namespaces
	Public         string // the router's address in the cloud; the other one is Moved
	Moved          string
	Edge           *Process

	w     *World
	index int
	env   []string
}

// HubHost is one hub in its namespace.
type HubHost struct {
	*Process
	NS, Name, Addr string // Addr is what people and devices dial, without a port

	w    *World
	args []string
	env  []string
}

// NewWorld starts auth and n hubs.
func NewWorld(t testing.TB, n int) *World {
	t.Helper()
	return NewWorldOn(t, n, nil)
}

// NewWorldOn is NewWorld whose directory for auth's data is prepared first: a disk may be mounted there.
func NewWorldOn(t testing.TB, n int, prepare func(auth string)) *World {
	t.Helper()
	w := newWorld(t)
	if prepare != nil {
		prepare(w.AuthData())
	}
	w.StartAuth(t)
	for k := range n {
		w.AddHub(t, k+1)
	}
	w.WriteConfig(t)
	w.Meshed(t)
	return w
}

func newWorld(t testing.TB) *World {
	t.Helper()
	Root(t)
	Need(t, "ip", "nft", "conntrack", "unshare", "ssh", "ss", "useradd", "userdel")
	if err := account(); err != nil {
		t.Fatal(err)
	}
	w := &World{Dir: t.TempDir(), Cluster: "fleet.example", prefix: fmt.Sprintf("hw%d-%d-", os.Getpid()%100000, netCount.Add(1))}
	w.Home = filepath.Join(w.Dir, "home")
	w.cloud = w.namespace(t, "c")
	script(t, w.cloud, "ip link add br0 type bridge", "ip addr add 10.99.0.1/16 dev br0", "ip link set br0 up")
	w.authNS, w.laptop = w.Host(t, "a", AuthHost), w.Host(t, "l", LaptopHost)
	return w
}

// namespace makes one with its loopback up and without IPv6, whose router and neighbour discovery would show in byte counts.
func (w *World) namespace(t testing.TB, name string) string {
	t.Helper()
	ns := w.prefix + name
	sh(t, "ip", "netns", "add", ns)
	t.Cleanup(func() { exec.Command("ip", "netns", "del", ns).Run() })
	script(t, ns, "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1 net.ipv4.ip_forward=1", "ip link set lo up")
	return ns
}

// Host adds a namespace to the cloud, with one address on wan0.
func (w *World) Host(t testing.TB, name, addr string) string {
	t.Helper()
	ns := w.namespace(t, name)
	port := "p" + name
	script(t, w.cloud,
		"ip link add wan0 netns "+ns+" type veth peer name "+port,
		"ip link set "+port+" master br0 up")
	script(t, ns, "ip addr add "+addr+"/16 dev wan0", "ip link set wan0 up")
	return ns
}

// StartAuth starts the auth service, anew if it ran before, and waits until it answers.
func (w *World) StartAuth(t testing.TB) {
	t.Helper()
	w.Auth = w.in(t, w.authNS, nil, Program(t, "hawser-auth"), "run", "--data", w.AuthData(), "--cluster", w.Cluster, "--listen", AuthHost+":7443", "--admin-profile", w.Home)
	Eventually(t, 30*time.Second, "auth answers", func() bool {
		select {
		case <-w.Auth.Done():
			t.Fatalf("auth ended: %v\n%s", w.Auth.Err(), w.Auth.Output())
		default:
		}
		if _, err := os.Stat(filepath.Join(w.Home, "profile.yaml")); err != nil {
			return false
		}
		return w.Hawser(t, "status").Code == 0
	})
}

// AuthData is auth's data directory.
func (w *World) AuthData() string { return w.Dir + "/auth" }

// AddHub makes hub k join by a token of its own, and waits until auth calls it online.
func (w *World) AddHub(t testing.TB, k int, args ...string) *HubHost {
	t.Helper()
	addr := fmt.Sprintf("10.99.1.%d", k)
	h := w.newHub(t, fmt.Sprintf("hub-%d", k), w.Host(t, fmt.Sprintf("h%d", k), addr), addr)
	h.args = append([]string{"--ssh", fmt.Sprintf("%s:%d", addr, SSHPort), "--tunnel", fmt.Sprintf("%s:%d", addr, TunnelPort), "--public", addr}, args...)
	h.Launch(t)
	return h
}

// AddForwardedHub makes hub k join from behind a port-forward: its programs know only a private address, bound on other ports than the public ones.
func (w *World) AddForwardedHub(t testing.TB, k int) *HubHost {
	t.Helper()
	addr := fmt.Sprintf("10.99.1.%d", k)
	gate := w.Host(t, fmt.Sprintf("g%d", k), addr)
	ns := w.namespace(t, fmt.Sprintf("h%d", k))
	script(t, gate, "ip link add lan0 type veth peer name wan0 netns "+ns, "ip addr add 172.16.9.1/24 dev lan0", "ip link set lan0 up")
	script(t, ns, "ip addr add 172.16.9.2/24 dev wan0", "ip link set wan0 up", "ip route add default via 172.16.9.1")
	nft(t, gate, fmt.Sprintf(`table ip hw {
 chain pre {
  type nat hook prerouting priority -100
  ip daddr %[1]s udp dport %[2]d dnat to 172.16.9.2:4433
  ip daddr %[1]s tcp dport %[2]d dnat to 172.16.9.2:4433
  ip daddr %[1]s tcp dport %[3]d dnat to 172.16.9.2:2022
 }
 chain post {
  type nat hook postrouting priority 100
  oifname "wan0" masquerade
 }
}
`, addr, TunnelPort, SSHPort))
	h := w.newHub(t, fmt.Sprintf("hub-%d", k), ns, addr)
	h.args = []string{"--ssh", "172.16.9.2:2022", "--tunnel", "172.16.9.2:4433", "--public", fmt.Sprintf("%s:%d", addr, TunnelPort),
		"--public-ssh", fmt.Sprintf("%s:%d", addr, SSHPort)}
	h.Launch(t)
	return h
}

func (w *World) newHub(t testing.TB, name, ns, addr string) *HubHost {
	t.Helper()
	h := &HubHost{NS: ns, Name: name, Addr: addr, w: w}
	h.env = []string{"HAWSER_TOKEN=" + w.Must(t, "token", "create", "--kind", "hub")}
	w.Hubs = append(w.Hubs, h)
	return h
}

// Launch starts the hub, anew if it ran before, and waits until it is ready and auth calls it online.
func (h *HubHost) Launch(t testing.TB) {
	t.Helper()
	h.Run(t)
	Eventually(t, 30*time.Second, h.Name+" is online", func() bool {
		select {
		case <-h.Done():
			t.Fatalf("%s ended: %v\n%s", h.Name, h.Err(), h.Output())
		default:
		}
		// After a kill auth may take the old one for this one.
		if !strings.Contains(h.Output(), "hub ready") {
			return false
		}
		for line := range strings.Lines(string(h.w.Hawser(t, "status").Stdout)) {
			if f := strings.Fields(line); len(f) > 2 && f[0] == "hub" && f[1] == h.Name && f[2] == "online" {
				return true
			}
		}
		return false
	})
}

// Run starts the hub and does not wait for it. Its host name is its own: hubs are called by it.
func (h *HubHost) Run(t testing.TB) {
	t.Helper()
	args := []string{"unshare", "--uts", "sh", "-c", `hostname "$0" && exec "$@"`, h.Name, Program(t, "hawser-hub"), "run", "--data", h.Data()}
	h.Process = h.w.in(t, h.NS, h.env, append(args, h.args...)...)
	// What SIGTERM does is tested for itself; a drain at every test's end would take its time.
	t.Cleanup(h.Process.Kill)
}

// Meshed waits until every running hub is connected to each of the other running ones.
func (w *World) Meshed(t testing.TB) {
	t.Helper()
	running := func() (names []string) {
		for _, h := range w.Hubs {
			select {
			case <-h.Done():
			default:
				names = append(names, h.Name)
			}
		}
		return names
	}
	Eventually(t, 30*time.Second, "the hubs are connected to each other", func() bool {
		up := running()
		for _, h := range w.Hubs {
			if !slices.Contains(up, h.Name) {
				continue
			}
			r := Run(t, nil, Program(t, "hawser-hub"), "status", "--data", h.Data(), "-o", "json")
			var st struct {
				Live struct {
					Hubs []struct {
						Name  string `json:"name"`
						State string `json:"state"`
					} `json:"hubs"`
				} `json:"live"`
			}
			if r.Code != 0 || json.Unmarshal(r.Stdout, &st) != nil {
				return false
			}
			n := 0
			for _, p := range st.Live.Hubs {
				if p.State == "up" {
					n++
				}
			}
			if n < len(up)-1 {
				return false
			}
		}
		return true
	})
}

// Data is the hub's state directory.
func (h *HubHost) Data() string { return filepath.Join(h.w.Dir, h.Name) }

// in starts a program in a namespace until the test ends.
func (w *World) in(t testing.TB, ns string, env []string, args ...string) *Process {
	t.Helper()
	return Start(t, env, "ip", append([]string{"netns", "exec", ns}, args...)...)
}

// WriteConfig writes an ssh_config with an alias for each hub.
func (w *World) WriteConfig(t testing.TB) {
	t.Helper()
	// The profile's known_hosts is written by the command line's first ssh, wherever that goes.
	w.config, w.trust = filepath.Join(w.Dir, "ssh_config"), filepath.Join(w.Home, "known_hosts")
	Eventually(t, 30*time.Second, "hawser ssh writes known_hosts", func() bool {
		w.Hawser(t, "ssh", "hub", "help")
		_, err := os.Stat(w.trust)
		return err == nil
	})
	var b strings.Builder
	for k, h := range w.Hubs {
		fmt.Fprintf(&b, "Host hub%d\n  HostName %s\n  Port %d\n  User hawser\n", k+1, h.Addr, SSHPort)
	}
	fmt.Fprintf(&b, "Host *\n  IdentityFile %[1]s/id_ed25519\n  CertificateFile %[1]s/id_ed25519-cert.pub\n  IdentitiesOnly yes\n  UserKnownHostsFile %[2]s\n  GlobalKnownHostsFile /dev/null\n"+
		"  StrictHostKeyChecking yes\n  UpdateHostKeys no\n  PasswordAuthentication no\n  KbdInteractiveAuthentication no\n  LogLevel ERROR\n", w.Home, w.trust)
	if err := os.WriteFile(w.config, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Hawser runs the admin's command line on the laptop.
func (w *World) Hawser(t testing.TB, args ...string) Result {
	t.Helper()
	return RunEnv(t, []string{"HAWSER_HOME=" + w.Home}, nil, "ip", append([]string{"netns", "exec", w.laptop, Program(t, "hawser")}, args...)...)
}

// Must is Hawser for what has to succeed; it returns standard output without its last newline.
func (w *World) Must(t testing.TB, args ...string) string {
	t.Helper()
	r := w.Hawser(t, args...)
	if r.Code != 0 {
		t.Fatalf("hawser %s: exit %d\nstdout %s\nstderr %s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return strings.TrimSuffix(string(r.Stdout), "\n")
}

// Show asks for one device.
func (w *World) Show(t testing.TB, name string) (Device, error) {
	t.Helper()
	r := w.Hawser(t, "show", "-o", "json", name)
	if r.Code != 0 {
		return Device{}, fmt.Errorf("exit %d: %s", r.Code, r.Stderr)
	}
	var d Device
	return d, json.Unmarshal(r.Stdout, &d)
}

// Way is how a person comes to a device.
type Way string

const (
	HubMode  Way = "hub"
	EndToEnd Way = "e2e"
)

// ListedOnline reports whether the k-th hub's own list calls a device online.
func (w *World) ListedOnline(t testing.TB, hub int, device string) bool {
	t.Helper()
	r := w.AtHub(t, hub, "ls")
	for line := range strings.Lines(string(r.Stdout)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == device {
			return f[1] == "online"
		}
	}
	if r.Code != 0 {
		t.Errorf("ssh hub%d ls: exit %d, %s", hub, r.Code, r.Stderr)
	}
	return false
}

// Drain runs `hawser-hub drain`, which waits until the hub has ended.
func (h *HubHost) Drain(t testing.TB) Result {
	t.Helper()
	return Run(t, nil, "ip", "netns", "exec", h.NS, Program(t, "hawser-hub"), "drain", "--data", h.Data())
}

// RSS is the hub's resident memory in bytes.
func (h *HubHost) RSS(t testing.TB) int {
	t.Helper()
	var kb int
	for line := range strings.Lines(ReadFile(t, fmt.Sprintf("/proc/%d/status", h.Cmd.Process.Pid))) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			fmt.Sscan(rest, &kb)
		}
	}
	return kb << 10
}

// Flood sends garbage datagrams from the laptop to an address until the test ends or the time is over.
func (w *World) Flood(t testing.TB, addr string, rate int, last time.Duration) *Process {
	t.Helper()
	return w.in(t, w.laptop, nil, Tool(t, "flood"), "-rate", fmt.Sprint(rate), "-for", last.String(), addr)
}

// login is an account with a plain shell: what the machine's own accounts do when they start is not ours to wait for.
const login = "hawserfault"

var account = sync.OnceValue(func() error {
	// One that a killed run left is as good.
	if exec.Command("id", login).Run() == nil {
		return nil
	}
	out, err := exec.Command("useradd", "-M", "-d", "/", "-s", "/bin/sh", "-p", "*", login).CombinedOutput()
	if err != nil {
		return fmt.Errorf("useradd: %w: %s", err, out)
	}
	accountMade = true
	return nil
})

// Account is the name of that account, which is there until Main ends.
func Account(t testing.TB) string {
	t.Helper()
	Need(t, "useradd", "userdel")
	if err := account(); err != nil {
		t.Fatal(err)
	}
	return login
}

var accountMade bool // for Main to undo

// SSH is the argument list of ssh(1) on the laptop, to a device by the k-th hub.
func (w *World) SSH(hub int, way Way, device string, options ...string) []string {
	args := append([]string{"ip", "netns", "exec", w.laptop, "ssh", "-F", w.config}, options...)
	if way == EndToEnd {
		return append(args, "-J", fmt.Sprintf("hub%d", hub), login+"@"+device)
	}
	return append(args, "-o", fmt.Sprintf("HostName=%s", w.Hubs[hub-1].Addr), "-p", fmt.Sprint(SSHPort), "-l", login+"="+device, device)
}

// SCP is the argument list of scp(1) on the laptop, which copies a device's file to nowhere by the k-th hub.
func (w *World) SCP(hub int, device, path string) []string {
	return []string{
		"ip", "netns", "exec", w.laptop, "scp", "-q", "-F", w.config, "-o", fmt.Sprintf("HostName=%s", w.Hubs[hub-1].Addr), "-P", fmt.Sprint(SSHPort),
		"-o", "User=" + login + "=" + device, device + ":" + path, "/dev/null",
	}
}

// OnLaptop is an argument list that runs a program there.
func (w *World) OnLaptop(args ...string) []string {
	return append([]string{"ip", "netns", "exec", w.laptop}, args...)
}

// AtHub runs a command of the hub itself, `ssh hub ls`.
func (w *World) AtHub(t testing.TB, hub int, args ...string) Result {
	t.Helper()
	return Run(t, nil, "ip", append([]string{"netns", "exec", w.laptop, "ssh", "-F", w.config, "-o", "ConnectTimeout=5", fmt.Sprintf("hub%d", hub)}, args...)...)
}

// AddSite makes a router and a device's host behind it, and starts no agent.
func (w *World) AddSite(t testing.TB, name string) *Site {
	t.Helper()
	i := int(w.sites.Add(1))
	s := &Site{Name: name, w: w, index: i, Public: fmt.Sprintf("10.99.2.%d", i), Moved: fmt.Sprintf("10.99.3.%d", i)}
	s.Router = w.Host(t, fmt.Sprintf("r%d", i), s.Public)
	s.Device = w.namespace(t, fmt.Sprintf("d%d", i))
	script(t, s.Router, "ip addr add "+s.Moved+"/16 dev wan0",
		"ip link add lan0 type veth peer name lan1 netns "+s.Device, "ip addr add 192.168.77.1/24 dev lan0", "ip link set lan0 up")
	script(t, s.Device, "ip addr add 192.168.77.2/24 dev lan1", "ip link set lan1 up", "ip route add default via 192.168.77.1")
	nft(t, s.Router, `table ip hw {
 counter in {
 }
 counter out {
 }
 chain post {
  type nat hook postrouting priority 100
  ip saddr 192.168.77.0/24 oifname "wan0" masquerade
 }
 chain count {
  type filter hook forward priority -10
  iifname "lan0" counter name out
  oifname "lan0" counter name in
 }
 chain faults {
  type filter hook forward priority 0
 }
 chain peers {
  type filter hook forward priority 10
 }
}
`)
	nft(t, s.Device, "table ip hw {\n chain faults {\n  type filter hook output priority 0\n }\n}\n")
	return s
}

// StartEdge starts the site's agent, anew if it ran before, and waits until it is online. The first time it joins.
func (s *Site) StartEdge(t testing.TB, env ...string) {
	t.Helper()
	s.env = append(s.env, env...)
	s.env = append(s.env, "HAWSER_TOKEN="+s.w.Must(t, "token", "create", "--kind", "edge"))
	s.RunEdge(t)
	s.Online(t, 30*time.Second)
}

// RunEdge starts the agent and does not wait for it.
func (s *Site) RunEdge(t testing.TB) {
	t.Helper()
	s.Edge = s.w.in(t, s.Device, s.env, Program(t, "hawser-edge"), "run", "--state", filepath.Join(s.w.Dir, s.Name), "--name", s.Name, "--log-level", "debug")
}

// Online waits until auth calls the device online.
func (s *Site) Online(t testing.TB, within time.Duration) {
	t.Helper()
	Eventually(t, within, s.Name+" is online", func() bool {
		select {
		case <-s.Edge.Done():
			t.Fatalf("the agent ended: %v\n%s", s.Edge.Err(), s.Edge.Output())
		default:
		}
		d, err := s.w.Show(t, s.Name)
		return err == nil && d.Online
	})
}

// Stacks ends the agent with the stacks of all its goroutines in its log, when the test has failed already.
func (s *Site) Stacks(t testing.TB) {
	t.Helper()
	if t.Failed() {
		s.Edge.Cmd.Process.Signal(syscall.SIGQUIT)
		<-s.Edge.Done()
	}
}

// --- faults; each is undone by its opposite or by Heal ---

// Drop makes the router lose, silently, what matches an nft rule.
func (s *Site) Drop(t testing.TB, match string) {
	t.Helper()
	script(t, s.Router, "nft add rule ip hw faults "+match+" drop")
}

// Heal takes back every Drop.
func (s *Site) Heal(t testing.TB) {
	t.Helper()
	script(t, s.Router, "nft flush chain ip hw faults")
}

// Refuse makes the device's own firewall refuse what matches: sendmsg says EPERM.
func (s *Site) Refuse(t testing.TB, match string) {
	t.Helper()
	script(t, s.Device, "nft add rule ip hw faults "+match+" drop")
}

// Allow takes back every Refuse.
func (s *Site) Allow(t testing.TB) {
	t.Helper()
	script(t, s.Device, "nft flush chain ip hw faults")
}

// Unplug pulls the device's cable: it sees its carrier go. Plug puts it back.
func (s *Site) Unplug(t testing.TB) { t.Helper(); script(t, s.Router, "ip link set lan0 down") }

// Plug undoes Unplug.
func (s *Site) Plug(t testing.TB) {
	t.Helper()
	script(t, s.Router, "ip link set lan0 up")
	// A down link loses its routes; the address stays.
	script(t, s.Device, "ip route replace default via 192.168.77.1")
}

// Down takes the device's interface down, address and routes with it.
func (s *Site) Down(t testing.TB) {
	t.Helper()
	script(t, s.Device, "ip link set lan1 down", "ip addr flush dev lan1")
}

// Up brings it back with the given address of 192.168.77.0/24.
func (s *Site) Up(t testing.TB, addr string) {
	t.Helper()
	script(t, s.Device, "ip addr add "+addr+"/24 dev lan1", "ip link set lan1 up", "ip route replace default via 192.168.77.1")
}

// Renumber gives the device another address while the link stays up.
func (s *Site) Renumber(t testing.TB, from, to string) {
	t.Helper()
	script(t, s.Device, "ip addr del "+from+"/24 dev lan1", "ip addr add "+to+"/24 dev lan1", "ip route replace default via 192.168.77.1")
}

// Rebind makes the router forget its mappings and map anew, to the given address of its own and other ports.
func (s *Site) Rebind(t testing.TB, public string) {
	t.Helper()
	script(t, s.Router, "nft flush chain ip hw post",
		"nft add rule ip hw post ip saddr 192.168.77.0/24 ip protocol udp snat to "+public+":40000-49999 random",
		"nft add rule ip hw post ip saddr 192.168.77.0/24 ip protocol tcp snat to "+public+":40000-49999 random",
		"conntrack -F 2>/dev/null")
}

// MTU sets what the link between router and device carries. Hubs that send more are told by ICMP.
func (s *Site) MTU(t testing.TB, mtu int) {
	t.Helper()
	script(t, s.Router, fmt.Sprintf("ip link set lan0 mtu %d", mtu))
	script(t, s.Device, fmt.Sprintf("ip link set lan1 mtu %d", mtu))
}

// BlackHole makes the path beyond the router carry less than the device and the hubs believe, and nobody is told.
func (s *Site) BlackHole(t testing.TB, mtu int) {
	t.Helper()
	script(t, s.Router, "nft add chain ip hw mute '{ type filter hook output priority 0; }'", "nft add rule ip hw mute icmp type destination-unreachable drop",
		fmt.Sprintf("ip link set wan0 mtu %d", mtu), fmt.Sprintf("ip link set lan0 mtu %d", mtu))
}

// UDPTimeout is how long the router keeps a UDP mapping.
func (s *Site) UDPTimeout(t testing.TB, seconds int) {
	t.Helper()
	script(t, s.Router, fmt.Sprintf("sysctl -qw net.netfilter.nf_conntrack_udp_timeout=%d net.netfilter.nf_conntrack_udp_timeout_stream=%d", seconds, seconds))
}

// Counters counts the processes on the device that sessions' streams run.
func (s *Site) Counters(t testing.TB) int {
	t.Helper()
	return strings.Count("\n"+s.Processes(t), "\n"+Tool(t, "counter")+"\x00-rate")
}

// Processes are the command lines of the device's processes, one a line, their arguments apart by NUL.
func (s *Site) Processes(t testing.TB) string {
	t.Helper()
	var all strings.Builder
	for _, pid := range strings.Fields(sh(t, "ip", "netns", "pids", s.Device)) {
		if b, err := os.ReadFile("/proc/" + pid + "/cmdline"); err == nil {
			all.Write(b)
			all.WriteByte('\n')
		}
	}
	return all.String()
}

// HalfOpen loses every packet of the TCP connections the device has to hubs now; new ones work.
func (s *Site) HalfOpen(t testing.TB) {
	t.Helper()
	n := 0
	for line := range strings.Lines(s.InDevice(t, "ss -Htn state established")) {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasSuffix(f[3], fmt.Sprintf(":%d", TunnelPort)) {
			continue
		}
		port := f[2][strings.LastIndex(f[2], ":")+1:]
		// Source ports are the device's before the NAT in this hook, on the way back after it.
		s.Drop(t, `iifname "lan0" tcp sport `+port)
		s.Drop(t, `oifname "lan0" tcp dport `+port)
		n++
	}
	if n == 0 {
		t.Errorf("%s has no TCP connection to a hub", s.Name)
	}
}

// Impair delays every packet between the device and the cloud each way and loses a share of them, until the returned function is called.
func (s *Site) Impair(t testing.TB, delay time.Duration, loss float64) (heal func()) {
	t.Helper()
	Need(t, "iptables-legacy")
	p := s.w.in(t, s.Router, nil, Tool(t, "impair"), "--queue", "7", "--delay", delay.String(), "--loss", fmt.Sprint(loss))
	Eventually(t, 10*time.Second, "the impairment is in place", func() bool { return strings.Contains(p.Output(), "ready") })
	script(t, s.Router, "iptables-legacy -t mangle -I FORWARD -j NFQUEUE --queue-num 7")
	return func() {
		script(t, s.Router, "iptables-legacy -t mangle -F FORWARD")
		time.Sleep(delay)
		p.Stop(t)
	}
}

// Rate bounds the link between the device and its router, each way, in megabits a second.
func (s *Site) Rate(t testing.TB, mbit int) {
	t.Helper()
	limit := fmt.Sprintf("tbf rate %dmbit burst 32kb latency 50ms", mbit)
	s.InRouter(t, "tc qdisc add dev lan0 root "+limit)
	s.InDevice(t, "tc qdisc add dev lan1 root "+limit)
}

// Traffic is how many bytes of IP the device has received and sent.
func (s *Site) Traffic(t testing.TB) (in, out uint64) {
	t.Helper()
	get := func(name string) (n uint64) {
		for line := range strings.Lines(s.InRouter(t, "nft list counter ip hw "+name)) {
			var packets uint64
			if _, err := fmt.Sscanf(strings.TrimSpace(line), "packets %d bytes %d", &packets, &n); err == nil {
				return n
			}
		}
		t.Fatalf("no counter %s", name)
		return 0
	}
	return get("in"), get("out")
}

// Home says which hub (1...) the device's traffic goes through, measured over a while: there must be some.
func (s *Site) Home(t testing.TB, over time.Duration) int {
	t.Helper()
	bytes := func() []uint64 {
		out := s.InRouter(t, "nft list chain ip hw peers")
		n := make([]uint64, len(s.w.Hubs))
		for k, h := range s.w.Hubs {
			for line := range strings.Lines(out) {
				if i := strings.Index(line, "daddr "+h.Addr+" "); i >= 0 {
					var packets uint64
					fmt.Sscanf(line[strings.Index(line, "packets"):], "packets %d bytes %d", &packets, &n[k])
				}
			}
		}
		return n
	}
	rules := []string{"nft flush chain ip hw peers"}
	for _, h := range s.w.Hubs {
		rules = append(rules, "nft add rule ip hw peers ip daddr "+h.Addr+" counter")
	}
	script(t, s.Router, rules...)
	time.Sleep(over)
	best, n := 0, bytes()
	for k := range n {
		if n[k] > n[best] {
			best = k
		}
	}
	if n[best] == 0 {
		t.Fatalf("%s sends nothing to any hub", s.Name)
	}
	return best + 1
}

// InDevice and InRouter run a shell line in the site's namespaces.
func (s *Site) InDevice(t testing.TB, line string) string {
	t.Helper()
	return script(t, s.Device, line)
}

// InRouter is InDevice for the router.
func (s *Site) InRouter(t testing.TB, line string) string {
	t.Helper()
	return script(t, s.Router, line)
}

// Start runs a program on the device until the test ends.
func (s *Site) Start(t testing.TB, args ...string) *Process {
	t.Helper()
	return s.w.in(t, s.Device, nil, args...)
}

// script runs shell lines in a namespace, one after the other; all have to succeed.
func script(t testing.TB, ns string, lines ...string) string {
	t.Helper()
	return sh(t, "ip", "netns", "exec", ns, "sh", "-ec", strings.Join(lines, "\n"))
}

// nft loads a ruleset in a namespace.
func nft(t testing.TB, ns, rules string) {
	t.Helper()
	cmd := exec.Command("ip", "netns", "exec", ns, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s\n%s", err, out, rules)
	}
}
