package recorder_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hawser/recorder"
	"hawser/recorder/play"
	"hawser/recorder/reader"
	"hawser/recorder/zstdcodec"
)

var header = recorder.Header{ID: [16]byte{1, 2, 3}, User: "alice", Device: "gw-1", Command: "id", Start: time.Now()}

// record makes a recording and returns its stored chunks.
func record(t testing.TB, o recorder.Options, f func(w *recorder.Writer)) [][]byte {
	t.Helper()
	return recordAs(t, header, o, f)
}

func recordAs(t testing.TB, header recorder.Header, o recorder.Options, f func(w *recorder.Writer)) [][]byte {
	t.Helper()
	var chunks [][]byte
	o.Sink = func(_ context.Context, seq uint64, c []byte) error {
		if seq != uint64(len(chunks)) {
			t.Errorf("chunk %d, want %d", seq, len(chunks))
		}
		chunks = append(chunks, bytes.Clone(c))
		return nil
	}
	w := recorder.NewWriter(header, o)
	f(w)
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return chunks
}

func from(chunks [][]byte) func() ([]byte, error) {
	return reader.Chunks(bytes.NewReader(bytes.Join(chunks, nil)))
}

func noise(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.IntN(64))
	}
	return b
}

func TestOutputReplaysByteExact(t *testing.T) {
	for name, codec := range map[string]recorder.Codec{"flate": nil, "zstd": zstdcodec.Codec()} {
		t.Run(name, func(t *testing.T) {
			want := noise(300_000)
			pub, priv, _ := ed25519.GenerateKey(nil)
			sign := func(m []byte) []byte { return ed25519.Sign(priv, m) }
			chunks := record(t, recorder.Options{Codec: codec, Sign: sign}, func(w *recorder.Writer) {
				w.Start("exec", "id", "", []string{"LANG=C"})
				w.Input([]byte("typed"))
				for b := want; len(b) > 0; b = b[min(len(b), 32<<10):] {
					w.Output(recorder.Stdout, b[:min(len(b), 32<<10)])
				}
				w.Gap(7, "spool full")
				w.Exit(7, "")
			})
			var out bytes.Buffer
			if err := play.WriteRaw(reader.New(from(chunks)), &out); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out.Bytes(), want) {
				t.Error("output differs")
			}
			rep, err := reader.Verify(from(chunks), func(_ recorder.Header, m, s []byte) bool { return ed25519.Verify(pub, m, s) })
			if err != nil || !rep.Complete || !rep.Signed || rep.Missing != 7 || rep.Header.User != "alice" {
				t.Errorf("got %+v, %v", rep, err)
			}
		})
	}
}

func TestACutRecordingPlaysUpToTheCut(t *testing.T) {
	file := bytes.Join(record(t, recorder.Options{ChunkSize: 64}, func(w *recorder.Writer) {
		for range 20 {
			w.Output(recorder.Stdout, []byte("0123456789"))
		}
	}), nil)
	whole := strings.Repeat("0123456789", 20)
	last := 0
	for cut := range file {
		r := reader.New(reader.Chunks(bytes.NewReader(file[:cut])))
		var out bytes.Buffer
		if err := play.WriteRaw(r, &out); err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if r.Complete() || !strings.HasPrefix(whole, out.String()) || out.Len() < last {
			t.Fatalf("cut at %d: complete %v, output %d bytes", cut, r.Complete(), out.Len())
		}
		last = out.Len()
	}
	if last != len(whole) {
		t.Errorf("got %d bytes before the closing chunk, want all %d", last, len(whole))
	}
}

func TestAChangedRecordingDoesNotVerify(t *testing.T) {
	chunks := record(t, recorder.Options{ChunkSize: 64}, func(w *recorder.Writer) {
		w.Output(recorder.Stdout, noise(1000))
	})
	for i := range chunks {
		dropped := append(append([][]byte{}, chunks[:i]...), chunks[i+1:]...)
		rep, err := reader.Verify(from(dropped), nil)
		if err == nil && rep.Complete {
			t.Errorf("chunk %d dropped: verified", i)
		}
		flipped := append([][]byte{}, chunks...)
		flipped[i] = bytes.Clone(chunks[i])
		flipped[i][len(flipped[i])/2] ^= 1
		if _, err := reader.Verify(from(flipped), nil); err == nil {
			t.Errorf("chunk %d changed: verified", i)
		}
	}
}

func TestAChunkIsCutAfterASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stored int
		w := recorder.NewWriter(header, recorder.Options{Sink: func(context.Context, uint64, []byte) error { stored++; return nil }})
		w.Output(recorder.Stdout, []byte("$ "))
		time.Sleep(recorder.MaxChunkAge + time.Millisecond)
		synctest.Wait()
		if stored != 1 {
			t.Errorf("got %d chunks after a second, want 1", stored)
		}
		if err := w.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestASlowSinkBlocksTheTapAndCloseReleasesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := recorder.NewWriter(header, recorder.Options{Sink: func(ctx context.Context, _ uint64, _ []byte) error {
			<-ctx.Done()
			return context.Cause(ctx)
		}})
		returned := false
		go func() {
			w.Output(recorder.Stdout, make([]byte, 4<<20))
			returned = true
		}()
		synctest.Wait()
		if returned {
			t.Error("4 MiB went into a queue of 512 KiB")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := w.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		synctest.Wait()
		if !returned {
			t.Error("the tap is still blocked after Close")
		}
	})
}

