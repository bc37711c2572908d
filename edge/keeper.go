package edge

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// The slots of an agent's tunnels.
const (
	slotActive  = 0 // carries what people do
	slotStandby = 1 // at another hub, on TLS, for the moment the first is lost
)

// purpose is what a keeper dials for.
type purpose uint8

const (
	forNothing   purpose = iota
	forTunnel            // there is none, or the one there is does not answer
	forElsewhere         // the hub goes away, or the other slot is there too
	forQUIC              // the tunnel is on TLS
	forTLS               // a metered device has nothing to do any more
	forHome              // the tunnel is not at the hub this device ranks first
)

// keeper keeps the tunnel of one slot: it makes one, replaces it before it is closed where that can be, and makes another when it was lost.
// Its fields are its loop's own but for those that say otherwise.
type keeper struct {
	a    *Agent
	slot uint8
	wake chan struct{} // room for one: look again at what is to be done
	net  chan struct{} // room for one: the network changed

	current atomic.Pointer[link]  // the tunnel; nil: none. Set by the loop
	winner  atomic.Pointer[round] // that registered last: see round.mayRegister
	turn    chan struct{}         // held from REGISTER to its answer

	b        backoff
	late     <-chan *result[*link] // what QUIC comes to after TLS won
	leaving  bool                  // the hub said GOAWAY
	purpose  purpose
	next     time.Time // when a round for it is due
	smeared  time.Time // until when the boot is spread, whatever the network does meanwhile
	barred   time.Time // until when authority said no
	begun    time.Time // the last round
	fresh    time.Time // when the network changed last
	number   int       // of rounds begun
	dark     time.Time // since when nothing answers; zero: something does
	alone    bool      // no second hub was found
	calm     bool      // the active one: what next is told was told while the other stood
	after    bool      // the standby: it waits for the active one
	probed   int       // tries for QUIC so far
	returned time.Time // when QUIC last took over from TLS by a try
	home     time.Time // when to look whether the tunnel is at the hub ranked first
	strays   int       // tries in vain to get there since
	used     time.Time // when a stream was open last
	busy     bool      // one was at the last look
	rounds   []*round  // at work, oldest first
	outcomes chan outcome
	dialled  chan *link    // tunnels that hubs dialled
	expired  chan struct{} // room for one: a hub that dialled wants the certificate renewed, which a tunnel of our own does
	retiring sync.WaitGroup
}

// round is one race for one purpose.
type round struct {
	k       *keeper
	purpose purpose
	urgent  bool
	known   bool   // remembered addresses do: DNS may be as dead as the path
	turn    int    // an urgent round's: how many times those it dials have moved on from the first
	tls     bool   // QUIC has had its return for now
	base    *round // the winner when it began
	quic    bool   // it has registered on QUIC, or QUIC is not to replace TLS; guarded by the turn
	cancel  context.CancelFunc
}

type outcome struct {
	*round
	link *link
	late <-chan *result[*link]
	err  error
}

func newKeeper(a *Agent, slot uint8) *keeper {
	k := &keeper{
		a: a, slot: slot, wake: make(chan struct{}, 1), net: make(chan struct{}, 1), turn: make(chan struct{}, 1),
		b: backoff{rand: rand.Int64N}, outcomes: make(chan outcome, maxRounds),
		dialled: make(chan *link), expired: make(chan struct{}, 1),
	}
	if slot == slotStandby {
		k.b.limit = standbyCap
	}
	return k
}

// errOvertaken is a registration that would fence a tunnel made meanwhile.
var errOvertaken = errors.New("another tunnel was first")

// mayRegister is asked with the turn held: a registration fences the slot's older ones, so no round registers after another that began beside it,
// and within a round nothing after its winner but QUIC after TLS.
func (r *round) mayRegister(c tunnel.Carrier) error {
	switch w := r.k.winner.Load(); {
	case w == r && c == tunnel.CarrierQUIC && !r.quic, w == r.base && w != r:
		return nil
	}
	return errOvertaken
}

// other is the keeper of the other slot.
func (k *keeper) other() *keeper { return k.a.keepers[1-k.slot] }

