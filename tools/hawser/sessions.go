package main

import (
	"encoding/hex"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"hawser/auth/api"
	"hawser/auth/api/apiconnect"
)

func newSessions() *cobra.Command {
	return group("sessions", "Live sessions", newSessionsList(), newSessionsKill())
}

func newSessionsList() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "The live sessions you may see",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			res, err := call(c.Context(), apiconnect.AdminServiceClient.ListSessions, &api.ListSessionsRequest{})
			if err != nil {
				return err
			}
			var rows [][]string
			for _, s := range res.Sessions {
				recorded := "no"
				if s.Recorded {
					recorded = "yes"
				}
				rows = append(rows, []string{
					shortID(s.Id), s.User, s.Device, s.Login, s.Way, s.Kind, s.ClientAddress, s.Hub,
					when(time.Unix(0, s.StartUnixNano).Unix()), recorded,
				})
			}
			return table(c.OutOrStdout(), []string{"ID", "USER", "DEVICE", "LOGIN", "WAY", "KIND", "FROM", "HUB", "SINCE", "RECORDED"}, rows)
		},
	}
}

func newSessionsKill() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "kill ID",
		Short: "End a session and all its processes",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			res, err := call(c.Context(), apiconnect.AdminServiceClient.KillSession, &api.KillSessionRequest{Id: args[0], Reason: reason})
			if err != nil {
				return err
			}
			fmt.Fprintf(c.ErrOrStderr(), "session %s ends\n", hex.EncodeToString(res.Id))
			return nil
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "shown to the person")
	return c
}

// shortID is as much of an id as people need to tell a few hundred apart.
func shortID(id []byte) string {
	return hex.EncodeToString(id[:min(len(id), 6)])
}
