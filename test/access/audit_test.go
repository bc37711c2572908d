package access

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"hawser/test/harness"
)

// event is a line of the audit log, as its document says.
type event map[string]any

func (e event) s(key string) string { v, _ := e[key].(string); return v }

// events are what a search finds, oldest first; each must be one line of JSON that nothing hides in.
func events(t *testing.T, hawser func(t *testing.T, args ...string) harness.Result, args ...string) []event {
	t.Helper()
	r := hawser(t, append([]string{"audit", "search", "-o", "json"}, args...)...)
	if r.Code != 0 {
		t.Fatalf("audit search: exit %d: %s", r.Code, r.Stderr)
	}
	var out []event
	for line := range strings.Lines(string(r.Stdout)) {
		line = strings.TrimSuffix(line, "\n")
		if i := strings.IndexFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("a character that is not printed, at %d of %q", i, line)
		}
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		out = append(out, e)
	}
	return out
}

// recorded waits for an event that has fields.
func recorded(t *testing.T, hawser func(t *testing.T, args ...string) harness.Result, kind string, fields map[string]string) event {
	t.Helper()
	var found event
	harness.Eventually(t, 20*time.Second, kind+" is in the audit log", func() bool {
		for _, e := range events(t, hawser, "--type", kind) {
			ok := true
			for k, want := range fields {
				ok = ok && (e.s(k) == want || want == "*" && e[k] != nil)
			}
			if ok {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

func (p *laptop) run(t *testing.T, args ...string) harness.Result {
	t.Helper()
	return p.hawser(t, "", args...)
}

func asAdmin(c *harness.Cluster) func(*testing.T, ...string) harness.Result {
	return func(t *testing.T, args ...string) harness.Result { t.Helper(); return c.Hawser(t, nil, args...) }
}

func TestTheAuditLogTellsWhoDidWhatWhereAndWhen(t *testing.T) {
	t.Parallel()
	c := harness.Up(t, 1)
	admin := asAdmin(c)
	hostile := "printf x; : '\x1b]52;c;aGk=\a \u202e \u009b31m\n{\"type\":\"forged\"}'; exit 3"
	if r := c.SSH(t, nil, "gw-1", hostile); r.Code != 3 || string(r.Stdout) != "x" {
		t.Fatalf("ssh: %d %q %q", r.Code, r.Stdout, r.Stderr)
	}
	e := recorded(t, admin, "session.admit", map[string]string{
		"device": "gw-1", "kind": "session", "user": "admin", "actor": "hub:hub", "way": "hub", "session": "*", "connection": "*", "client": "*", "device_uuid": "*",
		"device_address": "*", "carrier": "*", "login": "*", "method": "*", "roles": "*",
	})
	end := recorded(t, admin, "session.end", map[string]string{
		"session": e.s("session"), "user": "admin", "device": "gw-1", "channel": "exec", "command": hostile, "command_source": "request",
	})
	if end["exit_status"] != 3.0 {
		t.Errorf("exit status %v, want 3", end["exit_status"])
	}
	recorded(t, admin, "recording.close", map[string]string{"session": e.s("session"), "object": "*"})
	if got := events(t, admin, "--session", e.s("session")[:10]); len(got) < 3 {
		t.Errorf("%d events of the session", len(got))
	}
	if got := events(t, admin, "--type", "forged"); len(got) != 0 {
		t.Errorf("a forged event: %v", got)
	}
	if r := c.Hawser(t, nil, "audit", "tail"); r.Code != 0 || bytes.ContainsAny(r.Stdout, "\x1b\a\u202e\u009b") || !bytes.Contains(r.Stdout, []byte("session.end")) {
		t.Errorf("tail: %d %q", r.Code, r.Stdout)
	}

	// A stranger's key, and a forward to the hub's own network.
	key := filepath.Join(t.TempDir(), "stranger")
	harness.Run(t, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	if r := c.SSH(t, nil, "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "CertificateFile=none", "-o", "IdentityFile="+key, "-l", "mallory", c.Ready.SSHAddr[:strings.LastIndex(c.Ready.SSHAddr, ":")],
		"-p", c.Ready.SSHAddr[strings.LastIndex(c.Ready.SSHAddr, ":")+1:], "-o", "StrictHostKeyChecking=no", "-F", "/dev/null", "true"); r.Code != 255 {
		t.Errorf("a stranger came in: %d", r.Code)
	}
	recorded(t, admin, "user.auth.refuse", map[string]string{"reason": "unknown-key", "hub": "hub", "client": "*", "method": "*"})
	l := loggedIn(t, c, "olga", "operator")
	recorded(t, admin, "user.accept", map[string]string{"user": "olga"})

	// Who sees what: an operator nothing, one with `audit: own` what concerns himself, an auditor all.
	if r := l.run(t, "audit", "search"); r.Code != 5 {
		t.Errorf("an operator reads the audit log: exit %d, %q", r.Code, r.Stderr)
	}
	if r := l.run(t, "audit", "export", filepath.Join(t.TempDir(), "x")); r.Code != 5 {
		t.Errorf("an operator exports the audit log: exit %d, %q", r.Code, r.Stderr)
	}
	role := filepath.Join(t.TempDir(), "own.yaml")
	if err := os.WriteFile(role, []byte("kind: role\nname: own\nallow:\n  audit: own\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Must(t, "apply", "-f", role)
	own := loggedIn(t, c, "otto", "own")
	mine := events(t, own.run)
	if len(mine) == 0 {
		t.Error("he sees nothing of his own")
	}
	for _, e := range mine {
		if e.s("user") != "otto" && e.s("actor") != "user:otto" {
			t.Errorf("he sees %v", e)
		}
	}
	auditor := loggedIn(t, c, "ada", "auditor")
	if got, want := len(events(t, auditor.run, "--type", "session")), len(events(t, admin, "--type", "session")); got != want {
		t.Errorf("the auditor sees %d events of %d", got, want)
	}

	follow := talk(t, auditor.env, harness.Program(t, "hawser"), "audit", "tail", "-f", "-n", "0")
	harness.Eventually(t, 10*time.Second, "a new event is followed", func() bool {
		c.Must(t, "token", "create", "--kind", "edge")
		return strings.Contains(follow.text(), "admin.token.create")
	})
}

func TestAnExportIsVerifiedOfflineAndShowsEveryChange(t *testing.T) {
	t.Parallel()
	c := harness.Up(t, 0)
	for range 5 {
		c.Must(t, "token", "create", "--kind", "edge")
	}
	dir := t.TempDir()
	head, file := filepath.Join(dir, "head"), filepath.Join(dir, "export")
	write := func(name string, b string) {
		if err := os.WriteFile(name, []byte(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(head, c.Must(t, "audit", "head")+"\n")
	key := c.Must(t, "audit", "head", "--key")
	for range 5 {
		c.Must(t, "token", "create", "--kind", "edge")
	}
	c.Must(t, "audit", "export", file)
	if out := c.Must(t, "audit", "verify", "--head", head); !strings.Contains(out, "continues") {
		t.Errorf("verify --head: %q", out)
	}
	c.Stop(t)

	offline := func(args ...string) harness.Result {
		return harness.RunEnv(t, []string{"HAWSER_HOME=" + filepath.Join(dir, "none")}, nil, harness.Program(t, "hawser"), append([]string{"audit", "verify", "--key", key, "--head", head}, args...)...)
	}
	if r := offline(file); r.Code != 0 || !strings.Contains(string(r.Stdout), "verified") {
		t.Fatalf("verify: %d %s%s", r.Code, r.Stdout, r.Stderr)
	}
	whole := strings.SplitAfter(harness.ReadFile(t, file), "\n")
	at := slices.IndexFunc(whole, func(l string) bool { return strings.Contains(l, "admin.token.create") })
	for name, edit := range map[string]func([]string) []string{
		"edited":    func(l []string) []string { l[at] = strings.Replace(l[at], `"kind":"`, `"kind":"x`, 1); return l },
		"dropped":   func(l []string) []string { return slices.Delete(l, at, at+1) },
		"reordered": func(l []string) []string { l[at], l[at+1] = l[at+1], l[at]; return l },
		"cut off":   func(l []string) []string { return l[:len(l)-3] },
	} {
		write(file+".bad", strings.Join(edit(slices.Clone(whole)), ""))
		if r := offline(file + ".bad"); r.Code != 1 || !strings.Contains(string(r.Stdout), "CHANGED:") {
			t.Errorf("%s: exit %d, %s%s", name, r.Code, r.Stdout, r.Stderr)
		}
	}
}

// daemons are auth and a hub as programs of their own, on this machine.
type daemons struct {
	dir, home, ssh, tunnel, api string
	auth, hub                   *harness.Process
}

func freePort(t *testing.T) string {
	t.Helper()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		u, err := net.ListenPacket("udp", l.Addr().String())
		l.Close()
		if err == nil {
			u.Close()
			return l.Addr().String()
		}
	}
}

func (d *daemons) startAuth(t *testing.T) {
	t.Helper()
	d.auth = harness.Start(t, nil, harness.Program(t, "hawser-auth"), "run", "--data", filepath.Join(d.dir, "auth"), "--listen", d.api, "--cluster", "audit.test",
		"--admin-profile", d.home)
	harness.Eventually(t, 20*time.Second, "auth answers", func() bool { return d.hawser(t, "whoami").Code == 0 || d.hawser(t, "token", "ls").Code == 0 })
}

func (d *daemons) hawser(t *testing.T, args ...string) harness.Result {
	t.Helper()
	return harness.RunEnv(t, []string{"HAWSER_HOME=" + d.home}, nil, harness.Program(t, "hawser"), args...)
}

func (d *daemons) must(t *testing.T, args ...string) string {
	t.Helper()
	r := d.hawser(t, args...)
	if r.Code != 0 {
		t.Fatalf("hawser %s: exit %d: %s", strings.Join(args, " "), r.Code, r.Stderr)
	}
	return strings.TrimSpace(string(r.Stdout))
}

func (d *daemons) hubStatus(t *testing.T) (logHead, alarm string) {
	t.Helper()
	r := harness.Run(t, nil, harness.Program(t, "hawser-hub"), "status", "--data", filepath.Join(d.dir, "hub"), "-o", "json")
	var st struct {
		LogHead string `json:"log_head"`
		Live    struct {
			Alarm string `json:"log_alarm"`
		} `json:"live"`
	}
	_ = json.Unmarshal(r.Stdout, &st)
	return st.LogHead, st.Live.Alarm
}

func startDaemons(t *testing.T, hubArgs ...string) *daemons {
	t.Helper()
	d := &daemons{dir: t.TempDir(), ssh: freePort(t), tunnel: freePort(t), api: freePort(t)}
	d.home = filepath.Join(d.dir, "home")
	d.startAuth(t)
	token := d.must(t, "token", "create", "--kind", "hub")
	d.hub = harness.Start(t, []string{"HAWSER_TOKEN=" + token}, harness.Program(t, "hawser-hub"), append([]string{"run", "--data", filepath.Join(d.dir, "hub"), "--ssh", d.ssh,
		"--tunnel", d.tunnel, "--public", "127.0.0.1"}, hubArgs...)...)
	harness.Eventually(t, 30*time.Second, "the hub has joined and holds a head of the log", func() bool { h, _ := d.hubStatus(t); return h != "" })
	return d
}

// TestWhatWasAnsweredIsRecordedThroughAKillAndARewrittenLogIsFound: first the machine fails, then its operator.
func TestWhatWasAnsweredIsRecordedThroughAKillAndARewrittenLogIsFound(t *testing.T) {
	t.Parallel()
	d := startDaemons(t)
	for i := range 3 {
		d.must(t, "token", "create", "--kind", "edge")
		d.auth.Kill()
		d.startAuth(t)
		if got := len(events(t, d.hawser, "--type", "admin.token.create")); got != i+2 { // and the hub's
			t.Fatalf("after kill %d: %d tokens are in the log, want %d", i+1, got, i+2)
		}
	}
	file := filepath.Join(d.dir, "export")
	head, _ := d.hubStatus(t) // before the export, which is itself an event: an export can only be held against heads that are not newer
	d.must(t, "audit", "export", file)
	keptFile := filepath.Join(d.dir, "hubs-head")
	if err := os.WriteFile(keptFile, []byte(head), 0o600); err != nil {
		t.Fatal(err)
	}
	d.must(t, "audit", "verify", file, "--head", keptFile)

	d.auth.Kill()
	log := filepath.Join(d.dir, "auth", "audit")
	days, _ := filepath.Glob(filepath.Join(log, "*.jsonl"))
	lines := strings.SplitAfter(harness.ReadFile(t, days[0]), "\n")
	lines[0] = regexp.MustCompile(`"time":"....`).ReplaceAllString(lines[0], `"time":"2001`)
	if err := os.WriteFile(days[0], []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tree", "head"} {
		if err := os.Remove(filepath.Join(log, name)); err != nil {
			t.Fatal(err)
		}
	}
	d.startAuth(t)
	harness.Eventually(t, 30*time.Second, "the hub says that the log was rewritten", func() bool { _, alarm := d.hubStatus(t); return strings.Contains(alarm, "rewritten") })
	recorded(t, d.hawser, "hub.incident", map[string]string{"kind": "audit-log"})
	d.must(t, "audit", "export", file)
	d.must(t, "audit", "verify", file)
	if r := d.hawser(t, "audit", "verify", file, "--head", keptFile); r.Code != 1 || !strings.Contains(string(r.Stdout), "CHANGED:") {
		t.Errorf("against the hub's head: exit %d, %s%s", r.Code, r.Stdout, r.Stderr)
	}
	if r := d.hawser(t, "audit", "verify", "--head", keptFile); r.Code != 1 {
		t.Errorf("auth proves what is not: exit %d, %s%s", r.Code, r.Stdout, r.Stderr)
	}
}

// proxy passes connections on to addr, each behind a PROXY header of version 2 for source.
func proxy(t *testing.T, addr string, source net.TCPAddr) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	header := append([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"), source.IP.To4()...)
	header = append(header, 198, 51, 100, 1)
	header = binary.BigEndian.AppendUint16(header, uint16(source.Port))
	header = binary.BigEndian.AppendUint16(header, 22)
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := net.Dial("tcp", addr)
				if err != nil {
					return
				}
				defer out.Close()
				_, _ = out.Write(header)
				go func() { _, _ = io.Copy(out, in) }()
				_, _ = io.Copy(in, out)
			}()
		}
	}()
	return l.Addr().String()
}

// TestALoadBalancersWordIsTakenFromItsNetworkOnly is P12 of the threats: the audit log, and what counts and refuses by source, go by it.
func TestALoadBalancersWordIsTakenFromItsNetworkOnly(t *testing.T) {
	t.Parallel()
	key := filepath.Join(t.TempDir(), "key")
	harness.Run(t, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	args := func(addr string, more ...string) []string {
		host, port, _ := net.SplitHostPort(addr)
		return append([]string{"-F", "/dev/null", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
			"-o", "BatchMode=yes", "-i", key, "-p", port, "hawser@" + host}, more...)
	}
	ssh := func(addr string) harness.Result {
		t.Helper()
		return harness.Run(t, nil, "ssh", args(addr, "ls")...)
	}
	from := net.TCPAddr{IP: net.IPv4(203, 0, 113, 9), Port: 4711}
	named := startDaemons(t, "--proxy-from", "127.0.0.0/8")
	named.must(t, "user", "add", "alice", "--role", "operator", "--key", key+".pub")
	behind := proxy(t, named.ssh, from)
	harness.Eventually(t, 20*time.Second, "alice comes in by the load balancer", func() bool { return ssh(behind).Code == 0 })
	recorded(t, named.hawser, "session.admit", map[string]string{"user": "alice", "client": "203.0.113.9:4711"})
	if r := ssh(named.ssh); r.Code != 255 {
		t.Errorf("without a header from the load balancers' network: exit %d", r.Code)
	}
	recorded(t, named.hawser, "proxy.refuse", map[string]string{"reason": "no-header"})

	// Caps count by it.
	caps := filepath.Join(t.TempDir(), "caps.yaml")
	if err := os.WriteFile(caps, []byte("kind: cluster\ncaps: {per_source: 1}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	named.must(t, "apply", "-f", caps)
	harness.Start(t, nil, "ssh", args(behind, "-N")...)
	harness.Eventually(t, 20*time.Second, "a connection that stays is listed", func() bool {
		var list []struct{ Kind string }
		err := json.Unmarshal([]byte(named.must(t, "sessions", "ls", "--user", "alice", "-o", "json")), &list)
		return err == nil && len(list) == 1
	})
	if r := ssh(behind); r.Code != 255 || !strings.Contains(string(r.Stderr), "caps.per_source") {
		t.Errorf("a second connection from there: exit %d, %s", r.Code, r.Stderr)
	}
	recorded(t, named.hawser, "session.refuse", map[string]string{"reason": "cap", "client": from.String()})
	if r := ssh(proxy(t, named.ssh, net.TCPAddr{IP: net.IPv4(203, 0, 113, 10), Port: 4711})); r.Code != 0 {
		t.Errorf("from another address behind the load balancer: exit %d, %s", r.Code, r.Stderr)
	}

	named.must(t, "lock", "add", "--source", "203.0.113.0/24", "--message", "not from there")
	if r := ssh(behind); r.Code != 255 {
		t.Errorf("from a locked network behind the load balancer: exit %d", r.Code)
	}

	other := startDaemons(t)
	other.must(t, "user", "add", "alice", "--role", "operator", "--key", key+".pub")
	harness.Eventually(t, 20*time.Second, "alice comes in", func() bool { return ssh(other.ssh).Code == 0 })
	if r := ssh(proxy(t, other.ssh, from)); r.Code != 255 {
		t.Errorf("with a header from where none is believed: exit %d", r.Code)
	}
	recorded(t, other.hawser, "proxy.refuse", map[string]string{"reason": "network-not-named"})
}

// TestADeviceFindsThatTheLogWasCutThoughAuthAndHubSayNothing: whoever has auth and the hubs has not the devices.
func TestADeviceFindsThatTheLogWasCutThoughAuthAndHubSayNothing(t *testing.T) {
	t.Parallel()
	d := startDaemons(t)
	for range 25 {
		d.must(t, "token", "create", "--kind", "edge")
	}
	// A hub that connects is given the head of this moment, and gives it to devices.
	startHub := func() *harness.Process {
		return harness.Start(t, nil, harness.Program(t, "hawser-hub"), "run", "--data", filepath.Join(d.dir, "hub"), "--ssh", d.ssh, "--tunnel", d.tunnel, "--public", "127.0.0.1")
	}
	d.hub.Stop(t)
	before, _ := d.hubStatus(t)
	d.hub = startHub()
	harness.Eventually(t, 30*time.Second, "the hub holds a newer head", func() bool { h, _ := d.hubStatus(t); return h != before })
	state := filepath.Join(d.dir, "edge")
	startEdge := func(token string) *harness.Process {
		return harness.Start(t, []string{"HAWSER_TOKEN=" + token}, harness.Program(t, "hawser-edge"), "run", "--state", state, "--name", "gw-1")
	}
	edge := startEdge(d.must(t, "token", "create", "--kind", "edge"))
	kept := filepath.Join(state, "log-head")
	harness.Eventually(t, 30*time.Second, "the device holds a head of the log", func() bool { _, err := os.Stat(kept); return err == nil })
	evidence := harness.ReadFile(t, kept)
	head, key := filepath.Join(d.dir, "head"), d.must(t, "audit", "head", "--key")
	if err := os.WriteFile(head, []byte(d.must(t, "audit", "head")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := d.must(t, "audit", "verify", "--recordings", "--head", head); !strings.Contains(out, "verified: every recording") {
		t.Errorf("recordings against the log: %s", out)
	}
	edge.Stop(t)
	d.hub.Stop(t)
	d.auth.Stop(t)
	data := filepath.Join(d.dir, "auth")
	verify := func() harness.Result {
		return harness.Run(t, nil, harness.Program(t, "hawser-auth"), "verify", "--data", data, "--head", head, "--key", key)
	}
	if r := verify(); r.Code != 0 || !strings.Contains(string(r.Stdout), "verified: unchanged") {
		t.Errorf("auth's data, unchanged: exit %d, %s%s", r.Code, r.Stdout, r.Stderr)
	}
	log := filepath.Join(data, "audit")
	days, _ := filepath.Glob(filepath.Join(log, "*.jsonl"))
	lines := strings.SplitAfter(harness.ReadFile(t, days[0]), "\n")
	if err := os.WriteFile(days[0], []byte(strings.Join(lines[:4], "")), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := verify(); r.Code != 1 || !strings.Contains(string(r.Stdout), "CHANGED:") {
		t.Errorf("auth's data, cut: exit %d, %s%s", r.Code, r.Stdout, r.Stderr)
	}
	for _, name := range []string{"tree", "head"} {
		if err := os.Remove(filepath.Join(log, name)); err != nil {
			t.Fatal(err)
		}
	}
	if r := harness.Run(t, nil, harness.Program(t, "hawser-hub"), "accept-log", "--data", filepath.Join(d.dir, "hub")); r.Code != 0 {
		t.Fatalf("accept-log: exit %d: %s", r.Code, r.Stderr)
	}
	// Heads are told apart by their second: a smaller one of the same second may have been under way.
	harness.Eventually(t, 5*time.Second, "the second of the device's head is over", func() bool {
		return time.Now().Unix() > int64(binary.BigEndian.Uint64([]byte(evidence)[40:]))
	})
	d.startAuth(t)
	startHub()
	// A device that comes before its hub has a head is given the next, a minute later; by then this short log may have outgrown what the device holds.
	harness.Eventually(t, 90*time.Second, "the hub holds a head of the other log", func() bool { h, _ := d.hubStatus(t); return h != "" && h != "0" })
	startEdge("")
	harness.Eventually(t, 40*time.Second, "the device's word is in the log", func() bool {
		for _, e := range events(t, d.hawser, "--type", "hub.incident") {
			if e.s("kind") == "audit-log" && e.s("device") == "gw-1" {
				return true
			}
		}
		return false
	})
	if harness.ReadFile(t, kept) != evidence {
		t.Error("the device took the other log's head: the evidence is gone")
	}
	doctor := harness.Run(t, nil, harness.Program(t, "hawser-edge"), "doctor", "--state", state)
	if !strings.Contains(string(doctor.Stdout)+string(doctor.Stderr), "THE AUDIT LOG WAS REWRITTEN") {
		t.Errorf("the device's doctor does not say so: %s%s", doctor.Stdout, doctor.Stderr)
	}
}
