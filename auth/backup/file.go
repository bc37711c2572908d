package backup

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
)

// PassphraseEnv is the variable that may hold a backup's passphrase.
const PassphraseEnv = "HAWSER_BACKUP_PASSPHRASE"

// Keys are what the commands are told about whom a backup is encrypted to, or who opens it.
type Keys struct {
	Recipients     []string // of age
	IdentityFiles  []string // of age
	PassphraseFile string   // its first line
	// Ask asks for a passphrase where nothing else is given; nil asks nobody.
	Ask func() (string, error)
}

// UsesPassphrase tells whether a backup is encrypted with a passphrase: where no recipient is given.
func (k Keys) UsesPassphrase() bool { return len(k.Recipients) == 0 }

// To is whom a backup is encrypted to.
func (k Keys) To() ([]age.Recipient, error) {
	if !k.UsesPassphrase() {
		return Recipients(k.Recipients)
	}
	pass, err := k.passphrase()
	if err != nil {
		return nil, err
	}
	r, _, err := Passphrase(pass)
	return []age.Recipient{r}, err
}

// Open is who may open one.
func (k Keys) Open() ([]age.Identity, error) {
	var ids []age.Identity
	for _, f := range k.IdentityFiles {
		more, err := Identities(f)
		if err != nil {
			return nil, err
		}
		ids = append(ids, more...)
	}
	if len(ids) > 0 {
		return ids, nil
	}
	pass, err := k.passphrase()
	if err != nil {
		return nil, err
	}
	_, i, err := Passphrase(pass)
	return []age.Identity{i}, err
}

func (k Keys) passphrase() (string, error) {
	pass := os.Getenv(PassphraseEnv)
	switch {
	case k.PassphraseFile != "":
		b, err := os.ReadFile(k.PassphraseFile)
		if err != nil {
			return "", err
		}
		pass, _, _ = strings.Cut(string(b), "\n")
		pass = strings.TrimSuffix(pass, "\r")
	case pass == "" && k.Ask != nil:
		var err error
		if pass, err = k.Ask(); err != nil {
			return "", err
		}
	}
	if pass == "" {
		return "", errors.New("no key for the backup: give a passphrase (" + PassphraseEnv + ", or --passphrase-file), or --recipient age1... to make one and --identity FILE to open one")
	}
	return pass, nil
}

// WriteFile makes a file of what f writes: whole, durable and mode 0600, or not at all. It replaces none. "-" is out.
func WriteFile(name string, out io.Writer, f func(io.Writer) error) (err error) {
	if name == "-" {
		return f(out)
	}
	if _, err := os.Lstat(name); err == nil {
		return fmt.Errorf("%s is there already; give another name", name)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	part := name + ".part"
	w, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f(w), w.Sync(), w.Close()); err != nil {
		return errors.Join(err, os.Remove(part))
	}
	if err := os.Rename(part, name); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// EncryptFile makes an encrypted file of the backup that f writes.
func EncryptFile(name string, out io.Writer, to []age.Recipient, f func(io.Writer) error) error {
	return WriteFile(name, out, func(w io.Writer) error {
		enc, err := Encrypt(w, to...)
		if err != nil {
			return err
		}
		if err := f(enc); err != nil {
			return err
		}
		return enc.Close()
	})
}

// ReadFile calls f with the backup in the file, decrypted. "-" is in.
func ReadFile(name string, in io.Reader, ids []age.Identity, f func(io.Reader) error) error {
	if name != "-" {
		r, err := os.Open(name)
		if err != nil {
			return err
		}
		defer r.Close()
		in = r
	}
	plain, err := Decrypt(in, ids...)
	if err == nil {
		err = f(plain)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
