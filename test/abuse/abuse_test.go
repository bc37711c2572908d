package abuse

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"

	"hawser/test/harness"
)

// The tests below share a cluster, and the stalled connections are there all along.
func TestOneClientTakesNothingFromTheOthers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	stalled := r.stall(t, r.Ready.SSHAddr, 2000, 50)
	ways := map[string]func(t *testing.T) *ssh.Client{
		"hub":        func(t *testing.T) *ssh.Client { return r.hub(t, r.login+"=gw-1") },
		"end to end": func(t *testing.T) *ssh.Client { return r.endToEnd(t, "gw-1") },
	}
	for _, abuse := range []struct {
		name string
		run  func(t *testing.T, r *rig, dial func(t *testing.T) *ssh.Client)
	}{
		{"channel opens", channelOpens},
		{"requests", requests},
		{"malformed requests", malformed},
		{"output nobody reads", unread},
	} {
		for way, dial := range ways {
			t.Run(abuse.name+" "+way, func(t *testing.T) {
				r.beside(t, func() { abuse.run(t, r, dial) })
				if out, err := run(dial(t), "echo fine"); out != "fine\n" || err != nil {
					t.Errorf("a session afterwards: %q %v", out, err)
				}
			})
		}
	}
	t.Run("answers nobody reads", func(t *testing.T) { r.beside(t, func() { unreadAnswers(t, r) }) })
	t.Run("hostile names", func(t *testing.T) { r.beside(t, func() { names(t, r) }) })
	t.Run("flipped bits", func(t *testing.T) { r.beside(t, func() { flipped(t, r) }) })
	t.Run("floods before key exchange", func(t *testing.T) { r.beside(t, func() { earlyFloods(t, r) }) })
	t.Run("floods after key exchange", func(t *testing.T) { r.beside(t, func() { lateFloods(t, r) }) })
	t.Run("stalled handshakes", stalled)
}

// stall opens connections that stop at each stage of the handshake, from so many sources, logs in meanwhile, and returns what holds the server
// to its deadline.
func (r *rig) stall(t *testing.T, to string, n, sources int) func(t *testing.T) {
	t.Helper()
	begin := time.Now()
	over := make(chan struct{})
	var conns sync.Map
	var opened, reset atomic.Int32
	one := func(i int) bool {
		d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i%sources))}}
		nc, err := d.Dial("tcp", to)
		if err != nil {
			reset.Add(1)
			return true
		}
		opened.Add(1)
		conns.Store(nc, nil)
		config := r.config("gw-1")
		wait := func() { <-over }
		switch stage := i % 6; stage {
		case 0: // nothing at all
		case 1:
			_, _ = io.WriteString(nc, "SSH-2.0-half a ver")
		case 2:
			_, _ = io.WriteString(nc, "SSH-2.0-silent\r\n")
		case 3: // half a KEXINIT
			_, _ = nc.Write(append([]byte("SSH-2.0-half\r\n\x00\x00\x05\xdc\x04\x14"), make([]byte, 700)...))
		case 4: // the server's half of the key exchange is done
			config.HostKeyCallback = func(string, net.Addr, ssh.PublicKey) error { wait(); return io.EOF }
			go func() { _, _, _, _ = ssh.NewClientConn(nc, "x", config) }()
		case 5: // authentication has begun
			config.Auth = []ssh.AuthMethod{ssh.PublicKeysCallback(func() ([]ssh.Signer, error) { wait(); return nil, io.EOF })}
			go func() { _, _, _, _ = ssh.NewClientConn(nc, "x", config) }()
		}
		return true
	}
	logins := r.logins(t, "a good login beside stalled connections")
	many(16, n, one)
	last := time.Now()
	logins()
	t.Logf("%d connections that stall were opened in %.1f s, %d were not taken", opened.Load(), last.Sub(begin).Seconds(), reset.Load())
	t.Cleanup(func() {
		close(over)
		conns.Range(func(nc, _ any) bool { _ = nc.(net.Conn).Close(); return true })
	})
	return func(t *testing.T) {
		if held := established(t, to); time.Since(last) < 18*time.Second {
			t.Logf("%.1f s after the last, %d are open", time.Since(last).Seconds(), held)
		}
		harness.Eventually(t, max(time.Second, time.Until(last.Add(24*time.Second))), "all stalled connections are closed by the deadline", func() bool {
			return established(t, to) == 0
		})
		t.Logf("all are closed %.1f s after the last was opened", time.Since(last).Seconds())
		r.alive(t)
	}
}

