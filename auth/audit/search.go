package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// Query says which events are looked for; what is zero asks for nothing.
type Query struct {
	User    string // whom it concerns or who asked
	Device  string // name or UUID
	Session string // id of a session or connection, or its beginning
	Type    string // such as "session.refuse"; "session" is all that begins with "session."
	Since   time.Time
	Until   time.Time // up to and without
	From    int64     // seq of the first
	To      int64     // seq beyond the last; 0: no bound
	Newest  bool      // newest first
	Limit   int       // 0: no bound
	// Own, where not empty, is the user whose own events are all that is found.
	Own string
}

const fullID = 32 // hex digits of a session's id

func (q *Query) mayBeIn(b *block) bool {
	if !b.overlaps(q.Since, q.Until) || b.first+b.n <= q.From || q.To > 0 && b.first >= q.To {
		return false
	}
	for _, t := range [...][2]string{{termUser, q.User}, {termUser, q.Own}, {termDevice, q.Device}, {termType, q.Type}, {termSession, q.Session}} {
		if t[1] != "" && (t[0] != termSession || len(t[1]) == fullID) && !b.has(t[0], t[1]) {
			return false
		}
	}
	return true
}

// match tells whether the event is looked for.
func (q *Query) match(e *Event) bool {
	concerns := func(name string) bool { return e.User == name || e.Actor == "user:"+name }
	switch {
	case q.Own != "" && !concerns(q.Own),
		q.User != "" && !concerns(q.User),
		q.Device != "" && e.Device != q.Device && e.DeviceUUID != q.Device,
		q.Session != "" && !strings.HasPrefix(e.Session, q.Session) && !strings.HasPrefix(e.Connection, q.Session),
		q.Type != "" && e.Type != q.Type && !strings.HasPrefix(e.Type, q.Type+"."),
		!q.Since.IsZero() && e.Time.Before(q.Since), !q.Until.IsZero() && !e.Time.Before(q.Until):
		return false
	}
	return true
}

// needle is bytes that every line that matches has: most lines need not be decoded.
func (q *Query) needle() []byte {
	for _, s := range []string{q.Session, q.Device, q.User, q.Own, q.Type} {
		if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
			return []byte(s)
		}
	}
	return nil
}

// all tells whether the query looks at seqs only.
func (q *Query) all() bool {
	return q.User == "" && q.Own == "" && q.Device == "" && q.Session == "" && q.Type == "" && q.Since.IsZero() && q.Until.IsZero()
}

// Search calls f with the entries looked for, in their order or from the newest, until it returns false. It reads what
// has been written when it begins; what is written meanwhile waits for nothing of this.
func (l *Log) Search(ctx context.Context, q Query, f func(Entry) (more bool, err error)) error {
	segments := l.snapshot()
	if q.Newest {
		slices.Reverse(segments)
	}
	n := 0
	for i := range segments {
		s := &segments[i]
		more, err := l.searchIn(ctx, s, &q, func(e Entry) (bool, error) {
			more, err := f(e)
			n++
			return more && (q.Limit == 0 || n < q.Limit), err
		})
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// snapshot copies what is there now. The blocks are shared, and never change.
func (l *Log) snapshot() []segment {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]segment, len(l.segments))
	for i, s := range l.segments {
		out[i] = *s
		if s.sealed && i < len(l.segments)-1 && s.first >= 0 && l.segments[i+1].first >= 0 {
			out[i].n = l.segments[i+1].first - s.first
		}
	}
	return out
}

