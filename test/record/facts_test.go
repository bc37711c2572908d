package record_test

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"hawser/test/harness"
)

// ways are the ways in, as ssh's arguments.
func ways(login string) map[string][]string {
	return map[string][]string{"hub": {"-l", login + "=gw-1", "gw-1"}, "end-to-end": {"-l", login, "e2e-gw-1"}}
}

// shown is what `hawser recordings show` says.
type shown struct {
	ID, User, Way, Kind, Command, State, Verified, Fault, Witness string
	Sealed                                                        bool
	Events                                                        []struct {
		Kind, Text, Source, User, SHA256 string
		Offset                           float64
		Confidence                       int
		Status                           *uint32
		Read, Written                    uint64
	}
}

// recordings waits for so many complete recordings that pass, and returns them.
func recordings(t *testing.T, c *harness.Cluster, most int, pass func(shown) bool) []shown {
	t.Helper()
	var found []shown
	harness.Eventually(t, 20*time.Second, "the recordings are complete", func() bool {
		found = nil
		var list []struct{ ID, State string }
		if err := json.Unmarshal([]byte(c.Must(t, "recordings", "ls", "-o", "json")), &list); err != nil {
			t.Fatal(err)
		}
		for _, r := range list {
			if r.State != "complete" {
				continue
			}
			var s shown
			if err := json.Unmarshal([]byte(c.Must(t, "recordings", "show", r.ID, "-o", "json")), &s); err != nil {
				t.Fatal(err)
			}
			if pass(s) {
				found = append(found, s)
			}
		}
		return len(found) >= most
	})
	return found
}

// decoded is a stored recording's records, uncompressed, and the input and the output in them.
func decoded(t *testing.T, stored []byte) (records, input, output []byte) {
	t.Helper()
	z, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for len(stored) >= 68 && string(stored[:4]) == "HWRC" { // certificates follow
		raw, n := binary.BigEndian.Uint32(stored[24:]), binary.BigEndian.Uint32(stored[28:])
		body := stored[64 : 64+n]
		switch stored[5] {
		case 1:
			if body, err = io.ReadAll(flate.NewReader(bytes.NewReader(body))); err != nil {
				t.Fatal(err)
			}
		case 2:
			if body, err = z.DecodeAll(body, nil); err != nil {
				t.Fatal(err)
			}
		}
		if uint32(len(body)) != raw {
			t.Fatalf("a chunk of %d bytes, not %d", len(body), raw)
		}
		records = append(records, body...)
		stored = stored[64+n+4:]
		for len(body) > 0 {
			kind := body[0]
			_, a := binary.Uvarint(body[1:])
			size, b := binary.Uvarint(body[1+a:])
			payload := body[1+a+b : 1+a+b+int(size)]
			body = body[1+a+b+int(size):]
			switch kind {
			case 2:
				_, skip := binary.Uvarint(payload)
				input = append(input, payload[skip:]...)
			case 3:
				output = append(output, payload...)
			}
		}
	}
	return records, input, output
}

