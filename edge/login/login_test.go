package login

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func write(t *testing.T, files map[string]string) System {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return System{Root: root, Now: func() time.Time { return time.Unix(100*86400, 0) }}
}

func TestRootIsMadeUpWithoutPasswd(t *testing.T) {
	a, err := write(t, nil).Lookup("root")
	if err != nil || a.UID != 0 || a.Home != "/" || a.Shell == "" || !slices.Equal(a.Groups, []uint32{0}) {
		t.Errorf("%+v %v", a, err)
	}
	if _, err := write(t, nil).Lookup("bob"); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
}

func TestLookup(t *testing.T) {
	s := write(t, map[string]string{
		"etc/passwd": "# c\n+::::::\nshort:x:1\nbob:x:10:20:B:/home/bob:/no/such/shell\nmax:x:4294967295:1::/:/bin/sh\nold:x:11:1::/:/bin/sh\nnew:x:12:1::/:/bin/sh\n",
		"etc/group":  "a:x:30:bob,old\nb:x:20:bob\nc:x:31:bobby\n",
		"etc/shadow": "old:!:1:::::99:\nnew:!:1:::::100:\n",
	})
	a, err := s.Lookup("bob")
	if err != nil || a.UID != 10 || !slices.Equal(a.Groups, []uint32{20, 30}) || a.Shell != shell("") {
		t.Errorf("%+v %v", a, err)
	}
	for _, name := range []string{"", "max", "short", "+", "a/b", "../x", "bob\n", "nobody"} {
		if _, err := s.Lookup(name); !errors.Is(err, ErrUnknown) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := s.Lookup("old"); !errors.Is(err, ErrRefused) {
		t.Error(err)
	}
	if _, err := s.Lookup("new"); err != nil {
		t.Error(err)
	}
}

func TestNologinFileTakesOnlyRoot(t *testing.T) {
	s := write(t, map[string]string{"etc/passwd": "bob:x:10:20::/:/bin/sh\n", "etc/nologin": "down\n"})
	if _, err := s.Lookup("bob"); !errors.Is(err, ErrRefused) {
		t.Error(err)
	}
	if _, err := s.Lookup("root"); err != nil {
		t.Error(err)
	}
}

func TestAsJudgesAndOwnsFilesAsTheLogin(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	_ = os.Chmod(dir, 0o700)
	a := Account{Name: "bob", UID: 4242, GID: 4343, Groups: []uint32{4343}}
	if err := a.As(func() error { _, err := os.ReadDir(dir); return err }); !errors.Is(err, os.ErrPermission) {
		t.Error("read root's directory:", err)
	}
	if _, err := os.ReadDir(dir); err != nil {
		t.Error("the rest of the process is as before:", err)
	}
}

func TestRecordsReplaceTheirOwnEntry(t *testing.T) {
	s := write(t, map[string]string{"var/run/utmp": "", "var/log/wtmp": "", "var/log/lastlog": ""})
	e := s.Begin(Account{Name: "bob", UID: 3}, 77, "/dev/pts/5", netip.MustParseAddr("192.0.2.1"))
	e.End()
	for name, want := range map[string]int{"var/run/utmp": native().size, "var/log/wtmp": 2 * native().size, "var/log/lastlog": 4 * native().lastlog} {
		if b, err := os.ReadFile(filepath.Join(s.Root, name)); err != nil || len(b) != want {
			t.Errorf("%s: %d bytes, want %d, %v", name, len(b), want, err)
		}
	}
	if len(wide.encode(e.record)) != 400 || len(narrow.encode(e.record)) != 384 {
		t.Error("sizes of struct utmp")
	}
}

func FuzzParsePasswd(f *testing.F) {
	f.Add("root:x:0:0:root:/root:/bin/sh")
	f.Fuzz(func(t *testing.T, line string) {
		if a, ok := parsePasswd(line); ok && !validName(a.Name) {
			t.Fatal(a)
		}
		parseGroup(line, "root")
	})
}
