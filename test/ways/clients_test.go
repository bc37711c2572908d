package ways_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hawser/test/harness"
)

// bob registers a person with a key of his own and returns the key's path and
// the hub's host and port.
func bob(t *testing.T, c *harness.Cluster) (key, host, port string) {
	t.Helper()
	key = filepath.Join(t.TempDir(), "bob")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bob", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	c.Must(t, "user", "add", "bob", "--role", "operator", "--key", key+".pub")
	host, port, err := net.SplitHostPort(c.Ready.SSHAddr)
	if err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, 10*time.Second, "the hub knows bob", func() bool {
		return harness.Run(t, nil, "ssh", "-F", "none", "-i", key, "-p", port, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
			"-o", "UserKnownHostsFile="+c.Dir+"/known_hosts", "gw-1@"+host, "true").Code == 0
	})
	return key, host, port
}

// Clients that know no OpenSSH certificates log in by a registered key. None of
// them checks the hub's certificate as OpenSSH does; the key itself is given to
// those that ask.
func TestOtherClientsByARegisteredKey(t *testing.T) {
	harness.Root(t)
	c := harness.Up(t, 1)
	key, host, port := bob(t, c)
	dir := t.TempDir()

	t.Run("plink", func(t *testing.T) {
		harness.Need(t, "plink", "puttygen")
		ppk := filepath.Join(dir, "bob.ppk")
		if out, err := exec.Command("puttygen", key, "-o", ppk).CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		env := []string{"HOME=" + dir}
		// plink wants the host key's fingerprint once; it has no authorities.
		scan := harness.Run(t, nil, "ssh-keyscan", "-t", "ed25519", "-p", port, host)
		scanned := filepath.Join(dir, "scanned")
		os.WriteFile(scanned, scan.Stdout, 0o600)
		print := strings.Fields(string(harness.Run(t, nil, "ssh-keygen", "-l", "-f", scanned).Stdout))
		if len(print) < 2 {
			t.Fatalf("ssh-keyscan: %s %s", scan.Stdout, scan.Stderr)
		}
		r := harness.RunEnv(t, env, []byte("in"), "plink", "-batch", "-ssh", "-P", port, "-i", ppk, "-hostkey", print[1], "gw-1@"+host, "cat; echo o; echo e >&2; exit 7")
		if string(r.Stdout) != "ino\n" || string(r.Stderr) != "e\n" || r.Code != 7 {
			t.Errorf("plink: %s", show(r))
		}
		local := filepath.Join(dir, "local")
		os.WriteFile(local, []byte("by pscp"), 0o600)
		if r := harness.RunEnv(t, env, nil, "pscp", "-batch", "-q", "-P", port, "-i", ppk, "-hostkey", print[1], local, "gw-1@"+host+":"+dir+"/remote"); r.Code != 0 || harness.ReadFile(t, dir+"/remote") != "by pscp" {
			t.Errorf("pscp: %s", show(r))
		}
	})
	t.Run("dbclient", func(t *testing.T) {
		harness.Need(t, "dbclient", "dropbearconvert")
		db := filepath.Join(dir, "bob.db")
		if out, err := exec.Command("dropbearconvert", "openssh", "dropbear", key, db).CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		r := harness.RunEnv(t, []string{"HOME=" + dir}, []byte("in"), "dbclient", "-y", "-y", "-p", port, "-i", db, "gw-1@"+host, "cat; echo o; exit 7")
		if string(r.Stdout) != "ino\n" || r.Code != 7 {
			t.Errorf("dbclient: %s", show(r))
		}
	})
	t.Run("curl over sftp", func(t *testing.T) {
		harness.Need(t, "curl")
		blob := make([]byte, 400_000)
		rand.Read(blob)
		file := filepath.Join(dir, "blob")
		os.WriteFile(file, blob, 0o644)
		r := harness.Run(t, nil, "curl", "-s", "-S", "-k", "--key", key, "--pubkey", key+".pub", "-u", "gw-1:", "sftp://"+host+":"+port+file)
		if r.Code != 0 || !bytes.Equal(r.Stdout, blob) {
			t.Errorf("curl: code %d, %d bytes, %s", r.Code, len(r.Stdout), r.Stderr)
		}
	})
	t.Run("paramiko", func(t *testing.T) {
		paramiko(t, map[string]string{"host": host, "port": port, "user": "gw-1", "key": key})
	})
	t.Run("paramiko end to end", func(t *testing.T) {
		paramiko(t, map[string]string{
			"host": host, "port": port, "user": "root", "device": "gw-1",
			"key": filepath.Join(c.Ready.Home, "id_ed25519"), "cert": filepath.Join(c.Ready.Home, "id_ed25519-cert.pub"),
		})
	})
}