// What is typed at prompts that echo is recorded, passwords are not: in hub mode, where the device judges and the hub records, and end to end.
func TestPasswordsAreNotRecorded(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	harness.Need(t, "python3", "su", "sudo", "passwd", "ssh-keygen", "busybox", "bash")
	login := harness.Account(t)
	c := harness.Up(t, 1)
	if r := c.Hawser(t, []byte("kind: cluster\nrecord_stdin: redacted\n"), "apply", "-f", "-"); r.Code != 0 || strings.Contains(string(r.Stderr), "record_stdin") {
		t.Fatalf("%s", r.Stderr)
	}
	for way, args := range ways(login) {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			ssh := append([]string{"ssh", "-F", c.Ready.SSHConfig, "-o", "LogLevel=ERROR", "-t"}, args...)
			s := harness.NewScreen(t, "xterm", "100", "40", append(ssh, "exec bash --norc")...)
			secrets := 0
			secret := func(prompt string) {
				s.Shows(t, prompt)
				secrets++
				s.Types(t, fmt.Sprintf("Zq9%dpwX", secrets), "Enter")
			}
			run := func(line string) {
				s.Types(t, "clear; "+line)
				s.Shows(t, line[max(0, len(line)-8):]) // else a program that soon hides what is typed has all of it withheld, on a slow machine
				s.Types(t, "Enter")
			}
			s.Shows(t, "$")
			// What is waited for must not be in the line that asks for it.
			run("PS1='one> '; umask 77; d=$(mktemp -d)")
			s.Shows(t, "one>")
			run(`python3 -c "import getpass; getpass.getpass('ask-%d:' % 1)"; echo done-$((1+0))`)
			secret("ask-1:")
			s.Shows(t, "done-1")
			run("su root -c true; echo done-$((1+1))")
			secret("assword:")
			s.Shows(t, "done-2")
			run("sudo -k -p ask-$((1+2)): true; echo done-$((1+2))")
			secret("ask-3:")
			s.Shows(t, "try again")
			s.Types(t, "C-c")
			s.Shows(t, "done-3")
			run("sleep 1; passwd; echo done-$((1+3))") // whose Enter is not withheld, however slow the machine is
			secret("assword:")
			s.Shows(t, "done-4")
			run("ssh-keygen -q -t ed25519 -f $d/k; echo done-$((1+4))")
			secret("Enter passphrase")
			secrets--
			secret("again:")
			s.Shows(t, "done-5")
			run("ssh-keygen -p -f $d/k; echo done-$((1+5))")
			secrets--
			secret("Enter old passphrase:")
			secret("Enter new passphrase")
			secrets--
			secret("again:")
			s.Shows(t, "done-6")
			run("busybox ash")
			s.Shows(t, "~ $")
			s.Types(t, "echo ash-$((3+4))", "Enter")
			s.Shows(t, "ash-7")
			s.Types(t, "exit", "Enter")
			run("rm -r $d; exit")
			s.Shows(t, "code 0")

			r := recordings(t, c, 1, func(r shown) bool { return r.Way == way })[0]
			file := filepath.Join(t.TempDir(), "r")
			c.Must(t, "recordings", "export", "--chunks", "--file", file, r.ID)
			records, input, output := decoded(t, []byte(harness.ReadFile(t, file)))
			for i := range secrets {
				word := fmt.Sprintf("Zq9%dpwX", i+1)
				if bytes.Contains(records, []byte(word)) || bytes.Contains(input, []byte(word)) || bytes.Contains(output, []byte(word)) {
					t.Errorf("%s is in the recording", word)
				}
			}
			if bytes.Contains(input, []byte("pwX")) || bytes.Contains(input, []byte("Zq9")) {
				t.Errorf("a part of a password is in the recording: %q", input)
			}
			for _, typed := range []string{"su root -c true", "sudo -k -p ask-$((1+2)): true", "ssh-keygen -p -f $d/k", "busybox ash", "echo ash-$((3+4))", "exit"} {
				if !bytes.Contains(input, []byte(typed)) {
					t.Errorf("%q is not in the input: %q", typed, input)
				}
			}
			commands := map[string]bool{}
			for _, e := range r.Events {
				if e.Kind == "command" && e.Confidence >= 60 {
					commands[e.Source+" "+e.Text] = true
				}
			}
			for _, want := range []string{"exec exec bash --norc", "screen clear; busybox ash", "screen echo ash-$((3+4))", "screen clear; sleep 1; passwd; echo done-$((1+3))"} {
				if !commands[want] {
					t.Errorf("%q is not among the commands: %v", want, commands)
				}
			}
			if r.Verified == "fault" {
				t.Errorf("the recording is not what its device says: %s", r.Fault)
			}
			harness.Eventually(t, 10*time.Second, "the audit log has the commands", func() bool {
				found := c.Hawser(t, nil, "audit", "search", "--type", "session.commands", "--session", r.ID, "-o", "json")
				return found.Code == 0 && strings.Contains(string(found.Stdout), `"clear; busybox ash"`)
			})
		})
	}
}

