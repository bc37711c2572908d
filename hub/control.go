package hub

import (
	"bufio"
	"context"
	"errors"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"hawser/auth/policy"
	"hawser/hub/authclient"
	"hawser/hub/front"
	"hawser/tunnel"
	"hawser/tunnel/resume"
	"hawser/tunnel/wire"
)

const (
	// maxReleases of one device are told to auth at once.
	maxReleases = 64
	// controlLinger is how long a control stream stays when nobody needs it any more: the last releases and uploads come over it.
	controlLinger = 30 * time.Second
	// controlLife is how long one waits for its device at the least; longer where what was granted over it may wait longer.
	controlLife = policy.DefaultDetachedLife + time.Minute
	// controlBuffer is the most unread requests, and unread answers, of one device: bytes.
	controlBuffer = 64 << 10
	// controlOpen bounds opening one, the handshake through another hub included.
	controlOpen = 10 * time.Second
	// controlRetry is the wait before a control stream that is still needed is opened anew, unless the routes change; doubled up to controlRetryMax.
	controlRetry    = 250 * time.Millisecond
	controlRetryMax = 5 * time.Second
	// maxPending messages wait for the device of a control stream to come; one more is dropped, and said in the log.
	maxPending = 256
	// killWait is how long they do.
	killWait = 10 * time.Minute
	// maxUploads of one device run at once, each for as long as its session: as many as it has streams; for others it asks again.
	maxUploads = 256
)

// errIdle ends a control stream that nobody needs.
var errIdle = errors.New("nobody needs the control stream")

// controls are the control streams of this hub, one to each device that somebody is on end to end, or that is to end a session. The zero
// value is ready.
type controls struct {
	mu   sync.Mutex
	of   map[wire.UUID]*control
	ctx  context.Context // of all; set with of
	stop context.CancelCauseFunc
	wg   sync.WaitGroup
}

// control is the control stream to one device: what the device asks of the hub somebody came by, and is told by it, through whatever hub
// holds its tunnel.
type control struct {
	h      *Hub
	device wire.UUID
	ctx    context.Context // ends when nobody needs it, or the hub stops
	cancel context.CancelCauseFunc

	users  int // guarded by controls.mu
	linger *time.Timer

	mu      sync.Mutex
	stream  *controlStream // nil while there is none
	pending [][]byte       // for the next
	sent    [][]byte       // on this one, and perhaps not taken yet
	since   time.Time      // of the oldest pending
	life    time.Duration
}

// holdControl opens the control stream to a device, unless there is one, and keeps it until release is called. It does not wait.
func (h *Hub) holdControl(device wire.UUID) (c *control, release func()) {
	x := &h.controls
	x.mu.Lock()
	defer x.mu.Unlock()
	x.initLocked()
	if c = x.of[device]; c == nil {
		c = &control{h: h, device: device, life: controlLife}
		c.ctx, c.cancel = context.WithCancelCause(x.ctx)
		if x.ctx.Err() != nil {
			return c, func() {}
		}
		x.of[device] = c
		x.wg.Go(c.run)
	}
	return c, c.holdLocked()
}

// hold keeps the control stream until release is called, as far as it is not over.
func (c *control) hold() (release func()) {
	x := &c.h.controls
	x.mu.Lock()
	defer x.mu.Unlock()
	return c.holdLocked()
}

func (c *control) holdLocked() (release func()) {
	x := &c.h.controls
	c.users++
	if c.linger != nil {
		c.linger.Stop()
		c.linger = nil
	}
	return sync.OnceFunc(func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		if c.users--; c.users == 0 {
			c.linger = time.AfterFunc(controlLinger, c.idle)
		}
	})
}

// closeControls ends all of them and waits.
func (h *Hub) closeControls() {
	x := &h.controls
	x.mu.Lock()
	x.initLocked()
	x.stop(errIdle)
	x.mu.Unlock()
	x.wg.Wait()
}

func (x *controls) initLocked() {
	if x.of == nil {
		x.of = make(map[wire.UUID]*control)
		x.ctx, x.stop = context.WithCancelCause(context.Background())
	}
}

// idle ends the control stream if nobody came back for it and it has nothing more to say.
func (c *control) idle() {
	x := &c.h.controls
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case c.users > 0:
	case c.undelivered():
		c.linger = time.AfterFunc(controlLinger, c.idle)
	default:
		c.leaveLocked()
		c.cancel(errIdle)
	}
}

// leaveLocked takes c out of the table.
func (c *control) leaveLocked() {
	if x := &c.h.controls; x.of[c.device] == c {
		delete(x.of, c.device)
	}
}

