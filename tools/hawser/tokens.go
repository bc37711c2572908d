package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hawser/auth/api"
	"hawser/auth/api/apiconnect"
)

func newToken() *cobra.Command {
	return group("token", "Join tokens for edges and hubs", newTokenCreate(), newTokenList(), newTokenRemove())
}

func newTokenCreate() *cobra.Command {
	var (
		kind     string
		uses     uint32
		ttl      time.Duration
		labelled []string
	)
	c := &cobra.Command{
		Use:   "create --kind edge|hub",
		Short: "Print a new token: cluster, addresses, CA pin and secret in one string",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if kind != "edge" && kind != "hub" {
				return usageError{fmt.Errorf("--kind is %q: edge or hub", kind)}
			}
			if ttl < time.Second {
				return usageError{fmt.Errorf("--ttl %v: at least 1s", ttl)}
			}
			if uses == 0 {
				return usageError{fmt.Errorf("--uses 0: at least 1")}
			}
			req := &api.CreateTokenRequest{Kind: kind, Uses: uses, TtlSeconds: uint64(ttl / time.Second)}
			for _, l := range labelled {
				k, v, ok := strings.Cut(l, "=")
				if !ok || k == "" {
					return usageError{fmt.Errorf("--label %q: want key=value", l)}
				}
				req.Labels = append(req.Labels, &api.Label{Key: k, Value: v})
			}
			res, err := call(c.Context(), apiconnect.AdminServiceClient.CreateToken, req)
			if err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), res.Token)
			fmt.Fprintf(c.ErrOrStderr(), "token %s for %d %s, until %s; it is not shown again\n", res.Id, uses, kind, when(res.ExpiresUnix))
			return nil
		},
	}
	c.Flags().StringVar(&kind, "kind", "", "what may join with it: edge or hub")
	c.Flags().Uint32Var(&uses, "uses", 1, "how many may join with it")
	c.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long it is valid")
	c.Flags().StringArrayVar(&labelled, "label", nil, "label of what joins, key=value")
	return c
}

func newTokenList() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "Join tokens, spent ones until they expire",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			res, err := call(c.Context(), apiconnect.AdminServiceClient.ListTokens, &api.ListTokensRequest{})
			if err != nil {
				return err
			}
			var rows [][]string
			for _, t := range res.Tokens {
				rows = append(rows, []string{t.Id, t.Kind, fmt.Sprintf("%d of %d", t.Left, t.Uses), when(t.ExpiresUnix), labels(t.Labels), t.CreatedBy})
			}
			return table(c.OutOrStdout(), []string{"ID", "KIND", "LEFT", "UNTIL", "LABELS", "BY"}, rows)
		},
	}
}

func newTokenRemove() *cobra.Command {
	return &cobra.Command{
		Use:   "rm ID",
		Short: "Void a token",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			_, err := call(c.Context(), apiconnect.AdminServiceClient.RemoveToken, &api.RemoveTokenRequest{Id: args[0]})
			return err
		},
	}
}
