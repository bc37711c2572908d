// Package ways_test compares a person's stock clients against a plain sshd on
// the same machine: in hub mode and end to end, every byte and exit code must
// be the same.
package ways_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hawser/test/harness"
)

func TestMain(m *testing.M) {
	flag.Parse()
	_ = flag.Set("test.parallel", "6") // clients mostly wait
	harness.Main(m, printMatrix)
}

// way is one road to a shell on this machine.
type way struct {
	name   string
	config string // ssh_config
	host   string // alias in it
	hub    bool   // the hub ends SSH
}

// ssh runs ssh(1) this way.
func (w way) ssh(t testing.TB, stdin []byte, args ...string) harness.Result {
	t.Helper()
	return harness.Run(t, stdin, "ssh", w.args(args...)...)
}

func (w way) args(args ...string) []string {
	return append([]string{"-F", w.config, "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"}, args...)
}

// as are the options that log in to another account than root.
func (w way) as(login string) []string {
	if w.hub {
		login += "=" + w.host
	}
	return []string{"-l", login}
}

// setup starts one cluster and one sshd for a test and its subtests.
func setup(t *testing.T) (*harness.Cluster, []way) {
	t.Helper()
	harness.Root(t)
	harness.Need(t, "ssh", "scp", "sftp")
	c := harness.Up(t, 1)
	s := harness.StartSSHD(t)
	return c, []way{
		{name: "sshd", config: s.Config, host: "plain"},
		{name: "hub", config: c.Ready.SSHConfig, host: "gw-1", hub: true},
		{name: "end to end", config: c.Ready.SSHConfig, host: "e2e-gw-1"},
	}
}

// same runs f every way, compares what the ways gave with what sshd gave, and makes a row of the matrix of it.
func same(t *testing.T, ways []way, f func(t *testing.T, w way) string) {
	t.Helper()
	want := ""
	for i, w := range ways {
		got := f(t, w)
		if i == 0 {
			want = got
			continue
		}
		verdict := "same"
		if got != want {
			verdict = "DIFFERS: " + difference(got, want)
			t.Errorf("%s differs from sshd\n got %.2000q\nwant %.2000q", w.name, got, want)
		}
		cell(row(t), w.name, verdict)
	}
}

func show(r harness.Result) string {
	return fmt.Sprintf("stdout %q\nstderr %q\ncode %d", r.Stdout, r.Stderr, r.Code)
}

