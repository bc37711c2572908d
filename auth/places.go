package auth

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/grant"
	"hawser/auth/place"
	"hawser/auth/policy"
	"hawser/auth/store"
)

// placePrefix is where counted places are kept: HUB/INCARNATION/ID, each on the store lease of its run of the hub. Others are in memory alone:
// an uncapped cluster writes nothing.
const placePrefix = "place/"

const (
	sweepPlaces   = time.Second
	maxPlaceWaits = 4096 // Admits that wait for a place at once; further ones are refused without waiting
	placeBatch    = 256  // keys in one transaction
	// maxDeadPlaces keys wait to be deleted; what is beyond goes with its lease, or with the first renewals after a restart.
	maxDeadPlaces = 1 << 16
)

// placeRecord is a place in the store.
type placeRecord struct {
	Kind   uint8     `json:"kind"`
	User   string    `json:"user"`
	Device string    `json:"device,omitempty"`
	Client string    `json:"client"`
	Inner  bool      `json:"inner,omitempty"`
	Direct bool      `json:"direct,omitempty"`
	At     time.Time `json:"at"`
	// Attempt is place.Place's.
	Attempt uint64 `json:"attempt,omitempty"`
}

// places are all that is held, counted under mu and, where it is under a cap, on disk before anybody is told. Safe for concurrent use.
type places struct {
	state store.State
	log   *slog.Logger
	now   func() time.Time
	epoch string
	// caps are the limits of a user's places now, and whether his cap_mode is exact.
	caps func(user string) (place.Limits, bool)

	mu      sync.Mutex
	table   *place.Table
	freed   chan struct{} // closed and replaced when there may be room where there was none
	waiting int
	leases  map[place.Run]*placeLease
	loose   map[place.Kind]bool // some of that kind may not be stored: else nobody looks for them
	dead    []string            // keys to delete
	wake    chan struct{}       // a token: there are some
}

// placeLease is the store's lease of one run of a hub. Its mutex is held across the call that makes it, on purpose: others want its id.
type placeLease struct {
	mu sync.Mutex
	id store.LeaseID
}

func newPlaces(state store.State, log *slog.Logger, now func() time.Time, epoch string, caps func(string) (place.Limits, bool)) *places {
	return &places{
		state: state, log: log, now: now, epoch: epoch, caps: caps, table: place.NewTable(epoch), freed: make(chan struct{}),
		leases: make(map[place.Run]*placeLease), loose: make(map[place.Kind]bool), wake: make(chan struct{}, 1),
	}
}

// load puts back what is on disk. Each lease lives a TTL from here, for its hub to come back.
func (p *places) load(ctx context.Context) error {
	for after := ""; ; {
		kvs, _, err := p.state.Range(ctx, placePrefix, after, pageSize)
		if err != nil {
			return err
		}
		for _, kv := range kvs {
			pl, err := decodePlace(kv)
			if err != nil {
				// It is no loss that is worth a refusal to start: its hub tells of it again.
				p.log.Warn("record of a place is damaged", "key", kv.Key, "error", err)
				p.deadLocked(kv.Key)
				continue
			}
			p.table.Restore(pl, p.now())
			if l := p.leaseLocked(pl.Run); kv.Lease > l.id {
				l.id = kv.Lease
			}
		}
		if len(kvs) < pageSize {
			return nil
		}
		after = kvs[len(kvs)-1].Key
	}
}

func keyOfPlace(pl place.Place) string {
	return placePrefix + pl.Run.Hub + "/" + hex.EncodeToString(pl.Run.Incarnation[:]) + "/" + hex.EncodeToString(pl.ID[:])
}

