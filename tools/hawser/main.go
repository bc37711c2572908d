// Command hawser is the command line of people and operators, and, as
// `hawser up`, a whole cluster in one process.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"hawser/auth/api"
	"hawser/auth/ca"
	edge "hawser/edge/command"
	"hawser/edge/session"
)

func main() {
	if code, ok := session.RunHelper(os.Args); ok { // of a local agent
		os.Exit(code)
	}
	// `hawser up` starts its local agents from its own binary when no
	// hawser-edge lies beside it.
	if filepath.Base(os.Args[0]) == edgeProgram {
		os.Exit(edge.Main(os.Args[1:], os.Stdout, os.Stderr))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := newRoot().ExecuteContext(ctx)
	stop()
	if err != nil {
		if text := api.MessageOf(err); text != "" {
			fmt.Fprintln(os.Stderr, "hawser:", text)
		}
		if errors.Is(err, ca.ErrUnknownCA) || errors.Is(err, ca.ErrUnpinned) {
			fmt.Fprintln(os.Stderr, "if the cluster's CA was replaced: ask an admin for the pin (`hawser ca status`), then `hawser login --hub HUB --ca-pin PIN`")
		}
		os.Exit(exitCode(err))
	}
}
