package store

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sys/unix"
)

// Options of OpenState and OpenRecordings.
type Options struct {
	Logger *slog.Logger // nil discards
	// MinFree is the free disk space in bytes below which writes are refused with ErrNoSpace; 0 is 160 MiB, for recordings 256 MiB.
	MinFree uint64
	// Free tells the free space of the directory's file system; nil asks the system.
	Free func(dir string) (uint64, error)
	// OpenWeeks is how many weeks of recordings stay open while nobody reads them, at about 11 MB each; 0 is by the machine's memory. State
	// does not use it.
	OpenWeeks int
	// Keep is how many revisions a watch may go back; 0 is 20,000. Recordings do not use it.
	Keep uint64
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MinFree == 0 {
		o.MinFree = minFree
	}
	if o.Free == nil {
		o.Free = freeSpace
	}
	if o.Keep == 0 {
		o.Keep = keptRevisions
	}
	return o
}

// withRecordingDefaults is withDefaults for recordings: they must leave room for what the service cannot do without.
func (o Options) withRecordingDefaults() Options {
	if o.MinFree == 0 {
		o.MinFree = minFreeRecordings
	}
	if o.OpenWeeks == 0 {
		o.OpenWeeks = openWeeks()
	}
	return o.withDefaults()
}

// openWeeks is how many weeks fit into a sixteenth of the machine's memory.
func openWeeks() int {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return minOpenWeeks
	}
	const week = 11 << 20
	return min(max(int(uint64(info.Totalram)*uint64(info.Unit)/16/week), minOpenWeeks), maxOpenWeeks)
}

// checkSpace refuses when less than least bytes are free.
func (o Options) checkSpace(dir string, least uint64) error {
	free, err := o.Free(dir)
	if err != nil {
		return fmt.Errorf("free space of %s: %w", dir, err)
	}
	if free < least {
		return fmt.Errorf("%w: %d MiB free in %s, %d MiB wanted; free some or grow the disk", ErrNoSpace, free>>20, dir, least>>20)
	}
	return nil
}

func freeSpace(dir string) (uint64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return s.Bavail * uint64(s.Bsize), nil
}

// badgerOptions are tuned for a machine of 512 MB: 95 MB of memory at most under load, 15 MB idle.
func badgerOptions(dir string, log *slog.Logger, failed func(string)) badger.Options {
	return badger.DefaultOptions(dir).
		WithSyncWrites(true).
		WithMemTableSize(8 << 20).WithNumMemtables(2).
		WithNumLevelZeroTables(2).WithNumLevelZeroTablesStall(4).
		WithBlockCacheSize(8 << 20).WithIndexCacheSize(8 << 20).
		WithNumCompactors(2).WithNumGoroutines(2).
		WithValueLogFileSize(64 << 20).
		WithMetricsEnabled(false).
		WithDetectConflicts(false). // one committer checks preconditions itself
		WithLogger(badgerLog{log, failed})
}

// badgerLog passes on Badger's warnings and errors. Badger only logs a failed sync of its value log and
// acknowledges the commit all the same; failed is called for that.
type badgerLog struct {
	log    *slog.Logger
	failed func(string)
}

func (l badgerLog) Errorf(format string, args ...any) {
	text := strings.TrimSpace(fmt.Sprintf(format, args...))
	l.log.LogAttrs(context.Background(), slog.LevelError, "badger", slog.String("text", text))
	if strings.Contains(format, "sync") {
		l.failed(text)
	}
}

func (l badgerLog) Warningf(format string, args ...any) {
	l.log.LogAttrs(context.Background(), slog.LevelWarn, "badger", slog.String("text", strings.TrimSpace(fmt.Sprintf(format, args...))))
}

func (badgerLog) Infof(string, ...any)  {}
func (badgerLog) Debugf(string, ...any) {}
