package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"hawser/auth/api"
	"hawser/auth/api/apiconnect"
)

func newSessions() *cobra.Command {
	return group("sessions", "Live sessions", newSessionsList(), newSessionsKill())
}

func newSessionsList() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "ls",
		Short: "The live sessions you may see",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			res, err := call(c.Context(), apiconnect.AdminServiceClient.ListSessions, &api.ListSessionsRequest{})
			if err != nil {
				return err
			}
			return printSessions(c.OutOrStdout(), format, res.Sessions, time.Now())
		},
	}
	c.Flags().StringVarP(&format, "output", "o", formatTable, "table, wide, json, yaml or name (the ids)")
	return c
}

// sessionView is how a session is printed as data.
type sessionView struct {
	ID         string  `json:"id" yaml:"id"`
	Connection string  `json:"connection" yaml:"connection"`
	User       string  `json:"user" yaml:"user"`
	Device     string  `json:"device,omitempty" yaml:"device,omitempty"`
	Login      string  `json:"login,omitempty" yaml:"login,omitempty"`
	Way        string  `json:"way" yaml:"way"`
	Kind       string  `json:"kind" yaml:"kind"`
	Channel    string  `json:"channel,omitempty" yaml:"channel,omitempty"`
	Command    string  `json:"command,omitempty" yaml:"command,omitempty"`
	From       string  `json:"from" yaml:"from"`
	Hub        string  `json:"hub" yaml:"hub"`
	Start      string  `json:"start" yaml:"start"`
	State      string  `json:"state" yaml:"state"` // attached, detached or, where auth has lost its hub and so cannot know, hub-gone
	Detached   float64 `json:"detached_seconds,omitempty" yaml:"detached_seconds,omitempty"`
	Recorded   bool    `json:"recorded" yaml:"recorded"`
}

func printSessions(out io.Writer, format string, list []*api.Session, now time.Time) error {
	views := make([]sessionView, 0, len(list))
	var rows [][]string
	for _, s := range list {
		v := sessionView{
			ID: hex.EncodeToString(s.Id), Connection: hex.EncodeToString(s.ConnectionId), User: s.User, Device: s.Device, Login: s.Login, Way: s.Way,
			Kind: s.Kind, Channel: s.Channel, Command: s.Command, From: s.ClientAddress, Hub: s.Hub,
			Start: time.Unix(0, s.StartUnixNano).UTC().Format(time.RFC3339Nano), State: "attached", Recorded: s.Recorded,
		}
		state, recorded := v.State, "no"
		if s.DetachedSinceUnixNano != 0 {
			d := max(0, now.Sub(time.Unix(0, s.DetachedSinceUnixNano)))
			v.State, v.Detached = "detached", d.Seconds()
			state = "detached " + d.Truncate(time.Second).String()
		}
		if s.HubGoneSinceUnixNano != 0 {
			v.State = "hub-gone"
			state = "hub gone " + max(0, now.Sub(time.Unix(0, s.HubGoneSinceUnixNano))).Truncate(time.Second).String()
		}
		if s.Recorded {
			recorded = "yes"
		}
		views = append(views, v)
		row := []string{shortID(s.Id), s.User, s.Device, s.Login, s.Way, s.Kind, state, s.ClientAddress, s.Hub, when(time.Unix(0, s.StartUnixNano).Unix()), recorded}
		if format == formatWide {
			row[0] = v.ID
			row = append(row, s.Channel, s.Command, v.Connection)
		}
		rows = append(rows, row)
	}
	switch format {
	case formatJSON, formatYAML:
		return data(out, format, views)
	case formatName:
		for _, v := range views {
			fmt.Fprintln(out, v.ID)
		}
		return nil
	}
	head := []string{"ID", "USER", "DEVICE", "LOGIN", "WAY", "KIND", "STATE", "FROM", "HUB", "SINCE", "RECORDED"}
	if format == formatWide {
		head = append(head, "CHANNEL", "COMMAND", "CONNECTION")
	}
	return table(out, head, rows)
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
