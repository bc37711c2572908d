package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"hawser/auth/api"
	"hawser/auth/api/apiconnect"
	"hawser/tunnel/wire"
)

func newStatus() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Who you are, for how long, and which hubs are up",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			res, err := call(c.Context(), apiconnect.AdminServiceClient.Whoami, &api.WhoamiRequest{})
			if err != nil {
				return err
			}
			out := c.OutOrStdout()
			fmt.Fprintf(out, "%-10s %s\n%-10s %s\n%-10s %s\n%-10s %s\n", "user", res.User, "roles", strings.Join(res.Roles, ","),
				"cluster", res.Cluster, "until", when(res.NotAfterUnix))
			for _, h := range res.Hubs {
				state := "offline"
				if h.Online {
					state = "online"
				}
				fmt.Fprintf(out, "%-10s %s %s ssh %s\n", "hub", wire.Quote(h.Name, maxCell), state, strings.Join(h.SshAddresses, " "))
			}
			return nil
		},
	}
}
