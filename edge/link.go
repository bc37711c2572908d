package edge

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"hawser/auth/ca"
	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// link is one registered tunnel. Its goroutines are started by start and ended before done closes.
type link struct {
	a    *Agent
	conn tunnel.Conn
	at   attempt
	k    *keeper // of the slot
	of   *round  // that made it
	slot uint8
	// target is the hub as it was dialled: hubTarget.key.
	target string
	since  time.Time // it stands
	// counter is the registration's: the hubs hold the highest of the slot.
	counter uint64
	dialled bool // the hub dialled

	challenge wire.Challenge
	trust     *ca.Trust // by which the hub was verified
	nonce     [32]byte  // that auth was asked to sign the time over
	ack       wire.Ack
	early     []wire.Message // came before the ACK

	streams   atomic.Int32              // attachments on it; those streams are the agent's
	busy      chan struct{}             // nudges the heartbeat when the first comes; room for one
	idle      chan struct{}             // nudges retire when the last is gone; room for one
	moved     chan struct{}             // nudges the heartbeat when the network changed; room for one
	away      chan struct{}             // closed by GOAWAY
	replaced  chan struct{}             // closed by retire
	keepAlive atomic.Int64              // the kernel's interval on TLS; the heartbeat tells the hub
	suspect   atomic.Bool               // it does not answer; the keeper is nudged when that changes
	silence   atomic.Pointer[time.Time] // since when it does not, and the history tells nothing of it yet

	renewal chan error // what came of RENEW; room for one

	wg   sync.WaitGroup
	done chan struct{} // closed when the tunnel ended and its goroutines too
	err  error         // why; valid after done
}

func newLink(a *Agent, conn tunnel.Conn, at attempt, of *round, trust *ca.Trust) *link {
	return &link{
		a: a, conn: conn, at: at, k: of.k, of: of, slot: of.k.slot, target: at.target, trust: trust,
		busy: make(chan struct{}, 1), idle: make(chan struct{}, 1), moved: make(chan struct{}, 1),
		away: make(chan struct{}), replaced: make(chan struct{}),
		renewal: make(chan error, 1), done: make(chan struct{}),
	}
}

// start runs the tunnel. The end of serving ends what its streams do, not the tunnel: that is close's.
func (l *link) start(serving context.Context) {
	a := l.a
	l.since = time.Now()
	a.history.add(wire.ConnEvent{Kind: wire.EventRegistered, Hub: l.challenge.HubName, Carrier: uint8(l.at.carrier)})
	tunnel.Info(a.log, "registered", "slot", l.slot, "hub", l.challenge.HubName, "carrier", l.at.carrier, "address", l.conn.RemoteAddr(),
		"observed", l.ack.Observed, "heartbeat", l.ack.Heartbeat)
	a.mu.Lock()
	a.window = min(max(l.ack.RetryWindow, 0), maxWindow)
	a.mu.Unlock()
	a.adoptHubs(l.ack.Hubs)
	for _, m := range l.early {
		if err := l.handle(m); err != nil {
			tunnel.Warn(a.log, "message before the ACK", "error", err)
		}
	}
	l.early = nil
	l.adoptTime(l.ack.Time) // after the trust bundle, for the key that signed it may be a new one
	l.tellHistory()
	l.goDo("control", l.control)
	l.goDo("heartbeat", l.heartbeat)
	l.goDo("renewal", l.renewLoop)
	l.goDo("streams", func(ctx context.Context) error { return l.acceptStreams(ctx, serving) })
	l.goDo("questions", l.askLoop)
	l.goDo("NAT", l.learnNAT)
	l.goDo("addresses", func(context.Context) error { a.resolver.save(time.Now()); return nil })
	go func() {
		<-l.conn.Context().Done()
		l.err = context.Cause(l.conn.Context())
		l.wg.Wait()
		close(l.done)
	}()
}

