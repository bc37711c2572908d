package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"hawser/hub"
	"hawser/tunnel"
)

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "hawser-hub",
		Short:         "Proxy between people's SSH and devices' tunnels",
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       tunnel.Version(),
		Args:          cobra.NoArgs,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.AddCommand(runCommand(), checkCommand(), statusCommand())
	return root
}

// noArgs is cobra.NoArgs as a usage error.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return &usageError{fmt.Errorf("%s takes no argument, got %q", cmd.CommandPath(), args[0])}
	}
	return nil
}

func runCommand() *cobra.Command {
	s := new(settings)
	cmd := &cobra.Command{
		Use:   "run --data DIR [--token TOKEN] [--ssh ADDR] [--tunnel ADDR] [--public HOST]...",
		Short: "Run the hub; the first run joins with a token of `hawser token create --kind hub`",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.load(cmd.Flags())
			if err != nil {
				return &usageError{err}
			}
			c.Logger = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: s.level()}))
			h, err := hub.New(c)
			if err != nil {
				return &usageError{err}
			}
			return h.Run(cmd.Context())
		},
	}
	s.flags(cmd.Flags())
	return cmd
}

func checkCommand() *cobra.Command {
	s := new(settings)
	cmd := &cobra.Command{
		Use:   "check-config",
		Short: "Say whether run would accept the configuration, and what it comes to",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.load(cmd.Flags())
			if err != nil {
				return &usageError{err}
			}
			if err := c.Validate(); err != nil {
				return &usageError{err}
			}
			token := ""
			if c.Token != "" {
				token = "[redacted]"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "data: %q\ntoken: %q\nauth: %q\nssh: %q\ntunnel: %q\npublic: %q\n",
				c.Data, token, c.AuthAddr, c.SSHListen, c.TunnelListen, c.Public)
			return err
		},
	}
	s.flags(cmd.Flags())
	return cmd
}

func statusCommand() *cobra.Command {
	s := new(settings)
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the identity in --data, and whether a hub runs with it",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.load(cmd.Flags())
			if err != nil {
				return &usageError{err}
			}
			if c.Data == "" {
				return &usageError{errors.New("no directory given; set --data DIR")}
			}
			if _, err := os.Stat(c.Data); err != nil {
				return fmt.Errorf("read %s: %w", c.Data, err)
			}
			st, err := hub.ReadStatus(c.Data)
			if err != nil {
				return err
			}
			return printStatus(cmd.OutOrStdout(), st)
		},
	}
	s.flags(cmd.Flags())
	return cmd
}

func printStatus(w io.Writer, st hub.Status) error {
	running := "no"
	if st.Running {
		running = "yes"
	}
	_, err := fmt.Fprintf(w, "name:     %s\nuuid:     %s\ncluster:  %s\nrunning:  %s\nexpires:  %s\n",
		st.Name, st.UUID, st.Cluster, running, st.NotAfter.UTC().Format(time.RFC3339))
	return err
}
