package identity

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

func open(t *testing.T) (*Dir, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "state")
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, path
}

func TestDamagedFileFallsBackToItsCopy(t *testing.T) {
	content := []byte("the only key of a device")
	for name, damage := range map[string]func(t *testing.T, file string){
		"0-byte": func(t *testing.T, file string) { os.WriteFile(file, nil, 0o600) },
		"half-written": func(t *testing.T, file string) {
			b, _ := os.ReadFile(file)
			os.WriteFile(file, b[:len(b)/2], 0o600)
		},
		"one bit": func(t *testing.T, file string) {
			b, _ := os.ReadFile(file)
			b[3] ^= 1
			os.WriteFile(file, b, 0o600)
		},
		"missing": func(t *testing.T, file string) { os.Remove(file) },
	} {
		for _, which := range []string{"key", "key.bak"} {
			t.Run(name+" "+which, func(t *testing.T) {
				d, path := open(t)
				if err := d.Write("key", content); err != nil {
					t.Fatal(err)
				}
				damage(t, filepath.Join(path, which))
				got, err := d.Read("key")
				if err != nil || !bytes.Equal(got, content) {
					t.Fatalf("read: %q, %v", got, err)
				}
				if err := d.Write("key", content); err != nil {
					t.Fatal(err)
				}
				if b, _ := os.ReadFile(filepath.Join(path, which)); !bytes.Equal(b, seal(content)) {
					t.Error("the next write did not mend it")
				}
			})
		}
	}
}

func TestBothCopiesGoneSaysWhatToDo(t *testing.T) {
	d, path := open(t)
	if err := d.Write("key", []byte("x")); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(filepath.Join(path, "key"), nil, 0o600)
	os.WriteFile(filepath.Join(path, "key.bak"), []byte("ha"), 0o600)
	_, err := d.Read("key")
	if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "join again with a new token") {
		t.Errorf("got %v", err)
	}
	os.Remove(filepath.Join(path, "key"))
	os.Remove(filepath.Join(path, "key.bak"))
	if _, err := d.Read("key"); !errors.Is(err, ErrNotExist) {
		t.Errorf("removed: %v, want ErrNotExist", err)
	}
}

func TestFilesArePrivateAndUnchangedOnesAreNotWritten(t *testing.T) {
	d, path := open(t)
	if err := d.Write("key", []byte("x")); err != nil {
		t.Fatal(err)
	}
	past := time.Unix(1e9, 0)
	for _, name := range []string{"key", "key.bak"} {
		file := filepath.Join(path, name)
		if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
		os.Chtimes(file, past, past)
	}
	if err := d.Write("key", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"key", "key.bak"} {
		if info, _ := os.Stat(filepath.Join(path, name)); !info.ModTime().Equal(past) {
			t.Errorf("%s was written again", name)
		}
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o700 {
		t.Errorf("directory %v", info.Mode())
	}
}

func TestOneProcessPerDirectory(t *testing.T) {
	d, path := open(t)
	if err := d.Lock(); err != nil {
		t.Fatal(err)
	}
	second, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if err := second.Lock(); !errors.Is(err, ErrLocked) {
		t.Fatalf("second: %v, want ErrLocked", err)
	}
	d.Close()
	if err := second.Lock(); err != nil {
		t.Errorf("after the first closed: %v", err)
	}
}

// A status asked for while a hub starts kept it from starting.
func TestWhoLooksKeepsNobodyFromTheDirectory(t *testing.T) {
	d, path := open(t)
	looks, err := d.flock(syscall.LOCK_SH) // the middle of InUse
	if err != nil {
		t.Fatal(err)
	}
	if d.InUse() {
		t.Error("in use by one who looks")
	}
	time.AfterFunc(2*lockPace, func() { looks.Close() })
	second, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if err := second.Lock(); err != nil {
		t.Errorf("while another looks: %v", err)
	}
	if !d.InUse() {
		t.Error("locked, and not in use")
	}
}

func TestNamesCannotLeaveTheDirectory(t *testing.T) {
	d, _ := open(t)
	for _, name := range []string{"", "..", "../x", "a/b", "/etc/passwd", "lock", "x.bak", "x.tmp"} {
		if err := d.Write(name, nil); err == nil {
			t.Errorf("%q was accepted", name)
		}
	}
}

func example() *Credentials {
	return &Credentials{Key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32)), Chain: [][]byte{{1, 2}, {3}},
		SSHCert: []byte{4}, Trust: []byte{5}, UUID: "u", Name: "gw-1", Cluster: "c", Counter: 1<<40 + 9,
		Hubs: []string{"hub:443", "[::1]:443"}}
}

func TestCredentialsSurviveTheDisk(t *testing.T) {
	d, _ := open(t)
	if _, err := Load(d); !errors.Is(err, ErrNotExist) {
		t.Errorf("before joining: %v", err)
	}
	want := example()
	if err := want.Save(d); err != nil {
		t.Fatal(err)
	}
	got, err := Load(d)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
}

func FuzzCredentials(f *testing.F) {
	f.Add(example().encode())
	f.Add([]byte(credentialsMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decodeCredentials(b)
		if err == nil && !bytes.Equal(c.encode(), b) {
			t.Error("decoding and encoding changed the bytes")
		}
	})
}
