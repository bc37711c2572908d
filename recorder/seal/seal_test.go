package seal_test

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"filippo.io/age"

	"hawser/recorder/seal"
	"hawser/recorder/unseal"
)

func auditor(t testing.TB) (*age.X25519Identity, [32]byte) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	r, err := seal.ParseRecipient(id.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	return id, r
}

// Each copy of a key is an age file, of which age says the same to its recipient alone.
func TestAgeOpensWhatIsWrapped(t *testing.T) {
	ann, toAnn := auditor(t)
	bob, toBob := auditor(t)
	eve, _ := auditor(t)
	key, wrapped := seal.NewKey([][32]byte{toAnn, toBob})
	if len(wrapped) != 2 {
		t.Fatalf("%d copies for two", len(wrapped))
	}
	for i, id := range []*age.X25519Identity{ann, bob} {
		in, err := age.Decrypt(bytes.NewReader(wrapped[i]), id)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(in); err != nil || !bytes.Equal(b, key[:]) {
			t.Errorf("copy %d holds another key, %v", i, err)
		}
		if got, err := unseal.Opener([]age.Identity{eve, id})(wrapped); err != nil || got != key {
			t.Errorf("opened by %d: %v", i, err)
		}
		if bytes.Contains(wrapped[i], key[:]) || len(wrapped[i]) != 232 {
			t.Errorf("copy %d has %d bytes", i, len(wrapped[i]))
		}
	}
	if _, err := unseal.Opener([]age.Identity{eve})(wrapped); err != unseal.ErrNoKey {
		t.Errorf("opened by somebody else: %v", err)
	}
	if again, _ := seal.NewKey(nil); again == key {
		t.Error("two recordings have one key")
	}
	for _, text := range []string{fmt.Sprint(key), fmt.Sprintf("%+v %#v %s", key, key, key)} {
		if !strings.Contains(text, "[redacted]") {
			t.Errorf("a key prints as %s", text)
		}
	}
}

func TestWhatIsNoRecipientIsRefusedWithTheMend(t *testing.T) {
	id, _ := auditor(t)
	good := id.Recipient().String()
	if a, err := seal.ParseRecipient(strings.ToUpper(good)); err != nil {
		t.Error("capitals:", err)
	} else if b, _ := seal.ParseRecipient(good); a != b {
		t.Error("capitals make another")
	}
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	typo := []byte(good)
	typo[20] ^= 'q' ^ 'p'
	for text, want := range map[string]string{
		"":                            "age-keygen",
		"age1":                        "mistyped",
		good[:len(good)-1]:            "mistyped",
		good + "q":                    "mistyped",
		" " + good:                    "mistyped",
		"A" + good[1:]:                "mistyped",
		string(typo):                  "mistyped",
		good[:10] + "\u212a":          "mistyped",
		id.String():                   "secret half",
		hybrid.Recipient().String():   "another kind",
		"ssh-ed25519 AAAAC3NzaC1lZDI": "SSH key",
		"age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t":    "another kind",
		"age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqsrrpcd": "",
	} {
		_, err := seal.ParseRecipient(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want words on %q", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), id.String()[20:]) {
			t.Errorf("the error repeats a secret: %v", err)
		}
	}
}

// A point of small order agrees on nothing that only its owner knows: it has none.
func TestARecipientThatNobodyCanBeGetsNoCopy(t *testing.T) {
	_, to := auditor(t)
	one := [32]byte{1}
	if _, wrapped := seal.NewKey([][32]byte{{}, to, one}); len(wrapped) != 1 {
		t.Errorf("%d copies", len(wrapped))
	}
}

func FuzzParseRecipient(f *testing.F) {
	id, _ := auditor(f)
	f.Add(id.Recipient().String())
	f.Add("age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqsrrpcd")
	f.Add("AGE1")
	f.Fuzz(func(t *testing.T, s string) {
		theirs, bad := age.ParseX25519Recipient(s)
		ours, err := seal.ParseRecipient(s)
		if err != nil {
			return
		}
		if bad != nil {
			t.Fatalf("age refuses %q: %v", s, bad)
		}
		_, wrapped := seal.NewKey([][32]byte{ours})
		if again, err := seal.ParseRecipient(theirs.String()); err != nil || again != ours || len(wrapped) != 1 {
			t.Errorf("%q is %q, %v", s, theirs, err)
		}
	})
}
