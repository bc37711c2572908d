// Command cross builds the agent for the targets named, or for all of them,
// into a directory, and prints each file's size against its budget. With -lines
// it copies what it reads, and gives stack traces of the agent's their lines.
package main

import (
	"context"
	"errors"
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
	lines := flag.Bool("lines", false, "find the lines of the stack traces in what is read, which that target's agent of this commit wrote")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: cross [-o DIR] [TARGET ...]\n       cross -lines TARGET <TRACE\ntargets:")
		for _, t := range cross.Targets {
			fmt.Fprintf(flag.CommandLine.Output(), "  %s\n", t.Name)
		}
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := func() error { return build(ctx, *out, flag.Args()) }
	if *lines {
		run = func() error { return findLines(ctx, flag.Args()) }
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "cross:", err)
		os.Exit(1)
	}
}

func findLines(ctx context.Context, names []string) error {
	if len(names) != 1 {
		return errors.New("-lines takes the one target whose agent wrote the trace: `cross -h` lists them")
	}
	t, err := find(names[0])
	if err != nil {
		return err
	}
	return t.Lines(ctx, ".", os.Stdin, os.Stdout)
}

func find(name string) (cross.Target, error) {
	t, ok := cross.Find(name)
	if !ok {
		return t, fmt.Errorf("no target %q: `cross -h` lists them", name)
	}
	return t, nil
}

func build(ctx context.Context, dir string, names []string) error {
	targets := cross.Targets
	if len(names) > 0 {
		targets = nil
		for _, n := range names {
			t, err := find(n)
			if err != nil {
				return err
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
