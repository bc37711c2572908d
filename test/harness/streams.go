package harness

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hawser/test/harness/stream"
)

// Kind is what carries a numbered line stream between the laptop and a device.
type Kind string

// The kinds: a session without a terminal and one with, in hub mode and end to end, and a connection through -L in hub mode.
const (
	HubExec    Kind = "hub exec"
	HubPTY     Kind = "hub pty"
	E2EExec    Kind = "e2e exec"
	E2EPTY     Kind = "e2e pty"
	HubForward Kind = "hub -L"
)

// Kinds are all of them.
var Kinds = []Kind{HubExec, HubPTY, E2EExec, E2EPTY, HubForward}

// Stream is one numbered line stream in both directions.
type Stream struct {
	Kind   Kind
	Hub    int // entry hub
	device string
	near   *stream.Near
	cmd    *exec.Cmd
	errs   *logBuffer
	closer io.Closer
}

// Open begins a stream to a site's device by the given entry hub.
func (s *Site) Open(t testing.TB, kind Kind, hub, rate, size int) *Stream {
	t.Helper()
	counter := Tool(t, "counter")
	remote := fmt.Sprintf("exec %s -rate %d -size %d", counter, rate, size)
	x := &Stream{Kind: kind, Hub: hub, device: s.Name, errs: new(logBuffer)}
	if kind == HubForward {
		x.forward(t, s, rate, size)
		return x
	}
	var args []string
	switch kind {
	case HubExec:
		args = s.w.SSH(hub, HubMode, s.Name, "-T")
	case HubPTY:
		args = s.w.SSH(hub, HubMode, s.Name, "-tt", "-e", "none")
	case E2EExec:
		args = s.w.SSH(hub, EndToEnd, s.Name, "-T")
	case E2EPTY:
		args = s.w.SSH(hub, EndToEnd, s.Name, "-tt", "-e", "none")
	}
	args = append(args, remote)
	x.cmd = exec.Command(args[0], args[1:]...)
	stdin, err := x.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := x.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	x.start(t)
	x.begin(t, stdout, stdin, rate, size)
	return x
}

// start runs the client in a group of its own, for ssh -J has children.
func (x *Stream) start(t testing.TB) {
	t.Helper()
	x.cmd.Stderr = x.errs
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		x.Close()
		if t.Failed() && x.errs.String() != "" {
			t.Logf("%s by hub %d: ssh said\n%s", x.Kind, x.Hub, x.errs.String())
		}
	})
}

func (x *Stream) begin(t testing.TB, r io.Reader, w io.Writer, rate, size int) {
	t.Helper()
	type begun struct {
		near *stream.Near
		err  error
	}
	done := make(chan begun, 1)
	go func() {
		n, err := stream.Begin(r, w, rate, size)
		done <- begun{n, err}
	}()
	select {
	case b := <-done:
		if b.err != nil {
			t.Fatalf("%s to %s by hub %d: %v\n%s", x.Kind, x.device, x.Hub, b.err, x.errs.String())
		}
		x.near = b.near
	case <-time.After(30 * time.Second):
		t.Fatalf("%s to %s by hub %d: no stream within 30 s\n%s", x.Kind, x.device, x.Hub, x.errs.String())
	}
}

// forward listens on a Unix socket, which is the same in every network namespace.
func (x *Stream) forward(t testing.TB, s *Site, rate, size int) {
	t.Helper()
	const port = "127.0.0.1:7007"
	listening := func() bool { return strings.Contains(s.InDevice(t, "ss -Hltn"), port) }
	if !listening() {
		s.Start(t, Tool(t, "counter"), "-listen", port, "-rate", fmt.Sprint(rate), "-size", fmt.Sprint(size))
		Eventually(t, 10*time.Second, "the counter listens on the device", listening)
	}
	// Not in the test's own directory: ssh expands a % in the path, and a socket's path is short.
	dir, err := os.MkdirTemp("", "hw-l-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	sock := filepath.Join(dir, "s")
	args := s.w.SSH(x.Hub, HubMode, s.Name, "-N", "-o", "ExitOnForwardFailure=yes", "-L", sock+":"+port)
	x.cmd = exec.Command(args[0], args[1:]...)
	x.start(t)
	var c net.Conn
	Eventually(t, 30*time.Second, "ssh -L listens", func() (ok bool) {
		c, err = net.Dial("unix", sock)
		return err == nil
	})
	x.closer = c
	x.begin(t, c, c, rate, size)
}

// Close kills the client.
func (x *Stream) Close() {
	if x.cmd.ProcessState != nil {
		return
	}
	if x.closer != nil {
		x.closer.Close()
	}
	_ = syscall.Kill(-x.cmd.Process.Pid, syscall.SIGKILL)
	_ = x.cmd.Wait()
}

// MovedSince reports whether a line came from the device after at.
func (x *Stream) MovedSince(at time.Time) bool {
	_, last := x.near.Down.Seen()
	return last.After(at)
}

// Ended reports whether the stream has ended, as none should before [Stream.Finish].
func (x *Stream) Ended() bool {
	select {
	case <-x.near.Done():
		return true
	default:
		return false
	}
}

// Count is what both ends of a stream saw.
type Count struct {
	Down, Up stream.Report
	Err      error
}

// Lines, Lost, Repeated and Damaged are sums of both directions.
func (c *Count) Lines() uint64    { return c.Down.Lines + c.Up.Lines }
func (c *Count) Lost() uint64     { return c.Down.Lost + c.Up.Lost }
func (c *Count) Repeated() uint64 { return c.Down.Repeated + c.Up.Repeated }
func (c *Count) Damaged() uint64  { return c.Down.Damaged + c.Up.Damaged }

// Stall is the longest pause in either direction, counted from since.
func (c *Count) Stall(since time.Time) time.Duration {
	return max(c.Down.Stall(since), c.Up.Stall(since))
}

// Finish ends the stream in order and compares what was sent with what came.
func (x *Stream) Finish(within time.Duration) Count {
	x.near.Stop()
	select {
	case <-x.near.Done():
	case <-time.After(within):
		c := Count{Down: x.near.Down.Report(), Err: fmt.Errorf("did not end within %v", within)}
		x.Close()
		return c
	}
	var c Count
	c.Down, c.Up, c.Err = x.near.Reports()
	if text := bytes.TrimSpace([]byte(x.errs.String())); c.Err != nil && len(text) > 0 {
		c.Err = errors.Join(c.Err, fmt.Errorf("ssh: %s", text))
	}
	return c
}
