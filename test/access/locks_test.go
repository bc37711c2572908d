package access

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hawser/test/harness"
)

// cutWithin is how long a lock may take from the return of the command, which waited for everybody, to the end of what it refuses.
const cutWithin = time.Second

// slack is what a shared machine is allowed beyond it; what was measured is logged as it is.
const slack = 3 * time.Second

// loggedIn is somebody with a certificate.
func loggedIn(t *testing.T, c *harness.Cluster, name string, roles ...string) *laptop {
	t.Helper()
	p := newLaptop(t, c, name)
	if r := p.hawser(t, password+"\n", append(invite(t, c, name, roles...), "--password-stdin", "--no-otp", "--no-agent")...); r.Code != 0 {
		t.Fatalf("accept: %s", r.Stderr)
	}
	p.must(t, "config", "ssh")
	return p
}

// begin starts an ssh that prints "ready", and waits for it.
func (p *laptop) begin(t *testing.T, args ...string) *dialogue {
	t.Helper()
	d := talk(t, p.env, "ssh", append([]string{"-F", filepath.Join(p.home, "ssh_include")}, args...)...)
	d.wait("ready")
	return d
}

// cut checks that what was begun ended in time, with 255 and the reason.
func (d *dialogue) cut(t *testing.T, what, reason string) {
	t.Helper()
	begun := time.Now()
	code := d.code()
	if took := time.Since(begun); took > cutWithin+slack {
		t.Errorf("%s ended %v after the lock was in force", what, took)
	}
	if code != 255 || reason != "" && !strings.Contains(d.text(), reason) {
		t.Errorf("%s: exit %d, showed %q; want 255 and %q", what, code, d.text(), reason)
	}
}

func TestALockOfAUserCutsEveryWayInAndSaysWhy(t *testing.T) {
	t.Parallel()
	c := harness.Up(t, 1)
	ann := loggedIn(t, c, "ann", "operator")
	bob := loggedIn(t, c, "bob", "operator")

	wait := "echo ready; exec sleep 100"
	begun := map[string]*dialogue{
		"a command through the hub":  ann.begin(t, "gw-1", wait),
		"a terminal through the hub": ann.begin(t, "-t", "gw-1", wait),
		"a command end to end":       ann.begin(t, "root@e2e-gw-1", wait),
		"a terminal end to end":      ann.begin(t, "-t", "root@e2e-gw-1", wait),
	}
	stays := bob.begin(t, "gw-1", "echo ready; read x; echo still here")
	forward := talk(t, ann.env, "ssh", "-F", filepath.Join(ann.home, "ssh_include"), "-N", "-v", "-R", "127.0.0.1:0:127.0.0.1:9", "gw-1")
	forward.wait("Allocated port [0-9]+")

	r := c.Hawser(t, nil, "lock", "add", "--user", "ann", "--message", "ask security, ticket 4711")
	id := strings.TrimSpace(string(r.Stdout))
	if r.Code != 0 || len(id) != 8 || !strings.Contains(string(r.Stderr), "in force on 1 of 1 hubs and 1 of 1 devices") {
		t.Fatalf("lock add: exit %d, %q, %q", r.Code, r.Stdout, r.Stderr)
	}
	for what, d := range begun {
		d.cut(t, what, "ask security, ticket 4711")
	}
	forward.cut(t, "a forward", "")

	for _, to := range []string{"gw-1", "root@e2e-gw-1"} {
		if r := ann.ssh(t, to, "true"); r.Code != 255 || !strings.Contains(string(r.Stderr), "ask security, ticket 4711") {
			t.Errorf("ssh %s: exit %d, %q", to, r.Code, r.Stderr)
		}
	}
	if r := ann.hawser(t, "", "ls"); r.Code != 5 || !strings.Contains(string(r.Stderr), "ask security, ticket 4711") {
		t.Errorf("hawser ls: exit %d, %s", r.Code, r.Stderr)
	}
	stays.say("go on")
	stays.wait("still here")

	if ls := c.Must(t, "lock", "ls"); !strings.Contains(ls, id) || !strings.Contains(ls, "user=ann") || !strings.Contains(ls, "admin") {
		t.Errorf("lock ls:\n%s", ls)
	}
	c.Must(t, "lock", "rm", id)
	if r := ann.ssh(t, "gw-1", "echo $HAWSER_USER"); string(r.Stdout) != "ann\n" {
		t.Errorf("after the lock: exit %d, %s", r.Code, r.Stderr)
	}
	if r := ann.ssh(t, "root@e2e-gw-1", "echo $HAWSER_USER"); string(r.Stdout) != "ann\n" {
		t.Errorf("after the lock end to end: exit %d, %s", r.Code, r.Stderr)
	}
}

