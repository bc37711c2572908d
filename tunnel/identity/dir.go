// Package identity keeps an edge's (or hub's) small state: its key, its certificates and what it must remember, in one
// directory of mode 0700. Every file exists twice, each copy with a checksum and replaced atomically, so that a power cut
// at any moment, a 0-byte file or a half-written one leaves a good copy to read.
//
// Start from Open, Lock, and Load.
package identity

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

var (
	// ErrNotExist means that neither copy of a file is there.
	ErrNotExist = errors.New("does not exist")
	// ErrDamaged means that a file is there and no copy of it can be read; the error says what to do.
	ErrDamaged = errors.New("is damaged")
	// ErrLocked means that another process uses the directory.
	ErrLocked = errors.New("is in use by another process")
)

const (
	copySuffix  = ".bak"
	tempSuffix  = ".tmp"
	lockName    = "lock"
	trailerText = "hawser-sum1\n" // ends every file, after the SHA-256 of what comes before
	trailerLen  = sha256.Size + len(trailerText)
	maxFile     = 1 << 20 // bytes; identities have 64 KiB at most

	// lockTries is how often Lock tries, and lockPace how long it waits between: who only looks has the lock for a moment.
	lockTries = 10
	lockPace  = 20 * time.Millisecond
)

// Dir is a state directory. Its methods are safe for concurrent use.
type Dir struct {
	path string
	root *os.Root

	mu   sync.Mutex // guards the files and lock
	lock *os.File
}

// Open opens the state directory at path, and makes it if it is not there.
func Open(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open state directory: %w", err)
	}
	return &Dir{path: path, root: root}, nil
}

// Lock takes the directory for this process until Close. A second process gets an error wrapping ErrLocked. It waits for who looks by InUse.
func (d *Dir) Lock() error {
	err := d.tryLock()
	for try := 1; errors.Is(err, ErrLocked) && try < lockTries; try++ {
		time.Sleep(lockPace)
		err = d.tryLock()
	}
	return err
}

func (d *Dir) tryLock() (err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lock == nil {
		d.lock, err = d.flock(syscall.LOCK_EX)
	}
	return err
}

// InUse tells whether a process has the directory locked, this one included. It keeps nobody from locking it: Lock waits for it.
func (d *Dir) InUse() bool {
	f, err := d.flock(syscall.LOCK_SH) // two who look are not in each other's way
	if err == nil {
		_ = f.Close()
	}
	return errors.Is(err, ErrLocked)
}

func (d *Dir) flock(how int) (*os.File, error) {
	f, err := d.root.OpenFile(lockName, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("state directory %s %w; stop it, or give this one a directory of its own", d.path, ErrLocked)
		}
		return nil, fmt.Errorf("lock state directory %s: %w", d.path, err)
	}
	return f, nil
}

// Close releases the directory and its lock.
func (d *Dir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var err error
	if d.lock != nil {
		err = d.lock.Close()
		d.lock = nil
	}
	return errors.Join(err, d.root.Close())
}

// Write replaces the file name and its copy, the copy last. When it returns nil both are on disk; after an error at
// least one good copy is, of the old content or of the new. Where both hold data already nothing is written.
func (d *Dir) Write(name string, data []byte) error {
	if err := checkName(name); err != nil {
		return err
	}
	if len(data) > maxFile {
		return fmt.Errorf("write %s: %d bytes, at most %d", name, len(data), maxFile)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	sealed := seal(data)
	for _, file := range []string{name, name + copySuffix} {
		if old, err := d.root.ReadFile(file); err == nil && bytes.Equal(old, sealed) {
			continue
		}
		if err := d.replace(file, sealed); err != nil {
			return fmt.Errorf("write %s: %w", filepath.Join(d.path, file), err)
		}
	}
	return nil
}

// replace writes one file of the directory atomically.
func (d *Dir) replace(file string, b []byte) error { return replace(d.root, file, b, 0o600) }

// sync makes renames and removals durable.
func (d *Dir) sync() error { return syncDir(d.root) }

// Read returns the file's content, of its copy if the file itself is missing or damaged.
func (d *Dir) Read(name string) ([]byte, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	data, err := d.readOne(name)
	if err == nil {
		return data, nil
	}
	data, copyErr := d.readOne(name + copySuffix)
	switch {
	case copyErr == nil:
		return data, nil
	case errors.Is(err, fs.ErrNotExist) && errors.Is(copyErr, fs.ErrNotExist):
		return nil, fmt.Errorf("%s %w", filepath.Join(d.path, name), ErrNotExist)
	}
	return nil, fmt.Errorf("%s %w, and so is its copy (%w; %w): remove both and join again with a new token, or restore "+
		"them from a backup", filepath.Join(d.path, name), ErrDamaged, err, copyErr)
}

func (d *Dir) readOne(file string) ([]byte, error) {
	info, err := d.root.Stat(file)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile+int64(trailerLen) {
		return nil, fmt.Errorf("%s has %d bytes", file, info.Size())
	}
	b, err := d.root.ReadFile(file)
	if err != nil {
		return nil, err
	}
	data, ok := unseal(b)
	if !ok {
		return nil, fmt.Errorf("%s has %d bytes and a wrong checksum", file, len(b))
	}
	return data, nil
}

// Remove removes the file and its copy; that neither is there is no error.
func (d *Dir) Remove(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	// The copy first: a file without a copy is whole, a copy without a file may be old.
	for _, file := range []string{name + copySuffix, name} {
		if err := d.root.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove %s: %w", filepath.Join(d.path, file), err)
		}
	}
	return d.sync()
}

func seal(data []byte) []byte {
	sum := sha256.Sum256(data)
	b := make([]byte, 0, len(data)+trailerLen)
	b = append(b, data...)
	b = append(b, sum[:]...)
	return append(b, trailerText...)
}

func unseal(b []byte) ([]byte, bool) {
	if len(b) < trailerLen || string(b[len(b)-len(trailerText):]) != trailerText {
		return nil, false
	}
	data, sum := b[:len(b)-trailerLen], b[len(b)-trailerLen:len(b)-len(trailerText)]
	want := sha256.Sum256(data)
	return data, bytes.Equal(sum, want[:])
}

func checkName(name string) error {
	if name == "" || name == lockName || !filepath.IsLocal(name) || strings.ContainsAny(name, "/\\") ||
		strings.HasSuffix(name, copySuffix) || strings.HasSuffix(name, tempSuffix) {
		return fmt.Errorf("%q is no name for a state file", name)
	}
	return nil
}
