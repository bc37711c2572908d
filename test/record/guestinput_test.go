package record_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hawser/test/harness"
)

// What a peer types is recorded by the rule of the session that he types in, as his: under `off` nothing of it, under `redacted` no password,
// in no record of any recording; and what he runs is told as his doing.
func TestAGuestsInputIsRecordedAsHisAndNoPassword(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	c := harness.Up(t, 1)
	login := harness.Account(t)
	const secret = "Zq9wpwX"
	ssh := []string{"ssh", "-F", c.Ready.SSHConfig, "-o", "LogLevel=ERROR", "-t"}
	for _, session := range []struct{ rule, way string }{{"off", "hub"}, {"redacted", "hub"}, {"redacted", "end-to-end"}} {
		rule, way := session.rule, session.way
		if r := c.Hawser(t, []byte("kind: cluster\nrecord_stdin: "+rule+"\n"), "apply", "-f", "-"); r.Code != 0 {
			t.Fatalf("%s", r.Stderr)
		}
		owner := harness.NewScreen(t, "xterm", "80", "24", append(ssh, append(ways(login)[way], "exec sh")...)...)
		owner.Shows(t, "$")
		id := live(t, c, "gw-1")
		join := []string{"env", "HAWSER_HOME=" + c.Ready.Home, harness.Program(t, "hawser"), "join", id, "--mode"}
		peer := harness.NewScreen(t, "xterm", "80", "24", append(join, "peer")...)
		peer.Shows(t, "$")
		owner.Types(t, "echo own-$((1+1))", "Enter")
		peer.Shows(t, "own-2")
		// What is typed is withheld if no echo is on before or behind it: this comes to that after a second.
		peer.Types(t, "sleep 1; stty -echo; printf ask-$((1+2)); read x; stty echo; echo peer-$((2+3))", "Enter")
		peer.Shows(t, "ask-3")
		peer.Types(t, secret, "Enter")
		peer.Shows(t, "peer-5")
		owner.Types(t, "exit", "Enter")
		owner.Shows(t, "code 0")

		r := recordings(t, c, 1, func(r shown) bool { return r.ID == id })[0]
		records, input := chunks(t, c, id)
		if bytes.Contains(records, []byte(secret)) || bytes.Contains(input, []byte(secret)) {
			t.Errorf("%s %s: the password is in the recording", rule, way)
		}
		if bytes.Contains(records, []byte("\x00\x00\x00\x05typed")) {
			t.Errorf("%s %s: what was typed stands in a request", rule, way)
		}
		if kept := bytes.Contains(input, []byte("stty -echo")); kept != (rule == "redacted") {
			t.Errorf("%s %s: the peer's input: %q", rule, way, input)
		}
		if r.Verified != "ok" || (r.Witness == "match") != (way == "hub") {
			t.Errorf("%s %s: %s, witness %q: %s", rule, way, r.Verified, r.Witness, r.Fault)
		}
		if said := c.Must(t, "recordings", "verify", id); way == "hub" && !strings.Contains(said, "as the device says that it passed\nverified") {
			t.Errorf("%s %s: %s", rule, way, said)
		}
		got := map[string]bool{}
		for _, e := range r.Events {
			got[strings.Fields(e.Text + " -")[0]+" "+e.Kind+" "+e.User] = true
		}
		for _, want := range []string{"echo command ", "sleep command " + r.User} {
			if !got[want] {
				t.Errorf("%s %s: no %q in %+v", rule, way, want, r.Events)
			}
		}
		harness.Eventually(t, 10*time.Second, "the audit log says who ran it", func() bool {
			found := c.Hawser(t, nil, "audit", "search", "--type", "session.commands", "--session", id, "-o", "json")
			return strings.Contains(string(found.Stdout), `"user":"`+r.User+`"}`)
		})
	}
}

// chunks are the records of a recording as auth has them, and the input in them.
func chunks(t *testing.T, c *harness.Cluster, id string) (records, input []byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "r")
	c.Must(t, "recordings", "export", "--chunks", "--file", file, id)
	records, input, _ = decoded(t, []byte(harness.ReadFile(t, file)))
	return records, input
}