func TestALockOfADeviceSendsItAway(t *testing.T) {
	t.Parallel()
	c := harness.Up(t, 2)
	ann := loggedIn(t, c, "ann", "operator")
	hub := ann.begin(t, "gw-1", "echo ready; exec sleep 100")
	direct := ann.begin(t, "root@e2e-gw-1", "echo ready; exec sleep 100")
	other := ann.begin(t, "gw-2", "echo ready; read x; echo still here")
	if r := c.Hawser(t, nil, "lock", "add", "--device", "gw-1", "--message", "stolen"); r.Code != 0 {
		t.Fatalf("lock add: exit %d, %s", r.Code, r.Stderr)
	}
	hub.cut(t, "a session through the hub", "stolen")
	direct.cut(t, "a session end to end", "stolen")
	harness.Eventually(t, 5*time.Second, "gw-1 is offline", func() bool {
		return strings.Contains(c.Must(t, "show", "gw-1"), "offline")
	})
	other.say("go on")
	other.wait("still here")
	if r := ann.ssh(t, "gw-1", "true"); r.Code != 255 {
		t.Errorf("a session on a locked device: exit %d, %s", r.Code, r.Stderr)
	}
	if show := c.Must(t, "show", "gw-1"); !strings.Contains(show, "stolen") {
		t.Errorf("show does not say why gw-1 is away:\n%s", show)
	}
}

func TestAnAdministratorDoesNotLockHimselfOutUnawares(t *testing.T) {
	t.Parallel()
	c := harness.Up(t, 0)
	for _, args := range [][]string{{"--user", "admin"}, {"--role", "admin"}, {"--source", "127.0.0.0/8"}} {
		if r := c.Hawser(t, nil, append([]string{"lock", "add"}, args...)...); r.Code != 1 || !strings.Contains(string(r.Stderr), "--force") || len(r.Stdout) > 0 {
			t.Errorf("lock add %s: exit %d, %q, %s", args, r.Code, r.Stdout, r.Stderr)
		}
	}
	if r := c.Hawser(t, nil, "lock", "add"); r.Code != 2 {
		t.Errorf("a lock of nothing: exit %d", r.Code)
	}
	if r := c.Hawser(t, nil, "lock", "add", "--user", "admni"); r.Code != 3 {
		t.Errorf("a typo: exit %d, %s", r.Code, r.Stderr)
	}
}

// A role taken away ends what it allowed, in both ways in, and the certificates issued before.
func TestARoleTakenAwayEndsWhatItAllowed(t *testing.T) {
	t.Parallel()
	c := harness.Up(t, 1)
	apply(t, c, "kind: role\nname: field\n"+allow)
	apply(t, c, "kind: role\nname: nothing\n")
	ann := loggedIn(t, c, "ann", "field", "nothing")
	hub := ann.begin(t, "gw-1", "echo ready; exec sleep 100")
	direct := ann.begin(t, "root@e2e-gw-1", "echo ready; exec sleep 100")
	c.Must(t, "user", "set-roles", "ann", "nothing")
	hub.cut(t, "a session through the hub", "hawser: ")
	direct.cut(t, "a session end to end", "hawser: ")
	for _, to := range []string{"gw-1", "root@e2e-gw-1"} {
		if r := ann.ssh(t, to, "true"); r.Code != 255 {
			t.Errorf("ssh %s with the old certificate: exit %d", to, r.Code)
		}
	}
}

