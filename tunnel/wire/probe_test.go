package wire

import (
	"bytes"
	"fmt"
	"os"
	"testing"
	"time"
)

const probeVectors = "../testdata/probe.txt"

func TestVectorsOfTheNATProbe(t *testing.T) {
	key := id(13)
	p := Probe{298 * time.Second, UUID(id(4)), id(14)}
	request, answer := p.Append(nil, &key), AppendProbeAnswer(nil, p.Nonce, &key)
	want := fmt.Sprintf("# PROTOCOL.md 5.1: the probe key, a request of 298 s, its answer, in hexadecimal.\nkey %x\nrequest %x\nanswer %x\n", key, request, answer)
	if *update {
		if err := os.WriteFile(probeVectors, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(probeVectors); err != nil || string(got) != want {
		t.Fatalf("%v, vectors\n%s\nwant\n%s", err, got, want)
	}
	if len(request) != ProbeLen || len(answer) != ProbeAnswerLen || ProbeAnswerLen > ProbeLen {
		t.Errorf("request of %d bytes, answer of %d", len(request), len(answer))
	}
	if got, err := DecodeProbe(request); err != nil || got != p || !VerifyProbe(request, &key) {
		t.Errorf("%+v, %v", got, err)
	}
	if nonce, ok := DecodeProbeAnswer(answer, &key); !ok || nonce != p.Nonce {
		t.Errorf("answer for %x, %v", nonce, ok)
	}
}

func TestAProbeCannotBeTakenForQUIC(t *testing.T) {
	for _, head := range [][4]byte{probeHead, answerHead} {
		if head[0]&0xc0 != 0 { // RFC 9000, 17: the header form and the fixed bit
			t.Errorf("first byte %#x", head[0])
		}
	}
}

func TestAProbeUnderAnotherKeyOrChangedIsRefused(t *testing.T) {
	key, other, none := id(13), id(12), [16]byte{}
	p := Probe{time.Second, UUID(id(4)), id(14)}
	for _, b := range [][]byte{p.Append(nil, &key), AppendProbeAnswer(nil, p.Nonce, &key)} {
		for i := range b {
			bad := bytes.Clone(b)
			bad[i] ^= 1
			if VerifyProbe(bad, &key) {
				t.Errorf("changed at byte %d: verified", i)
			}
		}
		if VerifyProbe(b, &other) {
			t.Error("verified under another key")
		}
	}
	if VerifyProbe(p.Append(nil, &none), &none) {
		t.Error("a key of zeros verified")
	}
	p.Delay = MaxProbeDelay + time.Millisecond
	if _, err := DecodeProbe(p.Append(nil, &key)); err == nil {
		t.Error("a probe longer than the longest was decoded")
	}
	if _, ok := DecodeProbeAnswer(p.Append(nil, &key), &key); ok {
		t.Error("a request passed for an answer")
	}
}

func FuzzProbe(f *testing.F) {
	key := id(13)
	p := Probe{time.Second, UUID(id(4)), id(14)}
	f.Add(p.Append(nil, &key))
	f.Add(AppendProbeAnswer(nil, p.Nonce, &key))
	f.Add([]byte{1, 'H', 'P', 1})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		VerifyProbe(b, &key)
		if p, err := DecodeProbe(b); err == nil {
			if again := p.Append(nil, &key); !bytes.Equal(again[:ProbeLen-probeMAC], b[:ProbeLen-probeMAC]) {
				t.Errorf("%x became %x", b, again)
			}
		}
		if nonce, ok := DecodeProbeAnswer(b, &key); ok && !bytes.Equal(AppendProbeAnswer(nil, nonce, &key), b) {
			t.Errorf("%x is no answer", b)
		}
	})
}
