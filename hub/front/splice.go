package front

import (
	"context"
	"io"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/tunnel/idle"
	"hawser/tunnel/resume"
	"hawser/tunnel/wire"
)

// spliceDrain is how long bytes a client sent before it closed its channel may still take to reach the device.
const spliceDrain = 15 * time.Second

// splice copies both ways between a person's channel and a stream, each direction ending on its own, until both have. It closes both,
// and returns how much went each way.
func (c *conn) splice(ctx context.Context, ch ssh.Channel, reqs <-chan *ssh.Request, stream *resume.Stream) (toDevice, fromDevice int64) {
	stop := context.AfterFunc(ctx, func() { stream.Reset(wire.StreamCancelled) })
	defer stop()
	end := leaving{stream}
	var data, side sync.WaitGroup
	guard := func(wg *sync.WaitGroup, f func()) {
		wg.Go(func() {
			defer c.s.recovered(c)
			f()
		})
	}
	counted := idle.Channel(ch, c.meter)
	upDone := make(chan struct{})
	guard(&data, func() {
		defer close(upDone)
		var err error
		if toDevice, err = io.Copy(stream, counted); err == nil {
			_ = stream.CloseWrite()
		} // else the stream broke: the copy below ends by the same
	})
	guard(&data, func() {
		var err error
		if fromDevice, err = io.Copy(counted, stream); err != nil {
			_ = ch.Close() // either end is gone: the copy above need not wait for the client's EOF
			return
		}
		_ = ch.CloseWrite()
	})
	guard(&side, func() {
		ssh.DiscardRequests(reqs) // until the client closed the channel
		t := time.NewTimer(spliceDrain)
		defer t.Stop()
		select {
		case <-upDone: // all that the client sent is with the stream, which delivers it
			_ = end.Close()
		case <-t.C:
			stream.Reset(wire.StreamCancelled)
		}
	})
	guard(&side, func() {
		// A client has no stderr on these channels; unread it would hold the window.
		_, _ = io.Copy(io.Discard, ch.Stderr())
	})
	data.Wait()
	_ = ch.Close()
	side.Wait()
	_ = end.Close()
	return toDevice, fromDevice
}
