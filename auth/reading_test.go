package auth

import (
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hawser/auth/api"
)

func TestAFewReadersAtATimeOfOnePersonAndOfAll(t *testing.T) {
	var r readers
	var leave func()
	for range maxReadersOf {
		var err error
		if leave, err = r.enter("user:eve"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.enter("user:eve"); err == nil {
		t.Error("one more is let in")
	}
	leave()
	if _, err := r.enter("user:eve"); err != nil {
		t.Errorf("a place that was left is not given again: %v", err)
	}
	for i := range maxReaders - maxReadersOf {
		if _, err := r.enter("user:" + string(rune('a'+i))); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
	}
	if _, err := r.enter("user:zoe"); err == nil {
		t.Error("more than all places are given")
	}
}

// Four people whose role shows them their own sessions alone could take all places for as long as they liked, and whoever audits waited.
func TestAFewReadersKeepNobodyElseOut(t *testing.T) {
	var r readers
	for i := range maxReaders {
		_, _ = r.enter("user:" + string(rune('a'+i%5)))
	}
	if free := maxReaders - r.all; free != keptReaders {
		t.Errorf("five who read as much as they may leave %d places, want %d", free, keptReaders)
	}
	for i := range keptReaders {
		who := "user:" + string(rune('f'+i))
		if _, err := r.enter(who); err != nil {
			t.Fatalf("%s, who reads nothing: %v", who, err)
		}
		if _, err := r.enter(who); err == nil {
			t.Fatalf("%s takes two of the places that are kept", who)
		}
	}
	if _, err := r.enter("user:zoe"); err == nil {
		t.Error("more than all places are given")
	}
}

// The log said of one who was turned away that he had seen the recording.
func TestWhoIsTurnedAwayHasNotReadInTheLog(t *testing.T) {
	b := start(t)
	b.apply(t, "kind: role\nname: viewer\nallow: {recordings: all}\n")
	h := b.hub(t)
	b.device(t, h, "gw")
	g := h.admit(t, request(b.user(t, "ann", "operator"), "gw", "root"))
	chunks := chunksOf(t, g.RecordingId, 3, "what happened ")
	if _, err := h.Hub.AppendRecording(t.Context(), connectRequest(&api.AppendRecordingRequest{RecordingId: g.RecordingId, Grant: g.Grant, Chunks: chunks})); err != nil {
		t.Fatal(err)
	}
	vic := b.user(t, "vic", "viewer")
	r := request(vic, "", "")
	r.Kind, r.Channel, r.Command, r.SessionId = api.Kind_KIND_CONNECTION, "", "", nil
	if res := h.admit(t, r); res.Refusal != nil {
		t.Fatal(res.Refusal.Message)
	}
	id := hexOf(g.RecordingId)
	reads := map[string]func() error{
		"by the API": func() error {
			stream, err := b.admin.Admin.GetRecording(t.Context(), connectRequest(&api.GetRecordingRequest{Id: id}))
			if err != nil {
				return err
			}
			defer stream.Close()
			for stream.Receive() {
			}
			return stream.Err()
		},
		"at a hub": func() error {
			_, _, err := h.replay(t, &api.ReplayRecordingRequest{Id: id, PublicKey: vic.Marshal(), ClientAddress: r.ClientAddress, ConnectionId: r.ConnectionId})
			return err
		},
	}
	var leave []func()
	for i := range maxReaders {
		left, err := b.readers.enter("user:" + strconv.Itoa(i))
		if err != nil {
			t.Fatal(err)
		}
		leave = append(leave, left)
	}
	logged := func() int { return strings.Count(b.auditText(t), `"type":"recording.replay"`) }
	for how, read := range reads {
		wantCode(t, how, read(), api.Code_CODE_RATE_LIMITED)
	}
	if n := logged(); n != 0 {
		t.Errorf("%d in the log who were turned away", n)
	}
	for _, left := range leave {
		left()
	}
	for how, read := range reads {
		if err := read(); err != nil {
			t.Errorf("%s: %v", how, err)
		}
	}
	if n := logged(); n != len(reads) {
		t.Errorf("%d in the log who read, want %d", n, len(reads))
	}
}

// deadlines is a response that has gone out until its deadline passes.
type deadlines struct {
	http.ResponseWriter
	at    time.Time
	stuck bool
}

func (d *deadlines) SetWriteDeadline(at time.Time) error {
	d.at = at
	return nil
}

func (d *deadlines) Write(b []byte) (int, error) {
	if d.stuck {
		time.Sleep(time.Until(d.at))
		return 0, os.ErrDeadlineExceeded
	}
	return len(b), nil
}

func (d *deadlines) Flush() {}

func TestAReaderWhoTakesNothingIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &deadlines{}
		p := newPatient(d)
		if _, err := p.Write([]byte("x")); err != nil || !d.at.IsZero() {
			t.Errorf("%v; deadline %v stays between two writes", err, d.at)
		}
		d.stuck = true
		begun := time.Now()
		if _, err := p.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begun) != takeTime {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
	})
}

// The deadline must reach HTTP/2's streams, and be gone after each write.
func TestADeadlineIsOneOfTheStream(t *testing.T) {
	ended := make(chan error, 1)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := newPatient(w)
		_, err := p.Write([]byte("first\n"))
		p.Flush()
		for err == nil && r.URL.Path == "/stuck" {
			_ = p.c.SetWriteDeadline(time.Now().Add(time.Millisecond))
			if _, err = p.ResponseWriter.Write(make([]byte, 64<<10)); err == nil {
				err = p.c.Flush()
			}
		}
		ended <- err
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	c := s.Client()
	c.Transport.(*http.Transport).TLSClientConfig.MinVersion = tls.VersionTLS13
	for _, path := range []string{"/", "/stuck"} {
		res, err := c.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		if res.ProtoMajor != 2 {
			t.Fatalf("HTTP/%d", res.ProtoMajor)
		}
		if err := <-ended; (err != nil) != (path == "/stuck") {
			t.Errorf("%s: %v", path, err)
		}
		if b, err := io.ReadAll(res.Body); path == "/" && (err != nil || string(b) != "first\n") {
			t.Errorf("%q, %v", b, err)
		}
		res.Body.Close()
	}
}
