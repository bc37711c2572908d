package observe

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"hawser/recorder"
)

// facts is a Writer in memory.
type facts struct {
	mu       sync.Mutex
	ops      []recorder.FileOp
	in, out  bytes.Buffer
	passed   [3]int
	withheld []recorder.Withheld
	markers  []string
	refuse   bool
}

func (f *facts) Output(_ byte, b []byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.out.Write(b)
	return !f.refuse
}

func (f *facts) InputFrom(_ uint32, b []byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.in.Write(b)
	return !f.refuse
}

func (f *facts) Passed(stream byte, b []byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.passed[stream] += len(b)
	return !f.refuse
}

func (f *facts) FileOp(op recorder.FileOp) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ops = append(f.ops, op)
}

func (f *facts) Withheld(w recorder.Withheld) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.withheld = append(f.withheld, w)
}

func (f *facts) Marker(text string) { f.markers = append(f.markers, text) }

// list is the operations as lines.
func (f *facts) list() []string {
	var list []string
	for _, op := range f.ops {
		line := op.Op + " " + filepath.Base(op.Path)
		if op.Path2 != "" {
			line += " " + filepath.Base(op.Path2)
		}
		if op.Status != 0 {
			line += fmt.Sprint(" status ", op.Status)
		}
		if op.Read+op.Written > 0 {
			line += fmt.Sprintf(" r%d w%d", op.Read, op.Written)
		}
		if op.Hash != nil {
			line += fmt.Sprintf(" %x", op.Hash[:4])
		}
		list = append(list, line)
	}
	return list
}

