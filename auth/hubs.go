package auth

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"hawser/auth/api"
	"hawser/auth/policy"
)

// hubTable is what is so now and need not outlive the service: which hubs watch, which devices have a tunnel where, and
// which sessions are open. The hubs tell it all again when the service has restarted.
type hubTable struct {
	mu       sync.Mutex
	watches  map[string]*watch    // by the hub's UUID; the newest
	seen     map[string]time.Time // when a hub that was up in this run of the service went, by its UUID
	changed  chan struct{}        // closed and replaced when a hub comes or goes
	came     uint64               // counts it
	held     chan struct{}        // closed and replaced when a hub or a device says what it enforces
	devices  map[string]*presence // by UUID
	sessions map[[16]byte]*session
	perHub   map[string]int      // sessions
	claimed  map[[16]byte]string // sessions, perhaps of an earlier run of the service, that a hub said it has; its UUID
	doubted  map[[16]byte]bool   // young sessions that their hub did not name, and has not since
	doomed   map[[16]byte]string // sessions that are to end, and whose hub was away when it was to be told; why
	// released are sessions that ended a moment ago: a report that was on its way must not bring them back. Two halves, the older
	// forgotten each releasedLife.
	released [2]map[releasedSession]struct{}
	turned   time.Time
}

type releasedSession struct {
	hub string
	id  [16]byte
}

type watch struct {
	hub   hubRef
	kills []*api.Kill                 // at most one for each session
	tells []*api.Tell                 // at most maxTells
	wake  chan struct{}               // buffered by one: there are kills or tells
	gone  chan struct{}               // closed when a newer Watch of the hub took over, or the hub was removed
	held  *api.ReportRevisionsRequest // what the hub says it enforces; nil: it has not yet
	cut   map[[16]byte]bool           // sessions it was told to end because they are not allowed any more
}

func newHubTable() *hubTable {
	return &hubTable{
		watches: make(map[string]*watch), seen: make(map[string]time.Time), changed: make(chan struct{}), held: make(chan struct{}), devices: make(map[string]*presence),
		sessions: make(map[[16]byte]*session), perHub: make(map[string]int), claimed: make(map[[16]byte]string), doubted: make(map[[16]byte]bool), doomed: make(map[[16]byte]string),
	}
}

// begin makes the hub count as up, and ends sessions it no longer has.
func (t *hubTable) begin(hub hubRef, alive [][]byte, now time.Time) (*watch, []*session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := t.watches[hub.uuid]; old != nil {
		close(old.gone)
	} else {
		t.moveLocked()
	}
	w := &watch{hub: hub, wake: make(chan struct{}, 1), gone: make(chan struct{}), cut: make(map[[16]byte]bool)}
	t.watches[hub.uuid] = w
	maps.DeleteFunc(t.claimed, func(_ [16]byte, of string) bool { return of == hub.uuid })
	keep := make(map[[16]byte]bool, len(alive))
	for _, id := range alive {
		if len(id) == 16 {
			keep[[16]byte(id)] = true
			t.claimed[[16]byte(id)] = hub.uuid
		}
	}
	ended := t.endLocked(hub.uuid, keep, now)
	for id, why := range t.doomed {
		if s := t.sessions[id]; s != nil && s.hub == hub.uuid {
			delete(t.doomed, id)
			t.killLocked(s, why)
		}
	}
	return w, ended
}

// endLocked drops and returns the hub's sessions that are not in keep. Of the youngest it begins to doubt.
func (t *hubTable) endLocked(hub string, keep map[[16]byte]bool, now time.Time) []*session {
	var ended []*session
	for id, s := range t.sessions {
		switch {
		case s.hub != hub || keep[id]:
		case now.Sub(s.admitted) <= claimGrace: // it may not have been on the hub's list yet
			t.doubted[id] = true
		default:
			ended = append(ended, s)
			t.dropLocked(s)
		}
	}
	return ended
}

// end takes the hub's tunnels away, unless a newer Watch of it took over.
func (t *hubTable) end(w *watch, reason string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.watches[w.hub.uuid] == w {
		t.downLocked(w.hub, reason, now)
	}
}

// remove ends the Watch of a hub that was removed, and its sessions.
func (t *hubTable) remove(hub string, now time.Time) []*session {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w := t.watches[hub]; w != nil {
		close(w.gone)
		t.downLocked(w.hub, "hub "+w.hub.name+" was removed", now)
	}
	delete(t.seen, hub)
	maps.DeleteFunc(t.claimed, func(_ [16]byte, of string) bool { return of == hub })
	return t.endLocked(hub, nil, now.Add(2*claimGrace))
}

