package backup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
)

func sample(t testing.TB) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, Header{Schema: 1, Version: "test", Cluster: "test.example", UUID: "u", Created: time.Unix(1, 0).UTC(), Recordings: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		err = errors.Join(err, w.Record(fmt.Sprint("user/", i), []byte("{}")))
	}
	err = errors.Join(err, w.Set([]byte("keys")), w.File("audit/1.jsonl", 6, strings.NewReader("line\n\nmore")), w.File("empty", 0, nil),
		w.Recording([]byte("m1")), w.Chunk(0, []byte("c")), w.Chunk(1, []byte("d")), w.Recording([]byte("m2")))
	_, errEnd := w.End(7)
	if err = errors.Join(err, errEnd); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// story reads a backup into words.
func story(r io.Reader) (string, error) {
	var s strings.Builder
	_, end, err := Read(r, Contents{
		Header: func(h Header) error { fmt.Fprintf(&s, "%s;", h.Cluster); return nil },
		Record: func(key string, v []byte) error { fmt.Fprintf(&s, "%s=%s;", key, v); return nil },
		Set:    func(b []byte) error { fmt.Fprintf(&s, "set %s;", b); return nil },
		File: func(i FileInfo, r io.Reader) error {
			b, err := io.ReadAll(r)
			fmt.Fprintf(&s, "%s %q;", i.Name, b)
			return err
		},
		Recording: func(m []byte) error { fmt.Fprintf(&s, "%s;", m); return nil },
		Chunk:     func(seq uint64, c []byte) error { fmt.Fprintf(&s, "%d %s;", seq, c); return nil },
	})
	fmt.Fprintf(&s, "at %d", end.Revision)
	return s.String(), err
}

func TestBackupIsReadAsItWasWritten(t *testing.T) {
	got, err := story(bytes.NewReader(sample(t)))
	want := `test.example;user/0={};user/1={};user/2={};set keys;audit/1.jsonl "line\n\n";empty "";m1;0 c;1 d;m2;at 7`
	if err != nil || got != want {
		t.Errorf("got %s, %v", got, err)
	}
	if _, end, err := Read(bytes.NewReader(sample(t)), Contents{}); err != nil || end.Chunks != 2 || end.Files != 2 {
		t.Errorf("skipped all: %+v, %v", end, err)
	}
}

func TestCutBackupIsRefused(t *testing.T) {
	b := sample(t)
	for n := range b {
		if _, err := story(bytes.NewReader(b[:n])); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrFormat) {
			t.Fatalf("cut at %d of %d: %v", n, len(b), err)
		}
	}
	if _, err := story(bytes.NewReader(append(b, 0))); !errors.Is(err, ErrDamaged) {
		t.Errorf("with more behind it: %v", err)
	}
}

func TestEncryptedBackupHidesAllAndShowsEveryChange(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	to, err := Recipients([]string{id.Recipient().String()})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w, err := Encrypt(&out, to...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(sample(t)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b := out.Bytes()
	if bytes.Contains(b, []byte("keys")) || bytes.Contains(b, []byte("test.example")) {
		t.Error("something shows")
	}
	read := func(b []byte, ids ...age.Identity) error {
		r, err := Decrypt(bytes.NewReader(b), ids...)
		if err != nil {
			return err
		}
		_, err = story(r)
		return err
	}
	if err := read(b, id); err != nil {
		t.Fatal(err)
	}
	other, _ := age.GenerateX25519Identity()
	if err := read(b, other); !errors.Is(err, ErrKey) {
		t.Errorf("another identity: %v", err)
	}
	for at := range b {
		bad := bytes.Clone(b)
		bad[at] ^= 0x10
		if err := read(bad, id); err == nil {
			t.Fatalf("byte %d of %d changed and nobody saw", at, len(b))
		}
		if err := read(b[:at], id); err == nil {
			t.Fatalf("cut at %d of %d and nobody saw", at, len(b))
		}
	}
}

func TestPassphraseOpensWhatItClosed(t *testing.T) {
	r, i, err := Passphrase("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	_, wrong, _ := Passphrase("wrong horse")
	var out bytes.Buffer
	w, err := Encrypt(&out, r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	plain, err := Decrypt(bytes.NewReader(out.Bytes()), i)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(plain); err != nil || string(b) != "x" {
		t.Errorf("got %q, %v", b, err)
	}
	if _, err := Decrypt(bytes.NewReader(out.Bytes()), wrong); !errors.Is(err, ErrKey) {
		t.Errorf("got %v", err)
	}
	if _, err := Decrypt(strings.NewReader("PK\x03\x04"), i); !errors.Is(err, ErrFormat) {
		t.Errorf("got %v", err)
	}
	for _, bad := range [][]string{nil, {""}, {"age1nonsense"}, {"AGE-SECRET-KEY-1"}, {"# comment"}} {
		if _, err := Recipients(bad); err == nil {
			t.Errorf("%q are recipients", bad)
		}
	}
}

func FuzzRead(f *testing.F) {
	b := sample(f)
	f.Add(b)
	f.Add(b[:len(b)-3])
	f.Add([]byte(magic + "F\x00\x00\x00\x1a{\"name\":\"../x\",\"size\":1234}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, end, err := Read(bytes.NewReader(b), Contents{File: func(i FileInfo, r io.Reader) error {
			if !i.valid() {
				t.Errorf("let through a file %q", i.Name)
			}
			n, err := io.Copy(io.Discard, r)
			if err == nil && n != i.Size {
				t.Errorf("%d bytes of a file of %d", n, i.Size)
			}
			return err
		}})
		if err == nil && (h.Format != Format || end.Files < 0 || len(b) < len(magic)) {
			t.Errorf("accepted %+v %+v", h, end)
		}
	})
}
