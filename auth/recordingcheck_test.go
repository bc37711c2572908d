package auth

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/policy"
	chunkseal "hawser/auth/seal"
	"hawser/auth/store"
	"hawser/recorder"
)

// passed is what passes in a session between a hub and a device, as the device sees it.
type passed struct {
	header  recorder.Header
	command string
	input   string
	output  string
	status  byte
	rule    string
	key     *[32]byte                // encrypts the recording
	way     string                   // empty: hub
	edit    func(h *recorder.Header) // lies about it
	tell    func(w *recorder.Writer) // lies beside it
	exits   *uint32                  // in place of the status
}

func execPayload(command string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(command))), command...)
}

// witness is the device's.
func (p passed) witness(key ed25519.PrivateKey) []byte {
	var s recorder.Sums
	s.Request(false, "exec", recorder.PayloadHash(execPayload(p.command)))
	s.Pass(recorder.Stdout, []byte(p.output))
	s.Pass(recorder.Stdin, []byte(p.input))
	s.Request(true, "exit-status", recorder.PayloadHash([]byte{0, 0, 0, p.status}))
	t := recorder.Testimony{Session: p.header.ID, User: p.header.User, Login: p.header.Login, Rule: p.rule, Input: uint64(len(p.input))}
	return t.Sign(&s, func(m []byte) []byte { return ed25519.Sign(key, m) })
}

// recording is what a hub makes of it: true of p, which may be another than what passed.
func (p passed) recording(t *testing.T, key ed25519.PrivateKey, witness []byte, without string) (all []*api.Chunk) {
	t.Helper()
	h := p.header
	h.Kind, h.Command, h.Input, h.Start, h.Way = "exec", p.command, p.rule, time.Now(), cmp.Or(p.way, "hub")
	if p.edit != nil {
		p.edit(&h)
	}
	w := recorder.NewWriter(h, recorder.Options{
		Digest: true, ChunkSize: 512, Key: p.key,
		Sign: func(m []byte) []byte { return ed25519.Sign(key, m) },
		Sink: func(_ context.Context, seq uint64, c []byte) error {
			all = append(all, &api.Chunk{Seq: seq, Data: bytes.Clone(c)})
			return nil
		},
	})
	_ = w.Start("exec", p.command, "", nil)
	w.Request(recorder.Request{Name: "exec", Payload: execPayload(p.command)})
	w.Input([]byte(p.input))
	if h.Unkept != 0 {
		w.Passed(recorder.Stdout, []byte(p.output))
	} else {
		w.Output(recorder.Stdout, []byte(p.output))
	}
	if p.tell != nil {
		p.tell(w)
	}
	w.Request(recorder.Request{Name: "exit-status", Payload: []byte{0, 0, 0, p.status}, FromDevice: true})
	if p.exits == nil {
		w.Exit(uint32(p.status), "")
	} else {
		w.Exit(*p.exits, "")
	}
	w.Witness(witness, without)
	if err := w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return all
}