// Files are recorded as what was done to them, whatever carries them; what is in them is not, but for its hash.
func TestFilesForwardsAndTheAgentAreFacts(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	harness.Need(t, "scp", "sftp", "rsync", "ssh-agent", "ssh-add", "ssh-keygen")
	login := harness.Account(t)
	c := harness.Up(t, 1)
	l := fiveBack(t)
	for way, args := range ways(login) {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			here := t.TempDir()
			content := bytes.Repeat([]byte("Zq9 content of a file\n"), 20_000)
			if err := os.WriteFile(here+"/file", content, 0o644); err != nil {
				t.Fatal(err)
			}
			hash := sha256.Sum256(content)
			sum := hex.EncodeToString(hash[:])
			made := c.SSH(t, nil, append(args, "mktemp -d")...)
			if made.Code != 0 {
				t.Fatalf("%s", made.Stderr)
			}
			there := strings.TrimSpace(string(made.Stdout))
			device := args[2]
			config := []string{"-F", c.Ready.SSHConfig, "-o", "User=" + args[1]}
			run := func(stdin string, name string, more ...string) {
				t.Helper()
				if r := harness.Run(t, []byte(stdin), name, append(config, more...)...); r.Code != 0 {
					t.Fatalf("%s %v: %d %s", name, more, r.Code, r.Stderr)
				}
			}
			run("", "scp", "-O", here+"/file", device+":"+there+"/scp")
			run("", "scp", "-O", device+":"+there+"/scp", here+"/back")
			run("put "+here+"/file "+there+"/sftp\nrename "+there+"/sftp "+there+"/moved\nget "+there+"/moved "+here+"/again\nmkdir "+there+"/dir\n-rm "+there+"/none\n", "sftp", "-b", "-", device)
			if r := harness.Run(t, nil, "rsync", "-e", "ssh -F "+c.Ready.SSHConfig+" -o User="+args[1], here+"/file", device+":"+there+"/rsync"); r.Code != 0 {
				t.Fatalf("rsync: %s", r.Stderr)
			}
			if r := harness.Run(t, []byte("hello"), "ssh", append(config, "-W", l.Addr().String(), device)...); string(r.Stdout) != "hello" {
				t.Fatalf("-W: %q %s", r.Stdout, r.Stderr)
			}
			fingerprint := withAgent(t, here, func(socket string) {
				if r := harness.RunEnv(t, append(os.Environ(), "SSH_AUTH_SOCK="+socket), nil, "ssh", append(config, "-A", device,
					"cd "+there+" && ssh-add -L > key.pub && echo x > signed && ssh-keygen -q -Y sign -n file -f key.pub signed")...); r.Code != 0 {
					t.Fatalf("-A: %s", r.Stderr)
				}
			})

			recordedForward(t, c, way, append(config, device), there)

			rs := recordings(t, c, 7, func(r shown) bool { return r.Way == way && !strings.HasPrefix(r.Command, "mktemp") })
			facts := ""
			for _, r := range rs {
				for _, e := range r.Events {
					facts += fmt.Sprintf("%s %s r%d w%d %s", e.Kind, e.Text, e.Read, e.Written, e.SHA256)
					if e.Status != nil {
						facts += fmt.Sprint(" status ", *e.Status)
					}
					facts += "\n"
				}
				if r.Verified == "fault" {
					t.Errorf("%s %s is not what its device says: %s", r.Kind, r.Command, r.Fault)
				}
				file := filepath.Join(t.TempDir(), "r")
				c.Must(t, "recordings", "export", "--chunks", "--file", file, r.ID)
				if records, _, _ := decoded(t, []byte(harness.ReadFile(t, file))); bytes.Contains(records, []byte("Zq9 content")) {
					t.Errorf("the content of files is in the recording of %s %s", r.Kind, r.Command)
				}
			}
			n := len(content)
			for _, want := range []string{
				fmt.Sprintf("scp write %s/scp file r0 w%d %s", there, n, sum), fmt.Sprintf("scp read %s/scp scp r%d w0 %s", there, n, sum),
				fmt.Sprintf("sftp close %s/sftp r0 w%d %s", there, n, sum), fmt.Sprintf("sftp rename %s/sftp %s/moved", there, there),
				fmt.Sprintf("sftp close %s/moved r%d w0 %s", there, n, sum), "sftp mkdir " + there + "/dir", "sftp remove " + there + "/none r0 w0  status 2",
				"rsync transfer " + there + "/rsync", "agent: sign " + fingerprint,
			} {
				if !strings.Contains(facts, want) {
					t.Errorf("%q is not among the facts:\n%s", want, facts)
				}
			}
			harness.Eventually(t, 15*time.Second, "the audit log has the forward", func() bool {
				found := c.Hawser(t, nil, "audit", "search", "--type", "forward.close", "-o", "json")
				for line := range strings.Lines(string(found.Stdout)) {
					if strings.Contains(line, `"command":"`+l.Addr().String()+`"`) && strings.Contains(line, `"bytes_in":5,"bytes_out":5`) && strings.Contains(line, `"way":"`+way+`"`) {
						return true
					}
				}
				return false
			})
		})
	}
}

