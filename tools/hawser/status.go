package main

import (
	"fmt"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"hawser/auth/api"
	"hawser/tunnel/wire"
)

func newStatus() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Who you are, for how long, and which hubs are up",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			admin, err := dial()
			if err != nil {
				return err
			}
			defer admin.close()
			res, err := admin.Whoami(c.Context(), connect.NewRequest(&api.WhoamiRequest{}))
			if err != nil {
				return err
			}
			out := c.OutOrStdout()
			fmt.Fprintf(out, "%-10s %s\n%-10s %s\n%-10s %s\n%-10s %s\n", "user", res.Msg.User, "roles", strings.Join(res.Msg.Roles, ","),
				"cluster", res.Msg.Cluster, "until", when(res.Msg.NotAfterUnix))
			for _, h := range res.Msg.Hubs {
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
