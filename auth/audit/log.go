package audit

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"hawser/auth/loghead"
)

const (
	treeFile = "tree"
	headFile = "head"
)

// Errors of a Log.
var (
	ErrClosed = errors.New("audit log is closed")
	ErrFull   = errors.New("audit log: the disk takes no events and the queue is full")
	ErrDisk   = errors.New("audit log: the disk takes no events")
)

// Options of Open.
type Options struct {
	Cluster string
	// Signer returns the key that signs heads now, as its public half and what signs a text.
	Signer func() (ed25519.PublicKey, func(text []byte) ([]byte, error))
	Logger *slog.Logger // nil discards
	Now    func() time.Time
}

// Log is an audit log. Safe for concurrent use.
type Log struct {
	o    Options
	root *os.Root

	mu       sync.Mutex
	closed   bool
	next     *batch // what waits for the writer, nil: nothing
	queued   int    // events in next and with the writer
	bytes    int
	dropped  uint64 // since the last gap event
	failing  error  // of the last write
	taken    int64  // events handed to the log, dropped ones apart
	written  int64  // of them handed to the kernel
	synced   int64  // of them on disk
	wanted   int64  // somebody waits in Settle for so many to be synced
	changed  chan struct{}
	settled  chan struct{} // closed and replaced when synced rises or failing changes
	segments []*segment    // oldest first; the last is written to
	retired  []*os.File    // files of days that are over, to be synced and closed
	tree     *tree
	head     []byte // newest signed
	headSize int64

	f     *os.File // of the last segment; the writer's
	alarm time.Time

	wake, wakeSync chan struct{}
	stop           chan struct{}
	wg             sync.WaitGroup
	headMu         sync.Mutex // one head is made at a time
}

// batch is what one write takes.
type batch struct {
	events []encoded
	done   chan struct{} // closed when it is written
}

type encoded struct {
	event Event
	json  []byte
}

// Open opens the log in dir, which it makes where there is none, brings the tree and the events together, and starts
// what writes and syncs; Close ends it.
func Open(dir string, o Options) (*Log, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the audit log: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the audit log: %w", err)
	}
	l := &Log{
		o: o, root: root, changed: make(chan struct{}), settled: make(chan struct{}),
		wake: make(chan struct{}, 1), wakeSync: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	lost, err := l.load()
	if err != nil {
		return nil, errors.Join(err, l.release())
	}
	l.wg.Go(l.write)
	l.wg.Go(l.sync)
	if lost != "" {
		o.Logger.Error("the audit log is damaged", "detail", lost)
		_ = l.Record(Event{Time: o.Now(), Type: "audit.damage", Actor: "local", Reason: lost})
	}
	return l, nil
}

func (l *Log) release() error {
	var errs []error
	if l.f != nil {
		errs = append(errs, l.f.Close())
	}
	if l.tree != nil {
		errs = append(errs, l.tree.f.Close())
	}
	return errors.Join(append(errs, l.root.Close())...)
}

