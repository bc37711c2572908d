package yamuxconn

import (
	"context"
	"fmt"
	"time"

	"hawser/tunnel/wire"
)

// How yamux sessions come and go inside a tunnel. The hub starts one with its first stream (MUX_START) and stops it
// when it was idle at two checks in a row with no stream opened between (MUX_STOP); the edge ends its side and answers
// MUX_STOPPED. The hub need not wait for that to start the next: all frames in between belong to the old one.

// muxToOpen returns the session to open a stream on, starting one if there is none. The caller calls opened after.
func (c *conn) muxToOpen(ctx context.Context) (*mux, error) {
	select {
	case c.gate <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-c.ctx.Done():
		return nil, context.Cause(c.ctx)
	}
	defer func() { <-c.gate }()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	m, started, err := c.claimMux()
	if err != nil {
		return nil, err
	}
	if started {
		if err := c.sendStart(); err != nil {
			c.opened()
			return nil, err
		}
	}
	return m, nil
}

// sendStart sends MUX_START, or gives up waiting for that when the tunnel ends.
func (c *conn) sendStart() error {
	c.muxMu.Lock()
	if c.ended {
		c.muxMu.Unlock()
		return context.Cause(c.ctx)
	}
	sent := make(chan error, 1)
	c.work.Go(func() { sent <- c.send(frameMuxStart, nil) })
	c.muxMu.Unlock()
	select {
	case err := <-sent:
		return err
	case <-c.ctx.Done():
		return context.Cause(c.ctx)
	}
}

func (c *conn) claimMux() (m *mux, started bool, err error) {
	c.muxMu.Lock()
	defer c.muxMu.Unlock()
	if c.ended || c.ctx.Err() != nil {
		return nil, false, context.Cause(c.ctx)
	}
	if c.mux == nil {
		if c.mux, err = newMux(c); err != nil {
			return nil, false, fmt.Errorf("start a yamux session: %w", err)
		}
		started, c.quiet = true, false
		c.timer = time.AfterFunc(c.o.MuxIdle, c.checkIdle)
	}
	c.opening++
	c.opens++
	return c.mux, started, nil
}

// opened ends what muxToOpen began.
func (c *conn) opened() {
	c.muxMu.Lock()
	defer c.muxMu.Unlock()
	c.opening--
}

// checkIdle runs every MuxIdle while there is a session, and stops one that was idle all the time since the last check.
func (c *conn) checkIdle() {
	c.muxMu.Lock()
	if c.ended {
		c.muxMu.Unlock()
		return
	}
	c.work.Add(1)
	c.muxMu.Unlock()
	defer c.work.Done()
	select {
	case c.gate <- struct{}{}:
	case <-c.ctx.Done():
		return
	}
	defer func() { <-c.gate }()
	m := c.takeIdle()
	if m == nil {
		return
	}
	m.complete.Store(true)
	m.close() // nothing of it is written after this
	c.send(frameMuxStop, nil)
}

func (c *conn) takeIdle() *mux {
	c.muxMu.Lock()
	defer c.muxMu.Unlock()
	if c.ended || c.mux == nil {
		return nil
	}
	idle := c.opening == 0 && c.mux.session.NumStreams() == 0
	if idle && c.quiet && c.quietAt == c.opens {
		m := c.mux
		c.mux = nil
		c.stopping++
		return m
	}
	c.quiet, c.quietAt = idle, c.opens
	c.timer.Reset(c.o.MuxIdle)
	return nil
}

// startedByHub handles MUX_START.
func (c *conn) startedByHub() error {
	c.muxMu.Lock()
	defer c.muxMu.Unlock()
	if c.hub || c.mux != nil {
		return fmt.Errorf("%w: MUX_START out of turn", errFrame)
	}
	if c.ended {
		return nil
	}
	var err error
	if c.mux, err = newMux(c); err != nil {
		return fmt.Errorf("start a yamux session: %w", err)
	}
	return nil
}

// stoppedByHub handles MUX_STOP: the session ends, then the answer says so.
func (c *conn) stoppedByHub() error {
	c.muxMu.Lock()
	m := c.mux
	c.mux = nil
	c.muxMu.Unlock()
	if c.hub || m == nil {
		return fmt.Errorf("%w: MUX_STOP out of turn", errFrame)
	}
	// The hub stops a session when all its streams have ended both ways; some here may not have read to their end.
	m.drain()
	m.close()
	return c.send(frameMuxStopped, nil)
}

// stoppedByEdge handles MUX_STOPPED.
func (c *conn) stoppedByEdge() error {
	c.muxMu.Lock()
	defer c.muxMu.Unlock()
	if c.stopping == 0 {
		return fmt.Errorf("%w: MUX_STOPPED out of turn", errFrame)
	}
	c.stopping--
	return nil
}

// current returns the session that frames from the peer are for now; nil and no error while they are to be dropped.
func (c *conn) current() (*mux, error) {
	c.muxMu.Lock()
	defer c.muxMu.Unlock()
	if c.stopping > 0 {
		return nil, nil
	}
	if c.mux == nil {
		return nil, fmt.Errorf("%w: a session's bytes without a session", errFrame)
	}
	return c.mux, nil
}

// muxBytes handles MUX; r is the session's from here.
func (c *conn) muxBytes(r *record) error {
	m, err := c.current()
	if m == nil {
		records.Put(r)
		return err
	}
	m.in.deliver(c.ctx, r)
	return nil
}

// streamEnded handles STREAM_END.
func (c *conn) streamEnded(b []byte) error {
	e, err := parseStreamEnd(b)
	if err != nil {
		return err
	}
	m, err := c.current()
	if m == nil {
		return err
	}
	m.streamEnded(e)
	return nil
}

// fail ends the tunnel for a reason of ours, without waiting.
func (c *conn) fail(code wire.CloseCode, reason string) {
	c.cancel(&wire.CloseError{Code: code, Reason: reason})
}
