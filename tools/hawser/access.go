package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"hawser/auth/api"
	"hawser/auth/api/apiconnect"
	"hawser/tunnel/wire"
)

// callPolicy makes one call of the policy service as the profile's person.
func callPolicy[Req, Res any](
	ctx context.Context, method func(apiconnect.PolicyServiceClient, context.Context, *connect.Request[Req]) (*connect.Response[Res], error), req *Req,
) (*Res, error) {
	c, err := dial()
	if err != nil {
		return nil, err
	}
	defer c.close()
	res, err := method(c.conn.Policy, ctx, connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

func newAccess() *cobra.Command {
	return group("access", "Who may do what, and by which rule", newAccessExplain(), newAccessReview())
}

func newAccessExplain() *cobra.Command {
	var way, format string
	c := &cobra.Command{
		Use:   "explain USER DEVICE [LOGIN] [CHANNEL]",
		Short: "Say what a user may do on a device, and which rule of which role says so",
		Long: "explain answers for the roles as they are now. Without LOGIN, it lists all that USER may do on\n" +
			"DEVICE. Exit 0: some of what was asked for is allowed; exit 5: none of it.",
		Args:              cobra.RangeArgs(2, 4),
		ValidArgsFunction: completeSecondDevice,
		RunE: func(c *cobra.Command, args []string) error {
			if format != formatTable && format != formatJSON && format != formatYAML {
				return usageError{fmt.Errorf("unknown format %q: table, json or yaml", format)}
			}
			args = append(args, "", "")
			res, err := callPolicy(c.Context(), apiconnect.PolicyServiceClient.ExplainAccess, &api.ExplainAccessRequest{
				User: args[0], Device: args[1], Login: args[2], Channel: args[3], Way: way,
			})
			if err != nil {
				return err
			}
			if format == formatTable {
				err = printExplanation(c.OutOrStdout(), args[2], res)
			} else {
				err = data(c.OutOrStdout(), format, explanationOf(args[2], res))
			}
			if err == nil && !res.Allowed {
				err = silentError(exitDenied)
			}
			return err
		},
	}
	c.Flags().StringVar(&way, "way", "", "hub, end-to-end or direct; all by default")
	c.Flags().StringVarP(&format, "output", "o", formatTable, "table, json or yaml")
	return c
}

// completeSecondDevice completes the DEVICE of USER DEVICE.
func completeSecondDevice(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) != 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return completeDevices(c, nil, typed)
}

// explanation is an answer of explain as JSON or YAML holds it.
type explanation struct {
	User     string            `json:"user" yaml:"user"`
	Device   string            `json:"device" yaml:"device"`
	Login    string            `json:"login,omitempty" yaml:"login,omitempty"`
	Roles    []string          `json:"roles" yaml:"roles"`
	Allowed  bool              `json:"allowed" yaml:"allowed"`
	Verdicts []verdict         `json:"verdicts,omitempty" yaml:"verdicts,omitempty"`
	Reach    []reachRow        `json:"reach,omitempty" yaml:"reach,omitempty"`
	Lines    []explanationLine `json:"lines" yaml:"lines"`
	Demands  *demandsRow       `json:"demands,omitempty" yaml:"demands,omitempty"`
	Notes    []string          `json:"notes,omitempty" yaml:"notes,omitempty"`
	Would    []string          `json:"would_allow,omitempty" yaml:"would_allow,omitempty"`
}

type verdict struct {
	Channel string `json:"channel" yaml:"channel"`
	Way     string `json:"way" yaml:"way"`
	Allowed bool   `json:"allowed" yaml:"allowed"`
	Rule    string `json:"rule" yaml:"rule"`
}

type explanationLine struct {
	Role   string `json:"role" yaml:"role"`
	Effect string `json:"effect" yaml:"effect"`
	Text   string `json:"text" yaml:"text"`
}

type demandsRow struct {
	Record       string   `json:"record" yaml:"record"`
	RecordStdin  string   `json:"record_stdin" yaml:"record_stdin"`
	MFA          string   `json:"mfa" yaml:"mfa"`
	Credentials  []string `json:"credentials" yaml:"credentials"`
	LockMode     string   `json:"lock_mode" yaml:"lock_mode"`
	SessionTTL   string   `json:"session_ttl" yaml:"session_ttl"`
	DetachedLife string   `json:"detached_life" yaml:"detached_life"`
	ForwardTo    []string `json:"forward_to,omitempty" yaml:"forward_to,omitempty"`
	// 0s: no limit
	IdleTimeout           string `json:"idle_timeout" yaml:"idle_timeout"`
	MaxSessionDuration    string `json:"max_session_duration" yaml:"max_session_duration"`
	DisconnectExpiredCert bool   `json:"disconnect_expired_cert" yaml:"disconnect_expired_cert"`
}

func explanationOf(login string, r *api.ExplainAccessResponse) explanation {
	e := explanation{
		User: r.User, Device: r.Device, Login: login, Roles: append([]string{}, r.Roles...), Allowed: r.Allowed, Reach: reachRows(r.Reach),
		Lines: []explanationLine{}, Notes: r.Notes, Would: r.Would,
	}
	for _, v := range r.Verdicts {
		e.Verdicts = append(e.Verdicts, verdict{v.Channel, v.Way, v.Allowed, v.Rule})
	}
	for _, l := range r.Lines {
		e.Lines = append(e.Lines, explanationLine{l.Role, l.Effect, l.Text})
	}
	if d := r.Demands; d != nil {
		e.Demands = &demandsRow{
			d.Record, cmp.Or(d.RecordStdin, "off"), d.Mfa, d.Credentials, d.LockMode, milliseconds(d.SessionTtlMs), milliseconds(d.DetachedLifeMs), d.ForwardTo,
			milliseconds(d.IdleTimeoutMs), milliseconds(d.MaxSessionDurationMs), d.DisconnectExpiredCert,
		}
	}
	return e
}

func milliseconds(ms uint64) string { return (time.Duration(ms) * time.Millisecond).String() }

func printExplanation(w io.Writer, login string, r *api.ExplainAccessResponse) error {
	as := ""
	if login != "" {
		as = " as " + wire.Quote(login, maxCell)
	}
	answer := "yes"
	if !r.Allowed {
		answer = "no"
	}
	fmt.Fprintf(w, "%s on %s%s: %s\n", wire.Quote(r.User, maxCell), wire.Quote(r.Device, maxCell), as, answer)
	if len(r.Verdicts) == 1 {
		v := r.Verdicts[0]
		fmt.Fprintf(w, "  %s by %s: %s\n", v.Channel, v.Way, v.Rule)
	} else {
		printVerdicts(w, r.Verdicts)
	}
	if len(r.Reach) > 0 {
		fmt.Fprintln(w)
		if err := printReach(w, r.Reach, false, false); err != nil {
			return err
		}
	}
	fmt.Fprintln(w)
	if len(r.Roles) == 0 {
		fmt.Fprintf(w, "%s has no role.\n", wire.Quote(r.User, maxCell))
	}
	width := 0
	for _, l := range r.Lines {
		width = max(width, len(l.Role))
	}
	for _, l := range r.Lines {
		mark := map[string]string{"allows": "+", "denies": "-", "limits": "-"}[l.Effect]
		fmt.Fprintf(w, "%1s role %-*s  %s\n", mark, width, wire.Quote(l.Role, maxCell), wire.Quote(l.Text, 2000))
	}
	if d := r.Demands; d != nil {
		fmt.Fprintf(w, "\nrecorded: %s, stdin %s; second factor: %s; accepts: %s; locks: %s; certificates live %s; detached sessions %s\n",
			d.Record, cmp.Or(d.RecordStdin, "off"), d.Mfa, dash(strings.Join(d.Credentials, ", ")), d.LockMode,
			span(time.Duration(d.SessionTtlMs)*time.Millisecond), span(time.Duration(d.DetachedLifeMs)*time.Millisecond))
		fmt.Fprintf(w, "ends when idle for: %s; after: %s; with the certificate: %s\n", limitText(d.IdleTimeoutMs), limitText(d.MaxSessionDurationMs),
			map[bool]string{true: "yes", false: "no"}[d.DisconnectExpiredCert])
		if len(d.ForwardTo) > 0 {
			fmt.Fprintf(w, "forwards reach: %s\n", wire.Quote(strings.Join(d.ForwardTo, ", "), 2000))
		}
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note: %s\n", wire.Quote(n, 2000))
	}
	if len(r.Would) > 0 {
		fmt.Fprintf(w, "would be allowed with role %s\n", strings.Join(r.Would, " or "))
	}
	return nil
}

// limitText is a limit on a session's time, of which 0 is none.
func limitText(ms uint64) string {
	if ms == 0 {
		return "no limit"
	}
	return span(time.Duration(ms) * time.Millisecond)
}

// printVerdicts prints one line a channel, and leaves out what no way allows for one reason.
func printVerdicts(w io.Writer, list []*api.Verdict) {
	for i := 0; i < len(list); {
		j := i
		var yes, no []string
		rule, refused := "", ""
		for ; j < len(list) && list[j].Channel == list[i].Channel; j++ {
			if list[j].Allowed {
				yes, rule = append(yes, list[j].Way), list[j].Rule
			} else {
				no, refused = append(no, list[j].Way), list[j].Rule
			}
		}
		switch {
		case len(yes) > 0:
			fmt.Fprintf(w, "  yes %-15s by %s: %s\n", list[i].Channel, strings.Join(yes, ", "), rule)
		default:
			fmt.Fprintf(w, "  no  %-15s by %s: %s\n", list[i].Channel, strings.Join(no, ", "), refused)
		}
		i = j
	}
}

func newAccessReview() *cobra.Command {
	var user, device, format string
	c := &cobra.Command{
		Use:   "review --user USER | --device DEVICE",
		Short: "List all that a user reaches, or all who reach a device",
		Long:  "review agrees with explain: what it lists is allowed, and what it does not list is not.",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			if user == "" && device == "" {
				return usageError{errors.New("name a user with --user, or a device with --device")}
			}
			res, err := callPolicy(c.Context(), apiconnect.PolicyServiceClient.ReviewAccess, &api.ReviewAccessRequest{User: user, Device: device})
			if err != nil {
				return err
			}
			out := c.OutOrStdout()
			switch format {
			case formatJSON, formatYAML:
				return data(out, format, append([]reachRow{}, reachRows(res.Reach)...))
			case formatName:
				said := make(map[string]bool)
				for _, r := range res.Reach {
					name := r.Device
					if user == "" {
						name = r.User
					}
					if !said[name] {
						fmt.Fprintln(out, name)
					}
					said[name] = true
				}
				return nil
			}
			if len(res.Reach) == 0 {
				fmt.Fprintln(c.ErrOrStderr(), "nothing is reached")
				return nil
			}
			return printReach(out, res.Reach, user == "", user == "" || device == "")
		},
	}
	c.Flags().StringVar(&user, "user", "", "a user's name")
	c.Flags().StringVar(&device, "device", "", "a device's name or UUID")
	c.Flags().StringVarP(&format, "output", "o", formatTable, "table, json, yaml or name")
	return c
}

