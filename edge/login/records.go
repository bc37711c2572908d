package login

import (
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Types of a record, utmp(5).
const (
	userProcess = 7
	deadProcess = 8
)

// layout is where glibc's struct utmp and struct lastlog differ between machines: most keep 32-bit times for the sake of 32-bit programs.
type layout struct {
	size, session, time, addr int
	wide                      bool // times and session are 64 bits
	lastlog                   int
}

var (
	narrow = layout{size: 384, session: 336, time: 340, addr: 348, lastlog: 292}
	wide   = layout{size: 400, session: 336, time: 344, addr: 360, wide: true, lastlog: 296}
)

func native() layout {
	if runtime.GOARCH == "arm64" {
		return wide
	}
	return narrow
}

// record is what we put into one struct utmp.
type record struct {
	kind     int16
	pid      int32
	line, id string
	user     string
	host     string
	addr     netip.Addr
	at       time.Time
}

// encode lays the record out as glibc does, in the machine's byte order.
func (l layout) encode(r record) []byte {
	b := make([]byte, l.size)
	o := binary.NativeEndian
	o.PutUint16(b[0:], uint16(r.kind))
	o.PutUint32(b[4:], uint32(r.pid))
	copy(b[8:40], r.line)
	copy(b[40:44], r.id)
	copy(b[44:76], r.user)
	copy(b[76:332], r.host)
	if l.wide {
		o.PutUint64(b[l.session:], uint64(r.pid))
		o.PutUint64(b[l.time:], uint64(r.at.Unix()))
		o.PutUint64(b[l.time+8:], uint64(r.at.Nanosecond()/1000))
	} else {
		o.PutUint32(b[l.session:], uint32(r.pid))
		o.PutUint32(b[l.time:], uint32(r.at.Unix()))
		o.PutUint32(b[l.time+4:], uint32(r.at.Nanosecond()/1000))
	}
	switch a := r.addr.Unmap(); {
	case a.Is4():
		x := a.As4()
		copy(b[l.addr:], x[:])
	case a.Is6():
		x := a.As16()
		copy(b[l.addr:], x[:])
	}
	return b
}

// Entry is one login on a terminal as it stands in utmp and wtmp.
type Entry struct {
	system System
	record record
}

// Begin notes that the account logged in on tty (such as /dev/pts/3), where the device keeps such notes: files that do not exist are not
// made, and failures are not told, for a full or read-only disk is no reason to refuse a session.
func (s System) Begin(a Account, pid int, tty string, client netip.Addr) *Entry {
	line := strings.TrimPrefix(tty, "/dev/")
	id := line
	if len(id) > 4 {
		id = strings.TrimPrefix(id, "pts")
		id = id[max(0, len(id)-4):]
	}
	host := ""
	if client.IsValid() {
		host = client.Unmap().String()
	}
	e := &Entry{s, record{userProcess, int32(pid), line, id, a.Name, host, client, time.Now()}}
	e.write()
	s.noteLastLogin(a, e.record)
	return e
}

// End notes the logout.
func (e *Entry) End() {
	e.record.kind, e.record.at = deadProcess, time.Now()
	e.record.user, e.record.host, e.record.addr = "", "", netip.Addr{}
	e.write()
}

func (e *Entry) write() {
	b := native().encode(e.record)
	_ = putUtmp(e.system.path("/var/run/utmp"), b)
	_ = locked(e.system.path("/var/log/wtmp"), os.O_WRONLY|os.O_APPEND, func(f *os.File) error {
		_, err := f.Write(b)
		return err
	})
}

// putUtmp replaces the record with the same id, or adds one.
func putUtmp(path string, rec []byte) error {
	return locked(path, os.O_RDWR, func(f *os.File) error {
		have := make([]byte, len(rec))
		for off := int64(0); ; off += int64(len(rec)) {
			_, err := f.ReadAt(have, off)
			if err == nil && string(have[40:44]) != string(rec[40:44]) {
				continue
			}
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			_, err = f.WriteAt(rec, off)
			return err
		}
	})
}

func (s System) noteLastLogin(a Account, r record) {
	l := native()
	b := make([]byte, l.lastlog)
	n := 4
	if l.wide {
		n = 8
		binary.NativeEndian.PutUint64(b, uint64(r.at.Unix()))
	} else {
		binary.NativeEndian.PutUint32(b, uint32(r.at.Unix()))
	}
	copy(b[n:n+32], r.line)
	copy(b[n+32:n+32+256], r.host)
	_ = locked(s.path("/var/log/lastlog"), os.O_WRONLY, func(f *os.File) error {
		_, err := f.WriteAt(b, int64(a.UID)*int64(len(b)))
		return err
	})
}

// locked opens a file that exists and holds the lock glibc takes.
func locked(path string, flags int, do func(*os.File) error) error {
	f, err := os.OpenFile(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_SETLKW, &lock); err != nil {
		return err
	}
	return do(f)
}
