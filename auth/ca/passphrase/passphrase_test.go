package passphrase

import (
	"errors"
	"testing"

	"hawser/auth/ca"
)

func TestOnlyTheSamePassphraseOpens(t *testing.T) {
	sealed, err := Seal([]byte("correct horse"), []byte("blob"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Open([]byte("correct horse"), sealed); err != nil || string(got) != "blob" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := Open([]byte("wrong horse"), sealed); !errors.Is(err, ca.ErrSealed) {
		t.Errorf("wrong passphrase: %v", err)
	}
	if _, err := Open([]byte("correct horse"), sealed[:9]); !errors.Is(err, ca.ErrSealed) {
		t.Errorf("cut: %v", err)
	}
	if _, err := Seal(nil, nil); !errors.Is(err, ErrEmpty) {
		t.Errorf("empty: %v", err)
	}
}
