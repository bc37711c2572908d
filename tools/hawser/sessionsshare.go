package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"hawser/auth/api"
	"hawser/auth/api/apiconnect"
	"hawser/auth/policy"
	"hawser/tunnel/wire"
)

// callSharing makes one call about who is in a session.
func callSharing[Req, Res any](
	ctx context.Context, method func(apiconnect.SharingServiceClient, context.Context, *connect.Request[Req]) (*connect.Response[Res], error), req *Req,
) (*Res, error) {
	c, err := dial()
	if err != nil {
		return nil, err
	}
	defer c.close()
	res, err := method(c.conn.Sharing, ctx, connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

func newSessionsInvite() *cobra.Command {
	r := &api.InviteToSessionRequest{}
	var life time.Duration
	c := &cobra.Command{
		Use:   "invite ID --user NAME",
		Short: "Tell somebody of a live session: yours, or one you are in",
		Long: `Tell somebody of a live session of yours, or one that you are in. On standard output is the line to hand over; he also sees the invitation in hawser sessions
ls, hawser join and the hub's picker until it ends. It is no right: whether he may join, and how, his roles say when he does, and if they do not now you are
told so. Who was put out of your session may come again.`,
		Example: "  hawser sessions invite 3f9c0a --user bob\n  hawser sessions invite 3f9c0a --user bob --mode peer --ttl 1h",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var err error
			if r.Id, err = sessionID(args[0]); err != nil {
				return err
			}
			switch {
			case checkMode(r.Mode) != nil:
				return checkMode(r.Mode)
			case r.User == "":
				return usageError{errors.New("say who is invited: --user NAME")}
			case life < time.Second:
				return usageError{fmt.Errorf("--ttl %v: a second at least, and 24h at most", life)}
			}
			r.TtlSeconds = uint64(life / time.Second)
			res, err := callSharing(c.Context(), apiconnect.SharingServiceClient.InviteToSession, r)
			if err != nil {
				return err
			}
			printInvited(c.OutOrStdout(), c.ErrOrStderr(), r.User, res)
			return nil
		},
	}
	c.Flags().StringVar(&r.User, "user", "", "who is invited")
	c.Flags().StringVar(&r.Mode, "mode", policy.JoinObserver, "observer, peer or moderator")
	c.Flags().DurationVar(&life, "ttl", 10*time.Minute, "how long the invitation is shown; 24h at most")
	return c
}

// printInvited prints the line to hand over, and what whoever invites is to know.
func printInvited(out, words io.Writer, user string, res *api.InviteToSessionResponse) {
	user = wire.Quote(user, 64)
	line := "hawser join " + shortID(res.Id)
	if res.Mode != policy.JoinObserver {
		line += " --mode " + res.Mode
	}
	fmt.Fprintln(out, line)
	what := fmt.Sprintf("%s's session on %s, until %s", wire.Quote(res.Owner, 64), wire.Quote(res.Device, 64), time.Unix(res.UntilUnix, 0).Local().Format("15:04:05"))
	if res.May {
		fmt.Fprintf(words, "%s is invited as %s to %s\n", user, res.Mode, what)
	} else {
		fmt.Fprintf(words, "warning: no user %s has roles that let him join as %s %s; an admin can give him a role with allow.join, or choose another --mode\n", user, res.Mode, what)
	}
	switch res.Mode {
	case policy.JoinPeer:
		fmt.Fprintf(words, "warning: a peer types as you do, as %s on %s; what he types is recorded as his. `hawser sessions put-out %s %s` ends it\n",
			wire.Quote(res.Login, 64), wire.Quote(res.Device, 64), shortID(res.Id), user)
	case policy.JoinModerator:
		fmt.Fprintln(words, "a moderator may pause and end the session")
	}
}

func newSessionsMessage() *cobra.Command {
	return &cobra.Command{
		Use:   "message ID TEXT...",
		Short: "Show a line to all who are in a live session: yours, one you are in, or any if you may end sessions",
		Long: `Show a line to all who are in a live session: guests on their last line, its owner as soon as his screen bears it (while an editor fills it that is
when he leaves it). It is in the session's recording and in the audit log. Inside a session: hawser-edge status --say TEXT.`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := sessionID(args[0])
			if err != nil {
				return err
			}
			res, err := callSharing(c.Context(), apiconnect.SharingServiceClient.MessageSession, &api.MessageSessionRequest{Id: id, Text: strings.Join(args[1:], " ")})
			if err == nil {
				fmt.Fprintf(c.ErrOrStderr(), "sent to session %s\n", hex.EncodeToString(res.Id))
			}
			return err
		},
	}
}

func newSessionsPutOut() *cobra.Command {
	return &cobra.Command{
		Use:   "put-out ID USER",
		Short: "End a guest's stay in your session, or in any if you may end sessions; he stays out until he is invited again",
		Long: `End a guest's stay in a live session of yours, or in any if you may end sessions. All who are in it are told. He stays out of this session until it is you
who invites him: hawser sessions invite. Inside a session: hawser-edge status --out USER.`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := sessionID(args[0])
			if err != nil {
				return err
			}
			res, err := callSharing(c.Context(), apiconnect.SharingServiceClient.PutOutOfSession, &api.PutOutOfSessionRequest{Id: id, User: args[1]})
			if err == nil {
				fmt.Fprintf(c.ErrOrStderr(), "%s is out of session %s\n", wire.Quote(args[1], 64), hex.EncodeToString(res.Id))
			}
			return err
		},
	}
}

// tellInvitations prints the invitations of whoever lists sessions.
func tellInvitations(ctx context.Context, words io.Writer) {
	res, err := callSharing(ctx, apiconnect.SharingServiceClient.ListJoinable, &api.ListJoinableRequest{})
	if err != nil {
		return // what was asked for is printed
	}
	for _, s := range res.Sessions {
		if s.Invitation == nil {
			continue
		}
		line := "hawser join " + shortID(s.Id)
		if m := s.Invitation.Mode; m != policy.JoinObserver {
			line += " --mode " + wire.Quote(m, 16)
		}
		if preferredMode(s) != s.Invitation.Mode {
			line = "your roles do not let you join so yet"
		}
		fmt.Fprintf(words, "%s invites you to %s's session on %s as %s, for %s: %s\n", wire.Quote(s.Invitation.By, 64), wire.Quote(s.User, 64), wire.Quote(s.Device, 64),
			wire.Quote(s.Invitation.Mode, 16), span(time.Until(time.Unix(s.Invitation.UntilUnix, 0))), line)
	}
}
