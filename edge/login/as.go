package login

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// IsSelf reports whether the process already has this account's user id, so that nothing needs to change for it.
func (a Account) IsSelf() bool { return int(a.UID) == os.Geteuid() }

// As runs fn with the account's rights on files: what fn opens, makes, binds or connects to by path is judged, and owned, as if that account
// had done it, with umask 077. Only the one thread that runs fn changes (Linux keeps these ids per thread) and it ends with fn, so the rest
// of the process never sees it; fn must not hand its work to another goroutine.
//
// Signals are not affected: the thread's uid stays the agent's, so the account can not signal it.
func (a Account) As(fn func() error) error {
	if !a.IsSelf() && os.Geteuid() != 0 {
		return fmt.Errorf("%w: the agent runs as uid %d and cannot act as %s", ErrRefused, os.Geteuid(), a.Name)
	}
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the runtime ends the thread together with this goroutine.
		runtime.LockOSThread()
		done <- func() (err error) {
			defer func() {
				if p := recover(); p != nil {
					err = fmt.Errorf("as %s: %v", a.Name, p)
				}
			}()
			if err := a.enter(); err != nil {
				return fmt.Errorf("as %s: %w", a.Name, err)
			}
			return fn()
		}()
	}()
	return <-done
}

// enter changes the calling thread. The umask belongs to a thread only after it stopped sharing it.
func (a Account) enter() error {
	if err := unix.Unshare(unix.CLONE_FS); err == nil {
		unix.Umask(0o077)
	}
	if a.IsSelf() {
		return nil
	}
	groups := slices.Clone(a.Groups)
	if len(groups) == 0 {
		groups = []uint32{a.GID}
	}
	if _, _, e := unix.RawSyscall(sysSetgroups, uintptr(len(groups)), uintptr(unsafe.Pointer(&groups[0])), 0); e != 0 {
		return fmt.Errorf("setgroups: %w", e)
	}
	runtime.KeepAlive(groups)
	// setfsuid has no error: a second call with an id that is no id tells what is in force.
	unix.RawSyscall(sysSetfsgid, uintptr(a.GID), 0, 0)
	unix.RawSyscall(sysSetfsuid, uintptr(a.UID), 0, 0)
	none := ^uintptr(0)
	gid, _, _ := unix.RawSyscall(sysSetfsgid, none, 0, 0)
	uid, _, _ := unix.RawSyscall(sysSetfsuid, none, 0, 0)
	if uint32(gid) != a.GID || uint32(uid) != a.UID {
		return fmt.Errorf("setfsuid: %w", unix.EPERM)
	}
	return nil
}
