package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"hawser/auth"
	"hawser/auth/backup"
)

func newBackup() *cobra.Command {
	c := &cobra.Command{
		Use:   "backup",
		Short: "Back up the data directory, check a backup, restore one",
		Long: "Back up the data directory, check a backup, restore one. A running service is backed up through its API: `hawser backup create`.\n" +
			"A backup is one file, encrypted with age, that holds everything, the CA keys too.",
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newBackupCreate(), newBackupVerify(), newBackupRestore())
	return c
}

// keyFlags adds the flags that say how a backup is encrypted.
func keyFlags(c *cobra.Command, k *backup.Keys, create bool) {
	if create {
		c.Flags().StringArrayVar(&k.Recipients, "recipient", nil, "encrypt to this `age1...` recipient; may be repeated")
	} else {
		c.Flags().StringArrayVar(&k.IdentityFiles, "identity", nil, "open with the identities of this age `FILE`; may be repeated")
	}
	c.Flags().StringVar(&k.PassphraseFile, "passphrase-file", "", "`FILE` whose first line is the passphrase (or "+backup.PassphraseEnv+")")
	k.Ask = func() (string, error) {
		if !term.IsTerminal(int(os.Stdin.Fd())) {
			return "", nil
		}
		fmt.Fprint(os.Stderr, "Passphrase of the backup: ")
		b, err := term.ReadPassword(int(os.Stdin.Fd()))
		fmt.Fprintln(os.Stderr)
		if err != nil || !create {
			return string(b), err
		}
		fmt.Fprint(os.Stderr, "Again: ")
		again, err := term.ReadPassword(int(os.Stdin.Fd()))
		fmt.Fprintln(os.Stderr)
		if err == nil && string(again) != string(b) {
			err = fmt.Errorf("the passphrases differ")
		}
		return string(b), err
	}
}

func newBackupCreate() *cobra.Command {
	var k backup.Keys
	var recordings bool
	c := &cobra.Command{Use: "create FILE", Short: "Back up the data directory of a service that is stopped; - is stdout", Args: oneArg}
	addFlags(c.Flags())
	keyFlags(c, &k, true)
	c.Flags().BoolVar(&recordings, "recordings", false, "with all recordings")
	c.RunE = func(c *cobra.Command, args []string) error {
		cfg, err := load(c.Flags(), os.LookupEnv)
		if err != nil {
			return usageError{err}
		}
		to, err := k.To()
		if err != nil {
			return usageError{err}
		}
		var end backup.End
		err = backup.EncryptFile(args[0], c.OutOrStdout(), to, func(w io.Writer) (err error) {
			end, err = auth.Backup(c.Context(), cfg, w, recordings)
			return err
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(c.ErrOrStderr(), "backed up %d records of revision %d, %d files of the audit log, %d recordings\n", end.Records, end.Revision, end.Files, end.Recordings)
		return nil
	}
	return c
}

func newBackupVerify() *cobra.Command {
	var k backup.Keys
	c := &cobra.Command{Use: "verify FILE", Short: "Read a backup to its end, check all that is in it, and restore nothing; - is stdin", Args: oneArg}
	keyFlags(c, &k, false)
	c.RunE = func(c *cobra.Command, args []string) error {
		ids, err := k.Open()
		if err != nil {
			return usageError{err}
		}
		var report auth.BackupReport
		err = backup.ReadFile(args[0], c.InOrStdin(), ids, func(r io.Reader) (err error) { report, err = auth.VerifyBackup(r); return err })
		if err != nil {
			return err
		}
		fmt.Fprint(c.OutOrStdout(), report)
		return nil
	}
	return c
}

func newBackupRestore() *cobra.Command {
	var k backup.Keys
	var o auth.RestoreOptions
	c := &cobra.Command{Use: "restore FILE", Short: "Make an empty data directory of a backup; - is stdin", Args: oneArg,
		Long: "Make an empty data directory of a backup. The CA keys are sealed anew: by HAWSER_PASSPHRASE where it is set, else by a new key file."}
	addFlags(c.Flags())
	keyFlags(c, &k, false)
	c.Flags().BoolVar(&o.KeepTokens, "keep-tokens", false, "restore join tokens and invitations too: what was used after the backup can then be used once more")
	c.RunE = func(c *cobra.Command, args []string) error {
		cfg, err := load(c.Flags(), os.LookupEnv)
		if err != nil {
			return usageError{err}
		}
		ids, err := k.Open()
		if err != nil {
			return usageError{err}
		}
		var report auth.BackupReport
		err = backup.ReadFile(args[0], c.InOrStdin(), ids, func(r io.Reader) (err error) { report, err = auth.RestoreBackup(cfg, r, o); return err })
		if err != nil {
			return err
		}
		fmt.Fprint(c.ErrOrStderr(), report)
		fmt.Fprintf(c.ErrOrStderr(), "restored into %s; start it with `hawser-auth run --data %s`. Then:\n", cfg.Data, cfg.Data)
		for _, line := range report.Advice() {
			fmt.Fprintf(c.ErrOrStderr(), "- %s\n", line)
		}
		return nil
	}
	return c
}

func oneArg(c *cobra.Command, args []string) error {
	if err := cobra.ExactArgs(1)(c, args); err != nil {
		return usageError{err}
	}
	return nil
}
