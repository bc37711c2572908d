package sshconfig

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxUserFile bounds a person's ssh_config that is read, in bytes.
const maxUserFile = 8 << 20

// IncludeLine is the one line in a person's ssh_config(5) that makes ssh read the file path.
func IncludeLine(path string) string { return "Include " + quoteFor(path) + "\n" }

// quoteFor is quote where there are no %-tokens.
func quoteFor(path string) string { return `"` + path + `"` }

// HasInclude tells whether the file has the line already.
func HasInclude(file, include string) (bool, error) {
	text, _, err := readUserFile(file)
	if err != nil {
		return false, err
	}
	at, _ := find(text, IncludeLine(include))
	return at >= 0, nil
}

// AddInclude puts the line in front of a person's own ssh_config, where it holds for everything below, unless it is there. Not a byte of what the
// person wrote is changed, nor the file's mode, and what is a link stays one.
func AddInclude(file, include string) error {
	text, mode, err := readUserFile(file)
	if err != nil {
		return err
	}
	line := IncludeLine(include)
	if at, _ := find(text, line); at >= 0 {
		return nil
	}
	return writeUserFile(file, append([]byte(line), text...), mode)
}

// RemoveInclude takes the line out again, as often as it is there, and nothing else.
func RemoveInclude(file, include string) (found bool, err error) {
	text, mode, err := readUserFile(file)
	if err != nil {
		return false, err
	}
	for {
		at, n := find(text, IncludeLine(include))
		if at < 0 {
			break
		}
		found = true
		text = append(text[:at:at], text[at+n:]...)
	}
	if !found {
		return false, nil
	}
	return true, writeUserFile(file, text, mode)
}

// find returns where the line is, and how long; a person may have moved it, and his editor ended it in another way.
func find(text []byte, line string) (at, n int) {
	line = strings.TrimSuffix(line, "\n")
	for start := 0; start < len(text); {
		end := bytes.IndexByte(text[start:], '\n')
		next := len(text)
		if end >= 0 {
			next = start + end + 1
		}
		if strings.TrimSpace(string(text[start:next])) == line {
			return start, next - start
		}
		start = next
	}
	return -1, 0
}

func readUserFile(file string) ([]byte, fs.FileMode, error) {
	st, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0o600, nil
	}
	if err != nil {
		return nil, 0, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxUserFile {
		return nil, 0, fmt.Errorf("%s is not a file of at most %d bytes; add the line %q yourself", file, maxUserFile, "Include ...")
	}
	b, err := os.ReadFile(file)
	return b, st.Mode().Perm(), err
}

// writeUserFile replaces what file is, or points to, at once and whole.
func writeUserFile(file string, text []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	target, err := filepath.EvalSymlinks(file)
	if errors.Is(err, fs.ErrNotExist) {
		if _, lerr := os.Lstat(file); lerr == nil {
			return fmt.Errorf("%s is a link to nothing; make what it points to, or remove it", file)
		}
		target, err = file, nil
	}
	if err != nil {
		return err
	}
	temp := filepath.Join(filepath.Dir(target), ".hawser-"+rand.Text()[:8])
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(temp, target)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return nil
}
