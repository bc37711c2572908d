package cluster_test

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hawser/test/harness"
)

// separate is a cluster of separate programs: auth and a hub in the cloud, one
// device behind NAT, a laptop somewhere else.
type separate struct {
	net        *harness.Net
	home       string // the admin's profile, on the laptop
	hub, agent *harness.Process
}

func startSeparate(t *testing.T, prepare ...func(*harness.Net)) *separate {
	t.Helper()
	s := &separate{net: harness.NewNet(t), home: filepath.Join(t.TempDir(), "home")}
	for _, f := range prepare {
		f(s.net)
	}
	dir := t.TempDir()
	bin := func(name string) string { return harness.Program(t, name) }
	must := func(r harness.Result, what string) string {
		t.Helper()
		if r.Code != 0 {
			t.Fatalf("%s: exit %d\n%s%s", what, r.Code, r.Stdout, r.Stderr)
		}
		return strings.TrimSpace(string(r.Stdout))
	}
	must(s.net.Run(t, s.net.Cloud, nil, nil, bin("hawser-auth"), "init", "--data", dir+"/auth", "--cluster", "fleet.example"), "hawser-auth init")
	s.net.Start(t, s.net.Cloud, nil, bin("hawser-auth"), "run", "--data", dir+"/auth", "--listen", harness.CloudAddr+":7443", "--admin-profile", s.home)
	harness.Eventually(t, 20*time.Second, "auth writes the admin's profile", func() bool {
		_, err := os.Stat(filepath.Join(s.home, "profile.yaml"))
		return err == nil
	})
	token := must(s.hawser(t, "token", "create", "--kind", "hub"), "hub token")
	s.hub = s.net.Start(t, s.net.Cloud, []string{"HAWSER_TOKEN=" + token}, bin("hawser-hub"), "run", "--data", dir+"/hub",
		"--ssh", harness.CloudAddr+":2222", "--tunnel", harness.CloudAddr+":8443", "--public", harness.CloudAddr)
	harness.Eventually(t, 30*time.Second, "the hub is online", func() bool {
		r := s.hawser(t, "status")
		return r.Code == 0 && strings.Contains(string(r.Stdout), "online")
	})
	token = must(s.hawser(t, "token", "create", "--kind", "edge", "--label", "site=ber"), "edge token")
	s.agent = s.net.Start(t, s.net.Device, []string{"HAWSER_TOKEN=" + token}, bin("hawser-edge"), "run", "--state", dir+"/edge", "--name", "gw-17")
	harness.Eventually(t, 30*time.Second, "the device is online", func() bool {
		r := s.hawser(t, "ls")
		return strings.Contains(string(r.Stdout), "gw-17") && strings.Contains(string(r.Stdout), "online")
	})
	return s
}

// hawser runs the admin's command line on the laptop.
func (s *separate) hawser(t *testing.T, args ...string) harness.Result {
	t.Helper()
	return s.net.Run(t, s.net.Laptop, []string{"HAWSER_HOME=" + s.home}, nil, append([]string{harness.Program(t, "hawser")}, args...)...)
}

func TestSeparateProgramsBehindNAT(t *testing.T) {
	s := startSeparate(t)

	r := s.hawser(t, "ssh", "gw-17", "echo $HAWSER_DEVICE; ip -4 -o addr show lan1; exit 7")
	if r.Code != 7 || !strings.Contains(string(r.Stdout), "gw-17\n") || !strings.Contains(string(r.Stdout), harness.DeviceAddr) {
		t.Errorf("hawser ssh: %d %q %q", r.Code, r.Stdout, r.Stderr)
	}
	config := filepath.Join(s.home, "ssh_config")
	r = s.net.Run(t, s.net.Laptop, nil, nil, "ssh", "-F", config, "root@e2e-gw-17", "echo $SSH_CONNECTION")
	if r.Code != 0 || !strings.HasPrefix(string(r.Stdout), "10.99.2.2 ") {
		t.Errorf("end to end: %d %q %q; want the laptop's address", r.Code, r.Stdout, r.Stderr)
	}

	show := s.hawser(t, "show", "-o", "json", "gw-17")
	if !strings.Contains(string(show.Stdout), `"site": "ber"`) || !strings.Contains(string(show.Stdout), harness.RouterAddr) {
		t.Errorf("show: the token's label and the router's address are missing\n%s", show.Stdout)
	}
}

