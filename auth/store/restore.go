package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// RestoreState makes a state in dir, which must be empty or absent, of the records that next returns until it says false. All are as if
// written by one transaction of revision rev; leases are not restored, nor what hung on them. After an error dir is unusable.
func RestoreState(dir string, o Options, rev uint64, next func() (KV, bool, error)) (err error) {
	o = o.withDefaults()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
		return errors.Join(err, fmt.Errorf("%s is not empty", dir))
	}
	if err := o.checkSpace(dir, o.MinFree); err != nil {
		return err
	}
	high, err := openHighWater(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, high.close()) }()
	db, err := openBadger(badgerOptions(filepath.Join(dir, "db"), o.Logger, func(string) {}))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	t := db.NewTransaction(true)
	defer func() { t.Discard() }()
	size := 0
	var sum digest
	for {
		kv, more, err := next()
		if err != nil {
			return err
		}
		if !more {
			break
		}
		if kv.Lease != 0 {
			continue
		}
		if kv.Key == "" || len(kv.Key) > MaxKey || len(kv.Value) > MaxValue {
			return fmt.Errorf("%w: key of %d bytes, value of %d", ErrTooLarge, len(kv.Key), len(kv.Value))
		}
		kv.CreateRev, kv.ModRev = rev, rev
		key, record := append([]byte(prefixData), kv.Key...), encodeRecord(kv)
		if err := t.Set(key, record); err != nil {
			return err
		}
		sum.add(kv.Key, record)
		if size += len(key) + len(record); size < maxTxn {
			continue
		}
		if err := o.checkSpace(dir, o.MinFree); err != nil {
			return err
		}
		if err := t.Commit(); err != nil {
			return err
		}
		t, size = db.NewTransaction(true), 0
	}
	// The revision comes last: without it the directory does not open as a state.
	at := binary.BigEndian.AppendUint64(nil, rev)
	for key, v := range map[string][]byte{string(keyHead): at, string(keyFloor): at, string(keyDigest): sum.encode()} {
		if err := t.Set([]byte(key), v); err != nil {
			return err
		}
	}
	if err := t.Commit(); err != nil {
		return err
	}
	if err := high.set(rev); err != nil {
		return err
	}
	return high.sync()
}

// Maintain gives space back: it merges the tables and collects what the value log holds in vain. Reads and writes go on meanwhile.
// It does nothing while space is short, for it needs some itself.
func (s *BadgerState) Maintain() error {
	s.mu.Lock()
	if s.closed || s.failed != nil {
		defer s.mu.Unlock()
		return errors.Join(s.failed, ErrClosed)
	}
	s.active.Add(1)
	s.mu.Unlock()
	defer s.active.Done()
	return maintain(s.db, s.o, s.dir)
}

func maintain(db *badger.DB, o Options, dir string) error {
	if err := o.checkSpace(dir, 2*o.MinFree); err != nil {
		return err
	}
	began := time.Now()
	before, _ := db.Size()
	if err := db.Flatten(1); err != nil {
		return fmt.Errorf("flatten: %w", err)
	}
	for range maxCollections {
		err := db.RunValueLogGC(0.5)
		if errors.Is(err, badger.ErrNoRewrite) || errors.Is(err, badger.ErrRejected) {
			break
		}
		if err != nil {
			return fmt.Errorf("collect the value log: %w", err)
		}
	}
	after, _ := db.Size()
	o.Logger.Info("store maintained", "dir", dir, "before_bytes", before, "after_bytes", after, "took", time.Since(began))
	return nil
}