func decodePlace(kv store.KV) (pl place.Place, err error) {
	parts := strings.Split(kv.Key[len(placePrefix):], "/")
	if len(parts) != 3 {
		return pl, errors.New("not HUB/INCARNATION/ID")
	}
	var r placeRecord
	if err := json.Unmarshal(kv.Value, &r); err != nil {
		return pl, err
	}
	pl = place.Place{Kind: place.Kind(r.Kind), User: r.User, Device: r.Device, Inner: r.Inner, Direct: r.Direct, Attempt: r.Attempt, Run: place.Run{Hub: parts[0]}}
	for i, at := range []*[16]byte{&pl.Run.Incarnation, &pl.ID} {
		b, err := hex.DecodeString(parts[i+1])
		if err != nil || len(b) != 16 {
			return pl, errors.New("an id is not 16 bytes in hex")
		}
		*at = [16]byte(b)
	}
	if pl.Kind != place.Connection && pl.Kind != place.Session {
		return pl, fmt.Errorf("kind %d is unknown", r.Kind)
	}
	pl.Client, err = netip.ParseAddrPort(r.Client)
	return pl, err
}

// take takes a place, and waits up to place.Linger where a cap is full. It is held, and where it is under a cap on disk, when there is no error.
// fresh is false for who asked again for what he has.
func (p *places) take(ctx context.Context, pl place.Place, l place.Limits) (fresh bool, err error) {
	var linger <-chan time.Time
	for {
		p.mu.Lock()
		had := p.table.Get(pl.ID)
		fresh, later := had == nil, had != nil && had.Attempt < pl.Attempt
		e, err := p.table.Take(pl, l, p.now())
		if err == nil {
			if had != nil && had != e && had.Stored { // on the lease of another run
				p.deadLocked(keyOfPlace(had.Place))
			}
			toStore := p.unstoredLocked(e, l, later && had == e)
			p.mu.Unlock()
			return fresh, p.stored(ctx, e, toStore)
		}
		if _, full := errors.AsType[*place.Full](err); !full {
			p.mu.Unlock()
			return false, err
		}
		if linger == nil {
			if p.waiting >= maxPlaceWaits {
				p.mu.Unlock()
				return false, err
			}
			p.waiting++
			defer func() {
				p.mu.Lock()
				p.waiting--
				p.mu.Unlock()
			}()
			t := time.NewTimer(place.Linger)
			defer t.Stop()
			linger = t.C
		}
		freed := p.freed
		p.mu.Unlock()
		select {
		case <-freed:
		case <-linger:
			return false, err
		case <-ctx.Done():
			return false, err // it is full, whoever asks
		}
	}
}

// unstoredLocked marks as stored, and returns, what must be on disk before e is granted: itself, anew where its record has changed, and what was
// taken before there was a cap that counts it.
func (p *places) unstoredLocked(e *place.Entry, l place.Limits, changed bool) (list []*place.Entry) {
	kind := e.Kind
	if !l.Counts(kind) {
		if !e.Stored {
			p.loose[kind] = true
		}
		return nil
	}
	want := func(x *place.Entry) {
		if x.Kind == kind && (!x.Stored || changed && x == e) {
			x.Stored = true
			list = append(list, x)
		}
	}
	overAll := kind == place.Session && l.PerDevice > 0 || kind == place.Connection && l.PerSource+l.PerHub > 0
	switch {
	case overAll && p.loose[kind]:
		p.table.All(want)
		p.loose[kind] = false
	case overAll:
		want(e)
	default:
		p.table.Of(e.User, want)
	}
	return list
}

// looseLocked notes that an entry is not on disk.
func (p *places) looseLocked(e *place.Entry) {
	e.Stored = false
	p.loose[e.Kind] = true
}

// stored writes list, of which e may be one; after an error e is not held.
func (p *places) stored(ctx context.Context, e *place.Entry, list []*place.Entry) error {
	err := p.write(ctx, list)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range list {
		switch {
		case p.table.Get(x.ID) != x: // given back meanwhile: the key may have been written after it was deleted
			p.deadLocked(keyOfPlace(x.Place))
		case err != nil:
			p.looseLocked(x)
		}
	}
	if err == nil {
		return nil
	}
	if p.table.Get(e.ID) == e {
		p.table.Undo(e)
		p.deadLocked(keyOfPlace(e.Place)) // it may be there all the same
		p.roomLocked()
	}
	return fmt.Errorf("store a place: %w", err)
}

