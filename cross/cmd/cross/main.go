// Command cross builds the agent for the targets named, or for all of them,
// into a directory, and prints each file's size against its budget.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"hawser/cross"
)

func main() {
	out := flag.String("o", "dist", "directory for the built agents")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: cross [-o DIR] [TARGET ...]\ntargets:")
		for _, t := range cross.Targets {
			fmt.Fprintf(flag.CommandLine.Output(), "  %s\n", t.Name)
		}
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *out, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "cross:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir string, names []string) error {
	targets := cross.Targets
	if len(names) > 0 {
		targets = nil
		for _, n := range names {
			t, ok := cross.Find(n)
			if !ok {
				return fmt.Errorf("no target %q: `cross -h` lists them", n)
			}
			targets = append(targets, t)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, t := range targets {
		file := filepath.Join(dir, "hawser-edge-"+t.Name)
		if err := t.Build(ctx, ".", file); err != nil {
			return err
		}
		fi, err := os.Stat(file)
		if err != nil {
			return err
		}
		fmt.Printf("%-10s %9d bytes of %9d\n", t.Name, fi.Size(), t.Budget)
		if t.Budget > 0 && fi.Size() > t.Budget {
			return fmt.Errorf("the agent for %s is %d bytes, over its budget of %d: find what it links that it need not, or raise the budget in cross/targets.go and say why", t.Name, fi.Size(), t.Budget)
		}
	}
	return nil
}
