package ways_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/test/harness"
)

// login is how a client without an ssh_config reaches one of the ways.
type login struct {
	host, port, user string
	key              string // private key, in OpenSSH's format
	cert             string // its certificate; empty: the key is registered
	fingerprint      string // of the host key
	device           string // end to end: the name
}

// scene is a cluster, a plain sshd, and all ways to them.
type scene struct {
	c      *harness.Cluster
	ways   []way
	logins map[string]login // by way
}

func fingerprintOf(t *testing.T, host, port string) string {
	t.Helper()
	scan := harness.Run(t, nil, "ssh-keyscan", "-t", "ed25519", "-p", port, host)
	print := strings.Fields(string(harness.Run(t, scan.Stdout, "ssh-keygen", "-l", "-f", "-").Stdout))
	if len(print) < 2 {
		t.Fatalf("ssh-keyscan: %s %s", scan.Stdout, scan.Stderr)
	}
	return print[1]
}

func newScene(t *testing.T) scene {
	t.Helper()
	harness.Root(t)
	c := harness.Up(t, 1)
	s := harness.StartSSHD(t)
	x := scene{c: c, ways: []way{
		{name: "sshd", config: s.Config, host: "plain"},
		{name: "hub", config: c.Ready.SSHConfig, host: "gw-1", hub: true},
		{name: "end to end", config: c.Ready.SSHConfig, host: "e2e-gw-1"},
	}}
	key, host, port := bob(t, c)
	plain := strconv.Itoa(s.Port)
	admin := filepath.Join(c.Ready.Home, "id_ed25519")
	x.logins = map[string]login{
		"sshd":       {host: "127.0.0.1", port: plain, user: "root", key: s.Key, fingerprint: fingerprintOf(t, "127.0.0.1", plain)},
		"hub":        {host: host, port: port, user: "gw-1", key: key, fingerprint: fingerprintOf(t, host, port)},
		"end to end": {host: host, port: port, user: "root", key: admin, cert: admin + "-cert.pub", device: "gw-1"},
	}
	return x
}

// only are some of the ways, by name; the first is sshd.
func (x scene) only(names ...string) []way {
	out := x.ways[:1:1]
	for _, w := range x.ways[1:] {
		for _, n := range names {
			if w.name == n {
				out = append(out, w)
			}
		}
	}
	return out
}

// tempDir is a directory with a short name, for sockets.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "m")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func mustWrite(t *testing.T, path, text string, mode os.FileMode) string {
	t.Helper()
	os.MkdirAll(filepath.Dir(path), 0o755)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// pick is a short count in make test and the stated one in make test-long.
func pick(short, long int) int {
	if harness.Long() {
		return long
	}
	return short
}

func TestMatrix(t *testing.T) {
	x := newScene(t)
	rows := map[string]func(*testing.T, scene){
		"plink, pscp": plink, "dbclient": dbclient, "curl sftp (libssh2)": curlSFTP, "paramiko": paramikoRow, "mlkem768x25519 (x cryptos client)": postQuantum,
		"OpenSSH with algorithms of 7.4": oldAlgorithms, "ssh-keyscan": keyscan, "sshfs": sshfs, "git clone and push": git, "rsync many files": rsyncMany,
		"rsync partial and delete": rsyncPartial, "ansible": ansible, "the shape of VS Code": vscode, "ssh -X": x11, "ssh -N and -f": background,
		"sftp batch": sftpBatch, "sftp resume": sftpResume, "control commands": controlCommands, "escapes and window": escapes, "break": breaks,
		"ExitOnForwardFailure and -W refused": refusedForwards, "-R names and clashes": remoteNames, "keepalives and -C": keepalives,
	}
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		t.Run(name, func(t *testing.T) { rows[name](t, x) }) // one at a time: what root's start-up files do at once is not ours to compare
	}
}

func plink(t *testing.T, x scene) {
	harness.Need(t, "plink", "pscp", "puttygen")
	dir := t.TempDir()
	same(t, x.only("hub"), func(t *testing.T, w way) string {
		l := x.logins[w.name]
		ppk := filepath.Join(dir, w.name+".ppk")
		if out, err := exec.Command("puttygen", l.key, "-o", ppk).CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		args := []string{"-batch", "-P", l.port, "-i", ppk, "-hostkey", l.fingerprint}
		to := l.user + "@" + l.host
		env := []string{"HOME=" + dir}
		r := harness.RunEnv(t, env, []byte("in"), "plink", append(args, "-ssh", to, "cat; echo o; echo e >&2; exit 7")...)
		local := mustWrite(t, filepath.Join(dir, "local"), "by pscp", 0o644)
		remote, back := filepath.Join(dir, "remote"), filepath.Join(dir, "back")
		os.Remove(remote)
		os.Remove(back)
		up := harness.RunEnv(t, env, nil, "pscp", append(args, "-q", local, to+":"+remote)...)
		got, _ := os.ReadFile(remote)
		down := harness.RunEnv(t, env, nil, "pscp", append(args, "-q", "-scp", to+":"+remote, back)...)
		gotBack, _ := os.ReadFile(back)
		return show(r) + show(up) + string(got) + show(down) + string(gotBack)
	})
}

func dbclient(t *testing.T, x scene) {
	harness.Need(t, "dbclient", "dropbearconvert")
	dir := t.TempDir()
	same(t, x.only("hub"), func(t *testing.T, w way) string {
		l := x.logins[w.name]
		db := filepath.Join(dir, w.name+".db")
		if out, err := exec.Command("dropbearconvert", "openssh", "dropbear", l.key, db).CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		run := func(stdin string, args ...string) harness.Result {
			r := harness.RunEnv(t, []string{"HOME=" + dir}, []byte(stdin), "dbclient", append([]string{"-y", "-y", "-p", l.port, "-i", db, l.user + "@" + l.host}, args...)...)
			r.Stderr = regexp.MustCompile(`(?m)^(?:Host key accepted|\s*\(ssh-ed25519|Warning:|sha1!).*\n?|^\n`).ReplaceAll(r.Stderr, nil)
			return r
		}
		pty := harness.RunEnv(t, []string{"HOME=" + dir}, nil, "dbclient", "-y", "-y", "-t", "-p", l.port, "-i", db, l.user+"@"+l.host, "tty > /dev/null && echo tty; exit 3")
		return show(run("in", "cat; echo o; echo e >&2; exit 7")) + show(run("", "kill -TERM $$")) + fmt.Sprint(pty.Code, string(pty.Stdout))
	})
}