// run keeps the slot until ctx ends. The tunnel is then closed by stop.
func (k *keeper) run(ctx, serving context.Context, first time.Duration) {
	k.next = time.Now().Add(first)
	k.smeared = k.next
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(time.Until(k.act(ctx, serving)))
		cur := k.current.Load()
		var done, away chan struct{}
		if cur != nil {
			done = cur.done
			if !k.leaving {
				away = cur.away
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-k.wake:
			if k.alone {
				k.alone, k.next = false, time.Now()
			}
		case <-k.net:
			k.networkChanged(cur)
		case <-done:
			k.lost(cur)
		case <-away:
			k.leaving = true
			cur.rest(drainRest)
		case r := <-k.late:
			k.late = nil
			if r != nil {
				tunnel.Info(k.a.log, "QUIC replaces TLS", "hub", r.value.challenge.HubName)
				k.returned = time.Now()
				k.adopt(serving, r.value, nil)
			}
		case o := <-k.outcomes:
			k.finished(ctx, serving, o)
		case l := <-k.dialled:
			k.adopt(serving, l, nil)
		case <-k.expired:
			if cur == nil {
				k.next = time.Now()
			}
		}
	}
}

// stop ends what run left: rounds, the tunnel, those that retire. Nothing may run any more.
func (k *keeper) stop(reason string) {
	for _, r := range k.rounds {
		r.cancel()
	}
	for range k.rounds {
		if o := <-k.outcomes; o.link != nil {
			k.retiring.Go(func() {
				if r := <-o.late; r != nil {
					r.value.close(wire.CloseNormal, reason)
				}
			})
			o.link.close(wire.CloseNormal, reason)
		}
	}
	if cur := k.current.Load(); cur != nil {
		cur.close(wire.CloseNormal, reason)
	}
	if k.late != nil {
		if r := <-k.late; r != nil {
			r.value.close(wire.CloseNormal, reason)
		}
	}
	k.retiring.Wait()
}

// goal is what the slot wants now.
func (k *keeper) goal(now time.Time) purpose {
	a, cur := k.a, k.current.Load()
	busy := a.openStreams() > 0
	if busy || k.busy {
		k.used, k.busy = now, busy
	}
	if k.slot == slotStandby && !k.wanted() {
		return forNothing
	}
	if a.cfg.TunnelOff { // but to say where the hubs are to dial
		if cur == nil && k.slot == slotActive && k.other().current.Load() == nil {
			return forTunnel
		}
		return forNothing
	}
	switch {
	case cur == nil:
		return forTunnel
	case cur.suspect.Load() && cur.streams.Load() > 0:
		return forTunnel
	case k.leaving:
		return forElsewhere
	case k.slot == slotStandby:
		if o := k.other().current.Load(); o != nil && o.challenge.HubUUID == cur.challenge.HubUUID {
			return forElsewhere
		}
		return forNothing
	case !busy && !now.Before(k.home) && a.strayed(cur):
		return forHome
	case a.cfg.Carriers != AnyCarrier:
		return forNothing
	case a.cfg.Metered && !busy:
		if cur.at.carrier == tunnel.CarrierQUIC && now.Sub(k.used) >= meteredLinger {
			return forTLS
		}
		return forNothing
	case cur.at.carrier == tunnel.CarrierTLS:
		return forQUIC
	}
	return forNothing
}

// wanted reports whether there is to be a standby tunnel: where there are two hubs, data is not paid for, and the active one stands or has stood.
func (k *keeper) wanted() bool {
	a := k.a
	if a.cfg.TunnelOff {
		return k.current.Load() != nil
	}
	if a.cfg.Metered || a.cfg.NoStandby || a.cfg.Carriers == OnlyQUIC {
		return false
	}
	return k.current.Load() != nil || k.other().winner.Load() != nil && len(a.ranked()) > 1
}

// urgent reports whether people wait: sessions are open and nothing carries them.
func (k *keeper) urgent() bool {
	if k.purpose != forTunnel || k.a.cfg.TunnelOff { // the hubs dial at once
		return false
	}
	if k.current.Load() != nil { // one that does not answer, with streams on it
		return true
	}
	o := k.other().current.Load()
	// A standby that has taken nothing over may be as dead as the tunnel was: it has been silent, and the hubs' bytes for it may be lost.
	return k.slot == slotActive && k.a.openStreams() > 0 && (o == nil || o.suspect.Load() || o.streams.Load() == 0)
}

// act does what is due and returns when to look again.
func (k *keeper) act(ctx, serving context.Context) time.Time {
	now := time.Now()
	cur := k.current.Load()
	next := k.plan(now, func(urgent bool) { k.begin(ctx, serving, urgent) })
	if k.a.cfg.TunnelOff && cur != nil && !cur.dialled && k.current.Load() == cur {
		next = earlier(next, k.short(cur, now))
	}
	if k.slot == slotStandby && cur != nil && !k.wanted() {
		k.current.Store(nil)
		k.retire(serving, cur)
	}
	return next
}

