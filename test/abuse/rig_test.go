// Package abuse tests that one misbehaving client takes nothing from the others: the real programs, attacked by raw clients and by OpenSSH.
package abuse

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

// count is n, or with HAWSER_LONG many.
func count(n, many int) int {
	if harness.Long() {
		return many
	}
	return n
}

const (
	// slowest is the most that another session's echo may take at p99 with HAWSER_LONG, or quietTimes what it took right before the abuse, where that is
	// more: then the machine is slow. busiest is the same without, on a machine that runs other tests beside.
	slowest    = 100 * time.Millisecond
	quietTimes = 3
	busiest    = time.Second
	// loginTime is the most that a good login may take meanwhile.
	loginTime = 2 * time.Second
	// growth is the most that one kind of abuse may add to a program's anonymous memory: what 64 channels may hold each way, and the garbage beside it.
	growth = 192 << 20
	// strangersMemory is the most that 64 strangers, each some 60 kB, may add to an agent's, with the garbage beside it.
	strangersMemory = 16 << 20
)

// rig is a cluster with the admin's key at hand.
type rig struct {
	*harness.Cluster
	signer ssh.Signer
	login  string // an account of this machine without a profile that takes its time
	echo   *ssh.Client
	quiet  time.Duration // p99 of its echo before the abuse
	next   atomic.Uint32 // source addresses
}

func newRig(t *testing.T) *rig {
	t.Helper()
	harness.Root(t)
	r := &rig{login: harness.Account(t), Cluster: harness.Up(t, 2, "-v")}
	r.signer = signer(t, filepath.Join(r.Ready.Home, "id_ed25519"))
	r.echo = r.hub(t, r.login+"=gw-2")
	p := r.typist(t)
	r.quiet = p.quiet(t)
	if !p.leaves(t) {
		t.FailNow()
	}
	return r
}

// typist is somebody else's session.
type typist struct {
	s      *ssh.Session
	in     io.WriteCloser
	lines  *bufio.Reader
	broken error
}

func (r *rig) typist(t *testing.T) *typist {
	t.Helper()
	s, err := r.echo.NewSession()
	if err != nil {
		t.Fatalf("another person's session: %v", err)
	}
	p := &typist{s: s}
	p.in, _ = s.StdinPipe()
	out, _ := s.StdoutPipe()
	p.lines = bufio.NewReader(out)
	if err := s.Start("exec cat"); err != nil {
		t.Fatal(err)
	}
	if p.line(); p.broken != nil { // it runs
		t.Fatalf("another person's session: %v", p.broken)
	}
	return p
}

// line types a line, and waits until it is back.
func (p *typist) line() {
	if _, p.broken = io.WriteString(p.in, "12345678901234\n"); p.broken == nil {
		_, p.broken = p.lines.ReadBytes('\n')
	}
}

// types types until ctx ends, every 5 ms, and returns how long each line took to come back, the quickest first.
func (p *typist) types(ctx context.Context) (took []time.Duration) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		begin := time.Now()
		if p.line(); p.broken != nil {
			break
		}
		took = append(took, time.Since(begin))
		<-tick.C
	}
	slices.Sort(took)
	return took
}

// quiet is what p99 of an echo takes without abuse, measured for a second, or three.
func (p *typist) quiet(t *testing.T) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(count(1, 3))*time.Second)
	defer cancel()
	took := p.types(ctx)
	t.Logf("quiet: an echo takes %v at p50, %v at p99, of %d", at(took, .5), at(took, .99), len(took))
	return at(took, .99)
}

// leaves ends the session, which must have lasted until now.
func (p *typist) leaves(t *testing.T) bool {
	t.Helper()
	p.in.Close()
	err := p.s.Wait()
	if err != nil || p.broken != nil {
		t.Errorf("another person's session broke: %v %v", p.broken, err)
		return false
	}
	return true
}

// at is a quantile of sorted durations.
func at(took []time.Duration, q float64) time.Duration {
	if len(took) == 0 {
		return 0
	}
	return took[int(q*float64(len(took)-1))].Round(10 * time.Microsecond)
}

func signer(t *testing.T, key string) ssh.Signer {
	t.Helper()
	private, err := ssh.ParsePrivateKey([]byte(harness.ReadFile(t, key)))
	if err != nil {
		t.Fatal(err)
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey([]byte(harness.ReadFile(t, key+"-cert.pub")))
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewCertSigner(public.(*ssh.Certificate), private)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (r *rig) config(user string) *ssh.ClientConfig {
	return &ssh.ClientConfig{User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(r.signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey()}
}

// tcp connects to an address from a source of its own.
func (r *rig) tcp(to string) (net.Conn, error) {
	n := r.next.Add(1)
	d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, byte(2+n/250), byte(1+n%250))}}
	return d.Dial("tcp", to)
}

// client is a raw client over nc; the test's end closes it.
func (r *rig) client(t *testing.T, nc net.Conn, user string) *ssh.Client {
	t.Helper()
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	conn, chans, reqs, err := ssh.NewClientConn(nc, "x", r.config(user))
	if err != nil {
		t.Fatalf("login as %q: %v", user, err)
	}
	_ = nc.SetDeadline(time.Time{})
	c := ssh.NewClient(conn, chans, reqs)
	t.Cleanup(func() { c.Close(); nc.Close() })
	return c
}