func curlSFTP(t *testing.T, x scene) {
	harness.Need(t, "curl")
	dir := t.TempDir()
	blob := make([]byte, 400_000)
	rand.Read(blob)
	file := mustWrite(t, filepath.Join(dir, "blob"), string(blob), 0o644)
	same(t, x.only("hub"), func(t *testing.T, w way) string {
		l := x.logins[w.name]
		common := []string{"-s", "-S", "-k", "--key", l.key, "--pubkey", l.key + ".pub", "-u", l.user + ":"}
		url := "sftp://" + l.host + ":" + l.port
		down := harness.Run(t, nil, "curl", append(common, url+file)...)
		up := harness.Run(t, nil, "curl", append(common, "-T", file, "--ftp-create-dirs", url+dir+"/new/up-"+w.name)...)
		sent, _ := os.ReadFile(dir + "/new/up-" + w.name)
		list := harness.Run(t, nil, "curl", append(common, "-l", url+dir+"/new/")...)
		none := harness.Run(t, nil, "curl", append(common, url+dir+"/none")...)
		os.RemoveAll(dir + "/new")
		return fmt.Sprint(down.Code, bytes.Equal(down.Stdout, blob), up.Code, bytes.Equal(sent, blob), list.Code, sortedLines(strings.ReplaceAll(string(list.Stdout), "up-"+w.name, "up"))) + show(none)
	})
}

// sortedLines is what a server may list in any order.
func sortedLines(s string) []string {
	lines := strings.Fields(s)
	slices.Sort(lines)
	return lines
}

func paramikoRow(t *testing.T, x scene) {
	same(t, x.ways, func(t *testing.T, w way) string {
		l := x.logins[w.name]
		// A copy, for the script writes beside the key.
		key := mustWrite(t, filepath.Join(t.TempDir(), "key"), harness.ReadFile(t, l.key), 0o600)
		how := map[string]string{"host": l.host, "port": l.port, "user": l.user, "key": key}
		if l.cert != "" {
			how["cert"], how["device"] = l.cert, l.device
		}
		arg, _ := json.Marshal(how)
		return show(harness.Run(t, nil, "/usr/bin/python3", "-W", "ignore", "-c", paramikoScript, string(arg)))
	})
}

