package main

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"hawser/auth/api"
	"hawser/auth/api/apiconnect"
	"hawser/recorder"
	"hawser/recorder/commands"
	"hawser/recorder/index"
	"hawser/recorder/reader"
	"hawser/tunnel/wire"
)

func newRecordingsShow() *cobra.Command {
	var format string
	var ids identities
	c := &cobra.Command{
		Use:   "show ID",
		Short: "What is known of one recording: whose, where, its commands, files and forwards with their times",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if format != "text" && format != formatJSON && format != formatYAML {
				return usageError{fmt.Errorf("unknown format %q: text, json or yaml", format)}
			}
			res, err := call(c.Context(), apiconnect.AdminServiceClient.ListRecordings,
				&api.ListRecordingsRequest{Filter: &api.RecordingFilter{Id: args[0]}, Limit: 2, Removed: true})
			if err != nil {
				return err
			}
			var r *api.Recording
			switch len(res.Recordings) {
			case 0:
				return connect.NewError(connect.CodeNotFound, fmt.Errorf("no recording %q that your roles let you see; `hawser recordings ls` lists those they do", wire.Quote(args[0], 40)))
			case 1:
				r = res.Recordings[0]
			default:
				return usageError{fmt.Errorf("several recordings begin with %s; give more of the id", wire.Quote(args[0], 40))}
			}
			v := shownRecording{recordingView: viewRecording(r)}
			if r.Removed == nil {
				if err := v.load(c, v.ID, &ids); err != nil {
					fmt.Fprintln(c.ErrOrStderr(), "hawser:", err)
				}
			}
			if format != "text" {
				return data(c.OutOrStdout(), format, v)
			}
			return v.print(c.OutOrStdout())
		},
	}
	ids.add(c)
	c.Flags().StringVarP(&format, "output", "o", "text", "text, json or yaml")
	return c
}

// shownRecording is a recording with what happened in it.
type shownRecording struct {
	recordingView `yaml:",inline"`
	Events        []shownEvent `json:"events" yaml:"events"`
}

// shownEvent is a command, an operation on a file, a forward, a use of the agent or a remark.
type shownEvent struct {
	Offset     float64 `json:"offset" yaml:"offset"` // seconds since the start
	Kind       string  `json:"kind" yaml:"kind"`
	Text       string  `json:"text" yaml:"text"`
	Source     string  `json:"source,omitempty" yaml:"source,omitempty"`         // of a command: exec, screen or input
	Confidence uint8   `json:"confidence,omitempty" yaml:"confidence,omitempty"` // likewise: 0 to 100
	User       string  `json:"user,omitempty" yaml:"user,omitempty"`             // likewise: the guest who gave it
	Status     *uint32 `json:"status,omitempty" yaml:"status,omitempty"`         // of a command that ended, or of an operation that failed
	Read       uint64  `json:"read,omitempty" yaml:"read,omitempty"`             // bytes of a file or forward, to the person
	Written    uint64  `json:"written,omitempty" yaml:"written,omitempty"`
	SHA256     string  `json:"sha256,omitempty" yaml:"sha256,omitempty"` // of a whole file that passed in order
}

// load reads the recording for what happened in it.
func (v *shownRecording) load(c *cobra.Command, id string, ids *identities) (err error) {
	s, err := openSource(c.Context(), id)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.unlock(c, ids); err != nil {
		return err
	}
	r := s.reader()
	h, err := r.Header()
	if err == io.EOF {
		return nil // nothing came
	}
	if err != nil {
		return err
	}
	find := commands.New(h)
	for {
		e, rerr := r.Next()
		if rerr != nil {
			for _, c := range find.Commands() {
				v.Events = append(v.Events, shownEvent{
					Offset: c.At.Seconds(), Kind: "command", Text: c.Text, Source: c.Source, Confidence: c.Confidence, Status: c.Status, User: c.User,
				})
			}
			slices.SortStableFunc(v.Events, func(a, b shownEvent) int { return cmp.Compare(a.Offset, b.Offset) })
			if rerr == io.EOF {
				return nil
			}
			return rerr
		}
		find.Event(e)
		if e.Type == recorder.RecordStart && v.Command == "" {
			v.Command = e.Command // auth does not know that of an encrypted one
		}
		if e.Forward != nil && e.Forward.State == "close" {
			v.Events = append(v.Events, shownFact(e, index.Forward, e.Forward.Kind+" forward closed "+e.Forward.Target))
		} else if kind, text := index.Told(e); text != "" && kind != index.Command {
			v.Events = append(v.Events, shownFact(e, kind, text))
		}
	}
}

