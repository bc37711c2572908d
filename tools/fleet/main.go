// Command fleet is Hawser's load generator: thousands of real agents in one process, each with its own identity, its own
// tunnels and the agent's own manners (jitter, back-off, heartbeats), and a count of what they do.
//
//	fleet run --dir DIR --token TOKEN --devices 2000 > events.jsonl
//	fleet report events.jsonl
//
// run joins what has not joined yet, writes one line for each tunnel that comes or goes, and stops at SIGTERM. report says how
// registrations are spread over time, from a moment on.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{Use: "fleet", Short: "Simulate a fleet of devices", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(runCommand(), reportCommand())
	if err := root.ExecuteContext(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}