// paramikoScript connects as its first argument says, in JSON, and exits 0 when
// a command and a file behave. OpenSSH's key format is read by paramiko itself.
const paramikoScript = `
import io, json, sys, paramiko
c = json.loads(sys.argv[1])
def connect(**kw):
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    key = paramiko.Ed25519Key.from_private_key_file(c["key"])
    if "cert" in c: key.load_certificate(c["cert"])
    client.connect(pkey=key, allow_agent=False, look_for_keys=False, timeout=20, **kw)
    return client
if "device" in c:
    hub = connect(hostname=c["host"], port=int(c["port"]), username="hawser")
    sock = hub.get_transport().open_channel("direct-tcpip", (c["device"], 22), ("127.0.0.1", 0))
    client = connect(hostname=c["device"], username=c["user"], sock=sock)
else:
    client = connect(hostname=c["host"], port=int(c["port"]), username=c["user"])
stdin, stdout, stderr = client.exec_command("cat; echo o; echo e >&2; exit 7")
stdin.write("in"); stdin.channel.shutdown_write()
out, err, code = stdout.read(), stderr.read(), stdout.channel.recv_exit_status()
assert (out, err, code) == (b"ino\n", b"e\n", 7), (out, err, code)
sftp = client.open_sftp()
blob = bytes(range(256)) * 2000
path = c["key"] + ".paramiko"
sftp.putfo(io.BytesIO(blob), path)
back = io.BytesIO(); sftp.getfo(path, back); sftp.remove(path)
assert back.getvalue() == blob, len(back.getvalue())
client.close()
`

func paramiko(t *testing.T, how map[string]string) {
	t.Helper()
	arg, err := json.Marshal(how)
	if err != nil {
		t.Fatal(err)
	}
	// Debian's interpreter has Debian's paramiko; another python3 may come first.
	if r := harness.Run(t, nil, "/usr/bin/python3", "-c", paramikoScript, string(arg)); r.Code != 0 {
		t.Errorf("%s", show(r))
	}
}

// The hub itself gives lists and help, and no shell, file or port of its machine.
func TestTheHubItself(t *testing.T) {
	harness.Root(t)
	c := harness.Up(t, 1)
	if r := c.SSH(t, nil, "hub", "ls"); r.Code != 0 || !strings.Contains(string(r.Stdout), "gw-1") {
		t.Errorf("ls: %s", show(r))
	}
	if r := c.SSH(t, nil, "hub", "help"); r.Code != 0 || !strings.Contains(string(r.Stdout), "ls") {
		t.Errorf("help: %s", show(r))
	}
	for _, command := range []string{"id", "cat /etc/passwd", "sh -c id", "ls; id", "ls /"} {
		if r := c.SSH(t, nil, "hub", command); r.Code == 0 || strings.Contains(string(r.Stdout), "uid=") || strings.Contains(string(r.Stdout), "root:") {
			t.Errorf("%s: %s", command, show(r))
		}
	}
	if r := harness.Run(t, []byte("ls /\n"), "sftp", "-q", "-F", c.Ready.SSHConfig, "-b", "-", "hub"); r.Code == 0 {
		t.Errorf("sftp to the hub: %s", show(r))
	}
	_, api, _ := net.SplitHostPort(c.Ready.APIAddr)
	for _, target := range []string{"127.0.0.1:" + api, "localhost:" + api, "169.254.169.254:80"} {
		if r := c.SSH(t, nil, "-W", target, "hub"); r.Code == 0 {
			t.Errorf("-W %s through the hub: %s", target, show(r))
		}
	}
	if r := c.SSH(t, nil, "-l", "no-such-device", "hub", "ls"); r.Code != 255 || len(r.Stdout) != 0 {
		t.Errorf("an unknown device runs the hub's ls: %s", show(r))
	}
}

// Another login, in every way of writing it; a login that is not there is
// refused for shells, files and forwards alike.
func TestLogins(t *testing.T) {
	harness.Root(t)
	c := harness.Up(t, 1)
	for _, name := range []string{"root=gw-1", "root+gw-1", "root@gw-1", "gw-1"} {
		if r := c.SSH(t, nil, "-l", name, "hub", "id -un"); string(r.Stdout) != "root\n" {
			t.Errorf("%s: %s", name, show(r))
		}
	}
	if r := c.SSH(t, nil, "-l", "nobody=gw-1", "gw-1", "id -un; id -gn; pwd"); !strings.HasPrefix(string(r.Stdout), "nobody\nnogroup\n") {
		// Debian's nobody has /usr/sbin/nologin for a shell, as sshd would use it.
		if !strings.Contains(string(r.Stdout)+string(r.Stderr), "not available") {
			t.Errorf("nobody: %s", show(r))
		}
	}
	echo := echoServer(t, "tcp", "127.0.0.1:0")
	for _, args := range [][]string{{"-l", "nouser=gw-1", "hub", "id"}, {"-l", "nouser=gw-1", "-W", echo, "hub"}, {"-l", "nouser", "e2e-gw-1", "id"}, {"-l", "nouser", "-W", echo, "e2e-gw-1"}} {
		if r := c.SSH(t, []byte("x"), args...); r.Code == 0 || len(r.Stdout) != 0 {
			t.Errorf("%v: %s", args, show(r))
		}
	}
	for _, to := range []string{"nouser=gw-1@hub", "nouser@e2e-gw-1"} {
		if r := harness.Run(t, []byte("ls /\n"), "sftp", "-q", "-F", c.Ready.SSHConfig, "-b", "-", to); r.Code == 0 || len(r.Stdout) != 0 {
			t.Errorf("sftp %s: %s", to, show(r))
		}
	}
}