// shownFact is an event that is no command.
func shownFact(e reader.Event, kind index.Kind, text string) shownEvent {
	s := shownEvent{Offset: e.Time.Seconds(), Kind: kind.String(), Text: text}
	switch {
	case e.FileOp != nil:
		f := e.FileOp
		s.Read, s.Written, s.SHA256 = f.Read, f.Written, hex.EncodeToString(f.Hash)
		if f.Status != 0 {
			s.Status = &f.Status
		}
	case e.Forward != nil:
		s.Written, s.Read = e.Forward.In, e.Forward.Out
	}
	return s
}

// encrypted tells who can read it, where not all can that may.
func (v *shownRecording) encrypted() string {
	if v.Sealed {
		return "to auditors"
	}
	return ""
}

// more is what a row says beside the text.
func (e shownEvent) more() string {
	var parts []string
	if e.User != "" {
		parts = append(parts, "by "+e.User)
	}
	if e.Source != "" && e.Source != commands.Exec {
		parts = append(parts, fmt.Sprintf("%s, %d %%", e.Source, e.Confidence))
	}
	if e.Read > 0 {
		parts = append(parts, fmt.Sprintf("read %d bytes", e.Read))
	}
	if e.Written > 0 {
		parts = append(parts, fmt.Sprintf("written %d bytes", e.Written))
	}
	if e.SHA256 != "" {
		parts = append(parts, "sha256 "+e.SHA256)
	}
	if e.Status != nil && (e.Kind != "command" || *e.Status != 0) {
		parts = append(parts, fmt.Sprintf("status %d", *e.Status))
	}
	return strings.Join(parts, ", ")
}

func (v *shownRecording) print(out io.Writer) error {
	start, _ := time.Parse(time.RFC3339Nano, v.Start)
	length := time.Duration(v.Seconds * float64(time.Second)).Round(100 * time.Millisecond)
	for _, f := range [][2]string{
		{"recording", v.ID}, {"user", v.User}, {"device", v.Device}, {"login", v.Login}, {"start", when(start.Unix())}, {"length", length.String()},
		{"kind", v.Kind}, {"command", v.Command}, {"way", v.Way}, {"from", v.From}, {"hub", v.Hub}, {"state", v.State}, {"bytes", fmt.Sprint(v.Bytes)},
		{"exit status", v.exit()}, {"ended", v.Ended}, {"verified", v.Verified}, {"fault", v.Fault}, {"witness", v.Witness}, {"held", v.Held},
		{"removed", v.Removed}, {"kept", v.kept()}, {"encrypted", v.encrypted()},
	} {
		if f[1] != "" {
			fmt.Fprintf(out, "%-12s %s\n", f[0], wire.Quote(f[1], 2048))
		}
	}
	if len(v.Events) == 0 {
		return nil
	}
	fmt.Fprintln(out)
	var rows [][]string
	for _, e := range v.Events {
		rows = append(rows, []string{time.Duration(e.Offset * float64(time.Second)).Truncate(time.Second).String(), e.Kind, e.Text, e.more()})
	}
	return table(out, []string{"AT", "KIND", "WHAT", "MORE"}, rows)
}
