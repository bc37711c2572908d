package abuse

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/test/harness"
)

// answering is a listener on the loopback that answers, and its port.
func answering(t *testing.T) uint32 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "inside")
			c.Close()
		}
	}()
	return uint32(l.Addr().(*net.TCPAddr).Port)
}

func direct(c *ssh.Client, host string, port uint32) (string, error) {
	ch, reqs, err := c.OpenChannel("direct-tcpip", ssh.Marshal(struct {
		Host       string
		Port       uint32
		Origin     string
		OriginPort uint32
	}{host, port, "127.0.0.1", 1}))
	if err != nil {
		return "", err
	}
	go ssh.DiscardRequests(reqs)
	defer ch.Close()
	b, err := io.ReadAll(ch)
	return string(b), err
}

// Where a forward may go is decided by the address that is dialled, on the device, whatever the name and whoever answers for it; and the hub itself
// reaches nothing for anybody.
func TestForwardsReachNothingForbidden(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	harness.Need(t, "unshare", "mount")
	r := &rig{login: "root", Cluster: harness.Up(t, 1)}
	r.signer = signer(t, filepath.Join(r.Ready.Home, "id_ed25519"))
	port, other := answering(t), answering(t)

	// A device whose resolver answers as an attacker's would.
	hosts := filepath.Join(t.TempDir(), "hosts")
	const names = "127.0.0.1 localhost\n127.0.0.1 loop.rebound.test\n127.0.0.1 pinned.rebound.test\n" +
		"169.254.169.254 meta.rebound.test\nfd00:ec2::254 meta6.rebound.test\n" +
		"::ffff:169.254.169.254 mapped.rebound.test\n0.0.0.0 zero.rebound.test\n::1 six.rebound.test\n"
	if err := os.WriteFile(hosts, []byte(names), 0o644); err != nil {
		t.Fatal(err)
	}
	r.Agent(t, "rebound", "unshare", "-m", "sh", "-c", `mount --bind "$0" /etc/hosts && exec "$@"`, hosts, harness.Program(t, "hawser-edge"))

	role := fmt.Sprintf("kind: role\nname: narrow\nallow: {devices: {name: [rebound]}, logins: [root], channels: [local-forward], "+
		"forward_to: [\"*.rebound.test:*\", \"127.0.0.1:%d\"]}\n", port)
	file := filepath.Join(t.TempDir(), "narrow.yaml")
	if err := os.WriteFile(file, []byte(role), 0o600); err != nil {
		t.Fatal(err)
	}
	r.Must(t, "apply", "-f", file)
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	own, _ := ssh.NewSignerFromKey(private)
	key, _ := ssh.NewPublicKey(public)
	keyFile := filepath.Join(t.TempDir(), "key.pub")
	if err := os.WriteFile(keyFile, ssh.MarshalAuthorizedKey(key), 0o600); err != nil {
		t.Fatal(err)
	}
	r.Must(t, "user", "add", "narrow", "--role", "narrow", "--key", keyFile)
	narrow := &rig{Cluster: r.Cluster, signer: own}

	metadata := []string{"169.254.169.254", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "64:ff9b::a9fe:a9fe", "fd00:ec2::254", "fe80::1%lo", "169.254.0.1",
		"meta.rebound.test", "meta6.rebound.test", "mapped.rebound.test", "meta.rebound.test."}
	refused := func(t *testing.T, c *ssh.Client, port uint32, hosts ...string) {
		t.Helper()
		for _, host := range hosts {
			begin := time.Now()
			if out, err := direct(c, host, port); !prohibited(err) || time.Since(begin) > 5*time.Second {
				t.Errorf("%s:%d: %q, %v after %v; want it prohibited", host, port, out, err, time.Since(begin))
			}
		}
	}
	allowed := func(t *testing.T, c *ssh.Client, port uint32, hosts ...string) {
		t.Helper()
		for _, host := range hosts {
			if out, err := direct(c, host, port); out != "inside" {
				t.Errorf("%s:%d: %q %v", host, port, out, err)
			}
		}
	}
	for way, c := range map[string]*ssh.Client{"hub": r.hub(t, "rebound"), "end to end": r.endToEnd(t, "rebound")} {
		t.Run("no rule, "+way, func(t *testing.T) {
			refused(t, c, 80, metadata...)
			refused(t, c, 80, "224.0.0.1", "255.255.255.255", "ff02::1")
			allowed(t, c, port, "127.0.0.1", "loop.rebound.test", "localhost")
			for _, odd := range []string{"2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518", "127.1", "0177.0.0.1", "", " 127.0.0.1", "127.0.0.1 "} {
				if out, err := direct(c, odd, port); err == nil {
					t.Errorf("%q was taken for an address: %q", odd, out)
				}
			}
		})
	}
	t.Run("a rule", func(t *testing.T) {
		c := narrow.hub(t, "rebound")
		allowed(t, c, port, "127.0.0.1", "loop.rebound.test", "zero.rebound.test") // by the address
		refused(t, c, other, "127.0.0.1", "localhost", "loop.rebound.test", "zero.rebound.test", "six.rebound.test", "0.0.0.0", "::", "::1", "::ffff:127.0.0.1")
		refused(t, c, 80, metadata...)
	})
	t.Run("the hub itself", func(t *testing.T) {
		c := r.hub(t, "hawser")
		for _, at := range []string{r.Ready.APIAddr, r.Ready.TunnelAddr, r.Ready.SSHAddr} {
			host, text, _ := net.SplitHostPort(at)
			var p uint32
			fmt.Sscan(text, &p)
			refused(t, c, p, host, "localhost", "::1", "0.0.0.0", "::ffff:127.0.0.1", "rebound")
		}
		refused(t, c, port, "127.0.0.1", "localhost", "", "hub", "127.1")
		refused(t, c, 22, "127.0.0.1", "localhost", "::1", "hub", "nosuch", "169.254.169.254")
		refused(t, c, 80, metadata...)
		if _, err := c.Dial("unix", "/run/nothing.sock"); !prohibited(err) {
			t.Errorf("a socket of the hub's: %v", err)
		}
		if l, err := c.Listen("tcp", "127.0.0.1:0"); err == nil {
			l.Close()
			t.Error("the hub listens for somebody")
		}
		if l, err := c.ListenUnix(filepath.Join(t.TempDir(), "s")); err == nil {
			l.Close()
			t.Error("the hub listens on a socket for somebody")
		}
	})
	t.Run("another device", func(t *testing.T) {
		c := narrow.hub(t, "rebound")
		if out, err := direct(c, "gw-1", 22); err == nil {
			t.Errorf("by way of one's own device to another's server: %q", out)
		}
		refused(t, narrow.hub(t, "hawser"), 22, "gw-1", "e2e-gw-1", "GW-1", "gw-1.")
		if c := narrow.hub(t, "gw-1"); c != nil {
			if out, err := direct(c, "127.0.0.1", port); err == nil {
				t.Errorf("a device that no role opens: %q", out)
			}
		}
	})
	if out := r.Output(); strings.Contains(out, "panic") {
		t.Errorf("panic:\n%s", out)
	}
}

