package access

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"

	"hawser/test/harness"
)

const password = "seven purple tin whistles"

// laptop is that of a person, with a profile and a home of his own.
type laptop struct {
	c          *harness.Cluster
	name, home string
	env        []string
	secret     string // of his authenticator
	steps      int64  // codes used: one is good once
}

func newLaptop(t *testing.T, c *harness.Cluster, name string) *laptop {
	t.Helper()
	p := &laptop{c: c, name: name, home: filepath.Join(t.TempDir(), "hawser")}
	p.env = []string{"HAWSER_HOME=" + p.home, "HOME=" + filepath.Dir(p.home), "SSH_AUTH_SOCK="}
	return p
}

func (p *laptop) hawser(t *testing.T, stdin string, args ...string) harness.Result {
	t.Helper()
	return harness.RunEnv(t, p.env, []byte(stdin), harness.Program(t, "hawser"), args...)
}

func (p *laptop) must(t *testing.T, args ...string) string {
	t.Helper()
	r := p.hawser(t, "", args...)
	if r.Code != 0 {
		t.Fatalf("hawser %s: exit %d: %s", args[0], r.Code, r.Stderr)
	}
	return string(r.Stdout)
}

// code is the authenticator's: of now, and then those to come, of which one is taken early.
func (p *laptop) code(t *testing.T) string {
	t.Helper()
	step := time.Now().Unix() / 30
	if p.steps >= step {
		step = p.steps + 1
	}
	if step > time.Now().Unix()/30+1 {
		time.Sleep(time.Until(time.Unix((step-1)*30, 0))) // an authenticator shows the next one then, no sooner
	}
	p.steps = step
	return harness.CodeAt(t, p.secret, step)
}

// invite makes the user and returns the arguments of the line an admin hands over.
func invite(t *testing.T, c *harness.Cluster, name string, roles ...string) []string {
	t.Helper()
	args := []string{"user", "invite", name}
	for _, r := range roles {
		args = append(args, "--role", r)
	}
	line := strings.Fields(c.Must(t, args...))
	if len(line) != 4 || line[0] != "hawser" {
		t.Fatalf("hawser user invite printed %q", line)
	}
	return line[1:]
}

// dialogue is a program at a terminal.
type dialogue struct {
	t   *testing.T
	f   *os.File
	cmd *exec.Cmd

	mu   sync.Mutex
	out  bytes.Buffer
	at   int // where the next wait looks from
	more chan struct{}

	end   chan error
	ended time.Time // once end has said so
}

func talk(t *testing.T, env []string, name string, args ...string) *dialogue {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	f, err := pty.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	d := &dialogue{t: t, f: f, cmd: cmd, more: make(chan struct{}, 1), end: make(chan error, 1)}
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := f.Read(b)
			d.mu.Lock()
			d.out.Write(b[:n])
			d.mu.Unlock()
			select {
			case d.more <- struct{}{}:
			default:
			}
			if err != nil {
				err := cmd.Wait()
				d.ended = time.Now()
				d.end <- err
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = f.Close()
	})
	return d
}

// wait returns what a pattern matched, in what was printed since the last wait.
func (d *dialogue) wait(pattern string) []string {
	d.t.Helper()
	re := regexp.MustCompile(pattern)
	deadline := time.After(20 * time.Second)
	for {
		d.mu.Lock()
		rest := d.out.Bytes()[d.at:]
		if loc := re.FindIndex(rest); loc != nil {
			var got []string
			for _, m := range re.FindSubmatch(rest) {
				got = append(got, string(m))
			}
			d.at += loc[1]
			d.mu.Unlock()
			return got
		}
		d.mu.Unlock()
		select {
		case <-d.more:
		case <-deadline:
			d.t.Fatalf("no %q in\n%s", pattern, d.text())
		}
	}
}

func (d *dialogue) text() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.out.String()
}

func (d *dialogue) say(line string) { _, _ = d.f.WriteString(line + "\n") }

// code waits for the end.
func (d *dialogue) code() int {
	d.t.Helper()
	select {
	case <-d.end:
		return d.cmd.ProcessState.ExitCode()
	case <-time.After(20 * time.Second):
		d.t.Fatalf("%s goes on:\n%s", d.cmd.Path, d.text())
		return -1
	}
}

