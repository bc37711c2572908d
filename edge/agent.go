package edge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"hawser/auth/ca"
	"hawser/auth/grant"
	"hawser/auth/hublist"
	"hawser/auth/lock"
	"hawser/auth/policy"
	"hawser/edge/netwatch"
	"hawser/edge/session"
	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// Agent is one run of the agent: one incarnation. Make it with New; call Run or Join once.
type Agent struct {
	cfg         Config
	log         tunnel.Logger
	machine     machine
	resolver    *resolver
	proxy       *proxy // nil: TCP goes direct
	incarnation wire.Incarnation
	clock       *clock
	state       *state
	logHeads    logHeads
	engine      *session.Engine
	streams     *streams
	controls    controlStreams
	live        liveSessions
	tickets     tickets
	uploads     uploads
	places      directPlaces
	port        *port // the agent's own; nil: none
	history     history
	nat         nat
	slots       chan struct{}           // one token per stream served; full: the next is refused at once
	reserved    chan struct{}           // likewise for control streams: what ends a session must get in when sessions fill the slots
	counter     atomic.Uint64           // of registrations in this incarnation
	turn        chan struct{}           // held while one of a race joins
	keepers     [2]*keeper              // by slot
	stop        context.CancelCauseFunc // of Run

	mu     sync.Mutex
	spent  *grant.Spent
	policy policy.Compiled
	locks  lock.List
	strict *time.Timer          // ends what strict roles hold; see rechecked
	window time.Duration        // W of the last ACK
	list   hublist.List         // the newest signed one; zero: none
	rests  map[string]time.Time // hubs to be tried last, until when
	noUDP  map[string]bool      // networks on which QUIC got no answer
	stormy time.Time            // until when hubs are taken to be flooded
	// changed is closed and replaced whenever policy, locks or the clock changed: streams wait on it before they are served.
	changed chan struct{}
}

// New checks the configuration and opens nothing.
func New(cfg Config) (*Agent, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Version == "" {
		cfg.Version = "dev"
	}
	m := readMachine()
	p, err := parseProxy(cfg.Proxy)
	if err != nil {
		return nil, err
	}
	a := &Agent{
		cfg: cfg, log: cfg.Logger, machine: m,
		resolver:    newResolver(p != nil && cfg.Carriers != OnlyQUIC),
		proxy:       p,
		incarnation: wire.NewIncarnation(),
		slots:       make(chan struct{}, min(m.streams(), tunnel.MaxStreams-controlSlots)),
		reserved:    make(chan struct{}, controlSlots),
		streams:     newStreams(cfg.Logger, m.streams()),
		turn:        make(chan struct{}, 1),
		spent:       grant.NewSpent(maxSpent),
		changed:     make(chan struct{}),
		uploads:     uploads{added: make(chan struct{}, 1), log: cfg.Logger},
		places:      directPlaces{wake: make(chan struct{}, 1), leased: make(chan struct{}, 1)},
		rests:       map[string]time.Time{},
		noUDP:       map[string]bool{},
	}
	for slot := range a.keepers {
		a.keepers[slot] = newKeeper(a, uint8(slot))
	}
	return a, nil
}

