package edge

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"hawser/auth/grant"
	"hawser/auth/lock"
	"hawser/auth/place"
	"hawser/auth/policy"
	"hawser/edge/e2e"
	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// People who come to the edge's own port are served by the SSH server of those who come end to end. What is other is whom the edge asks for places: the hub that has its
// tunnel now, and another when that one is lost for good. PROTOCOL.md, section 6.6.

var (
	errNoHub   = errors.New("no hub has a tunnel of this device")
	errUnheard = errors.New("this device has not heard from its cluster since it started, and serves nobody before")
	errLease   = errors.New("this device has lost touch with the hub that holds your place, which may now be given to others (cap_mode exact); connect again when it is back")
	errOld     = errors.New("this device has not heard from the auth service for a day, so that its policy and locks may be old")
)

// direct is what a host has of one who came to the edge's own port.
type direct struct {
	h      *host
	proven func() // the key has signed: this is no stranger any more
	slot   bool   // a slot of the agent's is taken, whatever number of keys signed; Place's, and left when the connection is over
}

// directPlace is a place that is held, or one that nobody could be asked for.
type directPlace struct {
	h   *host
	ask e2e.Ask
	on  *controlStream // it was granted on; nil: no hub could be asked
	// since is when it was found that on is gone, over that what it was for has ended, which auth does not know.
	since, over time.Time
	status      uint32
	reason      string
	lease       *time.Timer // ends it when its hub's lease may be over; nil: no cap of it is exact
}

// until has the place end when a lease is over that began at a moment; a lease of 0 leaves it as it is. The list is locked, or does not have it yet.
func (p *directPlace) until(asked time.Time, lease time.Duration) {
	switch left := time.Until(asked.Add(lease)); {
	case lease == 0:
	case p.lease == nil:
		p.lease = time.AfterFunc(left, func() { p.h.a.live.cut(p.id(), errLease) })
	default:
		p.lease.Reset(left)
	}
}

// end lets go of it.
func (p *directPlace) end() {
	if p.lease != nil {
		p.lease.Stop()
	}
}

// directPlaces are those of the agent. Safe for concurrent use.
type directPlaces struct {
	wake   chan struct{} // nudges followPlaces; room for one
	leased chan struct{} // nudges keepLeases; room for one

	mu   sync.Mutex
	list []*directPlace // a connection before its sessions; bounded by the slots and e2e's channel limit, and maxOver
}

// current is why nobody may be let in by what the device holds; nil: it may be.
func (a *Agent) current() error {
	p, locks, _ := a.held()
	if p.Revision == 0 || locks == 0 || !a.clock.Trusted() {
		return errUnheard
	}
	return nil
}

