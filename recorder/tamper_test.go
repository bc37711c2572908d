package recorder_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"hash/crc32"
	"os"
	"strings"
	"testing"

	"hawser/recorder"
	"hawser/recorder/reader"
	"hawser/tunnel/channel/payload"
)

var (
	recorderKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	deviceKey   = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32))
)

// witnessed makes a recording with everything in it, signed and witnessed.
func witnessed(t testing.TB) [][]byte {
	t.Helper()
	return witnessedAs(t, header, nil)
}

func witnessedAs(t testing.TB, header recorder.Header, key *[32]byte) [][]byte {
	t.Helper()
	o := recorder.Options{Digest: true, ChunkSize: 300, Key: key, Sign: func(m []byte) []byte { return ed25519.Sign(recorderKey, m) }}
	header.Kind = "exec"
	return recordAs(t, header, o, func(w *recorder.Writer) {
		var s recorder.Sums
		pass := func(fromDevice bool, name string, body []byte) {
			s.Request(fromDevice, name, recorder.PayloadHash(body))
			w.Request(recorder.Request{Name: name, Payload: body, FromDevice: fromDevice})
		}
		guest := func(g payload.Guest) {
			pass(true, payload.GuestRequest, g.Marshal())
		}
		_ = w.Start("exec", "id", "", nil)
		w.FileOp(fileOp)
		w.Forward(forward)
		w.AgentUse(agentUse)
		w.Request(request)
		s.Request(false, request.Name, recorder.PayloadHash(request.Payload))
		pass(false, "exec", payload.Exec{Command: "id"}.Marshal())
		w.Request(answer)
		s.Request(true, answer.Name, answer.Hash)
		for range 10 {
			w.Output(recorder.Stdout, []byte("-rw-r--r-- 1 root root 4096 Nov 21 04:45 recorder\r\n"))
			s.Pass(recorder.Stdout, []byte("-rw-r--r-- 1 root root 4096 Nov 21 04:45 recorder\r\n"))
		}
		w.Output(recorder.Stderr, []byte("oops"))
		s.Pass(recorder.Stderr, []byte("oops"))
		w.Input([]byte("typed"))
		s.Pass(recorder.Stdin, []byte("typed"))
		guest(payload.Guest{What: payload.GuestChanged, ID: joined.ID, User: joined.User, Mode: joined.Mode, Way: joined.Way, Text: joined.State})
		w.Participant(joined)
		guest(payload.Guest{What: payload.GuestWithheld, ID: withheld.Participant, Bytes: uint32(withheld.Bytes), Text: withheld.Reason})
		w.Withheld(withheld)
		typed := recorder.PayloadHash(payload.Guest{What: payload.GuestTyped, ID: 2, Text: "a guest's"}.Marshal())
		w.Request(recorder.Request{Name: payload.GuestRequest, Hash: typed, FromDevice: true})
		s.Request(true, payload.GuestRequest, typed)
		w.InputFrom(2, []byte("a guest's"))
		pass(true, "exit-status", payload.ExitStatus{}.Marshal())
		w.Exit(0, "")
		t := recorder.Testimony{Session: header.ID, User: header.User, Login: header.Login, Rule: recorder.InputFull, Input: 5}
		w.Witness(t.Sign(&s, func(m []byte) []byte { return ed25519.Sign(deviceKey, m) }), "")
	})
}

func verifyAll(file []byte) (reader.Report, error) { return verifyWith(file, reader.Check{}) }

func verifyWith(file []byte, check reader.Check) (reader.Report, error) {
	by := func(key ed25519.PrivateKey) func(recorder.Header, []byte, []byte) bool {
		return func(_ recorder.Header, m, s []byte) bool {
			return ed25519.Verify(key.Public().(ed25519.PublicKey), m, s)
		}
	}
	check.Recorder, check.Device = by(recorderKey), by(deviceKey)
	return reader.VerifyWith(reader.Chunks(bytes.NewReader(file)), check)
}

func found(file []byte) bool {
	rep, err := verifyAll(file)
	return err != nil || !rep.Complete || !rep.Signed || !rep.Witnessed
}

// mend gives a stored chunk a right checksum again, as whoever edits one on purpose does.
func mend(c []byte) {
	end := len(c) - recorder.ChunkTrailerSize
	binary.BigEndian.PutUint32(c[end:], crc32.Checksum(c[:end], crc32.MakeTable(crc32.Castagnoli)))
}