// established counts the server's ends of the stalled connections.
func established(t *testing.T, to string) (n int) {
	t.Helper()
	_, port, _ := net.SplitHostPort(to)
	out, err := exec.Command("ss", "-Htn", "state", "established", "sport", "=", ":"+port).Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 3 && strings.Contains(f[3], "127.0.1.") {
			n++
		}
	}
	return n
}

// logins has OpenSSH log in again and again until the function it returns is called, which holds the slowest to the bar.
func (r *rig) logins(t *testing.T, what string) func() {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var worst time.Duration
	var n, failed int
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n == 0 || ctx.Err() == nil {
			begin := time.Now()
			if out, err := exec.Command("ssh", "-F", r.Ready.SSHConfig, "-o", "BatchMode=yes", "-l", r.login+"=gw-2", "hub", "true").CombinedOutput(); err != nil {
				failed++
				t.Errorf("%s: %v %s", what, err, quoted(out))
			}
			worst = max(worst, time.Since(begin))
			n++
		}
	}()
	return func() {
		stop()
		<-done
		t.Logf("%s: %d, the slowest took %v", what, n, worst.Round(time.Millisecond))
		if worst > loginTime {
			t.Errorf("%s takes %v", what, worst)
		}
	}
}

// channelOpens has one connection ask for more channels than it may have, and for many one after another.
func channelOpens(t *testing.T, _ *rig, dial func(t *testing.T) *ssh.Client) {
	c := dial(t)
	defer c.Close()
	open := func(kind string, extra []byte) (ssh.Channel, bool) {
		ch, reqs, err := c.OpenChannel(kind, extra)
		if err != nil {
			return nil, false
		}
		go ssh.DiscardRequests(reqs)
		return ch, true
	}
	var held atomic.Int32
	many(16, 100, func(int) bool {
		if _, ok := open("session", nil); ok {
			held.Add(1)
		}
		return true
	})
	if n := held.Load(); n != 64 {
		t.Errorf("%d channels are open on one connection, want 64", n)
	}
	var refused atomic.Int32
	n := count(2000, 10_000)
	many(32, n, func(i int) bool {
		kind := []string{"session", "nonsense@example.com", "x11", "forwarded-tcpip"}[i%4]
		if _, ok := open(kind, bytes.Repeat([]byte{byte(i)}, i%3000)); !ok {
			refused.Add(1)
		}
		return true
	})
	if int(refused.Load()) != n {
		t.Errorf("%d of %d channels beyond the limit were refused", refused.Load(), n)
	}
	c.Close()
	// Those that are taken, each closed again; of one user a device takes 3072 in five minutes.
	c = dial(t)
	defer c.Close()
	var taken atomic.Int32
	many(8, count(200, 1000), func(int) bool {
		ch, ok := open("session", nil)
		if ok {
			taken.Add(1)
			ch.Close()
		}
		return c.Conn.User() != ""
	})
	t.Logf("64 held, %d refused beside them, %d opened and closed", refused.Load(), taken.Load())
}

