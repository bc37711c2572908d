package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"hawser/auth/api"
	"hawser/recorder/reader"
	"hawser/tunnel/wire"
)

func newRecordingsSearch() *cobra.Command {
	var which recordingFlags
	var req api.SearchRecordingsRequest
	var format string
	var ids identities
	c := &cobra.Command{
		Use:   "search TEXT",
		Short: "Find a text in what recordings show, with the times to play from",
		Long: `Find a text in the lines that terminals showed, in commands, file operations and forwards of the recordings that you may see, the newest
first. Capitals do not matter, but with --exact. The search is in the audit log.

Recordings that are encrypted to auditors auth cannot search. With --identity they are fetched and searched here; what that makes is kept in
HAWSER_HOME/cache/index, encrypted as they are, so that the next search is quick.`,
		Example: "  hawser recordings search 'iptables -F' --since 30d -l site=ber\n  hawser recordings search password --user alice -o json",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if format != formatTable && format != formatJSON && format != formatYAML {
				return usageError{fmt.Errorf("unknown format %q: table, json or yaml", format)}
			}
			f, err := which.filter(time.Now())
			if err != nil {
				return err
			}
			req.Text, req.Filter = args[0], f
			admin, err := dial()
			if err != nil {
				return err
			}
			defer admin.close()
			res, err := admin.conn.Search.SearchRecordings(c.Context(), connect.NewRequest(&req))
			if err != nil {
				return err
			}
			open := reader.Opener(nil)
			if res.Msg.Sealed > 0 {
				if open, err = ids.opener(c); err != nil {
					return err
				}
			}
			if open != nil {
				if err := addSealed(c, admin, open, &req, res.Msg); err != nil {
					return err
				}
			}
			return printMatches(c.OutOrStdout(), c.ErrOrStderr(), format, res.Msg, open != nil)
		},
	}
	which.add(c)
	ids.add(c)
	c.Flags().BoolVar(&req.Exact, "exact", false, "capitals as they are")
	c.Flags().Uint32Var(&req.Limit, "limit", 100, "at most so many lines")
	c.Flags().Uint32Var(&req.PerRecording, "per-recording", 10, "at most so many lines of one recording")
	c.Flags().StringVarP(&format, "output", "o", formatTable, "table, json or yaml")
	return c
}

// matchView is a line that was found, as data.
type matchView struct {
	Recording string  `json:"recording" yaml:"recording"`
	Time      string  `json:"time" yaml:"time"`
	Offset    float64 `json:"offset" yaml:"offset"` // seconds since the recording's start
	User      string  `json:"user" yaml:"user"`
	Device    string  `json:"device" yaml:"device"`
	Login     string  `json:"login" yaml:"login"`
	Kind      string  `json:"kind" yaml:"kind"` // screen, command, file, forward or remark
	Line      string  `json:"line" yaml:"line"`
	More      uint32  `json:"more,omitempty" yaml:"more,omitempty"` // lines of this recording that are not listed; with the last of it
}

func printMatches(out, words io.Writer, format string, res *api.SearchRecordingsResponse, tried bool) error {
	views := []matchView{}
	var rows [][]string
	for _, rm := range res.Recordings {
		r := rm.Recording
		id := hex.EncodeToString(r.Id)
		for i, m := range rm.Matches {
			offset := time.Duration(m.OffsetNanos)
			v := matchView{
				Recording: id, Time: time.Unix(0, m.AtUnixNano).UTC().Format(time.RFC3339Nano), Offset: offset.Seconds(),
				User: r.User, Device: r.Device, Login: r.Login, Kind: m.Kind, Line: m.Line,
			}
			more := ""
			if i == len(rm.Matches)-1 && int(rm.All) > len(rm.Matches) {
				v.More = rm.All - uint32(len(rm.Matches))
				more = fmt.Sprintf("  (and %d more)", v.More)
			}
			views = append(views, v)
			rows = append(rows, []string{
				id[:min(len(id), 12)], offset.Truncate(time.Second).String(), when(time.Unix(0, m.AtUnixNano).Unix()), r.User, r.Device, m.Kind,
				strings.TrimSpace(wire.Quote(m.Line, 160)) + more,
			})
		}
	}
	if res.Unindexed > 0 {
		fmt.Fprintf(words, "hawser: %d of %d recordings are not searchable to their end yet, or cannot be\n", res.Unindexed, res.Searched)
	}
	switch {
	case res.Sealed > 0 && tried:
		fmt.Fprintf(words, "hawser: %d recordings are encrypted to others than whose identity was given\n", res.Sealed)
	case res.Sealed > 0:
		fmt.Fprintf(words, "hawser: %d recordings are encrypted to auditors, and not searched: give the age identity of one with --identity FILE, or %s\n", res.Sealed, identityEnv)
	}
	if res.More {
		fmt.Fprintln(words, "hawser: there is more: --limit shows more lines, --until older ones")
	}
	if format != formatTable {
		return data(out, format, views)
	}
	if len(rows) == 0 {
		fmt.Fprintf(words, "hawser: not found in %d recordings\n", res.Searched)
		return nil
	}
	if err := table(out, []string{"RECORDING", "AT", "TIME", "USER", "DEVICE", "KIND", "LINE"}, rows); err != nil {
		return err
	}
	first := res.Recordings[0]
	fmt.Fprintf(words, "hawser: `hawser play %x --from %s` plays the first\n", first.Recording.Id[:min(len(first.Recording.Id), 6)], time.Duration(first.Matches[0].OffsetNanos).Truncate(time.Second))
	return nil
}
