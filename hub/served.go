package hub

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"hawser/hub/registry"
	"hawser/tunnel"
	"hawser/tunnel/wire"
	"hawser/tunnel/yamuxconn"
)

const (
	// missedBeats is how many intervals may pass without a heartbeat before a tunnel is overdue, and beatSlack what is added.
	missedBeats = 3
	beatSlack   = 2 * time.Second
	// wakeWait is how soon after the first stream a heartbeat is due, whatever interval was told before: an edge beats at once when it is
	// wanted, so an idle tunnel that is dead shows it now.
	wakeWait = 8 * time.Second
	// maxSilent is how long a tunnel with streams may be overdue: as long as a session waits for its device.
	maxSilent = 10 * time.Minute
	// parkAfter is how long a TLS tunnel is idle before it rests.
	parkAfter = 3 * time.Second
	// maxQueued messages may wait for an edge that does not read.
	maxQueued = 64
	// maxRequests of one device may be in hand at once.
	maxRequests = 32
	// maxAsked hubs of which one device is told when they change.
	maxAsked = 8
)

// served is what the hub does for one registered tunnel. A QUIC tunnel has a goroutine for control messages and one for heartbeats; a
// TLS tunnel has one for both, and none while it is parked.
type served struct {
	h      *Hub
	t      *registry.Tunnel
	timer  *time.Timer // the heartbeats' deadline
	parked atomic.Bool
	wg     sync.WaitGroup // requests, the sender, heartbeats; added to under mu while not ended

	mu       sync.Mutex
	ended    bool
	streams  int
	waking   bool          // wakeWait runs
	interval time.Duration // between heartbeats; 0: an idle TLS tunnel, which kernel keepalive watches
	due      time.Time     // when the timer is to fire: it may have fired as a heartbeat came
	silent   time.Time     // since when heartbeats are overdue; zero: they are not
	watch    keepAliveWatch
	seen     netip.AddrPort
	seq      uint32 // of the last whole heartbeat
	requests int
	uploads  int
	queue    []queued
	sending  bool
	asked    []wire.UUID // hubs this device holds streams of
	name     string      // that its certificate has, as far as is known
	headed   time.Time   // when the head of the audit log was sent last
	forked   bool        // the device has said that the log was rewritten
	timed    *byte       // the first byte of the beacon sent last: which it was
}

// queued is a message to be sent.
type queued struct {
	t wire.Type
	b []byte
}

func newServed(h *Hub, t *registry.Tunnel) *served {
	const wait = missedBeats*heartbeatWish + beatSlack
	s := &served{h: h, t: t, interval: heartbeatWish, due: time.Now().Add(wait), seen: t.Conn.RemoteAddr()}
	s.timer = time.AfterFunc(wait, s.overdue)
	return s
}

// start serves the tunnel until it ends; it does not wait.
func (s *served) start() {
	if _, ok := s.t.Conn.(yamuxconn.Parker); !ok {
		s.spawn(func() {
			for {
				b, err := s.t.Conn.ReceiveHeartbeat(context.Background()) // it fails with the tunnel
				if err != nil {
					return
				}
				s.heartbeat(b)
			}
		})
	}
	go s.run() // a goroutine of its own: this one's stack has grown in the handshake
}

// run takes what the edge says until the tunnel ends or is parked.
func (s *served) run() {
	parked := false
	end := &wire.CloseError{Code: wire.CloseInternal, Reason: "the hub failed"}
	defer func() {
		if p := recover(); p != nil {
			s.h.config.Logger.Error("panic in a tunnel", "device", s.t.Name, "panic", p, "stack", string(debug.Stack()))
		}
		if !parked {
			s.end(end)
		}
	}()
	var err error
	if p, ok := s.t.Conn.(yamuxconn.Parker); ok {
		parked, err = s.takeOrPark(p)
	} else {
		err = s.take()
	}
	if !parked {
		end = s.h.closeFor(err)
		s.h.brokeRules(s.t.Name, s.t.Conn.RemoteAddr().String(), err)
		s.h.config.Logger.Debug("tunnel ended", "device", s.t.Name, "client", s.t.Conn.RemoteAddr().String(), "error", err)
	}
}

func (s *served) take() error {
	for {
		b, err := s.t.Conn.ReceiveControl(context.Background()) // it fails with the tunnel
		if err == nil {
			err = s.control(b)
		}
		if err != nil {
			return err
		}
	}
}

