package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hawser/auth/api"
	"hawser/auth/api/apiconnect"
	"hawser/tunnel/wire"
)

func newSessions() *cobra.Command {
	return group("sessions", "Live sessions", newSessionsList(), newSessionsWatch(), newSessionsKill(),
		newSessionsInvite(), newSessionsMessage(), newSessionsPutOut())
}

func newSessionsList() *cobra.Command {
	var format, user string
	c := &cobra.Command{
		Use:   "ls",
		Short: "The live sessions and connections you may see",
		Long: "The live sessions and connections you may see: what is held of the places that your roles cap. Your own you may always see, with\n" +
			"--user me; below the table is how many of them your roles allow. With -o wide: roles, the device's address, how long idle,\n" +
			"bytes from the person and to him (end to end the connection's alone, as the hub sees it), and the caps of each user.\n" +
			"Below the table are also the sessions you were invited to.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			res, err := call(c.Context(), apiconnect.AdminServiceClient.ListSessions, &api.ListSessionsRequest{User: user, AllCaps: format != formatTable})
			if err != nil {
				return err
			}
			if err := printSessions(c.OutOrStdout(), format, res.Sessions, res.Caps, time.Now()); err != nil {
				return err
			}
			if format == formatTable {
				for _, u := range res.Caps {
					fmt.Fprintf(c.ErrOrStderr(), "%s: %d of %d held by %s\n", u.Cap, u.Held, u.Max, u.Of)
				}
			}
			if format == formatTable || format == formatWide {
				tellInvitations(c.Context(), c.ErrOrStderr())
			}
			return nil
		},
	}
	c.Flags().StringVarP(&format, "output", "o", formatTable, "table, wide, json, yaml or name (the ids)")
	c.Flags().StringVar(&user, "user", "", "only those of this user; me: your own")
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
	Joins      string  `json:"joins,omitempty" yaml:"joins,omitempty"` // the id of the session that it joins
	Mode       string  `json:"mode,omitempty" yaml:"mode,omitempty"`   // observer, peer or moderator

	Roles    []string `json:"roles,omitempty" yaml:"roles,omitempty"`
	At       string   `json:"device_address,omitempty" yaml:"device_address,omitempty"`
	In       uint64   `json:"bytes_in" yaml:"bytes_in"` // from the person
	Out      uint64   `json:"bytes_out" yaml:"bytes_out"`
	Activity string   `json:"last_activity,omitempty" yaml:"last_activity,omitempty"` // what idle_timeout is counted from
	Caps     string   `json:"caps,omitempty" yaml:"caps,omitempty"`                   // the user's, as "sessions 2/4"
}

func viewSession(s *api.Session, caps []*api.CapUse, now time.Time) sessionView {
	v := sessionView{
		ID: hex.EncodeToString(s.Id), Connection: hex.EncodeToString(s.ConnectionId), User: s.User, Device: s.Device, Login: s.Login, Way: s.Way,
		Kind: s.Kind, Channel: s.Channel, Command: s.Command, From: s.ClientAddress, Hub: s.Hub,
		Start: nanoStamp(s.StartUnixNano), State: "attached", Recorded: s.Recorded,
		Roles: s.Roles, At: s.DeviceAddress, In: s.BytesIn, Out: s.BytesOut, Activity: nanoStamp(s.LastActivityUnixNano), Caps: capsOf(caps, s.User),
	}
	if s.DetachedSinceUnixNano != 0 {
		v.State, v.Detached = "detached", max(0, now.Sub(time.Unix(0, s.DetachedSinceUnixNano))).Seconds()
	}
	if s.HubGoneSinceUnixNano != 0 {
		v.State = "hub-gone"
	}
	if len(s.Joins) > 0 {
		v.Joins, v.Mode = hex.EncodeToString(s.Joins), s.JoinMode
	}
	return v
}

func nanoStamp(unix int64) string {
	if unix == 0 {
		return ""
	}
	return time.Unix(0, unix).UTC().Format(time.RFC3339Nano)
}

// capsOf is how much of his caps a user has used.
func capsOf(caps []*api.CapUse, user string) string {
	var parts []string
	for _, u := range caps {
		if u.Of == user {
			parts = append(parts, fmt.Sprintf("%s %d/%d", strings.TrimPrefix(u.Cap, "max_"), u.Held, u.Max))
		}
	}
	return strings.Join(parts, " ")
}