func TestClientsSeeWhatSSHDShows(t *testing.T) {
	_, ways := setup(t)
	blob := make([]byte, 3<<20)
	rand.Read(blob)

	exec := map[string]struct {
		stdin []byte
		args  []string // HOST is replaced by the alias
	}{
		"output, errors and exit code apart": {nil, []string{"HOST", "echo o; echo e >&2; exit 7"}},
		"true":                               {nil, []string{"HOST", "true"}},
		"a command that is not there":        {nil, []string{"HOST", "no-such-command-here"}},
		"exit by signal":                     {nil, []string{"HOST", "kill -TERM $$"}},
		"exit by SIGKILL":                    {nil, []string{"HOST", "kill -KILL $$"}},
		"standard input to its end":          {[]byte("a\nb\n"), []string{"HOST", "cat; echo end"}},
		"no standard input (-n)":             {[]byte("x"), []string{"-n", "HOST", "cat; echo end"}},
		"half-close":                         {[]byte("3\n1\n2\n"), []string{"HOST", "sort; sleep 0.1; echo after"}},
		"binary both ways":                   {blob, []string{"HOST", "cat"}},
		"much on stderr":                     {nil, []string{"HOST", "head -c 2000000 /dev/zero >&2; echo ok"}},
		"both streams interleaved":           {nil, []string{"HOST", "for i in 1 2 3 4 5 6 7 8 9; do echo $i; echo $i >&2; done"}},
		"process ignores stdin":              {blob, []string{"HOST", "echo early; exit 3"}},
		"environment":                        {nil, []string{"-o", "SetEnv=LANG=C.UTF-8", "-o", "SetEnv=LC_X=y", "HOST", "echo $LANG $LC_X $HOME $USER $LOGNAME $SHELL; pwd"}},
		"forbidden environment":              {nil, []string{"-o", "SetEnv=LD_PRELOAD=/x", "HOST", "echo [$LD_PRELOAD]; echo [$BASH_ENV]"}},
		"a script on stdin (-T)":             {[]byte("echo one\nexit 4\n"), []string{"-T", "HOST"}},
		"a script for sh -s":                 {[]byte("echo $1\n"), []string{"HOST", "sh -s -- arg"}},
		"background process keeps pipe":      {nil, []string{"HOST", "(sleep 1; echo late) & echo early"}},
		"pty by force":                       {nil, []string{"-tt", "HOST", "tty >/dev/null && echo tty; stty size; exit 5"}},
		"pty merges the streams":             {nil, []string{"-tt", "HOST", "echo o; echo e >&2"}},
		"term":                               {nil, []string{"-tt", "HOST", "echo $TERM"}},
		"compression asked (-C)":             {nil, []string{"-C", "HOST", "echo c"}},
		"rekeying both ways":                 {blob[:512<<10], []string{"-o", "RekeyLimit=64K", "HOST", "cat"}},
		"server alive":                       {nil, []string{"-o", "ServerAliveInterval=1", "HOST", "sleep 2.5; echo ok"}},
		"subsystem that is not there":        {nil, []string{"-s", "HOST", "nosuch"}},
		"quoting":                            {nil, []string{"HOST", `printf '%s|' "a b" 'c$d' "e\"f"`}},
		"a long command":                     {nil, []string{"HOST", "echo " + strings.Repeat("x", 20000) + " | wc -c"}},
	}
	// A shell reads the start-up files of its account, and what root's do on this machine is not ours.
	login := harness.Account(t)
	for name, c := range exec {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			same(t, ways, func(t *testing.T, w way) string {
				args := make([]string, len(c.args))
				for i, a := range c.args {
					args[i] = strings.ReplaceAll(a, "HOST", w.host)
				}
				return show(w.ssh(t, c.stdin, append(w.as(login), args...)...))
			})
		})
	}
}

func TestShellSaysWhoIsThere(t *testing.T) {
	_, ways := setup(t)
	for _, w := range ways[1:] {
		r := w.ssh(t, nil, "-o", "SetEnv=HAWSER_USER=mallory", "-o", "SetEnv=SSH_CONNECTION=forged", w.host, "echo $HAWSER_USER $HAWSER_DEVICE ${#HAWSER_SESSION} $SSH_CONNECTION")
		f := strings.Fields(string(r.Stdout))
		if len(f) != 7 || f[0] != "admin" || f[1] != "gw-1" || f[2] != "32" || f[3] != "127.0.0.1" {
			t.Errorf("%s: got %q, want admin gw-1 32 and the client's address", w.name, r.Stdout)
		}
	}
}

