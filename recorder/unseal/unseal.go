// Package unseal opens recordings that were encrypted to auditors, by identities of age. Start with Identities, and give Opener's result to
// recorder/reader.
package unseal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"

	"hawser/recorder/reader"
)

const (
	// maxFile bounds an identity file in bytes, maxWrapped a wrapped key.
	maxFile    = 1 << 20
	maxWrapped = 64 << 10
)

// ErrNoKey is returned where the recording was encrypted to others.
var ErrNoKey = errors.New("none of the identities is of somebody whom this recording is encrypted to")

// Identities reads files of age identities, as age-keygen makes them. Of one that is encrypted with a passphrase ask tells it; nil: there is nobody
// to ask.
func Identities(files []string, ask func(file string) (string, error)) ([]age.Identity, error) {
	var all []age.Identity
	for _, name := range files {
		b, err := readFile(name)
		if err != nil {
			return nil, err
		}
		if b, err = decrypted(name, b, ask); err != nil {
			return nil, err
		}
		ids, err := age.ParseIdentities(bytes.NewReader(b))
		if err != nil { // what the parser says may repeat the secret
			return nil, fmt.Errorf("%s is no identity file of age: `age-keygen -o FILE` makes one, with a line that begins with AGE-SECRET-KEY-1", name)
		}
		all = append(all, ids...)
	}
	return all, nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s is too long for an identity file", name)
	}
	return b, err
}

// decrypted is what an identity file holds.
func decrypted(name string, b []byte, ask func(string) (string, error)) ([]byte, error) {
	var in io.Reader
	switch text := strings.TrimSpace(string(b)); {
	case strings.HasPrefix(text, armor.Header):
		in = armor.NewReader(strings.NewReader(text))
	case strings.HasPrefix(text, "age-encryption.org/"):
		in = bytes.NewReader(b)
	default:
		return b, nil
	}
	if ask == nil {
		return nil, fmt.Errorf("%s is encrypted, and there is nobody to ask for its passphrase", name)
	}
	pass, err := ask(name)
	if err != nil {
		return nil, fmt.Errorf("%s is encrypted: %w", name, err)
	}
	id, err := age.NewScryptIdentity(pass)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	plain, err := age.Decrypt(in, id)
	if err != nil {
		return nil, fmt.Errorf("open %s: the passphrase is wrong, or the file is not encrypted with one", name)
	}
	if b, err = io.ReadAll(io.LimitReader(plain, maxFile)); err != nil {
		return nil, fmt.Errorf("open %s: it is damaged", name)
	}
	return b, nil
}

// Opener finds the key of a recording that is encrypted to one of ids. Its error is ErrNoKey where it is not.
func Opener(ids []age.Identity) reader.Opener {
	return func(wrapped [][]byte) (key [32]byte, err error) {
		for _, w := range wrapped {
			if len(w) > maxWrapped || len(ids) == 0 {
				continue
			}
			plain, err := age.Decrypt(bytes.NewReader(w), ids...)
			if err != nil {
				continue // another's
			}
			b, err := io.ReadAll(io.LimitReader(plain, int64(len(key))+1))
			if err == nil && len(b) == len(key) {
				return [32]byte(b), nil
			}
		}
		return key, ErrNoKey
	}
}