// idleFor is how long nothing has come that keeps it from being idle.
func idleFor(s *api.Session, now time.Time) string {
	if s.LastActivityUnixNano == 0 {
		return ""
	}
	return span(now.Sub(time.Unix(0, s.LastActivityUnixNano)))
}

// amount is a count of bytes for people.
func amount(n uint64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	f, i := float64(n), 0
	for f >= 999.5 && i < len(units)-1 {
		f, i = f/1000, i+1
	}
	if i > 0 && f < 9.95 {
		return fmt.Sprintf("%.1f %s", f, units[i])
	}
	return fmt.Sprintf("%.0f %s", f, units[i])
}

// stateOf is whether it goes on, for people.
func stateOf(s *api.Session, now time.Time) string {
	since := func(unix int64) string { return max(0, now.Sub(time.Unix(0, unix))).Truncate(time.Second).String() }
	switch {
	case s.HubGoneSinceUnixNano != 0:
		return "hub gone " + since(s.HubGoneSinceUnixNano)
	case s.DetachedSinceUnixNano != 0:
		return "detached " + since(s.DetachedSinceUnixNano)
	}
	return "attached"
}

func printSessions(out io.Writer, format string, list []*api.Session, caps []*api.CapUse, now time.Time) error {
	views := make([]sessionView, 0, len(list))
	var rows [][]string
	for _, s := range list {
		v, recorded := viewSession(s, caps, now), "no"
		if s.Recorded {
			recorded = "yes"
		}
		views = append(views, v)
		kind := s.Kind
		if v.Joins != "" {
			kind = s.JoinMode + " of " + shortID(s.Joins)
		}
		row := []string{shortID(s.Id), s.User, s.Device, s.Login, s.Way, kind, stateOf(s, now), s.ClientAddress, s.Hub,
			when(time.Unix(0, s.StartUnixNano).Unix()), recorded}
		if format == formatWide {
			row[0] = v.ID
			row = append(row, strings.Join(s.Roles, ","), s.DeviceAddress, idleFor(s, now), amount(s.BytesIn), amount(s.BytesOut), v.Caps,
				s.Channel, s.Command, v.Connection)
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
		head = append(head, "ROLES", "AT", "IDLE", "IN", "OUT", "CAPS", "CHANNEL", "COMMAND", "CONNECTION")
	}
	return table(out, head, rows)
}

func newSessionsKill() *cobra.Command {
	r := &api.KillSessionRequest{}
	c := &cobra.Command{
		Use:   "kill ID | --user NAME | --device NAME",
		Short: "End a session and all its processes, or all that a user has or that is open on a device; your own you always may",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				r.Id = args[0]
			}
			named := slices.DeleteFunc([]string{r.Id, r.User, r.Device}, func(s string) bool { return s == "" })
			if len(named) != 1 {
				return usageError{errors.New("name one of: a session by its id, --user, --device")}
			}
			res, err := call(c.Context(), apiconnect.AdminServiceClient.KillSession, r)
			if err != nil {
				return err
			}
			for _, id := range res.Ids {
				fmt.Fprintf(c.ErrOrStderr(), "session %s ends\n", hex.EncodeToString(id))
			}
			if len(res.Ids) == 0 {
				fmt.Fprintln(c.ErrOrStderr(), "none is open; what is just being opened ends too")
			}
			if len(res.HubsAway) > 0 {
				return fmt.Errorf("not connected, so that what they serve ends when they are: hub %s", wire.Quote(strings.Join(res.HubsAway, ", "), maxCell))
			}
			return nil
		},
	}
	c.Flags().StringVar(&r.Reason, "reason", "", "shown to the person")
	c.Flags().StringVar(&r.User, "user", "", "all of this user's connections, sessions and forwards; me: one's own")
	c.Flags().StringVar(&r.Device, "device", "", "all that is open on this device")
	return c
}

// shortID is as much of an id as people need to tell a few hundred apart.
func shortID(id []byte) string {
	return hex.EncodeToString(id[:min(len(id), 6)])
}