// Only the key that signed authenticates: offering somebody else's public key
// first gives nothing of them.
func TestOfferingAVictimsKey(t *testing.T) {
	harness.Root(t)
	c := harness.Up(t, 1)
	key, host, port := bob(t, c)
	victim := filepath.Join(t.TempDir(), "victim.pub")
	os.WriteFile(victim, []byte(harness.ReadFile(t, filepath.Join(c.Ready.Home, "id_ed25519.pub"))), 0o600)
	r := harness.Run(t, nil, "ssh", "-F", "none", "-p", port, "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "BatchMode=yes",
		"-o", "UserKnownHostsFile="+c.Dir+"/known_hosts", "-i", victim, "-i", key, "gw-1@"+host, "echo $HAWSER_USER")
	if string(r.Stdout) != "bob\n" {
		t.Errorf("%s: want bob", show(r))
	}
	r = harness.Run(t, nil, "ssh", "-v", "-F", "none", "-p", port, "-o", "PreferredAuthentications=none,keyboard-interactive,password", "-o", "BatchMode=yes",
		"-o", "UserKnownHostsFile="+c.Dir+"/known_hosts", "gw-1@"+host, "id")
	if r.Code != 255 || !strings.Contains(string(r.Stderr), "Authentications that can continue: publickey\r\n") && !strings.Contains(string(r.Stderr), "Authentications that can continue: publickey\n") {
		t.Errorf("without a key: %s", show(r))
	}
}

func TestSSHAuditFindsNoFailure(t *testing.T) {
	harness.Root(t)
	harness.Need(t, "ssh-audit")
	c := harness.Up(t, 0)
	host, port, _ := net.SplitHostPort(c.Ready.SSHAddr)
	r := harness.Run(t, nil, "ssh-audit", "-n", "-p", port, host)
	for line := range strings.Lines(string(r.Stdout)) {
		// bookworm's ssh-audit does not know the newest names and says so.
		if strings.Contains(line, "[fail]") {
			t.Error(strings.TrimSpace(line))
		}
	}
	for _, want := range []string{"mlkem768x25519-sha256", "curve25519-sha256", "kex-strict-s-v00@openssh.com", "aes256-gcm@openssh.com", "hmac-sha2-256"} {
		if !strings.Contains(string(r.Stdout), want) {
			t.Errorf("%s is not offered\n%s", want, r.Stdout)
		}
	}
}

// What a session printed is in its recording, byte for byte, whichever way in.
func TestRecordingsReplayTheExactBytes(t *testing.T) {
	harness.Root(t)
	c := harness.Up(t, 1)
	blob := make([]byte, 300_000)
	rand.Read(blob)
	file := filepath.Join(t.TempDir(), "blob")
	os.WriteFile(file, blob, 0o600)
	for _, host := range []string{"gw-1", "e2e-gw-1"} {
		before := strings.Fields(c.Must(t, "recordings", "ls", "-o", "name"))
		if r := c.SSH(t, nil, host, "cat "+file); !bytes.Equal(r.Stdout, blob) {
			t.Fatalf("%s: %d bytes, code %d %s", host, len(r.Stdout), r.Code, r.Stderr)
		}
		var id string
		harness.Eventually(t, 15*time.Second, host+": a complete recording appears", func() bool {
			ids := strings.Fields(c.Must(t, "recordings", "ls", "-o", "name"))
			if len(ids) <= len(before) {
				return false
			}
			id = ids[0]
			return strings.Contains(strings.SplitN(c.Must(t, "recordings", "ls"), "\n", 3)[1], " complete ")
		})
		if r := c.Hawser(t, nil, "recordings", "export", id); !bytes.Equal(r.Stdout, blob) {
			t.Errorf("%s: export gives %d bytes, want %d the same; %s", host, len(r.Stdout), len(blob), r.Stderr)
		}
		list := c.Must(t, "recordings", "ls", "-o", "json", "--limit", "1")
		for _, want := range []string{`"kind": "exec"`, `"command": "cat ` + file + `"`, `"user": "admin"`, `"login": "root"`} {
			if !strings.Contains(list, want) {
				t.Errorf("%s: the list does not say %s\n%s", host, want, list)
			}
		}
		if r := c.Hawser(t, nil, "play", "--instant", id[:12]); r.Code != 0 {
			t.Errorf("play: %d %s", r.Code, r.Stderr)
		}
	}
}
