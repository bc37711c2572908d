package auth

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"hawser/auth/api"
)

// hubTable is what is so now and need not outlive the service: which hubs watch,
// which devices have a tunnel where, and which sessions are open.
type hubTable struct {
	mu       sync.Mutex
	watches  map[string]*watch      // by the hub's UUID; the newest
	devices  map[string]deviceState // by UUID; the newest report
	lastSeen map[string]time.Time   // by UUID, of devices seen in this run of the service
	sessions map[[16]byte]*session
	perHub   map[string]int      // sessions
	claimed  map[[16]byte]string // sessions, perhaps of an earlier run of the service, that a hub said it has; its UUID
}

type watch struct {
	hub   string
	kills []*api.Kill   // at most one for each session
	wake  chan struct{} // buffered by one: there are kills
	gone  chan struct{} // closed when a newer Watch of the hub took over
}

type deviceState struct {
	*api.DeviceState
	hub string // UUID
}

type session struct {
	id, connection [16]byte
	kind           string
	user           string
	device         *deviceRecord // nil: the hub itself
	login          string
	way            string
	channel        string
	command        string
	client         string
	hub, hubName   string
	start          time.Time
	recorded       bool
}

func newHubTable() *hubTable {
	return &hubTable{
		watches: make(map[string]*watch), devices: make(map[string]deviceState), lastSeen: make(map[string]time.Time),
		sessions: make(map[[16]byte]*session), perHub: make(map[string]int), claimed: make(map[[16]byte]string),
	}
}

// begin makes the hub count as up, and ends sessions it no longer has.
func (t *hubTable) begin(hub string, alive [][]byte, now time.Time) (*watch, []*session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old := t.watches[hub]; old != nil {
		close(old.gone)
	}
	w := &watch{hub: hub, wake: make(chan struct{}, 1), gone: make(chan struct{})}
	t.watches[hub] = w
	maps.DeleteFunc(t.claimed, func(_ [16]byte, of string) bool { return of == hub })
	keep := make(map[[16]byte]bool, len(alive))
	for _, id := range alive {
		if len(id) == 16 {
			keep[[16]byte(id)] = true
			t.claimed[[16]byte(id)] = hub
		}
	}
	var ended []*session
	for id, s := range t.sessions {
		// One admitted a moment ago may not have been on the hub's list yet.
		if s.hub == hub && !keep[id] && now.Sub(s.start) > claimGrace {
			ended = append(ended, s)
			t.dropLocked(s)
		}
	}
	return w, ended
}

// end marks the hub's devices offline, unless a newer Watch of it took over.
func (t *hubTable) end(w *watch, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.watches[w.hub] != w {
		return
	}
	delete(t.watches, w.hub)
	t.offlineLocked(w.hub, now, nil)
}

func (t *hubTable) offlineLocked(hub string, now time.Time, except map[string]bool) {
	for uuid, d := range t.devices {
		if d.hub == hub && !except[uuid] {
			delete(t.devices, uuid)
			t.lastSeen[uuid] = now
		}
	}
}

// report takes over the states; ok is false if the hub has no Watch open.
func (t *hubTable) report(hub string, full bool, states []*api.DeviceState, now time.Time) (ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.watches[hub] == nil {
		return false
	}
	named := make(map[string]bool, len(states))
	for _, st := range states {
		named[st.Uuid] = true
		t.lastSeen[st.Uuid] = now
		if st.Online {
			t.devices[st.Uuid] = deviceState{st, hub}
		} else if t.devices[st.Uuid].hub == hub {
			// A device that moved on is online at the hub that said so last.
			delete(t.devices, st.Uuid)
		}
	}
	if full {
		t.offlineLocked(hub, now, named)
	}
	return true
}

func (t *hubTable) device(uuid string) (st deviceState, seen time.Time, online bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	st, online = t.devices[uuid]
	return st, t.lastSeen[uuid], online
}

// forget drops a removed device.
func (t *hubTable) forget(uuid string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.devices, uuid)
	delete(t.lastSeen, uuid)
}

func (t *hubTable) up(hub string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.watches[hub] != nil
}

// add registers a session. It fails if there is one of that id, or the hub has too many.
func (t *hubTable) add(s *session) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sessions[s.id] != nil || t.perHub[s.hub] >= maxSessions {
		return false
	}
	t.sessions[s.id] = s
	t.perHub[s.hub]++
	return true
}

func (t *hubTable) dropLocked(s *session) {
	delete(t.sessions, s.id)
	if t.perHub[s.hub]--; t.perHub[s.hub] <= 0 {
		delete(t.perHub, s.hub)
	}
}

// release ends the hub's session; nil if it has none of that id.
func (t *hubTable) release(hub string, id [16]byte) *session {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.claimed[id] == hub {
		delete(t.claimed, id)
	}
	s := t.sessions[id]
	if s == nil || s.hub != hub {
		return nil
	}
	t.dropLocked(s)
	return s
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

// kill tells the session's hub to end it; ok is false if that hub is not connected.
func (t *hubTable) kill(s *session, reason string) (ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.watches[s.hub]
	if w == nil {
		return false
	}
	for _, k := range w.kills {
		if [16]byte(k.SessionId) == s.id {
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

func (t *hubTable) takeKills(w *watch) []*api.Kill {
	t.mu.Lock()
	defer t.mu.Unlock()
	kills := w.kills
	w.kills = nil
	return kills
}

func (t *hubTable) count(device string) (n uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.sessions {
		if s.device != nil && s.device.UUID == device && s.kind == "session" {
			n++
		}
	}
	return n
}
