package recorder_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"filippo.io/age"

	"hawser/recorder"
	"hawser/recorder/play"
	"hawser/recorder/reader"
	"hawser/recorder/seal"
	"hawser/recorder/unseal"
	"hawser/recorder/zstdcodec"
	"hawser/tunnel/channel/payload"
)

// forAuditor is the header of a recording that is encrypted to somebody, its key, and what he opens it with.
func forAuditor(t testing.TB) (recorder.Header, *[32]byte, reader.Opener) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	to, err := seal.ParseRecipient(id.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	key, wrapped := seal.NewKey([][32]byte{to})
	h := header
	h.Keys = wrapped
	return h, (*[32]byte)(&key), unseal.Opener([]age.Identity{id})
}

// What passed, and what was asked for, is in no byte that is stored, however it was compressed; who, where and when is there for all.
func TestAnEncryptedRecordingShowsWhatPassedToItsAuditorsAlone(t *testing.T) {
	for name, codec := range map[string]recorder.Codec{"flate": nil, "zstd": zstdcodec.Codec()} {
		t.Run(name, func(t *testing.T) {
			h, key, open := forAuditor(t)
			h.Command = "a-secret-command"
			want := noise(300_000)
			chunks := recordAs(t, h, recorder.Options{Codec: codec, Key: key}, func(w *recorder.Writer) {
				_ = w.Start("exec", "a-secret-command", "", []string{"A=secret-variable"})
				w.Input([]byte("secret-input"))
				for b := want; len(b) > 0; b = b[min(len(b), 32<<10):] {
					w.Output(recorder.Stdout, b[:min(len(b), 32<<10)])
				}
				w.Exit(0, "")
			})
			for i, c := range chunks {
				ch, _, err := recorder.ParseChunk(c)
				if sealed := ch.Flags&recorder.FlagSealed != 0; err != nil || sealed != (i > 0 && i < len(chunks)-1) {
					t.Errorf("chunk %d of %d is encrypted: %t, %v", i, len(chunks), sealed, err)
				}
				if bytes.Contains(c, []byte("secret")) || bytes.Contains(c, key[:]) {
					t.Errorf("chunk %d shows something", i)
				}
			}
			r := reader.New(from(chunks))
			if h, err := r.Header(); err != nil || h.User != "alice" || h.Device != "gw-1" || h.Command != "" {
				t.Errorf("the header: %+v, %v", h, err)
			}
			if e, err := r.Next(); !errors.Is(err, reader.ErrSealed) {
				t.Errorf("read without a key: %+v, %v", e, err)
			}
			var out bytes.Buffer
			if err := play.WriteRaw(reader.New(from(chunks)).Unseal(open), &out); err != nil || !bytes.Equal(out.Bytes(), want) {
				t.Errorf("with the key it differs, %v", err)
			}
			_, _, others := forAuditor(t)
			if err := play.WriteRaw(reader.New(from(chunks)).Unseal(others), io.Discard); !errors.Is(err, unseal.ErrNoKey) || !errors.Is(err, reader.ErrSealed) {
				t.Errorf("with another's: %v", err)
			}
			// From the middle, as a player seeks.
			n := uint64(0)
			m := reader.From(r0(t, chunks), 3, func() ([]byte, error) {
				if 3+n == uint64(len(chunks)) {
					return nil, io.EOF
				}
				n++
				return chunks[2+n], nil
			}).Unseal(open)
			if e, err := m.Next(); err != nil || e.Type != recorder.RecordStdout {
				t.Errorf("from the middle: %v, %v", e.Type, err)
			}
		})
	}
}

