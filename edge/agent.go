package edge

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"hawser/auth/grant"
	"hawser/auth/policy"
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
	engine      *session.Engine
	streams     *streams
	controls    controlStreams
	live        liveSessions
	tickets     tickets
	uploads     uploads
	history     history
	slots       chan struct{} // one token per stream served; full: the next is refused at once
	counter     atomic.Uint64 // of registrations in this incarnation
	turn        chan struct{} // held from REGISTER to its answer: see register

	mu     sync.Mutex
	spent  *grant.Spent
	policy policy.Compiled
	locks  uint64
	window time.Duration // W of the last ACK
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
		slots:       make(chan struct{}, m.streams()),
		streams:     newStreams(cfg.Logger, m.streams()),
		turn:        make(chan struct{}, 1),
		spent:       grant.NewSpent(maxSpent),
		changed:     make(chan struct{}),
		uploads:     uploads{added: make(chan struct{}, 1)},
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
	if err := a.join(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	creds := a.state.get()
	a.engine = a.newEngine(creds.Name)
	defer a.engine.Close()
	tunnel.Info(a.log, "agent started", "device", creds.Name, "uuid", creds.UUID, "cluster", creds.Cluster, "version", a.cfg.Version,
		"arch", runtime.GOARCH, "streams", cap(a.slots), "incarnation", a.incarnation)
	a.keepConnected(ctx)
	a.streams.close(errShutdown)
	tunnel.Info(a.log, "agent stopped")
	return nil
}

// Join makes the key and the identity, and returns; with an identity in the state directory it does nothing.
func (a *Agent) Join(ctx context.Context) error {
	closeState, err := a.open()
	if err != nil {
		return err
	}
	defer closeState()
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
	return a.policy, a.locks, a.changed
}

// update changes what is held and wakes who waits for it.
func (a *Agent) update(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
	close(a.changed)
	a.changed = make(chan struct{})
}

// keepConnected is the main loop: one tunnel, replaced when it is lost, when the hub goes away, and when QUIC becomes possible.
func (a *Agent) keepConnected(ctx context.Context) {
	// Sessions do not end with ctx but by shutdown, which tells them why.
	serving, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(errShutdown)
	var retiring sync.WaitGroup // tunnels that were replaced and still carry sessions
	defer retiring.Wait()
	b := &backoff{rand: rand.Int64N}
	for ctx.Err() == nil {
		cur, late, err := a.connect(ctx, serving, nil)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			wait := a.retryDelay(b, err)
			tunnel.Warn(a.log, "no tunnel", "error", err, "retry", wait.Round(time.Millisecond))
			_ = sleep(ctx, wait)
			continue
		}
		healthy := time.Now()
		cause := a.hold(ctx, serving, cur, late, &retiring)
		if ctx.Err() != nil {
			return
		}
		a.mu.Lock()
		b.window = a.window
		a.mu.Unlock()
		var wait time.Duration
		if time.Since(healthy) >= healthyAfter {
			wait = b.afterLoss()
		} else {
			wait = b.afterFailure() // a tunnel that dies at once is no reason to come back at once
		}
		if c, ok := errors.AsType[*wire.CloseError](cause); ok && c.Remote {
			switch {
			case c.Code == wire.CloseAuth || c.Code == wire.CloseBanned || c.Code == wire.CloseClone || c.Code == wire.CloseUpgrade:
				wait = b.afterRefusal()
			}
			if c.RetryAfter > 0 {
				wait = b.atLeast(c.RetryAfter)
			}
		}
		tunnel.Warn(a.log, "tunnel lost", "error", cause, "retry", wait.Round(time.Millisecond))
		_ = sleep(ctx, wait)
	}
}

// retryDelay remembers why an attempt failed, and is how long to wait before the next.
func (a *Agent) retryDelay(b *backoff, err error) time.Duration {
	kind, text := classify(err)
	ev := wire.ConnEvent{Kind: kind, Text: text}
	r, ok := errors.AsType[*RefusedError](err)
	if ok {
		ev.Code = r.Code
	}
	a.history.add(ev)
	switch {
	case ok && r.RetryAfter > 0:
		return b.atLeast(r.RetryAfter)
	case ok && r.authority():
		return b.afterRefusal()
	case kind == wire.EventIntercepted:
		return portalDelay(b.rand)
	default:
		return b.afterFailure()
	}
}

// hold keeps cur, or what replaces it, until it is lost; then it returns why. Replaced tunnels go to retiring.
func (a *Agent) hold(ctx, serving context.Context, cur *link, late <-chan *result[*link], retiring *sync.WaitGroup) error {
	replace := func(by *link) {
		old := cur
		cur = by
		retiring.Go(func() { old.retire(ctx) })
	}
	probe := new(probe)
	defer probe.stop()
	for {
		away := cur.away
		if cur.leaving {
			away = nil
		}
		select {
		case <-cur.done:
			if late != nil {
				if r := <-late; r != nil { // the hub fenced the TLS tunnel for the QUIC one that is on its way here
					late = nil
					replace(r.value)
					continue
				}
			}
			return cur.err
		case r := <-late:
			late = nil
			if r != nil {
				tunnel.Info(a.log, "QUIC replaces TLS", "hub", cur.challenge.HubName)
				replace(r.value)
			}
		case <-away:
			cur.leaving = true
			better, more, err := a.connect(ctx, serving, cur)
			if err != nil {
				tunnel.Warn(a.log, "the hub goes away and no other was reached", "error", err)
				continue
			}
			late = more
			replace(better)
		case <-probe.due(cur):
			if probe.fired(cur) {
				if better := a.tryQUIC(ctx, serving); better != nil {
					replace(better)
				}
			}
		case <-ctx.Done():
			a.shutdown(cur, late)
			return context.Cause(ctx)
		}
	}
}

// errShutdown is what sessions are told when the agent stops.
var errShutdown = errors.New("the device's agent is shutting down")

// shutdown tells the sessions, waits for them a little, and closes the tunnel.
func (a *Agent) shutdown(cur *link, late <-chan *result[*link]) {
	deadline := time.Now().Add(shutdownGrace)
	a.live.endAll(errShutdown)
	a.live.wait(deadline)
	cur.close(wire.CloseNormal, "agent is shutting down")
	if late != nil {
		if r := <-late; r != nil {
			r.value.close(wire.CloseNormal, "agent is shutting down")
		}
	}
	<-cur.done
}

// A RefusedError is a hub's or auth's no.
type RefusedError struct {
	What       string // what was asked: "join", "register", "renew"
	Code       wire.CloseCode
	Message    string
	RetryAfter time.Duration
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
