package sftp

import (
	"context"
	"encoding/binary"
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

	"golang.org/x/sys/unix"
)

// conversation speaks with a server: ours, or OpenSSH's.
type conversation struct {
	t       testing.TB
	rw      io.ReadWriter
	dir     string
	id      uint32
	handles []string // in the order they were given
}

// ours serves dir until the test ends, or ctx.
func ours(ctx context.Context, t testing.TB, dir string) (c *conversation, ended chan error) {
	t.Helper()
	near, far := net.Pipe()
	ended = make(chan error, 1)
	go func() { ended <- Serve(ctx, far, dir); far.Close() }()
	t.Cleanup(func() { near.Close() })
	return (&conversation{t: t, rw: near, dir: dir}).begin(), ended
}

func (c *conversation) begin() *conversation {
	c.t.Helper()
	c.send(u32([]byte{typeInit}, version))
	if b := c.receive(); len(b) < 5 || b[0] != typeVersion || binary.BigEndian.Uint32(b[1:]) != version {
		c.t.Fatalf("the version is %q", b)
	}
	return c
}

func (c *conversation) send(b []byte) {
	c.t.Helper()
	if _, err := c.rw.Write(append(u32(nil, uint32(len(b))), b...)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *conversation) receive() []byte {
	c.t.Helper()
	var head [4]byte
	if _, err := io.ReadFull(c.rw, head[:]); err != nil {
		c.t.Fatal(err)
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(c.rw, b); err != nil {
		c.t.Fatal(err)
	}
	return b
}

// ask sends a request and returns the answer in words. A field is a string, a number, or the index of a handle.
func (c *conversation) ask(typ byte, fields ...any) string {
	c.t.Helper()
	c.id++
	b := u32([]byte{typ}, c.id)
	for _, f := range fields {
		switch f := f.(type) {
		case string:
			b = str(b, strings.ReplaceAll(f, "{dir}", c.dir))
		case int:
			b = u32(b, uint32(f))
		case uint64:
			b = u64(b, f)
		case which:
			name := "nobody gave this"
			if int(f) < len(c.handles) {
				name = c.handles[f]
			}
			b = str(b, name)
		}
	}
	c.send(b)
	b = c.receive()
	if len(b) < 5 || binary.BigEndian.Uint32(b[1:]) != c.id {
		c.t.Fatalf("the answer is %q", b)
	}
	d := decoder{b: b[5:]}
	switch b[0] {
	case typeStatus:
		return strings.ToLower(statusText[d.u32()])
	case typeHandle:
		c.handles = append(c.handles, d.str())
		return "handle"
	case typeData:
		return "data " + d.str()
	case typeName:
		var names []string
		for range d.u32() {
			names = append(names, d.str())
			_ = d.str()
			d.attrs()
		}
		slices.Sort(names) // a directory's are in no order
		return "names " + strings.ReplaceAll(strings.Join(names, " "), c.dir, "{dir}")
	case typeAttrs:
		a := d.attrs()
		return fmt.Sprintf("size %d mode %o", a.size, a.mode)
	}
	return fmt.Sprintf("packet %d", b[0])
}

// which names a handle by the order it was given in.
type which int

type step struct {
	want   string
	typ    byte
	fields []any
}

func do(want string, typ byte, fields ...any) step { return step{want, typ, fields} }

// steps are what clients do not do of themselves, on a directory with a file "five" of five bytes, a directory "d" with a link "up" to "..", a
// link "far" to "d/up/five", a link "gone" to "nothing", a link "loop" to itself.
var steps = []step{
	// The empty path is no file, but for REALPATH.
	do("no such file", typeRename, "", "moved"), do("no such file", typeRename, "five", ""), do("no such file", typeRmdir, ""),
	do("no such file", typeRemove, ""), do("no such file", typeSetstat, "", attrMode, 0o700), do("no such file", typeStat, ""),
	do("no such file", typeLstat, ""), do("no such file", typeOpendir, ""), do("no such file", typeMkdir, "", 0),
	do("no such file", typeOpen, "", openRead, 0), do("no such file", typeExtended, "posix-rename@openssh.com", "", "moved"),
	do("no such file", typeExtended, "hardlink@openssh.com", "", "moved"), do("no such file", typeReadlink, ""),
	do("no such file", typeExtended, "statvfs@openssh.com", ""), do("no such file", typeExtended, "lsetstat@openssh.com", "", attrMode, 0o700),
	do("names {dir}", typeRealpath, ""),
	// Where a path leads.
	do("names {dir}", typeRealpath, "."), do("names {dir}/five", typeRealpath, "far"), do("names {dir}/new", typeRealpath, "d/up/new"),
	do("names {dir}/nothing", typeRealpath, "gone"), do("no such file", typeRealpath, "loop"), do("no such file", typeRealpath, "none/new"),
	do("no such file", typeRealpath, "none/"), do("no such file", typeRealpath, "five/x"), do("names /", typeRealpath, "/.."),
	do("names {dir}", typeRealpath, "d/up/d/.."), do("names d/up/five", typeReadlink, "far"), do("bad message", typeReadlink, "five"),
	// Files.
	do("no such file", typeOpen, "none", openRead, 0), do("handle", typeOpen, "five", openRead, 0), // 0
	do("data hel", typeRead, which(0), uint64(0), 3), do("data lo", typeRead, which(0), uint64(3), 100), do("end of file", typeRead, which(0), uint64(5), 1),
	do("end of file", typeRead, which(0), uint64(1<<40), 1), do("no such file", typeWrite, which(0), uint64(0), "no"), do("size 5 mode 100644", typeFstat, which(0)),
	do("failure", typeReaddir, which(0)), do("failure", typeRead, which(99), uint64(0), 1), do("no such file", typeClose, which(99)), do("failure", typeFstat, which(99)),
	do("failure", typeOpen, "five", openWrite|openCreate|openExclusive, 0), do("handle", typeOpen, "log", openWrite|openCreate|openAppend, attrMode, 0o600), // 1
	do("success", typeWrite, which(1), uint64(100), "one"), do("success", typeWrite, which(1), uint64(0), "two"), do("size 6 mode 100600", typeStat, "log"),
	do("success", typeFsetstat, which(1), attrMode|attrSize, uint64(4), 0o640), do("size 4 mode 100640", typeFstat, which(1)), do("success", typeClose, which(1)),
	do("no such file", typeClose, which(1)), do("handle", typeOpen, "copy", openRead|openWrite|openCreate|openTruncate, attrMode, 0o644), // 2
	do("success", typeExtended, "copy-data", which(0), uint64(1), uint64(0), which(2), uint64(2)), do("data \x00\x00ello", typeRead, which(2), uint64(0), 100),
	do("failure", typeExtended, "copy-data", which(2), uint64(0), uint64(0), which(2), uint64(100)), do("handle", typeOpen, "copy", openRead, 0), // 3
	do("failure", typeExtended, "copy-data", which(3), uint64(0), uint64(0), which(2), uint64(100)), do("size 6 mode 100644", typeStat, "copy"),
	do("failure", typeExtended, "copy-data", which(0), uint64(0), uint64(0), which(99), uint64(0)), do("success", typeExtended, "fsync@openssh.com", which(2)),
	do("no such file", typeExtended, "copy-data", which(0), uint64(0), uint64(0), which(3), uint64(9)), // not open for writing
	// Names that are there already, and kinds that do not fit.
	do("failure", typeRename, "five", "log"), do("success", typeExtended, "posix-rename@openssh.com", "copy", "log"), do("no such file", typeStat, "copy"),
	do("failure", typeMkdir, "d", 0), do("no such file", typeRmdir, "five"), do("failure", typeRmdir, "d"), do("failure", typeRemove, "d"),
	do("no such file", typeOpendir, "five"), do("failure", typeOpen, "d", openWrite, 0), do("failure", typeSymlink, "anything", "five"),
	do("success", typeSymlink, "five", "link"), do("names five", typeReadlink, "link"), do("success", typeRename, "link", "link2"), do("names five", typeReadlink, "link2"),
	// Attributes of a link itself, and of what it is not.
	do("success", typeExtended, "lsetstat@openssh.com", "five", attrMode, 0o600), do("size 5 mode 100600", typeStat, "five"), do("failure", typeExtended, "lsetstat@openssh.com", "link2", attrMode, 0o666),
	do("size 5 mode 100600", typeStat, "five"), do("bad message", typeExtended, "lsetstat@openssh.com", "five", attrSize, uint64(1)),
	// Directories.
	do("handle", typeOpendir, "d"), do("names . .. up", typeReaddir, which(4)), do("end of file", typeReaddir, which(4)), do("end of file", typeReaddir, which(4)),
	do("failure", typeRead, which(4), uint64(0), 1), do("failure", typeWrite, which(4), uint64(0), "x"), do("success", typeClose, which(4)),
	// What nobody knows.
	do("operation unsupported", typeExtended, "make-coffee@example.com"),
}

func TestTheServerAnswersAsOpenSSHDoes(t *testing.T) {
	servers := map[string]func(t *testing.T, dir string) *conversation{"ours": func(t *testing.T, dir string) *conversation {
		c, _ := ours(t.Context(), t, dir)
		return c
	}}
	for _, path := range []string{"/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server"} {
		if _, err := os.Stat(path); err == nil { // the judge of what we want
			servers["OpenSSH"] = func(t *testing.T, dir string) *conversation {
				cmd := exec.Command(path, "-d", dir)
				in, _ := cmd.StdinPipe()
				out, _ := cmd.StdoutPipe()
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
				return (&conversation{t: t, rw: struct {
					io.Reader
					io.Writer
				}{out, in}, dir: dir}).begin()
			}
		}
	}
	if len(servers) == 1 && !testing.Short() {
		t.Error("without OpenSSH's sftp-server our table is held against our server alone: install openssh-sftp-server")
	}
	for name, serve := range servers {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			defer unix.Umask(unix.Umask(0o022))
			for _, err := range []error{
				os.WriteFile(filepath.Join(dir, "five"), []byte("hello"), 0o644), os.Mkdir(filepath.Join(dir, "d"), 0o755), os.Symlink("..", filepath.Join(dir, "d/up")),
				os.Symlink("d/up/five", filepath.Join(dir, "far")), os.Symlink("nothing", filepath.Join(dir, "gone")), os.Symlink("loop", filepath.Join(dir, "loop")),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			c := serve(t, dir)
			for i, s := range steps {
				if got := c.ask(s.typ, s.fields...); got != s.want {
					t.Errorf("%d: request %d of %q: %q, want %q", i, s.typ, s.fields, got, s.want)
				}
			}
		})
	}
}

// A copy from a device that never ends, or into a pipe that nobody empties, went on when its session was killed: for good, with the session's place.
func TestTheEndOfTheContextEndsWhatIsBeingDone(t *testing.T) {
	for name, hang := range map[string]func(c *conversation) []byte{
		"a copy without end": func(c *conversation) []byte {
			c.ask(typeOpen, "/dev/zero", openRead, 0)
			c.ask(typeOpen, "/dev/null", openWrite, 0)
			return u64(str(u64(u64(str(str(nil, "copy-data"), c.handles[0]), 0), 0), c.handles[1]), 0)
		},
		"a pipe that nobody reads": func(c *conversation) []byte {
			if err := unix.Mkfifo(filepath.Join(c.dir, "fifo"), 0o600); err != nil {
				t.Fatal(err)
			}
			c.ask(typeOpen, "fifo", openRead|openWrite|openAppend, 0)
			c.ask(typeFsetstat, which(0), attrMode, 0o600) // which must not make it one that blocks
			return str(u64(str(nil, c.handles[0]), 0), strings.Repeat("x", 200<<10))
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		c, ended := ours(ctx, t, t.TempDir())
		typ := byte(typeWrite)
		b := hang(c)
		if strings.HasPrefix(name, "a copy") {
			typ = typeExtended
		}
		c.send(append(u32([]byte{typ}, 1), b...)) // taken whole: it is being done
		go io.Copy(io.Discard, c.rw)              // an answer is not in its way
		select {
		case err := <-ended:
			t.Errorf("%s: it ended by itself: %v", name, err)
		case <-time.After(20 * time.Millisecond):
		}
		cancel()
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			t.Errorf("%s: it goes on", name)
		}
	}
}

func TestOneHandleTooManyIsRefused(t *testing.T) {
	c, _ := ours(t.Context(), t, t.TempDir())
	for i := range maxHandles {
		if got := c.ask(typeOpendir, "."); got != "handle" {
			t.Fatalf("%d: %s", i, got)
		}
	}
	if got := c.ask(typeOpendir, "."); got != "failure" {
		t.Errorf("one more: %s", got)
	}
	if got := c.ask(typeClose, which(7)); got != "success" {
		t.Error(got)
	}
	if got := c.ask(typeOpendir, "."); got != "handle" {
		t.Errorf("after one was closed: %s", got)
	}
	if c.handles[7] == c.handles[maxHandles] {
		t.Error("a handle was given twice")
	}
}

// An answer of no names is the end for clients: what followed a batch that had gone meanwhile was not listed.
func TestADirectoryIsListedToItsEndThoughFilesGo(t *testing.T) {
	dir := t.TempDir()
	for i := range 5 * perRead {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, _ := ours(t.Context(), t, dir)
	c.ask(typeOpendir, ".")
	seen := strings.Fields(c.ask(typeReaddir, which(0)))[1:]
	// All that the system gave the server beside the first batch goes, and then something comes.
	have := map[string]bool{}
	for _, name := range seen {
		have[name] = true
	}
	for i := range 5 * perRead {
		if name := fmt.Sprint(i); !have[name] && i%perRead != 0 {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for {
		got := c.ask(typeReaddir, which(0))
		if got == "end of file" {
			break
		}
		names := strings.Fields(got)[1:]
		if len(names) == 0 {
			t.Fatal("an answer without a name")
		}
		for _, name := range names {
			have[name] = true
		}
	}
	for i := range 5 {
		if name := fmt.Sprint(i * perRead); !have[name] {
			t.Errorf("%s is there and was not listed", name)
		}
	}
}

// Nothing that a client sends, in whatever order, ends the server but what is no packet, or leaves a file open; and it ends when it is told to.
func FuzzServe(f *testing.F) {
	f.Add([]byte{typeOpen, 1, 3, typeWrite, 0, 2, typeRead, 0, 0, typeClose, 0, 0})
	f.Add([]byte{typeMkdir, 3, 0, typeOpendir, 3, 0, typeReaddir, 0, 0, typeRmdir, 3, 0})
	f.Add([]byte{typeExtended, 0x10, 4, typeExtended, 0x28, 1, typeSymlink, 0x21, 0, typeRealpath, 2, 0})
	f.Add([]byte{typeOpen, 1, 27, typeOpen, 2, 27, typeExtended, 0x48, 0, typeFsetstat, 1, 9, 250, 250, 250})
	names := []string{"", "a", "b", "d", "d/a", "l", ".", "\x00"} // nothing here is out of the directory: the server may be root
	numbers := []uint64{0, 1, 5, maxData, 1 << 20, 1<<63 - 1, 1 << 63, 1<<64 - 1}
	extended := []string{"posix-rename@openssh.com", "hardlink@openssh.com", "fsync@openssh.com", "lsetstat@openssh.com", "copy-data", "statvfs@openssh.com", "fstatvfs@openssh.com",
		"limits@openssh.com", "home-directory", "users-groups-by-id@openssh.com", "none"}
	f.Fuzz(func(t *testing.T, script []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		near, far := net.Pipe()
		ended := make(chan error, 1)
		go func() { ended <- Serve(ctx, far, t.TempDir()); far.Close() }()
		go io.Copy(io.Discard, near)
		for ; len(script) >= 3; script = script[3:] {
			typ, a, b := script[0], script[1], script[2]
			name := func(i byte) string { return names[i%byte(len(names))] }
			number := func(i byte) uint64 { return numbers[i%byte(len(numbers))] }
			handle := fmt.Sprint(a % 16)
			p := u32([]byte{typ}, uint32(a))
			attributes := func(p []byte) []byte { return u32(u64(u32(p, attrSize|attrMode), number(b)%(2<<20)), uint32(b)|0o600) }
			switch typ {
			case typeOpen:
				p = attributes(u32(str(p, name(a)), uint32(b)))
			case typeClose, typeFstat, typeReaddir:
				p = str(p, handle)
			case typeRead:
				p = u32(u64(str(p, handle), number(b)), uint32(number(b>>4)))
			case typeWrite:
				p = str(u64(str(p, handle), number(b)), name(b>>4))
			case typeSetstat, typeMkdir:
				p = attributes(str(p, name(a)))
			case typeFsetstat:
				p = attributes(str(p, handle))
			case typeRename, typeSymlink:
				p = str(str(p, name(a)), name(a>>4))
			case typeExtended:
				switch what := extended[int(a>>4)%len(extended)]; what {
				case "copy-data":
					p = u64(str(u64(u64(str(str(p, what), fmt.Sprint(b%16)), number(b)%(2<<20)), number(b>>4)%(2<<20)), fmt.Sprint(a%16)), number(a)%(2<<20))
				case "fsync@openssh.com", "fstatvfs@openssh.com":
					p = str(str(p, what), fmt.Sprint(b%16))
				case "lsetstat@openssh.com":
					p = attributes(str(str(p, what), name(b)))
				default:
					p = str(str(str(p, what), name(b)), name(a))
				}
			case typeLstat, typeStat, typeOpendir, typeRemove, typeRmdir, typeRealpath, typeReadlink:
				p = str(p, name(a))
			default:
				p = append(p, script[1:]...)
			}
			_ = near.SetWriteDeadline(time.Now().Add(10 * time.Second))
			if _, err := near.Write(append(u32(nil, uint32(len(p))), p...)); err != nil {
				break // it was no packet
			}
		}
		near.Close()
		select {
		case <-ended:
		case <-time.After(15 * time.Second):
			t.Fatal("it goes on without a client")
		}
		if ctx.Err() != nil {
			t.Error("something took 10 s")
		}
	})
}