func TestEveryTamperingIsFound(t *testing.T) {
	chunks := witnessed(t)
	file := bytes.Join(chunks, nil)
	if rep, err := verifyAll(file); err != nil || !rep.Signed || !rep.Witnessed || len(chunks) < 5 {
		t.Fatalf("%d chunks, %+v, %v", len(chunks), rep, err)
	}
	for i := range file {
		for _, flip := range []byte{1, 0x80, 0xff} {
			file[i] ^= flip
			if !found(file) {
				t.Errorf("byte %d of the file changed by %#x", i, flip)
			}
			file[i] ^= flip
		}
		if i > 0 && !found(file[:i]) {
			t.Errorf("cut at %d", i)
		}
	}
	with := func(what string, n int, changed ...[]byte) {
		if !found(bytes.Join(changed, nil)) {
			t.Errorf("%s: chunk %d", what, n)
		}
	}
	for n, c := range chunks {
		for i := range c {
			edited := bytes.Clone(c)
			edited[i] ^= 1
			mend(edited)
			if bytes.Equal(edited, c) { // a byte of the checksum
				continue
			}
			changed := append([][]byte{}, chunks...)
			changed[n] = edited
			with("edited and mended", n, changed...)
			// The chain made anew from there on: only the signature is in the way.
			for k := n + 1; k < len(changed); k++ {
				changed[k] = bytes.Clone(changed[k])
				previous := recorder.Hash(changed[k-1])
				copy(changed[k][32:], previous[:])
				mend(changed[k])
			}
			with("edited, and the chain made anew", n, changed...)
		}
		with("dropped", n, append(append([][]byte{}, chunks[:n]...), chunks[n+1:]...)...)
		with("doubled", n, append(append(append([][]byte{}, chunks[:n+1]...), c), chunks[n+1:]...)...)
		for m := range n {
			swapped := append([][]byte{}, chunks...)
			swapped[n], swapped[m] = swapped[m], swapped[n]
			with("swapped", n, swapped...)
		}
	}
	with("another behind it", len(chunks), append(append([][]byte{}, chunks...), chunks...)...)
}

func TestEvidenceStandsBehindTheChunks(t *testing.T) {
	file := bytes.Join(witnessed(t), nil)
	e := reader.Evidence{Device: []byte("device"), Hub: []byte("hub"), Trust: bytes.Repeat([]byte("trust"), 1000)}
	if _, err := reader.FileEvidence(bytes.NewReader(file)); err == nil {
		t.Error("evidence where there is none")
	}
	whole := e.Append(bytes.Clone(file))
	if rep, err := verifyAll(whole); err != nil || !rep.Witnessed {
		t.Errorf("%+v, %v", rep, err)
	}
	got, err := reader.FileEvidence(bytes.NewReader(whole))
	if err != nil || string(got.Device) != "device" || string(got.Hub) != "hub" || len(got.Trust) != 5000 {
		t.Errorf("%d bytes of trust, %v", len(got.Trust), err)
	}
	for i := len(file); i < len(whole); i++ {
		if _, err := reader.FileEvidence(bytes.NewReader(whole[:i])); err == nil {
			t.Fatalf("read whole when cut at %d", i)
		}
	}
}

func FuzzWitness(f *testing.F) {
	var s recorder.Sums
	f.Add(recorder.Testimony{User: "alice", Login: "root", Rule: recorder.InputRedacted, Input: 3}.Sign(&s, func(m []byte) []byte { return ed25519.Sign(deviceKey, m) }))
	f.Add(recorder.Testimony{User: "alice", Login: "root", Rule: recorder.InputOff, ForceCommand: "backup"}.Sign(&s, func(m []byte) []byte { return ed25519.Sign(deviceKey, m) }))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = reader.ParseWitness(b) })
}

func FuzzEvidence(f *testing.F) {
	f.Add(reader.Evidence{Device: []byte("x"), Trust: []byte("y")}.Append(nil))
	f.Add(reader.Evidence{Hub: []byte("x")}.Append(bytes.Join(witnessed(f), nil)))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = reader.ParseEvidence(b)
		_, _ = reader.FileEvidence(bytes.NewReader(b))
	})
}

// TestGolden writes testdata/witnessed.hwr when HAWSER_GOLDEN is set: once for each change of the writer, under a new name.
func TestGolden(t *testing.T) {
	name := os.Getenv("HAWSER_GOLDEN")
	if name == "" {
		name = "testdata/witnessed.hwr"
	} else if err := os.WriteFile(name, bytes.Join(witnessed(t), nil), 0o644); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	rep, err := verifyAll(b)
	if err != nil || !rep.Witnessed || rep.Header.User != "alice" || !strings.HasPrefix(rep.Witness.User, "alice") {
		t.Errorf("%+v, %v", rep, err)
	}
}