// hub is a client of the hub's SSH port.
func (r *rig) hub(t *testing.T, user string) *ssh.Client {
	t.Helper()
	nc, err := r.tcp(r.Ready.SSHAddr)
	if err != nil {
		t.Fatal(err)
	}
	return r.client(t, nc, user)
}

// endToEnd is a client of a device's own SSH server, through the hub.
func (r *rig) endToEnd(t *testing.T, device string) *ssh.Client {
	t.Helper()
	through, err := r.hub(t, "hawser").Dial("tcp", device+":22")
	if err != nil {
		t.Fatal(err)
	}
	// A channel of x/crypto's has no deadlines.
	return r.client(t, noDeadline{through}, r.login)
}

type noDeadline struct{ net.Conn }

func (noDeadline) SetDeadline(time.Time) error { return nil }

// anonymous is a process's anonymous memory, in bytes.
func anonymous(pid int) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kb, _ := strconv.Atoi(strings.Fields(rest)[0])
			return kb << 10
		}
	}
	return 0
}

// beside runs abuse while somebody else types on another device, and holds it to what it took from him and from the programs.
func (r *rig) beside(t *testing.T, abuse func()) {
	t.Helper()
	p := r.typist(t)
	if harness.Long() { // minutes after the last time the machine may do other things
		r.quiet = p.quiet(t)
	}
	pids := map[string]int{"hub": r.Ready.PID, "edge": r.Ready.Devices[0].PID}
	before, peak := map[string]int{}, map[string]int{}
	for who, pid := range pids {
		before[who] = anonymous(pid)
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var took []time.Duration
	wg.Go(func() { took = p.types(ctx) })
	wg.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			for who, pid := range pids {
				peak[who] = max(peak[who], anonymous(pid))
			}
			<-tick.C
		}
	})
	begin := time.Now()
	abuse()
	lasted := time.Since(begin)
	stop()
	wg.Wait()
	if !p.leaves(t) {
		return
	}
	bound := busiest
	if harness.Long() {
		bound = max(slowest, quietTimes*r.quiet)
	}
	t.Logf("%.1f s; another session's echo p50 %v, p99 %v, of %d (quiet p99 %v, bound %v); anonymous memory: hub with auth %.1f MB, at most %.1f; edge %.1f, at most %.1f",
		lasted.Seconds(), at(took, .5), at(took, .99), len(took), r.quiet, bound, mb(before["hub"]), mb(peak["hub"]), mb(before["edge"]), mb(peak["edge"]))
	if p99 := at(took, .99); p99 > bound {
		t.Errorf("another session's echo takes %v at p99, want at most %v", p99, bound)
	}
	for who := range pids {
		if grew := peak[who] - before[who]; grew > growth {
			t.Errorf("the %s grew by %.1f MB", who, mb(grew))
		}
	}
	r.alive(t)
}

func mb(n int) float64 { return float64(n) / (1 << 20) }

// alive tells that the processes are the same, and that nothing panicked.
func (r *rig) alive(t *testing.T) {
	t.Helper()
	select {
	case <-r.Done():
		t.Fatalf("the cluster ended: %v", r.Err())
	default:
	}
	for _, d := range r.Ready.Devices {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", d.PID)); err != nil || strings.TrimSpace(string(b)) != "hawser-edge" {
			t.Errorf("the agent %s is gone: %q %v", d.Name, b, err)
		}
	}
	if out := r.Output(); strings.Contains(out, "panic") || strings.Contains(out, "goroutine ") {
		t.Errorf("something panicked:\n%s", out)
	}
}

// run runs a command over a client's session.
func run(c *ssh.Client, command string) (string, error) {
	s, err := c.NewSession()
	if err != nil {
		return "", err
	}
	defer s.Close()
	out, err := s.CombinedOutput(command)
	return string(out), err
}

// many calls f with 0..n-1 from so many goroutines, until f returns false in each.
func many(workers, n int, f func(i int) bool) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n || !f(i) {
					return
				}
			}
		})
	}
	wg.Wait()
}

// within ends what f uses by stop when f lasts longer.
func within(d time.Duration, f, stop func()) {
	t := time.AfterFunc(d, stop)
	defer t.Stop()
	f()
}

func prohibited(err error) bool {
	refused, ok := errors.AsType[*ssh.OpenChannelError](err)
	return ok && refused.Reason == ssh.Prohibited
}

// deaf is a connection that can be made to take nothing more from its peer.
type deaf struct {
	net.Conn
	now  atomic.Bool
	over chan struct{}
	once sync.Once
}

func newDeaf(c net.Conn) *deaf { return &deaf{Conn: c, over: make(chan struct{})} }

func (d *deaf) Read(b []byte) (int, error) {
	if d.now.Load() {
		<-d.over
		return 0, io.EOF
	}
	return d.Conn.Read(b)
}

func (d *deaf) Close() error {
	d.once.Do(func() { close(d.over) })
	return d.Conn.Close()
}

func quoted(b []byte) string { return fmt.Sprintf("%q", bytes.TrimSpace(b[:min(len(b), 200)])) }