// Where UDP is dropped the device comes over TLS, and everything works the same.
func TestTLSWhereUDPIsBlocked(t *testing.T) {
	s := startSeparate(t, func(n *harness.Net) {
		n.In(t, n.Router, "nft", "add table ip block; add chain ip block udp_drop { type filter hook forward priority 0; }; add rule ip block udp_drop meta l4proto udp drop")
	})
	if show := s.hawser(t, "show", "-o", "json", "gw-17"); !strings.Contains(string(show.Stdout), `"carrier": "tls"`) {
		t.Errorf("want carrier tls\n%s", show.Stdout)
	}
	blob := make([]byte, 20<<20)
	rand.Read(blob)
	want := sha256.Sum256(blob)
	config := filepath.Join(s.home, "ssh_config")
	if r := s.hawser(t, "ssh", "gw-17", "true"); r.Code != 0 { // writes ssh_config
		t.Fatalf("%d %s", r.Code, r.Stderr)
	}
	for _, to := range []string{"gw-17", "root@e2e-gw-17"} {
		up := s.net.Run(t, s.net.Laptop, nil, blob, "ssh", "-F", config, to, "sha256sum; exit 5")
		if up.Code != 5 || !strings.HasPrefix(string(up.Stdout), hex.EncodeToString(want[:])) {
			t.Errorf("%s: up: %d %q %q", to, up.Code, up.Stdout, up.Stderr)
		}
		echo := s.net.Run(t, s.net.Laptop, nil, blob, "ssh", "-F", config, to, "cat")
		if echo.Code != 0 || sha256.Sum256(echo.Stdout) != want {
			t.Errorf("%s: there and back: %d, %d bytes of %d, %q", to, echo.Code, len(echo.Stdout), len(blob), echo.Stderr)
		}
	}
}

// With a session up nothing on the device listens, and nothing on its network
// gets an answer from the agent.
func TestTheAgentListensOnNothing(t *testing.T) {
	harness.Need(t, "nmap", "ss")
	s := startSeparate(t)
	s.hawser(t, "ssh", "gw-17", "true") // writes ssh_config
	config := filepath.Join(s.home, "ssh_config")
	s.net.Start(t, s.net.Laptop, nil, "ssh", "-F", config, "gw-17", "sleep 1000")
	harness.Eventually(t, 10*time.Second, "the session is live", func() bool {
		r := s.hawser(t, "sessions", "ls")
		return strings.Contains(string(r.Stdout), "gw-17")
	})
	if out := s.net.In(t, s.net.Device, "ss", "-Hltn"); strings.TrimSpace(out) != "" {
		t.Errorf("listening TCP sockets on the device:\n%s", out)
	}
	scan := s.net.In(t, s.net.Router, "nmap", "-n", "-Pn", "-p-", "--max-retries", "1", "-T5", harness.DeviceAddr)
	if strings.Contains(scan, "open") {
		t.Errorf("TCP scan from the LAN:\n%s", scan)
	}
	ports := map[string]bool{}
	for line := range strings.Lines(s.net.In(t, s.net.Device, "ss", "-Huan")) {
		f := strings.Fields(line)
		if len(f) > 3 {
			ports[f[3][strings.LastIndex(f[3], ":")+1:]] = true
		}
	}
	for p := range ports {
		out := s.net.In(t, s.net.Router, "nmap", "-n", "-Pn", "-sU", "-p", p, "--max-retries", "1", harness.DeviceAddr)
		if strings.Contains(out, p+"/udp open ") {
			t.Errorf("the agent answers a stranger on UDP port %s:\n%s", p, out)
		}
	}
}