// plan begins a round if one is due and returns when to look again.
func (k *keeper) plan(now time.Time, begin func(urgent bool)) time.Time {
	if p := k.goal(now); p != k.purpose {
		k.change(p, now)
	}
	cur := k.current.Load()
	look := now.Add(lookAgain)
	if k.a.cfg.Metered && cur != nil && cur.at.carrier == tunnel.CarrierQUIC {
		look = earlier(look, now.Add(max(meteredLinger-now.Sub(k.used), time.Second)))
	}
	if cur != nil && k.slot == slotActive && k.home.After(now) {
		look = earlier(look, k.home)
	}
	if k.purpose == forNothing {
		k.dark = time.Time{}
		return look
	}
	if k.purpose == forTunnel && cur == nil && k.follow(now) {
		return look // the active one's registration wakes us
	}
	urgent, every, most := k.urgent(), attemptTimeout, 1
	if !urgent {
		k.dark = time.Time{}
	} else {
		if k.dark.IsZero() {
			k.dark, k.next = now, k.begun.Add(urgentEvery)
			if cur != nil && cur.at.carrier == tunnel.CarrierQUIC {
				k.next = now.Add(moveFirst)
				if k.begun.Add(urgentEvery).After(k.next) {
					k.next = k.begun.Add(urgentEvery)
				}
			}
		}
		every, most = urgentEvery, maxRounds
		if now.Sub(k.dark) > urgentFor {
			every = calmEvery
		}
		k.next = earlier(k.next, now.Add(every))
	}
	due := k.next
	if due.Before(k.barred) {
		due = k.barred
	}
	switch {
	case due.After(now):
		return earlier(look, due)
	case len(k.rounds) < most:
		k.next, k.begun = now.Add(every), now
		if again := k.fresh.Add(freshAgain); urgent && now.Before(again) {
			k.next = again
		}
		begin(urgent)
	case urgent:
		k.rounds[0].cancel() // the oldest had its chance
		k.next = now.Add(heartbeatRetry / 10)
	default:
		return look // the outcome of the one at work wakes the loop
	}
	return earlier(look, k.next)
}

