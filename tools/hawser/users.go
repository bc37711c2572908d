package main

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"hawser/auth/api"
	"hawser/auth/api/apiconnect"
)

// maxInput bounds a file that a command reads whole, in bytes.
const maxInput = 1 << 20

// readInput reads a file, or standard input when the path is "-".
func readInput(c *cobra.Command, path string) ([]byte, error) {
	in := c.InOrStdin()
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(b) > maxInput {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxInput)
	}
	return b, nil
}

func newUser() *cobra.Command {
	return group("user", "People: roles, links, keys, passwords",
		newUserAdd(), newUserList(), newUserShow(), newUserRemove(), newUserInvite(), newUserReset(), newUserRoles(), newUserSources(), newUserUnlock(),
		group("key", "Registered SSH keys", newUserKeyAdd(), newUserKeyList(), newUserKeyRemove()), newUserPassword(), newUserAuthenticator())
}

// callUser is call for what concerns users.
func callUser[Req, Res any](
	ctx context.Context, method func(apiconnect.UserServiceClient, context.Context, *connect.Request[Req]) (*connect.Response[Res], error), req *Req,
) (*Res, error) {
	c, err := dial()
	if err != nil {
		return nil, err
	}
	defer c.close()
	res, err := method(c.conn.User, ctx, connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// life turns a --ttl into seconds; zero stays zero.
func life(ttl time.Duration) (uint64, error) {
	if ttl < 0 || ttl > 0 && ttl < time.Second {
		return 0, usageError{fmt.Errorf("--ttl %v: at least 1s", ttl)}
	}
	return uint64(ttl / time.Second), nil
}

// keyLines are the keys of files in the form of authorized_keys.
func keyLines(c *cobra.Command, files []string) ([]string, error) {
	var lines []string
	for _, file := range files {
		b, err := readInput(c, file)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				lines = append(lines, line)
			}
		}
	}
	return lines, nil
}