// accept takes an invitation at a terminal, with an authenticator.
func (p *laptop) accept(t *testing.T, args []string) {
	t.Helper()
	d := talk(t, p.env, harness.Program(t, "hawser"), args...)
	d.wait(`New password.*: `)
	d.say(password)
	d.wait(`Once more: `)
	d.say(password)
	d.wait(`[▀▄█ ]{20}`) // the QR code
	p.secret = d.wait(`secret: ([A-Z2-7]+)`)[1]
	d.wait(`code.*: `)
	d.say("000000")
	d.wait(`[Cc]ode.*: `)
	d.say(p.code(t))
	if code := d.code(); code != 0 {
		t.Fatalf("accept: exit %d\n%s", code, d.text())
	}
	if strings.Contains(d.text(), password) {
		t.Error("the password was shown")
	}
}

// agent is a real ssh-agent.
func (p *laptop) agent(t *testing.T) {
	t.Helper()
	dir, err := os.MkdirTemp("", "ag") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	sock := filepath.Join(dir, "s")
	harness.Start(t, nil, "ssh-agent", "-D", "-a", sock)
	harness.Eventually(t, 10*time.Second, "ssh-agent listens", func() bool {
		c, err := net.Dial("unix", sock)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	p.env[2] = "SSH_AUTH_SOCK=" + sock
}

func (p *laptop) ssh(t *testing.T, args ...string) harness.Result {
	t.Helper()
	return harness.RunEnv(t, p.env, nil, "ssh", append([]string{"-F", filepath.Join(p.home, "ssh_include")}, args...)...)
}

// A person is invited, sets password and authenticator, and works: all of it through a hub, for auth's own address is one that nobody answers at.
func TestLoginThroughAHub(t *testing.T) {
	t.Parallel()
	c := harness.Up(t, 1)
	p := newLaptop(t, c, "alice")
	p.agent(t)
	p.accept(t, invite(t, c, "alice", "operator"))

	if keys := harness.RunEnv(t, p.env, nil, "ssh-add", "-l"); strings.Count(string(keys.Stdout), "alice@") != 2 || !strings.Contains(string(keys.Stdout), "CERT") {
		t.Errorf("the agent holds\n%swant the key and its certificate", keys.Stdout)
	}
	if _, err := os.Stat(filepath.Join(p.home, "id_ed25519")); !os.IsNotExist(err) {
		t.Errorf("the private key is on disk: %v", err)
	}
	// Auth's own address goes, so that what works goes through a hub.
	settings := filepath.Join(p.home, "profile.yaml")
	text := regexp.MustCompile(`(?m)^api_addr:.*$`).ReplaceAllString(harness.ReadFile(t, settings), `api_addr: ""`)
	if err := os.WriteFile(settings, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	status := p.must(t, "status")
	for _, want := range []string{`user +alice`, `roles +operator`, `until .* left`, `key +in the ssh-agent`, `reached by +` + regexp.QuoteMeta(c.Ready.TunnelAddr) + `, hub`} {
		if !regexp.MustCompile(want).MatchString(status) {
			t.Errorf("status lacks %q:\n%s", want, status)
		}
	}
	p.must(t, "config", "ssh") // nobody to ask: the file is written, ~/.ssh/config left alone
	if _, err := os.Stat(filepath.Join(filepath.Dir(p.home), ".ssh", "config")); !os.IsNotExist(err) {
		t.Errorf("~/.ssh/config was touched: %v", err)
	}
	if r := p.ssh(t, "gw-1", "echo $HAWSER_USER"); string(r.Stdout) != "alice\n" {
		t.Errorf("ssh gw-1: exit %d, %q, %s", r.Code, r.Stdout, r.Stderr)
	}
	if r := p.ssh(t, "root@e2e-gw-1", "echo $HAWSER_USER"); string(r.Stdout) != "alice\n" {
		t.Errorf("ssh e2e-gw-1: exit %d, %q, %s", r.Code, r.Stdout, r.Stderr)
	}
	first := harness.ReadFile(t, filepath.Join(p.home, "id_ed25519.pub"))

	p.must(t, "logout")
	if keys := harness.RunEnv(t, p.env, nil, "ssh-add", "-l"); strings.Contains(string(keys.Stdout), "alice@") {
		t.Errorf("after logout the agent holds\n%s", keys.Stdout)
	}
	if r := p.hawser(t, "", "status"); r.Code != 4 || !strings.Contains(string(r.Stderr), "hawser login") {
		t.Errorf("status after logout: exit %d, %s", r.Code, r.Stderr)
	}
	if r := p.ssh(t, "gw-1", "true"); r.Code != 255 || !strings.Contains(string(r.Stderr), "hawser login") {
		t.Errorf("ssh after logout: exit %d, %s", r.Code, r.Stderr)
	}

	spent := harness.CodeAt(t, p.secret, p.steps)
	for name, args := range map[string][]string{
		"no code":         {"--password-stdin", "--no-otp"},
		"a code used":     {"--password-stdin", "--otp", spent},
		"nobody's name":   {"--password-stdin", "--no-otp", "--user", "mallory"},
		"another's login": {"--password-stdin", "--no-otp", "--user", "admin"},
	} {
		if r := p.hawser(t, password+"\n", append([]string{"login"}, args...)...); r.Code != 4 || !strings.Contains(string(r.Stderr), "user, password or code is wrong") {
			t.Errorf("%s: exit %d, %s", name, r.Code, r.Stderr)
		}
	}
	if r := p.hawser(t, password+"\n", "login", "--password-stdin", "--otp", p.code(t), "--no-agent"); r.Code != 0 {
		t.Fatalf("login: exit %d, %s", r.Code, r.Stderr)
	}
	if again := harness.ReadFile(t, filepath.Join(p.home, "id_ed25519.pub")); again == first {
		t.Error("a login makes no new key")
	}
	if st, err := os.Stat(filepath.Join(p.home, "id_ed25519")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v", st, err)
	}
	if r := p.ssh(t, "gw-1", "echo $HAWSER_USER"); string(r.Stdout) != "alice\n" {
		t.Errorf("ssh gw-1 with files: exit %d, %q, %s", r.Code, r.Stdout, r.Stderr)
	}
}

// keyFor makes an SSH key and registers it.
func keyFor(t *testing.T, c *harness.Cluster, user string, args ...string) string {
	t.Helper()
	key := newKey(t)
	c.Must(t, append([]string{"user", "key", "add", key + ".pub", "--user", user}, args...)...)
	return key
}

func newKey(t *testing.T) string {
	t.Helper()
	key := filepath.Join(t.TempDir(), "key")
	if r := harness.Run(t, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key); r.Code != 0 {
		t.Fatalf("ssh-keygen: %s", r.Stderr)
	}
	return key
}

// stock are ssh's arguments of somebody who has nothing of ours installed.
func stock(c *harness.Cluster, device string, keys ...string) []string {
	host, port, _ := net.SplitHostPort(c.Ready.SSHAddr)
	args := []string{"-F", "none", "-p", port, "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "GlobalKnownHostsFile=/dev/null"}
	for _, k := range keys {
		args = append(args, "-i", k)
	}
	return append(args, device+"@"+host)
}

func apply(t *testing.T, c *harness.Cluster, yaml string) {
	t.Helper()
	if r := c.Hawser(t, []byte(yaml), "apply", "-f", "-"); r.Code != 0 {
		t.Fatalf("apply: %s", r.Stderr)
	}
}

const allow = "allow: {devices: {\"*\": [\"*\"]}, logins: [\"*\"], channels: [shell, exec, sftp, local-forward]}\n"

// ssh with a registered key, nothing of ours installed: the hub asks for a code, and what restricts the key holds after it as before.
func TestStockSSHIsAskedForACode(t *testing.T) {
	t.Parallel()
	c := harness.Up(t, 1)
	apply(t, c, "kind: role\nname: careful\n"+allow+"options: {mfa: session}\n")
	p, limited := newLaptop(t, c, "carol"), newLaptop(t, c, "cora")
	p.accept(t, invite(t, c, "carol", "careful"))
	limited.accept(t, invite(t, c, "cora", "careful"))
	key := keyFor(t, c, "carol")
	forced := keyFor(t, c, "cora", "--force-command", "echo only this")

	if r := harness.Run(t, nil, "ssh", append(append([]string{"-o", "BatchMode=yes"}, stock(c, "gw-1", key)...), "true")...); r.Code != 255 {
		t.Errorf("with nobody to ask: exit %d, %s", r.Code, r.Stderr)
	}
	// A key that is good elsewhere only is refused here before any code, and after one as well: auth judges it each time.
	elsewhere := keyFor(t, c, "carol", "--source", "192.0.2.0/24")
	d := talk(t, p.env, "ssh", append(stock(c, "gw-1", elsewhere), "true")...)
	if code := d.code(); code != 255 || strings.Contains(d.text(), "authenticator:") {
		t.Errorf("a key of another network: exit %d\n%s", code, d.text())
	}
	d = talk(t, p.env, "ssh", append(stock(c, "gw-1", key), "echo $HAWSER_USER is in")...)
	d.wait(`Code of carol's authenticator: `)
	d.say("123456")
	d.wait(`hawser: `)
	d.wait(`Code of carol's authenticator: `)
	d.say(p.code(t))
	d.wait(`carol is in`)
	if code := d.code(); code != 0 {
		t.Errorf("exit %d\n%s", code, d.text())
	}
	// Of such a key without a code: the roles of dora ask for none.
	c.Must(t, "user", "add", "dora", "--role", "operator")
	bare := keyFor(t, c, "dora", "--force-command", "echo only this")
	for _, args := range [][]string{append(stock(c, "hawser", bare), "ls"), append([]string{"-W", "127.0.0.1:22"}, stock(c, "gw-1", bare)...),
		append([]string{"-s"}, append(stock(c, "gw-1", bare), "sftp")...)} {
		if r := harness.Run(t, nil, "ssh", args...); r.Code != 255 || len(r.Stdout) > 0 {
			t.Errorf("ssh %s: exit %d, %q", args[len(args)-2:], r.Code, r.Stdout)
		}
	}
	d = talk(t, limited.env, "ssh", append(stock(c, "gw-1", forced), "echo something else")...)
	d.wait(`Code of cora's authenticator: `)
	d.say(limited.code(t))
	d.wait(`only this`)
	if code := d.code(); code != 0 || strings.Contains(d.text(), "something else") {
		t.Errorf("exit %d\n%s", code, d.text())
	}
}

func TestRoleThatDemandsCertificatesNamesTheLogin(t *testing.T) {
	t.Parallel()
	c := harness.Up(t, 1)
	apply(t, c, "kind: role\nname: strict\n"+allow+"options: {credentials: [certificate]}\n")
	p := newLaptop(t, c, "dave")
	line := invite(t, c, "dave", "strict")
	key := keyFor(t, c, "dave")
	for _, args := range [][]string{{"true"}, {"-N"}} {
		r := harness.Run(t, nil, "ssh", append(stock(c, "gw-1", key), args...)...)
		if r.Code != 255 || !strings.Contains(string(r.Stderr), "hawser login") || len(r.Stdout) > 0 {
			t.Errorf("ssh %s: exit %d, %q, %q: want 255 and the command that logs in on stderr", args, r.Code, r.Stdout, r.Stderr)
		}
	}
	if r := p.hawser(t, password+"\n", append(line, "--password-stdin", "--no-otp")...); r.Code != 0 {
		t.Fatalf("accept: %s", r.Stderr)
	}
	p.must(t, "config", "ssh")
	if r := p.ssh(t, "gw-1", "echo $HAWSER_USER"); string(r.Stdout) != "dave\n" {
		t.Errorf("with the certificate: exit %d, %q, %s", r.Code, r.Stdout, r.Stderr)
	}
}

// The stock client offers whatever public keys it is given, has the victim's accepted, and signs with its own.
func TestStockSSHThatOffersAnothersKeyIsWhoeverSigned(t *testing.T) {
	t.Parallel()
	c := harness.Up(t, 1)
	victims, own := newKey(t), newKey(t)
	c.Must(t, "user", "add", "victim", "--role", "admin", "--key", victims+".pub")
	c.Must(t, "user", "add", "mallory", "--role", "operator", "--key", own+".pub")
	if err := os.Remove(victims); err != nil { // the public half alone
		t.Fatal(err)
	}
	for name, keys := range map[string][]string{"the victim's first": {victims + ".pub", own}, "one's own first": {own, victims + ".pub"}} {
		r := harness.Run(t, nil, "ssh", append(stock(c, "gw-1", keys...), "echo $HAWSER_USER")...)
		if got := strings.TrimSpace(string(r.Stdout)); got != "mallory" {
			t.Errorf("%s: the session is %q's, want mallory's (exit %d, %s)", name, got, r.Code, r.Stderr)
		}
	}
	if r := harness.Run(t, nil, "ssh", append(stock(c, "gw-1", victims+".pub"), "true")...); r.Code != 255 {
		t.Errorf("with the victim's public key alone: exit %d", r.Code)
	}
}

// What is a person's own in ssh_config is his, byte for byte, through adding and removing, whatever its mode and wherever it lies.
func TestConfigSSHTouchesOneLine(t *testing.T) {
	t.Parallel()
	c := harness.Up(t, 1)
	p := newLaptop(t, c, "erin")
	if r := p.hawser(t, password+"\n", append(invite(t, c, "erin", "operator"), "--password-stdin", "--no-otp")...); r.Code != 0 {
		t.Fatalf("accept: %s", r.Stderr)
	}
	dir := t.TempDir()
	real := filepath.Join(dir, "dotfiles", "ssh-config")
	if err := os.Mkdir(filepath.Dir(real), 0o755); err != nil {
		t.Fatal(err)
	}
	own := "# mine\r\nHost  gw-1x\n\tUser\tx \n\nHost *\n  ServerAliveInterval 60" // no newline at the end
	if err := os.WriteFile(real, []byte(own), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(real, 0o640); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "config")
	if err := os.Symlink(filepath.Join("dotfiles", "ssh-config"), link); err != nil {
		t.Fatal(err)
	}
	// Asked at a terminal, and refused: nothing.
	d := talk(t, p.env, harness.Program(t, "hawser"), "config", "ssh", "--ssh-config", link)
	d.wait(`\[y/N\] `)
	d.say("")
	if code := d.code(); code != 0 || harness.ReadFile(t, real) != own {
		t.Errorf("a no: exit %d, file\n%s", code, harness.ReadFile(t, real))
	}
	printed := p.must(t, "config", "ssh", "--print", "--ssh-config", link)
	if !strings.Contains(printed, "Host gw-1\n") || !strings.Contains(printed, "renew --quiet") || harness.ReadFile(t, real) != own {
		t.Errorf("--print printed\n%s", printed)
	}
	for range 2 {
		p.must(t, "config", "ssh", "--yes", "--ssh-config", link)
	}
	line := fmt.Sprintf("Include \"%s\"\n", filepath.Join(p.home, "ssh_include"))
	if got := harness.ReadFile(t, real); got != line+own {
		t.Errorf("the file is\n%q\nwant\n%q", got, line+own)
	}
	st, err := os.Stat(real)
	if err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if to, err := os.Readlink(link); err != nil || to != filepath.Join("dotfiles", "ssh-config") {
		t.Errorf("the link is %q, %v", to, err)
	}
	if r := harness.RunEnv(t, p.env, nil, "ssh", "-F", link, "gw-1", "echo $HAWSER_USER"); string(r.Stdout) != "erin\n" {
		t.Errorf("ssh by it: exit %d, %q, %s", r.Code, r.Stdout, r.Stderr)
	}
	// Another host is as if there were no Hawser.
	g := harness.RunEnv(t, p.env, nil, "ssh", "-G", "-F", link, "elsewhere.example")
	if strings.Contains(string(g.Stdout), p.home) || !strings.Contains(string(g.Stdout), "serveraliveinterval 60") {
		t.Errorf("ssh -G of another host:\n%s", g.Stdout)
	}
	p.must(t, "config", "ssh", "--remove", "--ssh-config", link)
	if got := harness.ReadFile(t, real); got != own {
		t.Errorf("after --remove the file is\n%q\nwant\n%q", got, own)
	}
	if _, err := os.Stat(filepath.Join(p.home, "ssh_include")); !os.IsNotExist(err) {
		t.Errorf("the include is still there: %v", err)
	}
}

// A certificate about to end is renewed by the connection that would need it, and one that is not is left alone.
func TestSSHRenewsTheCertificateByItself(t *testing.T) {
	t.Parallel()
	c := harness.Up(t, 1)
	p := newLaptop(t, c, "frank")
	if r := p.hawser(t, password+"\n", append(invite(t, c, "frank", "operator"), "--password-stdin", "--no-otp", "--ttl", "12s")...); r.Code != 0 {
		t.Fatalf("accept: %s", r.Stderr)
	}
	p.must(t, "config", "ssh")
	file := filepath.Join(p.home, "id_ed25519-cert.pub")
	first, began := harness.ReadFile(t, file), time.Now()
	harness.Eventually(t, 30*time.Second, "the certificate that there was has ended, and ssh goes on", func() bool {
		if r := p.ssh(t, "gw-1", "echo $HAWSER_USER"); string(r.Stdout) != "frank\n" {
			t.Fatalf("after %v: exit %d, %q, %s", time.Since(began), r.Code, r.Stdout, r.Stderr)
		}
		return time.Since(began) > 15*time.Second
	})
	if harness.ReadFile(t, file) == first {
		t.Error("the certificate is the same")
	}
	// One that is good for hours is not.
	if r := p.hawser(t, password+"\n", "login", "--password-stdin", "--no-otp"); r.Code != 0 {
		t.Fatalf("login: %s", r.Stderr)
	}
	first = harness.ReadFile(t, file)
	if r := p.ssh(t, "gw-1", "true"); r.Code != 0 || harness.ReadFile(t, file) != first {
		t.Errorf("exit %d, and the certificate is another: %v", r.Code, harness.ReadFile(t, file) != first)
	}
}

// Who was away while a CA was replaced is told how to log in again, and stock ssh knows the hubs at once.
func TestALoginAfterARotationIsAllThatSSHNeeds(t *testing.T) {
	t.Parallel()
	c := harness.Up(t, 1)
	p := newLaptop(t, c, "hugo")
	if r := p.hawser(t, password+"\n", append(invite(t, c, "hugo", "operator"), "--password-stdin", "--no-otp")...); r.Code != 0 {
		t.Fatalf("accept: %s", r.Stderr)
	}
	p.must(t, "config", "ssh")
	c.Must(t, "ca", "rotate", "--compromised")
	if r := p.hawser(t, "", "ls"); r.Code == 0 || !strings.Contains(string(r.Stderr), "--ca-pin PIN") {
		t.Errorf("ls: exit %d, %s", r.Code, r.Stderr)
	}
	s, _ := statusOf(t, c)
	login := []string{"login", "--hub", c.Ready.TunnelAddr, "--password-stdin", "--no-otp"} // the user is the profile's
	for _, a := range s.Authorities {
		if a.Kind == "tunnel" {
			login = append(login, "--ca-pin", a.Fingerprint)
		}
	}
	if r := p.hawser(t, password+"\n", login...); r.Code != 0 {
		t.Fatalf("login: exit %d, %s", r.Code, r.Stderr)
	}
	if r := p.ssh(t, "gw-1", "echo $HAWSER_USER"); string(r.Stdout) != "hugo\n" {
		t.Errorf("ssh: exit %d, %q, %s", r.Code, r.Stdout, r.Stderr)
	}
}

// A laptop that holds nothing knows the cluster by the pin an admin tells, and sends no password to one that has another.
func TestFirstLoginAtAHubIsByThePin(t *testing.T) {
	t.Parallel()
	c := harness.Up(t, 0)
	p := newLaptop(t, c, "gina")
	if r := p.hawser(t, password+"\n", append(invite(t, c, "gina", "operator"), "--password-stdin", "--no-otp")...); r.Code != 0 {
		t.Fatalf("accept: %s", r.Stderr)
	}
	login := []string{"login", "--user", "gina", "--hub", c.Ready.TunnelAddr, "--password-stdin", "--no-otp"}
	other := newLaptop(t, c, "gina")
	wrong := "sha256:" + strings.Repeat("A", 43)
	if r := other.hawser(t, password+"\n", append(login, "--ca-pin", wrong)...); r.Code == 0 {
		t.Error("logged in at a cluster whose CA is another")
	}
	if r := other.hawser(t, password+"\n", append(login, "--ca-pin", c.Ready.CAPin)...); r.Code != 0 {
		t.Fatalf("by the pin: exit %d, %s", r.Code, r.Stderr)
	}
	other.must(t, "status")

	// At a terminal the pin is shown, and a yes is a whole word.
	for answer, want := range map[string]int{"y": 1, "yes": 0} {
		third := newLaptop(t, c, "gina")
		d := talk(t, third.env, harness.Program(t, "hawser"), "login", "--user", "gina", "--hub", c.Ready.TunnelAddr, "--no-otp")
		d.wait(regexp.QuoteMeta(c.Ready.CAPin))
		d.wait(`\[yes/no\] `)
		d.say(answer)
		if want == 0 {
			d.wait(`Password of gina.*: `)
			d.say(password)
		}
		if code := d.code(); code != want {
			t.Errorf("answer %q: exit %d\n%s", answer, code, d.text())
		}
	}
}
