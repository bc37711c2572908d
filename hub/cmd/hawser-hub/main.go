// Command hawser-hub is the proxy: devices' tunnels on one side, people's SSH on the other.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// Exit codes, as everywhere in Hawser.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd := command()
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "hawser-hub:", err)
	stop()
	if _, ok := errors.AsType[*usageError](err); ok {
		os.Exit(exitUsage)
	}
	os.Exit(exitFailed)
}

// usageError is what the caller of the program did wrong.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() + "; see hawser-hub --help" }
func (e *usageError) Unwrap() error { return e.err }