func (s *served) takeOrPark(c yamuxconn.Parker) (parked bool, err error) {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), parkAfter)
		b, heartbeat, err := c.Next(ctx)
		idle := ctx.Err() != nil
		cancel()
		switch {
		case err == nil && heartbeat:
			s.heartbeat(b)
		case err == nil:
			if err := s.control(b); err != nil {
				return false, err
			}
		case s.t.Conn.Context().Err() != nil:
			return false, context.Cause(s.t.Conn.Context())
		case !idle:
			return false, err
		default:
			s.parked.Store(true)
			if c.Park(func() {
				s.parked.Store(false)
				s.run()
			}) {
				return true, nil
			}
			s.parked.Store(false)
		}
	}
}

// control handles one message of the edge's.
func (s *served) control(b []byte) error {
	m, err := wire.Decode(b)
	if errors.Is(err, wire.ErrUnknownType) {
		return nil
	}
	if err != nil {
		return err
	}
	switch m := m.(type) {
	case *wire.Info:
		s.t.SetInfo(*m)
		s.h.infoChanged(s.t)
	case *wire.PolicyHeld:
		s.t.SetHeld(*m)
		s.h.report(s.t.UUID)
	case *wire.Renew:
		if !s.request(func() {
			if p, err := s.h.judge(s.t.Conn.ConnectionState()); err == nil {
				_ = s.h.renewDevice(s.t.Conn, p, m)
			}
		}) {
			s.send(wire.Refused{Code: wire.CloseRate, Message: "too many requests at once", RetryAfter: time.Minute})
		}
	case *wire.ControlWanted: // it lingers until a place is asked for
		_, release := s.h.holdControl(s.t.UUID)
		release()
	case *wire.UploadWanted: // of a session whose control stream is gone
		s.upload(m)
	case *wire.History:
		s.h.auth.ReportHistory(s.t.UUID, m.Events)
	case *wire.LogWanted:
		s.logWanted(m)
	case *wire.HubQuery:
		s.mu.Lock()
		if !slices.Contains(s.asked, m.Hub) {
			if len(s.asked) == maxAsked {
				s.asked = s.asked[1:]
			}
			s.asked = append(s.asked, m.Hub)
		}
		s.mu.Unlock()
		s.send(s.h.hubStatus(m.Hub))
	}
	return nil
}

// spawn runs f in a goroutine that the tunnel's end waits for. A panic in it ends the tunnel.
func (s *served) spawn(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spawnLocked(f)
}

func (s *served) spawnLocked(f func()) {
	if s.ended {
		return
	}
	s.wg.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				s.h.config.Logger.Error("panic in a tunnel", "device", s.t.Name, "panic", p, "stack", string(debug.Stack()))
				_ = s.t.Conn.CloseWithError(wire.CloseInternal, "the hub failed")
			}
		}()
		f()
	})
}

// request is spawn for what the edge asked for; it tells whether that is within the limit.
func (s *served) request(f func()) bool { return s.within(maxRequests, &s.requests, f) }

// upload takes a recording, unless too many are taken: then the edge asks again. They last as long as sessions, and are no requests.
func (s *served) upload(m *wire.UploadWanted) {
	s.within(maxUploads, &s.uploads, func() { s.h.upload(s.t.Conn.Context(), s.t.UUID, m) })
}

// within is spawn for one of a kind of which so many may be at once; n counts them.
func (s *served) within(most int, n *int, f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if *n >= most {
		return false
	}
	*n++
	s.spawnLocked(func() {
		defer func() {
			s.mu.Lock()
			*n--
			s.mu.Unlock()
		}()
		f()
	})
	return true
}

// latestOnly are messages of which only the newest matters.
func latestOnly(t wire.Type) bool {
	return t == wire.TypePolicy || t == wire.TypeLocks || t == wire.TypeTrust || t == wire.TypeHubList
}

// send sends without waiting for an edge that does not read.
func (s *served) send(m wire.Message) {
	b, err := wire.Encode(m)
	if err != nil {
		s.h.config.Logger.Error("message not sent", "device", s.t.Name, "error", err)
		return
	}
	s.enqueue(queued{m.Type(), b})
}

func (s *served) enqueue(q queued) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	if latestOnly(q.t) {
		s.queue = slices.DeleteFunc(s.queue, func(old queued) bool { return old.t == q.t })
	}
	if len(s.queue) >= maxQueued {
		s.spawnLocked(func() { _ = s.t.Conn.CloseWithError(wire.CloseIdle, "the device does not read") })
		return
	}
	s.queue = append(s.queue, q)
	if !s.sending {
		s.sending = true
		s.spawnLocked(s.sendQueued)
	}
}

