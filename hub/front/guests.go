package front

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"hawser/auth/policy"
	"hawser/recorder"
	"hawser/tunnel/channel/payload"
	"hawser/tunnel/wire"
)

// joinVariable is by what a person says past the hub which session he joins.
const joinVariable = "HAWSER_JOIN"

// Joining is the session that somebody wants to join: the beginning of its id in hex, and the mode, empty for observer.
type Joining struct{ Session, Mode string }

// maxGuestLog is how many lines a session's guests may put into the hub's log: a device tells of them, and may tell anything.
const maxGuestLog = 64

// guest takes what the device tells of those who have joined the session. What of their input is kept the device has decided; of what it should not have told
// nothing is.
func (x *session) guest(b []byte) {
	g, err := payload.ParseGuest(b)
	if err != nil {
		return
	}
	w := x.recording()
	switch {
	case g.What == payload.GuestNotice:
		x.notices.guests.Tell(wire.Quote(g.Text, 400))
	case g.What == payload.GuestChanged:
		if x.guestLog++; x.guestLog <= maxGuestLog {
			x.c.s.c.Logger.Info("the device tells of a guest", "session", hex.EncodeToString(x.id[:]), "change", wire.Quote(g.Text, 16), "guest", wire.Quote(g.User, 64),
				"mode", wire.Quote(g.Mode, 16))
		}
		if w != nil {
			w.Participant(recorder.Participant{ID: g.ID, User: g.User, Mode: g.Mode, State: g.Text, Way: g.Way})
		}
	case w == nil:
	case g.What == payload.GuestMarked:
		w.Marker(wire.Quote(g.Text, 400))
	case g.ID == 0:
	case g.What == payload.GuestTyped && x.keepsInput():
		w.InputFrom(g.ID, []byte(g.Text))
	case g.What == payload.GuestTyped:
		w.Withheld(recorder.Withheld{Participant: g.ID, Bytes: uint64(len(g.Text)), Reason: recorder.InputOff})
	case g.What == payload.GuestWithheld, g.What == payload.GuestEntered:
		w.Withheld(recorder.Withheld{Participant: g.ID, Bytes: uint64(g.Bytes), Reason: wire.Quote(g.Text, 16), Enter: g.What == payload.GuestEntered})
		w.Passed(recorder.Stdin, nil) // the answer waits for what is recorded
	}
}

// keepsInput tells whether anything of what people type may be kept.
func (x *session) keepsInput() bool {
	return x.place.RecordStdin != "" && x.place.RecordStdin != policy.StdinOff
}

// guestRequest is the record of a request by which the device tells of guests. What they typed stands once, in the input, and is here by its
// hash alone; where no input is to be kept not even that tells it, so that the witness, which has it, shows that the device should not have sent it.
func (x *session) guestRequest(r recorder.Request) recorder.Request {
	g, err := payload.ParseGuest(r.Payload)
	switch {
	case err == nil && g.What == payload.GuestTyped && !x.keepsInput():
		r.Payload, r.Hash = nil, recorder.PayloadHash(nil)
	case err != nil || g.What == payload.GuestTyped:
		r.Payload, r.Hash = nil, recorder.PayloadHash(r.Payload)
	}
	return r
}

var errJoinUsage = errors.New("join ID [--mode observer|peer|moderator]: `hawser sessions ls` has the ids")

// parseJoin reads the words of join.
func parseJoin(words []string) (j Joining, err error) {
	for i := 0; i < len(words); i++ {
		w := words[i]
		mode, found := strings.CutPrefix(w, "--mode=")
		switch {
		case w == "--mode" && i+1 < len(words):
			i++
			j.Mode = words[i]
		case found:
			j.Mode = mode
		case strings.HasPrefix(w, "-") || j.Session != "":
			return Joining{}, errJoinUsage
		default:
			j.Session = w
		}
	}
	if j.Session == "" {
		return Joining{}, errJoinUsage
	}
	if j.Mode == "" || slices.Contains(policy.JoinModes(), j.Mode) {
		return j, nil
	}
	return Joining{}, fmt.Errorf("there is no mode \"%s\"; %w", wire.Quote(j.Mode, 32), errJoinUsage)
}

// join serves `ssh -t hub join ID`: a session on the device of the one that is joined.
func (x *session) join(words []string) {
	j, err := parseJoin(words)
	if err != nil {
		x.say(err.Error())
		x.finish(2)
		return
	}
	if !x.pty.Load() {
		x.say("to join a session takes a terminal: ssh -t HUB join " + wire.Quote(j.Session, 40))
		x.finish(2)
		return
	}
	x.joins = j
	place, err := x.admit()
	if err != nil {
		x.deny(err)
		return
	}
	x.replay(&ssh.Request{Type: "shell"})
	x.serveOn(place)
}