func (t *hubTable) downLocked(hub hubRef, reason string, now time.Time) {
	delete(t.watches, hub.uuid)
	t.seen[hub.uuid] = now
	t.offlineLocked(hub, reason, now, nil)
	t.moveLocked()
}

func (t *hubTable) moveLocked() {
	close(t.changed)
	t.changed = make(chan struct{})
	t.came++
	t.heldLocked()
}

// generation counts the comings and goings of hubs.
func (t *hubTable) generation() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.came
}

// moved returns a channel that closes when the next hub comes or goes.
func (t *hubTable) moved() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

// up tells whether the hub watches, and else when it last did in this run of the service.
func (t *hubTable) up(hub string) (up bool, seen time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.watches[hub] != nil, t.seen[hub]
}

// killOnce is kill for a session that its hub has not been told to end yet, on this Watch.
func (t *hubTable) killOnce(s *session, reason string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.watches[s.hub]
	if w == nil || w.cut[s.id] || t.sessions[s.id] == nil {
		return false
	}
	w.cut[s.id] = true
	return t.killLocked(s, reason)
}

// kill tells the session's hub to end it; ok is false if that hub is not connected.
func (t *hubTable) kill(s *session, reason string) (ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.killLocked(s, reason)
}

func (t *hubTable) killLocked(s *session, reason string) (ok bool) {
	w := t.watches[s.hub]
	if w == nil {
		if t.sessions[s.id] == nil { // given back since the caller saw it
			return false
		}
		t.doomed[s.id] = reason // begin tells the hub when it is back; at most one for each session
		return false
	}
	for _, k := range w.kills {
		if bytes.Equal(k.SessionId, s.id[:]) {
			return true
		}
	}
	w.kills = append(w.kills, &api.Kill{SessionId: s.id[:], Reason: reason})
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return true
}

// killAll tells every hub that is connected.
func (t *hubTable) killAll(k *api.Kill) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range t.watches {
		if len(w.kills) < maxKills {
			w.kills = append(w.kills, k)
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

func (t *hubTable) takeKills(w *watch) []*api.Kill {
	t.mu.Lock()
	defer t.mu.Unlock()
	kills := w.kills
	w.kills = nil
	return kills
}

// tell tells the session's hub something about the people in it, now or not at all: false.
func (t *hubTable) tell(s *session, m *api.Tell) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.watches[s.hub]
	if w == nil || len(w.tells) >= maxTells {
		return false
	}
	w.tells = append(w.tells, m)
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return true
}

func (t *hubTable) takeTells(w *watch) []*api.Tell {
	t.mu.Lock()
	defer t.mu.Unlock()
	tells := w.tells
	w.tells = nil
	return tells
}

// session is an open session or connection.
type session struct {
	id, connection [16]byte
	kind           string
	user           string
	device         *deviceRecord // nil: the hub itself
	login          string
	way            string
	channel        string
	command        string
	forced         string // the command of the person's key, which runs instead
	client         string
	hub, hubName   string
	start          time.Time
	recorded       bool
	proof          proof
	admitted       time.Time // when this run of the service first knew of it
	detached       time.Time // since when it has been without its device; zero: it is not
	in, out        uint64    // bytes from the person and to him, as the hub has told
	active         time.Time // when it was last not idle; zero: not known
	joins          [16]byte  // the session that this one joins; zero: it is one of its own
	joinMode       string
	joinRoles      []string // those of its grant, by which its device counts who joins; nil: not known
	moderators     []policy.Moderators
	opens          []string // the channels that the moderators were asked for; nil: they are not known
}

// add registers a session. It fails if there is one of that id, or the hub has too many.
func (t *hubTable) add(s *session) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.addLocked(s)
}

// move gives a session to another hub: its device asks by that one now.
func (t *hubTable) move(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := t.sessions[s.id]; old != nil && old.hub != s.hub {
		s.start, s.channel, s.command = old.start, cmp.Or(s.channel, old.channel), cmp.Or(s.command, old.command)
		t.dropLocked(old)
	}
}

// again tells whether a session is asked for anew, as it is when the answer was lost: by the same hub, and for the same.
func (t *hubTable) again(s *session) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.sessions[s.id]
	if old == nil || (old.device == nil) != (s.device == nil) || s.device != nil && old.device.UUID != s.device.UUID {
		return false
	}
	return old.hub == s.hub && old.connection == s.connection && old.kind == s.kind && old.user == s.user && old.way == s.way &&
		old.login == s.login && old.forced == s.forced
}

