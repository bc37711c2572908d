package record_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"hawser/test/harness"
)

// guestsOf are the ways in which those came who are in a session now.
func guestsOf(t *testing.T, c *harness.Cluster, id string) (ways []string) {
	t.Helper()
	var list []struct{ Way, Joins string }
	if err := json.Unmarshal([]byte(c.Must(t, "sessions", "ls", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		if s.Joins == id {
			ways = append(ways, s.Way)
		}
	}
	return ways
}

// live waits for the one session of its own on a device.
func live(t *testing.T, c *harness.Cluster, device string) (id string) {
	t.Helper()
	harness.Eventually(t, 10*time.Second, "the session on "+device+" is listed", func() bool {
		id = sessionIDs(t, c)[device]
		return id != ""
	})
	return id
}

// Who joins by his own certificate past the hubs sees the session, and no hub does; what cannot be is said.
func TestASessionIsJoinedPastTheHubs(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	c := harness.Up(t, 1)
	login := harness.Account(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	state := c.Dir + "/web"
	token := c.Must(t, "token", "create", "--kind", "edge")
	harness.Start(t, nil, harness.Program(t, "hawser-edge"), "run", "--state", state, "--token", token, "--name", "web", "--listen", ln.Addr().String())
	ssh := []string{"ssh", "-F", c.Ready.SSHConfig, "-o", "LogLevel=ERROR"}
	hawser := []string{"env", "HAWSER_HOME=" + c.Ready.Home, harness.Program(t, "hawser")}
	harness.Eventually(t, 20*time.Second, "the device listens", func() bool {
		return c.Hawser(t, nil, "ssh", "-o", "BatchMode=yes", login+"@direct-web", "true").Code == 0
	})

	t.Run("end to end", func(t *testing.T) {
		owner := harness.NewScreen(t, "xterm", "80", "24", append(ssh, "-t", "-l", login, "e2e-gw-1")...)
		owner.Shows(t, "$")
		owner.Types(t, "PS1='one> '; clear; echo before-$((1+1))", "Enter")
		owner.Shows(t, "before-2")
		id := live(t, c, "gw-1")
		guest := harness.NewScreen(t, "xterm", "100", "30", append(hawser, "join", id[:8])...)
		guest.Shows(t, "before-2")
		owner.Shows(t, "joined (observer, end-to-end)")
		if ways := guestsOf(t, c, id); len(ways) != 1 || ways[0] != "end-to-end" {
			t.Errorf("hawser join came by %v", ways)
		}
		peer := harness.NewScreen(t, "xterm", "80", "24", append(ssh, "-t", "-o", "SetEnv=HAWSER_JOIN="+id+":peer", "-l", login, "e2e-gw-1")...)
		peer.Shows(t, "before-2")
		owner.Shows(t, "joined (peer, end-to-end)")
		peer.Types(t, "echo peer-$((2+3))", "Enter")
		owner.Shows(t, "peer-5")
		guest.Types(t, "C-c")
		guest.Shows(t, "code 0")
		c.Must(t, "sessions", "kill", guestSession(t, c, id), "--reason", "enough")
		peer.Shows(t, "enough")
		peer.Shows(t, "code 255")
		owner.Types(t, "echo alone-$((3+3))", "Enter")
		owner.Shows(t, "alone-6")
		for what, want := range map[string]string{
			"HAWSER_JOIN=abcdef0123":           "no live session",
			"HAWSER_JOIN=" + id + ":god":       "is ID",
			"HAWSER_JOIN=../etc":               "is ID",
			"HAWSER_JOIN=":                     "is ID",
			"HAWSER_JOIN=" + id + ":moderator": "somebody else",
		} {
			if r := c.SSH(t, nil, "-tt", "-o", "SetEnv="+what, "-l", login, "e2e-gw-1", "echo ran"); r.Code != 255 || !strings.Contains(string(r.Stdout)+string(r.Stderr), want) || bytes.Contains(r.Stdout, []byte("ran")) {
				t.Errorf("%s: exit %d: %s%s", what, r.Code, r.Stdout, r.Stderr)
			}
		}
		if r := c.SSH(t, nil, "-o", "SetEnv=HAWSER_JOIN="+id, "-l", login, "e2e-gw-1"); r.Code != 255 || !strings.Contains(string(r.Stderr), "takes a terminal") {
			t.Errorf("without a terminal: exit %d: %s%s", r.Code, r.Stdout, r.Stderr)
		}
		if r := c.SSH(t, nil, "-tt", "-o", "SetEnv=HAWSER_JOIN="+id, "-l", login+"=gw-1", "gw-1", "echo ran"); r.Code != 255 || bytes.Contains(r.Stdout, []byte("ran")) ||
			!strings.Contains(string(r.Stderr), "join ID") {
			t.Errorf("by the hub: exit %d: %s%s", r.Code, r.Stdout, r.Stderr)
		}
		owner.Types(t, "exit", "Enter")
		owner.Shows(t, "code 0")
		// What the peer typed is the peer's, and the device's witness agrees with its recording.
		if text := c.Must(t, "recordings", "verify", id); !strings.Contains(text, "verified") {
			t.Errorf("verify: %s", text)
		}
	})
	t.Run("direct", func(t *testing.T) {
		owner := harness.NewScreen(t, "xterm", "80", "24", append(hawser, "ssh", "-t", login+"@direct-web")...)
		owner.Shows(t, "$")
		owner.Types(t, "PS1='one> '; clear; echo before-$((1+1))", "Enter")
		owner.Shows(t, "before-2")
		id := live(t, c, "web")
		for way, command := range map[string][]string{
			"direct":     append(hawser, "ssh", "-t", "-o", "SetEnv=HAWSER_JOIN="+id, login+"@direct-web"),
			"end-to-end": append(hawser, "join", id),
			"by ":        append(ssh, "-t", "hub", "join", id),
		} {
			guest := harness.NewScreen(t, "xterm", "80", "24", command...)
			guest.Shows(t, "before-2")
			owner.Shows(t, "joined (observer, "+way)
			owner.Types(t, "clear; echo seen-$((1+2)) before-$((1+1))", "Enter")
			guest.Shows(t, "seen-3")
			guest.Types(t, "C-c")
			guest.Shows(t, "code 0")
			owner.Shows(t, "left")
			owner.Types(t, "clear; echo before-$((1+1))", "Enter")
			owner.Shows(t, "before-2")
		}
	})
}

// guestSession is the session of one who is in another.
func guestSession(t *testing.T, c *harness.Cluster, joins string) string {
	t.Helper()
	var list []struct{ ID, Joins string }
	if err := json.Unmarshal([]byte(c.Must(t, "sessions", "ls", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		if s.Joins == joins {
			return s.ID
		}
	}
	t.Fatalf("nobody is in %s", joins)
	return ""
}

// A session that floods its screen is not stalled by a viewer that reads nothing, and the viewer then sees the screen as it is. Small and large
// terminals see it whole or the part about the cursor, wide characters in their places.
func TestAFloodAndAViewerThatReadsNothing(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	c := harness.Up(t, 1)
	login := harness.Account(t)
	ssh := []string{"ssh", "-F", c.Ready.SSHConfig, "-o", "LogLevel=ERROR"}
	owner := harness.NewScreen(t, "xterm", "100", "30", append(ssh, "-t", "-l", login+"=gw-1", "gw-1")...)
	owner.Shows(t, "$")
	id := live(t, c, "gw-1")

	viewer := exec.Command(ssh[0], append(ssh[1:], "-tt", "hub", "join", id)...)
	in, err := viewer.StdinPipe() // open: its end would be the viewer's
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := viewer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := viewer.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 8)); err != nil { // he is in, and reads nothing more
		t.Fatal(err)
	}
	// Each picture is some 20 KB, and 4 MB fill what there is of buffers on the way to him.
	flood := `for(;;)printf "\\033[38;5;%dm%c", 256*rand(), 33+90*rand()`
	owner.Types(t, "clear; timeout 4 awk 'BEGIN{"+flood+"}'; reset; clear; echo flooded-$((1+1))", "Enter")
	owner.Shows(t, "flooded-2")
	owner.Types(t, "exit", "Enter")
	owner.Shows(t, "code 0")
	rest, _ := io.ReadAll(out)
	_ = viewer.Wait()
	if !bytes.Contains(rest, []byte("flooded-2")) || len(rest) > 8_000_000 {
		t.Errorf("the viewer was sent %d bytes, and last %q", len(rest), rest[max(0, len(rest)-200):])
	}

	owner = harness.NewScreen(t, "xterm", "100", "30", append(ssh, "-t", "-l", login+"=gw-1", "gw-1")...)
	owner.Shows(t, "$")
	owner.Types(t, "PS1='> '; clear; printf 'wide \\346\\227\\245\\346\\234\\254\\350\\252\\236 e\\314\\201 %s\\n' end; seq -s ' ' 1 30", "Enter")
	owner.Shows(t, "29 30")
	id = live(t, c, "gw-1")
	small := harness.NewScreen(t, "xterm", "80", "24", append(ssh, "-t", "hub", "join", id)...)
	large := harness.NewScreen(t, "xterm", "300", "100", append(ssh, "-t", "hub", "join", id)...)
	for _, s := range []*harness.Screen{small, large} {
		s.Shows(t, "wide 日本語 e\u0301 end")
	}
	large.Shows(t, "29 30")
	owner.Tmux(t, "resize-window", "-x", "300", "-y", "100")
	owner.Types(t, "clear; stty size; tput cup 98 290; echo far", "Enter")
	large.Shows(t, "far")
	small.Tmux(t, "resize-window", "-x", "120", "-y", "40")
	owner.Types(t, "clear; stty size", "Enter")
	for _, s := range []*harness.Screen{small, large} {
		s.Shows(t, "100 300")
	}
	owner.Types(t, "exit", "Enter")
	small.Shows(t, "code 255")
	if text := c.Must(t, "recordings", "verify", id); !strings.Contains(text, "verified") {
		t.Errorf("verify: %s", text)
	}
}
