package place

import (
	"net/netip"
	"slices"
	"time"
)

// Table is who holds what. It is not safe for concurrent use; its times must not go back.
type Table struct {
	epoch   string
	entries map[[16]byte]*Entry
	byUser  map[string]map[[16]byte]*Entry
	runs    map[Run]*run
	over    map[string][][16]byte // incarnations of a hub that are over, the oldest first

	users   map[string]*tally
	sources map[netip.Prefix]int // connections
	hubs    map[string]int       // connections
	devices map[string]int       // sessions
	groups  map[group]*inGroup

	// released are the ids of places given back a moment ago: two halves, the older forgotten each releasedLife.
	released [2]map[[16]byte]Returned
	turned   time.Time
}

// Entry is a place that is held.
type Entry struct {
	Place
	// Stored is for the caller: whether it is, or is about to be, on disk.
	Stored bool
	after  uint64 // the seq of the last renewal of its run when it was taken
}

type run struct {
	renewed time.Time
	seq     uint64
	lapsed  bool
	held    map[[16]byte]*Entry
}

type tally struct{ connections, sessions int }

// group is what comes from one address and port to one hub: one connection, and what it carries.
type group struct {
	user, hub string
	client    netip.AddrPort
}

type inGroup struct{ outer, inner int }

func (g inGroup) count() int { return max(g.outer, g.inner) }

// NewTable makes an empty one; epoch tells this run of auth from others.
func NewTable(epoch string) *Table {
	return &Table{
		epoch: epoch, entries: map[[16]byte]*Entry{}, byUser: map[string]map[[16]byte]*Entry{}, runs: map[Run]*run{}, over: map[string][][16]byte{},
		users: map[string]*tally{}, sources: map[netip.Prefix]int{}, hubs: map[string]int{}, devices: map[string]int{}, groups: map[group]*inGroup{},
	}
}

// Take takes a place; it is held when there is no error, and nothing has changed when there is one: a *Full, ErrOver, ErrTaken or ErrTooMany.
// Who asks again for what he has, has it; what is direct may then hang on another run.
func (t *Table) Take(p Place, l Limits, now time.Time) (*Entry, error) {
	if had := t.entries[p.ID]; had != nil {
		if had.same(p) {
			if p.Attempt > had.Attempt { // what was lost, or is late, of the attempt before takes it no more
				had.Attempt, had.after = p.Attempt, t.run(p.Run, now).seq
			}
			return had, nil
		}
		if moved := had.Place; p.Direct && !t.Over(p.Run) {
			if moved.Run = p.Run; moved.same(p) {
				t.drop(had)
				return t.add(p, now), nil
			}
		}
		return nil, ErrTaken
	}
	if t.isBack(p) || slices.Contains(t.over[p.Run.Hub], p.Run.Incarnation) {
		return nil, ErrOver
	}
	switch r := t.runs[p.Run]; {
	case r == nil && t.runsOf(p.Run.Hub) >= maxRuns, r != nil && len(r.held) >= MaxHeld:
		return nil, ErrTooMany
	}
	if full := t.full(p, l); full != nil {
		return nil, full
	}
	return t.add(p, now), nil
}

// full is the first cap that a place more would break.
func (t *Table) full(p Place, l Limits) *Full {
	kept := func(limit int) (int, bool) {
		if l.Kept && !l.Reserved && limit > 1 {
			return limit - 1, true
		}
		return limit, false
	}
	check := func(name, of string, held, limit int, keeps bool) *Full {
		if limit <= 0 {
			return nil
		}
		most, isKept := limit, false
		if keeps {
			most, isKept = kept(limit)
		}
		if held < most {
			return nil
		}
		return &Full{Cap: name, Of: of, Max: limit, Held: held, Kept: isKept && held < limit}
	}
	connections, sessions := t.Used(p.User)
	if p.Kind == Session {
		if f := check("max_sessions", p.User, sessions, l.Sessions, false); f != nil {
			return f
		}
		if p.Device == "" {
			return nil
		}
		return check("caps.per_device", p.Device, t.devices[p.Device], l.PerDevice, true)
	}
	if !t.counts(p) {
		return nil
	}
	if f := check("max_connections", p.User, connections, l.Connections, false); f != nil {
		return f
	}
	source := Source(p.Client.Addr())
	if f := check("caps.per_source", source.String(), t.sources[source], l.PerSource, false); f != nil {
		return f
	}
	return check("caps.per_hub", p.Run.Hub, t.hubs[p.Run.Hub], l.PerHub, true)
}

// counts tells whether a connection would be one more.
func (t *Table) counts(p Place) bool {
	g := t.groups[groupOf(p)]
	if g == nil {
		return true
	}
	if p.Inner {
		return g.inner+1 > g.count()
	}
	return g.outer+1 > g.count()
}

func groupOf(p Place) group { return group{p.User, p.Run.Hub, p.Client} }

// Used is how many places a user holds.
func (t *Table) Used(user string) (connections, sessions int) {
	if u := t.users[user]; u != nil {
		return u.connections, u.sessions
	}
	return 0, 0
}