// The port of an agent's own holds as the hub's does.
func TestStrangersAtADevicesOwnPort(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	r := &rig{login: harness.Account(t), Cluster: harness.Up(t, 0)}
	r.signer = signer(t, filepath.Join(r.Ready.Home, "id_ed25519"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	l.Close()
	edge := harness.Start(t, []string{"HAWSER_TOKEN=" + r.Must(t, "token", "create", "--kind", "edge")}, harness.Program(t, "hawser-edge"),
		"run", "--state", filepath.Join(t.TempDir(), "web"), "--name", "web", "--listen", at)
	login := func() (string, error) {
		nc, err := r.tcp(at)
		if err != nil {
			return "", err
		}
		defer nc.Close()
		_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
		conn, chans, reqs, err := ssh.NewClientConn(nc, "x", r.config(r.login))
		if err != nil {
			return "", err
		}
		return run(ssh.NewClient(conn, chans, reqs), "echo in")
	}
	harness.Eventually(t, 30*time.Second, "the device lets its admin in at its own port", func() bool { out, _ := login(); return out == "in\n" })
	before := anonymous(edge.Cmd.Process.Pid)
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	for i := range count(500, 2000) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i%20))}, Timeout: 5 * time.Second}
		c, err := d.Dial("tcp", at)
		if err != nil {
			continue
		}
		open = append(open, c)
		_, _ = io.WriteString(c, []string{"", "SSH-2.0-slow\r\n", "HAWSE", "SSH-2.0-x\r\n\x00\x00\x10"}[i%4])
	}
	// 64 strangers are held, of whom the old make room.
	worst := time.Duration(0)
	for range 5 {
		begin := time.Now()
		if out, err := login(); out != "in\n" {
			t.Errorf("a good login beside %d stalled connections: %q %v", len(open), out, err)
		}
		worst = max(worst, time.Since(begin))
	}
	after := anonymous(edge.Cmd.Process.Pid)
	if grew := after - before; grew > strangersMemory {
		t.Errorf("the edge grew by %.1f MB", mb(grew))
	}
	t.Logf("%d stalled connections; the slowest of 5 logins took %v; anonymous memory of the edge %.1f MB, then %.1f",
		len(open), worst, mb(before), mb(after))
	if worst > loginTime {
		t.Errorf("a good login takes %v", worst)
	}
	select {
	case <-edge.Done():
		t.Errorf("the agent ended: %v", edge.Err())
	default:
	}
}
