package login

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func FuzzLookup(f *testing.F) {
	root := f.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		f.Fatal(err)
	}
	s := System{Root: root, Now: func() time.Time { return time.Unix(100*86400, 0) }}
	put := func(t *testing.T, name, text string) {
		if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f.Add("bob:x:10:20:B:/home/bob:/bin/sh\n", "a:x:30:bob,old\nb:x:20:bob\nb:x:30:bob\n", "bob:!:1:::::100:\n")
	f.Add("bob:x:4294967295:1::/:/bin/sh\nbob:x:11:1::/:\n", "tty:x:4294967295:bob\ntty:x:5:\n", "bob:!:1:::::-1:\n")
	f.Add("#\n+::::::\nbob:x:0:0:::\x00\n", "tty:x:5:bob\n", "bob\nbob:!:1:::::99:\n")
	f.Add("bob:x:1:1:::\r\n", "g:x:"+strings.Repeat("9", 40)+":bob\n", "bob:!:1:::::99999999999999999999:\n")
	f.Fuzz(func(t *testing.T, passwd, group, shadow string) {
		put(t, "/etc/passwd", passwd)
		put(t, "/etc/group", group)
		put(t, "/etc/shadow", shadow)
		if id, ok := s.GroupID("tty"); ok && id == 1<<32-1 {
			t.Error("the tty group is the number that leaves an owner unchanged")
		}
		a, err := s.Lookup("bob")
		if err != nil {
			if a.Name != "" {
				t.Errorf("%v, and yet %+v", err, a)
			}
			return
		}
		distinct := slices.Compact(slices.Sorted(slices.Values(a.Groups)))
		if a.Name != "bob" || a.UID == 1<<32-1 || a.Home == "" || !filepath.IsAbs(a.Shell) || a.Groups[0] != a.GID ||
			len(a.Groups) > maxGroups || len(distinct) != len(a.Groups) || slices.Contains(a.Groups, 1<<32-1) {
			t.Errorf("%+v", a)
		}
		put(t, "/etc/shadow", "bob:!:1:::::99:\n"+shadow)
		if _, err := s.Lookup("bob"); !errors.Is(err, ErrRefused) {
			t.Errorf("expired: %v", err)
		}
	})
}
