package loghead

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

var testKey = ed25519.NewKeyFromSeed(make([]byte, 32))

func public() ed25519.PublicKey { return testKey.Public().(ed25519.PublicKey) }

func TestHeadsOfOthersAreRefused(t *testing.T) {
	h := Head{Cluster: "hub.test", Size: 5, Time: time.Unix(1e9, 0)}
	sign := func(k ed25519.PrivateKey) []byte {
		b, err := h.Sign(k.Public().(ed25519.PublicKey), func(b []byte) ([]byte, error) { return ed25519.Sign(k, b), nil })
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	good := sign(testKey)
	keys := []ed25519.PublicKey{public(), public()}
	if got, err := Open(good, "hub.test", keys); err != nil || got.Size != 5 {
		t.Errorf("OpenHead = %+v, %v", got, err)
	}
	for name, b := range map[string][]byte{
		"another key": sign(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))), "changed": bytes.Replace(good, []byte("\n5\n"), []byte("\n6\n"), 1), "nothing": nil,
	} {
		if _, err := Open(b, "hub.test", keys); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := Open(good, "other.test", keys); err == nil {
		t.Error("another cluster's head was taken")
	}
}

func TestWhatShrinksOrHasTwoRootsIsRewritten(t *testing.T) {
	a, b := Head{Size: 5}, Head{Size: 5, Root: tlog.Hash{1}}
	for name, pair := range map[string][2]Head{"two roots": {a, b}, "smaller": {b, {Size: 4}}, "without a proof": {a, {Size: 6}}} {
		if err := CheckGrowth(pair[0], pair[1], nil); !errors.Is(err, ErrRewritten) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := CheckGrowth(a, a, nil); err != nil {
		t.Error(err)
	}
	if err := CheckGrowth(Head{}, b, nil); err != nil {
		t.Error(err)
	}
	if err := CheckGrowth(a, Head{Size: 6}, make([]tlog.Hash, 1000)); !errors.Is(err, ErrRewritten) {
		t.Errorf("a proof without end: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	h := Head{Cluster: "hub.test", Size: 5, Time: time.Unix(1e9, 0)}
	b, _ := h.Sign(public(), func(b []byte) ([]byte, error) { return ed25519.Sign(testKey, b), nil })
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := Parse(b); err == nil && !strings.HasPrefix(string(b), h.Text()) {
			t.Errorf("%q was read as %q", b, h.Text())
		}
		_, _ = Open(b, "hub.test", []ed25519.PublicKey{public()})
	})
}
