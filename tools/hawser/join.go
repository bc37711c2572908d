package main

import (
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
	"hawser/auth/policy"
	"hawser/tunnel/wire"
)

func newJoin() *cobra.Command {
	var mode, format string
	var list bool
	c := &cobra.Command{
		Use:   "join [ID]",
		Short: "Join a live session: see it, type in it, or moderate it",
		Long: `Join a live session of somebody else, or your own from another terminal; 6 digits of its id are enough. Without an id, and with --list, it shows
those you may join or were invited to, and at a terminal asks which.
You see its screen as it is, and whatever way its owner came, everybody in it is told that you are there. Your roles say whose sessions
you may join and how (allow.join); an invitation alone lets nobody in.

  observer    sees; Ctrl-C leaves
  peer        sees and types, as the login of the session; what you type is recorded as yours
  moderator   sees; p pauses, r resumes, T ends it, Ctrl-C leaves

A session that came past the hubs is joined past them, by your certificate, where your roles have that way; else it goes through a hub, which sees what
you see. With ssh alone: ssh -t HUB join ID.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkMode(mode); err != nil {
				return err
			}
			if len(args) == 0 {
				if err := checkFormat(format); err != nil {
					return err
				}
				id, as, err := chooseJoinable(c, format, list)
				if err != nil || id == "" {
					return err
				}
				if c.Flags().Changed("mode") {
					as = mode
				}
				return joinSession(c, id, as)
			}
			if list {
				return usageError{errors.New("--list takes no id")}
			}
			id, err := sessionID(args[0])
			if err != nil {
				return err
			}
			return joinSession(c, id, mode)
		},
	}
	c.Flags().StringVar(&mode, "mode", policy.JoinObserver, "observer, peer or moderator")
	c.Flags().BoolVar(&list, "list", false, "only show which sessions you may join or were invited to")
	c.Flags().StringVarP(&format, "output", "o", formatTable, "of the list: table, json, yaml or name (the ids)")
	return c
}

func checkMode(mode string) error {
	if slices.Contains(policy.JoinModes(), mode) {
		return nil
	}
	return usageError{fmt.Errorf("--mode \"%s\" is not one of observer, peer and moderator", wire.Quote(mode, 32))}
}

// sessionID checks the beginning of an id as a person gives it.
func sessionID(s string) (string, error) {
	id := strings.ToLower(s)
	if len(id) < 6 || len(id) > 32 || strings.Trim(id, "0123456789abcdef") != "" {
		return "", usageError{errors.New("an id is hexadecimal, 6 digits of it at least: hawser sessions ls has them")}
	}
	return id, nil
}

// chooseJoinable shows what may be joined and asks which; an empty id: none.
func chooseJoinable(c *cobra.Command, format string, only bool) (id, mode string, err error) {
	admin, err := dial()
	if err != nil {
		return "", "", err
	}
	defer admin.close()
	res, err := admin.conn.Sharing.ListJoinable(c.Context(), connect.NewRequest(&api.ListJoinableRequest{}))
	if err != nil {
		return "", "", err
	}
	sessions := res.Msg.Sessions
	if len(sessions) == 0 && format == formatTable {
		fmt.Fprintln(c.ErrOrStderr(), "there is no live session that your roles let you join, and nobody has invited you to one")
		return "", "", nil
	}
	ask := !only && format == formatTable && atTerminal(c)
	if err := printJoinable(c.OutOrStdout(), format, sessions, ask, time.Now()); err != nil || !ask {
		return "", "", err
	}
	for {
		answer, err := askLine(c, "Which, by its number or id (empty: none)? ")
		if err != nil || answer == "" {
			return "", "", err
		}
		if s := pickJoinable(sessions, answer); s != nil {
			modes := modesFor(s)
			if mode = preferredMode(s); mode == "" {
				if len(modes) == 0 {
					fmt.Fprintln(c.ErrOrStderr(), "your roles do not let you join that one; ask an admin for a role with allow.join")
					continue
				}
				mode = modes[0]
			}
			return hex.EncodeToString(s.Id), mode, nil
		}
		fmt.Fprintln(c.ErrOrStderr(), "that is none of them, or several")
	}
}

// pickJoinable is the one that a person means; nil: none, or several.
func pickJoinable(list []*api.JoinableSession, answer string) *api.JoinableSession {
	var n int
	if _, err := fmt.Sscanf(answer, "%d", &n); err == nil && len(answer) < 4 && n >= 1 && n <= len(list) {
		return list[n-1]
	}
	list = slices.DeleteFunc(slices.Clone(list), func(s *api.JoinableSession) bool {
		return !strings.HasPrefix(hex.EncodeToString(s.Id), strings.ToLower(answer))
	})
	if len(list) != 1 {
		return nil
	}
	return list[0]
}

// modesFor are all in which he may join, by whatever way.
func modesFor(s *api.JoinableSession) []string {
	modes := slices.Clone(s.ModesByHub)
	for _, m := range s.ModesEndToEnd {
		if !slices.Contains(modes, m) {
			modes = append(modes, m)
		}
	}
	return modes
}

// preferredMode is the mode that he was invited in, or the quietest, where he may; empty: he may not.
func preferredMode(s *api.JoinableSession) string {
	modes := modesFor(s)
	for _, m := range []string{s.Invitation.GetMode(), policy.JoinObserver} {
		if slices.Contains(modes, m) {
			return m
		}
	}
	return ""
}

// joinableView is how a session that may be joined is printed as data.
type joinableView struct {
	ID        string   `json:"id" yaml:"id"`
	User      string   `json:"user" yaml:"user"`
	Device    string   `json:"device" yaml:"device"`
	Login     string   `json:"login" yaml:"login"`
	Way       string   `json:"way" yaml:"way"`
	Channel   string   `json:"channel,omitempty" yaml:"channel,omitempty"`
	Start     string   `json:"start" yaml:"start"`
	Recorded  bool     `json:"recorded" yaml:"recorded"`
	Hub       string   `json:"hub" yaml:"hub"`
	Guests    uint32   `json:"guests" yaml:"guests"`
	Modes     []string `json:"modes" yaml:"modes"` // in which one may join
	InvitedBy string   `json:"invited_by,omitempty" yaml:"invited_by,omitempty"`
	InvitedAs string   `json:"invited_as,omitempty" yaml:"invited_as,omitempty"`
	Until     string   `json:"invited_until,omitempty" yaml:"invited_until,omitempty"`
}

func printJoinable(out io.Writer, format string, list []*api.JoinableSession, numbered bool, now time.Time) error {
	views := make([]joinableView, 0, len(list))
	var rows [][]string
	for i, s := range list {
		v := joinableView{
			ID: hex.EncodeToString(s.Id), User: s.User, Device: s.Device, Login: s.Login, Way: s.Way, Channel: s.Channel, Start: nanoStamp(s.StartUnixNano),
			Recorded: s.Recorded, Hub: s.Hub, Guests: s.Guests, Modes: modesFor(s), InvitedBy: s.Invitation.GetBy(), InvitedAs: s.Invitation.GetMode(),
		}
		row := []string{shortID(s.Id), s.User, s.Device, s.Login, s.Way, span(now.Sub(time.Unix(0, s.StartUnixNano))) + " ago", fmt.Sprint(s.Guests), strings.Join(v.Modes, ",")}
		if s.Invitation != nil {
			v.Until = time.Unix(s.Invitation.UntilUnix, 0).UTC().Format(time.RFC3339)
		}
		row = append(row, invitedWords(s.Invitation, now))
		if numbered {
			row = append([]string{fmt.Sprint(i + 1)}, row...)
		}
		views, rows = append(views, v), append(rows, row)
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
	head := []string{"ID", "USER", "DEVICE", "LOGIN", "WAY", "SINCE", "GUESTS", "MODES", "INVITED"}
	if numbered {
		head = append([]string{"#"}, head...)
	}
	return table(out, head, rows)
}

func invitedWords(i *api.Invitation, now time.Time) string {
	if i == nil {
		return ""
	}
	return fmt.Sprintf("by %s as %s, for %s", i.By, i.Mode, span(time.Unix(i.UntilUnix, 0).Sub(now)))
}