func newUserAdd() *cobra.Command {
	var (
		roles, keys, sources []string
		ttl                  time.Duration
	)
	c := &cobra.Command{
		Use:   "add NAME --role ROLE [--key FILE]",
		Short: "Register a person, with SSH public keys to log in by",
		Long:  "Register a person, with SSH public keys to log in by. `hawser user invite` registers one who logs in with a password.",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(roles) == 0 {
				return usageError{fmt.Errorf("a user without a role can do nothing: give --role")}
			}
			seconds, err := life(ttl)
			if err != nil {
				return err
			}
			lines, err := keyLines(c, keys)
			if err != nil {
				return err
			}
			res, err := call(c.Context(), apiconnect.AdminServiceClient.AddUser, &api.AddUserRequest{
				Name: args[0], Roles: roles, AuthorizedKeys: lines, KeyTtlSeconds: seconds, SourceAddresses: sources,
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(c.ErrOrStderr(), "user %s, roles %s, %d keys\n", res.Name, strings.Join(res.Roles, ","), len(res.Keys))
			if len(res.Keys) == 0 {
				fmt.Fprintf(c.ErrOrStderr(), "%s cannot log in yet: `hawser user invite %s` makes a link for a password, `hawser user key add --user %s FILE` registers a key\n", res.Name, res.Name, res.Name)
			}
			return nil
		},
	}
	c.Flags().StringSliceVar(&roles, "role", nil, "a role of the person (may be repeated)")
	c.Flags().StringArrayVar(&keys, "key", nil, "file of SSH public keys, - for standard input (may be repeated)")
	c.Flags().DurationVar(&ttl, "ttl", 0, "how long the keys are good; 0: until they are removed")
	c.Flags().StringSliceVar(&sources, "source", nil, "a network the person may come from, by whatever credential (may be repeated; none: anywhere)")
	return c
}

// userView is how a user is printed as data.
type userView struct {
	Name          string    `json:"name" yaml:"name"`
	Roles         []string  `json:"roles" yaml:"roles"`
	Created       string    `json:"created" yaml:"created"`
	Password      bool      `json:"password" yaml:"password"`
	Authenticator bool      `json:"authenticator" yaml:"authenticator"`
	LastLogin     string    `json:"last_login,omitempty" yaml:"last_login,omitempty"`
	LastFrom      string    `json:"last_login_from,omitempty" yaml:"last_login_from,omitempty"`
	LinkUntil     string    `json:"link_until,omitempty" yaml:"link_until,omitempty"`
	LockedUntil   string    `json:"logins_held_off_until,omitempty" yaml:"logins_held_off_until,omitempty"`
	Sources       []string  `json:"sources,omitempty" yaml:"sources,omitempty"`
	Keys          []keyView `json:"keys,omitempty" yaml:"keys,omitempty"`
}

type keyView struct {
	Fingerprint  string   `json:"fingerprint" yaml:"fingerprint"`
	Key          string   `json:"key" yaml:"key"`
	Comment      string   `json:"comment,omitempty" yaml:"comment,omitempty"`
	Added        string   `json:"added,omitempty" yaml:"added,omitempty"`
	Expires      string   `json:"expires,omitempty" yaml:"expires,omitempty"`
	Expired      bool     `json:"expired,omitempty" yaml:"expired,omitempty"`
	LastUsed     string   `json:"last_used,omitempty" yaml:"last_used,omitempty"`
	LastFrom     string   `json:"last_used_from,omitempty" yaml:"last_used_from,omitempty"`
	Sources      []string `json:"sources,omitempty" yaml:"sources,omitempty"`
	ForceCommand string   `json:"force_command,omitempty" yaml:"force_command,omitempty"`
}

// rfc3339 prints a Unix time as data; 0 is left away.
func rfc3339(unix int64) string {
	if unix == 0 {
		return ""
	}
	return time.Unix(unix, 0).UTC().Format(time.RFC3339)
}

func viewUser(u *api.User, now time.Time) userView {
	v := userView{
		Name: u.Name, Roles: u.Roles, Created: rfc3339(u.CreatedUnix), Password: u.Password, Authenticator: u.Authenticator, LastLogin: rfc3339(u.LastLoginUnix),
		LastFrom: u.LastLoginSource, LinkUntil: rfc3339(u.LinkExpiresUnix), LockedUntil: rfc3339(u.LockedUntilUnix), Sources: u.SourceAddresses,
	}
	for _, k := range u.Keys {
		v.Keys = append(v.Keys, keyView{
			Fingerprint: k.Fingerprint, Key: k.AuthorizedKey, Comment: k.Comment, Added: rfc3339(k.AddedUnix), Expires: rfc3339(k.ExpiresUnix),
			Expired: k.ExpiresUnix != 0 && !now.Before(time.Unix(k.ExpiresUnix, 0)), LastUsed: rfc3339(k.LastUsedUnix), LastFrom: k.LastUsedSource,
			Sources: k.SourceAddresses, ForceCommand: k.ForceCommand,
		})
	}
	return v
}

// loginOf says in a word how a user can log in.
func loginOf(u *api.User, now time.Time) string {
	var ways []string
	if u.Password {
		ways = append(ways, "password")
	}
	if u.Authenticator {
		ways = append(ways, "code")
	}
	if n := len(u.Keys); n > 0 {
		ways = append(ways, fmt.Sprintf("%d keys", n))
	}
	if u.LinkExpiresUnix != 0 {
		ways = append(ways, "link open")
	}
	if now.Before(time.Unix(u.LockedUntilUnix, 0)) {
		ways = append(ways, "held off")
	}
	return strings.Join(ways, ", ")
}

func newUserList() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "ls",
		Short: "People, how they log in, and when they last did",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			res, err := call(c.Context(), apiconnect.AdminServiceClient.ListUsers, &api.ListUsersRequest{})
			if err != nil {
				return err
			}
			return printUsers(c.OutOrStdout(), format, res.Users, time.Now())
		},
	}
	c.Flags().StringVarP(&format, "output", "o", formatTable, "table, wide, json, yaml or name")
	return c
}

func printUsers(out io.Writer, format string, list []*api.User, now time.Time) error {
	views := make([]userView, 0, len(list))
	var rows [][]string
	for _, u := range list {
		views = append(views, viewUser(u, now))
		row := []string{u.Name, strings.Join(u.Roles, ","), loginOf(u, now), when(u.LastLoginUnix)}
		if format == formatWide {
			row = append(row, u.LastLoginSource, when(u.CreatedUnix), strings.Join(u.SourceAddresses, ","))
		}
		rows = append(rows, row)
	}
	switch format {
	case formatName:
		for _, u := range list {
			fmt.Fprintln(out, u.Name)
		}
		return nil
	case formatJSON, formatYAML:
		return data(out, format, views)
	}
	head := []string{"NAME", "ROLES", "LOGIN BY", "LAST LOGIN"}
	if format == formatWide {
		head = append(head, "FROM", "SINCE", "ONLY FROM")
	}
	return table(out, head, rows)
}