func (s *served) sendQueued() {
	for {
		s.mu.Lock()
		if len(s.queue) == 0 || s.ended {
			s.sending, s.queue = false, nil
			s.mu.Unlock()
			return
		}
		q := s.queue[0]
		s.queue = s.queue[1:]
		s.mu.Unlock()
		if err := s.t.Conn.SendControl(q.b); err != nil {
			return // the tunnel has ended: nothing more is sent
		}
	}
}

// heartbeat handles one, and answers where an answer is due: always while the edge has streams, and else when it asks and after a change.
func (s *served) heartbeat(b []byte) {
	beat, err := wire.DecodeHeartbeat(b)
	if err != nil {
		return
	}
	addr := s.t.Conn.RemoteAddr()
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	if beat.Again {
		beat.Interval, beat.Seq = s.interval, s.seq
	}
	if s.seq = beat.Seq; beat.Flags&wire.HeartbeatKeepAlive != 0 {
		s.watch.told(s.t.Conn, beat.Interval)
		beat.Interval = 0
	}
	moved, changed, returned := addr != s.seen, beat.Interval != s.interval, !s.silent.IsZero()
	s.seen, s.interval, s.silent = addr, beat.Interval, time.Time{}
	s.expectLocked()
	answer := moved || changed || returned || s.streams > 0 || beat.Flags&wire.HeartbeatAnswerWanted != 0
	s.mu.Unlock()
	if returned {
		s.h.setSilent(s.t, false)
	}
	if moved {
		s.h.report(s.t.UUID)
	}
	if answer {
		_ = s.t.Conn.SendHeartbeat(wire.HeartbeatAnswer{Seq: beat.Seq, Observed: addr, Time: s.h.config.Now()}.Append(nil))
	}
}

// expectLocked sets when the next heartbeat is due by the interval last told.
func (s *served) expectLocked() {
	s.waking = false
	if s.interval > 0 {
		s.waitLocked(missedBeats*s.interval + beatSlack)
	} else {
		s.timer.Stop()
	}
}

func (s *served) waitLocked(d time.Duration) {
	s.due = time.Now().Add(d)
	s.timer.Reset(d)
}

// overdue is called when no heartbeat came in time. A tunnel without streams is closed. One with streams is silent: not where anybody
// would look for the device, but kept, for a path that answers again costs nothing.
func (s *served) overdue() {
	s.mu.Lock()
	if s.ended || s.interval <= 0 && !s.waking || time.Now().Before(s.due) {
		s.mu.Unlock()
		return
	}
	silent := s.streams > 0 && s.silent.IsZero()
	if silent {
		s.silent = time.Now()
		s.waitLocked(maxSilent)
	} else {
		s.spawnLocked(s.closeOverdue)
	}
	s.mu.Unlock()
	if silent {
		s.h.setSilent(s.t, true)
	}
}

func (s *served) closeOverdue() { _ = s.t.Conn.CloseWithError(wire.CloseIdle, "heartbeats stopped") }

// isSilent tells whether heartbeats are overdue.
func (s *served) isSilent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.silent.IsZero()
}

// end takes the tunnel out of use, closes it, and waits for what it had in hand.
func (s *served) end(e *wire.CloseError) {
	s.mu.Lock()
	s.ended = true
	s.queue = nil
	s.timer.Stop()
	s.watch.end()
	s.mu.Unlock()
	cause := error(e)
	if s.t.Conn.Context().Err() != nil {
		cause = context.Cause(s.t.Conn.Context())
	}
	s.h.unregister(s.t, cause)
	_ = s.t.Conn.CloseWith(e)
	s.wg.Wait()
	s.h.tunnels.done(s.t.Conn)
}

// closeFor is what a tunnel is closed with that ended by err.
func (h *Hub) closeFor(err error) *wire.CloseError {
	if errors.Is(err, errDone) {
		return &wire.CloseError{Code: wire.CloseNormal}
	}
	if e, ok := errors.AsType[*wire.CloseError](err); ok {
		return &wire.CloseError{Code: e.Code, Reason: e.Reason, RetryAfter: e.RetryAfter}
	}
	return &wire.CloseError{Code: wire.CloseProtocol, Reason: "not understood"}
}