// Locks hold while auth is away, and through the restart of every part.
func TestLocksHoldThroughAnOutageAndRestarts(t *testing.T) {
	w := harness.NewWorld(t, 1)
	s := w.AddSite(t, "gw")
	s.StartEdge(t)
	try := func(way harness.Way) (int, string) {
		t.Helper()
		args := append(w.SSH(1, way, "gw"), "true")
		r := harness.Run(t, nil, args[0], args[1:]...)
		return r.Code, string(r.Stdout) + string(r.Stderr)
	}
	for _, way := range []harness.Way{harness.HubMode, harness.EndToEnd} {
		if code, out := try(way); code != 0 {
			t.Fatalf("%s: exit %d, %s", way, code, out)
		}
	}
	id := w.Must(t, "lock", "add", "--login", "hawserfault", "--message", "no root today")
	refused := func(when, want string) {
		t.Helper()
		for _, way := range []harness.Way{harness.HubMode, harness.EndToEnd} {
			code, out := try(way)
			if code != 255 || way == harness.HubMode && !strings.Contains(out, want) { // end to end it is a banner, which LogLevel ERROR hides
				t.Errorf("%s, %s: exit %d, %q; want 255 and %q", when, way, code, out, want)
			}
		}
	}
	refused("with all there", "no root today")

	w.Auth.Kill()
	refused("auth away", "") // without auth nobody is let in, locked or not
	s.Edge.Kill()
	s.RunEdge(t)
	refused("auth away, agent restarted", "")
	w.Hubs[0].Process.Kill()
	w.Hubs[0].Run(t)
	harness.Eventually(t, 20*time.Second, "the hub serves without auth", func() bool { return strings.Contains(w.Hubs[0].Output(), "hub ready") })
	refused("auth away, hub restarted", "")

	w.StartAuth(t)
	harness.Eventually(t, 60*time.Second, "the device is back", func() bool {
		d, err := w.Show(t, "gw")
		return err == nil && d.Online
	})
	refused("auth restarted", "no root today")
	w.Must(t, "lock", "rm", id)
	harness.Eventually(t, 10*time.Second, "the lock is lifted everywhere", func() bool {
		a, _ := try(harness.HubMode)
		b, _ := try(harness.EndToEnd)
		return a == 0 && b == 0
	})

	// A device that is locked stays away, whoever starts it again.
	id = w.Must(t, "lock", "add", "--device", "gw", "--message", "stolen")
	s.Edge.Kill()
	s.RunEdge(t)
	harness.Eventually(t, 20*time.Second, "the agent is told", func() bool { return strings.Contains(s.Edge.Output(), "stolen") })
	harness.Eventually(t, 5*time.Second, "a locked device is offline", func() bool {
		d, err := w.Show(t, "gw")
		return err == nil && !d.Online
	})
	w.Must(t, "lock", "rm", id)
	s.Edge.Kill()
	s.RunEdge(t)
	harness.Eventually(t, 20*time.Second, "the device is back", func() bool {
		d, err := w.Show(t, "gw")
		return err == nil && d.Online
	})
}

// From the lock to the end of the last of many sessions, as their clients see it.
func TestLockToCut(t *testing.T) {
	const sessions = 100
	c := harness.Up(t, 1)
	ann := loggedIn(t, c, "ann", "operator")
	// One connection in each way, many sessions: what is measured is not ssh's start.
	ends := make(chan time.Time, sessions)
	ready := make(chan struct{}, sessions)
	socket := func(to string) []string {
		path := filepath.Join(t.TempDir(), "m")
		master := talk(t, ann.env, "ssh", "-F", filepath.Join(ann.home, "ssh_include"), "-M", "-S", path, to, "echo ready; exec sleep 100")
		master.wait("ready")
		return []string{"-F", filepath.Join(ann.home, "ssh_include"), "-S", path, to, "echo ready; exec sleep 100"}
	}
	for i := range sessions {
		if i%25 == 0 { // a connection has so many channels
			args := socket([]string{"gw-1", "root@e2e-gw-1"}[i/25%2])
			for range 25 {
				cmd := exec.Command("ssh", args...)
				cmd.Env = append(cmd.Environ(), ann.env...)
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = cmd.Process.Kill() })
				go func() {
					b := make([]byte, 64)
					if n, _ := out.Read(b); n > 0 {
						ready <- struct{}{}
					}
					for {
						if _, err := out.Read(b); err != nil {
							break
						}
					}
					ends <- time.Now()
					_ = cmd.Wait()
				}()
			}
		}
	}
	deadline := time.After(30 * time.Second)
	for i := range sessions {
		select {
		case <-ready:
		case <-deadline:
			t.Fatalf("%d of %d sessions began", i, sessions)
		}
	}
	// Its id is printed as soon as auth has stored it.
	cmd := exec.Command(harness.Program(t, "hawser"), "lock", "add", "--user", "ann")
	cmd.Env = append(cmd.Environ(), "HAWSER_HOME="+c.Ready.Home)
	id, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	_, _ = id.Read(make([]byte, 64))
	begun := time.Now()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("lock add: %v", err)
	}
	told := time.Since(begun)
	var took []time.Duration
	for range sessions {
		select {
		case at := <-ends:
			took = append(took, at.Sub(begun))
		case <-time.After(10 * time.Second):
			t.Fatalf("%d of %d sessions ended", len(took), sessions)
		}
	}
	slices.Sort(took)
	t.Logf("from the lock to the end of %d sessions, as their clients see it: p50 %v, p99 %v; confirmed by all after %v",
		sessions, took[sessions/2], took[sessions*99/100], told)
	if took[sessions*99/100] > cutWithin+slack {
		t.Errorf("p99 is %v", took[sessions*99/100])
	}
}
