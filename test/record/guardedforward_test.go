package record_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hawser/test/harness"
)

// echo answers with what it is sent, at the address returned, until the test ends.
func echo(t *testing.T, network, address string) string {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	return ln.Addr().String()
}

// answers tells whether what is written to a forward comes back.
func answers(c net.Conn) bool {
	b := make([]byte, 5)
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = c.Write([]byte("hello"))
	_, err := io.ReadFull(c, b)
	return err == nil && string(b) == "hello"
}

// A listener that was refused made the agent panic, as it let go of what it had not been given.
func TestForwardsUnderFourEyes(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	c := harness.Up(t, 1)
	login := harness.Account(t)
	dir, err := os.MkdirTemp("", "fw") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	tcp, unix := echo(t, "tcp", "127.0.0.1:0"), echo(t, "unix", filepath.Join(dir, "echo"))
	file := filepath.Join(dir, "roles.yaml")
	for _, err := range []error{
		os.Chmod(dir, 0o777), os.Chmod(unix, 0o777), // the login's, too
		os.WriteFile(file, []byte(`kind: role
name: guarded
allow: {devices: {"*": ["*"]}, logins: ["*"], channels: [exec, local-forward, remote-forward, socket-forward]}
options: {require_moderators: {count: 1, roles: [lead], channels: [local-forward, remote-forward, socket-forward]}}
---
kind: role
name: lead
allow: {devices: {"*": ["*"]}, logins: ["*"], join: [{roles: [guarded], modes: [moderator]}]}
`), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	c.Must(t, "apply", "-f", file)
	c.Must(t, "user", "set-roles", "admin", "admin", "guarded")
	c.Stop(t)
	c = harness.UpIn(t, c.Dir, 1) // where the admin's next certificate has the role
	lou := keyed(t, c, "lou", "lead")

	for _, way := range []struct {
		name string
		ssh  []string
	}{
		{"hub", []string{"-l", login + "=gw-1", "gw-1"}},
		{"end to end", []string{"-l", login, "e2e-gw-1"}},
	} {
		t.Run(way.name, func(t *testing.T) {
			ssh := func(args ...string) []string {
				return append(append([]string{"-F", c.Ready.SSHConfig, "-o", "BatchMode=yes", "-o", "LogLevel=INFO"}, args...), way.ssh...)
			}
			free := func() string { return fmt.Sprintf("127.0.0.1:%d", harness.FreePort(t)) }
			forwards := []struct{ option, network, at, to string }{
				{"-L", "tcp", free(), tcp}, {"-L", "tcp", free(), unix}, {"-R", "tcp", free(), tcp},
				{"-R", "unix", filepath.Join(dir, strings.ReplaceAll(way.name, " ", "")), tcp},
			}
			dial := func(network, at string) net.Conn {
				t.Helper()
				var conn net.Conn
				harness.Eventually(t, 20*time.Second, "somebody listens at "+at, func() (there bool) {
					conn, err = net.Dial(network, at)
					return err == nil
				})
				t.Cleanup(func() { conn.Close() })
				return conn
			}

			for _, f := range forwards {
				what := f.option + " " + f.at + ":" + f.to
				if f.option == "-R" {
					r := harness.Run(t, nil, "ssh", ssh("-N", "-o", "ExitOnForwardFailure=yes", f.option, f.at+":"+f.to)...)
					if r.Code != 255 || !strings.Contains(string(r.Stderr), "remote port forwarding failed") {
						t.Errorf("alone, %s: exit %d, %s", what, r.Code, r.Stderr)
					}
					continue
				}
				p := harness.Start(t, nil, "ssh", ssh("-N", f.option, f.at+":"+f.to)...)
				if answers(dial(f.network, f.at)) {
					t.Errorf("alone, %s is open", what)
				}
				harness.Eventually(t, 20*time.Second, what+": the refusal says whom it needs", func() bool {
					return strings.Contains(p.Output(), "1 moderator with the role lead")
				})
				p.Stop(t)
			}

			owner := harness.NewScreen(t, "xterm", "160", "24", append([]string{"ssh"}, ssh("-o", "RequestTTY=force", "-o", "RemoteCommand=echo ready; exec cat")...)...)
			owner.Shows(t, "ready")
			var id string
			harness.Eventually(t, 20*time.Second, "the session is listed", func() bool {
				id = sessionIDs(t, c)["gw-1"]
				return id != ""
			})
			m := harness.NewScreen(t, "xterm", "100", "30", append(append([]string{"ssh"}, lou...), "-t", "hawser@hub", "join", id, "--mode", "moderator")...)
			owner.Shows(t, "lou joined (moderator")
			open := make([]net.Conn, len(forwards))
			for i, f := range forwards {
				harness.Start(t, nil, "ssh", ssh("-N", "-o", "ExitOnForwardFailure=yes", f.option, f.at+":"+f.to)...)
				if open[i] = dial(f.network, f.at); !answers(open[i]) {
					t.Errorf("with a moderator, %s %s:%s is not open", f.option, f.at, f.to)
				}
			}
			m.Types(t, "C-c")
			m.Shows(t, "code 0")
			for i, f := range forwards {
				_ = open[i].SetDeadline(time.Now().Add(20 * time.Second))
				if n, err := open[i].Read(make([]byte, 1)); n > 0 || os.IsTimeout(err) {
					t.Errorf("without him, %s %s:%s is open still: %v", f.option, f.at, f.to, err)
				}
				if f.option == "-R" {
					harness.Eventually(t, 20*time.Second, "nobody listens at "+f.at, func() bool {
						again, err := net.Dial(f.network, f.at)
						if err == nil {
							again.Close()
						}
						return err != nil
					})
				} else if answers(dial(f.network, f.at)) {
					t.Errorf("without him, %s %s:%s opens", f.option, f.at, f.to)
				}
			}
			owner.Types(t, "C-d")
			owner.Shows(t, "code 0")
			harness.Eventually(t, 20*time.Second, "the session is over", func() bool { return sessionIDs(t, c)["gw-1"] == "" })
		})
	}
	if log := harness.ReadFile(t, filepath.Join(c.Dir, "devices", "gw-1", "log")); strings.Contains(log, "panic") {
		t.Errorf("the device's log:\n%s", log)
	}
}
