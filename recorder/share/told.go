package share

import (
	"math"
	"sync"

	"hawser/recorder"
	"hawser/recorder/observe"
	"hawser/tunnel/channel/payload"
)

// maxUnrecorded is how many requests of what a guest typed may wait for the recorder's answer. Until it comes no more is taken of him.
const maxUnrecorded = 8

// Requester is the channel of a session that is recorded at its other end.
type Requester interface {
	SendRequest(name string, wantReply bool, payload []byte) (bool, error)
	StartRequest(name string, payload []byte) (<-chan bool, error)
}

// Told tells the hub, over a session's channel, what its guests do, for its recording and its owner. What of their input may be kept is decided
// here: of the rest no byte is sent. Safe for concurrent use.
type Told struct {
	to   Requester
	seen *observe.Session // nil: nothing is recorded

	mu     sync.Mutex
	guests map[uint32]*unrecorded // who are in
}

// unrecorded is what was told of a guest's typing and not answered.
type unrecorded struct {
	answers []<-chan bool
	gone    chan struct{}
}

// NewTold is for a session at a terminal; stdin is what of input is kept, as auth/policy names it, where the session is recorded.
func NewTold(to Requester, recorded bool, stdin string) *Told {
	t := &Told{to: to, guests: map[uint32]*unrecorded{}}
	if recorded {
		t.seen = observe.NewSession("shell", "", true, stdin)
		t.seen.Attach(toldWriter{t})
	}
	return t
}

// Changed tells that a guest came, went or did something else than typing.
func (t *Told) Changed(m Member, change string) {
	switch change {
	case Joined:
		t.mu.Lock()
		t.guests[m.ID] = &unrecorded{gone: make(chan struct{})}
		t.mu.Unlock()
	case Left, PutOut:
		if t.seen != nil {
			t.seen.Left(m.ID)
		}
		t.mu.Lock()
		if u := t.guests[m.ID]; u != nil {
			delete(t.guests, m.ID)
			close(u.gone)
		}
		t.mu.Unlock()
	}
	t.send(payload.Guest{What: payload.GuestChanged, ID: m.ID, User: m.User, Mode: m.Mode.String(), Way: m.Way, Text: change})
}

// Ready waits until more may be taken of what a guest types: little of it is ever unrecorded. False: he has gone.
func (t *Told) Ready(member uint32) bool {
	for {
		t.mu.Lock()
		u := t.guests[member]
		var oldest <-chan bool
		if u != nil && len(u.answers) >= maxUnrecorded {
			oldest = u.answers[0]
		}
		t.mu.Unlock()
		switch {
		case u == nil:
			return false
		case oldest == nil:
			return true
		}
		select {
		case <-oldest:
			t.mu.Lock()
			u.answers = append(u.answers[:0], u.answers[1:]...)
			t.mu.Unlock()
		case <-u.gone:
			return false
		}
	}
}

// Typed tells what a guest typed, as far as it may be kept, with the verdict of recorder/observe on it. False: it is not recorded.
func (t *Told) Typed(member uint32, b []byte, verdict byte) bool {
	return t.seen == nil || t.seen.InputFrom(member, b, verdict)
}

// Say tells the owner something.
func (t *Told) Say(text string) { t.send(payload.Guest{What: payload.GuestNotice, Text: text}) }

// Mark puts a line into the recording.
func (t *Told) Mark(text string) { t.send(payload.Guest{What: payload.GuestMarked, Text: text}) }

func (t *Told) send(g payload.Guest) {
	_, _ = t.to.SendRequest(payload.GuestRequest, false, g.Marshal()) // an error is the session's end
}

// ask tells what is answered once it is recorded. An error is the session's end.
func (t *Told) ask(g payload.Guest) bool {
	answer, err := t.to.StartRequest(payload.GuestRequest, g.Marshal())
	if err != nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if u := t.guests[g.ID]; u != nil {
		u.answers = append(u.answers, answer)
	}
	return true
}

// toldWriter is the observe.Writer of a session's guests: of input alone.
type toldWriter struct{ t *Told }

func (w toldWriter) InputFrom(participant uint32, b []byte) bool {
	return w.t.ask(payload.Guest{What: payload.GuestTyped, ID: participant, Text: string(b)})
}

func (w toldWriter) Withheld(a recorder.Withheld) {
	g := payload.Guest{What: payload.GuestWithheld, ID: a.Participant, Text: a.Reason, Bytes: uint32(min(a.Bytes, math.MaxUint32))}
	if a.Enter {
		g.What = payload.GuestEntered
	}
	w.t.ask(g)
}

func (toldWriter) Passed(byte, []byte) bool { return true }
func (toldWriter) Output(byte, []byte) bool { return true }
func (toldWriter) FileOp(recorder.FileOp)   {}
func (toldWriter) Marker(string)            {}
