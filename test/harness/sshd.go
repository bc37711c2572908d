package harness

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// SSHD is a plain OpenSSH server beside the cluster: what a session must look
// like.
type SSHD struct {
	Config string // an ssh_config whose alias `plain` reaches it
	Port   int
	// Key is the private key that it accepts; Known a known_hosts file with its host key.
	Key, Known string

	command []string
}

// StartSSHD runs sshd on a free port of the loopback, with public keys only.
func StartSSHD(t testing.TB) *SSHD {
	t.Helper()
	port := FreePort(t)
	s := newSSHD(t, "127.0.0.1", port, "127.0.0.1", port)
	Start(t, nil, s.command[0], s.command[1:]...)
	Eventually(t, 10*time.Second, "sshd listens", func() bool {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return s
}

// StartSSHD runs sshd on the device, which the router lets everybody in the cloud reach on port 22.
func (s *Site) StartSSHD(t testing.TB) *SSHD {
	t.Helper()
	d := newSSHD(t, "192.168.77.2", 22, s.Public, 22)
	s.Start(t, d.command...)
	Eventually(t, 10*time.Second, "sshd listens", func() bool { return s.InDevice(t, "ss -Htln sport = :22") != "" })
	nft(t, s.Router, "table ip sshd {\n chain pre {\n  type nat hook prerouting priority -100\n  iifname \"wan0\" tcp dport 22 dnat to 192.168.77.2\n }\n}\n")
	return d
}

// newSSHD prepares a server that listens on one address and is reached by another.
func newSSHD(t testing.TB, listen string, port int, host string, dial int) *SSHD {
	t.Helper()
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		sshd = "/usr/sbin/sshd"
	}
	os.MkdirAll("/run/sshd", 0o755)
	dir := t.TempDir()
	// sshd reads authorized_keys as the login, whichever that is.
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	keygen := func(name string) string {
		path := filepath.Join(dir, name)
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
		return path
	}
	hostKey, user := keygen("host"), keygen("user")
	pub, err := os.ReadFile(user + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	keys := write("authorized_keys", string(pub))
	if err := os.Chmod(keys, 0o644); err != nil {
		t.Fatal(err)
	}
	conf := write("sshd_config", fmt.Sprintf(`Port %d
ListenAddress %s
HostKey %s
AuthorizedKeysFile %s
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
AcceptEnv LANG LC_* COLORTERM
AllowStreamLocalForwarding yes
X11Forwarding yes
MaxSessions 20
MaxStartups 100
Subsystem sftp internal-sftp
PidFile none
`, port, listen, hostKey, keys))
	client := write("ssh_config", fmt.Sprintf(`Host plain
  HostName %s
  Port %d
  User root
Host *
  IdentityFile %s
  IdentitiesOnly yes
  UserKnownHostsFile /dev/null
  StrictHostKeyChecking no
  LogLevel ERROR
`, host, dial, user))
	hostPub, err := os.ReadFile(hostKey + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	known := write("known_hosts", fmt.Sprintf("[%s]:%d %s", host, dial, hostPub))
	return &SSHD{Config: client, Port: port, Key: user, Known: known, command: []string{sshd, "-D", "-e", "-f", conf}}
}

// FreePort returns a TCP port that was free a moment ago.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
