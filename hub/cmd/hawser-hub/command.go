package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"hawser/auth/loghead"
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
	root.AddCommand(runCommand(), checkCommand(), statusCommand(), drainCommand(), acceptLogCommand())
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
		Long: `Run the hub; the first run joins with a token of "hawser token create --kind hub".

SIGTERM and "hawser-hub drain" end it in good order: devices are told to register at another hub and their streams follow, people are
told, and it exits 0 when nobody is left or --drain-timeout is over. A second signal ends it at once.`,
		Args: noArgs,
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
			ctx, cancel := context.WithCancel(cmd.Context())
			defer cancel()
			signals := make(chan os.Signal, 2)
			signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
			defer signal.Stop(signals)
			done := make(chan struct{})
			var wg sync.WaitGroup
			defer wg.Wait()
			defer close(done)
			wg.Go(func() {
				for _, end := range []func(){h.Drain, cancel} {
					select {
					case <-signals:
						end()
					case <-done:
						return
					}
				}
			})
			return h.Run(ctx)
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
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "data: %q\ntoken: %q\nauth: %q\nssh: %q\ntunnel: %q\nzone: %q\npublic: %q\n"+
				"public-ssh: %q\nproxy-from: %q\ndrain-timeout: %s\nadmit-rate: %d\nspool-size: %d\nlink-notice: %t\n",
				c.Data, token, c.AuthAddr, c.SSHListen, c.TunnelListen, c.Zone, c.Public, c.PublicSSH, s.ProxyFrom, c.DrainTimeout, c.AdmitRate, c.SpoolSize>>20, !c.NoLinkNotice)
			return err
		},
	}
	s.flags(cmd.Flags())
	return cmd
}

// dataOf is the state directory of a command about a running hub.
func dataOf(cmd *cobra.Command, s *settings) (string, error) {
	c, err := s.load(cmd.Flags())
	if err != nil {
		return "", &usageError{err}
	}
	if c.Data == "" {
		return "", &usageError{errors.New("no directory given; set --data DIR")}
	}
	if _, err := os.Stat(c.Data); err != nil {
		return "", fmt.Errorf("read %s: %w", c.Data, err)
	}
	return c.Data, nil
}

func drainCommand() *cobra.Command {
	s := new(settings)
	cmd := &cobra.Command{
		Use:   "drain --data DIR",
		Short: "End the running hub in good order, and wait for that",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			data, err := dataOf(cmd, s)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return hub.DrainRunning(ctx, data)
		},
	}
	s.flags(cmd.Flags())
	return cmd
}

func acceptLogCommand() *cobra.Command {
	s := new(settings)
	cmd := &cobra.Command{
		Use:   "accept-log --data DIR",
		Short: "Take the next head of the audit log whatever it says: after auth was restored from a backup",
		Long: `Take the next head of the audit log whatever it says.

A hub keeps the newest head of the audit log and raises an alarm where the log no longer continues it. A restored backup does not: it lacks what
was recorded since. Keep the head this prints; with it "hawser audit verify --head" shows to an auditor what the log was.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			data, err := dataOf(cmd, s)
			if err != nil {
				return err
			}
			st, err := hub.ReadStatus(data)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprint(cmd.OutOrStdout(), st.LogHead); err != nil {
				return err
			}
			return hub.AcceptLog(data)
		},
	}
	s.flags(cmd.Flags())
	return cmd
}

func statusCommand() *cobra.Command {
	s := new(settings)
	output := "text"
	cmd := &cobra.Command{
		Use:   "status --data DIR",
		Short: "Show the identity in --data, and what the hub that runs with it is doing",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return &usageError{fmt.Errorf("-o %q: text or json", output)}
			}
			data, err := dataOf(cmd, s)
			if err != nil {
				return err
			}
			st, err := hub.ReadStatus(data)
			if err != nil {
				return err
			}
			if output == "json" {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(st)
			}
			return printStatus(cmd.OutOrStdout(), st)
		},
	}
	s.flags(cmd.Flags())
	cmd.Flags().StringVarP(&output, "output", "o", output, "text or json")
	return cmd
}

func printStatus(w io.Writer, st hub.Status) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(key, format string, args ...any) { fmt.Fprintf(t, key+":\t"+format+"\n", args...) }
	line("name", "%s", st.Name)
	line("uuid", "%s", st.UUID)
	line("cluster", "%s", st.Cluster)
	running := "no"
	if st.Running {
		running = "yes"
	}
	line("running", "%s", running)
	line("expires", "%s", st.NotAfter.UTC().Format(time.RFC3339))
	if h, err := loghead.Parse([]byte(st.LogHead)); err == nil {
		line("audit log", "%d events on %s, root %s", h.Size, h.Time.UTC().Format(time.RFC3339), h.Root)
	}
	if st.Live != nil && st.Live.LogAlarm != "" {
		line("AUDIT LOG", "%s; where auth was restored from a backup, hawser-hub accept-log ends this", st.Live.LogAlarm)
	}
	if l := st.Live; l != nil {
		line("version", "%s", l.Version)
		line("up", "%s", time.Since(l.Started).Round(time.Second))
		if l.Zone != "" {
			line("zone", "%s", l.Zone)
		}
		line("ssh", "%s", strings.Join(l.SSH, " "))
		line("tunnel", "%s", strings.Join(l.Tunnel, " "))
		auth := "reached"
		if !l.AuthSynced {
			auth = "not reached since the start"
		}
		line("auth", "%s", auth)
		n := l.Tunnels
		line("tunnels", "%d active, %d standby (%d quic, %d tls of which %d parked), %d silent, %d streams",
			n.Active, n.Standby, n.QUIC, n.TLS, n.Parked, n.Silent, n.Streams)
		line("people", "%d connections, %d sessions", l.Connections, l.Sessions)
		line("passed to auth", "%d connections", l.Passed)
		line("recordings", "%d not closed, %d wait for auth, %d bytes spooled", l.Spool.Recordings, l.Spool.Waiting, l.Spool.Bytes)
		if l.Spool.Refused > 0 {
			line("RECORDINGS KEPT", "%d that auth does not take, as .refused in the spool; remove the files when they are looked into", l.Spool.Refused)
		}
		line("refused handshakes", "%d", l.Refused)
		for _, c := range l.Broken {
			line("broken rules", "%d times: %s", c.Times, c.Cause)
		}
		for _, x := range l.Hubs {
			zone := ""
			if x.Zone != "" {
				zone = ", zone " + x.Zone
			}
			line("hub "+x.Name, "%s%s", x.State, zone)
		}
		if l.Drain != nil {
			line("draining", "until %s", l.Drain.Deadline.UTC().Format(time.RFC3339))
		}
	}
	return t.Flush()
}
