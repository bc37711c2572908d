// Package store_test holds the auth service's data against what happens to machines: kill -9, a full disk, a power cut, and damage. It runs the
// real program and loads it with authload, over the API, as a hub and an admin do.
package store_test

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hawser/test/harness"
)

// harnessWait is how long a loaded machine may take for anything.
const harnessWait = 30 * time.Second

func TestMain(m *testing.M) { harness.Main(m) }

// service is an auth service that can die and come back.
type service struct {
	*harness.Process
	data, home, addr string
}

func newService(t *testing.T, dir string) *service {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return &service{data: filepath.Join(dir, "auth"), home: filepath.Join(t.TempDir(), "home"), addr: l.Addr().String()}
}

// start starts the service, anew if it ran before.
func (s *service) start(t *testing.T) {
	t.Helper()
	s.Process = harness.Start(t, nil, harness.Program(t, "hawser-auth"), "run", "--data", s.data, "--cluster", "store.example", "--listen", s.addr, "--admin-profile", s.home)
}

// serving waits until the service answers an admin.
func (s *service) serving(t *testing.T) {
	t.Helper()
	harness.Eventually(t, 30*time.Second, "auth serves", func() bool {
		select {
		case <-s.Done():
			t.Fatalf("auth ended: %v\n%s", s.Err(), s.Output())
		default:
		}
		if _, err := os.Stat(filepath.Join(s.home, "profile.yaml")); err != nil {
			return false
		}
		return s.hawser(t, "hub", "ls").Code == 0
	})
}

// hawser runs the command line as the admin.
func (s *service) hawser(t *testing.T, args ...string) harness.Result {
	t.Helper()
	return harness.Run(t, nil, "env", append([]string{"HAWSER_HOME=" + s.home, harness.Program(t, "hawser")}, args...)...)
}

// kill kills it as a crash does, and waits until it is gone.
func (s *service) kill(t *testing.T) {
	t.Helper()
	if err := s.Cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-s.Done()
}

// driver is a running authload.
type driver struct {
	cmd  *exec.Cmd
	done chan struct{}
	errs bytes.Buffer // when done

	mu      sync.Mutex
	lines   []string
	last    time.Time
	arrived chan struct{} // closed and replaced at each line
}

func (s *service) load(t *testing.T, name string) *driver {
	t.Helper()
	d := &driver{cmd: exec.Command(harness.Tool(t, "authload"), "-home", s.home, "-addr", s.addr, "-name", name), done: make(chan struct{}), arrived: make(chan struct{})}
	d.cmd.Stderr = &d.errs
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(d.done)
		in := bufio.NewScanner(out)
		for in.Scan() {
			d.mu.Lock()
			d.lines = append(d.lines, in.Text())
			d.last = time.Now()
			close(d.arrived)
			d.arrived = make(chan struct{})
			d.mu.Unlock()
		}
		_ = d.cmd.Wait()
	}()
	t.Cleanup(func() { d.stop() })
	return d
}

// stop ends the load and returns what was acknowledged.
func (d *driver) stop() []string {
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	<-d.done
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lines
}

// more waits until n more lines with the prefix have come, and returns when the first of them came.
func (d *driver) more(t *testing.T, prefix string, n int, within time.Duration) time.Time {
	t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	d.mu.Lock()
	from := len(d.lines)
	d.mu.Unlock()
	var first time.Time
	for {
		d.mu.Lock()
		for ; from < len(d.lines); from++ {
			if strings.HasPrefix(d.lines[from], prefix) {
				if first.IsZero() {
					first = d.last
				}
				n--
			}
		}
		arrived := d.arrived
		d.mu.Unlock()
		if n <= 0 {
			return first
		}
		select {
		case <-arrived:
		case <-d.done:
			t.Fatalf("the load ended: %s", d.errs.String())
		case <-deadline.C:
			t.Fatalf("no %d more %q within %v", n, prefix, within)
		}
	}
}

// check holds what was acknowledged against what the service at addr has.
func (s *service) check(t *testing.T, acknowledged []string) string {
	t.Helper()
	cmd := exec.Command(harness.Tool(t, "authload"), "-home", s.home, "-addr", s.addr, "check")
	cmd.Stdin = strings.NewReader(strings.Join(acknowledged, "\n") + "\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// count says how many lines of each kind there are.
func count(lines []string) string {
	n := map[string]int{}
	for _, l := range lines {
		kind, _, _ := strings.Cut(l, " ")
		n[kind]++
	}
	return fmt.Sprintf("%d tokens, %d devices, %d role applies, %d certificates, %d admits", n["token"], n["device"], n["role"], n["serial"], n["grant"])
}
