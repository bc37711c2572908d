package main

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hawser/auth/api"
	"hawser/auth/api/apiconnect"
)

func newRecordings() *cobra.Command {
	return group("recordings", "Recordings of sessions", newRecordingsList(), newRecordingsShow(), newRecordingsSearch(), newRecordingsExport(), newRecordingsVerify(),
		newRecordingsHold(), newRecordingsRelease(), newRecordingsHeld(), newRecordingsRemove())
}

// recordingFlags say which recordings.
type recordingFlags struct {
	user, device, login, kind, way, since, until string
	selectors                                    []string
}

func (r *recordingFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&r.user, "user", "", "only of this person")
	f.StringVar(&r.device, "device", "", "only of this device: name or UUID")
	f.StringVar(&r.login, "login", "", "only of this login of the device")
	f.StringVar(&r.kind, "kind", "", "only shell, exec or sftp")
	f.StringVar(&r.way, "way", "", "only by hub, end-to-end or direct")
	f.StringArrayVarP(&r.selectors, "label", "l", nil, "only on devices that have these labels now: site=ber,role!=spare")
	f.StringVar(&r.since, "since", "", "begun after: so long ago (90m, 30d), or a time (2026-11-21, 2026-11-21T10:00, RFC 3339)")
	f.StringVar(&r.until, "until", "", "begun before then")
	_ = c.RegisterFlagCompletionFunc("device", func(c *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return completeDevices(c, nil, word)
	})
}

func (r *recordingFlags) filter(now time.Time) (*api.RecordingFilter, error) {
	f := &api.RecordingFilter{User: r.user, Device: r.device, Login: r.login, Kind: r.kind, Way: r.way}
	for _, s := range r.selectors {
		f.Selectors = append(f.Selectors, strings.Split(s, ",")...)
	}
	for _, x := range []struct {
		name, text string
		to         *int64
	}{{"since", r.since, &f.SinceUnixNano}, {"until", r.until, &f.UntilUnixNano}} {
		if x.text == "" {
			continue
		}
		t, err := parseMoment(x.text, now)
		if err != nil {
			return nil, usageError{fmt.Errorf("--%s: %w", x.name, err)}
		}
		*x.to = t.UnixNano()
	}
	return f, nil
}

func newRecordingsList() *cobra.Command {
	var which recordingFlags
	var format string
	var limit uint32
	var removed bool
	c := &cobra.Command{
		Use:     "ls",
		Short:   "The recordings you may see, newest first",
		Example: "  hawser recordings ls --since 7d -l site=ber --user alice",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			f, err := which.filter(time.Now())
			if err != nil {
				return err
			}
			res, err := call(c.Context(), apiconnect.AdminServiceClient.ListRecordings, &api.ListRecordingsRequest{Filter: f, Limit: limit, Removed: removed})
			if err != nil {
				return err
			}
			return printRecordings(c.OutOrStdout(), format, res.Recordings)
		},
	}
	which.add(c)
	c.Flags().Uint32Var(&limit, "limit", 100, "at most so many")
	c.Flags().BoolVar(&removed, "removed", false, "those too of which hawser recordings rm left no more than that they were")
	c.Flags().StringVarP(&format, "output", "o", formatTable, "table, wide, json, yaml or name (the ids)")
	return c
}

// recordingView is how a recording is printed as data.
type recordingView struct {
	ID       string  `json:"id" yaml:"id"`
	User     string  `json:"user" yaml:"user"`
	Device   string  `json:"device" yaml:"device"`
	Login    string  `json:"login" yaml:"login"`
	Way      string  `json:"way" yaml:"way"`
	Kind     string  `json:"kind" yaml:"kind"`
	Command  string  `json:"command,omitempty" yaml:"command,omitempty"`
	From     string  `json:"from" yaml:"from"`
	Hub      string  `json:"hub" yaml:"hub"`
	Start    string  `json:"start" yaml:"start"`
	Seconds  float64 `json:"seconds" yaml:"seconds"`
	State    string  `json:"state" yaml:"state"` // live, complete, incomplete or removed
	Bytes    uint64  `json:"bytes" yaml:"bytes"`
	ExitCode *int32  `json:"exit_status,omitempty" yaml:"exit_status,omitempty"` // absent: not known
	Signal   string  `json:"signal,omitempty" yaml:"signal,omitempty"`           // that ended what ran
	Ended    string  `json:"ended,omitempty" yaml:"ended,omitempty"`             // how the session ended, in words
	Sealed   bool    `json:"sealed,omitempty" yaml:"sealed,omitempty"`           // encrypted to auditors
	Verified string  `json:"verified,omitempty" yaml:"verified,omitempty"`       // what auth found at its end: ok or fault
	Fault    string  `json:"fault,omitempty" yaml:"fault,omitempty"`
	Witness  string  `json:"witness,omitempty" yaml:"witness,omitempty"`       // the device's word on what passed: match, sums, mismatch, or why there is none
	Held     string  `json:"held,omitempty" yaml:"held,omitempty"`             // why it is kept
	Keep     string  `json:"keep_until,omitempty" yaml:"keep_until,omitempty"` // retention removes it some time after; absent: never
	Removed  string  `json:"removed,omitempty" yaml:"removed,omitempty"`       // who removed it, when and why
	KeepRule string  `json:"keep_rule,omitempty" yaml:"keep_rule,omitempty"`   // by which key of kind cluster
}