func TestFilesTravelWhole(t *testing.T) {
	_, ways := setup(t)
	harness.Need(t, "rsync")
	dir := t.TempDir()
	blob := make([]byte, 5<<20+17)
	rand.Read(blob)
	src := filepath.Join(dir, "source file")
	if err := os.WriteFile(src, blob, 0o640); err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(dir, "tree")
	for i := range 40 {
		p := filepath.Join(tree, fmt.Sprintf("d%d", i%5), fmt.Sprintf("f%d", i))
		os.MkdirAll(filepath.Dir(p), 0o755)
		os.WriteFile(p, blob[i*1000:i*2000], 0o600)
	}
	os.Symlink("d1/f1", filepath.Join(tree, "link"))
	sum := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			return err.Error()
		}
		h := sha256.Sum256(b)
		return hex.EncodeToString(h[:8])
	}
	fresh := func(w way) string {
		d := filepath.Join(dir, strings.ReplaceAll(w.name, " ", "-")+"-"+strings.ReplaceAll(t.Name(), "/", "_"))
		os.RemoveAll(d)
		os.MkdirAll(d, 0o755)
		return d
	}
	for name, flag := range map[string]string{"scp over sftp": "-s", "legacy scp": "-O"} {
		t.Run(name, func(t *testing.T) {
			same(t, ways, func(t *testing.T, w way) string {
				d := fresh(w)
				up := harness.Run(t, nil, "scp", append([]string{flag, "-q", "-p"}, w.args(src, w.host+":"+d+"/up")...)...)
				down := harness.Run(t, nil, "scp", append([]string{flag, "-q"}, w.args(w.host+":"+d+"/up", d+"/down")...)...)
				dirs := harness.Run(t, nil, "scp", append([]string{flag, "-q", "-r"}, w.args(tree, w.host+":"+d+"/tree")...)...)
				missing := harness.Run(t, nil, "scp", append([]string{flag, "-q"}, w.args(w.host+":"+dir+"/none", d+"/none")...)...)
				fi, _ := os.Stat(d + "/up")
				return fmt.Sprint(up.Code, down.Code, dirs.Code, missing.Code, sum(d+"/up"), sum(d+"/down"), fi.Mode(), listing(d+"/tree"))
			})
		})
	}
	t.Run("sftp", func(t *testing.T) {
		same(t, ways, func(t *testing.T, w way) string {
			d := fresh(w)
			batch := fmt.Sprintf("cd %s\nput \"%s\" a\nchmod 600 a\nrename a b\nget b %s/got\nmkdir sub\nln -s b s\nls -1\nrm s\nrmdir sub\nput \"%s\" c\n", d, src, d, src)
			r := harness.Run(t, []byte(batch), "sftp", append([]string{"-q", "-b", "-"}, w.args(w.host)...)...)
			bad := harness.Run(t, []byte("get /no/such/file\n"), "sftp", append([]string{"-q", "-b", "-"}, w.args(w.host)...)...)
			fi, err := os.Stat(d + "/b")
			if err != nil {
				return err.Error() + show(r)
			}
			return strings.ReplaceAll(fmt.Sprint(r.Code, bad.Code, fi.Mode(), sum(d+"/b"), sum(d+"/got"), sum(d+"/c"), string(r.Stdout)), d, "D")
		})
	})
	t.Run("rsync", func(t *testing.T) {
		same(t, ways, func(t *testing.T, w way) string {
			d := fresh(w)
			shell := "ssh " + strings.Join(w.args(), " ")
			r1 := harness.Run(t, nil, "rsync", "-a", "-e", shell, tree+"/", w.host+":"+d+"/tree")
			r2 := harness.Run(t, nil, "rsync", "-a", "--delete", "-e", shell, w.host+":"+d+"/tree/", d+"/back")
			return fmt.Sprint(r1.Code, r2.Code, string(r1.Stderr), string(r2.Stderr), listing(d+"/tree"), listing(d+"/back"))
		})
	})
}

// listing is every file below dir with its mode, size and hash.
func listing(dir string) string {
	var b strings.Builder
	filepath.Walk(dir, func(p string, fi os.FileInfo, err error) error {
		if err != nil {
			fmt.Fprintln(&b, err)
			return nil
		}
		rel, _ := filepath.Rel(dir, p)
		fmt.Fprint(&b, rel, " ", fi.Mode())
		if fi.Mode().IsRegular() {
			data, _ := os.ReadFile(p)
			h := sha256.Sum256(data)
			fmt.Fprintf(&b, " %x", h[:4])
		}
		b.WriteByte('\n')
		return nil
	})
	return b.String()
}