// through runs a client with a program as its ssh, and lets s see what passes between them, in pieces of a few bytes where small.
func through(t *testing.T, s *Session, server []string, client func(in io.Reader, out io.Writer) error, small bool) {
	t.Helper()
	cmd := exec.Command(server[0], server[1:]...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	clientIn, fromServer := io.Pipe()
	toServer, clientOut := io.Pipe()
	size := 32 << 10
	if small {
		size = 7
	}
	relay := func(dst io.WriteCloser, src io.Reader, see func([]byte) bool) {
		defer dst.Close()
		b := make([]byte, size)
		for {
			n, err := src.Read(b)
			if n > 0 {
				see(b[:n])
				if _, err := dst.Write(b[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { relay(fromServer, stdout, func(b []byte) bool { return s.Output(recorder.Stdout, b) }) })
	wg.Go(func() { relay(stdin, toServer, func(b []byte) bool { return s.Input(b, Unjudged) }) })
	err = client(clientIn, clientOut)
	clientOut.Close()
	wg.Wait()
	s.End()
	if werr := cmd.Wait(); err != nil {
		t.Fatal(err, werr)
	}
}

// stock runs an OpenSSH client of files that talks on its standard files.
func stock(name string, args ...string) func(io.Reader, io.Writer) error {
	return func(in io.Reader, out io.Writer) error {
		cmd := exec.Command(name, args...)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		go func() { // ends with the server
			_, _ = io.Copy(stdin, in)
			stdin.Close()
			_, _ = io.Copy(io.Discard, in)
		}()
		cmd.Stdout = out
		var words bytes.Buffer
		cmd.Stderr = &words
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w: %s", name, err, words.String())
		}
		return nil
	}
}

const sftpServer = "/usr/lib/openssh/sftp-server"

func content(t *testing.T, path string, n int) string {
	t.Helper()
	b := make([]byte, n)
	rand.Read(b)
	if err := os.WriteFile(path, b, 0o640); err != nil {
		t.Fatal(err)
	}
	h := sha256.Sum256(b)
	return fmt.Sprintf("%x", h[:4])
}

func newSession(kind, command string) (*Session, *facts) {
	f, s := new(facts), NewSession(kind, command, false, recorder.InputFull)
	s.Attach(f)
	return s, f
}

func TestSFTPOfTheRealPrograms(t *testing.T) {
	for _, small := range []bool{false, true} {
		dir, here := t.TempDir(), t.TempDir()
		size := 300_000
		if small {
			size = 5_000
		}
		up, down := content(t, here+"/up", size), content(t, dir+"/down", size-7)
		empty := content(t, here+"/empty", 0)
		batch := here + "/batch"
		script := strings.Join([]string{
			"cd " + dir, "put " + here + "/up up", "put " + here + "/empty empty", "get down " + here + "/down", "mkdir d", "rename up d/up2", "chmod 600 d/up2",
			"symlink d/up2 link", "ln down hard", "rm hard", "ls d", "-get nothing", "-rmdir d", "rm d/up2", "rmdir d",
		}, "\n") + "\n"
		if err := os.WriteFile(batch, []byte(script), 0o600); err != nil {
			t.Fatal(err)
		}
		s, f := newSession("sftp", "")
		// -D runs a server on its standard files; here it is one that passes on to ours.
		through(t, s, []string{sftpServer}, func(in io.Reader, out io.Writer) error {
			return throughFifo(t, in, out, func(pipe string) *exec.Cmd { return exec.Command("sftp", "-b", batch, "-D", pipe) })
		}, small)
		got := f.list()
		for _, want := range []string{
			"open up", fmt.Sprintf("close up r0 w%d %s", size, up), "open empty", "close empty", fmt.Sprintf("close down r%d w0 %s", size-7, down),
			"mkdir d", "rename up up2", "setstat up2", "symlink up2 link", "link down hard", "remove hard", "list d", "rmdir d status 4", "remove up2", "rmdir d",
		} {
			if !slices.Contains(got, want) {
				t.Errorf("small %v: %q is not told of:\n%s", small, want, strings.Join(got, "\n"))
			}
		}
		_ = empty
		if f.out.Len()+f.in.Len() > 0 || f.passed[recorder.Stdin] < size || len(f.markers) > 0 {
			t.Errorf("small %v: %d bytes of output are kept, %d of input, %v", small, f.out.Len(), f.in.Len(), f.markers)
		}
	}
}

// throughFifo runs a client that starts a program, which connects it to in and out.
func throughFifo(t *testing.T, in io.Reader, out io.Writer, client func(program string) *exec.Cmd) error {
	t.Helper()
	dir := t.TempDir()
	if err := exec.Command("mkfifo", dir+"/in", dir+"/out").Run(); err != nil {
		return err
	}
	program := dir + "/program"
	if err := os.WriteFile(program, []byte("#!/bin/sh\ncat "+dir+"/in &\nexec cat >"+dir+"/out\n"), 0o700); err != nil {
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if w, err := os.OpenFile(dir+"/in", os.O_WRONLY, 0); err == nil {
			_, _ = io.Copy(w, in)
			w.Close()
		}
	})
	wg.Go(func() {
		if r, err := os.Open(dir + "/out"); err == nil {
			_, _ = io.Copy(out, r)
			r.Close()
			if c, ok := out.(io.Closer); ok {
				c.Close()
			}
		}
	})
	words, err := client(program).CombinedOutput()
	wg.Wait()
	if err != nil {
		return fmt.Errorf("%w: %s", err, words)
	}
	return nil
}

func TestSCPOfTheRealProgramBothWays(t *testing.T) {
	for _, small := range []bool{false, true} {
		from, to := t.TempDir(), t.TempDir()
		if err := os.MkdirAll(from+"/tree/sub", 0o755); err != nil {
			t.Fatal(err)
		}
		one, two := content(t, from+"/tree/one", 70_000), content(t, from+"/tree/sub/two words", 3)
		content(t, from+"/tree/none", 0)
		for _, sink := range []bool{true, false} {
			device, client, target := "scp -r -p -t "+to, []string{"-r", "-p", "-f", from + "/tree"}, to
			op, dirOp := "write", "mkdir"
			bytes := "r0 w%d"
			if !sink {
				to = t.TempDir()
				device, client, target = "scp -r -f "+from+"/tree", []string{"-r", "-t", to}, from+"/tree"
				op, dirOp, bytes = "read", "list", "r%d w0"
			}
			s, f := newSession("exec", device)
			through(t, s, strings.Fields(device), stock("scp", client...), small)
			got := f.list()
			base := filepath.Base(target)
			for _, want := range []string{
				dirOp + " " + base + " tree", dirOp + " " + base + " sub", fmt.Sprintf("%s %s one "+bytes+" %s", op, base, 70_000, one),
				fmt.Sprintf("%s %s two words "+bytes+" %s", op, base, 3, two),
			} {
				if !slices.Contains(got, want) {
					t.Errorf("sink %v, small %v: %q is not told of:\n%s", sink, small, want, strings.Join(got, "\n"))
				}
			}
			if f.out.Len()+f.in.Len() > 0 || len(f.markers) > 0 {
				t.Errorf("sink %v: %d bytes of output are kept, %d of input, %v", sink, f.out.Len(), f.in.Len(), f.markers)
			}
		}
	}
}

func TestAFileThatSCPCannotWriteIsAFailure(t *testing.T) {
	from := t.TempDir()
	content(t, from+"/one", 100)
	s, f := newSession("exec", "scp -t /nowhere/at/all")
	through(t, s, []string{"scp", "-t", "/nowhere/at/all"}, func(in io.Reader, out io.Writer) error {
		_ = stock("scp", "-f", from+"/one")(in, out)
		return nil
	}, false)
	if got := f.list(); len(got) != 1 || got[0] != "write all one status 4" {
		t.Errorf("told %q", got)
	}
}

// TestMain is also the ssh that rsync starts: it runs the server here and keeps what passed.
func TestMain(m *testing.M) {
	dir := os.Getenv("OBSERVE_AS_SSH")
	if dir == "" {
		os.Exit(m.Run())
	}
	if err := asSSH(dir, os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func asSSH(dir string, command []string) error {
	if err := os.WriteFile(dir+"/command", []byte(strings.Join(command, " ")), 0o600); err != nil {
		return err
	}
	in, err := os.Create(dir + "/in")
	if err != nil {
		return err
	}
	out, err := os.Create(dir + "/out")
	if err != nil {
		return err
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = io.MultiWriter(out, os.Stdout), os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	go func() { _, _ = io.Copy(io.MultiWriter(in, stdin), os.Stdin) }() // ends with the process
	return cmd.Run()
}

func TestRsyncIsCounted(t *testing.T) {
	from, to, dir := t.TempDir(), t.TempDir(), t.TempDir()
	content(t, from+"/one", 200_000)
	cmd := exec.Command("rsync", "-a", "-e", os.Args[0], from+"/", "device:"+to)
	cmd.Env = append(os.Environ(), "OBSERVE_AS_SSH="+dir)
	if words, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, words)
	}
	var read [3]string
	for i, name := range []string{"command", "in", "out"} {
		b, err := os.ReadFile(dir + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		read[i] = string(b)
	}
	s, f := newSession("exec", strings.TrimSpace(read[0]))
	s.Output(recorder.Stdout, []byte(read[2][:2]))
	s.Input([]byte(read[1]), Unjudged)
	s.Output(recorder.Stdout, []byte(read[2][2:]))
	s.End()
	want := recorder.FileOp{Op: "transfer", Path: to + "/", Written: uint64(len(read[1])), Read: uint64(len(read[2])), Protocol: "rsync"}
	if len(f.ops) != 1 || strings.TrimSuffix(f.ops[0].Path, "/") != to || f.ops[0].Written != want.Written || f.ops[0].Read != want.Read || want.Written < 200_000 {
		t.Errorf("told %+v, want %+v", f.ops, want)
	}
	if f.out.Len()+f.in.Len() > 0 {
		t.Errorf("%d bytes of output are kept, %d of input", f.out.Len(), f.in.Len())
	}
}

// A program that calls itself scp must not be a way to type unseen.
func TestWhatIsNoTransferIsRecordedAsBytes(t *testing.T) {
	for command, said := range map[string]string{"scp -t x": "$ id\nuid=0\n", "rsync --server . x": "# id\nuid=0(root)\n", "/usr/bin/scp -f y": "hello\n"} {
		s, f := newSession("exec", command)
		if s.Unkept() == 0 {
			t.Errorf("%s is taken for no transfer", command)
		}
		s.Output(recorder.Stdout, []byte(said))
		s.Input([]byte("id\n"), Unjudged)
		s.Output(recorder.Stdout, []byte("more"))
		if !strings.HasSuffix(f.out.String(), said[4:]+"more") || f.in.String() != "id\n" || len(f.markers) != 1 {
			t.Errorf("%s: recorded %q and %q, %v", command, f.out.String(), f.in.String(), f.markers)
		}
	}
	for _, command := range []string{
		"scp", "scp x y", "scp -t x; id", "scp -t $(id)", "scp -t `id`", "scp -t x | sh", "./scp -t x", "/tmp/scp -t x", "FOO=x scp -t x", "scp -t x\nid", "scp -S prog -t x",
		"sh -c 'scp -t x'", "rsync x y", "rsync --daemon", `scp -t "$(id)"`, "scp -f -t x", "scp -t", "scp -t 'x",
	} {
		if got := ParseTransfer(command); got.Program == "scp" || got.Program == "rsync" {
			t.Errorf("%q is taken for %+v", command, got)
		}
	}
	for command, want := range map[string]Transfer{
		"scp -t -- /tmp/x": {"scp", "/tmp/x", true}, "scp -r -f '/tmp/a b'": {"scp", "/tmp/a b", false}, "/usr/bin/scp -pt /tmp/*.log": {"scp", "/tmp/*.log", true},
		"rsync --server --sender -vlogDtpre.iLsfxCIvu . /srv": {"rsync", "/srv", false}, "scp -f /a /b": {"scp", "/a /b", false},
	} {
		if got := ParseTransfer(command); got != want {
			t.Errorf("%q is taken for %+v, want %+v", command, got, want)
		}
	}
}

// With a terminal nothing is a transfer: a person may sit there.
func TestATerminalHasNoTransfers(t *testing.T) {
	if s := NewSession("exec", "scp -t x", true, ""); s.Unkept() != 0 {
		t.Error("what passes is not kept")
	}
}

func TestAgentUseTellsWhichKeySigned(t *testing.T) {
	_, private, _ := ed25519.GenerateKey(nil)
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: &private}); err != nil {
		t.Fatal(err)
	}
	signer, _ := ssh.NewSignerFromKey(private)
	var uses []recorder.AgentUse
	a := NewAgent(func(u recorder.AgentUse) { uses = append(uses, u) })
	toAgent, client := io.Pipe()
	back, answers := io.Pipe()
	go func() {
		_ = agent.ServeAgent(ring, struct {
			io.Reader
			io.Writer
		}{toAgent, seeing{answers, a.Answer}})
	}()
	c := agent.NewClient(struct {
		io.Reader
		io.Writer
	}{back, seeing{client, a.Ask}})
	for range 2 {
		if _, err := c.List(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Sign(signer.PublicKey(), make([]byte, 20_000)); err != nil {
		t.Fatal(err)
	}
	_, other, _ := ed25519.GenerateKey(nil)
	stranger, _ := ssh.NewSignerFromKey(other)
	_, _ = c.Sign(stranger.PublicKey(), []byte("x"))
	want := []recorder.AgentUse{
		{What: "list"}, {Fingerprint: ssh.FingerprintSHA256(signer.PublicKey()), What: "sign", Bytes: 20_000},
		{Fingerprint: ssh.FingerprintSHA256(stranger.PublicKey()), What: "sign refused", Bytes: 1},
	}
	if !slices.Equal(uses, want) {
		t.Errorf("told %+v, want %+v", uses, want)
	}
}

type seeing struct {
	io.Writer
	see func([]byte)
}

func (s seeing) Write(b []byte) (int, error) {
	for i := range b { // a byte at a time
		s.see(b[i : i+1])
	}
	return s.Writer.Write(b)
}

func TestOnlyInputThatTheDeviceClearsIsRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := new(facts), NewSession("shell", "", true, recorder.InputRedacted)
		s.Attach(f)
		h := NewHeld()
		var wg sync.WaitGroup
		wg.Go(h.Run)
		add := func(text string) {
			if err := h.Add([]byte(text)); err != nil {
				t.Error(err)
			}
		}
		add("early ")
		h.Judged(2, Keep)
		h.Begin(s)
		add("sudo id\r")
		h.Judged(uint32(len("rly sudo id\r")), Keep)
		add("secret\r")
		h.Judged(3, Withhold)
		h.Judged(4, Withhold)
		add("ls\r")
		h.Judged(3, Keep)
		add("other secret\rxit\r")
		h.Judged(3, Unknown)
		synctest.Wait()
		h.End()
		wg.Wait()
		s.End()
		if got, want := f.in.String(), "early sudo id\rls\r"; got != want {
			t.Errorf("recorded %q, want %q", got, want)
		}
		var n uint64
		for _, w := range f.withheld {
			n += w.Bytes
			if w.Reason != "redacted" {
				t.Errorf("withheld as %q", w.Reason)
			}
		}
		if want := uint64(len("secret\rother secret\rxit\r")); n != want {
			t.Errorf("%d bytes are told of as withheld, want %d", n, want)
		}
	})
}

// What the device does not acknowledge holds up the person, and not the hub's memory.
func TestInputWithoutAVerdictIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := new(facts), NewSession("shell", "", true, recorder.InputRedacted)
		s.Attach(f)
		h := NewHeld()
		h.Begin(s)
		go h.Run()
		added := 0
		go func() {
			for h.Add(make([]byte, 32<<10)) == nil {
				added++
			}
		}()
		synctest.Wait()
		if added != 2 {
			t.Errorf("%d pieces of 32 KiB were taken, want 2", added)
		}
		h.Judged(32<<10, Keep)
		synctest.Wait()
		if added != 3 || f.in.Len() != 32<<10 {
			t.Errorf("%d pieces were taken and %d bytes recorded after one was judged", added, f.in.Len())
		}
		h.End()
		synctest.Wait()
	})
}