// requests floods a session and a connection with requests, and asks for listeners in masses.
func requests(t *testing.T, _ *rig, dial func(t *testing.T) *ssh.Client) {
	n := count(10_000, 1_000_000)
	var sums []string
	flood := func(kind string, payload func(i int) []byte, prepare func(s *ssh.Session) error) {
		c := dial(t)
		defer c.Close()
		s, err := c.NewSession()
		if err == nil {
			err = prepare(s)
		}
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			return
		}
		var stopped atomic.Bool
		sent := 0
		within(time.Duration(count(10, 60))*time.Second, func() {
			for ; sent < n; sent++ {
				if _, err = s.SendRequest(kind, false, payload(sent)); err != nil {
					break
				}
			}
		}, func() { stopped.Store(true); c.Close() })
		sum := fmt.Sprintf("%d %s", sent, kind)
		switch {
		case stopped.Load():
			sum += " until the time was over"
		case err != nil:
			sum += " until the session was ended for them"
		}
		sums = append(sums, sum)
		// The connection is as good as before.
		if _, _, err := c.SendRequest("keepalive@openssh.com", true, nil); err != nil && !stopped.Load() {
			t.Errorf("after %d %s the connection is gone: %v", sent, kind, err)
		}
	}
	shell := func(s *ssh.Session) error {
		if err := s.RequestPty("xterm", 24, 80, nil); err != nil {
			return err
		}
		return s.Shell()
	}
	none := func(*ssh.Session) error { return nil }
	sizes := []uint32{0, 1, 80, 1 << 16, 1<<31 - 1, 1 << 31, 1<<32 - 1}
	flood("window-change", func(i int) []byte {
		w := sizes[i%len(sizes)]
		return ssh.Marshal(struct{ A, B, C, D uint32 }{w, sizes[(i/7)%len(sizes)], w, w})
	}, shell)
	flood("env", func(i int) []byte {
		return ssh.Marshal(struct{ Name, Value string }{fmt.Sprintf("LC_%d", i), strings.Repeat("v", 4000)})
	}, none)
	flood("auth-agent-req@openssh.com", func(int) []byte { return nil }, none)
	flood("x11-req", func(int) []byte {
		return ssh.Marshal(struct {
			Single           bool
			Protocol, Cookie string
			Screen           uint32
		}{false, "MIT-MAGIC-COOKIE-1", strings.Repeat("ab", 16), 0})
	}, none)
	flood("signal", func(int) []byte { return ssh.Marshal(struct{ Name string }{"WINCH"}) }, shell)

	c := dial(t)
	defer c.Close()
	for i := range n {
		if _, _, err := c.SendRequest("nothing@example.com", i%1000 == 999, make([]byte, 100)); err != nil {
			t.Errorf("global request %d: %v", i, err)
			return
		}
	}
	listeners := 0
	for range count(60, 1000) {
		if l, err := c.Listen("tcp", "127.0.0.1:0"); err == nil {
			listeners++
			defer l.Close()
		}
	}
	if listeners == 0 || listeners > 32 {
		t.Errorf("%d listeners on one connection", listeners)
	}
	t.Logf("%s, and %d global requests; %d listeners were had", strings.Join(sums, ", "), n, listeners)
}

// malformed sends each request with payloads that lie about their lengths.
func malformed(t *testing.T, _ *rig, dial func(t *testing.T) *ssh.Client) {
	random := rand.New(rand.NewPCG(1, 2))
	payload := func() []byte {
		b := make([]byte, random.IntN(60))
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		if len(b) > 4 {
			binary.BigEndian.PutUint32(b, []uint32{0, 1, 7, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1<<32 - 4}[random.IntN(7)])
		}
		return b
	}
	c := dial(t)
	defer c.Close()
	for range count(40, 150) {
		s, err := c.NewSession()
		if err != nil {
			t.Fatalf("after malformed requests: %v", err)
		}
		for _, kind := range []string{"pty-req", "window-change", "env", "signal", "break", "shell", "exec", "subsystem", "auth-agent-req@openssh.com", "x11-req",
			"xon-xoff", "exit-status", "eow@openssh.com", "", strings.Repeat("k", 5000)} {
			_, _ = s.SendRequest(kind, random.IntN(2) == 0, payload())
		}
		s.Close()
		for _, kind := range []string{"direct-tcpip", "direct-streamlocal@openssh.com", "session", "tun@openssh.com"} {
			if ch, reqs, err := c.OpenChannel(kind, payload()); err == nil {
				go ssh.DiscardRequests(reqs)
				ch.Close()
			}
		}
		for _, kind := range []string{"tcpip-forward", "cancel-tcpip-forward", "streamlocal-forward@openssh.com", "no-such", "hostkeys-prove-00@openssh.com"} {
			if _, _, err := c.SendRequest(kind, true, payload()); err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
		}
	}
}