// raw is a client of x/crypto's the way w, which exchanges keys by kex.
func (x scene) raw(t *testing.T, w way, kex string) *ssh.Client {
	t.Helper()
	l := x.logins[w.name]
	signer, err := ssh.ParsePrivateKey([]byte(harness.ReadFile(t, l.key)))
	if err != nil {
		t.Fatal(err)
	}
	user := l.user
	if l.cert != "" {
		pub, _, _, _, err := ssh.ParseAuthorizedKey([]byte(harness.ReadFile(t, l.cert)))
		if err != nil {
			t.Fatal(err)
		}
		if signer, err = ssh.NewCertSigner(pub.(*ssh.Certificate), signer); err != nil {
			t.Fatal(err)
		}
		user = "hawser"
	}
	dial := func(nc net.Conn, user string) *ssh.Client {
		c := &ssh.ClientConfig{User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: 20 * time.Second}
		c.KeyExchanges = []string{kex}
		conn, chans, reqs, err := ssh.NewClientConn(nc, l.host, c)
		if err != nil {
			t.Fatalf("%s: %v", w.name, err)
		}
		if used := conn.(ssh.AlgorithmsConnMetadata).Algorithms().KeyExchange; used != kex {
			t.Errorf("%s: exchanged keys by %s", w.name, used)
		}
		return ssh.NewClient(conn, chans, reqs)
	}
	nc, err := net.Dial("tcp", net.JoinHostPort(l.host, l.port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	client := dial(nc, user)
	if l.device != "" {
		inner, err := client.Dial("tcp", l.device+":22")
		if err != nil {
			t.Fatal(err)
		}
		client = dial(inner, l.user)
	}
	return client
}

// The exchange of tomorrow, by the one library here that has it; bookworm's sshd has another.
func postQuantum(t *testing.T, x scene) {
	same(t, x.ways, func(t *testing.T, w way) string {
		kex := ssh.KeyExchangeMLKEM768X25519
		if w.name == "sshd" {
			kex = ssh.KeyExchangeCurve25519
		}
		s, err := x.raw(t, w, kex).NewSession()
		if err != nil {
			t.Fatal(err)
		}
		var out, errs bytes.Buffer
		s.Stdin, s.Stdout, s.Stderr = strings.NewReader("in"), &out, &errs
		err = s.Run("cat; echo o; echo e >&2; exit 7")
		return fmt.Sprint(out.String(), errs.String(), err)
	})
}

// A break is of serial lines, and no program at a pty of Linux's sees one: what there is to compare is what the device answers, which has a pty or not.
func breaks(t *testing.T, x scene) {
	same(t, x.ways, func(t *testing.T, w way) string {
		c := x.raw(t, w, ssh.KeyExchangeCurve25519)
		var b strings.Builder
		for _, pty := range []bool{true, false} {
			s, err := c.NewSession()
			if err != nil {
				t.Fatal(err)
			}
			if pty {
				if err := s.RequestPty("xterm", 24, 80, ssh.TerminalModes{}); err != nil {
					t.Fatal(err)
				}
			}
			in, err := s.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Start("exec cat"); err != nil {
				t.Fatal(err)
			}
			ok, err := s.SendRequest("break", true, ssh.Marshal(struct{ Length uint32 }{500}))
			fmt.Fprintln(&b, "pty", pty, "break", ok, err)
			in.Close()
			s.Close()
		}
		return b.String()
	})
}

func oldAlgorithms(t *testing.T, x scene) {
	same(t, x.ways, func(t *testing.T, w way) string {
		args := w.args("-o", "KexAlgorithms=curve25519-sha256@libssh.org,ecdh-sha2-nistp256,ecdh-sha2-nistp384,diffie-hellman-group-exchange-sha256,diffie-hellman-group14-sha1",
			"-o", "Ciphers=chacha20-poly1305@openssh.com,aes128-ctr,aes192-ctr,aes256-ctr,aes128-gcm@openssh.com,aes256-gcm@openssh.com",
			"-o", "MACs=umac-64-etm@openssh.com,umac-128-etm@openssh.com,hmac-sha2-256-etm@openssh.com,hmac-sha2-512-etm@openssh.com,hmac-sha1-etm@openssh.com,umac-64@openssh.com,hmac-sha2-256,hmac-sha2-512,hmac-sha1",
			"-o", "HostKeyAlgorithms=ecdsa-sha2-nistp256-cert-v01@openssh.com,ssh-ed25519-cert-v01@openssh.com,ecdsa-sha2-nistp256,ssh-ed25519,ssh-rsa",
			"-o", "PubkeyAcceptedAlgorithms=ssh-ed25519-cert-v01@openssh.com,ssh-ed25519,ssh-rsa", w.host, "cat; echo o; echo e >&2; exit 7")
		return show(harness.Run(t, []byte("in"), "ssh", args...))
	})
}

func keyscan(t *testing.T, x scene) {
	same(t, x.only("hub"), func(t *testing.T, w way) string {
		l := x.logins[w.name]
		r := harness.Run(t, nil, "ssh-keyscan", "-p", l.port, l.host)
		f := strings.Fields(string(r.Stdout))
		if len(f) < 3 {
			return show(r)
		}
		return fmt.Sprint(r.Code, len(f), f[1], strings.Contains(string(r.Stderr), "SSH-2.0-"))
	})
}

func sshfs(t *testing.T, x scene) {
	harness.Need(t, "sshfs", "fusermount3")
	blob := make([]byte, 300_000)
	rand.Read(blob)
	same(t, x.ways, func(t *testing.T, w way) string {
		dir := tempDir(t)
		far, at := filepath.Join(dir, "far"), filepath.Join(dir, "at")
		os.Mkdir(far, 0o755)
		os.Mkdir(at, 0o755)
		mustWrite(t, far+"/there", "already\n", 0o640)
		if r := harness.Run(t, nil, "sshfs", "-F", w.config, "-o", "BatchMode=yes", w.host+":"+far, at); r.Code != 0 {
			return show(r)
		}
		mounted := true
		unmount := func() harness.Result {
			mounted = false
			return harness.Run(t, nil, "fusermount3", "-u", at)
		}
		defer func() {
			if mounted {
				unmount()
			}
		}()
		script := fmt.Sprintf(`cd %s && cat there && cp there copy && chmod 600 copy && mv copy moved && ln -s moved link && readlink link && mkdir d && echo x > d/f && echo more >> d/f &&
			truncate -s 3 there && rm -r d && cat there && ls && stat -c '%%a %%s' moved there && df --output=target . | tail -1 | grep -c at; mkdir sub; rmdir sub; rmdir none; echo $?`, at)
		r := harness.Run(t, nil, "sh", "-c", script)
		os.WriteFile(at+"/blob", blob, 0o644)
		back, _ := os.ReadFile(at + "/blob")
		u := unmount()
		return strings.ReplaceAll(show(r)+fmt.Sprint(bytes.Equal(back, blob), u.Code)+listing(far), dir, "D")
	})
}

func git(t *testing.T, x scene) {
	harness.Need(t, "git")
	same(t, x.ways, func(t *testing.T, w way) string {
		dir := tempDir(t)
		env := []string{"GIT_SSH_COMMAND=ssh " + strings.Join(w.args(), " "), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a",
			"GIT_COMMITTER_EMAIL=a@b", "GIT_AUTHOR_DATE=2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE=2026-01-01T00:00:00Z"}
		bulk := make([]byte, 2<<20)
		rand.Read(bulk)
		mustWrite(t, dir+"/bulk", string(bulk), 0o644)
		r := harness.RunEnv(t, env, nil, "sh", "-e", "-c", fmt.Sprintf(`cd %s; git init -q --bare -b main far; git clone -q %s:%s/far near 2>&1; cd near
			echo one > f; git add f; git commit -q -m one; git push -q origin HEAD:main; cp ../bulk .; git add bulk; git commit -q -m two; git push -q origin HEAD:main
			cd ..; git clone -q %s:%s/far again; cmp bulk again/bulk; cd again; git fetch -q; git log --format=%%s; git ls-remote origin | wc -l; git push -q origin HEAD:refs/heads/b; git push -q origin :b
			git clone -q %s:%s/none none || echo rc $?`, dir, w.host, dir, w.host, dir, w.host, dir))
		return strings.ReplaceAll(show(r), dir, "D")
	})
}

func rsyncMany(t *testing.T, x scene) {
	harness.Need(t, "rsync")
	dir := tempDir(t)
	for i := range pick(600, 10_000) {
		mustWrite(t, fmt.Sprintf("%s/tree/d%02d/f%05d", dir, i%40, i), fmt.Sprint("content of ", i, "\n"), 0o600)
	}
	want := listing(dir + "/tree")
	same(t, x.ways, func(t *testing.T, w way) string {
		d := filepath.Join(dir, strings.ReplaceAll(w.name, " ", ""))
		shell := "ssh " + strings.Join(w.args(), " ")
		up := harness.Run(t, nil, "rsync", "-a", "--stats", "-e", shell, dir+"/tree/", w.host+":"+d)
		again := harness.Run(t, nil, "rsync", "-ai", "-e", shell, dir+"/tree/", w.host+":"+d)
		down := harness.Run(t, nil, "rsync", "-az", "-e", shell, w.host+":"+d+"/", d+"-back")
		sent := regexp.MustCompile(`Number of regular files transferred: \S+`).Find(up.Stdout)
		return fmt.Sprint(up.Code, string(sent), string(up.Stderr), show(again), show(down), listing(d) == want, listing(d+"-back") == want)
	})
}

func rsyncPartial(t *testing.T, x scene) {
	harness.Need(t, "rsync")
	dir := tempDir(t)
	blob := make([]byte, 3<<20)
	rand.Read(blob)
	src := mustWrite(t, dir+"/src/blob", string(blob), 0o644)
	mustWrite(t, dir+"/src/kept", "kept", 0o644)
	same(t, x.ways, func(t *testing.T, w way) string {
		d := filepath.Join(dir, strings.ReplaceAll(w.name, " ", ""))
		shell := "ssh " + strings.Join(w.args(), " ")
		mustWrite(t, d+"/blob", string(blob[:1<<20]), 0o644) // what an interrupted transfer left
		mustWrite(t, d+"/gone/old", "old", 0o644)
		a := harness.Run(t, nil, "rsync", "--partial", "--append-verify", "-e", shell, "--stats", src, w.host+":"+d+"/blob")
		literal := regexp.MustCompile(`Literal data: [\d,]+`).Find(a.Stdout)
		b := harness.Run(t, nil, "rsync", "-r", "--checksum", "--delete", "-i", "-e", shell, dir+"/src/", w.host+":"+d)
		none := harness.Run(t, nil, "rsync", "-e", shell, w.host+":"+d+"/none", dir+"/none")
		none.Stderr = regexp.MustCompile(`\(code \d+\) at .*`).ReplaceAll(none.Stderr, nil)
		return strings.ReplaceAll(fmt.Sprint(a.Code, string(literal), string(a.Stderr), show(b), none.Code, string(none.Stderr), listing(d)), d, "D")
	})
}

// All ways are hosts of one inventory, so that one run has them side by side.
func ansible(t *testing.T, x scene) {
	harness.Need(t, "ansible-playbook", "sudo")
	dir := tempDir(t)
	var inventory strings.Builder
	hosts := map[string]string{}
	for _, w := range x.ways {
		for i := range pick(1, 50) {
			name := fmt.Sprintf("%s-%d", strings.ReplaceAll(w.name, " ", "-"), i)
			hosts[name] = w.name
			fmt.Fprintf(&inventory, "%s ansible_host=%s ansible_ssh_common_args='-F %s'\n", name, w.host, w.config)
		}
	}
	fmt.Fprint(&inventory, "[all:vars]\nansible_python_interpreter=/usr/bin/python3\n")
	mustWrite(t, dir+"/inventory", inventory.String(), 0o644)
	mustWrite(t, dir+"/file", strings.Repeat("a line\n", 5000), 0o644)
	copied := `
  gather_facts: false
  tasks:
  - ping:
  - copy: {src: %[1]s/file, dest: "%[1]s/{{ inventory_hostname }}-%[2]s", mode: "0640"}
    register: copied
`
	more := `
  - command: id -un
    become: true
    become_user: nobody
    register: who
  - shell: "cat; echo e >&2; exit 3"
    args: {stdin: "given"}
    register: failed
    ignore_errors: true
  - copy: {dest: "%[1]s/{{ inventory_hostname }}-%[2]s.result", content: "{{ copied.changed }} {{ copied.mode }} {{ copied.size }} {{ who.stdout }} {{ failed.rc }} {{ failed.stdout }} {{ failed.stderr }}"}
`
	mustWrite(t, dir+"/play.yml", "- hosts: all"+fmt.Sprintf(copied, dir, "plain")+"\n- hosts: all\n  vars: {ansible_pipelining: true}"+
		fmt.Sprintf(strings.TrimSuffix(copied, "\n")+more, dir, "piped"), 0o644)
	// It starts hundreds of processes: on a machine that does other things a minute is not enough.
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(pick(5, 20))*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ansible-playbook", "-i", dir+"/inventory", dir+"/play.yml")
	cmd.Env = append(os.Environ(), "ANSIBLE_CONFIG="+mustWrite(t, dir+"/ansible.cfg", "", 0o644), "ANSIBLE_HOME="+dir, "ANSIBLE_FORKS=50", "ANSIBLE_SSH_CONTROL_PATH_DIR="+dir+"/cp", "ANSIBLE_NOCOLOR=1", "ANSIBLE_LOCAL_TEMP="+dir+"/tmp",
		"ANSIBLE_DEPRECATION_WARNINGS=0", "LC_ALL=C.UTF-8",
		"ANSIBLE_SSH_ARGS=-o ControlMaster=auto -o ControlPersist=2s") // the default's minute outlives the test's servers
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run()
	r := harness.Result{Stdout: stdout.Bytes(), Stderr: stderr.Bytes(), Code: cmd.ProcessState.ExitCode()}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(show(r))
		}
	})
	result := func(host string) string {
		var b strings.Builder
		got, err := os.ReadFile(dir + "/" + host + "-piped.result")
		fmt.Fprintln(&b, string(got), err)
		for _, kind := range []string{"plain", "piped"} {
			copied, _ := os.ReadFile(dir + "/" + host + "-" + kind)
			fmt.Fprintln(&b, len(copied))
		}
		for line := range strings.Lines(string(r.Stdout)) {
			if f := strings.Fields(line); len(f) > 2 && f[0] == host && f[1] == ":" {
				fmt.Fprintln(&b, strings.Join(f[1:], " "))
			}
		}
		return b.String()
	}
	same(t, x.ways, func(t *testing.T, w way) string {
		first := ""
		for host, name := range hosts {
			if name != w.name {
				continue
			}
			if got := result(host); first == "" {
				first = got
			} else if got != first {
				return host + ": " + got
			}
		}
		if !strings.Contains(first, "True 0640 35000 nobody 3 given e") {
			t.Errorf("%s: %q", w.name, first)
		}
		return first
	})
}