// write puts places on the leases of their runs.
func (p *places) write(ctx context.Context, list []*place.Entry) error {
	byRun := make(map[place.Run][]*place.Entry)
	for _, e := range list {
		byRun[e.Run] = append(byRun[e.Run], e)
	}
	for run, list := range byRun {
		for len(list) > 0 {
			n := min(len(list), placeBatch)
			if err := p.writeRun(ctx, run, list[:n]); err != nil {
				return err
			}
			list = list[n:]
		}
	}
	return nil
}

func (p *places) writeRun(ctx context.Context, run place.Run, list []*place.Entry) error {
	for try := 0; ; try++ {
		id, err := p.lease(ctx, run)
		if err != nil {
			return err
		}
		ops := make([]store.Op, len(list))
		for i, entry := range list {
			p.mu.Lock()
			e := entry.Place // it may be asked for again meanwhile, which changes its attempt
			p.mu.Unlock()
			value, err := json.Marshal(placeRecord{uint8(e.Kind), e.User, e.Device, e.Client.String(), e.Inner, e.Direct, p.now().UTC(), e.Attempt})
			if err != nil {
				return err
			}
			ops[i] = store.PutLease(keyOfPlace(e), value, id)
		}
		_, err = p.state.Txn(ctx, nil, ops)
		if err == nil || !errors.Is(err, store.ErrNotFound) || try == 1 {
			return err
		}
		p.ended(run, id) // the store ended it, and with it what hung on it
	}
}

func (p *places) leaseLocked(run place.Run) *placeLease {
	l := p.leases[run]
	if l == nil {
		l = &placeLease{}
		p.leases[run] = l
	}
	return l
}

// lease is the store's lease of the run, made where there is none.
func (p *places) lease(ctx context.Context, run place.Run) (store.LeaseID, error) {
	p.mu.Lock()
	l := p.leaseLocked(run)
	p.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.id != 0 {
		return l.id, nil
	}
	id, err := p.state.Grant(ctx, place.TTL)
	if err == nil {
		l.id = id
	}
	return id, err
}

// ended forgets a lease that the store has ended; what hung on it is to be written anew.
func (p *places) ended(run place.Run, id store.LeaseID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.leases[run]
	if l == nil || !l.mu.TryLock() {
		return // another is being made
	}
	defer l.mu.Unlock()
	if l.id == id {
		l.id = 0
		p.table.HeldBy(run, p.looseLocked)
	}
}

// release gives back a place of a hub. Stale: it stays, for it was asked for again since.
func (p *places) release(r place.Returned) (stale bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e, stale := p.table.Release(r, p.now())
	if e != nil {
		p.goneLocked(e)
	}
	return stale
}

// goneLocked is what follows when places are held no more.
func (p *places) goneLocked(list ...*place.Entry) {
	for _, e := range list {
		if e.Stored {
			p.deadLocked(keyOfPlace(e.Place))
		}
	}
	if len(list) > 0 {
		p.roomLocked()
	}
}

func (p *places) roomLocked() {
	close(p.freed)
	p.freed = make(chan struct{})
}