func TestStdinOffKeepsLinesEndsAlone(t *testing.T) {
	f, s := new(facts), NewSession("shell", "", true, "")
	s.Attach(f)
	for _, b := range []string{"l", "s", "\r", "secret", "\r"} {
		s.Input([]byte(b), Unjudged)
	}
	s.End()
	want := []recorder.Withheld{{Reason: "off", Enter: true}, {Reason: "off", Enter: true}, {Bytes: 10, Reason: "off"}}
	if f.in.Len() > 0 || !slices.Equal(f.withheld, want) {
		t.Errorf("recorded %q, %+v", f.in.String(), f.withheld)
	}
}

func FuzzSFTP(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x05\x01\x00\x00\x00\x03"), []byte("\x00\x00\x00\x05\x02\x00\x00\x00\x03"), byte(3))
	f.Add([]byte("\x00\x00\x00\x12\x03\x00\x00\x00\x01\x00\x00\x00\x01x\x00\x00\x00\x1a\x00\x00\x00\x00"+"\x00\x00\x00\x17\x06\x00\x00\x00\x02\x00\x00\x00\x01h\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01z"),
		[]byte("\x00\x00\x00\x0a\x66\x00\x00\x00\x01\x00\x00\x00\x01h"), byte(1))
	f.Fuzz(func(t *testing.T, in, out []byte, step byte) {
		fuzzFiles(t, func() files { return NewSFTP(func(recorder.FileOp) {}) }, in, out, int(step)+1)
	})
}

