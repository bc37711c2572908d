package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// highWater is a file beside the database that says which revision was reached. Badger cuts a damaged log
// silently at open; a database behind its high-water mark has lost acknowledged transactions.
//
// Two slots of 16 bytes (revision, CRC-32 of it, zeros) in blocks of their own, written in turn: a torn write
// leaves the other.
type highWater struct {
	f      *os.File
	slot   int64
	rev    uint64
	synced uint64 // rev when the file was synced last
}

const (
	highWaterSize = 16
	highWaterSlot = 4096 // apart by a disk block
)

func openHighWater(dir string) (*highWater, error) {
	return openHighWaterFile(filepath.Join(dir, "high-water"))
}

// openHighWaterFile takes the file for this process: whoever holds it may open what it guards.
func openHighWaterFile(name string) (*highWater, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s", ErrInUse, name), f.Close())
	}
	h := &highWater{f: f}
	valid, present := 0, 0
	for slot := range int64(2) {
		b := make([]byte, highWaterSize)
		n, err := f.ReadAt(b, slot*highWaterSlot)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, errors.Join(err, f.Close())
		}
		if n < highWaterSize || binary.BigEndian.Uint64(b) == 0 && binary.BigEndian.Uint32(b[8:]) == 0 {
			continue
		}
		present++
		if crc32.ChecksumIEEE(b[:8]) == binary.BigEndian.Uint32(b[8:]) {
			valid++
			if rev := binary.BigEndian.Uint64(b); rev >= h.rev {
				h.rev, h.slot = rev, 1-slot
			}
		}
	}
	if present > 0 && valid == 0 {
		return nil, errors.Join(fmt.Errorf("%w: %s; %s", ErrDamaged, name, restoreHint), f.Close())
	}
	h.synced = h.rev
	return h, nil
}

// set records a revision that is durable in the database.
func (h *highWater) set(rev uint64) error {
	if rev == h.rev {
		return nil
	}
	b := make([]byte, highWaterSize)
	binary.BigEndian.PutUint64(b, rev)
	binary.BigEndian.PutUint32(b[8:], crc32.ChecksumIEEE(b[:8]))
	if _, err := h.f.WriteAt(b, h.slot*highWaterSlot); err != nil {
		return err
	}
	h.slot, h.rev = 1-h.slot, rev
	return nil
}

// sync makes what set wrote last through a power cut.
func (h *highWater) sync() error {
	if h.synced == h.rev {
		return nil
	}
	if err := h.f.Sync(); err != nil {
		return err
	}
	h.synced = h.rev
	return nil
}

func (h *highWater) close() error { return errors.Join(h.sync(), h.f.Close()) }
