package main

import (
	"crypto/ed25519"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"hawser/auth"
	"hawser/auth/audit"
	"hawser/auth/loghead"
	"hawser/tunnel/wire"
)

func newVerify() *cobra.Command {
	var head string
	var keys []string
	c := &cobra.Command{
		Use:   "verify",
		Short: "Hold the data directory, or a copy, against itself and a head of the audit log that was kept elsewhere",
		Long: `Hold the data directory of a service that is stopped, or a copy of one, against itself and against a signed head of the audit log that was
kept elsewhere (hawser audit head > HEADFILE; every hub and every device keeps one too): is every event as it was written, is none missing,
is every recording there that the log knows of or was it removed by somebody, and is each the one that was recorded?

It asks nobody and wants none of the cluster's keys. What a head proves it proves for the events up to it; without one who runs the
cluster could have written the whole log anew.`,
		Args: noArgs,
	}
	addFlags(c.Flags())
	c.Flags().StringVar(&head, "head", "", "`HEADFILE` that was kept elsewhere")
	c.Flags().StringArrayVar(&keys, "key", nil, "`KEY` that signs the log's heads, as `hawser audit head --key` prints it; may be repeated")
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := load(c.Flags(), os.LookupEnv)
		if err != nil {
			return usageError{err}
		}
		var public []ed25519.PublicKey
		for _, k := range keys {
			p, err := loghead.ParseKey(k)
			if err != nil {
				return usageError{fmt.Errorf("--key: %w", err)}
			}
			public = append(public, p)
		}
		var kept *audit.Head
		if head != "" {
			b, err := os.ReadFile(head)
			if err != nil {
				return fmt.Errorf("read the head: %w", err)
			}
			h, err := loghead.Parse(b)
			if err == nil && len(public) > 0 {
				_, err = loghead.Open(b, h.Cluster, public)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", head, err)
			}
			kept = &h
		}
		rep, err := auth.VerifyData(c.Context(), cfg, public, kept)
		if err != nil {
			return err
		}
		out := c.OutOrStdout()
		a := rep.Audit
		fmt.Fprintf(out, "audit log of %s: %d events, head of %d on %s\n", wire.Quote(a.Head.Cluster, 200), a.Events, a.Head.Size, a.Head.Time.UTC().Format(time.RFC3339))
		if a.Unsigned > 0 {
			fmt.Fprintf(out, "the newest %d events are not under a head yet\n", a.Unsigned)
		}
		fmt.Fprintf(out, "recordings: %d, of them %d incomplete; %d were removed by hand, %d by retention\n", rep.Recordings, rep.Incomplete, rep.Removed, rep.Expired)
		if len(public) == 0 {
			fmt.Fprintln(out, "SIGNATURE NOT CHECKED: give --key")
		}
		if kept == nil {
			fmt.Fprintln(out, "not held against a head kept elsewhere (--head)")
		}
		faults := append(a.Faults, rep.Faults...)
		for _, f := range faults {
			fmt.Fprintln(out, "CHANGED:", wire.Quote(f, 1000))
		}
		if len(faults) > 0 {
			return fmt.Errorf("%s is not what was written: %d faults", cfg.Data, len(faults))
		}
		fmt.Fprintln(out, "verified: unchanged")
		return nil
	}
	return c
}