// load opens the files. The head that was kept last covers what is surely in the tree's file; what came after is made
// again from the events. Events that the head covers and the files lack are lost: the tree goes on after their leaves,
// so that every head that anyone holds stays true, and lost says which they are.
func (l *Log) load() (lost string, err error) {
	days, err := segmentDays(l.root)
	if err != nil {
		return "", err
	}
	for i, day := range days {
		s := &segment{day: day}
		if i < len(days)-1 {
			s, err = openSegment(l.root, day)
		} else {
			err = s.scan(l.root)
		}
		if err != nil {
			return "", err
		}
		l.segments = append(l.segments, s)
	}
	var head Head
	switch b, err := l.root.ReadFile(headFile); {
	case err == nil:
		if head, err = loghead.Parse(b); err != nil || head.Cluster != l.o.Cluster {
			return "", fmt.Errorf("the file audit/%s is damaged; restore a backup with `hawser-auth backup restore`, or remove it to begin again from the events that are there", headFile)
		}
		l.head, l.headSize = b, head.Size
	case !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("open the audit log: %w", err)
	}
	f, err := l.root.OpenFile(treeFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return "", fmt.Errorf("open the audit log: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		return "", errors.Join(err, f.Close())
	}
	have := leaves(st.Size())
	base := min(head.Size, have)
	if base < head.Size {
		lost = fmt.Sprintf("the tree holds %d of the %d leaves of the newest head", have, head.Size)
	} else if root, err := tlog.TreeHash(base, fileHashes(f)); l.head != nil && (err != nil || root != head.Root) {
		lost = fmt.Sprintf("the tree of %d events has not the root of the newest head", base)
	}
	if lost != "" {
		// Every leaf that the files of events still have is taken from them.
		base = 0
		if len(l.segments) > 0 {
			base = min(max(l.segments[0].first, 0), have)
		}
	}
	if l.tree, err = openTree(f, base); err != nil {
		return "", errors.Join(err, f.Close())
	}
	missing, err := l.replay(base)
	if err != nil {
		return "", err
	}
	if lost == "" && missing != "" {
		lost = missing
	}
	end := int64(0)
	if n := len(l.segments); n > 0 {
		end = max(l.segments[n-1].first, 0) + l.segments[n-1].n
	}
	if lost == "" && end < l.tree.n {
		lost = fmt.Sprintf("events %d to %d are not there", end, l.tree.n-1)
	}
	return lost, l.openDay()
}

// replay puts the leaves of the events from seq base on into the tree.
func (l *Log) replay(base int64) (missing string, err error) {
	for i, s := range l.segments {
		if i < len(l.segments)-1 && l.segments[i+1].first >= 0 && l.segments[i+1].first <= base {
			continue
		}
		err := l.eachIn(s, base, func(e Entry) error {
			if e.Seq < l.tree.n {
				return nil
			}
			for ; l.tree.n < e.Seq; missing = fmt.Sprintf("events up to %d are not there", e.Seq-1) {
				// Nothing is known of it but that it was: a leaf of zeros stands for it.
				l.tree.append([32]byte{})
			}
			l.tree.append(e.Leaf())
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	return missing, l.tree.flush()
}

// openDay opens the newest day's file for appending, cutting off a line that was torn.
func (l *Log) openDay() error {
	if len(l.segments) == 0 {
		return nil
	}
	s := l.segments[len(l.segments)-1]
	f, err := l.root.OpenFile(s.day+logSuffix, os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the audit log: %w", err)
	}
	l.f = f
	if err := f.Truncate(s.size); err != nil {
		return fmt.Errorf("open the audit log: %w", err)
	}
	if s.first < 0 {
		s.first = l.tree.n
	}
	return nil
}

// Record puts an event at the end of the log, with the current time where it has none. It returns when the kernel has
// it or after WriteWait; an error says that the event is not in the log and will not be.
func (l *Log) Record(e Event) error {
	if e.Time.IsZero() {
		e.Time = l.o.Now()
	}
	e, b, err := encode(e)
	if err != nil {
		return fmt.Errorf("encode an audit event: %w", err)
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	if l.queued >= MaxQueue || l.bytes+len(b) > MaxQueueBytes {
		l.dropped++
		l.mu.Unlock()
		return ErrFull
	}
	if l.next == nil {
		l.next = &batch{done: make(chan struct{})}
	}
	n := l.next
	n.events = append(n.events, encoded{e, b})
	l.queued++
	l.bytes += len(b)
	l.taken++
	failing := l.failing != nil
	l.mu.Unlock()
	wake(l.wake)
	if failing {
		return nil
	}
	select {
	case <-n.done:
		return nil
	default:
	}
	t := time.NewTimer(WriteWait)
	defer t.Stop()
	select {
	case <-n.done:
	case <-t.C:
	}
	return nil
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Settle returns when all events recorded before it are on disk, or with an error that says why they are not.
func (l *Log) Settle(ctx context.Context) error {
	l.mu.Lock()
	want := l.taken
	for {
		switch {
		case l.synced >= want:
			l.mu.Unlock()
			return nil
		case l.failing != nil:
			err := l.failing
			l.mu.Unlock()
			return fmt.Errorf("%w: %w", ErrDisk, err)
		}
		l.wanted = max(l.wanted, want)
		settled := l.settled
		l.mu.Unlock()
		wake(l.wakeSync)
		select {
		case <-settled:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		l.mu.Lock()
	}
}

// Changed is closed when the log has grown.
func (l *Log) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// Size is how many events the log has.
func (l *Log) Size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tree.n
}

// Close writes and syncs what is queued, as far as the disk takes it, and signs a last head. Idempotent.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		l.wg.Wait()
		return nil
	}
	l.closed = true
	l.mu.Unlock()
	close(l.stop)
	l.wg.Wait()
	var err error
	if l.failing == nil {
		_, err = l.makeHead()
	}
	return errors.Join(err, l.release())
}

// write is the goroutine that writes.
func (l *Log) write() {
	var held *batch // what could not be written yet
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	for stopping := false; ; {
		if held == nil {
			l.mu.Lock()
			held, l.next = l.next, nil
			l.mu.Unlock()
		}
		if held == nil {
			if stopping {
				return
			}
			select {
			case <-l.wake:
			case <-l.stop:
				stopping = true
			}
			continue
		}
		if err := l.put(held); err != nil {
			l.fail(err)
			if stopping {
				l.o.Logger.Error("audit events are lost", "count", l.queued, "error", err)
				return
			}
			retry.Reset(retryEvery)
			select {
			case <-retry.C:
			case <-l.stop:
				stopping = true
			}
			continue
		}
		close(held.done)
		held = nil
		wake(l.wakeSync)
	}
}

// fail notes that the disk takes nothing, and says so now and then.
func (l *Log) fail(err error) {
	l.mu.Lock()
	l.failing = err
	queued, dropped := l.queued, l.dropped
	l.settledLocked()
	l.mu.Unlock()
	if now := time.Now(); now.Sub(l.alarm) >= alarmEvery {
		l.alarm = now
		l.o.Logger.Error("the audit log cannot be written; events wait in memory", "error", err, "waiting", queued, "dropped", dropped)
	}
}

func (l *Log) settledLocked() {
	close(l.settled)
	l.settled = make(chan struct{})
}

// put writes a batch. After an error nothing of it is in the log.
func (l *Log) put(b *batch) error {
	if err := l.rotate(); err != nil {
		return err
	}
	l.mu.Lock()
	s, seq, dropped := l.segments[len(l.segments)-1], l.tree.n, l.dropped
	l.mu.Unlock()
	events := b.events
	if dropped > 0 {
		gap, j, err := encode(Event{Time: l.o.Now(), Type: "audit.gap", Actor: "local", Count: dropped, Reason: "the disk took no events and the queue was full"})
		if err != nil {
			return err
		}
		events = append([]encoded{{gap, j}}, events...)
	}
	salts := make([][saltBytes]byte, len(events))
	var buf []byte
	ends, leaves := make([]int, len(events)), make([][32]byte, len(events))
	for i := range events {
		rand.Read(salts[i][:])
		e := entryOf(seq+int64(i), events[i].json, salts[i])
		leaves[i] = e.Leaf()
		buf = append(appendLine(buf, e), '\n')
		ends[i] = len(buf)
	}
	if _, err := l.f.WriteAt(buf, s.size); err != nil {
		// What was written of it would be the beginning of the next line.
		return errors.Join(err, l.f.Truncate(s.size))
	}
	l.mu.Lock()
	start := 0
	for i := range events {
		s.take(&events[i].event, seq+int64(i), ends[i]-start)
		start = ends[i]
		l.tree.append(leaves[i])
	}
	// The tree can be made anew from the events; what a full disk refuses of it stays in memory until it fits.
	if err := l.tree.flush(); err != nil && l.failing == nil {
		l.o.Logger.Warn("the tree of the audit log is not written yet", "error", err)
	}
	l.dropped -= dropped
	l.queued -= len(b.events)
	for _, e := range b.events {
		l.bytes -= len(e.json)
	}
	l.written += int64(len(b.events))
	back := l.failing != nil
	l.failing = nil
	close(l.changed)
	l.changed = make(chan struct{})
	l.mu.Unlock()
	if back {
		l.o.Logger.Info("the audit log is written again")
	}
	return nil
}

// rotate begins a new file with the day. A clock that goes back does not go back to an older file.
func (l *Log) rotate() error {
	day := l.o.Now().UTC().Format(time.DateOnly)
	l.mu.Lock()
	var last *segment
	if len(l.segments) > 0 {
		last = l.segments[len(l.segments)-1]
	}
	n := l.tree.n
	l.mu.Unlock()
	if last != nil && day <= last.day {
		return nil
	}
	f, err := l.root.OpenFile(day+logSuffix, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s%s is there already", day, logSuffix)
	}
	if err != nil {
		return err
	}
	if err := syncDir(l.root); err != nil {
		return errors.Join(err, f.Close(), l.root.Remove(day+logSuffix))
	}
	l.mu.Lock()
	if l.f != nil {
		l.retired = append(l.retired, l.f)
	}
	l.f = f
	l.segments = append(append([]*segment(nil), l.segments...), &segment{day: day, first: n})
	var sealed segment
	if last != nil {
		sealed = *last
	}
	l.mu.Unlock()
	if last == nil {
		return nil
	}
	if err := sealed.seal(l.root); err != nil {
		l.o.Logger.Warn("a day of the audit log has no index yet", "error", err) // a search makes it
	}
	l.mu.Lock()
	l.segments[len(l.segments)-2] = &sealed
	l.mu.Unlock()
	return nil
}

func syncDir(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// sync is the goroutine that makes what is written safe from a power cut.
func (l *Log) sync() {
	t := time.NewTimer(SyncEvery)
	defer t.Stop()
	for stopping := false; !stopping; {
		select {
		case <-l.wakeSync:
		case <-l.stop:
			stopping = true
		}
		if !stopping {
			t.Reset(SyncEvery)
		}
	wait:
		for !stopping {
			l.mu.Lock()
			urgent := l.wanted > l.synced && l.written > l.synced
			l.mu.Unlock()
			if urgent {
				break
			}
			select {
			case <-t.C:
				break wait
			case <-l.wakeSync:
			case <-l.stop:
				stopping = true
			}
		}
		if stopping {
			l.stopped()
		}
		l.syncNow()
	}
}

// stopped waits until the writer has written its last.
func (l *Log) stopped() {
	for {
		l.mu.Lock()
		rest, failing, changed := l.queued, l.failing, l.settled
		next := l.changed
		l.mu.Unlock()
		if rest == 0 || failing != nil {
			return
		}
		select {
		case <-changed:
		case <-next:
		}
	}
}

func (l *Log) syncNow() {
	l.mu.Lock()
	retired, f, target := l.retired, l.f, l.written
	l.retired = nil
	if target == l.synced && len(retired) == 0 || f == nil {
		l.mu.Unlock()
		return
	}
	l.mu.Unlock()
	var errs []error
	for _, r := range retired {
		errs = append(errs, r.Sync(), r.Close())
	}
	errs = append(errs, f.Sync())
	err := errors.Join(errs...)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.synced = target
	} else if l.failing == nil {
		l.failing = err
		l.o.Logger.Error("the audit log cannot be synced", "error", err)
	}
	l.settledLocked()
}