// undelivered tells whether something is to be said to a device that is away, and may still be.
func (c *control) undelivered() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending) > 0 {
		return time.Since(c.since) < killWait
	}
	return c.stream != nil && !c.stream.Attached() && c.stream.Unacknowledged() > 0 && time.Since(c.stream.DetachedSince()) < killWait
}

// run opens the control stream, and again when it is lost while somebody needs it.
func (c *control) run() {
	defer func() {
		if p := recover(); p != nil {
			c.h.config.Logger.Error("panic in a control stream", "device", c.device.String(), "panic", p, "stack", string(debug.Stack()))
		}
		x := &c.h.controls
		x.mu.Lock()
		defer x.mu.Unlock()
		c.leaveLocked()
		c.cancel(errIdle)
	}()
	for wait := controlRetry; ; wait = min(2*wait, controlRetryMax) {
		changed := c.h.registry.Changed(c.device)
		begun := time.Now()
		err := c.once()
		if time.Since(begun) > controlRetryMax {
			wait = controlRetry
		}
		c.h.config.Logger.Debug("control stream ended", "device", c.device.String(), "error", err)
		t := time.NewTimer(wait + rand.N(wait/2))
		select {
		case <-changed:
		case <-t.C:
		case <-c.ctx.Done():
		}
		t.Stop()
		x := &c.h.controls
		x.mu.Lock()
		over := c.ctx.Err() != nil || c.users == 0 && !c.undelivered()
		if over {
			c.leaveLocked()
		}
		x.mu.Unlock()
		if over {
			return
		}
	}
}

// once serves one control stream from its opening to its end for good, however many tunnels it takes. Then what was granted over it is lost.
func (c *control) once() error {
	ctx, cancel := context.WithTimeout(c.ctx, controlOpen)
	defer cancel()
	routes := c.h.registry.Routes(c.device)
	if len(routes) == 0 {
		return front.ErrOffline
	}
	a := wire.Attach{Kind: wire.KindControl, ID: wire.NewStreamID(), Open: wire.OpenRequest{}.Append(nil)}
	att, err := c.h.openStream(ctx, c.device, &a)
	if err != nil {
		return err
	}
	s := &controlStream{c: c, incarnation: routes[0].Incarnation}
	c.mu.Lock()
	s.Stream = resume.Open(att, a, resume.Options{SendBuffer: controlBuffer, RecvBuffer: controlBuffer, DetachedLife: c.life})
	c.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() {
		defer s.recovered()
		front.Drive(c.h.controls.ctx, &backend{c.h}, c.device, s.Stream, func(bool) { c.h.auth.SessionsDirty() })
	})
	// What is to be said stays pending until the device has taken the stream: one that has too many refuses it, and a Kill must not be lost
	// with it.
	if err := s.WaitAttached(ctx); err != nil {
		s.End(err)
		wg.Wait()
		return err
	}
	c.mu.Lock()
	c.stream = s
	pending := c.pending
	c.pending = nil
	for _, b := range pending {
		_ = c.writeLocked(s, b)
	}
	c.sent = pending
	c.mu.Unlock()
	leave := func() { // the device has a while to learn of it
		_ = s.Close()
		s.SetDetachedLife(controlLinger)
	}
	stop := context.AfterFunc(c.ctx, leave)
	err = s.serve(&wg)
	stop()
	c.mu.Lock()
	c.stream = nil
	if errors.Is(err, resume.ErrGone) || errors.Is(err, resume.ErrDetached) { // an edge drops one that waits and has nobody end to end
		c.pending, c.since = append(c.sent, c.pending...), time.Now()
	}
	c.sent = nil
	c.mu.Unlock()
	releaseAll(c.h.granted.lost(s), func(id [16]byte) {
		defer s.recovered()
		c.h.auth.Release(id, -1, "the device was lost")
	})
	leave()
	wg.Wait()
	return err
}

// releaseAll releases what was lost, maxReleases at a time: while auth does not answer, each under a cap takes a second, and the device waits for the
// next control stream meanwhile.
func releaseAll(ids [][16]byte, release func([16]byte)) {
	slots := make(chan struct{}, maxReleases)
	var wg sync.WaitGroup
	for _, id := range ids {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			release(id)
		})
	}
	wg.Wait()
}

// writeLocked writes a message without waiting: what the device does not read is bounded by the stream's buffer.
func (c *control) writeLocked(stream *controlStream, b []byte) error {
	if stream.Unacknowledged()+len(b) > controlBuffer {
		return errors.New("the device does not read what it is told")
	}
	_, err := stream.Write(b)
	return err
}

