package main

import (
	"encoding/hex"
	"fmt"
	"net"
	"slices"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"hawser/auth/api"
	"hawser/auth/policy"
)

// joinVariable says to a device's own SSH server which session is to be joined.
const joinVariable = "HAWSER_JOIN"

// joinSession joins a live session with ssh(1), by the way that shows it to the fewest: past the hubs, where its owner came so.
func joinSession(c *cobra.Command, id, mode string) error {
	words, note, err := joinWords(c, id, mode)
	if err != nil {
		return err
	}
	if note != "" {
		fmt.Fprintln(c.ErrOrStderr(), "hawser:", note)
	}
	return runOpenSSH(c, "ssh", words)
}

// joinWords are ssh's, and what the person is to know.
func joinWords(c *cobra.Command, id, mode string) (words []string, note string, err error) {
	admin, err := dial()
	if err != nil {
		return nil, "", err
	}
	defer admin.close()
	res, err := admin.conn.Sharing.ListJoinable(c.Context(), connect.NewRequest(&api.ListJoinableRequest{Id: id}))
	if err != nil {
		return nil, "", err
	}
	var s *api.JoinableSession
	if len(res.Msg.Sessions) == 1 { // of none or several the hub says why
		s = res.Msg.Sessions[0]
	}
	words, note = joinBy(s, id, mode)
	return words, note, nil
}

// joinBy is how a session is joined; nil: it is not known.
func joinBy(s *api.JoinableSession, id, mode string) (words []string, note string) {
	hub := []string{"-t", "hub", "join", id, "--mode", mode}
	switch {
	case s == nil:
	case s.Behind && len(s.HubSshAddresses) > 0:
		host, port, err := net.SplitHostPort(s.HubSshAddresses[0])
		if err == nil {
			return append([]string{"-o", "HostName=" + host, "-p", port}, hub...), ""
		}
	case s.Way == policy.WayHub:
	case slices.Contains(s.ModesEndToEnd, mode):
		what := hex.EncodeToString(s.Id) + ":" + mode
		return []string{"-t", "-o", "SetEnv=" + joinVariable + "=" + what, "-l", s.Login, "e2e-" + s.Device}, ""
	case slices.Contains(s.ModesByHub, mode):
		return hub, fmt.Sprintf("%s came to %s past the hubs, and your roles do not let you in that way as %s: you join through a hub, which sees what you see", s.User, s.Device, mode)
	}
	return hub, ""
}