// reachRow is one line of a review.
type reachRow struct {
	User      string   `json:"user" yaml:"user"`
	Device    string   `json:"device" yaml:"device"`
	UUID      string   `json:"uuid" yaml:"uuid"`
	Role      string   `json:"role" yaml:"role"`
	Logins    []string `json:"logins" yaml:"logins"`
	Except    []string `json:"except,omitempty" yaml:"except,omitempty"`
	Channels  []string `json:"channels" yaml:"channels"`
	Ways      []string `json:"ways" yaml:"ways"`
	ForwardTo []string `json:"forward_to,omitempty" yaml:"forward_to,omitempty"`
}

func reachRows(list []*api.Reach) []reachRow {
	var rows []reachRow
	for _, r := range list {
		rows = append(rows, reachRow{r.User, r.Device, r.DeviceUuid, r.Role, r.Logins, r.Except, r.Channels, r.Ways, r.ForwardTo})
	}
	return rows
}

func printReach(w io.Writer, list []*api.Reach, byUser, named bool) error {
	head := []string{"LOGINS", "CHANNELS", "WAYS", "FORWARDS TO", "ROLE"}
	switch {
	case byUser:
		head = append([]string{"USER"}, head...)
	case named:
		head = append([]string{"DEVICE"}, head...)
	}
	var rows [][]string
	for _, r := range list {
		logins := strings.Join(r.Logins, ",")
		if len(r.Except) > 0 {
			logins += " but " + strings.Join(r.Except, ",")
		}
		row := []string{logins, strings.Join(r.Channels, ","), strings.Join(r.Ways, ","), strings.Join(r.ForwardTo, ","), r.Role}
		switch {
		case byUser:
			row = append([]string{r.User}, row...)
		case named:
			row = append([]string{r.Device}, row...)
		}
		rows = append(rows, row)
	}
	return table(w, head, rows)
}
