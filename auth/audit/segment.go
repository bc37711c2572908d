package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	logSuffix   = ".jsonl"
	indexSuffix = ".idx"
)

// segment is the file of one day. Its blocks that are closed never change; those who read take a snapshot under the log's mutex.
type segment struct {
	day    string
	first  int64 // seq of its first line; of the next one where it is empty
	n      int64 // lines
	size   int64 // bytes
	blocks []block
	open   block // the last, not closed yet
	sealed bool  // no longer written to; blocks are in the index file, not here
}

// segmentDays lists the days there are files of, oldest first.
func segmentDays(root *os.Root) ([]string, error) {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil, fmt.Errorf("list the audit log: %w", err)
	}
	var days []string
	for _, e := range entries {
		if day, ok := strings.CutSuffix(e.Name(), logSuffix); ok {
			if _, err := time.Parse(time.DateOnly, day); err == nil {
				days = append(days, day)
			}
		}
	}
	slices.Sort(days)
	return days, nil
}

// lineReader reads a file's whole lines; a line that is longer than any is an error.
type lineReader struct {
	f        io.ReaderAt
	off, end int64
	buf      []byte
	at       int
}

// next returns the next line with its newline, valid until the call after; io.EOF at the end, io.ErrUnexpectedEOF at a line without one.
func (r *lineReader) next() ([]byte, error) {
	for {
		if i := bytes.IndexByte(r.buf[r.at:], '\n'); i >= 0 {
			line := r.buf[r.at : r.at+i+1]
			r.at += i + 1
			return line, nil
		}
		rest := len(r.buf) - r.at
		switch {
		case rest > maxLine:
			return nil, ErrLine
		case r.off >= r.end && rest == 0:
			return nil, io.EOF
		case r.off >= r.end:
			return nil, io.ErrUnexpectedEOF
		}
		buf := make([]byte, rest+int(min(r.end-r.off, blockBytes)))
		copy(buf, r.buf[r.at:])
		n, err := r.f.ReadAt(buf[rest:], r.off)
		if n == 0 && err != nil {
			return nil, err
		}
		r.off += int64(n)
		r.buf, r.at = buf[:rest+n], 0
	}
}

// openSegment looks at a day's file that is no longer written to. It reads the first line only.
func openSegment(root *os.Root, day string) (*segment, error) {
	f, err := root.Open(day + logSuffix)
	if err != nil {
		return nil, fmt.Errorf("open the audit log: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open the audit log: %w", err)
	}
	s := &segment{day: day, first: -1, size: st.Size(), sealed: true}
	for r := (lineReader{f: f, end: st.Size()}); s.first < 0; {
		line, err := r.next()
		if err != nil {
			break // nothing in it can be read; verify says so
		}
		if e, err := ParseLine(line[:len(line)-1]); err == nil {
			s.first = e.Seq
		}
	}
	return s, nil
}

// scan reads what a day's file holds beyond the blocks known. Where its last line is torn, size ends before it.
func (s *segment) scan(root *os.Root) error {
	f, err := root.Open(s.day + logSuffix)
	if err != nil {
		return fmt.Errorf("open the audit log: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("open the audit log: %w", err)
	}
	*s = segment{day: s.day, first: -1, sealed: s.sealed}
	if b, err := root.ReadFile(s.day + indexSuffix); err == nil {
		s.blocks = parseIndex(b, st.Size())
	}
	if n := len(s.blocks); n > 0 {
		last := &s.blocks[n-1]
		s.first, s.size, s.n = s.blocks[0].first, last.end, last.first+last.n-s.blocks[0].first
		s.open = block{off: last.end, end: last.end}
	}
	r := lineReader{f: f, off: s.size, end: st.Size()}
	for {
		line, err := r.next()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, ErrLine) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the audit log: %w", err)
		}
		e, err := ParseLine(line[:len(line)-1])
		if err != nil {
			// A line that is none counts for nothing, and verify says so.
			s.open.end += int64(len(line))
			s.size += int64(len(line))
			continue
		}
		ev, err := e.Event()
		if err != nil {
			ev = Event{}
		}
		if s.first < 0 {
			s.first = e.Seq
		}
		s.take(&ev, e.Seq, len(line))
	}
}

// index returns all blocks of a sealed segment, from its index file, which is made anew where it is not whole.
func (s *segment) index(root *os.Root) ([]block, error) {
	if b, err := root.ReadFile(s.day + indexSuffix); err == nil {
		if bs := parseIndex(b, s.size); len(bs) > 0 && bs[len(bs)-1].end == s.size {
			return bs, nil
		}
	}
	whole := segment{day: s.day, sealed: true}
	if err := whole.scan(root); err != nil {
		return nil, err
	}
	if whole.open.n > 0 {
		whole.blocks = append(whole.blocks, whole.open)
	}
	// Where it cannot be written it is made at each search, which is slow and right.
	_ = whole.writeIndex(root)
	return whole.blocks, nil
}

// take adds a line to the segment's numbers.
func (s *segment) take(e *Event, seq int64, size int) {
	s.open.take(e, seq, size)
	s.size += int64(size)
	s.n = seq + 1 - s.first
	if s.open.full() {
		s.blocks = append(s.blocks, s.open)
		s.open = block{off: s.size, end: s.size}
	}
}

// writeIndex replaces the index file. Like all of the index it can be lost: it is made again.
func (s *segment) writeIndex(root *os.Root) error {
	var b []byte
	for i := range s.blocks {
		b = s.blocks[i].append(b)
	}
	if err := root.WriteFile(s.day+indexSuffix, b, 0o600); err != nil {
		return fmt.Errorf("write the index of the audit log: %w", err)
	}
	return nil
}

// seal closes the last block, and keeps the blocks in the index file only.
func (s *segment) seal(root *os.Root) error {
	if s.open.n > 0 {
		s.blocks = append(s.blocks, s.open)
	}
	s.sealed = true
	err := s.writeIndex(root)
	s.blocks, s.open = nil, block{}
	return err
}
