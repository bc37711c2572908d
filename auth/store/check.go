package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/ristretto/v2/z"
)

// restoreHint ends every message about damage.
const restoreHint = "restore a backup into another directory with `hawser-auth backup restore`"

// openBadger opens a database after it was checked. Badger itself checks little at open: it dies on some damaged tables, ignores others,
// and deletes what a shortened MANIFEST does not name.
func openBadger(o badger.Options) (*badger.DB, error) { return openBadgerChecked(o, true) }

// openBadgerChecked is openBadger; without check for a database that this process has checked and held since.
func openBadgerChecked(o badger.Options, check bool) (db *badger.DB, err error) {
	if check {
		if err := checkTables(o); err != nil {
			return nil, err
		}
	}
	defer func() {
		if p := recover(); p != nil {
			db, err = nil, fmt.Errorf("%w: %v; %s", ErrDamaged, p, restoreHint)
		}
	}()
	db, err = badger.Open(o)
	if err == nil {
		return db, nil
	}
	for _, env := range []error{fs.ErrPermission, syscall.ENOSPC, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EROFS, syscall.EWOULDBLOCK} {
		if errors.Is(err, env) {
			return nil, err
		}
	}
	if strings.Contains(err.Error(), "annot acquire directory lock") {
		return nil, fmt.Errorf("%w: %w", ErrInUse, err)
	}
	return nil, fmt.Errorf("%w: %w; %s", ErrDamaged, err, restoreHint)
}

// checkTables reads every table that the MANIFEST names, to the last block.
func checkTables(o badger.Options) error {
	damaged := func(name string, err any) error {
		return fmt.Errorf("%w: %s: %v; %s", ErrDamaged, filepath.Join(o.Dir, name), err, restoreHint)
	}
	f, err := os.Open(filepath.Join(o.Dir, badger.ManifestFilename))
	if errors.Is(err, fs.ErrNotExist) {
		for _, pattern := range []string{"*.sst", "*.mem", "*.vlog"} {
			if left, _ := filepath.Glob(filepath.Join(o.Dir, pattern)); len(left) > 0 {
				return damaged(badger.ManifestFilename, "is missing")
			}
		}
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	m, _, err := badger.ReplayManifestFile(f, 0, o)
	if err != nil {
		return damaged(badger.ManifestFilename, err)
	}
	for id, tm := range m.Tables {
		name := table.NewFilename(id, o.Dir)
		if err := checkTable(name, tm, o); err != nil {
			return damaged(filepath.Base(name), err)
		}
	}
	return nil
}

func checkTable(name string, tm badger.TableManifest, o badger.Options) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("cannot be read: %.100v", p)
		}
	}()
	mf, err := z.OpenMmapFile(name, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	t, err := table.OpenTable(mf, table.Options{
		ReadOnly: true, ChkMode: options.OnTableRead, Compression: tm.Compression, BlockSize: o.BlockSize, BloomFalsePositive: o.BloomFalsePositive,
	})
	if err != nil {
		return err
	}
	return t.Close(-1)
}
