package store_test

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"hawser/test/harness"
)

func sum(t *testing.T, file string) [32]byte {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil))
}

func sh(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

func unmount(t *testing.T, dir string) {
	t.Helper()
	harness.Eventually(t, 10*time.Second, "unmount "+dir, func() bool { return exec.Command("umount", dir).Run() == nil })
}

// A power cut: the process stops, and what has reached the disk by then, as an image of a real ext4 that the kernel is made to leave alone, is
// all there is. What the file system still held in memory is lost; its journal is replayed. Whatever was acknowledged before is there.
func TestPowerCutsLoseNothing(t *testing.T) {
	harness.Root(t)
	harness.Need(t, "mkfs.ext4", "mount")
	cuts := 1
	if harness.Long() {
		cuts = 12
	}
	// On a disk in memory the images are quick; that the file system above them is asked to sync is what counts.
	images, err := os.MkdirTemp("/dev/shm", "hawser-power-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(images) })
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	for cut := range cuts {
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			image, copied := filepath.Join(images, "disk"), filepath.Join(images, "copy")
			sh(t, "truncate", "-s", "600M", image)
			sh(t, "mkfs.ext4", "-q", "-F", image)
			disk := t.TempDir()
			sh(t, "mount", "-o", "loop", image, disk)
			mounted := true
			t.Cleanup(func() {
				if mounted {
					unmount(t, disk)
				}
				os.Remove(image)
				os.Remove(copied)
			})
			s := newService(t, disk)
			s.start(t)
			s.serving(t)
			d := s.load(t, "p")
			d.more(t, "device", 1, 30*time.Second)
			d.more(t, "", 50+rnd.IntN(400), 60*time.Second)
			// The process stops in the midst of it, and with it all writes. What is acknowledged by now has been read when the load ends.
			if err := s.Cmd.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			for try := 0; ; try++ {
				before := sum(t, image)
				sh(t, "cp", "--sparse=always", image, copied)
				if sum(t, image) == before && sum(t, copied) == before {
					break // the kernel wrote nothing back meanwhile
				}
				if try == 50 {
					t.Fatal("the image does not stand still")
				}
			}
			acknowledged := d.stop()
			s.kill(t)
			unmount(t, disk)
			mounted = false

			after := t.TempDir()
			sh(t, "mount", "-o", "loop", copied, after)
			t.Cleanup(func() { unmount(t, after) })
			s.data = filepath.Join(after, "auth")
			s.start(t)
			s.serving(t)
			t.Logf("acknowledged %s; %s", count(acknowledged), s.check(t, acknowledged))
			s.Stop(t)
		})
	}
}
