package pty

import "testing"

func FuzzParseModes(f *testing.F) {
	f.Add("\x35\x00\x00\x00\x01\x00")
	f.Add("\x01\x00")
	f.Add("\xff")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseModes(s)
		if len(m) > maxModes || err == nil && len(m)*modeBytes > len(s) {
			t.Fatal(len(m), err)
		}
	})
}

func TestModesAndSizeReachTheTerminal(t *testing.T) {
	p, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.Withheld() {
		t.Error("a new terminal echoes")
	}
	modes, err := ParseModes("\x35\x00\x00\x00\x00\x80\x00\x00\x96\x00\x00")
	if err != nil || len(modes) != 2 {
		t.Fatal(modes, err)
	}
	if err := p.Apply(modes); err != nil || !p.Withheld() {
		t.Error("ECHO was cleared:", err)
	}
	if err := p.Break(); err != nil {
		t.Error(err)
	}
}