// VS Code starts its server by a script on stdin of `ssh -T -D`, keeps that session, and comes through the SOCKS port with many short connections; in a
// newer shape to a socket of the server.
func vscode(t *testing.T, x scene) {
	echo := echoServer(t, "tcp", "127.0.0.1:0")
	dir := tempDir(t)
	sock := echoServer(t, "unix", dir+"/s")
	_, echoPort, _ := net.SplitHostPort(echo)
	same(t, x.ways, func(t *testing.T, w way) string {
		socks := fmt.Sprintf("127.0.0.1:%d", harness.FreePort(t))
		local := filepath.Join(dir, strings.ReplaceAll(w.name, " ", ""))
		cmd := exec.Command("ssh", w.args("-T", "-D", socks, "-L", local+":"+sock, "-o", "ConnectTimeout=15", w.host, "sh")...)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		var out lockedBuffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(in, "echo begin; (while sleep 1; do :; done) & echo $! > %s.pid; echo listeningOn==%s==; cat\n", local, echoPort)
		harness.Eventually(t, 20*time.Second, w.name+": the script ran", func() bool { return strings.Contains(out.String(), "listeningOn==") })
		var wg sync.WaitGroup
		bad := make(chan string, 1000)
		for range 8 {
			wg.Go(func() {
				for i := range pick(8, 100) {
					msg := []byte(strings.Repeat("m", 1+i*37))
					if got, err := throughSOCKS(socks, echo, msg); err != nil || got != string(msg) {
						bad <- fmt.Sprint(len(got), err)
					}
					if got := through(t, "unix", local, msg); got != digest(msg) {
						bad <- got
					}
				}
			})
		}
		wg.Wait()
		close(bad)
		failed := 0
		for b := range bad {
			if failed++; failed == 1 {
				t.Error(w.name, b)
			}
		}
		fmt.Fprint(in, "typed\n")
		harness.Eventually(t, 20*time.Second, w.name+": the session still answers", func() bool { return strings.Contains(out.String(), "typed") })
		exec.Command("kill", strings.TrimSpace(harness.ReadFile(t, local+".pid"))).Run()
		in.Close()
		err = cmd.Wait()
		return fmt.Sprint(strings.ReplaceAll(out.String(), dir, "D"), failed, err)
	})
}

