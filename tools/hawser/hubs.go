package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hawser/auth/api"
	"hawser/auth/api/apiconnect"
)

func newHub() *cobra.Command {
	return group("hub", "Hubs of the cluster", newHubList(), &cobra.Command{
		Use:   "rm HUB",
		Short: "Take a hub out of the cluster: its certificate is void at once, and devices look for it no more",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			_, err := call(c.Context(), apiconnect.AdminServiceClient.RemoveHub, &api.RemoveHubRequest{Hub: args[0]})
			return err
		},
	})
}

func newHubList() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "ls",
		Short: "The hubs, and how many tunnels of devices each has",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			res, err := call(c.Context(), apiconnect.AdminServiceClient.ListHubs, &api.ListHubsRequest{})
			if err != nil {
				return err
			}
			return printHubs(c.OutOrStdout(), format, res.Hubs, time.Now())
		},
	}
	c.Flags().StringVarP(&format, "output", "o", formatTable, "table, wide, json, yaml or name")
	return c
}

// hubView is how a hub is printed as data.
type hubView struct {
	Name         string   `json:"name" yaml:"name"`
	UUID         string   `json:"uuid" yaml:"uuid"`
	Zone         string   `json:"zone,omitempty" yaml:"zone,omitempty"`
	Online       bool     `json:"online" yaml:"online"`
	Listed       bool     `json:"listed" yaml:"listed"` // in the list that devices hold
	Tunnels      uint32   `json:"tunnels" yaml:"tunnels"`
	SSH          []string `json:"ssh" yaml:"ssh"`
	Tunnel       []string `json:"tunnel" yaml:"tunnel"`
	Version      string   `json:"version,omitempty" yaml:"version,omitempty"`
	LastSeen     string   `json:"last_seen,omitempty" yaml:"last_seen,omitempty"`
	Joined       string   `json:"joined,omitempty" yaml:"joined,omitempty"`
	CertNotAfter string   `json:"certificate_not_after,omitempty" yaml:"certificate_not_after,omitempty"`
}

func printHubs(out io.Writer, format string, list []*api.Hub, now time.Time) error {
	views := make([]hubView, 0, len(list))
	var rows [][]string
	for _, h := range list {
		v := hubView{
			h.Name, h.Uuid, h.Zone, h.Online, h.Listed, h.Tunnels, h.SshAddresses, h.TunnelAddresses, h.Version, stamp(h.LastSeenUnix), stamp(h.JoinedUnix),
			stamp(h.CertificateNotAfterUnix),
		}
		views = append(views, v)
		state, seen := "offline", ago(now, h.LastSeenUnix)
		if h.Online {
			state, seen = "online", "now"
		}
		row := []string{h.Name, state, seen, h.Zone, fmt.Sprint(h.Tunnels), strings.Join(h.SshAddresses, " "), strings.Join(h.TunnelAddresses, " ")}
		if format == formatWide {
			listed := "no"
			if h.Listed {
				listed = "yes"
			}
			row = append(row, listed, h.Version, when(h.JoinedUnix), when(h.CertificateNotAfterUnix), h.Uuid)
		}
		rows = append(rows, row)
	}
	switch format {
	case formatJSON, formatYAML:
		return data(out, format, views)
	case formatName:
		for _, v := range views {
			fmt.Fprintln(out, v.Name)
		}
		return nil
	}
	head := []string{"NAME", "STATE", "SEEN", "ZONE", "TUNNELS", "SSH", "TUNNEL"}
	if format == formatWide {
		head = append(head, "LISTED", "VERSION", "JOINED", "CERTIFICATE UNTIL", "UUID")
	}
	return table(out, head, rows)
}