func (p *places) deadLocked(key string) {
	if len(p.dead) >= maxDeadPlaces {
		return
	}
	p.dead = append(p.dead, key)
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// adopt takes over what a hub says it serves. What is under a cap is written with the next that is.
func (p *places) adopt(list []place.Place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	runs := make(map[string]place.Run)
	for _, pl := range list {
		run, ok := runs[pl.Run.Hub]
		if !ok {
			run = p.table.Current(pl.Run.Hub)
			runs[pl.Run.Hub] = run
		}
		pl.Run = run
		if e := p.table.Adopt(pl, p.now()); e != nil {
			p.looseLocked(e)
		}
	}
}

// renew renews a run's lease. It returns what is to be told: whether auth lacks something, what of the held is exact, and what counted.
func (p *places) renew(ctx context.Context, run place.Run, m place.Renewal) (unknown bool, exact, counted [][16]byte, err error) {
	p.mu.Lock()
	freed, unknown, err := p.table.Renew(run, m, p.now())
	if err != nil {
		p.mu.Unlock()
		return false, nil, nil, err
	}
	p.goneLocked(freed...)
	var over []store.LeaseID
	for at, l := range p.leases {
		if at.Hub == run.Hub && at != run && p.table.Over(at) && l.mu.TryLock() {
			over = append(over, l.id)
			delete(p.leases, at)
			l.mu.Unlock()
		}
	}
	var id store.LeaseID
	if l := p.leases[run]; l != nil && l.mu.TryLock() { // else it is being made
		id = l.id
		l.mu.Unlock()
	}
	type rule struct {
		limits place.Limits
		exact  bool
	}
	rules := make(map[string]rule)
	var toStore []*place.Entry
	p.table.HeldBy(run, func(e *place.Entry) {
		r, ok := rules[e.User]
		if !ok {
			r.limits, r.exact = p.caps(e.User)
			rules[e.User] = r
		}
		if !r.limits.Counts(e.Kind) {
			return
		}
		counted = append(counted, e.ID)
		if r.exact {
			exact = append(exact, e.ID)
		}
		if !e.Stored {
			e.Stored = true
			toStore = append(toStore, e)
		}
	})
	p.mu.Unlock()
	for _, id := range over {
		if id != 0 {
			_ = p.state.Revoke(ctx, id) // or it ends by itself
		}
	}
	if id != 0 {
		if err := p.state.KeepAlive(ctx, id); errors.Is(err, store.ErrNotFound) {
			p.ended(run, id)
			p.mu.Lock()
			p.table.HeldBy(run, func(e *place.Entry) {
				if r := rules[e.User]; r.limits.Counts(e.Kind) && !e.Stored {
					e.Stored = true
					toStore = append(toStore, e)
				}
			})
			p.mu.Unlock()
		}
	}
	if len(toStore) > 0 {
		if err := p.rewrite(ctx, toStore); err != nil {
			p.log.Warn("places not stored; the next renewal tries again", "hub", run.Hub, "error", err)
		}
	}
	return unknown, exact, counted, nil
}

// rewrite writes places that are held already.
func (p *places) rewrite(ctx context.Context, list []*place.Entry) error {
	err := p.write(ctx, list)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range list {
		switch {
		case p.table.Get(e.ID) != e:
			p.deadLocked(keyOfPlace(e.Place))
		case err != nil:
			p.looseLocked(e)
		}
	}
	return err
}

// lapse ends the leases that were not renewed and returns how many places each run lost.
func (p *places) lapse(ctx context.Context, up func(hub string) bool) map[place.Run]int {
	p.mu.Lock()
	lapsed := p.table.Lapse(p.now(), up)
	lost := make(map[place.Run]int, len(lapsed))
	var ids []store.LeaseID
	for run, list := range lapsed {
		lost[run] = len(list)
		p.goneLocked(list...)
		if l := p.leases[run]; l != nil && l.mu.TryLock() {
			ids = append(ids, l.id)
			delete(p.leases, run)
			l.mu.Unlock()
		}
	}
	p.mu.Unlock()
	for _, id := range ids {
		if id != 0 {
			_ = p.state.Revoke(ctx, id) // or it ends by itself
		}
	}
	return lost
}

// remove ends what a hub that was removed held.
func (p *places) remove(hub string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.goneLocked(p.table.Remove(hub)...)
	for run, l := range p.leases {
		if run.Hub == hub && l.mu.TryLock() {
			delete(p.leases, run) // it ends by itself
			l.mu.Unlock()
		}
	}
}

// used is how many a user holds.
func (p *places) used(user string) (connections, sessions int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.table.Used(user)
}

// clean deletes from the store what was given back, until ctx ends. Nobody waits for it: a key that outlives auth is put back when it starts,
// and goes with the second renewal of its hub, which does not name it.
func (p *places) clean(ctx context.Context) {
	for {
		select {
		case <-p.wake:
		case <-ctx.Done():
			return
		}
		for {
			p.mu.Lock()
			n := min(len(p.dead), placeBatch)
			batch := p.dead[:n]
			if p.dead = p.dead[n:]; len(p.dead) == 0 {
				p.dead = nil
			}
			p.mu.Unlock()
			if n == 0 {
				break
			}
			ops := make([]store.Op, n)
			for i, key := range batch {
				ops[i] = store.Delete(key)
			}
			if _, err := p.state.Txn(ctx, nil, ops); err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrClosed) {
				p.log.Warn("places given back stay on disk until their hub's lease ends", "places", n, "error", err)
			}
		}
	}
}