func (l *Log) searchIn(ctx context.Context, s *segment, q *Query, f func(Entry) (bool, error)) (more bool, err error) {
	if s.first >= 0 && (s.n > 0 && s.first+s.n <= q.From || q.To > 0 && s.first >= q.To) {
		return true, nil
	}
	blocks := s.blocks
	if s.sealed {
		if blocks, err = s.index(l.root); err != nil {
			if errors.Is(err, os.ErrNotExist) {
				return true, nil // retention removed it meanwhile
			}
			return false, err
		}
	} else if s.open.n > 0 {
		blocks = append(slices.Clip(blocks), s.open)
	}
	file, err := l.root.Open(s.day + logSuffix)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("open the audit log: %w", err)
	}
	defer file.Close()
	needle := q.needle()
	for i := range blocks {
		b := &blocks[i]
		if q.Newest {
			b = &blocks[len(blocks)-1-i]
		}
		if !q.mayBeIn(b) {
			continue
		}
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		var found []Entry
		err := lines(file, b.off, b.end, func(line []byte) error {
			if needle != nil && !bytes.Contains(line, needle) {
				return nil
			}
			e, err := ParseLine(line)
			if err != nil || e.Seq < q.From || q.To > 0 && e.Seq >= q.To {
				return nil // no line of ours; verify says so
			}
			if !q.all() {
				ev, err := e.Event()
				if err != nil || !q.match(&ev) {
					return nil
				}
			}
			found = append(found, e)
			return nil
		})
		if err != nil {
			return false, err
		}
		if q.Newest {
			slices.Reverse(found)
		}
		for _, e := range found {
			if more, err := f(e); err != nil || !more {
				return false, err
			}
		}
	}
	return true, nil
}

// lines calls f with each line between two offsets, without its newline.
func lines(file io.ReaderAt, off, end int64, f func([]byte) error) error {
	r := lineReader{f: file, off: off, end: end}
	for {
		line, err := r.next()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, ErrLine) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the audit log: %w", err)
		}
		if err := f(line[:len(line)-1]); err != nil {
			return err
		}
	}
}

// eachIn calls f with each entry of a segment from seq from on, before the log is open.
func (l *Log) eachIn(s *segment, from int64, f func(Entry) error) error {
	file, err := l.root.Open(s.day + logSuffix)
	if err != nil {
		return fmt.Errorf("open the audit log: %w", err)
	}
	defer file.Close()
	var off int64
	blocks := s.blocks
	if s.sealed {
		if blocks, err = s.index(l.root); err != nil {
			return err
		}
	}
	for i := range blocks {
		if blocks[i].first <= from {
			off = blocks[i].off
		}
	}
	return lines(file, off, s.size, func(line []byte) error {
		if e, err := ParseLine(line); err == nil && e.Seq >= from {
			return f(e)
		}
		return nil
	})
}

// Expire removes the days that ended longer than retain ago, and returns the last event that is gone, -1 where nothing
// was removed. Their leaves stay in the tree.
func (l *Log) Expire(retain time.Duration) (until int64, err error) {
	until = -1
	oldest := l.o.Now().Add(-retain).UTC().Format(time.DateOnly)
	for {
		l.mu.Lock()
		if len(l.segments) < 2 || l.segments[0].day >= oldest {
			l.mu.Unlock()
			return until, nil
		}
		s, next := l.segments[0], l.segments[1].first
		l.segments = slices.Clone(l.segments[1:])
		l.mu.Unlock()
		if err := l.root.Remove(s.day + logSuffix); err != nil {
			return until, fmt.Errorf("remove a day of the audit log: %w", err)
		}
		if err := l.root.Remove(s.day + indexSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return until, fmt.Errorf("remove a day of the audit log: %w", err)
		}
		until = next - 1
	}
}

// What says which events Expire removed: VerifyDir takes it for their excuse.
const (
	expiry       = "audit.expire"
	expiryReason = "events up to %d are older than "
)

// Expired is the event to record after Expire.
func Expired(until int64, retain time.Duration) Event {
	return Event{Type: expiry, Actor: "local", Reason: fmt.Sprintf(expiryReason, until) + retain.String()}
}

// expiredUntil is the last event that e says is gone, -1 where it says nothing of the kind.
func expiredUntil(e Event) int64 {
	var until int64
	if n, _ := fmt.Sscanf(e.Reason, expiryReason, &until); e.Type != expiry || n != 1 {
		return -1
	}
	return until
}
