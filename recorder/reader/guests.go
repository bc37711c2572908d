package reader

import (
	"hawser/recorder"
	"hawser/tunnel/channel/payload"
	"hawser/tunnel/wire"
)

// maxTyped is more than one request says somebody typed: bytes.
const maxTyped = 16 << 10

// guests holds what a recording says of those who joined against the device's requests that say so. A request comes first, what it says right after it; of
// one that says what somebody typed only the hash is kept, for the text is what comes after it. Behind a gap nothing is held against anything: of what was
// dropped some requests are kept, without what they are about.
type guests struct {
	due any // *recorder.Participant, *recorder.Withheld or *typedBy: told, and not recorded yet
}

// typedBy is what is recorded behind a request of that hash.
type typedBy struct {
	hash        [32]byte
	participant uint32 // 0: nothing yet
	text        []byte
}

// settle finds what was told and is not recorded.
func (g *guests) settle(o *observer) {
	switch due := g.due.(type) {
	case *recorder.Participant:
		o.wrong("that %q was %q is not recorded", due.User, due.State)
	case *recorder.Withheld:
		o.wrong("that %d bytes were typed by participant %d, which are not kept, is not recorded", due.Bytes, due.Participant)
	case *typedBy:
		said := payload.Guest{What: payload.GuestTyped, ID: due.participant, Text: string(due.text)}
		if due.participant == 0 || recorder.PayloadHash(said.Marshal()) != due.hash {
			o.wrong("what is recorded as typed by participant %d is not what the device says", due.participant)
		}
	}
	g.due = nil
}

// told takes a request.
func (g *guests) told(o *observer, r *recorder.Request) {
	if o.gapped {
		return
	}
	g.settle(o)
	if r.Payload == nil {
		g.due = &typedBy{hash: r.Hash}
		return
	}
	p, err := payload.ParseGuest(r.Payload)
	switch {
	case err != nil: // nobody makes anything of it
	case p.What == payload.GuestChanged:
		g.due = &recorder.Participant{ID: p.ID, User: p.User, Mode: p.Mode, State: p.Text, Way: p.Way}
	case p.What == payload.GuestTyped:
		o.wrong("what participant %d typed is in a request", p.ID)
	case p.ID == 0:
	case p.What == payload.GuestWithheld, p.What == payload.GuestEntered:
		g.due = &recorder.Withheld{Participant: p.ID, Bytes: uint64(p.Bytes), Reason: wire.Quote(p.Text, 16), Enter: p.What == payload.GuestEntered}
	}
}

func (g *guests) changed(o *observer, p *recorder.Participant) {
	due, ok := g.due.(*recorder.Participant)
	switch {
	case ok && *due == *p:
		g.due = nil
	case ok:
		o.wrong("that %q, as %q, was %q is recorded as that %q, as %q, was %q", due.User, due.Mode, due.State, p.User, p.Mode, p.State)
	case !o.gapped:
		o.wrong("it says that %q was %q, and the device does not", p.User, p.State)
	}
}

func (g *guests) withheld(o *observer, w *recorder.Withheld) {
	if w.Participant == 0 {
		return
	}
	due, ok := g.due.(*recorder.Withheld)
	switch {
	case ok && *due == *w:
		g.due = nil
	case ok || !o.gapped:
		o.wrong("that participant %d typed something that is not kept is recorded otherwise than the device says", w.Participant)
	}
}

// input takes what is recorded as typed: of a long one each part.
func (g *guests) input(o *observer, participant uint32, b []byte) {
	due, ok := g.due.(*typedBy)
	switch {
	case !ok && o.gapped:
	case !ok || due.participant != 0 && due.participant != participant || len(due.text)+len(b) > maxTyped:
		o.wrong("it says that participant %d typed something, and the device does not", participant)
	default:
		due.participant, due.text = participant, append(due.text, b...)
	}
}