func (t *hubTable) addLocked(s *session) bool {
	if t.sessions[s.id] != nil || t.perHub[s.hub] >= maxSessions {
		return false
	}
	t.sessions[s.id] = s
	t.perHub[s.hub]++
	return true
}

func (t *hubTable) dropLocked(s *session) {
	delete(t.doomed, s.id)
	delete(t.sessions, s.id)
	delete(t.doubted, s.id)
	if w := t.watches[s.hub]; w != nil {
		delete(w.cut, s.id)
	}
	if t.perHub[s.hub]--; t.perHub[s.hub] <= 0 {
		delete(t.perHub, s.hub)
	}
}

// release ends the hub's session; nil if it has none of that id.
func (t *hubTable) release(hub string, id [16]byte, now time.Time) *session {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.claimed[id] == hub {
		delete(t.claimed, id)
	}
	if t.released[0] == nil || now.Sub(t.turned) > releasedLife {
		t.released[0], t.released[1], t.turned = make(map[releasedSession]struct{}), t.released[0], now
	}
	if len(t.released[0]) < maxReleased {
		t.released[0][releasedSession{hub, id}] = struct{}{}
	}
	s := t.sessions[id]
	if s == nil || s.hub != hub {
		return nil
	}
	t.dropLocked(s)
	return s
}

// reportSessions takes over what a hub says it serves. It returns those that were not known, those of which it is
// news what runs in them, and those that are no more. ok is false if the hub has no Watch open.
func (t *hubTable) reportSessions(hub string, full bool, list []*session, now time.Time) (begun, started, ended []*session, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.watches[hub] == nil {
		return nil, nil, nil, false
	}
	named := make(map[[16]byte]bool, len(list))
	for _, s := range list {
		named[s.id] = true
		if old := t.sessions[s.id]; old != nil && old.hub == hub {
			delete(t.doubted, s.id)
		}
		key := releasedSession{hub, s.id}
		_, a := t.released[0][key]
		_, b := t.released[1][key]
		if a || b {
			continue
		}
		old := t.sessions[s.id]
		if old == nil {
			if t.addLocked(s) {
				t.claimed[s.id] = hub
				begun = append(begun, s)
			}
			continue
		}
		if old.hub != hub {
			continue // it began there, and no session moves to another entry hub
		}
		// Sessions that were listed stay as they were: whoever holds one reads it without the lock.
		changed := *old
		changed.detached, changed.in, changed.out, changed.active = s.detached, s.in, s.out, s.active
		changed.channel, changed.command = cmp.Or(s.channel, old.channel), cmp.Or(s.command, old.command)
		t.sessions[s.id] = &changed
		if old.channel == "" && changed.channel != "" {
			started = append(started, &changed)
		}
	}
	if full {
		ended = t.endLocked(hub, named, now)
	}
	return begun, started, ended, true
}

// expire drops and returns the sessions of hubs that have been gone for too long, and those that were doubted for long enough.
func (t *hubTable) expire(now time.Time) []*session {
	t.mu.Lock()
	defer t.mu.Unlock()
	var ended []*session
	for _, s := range t.sessions {
		// A hub may ask for sessions before its Watch is open.
		if t.doubted[s.id] && now.Sub(s.admitted) > claimGrace || t.watches[s.hub] == nil && now.Sub(t.seen[s.hub]) > orphanLife && now.Sub(s.admitted) > orphanLife {
			ended = append(ended, s)
			t.dropLocked(s)
		}
	}
	return ended
}

// of returns an open session or connection by its id; nil: there is none.
func (t *hubTable) of(id [16]byte) *session {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sessions[id]
}

// live reports whether a hub has the session, as far as is known.
func (t *hubTable) live(id [16]byte) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sessions[id] != nil || t.claimed[id] != ""
}

func (t *hubTable) list() []*session {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.SortedFunc(maps.Values(t.sessions), func(a, b *session) int { return cmp.Or(a.start.Compare(b.start), slices.Compare(a.id[:], b.id[:])) })
}

// counts counts the sessions of each device, by its UUID.
func (t *hubTable) counts() map[string]uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := make(map[string]uint32)
	for _, s := range t.sessions {
		if s.device != nil && s.kind == "session" {
			n[s.device.UUID]++
		}
	}
	return n
}
