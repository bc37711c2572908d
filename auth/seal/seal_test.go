package seal

import (
	"bytes"
	"testing"
)

func TestOnlyAuthOpensWhatWasSealedForIt(t *testing.T) {
	auth, _ := Key([32]byte{1})
	other, _ := Key([32]byte{2})
	id := [16]byte{7}
	s, err := To([32]byte(auth.PublicKey().Bytes()), id)
	if err != nil {
		t.Fatal(err)
	}
	chunk := bytes.Repeat([]byte("what was typed "), 100)
	b := s.Seal(5, 1, chunk)
	if len(b) != len(chunk)+Overhead || bytes.Contains(b, []byte("typed")) {
		t.Errorf("%d bytes of %d, or in clear", len(b), len(chunk))
	}
	if seq, flags, ok := Head(b); seq != 5 || flags != 1 || !ok {
		t.Errorf("head: %d %d %v", seq, flags, ok)
	}
	if got, err := Open(auth, id, b); err != nil || !bytes.Equal(got, chunk) {
		t.Errorf("open: %v", err)
	}
	if _, err := Open(other, id, b); err == nil {
		t.Error("another key opens it")
	}
	if _, err := Open(auth, [16]byte{8}, b); err == nil {
		t.Error("it opens as another recording's")
	}
	for i := range b {
		changed := bytes.Clone(b)
		changed[i] ^= 1
		if _, err := Open(auth, id, changed); err == nil {
			t.Fatalf("it opens with byte %d changed", i)
		}
	}
}

func FuzzOpen(f *testing.F) {
	auth, _ := Key([32]byte{1})
	s, _ := To([32]byte(auth.PublicKey().Bytes()), [16]byte{7})
	f.Add(s.Seal(5, 1, []byte("chunk")))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := Open(auth, [16]byte{7}, b); err == nil && len(got)+Overhead != len(b) {
			t.Errorf("%d bytes of %d", len(got), len(b))
		}
		Head(b)
	})
}

func TestOnlyAuthAcknowledges(t *testing.T) {
	auth, _ := Key([32]byte{1})
	other, _ := Key([32]byte{2})
	id, last := [16]byte{7}, [32]byte{9}
	s, err := To([32]byte(auth.PublicKey().Bytes()), id)
	if err != nil {
		t.Fatal(err)
	}
	ack, err := Acknowledge(auth, id, s.Public(), 5, last)
	if err != nil || len(ack) != AckSize || len(s.Public()) != PublicSize {
		t.Fatalf("%d bytes to a key of %d, %v", len(ack), len(s.Public()), err)
	}
	if !s.Acknowledged(5, last, ack) {
		t.Error("auth's word is not taken")
	}
	if s.Acknowledged(6, last, ack) || s.Acknowledged(5, [32]byte{8}, ack) || s.Acknowledged(5, last, nil) || s.Acknowledged(5, last, append(ack, 0)) {
		t.Error("another's word is taken, or for something else")
	}
	if ack, err := Acknowledge(other, id, s.Public(), 5, last); err != nil || s.Acknowledged(5, last, ack) {
		t.Errorf("of another auth: %v", err)
	}
	if ack, err := Acknowledge(auth, [16]byte{8}, s.Public(), 5, last); err != nil || s.Acknowledged(5, last, ack) {
		t.Errorf("of another recording: %v", err)
	}
	for _, bad := range [][]byte{nil, {1}, make([]byte, PublicSize)} { // zeros have no secret to share
		if _, err := Acknowledge(auth, id, bad, 5, last); err == nil {
			t.Errorf("acknowledged to %x", bad)
		}
	}
}
