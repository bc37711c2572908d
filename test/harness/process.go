package harness

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Process is a program under test, with what it wrote.
type Process struct {
	Cmd  *exec.Cmd
	done chan struct{}
	err  error
	out  logBuffer
}

// Start runs a program until the test ends; its output is logged when the test
// fails. It is given 5 s to end on SIGTERM, then killed.
func Start(t testing.TB, env []string, name string, args ...string) *Process {
	t.Helper()
	p := &Process{Cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.Cmd.Env = append(os.Environ(), env...)
	p.Cmd.Stdout, p.Cmd.Stderr = &p.out, &p.out
	p.Cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.Cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		p.err = p.Cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.Stop(t)
		if t.Failed() {
			t.Logf("output of %s %s:\n%s", filepath.Base(name), strings.Join(args, " "), p.Output())
		}
	})
	return p
}

// Stop asks the process to end and waits for it.
func (p *Process) Stop(t testing.TB) {
	t.Helper()
	select {
	case <-p.done:
		return
	default:
	}
	p.Cmd.Process.Signal(syscall.SIGTERM)
	again := make(<-chan time.Time)
	if filepath.Base(p.Cmd.Path) == "ssh" {
		// OpenSSH 9.2's client looks at its signal flag and then sleeps in poll: a
		// signal that comes between the two waits for the next packet, for ever
		// on an idle forward.
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		again = tick.C
	}
	deadline := time.After(10 * time.Second)
	for {
		select {
		case <-p.done:
			return
		case <-again:
			p.Cmd.Process.Signal(syscall.SIGTERM)
		case <-deadline:
			ps, _ := exec.Command("sh", "-c", "ps -eo pid,ppid,etimes,stat,wchan:20,args | grep -e ssh -e hawser").Output()
			t.Errorf("%s did not end within 10 s of SIGTERM; the machine runs\n%s", strings.Join(p.Cmd.Args, " "), ps)
			p.Cmd.Process.Kill()
			<-p.done
			return
		}
	}
}

// Kill ends the process as a power cut would.
func (p *Process) Kill() {
	p.Cmd.Process.Kill()
	<-p.done
}

// Done is closed when the process has ended; Err then says how.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is what waiting for the process returned.
func (p *Process) Err() error { <-p.done; return p.err }

// Output is what the process wrote so far, at most the last MiB of it.
func (p *Process) Output() string { return p.out.String() }

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.b.Len() > 1<<20 {
		l.b.Next(l.b.Len() / 2)
	}
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Result is what a client that ran to its end left.
type Result struct {
	Stdout, Stderr []byte
	Code           int // exit code; -1 when a signal ended it
}

// Run runs a client to its end with the given standard input. It is killed
// after a minute, and the test fails then.
func Run(t testing.TB, stdin []byte, name string, args ...string) Result {
	t.Helper()
	return RunEnv(t, nil, stdin, name, args...)
}

// RunEnv is Run with variables added to the environment.
func RunEnv(t testing.TB, env []string, stdin []byte, name string, args ...string) Result {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = bytes.NewReader(stdin)
	var out, errb bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errb
	cmd.WaitDelay = 2 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	timer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	cmd.Wait()
	if !timer.Stop() {
		t.Errorf("%s %s: still running after a minute\nstdout %q\nstderr %q", name, strings.Join(args, " "), tail(out.Bytes()), tail(errb.Bytes()))
	}
	return Result{Stdout: out.Bytes(), Stderr: errb.Bytes(), Code: cmd.ProcessState.ExitCode()}
}

func tail(b []byte) []byte {
	if len(b) > 2000 {
		b = b[len(b)-2000:]
	}
	return b
}