// A hub that lies about what passed is found, whatever it lies about: it can sign what it likes, and not what the device says.
func TestALyingHubIsFoundByTheWitness(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	cred, device := b.device(t, h, "gw")
	key := b.user(t, "ann", "operator")
	upload := func(key ssh.PublicKey, make func(p passed) []*api.Chunk) (*api.AdmitResponse, passed) {
		g := h.admit(t, request(key, "gw", "root"))
		p := passed{command: "id", input: "typed\n", output: strings.Repeat("what happened ", 100), rule: recorder.InputFull}
		p.header = recorder.Header{ID: [16]byte(g.RecordingId), User: "ann", Login: "root", Device: "gw", DeviceUUID: cred.Uuid}
		chunks := make(p)
		if _, err := h.Hub.AppendRecording(t.Context(), connectRequest(&api.AppendRecordingRequest{RecordingId: g.RecordingId, Grant: g.Grant,
			Chunks: chunks})); err != nil {
			t.Fatal(err)
		}
		_, err := h.Hub.CloseRecording(t.Context(), connectRequest(&api.CloseRecordingRequest{RecordingId: g.RecordingId, Grant: g.Grant,
			Chunks: uint64(len(chunks))}))
		if err != nil {
			t.Fatal(err)
		}
		b.checks.wait()
		if _, err := h.Hub.Release(t.Context(), connectRequest(&api.ReleaseRequest{SessionId: g.SessionId})); err != nil {
			t.Fatal(err)
		}
		return g, p
	}
	for _, c := range []struct {
		name  string
		make  func(p passed) []*api.Chunk
		fault string // "": none
		said  string
	}{
		{"the truth", func(p passed) []*api.Chunk { return p.recording(t, h.key, p.witness(device), "") }, "", store.WitnessMatch},
		{"input that the device had not taken when it ended", func(p passed) []*api.Chunk {
			q := p
			q.input += "exit\n"
			return q.recording(t, h.key, p.witness(device), "")
		}, "", store.WitnessMatch},
		{"dropped output", func(p passed) []*api.Chunk {
			q := p
			q.output = q.output[:1000]
			return q.recording(t, h.key, p.witness(device), "")
		}, "the device sent 1400 bytes of output, the recording has 1000", store.WitnessMismatch},
		{"added output", func(p passed) []*api.Chunk {
			q := p
			q.output += "!"
			return q.recording(t, h.key, p.witness(device), "")
		}, "the device sent 1400 bytes of output, the recording has 1401", store.WitnessMismatch},
		{"altered output", func(p passed) []*api.Chunk {
			q := p
			q.output = strings.Replace(q.output, "happened", "HAPPENED", 1)
			return q.recording(t, h.key, p.witness(device), "")
		}, "its output is not what the device sent", store.WitnessMismatch},
		{"altered input", func(p passed) []*api.Chunk {
			q := p
			q.input = "TYPED\n"
			return q.recording(t, h.key, p.witness(device), "")
		}, "its input is not what the device took", store.WitnessMismatch},
		{"dropped input", func(p passed) []*api.Chunk {
			q := p
			q.input = "typ"
			return q.recording(t, h.key, p.witness(device), "")
		}, "the device took 6 bytes of input that are to be kept, the recording has 3", store.WitnessMismatch},
		{"less input kept than the grant says", func(p passed) []*api.Chunk {
			q := p
			q.input, q.rule = "", recorder.InputOff
			return q.recording(t, h.key, p.witness(device), "")
		}, `keeps \"off\", and the grant said \"full\"`, store.WitnessMismatch},
		{"another command", func(p passed) []*api.Chunk {
			q := p
			q.command = "true"
			return q.recording(t, h.key, p.witness(device), "")
		}, "the requests in it are not those that the device took", store.WitnessMismatch},
		{"another exit status", func(p passed) []*api.Chunk {
			q := p
			q.status = 1
			return q.recording(t, h.key, p.witness(device), "")
		}, "the exit status too", store.WitnessMismatch},
		{"another exit status beside the device's", func(p passed) []*api.Chunk {
			q := p
			q.exits = new(uint32)
			*q.exits = 3
			return q.recording(t, h.key, p.witness(device), "")
		}, "ended by status 0 is recorded as status 3", store.WitnessMismatch},
		{"output that it says is a file transfer's", func(p passed) []*api.Chunk {
			q := p
			q.edit = func(h *recorder.Header) { h.Unkept = recorder.UnkeptStdout }
			return q.recording(t, h.key, p.witness(device), "")
		}, "as if it were a file transfer", store.WitnessMismatch},
		{"a guest whom it made up", func(p passed) []*api.Chunk {
			q := p
			q.tell = func(w *recorder.Writer) {
				w.Participant(recorder.Participant{ID: 3, User: "bob", Mode: "peer", State: "joined"})
				w.InputFrom(3, []byte("rm -rf /\r"))
			}
			return q.recording(t, h.key, p.witness(device), "")
		}, `it says that \"bob\" was \"joined\", and the device does not`, store.WitnessMismatch},
		{"keys that nobody asked it to encrypt to", func(p passed) []*api.Chunk {
			q := p
			q.key = new([32]byte)
			q.header.Keys = [][]byte{make([]byte, 200)}
			return q.recording(t, h.key, p.witness(device), "")
		}, "it is encrypted to 1 keys, and the grant was to encrypt it to 0 auditors", ""},
		{"another way in", func(p passed) []*api.Chunk {
			q := p
			q.way = "end-to-end"
			return q.recording(t, h.key, p.witness(device), "")
		}, `came by the way \"end-to-end\", and it came by \"hub\"`, ""},
		{"another user", func(p passed) []*api.Chunk {
			q := p
			q.header.User = "bob"
			return q.recording(t, h.key, p.witness(device), "")
		}, `the device served \"ann\" as \"root\"`, store.WitnessMismatch},
		{"a witness of another session", func(p passed) []*api.Chunk {
			q := p
			q.header.ID[0]++
			return p.recording(t, h.key, q.witness(device), "")
		}, "its witness is of the session", store.WitnessMismatch},
		{"a witness of its own making", func(p passed) []*api.Chunk {
			q := p
			q.output = "nothing"
			return q.recording(t, h.key, q.witness(h.key), "")
		}, "it is not signed by the device", store.WitnessMismatch},
		{"a recording that somebody else signed", func(p passed) []*api.Chunk {
			return p.recording(t, device, p.witness(device), "")
		}, "signature of the closing head is wrong", ""},
		{"a witness that it says there is none of", func(p passed) []*api.Chunk { return p.recording(t, h.key, nil, recorder.WithoutNone) },
			"and the device gives them", store.WitnessMismatch},
		{"a witness that it says there is none of, by a clock that it set back", func(p passed) []*api.Chunk {
			q := p
			q.edit = func(h *recorder.Header) { h.Start = time.Unix(1, 0) }
			return q.recording(t, h.key, nil, recorder.WithoutNone)
		}, "and the device gives them", store.WitnessMismatch},
		{"a device that it says has no agent", func(p passed) []*api.Chunk { return p.recording(t, h.key, nil, recorder.WithoutAgent) },
			"has no agent, and it has", store.WitnessMismatch},
		{"no word of a witness", func(p passed) []*api.Chunk { return p.recording(t, h.key, nil, "") }, "says no reason", store.WitnessMismatch},
		{"a device that was lost", func(p passed) []*api.Chunk { return p.recording(t, h.key, nil, recorder.WithoutLost) }, "", recorder.WithoutLost},
	} {
		g, _ := upload(key, c.make)
		m, err := b.recordings.Manifest(t.Context(), [16]byte(g.RecordingId))
		if err != nil {
			t.Fatal(err)
		}
		if (m.Fault == "") != (c.fault == "") || !strings.Contains(m.Fault, c.fault) || (m.Verified == store.VerifiedOK) != (c.fault == "") ||
			m.Witness != c.said && c.said != "" {
			t.Errorf("%s: %q, fault %q, witness %q", c.name, m.Verified, m.Fault, m.Witness)
		}
		alarm := false
		for line := range strings.Lines(b.auditText(t)) {
			alarm = alarm || strings.Contains(line, "recording.mismatch") && strings.Contains(line, hex.EncodeToString(g.RecordingId))
		}
		if alarm != (c.fault != "") {
			t.Errorf("%s: alarm %v", c.name, alarm)
		}
	}
}

