//go:build 386 || arm

package login

import "golang.org/x/sys/unix"

// On 386 and arm the plain numbers are the calls with 16-bit ids.
const (
	sysSetgroups = unix.SYS_SETGROUPS32
	sysSetfsuid  = unix.SYS_SETFSUID32
	sysSetfsgid  = unix.SYS_SETFSGID32
)
