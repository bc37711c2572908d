package identity

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// WriteFileAtomic replaces one file below root, without a copy or a checksum:
// for what other programs read. A reader sees the old content or the new, also
// after a power cut. Where the file holds data already nothing is written.
func WriteFileAtomic(root *os.Root, name string, data []byte, perm fs.FileMode) error {
	if old, err := root.ReadFile(name); err == nil && bytes.Equal(old, data) {
		return nil
	}
	if err := replace(root, name, data, perm); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// Joined reports whether the directory at path holds an identity, damaged or
// not. A directory that is not there holds none.
func Joined(path string) (bool, error) {
	root, err := os.OpenRoot(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer root.Close()
	for _, file := range []string{credentialsName, credentialsName + copySuffix} {
		if _, err := root.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			return err == nil, err
		}
	}
	return false, nil
}

// replace writes one file: temporary file, fsync, rename, fsync of the directory.
func replace(root *os.Root, file string, b []byte, perm fs.FileMode) (err error) {
	temp := file + tempSuffix
	f, err := root.OpenFile(temp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			root.Remove(temp)
		}
	}()
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = root.Rename(temp, file); err != nil {
		return err
	}
	return syncDir(root)
}

// syncDir makes renames and removals durable.
func syncDir(root *os.Root) error {
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