func newUserShow() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "show [NAME]",
		Short: "One person, yourself by default, with keys",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			res, err := callUser(c.Context(), apiconnect.UserServiceClient.GetUser, &api.GetUserRequest{Name: first(args)})
			if err != nil {
				return err
			}
			out := c.OutOrStdout()
			switch format {
			case formatJSON, formatYAML:
				return data(out, format, viewUser(res, time.Now()))
			case formatName:
				fmt.Fprintln(out, res.Name)
				return nil
			}
			if err := printUsers(out, formatWide, []*api.User{res}, time.Now()); err != nil {
				return err
			}
			if len(res.Keys) == 0 {
				return nil
			}
			fmt.Fprintln(out)
			return printKeys(out, res.Keys, time.Now())
		},
	}
	c.Flags().StringVarP(&format, "output", "o", formatTable, "table, json, yaml or name")
	return c
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func printKeys(out io.Writer, keys []*api.UserKey, now time.Time) error {
	var rows [][]string
	for _, k := range keys {
		kind, _, _ := strings.Cut(k.AuthorizedKey, " ")
		until := when(k.ExpiresUnix)
		if k.ExpiresUnix != 0 && !now.Before(time.Unix(k.ExpiresUnix, 0)) {
			until = "expired"
		}
		limits := k.SourceAddresses
		if k.ForceCommand != "" {
			limits = append(slices.Clone(limits), "runs "+k.ForceCommand)
		}
		rows = append(rows, []string{k.Fingerprint, kind, k.Comment, until, when(k.LastUsedUnix), k.LastUsedSource, strings.Join(limits, ", ")})
	}
	return table(out, []string{"KEY", "KIND", "COMMENT", "UNTIL", "LAST USED", "FROM", "LIMITS"}, rows)
}

func newUserRemove() *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME",
		Short: "Remove a person: keys, links, tokens made, certificates and live sessions end",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			_, err := call(c.Context(), apiconnect.AdminServiceClient.RemoveUser, &api.RemoveUserRequest{Name: args[0]})
			return err
		},
	}
}

// printLink gives the command to hand over on stdout, and says on stderr what it is.
func printLink(c *cobra.Command, res *api.InviteUserResponse) {
	fmt.Fprintf(c.OutOrStdout(), "hawser login --invite %s\n", res.Link)
	fmt.Fprintf(c.ErrOrStderr(), "hand this line to %s by a way only %s reads; it is good once, until %s, and not shown again\n", res.User.Name, res.User.Name, when(res.ExpiresUnix))
}

func newUserInvite() *cobra.Command {
	var (
		roles, sources []string
		ttl            time.Duration
	)
	c := &cobra.Command{
		Use:   "invite NAME [--role ROLE]",
		Short: "Print the command by which a person sets password and authenticator; with --role register the person",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			seconds, err := life(ttl)
			if err != nil {
				return err
			}
			res, err := callUser(c.Context(), apiconnect.UserServiceClient.InviteUser, &api.InviteUserRequest{Name: args[0], Roles: roles, TtlSeconds: seconds, SourceAddresses: sources})
			if err != nil {
				return err
			}
			printLink(c, res)
			return nil
		},
	}
	c.Flags().StringSliceVar(&roles, "role", nil, "a role of the new person (may be repeated); none: the person is registered already")
	c.Flags().DurationVar(&ttl, "ttl", 72*time.Hour, "how long the link is good")
	c.Flags().StringSliceVar(&sources, "source", nil, "a network the person may come from (may be repeated; none: anywhere)")
	return c
}

func newUserReset() *cobra.Command {
	var ttl time.Duration
	c := &cobra.Command{
		Use:   "reset NAME",
		Short: "Take password and authenticator from a person, and print the command that sets new ones",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			seconds, err := life(ttl)
			if err != nil {
				return err
			}
			res, err := callUser(c.Context(), apiconnect.UserServiceClient.ResetUser, &api.ResetUserRequest{Name: args[0], TtlSeconds: seconds})
			if err != nil {
				return err
			}
			printLink(c, res)
			fmt.Fprintf(c.ErrOrStderr(), "certificates and keys of %s are as they were; `hawser lock add --user %s` ends their use\n", res.User.Name, res.User.Name)
			return nil
		},
	}
	c.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long the link is good")
	return c
}