// Run serves until ctx ends, joining first when there is no identity; then it returns nil once all sessions were told and ended, within
// shutdownGrace. It returns an error only for what waiting does not mend: the state directory, the token, the identity.
func (a *Agent) Run(ctx context.Context) error {
	closeState, err := a.open()
	if err != nil {
		return err
	}
	defer closeState()
	ctx, a.stop = context.WithCancelCause(ctx)
	defer a.stop(nil)
	a.engine = a.newEngine()
	defer a.engine.Close()
	defer a.serveRecall()()
	var smear time.Duration
	if a.state.joined() {
		smear = a.smear()
	}
	if err := a.join(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	creds := a.state.get()
	tunnel.Info(a.log, "agent started", "device", creds.Name, "uuid", creds.UUID, "cluster", creds.Cluster, "version", a.cfg.Version,
		"arch", runtime.GOARCH, "streams", cap(a.slots), "incarnation", a.incarnation)
	a.keepConnected(ctx, smear)
	a.streams.close(errShutdown)
	tunnel.Info(a.log, "agent stopped")
	if errors.Is(context.Cause(ctx), ErrSplit) {
		return ErrSplit
	}
	return nil
}

// Join makes the key and the identity, and returns; with an identity in the state directory it does nothing.
func (a *Agent) Join(ctx context.Context) error {
	closeState, err := a.open()
	if err != nil {
		return err
	}
	defer closeState()
	if err := a.state.inMemory(); err != nil && !a.state.joined() {
		return fmt.Errorf("state directory: %w; what a join brings could not be kept: the token was not used", err)
	}
	return a.join(ctx)
}

// Identity is what Join left: name, UUID, cluster. Valid after Join.
func (a *Agent) Identity() (name, uuid, cluster string) {
	c := a.state.get()
	return c.Name, c.UUID, c.Cluster
}

func (a *Agent) open() (func(), error) {
	st, err := openState(a.cfg.State)
	if err != nil {
		return nil, err
	}
	a.state = st
	started := wire.ConnEvent{Kind: wire.EventStarted, Text: a.cfg.Version}
	if err := st.inMemory(); err != nil {
		tunnel.Warn(a.log, "nothing can be stored: the agent runs from memory until it restarts", "error", err)
		started.Text += ", from memory: " + err.Error()
	}
	a.history.add(started)
	a.resolver.keepIn(st)
	a.resolver.failed = func(err error) {
		a.history.add(wire.ConnEvent{Kind: wire.EventDNS, Text: "remembered addresses are used: " + err.Error()})
	}
	a.clock = newClock(a.cfg.Now, a.cfg.BuildTime, st.floor())
	return st.close, nil
}

// held is what the agent now enforces.
func (a *Agent) held() (p policy.Compiled, locks uint64, changed <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.policy, a.locks.Revision, a.changed
}

// update changes what is held and wakes who waits for it.
func (a *Agent) update(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
	close(a.changed)
	a.changed = make(chan struct{})
}

// keepConnected keeps the tunnels until ctx ends; then it tells the sessions, waits for them a little, and closes the tunnels.
func (a *Agent) keepConnected(ctx context.Context, smear time.Duration) {
	// Sessions do not end with ctx but by what follows it, which tells them why.
	serving, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(errShutdown)
	a.loadHubList()
	a.loadLocks()
	var wg sync.WaitGroup
	if a.cfg.Listen != "" {
		a.port = newPort(a)
		bound := a.port.bind()
		wg.Go(func() {
			if bound || a.port.bindLater(ctx) {
				a.always(ctx, "port", func() { a.port.accept(ctx, serving) })
			}
		})
		wg.Go(func() { a.always(ctx, "places", func() { a.followPlaces(ctx) }) })
		wg.Go(func() { a.always(ctx, "leases", func() { a.keepLeases(ctx) }) })
		defer a.port.serving.Wait() // tunnels among them
	}
	for _, k := range a.keepers {
		wg.Go(func() {
			again := smear
			a.always(ctx, "keeper", func() {
				wait := again
				again = backoffFloor
				k.run(ctx, serving, wait)
			})
		})
	}
	wg.Go(func() { a.watchNetwork(ctx) })
	wg.Wait()
	deadline := time.Now().Add(shutdownGrace)
	a.live.endAll(errShutdown)
	a.live.wait(deadline)
	end(errShutdown)
	for _, k := range a.keepers {
		wg.Go(func() { k.stop("agent is shutting down") })
	}
	wg.Wait()
}

// always runs f until ctx ends, again where it ended before: a bug must not take the device off the air.
func (a *Agent) always(ctx context.Context, what string, f func()) {
	for ctx.Err() == nil {
		func() {
			defer a.guard(what, nil)
			f()
		}()
		_ = sleep(ctx, backoffFloor)
	}
}

// watchNetwork tells the keepers of changes of the network. One change is a burst of them, and only the last may make it usable: a few are told at
// once, then one in nudgeEvery, and always the last.
func (a *Agent) watchNetwork(ctx context.Context) {
	changes := netwatch.Watch(ctx, a.log)
	var told nudges
	network := netwatch.Network()
	timer := time.NewTimer(nudgeEvery) // another network than when Watch began is told, too
	defer timer.Stop()
	for news := false; ; {
		select {
		case _, ok := <-changes:
			if !ok {
				return
			}
			news = true
		case <-timer.C:
		}
		n := netwatch.Network()
		other := !netwatch.Same(n, network)
		if !news && !other {
			network = n
			continue
		}
		news = true
		if wait := told.next(time.Now(), other); wait > 0 {
			timer.Reset(wait)
			continue
		}
		timer.Stop()
		network, news = n, false
		tunnel.Debug(a.log, "the network changed", "network", network)
		for _, k := range a.keepers {
			nudge(k.net)
		}
	}
}

// nudges are the times of the last changes told, the newest first.
type nudges [3]time.Time

// next returns how long a change must wait to be told; 0: not at all, and it counts as told. Another network waits for nothing but the burst.
func (n *nudges) next(now time.Time, other bool) time.Duration {
	wait := n[0].Add(nudgeGrain).Sub(now)
	if !other {
		wait = max(wait, n[len(n)-1].Add(time.Duration(len(n))*nudgeEvery).Sub(now))
	}
	if wait <= 0 {
		copy(n[1:], n[:])
		n[0] = now
		return 0
	}
	return wait
}

func (a *Agent) wakeKeepers() {
	for _, k := range a.keepers {
		nudge(k.wake)
	}
}

// smear is how long to wait at the start: after a power cut a city's devices boot at once. Not where a person waits for it.
func (a *Agent) smear() time.Duration {
	var si unix.Sysinfo_t
	supervised := os.Getppid() == 1 || os.Getenv("INVOCATION_ID") != ""
	if !supervised || unix.Sysinfo(&si) != nil || time.Duration(si.Uptime)*time.Second >= bootTime {
		return 0
	}
	return time.Duration(rand.Int64N(int64(bootSmear)))
}

// probeAfter is how long after the last try QUIC is tried again: 5, 15 and 60 min after TLS began, then hourly.
func (a *Agent) probeAfter(tries int) time.Duration {
	steps := [...]time.Duration{1, 2, 9, 12}
	return cmp.Or(a.cfg.Reprobe, reprobe) * steps[min(tries, len(steps)-1)]
}

// retryDelay remembers why an attempt failed, and is how long to wait before the next.
func (a *Agent) retryDelay(b *backoff, err error) time.Duration {
	kind, text := classify(err)
	if kind == wire.EventUnreachable && noRoute(err) && netwatch.Network() == "" {
		kind, text = wire.EventNoRoute, "no default route" // though something on this machine answered, or an old socket waited
	}
	ev := wire.ConnEvent{Kind: kind, Text: text}
	r, ok := errors.AsType[*RefusedError](err)
	if ok {
		ev.Code = r.Code
	}
	a.history.add(ev)
	switch {
	case ok && r.authority():
		return b.afterRefusal()
	case ok && r.RetryAfter > 0:
		return b.atLeast(r.RetryAfter)
	case kind == wire.EventIntercepted:
		return portalDelay(b.rand)
	default:
		return b.afterFailure()
	}
}

// ErrSplit ends a Run whose identity was another machine's: its key is another now, and a new Agent joins with it.
var ErrSplit = errors.New("another machine has this identity: this one joins as a device of its own")

// obey does what a refusal orders, if it orders something and auth signed it.
func (a *Agent) obey(err error) {
	r, ok := errors.AsType[*RefusedError](err)
	if !ok || len(r.order) == 0 {
		return
	}
	token, err := ca.OpenSplit(r.order, a.state.anchors().GrantKeys, a.state.get().UUID)
	if err == nil {
		err = a.state.split(token)
	}
	if err != nil {
		tunnel.Warn(a.log, "order not followed", "error", err)
		return
	}
	a.stop(ErrSplit)
}

// errShutdown is what sessions are told when the agent stops.
var errShutdown = errors.New("the device's agent is shutting down")

// A RefusedError is a hub's or auth's no.
type RefusedError struct {
	What       string // what was asked: "join", "register", "renew"
	Code       wire.CloseCode
	Message    string
	RetryAfter time.Duration
	order      []byte // auth's, see obey
}

func (e *RefusedError) Error() string {
	text := fmt.Sprintf("%s refused (%s)", e.What, e.Code)
	if e.Message != "" {
		text += ": " + wire.Quote(e.Message, maxQuoted)
	}
	return text
}

// authority reports a refusal that another hub would repeat and that only a person mends.
func (e *RefusedError) authority() bool {
	switch e.Code {
	case wire.CloseAuth, wire.CloseBanned, wire.CloseClone, wire.CloseUpgrade, wire.CloseToken:
		return true
	}
	return false
}
