package edge

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hawser/tunnel/identity"
)

// readOnly makes a file system that cannot be written, with what fill put there.
func readOnly(t *testing.T, fill func(dir string)) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts a read-only file system")
	}
	dir := t.TempDir()
	mount := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("mount", args...).CombinedOutput(); err != nil {
			t.Skipf("needs to mount: %v: %s", err, out)
		}
	}
	mount("-t", "tmpfs", "hawser-test", dir)
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	fill(dir)
	mount("-o", "remount,ro", dir)
	return dir
}

func TestAReadOnlyFlashIsServedFromMemory(t *testing.T) {
	dir := readOnly(t, func(string) {})
	for _, path := range []string{dir, filepath.Join(dir, "missing")} {
		st, err := openState(path)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if err := st.inMemory(); !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: in memory for %v", path, err)
		}
		if st.get().Key == nil {
			t.Error("no key")
		}
		// A join is kept, and what is beside the identity costs nothing.
		if err := st.replace(nil, nil, func(c *identity.Credentials) { c.UUID, c.Name = "u", "n" }); err != nil || !st.joined() {
			t.Errorf("%s: join: %v", path, err)
		}
		_ = st.write(addressFile, []byte("x"))
		if _, err := st.read(addressFile); err == nil {
			t.Error("something was stored")
		}
		st.floor()
		st.close()
	}
}

func TestAnIdentityOnAReadOnlyFlashIsRead(t *testing.T) {
	var key string
	dir := readOnly(t, func(dir string) {
		st, err := openState(dir)
		if err != nil {
			t.Fatal(err)
		}
		key = string(st.get().Key)
		st.close()
	})
	st, err := openState(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer st.close()
	if string(st.get().Key) != key {
		t.Error("another key than the stored one")
	}
}

func TestATokenIsNotSpentOnAJoinThatCannotBeKept(t *testing.T) {
	h := newTestHub(t)
	dir := readOnly(t, func(string) {})
	a, err := New(Config{State: dir, Token: h.token("edge")})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Join(t.Context()); !errors.Is(err, syscall.EROFS) || h.joins != 0 {
		t.Errorf("%v, %d joins", err, h.joins)
	}
	// To run is another matter: it serves until it ends.
	b, _ := h.start(Config{State: dir, Token: h.token("edge"), Name: "gw-1"})
	h.next()
	if list := b.history.list(time.Now()); !strings.Contains(list[0].Text, "from memory") {
		t.Errorf("%+v", list)
	}
}

// A disk that fills up while the agent runs must not let auth's record of an identity get ahead of what is stored: that is what a clone looks like.
func TestARenewalThatCannotBeStoredIsRefused(t *testing.T) {
	dir := t.TempDir()
	st, err := openState(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer st.close()
	st.creds.UUID = "u"
	if err := st.replace(nil, nil, func(c *identity.Credentials) { c.Name = strings.Repeat("x", 2<<20) }); err == nil || st.get().Name != "" {
		t.Errorf("kept although it was not stored: %v", err)
	}
}

// Both tunnels brought a list, and the one with the older was slower to write it: that was in force after a restart.
func TestAnOlderListIsNotWrittenOverANewer(t *testing.T) {
	s, err := openState(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	for _, revision := range []uint64{2, 3, 1} {
		if err := s.writeList(storedLocks, revision, locksFile, []byte{byte(revision)}); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := s.read(locksFile); err != nil || b[0] != 3 {
		t.Errorf("revision %v is stored (%v), want 3", b, err)
	}
}
