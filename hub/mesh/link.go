package mesh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hawser/hub/registry"
	"hawser/tunnel"
	"hawser/tunnel/quicconn"
	"hawser/tunnel/wire"
)

const (
	// sayAtOnce devices are taken from the feed at a time.
	sayAtOnce = 64
	// maxPending announcements of devices that are not known here wait, for a peer. When one more comes it is dropped, and when all that
	// wait have become known the connection is made anew, which brings what was dropped.
	maxPending = 4096
	// nearFuture: an announcement stamped so far beyond what is taken waits until it is taken: two clocks differ by a little.
	nearFuture = 4 * time.Second
	// refusals: a hub with that many refused announcements at once, and more than that rate, is sent away.
	refusalRate, refusalBurst = 10, 512
	// retireAfter a connection that another replaced, and that has carried streams, is closed.
	retireAfter = 30 * time.Second
)

// link is one connection with another hub.
type link struct {
	m           *Mesh
	p           *peer
	conn        quicconn.Peer
	byLower     bool // the hub with the lower UUID dialled
	incarnation wire.Incarnation
	retired     chan struct{} // closed when another link is in use
	used        atomic.Bool   // it has carried a stream
	heard       atomic.Int64  // ns since 1970

	pendingMu  sync.Mutex
	pending    map[pendingKey]pendingAnnounce
	overflowed bool

	refusals bucket // of hear's goroutine and the pending's: guarded by pendingMu
}

type pendingKey struct {
	device wire.UUID
	slot   uint8
}

type pendingAnnounce struct {
	a     *wire.Announce
	since time.Time
	told  bool
}

func (l *link) touch() { l.heard.Store(l.m.c.Now().UnixNano()) }

func (l *link) heardAt() time.Time { return time.Unix(0, l.heard.Load()) }

// serve makes a link of a connection and serves it until it ends.
func (m *Mesh) serve(ctx context.Context, c quicconn.Peer, dialled bool) {
	end := &wire.CloseError{Code: wire.CloseInternal, Reason: "the hub failed"}
	defer func() { _ = c.CloseWith(end) }()
	refuse := func(code wire.CloseCode, reason string) {
		end = &wire.CloseError{Code: code, Reason: reason, RetryAfter: time.Second}
	}
	id, err := m.c.Identify(c.ConnectionState())
	if err != nil || id == m.c.Self.UUID {
		refuse(wire.CloseAuth, "certificate not accepted")
		return
	}
	p := m.peer(id)
	if p == nil {
		m.c.Logger.Info("hub refused: not of the cluster's list (yet)", "hub", id.String(), "client", c.RemoteAddr().String())
		refuse(wire.CloseUnavailable, "not of the cluster's list (yet)")
		return
	}
	l := &link{
		m: m, p: p, conn: c, byLower: dialled == p.lower(), retired: make(chan struct{}), pending: make(map[pendingKey]pendingAnnounce),
		refusals: bucket{rate: refusalRate, burst: refusalBurst},
	}
	l.touch()
	if p.greeting.Add(1) > maxGreeting {
		p.greeting.Add(-1)
		refuse(wire.CloseRate, "too many connections")
		return
	}
	err = l.hello(ctx)
	p.greeting.Add(-1)
	if err != nil {
		if ctx.Err() == nil && c.Context().Err() == nil {
			p.incident(WrongHello, wire.UUID{}, err.Error())
		}
		refuse(wire.CloseProtocol, "not the hello of a hub")
		if c, ok := errors.AsType[*wire.CloseError](err); ok && !c.Remote {
			refuse(c.Code, c.Reason)
		}
		return
	}
	if e := p.adopt(l); e != nil {
		end = e
		return
	}
	m.c.Logger.Info("hub connected", "hub", p.name(), "address", c.RemoteAddr().String(), "dialled", dialled)
	end = l.run(ctx)
	p.left(l)
	m.c.Logger.Info("hub connection ended", "hub", p.name(), "error", context.Cause(c.Context()), "reason", end.Reason)
}

// hello is the first message of both.
func (l *link) hello(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.m.c.Timing.Handshake)
	defer cancel()
	now := l.m.c.Now()
	if err := tunnel.Send(l.conn, wire.PeerHello{
		Version: Version, HubUUID: l.m.c.Self.UUID, HubName: l.m.c.Self.Name, Cluster: l.m.c.Cluster, Incarnation: l.m.c.Incarnation,
		Clock: l.m.c.Registry.Clock(now),
	}); err != nil {
		return err
	}
	msg, err := tunnel.Receive(ctx, l.conn)
	if err != nil {
		return err
	}
	h, ok := msg.(*wire.PeerHello)
	switch {
	case !ok:
		return fmt.Errorf("message %T", msg)
	case h.Version != Version:
		return &wire.CloseError{Code: wire.CloseUpgrade, Reason: otherVersion(h.Version)}
	case h.HubUUID != l.p.id:
		return fmt.Errorf("names hub %s", h.HubUUID)
	case h.Cluster != l.m.c.Cluster:
		return fmt.Errorf("names cluster %s", wire.Quote(h.Cluster, 64))
	case h.Incarnation == wire.Incarnation{}:
		return errors.New("no incarnation")
	}
	l.incarnation = h.Incarnation
	if ahead := h.Clock.Time().Sub(now).Abs(); ahead > time.Second {
		l.m.c.Logger.Warn("the clocks of two hubs differ; both need NTP", "hub", l.p.name(), "by", ahead.Round(time.Millisecond))
	}
	l.m.c.Registry.Merge(h.Clock, now)
	return nil
}