func newUserRoles() *cobra.Command {
	return &cobra.Command{
		Use:   "set-roles NAME ROLE...",
		Short: "Replace a person's roles; taking one away voids the certificates issued before",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			var roles []string
			for _, a := range args[1:] {
				roles = append(roles, strings.Split(a, ",")...)
			}
			res, err := callUser(c.Context(), apiconnect.UserServiceClient.SetUserRoles, &api.SetUserRolesRequest{Name: args[0], Roles: roles})
			if err != nil {
				return err
			}
			fmt.Fprintf(c.ErrOrStderr(), "user %s, roles %s\n", res.Name, strings.Join(res.Roles, ","))
			return nil
		},
	}
}

func newUserSources() *cobra.Command {
	return &cobra.Command{
		Use:   "sources NAME [NETWORK...]",
		Short: "Replace the networks a person may come from, by whatever credential; none: anywhere",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			res, err := callUser(c.Context(), apiconnect.UserServiceClient.SetUserSources, &api.SetUserSourcesRequest{Name: args[0], SourceAddresses: args[1:]})
			if err != nil {
				return err
			}
			from := strings.Join(res.SourceAddresses, ", ")
			if from == "" {
				from = "anywhere"
			}
			fmt.Fprintf(c.ErrOrStderr(), "user %s may come from %s; log in again where you had\n", res.Name, from)
			return nil
		},
	}
}

func newUserUnlock() *cobra.Command {
	return &cobra.Command{
		Use:   "unlock NAME",
		Short: "Forget a person's failed logins, so that the next is looked at now",
		Long:  "Forget a person's failed logins, so that the next is looked at now. A lock of `hawser lock add` is removed by `hawser lock rm`.",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			_, err := callUser(c.Context(), apiconnect.UserServiceClient.UnlockUser, &api.UnlockUserRequest{Name: args[0]})
			return err
		},
	}
}

