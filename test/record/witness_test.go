package record_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hawser/test/harness"
)

// However a session ends, its device's witness is of just what was recorded; and a stranger with the CA's pin tells a recording from one that was
// changed.
func TestRecordingsAreWitnessedAndVerified(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	c := harness.Up(t, 1)
	login := harness.Account(t)
	to := append([]string{"-o", "LogLevel=ERROR"}, ways(login)["hub"]...)
	run := func(stdin []byte, more ...string) { c.SSH(t, stdin, append(append([]string{}, to...), more...)...) }
	run(nil, "echo out; echo err >&2; exit 3")
	run(bytes.Repeat([]byte("input that is larger than a window of the channel\n"), 10_000), "wc -c")
	run([]byte("typed\nexit\n"), "-tt", "sh")
	run([]byte("never read, for the process has ended"), "true")
	run(nil, "-s", "sftp")
	run(nil, "yes | head -c 3000000")
	// The person goes away in the middle of output, and a session is killed.
	gone := harness.Start(t, nil, "ssh", append(append([]string{"-F", c.Ready.SSHConfig}, to...), "while echo y; do :; done")...)
	live := func() (ids []string) {
		var list []struct{ ID string }
		if err := json.Unmarshal([]byte(c.Must(t, "sessions", "ls", "-o", "json")), &list); err != nil {
			t.Fatal(err)
		}
		for _, s := range list {
			ids = append(ids, s.ID)
		}
		return ids
	}
	harness.Eventually(t, 10*time.Second, "it prints", func() bool { return strings.Contains(gone.Output(), "y") })
	gone.Kill()
	harness.Eventually(t, 10*time.Second, "the session is over", func() bool { return len(live()) == 0 })
	killed := harness.Start(t, nil, "ssh", append(append([]string{"-F", c.Ready.SSHConfig}, to...), "echo begun; sleep 1000")...)
	harness.Eventually(t, 10*time.Second, "the session is there", func() bool { return strings.Contains(killed.Output(), "begun") && len(live()) > 0 })
	c.Must(t, "sessions", "kill", live()[0], "--reason", "enough")
	c.SSH(t, nil, append([]string{"-o", "LogLevel=ERROR"}, append(ways(login)["end-to-end"], "echo out")...)...)

	type recording struct{ ID, Way, Kind, Command, State, Verified, Fault, Witness string }
	var list []recording
	harness.Eventually(t, 40*time.Second, "9 recordings are checked", func() bool {
		list = nil
		if err := json.Unmarshal([]byte(c.Must(t, "recordings", "ls", "-o", "json")), &list); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, r := range list {
			if r.Verified != "" {
				n++
			}
		}
		return n == 9
	})
	for _, r := range list {
		want := map[string]string{"hub": "match"}[r.Way]
		if r.Kind == "sftp" { // whose bytes are not kept
			want = "sums"
		}
		if r.Verified != "ok" || r.Witness != want {
			t.Errorf("%+v", r)
		}
	}
	file := filepath.Join(t.TempDir(), "session.hwrec")
	for _, r := range list {
		if r.Way == "hub" && strings.HasPrefix(r.Command, "wc") {
			c.Must(t, "recordings", "export", r.ID, "--chunks", "--file", file)
		}
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	stranger := func(b []byte, args ...string) harness.Result {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return harness.RunEnv(t, []string{"HAWSER_HOME=" + t.TempDir()}, nil, harness.Program(t, "hawser"), append([]string{"recordings", "verify", file}, args...)...)
	}
	pin := []string{"--pin", c.Ready.CAPin}
	if r := stranger(whole, pin...); r.Code != 0 || !strings.Contains(string(r.Stdout), "as the device says that it passed\nverified") {
		t.Errorf("exit %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	// Where the second chunk begins, by the lengths in the first one's header.
	second := 64 + int(whole[28])<<24 + int(whole[29])<<16 + int(whole[30])<<8 + int(whole[31]) + 4
	edited := bytes.Clone(whole)
	edited[second+100] ^= 1
	other := "sha256:" + strings.Repeat("A", 43)
	for _, d := range []struct {
		name string
		b    []byte
		args []string
		says string
	}{
		{"edited", edited, pin, "chunk 1: damaged chunk"},
		{"dropped", whole[second:], pin, "chunk 1 where 0 belongs"},
		{"cut", whole[:second], pin, "truncated"},
		{"another cluster's pin", whole, []string{"--pin", other}, "no CA is believed"},
	} {
		if r := stranger(d.b, d.args...); r.Code != 1 || !strings.Contains(string(r.Stdout), d.says) {
			t.Errorf("%s: exit %d: %s%s", d.name, r.Code, r.Stdout, r.Stderr)
		}
	}
}
