package main

import (
	"fmt"
	"io"
	"os"
	"strings"

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
	return group("user", "People", newUserAdd(), newUserList(), newUserRemove())
}

func newUserAdd() *cobra.Command {
	var roles, keys []string
	c := &cobra.Command{
		Use:   "add NAME --role ROLE [--key FILE]",
		Short: "Register a person, with SSH public keys to log in by",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(roles) == 0 {
				return usageError{fmt.Errorf("a user without a role can do nothing: give --role")}
			}
			req := &api.AddUserRequest{Name: args[0], Roles: roles}
			for _, file := range keys {
				b, err := readInput(c, file)
				if err != nil {
					return err
				}
				for line := range strings.Lines(string(b)) {
					if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
						req.AuthorizedKeys = append(req.AuthorizedKeys, line)
					}
				}
			}
			res, err := call(c.Context(), apiconnect.AdminServiceClient.AddUser, req)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.ErrOrStderr(), "user %s, roles %s, %d keys\n", res.Name, strings.Join(res.Roles, ","), len(res.Keys))
			return nil
		},
	}
	c.Flags().StringSliceVar(&roles, "role", nil, "a role of the person (may be repeated)")
	c.Flags().StringArrayVar(&keys, "key", nil, "file of SSH public keys, - for standard input (may be repeated)")
	return c
}

func newUserList() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "People and their keys",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			res, err := call(c.Context(), apiconnect.AdminServiceClient.ListUsers, &api.ListUsersRequest{})
			if err != nil {
				return err
			}
			var rows [][]string
			for _, u := range res.Users {
				var prints []string
				for _, k := range u.Keys {
					prints = append(prints, k.Fingerprint)
				}
				rows = append(rows, []string{u.Name, strings.Join(u.Roles, ","), when(u.CreatedUnix), strings.Join(prints, " ")})
			}
			return table(c.OutOrStdout(), []string{"NAME", "ROLES", "SINCE", "KEYS"}, rows)
		},
	}
}

func newUserRemove() *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME",
		Short: "Remove a person",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			_, err := call(c.Context(), apiconnect.AdminServiceClient.RemoveUser, &api.RemoveUserRequest{Name: args[0]})
			return err
		},
	}
}