func (t *Table) add(p Place, now time.Time) *Entry {
	r := t.run(p.Run, now)
	e := &Entry{Place: p, after: r.seq}
	t.entries[p.ID] = e
	r.held[p.ID] = e
	if t.byUser[p.User] == nil {
		t.byUser[p.User] = map[[16]byte]*Entry{}
	}
	t.byUser[p.User][p.ID] = e
	t.tally(p, 1)
	return e
}

// run is the run's lease, which begins where there was none.
func (t *Table) run(at Run, now time.Time) *run {
	r := t.runs[at]
	if r == nil {
		r = &run{renewed: now, held: map[[16]byte]*Entry{}}
		t.runs[at] = r
	}
	if r.lapsed { // it asks, so it is there
		r.lapsed, r.renewed = false, now
	}
	return r
}

func (t *Table) tally(p Place, by int) {
	u := t.users[p.User]
	if u == nil {
		u = &tally{}
		t.users[p.User] = u
	}
	if p.Kind == Session {
		u.sessions += by
		if p.Device != "" {
			add(t.devices, p.Device, by)
		}
	} else {
		key := groupOf(p)
		g := t.groups[key]
		if g == nil {
			g = &inGroup{}
			t.groups[key] = g
		}
		before := g.count()
		if p.Inner {
			g.inner += by
		} else {
			g.outer += by
		}
		change := g.count() - before
		u.connections += change
		add(t.sources, Source(p.Client.Addr()), change)
		add(t.hubs, p.Run.Hub, change)
		if *g == (inGroup{}) {
			delete(t.groups, key)
		}
	}
	if *u == (tally{}) {
		delete(t.users, p.User)
	}
}

func add[K comparable](m map[K]int, key K, by int) {
	if m[key] += by; m[key] == 0 {
		delete(m, key)
	}
}

func (t *Table) drop(e *Entry) {
	delete(t.entries, e.ID)
	if r := t.runs[e.Run]; r != nil {
		delete(r.held, e.ID)
	}
	if of := t.byUser[e.User]; of != nil {
		if delete(of, e.ID); len(of) == 0 {
			delete(t.byUser, e.User)
		}
	}
	t.tally(e.Place, -1)
}

// Get returns the place of an id; nil: none is held.
func (t *Table) Get(id [16]byte) *Entry { return t.entries[id] }

// Of calls fn for what a user holds.
func (t *Table) Of(user string, fn func(*Entry)) {
	for _, e := range t.byUser[user] {
		fn(e)
	}
}

// All calls fn for all that is held.
func (t *Table) All(fn func(*Entry)) {
	for _, e := range t.entries {
		fn(e)
	}
}

// Release gives back a place of a hub. It is remembered, so that what asks for it late gets none. Nil: the hub held none of that id. Stale: it was
// asked for again since, or moved, and stays.
func (t *Table) Release(r Returned, now time.Time) (e *Entry, stale bool) {
	e = t.entries[r.ID]
	if e != nil && !r.of(e.Run, e.Attempt) {
		return nil, true
	}
	t.remember(r, now)
	if e != nil {
		t.drop(e)
	}
	return e, false
}

func (t *Table) remember(r Returned, now time.Time) {
	if t.released[0] == nil || now.Sub(t.turned) > releasedLife {
		t.released[0], t.released[1], t.turned = map[[16]byte]Returned{}, t.released[0], now
	}
	if had, ok := t.released[0][r.ID]; ok && r.Run == had.Run && had.of(r.Run, r.Attempt) && r.Attempt != 0 {
		return // overtaken by that of a later attempt
	}
	if len(t.released[0]) < maxReleased {
		t.released[0][r.ID] = r
	}
}

func (t *Table) wasReleased(id [16]byte) bool {
	_, ok := t.returned(id)
	return ok
}

// returned is what is remembered of a place that was given back.
func (t *Table) returned(id [16]byte) (r Returned, ok bool) {
	if r, ok = t.released[0][id]; !ok {
		r, ok = t.released[1][id]
	}
	return r, ok
}

// isBack tells whether a place that is asked for was given back. The attempts of two runs cannot be compared: what is direct may be bound to
// another, and nothing else is asked for by two.
func (t *Table) isBack(p Place) bool {
	r, ok := t.returned(p.ID)
	if !ok {
		return false
	}
	if r.Run.Hub == p.Run.Hub && r.Run.Incarnation == p.Run.Incarnation {
		return r.of(p.Run, p.Attempt)
	}
	return !p.Direct
}

// runsOf is how many runs of a hub are known that are not over.
func (t *Table) runsOf(hub string) (n int) {
	for r := range t.runs {
		if r.Hub == hub {
			n++
		}
	}
	return n
}

// Restore puts back what was on disk when auth starts.
func (t *Table) Restore(p Place, now time.Time) {
	if t.entries[p.ID] == nil {
		t.add(p, now).Stored = true
	}
}

