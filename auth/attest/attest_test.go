package attest

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"
	"time"
)

var (
	key   = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	other = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32))
	word  = Word{
		Cluster: "c", ID: [16]byte{1}, User: "ann", Login: "root", Device: "00000000-0000-4000-8000-000000000000", Recorder: "device", Way: "end-to-end",
		Start: time.UnixMicro(1e15).UTC(), End: time.UnixMicro(1e15 + 5).UTC(), Closing: [32]byte{9}, Complete: true,
		Hub: "00000000-0000-4000-8000-000000000001",
	}
)

func keys(k ed25519.PrivateKey) []ed25519.PublicKey {
	return []ed25519.PublicKey{k.Public().(ed25519.PublicKey)}
}

func TestAuthsWordIsReadAsItWasGivenAndByItsKeyAlone(t *testing.T) {
	b := word.Sign(key)
	if got, err := Open(b, keys(key)); err != nil || *got != word {
		t.Errorf("%+v, %v", got, err)
	}
	live := Word{Cluster: "c", Recorder: "hub", Start: time.UnixMicro(1).UTC()}
	if got, err := Open(live.Sign(key), keys(key)); err != nil || *got != live {
		t.Errorf("of one that grows: %+v, %v", got, err)
	}
	if _, err := Open(b, keys(other)); !errors.Is(err, ErrWord) {
		t.Errorf("by another's key: %v", err)
	}
	for i := range b {
		changed := bytes.Clone(b)
		changed[i] ^= 1
		if _, err := Open(changed, keys(key)); err == nil {
			t.Fatalf("read with byte %d changed", i)
		}
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(word.Sign(key))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = Open(b, keys(key)) })
}
