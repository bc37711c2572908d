package backup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"
)

// workFactor of passphrases: 64 MiB and a quarter of a second to try one, on machines that have 512 MB.
const workFactor = 16

// MaxRecipients bounds those of one backup.
const MaxRecipients = 32

// ErrKey says that no passphrase or identity given opens a backup.
var ErrKey = errors.New("neither the passphrase nor an identity given opens the backup")

// Recipients reads age recipients, such as age1..., one a string.
func Recipients(list []string) ([]age.Recipient, error) {
	if len(list) == 0 {
		return nil, errors.New("no recipient of the backup; give --recipient age1..., or a passphrase")
	}
	if len(list) > MaxRecipients {
		return nil, fmt.Errorf("more than %d recipients", MaxRecipients)
	}
	var out []age.Recipient
	for _, s := range list {
		r, err := age.ParseRecipients(strings.NewReader(s))
		if err != nil || len(r) != 1 {
			return nil, fmt.Errorf("%.80q is no age recipient; `age-keygen` makes one: give what it calls the public key", s)
		}
		out = append(out, r[0])
	}
	return out, nil
}

// Passphrase is the recipient, and the identity, that a passphrase is.
func Passphrase(pass string) (age.Recipient, age.Identity, error) {
	r, err := age.NewScryptRecipient(pass)
	if err != nil {
		return nil, nil, err
	}
	r.SetWorkFactor(workFactor)
	i, err := age.NewScryptIdentity(pass)
	if err != nil {
		return nil, nil, err
	}
	return r, i, nil
}

// Identities reads an identity file of age.
func Identities(file string) ([]age.Identity, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	ids, err := age.ParseIdentities(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("%s is no identity file of age: %w", file, err)
	}
	return ids, nil
}

// Encrypt encrypts what is written to the result; Close ends it and does not close w.
func Encrypt(w io.Writer, to ...age.Recipient) (io.WriteCloser, error) { return age.Encrypt(w, to...) }

// Decrypt reads what Encrypt wrote. ErrKey: the identities are not those it was written to; ErrFormat: it is no encrypted backup.
func Decrypt(r io.Reader, ids ...age.Identity) (io.Reader, error) {
	plain, err := age.Decrypt(r, ids...)
	if err == nil {
		return &decrypted{plain}, nil
	}
	if _, ok := errors.AsType[*age.NoIdentityMatchError](err); ok || errors.Is(err, age.ErrIncorrectIdentity) {
		return nil, ErrKey
	}
	return nil, fmt.Errorf("%w: %w", ErrFormat, err)
}

// decrypted calls what cannot be decrypted further on damaged.
type decrypted struct{ r io.Reader }

func (d *decrypted) Read(b []byte) (int, error) {
	n, err := d.r.Read(b)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return n, err
}
