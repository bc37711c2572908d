package ways_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hawser/test/harness"
)

// edgeAt is an agent with options of its own beside those of `hawser up`.
type edgeAt struct {
	*harness.Process
	name string
	args []string
	env  []string
}

func startEdgeAt(t *testing.T, c *harness.Cluster, name string, args ...string) *edgeAt {
	t.Helper()
	e := &edgeAt{name: name, env: []string{"HAWSER_TOKEN=" + c.Must(t, "token", "create", "--kind", "edge")}}
	e.args = append([]string{"run", "--state", filepath.Join(t.TempDir(), name), "--name", name, "--log-level", "debug"}, args...)
	e.run(t)
	return e
}

func (e *edgeAt) run(t *testing.T) {
	t.Helper()
	e.Process = harness.Start(t, e.env, harness.Program(t, "hawser-edge"), e.args...)
}

// listed is what ls says of the devices.
func listed(t *testing.T, c *harness.Cluster) map[string]struct{ Mode, Listen, State, Hub string } {
	t.Helper()
	var list []struct{ Name, Mode, Listen, State, Hub string }
	if err := json.Unmarshal([]byte(c.Must(t, "ls", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	all := map[string]struct{ Mode, Listen, State, Hub string }{}
	for _, d := range list {
		all[d.Name] = struct{ Mode, Listen, State, Hub string }{d.Mode, d.Listen, d.State, d.Hub}
	}
	return all
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// One cluster with a device that keeps tunnels, one that listens beside, and one that keeps none and that hubs dial.
func TestModesMixedInOneCluster(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	harness.Need(t, "ssh", "scp")
	account := harness.Account(t)
	c := harness.Up(t, 1)
	both := startEdgeAt(t, c, "web1", "--listen", freePort(t))
	off := startEdgeAt(t, c, "web2", "--listen", freePort(t), "--tunnel", "off")
	want := map[string]string{"gw-1": "tunnel", "web1": "both", "web2": "direct"}
	harness.Eventually(t, 30*time.Second, "all are online, each in its mode", func() bool {
		all := listed(t, c)
		for name, mode := range want {
			if d := all[name]; d.Mode != mode || d.State != "online" || mode == "direct" && !strings.Contains(off.Output(), "carrier=tls") {
				return false
			}
		}
		return true
	})
	if wide := c.Must(t, "ls", "-o", "wide"); !strings.Contains(wide, "MODE") || !strings.Contains(wide, "both") || !strings.Contains(wide, "direct") {
		t.Errorf("ls -o wide shows no modes:\n%s", wide)
	}
	ssh := func(stdin []byte, args ...string) harness.Result {
		return c.Hawser(t, stdin, append([]string{"ssh", "-o", "BatchMode=yes"}, append(args[:0:0], args...)...)...)
	}
	blob := make([]byte, 1<<20)
	rand.Read(blob)
	for _, to := range []string{account + "@direct-web1", account + "@direct-web2", account + "@e2e-web1", account + "@e2e-web2", account + "=web2@hub", account + "=web1@hub"} {
		if r := ssh(blob, to, "cat; echo $HAWSER_DEVICE >&2; exit 7"); r.Code != 7 || !bytes.Equal(r.Stdout, blob) || !strings.HasPrefix(string(r.Stderr), "web") {
			t.Errorf("%s: exit %d, %d bytes, stderr %q", to, r.Code, len(r.Stdout), r.Stderr)
		}
	}
	t.Run("what a stock client does", func(t *testing.T) {
		src, dst := filepath.Join(t.TempDir(), "src"), filepath.Join("/tmp", "hawser-direct-"+hex.EncodeToString(blob[:8]))
		if err := os.WriteFile(src, blob, 0o644); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(dst)
		if r := c.Hawser(t, nil, "scp", "-q", "-o", "BatchMode=yes", src, account+"@direct-web2:"+dst); r.Code != 0 {
			t.Fatalf("scp: %d %s", r.Code, r.Stderr)
		}
		if got, err := os.ReadFile(dst); err != nil || !bytes.Equal(got, blob) {
			t.Errorf("scp: %d bytes, %v", len(got), err)
		}
		if r := ssh(nil, "-tt", account+"@direct-web1", "tty >/dev/null && echo tty"); !strings.Contains(string(r.Stdout), "tty") {
			t.Errorf("pty: %q %q", r.Stdout, r.Stderr)
		}
	})
	t.Run("listed, recorded and killed like the rest", func(t *testing.T) {
		p := harness.Start(t, []string{"HAWSER_HOME=" + c.Ready.Home}, harness.Program(t, "hawser"), "ssh", "-o", "BatchMode=yes", account+"@direct-web2", "echo begun; sleep 300")
		type row struct{ ID, Device, Way, Kind, Login string }
		var session row
		harness.Eventually(t, 20*time.Second, "the session is listed", func() bool {
			var rows []row
			if err := json.Unmarshal([]byte(c.Must(t, "sessions", "ls", "-o", "json")), &rows); err != nil {
				t.Fatal(err)
			}
			for _, r := range rows {
				if r.Way == "direct" && r.Kind == "session" && r.Device == "web2" {
					session = r
				}
			}
			return session.ID != "" && strings.Contains(p.Output(), "begun")
		})
		c.Must(t, "sessions", "kill", session.ID)
		harness.Eventually(t, 10*time.Second, "the killed session ends", func() bool {
			select {
			case <-p.Done():
				return true
			default:
				return false
			}
		})
		harness.Eventually(t, 20*time.Second, "its recording is complete, with what it printed", func() bool {
			for line := range strings.Lines(c.Must(t, "recordings", "ls")) {
				if strings.Contains(line, session.ID[:12]) && strings.Contains(line, " complete ") {
					return string(c.Hawser(t, nil, "recordings", "export", session.ID).Stdout) == "begun\n"
				}
			}
			return false
		})
	})
	t.Run("certificates alone, and strangers keep nobody out", func(t *testing.T) {
		at := listed(t, c)["web1"].Listen
		r := harness.Run(t, nil, "ssh", "-F", "/dev/null", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
			"-o", "CertificateFile=none", "-i", filepath.Join(c.Ready.Home, "id_ed25519"), "-p", at[strings.LastIndex(at, ":")+1:], account+"@127.0.0.1", "true")
		if r.Code != 255 {
			t.Errorf("a bare key got in: %d %q %q", r.Code, r.Stdout, r.Stderr)
		}
		var stalled []net.Conn
		defer func() {
			for _, nc := range stalled {
				nc.Close()
			}
		}()
		for i := range 100 { // more than a source may have
			nc, err := net.Dial("tcp", at)
			if err != nil {
				t.Fatal(err)
			}
			stalled = append(stalled, nc)
			switch i % 3 {
			case 0:
				io.WriteString(nc, "SSH-2.0-x\x1b[31m\r\n")
			case 1:
				io.WriteString(nc, "HAWSER-TUNNEL/1\n")
			}
		}
		begun := time.Now()
		harness.Eventually(t, 10*time.Second, "a good login beside stalled ones", func() bool {
			return ssh(nil, "-o", "ConnectTimeout=2", account+"@direct-web1", "true").Code == 0
		})
		t.Logf("100 stalled connections: a good login after %v", time.Since(begun).Round(time.Millisecond))
		if out := both.Output(); strings.Contains(out, "\x1b") {
			t.Error("the device's log has an escape sequence of a stranger's")
		}
	})
	t.Run("a lock ends what is open and opens nothing", func(t *testing.T) {
		p := harness.Start(t, []string{"HAWSER_HOME=" + c.Ready.Home}, harness.Program(t, "hawser"), "ssh", "-o", "BatchMode=yes", account+"@direct-web1", "echo begun; sleep 300")
		harness.Eventually(t, 10*time.Second, "it has begun", func() bool { return strings.Contains(p.Output(), "begun") })
		id := strings.Fields(c.Must(t, "lock", "add", "--login", account, "--message", "closed for a while"))[0]
		begun := time.Now()
		select {
		case <-p.Done():
		case <-time.After(5 * time.Second):
			t.Error("it goes on")
		}
		if took := time.Since(begun); took > 2*time.Second { // a second, and what a busy machine takes
			t.Errorf("it went on for %v", took)
		}
		t.Logf("cut %v after lock add returned", time.Since(begun).Round(time.Millisecond))
		if r := ssh(nil, "-o", "LogLevel=INFO", account+"@direct-web2", "true"); r.Code != 255 || !strings.Contains(string(r.Stderr), "closed for a while") {
			t.Errorf("locked: exit %d, stderr %q", r.Code, r.Stderr)
		}
		c.Must(t, "lock", "rm", id)
	})
	t.Run("an agent that starts again is dialled again", func(t *testing.T) {
		off.Kill()
		off.run(t)
		harness.Eventually(t, 20*time.Second, "by the hub again", func() bool {
			return ssh(nil, "-o", "ConnectTimeout=3", account+"=web2@hub", "true").Code == 0 && strings.Contains(off.Output(), "carrier=tls")
		})
	})
}

// What a person types and sees end to end is in no hub's memory, log or data in clear.
func TestTheHubCannotSeeAByteEndToEnd(t *testing.T) {
	t.Parallel()
	w := harness.NewWorld(t, 1)
	w.AddSite(t, "gw-1").StartEdge(t)
	hub := w.Hubs[0]
	typed, end := talk(t, w, harness.EndToEnd, "gw-1")
	harness.Eventually(t, 10*time.Second, "what was recorded of it so far is stored", func() bool { return strings.Contains(w.Must(t, "recordings", "ls"), "end-to-end") })
	if n := inMemory(t, hub.Cmd.Process.Pid, typed); n > 0 {
		t.Errorf("the hub's memory has what was typed end to end, %d times", n)
	}
	end()
	if strings.Contains(hub.Output(), typed) {
		t.Error("the hub's log has it")
	}
	for _, path := range filesWith(t, hub.Data(), []string{typed}) {
		t.Errorf("%s has it", path)
	}
	// So that this can fail: the other way in, the hub has it.
	typed, end = talk(t, w, harness.HubMode, "gw-1")
	defer end()
	if inMemory(t, hub.Cmd.Process.Pid, typed) == 0 {
		t.Error("in hub mode the marker is not in the hub's memory: this test sees nothing")
	}
}

// talk types a marker in a session that gives it back, and leaves that going on.
func talk(t *testing.T, w *harness.World, way harness.Way, device string) (marker string, end func()) {
	t.Helper()
	b := make([]byte, 16)
	rand.Read(b)
	marker = "mark" + hex.EncodeToString(b)
	args := w.SSH(1, way, device)
	cmd := exec.CommandContext(t.Context(), args[0], append(args[1:], "cat")...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = func() { in.Close(); cmd.Wait() }
	fmt.Fprintln(in, marker)
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != marker+"\n" {
		end()
		t.Fatalf("%s: got %q, %v: %s", way, line, err, said.String())
	}
	return marker, end
}

// inMemory counts some texts in a process's memory.
func inMemory(t *testing.T, pid int, texts ...string) (n int) {
	t.Helper()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	const part, overlap = 1 << 20, 128 // longer than the longest of them
	buf := make([]byte, part+overlap)
	for line := range strings.Lines(harness.ReadFile(t, fmt.Sprintf("/proc/%d/maps", pid))) {
		var from, to uint64
		var perms string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &perms); err != nil || !strings.HasPrefix(perms, "rw") {
			continue
		}
		for at := from; at < to; at += part {
			b := buf[:min(part+overlap, to-at)]
			got, _ := mem.ReadAt(b, int64(at))
			for _, s := range texts {
				n += bytes.Count(b[:got], []byte(s))
			}
		}
	}
	return n
}
