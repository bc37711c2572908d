package access

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"hawser/test/harness"
)

// holdSSH starts an ssh that stays, and waits until it is there.
func holdSSH(t *testing.T, c *harness.Cluster, user string, sessions, connections int, args ...string) *harness.Process {
	t.Helper()
	p := harness.Start(t, nil, "ssh", args...)
	harness.Eventually(t, 20*time.Second, "what was opened is listed", func() bool {
		s, n := heldBy(t, c, user)
		return s == sessions && n == connections
	})
	return p
}

// heldBy counts the sessions and connections that `hawser sessions ls` shows of a user.
func heldBy(t *testing.T, c *harness.Cluster, user string) (sessions, connections int) {
	t.Helper()
	var list []struct{ User, Kind string }
	if err := json.Unmarshal([]byte(c.Must(t, "sessions", "ls", "--user", user, "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		if s.Kind == "session" {
			sessions++
		} else {
			connections++
		}
	}
	return sessions, connections
}

// refusedBy runs ssh and wants its exit code 255 and the words of a cap.
func refusedBy(t *testing.T, words []string, args ...string) {
	t.Helper()
	r := harness.Run(t, nil, "ssh", args...)
	if r.Code != 255 {
		t.Errorf("ssh %v exits %d: %s%s", args, r.Code, r.Stdout, r.Stderr)
	}
	for _, w := range append(words, "hawser: ", "hawser sessions ls --user me") {
		if !strings.Contains(string(r.Stderr), w) {
			t.Errorf("its stderr lacks %q: %s", w, r.Stderr)
		}
	}
}

func TestCapsRefuseInWordsThatSSHShows(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	c := harness.Up(t, 1)
	write := filepath.Join(t.TempDir(), "capped.yaml")
	if err := os.WriteFile(write, []byte(`kind: role
name: capped
allow: {devices: {"*": ["*"]}, logins: [root], channels: [exec, local-forward], ways: [hub, end-to-end, direct]}
options: {max_connections: 3, max_sessions: 2}
---
kind: cluster
caps: {per_connection: 1}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Must(t, "apply", "-f", write)
	ann := person(t, c, "ann", "capped")
	c.Must(t, "user", "set-roles", "admin", "admin", "capped")
	e2e := []string{"-F", c.Ready.SSHConfig, "-o", "BatchMode=yes"}
	port := fmt.Sprint(harness.FreePort(t))
	harness.Start(t, []string{"HAWSER_TOKEN=" + c.Must(t, "token", "create", "--kind", "edge")}, harness.Program(t, "hawser-edge"),
		"run", "--state", t.TempDir(), "--name", "web1", "--listen", "127.0.0.1:"+port)
	harness.Eventually(t, 30*time.Second, "web1 is in the ssh_config", func() bool {
		return strings.Contains(harness.ReadFile(t, c.Ready.SSHConfig), "Host e2e-web1\n")
	})
	direct := append(e2e[:len(e2e):len(e2e)], "-o", "ProxyJump=none", "-o", "HostName=127.0.0.1", "-p", port, "-o", "HostKeyAlias=web1")
	harness.Eventually(t, 30*time.Second, "web1 serves whoever comes to it", func() bool {
		return harness.Run(t, nil, "ssh", append(direct[:len(direct):len(direct)], "root@e2e-web1", "true")...).Code == 0
	})

	for _, way := range []struct {
		name, user, device string
		options            []string
		inner              int // connections each makes beside that to the hub, on the list
	}{
		{"hub", "ann", "root=gw-1@hub", ann, 0},
		{"end to end", "admin", "root@e2e-gw-1", e2e, 1},
		{"direct", "admin", "root@e2e-web1", direct, 0},
	} {
		t.Run(way.name, func(t *testing.T) {
			ssh := func(args ...string) []string { return append(append([]string{}, way.options...), args...) }
			per := 1 + way.inner
			a := holdSSH(t, c, way.user, 1, per, ssh(way.device, "sleep 100")...)
			b := holdSSH(t, c, way.user, 2, 2*per, ssh(way.device, "sleep 100")...)
			refusedBy(t, []string{"2 sessions at once", "2 are open", "max_sessions"}, ssh(way.device, "true")...)
			n := holdSSH(t, c, way.user, 2, 3*per, ssh("-N", way.device)...)
			refusedBy(t, []string{"3 connections at once", "3 are open", "max_connections"}, ssh("-N", way.device)...)
			a.Stop(t)
			if r := harness.Run(t, nil, "ssh", ssh(way.device, "true")...); r.Code != 0 {
				t.Errorf("with one ended: exit %d: %s", r.Code, r.Stderr)
			}
			b.Stop(t)
			n.Stop(t)
			harness.Eventually(t, 20*time.Second, "all is given back", func() bool { s, n := heldBy(t, c, way.user); return s+n == 0 })
		})
	}
	// The cluster's cap on channels, over one connection that several sessions share.
	control := filepath.Join(t.TempDir(), "c")
	master := holdSSH(t, c, "ann", 1, 1, append(append([]string{}, ann...), "-M", "-S", control, "root=gw-1@hub", "sleep 100")...)
	r := harness.Run(t, nil, "ssh", append(append([]string{}, ann...), "-S", control, "root=gw-1@hub", "true")...)
	if r.Code != 255 || !strings.Contains(string(r.Stderr), "caps.per_connection") {
		t.Errorf("a second channel of the connection: exit %d: %s", r.Code, r.Stderr)
	}
	master.Stop(t)
	if got := c.Must(t, "audit", "search", "--type", "session.refuse", "--user", "ann", "-o", "json"); !strings.Contains(got, "max_sessions: 2 of 2") || !strings.Contains(got, "max_connections: 3 of 3") {
		t.Errorf("the audit log does not say which caps refused: %s", got)
	}
}

// A session whose device is out of reach waits for it in the one place it has: nobody gets that meanwhile, coming back takes no other, and it is free when the
// session is over, be that while the device is away.
func TestADetachedSessionHoldsExactlyOnePlace(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	c := harness.Up(t, 2)
	file := filepath.Join(t.TempDir(), "single.yaml")
	if err := os.WriteFile(file, []byte(`kind: role
name: single
allow: {devices: {"*": ["*"]}, logins: [root], channels: [exec], ways: [hub]}
options: {max_sessions: 1}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Must(t, "apply", "-f", file)
	type row struct{ ID, User, Kind, State, Caps string }
	sessions := func(user string) (all []row) {
		if err := json.Unmarshal([]byte(c.Must(t, "sessions", "ls", "--user", user, "-o", "json")), &all); err != nil {
			t.Fatal(err)
		}
		return slices.DeleteFunc(all, func(r row) bool { return r.Kind != "session" })
	}
	people, held := map[string][]string{}, map[string]*harness.Process{}
	for _, user := range []string{"ann", "bob"} {
		people[user] = person(t, c, user, "single")
		held[user] = holdSSH(t, c, user, 1, 1, append(people[user][:len(people[user]):len(people[user])], "root=gw-1@hub", "sleep 300")...)
	}
	one := func(user, state string) bool {
		all := sessions(user)
		return len(all) == 1 && all[0].State == state && strings.Contains(all[0].Caps, "sessions 1/1")
	}
	other := func(user string) []string {
		return append(people[user][:len(people[user]):len(people[user])], "root=gw-2@hub", "true")
	}
	admitted := func(user, when string) {
		t.Helper()
		harness.Eventually(t, 10*time.Second, user+" has no session, "+when, func() bool { return len(sessions(user)) == 0 })
		if r := harness.Run(t, nil, "ssh", other(user)...); r.Code != 0 {
			t.Errorf("%s is refused another, %s: exit %d: %s", user, when, r.Code, r.Stderr)
		}
	}
	agent := c.Ready.Devices[0].PID
	if err := syscall.Kill(agent, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(agent, syscall.SIGCONT) }()
	for user := range held {
		harness.Eventually(t, 60*time.Second, user+"'s session is detached, in one place", func() bool { return one(user, "detached") })
		refusedBy(t, []string{"1 is open", "max_sessions"}, other(user)...)
	}
	c.Must(t, "sessions", "kill", sessions("bob")[0].ID)
	admitted("bob", "when it was killed while its device is away")
	if !one("ann", "detached") {
		t.Errorf("ann's session: %+v", sessions("ann"))
	}
	if err := syscall.Kill(agent, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, 60*time.Second, "ann's session is back, in one place", func() bool { return one("ann", "attached") })
	refusedBy(t, []string{"1 is open", "max_sessions"}, other("ann")...)
	held["ann"].Stop(t)
	admitted("ann", "when she has left")
}

// Ansible with --forks 20: twenty that connect, run and leave, again and again, under a cap of twenty. Ten minutes where HAWSER_LONG is set.
func TestTwentyAtOnceUnderACapOfTwentyAreNeverRefused(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	c, login := harness.Up(t, 1), harness.Account(t) // with a plain shell: root's start-up files are this machine's
	write := filepath.Join(t.TempDir(), "forks.yaml")
	if err := os.WriteFile(write, []byte(`kind: role
name: forks
allow: {devices: {"*": ["*"]}, logins: [`+login+`], channels: [exec], ways: [hub, end-to-end]}
options: {max_connections: 20, max_sessions: 20, cap_mode: exact}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Must(t, "apply", "-f", write)
	c.Must(t, "user", "set-roles", "admin", "admin", "forks")
	last := 4 * time.Second
	if harness.Long() {
		last = 10 * time.Minute
	}
	for way, args := range map[string][]string{
		"hub":        append(person(t, c, "ann", "forks"), login+"=gw-1@hub", "true"),
		"end to end": {"-F", c.Ready.SSHConfig, "-o", "BatchMode=yes", login + "@e2e-gw-1", "true"},
	} {
		var ran atomic.Int64
		var workers sync.WaitGroup
		end := time.Now().Add(last)
		for range 20 {
			workers.Go(func() {
				for time.Now().Before(end) {
					if r := harness.Run(t, nil, "ssh", args...); r.Code != 0 {
						t.Errorf("%s: exit %d: %s", way, r.Code, r.Stderr)
						return
					}
					ran.Add(1)
				}
			})
		}
		workers.Wait()
		t.Logf("%s: %d commands in %s", way, ran.Load(), last)
	}
}