// A clone of the token's string with another pin: the secret must not leave.
func TestAWrongPinKeepsTheSecret(t *testing.T) {
	c := harness.Up(t, 0)
	token := c.Must(t, "token", "create", "--kind", "edge")
	other := harness.Up(t, 0)
	foreign := other.Must(t, "token", "create", "--kind", "edge")
	// A token of the other cluster sent to this one's hub: its pin does not match.
	r := harness.RunEnv(t, []string{"HAWSER_TOKEN=" + foreign}, nil, harness.Program(t, "hawser-edge"),
		"join", "--state", t.TempDir(), "--name", "lost", "--hub", c.Ready.TunnelAddr)
	if r.Code == 0 || !strings.Contains(strings.ToLower(string(r.Stderr)), "pin") {
		t.Errorf("exit %d, %q: want a refusal that names the pin", r.Code, r.Stderr)
	}
	// The token was not spent: it still works where it belongs.
	for _, try := range []struct{ token, hub string }{{token, c.Ready.TunnelAddr}, {foreign, other.Ready.TunnelAddr}} {
		r := harness.RunEnv(t, []string{"HAWSER_TOKEN=" + try.token}, nil, harness.Program(t, "hawser-edge"),
			"join", "--state", t.TempDir(), "--name", "found", "--hub", try.hub)
		if r.Code != 0 {
			t.Errorf("exit %d, %s", r.Code, r.Stderr)
		}
	}
}

func TestBadInputNamesTheMend(t *testing.T) {
	c := harness.Up(t, 1)
	edge, hub, auth := harness.Program(t, "hawser-edge"), harness.Program(t, "hawser-hub"), harness.Program(t, "hawser-auth")
	spent := c.Must(t, "token", "create", "--kind", "edge")
	if r := harness.RunEnv(t, []string{"HAWSER_TOKEN=" + spent}, nil, edge, "join", "--state", t.TempDir(), "--name", "first"); r.Code != 0 {
		t.Fatalf("join: %d %s", r.Code, r.Stderr)
	}
	expired := c.Must(t, "token", "create", "--kind", "edge", "--ttl", "1s")
	born := time.Now()
	hubToken := c.Must(t, "token", "create", "--kind", "hub")
	edgeToken := c.Must(t, "token", "create", "--kind", "edge")
	config := filepath.Join(t.TempDir(), "hub.yaml")
	os.WriteFile(config, []byte("sshh: 1.2.3.4:22\n"), 0o600)
	busy := c.Ready.TunnelAddr
	harness.Eventually(t, 5*time.Second, "the token expires", func() bool { return time.Since(born) > 2*time.Second })

	for _, test := range []struct {
		name string
		env  string
		args []string
		code int      // 0: any but 0
		says []string // all of them, in any case
	}{
		{"spent token", "HAWSER_TOKEN=" + spent, []string{edge, "join", "--state", t.TempDir(), "--name", "x"}, 0, []string{"token", "used", "token create"}},
		{"expired token", "HAWSER_TOKEN=" + expired, []string{edge, "join", "--state", t.TempDir(), "--name", "x"}, 0, []string{"token", "expired"}},
		{"a hub's token for an edge", "HAWSER_TOKEN=" + hubToken, []string{edge, "join", "--state", t.TempDir(), "--name", "x"}, 0, []string{"not for a device", "--kind edge"}},
		{"an edge's token for a hub", "HAWSER_TOKEN=" + edgeToken, []string{hub, "run", "--data", t.TempDir(), "--ssh", "127.0.0.1:0", "--tunnel", "127.0.0.1:0"}, 0, []string{"edge", "--kind hub"}},
		{"no token at all", "", []string{edge, "join", "--state", t.TempDir()}, 0, []string{"token"}},
		{"half a token", "HAWSER_TOKEN=" + edgeToken[:len(edgeToken)/2], []string{edge, "join", "--state", t.TempDir()}, 0, []string{"token"}},
		{"a name with escape codes", "HAWSER_TOKEN=" + edgeToken, []string{edge, "join", "--state", t.TempDir(), "--name", "a\x1b[31mb"}, 0, []string{"name"}},
		{"a name of 8 KiB", "HAWSER_TOKEN=" + edgeToken, []string{edge, "join", "--state", t.TempDir(), "--name", strings.Repeat("a", 8192)}, 0, []string{"name"}},
		{"unknown flag, edge", "", []string{edge, "run", "--no-such-flag"}, 2, []string{"no-such-flag"}},
		{"unknown flag, hub", "", []string{hub, "run", "--no-such-flag"}, 2, []string{"no-such-flag"}},
		{"unknown flag, auth", "", []string{auth, "run", "--no-such-flag"}, 2, []string{"no-such-flag"}},
		{"unknown flag, hawser", "", []string{harness.Program(t, "hawser"), "ls", "--no-such-flag"}, 2, []string{"no-such-flag"}},
		{"unknown command", "", []string{harness.Program(t, "hawser"), "lss"}, 2, []string{"lss"}},
		{"unknown config key", "", []string{hub, "check-config", "--config", config, "--data", t.TempDir()}, 0, []string{"sshh"}},
		{"port in use", "", []string{harness.Program(t, "hawser"), "up", "--dir", t.TempDir(), "--tunnel-port", busy[strings.LastIndex(busy, ":")+1:]}, 1, []string{"in use"}},
		{"directory in use", "", []string{harness.Program(t, "hawser"), "up", "--dir", c.Dir}, 1, []string{c.Dir, "in use"}},
		{"unwritable directory", "", []string{harness.Program(t, "hawser"), "up", "--dir", "/proc/hawser"}, 1, []string{"/proc/hawser"}},
		{"unwritable state", "HAWSER_TOKEN=" + edgeToken, []string{edge, "join", "--state", "/proc/hawser"}, 0, []string{"/proc/hawser"}},
		{"a second init", "", []string{auth, "init", "--data", c.Dir + "/auth"}, 0, []string{"already"}},
		{"no profile", "HAWSER_HOME=" + t.TempDir(), []string{harness.Program(t, "hawser"), "ls"}, 4, []string{"profile"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := harness.RunEnv(t, []string{test.env}, nil, test.args[0], test.args[1:]...)
			text := strings.ToLower(string(r.Stderr))
			if r.Code == 0 || test.code != 0 && r.Code != test.code {
				t.Errorf("exit %d, want %d\n%s", r.Code, test.code, r.Stderr)
			}
			for _, want := range test.says {
				if !strings.Contains(text, strings.ToLower(want)) {
					t.Errorf("%q does not say %q", r.Stderr, want)
				}
			}
			if strings.Contains(text, "panic") || strings.Contains(text, "goroutine ") || strings.ContainsRune(text, '\x1b') {
				t.Errorf("stderr: %q", r.Stderr)
			}
		})
	}
	// None of it has spent the token or hurt the cluster.
	if r := harness.RunEnv(t, []string{"HAWSER_TOKEN=" + edgeToken}, nil, edge, "join", "--state", t.TempDir(), "--name", "fine"); r.Code != 0 {
		t.Errorf("the token no longer works: %d %s", r.Code, r.Stderr)
	}
	if r := c.SSH(t, nil, "gw-1", "echo fine"); string(r.Stdout) != "fine\n" {
		t.Errorf("%d %q %q", r.Code, r.Stdout, r.Stderr)
	}
}