// endText says in few words how a tunnel ended.
func endText(carrier tunnel.Carrier, cause error) string {
	e, ok := errors.AsType[*wire.CloseError](cause)
	switch {
	case !ok:
		return fmt.Sprintf("%s connection lost", carrier)
	case e.Remote && e.Reason == "":
		return "the device closed it: " + e.Code.String()
	case e.Remote:
		return "the device closed it: " + wire.Quote(e.Reason, 200)
	case e.Reason == "":
		return e.Code.String()
	}
	return wire.Quote(e.Reason, 200)
}

// openLocal opens a stream on a tunnel of this hub's. The tunnel is not closed for missing heartbeats while it has streams.
func (h *Hub) openLocal(ctx context.Context, t *registry.Tunnel) (tunnel.Stream, error) {
	s := h.tunnels.of(t.Conn)
	if s == nil {
		return t.Conn.OpenStream(ctx)
	}
	s.mu.Lock()
	if s.streams++; s.streams == 1 && !s.ended && s.silent.IsZero() && (s.interval <= 0 || time.Until(s.due) > wakeWait) {
		s.waking = true
		s.waitLocked(wakeWait)
	}
	s.mu.Unlock()
	s.sendTime(h.auth.Cache.SignedTime())
	s.sendLogHead()
	stream, err := t.Conn.OpenStream(ctx)
	if err != nil {
		s.streamEnded()
		return nil, err
	}
	return &countedStream{Stream: stream, s: s}, nil
}

func (s *served) streamEnded() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams--
	switch {
	case s.streams > 0 || s.ended:
	case !s.silent.IsZero():
		s.spawnLocked(s.closeOverdue)
	case s.waking: // it was over before the edge could say anything
		s.expectLocked()
	}
}

// countedStream is one of a tunnel's streams.
type countedStream struct {
	tunnel.Stream
	s    *served
	once atomic.Bool
}

func (c *countedStream) Close() error {
	err := c.Stream.Close()
	c.end()
	return err
}

func (c *countedStream) Reset(code wire.StreamCode) {
	c.Stream.Reset(code)
	c.end()
}

func (c *countedStream) end() {
	if !c.once.Swap(true) {
		c.s.streamEnded()
	}
}

// tunnelEnds is how the devices' last tunnels here ended.
type tunnelEnds struct {
	mu   sync.Mutex
	byID map[wire.UUID]tunnelEnd
}

type tunnelEnd struct {
	reason string
	at     time.Time
}

// rememberedEnd is how long an end is named again in a full report, for the report that named it may have been lost.
const rememberedEnd = 10 * time.Minute

func (e *tunnelEnds) set(id wire.UUID, reason string, at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.byID == nil {
		e.byID = make(map[wire.UUID]tunnelEnd)
	}
	e.byID[id] = tunnelEnd{reason, at}
}

func (e *tunnelEnds) get(id wire.UUID) (tunnelEnd, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	end, ok := e.byID[id]
	return end, ok
}

// recent returns whose tunnels ended lately, and forgets the others.
func (e *tunnelEnds) recent(now time.Time) []wire.UUID {
	e.mu.Lock()
	defer e.mu.Unlock()
	var ids []wire.UUID
	for id, end := range e.byID {
		if now.Sub(end.at) > rememberedEnd {
			delete(e.byID, id)
			continue
		}
		ids = append(ids, id)
	}
	return ids
}

// setSilent says whether a tunnel's heartbeats are overdue.
func (h *Hub) setSilent(t *registry.Tunnel, silent bool) {
	h.registry.SetSilent(t, silent)
	h.config.Logger.Info("heartbeats", "device", t.Name, "overdue", silent)
	h.report(t.UUID)
}

func (h *Hub) infoChanged(t *registry.Tunnel) {
	h.registry.InfoChanged(t)
	h.report(t.UUID)
}

// hubStatus is how another hub is, as far as this one knows.
func (h *Hub) hubStatus(id wire.UUID) wire.HubStatus {
	return h.mesh.HubStatus(id)
}

// hubChanged tells the devices that asked for a hub how it is now.
func (h *Hub) hubChanged(id wire.UUID) {
	for _, s := range h.tunnels.all() {
		s.mu.Lock()
		asked := slices.Contains(s.asked, id)
		s.mu.Unlock()
		if asked {
			s.send(h.hubStatus(id))
		}
	}
}
