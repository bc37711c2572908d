package yamuxconn

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"
)

// Parker is what a hub's tunnel over TLS has besides tunnel.Conn: while it is idle it costs no goroutine.
type Parker interface {
	// Next returns the next control message or heartbeat, whichever comes first. It is for the goroutine that would else
	// call ReceiveControl and ReceiveHeartbeat.
	Next(ctx context.Context) (msg []byte, heartbeat bool, err error)
	// Park lets the tunnel rest and tells whether it will. If so, its owner calls nothing that receives until wake is
	// called, once, in a goroutine of its own: something has come, or the tunnel has ended. Whoever sends or opens streams does
	// so at any time. A tunnel with a yamux session does not rest, nor one on a system without epoll.
	Park(wake func()) bool
}

// errParked ends the reader of a tunnel that was parked.
var errParked = errors.New("parked")

// park is the state of a tunnel's rest. A tunnel is parked only by its reader, after a Read that ended by its deadline
// between two frames: crypto/tls then holds no record that epoll would not tell of.
type park struct {
	mu     sync.Mutex
	wake   func()    // the owner rests until it is called; nil: it does not
	parked *waitedFD // nil: there is a reader, or there was
}

// Next implements Parker.
func (c *conn) Next(ctx context.Context) (msg []byte, heartbeat bool, err error) {
	if ctx.Err() != nil {
		return nil, false, context.Cause(ctx)
	}
	select { // what arrived before the end is still delivered
	case msg = <-c.control:
		return msg, false, nil
	case msg = <-c.heartbeats:
		return msg, true, nil
	default:
	}
	select {
	case msg = <-c.control:
		return msg, false, nil
	case msg = <-c.heartbeats:
		return msg, true, nil
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	case <-c.ctx.Done():
		return nil, false, context.Cause(c.ctx)
	}
}

// Park implements Parker.
func (c *conn) Park(wake func()) bool {
	if !canPark(socket(c.tc)) || c.hasMux() {
		return false
	}
	c.park.mu.Lock()
	defer c.park.mu.Unlock()
	if c.ctx.Err() != nil || c.park.wake != nil || len(c.control) > 0 || len(c.heartbeats) > 0 {
		return false
	}
	c.park.wake = wake
	c.setReadDeadline(past) // the reader sees to the rest
	return true
}

func (c *conn) hasMux() bool {
	c.muxMu.Lock()
	defer c.muxMu.Unlock()
	return c.mux != nil || c.stopping > 0 || c.opening > 0
}

// setReadDeadline sets it, unless the tunnel is ending: then it has its last.
func (c *conn) setReadDeadline(t time.Time) {
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	if !c.ending {
		c.tc.SetReadDeadline(t)
	}
}

// readFull fills b. Between two frames it may end with errParked.
func (c *conn) readFull(b []byte, between bool) error {
	for have := 0; have < len(b); {
		n, err := io.ReadFull(c.tc, b[have:])
		have += n
		switch {
		case err == nil || have == len(b):
			return nil
		case c.ctx.Err() != nil || !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		}
		// Somebody wished to park.
		c.setReadDeadline(time.Time{})
		if between && have == 0 && c.tryPark() {
			return errParked
		}
	}
	return nil
}

// tryPark is the reader's: it parks the tunnel if its owner rests. What came between goes to the owner.
func (c *conn) tryPark() bool {
	c.park.mu.Lock()
	defer c.park.mu.Unlock()
	if c.park.wake == nil || c.ctx.Err() != nil {
		return false
	}
	w, err := waitReadable(socket(c.tc), c.unpark)
	if err != nil {
		wake := c.park.wake
		c.park.wake = nil
		go wake()
		return false
	}
	c.park.parked = w
	return true
}

// wakeOwner tells a resting owner that there is something for it, after it was delivered: an owner that comes to rest in between would not
// see it, and would sleep on it.
func (c *conn) wakeOwner() {
	c.park.mu.Lock()
	wake := c.park.wake
	c.park.wake = nil
	c.park.mu.Unlock()
	if wake != nil {
		go wake()
	}
}

// unpark gives a parked tunnel its reader back, and wakes its owner. It does not block.
func (c *conn) unpark() {
	c.park.mu.Lock()
	w := c.park.parked
	c.park.parked = nil
	if w != nil {
		w.forget()
	}
	c.park.mu.Unlock()
	if w != nil {
		go c.run()
	}
	c.wakeOwner()
}
