package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"connectrpc.com/connect"
	"filippo.io/age"
	"github.com/spf13/cobra"

	"hawser/auth"
	"hawser/auth/api"
	"hawser/auth/backup"
)

func newBackup() *cobra.Command {
	return group("backup", "Back up the cluster while it serves, check a backup, restore one", newBackupCreate(), newBackupVerify(), newBackupRestore())
}

// backupKeys adds the flags that say how a backup is encrypted.
func backupKeys(c *cobra.Command, k *backup.Keys, create bool) {
	if create {
		c.Flags().StringArrayVar(&k.Recipients, "recipient", nil, "encrypt to this `age1...` recipient; may be repeated")
	} else {
		c.Flags().StringArrayVar(&k.IdentityFiles, "identity", nil, "open with the identities of this age `FILE`; may be repeated")
	}
	c.Flags().StringVar(&k.PassphraseFile, "passphrase-file", "", "`FILE` whose first line is the passphrase (or "+backup.PassphraseEnv+")")
	k.Ask = func() (string, error) {
		t, err := openTerminal(c)
		if err != nil {
			return "", nil // nobody is there: what is missing is said
		}
		defer t.close()
		first, err := t.ask(c.Context(), "Passphrase of the backup: ", true)
		if err != nil || !create {
			return first, err
		}
		again, err := t.ask(c.Context(), "Again: ", true)
		if err == nil && again != first {
			err = errors.New("the passphrases differ")
		}
		return first, err
	}
}

func newBackupCreate() *cobra.Command {
	var k backup.Keys
	var recordings bool
	c := &cobra.Command{
		Use:   "create [FILE]",
		Short: "Fetch a backup of one moment from auth, encrypted; - is stdout",
		Long: "Fetch a backup of one moment from auth, encrypted with age: the state, the CA keys, the audit log and, if asked, the recordings.\n" +
			"With --recipient auth encrypts it; with a passphrase this program does, and the passphrase goes nowhere.\n" +
			"A role needs the verb create on the resource backup. Without FILE the name is made of the cluster's and the time.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			to, err := k.To()
			if err != nil {
				return usageError{err}
			}
			a, err := dial()
			if err != nil {
				return err
			}
			defer a.close()
			name := ""
			if len(args) > 0 {
				name = args[0]
			} else {
				name = fmt.Sprintf("%s-%s.hawser-backup", a.profile.Settings.Cluster, time.Now().UTC().Format("20060102-150405"))
			}
			sum, err := fetchBackup(c, a, name, k, to, recordings)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.ErrOrStderr(), "backed up %d records of revision %d, %d files of the audit log, %d recordings\n", sum.Records, sum.Revision, sum.Files, sum.Recordings)
			if name != "-" {
				fmt.Fprintln(c.OutOrStdout(), name)
			}
			return nil
		},
	}
	backupKeys(c, &k, true)
	c.Flags().BoolVar(&recordings, "recordings", false, "with all recordings")
	return c
}

// fetchBackup writes a backup to the file, whole or not at all.
func fetchBackup(c *cobra.Command, a *client, name string, k backup.Keys, to []age.Recipient, recordings bool) (*api.BackupSummary, error) {
	var sum *api.BackupSummary
	if !k.UsesPassphrase() {
		err := backup.WriteFile(name, c.OutOrStdout(), func(w io.Writer) (err error) {
			sum, err = receiveBackup(c.Context(), a, k.Recipients, recordings, w)
			return err
		})
		return sum, err
	}
	// On the way it is encrypted to a key of this run alone, and here to the passphrase.
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, err
	}
	err = backup.EncryptFile(name, c.OutOrStdout(), to, func(w io.Writer) error {
		r, in := io.Pipe()
		received := make(chan error, 1)
		go func() {
			s, err := receiveBackup(c.Context(), a, []string{id.Recipient().String()}, recordings, in)
			sum = s
			in.CloseWithError(err)
			received <- err
		}()
		plain, err := backup.Decrypt(r, id)
		if err == nil {
			_, err = io.Copy(w, plain)
		}
		r.CloseWithError(err)
		if was := <-received; was != nil {
			return was
		}
		return err
	})
	return sum, err
}

func receiveBackup(ctx context.Context, a *client, recipients []string, recordings bool, w io.Writer) (*api.BackupSummary, error) {
	stream, err := a.conn.Backup.CreateBackup(ctx, connect.NewRequest(&api.CreateBackupRequest{Recipients: recipients, Recordings: recordings}))
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	var sum *api.BackupSummary
	for stream.Receive() {
		if _, err := w.Write(stream.Msg().Data); err != nil {
			return nil, err
		}
		if s := stream.Msg().Summary; s != nil {
			sum = s
		}
	}
	if err := stream.Err(); err != nil {
		return nil, err
	}
	if sum == nil {
		return nil, errors.New("the backup ended too early; try again")
	}
	return sum, nil
}

func newBackupVerify() *cobra.Command {
	var k backup.Keys
	c := &cobra.Command{
		Use:   "verify FILE",
		Short: "Read a backup to its end, check all that is in it, and restore nothing; - is stdin",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ids, err := k.Open()
			if err != nil {
				return usageError{err}
			}
			var report auth.BackupReport
			if err := backup.ReadFile(args[0], c.InOrStdin(), ids, func(r io.Reader) (err error) { report, err = auth.VerifyBackup(r); return err }); err != nil {
				return err
			}
			fmt.Fprint(c.OutOrStdout(), report)
			return nil
		},
	}
	backupKeys(c, &k, false)
	return c
}

func newBackupRestore() *cobra.Command {
	var k backup.Keys
	var o auth.RestoreOptions
	var cfg auth.Config
	c := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make an empty data directory of auth of a backup, here; - is stdin",
		Long:  "Make an empty data directory of auth of a backup, on this machine. `hawser-auth backup restore` does the same where only that program is.",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if cfg.Data == "" {
				return usageError{errors.New("where to? give --data DIR")}
			}
			cfg.Passphrase = auth.Passphrase(os.Getenv("HAWSER_PASSPHRASE"))
			ids, err := k.Open()
			if err != nil {
				return usageError{err}
			}
			var report auth.BackupReport
			if err := backup.ReadFile(args[0], c.InOrStdin(), ids, func(r io.Reader) (err error) { report, err = auth.RestoreBackup(cfg, r, o); return err }); err != nil {
				return err
			}
			fmt.Fprint(c.ErrOrStderr(), report)
			fmt.Fprintf(c.ErrOrStderr(), "restored into %s; start it with `hawser-auth run --data %s`. Then:\n", cfg.Data, cfg.Data)
			for _, line := range report.Advice() {
				fmt.Fprintf(c.ErrOrStderr(), "- %s\n", line)
			}
			return nil
		},
	}
	backupKeys(c, &k, false)
	c.Flags().StringVar(&cfg.Data, "data", "", "the empty `DIR`ectory of auth")
	c.Flags().StringVar(&cfg.KeyFile, "key-file", "", "new `FILE` of the key that seals the CA keys (default: auth.key in --data)")
	c.Flags().BoolVar(&o.KeepTokens, "keep-tokens", false, "restore join tokens and invitations too: what was used after the backup can then be used once more")
	return c
}
