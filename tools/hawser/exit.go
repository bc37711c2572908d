package main

import (
	"context"
	"errors"
	"os/exec"

	"connectrpc.com/connect"

	"hawser/tools/hawser/profile"
)

// The exit codes that the README promises.
const (
	exitFailed   = 1
	exitUsage    = 2
	exitNotFound = 3
	exitLogin    = 4
	exitDenied   = 5
	exitOffline  = 6
	exitTimeout  = 7
	exitConflict = 8
)

// usageError is a mistake in how the command was called.
type usageError struct{ err error }

func (e usageError) Error() string {
	return e.err.Error() + "\nsee hawser --help"
}

func (e usageError) Unwrap() error { return e.err }

// offlineError says that a device cannot be reached now.
type offlineError struct{ error }

// silentError is an exit code of an answer that was printed already.
type silentError int

func (silentError) Error() string { return "" }

// exitCode maps an error to what the shell sees. The exit code of a program
// that was run for the person passes through.
func exitCode(err error) int {
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	if e, ok := errors.AsType[silentError](err); ok {
		return int(e)
	}
	if _, ok := errors.AsType[offlineError](err); ok {
		return exitOffline
	}
	if e, ok := errors.AsType[*exec.ExitError](err); ok && e.ExitCode() > 0 {
		return e.ExitCode()
	}
	if errors.Is(err, profile.ErrNone) || errors.Is(err, profile.ErrLoggedOut) {
		return exitLogin
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return exitTimeout
	}
	switch connect.CodeOf(err) {
	case connect.CodeNotFound:
		return exitNotFound
	case connect.CodeUnauthenticated:
		return exitLogin
	case connect.CodePermissionDenied:
		return exitDenied
	case connect.CodeDeadlineExceeded:
		return exitTimeout
	case connect.CodeAlreadyExists, connect.CodeAborted:
		return exitConflict
	case connect.CodeInvalidArgument:
		return exitUsage
	}
	return exitFailed
}