// keepPlaces ends leases and deletes what was given back, until ctx ends.
func (s *Server) keepPlaces(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { s.places.clean(ctx) })
	tick := time.NewTicker(sweepPlaces)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-tick.C:
			for run, n := range s.places.lapse(ctx, func(hub string) bool { up, _ := s.hubs.up(hub); return up }) {
				if n == 0 {
					continue
				}
				e := Event{Type: "place.lapse", Reason: fmt.Sprintf("%d places were freed: their hub has not been heard for %s", n, place.TTL)}
				if h := s.view.hub(run.Hub); h != nil {
					e.Hub = h.Name
				}
				s.record(e)
			}
		case <-ctx.Done():
		}
	}
	wg.Wait()
}

// capsOf are what a user's places are counted against now.
func (s *Server) capsOf(name string) (place.Limits, bool) {
	user, _ := s.view.user(name)
	all, _ := s.view.policies()
	cluster := s.view.cluster().Caps
	l := place.Limits{PerSource: cluster.PerSource, PerDevice: cluster.PerDevice, PerHub: cluster.PerHub}
	for i := range all {
		l.Kept = l.Kept || all[i].Options.Reserved
	}
	if user == nil {
		return l, false
	}
	c := policy.CapsOf(pick(all, user.Roles))
	l.Connections, l.Sessions, l.Reserved = c.Connections, c.Sessions, c.Reserved
	return l, c.Exact
}

// takePlace counts a session or a connection; a cap that is full is a refusal.
func (s *Server) takePlace(ctx context.Context, sess *session, run place.Run, attempt uint64, client netip.AddrPort, access *api.Access) (fresh bool, err error) {
	limits, exact := s.capsOf(sess.user)
	pl := sess.place(client)
	pl.Run, pl.Attempt = run, attempt
	if pl.Kind == place.Connection {
		access.MaxChannels = uint32(s.view.cluster().Caps.PerConnection)
	}
	access.Counted = limits.Counts(pl.Kind)
	access.Exact = access.Counted && exact
	fresh, err = s.places.take(ctx, pl, limits)
	full, isFull := errors.AsType[*place.Full](err)
	switch {
	case isFull:
		return false, s.refuseFull(full)
	case errors.Is(err, place.ErrOver), errors.Is(err, place.ErrTaken), errors.Is(err, place.ErrTooMany):
		return false, &refusal{reason: "places", rule: err.Error(), message: "this hub has too many sessions, or one of this id; try again"}
	case err != nil:
		return false, s.storeError(err)
	}
	return fresh, nil
}

// place is the session as it is counted, but for the run that holds it.
func (sess *session) place(client netip.AddrPort) place.Place {
	pl := place.Place{ID: sess.id, Kind: place.Session, User: sess.user, Client: client, Run: place.Run{Hub: sess.hub}, Direct: sess.way == policy.WayDirect}
	if sess.device != nil {
		pl.Device = sess.device.UUID
	}
	if sess.kind == grant.Connection.String() {
		pl.Kind, pl.Inner = place.Connection, sess.way == policy.WayEndToEnd
	}
	return pl
}