// fiveBack listens for connections, each of which gets the first five bytes that it sends.
func fiveBack(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				_, _ = io.Copy(nc, io.LimitReader(nc, 5))
			}()
		}
	}()
	return l
}

// recordedForward is for a connection that is forwarded while a session of its own goes on: that session's recording has it, with when it began and ended.
func recordedForward(t *testing.T, c *harness.Cluster, way string, ssh []string, there string) {
	t.Helper()
	target := fiveBack(t).Addr().String()
	short, err := os.MkdirTemp("", "fw") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(short)
	begun := time.Now()
	s := harness.Start(t, nil, "ssh", append([]string{"-o", "ExitOnForwardFailure=yes", "-L", short + "/s:" + target}, append(ssh,
		"echo forwards; until [ -e "+there+"/done ]; do sleep 0.1; done")...)...)
	harness.Eventually(t, 20*time.Second, "the session with the forward runs", func() bool { return strings.Contains(s.Output(), "forwards") })
	nc, err := net.Dial("unix", short+"/s")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(nc); string(got) != "hello" {
		t.Fatalf("-L: %q, %v", got, err)
	}
	nc.Close()
	// Auth is told when the recording was.
	harness.Eventually(t, 15*time.Second, "the audit log has the forward of the session", func() bool {
		return strings.Contains(string(c.Hawser(t, nil, "audit", "search", "--type", "forward.close", "-o", "json").Stdout), `"command":"`+target+`"`)
	})
	if r := harness.Run(t, nil, "ssh", append(ssh, "touch "+there+"/done")...); r.Code != 0 {
		t.Fatalf("%s", r.Stderr)
	}
	<-s.Done()
	took := time.Since(begun).Seconds()
	r := recordings(t, c, 1, func(r shown) bool { return r.Way == way && strings.HasPrefix(r.Command, "echo forwards") })[0]
	var facts []string
	last := 0.0
	for _, e := range r.Events {
		if e.Kind != "forward" {
			continue
		}
		facts = append(facts, fmt.Sprintf("%s r%d w%d", e.Text, e.Read, e.Written))
		if e.Offset < last || e.Offset <= 0 || e.Offset > took {
			t.Errorf("%s at %.3f s, after %.3f, of %.3f", e.Text, e.Offset, last, took)
		}
		last = e.Offset
	}
	if want := []string{"local forward open " + target + " r0 w0", "local forward closed " + target + " r5 w5"}; !slices.Equal(facts, want) {
		t.Errorf("the recording of the session has the forwards %q, want %q", facts, want)
	}
	if text := c.Must(t, "recordings", "show", r.ID); !strings.Contains(text, "local forward closed "+target) || !strings.Contains(text, "read 5 bytes") {
		t.Errorf("recordings show:\n%s", text)
	}
}

// withAgent runs f with an agent that holds one key, and returns that key's fingerprint.
func withAgent(t *testing.T, dir string, f func(socket string)) string {
	t.Helper()
	key := dir + "/agent-key"
	if r := harness.Run(t, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key); r.Code != 0 {
		t.Fatalf("%s", r.Stderr)
	}
	short, err := os.MkdirTemp("", "ag") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(short)
	agent := exec.Command("ssh-agent", "-D", "-a", short+"/s")
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = agent.Process.Kill()
		_ = agent.Wait()
	}()
	harness.Eventually(t, 5*time.Second, "the agent listens", func() bool {
		return harness.RunEnv(t, append(os.Environ(), "SSH_AUTH_SOCK="+short+"/s"), nil, "ssh-add", key).Code == 0
	})
	f(short + "/s")
	out := harness.Run(t, nil, "ssh-keygen", "-l", "-f", key)
	return strings.Fields(string(out.Stdout))[1]
}
