package record_test

import (
	"strings"
	"testing"

	"hawser/test/harness"
)

// Who is in a session is told inside and outside, invited, written to and put out, with stock ssh at real terminals.
func TestPeopleInASession(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	c := harness.Up(t, 1)
	login := harness.Account(t)
	key := c.Dir + "/bob"
	harness.Run(t, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	c.Must(t, "user", "add", "bob", "--role", "auditor", "--key", key+".pub")
	ssh := []string{"ssh", "-F", c.Ready.SSHConfig, "-o", "LogLevel=ERROR"}
	host, port, _ := strings.Cut(c.Ready.SSHAddr, ":")
	bob := []string{
		"ssh", "-F", "none", "-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "HostName=" + host, "-p", port, "-l", "hawser", "-i", key,
	}

	owner := harness.NewScreen(t, "xterm", "120", "40", append(ssh, "-t", "-l", login+"=gw-1", "gw-1")...)
	owner.Shows(t, "$")
	owner.Types(t, "PS1='one> '; clear; echo before-$((1+1))", "Enter")
	owner.Shows(t, "before-2")
	id := live(t, c, "gw-1")

	// An auditor may join nothing: he is told of the session, and it stays closed to him.
	r := c.Hawser(t, nil, "sessions", "invite", id[:8], "--user", "bob", "--mode", "peer")
	if line := string(r.Stdout); line != "hawser join "+id[:12]+" --mode peer\n" || !strings.Contains(string(r.Stderr), "warning: no user bob has roles") || !strings.Contains(string(r.Stderr), "as "+login+" on gw-1") {
		t.Errorf("invited: %s%s", r.Stdout, r.Stderr)
	}
	list := harness.Run(t, nil, bob[0], append(bob[1:], "hub", "join")...)
	if out := string(list.Stdout); !strings.Contains(out, "admin invites you as peer, your roles do not let you join") {
		t.Errorf("bob sees %s%s", out, list.Stderr)
	}
	refused := harness.NewScreen(t, "xterm", "100", "30", append(bob, "-t", "hub", "join", id[:8])...)
	refused.Shows(t, "code 255")
	c.Must(t, "user", "set-roles", "bob", "operator")

	guest := harness.NewScreen(t, "xterm", "120", "30", append(bob, "-t", "hub")...)
	guest.Shows(t, "search:")
	guest.Types(t, "Tab")
	guest.Shows(t, "on gw-1 as "+login)
	guest.Types(t, "Enter", "Enter") // as he was invited
	guest.Shows(t, "before-2")
	owner.Shows(t, "bob joined (peer, by")
	owner.Types(t, "clear; "+harness.Program(t, "hawser-edge")+" status", "Enter")
	owner.Shows(t, "guest: bob, peer, by")
	owner.Shows(t, "recorded: yes, best-effort")
	owner.Shows(t, "to join it: hawser join "+id[:12])

	c.Must(t, "sessions", "message", id[:8], "look", "at this")
	guest.Shows(t, "admin: look at this")
	owner.Shows(t, "admin: look at this")
	owner.Types(t, "clear; "+harness.Program(t, "hawser-edge")+" status --say hello-inside; echo said", "Enter")
	guest.Shows(t, "hello-inside")

	if r := c.Hawser(t, nil, "sessions", "put-out", id[:8], "bob"); r.Code != 0 || !strings.Contains(string(r.Stderr), "bob is out") {
		t.Errorf("put out: exit %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	guest.Shows(t, "put out by admin")
	owner.Shows(t, "bob was put out")
	again := harness.NewScreen(t, "xterm", "100", "30", append(bob, "-t", "hub", "join", id[:8])...)
	again.Shows(t, "you were put out of this session")
	c.Must(t, "sessions", "invite", id[:8], "--user", "bob")
	back := harness.NewScreen(t, "xterm", "100", "30", append(bob, "-t", "hub", "join", id[:8])...)
	back.Shows(t, "said")
	owner.Types(t, "clear; "+harness.Program(t, "hawser-edge")+" status --out bob; echo status-$?", "Enter")
	back.Shows(t, "put out by admin's session")
	owner.Types(t, "clear; "+harness.Program(t, "hawser-edge")+" status --out bob; echo status-$?", "Enter")
	owner.Shows(t, "bob is not in this session")
	owner.Shows(t, "status-1")
	owner.Types(t, "exit", "Enter")

	for _, event := range []string{"session.invite", "session.message", "session.put-out"} {
		if out := c.Must(t, "audit", "search", "--type", event, "--session", id, "-o", "json"); !strings.Contains(out, event) {
			t.Errorf("no %s of it in the audit log:\n%s", event, out)
		}
	}
}