// Adopt takes over what a hub says it serves and the table does not know: its lease lapsed while it was cut off, or it was admitted under no
// cap by an earlier run of auth. No cap is asked: it is there. Nil: known, given back, or the run is over.
func (t *Table) Adopt(p Place, now time.Time) *Entry {
	if t.entries[p.ID] != nil || t.wasReleased(p.ID) || slices.Contains(t.over[p.Run.Hub], p.Run.Incarnation) {
		return nil
	}
	return t.add(p, now)
}

// Current is the newest run of a hub that has renewed; that of zero incarnation where none has.
func (t *Table) Current(hub string) Run {
	current := Run{Hub: hub}
	var at time.Time
	for r, x := range t.runs {
		if r.Hub == hub && x.seq > 0 && !x.renewed.Before(at) {
			current, at = r, x.renewed
		}
	}
	return current
}

// Renew renews the lease of a run. freed is what it has no longer: what it does not name, and what earlier runs of the hub held. unknown: it
// holds what the table does not know. ErrOver: another run of the hub came after this one.
func (t *Table) Renew(at Run, m Renewal, now time.Time) (freed []*Entry, unknown bool, err error) {
	if slices.Contains(t.over[at.Hub], at.Incarnation) {
		return nil, false, ErrOver
	}
	r := t.run(at, now)
	if r.seq == 0 { // the first: those before are over
		for other, x := range t.runs {
			if other.Hub == at.Hub && other != at {
				freed = append(freed, t.end(other, x, false)...)
				if other.Incarnation != ([16]byte{}) && !t.Over(other) {
					over := append(t.over[at.Hub], other.Incarnation)
					t.over[at.Hub] = over[max(0, len(over)-maxRuns):]
				}
			}
		}
	}
	if m.Seq < r.seq {
		return freed, false, nil // overtaken: its lists say nothing
	}
	r.renewed, r.seq = now, m.Seq
	named := make(map[[16]byte]bool, len(m.Held)+len(m.Pending))
	for _, id := range m.Held {
		named[id] = true
		if t.entries[id] == nil && !t.wasReleased(id) {
			unknown = true
		}
	}
	for _, id := range m.Pending {
		named[id] = true
	}
	if m.Epoch != t.epoch {
		return freed, unknown, nil // answered by another run of auth: nothing follows for what this one admitted
	}
	for id, e := range r.held {
		if !named[id] && e.after < m.Answered {
			t.remember(Returned{at, id, e.Attempt}, now)
			t.drop(e)
			freed = append(freed, e)
		}
	}
	return freed, unknown, nil
}

// end ends a run. What is direct goes on without its hub until the lease is over, if not all is to go.
func (t *Table) end(at Run, r *run, all bool) (freed []*Entry) {
	for _, e := range r.held {
		if all || !e.Direct {
			freed = append(freed, e)
		}
	}
	for _, e := range freed {
		t.drop(e)
	}
	if len(r.held) == 0 {
		delete(t.runs, at)
	}
	return freed
}

// Lapse ends the leases that were not renewed, and returns what hung on them by run. alive keeps those of hubs that do not say which run they
// are of.
func (t *Table) Lapse(now time.Time, alive func(hub string) bool) map[Run][]*Entry {
	var all map[Run][]*Entry
	for at, r := range t.runs {
		switch {
		case r.lapsed:
		case at.Incarnation == [16]byte{} && alive(at.Hub):
			r.renewed = now
		case now.Sub(r.renewed) > TTL:
			// A run that renewed is kept: what it says later is judged by what it said before.
			if r.lapsed = true; r.seq == 0 {
				delete(t.runs, at)
			}
			var freed []*Entry
			for _, e := range r.held {
				freed = append(freed, e)
			}
			for _, e := range freed {
				t.drop(e)
			}
			if t.Over(at) {
				delete(t.runs, at)
			}
			if all == nil {
				all = map[Run][]*Entry{}
			}
			all[at] = freed
		}
	}
	return all
}

// Remove ends what a hub that was removed from the cluster held.
func (t *Table) Remove(hub string) (freed []*Entry) {
	for at, r := range t.runs {
		if at.Hub == hub {
			freed = append(freed, t.end(at, r, true)...)
		}
	}
	delete(t.over, hub)
	return freed
}

// Runs returns the runs whose lease lives.
func (t *Table) Runs() []Run {
	var out []Run
	for at, r := range t.runs {
		if !r.lapsed {
			out = append(out, at)
		}
	}
	return out
}

// HeldBy calls fn for what a run holds.
func (t *Table) HeldBy(at Run, fn func(*Entry)) {
	if r := t.runs[at]; r != nil {
		for _, e := range r.held {
			fn(e)
		}
	}
}

// Undo drops an entry as if it had never been taken.
func (t *Table) Undo(e *Entry) {
	if t.entries[e.ID] == e {
		t.drop(e)
	}
}

// Over tells whether a run is over: another of its hub came after it.
func (t *Table) Over(at Run) bool { return slices.Contains(t.over[at.Hub], at.Incarnation) }
