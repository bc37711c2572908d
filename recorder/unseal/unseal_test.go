package unseal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"
)

func write(t *testing.T, name string, b []byte) string {
	t.Helper()
	name = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// locked is b encrypted with a passphrase, as age -p does it.
func locked(t *testing.T, b []byte, armored bool) []byte {
	t.Helper()
	to, err := age.NewScryptRecipient("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	to.SetWorkFactor(2) // it is not the work that is tested
	var out bytes.Buffer
	w := armor.NewWriter(&out)
	if !armored {
		w = struct {
			*bytes.Buffer
			closer
		}{&out, closer{}}
	}
	in, err := age.Encrypt(w, to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(in.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

type closer struct{}

func (closer) Close() error { return nil }

func TestIdentityFilesAreReadAlsoEncryptedOnes(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	text := []byte("# created: today\n# public key: " + id.Recipient().String() + "\n" + id.String() + "\n")
	asked := 0
	ask := func(string) (string, error) { asked++; return "correct horse", nil }
	for name, b := range map[string][]byte{"plain": text, "locked": locked(t, text, false), "armored": locked(t, text, true)} {
		ids, err := Identities([]string{write(t, name, b)}, ask)
		if err != nil || len(ids) != 1 || ids[0].(*age.X25519Identity).String() != id.String() {
			t.Errorf("%s: %d, %v", name, len(ids), err)
		}
	}
	if asked != 2 {
		t.Errorf("asked %d times", asked)
	}
	gone := errors.New("interrupted")
	for _, c := range []struct {
		name string
		b    []byte
		ask  func(string) (string, error)
		want string
	}{
		{"none", []byte(id.Recipient().String()), nil, "no identity file of age"},
		{"empty", nil, nil, "no identity file of age"},
		{"damaged", []byte(id.String()[:30] + "B" + id.String()[31:]), nil, "no identity file of age"},
		{"locked", locked(t, text, false), nil, "nobody to ask"},
		{"locked", locked(t, text, true), func(string) (string, error) { return "wrong", nil }, "passphrase is wrong"},
		{"locked", locked(t, text, true), func(string) (string, error) { return "", gone }, "interrupted"},
		{"cut", locked(t, text, false)[:150], ask, "open "},
	} {
		_, err := Identities([]string{write(t, c.name, c.b)}, c.ask)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), id.String()[20:]) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if _, err := Identities([]string{filepath.Join(t.TempDir(), "none")}, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}
