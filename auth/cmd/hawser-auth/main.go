// Hawser-auth is the auth service: the cluster's certificate authority, state,
// policy and recordings.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"hawser/auth"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := execute(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// usageError is a wrong command line or configuration: exit code 2.
type usageError struct{ error }

func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:           "hawser-auth",
		Short:         "The auth service of a Hawser cluster",
		Long:          "The auth service of a Hawser cluster.\n\nA flag outweighs its variable HAWSER_NAME, that the key of the --config file, that the default.",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newInit(), newRun(stderr), newBackup(), newVerify(), newCheckConfig())
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "hawser-auth:", err)
	if _, ok := errors.AsType[usageError](err); ok {
		return 2
	}
	return 1
}

func noArgs(c *cobra.Command, args []string) error {
	if err := cobra.NoArgs(c, args); err != nil {
		return usageError{err}
	}
	return nil
}

func newInit() *cobra.Command {
	c := &cobra.Command{Use: "init", Short: "Make a new cluster: its CAs and its name, for good", Args: noArgs}
	addFlags(c.Flags())
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := load(c.Flags(), os.LookupEnv)
		if err != nil {
			return usageError{err}
		}
		return auth.Init(cfg)
	}
	return c
}

func newRun(stderr io.Writer) *cobra.Command {
	c := &cobra.Command{Use: "run", Short: "Serve, after init if that was not done", Args: noArgs}
	addFlags(c.Flags())
	admin := c.Flags().String("admin-profile", "", "make the user admin and write his `DIR`ectory of credentials, for HAWSER_HOME")
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := load(c.Flags(), os.LookupEnv)
		if err != nil {
			return usageError{err}
		}
		cfg.Logger = slog.New(slog.NewTextHandler(stderr, nil))
		done, err := auth.Initialized(cfg.Data)
		if err != nil {
			return err
		}
		if !done {
			if err := auth.Init(cfg); err != nil {
				return err
			}
		}
		s, err := auth.New(cfg)
		if err != nil {
			return err
		}
		return serve(c.Context(), s, *admin)
	}
	return c
}

func newCheckConfig() *cobra.Command {
	c := &cobra.Command{Use: "check-config", Short: "Say whether the configuration is right, and change nothing", Args: noArgs}
	addFlags(c.Flags())
	c.RunE = func(c *cobra.Command, _ []string) error {
		if _, err := load(c.Flags(), os.LookupEnv); err != nil {
			return usageError{err}
		}
		fmt.Fprintln(c.ErrOrStderr(), "the configuration is right")
		return nil
	}
	return c
}