func r0(t *testing.T, chunks [][]byte) recorder.Header {
	t.Helper()
	h, err := reader.New(from(chunks)).Header()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// Without a key the chain, the counts of chunks and the signatures are checked; with it, all that is.
func TestAnEncryptedRecordingIsVerifiedWithAndWithoutTheKey(t *testing.T) {
	h, key, open := forAuditor(t)
	chunks := witnessedAs(t, h, key)
	file := bytes.Join(chunks, nil)
	rep, err := verifyWith(file, reader.Check{Sealed: true})
	if err != nil || !rep.Complete || !rep.Signed || rep.Witnessed || !rep.Summed || !rep.Sealed || rep.Events != 0 {
		t.Errorf("without the key: %+v, %v", rep, err)
	}
	rep, err = verifyWith(file, reader.Check{Sealed: true, Open: open})
	if err != nil || !rep.Complete || !rep.Signed || !rep.Witnessed || rep.Sealed || rep.Events == 0 {
		t.Errorf("with the key: %+v, %v", rep, err)
	}
	bad := func(what string, i int, check reader.Check, file []byte) {
		t.Helper()
		if rep, err := verifyWith(file, check); err == nil && rep.Complete && rep.Signed && (rep.Witnessed || rep.Summed) {
			t.Errorf("%s %d is not found", what, i)
		}
	}
	for i := range file {
		file[i] ^= 0x80
		bad("byte", i, reader.Check{Sealed: true}, file)
		file[i] ^= 0x80
	}
	// Whoever may write auth's disk makes checksums and chain anew, but not what is in a chunk, nor is one of another place or recording taken.
	other := witnessedAs(t, h, key)
	read := func(changed [][]byte) error {
		for k := 1; k < len(changed); k++ {
			changed[k] = bytes.Clone(changed[k])
			previous := recorder.Hash(changed[k-1])
			copy(changed[k][32:], previous[:])
			mend(changed[k])
		}
		r := reader.New(from(changed)).Unseal(open)
		for {
			if _, err := r.Next(); err != nil {
				return err
			}
		}
	}
	if err := read(append([][]byte{}, chunks...)); err != io.EOF {
		t.Fatal(err)
	}
	for n := 1; n < len(chunks)-1; n++ {
		changed := append([][]byte{}, chunks...)
		changed[n] = bytes.Clone(chunks[n])
		changed[n][recorder.ChunkHeaderSize] ^= 1
		if err := read(changed); !errors.Is(err, reader.ErrFormat) {
			t.Errorf("chunk %d changed, all made anew: %v", n, err)
		}
		changed = append([][]byte{}, chunks...)
		changed[n] = bytes.Clone(changed[n])
		changed[n][16+7]++ // its time
		if err := read(changed); !errors.Is(err, reader.ErrFormat) && !errors.Is(err, reader.ErrHead) {
			t.Errorf("chunk %d at another time: %v", n, err)
		}
		changed = append([][]byte{}, chunks...)
		plain := witnessed(t)
		changed[n] = bytes.Clone(plain[min(n, len(plain)-2)])
		changed[n][15] = byte(n)
		if err := read(changed); !errors.Is(err, reader.ErrFormat) && !errors.Is(err, reader.ErrHead) {
			t.Errorf("chunk %d replaced by one in clear: %v", n, err)
		}
	}
	changed := append([][]byte{}, other[:len(other)-1]...)
	changed[0] = chunks[0]
	if err := read(changed); !errors.Is(err, reader.ErrFormat) {
		t.Errorf("another recording's chunks: %v", err)
	}
}

// What guests typed is counted with the owner's input and is not in its hash: without the key too the owner's is held against the witness, and no more.
func TestWhatGuestsTypedInAnEncryptedRecordingIsNoMismatch(t *testing.T) {
	h, key, open := forAuditor(t)
	h.Kind = "exec"
	for _, c := range []struct {
		name   string
		typed  string // by the owner, as is recorded
		pastes int    // by a guest
		fault  bool
	}{
		{"nothing by a guest", "typed", 0, false},
		{"more by a guest than may be on its way", "typed", 30, false},
		{"other keys of the owner's", "TYPED", 0, true},
		{"other keys of the owner's beside a guest's", "TYPED", 1, true},
		{"less of the owner's beside a guest's", "type", 1, true},
		{"more of the owner's than may be on its way", "typed" + strings.Repeat("x", 1<<20), 0, true},
	} {
		o := recorder.Options{Digest: true, Key: key, Sign: func(m []byte) []byte { return ed25519.Sign(recorderKey, m) }}
		chunks := recordAs(t, h, o, func(w *recorder.Writer) {
			var s recorder.Sums
			tell := func(r recorder.Request) {
				if r.Payload != nil {
					r.Hash = recorder.PayloadHash(r.Payload)
				}
				s.Request(r.FromDevice, r.Name, r.Hash)
				w.Request(r)
			}
			_ = w.Start("exec", "cat", "", nil)
			tell(recorder.Request{Name: "exec", Payload: payload.Exec{Command: "cat"}.Marshal()})
			s.Pass(recorder.Stdin, []byte("typed"))
			w.Input([]byte(c.typed))
			guest := payload.Guest{What: payload.GuestTyped, ID: 2, Text: strings.Repeat("paste", 2000)}
			for i := range c.pastes {
				if i == 0 {
					joins := payload.Guest{What: payload.GuestChanged, ID: 2, User: "bob", Mode: "peer", Way: "hub", Text: "joined"}
					tell(recorder.Request{Name: payload.GuestRequest, Payload: joins.Marshal(), FromDevice: true})
					w.Participant(recorder.Participant{ID: 2, User: "bob", Mode: "peer", Way: "hub", State: "joined"})
				}
				tell(recorder.Request{Name: payload.GuestRequest, Hash: recorder.PayloadHash(guest.Marshal()), FromDevice: true})
				w.InputFrom(2, []byte(guest.Text))
			}
			tell(recorder.Request{Name: "exit-status", Payload: payload.ExitStatus{}.Marshal(), FromDevice: true})
			w.Exit(0, "")
			said := recorder.Testimony{Session: h.ID, User: h.User, Login: h.Login, Rule: recorder.InputFull, Input: 5}
			w.Witness(said.Sign(&s, func(m []byte) []byte { return ed25519.Sign(deviceKey, m) }), "")
		})
		for _, check := range []reader.Check{{Sealed: true}, {Open: open}} {
			rep, err := verifyWith(bytes.Join(chunks, nil), check)
			if c.fault && !errors.Is(err, reader.ErrWitness) || !c.fault && (err != nil || rep.Witnessed != (check.Open != nil) || rep.Summed == rep.Witnessed) {
				t.Errorf("%s, opened %t: matches %t, in sums %t, %v", c.name, check.Open != nil, rep.Witnessed, rep.Summed, err)
			}
		}
	}
}

// A recording that lost its first chunks to a full sink has its header alone in the first, all the same.
func TestWhatIsMissingOfAnEncryptedRecordingIsToldToAuditors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, key, open := forAuditor(t)
		var chunks [][]byte
		full := true
		w := recorder.NewWriter(h, recorder.Options{Key: key, ChunkSize: 300, Sink: func(_ context.Context, seq uint64, c []byte) error {
			if full {
				return recorder.ErrNoRoom
			}
			chunks = append(chunks, bytes.Clone(c))
			return nil
		}})
		_ = w.Start("shell", "", "xterm", nil)
		for range 10 {
			w.Output(recorder.Stdout, []byte(strings.Repeat("lost ", 50)))
		}
		synctest.Wait()
		full = false
		w.Output(recorder.Stdout, []byte("kept"))
		if err := w.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if ch, _, err := recorder.ParseChunk(chunks[0]); err != nil || ch.Flags != 0 {
			t.Errorf("the first chunk: %+v, %v", ch, err)
		}
		var out bytes.Buffer
		rep, err := reader.VerifyWith(from(chunks), reader.Check{Open: open})
		if err != nil || !rep.Complete || rep.Gaps == 0 || rep.Missing == 0 {
			t.Errorf("%+v, %v", rep, err)
		}
		if err := play.WriteRaw(reader.New(from(chunks)).Unseal(open), &out); err != nil || !strings.HasSuffix(out.String(), "kept") {
			t.Errorf("%q, %v", out.String(), err)
		}
	})
}

func FuzzSealedReader(f *testing.F) {
	h, key, open := forAuditor(f)
	f.Add(bytes.Join(recordAs(f, h, recorder.Options{Key: key}, func(w *recorder.Writer) { w.Output(recorder.Stdout, []byte("x")) }), nil))
	f.Add(bytes.Join(witnessedAs(f, h, key), nil))
	f.Fuzz(func(_ *testing.T, b []byte) {
		for _, o := range []reader.Opener{nil, open, func([][]byte) (k [32]byte, err error) { return k, nil }} {
			_, _ = verifyWith(b, reader.Check{Sealed: true, Open: o})
		}
	})
}