// The recording of a session past the hub is the device's to make. The hub that passes it on cannot put one of its own in its place: not in clear,
// not sealed for auth, not signed by itself, whatever its header says.
func TestTheEntryHubCannotMakeTheRecordingOfASessionPastIt(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	cred, device := b.device(t, h, "gw")
	key := b.user(t, "ann", "operator")
	for n, c := range []struct {
		name, way string
		by        ed25519.PrivateKey
		bare      bool
		without   string
		fault     string
	}{
		{"the device's own", "end-to-end", device, false, "", ""},
		{"the hub's, in clear", "hub", h.key, true, recorder.WithoutLost, "refused"},
		{"the device's, in clear", "end-to-end", device, true, "", "refused"},
		{"the hub's, sealed, as if it had come in by the hub", "hub", h.key, false, recorder.WithoutLost, "signature of the closing head is wrong"},
		{"the hub's, sealed, as if it were the device's", "end-to-end", h.key, false, "", "signature of the closing head is wrong"},
		{"the device's, by another way", "direct", device, false, "", `by the way \"direct\", and it came by \"end-to-end\"`},
		{"the device's, as if a hub had made it", "hub", device, false, recorder.WithoutLost, `by the way \"hub\"`},
	} {
		r := request(key, "gw", "root")
		r.Way = policy.WayEndToEnd
		g := h.admit(t, r)
		id := [16]byte(g.RecordingId)
		p := passed{command: "id", output: "what never happened", rule: recorder.InputFull, way: c.way}
		p.header = recorder.Header{ID: id, User: "ann", Login: "root", Device: "gw", DeviceUUID: cred.Uuid}
		chunks := p.recording(t, c.by, nil, c.without)
		if !c.bare {
			to, err := chunkseal.To([32]byte(b.sealKey.PublicKey().Bytes()), id)
			if err != nil {
				t.Fatal(err)
			}
			for _, ch := range chunks {
				ch.Data = to.Seal(ch.Seq, 0, ch.Data)
			}
		}
		if n%2 == 0 { // an upload may ask first where to begin
			if _, err := h.Hub.AppendRecording(t.Context(), connectRequest(&api.AppendRecordingRequest{RecordingId: g.RecordingId, Grant: g.Grant})); err != nil {
				t.Fatal(err)
			}
		}
		_, err := h.Hub.AppendRecording(t.Context(), connectRequest(&api.AppendRecordingRequest{RecordingId: g.RecordingId, Grant: g.Grant, Chunks: chunks}))
		if refused := connect.CodeOf(err) == connect.CodePermissionDenied; refused != c.bare || err != nil && !refused {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.bare {
			if !strings.Contains(b.auditText(t), "seals it for auth") {
				t.Errorf("%s: not in the log", c.name)
			}
		} else {
			_, err = h.Hub.CloseRecording(t.Context(), connectRequest(&api.CloseRecordingRequest{RecordingId: g.RecordingId, Grant: g.Grant,
				Chunks: uint64(len(chunks))}))
			if err != nil {
				t.Fatal(err)
			}
			b.checks.wait()
			m, err := b.recordings.Manifest(t.Context(), id)
			if err != nil || m.Way != policy.WayEndToEnd || (m.Fault == "") != (c.fault == "") || !strings.Contains(m.Fault, c.fault) ||
				m.Witness == store.WitnessMatch {
				t.Errorf("%s: way %q, fault %q, %q, %v", c.name, m.Way, m.Fault, m.Witness, err)
			}
		}
		if _, err := h.Hub.Release(t.Context(), connectRequest(&api.ReleaseRequest{SessionId: g.SessionId})); err != nil {
			t.Fatal(err)
		}
	}
}