// The facts that everyFact records.
var (
	fileOp   = recorder.FileOp{Op: "rename", Path: "/a\xff", Path2: "/b", Read: 1, Written: 1 << 40, Status: 3, Hash: make([]byte, 32), Mode: 0o644, Protocol: "sftp"}
	forward  = recorder.Forward{Kind: "local", Target: "127.0.0.1:80", Origin: "[::1]:1", State: "close", In: 5, Out: 6, ID: 7}
	agentUse = recorder.AgentUse{Fingerprint: "SHA256:x", What: "sign", Bytes: 99}
	joined   = recorder.Participant{ID: 2, User: "bob", Mode: "peer", State: "joined", Way: "hub"}
	ran      = recorder.Command{Text: "iptables -F", Source: "screen", Confidence: 80, Status: 0, HasStatus: true}
	withheld = recorder.Withheld{Participant: 2, Bytes: 9, Reason: "redacted"}
	request  = recorder.Request{Name: "env", Payload: []byte("x")}
	answer   = recorder.Request{Name: "hawser-accept@hawser", Hash: [32]byte{9}, FromDevice: true}
)

func everyFact(w *recorder.Writer) {
	w.FileOp(fileOp)
	w.Forward(forward)
	w.AgentUse(agentUse)
	w.Participant(joined)
	w.Command(ran)
	w.Withheld(withheld)
	w.Request(request)
	w.Request(answer)
}

func TestFactsAreReadAsTheyWereRecorded(t *testing.T) {
	r := reader.New(from(record(t, recorder.Options{Digest: true}, everyFact)))
	var got []any
	for {
		e, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch e.Type {
		case recorder.RecordFileOp:
			got = append(got, *e.FileOp)
		case recorder.RecordForward:
			got = append(got, *e.Forward)
		case recorder.RecordAgentUse:
			got = append(got, *e.AgentUse)
		case recorder.RecordParticipant:
			got = append(got, *e.Joined)
		case recorder.RecordCommand:
			got = append(got, *e.Ran)
		case recorder.RecordWithheld:
			got = append(got, *e.Withheld)
		case recorder.RecordRequest:
			got = append(got, *e.Request)
		}
	}
	hashed := request
	hashed.Hash = sha256.Sum256(request.Payload)
	if want := []any{fileOp, forward, agentUse, joined, ran, withheld, hashed, answer}; !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if h := r.Head(); h == nil || h.Withheld != withheld.Bytes || h.Digest == nil || h.Digest.Requests != 1 || h.Digest.Answers != 1 {
		t.Errorf("head %+v", h)
	}
}

// Recordings of every writer there was stay readable.
func TestOldRecordingsAreRead(t *testing.T) {
	files, err := filepath.Glob("testdata/first-*.hwr")
	if err != nil || len(files) < 2 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		rep, err := reader.Verify(reader.Chunks(bytes.NewReader(b)), func(h recorder.Header, m, s []byte) bool { return ed25519.Verify(h.SignerKey, m, s) })
		if err != nil || !rep.Complete || !rep.Signed || rep.Header.User != "alice" || rep.Missing != 7 {
			t.Errorf("%s: %+v, %v", name, rep, err)
		}
		var out bytes.Buffer
		if err := play.WriteRaw(reader.New(reader.Chunks(bytes.NewReader(b))), &out); err != nil || !strings.Contains(out.String(), "gr\u00fc\u00dfe\r\n") {
			t.Errorf("%s: %v, output %q", name, err, out.String())
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add(bytes.Join(record(f, recorder.Options{}, func(w *recorder.Writer) {
		w.Start("shell", "", "xterm", nil)
		w.Output(recorder.Stderr, []byte("hello"))
		w.Resize(80, 24)
		w.Exit(1, "TERM")
	}), nil))
	f.Add(bytes.Join(record(f, recorder.Options{Digest: true}, everyFact), nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := reader.New(reader.Chunks(bytes.NewReader(b)))
		for {
			if _, err := r.Next(); err != nil {
				return
			}
		}
	})
}

func BenchmarkOutput(b *testing.B) {
	w := recorder.NewWriter(header, recorder.Options{Codec: zstdcodec.Codec(), Sink: func(context.Context, uint64, []byte) error { return nil }})
	p := bytes.Repeat([]byte("drwxr-xr-x 2 root root 4096 Nov 21 04:45 recorder\r\n"), 700)[:32<<10]
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		w.Output(recorder.Stdout, p)
	}
	if err := w.Close(context.Background()); err != nil && err != io.EOF {
		b.Fatal(err)
	}
}
