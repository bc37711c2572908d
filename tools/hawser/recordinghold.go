package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"hawser/auth/api"
	"hawser/auth/api/apiconnect"
)

func newRecordingsHold() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "hold ID... --reason TEXT",
		Short: "Keep recordings from retention and from rm until they are released",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if reason == "" {
				return usageError{errors.New("--reason TEXT: why it is held; who reads the list in a year must know when it may end")}
			}
			return eachRecording(c, args, "held", func(a *client, id string) ([]byte, error) {
				res, err := a.conn.Recording.HoldRecording(c.Context(), connect.NewRequest(&api.HoldRecordingRequest{Id: id, Reason: reason}))
				if err != nil {
					return nil, err
				}
				return res.Msg.Id, nil
			})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why; it is in the audit log and in `hawser recordings held`")
	return c
}

func newRecordingsRelease() *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use:   "release ID...",
		Short: "End the holds of recordings: those whose time is over go with the next retention",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return eachRecording(c, args, "released", func(a *client, id string) ([]byte, error) {
				res, err := a.conn.Recording.ReleaseRecording(c.Context(), connect.NewRequest(&api.ReleaseRecordingRequest{Id: id, Reason: reason}))
				if err != nil {
					return nil, err
				}
				return res.Msg.Id, nil
			})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why; it is in the audit log")
	return c
}

func newRecordingsRemove() *cobra.Command {
	var reason string
	var yes bool
	c := &cobra.Command{
		Use:   "rm ID...",
		Short: "Remove what recordings show; that they were, and who removed them, stays",
		Long: `Remove what recordings show, with everything made of them, for good. That they were, and who removed them, stays: in the audit log, and
until retention would have removed them in "hawser recordings ls --removed", so that "verify" can tell a recording that was removed from
one that is missing. The bytes leave auth's disk with its next upkeep, and backups when those are removed.

A recording that is held is not removed, nor one whose session goes on.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if !yes {
				if !term.IsTerminal(int(os.Stdin.Fd())) {
					return usageError{errors.New("standard input is no terminal to ask at: say --yes")}
				}
				fmt.Fprintf(c.ErrOrStderr(), "Remove %d recordings for good? Type yes: ", len(args))
				var answer string
				if _, err := fmt.Fscanln(c.InOrStdin(), &answer); err != nil || answer != "yes" {
					return errors.New("nothing was removed")
				}
			}
			return eachRecording(c, args, "removed", func(a *client, id string) ([]byte, error) {
				res, err := a.conn.Recording.RemoveRecording(c.Context(), connect.NewRequest(&api.RemoveRecordingRequest{Id: id, Reason: reason}))
				if err != nil {
					return nil, err
				}
				return res.Msg.Id, nil
			})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why; it is in the audit log, and whoever asks for the recording is told")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// eachRecording does something to each recording named, and goes on after one that it cannot be done to.
func eachRecording(c *cobra.Command, ids []string, done string, do func(a *client, id string) ([]byte, error)) error {
	a, err := dial()
	if err != nil {
		return err
	}
	defer a.close()
	var errs []error
	for _, id := range ids {
		full, err := do(a, id)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		fmt.Fprintf(c.OutOrStdout(), "%s %s\n", hex.EncodeToString(full), done)
	}
	return errors.Join(errs...)
}

func newRecordingsHeld() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "held",
		Short: "The recordings that are held, by whom and why",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			res, err := call(c.Context(), apiconnect.AdminServiceClient.ListRecordings, &api.ListRecordingsRequest{Held: true, Limit: 100000})
			if err != nil {
				return err
			}
			return printHeld(c.OutOrStdout(), format, res.Recordings)
		},
	}
	c.Flags().StringVarP(&format, "output", "o", formatTable, "table, wide, json, yaml or name (the ids)")
	return c
}

type heldView struct {
	ID     string `json:"id" yaml:"id"`
	Start  string `json:"start" yaml:"start"`
	User   string `json:"user" yaml:"user"`
	Device string `json:"device" yaml:"device"`
	By     string `json:"held_by" yaml:"held_by"`
	At     string `json:"held_at" yaml:"held_at"`
	Reason string `json:"reason" yaml:"reason"`
}

func printHeld(out io.Writer, format string, list []*api.Recording) error {
	views := make([]heldView, 0, len(list))
	for _, r := range list {
		at := func(ns int64) string { return time.Unix(0, ns).UTC().Format(time.RFC3339) }
		views = append(views, heldView{
			hex.EncodeToString(r.Id), at(r.StartUnixNano), r.User, r.Device, strings.TrimPrefix(r.Hold.GetBy(), "user:"), at(r.Hold.GetAtUnixNano()), r.Hold.GetReason(),
		})
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
	var rows [][]string
	for i, v := range views {
		id := v.ID
		if format == formatTable {
			id = id[:min(len(id), 12)]
		}
		rows = append(rows, []string{id, when(list[i].StartUnixNano / 1e9), v.User, v.Device, v.By, when(list[i].Hold.GetAtUnixNano() / 1e9), v.Reason})
	}
	return table(out, []string{"ID", "START", "USER", "DEVICE", "HELD BY", "SINCE", "REASON"}, rows)
}
