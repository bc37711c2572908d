// Command hawser-hub is the proxy: devices' tunnels on one side, people's SSH on the other.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Exit codes, as everywhere in Hawser.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	err := command().ExecuteContext(context.Background())
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "hawser-hub:", err)
	if _, ok := errors.AsType[*usageError](err); ok {
		os.Exit(exitUsage)
	}
	os.Exit(exitFailed)
}

// usageError is what the caller of the program did wrong.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() + "; see hawser-hub --help" }
func (e *usageError) Unwrap() error { return e.err }