func viewRecording(r *api.Recording) recordingView {
	v := recordingView{
		ID: hex.EncodeToString(r.Id), User: r.User, Device: r.Device, Login: r.Login, Way: r.Way, Kind: r.Kind,
		Command: r.Command, From: r.ClientAddress, Hub: r.Hub, Start: time.Unix(0, r.StartUnixNano).UTC().Format(time.RFC3339Nano),
		Bytes: r.Bytes, Signal: r.Signal, Ended: r.Ended, KeepRule: r.KeepRule, State: "incomplete", Sealed: r.Sealed, Verified: r.Verified, Fault: r.Fault, Witness: r.Witness,
	}
	switch {
	case r.Live:
		v.State = "live"
	case r.Complete:
		v.State = "complete"
	}
	if r.Exited {
		v.ExitCode = &r.ExitStatus
	}
	if r.KeepUntilUnix != 0 {
		v.Keep = time.Unix(r.KeepUntilUnix, 0).UTC().Format(time.RFC3339)
	}
	if r.Removed != nil {
		v.State, v.Removed = "removed", "by "+r.Removed.By+" on "+time.Unix(0, r.Removed.AtUnixNano).UTC().Format(time.RFC3339)
		if r.Removed.Reason != "" {
			v.Removed += ": " + r.Removed.Reason
		}
	}
	if r.Hold != nil {
		v.Held = cmp.Or(r.Hold.Reason, "held by "+r.Hold.By)
	}
	if r.EndUnixNano != 0 {
		v.Seconds = time.Duration(r.EndUnixNano - r.StartUnixNano).Seconds()
	}
	return v
}

// exit is how what ran ended; empty: that is not known.
func (v *recordingView) exit() string {
	switch {
	case v.ExitCode == nil:
		return ""
	case v.Signal != "":
		return "signal " + v.Signal
	}
	return fmt.Sprint(*v.ExitCode)
}

// kept says until when retention leaves it.
func (v *recordingView) kept() string {
	switch {
	case v.KeepRule == "":
		return ""
	case v.Keep == "":
		return "for ever, by " + v.KeepRule
	}
	return "until " + v.Keep[:len("2026-11-21")] + " at least, by " + v.KeepRule
}

func printRecordings(out io.Writer, format string, list []*api.Recording) error {
	views := make([]recordingView, 0, len(list))
	for _, r := range list {
		views = append(views, viewRecording(r))
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
	head := []string{"ID", "START", "LENGTH", "USER", "DEVICE", "LOGIN", "WAY", "KIND", "STATE", "COMMAND"}
	if format == formatWide {
		head = append(head, "FROM", "HUB", "BYTES", "EXIT")
	}
	var rows [][]string
	for i, v := range views {
		id := v.ID
		if format == formatTable {
			id = id[:min(len(id), 12)]
		}
		length := (time.Duration(v.Seconds * float64(time.Second))).Round(100 * time.Millisecond).String()
		row := []string{id, when(time.Unix(0, list[i].StartUnixNano).Unix()), length, v.User, v.Device, v.Login, v.Way, v.Kind, v.State, v.Command}
		if format == formatWide {
			row = append(row, v.From, v.Hub, fmt.Sprint(v.Bytes), cmp.Or(v.exit(), "-"))
		}
		rows = append(rows, row)
	}
	return table(out, head, rows)
}
