package spool

import (
	"context"
	"crypto/cipher"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Errors of a Recording. After ErrFull the chunk is not there, and nothing else has changed.
var (
	ErrFull    = errors.New("spool: full")
	ErrDamaged = errors.New("spool: file does not read as it was written")
)

// Key encrypts the files.
type Key [32]byte

// String keeps a key out of logs.
func (Key) String() string { return "[redacted]" }

// Config of a Spool.
type Config struct {
	Dir   string // made 0700 if absent
	Key   Key
	Total int64 // bytes of all files; beyond, chunks are refused
	Each  int64 // the same of one recording
	// Free is how many bytes must stay free on the disk; Available tells how many are, nil asks the system.
	Free      int64
	Available func(dir string) (int64, error)
	Logger    *slog.Logger // nil discards
}

// Spool is a directory of recordings. Safe for concurrent use; one process at a time.
type Spool struct {
	c    Config
	root *os.Root

	mu      sync.Mutex
	bytes   int64
	files   int
	dirty   map[*Recording]struct{}
	free    int64 // when asked last
	freeAt  time.Time
	refused bool // the bound was logged
	// refusedFiles are those of recordings that auth does not take; they count among bytes.
	refusedFiles int
}

const (
	suffix = ".spool"
	// refusedSuffix names the file of a recording that auth does not take, or that cannot be read to its end. It is kept for people to look into.
	refusedSuffix = ".refused"
)

// Open opens or makes a spool, and returns the recordings of an earlier run, in no order. A file that cannot be read stays where it is, and is
// told in the log.
func Open(c Config) (*Spool, []*Recording, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Available == nil {
		c.Available = available
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, nil, err
	}
	root, err := os.OpenRoot(c.Dir)
	if err != nil {
		return nil, nil, err
	}
	s := &Spool{c: c, root: root, dirty: map[*Recording]struct{}{}}
	left, err := s.load()
	if err != nil {
		_ = root.Close()
		return nil, nil, err
	}
	return s, left, nil
}

func available(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

func (s *Spool) load() ([]*Recording, error) {
	dir, err := s.root.Open(".")
	if err != nil {
		return nil, err
	}
	names, err := dir.Readdirnames(maxFiles)
	_ = dir.Close()
	if err != nil && err != io.EOF { // that is an empty one
		return nil, err
	}
	var left []*Recording
	for _, name := range names {
		if strings.HasSuffix(name, refusedSuffix) {
			if st, err := s.root.Stat(name); err == nil {
				s.refusedFiles++
				s.bytes += st.Size()
			}
			continue
		}
		hexed, ok := strings.CutSuffix(name, suffix)
		id, err := hex.DecodeString(hexed)
		if !ok || err != nil || len(id) != 16 {
			continue
		}
		r, err := s.read([16]byte(id), name)
		if errors.Is(err, errNothing) { // killed as it was made
			_ = s.root.Remove(name)
			continue
		}
		if err != nil {
			s.c.Logger.Error("spooled recording cannot be read; move it away or put the spool's key back", "file", name, "dir", s.c.Dir, "error", err)
			continue
		}
		s.bytes += r.size
		s.files++
		left = append(left, r)
	}
	return left, nil
}

// Usage is how many recordings have a file, and the bytes of all.
func (s *Spool) Usage() (recordings int, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.files, s.bytes
}

// Refused is how many files of recordings are kept that auth does not take.
func (s *Spool) Refused() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refusedFiles
}

// Run puts on the disk what was written, until ctx ends, and then once more.
func (s *Spool) Run(ctx context.Context) {
	tick := time.NewTicker(syncEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.sync()
		case <-ctx.Done():
			s.sync()
			return
		}
	}
}

func (s *Spool) sync() {
	s.mu.Lock()
	dirty := s.dirty
	s.dirty = map[*Recording]struct{}{}
	s.mu.Unlock()
	for r := range dirty {
		if err := r.sync(); err != nil {
			s.c.Logger.Error("spool not synced", "file", r.name, "error", err)
		}
	}
}

// Close lets go of the directory. The recordings in it are closed first.
func (s *Spool) Close() error { return s.root.Close() }

// takes tells whether n more bytes may be written to a recording that has so many. Beyond the bounds small chunks are taken up to slack, of which
// the recording has used extra; what that is now is returned.
func (s *Spool) takes(has, n, extra int64) (int64, error) {
	why := s.full(has, n)
	if why == nil || n > smallChunk || extra+n > slack {
		return extra, why
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.free-n < s.c.Free/2 {
		return extra, why
	}
	return extra + n, nil
}

// full is why n more bytes pass a bound; nil: they do not.
func (s *Spool) full(has, n int64) error {
	if has+n > s.c.Each {
		return fmt.Errorf("%w: %d bytes of this recording wait for the auth service", ErrFull, has)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bytes+n > s.c.Total {
		return s.fullLocked(fmt.Errorf("%w: %d bytes of %d recordings wait for the auth service", ErrFull, s.bytes, s.files))
	}
	if now := time.Now(); now.Sub(s.freeAt) >= freeEvery {
		free, err := s.c.Available(s.c.Dir)
		if err != nil {
			return fmt.Errorf("%w: free space of %s: %w", ErrFull, s.c.Dir, err)
		}
		s.free, s.freeAt = free, now
	}
	if s.free-n < s.c.Free {
		return s.fullLocked(fmt.Errorf("%w: %d MiB are free on the disk of %s", ErrFull, s.free>>20, s.c.Dir))
	}
	s.free -= n
	s.refused = false
	return nil
}

// fullLocked logs the first refusal of each time that the spool is full.
func (s *Spool) fullLocked(err error) error {
	if !s.refused {
		s.refused = true
		s.c.Logger.Error("spool full: what cannot be kept is left out of recordings, which say so", "dir", s.c.Dir, "error", err)
	}
	return err
}

func (s *Spool) grew(r *Recording, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes += n
	if n > 0 {
		s.dirty[r] = struct{}{}
	}
}

func (s *Spool) gone(r *Recording) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files--
	delete(s.dirty, r)
}

// seal and open are a record's encryption.
func sealRecord(aead cipher.AEAD, id [16]byte, seq uint64, kind byte, data []byte) []byte {
	b := make([]byte, recordHead, recordHead+1+len(data)+aead.Overhead())
	putHead(b, seq, 1+len(data)+aead.Overhead())
	return aead.Seal(b, b[12:recordHead], append([]byte{kind}, data...), additional(id, seq))
}
