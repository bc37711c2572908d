package ca

import "testing"

func FuzzOpenTrust(f *testing.F) {
	s, trust := newSet(f, "ber.example")
	blob, err := s.SignTrust(*trust)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(blob)
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := OpenTrust(b, trust.Pins()...); err == nil && string(got.encode()) != string(trust.encode()) {
			t.Error("opened what was never signed")
		}
		if got, err := decodeTrust(b); err == nil && got.valid() != nil {
			t.Error("decoded what is not valid")
		}
	})
}

func FuzzOpenNextTrust(f *testing.F) {
	s, held := newSet(f, "ber.example")
	s = rotateAll(f, s, false)
	want := s.Trust(s.Revision())
	blob, err := s.SignTrust(want)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(blob)
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := OpenNextTrust(b, held); err == nil && string(got.encode()) != string(want.encode()) {
			t.Error("opened what was never signed")
		}
	})
}

func FuzzOpenTime(f *testing.F) {
	s, trust := newSet(f, "ber.example")
	f.Add(s.SignTime(t0, &[32]byte{}))
	f.Fuzz(func(t *testing.T, b []byte) { _, _, _ = OpenTime(b, trust) })
}

func FuzzUnmarshalSet(f *testing.F) {
	s, _ := newSet(f, "ber.example")
	f.Add(s.Marshal())
	s = rotateAll(f, s, false)
	f.Add(s.Marshal())
	if s, err := s.Rotate(everyKind, RotateOptions{Now: t0, Grace: MinGrace}); err == nil {
		f.Add(s.Marshal())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := UnmarshalSet(b); err == nil {
			if _, err := UnmarshalSet(got.Marshal()); err != nil {
				t.Error(err)
			}
		}
	})
}

func FuzzParseToken(f *testing.F) {
	_, trust := newSet(f, "ber.example")
	s, err := Token{Kind: TokenHub, Cluster: "c", Addresses: []string{"h:1"}, Pin: trust.Pins()[0], Secret: make([]byte, 16)}.Reveal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s)
	f.Fuzz(func(t *testing.T, s string) {
		if tok, err := ParseToken(s); err == nil {
			if _, err := tok.Reveal(); err != nil {
				t.Error(err)
			}
		}
	})
}
