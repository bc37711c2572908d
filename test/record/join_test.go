package record_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"hawser/test/harness"
)

// sessionIDs are the live sessions of their own that there are, by device.
func sessionIDs(t *testing.T, c *harness.Cluster) map[string]string {
	t.Helper()
	var list []struct{ ID, Device, Kind, Joins string }
	if err := json.Unmarshal([]byte(c.Must(t, "sessions", "ls", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	ids := map[string]string{}
	for _, s := range list {
		if s.Kind == "session" && s.Joins == "" {
			ids[s.Device] = s.ID
		}
	}
	return ids
}

// Two people at real terminals with stock ssh, in the ways in that there are: the second sees what the first sees, types what he may, is told of, and leaves.
func TestASessionIsJoined(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	c := harness.Up(t, 1)
	login := harness.Account(t)
	for _, way := range []struct {
		name string
		ssh  []string
	}{
		{"hub", []string{"-l", login + "=gw-1", "gw-1"}},
		{"end to end", []string{"-l", login, "e2e-gw-1"}},
	} {
		t.Run(way.name, func(t *testing.T) {
			ssh := []string{"ssh", "-F", c.Ready.SSHConfig, "-o", "LogLevel=ERROR"}
			owner := harness.NewScreen(t, "xterm", "80", "24", append(append(ssh, "-t"), way.ssh...)...)
			owner.Shows(t, "$")
			owner.Types(t, "PS1='one> '; clear; echo before-$((1+1))", "Enter")
			owner.Shows(t, "before-2")
			var id string
			harness.Eventually(t, 10*time.Second, "the session is listed", func() bool {
				id = sessionIDs(t, c)["gw-1"]
				return id != ""
			})

			guest := harness.NewScreen(t, "xterm", "100", "30", append(ssh, "-t", "hub", "join", id[:8])...)
			guest.Shows(t, "before-2")
			owner.Shows(t, "joined (observer, by")
			owner.Types(t, "echo after-$((1+2))", "Enter")
			guest.Shows(t, "after-3")
			guest.Types(t, "echo not-$((2+2))", "Enter")
			guest.Types(t, "C-c")
			guest.Shows(t, "code 0")
			owner.Shows(t, "left")
			if text := owner.Text(t); strings.Contains(text, "not-4") {
				t.Errorf("an observer typed:\n%s", text)
			}

			// What fills the owner's screen is not spoilt: he is told when it is gone.
			owner.Types(t, `clear; printf '\033[?1049h'in-the-editor; read x; printf '\033[?1049l'`, "Enter")
			owner.Shows(t, "in-the-editor")
			peer := harness.NewScreen(t, "xterm", "80", "24", append(ssh, "-t", "hub", "join", id, "--mode", "peer")...)
			peer.Shows(t, "in-the-editor")
			owner.Types(t, "Enter")
			owner.Shows(t, "joined (peer, by")
			peer.Types(t, "echo peer-$((2+3))", "Enter")
			owner.Shows(t, "peer-5")
			peer.Shows(t, "peer-5")
			owner.Tmux(t, "resize-window", "-x", "60", "-y", "10")
			owner.Types(t, "clear; stty size", "Enter")
			peer.Shows(t, "10 60")
			owner.Types(t, "exit", "Enter")
			peer.Shows(t, "the session has ended")
			peer.Shows(t, "code 255")
		})
	}
	t.Run("refused", func(t *testing.T) {
		for _, r := range []harness.Result{
			c.SSH(t, nil, "-tt", "hub", "join", "abcdef01"), c.SSH(t, nil, "-tt", "hub", "join", "--mode", "god", "abcdef01"), c.SSH(t, nil, "hub", "join", "abcdef01"),
		} {
			if r.Code == 0 || len(r.Stdout)+len(r.Stderr) == 0 {
				t.Errorf("exit %d: %s%s", r.Code, r.Stdout, r.Stderr)
			}
		}
	})
}