// digest is what through returns for these bytes.
func digest(b []byte) string {
	h := sha256.Sum256(b)
	return fmt.Sprint(len(b), hex.EncodeToString(h[:4]))
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// throughSOCKS sends msg to target by a SOCKS 5 server, half-closes and returns what came back.
func throughSOCKS(server, target string, msg []byte) (string, error) {
	c, err := net.Dial("tcp", server)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	host, port, _ := net.SplitHostPort(target)
	n, _ := strconv.Atoi(port)
	ip := net.ParseIP(host).To4()
	c.Write([]byte{5, 1, 0})
	var answer [10]byte
	if _, err := readFull(c, answer[:2]); err != nil {
		return "", err
	}
	c.Write(append([]byte{5, 1, 0, 1, ip[0], ip[1], ip[2], ip[3]}, byte(n>>8), byte(n)))
	if _, err := readFull(c, answer[:]); err != nil || answer[1] != 0 {
		return "", fmt.Errorf("SOCKS: %v %v", answer[1], err)
	}
	c.Write(msg)
	c.(*net.TCPConn).CloseWrite()
	var b bytes.Buffer
	_, err = b.ReadFrom(c)
	return b.String(), err
}

func readFull(c net.Conn, b []byte) (int, error) {
	n := 0
	for n < len(b) {
		k, err := c.Read(b[n:])
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// A program on the device draws on the person's X server; its display and cookie are as sshd makes them.
func x11(t *testing.T, x scene) {
	harness.Need(t, "Xvfb", "xauth", "xdpyinfo")
	dir := tempDir(t)
	var display string
	cookie := strings.Repeat("0a", 16)
	if r := harness.Run(t, nil, "xauth", "-q", "-f", dir+"/server", "add", ":0", ".", cookie); r.Code != 0 {
		t.Fatal(show(r))
	}
	// Without -noreset the server begins anew, and refuses whoever comes meanwhile, each time nobody is left.
	screen := harness.Start(t, nil, "sh", "-c", "exec Xvfb -noreset -displayfd 3 -nolisten tcp -auth "+dir+"/server 3>"+dir+"/number")
	harness.Eventually(t, 30*time.Second, "Xvfb has a display", func() bool {
		b, _ := os.ReadFile(dir + "/number")
		display = strings.TrimSpace(string(b))
		return strings.HasSuffix(string(b), "\n")
	})
	defer screen.Stop(t)
	env := []string{"DISPLAY=:" + display, "XAUTHORITY=" + dir + "/xauth"}
	if r := harness.RunEnv(t, env, nil, "xauth", "-q", "add", ":"+display, ".", cookie); r.Code != 0 {
		t.Fatal(show(r))
	}
	number := regexp.MustCompile(`localhost:\d+`)
	clean := func(r harness.Result) string { return number.ReplaceAllString(show(r), "localhost:N") }
	// The first xauth of all in a home says that it makes the file.
	if r := harness.Run(t, nil, "ssh", x.ways[0].args(x.ways[0].host, "umask 077; : >>~/.Xauthority")...); r.Code != 0 {
		t.Fatal(show(r))
	}
	same(t, x.ways, func(t *testing.T, w way) string {
		run := func(args ...string) string { return clean(harness.RunEnv(t, env, nil, "ssh", w.args(args...)...)) }
		plain := run("-Y", w.host, "echo $DISPLAY; xdpyinfo | sed -n '/version number/p;/vendor string/p;/dimensions/p'; for i in 1 2 3 4; do xdpyinfo >/dev/null & done; wait; xauth list $DISPLAY | wc -l; exit 4")
		// Stock clients ask for untrusted forwarding by -X; this Xvfb has the extension for it.
		untrusted := run("-X", w.host, "xdpyinfo | sed -n '/vendor string/p'")
		pty := run("-Y", "-tt", w.host, "echo $DISPLAY; xdpyinfo >/dev/null && echo drawn")
		without := run("-x", w.host, "echo [$DISPLAY]")
		stranger := run("-Y", w.host, "XAUTHORITY=/dev/null xdpyinfo >/dev/null 2>&1; echo $?")
		return plain + untrusted + pty + without + stranger
	})
}

func background(t *testing.T, x scene) {
	dir := tempDir(t)
	same(t, x.ways, func(t *testing.T, w way) string {
		mark := filepath.Join(dir, strings.ReplaceAll(w.name, " ", ""))
		at := fmt.Sprintf("127.0.0.1:%d", harness.FreePort(t))
		echo := echoServer(t, "tcp", "127.0.0.1:0")
		// -f goes to the background once the forwards stand; the command's end ends it.
		r := harness.Run(t, nil, "ssh", w.args("-f", "-o", "ExitOnForwardFailure=yes", "-L", at+":"+echo, w.host, "while ! test -e "+mark+"; do sleep 0.1; done; echo done > "+mark+".done")...)
		got := through(t, "tcp", at, []byte("abc"))
		mustWrite(t, mark, "", 0o644)
		harness.Eventually(t, 20*time.Second, w.name+": the command in the background ends", func() bool { _, err := os.Stat(mark + ".done"); return err == nil })
		p := harness.Start(t, nil, "ssh", w.args("-N", "-L", mark+".sock:"+echo, w.host)...)
		held := through(t, "unix", mark+".sock", []byte("abc"))
		p.Stop(t)
		return show(r) + got + held
	})
}

func sftpBatch(t *testing.T, x scene) {
	same(t, x.ways, func(t *testing.T, w way) string {
		dir := tempDir(t)
		far := dir + "/far"
		mustWrite(t, far+"/a", "content of a\n", 0o640)
		mustWrite(t, far+"/d/b", "b", 0o604)
		for _, p := range []string{far + "/a", far + "/d/b", far + "/d", far} {
			old := time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)
			os.Chtimes(p, old, old)
		}
		batch := fmt.Sprintf("cd %[1]s\npwd\nls -1\nls -l a\nls -ln a\nls -la d\nget a %[2]s/a\nget -p a %[2]s/ap\nget -r d %[2]s/d\nput -p %[2]s/a up\nput -r %[2]s/d dd\nchmod 4711 up\nls -ln up\nsymlink a s\nln a h\n"+
			"rename a r\nls -1\ncp r copy\nmkdir e\nrmdir e\ndf -i\nchown 7 up\nchgrp 7 up\nls -ln up\nrm h\n-rm none\n-rmdir d\n-get none\n-mkdir d\n-chmod 600 none\n-rename none x\nlls -1 %[2]s\nls -lh\nls *o*\nls -S\n", far, dir)
		r := harness.Run(t, []byte(batch), "sftp", append([]string{"-q", "-b", "-"}, w.args(w.host)...)...)
		// Of the file system's figures only that they are there can be compared.
		r.Stdout = regexp.MustCompile(`(?m)^ +\d+ +\d+ +\d+ +\d+ +\d+%`).ReplaceAll(r.Stdout, []byte("FIGURES"))
		// Files made now have today's time in the long listing.
		r.Stdout = regexp.MustCompile(`[A-Z][a-z]{2} [ \d]\d \d\d:\d\d`).ReplaceAll(r.Stdout, []byte("NOW"))
		// Columns are as wide as the directory's name is long.
		r.Stdout = regexp.MustCompile(`(?m) +$`).ReplaceAll(r.Stdout, nil)
		fi, _ := os.Stat(dir + "/ap")
		home := harness.Run(t, []byte("pwd\n"), "sftp", append([]string{"-q", "-b", "-"}, w.args(w.host)...)...)
		stops := harness.Run(t, []byte("get /none\nmkdir "+dir+"/never\n"), "sftp", append([]string{"-q", "-b", "-"}, w.args(w.host)...)...)
		return strings.ReplaceAll(show(r)+listing(dir)+fmt.Sprint(fi.ModTime().UTC())+show(home)+show(stops), dir, "D")
	})
}

func sftpResume(t *testing.T, x scene) {
	blob := make([]byte, 1<<20)
	rand.Read(blob)
	same(t, x.ways, func(t *testing.T, w way) string {
		dir := tempDir(t)
		mustWrite(t, dir+"/src", string(blob), 0o644)
		mustWrite(t, dir+"/half", string(blob[:300_000]), 0o644)
		mustWrite(t, dir+"/halfup", string(blob[:500_000]), 0o644)
		batch := fmt.Sprintf("reget %[1]s/src %[1]s/half\nreput %[1]s/src %[1]s/halfup\nget -f %[1]s/src %[1]s/synced\n", dir)
		r := harness.Run(t, []byte(batch), "sftp", append([]string{"-q", "-b", "-"}, w.args(w.host)...)...)
		return strings.ReplaceAll(show(r)+listing(dir), dir, "D")
	})
}

func controlCommands(t *testing.T, x scene) {
	dir := tempDir(t)
	echo := echoServer(t, "tcp", "127.0.0.1:0")
	same(t, x.ways, func(t *testing.T, w way) string {
		ctl := filepath.Join(dir, strings.ReplaceAll(w.name, " ", ""))
		master := harness.Start(t, nil, "ssh", w.args("-M", "-S", ctl, "-N", w.host)...)
		harness.Eventually(t, 20*time.Second, w.name+": the master is up", func() bool { _, err := os.Stat(ctl); return err == nil })
		var b strings.Builder
		do := func(args ...string) {
			r := w.ssh(t, nil, append([]string{"-S", ctl}, append(args, w.host)...)...)
			r.Stderr = regexp.MustCompile(`pid=\d+`).ReplaceAll(r.Stderr, []byte("pid"))
			fmt.Fprintln(&b, args[1], show(r))
		}
		local, remote := fmt.Sprintf("127.0.0.1:%d", harness.FreePort(t)), fmt.Sprintf("127.0.0.1:%d", harness.FreePort(t))
		do("-O", "check")
		do("-O", "forward", "-L", local+":"+echo)
		do("-O", "forward", "-R", remote+":"+echo)
		fmt.Fprintln(&b, through(t, "tcp", local, []byte("abc")), through(t, "tcp", remote, []byte("abc")))
		do("-O", "cancel", "-L", local+":"+echo)
		do("-O", "cancel", "-R", remote+":"+echo)
		for _, at := range []string{local, remote} {
			harness.Eventually(t, 10*time.Second, w.name+": the forward is gone", func() bool {
				c, err := net.Dial("tcp", at)
				if err == nil {
					c.Close()
				}
				return err != nil
			})
		}
		do("-O", "forward", "-R", remote+":"+echo) // the port is free again
		r := w.ssh(t, nil, "-S", ctl, "-O", "forward", "-R", "0:"+echo, w.host)
		port, err := strconv.Atoi(strings.TrimSpace(string(r.Stdout)))
		fmt.Fprintln(&b, r.Code, string(r.Stderr), port > 0, err)
		fmt.Fprintln(&b, through(t, "tcp", fmt.Sprintf("127.0.0.1:%d", port), []byte("abc")))
		session := harness.Start(t, nil, "ssh", w.args("-S", ctl, w.host, "cat /dev/zero | head -c 1000; sleep 2; exit 6")...)
		do("-O", "stop")
		<-session.Done() // what runs goes on to its end
		fmt.Fprintln(&b, session.Cmd.ProcessState.ExitCode(), len(session.Output()))
		master.Stop(t)
		return b.String()
	})
}

// terminal is a tmux of its own in which a client runs, as a person has it before him.
type terminal struct {
	t    *testing.T
	sock string
}

func (m terminal) tmux(args ...string) string {
	m.t.Helper()
	return string(harness.Run(m.t, nil, "tmux", append([]string{"-S", m.sock, "-f", "/dev/null"}, args...)...).Stdout)
}

func openTerminal(t *testing.T, dir, name string, command ...string) terminal {
	t.Helper()
	m := terminal{t, filepath.Join(dir, name)}
	m.tmux(append([]string{"new-session", "-d", "-x", "80", "-y", "24", "-e", "TERM=screen"}, command...)...)
	m.tmux("set-option", "-g", "remain-on-exit", "on")
	m.tmux("set-option", "-g", "status", "off")
	t.Cleanup(func() { // the test's context is over by then
		if out, err := exec.Command("tmux", "-S", m.sock, "kill-server").CombinedOutput(); err != nil {
			t.Logf("tmux: %v %s", err, out)
		}
	})
	return m
}

func (m terminal) screen() string { return m.tmux("capture-pane", "-p") }

func (m terminal) sees(what string) {
	m.t.Helper()
	var last string
	defer func() {
		if m.t.Failed() {
			m.t.Logf("the screen:\n%s", last)
		}
	}()
	harness.Eventually(m.t, 30*time.Second, "the screen shows "+what, func() bool {
		if last = m.screen(); strings.Contains(last, what) {
			return true
		}
		time.Sleep(50 * time.Millisecond) // each look is a process
		return false
	})
}

// A full-screen program follows the window, and the client's own escapes work.
func escapes(t *testing.T, x scene) {
	harness.Need(t, "tmux")
	dir := tempDir(t)
	echo := echoServer(t, "tcp", "127.0.0.1:0")
	same(t, x.ways, func(t *testing.T, w way) string {
		name := strings.ReplaceAll(w.name, " ", "")
		inner := filepath.Join(dir, "in-"+name)
		local := fmt.Sprintf("127.0.0.1:%d", harness.FreePort(t))
		m := openTerminal(t, dir, name, append([]string{"ssh"}, w.args("-o", "LogLevel=INFO", "-t", "-L", local+":"+echo, w.host,
			"env -u TMUX tmux -S "+inner+" -f /dev/null new-session 'printf here; exec cat' \\; set status off; echo left; exec sh -c 'stty -echo; printf ready; exec cat'")...)...)
		m.sees("here")
		var b strings.Builder
		for _, size := range [][2]string{{"91", "17"}, {"132", "50"}, {"40", "10"}} {
			m.tmux("resize-window", "-x", size[0], "-y", size[1])
			harness.Eventually(t, 20*time.Second, w.name+": the inner screen is "+size[0]+"x"+size[1], func() bool {
				return strings.TrimSpace(string(harness.Run(t, nil, "tmux", "-S", inner, "list-clients", "-F", "#{client_width}x#{client_height}").Stdout)) == size[0]+"x"+size[1]
			})
		}
		m.tmux("send-keys", "typed", "Enter")
		m.sees("typed\ntyped")
		fmt.Fprintln(&b, m.screen())
		harness.Run(t, nil, "tmux", "-S", inner, "kill-server")
		m.sees("ready")
		m.tmux("send-keys", "Enter", "~#")
		m.sees("t4") // a pty session and nothing forwarded: "#0 client-session"
		fmt.Fprintln(&b, "listed")
		m.tmux("send-keys", "Enter", "~B")
		m.tmux("send-keys", "Enter", "alive", "Enter")
		m.sees("alive")
		m.tmux("send-keys", "Enter", "~~.", "Enter") // a tilde that is typed
		m.sees("~.")
		m.tmux("send-keys", "Enter", "~R")
		m.tmux("send-keys", "Enter", "rekeyed", "Enter")
		m.sees("rekeyed")
		fmt.Fprintln(&b, hangsUp(t, w, dir))
		return b.String()
	})
}

// hangsUp ends a session in a terminal by ~., and says how ssh ended when nothing of the session runs any more.
func hangsUp(t *testing.T, w way, dir string) string {
	t.Helper()
	sleep := "sleep 3601." + filepath.Base(dir)[1:] // no other test's
	running := func() int {
		return len(strings.Fields(string(harness.Run(t, nil, "pgrep", "-fx", sleep).Stdout)))
	}
	m := openTerminal(t, dir, "hangs-"+strings.ReplaceAll(w.name, " ", ""),
		append([]string{"sh", "-c", `ssh "$@"; echo code $?; exec cat`, "sh"}, w.args("-t", w.host, "echo begun; "+sleep+" & exec "+sleep)...)...)
	m.sees("begun")
	harness.Eventually(t, 10*time.Second, w.name+": the session's two processes run", func() bool { return running() == 2 })
	m.tmux("send-keys", "Enter", "~.")
	m.sees("code ")
	harness.Eventually(t, 20*time.Second, w.name+": nothing of the session is left", func() bool { return running() == 0 })
	return regexp.MustCompile(`code \d+`).FindString(m.screen())
}

func refusedForwards(t *testing.T, x scene) {
	dir := tempDir(t)
	taken := echoServer(t, "tcp", "127.0.0.1:0")
	sock := echoServer(t, "unix", dir+"/taken")
	closed := fmt.Sprintf("127.0.0.1:%d", harness.FreePort(t))
	same(t, x.ways, func(t *testing.T, w way) string {
		var b strings.Builder
		for _, args := range [][]string{
			{"-N", "-o", "ExitOnForwardFailure=yes", "-R", taken + ":127.0.0.1:1"},
			{"-N", "-o", "ExitOnForwardFailure=yes", "-L", taken + ":127.0.0.1:1"},
			{"-N", "-o", "ExitOnForwardFailure=yes", "-R", sock + ":127.0.0.1:1"},
			{"-W", closed}, {"-W", "no-such-host.invalid:80"}, {"-W", "[::1]:" + strings.TrimPrefix(closed, "127.0.0.1:")},
		} {
			r := w.ssh(t, nil, append(args, w.host)...)
			fmt.Fprintln(&b, args, show(r))
		}
		// Without ExitOnForwardFailure the session runs all the same.
		r := w.ssh(t, nil, "-R", taken+":127.0.0.1:1", w.host, "echo ran")
		fmt.Fprintln(&b, show(r))
		// A connection that is refused at the far end is closed at the near one.
		local := fmt.Sprintf("127.0.0.1:%d", harness.FreePort(t))
		p := harness.Start(t, nil, "ssh", w.args("-N", "-L", local+":"+closed, "-L", dir+"/"+strings.ReplaceAll(w.name, " ", "")+":"+dir+"/none", w.host)...)
		fmt.Fprintln(&b, through(t, "tcp", local, nil) == digest(nil), through(t, "unix", dir+"/"+strings.ReplaceAll(w.name, " ", ""), nil) == digest(nil))
		out := p.Output()
		p.Stop(t)
		fmt.Fprintln(&b, strings.Count(out, "open failed"))
		return b.String()
	})
}

// The addresses that -R may name, as GatewayPorts=no has them.
func remoteNames(t *testing.T, x scene) {
	echo := echoServer(t, "tcp", "127.0.0.1:0")
	same(t, x.ways, func(t *testing.T, w way) string {
		var b strings.Builder
		for _, bind := range []string{"", "localhost:", "*:", "127.0.0.1:", "0.0.0.0:"} {
			port := strconv.Itoa(harness.FreePort(t))
			p := harness.Start(t, nil, "ssh", w.args("-N", "-o", "ExitOnForwardFailure=yes", "-R", bind+port+":"+echo, w.host)...)
			fmt.Fprintln(&b, bind, through(t, "tcp", "127.0.0.1:"+port, []byte("abc")))
			six := "none"
			if c, err := net.DialTimeout("tcp", "[::1]:"+port, time.Second); err == nil {
				six = "there"
				c.Close()
			}
			ss := harness.Run(t, nil, "sh", "-c", "ss -Hltn 'sport = :"+port+"' | awk '{print $4}' | grep -c -v -e 127.0.0.1 -e '\\[::1\\]'")
			fmt.Fprintln(&b, six, string(ss.Stdout))
			p.Stop(t)
		}
		return b.String()
	})
}

func keepalives(t *testing.T, x scene) {
	blob := make([]byte, 300_000)
	rand.Read(blob)
	same(t, x.ways, func(t *testing.T, w way) string {
		quiet := w.ssh(t, nil, "-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=1", w.host, "sleep 3.2; echo ok")
		small := w.ssh(t, blob, "-C", "-o", "RekeyLimit=64K", w.host, "cat")
		hash := fmt.Sprint(small.Code, len(small.Stdout), bytes.Equal(small.Stdout, blob), string(small.Stderr))
		tty := w.ssh(t, nil, "-tt", "-o", "ServerAliveInterval=1", "-o", "RequestTTY=force", "-o", "SetEnv=LC_A=b", w.host, "stty -a | head -1; echo $LC_A; sleep 1.2; exit 9")
		stdin := w.ssh(t, nil, "-o", "StdinNull=yes", "-o", "SessionType=default", w.host, "cat; echo end")
		remote := w.ssh(t, nil, "-o", "RemoteCommand=echo by option; exit 8", w.host)
		return show(quiet) + hash + show(tty) + show(stdin) + show(remote)
	})
}