func otherVersion(v uint16) string {
	return fmt.Sprintf("it speaks version %d of the protocol between hubs, this one version %d: update the older", v, Version)
}

// run serves the link until it ends, and says what to close it with.
func (l *link) run(ctx context.Context) *wire.CloseError {
	var wg sync.WaitGroup
	defer wg.Wait()
	lctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(l.conn.Context(), func() { cancel(context.Cause(l.conn.Context())) })
	defer stop()
	for _, part := range []struct {
		name string
		f    func(context.Context) error
	}{{"announcing", l.say}, {"hearing", l.hear}, {"heartbeats", l.beat}, {"heartbeats heard", l.listen}, {"streams", l.streams}} {
		wg.Go(func() {
			err := errors.New("panic")
			l.m.guard(part.name, func() { err = part.f(lctx) })
			if err != nil {
				cancel(err)
			}
		})
	}
	select {
	case <-lctx.Done():
	case <-l.retired:
		if l.used.Load() {
			t := time.NewTimer(retireAfter)
			select {
			case <-t.C:
			case <-lctx.Done():
			}
			t.Stop()
		}
		cancel(&wire.CloseError{Code: wire.CloseSuperseded, Reason: "there is another connection"})
	}
	end := &wire.CloseError{Code: wire.CloseDrain, Reason: "the hub is stopping"}
	if ctx.Err() == nil {
		if e, ok := errors.AsType[*wire.CloseError](context.Cause(lctx)); ok {
			end = &wire.CloseError{Code: e.Code, Reason: e.Reason}
		} else {
			end = &wire.CloseError{Code: wire.CloseInternal, Reason: context.Cause(lctx).Error()}
		}
	}
	_ = l.conn.CloseWith(end) // before wg.Wait: it ends what the goroutines wait for
	return end
}