// unread has sessions say all they can to clients that take nothing: some by the window, and OpenSSH stopped.
func unread(t *testing.T, r *rig, dial func(t *testing.T) *ssh.Client) {
	marker := fmt.Sprintf("%d", 1_000_000+rand.IntN(1_000_000))
	c := dial(t)
	for i := range 16 {
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = s.StdoutPipe()
		command := "exec yes " + marker
		if i%2 == 1 {
			command = "exec cat /dev/zero " + marker
		}
		if err := s.Start(command); err != nil {
			t.Fatal(err)
		}
	}
	stopped := exec.Command("ssh", "-F", r.Ready.SSHConfig, "-l", r.login+"=gw-1", "hub", "exec yes "+marker)
	out, _ := stopped.StdoutPipe()
	if err := stopped.Start(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.ReadFull(out, make([]byte, 100))
	_ = stopped.Process.Signal(syscall.SIGSTOP)
	select {
	case <-time.After(time.Duration(count(1, 20)) * time.Second):
	case <-t.Context().Done():
	}
	_ = stopped.Process.Kill()
	_ = stopped.Wait()
	c.Close()
	// Whoever wrote to them is told that they are gone.
	harness.Eventually(t, 20*time.Second, "what wrote to them has ended", func() bool {
		return exec.Command("pgrep", "-fx", "(yes|cat /dev/zero) "+marker).Run() != nil
	})
}

// unreadAnswers asks for answers without end, and reads none.
func unreadAnswers(t *testing.T, r *rig) {
	nc, err := r.tcp(r.Ready.SSHAddr)
	if err != nil {
		t.Fatal(err)
	}
	d := newDeaf(nc)
	c := r.client(t, d, r.login+"=gw-1")
	var sent atomic.Int64
	var wg sync.WaitGroup
	d.now.Store(true)
	within(2*time.Second, func() {
		for range 16 {
			wg.Go(func() {
				for range count(100_000, 1_000_000) {
					go func() { _, _, _ = c.SendRequest("nothing@example.com", true, nil) }()
					if _, _, err := c.SendRequest("keepalive@openssh.com", false, make([]byte, 1000)); err != nil {
						return
					}
					sent.Add(1)
				}
			})
		}
		wg.Wait()
	}, func() { d.Close() })
	t.Logf("%d requests were taken of one that reads no answers", sent.Load())
}

// names logs in, forwards and runs by names that no log, terminal or path should see as they are.
func names(t *testing.T, r *rig) {
	hostile := []string{
		"gw-1\x1b]0;owned\x07", "\u202egw-1", "gw-1\nlevel=ERROR msg=forged", "gw-1\x00", "../../etc/passwd", "-oProxyCommand=id", "$(id)", "`id`", "%n%s%x",
		"gw-1 ", "GW-1", "\xff\xfe\xfd", strings.Repeat("a", 100_000),
		strings.Repeat("\u202e\x1b[2J", 3000), "root=" + strings.Repeat("=", 4000), "", "=gw-1", "root=gw-1\r",
		"\u2066hub\u2069", "hub", "localhost", "e2e-gw-1",
	}
	for _, user := range hostile {
		nc, err := r.tcp(r.Ready.SSHAddr)
		if err != nil {
			t.Fatal(err)
		}
		// Some are of nobody who could log in, and the rest are no device.
		_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
		conn, chans, reqs, err := ssh.NewClientConn(nc, "x", r.config(user))
		if err == nil {
			c := ssh.NewClient(conn, chans, reqs)
			if out, err := run(c, "id"); strings.Contains(out, "uid=") && user != "GW-1" {
				t.Errorf("%.60q was taken for a device: %v", user, err)
			} else if strings.ContainsAny(out, "\x1b\x00\u202e\u2066") {
				t.Errorf("%.60q: the answer has it as it is: %.200q", user, out)
			}
		}
		nc.Close()
	}
	for _, dial := range []func() *ssh.Client{func() *ssh.Client { return r.hub(t, r.login+"=gw-1") }, func() *ssh.Client { return r.endToEnd(t, "gw-1") }} {
		c := dial()
		for _, host := range hostile {
			if ch, reqs, err := c.OpenChannel("direct-tcpip", ssh.Marshal(struct {
				Host       string
				Port       uint32
				Origin     string
				OriginPort uint32
			}{host, 80, host, 1 << 20})); err == nil {
				go ssh.DiscardRequests(reqs)
				ch.Close()
				t.Errorf("something answers at %.60q", host)
			}
			if ch, reqs, err := c.OpenChannel("direct-streamlocal@openssh.com", ssh.Marshal(struct {
				Path, Reserved string
				Port           uint32
			}{"/" + host, "", 0})); err == nil {
				go ssh.DiscardRequests(reqs)
				ch.Close()
				t.Errorf("something answers at /%.60q", host)
			}
			s, err := c.NewSession()
			if err != nil {
				t.Fatalf("after %.60q: %v", host, err)
			}
			_ = s.Setenv(host, host)
			_ = s.RequestPty(host, 24, 80, ssh.TerminalModes{})
			_ = s.RequestSubsystem(host)
			s.Close()
		}
		c.Close()
	}
	logged := r.Output()
	if i := strings.IndexFunc(logged, func(c rune) bool { return c == utf8.RuneError || !unicode.IsPrint(c) && c != '\n' && c != '\t' }); i >= 0 {
		t.Errorf("the log has a name as it is: %.200q", logged[max(0, i-80):])
	}
	for line := range strings.Lines(logged) {
		if strings.HasPrefix(line, "level=ERROR msg=forged") {
			t.Error("a name forged a line of the log")
		}
		if len(line) > 8<<10 {
			t.Errorf("a line of %d bytes in the log: %.300q", len(line), line)
		}
	}
}

// flipped runs OpenSSH and raw clients through a proxy that flips a bit of what they send.
func flipped(t *testing.T, r *rig) {
	random := rand.New(rand.NewPCG(7, 11))
	var mu sync.Mutex
	draw := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return random.IntN(n)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer l.Close()
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := r.tcp(r.Ready.SSHAddr)
			if err != nil {
				in.Close()
				continue
			}
			at, bit := draw(5000), draw(8)
			wg.Go(func() {
				defer out.Close()
				defer in.Close()
				b := make([]byte, 16<<10)
				for seen := 0; ; {
					n, err := in.Read(b)
					if i := at - seen; i >= 0 && i < n {
						b[i] ^= 1 << bit
					}
					seen += n
					if _, werr := out.Write(b[:n]); werr != nil || err != nil {
						return
					}
				}
			})
			wg.Go(func() { _, _ = io.Copy(in, out); in.Close() })
		}
	})
	host, port, _ := net.SplitHostPort(l.Addr().String())
	var whole, cut atomic.Int32
	judge := func(out string, err error) {
		switch {
		case err != nil:
			cut.Add(1)
		case out == "whole\n":
			whole.Add(1)
		default:
			t.Errorf("a changed stream came through: %q", out)
		}
	}
	many(4, count(12, 2000), func(int) bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		out, err := exec.CommandContext(ctx, "ssh", "-F", r.Ready.SSHConfig, "-o", "HostName="+host, "-p", port, "-o", "StrictHostKeyChecking=no",
			"-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=QUIET", "-l", r.login+"=gw-1", "hub", "echo whole").Output()
		judge(string(out), err)
		return true
	})
	many(4, count(100, 10_000), func(int) bool {
		nc, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return false
		}
		defer nc.Close()
		_ = nc.SetDeadline(time.Now().Add(time.Second))
		conn, chans, reqs, err := ssh.NewClientConn(nc, "x", r.config(r.login+"=gw-1"))
		if err != nil {
			cut.Add(1)
			return true
		}
		judge(run(ssh.NewClient(conn, chans, reqs), "echo whole"))
		return true
	})
	if whole.Load() == 0 || cut.Load() == 0 {
		t.Errorf("%d broke and %d came through: some bits matter, and some do not", cut.Load(), whole.Load())
	}
	t.Logf("%d connections broke, %d came through as they were", cut.Load(), whole.Load())
}

