package access

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hawser/test/harness"
)

// everything is a role that allows all of a device, and says how long sessions last.
func everything(name, options string) string {
	return "kind: role\nname: " + name + "\nallow: {devices: {\"*\": [\"*\"]}, logins: [\"*\"], " +
		"channels: [shell, exec, sftp, local-forward, remote-forward], ways: [hub, end-to-end]}\noptions: {" + options + "}\n"
}

// What is idle and what is not, as docs/access.md says, in both ways.
func TestWhatIsIdleEndsAndSaysWhyAndWhatIsBusyStays(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	c := harness.Up(t, 1)
	apply(t, c, everything("brief", "idle_timeout: 6s"))
	ann := loggedIn(t, c, "ann", "brief")
	config := []string{"-F", filepath.Join(ann.home, "ssh_include")}

	var wg sync.WaitGroup
	check := func(what string, f func() error) {
		wg.Go(func() {
			if err := f(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	ends := func(d *dialogue, begun time.Time, want ...string) error {
		code := d.code()
		took := time.Since(begun)
		for _, w := range want {
			if !strings.Contains(d.text(), w) {
				return fmt.Errorf("ended by %d after %v and did not show %q:\n%q", code, took, w, d.text())
			}
		}
		if code != 255 || took < 5500*time.Millisecond || took > 7*time.Second+slack {
			return fmt.Errorf("ended by %d after %v:\n%q", code, took, d.text())
		}
		return nil
	}
	for _, to := range []string{"gw-1", "root@e2e-gw-1"} {
		begun := time.Now()
		top := talk(t, ann.env, "ssh", append(config, "-tt", to, "while :; do echo CPU; sleep 0.3; done")...)
		check(to+": a terminal where only the program prints ends, and was warned", func() error {
			return ends(top, begun, "hawser: this session ends in 3s unless you type something", "hawser: idle for 6s, which is as long as your roles allow (idle_timeout)")
		})
		silent := talk(t, ann.env, "ssh", append(config, to, "sleep 100")...)
		check(to+": a command on which nothing passes ends", func() error { return ends(silent, begun, "hawser: idle for 6s") })
		master := talk(t, ann.env, "ssh", append(config, "-N", to)...)
		check(to+": a connection without channels ends", func() error { return ends(master, begun) })

		shell := talk(t, ann.env, "ssh", append(config, "-tt", to)...)
		check(to+": at a prompt one is warned, and stays if one types", func() error {
			for range 2 {
				shell.wait("ends in 3s unless you type something")
				shell.say("")
			}
			shell.say("exit 5")
			if code := shell.code(); code != 5 || strings.Contains(shell.text(), "idle for") {
				return fmt.Errorf("exit %d\n%q", code, shell.text())
			}
			return nil
		})
		check(to+": make that prints now and then is not idle", func() error {
			r := ann.ssh(t, to, "for i in 1 2 3 4 5 6; do sleep 1.5; echo $i; done >&2; echo built")
			if r.Code != 0 || string(r.Stdout) != "built\n" {
				return fmt.Errorf("exit %d, %q, %q", r.Code, r.Stdout, r.Stderr)
			}
			return nil
		})
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, bytes.Repeat([]byte("0123456789abcde\n"), 15<<10), 0o600); err != nil {
			t.Fatal(err)
		}
		copied := file + ".copy"
		check(to+": a long scp is not idle", func() error {
			begun := time.Now()
			r := harness.RunEnv(t, ann.env, nil, "scp", append(config, "-q", "-l", "200", file, to+":"+copied)...) // kbit/s: 9 s
			if got, err := os.ReadFile(copied); r.Code != 0 || err != nil || len(got) != 240<<10 || time.Since(begun) < 8*time.Second {
				return fmt.Errorf("exit %d after %v, %d bytes, %v: %s", r.Code, time.Since(begun), len(got), err, r.Stderr)
			}
			return nil
		})
		check(to+": -N with a forward lasts as long as that carries something", func() error { return forwardStays(t, ann, to) })
	}
	certificateExpires(t, c, check)
	wg.Wait()

	harness.Eventually(t, 10*time.Second, "the audit log says why", func() bool {
		log := c.Must(t, "audit", "search", "--type", "session.end", "--user", "ann", "-o", "json")
		n := 0
		for line := range strings.Lines(log) {
			if strings.Contains(line, "idle for 6s") {
				n++
			}
		}
		return n >= 6 // two sessions and a connection in each way
	})
}

// certificateExpires has terminals in both ways, of somebody whose certificate lives for a few seconds more: each is warned once, and ends with it.
func certificateExpires(t *testing.T, c *harness.Cluster, check func(string, func() error)) {
	t.Helper()
	apply(t, c, everything("expiring", "disconnect_expired_cert: true"))
	p := newLaptop(t, c, "eve")
	accept := append(invite(t, c, "eve", "expiring"), "--password-stdin", "--no-otp", "--no-agent", "--ttl", "10s")
	if r := p.hawser(t, password+"\n", accept...); r.Code != 0 {
		t.Fatalf("accept: %s", r.Stderr)
	}
	begun := time.Now()
	p.must(t, "config", "ssh")
	for _, to := range []string{"gw-1", "root@e2e-gw-1"} {
		d := p.begin(t, "-tt", to, "echo ready; while sleep 0.3; do :; done")
		check(to+": it ends with the certificate", func() error {
			code, text := d.code(), d.text()
			warned := strings.Count(text, "when your certificate expires")
			if took := time.Since(begun); code != 255 || took > 11*time.Second+slack || warned != 1 || !strings.Contains(text, "disconnect_expired_cert") {
				return fmt.Errorf("ended by %d %v after the login, warned %d times:\n%q", code, took, warned, text)
			}
			return nil
		})
	}
}

// forwardStays has a forward carry a byte each second for longer than the timeout, and then nothing.
func forwardStays(t *testing.T, p *laptop, to string) error {
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer target.Close()
	go func() {
		for {
			nc, err := target.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				for range 4 {
					time.Sleep(2 * time.Second)
					if _, err := nc.Write([]byte{'x'}); err != nil {
						return
					}
				}
				var b [1]byte
				_, _ = nc.Read(b[:])
			}()
		}
	}()
	port := harness.FreePort(t)
	d := talk(t, p.env, "ssh", "-F", filepath.Join(p.home, "ssh_include"), "-N", "-o", "ExitOnForwardFailure=yes", "-L",
		fmt.Sprintf("127.0.0.1:%d:%s", port, target.Addr()), to)
	var nc net.Conn
	for end := time.Now().Add(3 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if nc, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			break
		}
		if time.Now().After(end) {
			return err
		}
	}
	defer nc.Close()
	begun, n := time.Now(), 0
	for b := make([]byte, 1); ; n++ {
		if _, err := nc.Read(b); err != nil {
			break
		}
	}
	took := time.Since(begun)
	if code := d.code(); n != 4 || code != 255 || took < 13*time.Second || took > 15*time.Second+slack {
		return fmt.Errorf("%d bytes came, ended by %d after %v\n%s", n, code, took, d.text())
	}
	return nil
}

func TestChangedLimitsHoldForWhatIsOpen(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	c := harness.Up(t, 1)
	apply(t, c, everything("timed", ""))
	ann := loggedIn(t, c, "ann", "timed")
	wait := "echo ready; while :; do echo .; sleep 0.2; done"
	hub, direct := ann.begin(t, "gw-1", wait), ann.begin(t, "root@e2e-gw-1", wait)
	apply(t, c, everything("timed", "max_session_duration: 1s"))
	for what, d := range map[string]*dialogue{"through the hub": hub, "end to end": direct} {
		d.cut(t, what, "hawser: open for 1s, which is as long as your roles allow (max_session_duration)")
	}
	// The cluster's default is for roles that state none, the built-in ones too.
	bob := loggedIn(t, c, "bob", "operator")
	hub, direct = bob.begin(t, "gw-1", "echo ready; sleep 100"), bob.begin(t, "root@e2e-gw-1", "echo ready; sleep 100")
	apply(t, c, "kind: cluster\nidle_timeout: 1s\n")
	for what, d := range map[string]*dialogue{"through the hub": hub, "end to end": direct} {
		d.cut(t, what+", by the cluster's default", "idle for 1s")
	}
	if got := c.Must(t, "access", "explain", "bob", "gw-1"); !strings.Contains(got, "ends when idle for: 1 s") {
		t.Errorf("explain says nothing of it:\n%s", got)
	}
}

// stubborn leaves behind it whatever could outlive a session: what ignores HUP and TERM, has a session or a process group of its own, or runs in
// the background. All of it can be told by the mark.
func stubborn(mark string) string {
	return fmt.Sprintf(`printf '%%s\n' 'trap "" HUP TERM INT' 'while :; do sleep 1; done' > /tmp/%[1]s
setsid sh /tmp/%[1]s one &
sh /tmp/%[1]s two &
nohup sh /tmp/%[1]s three >/dev/null 2>&1 &
(setsid sh -c "sh /tmp/%[1]s four & sleep 100" &)
sleep 0.3; echo rea''dy; exec sh /tmp/%[1]s five`, mark)
}

// left is what runs of it.
func left(t *testing.T, mark string) (found []string) {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if b, err := os.ReadFile(name); err == nil && strings.HasPrefix(string(b), "sh\x00/tmp/"+mark+"\x00") {
			found = append(found, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return found
}

// beginStubborn is begin of what is stubborn.
func (p *laptop) beginStubborn(t *testing.T, args ...string) (d *dialogue, mark string) {
	t.Helper()
	mark = "hawser-kill-" + rand.Text()
	t.Cleanup(func() { os.Remove("/tmp/" + mark) })
	d = p.begin(t, append(args, stubborn(mark))...)
	if got := left(t, mark); len(got) < 4 {
		t.Fatalf("only %q run", got)
	}
	return d, mark
}

// killed is cut of what is stubborn, and all its processes.
func (d *dialogue) killed(t *testing.T, what, mark, reason string) {
	t.Helper()
	d.killedSince(t, time.Now(), what, mark, reason)
}

func (d *dialogue) killedSince(t *testing.T, given time.Time, what, mark, reason string) {
	t.Helper()
	d.cutSince(t, given, what, reason)
	begun := time.Now()
	for len(left(t, mark)) > 0 {
		if time.Since(begun) > cutWithin+slack {
			t.Errorf("%s: %q live on", what, left(t, mark))
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	if took := time.Since(begun); took > 100*time.Millisecond {
		t.Logf("%s: its processes were gone %v after the client", what, took)
	}
}

func TestSessionsKillEndsEveryProcess(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	c := harness.Up(t, 2)
	ann := loggedIn(t, c, "ann", "operator")
	bob := loggedIn(t, c, "bob", "operator")
	kill := func(args ...string) {
		t.Helper()
		if r := c.Hawser(t, nil, append([]string{"sessions", "kill", "--reason", "by the test"}, args...)...); r.Code != 0 {
			t.Fatalf("kill %v: exit %d, %s", args, r.Code, r.Stderr)
		}
	}
	stays := bob.begin(t, "gw-2", "echo ready; read x; echo still here")

	type one struct {
		d    *dialogue
		mark string
		what string
	}
	var all []one
	for _, tt := range []struct {
		what string
		args []string
	}{
		{"a command through the hub", []string{"gw-1"}}, {"a terminal through the hub", []string{"-tt", "gw-1"}},
		{"a command end to end", []string{"root@e2e-gw-1"}}, {"a terminal end to end", []string{"-tt", "root@e2e-gw-1"}},
	} {
		d, mark := ann.beginStubborn(t, tt.args...)
		all = append(all, one{d, mark, tt.what})
	}
	forward := talk(t, ann.env, "ssh", "-F", filepath.Join(ann.home, "ssh_include"), "-N", "-v", "-R", "127.0.0.1:0:127.0.0.1:9", "gw-1")
	forward.wait("Allocated port [0-9]+")
	kill("--user", "ann")
	for _, x := range all {
		x.d.killed(t, x.what+", killed by its user", x.mark, "by the test")
	}
	forward.cut(t, "a forward, killed by its user", "")

	hub, hubMark := ann.beginStubborn(t, "-tt", "gw-1")
	direct, directMark := ann.beginStubborn(t, "root@e2e-gw-1")
	kill("--device", "gw-1")
	hub.killed(t, "a terminal through the hub, killed by its device", hubMark, "by the test")
	direct.killed(t, "a command end to end, killed by its device", directMark, "by the test")

	// One's own, by its id, without any right over others'.
	hub, hubMark = ann.beginStubborn(t, "gw-1")
	id := ""
	for line := range strings.Lines(c.Must(t, "sessions", "ls")) {
		if f := strings.Fields(line); len(f) > 5 && f[1] == "ann" && f[5] == "session" {
			id = f[0]
		}
	}
	if r := bob.hawser(t, "", "sessions", "kill", id); r.Code != 3 {
		t.Errorf("another's: exit %d, %s", r.Code, r.Stderr)
	}
	for _, args := range [][]string{{"--user", "bob"}, {"--device", "gw-1"}} {
		if r := ann.hawser(t, "", append([]string{"sessions", "kill"}, args...)...); r.Code != 5 {
			t.Errorf("kill %v without the right: exit %d, %s", args, r.Code, r.Stderr)
		}
	}
	ann.must(t, "sessions", "kill", id)
	hub.killed(t, "one's own", hubMark, "ended by ann")

	// The device is out of reach: the person is told at once, and the processes end when it is back.
	var pid int
	for _, d := range c.Ready.Devices {
		if d.Name == "gw-1" {
			pid = d.PID
		}
	}
	hub, hubMark = ann.beginStubborn(t, "gw-1")
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	kill("--user", "ann")
	hub.cut(t, "a session whose device is out of reach", "by the test")
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, 10*time.Second, "what ran on it ends when it is back", func() bool { return len(left(t, hubMark)) == 0 })

	stays.say("go on")
	stays.wait("still here")
}
