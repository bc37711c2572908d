package bench_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/test/harness"
)

const (
	sessionDevices = 10
	manySessions   = 1000
	openers        = 32 // clients that log in at once
)

// crowd is a cluster and a person of it, who comes by the Go client: a thousand processes of ssh(1) would measure themselves.
type crowd struct {
	*harness.Cluster
	signer ssh.Signer
	next   atomic.Uint32 // source addresses
}

func newCrowd(b *testing.B) *crowd {
	harness.Root(b)
	account := harness.Account(b)
	c := &crowd{Cluster: harness.Up(b, sessionDevices)}
	key := filepath.Join(b.TempDir(), "bob")
	harness.Run(b, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	role := filepath.Join(b.TempDir(), "role.yaml")
	text := "kind: role\nname: bench\nallow:\n  devices: {\"*\": [\"*\"]}\n  logins: [" + account + "]\n  channels: [shell, exec]\n  ways: [hub]\n"
	if err := os.WriteFile(role, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	c.Must(b, "apply", "-f", role)
	c.Must(b, "user", "add", "bob", "--role", "bench", "--key", key+".pub")
	private, err := ssh.ParsePrivateKey([]byte(harness.ReadFile(b, key)))
	if err != nil {
		b.Fatal(err)
	}
	c.signer = private
	return c
}

// dial logs in for the n-th device.
func (c *crowd) dial(b *testing.B, n int) (*ssh.Client, error) {
	from := c.next.Add(1)
	d := net.Dialer{Timeout: 10 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, byte(2+from/250%200), byte(1+from%250))}}
	nc, err := d.Dial("tcp", c.Ready.SSHAddr)
	if err != nil {
		return nil, err
	}
	_ = nc.SetDeadline(time.Now().Add(60 * time.Second))
	conn, chans, reqs, err := ssh.NewClientConn(nc, "hub", &ssh.ClientConfig{
		User: fmt.Sprintf("%s=gw-%d", harness.Account(b), 1+n%sessionDevices), Auth: []ssh.AuthMethod{ssh.PublicKeys(c.signer)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), // the time of a look-up in a file is not the hub's
	})
	if err != nil {
		nc.Close()
		return nil, err
	}
	_ = nc.SetDeadline(time.Time{})
	return ssh.NewClient(conn, chans, reqs), nil
}

// inParallel calls f with 0 to n-1 from a number of goroutines, and returns the first error.
func inParallel(workers, n int, f func(i int) error) error {
	var next atomic.Int64
	var mu sync.Mutex
	var first error
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := f(i); err != nil {
					mu.Lock()
					first = errors.Join(first, err)
					mu.Unlock()
					return
				}
			}
		})
	}
	wg.Wait()
	return first
}

// BenchmarkSessions is new sessions a second, recorded, from the connection to the exit status, with the clients on the same machine;
// and with 1,000 that stay: the memory that the hub and auth (one process here) take for each, the echo of one of them while each types once a
// second, and the time from `hawser lock add` to each one's end.
func BenchmarkSessions(b *testing.B) {
	c := newCrowd(b)
	for b.Loop() {
		c.perSecond(b)
		c.atOnce(b)
	}
}

func (c *crowd) perSecond(b *testing.B) {
	const n = 1000
	start := time.Now()
	err := inParallel(openers, n, func(i int) error {
		client, err := c.dial(b, i)
		if err != nil {
			return err
		}
		defer client.Close()
		s, err := client.NewSession()
		if err != nil {
			return err
		}
		return s.Run("true")
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(n/time.Since(start).Seconds(), "new-sessions/s")
}

// typist is one of many sessions.
type typist struct {
	in    io.Writer
	out   io.Reader
	ended chan time.Time
}

func (c *crowd) atOnce(b *testing.B) {
	before := anonymous(b, c.Ready.PID)
	all := make([]*typist, manySessions)
	err := inParallel(openers, manySessions, func(i int) error {
		client, err := c.dial(b, i)
		if err != nil {
			return fmt.Errorf("session %d: %w", i, err)
		}
		b.Cleanup(func() { client.Close() })
		s, err := client.NewSession()
		if err != nil {
			return fmt.Errorf("session %d: %w", i, err)
		}
		t := &typist{ended: make(chan time.Time, 1)}
		if t.in, err = s.StdinPipe(); err != nil {
			return err
		}
		if t.out, err = s.StdoutPipe(); err != nil {
			return err
		}
		s.Stderr = io.Discard
		if err := s.RequestPty("xterm", 24, 80, ssh.TerminalModes{ssh.ECHO: 0, ssh.ICANON: 0}); err != nil {
			return err
		}
		if err := s.Start("printf R; exec cat"); err != nil {
			return fmt.Errorf("session %d: %w", i, err)
		}
		all[i] = t
		_, err = t.key('R', false)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	harness.Eventually(b, 60*time.Second, "all sessions are listed", func() bool {
		return strings.Count(c.Must(b, "sessions", "ls", "-o", "name"), "\n") >= manySessions
	})
	b.ReportMetric(float64(anonymous(b, c.Ready.PID)-before)/manySessions/1024, "KiB/session")

	var times []time.Duration
	var mu sync.Mutex
	begin := time.Now()
	err = inParallel(manySessions, manySessions, func(i int) error {
		for round := range 5 {
			time.Sleep(time.Until(begin.Add(time.Duration(round)*time.Second + time.Duration(i)*time.Second/manySessions)))
			d, err := all[i].key('x', true)
			if err != nil {
				return fmt.Errorf("session %d: %w", i, err)
			}
			mu.Lock()
			times = append(times, d)
			mu.Unlock()
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	quantiles(b, times, "echo")

	var wg sync.WaitGroup
	for _, t := range all {
		wg.Go(func() {
			_, _ = io.Copy(io.Discard, t.out)
			t.ended <- time.Now()
		})
	}
	start := time.Now()
	c.Must(b, "lock", "add", "--user", "bob", "--message", "bench", "--ttl", "1h")
	b.ReportMetric(float64(time.Since(start).Milliseconds()), "lock-confirmed-ms")
	wg.Wait()
	cuts := make([]time.Duration, len(all))
	for i, t := range all {
		cuts[i] = (<-t.ended).Sub(start)
	}
	quantiles(b, cuts, "lock-to-cut")
}

// key reads the next byte, which must be c; typed before where that is told.
func (t *typist) key(c byte, typed bool) (time.Duration, error) {
	start := time.Now()
	if typed {
		if _, err := t.in.Write([]byte{c}); err != nil {
			return 0, err
		}
	}
	var got [1]byte
	if _, err := io.ReadFull(t.out, got[:]); err != nil || got[0] != c {
		return 0, fmt.Errorf("read %q, %v where %q was due", got, err, c)
	}
	return time.Since(start), nil
}

func quantiles(b *testing.B, d []time.Duration, name string) {
	slices.Sort(d)
	b.ReportMetric(float64(d[len(d)/2].Microseconds())/1000, name+"-p50-ms")
	b.ReportMetric(float64(d[len(d)*99/100].Microseconds())/1000, name+"-p99-ms")
}

// anonymous is a process's anonymous memory, in bytes.
func anonymous(b *testing.B, pid int) int {
	b.Helper()
	var kb int
	for line := range strings.Lines(harness.ReadFile(b, fmt.Sprintf("/proc/%d/status", pid))) {
		if _, err := fmt.Sscanf(line, "RssAnon: %d kB", &kb); err == nil {
			return kb << 10
		}
	}
	b.Fatalf("process %d has no RssAnon", pid)
	return 0
}
