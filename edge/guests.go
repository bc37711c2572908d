package edge

import (
	"hawser/recorder"
	"hawser/recorder/share"
	"hawser/tunnel/wire"
)

// guests records and tells here what those do who join a session that the hub does not see.
type guests struct {
	tap *tap              // nil: not recorded
	say func(text string) // nil: the person has no screen
}

func (g guests) writer() *recorder.Writer {
	if g.tap == nil {
		return nil
	}
	return g.tap.writer()
}

// Changed implements session.Guests.
func (g guests) Changed(m share.Member, change string) {
	w := g.writer()
	if w == nil {
		return
	}
	if change == share.Left || change == share.PutOut {
		g.tap.seen.Left(m.ID)
	}
	w.Participant(recorder.Participant{ID: m.ID, User: m.User, Mode: m.Mode.String(), State: change, Way: m.Way})
}

// Ready implements session.Guests.
func (g guests) Ready(uint32) bool { return g.writer() == nil || g.tap.Ready() }

// Typed implements session.Guests.
func (g guests) Typed(member uint32, b []byte, verdict byte) bool {
	return g.writer() == nil || g.tap.seen.InputFrom(member, b, verdict)
}

// Mark implements session.Guests.
func (g guests) Mark(text string) {
	if w := g.writer(); w != nil {
		w.Marker(wire.Quote(text, 400))
	}
}

// Say implements session.Guests.
func (g guests) Say(text string) {
	if g.say != nil {
		g.say(wire.Quote(text, 400))
	}
}