// packet is one of SSH's before there are keys.
func packet(payload []byte) []byte {
	padding := 8 - (5+len(payload))%8
	if padding < 4 {
		padding += 8
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(1+len(payload)+padding))
	return append(append(append(b, byte(padding)), payload...), make([]byte, padding)...)
}

// earlyFloods sends messages without end before any key exchange, and key exchanges that never end.
func earlyFloods(t *testing.T, r *rig) {
	text := func(s string) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...) }
	kexinit := func(lists ...string) []byte {
		b := append([]byte{20}, make([]byte, 16)...)
		for _, s := range lists {
			b = append(b, text(s)...)
		}
		return append(b, 0, 0, 0, 0, 0)
	}
	aes, mac := "aes128-ctr", "hmac-sha2-256"
	good := kexinit("curve25519-sha256", "ssh-ed25519", aes, aes, mac, mac, "none", "none", "", "")
	huge := kexinit(strings.Repeat("a,", 15_000), "ssh-ed25519", aes, aes, mac, mac, "none", "none", "", "")
	ignore := append([]byte{2}, text(strings.Repeat("i", 1000))...)
	ping := append([]byte{192}, text(strings.Repeat("p", 1000))...)
	debug := append([]byte{4, 1}, append(text("\x1b[2J"), text("")...)...)
	for name, first := range map[string][][]byte{
		"IGNORE":              {ignore},
		"PING":                {ping},
		"DEBUG":               {debug},
		"KEXINIT and PING":    {good, ping},
		"KEXINIT and IGNORE":  {good, ignore},
		"KEXINIT and KEXINIT": {good, good},
		"a huge KEXINIT":      {huge, ignore},
		"channel data":        {good, append([]byte{94, 0, 0, 0, 0}, text(strings.Repeat("d", 30_000))...)},
	} {
		nc, err := r.tcp(r.Ready.SSHAddr)
		if err != nil {
			t.Fatal(err)
		}
		_ = nc.SetDeadline(time.Now().Add(time.Duration(count(1, 30)) * time.Second))
		go func() { _, _ = io.Copy(io.Discard, nc) }()
		_, err = io.WriteString(nc, "SSH-2.0-flood\r\n")
		sent := 0
		for _, p := range first[:len(first)-1] {
			if err == nil {
				_, err = nc.Write(packet(p))
			}
		}
		last := packet(first[len(first)-1])
		for ; err == nil && sent < count(20_000, 1_000_000); sent++ {
			_, err = nc.Write(last)
		}
		nc.Close()
		t.Logf("%s: %d packets were taken", name, sent)
	}
	// A version without an end, and lines before it.
	for _, line := range []string{strings.Repeat("SSH-2.0-", 100_000), strings.Repeat("hello\r\n", 100_000)} {
		nc, err := r.tcp(r.Ready.SSHAddr)
		if err != nil {
			t.Fatal(err)
		}
		_ = nc.SetDeadline(time.Now().Add(2 * time.Second))
		_, _ = io.WriteString(nc, line)
		nc.Close()
	}
}