// echoServer answers each connection with what it gets, until half-closed.
func echoServer(t *testing.T, network, addr string) string {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				buf := make([]byte, 32<<10)
				for {
					n, err := c.Read(buf)
					c.Write(buf[:n])
					if err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().String()
}

// through sends msg into a connection, half-closes it and returns what came back.
func through(t *testing.T, network, addr string, msg []byte) string {
	t.Helper()
	var c net.Conn
	harness.Eventually(t, 10*time.Second, "the forward listens at "+addr, func() bool {
		var err error
		c, err = net.Dial(network, addr)
		return err == nil
	})
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	go func() {
		c.Write(msg)
		c.(interface{ CloseWrite() error }).CloseWrite()
	}()
	var b bytes.Buffer
	if _, err := b.ReadFrom(c); err != nil {
		return err.Error()
	}
	h := sha256.Sum256(b.Bytes())
	return fmt.Sprint(b.Len(), hex.EncodeToString(h[:4]))
}

func TestForwards(t *testing.T) {
	_, ways := setup(t)
	blob := make([]byte, 1<<20)
	rand.Read(blob)
	echo := echoServer(t, "tcp", "127.0.0.1:0")
	dir := t.TempDir()
	sock := echoServer(t, "unix", filepath.Join(dir, "echo.sock"))

	// forward runs ssh -N with a forward and returns what f saw.
	forward := func(t *testing.T, w way, f func() string, args ...string) string {
		p := harness.Start(t, nil, "ssh", w.args(append([]string{"-N", "-o", "ExitOnForwardFailure=yes"}, append(args, w.host)...)...)...)
		out := f()
		p.Stop(t)
		return out
	}
	port := func() string { return fmt.Sprintf("127.0.0.1:%d", harness.FreePort(t)) }

	t.Run("-L", func(t *testing.T) {
		same(t, ways, func(t *testing.T, w way) string {
			at := port()
			return forward(t, w, func() string { return through(t, "tcp", at, blob) + through(t, "tcp", at, nil) }, "-L", at+":"+echo)
		})
	})
	t.Run("-L to a unix socket", func(t *testing.T) {
		same(t, ways, func(t *testing.T, w way) string {
			at := port()
			return forward(t, w, func() string { return through(t, "tcp", at, blob) }, "-L", at+":"+sock)
		})
	})
	t.Run("-R", func(t *testing.T) {
		same(t, ways, func(t *testing.T, w way) string {
			at := port()
			return forward(t, w, func() string { return through(t, "tcp", at, blob) + through(t, "tcp", at, nil) }, "-R", at+":"+echo)
		})
	})
	t.Run("-R to a unix socket", func(t *testing.T) {
		same(t, ways, func(t *testing.T, w way) string {
			at := filepath.Join(dir, strings.ReplaceAll(w.name, " ", "")+".sock")
			return forward(t, w, func() string { return through(t, "unix", at, blob) }, "-R", at+":"+echo)
		})
	})
	t.Run("-R 0", func(t *testing.T) {
		same(t, ways, func(t *testing.T, w way) string {
			p := harness.Start(t, nil, "ssh", append([]string{"-F", w.config, "-o", "BatchMode=yes", "-o", "LogLevel=INFO", "-N", "-R", "0:" + echo}, w.host)...)
			var at int
			harness.Eventually(t, 10*time.Second, w.name+" says which port it chose", func() bool {
				i := strings.Index(p.Output(), "Allocated port ")
				if i < 0 {
					return false
				}
				n, _ := fmt.Sscanf(p.Output()[i:], "Allocated port %d", &at)
				return n == 1
			})
			got := through(t, "tcp", fmt.Sprintf("127.0.0.1:%d", at), blob)
			p.Stop(t)
			return got
		})
	})
	t.Run("-W", func(t *testing.T) {
		same(t, ways, func(t *testing.T, w way) string {
			return show(w.ssh(t, []byte("through"), "-W", echo, w.host))
		})
	})
	t.Run("-W to a closed port", func(t *testing.T) {
		closed := port()
		same(t, ways, func(t *testing.T, w way) string {
			r := w.ssh(t, nil, "-W", closed, w.host)
			return fmt.Sprint(r.Code, len(r.Stdout))
		})
	})
	t.Run("-D", func(t *testing.T) {
		harness.Need(t, "curl")
		web := filepath.Join(dir, "www")
		os.MkdirAll(web, 0o755)
		os.WriteFile(filepath.Join(web, "index"), blob[:100000], 0o644)
		at := port()
		_, p, _ := net.SplitHostPort(at)
		harness.Start(t, nil, "python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", web, p)
		harness.Eventually(t, 20*time.Second, "the web server listens", func() bool {
			c, err := net.Dial("tcp", at)
			if err == nil {
				c.Close()
			}
			return err == nil
		})
		same(t, ways, func(t *testing.T, w way) string {
			socks := port()
			return forward(t, w, func() string {
				r := harness.Run(t, nil, "curl", "-s", "--retry", "20", "--retry-connrefused", "--retry-delay", "1", "--socks5-hostname", socks, "http://"+at+"/index")
				h := sha256.Sum256(r.Stdout)
				return fmt.Sprint(r.Code, hex.EncodeToString(h[:4]))
			}, "-D", socks)
		})
	})
	t.Run("ExitOnForwardFailure", func(t *testing.T) {
		same(t, ways, func(t *testing.T, w way) string {
			r := w.ssh(t, nil, "-N", "-o", "ExitOnForwardFailure=yes", "-R", echo+":127.0.0.1:1", w.host)
			return fmt.Sprint(r.Code)
		})
	})
}

func TestEightSessionsOverOneConnection(t *testing.T) {
	_, ways := setup(t)
	dir, err := os.MkdirTemp("", "cm") // a control path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	same(t, ways, func(t *testing.T, w way) string {
		ctl := filepath.Join(dir, strings.ReplaceAll(w.name, " ", ""))
		master := harness.Start(t, nil, "ssh", w.args("-M", "-S", ctl, "-N", w.host)...)
		harness.Eventually(t, 10*time.Second, w.name+": the master is up", func() bool { _, err := os.Stat(ctl); return err == nil })
		var wg sync.WaitGroup
		var saw [9]string
		for n := range 8 {
			wg.Go(func() {
				in := bytes.Repeat([]byte{byte('a' + n)}, 200000)
				r := w.ssh(t, in, "-S", ctl, w.host, fmt.Sprintf("cat; exit %d", n))
				if r.Code != n || !bytes.Equal(r.Stdout, in) {
					t.Errorf("%s session %d: code %d, %d bytes\n%s", w.name, n, r.Code, len(r.Stdout), r.Stderr)
				}
				saw[n] = fmt.Sprintf("session %d: code %d, %d bytes, %q", n, r.Code, len(r.Stdout), r.Stderr)
			})
		}
		wg.Wait()
		check, exit := w.ssh(t, nil, "-S", ctl, "-O", "check", w.host), w.ssh(t, nil, "-S", ctl, "-O", "exit", w.host)
		if check.Code != 0 || exit.Code != 0 {
			t.Errorf("%s: -O check: %s\n-O exit: %s", w.name, show(check), show(exit))
		}
		saw[8] = fmt.Sprintf("check %d, exit %d", check.Code, exit.Code)
		master.Stop(t)
		return strings.Join(saw[:], "\n")
	})
}

