package session

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// signalNames are those of RFC 4254, section 6.10.
var signalNames = map[string]syscall.Signal{
	"ABRT": unix.SIGABRT, "ALRM": unix.SIGALRM, "FPE": unix.SIGFPE, "HUP": unix.SIGHUP, "ILL": unix.SIGILL, "INT": unix.SIGINT, "KILL": unix.SIGKILL,
	"PIPE": unix.SIGPIPE, "QUIT": unix.SIGQUIT, "SEGV": unix.SIGSEGV, "TERM": unix.SIGTERM, "USR1": unix.SIGUSR1, "USR2": unix.SIGUSR2,
}

func signalGroup(leader int, name string) error {
	sig, ok := signalNames[name]
	if !ok {
		return fmt.Errorf("unknown signal %q", name)
	}
	return unix.Kill(-leader, sig)
}

// signalName is the name to report; one the RFC does not have is told as OpenSSH does, with its own name at its domain.
func signalName(sig syscall.Signal) string {
	for name, s := range signalNames {
		if s == sig {
			return name
		}
	}
	return fmt.Sprintf("SIG%d@hawser", int(sig))
}