// lateFloods has paramiko, which can, send the same after authentication, and begin key exchanges that it never ends.
func lateFloods(t *testing.T, r *rig) {
	script := t.TempDir() + "/flood.py"
	if err := os.WriteFile(script, []byte(floodScript), 0o600); err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(r.Ready.SSHAddr)
	res := harness.Run(t, nil, "/usr/bin/python3", script, host, port, r.Ready.Home+"/id_ed25519", r.login+"=gw-1", fmt.Sprint(count(3000, 100_000)))
	t.Logf("%s", res.Stdout)
	if res.Code != 0 {
		t.Errorf("paramiko: %d\n%s%s", res.Code, res.Stdout, res.Stderr)
	}
}

const floodScript = `
import socket, sys, time
import paramiko
from paramiko.message import Message
host, port, key, user, n = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[5])
pkey = paramiko.Ed25519Key.from_private_key_file(key)
pkey.load_certificate(key + "-cert.pub")

def message(kind):
    m = Message()
    m.add_byte(bytes([kind]))
    if kind in (2, 192):
        m.add_string(b"x" * 1000)
    if kind == 94:
        m.add_int(0); m.add_string(b"d" * 1000)
    return m

def flood(what, kind, before=None):
    t = paramiko.Transport(socket.create_connection((host, port)))
    t.start_client(timeout=10)
    t.auth_publickey(user, pkey)
    ch = t.open_session(timeout=10)
    ch.exec_command("cat")
    if before:
        before(t)
    sent = 0
    try:
        for sent in range(n):
            t.packetizer.send_message(message(kind))
            if not t.is_active():
                break
    except Exception as e:
        print(what, "ended by", type(e).__name__, end="; ")
    print(what, sent + 1)
    t.close()

def kexinit(t):
    m = Message()
    m.add_byte(b"\x14")
    m.add_bytes(b"0" * 16)
    for s in ("curve25519-sha256", "ssh-ed25519", "aes128-ctr", "aes128-ctr", "hmac-sha2-256", "hmac-sha2-256", "none", "none", "", ""):
        m.add_string(s)
    m.add_boolean(False)
    m.add_int(0)
    t.packetizer.send_message(m)

flood("IGNORE", 2)
flood("PING", 192)
flood("REQUEST_SUCCESS", 81)
flood("REQUEST_FAILURE", 82)
flood("KEXINIT then data", 94, kexinit)
flood("KEXINIT then IGNORE", 2, kexinit)
flood("NEWKEYS", 21)
flood("unknown", 111)
`