// fresh waits a little for a newer signed time where that which is held is too old.
func (a *Agent) fresh(ctx context.Context) error {
	timer := time.NewTimer(staleWait)
	defer timer.Stop()
	for {
		_, _, changed := a.held()
		if a.clock.age() <= maxPolicyAge {
			return nil
		}
		select {
		case <-changed:
		case <-timer.C:
			return errOld
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// home is the tunnel whose hub is asked; nil: there is none.
func (a *Agent) home() *link {
	var any *link
	for _, k := range a.keepers {
		if l := k.current.Load(); l != nil {
			if !l.suspect.Load() {
				return l
			}
			any = l
		}
	}
	return any
}

// admit takes what a person needs of the device itself.
func (d *direct) admit(ask e2e.Ask) error {
	if ask.Kind != grant.Connection {
		return nil
	}
	d.proven()
	if d.slot {
		return nil
	}
	select {
	case d.h.a.slots <- struct{}{}:
		d.slot = true
		return nil
	default:
		return &e2e.Refusal{Message: errBusy.Error()}
	}
}

// leave gives the slot back.
func (d *direct) leave() {
	if d.slot {
		<-d.h.a.slots
	}
}

// silent tells whether there is a tunnel and no hub answers by it, nor does within staleWait.
func (d *direct) silent(ctx context.Context) bool {
	for end := time.Now().Add(staleWait); ; {
		if l := d.h.a.home(); l == nil || !l.suspect.Load() {
			return false
		}
		if !time.Now().Before(end) || sleep(ctx, 100*time.Millisecond) != nil {
			return true
		}
	}
}

// call makes sure of a hub to ask: that of the last time, or the one that has the tunnel now.
func (d *direct) call(ctx context.Context) error {
	h := d.h
	a := h.a
	c, l := a.controls.get(h.entry()), a.home()
	// Without a tunnel a stream that seems to be attached is about to be found detached. A tunnel may be on its way.
	for end := time.Now().Add(staleWait); c != nil && l == nil && time.Now().Before(end); l = a.home() {
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	if l == nil {
		return errNoHub
	}
	if c == nil || !c.st.Attached() && l.challenge.HubUUID != h.entry().hub {
		if err := l.ready(ctx); err != nil {
			return err
		}
		if _, err := a.openControl(ctx, l); err != nil {
			return fmt.Errorf("%w: %w", errNoHub, err)
		}
		h.setEntry(l)
	}
	if err := a.fresh(ctx); err != nil {
		return &e2e.Refusal{Message: err.Error()}
	}
	return nil
}

func (h *host) setEntry(l *link) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.from, h.hubName = entry{l.challenge.HubUUID, l.challenge.HubIncarnation}, l.challenge.HubName
}

// openControl returns the control stream of a tunnel's hub, which is asked for one where there is none.
func (a *Agent) openControl(ctx context.Context, l *link) (*controlStream, error) {
	from := entry{l.challenge.HubUUID, l.challenge.HubIncarnation}
	if c := a.controls.get(from); c != nil {
		return c, nil
	}
	if err := tunnel.Send(l.conn, wire.ControlWanted{}); err != nil {
		return nil, err
	}
	return a.controls.wait(ctx, from)
}

// tellDenial is the stream by which a hub is told of somebody who was refused. A stranger must not keep a quiet device talking: without a stream
// there is one now and then.
func (d *direct) tellDenial() *controlStream {
	a := d.h.a
	l := a.home()
	if l == nil {
		return nil
	}
	every := denialEvery
	if a.controls.get(entry{l.challenge.HubUUID, l.challenge.HubIncarnation}) != nil { // somebody is on, and the device is not quiet
		every = busyDenialEvery
	}
	if !a.port.mayTell(time.Now(), every) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), controlWait)
	defer cancel()
	c, _ := a.openControl(ctx, l)
	return c
}

// offline admits somebody while no hub can be asked, by what the device holds, where nothing of it wants auth: no second factor at each session, no
// recording that must be kept as it is made, no caps. It is asked for afterwards.
func (d *direct) offline(ask e2e.Ask, sub lock.Subject) (*grant.Grant, error) {
	h := d.h
	a := h.a
	no := func(why string) (*grant.Grant, error) {
		return nil, &e2e.Refusal{Message: "this device has no hub to ask now, " + why}
	}
	p, _, _ := a.held()
	access := p.Access(sub.Roles).For(ask.Login, h.way)
	switch {
	case ask.Join != "":
		return no("who would say whose session you may join")
	case a.clock.age() > maxPolicyAge:
		return nil, &e2e.Refusal{Message: errOld.Error()}
	case len(access.Channels) == 0:
		return nil, errPolicy
	case access.MFA() == policy.MFASession:
		return no("and your roles ask for a code of your authenticator at each session")
	case access.Record == policy.RecordStrict:
		return no("and your roles have every session recorded as it happens")
	case access.Moderated():
		return no("through which those could come in whom your roles require (require_moderators)")
	case access.Capped():
		return no("and the places that your roles allow are counted by the cluster")
	}
	c := a.state.get()
	uuid, err := wire.ParseUUID(c.UUID)
	if err != nil {
		return nil, err
	}
	now := a.clock.Now()
	g := &grant.Grant{
		Cluster: c.Cluster, SessionID: ask.SessionID, ConnectionID: ask.ConnectionID, Kind: ask.Kind, User: sub.User, Method: policy.CredentialCertificate,
		Roles: sub.Roles, PolicyRevision: p.Revision, Device: uuid, Incarnation: a.incarnation, Login: ask.Login, Channels: access.Channels,
		Recipients: p.Recipients, ForwardTo: access.ForwardTo, ClientAddr: ask.ClientAddr, Record: access.Record, RecordStdin: access.RecordStdin, Offline: true, DetachedLife: access.DetachedLife,
	}
	rand.Read(g.ID[:])
	g.NotBefore, g.NotAfter = grant.Window(now)
	if ask.Kind == grant.Connection {
		h.may.set(g, sub)
		if err := h.may.begin(context.Background()); err != nil {
			return nil, &e2e.Refusal{Message: err.Error()}
		}
	}
	tunnel.Warn(a.log, "admitted while no hub can be asked", "kind", ask.Kind, "user", sub.User, "login", ask.Login, "client", ask.ClientAddr)
	a.places.add(&directPlace{h: h, ask: ask})
	return g, nil
}

// placed notes a place that a hub has granted.
func (d *direct) placed(ask e2e.Ask, on *controlStream, asked time.Time, lease time.Duration) {
	p := &directPlace{h: d.h, ask: ask, on: on}
	p.until(asked, lease)
	d.h.a.places.add(p)
	if ask.Kind == grant.Connection {
		d.h.a.live.move(ask.ConnectionID, d.h.entry().hub)
	}
}

func (p *directPlace) id() [16]byte {
	if p.ask.Kind == grant.Session {
		return p.ask.SessionID
	}
	return p.ask.ConnectionID
}

func (t *directPlaces) add(p *directPlace) {
	if p.ask.Kind == grant.Forwards { // which takes none
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	id := p.id()
	t.deleteLocked(func(q *directPlace) bool { return q.h == p.h && q.id() == id }) // asked for again
	t.list = append(t.list, p)
	nudge(t.wake)
	if p.lease != nil {
		nudge(t.leased)
	}
}

// released takes a place out; true: no hub knows of it, and one is told when there is one.
func (d *direct) released(id [16]byte, status uint32, reason string) bool {
	t := &d.h.a.places
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.IndexFunc(t.list, func(p *directPlace) bool { return p.h == d.h && p.id() == id && p.over.IsZero() })
	if i < 0 {
		return false
	}
	p := t.list[i]
	if p.on != nil && p.since.IsZero() {
		p.end()
		t.list = slices.Delete(t.list, i, i+1)
		return false
	}
	p.end()
	p.over, p.status, p.reason = time.Now(), status, reason
	over, oldest := 0, p
	for _, q := range t.list {
		if !q.over.IsZero() {
			if over++; q.over.Before(oldest.over) {
				oldest = q
			}
		}
	}
	if over > maxOver {
		t.deleteLocked(func(q *directPlace) bool { return q == oldest })
		d.h.a.uploads.drop(oldest.id())
	}
	return true
}

// lost returns the places that no hub holds.
func (t *directPlaces) lost(controls *controlStreams) (all []*directPlace, any bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.list {
		if p.on != nil && controls.get(p.h.entry()) == p.on {
			p.since = time.Time{}
			continue
		}
		if p.since.IsZero() {
			p.since = time.Now()
		}
		all = append(all, p)
	}
	return all, len(t.list) > 0
}

func (t *directPlaces) drop(p *directPlace) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.deleteLocked(func(q *directPlace) bool { return p == q })
}

func (t *directPlaces) deleteLocked(which func(p *directPlace) bool) {
	t.list = slices.DeleteFunc(t.list, func(p *directPlace) bool {
		gone := which(p)
		if gone {
			p.end()
		}
		return gone
	})
}

// exact are the control streams on which places hang that end with their hub's lease.
func (t *directPlaces) exact() (on []*controlStream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.list {
		if p.lease != nil && p.on != nil && p.over.IsZero() && !slices.Contains(on, p.on) {
			on = append(on, p.on)
		}
	}
	return on
}

// extend notes how long what hangs on a control stream may go on.
func (t *directPlaces) extend(on *controlStream, asked time.Time, lease time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.list {
		if p.lease != nil && p.on == on && p.over.IsZero() {
			p.until(asked, lease)
		}
	}
}

// keepLeases asks hubs how long their leases last while something hangs on them.
func (a *Agent) keepLeases(ctx context.Context) {
	tick := time.NewTimer(0)
	defer tick.Stop()
	for {
		select {
		case <-a.places.leased:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		on := a.places.exact()
		for _, c := range on {
			if !c.st.Attached() {
				continue
			}
			asked := time.Now()
			ctx, cancel := context.WithTimeout(ctx, leaseTimeout)
			if m, err := c.ask(ctx, wire.PlaceRequest{Kind: wire.PlaceLease}); err == nil {
				a.places.extend(c, asked, m.Lease)
			}
			cancel()
		}
		if len(on) > 0 {
			tick.Reset(leaseEvery)
		}
	}
}

// followPlaces asks for the places of those whose hub is lost at the hub that has the tunnel now, and for those of people who came while there was none.
func (a *Agent) followPlaces(ctx context.Context) {
	tick := time.NewTimer(0)
	defer tick.Stop()
	for {
		select {
		case <-a.places.wake:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		lost, any := a.places.lost(&a.controls)
		for _, p := range lost {
			if err := a.placeAnew(ctx, p); err != nil {
				tunnel.Debug(a.log, "place not asked for anew", "error", err)
				break
			}
		}
		if any {
			tick.Reset(followEvery)
		}
	}
}

// placeAnew asks for one. An error is a hub that could not be asked.
func (a *Agent) placeAnew(ctx context.Context, p *directPlace) error {
	l := a.home()
	if l == nil {
		return errNoHub
	}
	ctx, cancel := context.WithTimeout(ctx, placeTimeout)
	defer cancel()
	if err := l.ready(ctx); err != nil {
		return err
	}
	if _, err := a.openControl(ctx, l); err != nil {
		return err
	}
	h := p.h
	h.setEntry(l)
	asked := time.Now()
	reply, on, err := h.askGrant(ctx, p.ask)
	if refusal, ok := errors.AsType[*e2e.Refusal](err); ok && !refusal.Later {
		a.places.mu.Lock()
		over, never, since := !p.over.IsZero(), p.on == nil, p.since
		a.places.mu.Unlock()
		switch {
		case over:
			tunnel.Warn(a.log, "what was served while no hub could be asked is refused now", "user", p.ask.Cert.KeyId, "error", refusal)
			a.places.drop(p)
			a.uploads.drop(p.id())
		case never || time.Since(since) > place.TTL:
			tunnel.Warn(a.log, "place refused by another hub", "user", p.ask.Cert.KeyId, "error", refusal)
			a.live.cut(p.id(), refusal) // Release takes it out
		default: // the run of the hub that is asked may itself be over
			tunnel.Debug(a.log, "place not bound anew", "error", refusal)
		}
		return nil
	}
	if err != nil {
		return err
	}
	id, hub := p.id(), h.entry()
	a.live.move(id, hub.hub)
	if p.ask.Kind == grant.Session {
		h.granted(id, reply.Grant)
	}
	t := &a.places
	t.mu.Lock()
	p.on, p.since = on, time.Time{}
	over := !p.over.IsZero()
	if !over {
		p.until(asked, reply.Lease)
		nudge(t.leased)
	}
	t.mu.Unlock()
	if over {
		a.places.drop(p)
		return on.release(wire.Release{SessionID: id, ExitStatus: int32(p.status), Reason: truncate(p.reason, 512)})
	}
	return nil
}

// granted is told of the grant that another hub gave for a session, which may be recorded by now, or be about to be.
func (h *host) granted(id [16]byte, blob []byte) {
	h.keepGrant(id, blob) // before the look, as record looks behind it
	if up := h.a.uploads.get(id); up != nil {
		h.bind(up)
	}
}

// bind gives a recording the grant that a hub gave for its session meanwhile, if it did.
func (h *host) bind(up *upload) {
	blob := h.takeGrant(up.id)
	if blob == nil {
		return
	}
	if up.sealed() == nil {
		g, err := grant.Open(blob, h.a.state.anchors().GrantKeys)
		if err != nil || g.SealKey == [32]byte{} { // it does not go to the hub in clear
			tunnel.Warn(h.a.log, "recording kept back: the hub answered with a grant for another way in", "session", fmt.Sprintf("%x", up.id))
			return
		}
		up.sealFor(g.SealKey)
	}
	up.bind(h.entry(), blob)
}

// bind gives the upload another hub, and the grant it did not have.
func (u *upload) bind(from entry, grant []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.from, u.grant, u.due, u.wait = from, grant, time.Time{}, 0
	if u.last {
		u.ended = time.Now()
	}
	nudge(u.all.added)
}