func TestAgentForwarding(t *testing.T) {
	_, ways := setup(t)
	dir := t.TempDir()
	sock := filepath.Join(dir, "agent")
	harness.Start(t, nil, "ssh-agent", "-D", "-a", sock)
	harness.Eventually(t, 5*time.Second, "the agent listens", func() bool { _, err := os.Stat(sock); return err == nil })
	key := filepath.Join(dir, "key")
	for _, cmd := range [][]string{{"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "forwarded", "-f", key}, {"ssh-add", "-q", key}} {
		c := exec.Command(cmd[0], cmd[1:]...)
		c.Env = append(os.Environ(), "SSH_AUTH_SOCK="+sock)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd, err, out)
		}
	}
	same(t, ways, func(t *testing.T, w way) string {
		r := harness.RunEnv(t, []string{"SSH_AUTH_SOCK=" + sock}, nil, "ssh", w.args("-A", w.host, "ssh-add -l; ssh-add -L")...)
		without := harness.RunEnv(t, []string{"SSH_AUTH_SOCK=" + sock}, nil, "ssh", w.args("-a", w.host, "echo [$SSH_AUTH_SOCK]")...)
		return show(r) + show(without)
	})
}

func TestNoSessionIsEmpty(t *testing.T) {
	_, ways := setup(t)
	n := 60
	if harness.Long() {
		n = 200
	}
	for _, w := range ways[1:] {
		for i := range n {
			if r := w.ssh(t, nil, w.host, "echo x"); string(r.Stdout) != "x\n" || r.Code != 0 {
				t.Fatalf("%s, run %d: %s", w.name, i, show(r))
			}
		}
	}
}

func TestFiftyMegabytesIn(t *testing.T) {
	_, ways := setup(t)
	blob := make([]byte, 50<<20)
	rand.Read(blob)
	want := sha256.Sum256(blob)
	for _, w := range ways[1:] {
		r := w.ssh(t, blob, w.host, "sha256sum")
		if got := strings.Fields(string(r.Stdout)); len(got) == 0 || got[0] != hex.EncodeToString(want[:]) {
			t.Errorf("%s: %s", w.name, show(r))
		}
	}
}
