package session

import (
	"slices"

	"hawser/recorder/share"
	"hawser/tunnel/wire"
)

// Inside is what a session that others may join knows of itself.
type Inside struct {
	User, Login string
	Recorded    string // the recording mode of auth/policy; empty or off: it is not
	PausedBy    string
	Waits       string // who is waited for before it begins or goes on; empty: nobody
	Guests      []share.Member
}

// Inside tells of a running session by its id, to one of its own login or root; false: there is none for him, or nobody can join it.
func (e *Engine) Inside(id string, uid uint32) (Inside, bool) {
	m := e.rooms.get(id)
	if m == nil || !m.of(uid) {
		return Inside{}, false
	}
	p := m.s.params
	return Inside{User: p.User, Login: p.Login, Recorded: p.Recorded, PausedBy: m.PausedBy(), Waits: m.Waits(), Guests: m.Members()}, true
}

// Hosts tells whether a login, or anybody for root, has a session that others may join.
func (e *Engine) Hosts(uid uint32) bool {
	e.rooms.mu.Lock()
	defer e.rooms.mu.Unlock()
	for _, m := range e.rooms.byID {
		if m.of(uid) {
			return true
		}
	}
	return false
}

func (m *room) of(uid uint32) bool { return uid == 0 || uid == m.s.account.UID }

// maxTold words wait for a session whose people take none; one more is dropped.
const maxTold = 8

// Tell passes a word on to the people in a session, and tells whether there is one that others may join. It does not block.
func (e *Engine) Tell(id string, t wire.Tell) bool {
	m := e.rooms.get(id)
	if m == nil {
		return false
	}
	if t.What != wire.TellAll {
		m.Heed(t)
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over || len(m.told) == maxTold {
		return !m.over
	}
	if m.told = append(m.told, t); len(m.told) == 1 {
		m.s.wg.Go(m.tellAll) // not over: nobody waits for the goroutines yet
	}
	return true
}

// tellAll says what waits. The owner's screen may take its time.
func (m *room) tellAll() {
	for {
		m.mu.Lock()
		t := m.told[0]
		m.mu.Unlock()
		m.Heed(t)
		m.mu.Lock()
		if m.told = slices.Delete(m.told, 0, 1); len(m.told) == 0 {
			m.mu.Unlock()
			return
		}
		m.mu.Unlock()
	}
}