func newUserKeyAdd() *cobra.Command {
	var (
		user, force string
		sources     []string
		ttl         time.Duration
	)
	c := &cobra.Command{
		Use:   "add FILE [--user NAME]",
		Short: "Register an SSH public key (also sk-ssh-ed25519 and sk-ecdsa), your own by default",
		Long: `Register an SSH public key, your own by default.

For yourself, password and code are asked for again, the key lives 90 days at
most, and ssh-keygen signs with it to prove that you have it: the private key
lies beside FILE (without .pub) or in the agent.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			seconds, err := life(ttl)
			if err != nil {
				return err
			}
			lines, err := keyLines(c, args)
			if err != nil {
				return err
			}
			if len(lines) != 1 {
				return fmt.Errorf("%s holds %d keys; give a file of one", args[0], len(lines))
			}
			req := &api.AddUserKeyRequest{Name: user, AuthorizedKey: lines[0], TtlSeconds: seconds, SourceAddresses: sources, ForceCommand: force}
			if err := proveKey(c, req, args[0]); err != nil {
				return err
			}
			res, err := callUser(c.Context(), apiconnect.UserServiceClient.AddUserKey, req)
			if err != nil {
				return err
			}
			return printKeys(c.OutOrStdout(), res.Keys, time.Now())
		},
	}
	c.Flags().StringVar(&user, "user", "", "whose it is (default: yours)")
	c.Flags().DurationVar(&ttl, "ttl", 0, "how long it is good; 0: of others until it is removed, of yours 90 days")
	c.Flags().StringSliceVar(&sources, "source", nil, "a network it is good from (may be repeated; none: anywhere)")
	c.Flags().StringVar(&force, "force-command", "", "command that runs in place of whatever is asked for; the key opens nothing else")
	return c
}

// proveKey puts what one's own key needs into req: password, code, and a signature by the key. Who administers users needs none.
func proveKey(c *cobra.Command, req *api.AddUserKeyRequest, file string) error {
	me, err := call(c.Context(), apiconnect.AdminServiceClient.Whoami, &api.WhoamiRequest{})
	if err != nil {
		return err
	}
	if req.Name != "" && req.Name != me.User || me.AdministersUsers {
		return nil
	}
	if file == "-" {
		return usageError{errors.New("a key of your own needs the private key beside its file: give the file")}
	}
	if req.Proof, err = signKey(c, file, me.User, me.Cluster); err != nil {
		return err
	}
	if req.Password, err = askSecret(c, "Password: "); err != nil {
		return err
	}
	req.Code, err = askLine(c, "Code of your authenticator (empty: none): ")
	return err
}

// signKey has ssh-keygen sign, so that agents and security keys work as they do for ssh.
func signKey(c *cobra.Command, file, user, cluster string) ([]byte, error) {
	cmd := exec.CommandContext(c.Context(), "ssh-keygen", "-Y", "sign", "-q", "-n", "hawser-key", "-f", file)
	cmd.Stdin = strings.NewReader("This SSH key is " + user + "'s in the Hawser cluster " + cluster + ".\n")
	cmd.Stderr = c.ErrOrStderr()
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("sign with %s: %w; put the private key beside it or into the agent", file, err)
	}
	block, _ := pem.Decode(out)
	if block == nil || block.Type != "SSH SIGNATURE" {
		return nil, errors.New("ssh-keygen wrote no signature; OpenSSH 8.1 or later is needed")
	}
	return block.Bytes, nil
}

func newUserKeyList() *cobra.Command {
	return &cobra.Command{
		Use:   "ls [NAME]",
		Short: "A person's keys, yours by default: until when, and when last used",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			res, err := callUser(c.Context(), apiconnect.UserServiceClient.GetUser, &api.GetUserRequest{Name: first(args)})
			if err != nil {
				return err
			}
			return printKeys(c.OutOrStdout(), res.Keys, time.Now())
		},
	}
}

func newUserKeyRemove() *cobra.Command {
	var user string
	c := &cobra.Command{
		Use:   "rm FINGERPRINT [--user NAME]",
		Short: "Remove a key, yours by default; what it opened ends",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			_, err := callUser(c.Context(), apiconnect.UserServiceClient.RemoveUserKey, &api.RemoveUserKeyRequest{Name: user, Fingerprint: args[0]})
			return err
		},
	}
	c.Flags().StringVar(&user, "user", "", "whose it is (default: yours)")
	return c
}

func newUserPassword() *cobra.Command {
	return &cobra.Command{
		Use:   "password",
		Short: "Change your password",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			req := new(api.ChangePasswordRequest)
			var err error
			if req.Password, err = askSecret(c, "Present password: "); err != nil {
				return err
			}
			if req.Code, err = askLine(c, "Code of your authenticator (empty: none): "); err != nil {
				return err
			}
			if req.NewPassword, err = askNewPassword(c); err != nil {
				return err
			}
			if _, err = callUser(c.Context(), apiconnect.UserServiceClient.ChangePassword, req); err != nil {
				return err
			}
			fmt.Fprintln(c.ErrOrStderr(), "the password is changed; certificates you have stay good, `hawser logout --everywhere` ends them")
			return nil
		},
	}
}

func newUserAuthenticator() *cobra.Command {
	return &cobra.Command{
		Use:   "authenticator",
		Short: "Add or replace your authenticator (TOTP)",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			req := new(api.EnrolAuthenticatorRequest)
			var err error
			if req.Password, err = askSecret(c, "Password: "); err != nil {
				return err
			}
			if req.Code, err = askLine(c, "Code of your present authenticator (empty: none): "); err != nil {
				return err
			}
			res, err := callUser(c.Context(), apiconnect.UserServiceClient.EnrolAuthenticator, req)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.ErrOrStderr(), "add this to your authenticator:\n")
			fmt.Fprintf(c.OutOrStdout(), "%s\n%s\n", res.OtpauthUrl, res.OtpSecret)
			code, err := askLine(c, "A code of it: ")
			if err != nil {
				return err
			}
			if _, err = callUser(c.Context(), apiconnect.UserServiceClient.ConfirmAuthenticator, &api.ConfirmAuthenticatorRequest{Code: code}); err != nil {
				return err
			}
			fmt.Fprintln(c.ErrOrStderr(), "from now on logins ask for a code of it; renew your certificates with `hawser login`")
			return nil
		},
	}
}