// tell says something to the device, now or when it comes: twice, if it cannot be known whether it was heard.
func (c *control) tell(m wire.Message) {
	b, err := wire.Encode(m)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil:
	case c.stream != nil:
		if c.stream.Unacknowledged() == 0 {
			c.sent = nil
		}
		if err = c.writeLocked(c.stream, b); err == nil {
			c.sent = append(c.sent, b)
		}
	case len(c.pending) >= maxPending:
		err = errors.New("too much waits for this device")
	default:
		if len(c.pending) == 0 {
			c.since = time.Now()
		}
		c.pending = append(c.pending, b)
	}
	if err != nil {
		c.h.config.Logger.Error("message not sent", "device", c.device.String(), "error", err)
	}
}

// keep makes the stream wait for its device at least as long as what was granted over it may.
func (c *control) keep(life time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if life += time.Minute; life > c.life && c.stream != nil {
		c.life = life
		c.stream.SetDetachedLife(life)
	}
}

// killOnDevice tells a device to end a session and all its processes, now or when it comes.
func (h *Hub) killOnDevice(device wire.UUID, session [16]byte, reason string) {
	c, release := h.holdControl(device)
	defer release() // it lingers
	c.tell(wire.Kill{SessionID: session, Reason: wire.Quote(reason, 512)})
}

// controlStream is one control stream, of one run of the device's agent.
type controlStream struct {
	*resume.Stream
	c           *control
	incarnation wire.Incarnation
	over        bool // guarded by grantedSessions.mu: nobody would release what is granted over it
}

// serve takes what the device asks until the stream ends.
func (s *controlStream) serve(wg *sync.WaitGroup) error {
	places, uploads, releases := make(chan struct{}, maxPlaces), make(chan struct{}, maxUploads), make(chan struct{}, maxReleases)
	r := bufio.NewReaderSize(s, 512)
	for {
		m, err := tunnel.ReceiveFrom(r)
		switch {
		case errors.Is(err, wire.ErrUnknownType):
			continue
		case errors.Is(err, wire.ErrMalformed):
			s.Reset(wire.StreamProtocol)
			return err
		case err != nil:
			return err
		}
		switch m := m.(type) {
		case *wire.PlaceRequest:
			if !s.request(wg, places, func() { s.c.h.place(s, m) }) {
				s.reply(wire.PlaceReply{ID: m.ID, Refusal: "too many requests at once; try again", Later: true})
			}
		case *wire.Release:
			// It may wait a second for auth, and what the device asks next is not to.
			if f := func() { s.c.h.releaseFrom(s.c.device, m) }; !s.request(wg, releases, f) {
				f()
			}
		case *wire.Forwarded:
			s.c.h.forwarded(s.c.device, m)
		case *wire.Denial:
			s.c.h.denied(s.c.device, m)
		case *wire.UploadWanted: // beyond the limit the device asks again
			s.request(wg, uploads, func() {
				defer s.c.hold()() // the session may be over, and auth away
				s.c.h.upload(s.c.ctx, s.c.device, m)
			})
		}
	}
}

// request runs f, unless too many of its kind do.
func (s *controlStream) request(wg *sync.WaitGroup, slots chan struct{}, f func()) bool {
	select {
	case slots <- struct{}{}:
	default:
		return false
	}
	wg.Go(func() {
		defer func() { <-slots }()
		defer s.recovered()
		f()
	})
	return true
}

// recovered is deferred by the stream's goroutines: a panic in one ends the stream.
func (s *controlStream) recovered() {
	if p := recover(); p != nil {
		s.c.h.config.Logger.Error("panic in a control stream", "device", s.c.device.String(), "panic", p, "stack", string(debug.Stack()))
		s.Reset(wire.StreamInternal)
	}
}

// reply answers on this stream, not on a later one.
func (s *controlStream) reply(m wire.Message) {
	b, err := wire.Encode(m)
	if err == nil {
		s.c.mu.Lock()
		err = s.c.writeLocked(s, b)
		s.c.mu.Unlock()
	}
	if err != nil {
		s.c.h.config.Logger.Warn("message not sent", "device", s.c.device.String(), "error", err)
	}
}

// denied puts into the audit log whom a device's own SSH server refused. The device says so of itself, and of nobody else.
func (h *Hub) denied(device wire.UUID, m *wire.Denial) {
	f := authclient.Refusal{Type: "device", Reason: wire.Quote(m.Reason, 32), User: m.Name, Login: m.Login, Client: m.ClientAddr.String()}
	if d := h.auth.Cache.Device(device); d != nil {
		f.Device = d.Name
	}
	h.auth.ReportRefusal(f)
}