// goDo runs f in a goroutine of the link; an error ends the tunnel, a panic too.
func (l *link) goDo(name string, f func(context.Context) error) {
	l.wg.Go(func() {
		defer l.a.guard(name, func() { l.closeSoon(wire.CloseInternal, "internal error") })
		ctx := l.conn.Context()
		if err := f(ctx); err != nil && ctx.Err() == nil {
			tunnel.Warn(l.a.log, "tunnel closed", "part", name, "error", err)
			code := wire.CloseProtocol
			if c, ok := errors.AsType[*wire.CloseError](err); ok {
				code = c.Code
			}
			l.closeSoon(code, name)
		}
	})
}

// closeSoon closes the tunnel from one of its own goroutines.
func (l *link) closeSoon(code wire.CloseCode, reason string) {
	go l.conn.CloseWithError(code, reason) // awaited through the conn's context and done
}

// close closes the tunnel and waits.
func (l *link) close(code wire.CloseCode, reason string) {
	_ = l.conn.CloseWithError(code, reason)
	<-l.done
}

// retire lets a replaced tunnel go. Its streams move to the other by the hub's doing, which closes this one when it sees the newer; one that knows of none
// is waited for a moment.
func (l *link) retire(ctx context.Context) {
	close(l.replaced)
	timer := time.NewTimer(retireTime)
	defer timer.Stop()
	for l.streams.Load() > 0 {
		select {
		case <-l.idle:
			continue
		case <-timer.C:
		case <-l.done:
		case <-ctx.Done():
		}
		break
	}
	l.close(wire.CloseNormal, "replaced by another tunnel")
}

// broken ends a silence, for the tunnel answered, ended or was replaced. It reports whether that is worth telling.
func (l *link) broken() bool {
	since := l.silence.Swap(nil)
	if since == nil || time.Since(*since) < silenceTold {
		return false
	}
	l.a.history.addSince(wire.ConnEvent{Kind: wire.EventSilent, Hub: l.challenge.HubName, Carrier: uint8(l.at.carrier)}, *since)
	return true
}

// control reads control messages until the tunnel ends.
func (l *link) control(ctx context.Context) error {
	for {
		m, err := tunnel.Receive(ctx, l.conn)
		if err != nil {
			return err
		}
		if err := l.handle(m); err != nil && ctx.Err() == nil {
			l.a.streams.refused.add("message "+strconv.Itoa(int(m.Type()))+" of a hub", err, "hub", l.challenge.HubName)
		}
	}
}

// adoptHubs takes the hub list of an ACK, which nobody signed, while there is no signed one: written when it changed, at most once an hour, for
// flash is not for lists that flap.
func (a *Agent) adoptHubs(hubs []string) {
	if len(hubs) == 0 || len(a.hubList().Hubs) > 0 {
		return
	}
	for _, h := range hubs {
		if _, _, err := splitHostPort(h); err != nil {
			tunnel.Warn(a.log, "the hub named a bad address", "address", h, "error", err)
			return
		}
	}
	if err := a.state.setHubs(hubs, a.cfg.Now()); err != nil {
		tunnel.Warn(a.log, "could not store the hub list", "error", err)
	}
}

// setHubs replaces the hub list in memory, and in the directory unless that was just done.
func (s *state) setHubs(hubs []string, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Equal(s.creds.Hubs, hubs) {
		return nil
	}
	next := *s.creds
	next.Hubs = hubs
	s.creds = &next
	if !s.saved.IsZero() && now.Sub(s.saved) < hubListEvery {
		return nil
	}
	s.saved = now
	return s.saveLocked(&next, false)
}

// guard recovers a panic of one goroutine: a bug in one stream must not take the device off the air.
func (a *Agent) guard(what string, then func()) {
	if r := recover(); r != nil {
		tunnel.Error(a.log, "panic", "in", what, "value", fmt.Sprint(r), "stack", string(debug.Stack()))
		if then != nil {
			then()
		}
	}
}
