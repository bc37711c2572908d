// Package pty gives a session its pseudo-terminal: opened, set to the modes the client asked for, owned by the login.
//
// Open, then Apply the modes of the pty-req, give TTY to the process and CloseTTY in this process; read and write the PTY itself.
package pty

import (
	"errors"
	"fmt"
	"os"
	"time"

	cpty "github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// ErrUnavailable: the device can give no pseudo-terminal (no /dev/ptmx, no devpts, none left). A session without one still works.
var ErrUnavailable = errors.New("this device has no pseudo-terminal to give")

// Size is a terminal's size in characters and pixels, as RFC 4254, section 6.2 has them.
type Size struct{ Columns, Rows, Width, Height uint32 }

// PTY is the master side. Its methods are safe for concurrent use. Reading gives io.EOF's cousin EIO once nobody holds the other side.
type PTY struct {
	master, tty *os.File
	raw         rawConn
}

type rawConn interface {
	Control(f func(fd uintptr)) error
}

// Open makes a pair. Every error wraps ErrUnavailable.
func Open() (*PTY, error) {
	master, tty, err := cpty.Open()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	raw, err := master.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrUnavailable, err), master.Close(), tty.Close())
	}
	return &PTY{master: master, tty: tty, raw: raw}, nil
}

// TTY is the process's side, for its standard files. Not to be used after CloseTTY.
func (p *PTY) TTY() *os.File { return p.tty }

// Name is the path of the process's side, such as /dev/pts/3.
func (p *PTY) Name() string { return p.tty.Name() }

// CloseTTY closes our copy of the process's side: the master ends when the processes' copies are closed too.
func (p *PTY) CloseTTY() error { return p.tty.Close() }

func (p *PTY) Read(b []byte) (int, error)  { return p.master.Read(b) }
func (p *PTY) Write(b []byte) (int, error) { return p.master.Write(b) }

// Close hangs the terminal up: the kernel sends HUP to its foreground group.
func (p *PTY) Close() error {
	p.tty.Close()
	return p.master.Close()
}

// control runs f on the master; on Linux the terminal calls made there act on the process's side.
func (p *PTY) control(f func(fd int) error) error {
	var err error
	if e := p.raw.Control(func(fd uintptr) { err = f(int(fd)) }); e != nil {
		return e
	}
	return err
}

// Resize sets the size; the kernel sends WINCH to the foreground group. Numbers beyond 16 bits are cut to the largest there is.
func (p *PTY) Resize(s Size) error {
	ws := unix.Winsize{Col: clip16(s.Columns), Row: clip16(s.Rows), Xpixel: clip16(s.Width), Ypixel: clip16(s.Height)}
	return p.control(func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &ws) })
}

func clip16(n uint32) uint16 { return uint16(min(n, 1<<16-1)) }

// Break sends a break, which a pseudo-terminal takes and does nothing with (as OpenSSH does it).
func (p *PTY) Break() error {
	return p.control(func(fd int) error { return unix.IoctlSetInt(fd, unix.TCSBRKP, 0) })
}

// Hold has every Write that waits for the process to read, and those to come, return os.ErrDeadlineExceeded; or no longer.
func (p *PTY) Hold(hold bool) {
	var at time.Time
	if hold {
		at = time.Unix(1, 0)
	}
	_ = p.master.SetWriteDeadline(at) // of a terminal that the runtime cannot wait for, writes do not wait for long either
}

// DiscardInput throws away what was typed and no process has read.
func (p *PTY) DiscardInput() {
	tty, err := os.OpenFile(p.tty.Name(), os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer tty.Close()
	if raw, err := tty.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.IoctlSetInt(int(fd), unix.TCFLSH, unix.TCIFLUSH) })
	}
}

// Foreground is the process group that the terminal's keys go to; 0: none, or not known.
func (p *PTY) Foreground() (group int) {
	_ = p.control(func(fd int) (err error) {
		group, err = unix.IoctlGetInt(fd, unix.TIOCGPGRP)
		return err
	})
	return group
}

// Withheld reports whether what is typed now should not be shown or kept: the terminal reads whole lines and does not echo them, which is
// how programs ask for a password. A terminal that can not be asked counts as one.
func (p *PTY) Withheld() bool {
	withheld := false
	err := p.control(func(fd int) error {
		t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err == nil {
			withheld = t.Lflag&unix.ICANON != 0 && t.Lflag&unix.ECHO == 0
		}
		return err
	})
	return err != nil || withheld
}

// Own gives the process's side to a user, mode 0620 and group tty where the device has that group, else 0600, so that write(1) and mesg(1)
// work as elsewhere. Only root can; for others devpts has made it theirs already.
func (p *PTY) Own(uid, group uint32, grouped bool) error {
	mode := os.FileMode(0o600)
	gid := -1
	if grouped {
		mode, gid = 0o620, int(group)
	}
	if err := p.tty.Chown(int(uid), gid); err != nil {
		return fmt.Errorf("own terminal: %w", err)
	}
	if err := p.tty.Chmod(mode); err != nil {
		return fmt.Errorf("own terminal: %w", err)
	}
	return nil
}