// follow times a return by what the other slot has, so that in a storm all have one tunnel before any has two. It reports whether to wait for
// the other.
func (k *keeper) follow(now time.Time) bool {
	none := k.other().current.Load() == nil
	if k.slot == slotActive {
		if w := k.window(); none && k.calm && k.next.Sub(now) > w {
			k.next = now.Add(k.b.upTo(w)) // the other is lost, too
		}
		k.calm = k.calm && !none
		return false
	}
	if k.after && !none {
		k.next = now.Add(k.b.upTo(k.calmWindow()))
	}
	k.after = none
	return none
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// change sets another purpose. Rounds for the last one are over.
func (k *keeper) change(p purpose, now time.Time) {
	for _, r := range k.rounds {
		if r.purpose != p {
			r.cancel()
		}
	}
	k.purpose = p
	switch p {
	case forTunnel:
		switch { // where there is none, lost or run has said when
		case k.a.cfg.TunnelOff:
			if k.number > 0 && k.next.Before(now) {
				k.next = now.Add(awayTunnel)
			}
		case k.current.Load() != nil:
			k.next = now
		case k.slot == slotStandby && k.next.Before(now):
			k.next = now.Add(k.b.upTo(k.window()))
		}
	case forElsewhere, forTLS, forHome:
		k.next, k.probed = now, 0
		if cur := k.current.Load(); p == forElsewhere && now.Sub(cur.since) < healthyAfter {
			k.next = now.Add(k.b.afterFailure()) // a hub that sends away whoever comes
		}
	case forQUIC:
		k.probed = 0
		k.next = k.probeAt(now)
		if k.a.cfg.Metered {
			k.next = now // people have come
		}
	}
}

// probeAt is when QUIC is tried next.
func (k *keeper) probeAt(now time.Time) time.Time {
	at := now.Add(k.a.probeAfter(k.probed))
	if again := k.returned.Add(returnEvery); !k.returned.IsZero() && at.Before(again) {
		return again
	}
	return at
}

// round is the next one.
func (k *keeper) round(urgent bool) *round {
	r := &round{k: k, purpose: k.purpose, urgent: urgent, known: urgent && k.number%4 != 3, base: k.winner.Load()}
	r.tls = !k.returned.IsZero() && time.Since(k.returned) < returnEvery
	if urgent && !r.known {
		r.turn = k.number/4 + 1 // each fourth dials others than the first hubs and addresses, which may all be dead
	}
	k.number++
	return r
}

// begin starts a round.
func (k *keeper) begin(ctx, serving context.Context, urgent bool) {
	limit := attemptTimeout
	if urgent {
		limit = urgentTimeout
	}
	rctx, cancel := context.WithTimeout(ctx, limit)
	r := k.round(urgent)
	r.cancel = cancel
	k.rounds = append(k.rounds, r)
	go func() {
		o := outcome{round: r, err: errInternal}
		defer func() { k.outcomes <- o }() // room for all: maxRounds
		defer k.a.guard("dialling", nil)
		o.link, o.late, o.err = k.a.connect(rctx, serving, r)
	}()
}

var errInternal = errors.New("internal error")

// finished takes what a round came to.
func (k *keeper) finished(ctx, serving context.Context, o outcome) {
	for i, r := range k.rounds {
		if r == o.round {
			k.rounds = append(k.rounds[:i:i], k.rounds[i+1:]...)
			break
		}
	}
	now := time.Now()
	if o.err == nil {
		if o.purpose == forQUIC {
			k.returned, k.probed = now, 0
			tunnel.Info(k.a.log, "QUIC works again", "hub", o.link.challenge.HubName)
			k.a.history.add(wire.ConnEvent{Kind: wire.EventCarrier, Hub: o.link.challenge.HubName, Carrier: uint8(tunnel.CarrierQUIC)})
		}
		k.adopt(serving, o.link, o.late)
		return
	}
	o.cancel()
	if ctx.Err() != nil || o.purpose != k.purpose || errors.Is(o.err, errOvertaken) || errors.Is(o.err, context.Canceled) {
		return
	}
	if k.purpose == forHome {
		k.strays++
		k.settle(now)
		tunnel.Debug(k.a.log, "the first hub is not to be had", "error", o.err)
		return
	}
	if k.purpose == forQUIC || k.purpose == forTLS {
		k.probed++
		k.next = k.probeAt(now)
		tunnel.Debug(k.a.log, "the other carrier is still blocked", "error", o.err, "retry", k.next.Sub(now).Round(time.Second))
		return
	}
	if errors.Is(o.err, errSameHub) {
		k.next, k.alone = now.Add(sameHubRetry), true
		tunnel.Debug(k.a.log, "no other hub for a second tunnel", "error", o.err)
		return
	}
	wait := k.a.retryDelay(&k.b, o.err)
	if r, ok := errors.AsType[*RefusedError](o.err); ok {
		switch {
		case r.authority():
			k.barred = now.Add(wait)
		case r.RetryAfter > 0 && len(k.a.ranked()) > 1:
			wait = k.b.afterFailure() // that hub rests so long; the others need not
		case r.RetryAfter > 0:
			k.barred = now.Add(wait)
		}
	}
	if k.a.storming(now) {
		wait *= 2
	}
	if !o.urgent {
		k.next = now.Add(wait)
	}
	tunnel.Warn(k.a.log, "no tunnel", "slot", k.slot, "error", o.err, "retry", time.Until(k.next).Round(time.Millisecond))
}

// adopt makes a registered tunnel the slot's.
func (k *keeper) adopt(serving context.Context, l *link, late <-chan *result[*link]) {
	old := k.current.Load()
	if old != nil && old.counter > l.counter { // overtaken on its way here
		if late != nil {
			k.discardLate(late)
		}
		k.retire(serving, l)
		return
	}
	if k.late != nil {
		k.discardLate(k.late)
	}
	k.late, k.leaving, k.dark, k.barred = late, false, time.Time{}, time.Time{}
	k.current.Store(l)
	if !k.a.strayed(l) {
		k.strays = 0
	}
	k.settle(time.Now())
	for _, r := range k.rounds {
		r.cancel()
	}
	if old != nil {
		if old.broken() {
			l.tellHistory()
		}
		k.retire(serving, old)
	}
	nudge(k.other().wake)
}

// settle sets when the tunnel may move to the hub ranked first: devices that fled from a hub return to it over ten minutes, and what failed
// is tried ever more rarely, for it costs a handshake.
func (k *keeper) settle(now time.Time) {
	after := k.a.probeAfter(0) << min(k.strays, 8)
	k.home = now.Add(after + k.b.upTo(2*after))
}

// strayed reports whether a tunnel is not at the hub that the signed list ranks first for this device, and that hub is not one to avoid now.
func (a *Agent) strayed(l *link) bool {
	order := a.ranked()
	return len(order) > 1 && order[0].id != (wire.UUID{}) && !l.on(&order[0]) && a.first(&order[0])
}

// discardLate closes what comes late for a tunnel that is gone.
func (k *keeper) discardLate(late <-chan *result[*link]) {
	k.retiring.Go(func() {
		if r := <-late; r != nil && r.value != k.current.Load() {
			r.value.close(wire.CloseNormal, errOvertaken.Error())
		}
	})
}

func (k *keeper) retire(serving context.Context, l *link) {
	k.retiring.Go(func() { l.retire(serving) })
}

// lost acts on the end of the tunnel.
func (k *keeper) lost(l *link) {
	a, now := k.a, time.Now()
	k.current.Store(nil)
	k.b.window = k.window()
	l.broken()
	ev := wire.ConnEvent{Kind: wire.EventLost, Hub: l.challenge.HubName, Carrier: uint8(l.at.carrier), Text: l.err.Error()}
	var wait time.Duration
	switch {
	case now.Sub(l.since) < healthyAfter: // a tunnel that dies at once is no reason to come back at once, nor all together
		wait = k.b.afterFailure() + k.b.upTo(k.window())
	case k.slot == slotStandby || k.other().current.Load() != nil && a.openStreams() == 0:
		k.b.afterLoss()
		wait = k.b.upTo(k.calmWindow()) // those that have no tunnel left come first
		k.calm = true
	default:
		wait = k.b.afterLoss()
	}
	if c, ok := errors.AsType[*wire.CloseError](l.err); ok && c.Remote {
		ev.Kind, ev.Code, ev.Text = wire.EventClosed, c.Code, c.Reason
		if c.Code == wire.CloseBanned {
			a.streams.banned(l.challenge.HubUUID)
		}
		switch c.Code {
		case wire.CloseAuth, wire.CloseBanned, wire.CloseClone, wire.CloseUpgrade:
			wait = k.b.afterRefusal()
			k.barred = now.Add(wait)
			l.rest(restMax) // another hub is asked next
		case wire.CloseSuperseded:
			if len(k.rounds) > 0 || k.late != nil {
				k.barred = now.Add(answerGrace) // by the one that is about to tell us of its ACK: another would fence it
			}
		case wire.CloseRate, wire.CloseDrain, wire.CloseUnavailable:
			a.storm(now)
			l.rest(drainRest)
			fallthrough
		default:
			if c.RetryAfter > 0 {
				l.rest(max(c.RetryAfter, drainRest))
				if len(a.ranked()) == 1 {
					wait = k.b.atLeast(c.RetryAfter)
					k.barred = now.Add(wait)
				}
			}
		}
	}
	if k.late != nil {
		wait = max(wait, quicGrace) // the hub fenced the TLS tunnel for the QUIC one that is on its way here
	}
	if a.cfg.TunnelOff { // the hubs come back by themselves
		wait = max(wait, awayTunnel+k.b.upTo(awayTunnel/4))
	}
	a.history.add(ev)
	k.next, k.leaving = now.Add(wait), false
	k.dark = time.Time{} // with sessions open the next round is due at once, whatever was tried before
	k.purpose = forTunnel
	tunnel.Warn(a.log, "tunnel lost", "slot", k.slot, "hub", l.challenge.HubName, "error", l.err, "retry", wait.Round(time.Millisecond))
	nudge(k.other().wake)
}

// window is W: the signed list's, or that of the last ACK.
func (k *keeper) window() time.Duration {
	k.a.mu.Lock()
	defer k.a.mu.Unlock()
	return cmp.Or(k.a.list.Window, k.a.window, defaultWindow)
}

// calmWindow is over what a tunnel returns while the other slot's stands.
func (k *keeper) calmWindow() time.Duration {
	w := k.window()
	return max(w, min(calmWindows*w, calmMost))
}

// networkChanged makes use of the change: what waited for a timer is tried now.
func (k *keeper) networkChanged(cur *link) {
	now := time.Now()
	if cur != nil {
		nudge(cur.moved)
	}
	switch k.purpose {
	case forTunnel, forElsewhere:
		k.b.last, k.begun, k.fresh = 0, time.Time{}, now
		if k.next = k.smeared; k.next.Before(now) {
			k.next = now
		}
		if len(k.rounds) > 0 { // those at work dial from where we were
			for _, r := range k.rounds {
				r.cancel()
			}
		}
	case forQUIC:
		k.probed = 0
		if k.returned.IsZero() || now.Sub(k.returned) >= returnEvery {
			k.next = now
		}
	}
}