// say tells the other hub all tunnels here, and then what changes.
func (l *link) say(ctx context.Context) error {
	feed := l.m.c.Registry.Feed()
	defer feed.Close()
	for all := false; ; {
		say, more := feed.Next(sayAtOnce)
		for _, m := range say {
			if err := tunnel.Send(l.conn, m); err != nil {
				return err
			}
		}
		if more {
			continue
		}
		if !all {
			all = true
			if err := tunnel.Send(l.conn, wire.Announced{}); err != nil {
				return err
			}
		}
		select {
		case <-feed.Wake():
		case <-l.retired:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// hear takes what the other hub says.
func (l *link) hear(ctx context.Context) error {
	for {
		msg, err := tunnel.Receive(ctx, l.conn)
		if errors.Is(err, wire.ErrMalformed) {
			return l.offend(BadMessage, err.Error())
		}
		if err != nil {
			return err
		}
		l.touch()
		switch m := msg.(type) {
		case *wire.Announce:
			err = l.announced(m)
		case *wire.Withdraw:
			l.forget(m)
			l.take(func() { l.m.c.Registry.Withdraw(l.p.id, m) })
		case *wire.Announced:
			l.take(func() { l.m.c.Registry.EndSnapshot(l.p.id) })
		default:
			err = l.offend(BadMessage, fmt.Sprintf("%T is no message of hubs", msg))
		}
		if err != nil {
			return err
		}
	}
}

// offend notes what no hub does by mistake, and ends the connection for a while.
func (l *link) offend(kind, detail string) error {
	l.p.incident(kind, wire.UUID{}, detail)
	l.p.ban()
	return &wire.CloseError{Code: wire.CloseProtocol, Reason: kind}
}

// take runs f unless another link is in use by now.
func (l *link) take(f func()) {
	l.p.hearing.Lock()
	defer l.p.hearing.Unlock()
	if l.p.current() == l {
		f()
	}
}

// verdict on an announcement.
type verdict uint8

const (
	taken   verdict = iota
	later           // not yet
	refused         // counted
	outdated
)

// announced judges an announcement; an error ends the connection.
func (l *link) announced(a *wire.Announce) error {
	switch v := l.judge(a); v {
	case later:
		l.wait(a)
	case refused:
		l.pendingMu.Lock()
		ok := l.refusals.take(l.m.c.Now())
		l.pendingMu.Unlock()
		if !ok {
			return l.offend(AnnounceFlood, "too many announcements that are not true")
		}
	}
	return nil
}

func (l *link) judge(a *wire.Announce) verdict {
	key := l.m.c.DeviceKey(a.UUID)
	if key == nil {
		return later
	}
	if !ed25519.Verify(key, wire.RegisterTBS(a.Nonce, wire.Register{
		UUID: a.UUID, Hub: l.p.id, Incarnation: a.Incarnation, Slot: a.Slot, Counter: a.Counter,
	}), a.Signature) {
		l.p.incident(BadSignature, a.UUID, "announced a tunnel that the device did not register there")
		return refused
	}
	var displaced []*registry.Tunnel
	var err error
	now := l.m.c.Now()
	l.take(func() { displaced, err = l.m.c.Registry.Announce(l.p.id, a, now) })
	switch {
	case err == nil:
		l.p.announced.Add(1)
		if len(displaced) > 0 {
			l.m.c.Displaced(displaced)
		}
		return taken
	case errors.Is(err, registry.ErrFuture) && a.Stamp != 0 && a.Stamp.Time().Before(now.Add(nearFuture)):
		return later
	case errors.Is(err, registry.ErrFuture):
		l.p.incident(FutureStamp, a.UUID, "announced a tunnel with a stamp of "+a.Stamp.Time().Format(time.RFC3339)+"; is that hub's clock right?")
		return refused
	case errors.Is(err, registry.ErrReplay):
		l.p.incident(Replayed, a.UUID, "announced a tunnel that is over")
		return refused
	case errors.Is(err, registry.ErrStale), errors.Is(err, registry.ErrFenced):
		l.p.incident(UnreachedStale, a.UUID, err.Error())
		return outdated
	}
	l.p.incident(BadMessage, a.UUID, err.Error())
	return refused
}

// wait keeps an announcement until its device is known, or its time has come.
func (l *link) wait(a *wire.Announce) {
	l.pendingMu.Lock()
	defer l.pendingMu.Unlock()
	k := pendingKey{a.UUID, a.Slot}
	if _, ok := l.pending[k]; !ok && len(l.pending) >= maxPending {
		l.overflowed = true
		return
	}
	kept := *a // without the message it came in
	kept.Signature, kept.Logins = bytes.Clone(a.Signature), nil
	if len(a.Logins) > 0 {
		kept.Logins = []string{strings.Clone(a.Logins[0])}
	}
	l.pending[k] = pendingAnnounce{a: &kept, since: l.m.c.Now()}
}

// forget drops what waits and is over.
func (l *link) forget(w *wire.Withdraw) {
	l.pendingMu.Lock()
	defer l.pendingMu.Unlock()
	k := pendingKey{w.UUID, w.Slot}
	if x, ok := l.pending[k]; ok && x.a.Incarnation == w.Incarnation && x.a.Counter <= w.Counter {
		delete(l.pending, k)
	}
}

// retry judges what waits anew.
func (l *link) retry() error {
	now := l.m.c.Now()
	var again []*wire.Announce
	l.pendingMu.Lock()
	for k, x := range l.pending {
		known := l.m.c.DeviceKey(k.device) != nil
		switch {
		case known && !x.a.Stamp.Time().After(now.Add(2*time.Second)): // else it would only wait on
			delete(l.pending, k)
			again = append(again, x.a)
		case known || x.told || now.Sub(x.since) < l.m.c.Timing.PendingLife:
		default:
			x.told = true
			l.pending[k] = x
			l.p.incident(UnknownDevice, k.device, "announced a device that is not of the cluster")
		}
	}
	anew := l.overflowed && len(l.pending) == 0
	l.pendingMu.Unlock()
	for _, a := range again {
		if err := l.announced(a); err != nil {
			return err
		}
	}
	if anew {
		return &wire.CloseError{Code: wire.CloseNormal, Reason: "announce anew: some were dropped"}
	}
	return nil
}

// beat sends heartbeats, and ends the link when none come.
func (l *link) beat(ctx context.Context) error {
	t := time.NewTicker(l.m.c.Timing.Heartbeat)
	defer t.Stop()
	for seq := uint32(1); ; seq++ {
		if err := l.conn.SendHeartbeat(wire.Heartbeat{Seq: seq, Interval: l.m.c.Timing.Heartbeat}.Append(nil)); err != nil && l.conn.Context().Err() != nil {
			return err
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
		if l.m.c.Now().Sub(l.heardAt()) > l.m.c.Timing.Dead {
			return &wire.CloseError{Code: wire.CloseIdle, Reason: "heartbeats stopped"}
		}
		if err := l.retry(); err != nil {
			return err
		}
	}
}

func (l *link) listen(ctx context.Context) error {
	for {
		if _, err := l.conn.ReceiveHeartbeat(ctx); err != nil {
			return err
		}
		l.touch()
	}
}
