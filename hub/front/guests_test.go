package front

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/recorder"
	"hawser/recorder/observe"
	"hawser/tunnel/channel/payload"
)

// keptRecording is a Recording that keeps what it is told of guests.
type keptRecording struct {
	*twinRecording
	facts []string
}

func (r *keptRecording) InputFrom(id uint32, b []byte) bool {
	r.facts = append(r.facts, fmt.Sprintf("input %d %s", id, b))
	return true
}

func (r *keptRecording) Withheld(a recorder.Withheld) {
	r.facts = append(r.facts, fmt.Sprintf("withheld %d %d %s %v", a.Participant, a.Bytes, a.Reason, a.Enter))
}

func (r *keptRecording) Participant(p recorder.Participant) {
	r.facts = append(r.facts, fmt.Sprintf("%s %s", p.User, p.State))
}

func (r *keptRecording) Request(q recorder.Request) {
	r.facts = append(r.facts, fmt.Sprintf("request %v %v", q.Hash == recorder.PayloadHash(nil), len(q.Payload) > 0))
	if bytes.Contains(q.Payload, []byte("hunter2")) {
		r.facts = append(r.facts, "with what was typed")
	}
}

// The device decides what of a guest's input is kept. A device that tells more than it should is kept out of the recording all the same.
func TestWhatAGuestTypesStandsInNoRequest(t *testing.T) {
	for rule, want := range map[string]string{
		"off":  "request true false, withheld 2 7 off false, request false true, withheld 2 0 off true, request false true, mo paused",
		"full": "request false false, input 2 hunter2, request false true, withheld 2 0 off true, request false true, mo paused",
	} {
		w := &keptRecording{twinRecording: new(twinRecording)}
		x := &session{c: &conn{s: &Server{c: Config{Logger: slog.New(slog.DiscardHandler)}}}, place: &Place{Recorded: true, RecordStdin: rule}, tap: w}
		for _, g := range []payload.Guest{
			{What: payload.GuestTyped, ID: 2, Text: "hunter2"}, {What: payload.GuestEntered, ID: 2, Text: "off"},
			{What: payload.GuestChanged, ID: 3, User: "mo", Mode: "moderator", Text: "paused"},
		} {
			x.passes(payload.GuestRequest, g.Marshal(), true)
			x.guest(g.Marshal())
		}
		if got := strings.Join(w.facts, ", "); got != want {
			t.Errorf("under %s: %s", rule, got)
		}
	}
}

func (r *keptRecording) Start(kind, command, _ string, _ []string) error {
	r.facts = append(r.facts, kind+" "+command)
	return nil
}

// recordingBackend is a Backend that records.
type recordingBackend struct {
	Backend
	w      *keptRecording
	header recorder.Header
}

func (b *recordingBackend) Record(_ *Place, h recorder.Header, _ Recorded) Recording {
	b.header = h
	return b.w
}

func TestAForcedCommandIsRecordedAsWhatRuns(t *testing.T) {
	b := &recordingBackend{w: &keptRecording{twinRecording: new(twinRecording)}}
	x := &session{
		c: &conn{s: &Server{c: Config{Backend: b, Now: time.Now}}}, held: observe.NewHeld(),
		place: &Place{Recorded: true, ForceCommand: "backup", Channels: []string{"exec"}},
	}
	if forward, _ := x.examineStart(&ssh.Request{Type: "exec", Payload: payload.Exec{Command: "rm -rf /"}.Marshal()}); !forward {
		t.Fatal("it is not passed on")
	}
	if got := strings.Join(b.w.facts, ", "); got != "exec backup" || b.header.Command != "rm -rf /" {
		t.Errorf("recorded as %q, asked for %q", got, b.header.Command)
	}
}

// A device could show a prompt for a password that no recording has.
func TestWhatADeviceShowsBeforeTheStartIsRecordedFirst(t *testing.T) {
	w := &keptRecording{twinRecording: new(twinRecording)}
	x := &session{place: &Place{Recorded: true}}
	x.notices.set(x)
	defer x.notices.stop()
	var shown bytes.Buffer
	out := &tapped{x: x, stream: recorder.Stdout, w: &shown}
	_, _ = out.Write([]byte("Password: "))
	_, _ = out.Write(make([]byte, 2*maxEarlyOutput))
	if shown.Len() > 0 {
		t.Fatalf("shown and not recorded: %q", &shown)
	}
	seen := observe.NewSession("shell", "", true, "off")
	seen.Attach(w)
	x.tap, x.facts = w, seen
	out.end()
	out.end()
	_, _ = out.Write([]byte("$ "))
	if w.shown.String() != shown.String() || !strings.HasPrefix(shown.String(), "Password: ") || shown.Len() != maxEarlyOutput+2 {
		t.Errorf("recorded %d bytes, shown %d", w.shown.Len(), shown.Len())
	}
}
