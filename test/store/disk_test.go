package store_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hawser/test/harness"
)

// mountTmpfs makes a small disk.
func mountTmpfs(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+size, "hawser-test", dir).CombinedOutput(); err != nil {
		t.Fatalf("mount a tmpfs: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

// free is the disk's free space in bytes.
func free(t *testing.T, dir string) int64 {
	t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize
}

// fill leaves the disk so much free space, by a file that others may have written.
func fill(t *testing.T, dir string, leave int64) (file string) {
	t.Helper()
	file = filepath.Join(dir, "others")
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	part := make([]byte, 1<<20)
	for {
		more := free(t, dir) - leave
		if more <= 0 {
			return file
		}
		if _, err := f.Write(part[:min(more, int64(len(part)))]); err != nil {
			if strings.Contains(err.Error(), "no space") {
				return file
			}
			t.Fatal(err)
		}
	}
}

// A full disk: what reads goes on, sessions are admitted and certificates renewed, writes are refused with a sentence that says why, and all
// is well again when there is space, without a restart.
func TestFullDiskRefusesWritesAndRecovers(t *testing.T) {
	harness.Root(t)
	dir := mountTmpfs(t, "280m")
	s := newService(t, dir)
	s.start(t)
	s.serving(t)
	d := s.load(t, "f")
	d.more(t, "device", 2, 30*time.Second)
	var filler string
	for _, leave := range []int64{100 << 20, 0} {
		filler = fill(t, dir, leave)
		d.more(t, "full", 3, 30*time.Second)
		// Within the space that is left for them.
		d.more(t, "read", 2, 30*time.Second)
		d.more(t, "grant", 20, 30*time.Second)
		d.more(t, "serial", 4, 30*time.Second)
		r := s.hawser(t, "token", "create", "--kind", "hub")
		if r.Code == 0 || !strings.Contains(string(r.Stderr), "disk is nearly full") {
			t.Errorf("with %d MiB free: exit %d, %s", leave>>20, r.Code, r.Stderr)
		}
		if r := s.hawser(t, "ls"); r.Code != 0 {
			t.Errorf("with %d MiB free: ls: exit %d, %s", leave>>20, r.Code, r.Stderr)
		}
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	d.more(t, "device", 2, 30*time.Second)
	d.more(t, "role", 2, 30*time.Second)
	select {
	case <-s.Done():
		t.Fatalf("auth ended: %v", s.Err())
	default:
	}
	lines := d.stop()
	t.Log(s.check(t, lines))
	// And nothing of it is lost by a crash afterwards.
	s.kill(t)
	s.start(t)
	s.serving(t)
	s.check(t, lines)
}

// On a disk that is full for whatever else is written, people log in, a code is good once, and who is locked out is out at once.
func TestOnAFullDiskPeopleLogInAndAreLockedOut(t *testing.T) {
	harness.Root(t)
	dir := mountTmpfs(t, "280m")
	s := newService(t, dir)
	s.start(t)
	s.serving(t)
	ann, ben := s.person(t, "ann", false), s.person(t, "ben", true)

	filler := fill(t, dir, 100<<20)
	if r := s.hawser(t, "token", "create", "--kind", "hub"); r.Code == 0 || !strings.Contains(string(r.Stderr), "disk is nearly full") {
		t.Fatalf("the disk is not full: exit %d, %s", r.Code, r.Stderr)
	}
	code := ben.code(t)
	if r := ben.login(t, "--otp", code); r.Code != 0 {
		t.Errorf("ben logs in: exit %d, %s", r.Code, r.Stderr)
	}
	if r := ben.login(t, "--otp", code); r.Code != 4 || !strings.Contains(string(r.Stderr), "user, password or code is wrong") {
		t.Errorf("the same code again: exit %d, %s", r.Code, r.Stderr)
	}
	if r := ann.login(t, "--no-otp"); r.Code != 0 {
		t.Errorf("ann logs in: exit %d, %s", r.Code, r.Stderr)
	}
	locked := func(when string) {
		t.Helper()
		for what, r := range map[string]harness.Result{"ls": ann.hawser(t, "", "ls"), "login": ann.login(t, "--no-otp")} {
			if r.Code != 5 || !strings.Contains(string(r.Stderr), "ticket 4711") {
				t.Errorf("%s, locked %s: exit %d, %s", when, what, r.Code, r.Stderr)
			}
		}
		if r := ben.hawser(t, "", "ls"); r.Code != 0 {
			t.Errorf("%s, ben's ls: exit %d, %s", when, r.Code, r.Stderr)
		}
	}
	lock := func() (id string) {
		t.Helper()
		r := s.hawser(t, "lock", "add", "--user", "ann", "--message", "ticket 4711")
		if r.Code != 0 {
			t.Fatalf("lock add: exit %d, %s", r.Code, r.Stderr)
		}
		return strings.TrimSpace(string(r.Stdout))
	}
	id := lock()
	locked("at once")
	if r := s.hawser(t, "lock", "rm", id); r.Code != 0 {
		t.Errorf("lock rm: exit %d, %s", r.Code, r.Stderr)
	}
	if r := ann.hawser(t, "", "ls"); r.Code != 0 {
		t.Errorf("without the lock: exit %d, %s", r.Code, r.Stderr)
	}
	lock()
	// Below half of what is kept free nothing is written at all; what is in force stays.
	fill(t, dir, 60<<20)
	if r := s.hawser(t, "lock", "add", "--user", "ben"); r.Code == 0 || !strings.Contains(string(r.Stderr), "disk is nearly full") {
		t.Errorf("lock add with 60 MiB free: exit %d, %s", r.Code, r.Stderr)
	}
	locked("with 60 MiB free")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	s.kill(t)
	s.start(t)
	s.serving(t)
	locked("after a crash")
}
