package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"hawser/recorder/reader"
	"hawser/recorder/unseal"
)

// identityEnv names identity files for those who do not name any, as PATH does directories.
const identityEnv = "HAWSER_IDENTITY"

// errEncrypted is a recording that cannot be read without an identity.
var errEncrypted = errors.New("the recording is encrypted to auditors: give the age identity of one of them with --identity FILE, or " + identityEnv)

// identities open recordings that are encrypted to auditors. Not safe for concurrent use.
type identities struct {
	files []string
	open  reader.Opener // once they were read
}

func (i *identities) add(c *cobra.Command) {
	c.Flags().StringArrayVar(&i.files, "identity", nil, "open what is encrypted to auditors by the age identities in this `FILE`; repeatable; or "+identityEnv)
}

// opener reads the identities. Those that are encrypted themselves it asks for. nil: none are given.
func (i *identities) opener(c *cobra.Command) (reader.Opener, error) {
	if i.open != nil {
		return i.open, nil
	}
	files := i.files
	if len(files) == 0 {
		files = filepath.SplitList(os.Getenv(identityEnv))
	}
	if len(files) == 0 {
		return nil, nil
	}
	ids, err := unseal.Identities(files, func(file string) (string, error) {
		t, err := openTerminal(c)
		if err != nil {
			return "", err
		}
		defer t.close()
		return t.ask(c.Context(), "Passphrase of "+shown(file)+": ", true)
	})
	if err != nil {
		return nil, err
	}
	i.open = unseal.Opener(ids)
	return i.open, nil
}

// unlock finds the recording's key, if it is encrypted: at once, for later the terminal may be in use. errEncrypted says that no identity was given.
func (s *recordingSource) unlock(c *cobra.Command, ids *identities) error {
	first, failed := s.next()
	first = bytes.Clone(first)
	given, rest := false, s.next
	s.next = func() ([]byte, error) {
		if !given || failed != nil {
			given = true
			return first, failed
		}
		return rest()
	}
	if failed != nil {
		return nil // who reads it is told
	}
	h, err := reader.New(func() ([]byte, error) { return first, nil }).Header()
	if err != nil || len(h.Keys) == 0 {
		return nil
	}
	open, err := ids.opener(c)
	if err != nil {
		return err
	}
	if open == nil {
		return errEncrypted
	}
	key, err := open(h.Keys)
	if err != nil {
		return fmt.Errorf("%w; `hawser get cluster` lists whom new recordings are encrypted to", err)
	}
	s.open = func([][]byte) ([32]byte, error) { return key, nil }
	return nil
}

// reader reads the recording.
func (s *recordingSource) reader() *reader.Reader { return reader.New(s.next).Unseal(s.open) }
