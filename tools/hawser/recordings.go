package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"hawser/auth/api"
	"hawser/auth/api/apiconnect"
	"hawser/recorder/play"
	"hawser/recorder/reader"
)

func newRecordings() *cobra.Command {
	return group("recordings", "Recordings of sessions", newRecordingsList(), newRecordingsExport())
}

func newRecordingsList() *cobra.Command {
	var user, device, format string
	var limit uint32
	c := &cobra.Command{
		Use:   "ls",
		Short: "The recordings you may see, newest first",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			res, err := call(c.Context(), apiconnect.AdminServiceClient.ListRecordings, &api.ListRecordingsRequest{User: user, Device: device, Limit: limit})
			if err != nil {
				return err
			}
			return printRecordings(c.OutOrStdout(), format, res.Recordings)
		},
	}
	c.Flags().StringVar(&user, "user", "", "only of this person")
	c.Flags().StringVar(&device, "device", "", "only of this device")
	c.Flags().Uint32Var(&limit, "limit", 100, "at most so many")
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
	State    string  `json:"state" yaml:"state"` // live, complete or incomplete
	Bytes    uint64  `json:"bytes" yaml:"bytes"`
	ExitCode int32   `json:"exit_status" yaml:"exit_status"`
}

func viewRecording(r *api.Recording) recordingView {
	v := recordingView{
		ID: hex.EncodeToString(r.Id), User: r.User, Device: r.Device, Login: r.Login, Way: r.Way, Kind: r.Kind,
		Command: r.Command, From: r.ClientAddress, Hub: r.Hub, Start: time.Unix(0, r.StartUnixNano).UTC().Format(time.RFC3339Nano),
		Bytes: r.Bytes, ExitCode: r.ExitStatus, State: "incomplete",
	}
	switch {
	case r.Live:
		v.State = "live"
	case r.Complete:
		v.State = "complete"
	}
	if r.EndUnixNano != 0 {
		v.Seconds = time.Duration(r.EndUnixNano - r.StartUnixNano).Seconds()
	}
	return v
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
			row = append(row, v.From, v.Hub, fmt.Sprint(v.Bytes), fmt.Sprint(v.ExitCode))
		}
		rows = append(rows, row)
	}
	return table(out, head, rows)
}

// openRecording starts reading a recording from auth.
func (c *client) openRecording(ctx context.Context, id string) (*reader.Reader, func() error, error) {
	stream, err := c.GetRecording(ctx, connect.NewRequest(&api.GetRecordingRequest{Id: id}))
	if err != nil {
		return nil, nil, err
	}
	var chunks []*api.Chunk
	next := func() ([]byte, error) {
		for len(chunks) == 0 {
			if !stream.Receive() {
				if err := stream.Err(); err != nil {
					return nil, err
				}
				return nil, io.EOF
			}
			chunks = stream.Msg().Chunks
		}
		b := chunks[0].Data
		chunks = chunks[1:]
		return b, nil
	}
	return reader.New(next), stream.Close, nil
}

func newRecordingsExport() *cobra.Command {
	return &cobra.Command{
		Use:   "export ID",
		Short: "Write the output of a recording, byte for byte, to standard output",
		Long:  "Write what the session printed, standard output and standard error in their order,\nbyte for byte. At a terminal use `hawser play`, which keeps hostile bytes from it.",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if term.IsTerminal(int(os.Stdout.Fd())) {
				return usageError{errors.New("standard output is a terminal, and a recording may hold bytes that drive it: send them to a file, or use hawser play")}
			}
			return withRecording(c, args[0], func(r *reader.Reader) error { return play.WriteRaw(r, c.OutOrStdout()) })
		},
	}
}

func newPlay() *cobra.Command {
	var speed float64
	var idle time.Duration
	var raw, instant bool
	c := &cobra.Command{
		Use:   "play ID",
		Short: "Play a recording with its timing",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if speed <= 0 || math.IsNaN(speed) {
				return usageError{fmt.Errorf("--speed %v: more than 0", speed)}
			}
			if idle < 0 {
				return usageError{fmt.Errorf("--idle %v: 0 or more", idle)}
			}
			o := play.Options{Speed: speed, IdleCap: idle, Raw: raw}
			if instant {
				o.Speed = math.Inf(1)
			}
			if raw && term.IsTerminal(int(os.Stdout.Fd())) {
				return usageError{errors.New("--raw writes bytes that may drive your terminal: send them to a file")}
			}
			return withRecording(c, args[0], func(r *reader.Reader) error { return play.Play(c.Context(), r, c.OutOrStdout(), o) })
		},
	}
	c.Flags().Float64Var(&speed, "speed", 1, "2 is twice as fast")
	c.Flags().DurationVar(&idle, "idle", 2*time.Second, "longest pause; 0 keeps all")
	c.Flags().BoolVar(&instant, "instant", false, "do not wait at all")
	c.Flags().BoolVar(&raw, "raw", false, "the bytes as recorded; not at a terminal")
	return c
}

func withRecording(c *cobra.Command, id string, use func(*reader.Reader) error) error {
	admin, err := dial()
	if err != nil {
		return err
	}
	defer admin.close()
	r, closeStream, err := admin.openRecording(c.Context(), id)
	if err != nil {
		return err
	}
	defer closeStream()
	if err := use(r); err != nil {
		return err
	}
	if !r.Complete() {
		fmt.Fprintln(c.ErrOrStderr(), "\nhawser: the recording ends here, but its session did not: it is incomplete")
	}
	return nil
}
