package edge

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"hawser/auth/grant"
	"hawser/tunnel"
	"hawser/tunnel/wire"
)

const (
	// controlLife is how long a control stream waits for another tunnel: longer than any connection it is for.
	controlLife = grant.MaxDetachedLife + time.Minute
	// controlIdle is how long it does so when its hub has no connection here.
	controlIdle = time.Minute
	// controlWait is how long a connection waits for the control stream of its entry hub, which the hub opens beside it.
	controlWait = 5 * time.Second
)

var (
	errNoControl   = errors.New("the hub opened no control stream")
	errControlFull = errors.New("the hub does not take what it was asked")
)

// controlStream carries control messages between an entry hub and this device, whatever hub's tunnel it goes through.
type controlStream struct {
	st     *stream
	places places

	mu   sync.Mutex // a message at a time
	owed [][]byte   // releases that the hub does not take yet, at most maxOwed, the oldest on its way; nothing else is sent before them

	paying sync.WaitGroup
}

// controlStreams are the open ones, at most one of each run of a hub. The zero value is ready; safe for concurrent use.
type controlStreams struct {
	mu      sync.Mutex
	of      map[entry]*controlStream
	changed chan struct{} // closed and replaced when one comes; nil while nobody waits
}

// wait returns the control stream of a hub, which may be on its way.
func (s *controlStreams) wait(ctx context.Context, from entry) (*controlStream, error) {
	timer := time.NewTimer(controlWait)
	defer timer.Stop()
	for {
		s.mu.Lock()
		c := s.of[from]
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		changed := s.changed
		s.mu.Unlock()
		if c != nil {
			return c, nil
		}
		select {
		case <-changed:
		case <-timer.C:
			return nil, errNoControl
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// get returns the control stream of a hub; nil: there is none now.
func (s *controlStreams) get(from entry) *controlStream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of[from]
}

// put takes c in and returns the one it replaces.
func (s *controlStreams) put(from entry, c *controlStream) *controlStream {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = map[entry]*controlStream{}
	}
	old := s.of[from]
	s.of[from] = c
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
	return old
}

// drop takes c out, unless another has its place.
func (s *controlStreams) drop(from entry, c *controlStream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of[from] == c {
		delete(s.of, from)
	}
}

// serveControl serves the control stream of an entry hub. A newer one of the same hub takes its place: the hub has lost the older.
func (in *incoming) serveControl(ctx context.Context) error {
	a := in.l.a
	st, err := in.accept(controlLife)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { st.Reset(wire.StreamCancelled) })()
	c := &controlStream{st: st}
	if old := a.controls.put(in.from, c); old != nil {
		old.st.Reset(wire.StreamCancelled)
	}
	defer a.controls.drop(in.from, c)
	defer func() { // what is owed to a hub that ended the stream it takes back itself
		st.Close()
		c.paying.Wait()
	}()
	defer c.places.fail(errors.New("the control stream of the hub has ended"))
	r := bufio.NewReaderSize(st, 512)
	for {
		m, err := tunnel.ReceiveFrom(r)
		switch {
		case err == io.EOF:
			return nil
		case errors.Is(err, wire.ErrUnknownType):
			continue
		case errors.Is(err, wire.ErrMalformed):
			st.Reset(wire.StreamProtocol)
			return fmt.Errorf("control stream: %w", err)
		case err != nil: // lost for good
			tunnel.Debug(a.log, "control stream ended", "hub", in.hubName, "error", err)
			return nil
		}
		switch m := m.(type) {
		case *wire.PlaceReply:
			c.places.reply(m)
		case *wire.Kill:
			a.kill(m, in.from.hub)
		case *wire.Tell:
			a.tell(m, in.from.hub)
		default:
			a.streams.refused.add("message "+strconv.Itoa(int(m.Type()))+" of a hub", errors.New("not for a control stream"), "hub", in.hubName)
		}
	}
}

// send sends a message; it never waits: what the hub does not take fills the stream's buffer, and beyond that fails.
func (c *controlStream) send(m wire.Message) error {
	b, err := wire.Encode(m)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sendLocked(b)
}

func (c *controlStream) sendLocked(b []byte) error {
	if len(c.owed) > 0 || c.st.Unacknowledged()+len(b) > streamBuffer {
		return errControlFull
	}
	_, err := c.st.Write(b)
	return err
}

// release gives a place back. It does not wait either, but what the hub does not take now it gets when it does: else the place would be held for as long
// as the stream is there. Beyond maxOwed of these it fails.
func (c *controlStream) release(m wire.Release) error {
	b, err := wire.Encode(m)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.sendLocked(b); !errors.Is(err, errControlFull) || len(c.owed) == maxOwed {
		return err
	}
	if c.owed = append(c.owed, b); len(c.owed) == 1 {
		c.paying.Go(c.pay)
	}
	return nil
}

// pay writes what is owed, as the hub takes it, until that is all or the stream ends.
func (c *controlStream) pay() {
	for {
		c.mu.Lock()
		b := c.owed[0]
		c.mu.Unlock()
		_, err := c.st.Write(b)
		c.mu.Lock()
		if c.owed = c.owed[1:]; err != nil {
			c.owed = nil
		}
		paid := len(c.owed) == 0
		c.mu.Unlock()
		if paid {
			return
		}
	}
}

// kill ends a session of that hub.
func (a *Agent) kill(m *wire.Kill, hub wire.UUID) {
	if a.live.end(m.SessionID, hub, errors.New(wire.Quote(m.Reason, maxQuoted))) {
		return
	}
	id := fmt.Sprintf("%x", m.SessionID)
	tunnel.Debug(a.log, "kill of a session that is not here", "session", id)
	if a.live.takeLeft(m.SessionID, hub) { // its stream was reset first, and what ignores HUP outlived that
		a.streams.goDo(func() {
			defer a.guard("kill", nil)
			a.engine.EndRemains(id)
		})
	}
}

// tell passes a word on to the people in a session of that hub.
func (a *Agent) tell(m *wire.Tell, hub wire.UUID) {
	m.User, m.Text = wire.Quote(m.User, maxQuoted), wire.Quote(m.Text, maxQuoted)
	if !a.live.has(m.SessionID, hub) || !a.engine.Tell(fmt.Sprintf("%x", m.SessionID), *m) {
		tunnel.Debug(a.log, "word for a session that is not here, or has nobody in it", "session", fmt.Sprintf("%x", m.SessionID))
	}
}