// refuseFull says to the person which cap it is, how many are held and how to see them.
func (s *Server) refuseFull(f *place.Full) *refusal {
	mend := "; `hawser sessions ls --user me` shows yours: end one, or try again later"
	if f.Cap != "max_connections" && f.Cap != "max_sessions" { // others hold them, too
		mend = "; `hawser sessions ls --user me` shows yours, and `hawser sessions ls` everybody's to who may see them: try again later"
	}
	open := fmt.Sprintf("%d are open", f.Held)
	if f.Held == 1 {
		open = "1 is open"
	}
	var message string
	switch f.Cap {
	case "max_connections":
		message = fmt.Sprintf("you may have %d connections at once and %s (max_connections)", f.Max, open)
	case "max_sessions":
		message = fmt.Sprintf("you may have %d sessions at once and %s (max_sessions)", f.Max, open)
	case "caps.per_source":
		message = fmt.Sprintf("there may be %d connections at once from %s and %s (caps.per_source)", f.Max, f.Of, open)
	case "caps.per_device":
		name := f.Of
		if d := s.view.device(f.Of); d != nil {
			name = d.Name
		}
		message = fmt.Sprintf("there may be %d sessions at once on %s and %s (caps.per_device)", f.Max, name, open)
	default:
		message = fmt.Sprintf("there may be %d connections at once to this hub and %s (caps.per_hub)", f.Max, open)
	}
	if f.Kept {
		message += "; the last place is kept for roles with reserved: true"
	}
	return &refusal{reason: "cap", rule: fmt.Sprintf("%s: %d of %d", f.Cap, f.Held, f.Max), message: message + mend}
}

// capUse is how much of his caps a user uses.
func (s *Server) capUse(user string) (list []*api.CapUse) {
	limits, _ := s.capsOf(user)
	connections, sessions := s.places.used(user)
	if limits.Connections > 0 {
		list = append(list, &api.CapUse{Cap: "max_connections", Of: user, Held: uint32(connections), Max: uint32(limits.Connections)})
	}
	if limits.Sessions > 0 {
		list = append(list, &api.CapUse{Cap: "max_sessions", Of: user, Held: uint32(sessions), Max: uint32(limits.Sessions)})
	}
	return list
}

type placeService struct{ *Server }

// RenewPlaces renews the lease of a run of a hub.
func (s placeService) RenewPlaces(ctx context.Context, req *connect.Request[api.RenewPlacesRequest]) (*connect.Response[api.RenewPlacesResponse], error) {
	c, r := callerOf(ctx), req.Msg
	if len(r.Incarnation) != 16 || [16]byte(r.Incarnation) == [16]byte{} || r.Seq == 0 {
		return nil, invalid("an incarnation has 16 bytes, not all zero, and calls are counted from 1")
	}
	if len(r.Held)+len(r.Pending) > place.MaxHeld {
		return nil, invalid("more than %d places", place.MaxHeld)
	}
	m := place.Renewal{Seq: r.Seq, Answered: r.Answered, Epoch: r.Epoch}
	for _, list := range []struct {
		from [][]byte
		to   *[][16]byte
	}{{r.Held, &m.Held}, {r.Pending, &m.Pending}} {
		for _, id := range list.from {
			if len(id) != 16 {
				return nil, invalid("ids have 16 bytes")
			}
			*list.to = append(*list.to, [16]byte(id))
		}
	}
	unknown, exact, counted, err := s.places.renew(ctx, place.Run{Hub: c.id.UUID, Incarnation: [16]byte(r.Incarnation)}, m)
	if err != nil {
		return nil, api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_UNSPECIFIED, "another run of this hub came after this one; stop one of the two")
	}
	res := &api.RenewPlacesResponse{Epoch: s.epoch, TtlMs: uint64(place.TTL.Milliseconds()), Report: unknown}
	for _, id := range exact {
		res.Exact = append(res.Exact, id[:])
	}
	for _, id := range counted {
		res.Counted = append(res.Counted, id[:])
	}
	return connect.NewResponse(res), nil
}
