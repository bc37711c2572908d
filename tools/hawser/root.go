package main

import (
	"os"

	"github.com/spf13/cobra"

	"hawser/tunnel"
)

// newRoot is the tree of all commands.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "hawser",
		Short:         "Shells on devices you cannot reach",
		Long:          "hawser reaches devices through a cluster of hubs.\nThe profile is read from HAWSER_HOME, ~/.hawser by default.",
		Version:       tunnel.Version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetOut(os.Stdout)
	root.SetErr(os.Stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(
		newUp(), newLogin(), newLogout(), newStatus(), newRenew(), newConfig(),
		newList(), newShow(), newSSH(), newExec(), newSCP(), newJoin(),
		newDevice(), newHub(), newCA(), newBackup(), newToken(), newUser(), newLock(), newAudit(), newSessions(),
		newRecordings(), newPlay(), newApply(), newDiff(), newGet(), newRole(), newAccess(),
	)
	asUsageErrors(root)
	return root
}

// asUsageErrors makes a wrong number of arguments a usage error everywhere.
func asUsageErrors(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usageError{err}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		asUsageErrors(sub)
	}
}
