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
		pattern  string
		sources  []string
		approve  bool
		factory  bool
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
			if factory {
				for _, f := range []string{"uses", "ttl", "label", "name", "from", "approve"} {
					if c.Flags().Changed(f) {
						return usageError{fmt.Errorf("--%s means nothing with --factory: the string is no right; say it in the file of `hawser device import`", f)}
					}
				}
				res, err := call(c.Context(), apiconnect.AdminServiceClient.CreateToken, &api.CreateTokenRequest{Kind: kind, Factory: true})
				if err != nil {
					return err
				}
				fmt.Fprintln(c.OutOrStdout(), res.Token)
				fmt.Fprintln(c.ErrOrStderr(), "no secret: devices join with it whose keys were imported with `hawser device import`")
				return nil
			}
			req := &api.CreateTokenRequest{Kind: kind, Uses: uses, TtlSeconds: uint64(ttl / time.Second), Name: pattern, Sources: sources, Approve: approve}
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
			waits := ""
			if approve {
				waits = ", who wait for `hawser device approve`"
			}
			fmt.Fprintf(c.ErrOrStderr(), "token %s for %d %s%s, until %s; it is not shown again\n", res.Id, uses, kind, waits, when(res.ExpiresUnix))
			return nil
		},
	}
	c.Flags().StringVar(&kind, "kind", "", "what may join with it: edge or hub")
	c.Flags().Uint32Var(&uses, "uses", 1, "how many may join with it")
	c.Flags().DurationVar(&ttl, "ttl", time.Hour, "how long it is valid")
	c.Flags().StringArrayVar(&labelled, "label", nil, "label of what joins, key=value")
	c.Flags().StringVar(&pattern, "name", "", "the names of what joins: a glob the wished name must match (gw-*), or a template that makes it "+
		"(ber-{hostname}; {name}, {serial}, {mac}, {label:KEY}, {n}, {n:4})")
	c.Flags().StringArrayVar(&sources, "from", nil, "network it may be used from, 192.0.2.0/24; several: any of them")
	c.Flags().BoolVar(&approve, "approve", false, "what joins waits for `hawser device approve`")
	c.Flags().BoolVar(&factory, "factory", false, "a string without a secret, for devices whose keys were imported")
	return c
}

// tokenView is how a token is printed as data.
type tokenView struct {
	ID      string            `json:"id" yaml:"id"`
	Kind    string            `json:"kind" yaml:"kind"`
	Left    uint32            `json:"left" yaml:"left"`
	Uses    uint32            `json:"uses" yaml:"uses"`
	Until   string            `json:"until" yaml:"until"`
	Labels  map[string]string `json:"labels,omitempty" yaml:"labels,omitempty"`
	Name    string            `json:"name,omitempty" yaml:"name,omitempty"`
	From    []string          `json:"from,omitempty" yaml:"from,omitempty"`
	Approve bool              `json:"approve" yaml:"approve"`
	By      string            `json:"by" yaml:"by"`
}

func newTokenList() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "ls",
		Short: "Join tokens, spent and expired ones for a week",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			res, err := call(c.Context(), apiconnect.AdminServiceClient.ListTokens, &api.ListTokensRequest{})
			if err != nil {
				return err
			}
			out := c.OutOrStdout()
			var views []tokenView
			var rows [][]string
			for _, t := range res.Tokens {
				if format == formatName {
					fmt.Fprintln(out, t.Id)
					continue
				}
				views = append(views, tokenView{t.Id, t.Kind, t.Left, t.Uses, stamp(t.ExpiresUnix), labelsOf(t.Labels), t.Name, t.Sources, t.Approve, t.CreatedBy})
				until := when(t.ExpiresUnix)
				if t.ExpiresUnix <= time.Now().Unix() {
					until = "expired"
				}
				approval := "no"
				if t.Approve {
					approval = "yes"
				}
				rows = append(rows, []string{t.Id, t.Kind, fmt.Sprintf("%d of %d", t.Left, t.Uses), until, labels(t.Labels), t.Name, strings.Join(t.Sources, ","), approval, t.CreatedBy})
			}
			switch format {
			case formatName:
				return nil
			case formatJSON, formatYAML:
				return data(out, format, views)
			}
			return table(out, []string{"ID", "KIND", "LEFT", "UNTIL", "LABELS", "NAME", "FROM", "APPROVAL", "BY"}, rows)
		},
	}
	c.Flags().StringVarP(&format, "output", "o", formatTable, "table, json, yaml or name")
	return c
}

func newTokenRemove() *cobra.Command {
	return &cobra.Command{
		Use:   "rm ID...",
		Short: "Void tokens",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			for _, id := range args {
				if _, err := call(c.Context(), apiconnect.AdminServiceClient.RemoveToken, &api.RemoveTokenRequest{Id: id}); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