func FuzzSCP(f *testing.F) {
	f.Add([]byte("D0755 0 d\nC0644 3 x\nabc\x00E\n"), []byte("\x00\x00\x00\x00\x00"), byte(2))
	f.Add([]byte("T1 0 1 0\nC0644 0 x\n\x01bad\n"), []byte("\x00\x01no\n"), byte(0))
	f.Fuzz(func(t *testing.T, in, out []byte, step byte) {
		for _, sink := range []bool{true, false} {
			fuzzFiles(t, func() files { return NewSCP("x", sink, func(recorder.FileOp) {}) }, in, out, int(step)+1)
		}
	})
}

// fuzzFiles feeds both directions in turns, in steps.
func fuzzFiles(t *testing.T, make func() files, in, out []byte, step int) {
	p := make()
	for len(in)+len(out) > 0 {
		n := min(step, len(in))
		a := p.In(in[:n])
		in = in[n:]
		n = min(step, len(out))
		b := p.Out(out[:n])
		out = out[n:]
		if !a && !b {
			break
		}
	}
	p.End()
}

func FuzzAgent(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x01\x0b\x00\x00\x00\x10\x0d\x00\x00\x00\x03key\x00\x00\x00\x02hi"), []byte("\x00\x00\x00\x01\x0c\x00\x00\x00\x01\x05"), byte(1))
	f.Fuzz(func(t *testing.T, ask, answer []byte, step byte) {
		a := NewAgent(func(recorder.AgentUse) {})
		for n := int(step) + 1; len(ask)+len(answer) > 0; {
			k := min(n, len(ask))
			a.Ask(ask[:k])
			ask = ask[k:]
			k = min(n, len(answer))
			a.Answer(answer[:k])
			answer = answer[k:]
		}
		a.End()
	})
}

func FuzzParseTransfer(f *testing.F) {
	f.Add("scp -t /tmp/x")
	f.Add("rsync --server --sender . 'a b'")
	f.Fuzz(func(t *testing.T, command string) {
		if tr := ParseTransfer(command); tr.Program == "scp" && strings.ContainsAny(command, ";|&`\n") && !strings.ContainsAny(command, `'"\`) {
			t.Errorf("%q is a transfer", command)
		}
	})
}
