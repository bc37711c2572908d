package audit

import (
	"bufio"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/mod/sumdb/tlog"

	"hawser/auth/loghead"
)

// VerifyDir holds the files of a log that nobody writes to against their own head and, where there is one, a head that was kept elsewhere. It
// changes nothing. fn, where it is not nil, is given every entry. An error says that the directory cannot be judged at all; what is wrong
// is in the report.
//
// Leaves whose events retention removed are only in the tree: that they were not changed the roots show, and that an event says they expired
// is looked for.
func VerifyDir(dir string, keys []ed25519.PublicKey, kept *Head, fn func(Entry) error) (Report, error) {
	rep := Report{First: -1, Last: -1}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return rep, fmt.Errorf("open the audit log: %w", err)
	}
	defer root.Close()
	signed, err := root.ReadFile(headFile)
	if errors.Is(err, fs.ErrNotExist) {
		return rep, fmt.Errorf("%s holds no signed head: it is no audit log, or its head was removed", dir)
	}
	if err != nil {
		return rep, err
	}
	if rep.Head, err = loghead.Parse(signed); err != nil {
		return rep, fmt.Errorf("%s: %w", headFile, err)
	}
	if len(keys) > 0 {
		_, err := loghead.Open(signed, rep.Head.Cluster, keys)
		if rep.Signed = err == nil; !rep.Signed {
			rep.fault("the head is not signed by this cluster's key")
		}
	}
	f, err := root.Open(treeFile)
	if err != nil {
		return rep, fmt.Errorf("open the tree: %w", err)
	}
	defer f.Close()
	d := &dirCheck{rep: &rep, f: f, fn: fn}
	if d.inTree, err = d.roots(kept); err != nil {
		return rep, err
	}
	if err := d.events(root); err != nil {
		return rep, err
	}
	return rep, nil
}

// dirCheck is one VerifyDir.
type dirCheck struct {
	rep    *Report
	f      *os.File
	fn     func(Entry) error
	inTree int64 // leaves in the tree's file
	// expired is the seq up to which events say that they have expired, -1: none.
	expired int64
}

// roots computes the roots anew from the leaves in the tree's file.
func (d *dirCheck) roots(kept *Head) (int64, error) {
	rep := d.rep
	st, err := d.f.Stat()
	if err != nil {
		return 0, err
	}
	have := leaves(st.Size())
	if have < rep.Head.Size {
		rep.fault("the tree holds %d leaves, the head covers %d: the log was cut off", have, rep.Head.Size)
	}
	if kept != nil {
		switch {
		case kept.Cluster != rep.Head.Cluster:
			rep.fault("the head kept is of the cluster %q, the log of %q", kept.Cluster, rep.Head.Cluster)
			kept = nil
		case kept.Size > rep.Head.Size:
			rep.fault("the head kept has %d events, the log %d: it was cut off", kept.Size, rep.Head.Size)
			kept = nil
		}
	}
	t := &tree{}
	read := io.NewSectionReader(d.f, 0, st.Size())
	buf := make([]byte, 0, 1<<16)
	at, wrong := int64(0), false
	for t.n < have {
		// A leaf is followed by the hashes of the subtrees that it completes.
		want := int(tlog.StoredHashCount(t.n+1)-at) * hashSize
		if buf, err = fillTo(read, buf, want); err != nil {
			return 0, fmt.Errorf("read the tree: %w", err)
		}
		t.tail = t.tail[:0]
		t.appendHash(tlog.Hash(buf[:hashSize]))
		if !wrong && string(t.tail) != string(buf[:want]) {
			wrong = true
			rep.fault("the tree is not that of its own leaves, from event %d on", t.n-1)
		}
		at += int64(want / hashSize)
		buf = buf[:copy(buf, buf[want:])]
		if t.n == rep.Head.Size && t.root() != rep.Head.Root {
			rep.fault("the tree has not the root of the head: the log was rewritten")
		}
		if kept != nil && t.n == kept.Size && t.root() != kept.Root {
			rep.fault("the first %d events are not those of the head kept: the log was rewritten", kept.Size)
		}
	}
	return have, nil
}

// fillTo reads on until buf has n bytes.
func fillTo(r io.Reader, buf []byte, n int) ([]byte, error) {
	for len(buf) < n {
		if cap(buf) < max(n, len(buf)+1) {
			buf = append(make([]byte, 0, 2*n), buf...)
		}
		k, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+k]
		if err != nil && len(buf) < n {
			return buf, err
		}
	}
	return buf, nil
}

// events holds every event against its leaf.
func (d *dirCheck) events(root *os.Root) error {
	rep := d.rep
	days, err := segmentDays(root)
	if err != nil {
		return err
	}
	d.expired = -1
	next := int64(-1) // seq wanted
	hashes := fileHashes(d.f)
	for _, day := range days {
		err := d.day(root, day, func(e Entry) error {
			switch {
			case next < 0:
				rep.First = e.Seq
			case e.Seq < next:
				rep.fault("event %d stands after event %d: lines were reordered or repeated", e.Seq, next-1)
				return nil
			case e.Seq > next:
				rep.fault("events %d to %d are missing", next, e.Seq-1)
			}
			next = e.Seq + 1
			rep.Last = e.Seq
			rep.Events++
			if e.Seq >= d.inTree {
				return nil // below
			}
			leaf := e.Leaf()
			have, err := hashes([]int64{tlog.StoredHashIndex(0, e.Seq)})
			if err != nil {
				return err
			}
			if have[0] != tlog.RecordHash(leaf[:]) {
				rep.fault("event %d was changed", e.Seq)
			}
			if ev, err := e.Event(); err == nil {
				d.expired = max(d.expired, expiredUntil(ev))
			}
			if d.fn != nil {
				return d.fn(e)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if end := max(next, 0); end < rep.Head.Size {
		rep.fault("events %d to %d are missing at the end", end, rep.Head.Size-1)
	}
	if rep.First > 0 && d.expired < rep.First-1 {
		rep.fault("events %d to %d are missing, and no event says that they expired", max(d.expired+1, 0), rep.First-1)
	}
	if rep.Last >= rep.Head.Size {
		rep.Unsigned = rep.Last - rep.Head.Size + 1
	}
	return nil
}

// day calls f with each event of a day's file, and notes what in it is none.
func (d *dirCheck) day(root *os.Root, day string, f func(Entry) error) error {
	file, err := root.Open(day + logSuffix)
	if err != nil {
		return err
	}
	defer file.Close()
	in := bufio.NewReaderSize(file, 1<<18)
	for n := 1; ; n++ {
		line, err := readLine(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s%s line %d: %w", day, logSuffix, n, err)
		}
		e, err := ParseLine(line)
		if err != nil {
			d.rep.fault("%s%s line %d is no event", day, logSuffix, n)
			continue
		}
		if err := f(e); err != nil {
			return err
		}
	}
}