func TestUnknownAndForbiddenDevicesLookTheSame(t *testing.T) {
	c := harness.Up(t, 1)
	dir := t.TempDir()
	key := filepath.Join(dir, "k")
	harness.Run(t, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	role := filepath.Join(dir, "role.yaml")
	os.WriteFile(role, []byte("kind: role\nname: nothing\nallow:\n  devices: {site: [nowhere]}\n  logins: [root]\n  channels: [shell, exec]\n"), 0o600)
	c.Must(t, "apply", "-f", role)
	c.Must(t, "user", "add", "eve", "--role", "nothing", "--key", key+".pub")
	host, port := c.Ready.SSHAddr[:strings.LastIndex(c.Ready.SSHAddr, ":")], c.Ready.SSHAddr[strings.LastIndex(c.Ready.SSHAddr, ":")+1:]
	try := func(device string) string {
		r := harness.Run(t, nil, "ssh", "-F", "none", "-i", key, "-p", port, "-o", "IdentitiesOnly=yes", "-o", "UserKnownHostsFile="+c.Dir+"/known_hosts",
			"-o", "LogLevel=ERROR", device+"@"+host, "id")
		return fmt.Sprintf("%d %q %q", r.Code, strings.ReplaceAll(string(r.Stdout), device, "D"), strings.ReplaceAll(string(r.Stderr), device, "D"))
	}
	harness.Eventually(t, 5*time.Second, "the hub knows eve", func() bool { return !strings.Contains(try("gw-1"), "Permission denied") })
	forbidden, unknown := try("gw-1"), try("gw-9")
	if forbidden != unknown {
		t.Errorf("forbidden: %s\nunknown:   %s", forbidden, unknown)
	}
	if !strings.HasPrefix(forbidden, "255 ") {
		t.Errorf("%s: want exit code 255", forbidden)
	}
}
