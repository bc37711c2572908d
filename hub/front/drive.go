package front

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/resume"
	"hawser/tunnel/wire"
)

// Routes is what Drive needs of a Backend.
type Routes interface {
	// OpenStream opens a stream to the device by the best route there is now, and fills in a's EntryHub fields. The caller writes a itself.
	OpenStream(ctx context.Context, device wire.UUID, a *wire.Attach) (tunnel.Stream, error)
	// RouteChanged returns a channel that is closed when the routes to the device next change, or nil.
	RouteChanged(device wire.UUID) <-chan struct{}
	// Silent tells whether some of the routes to the device go by a tunnel from which nothing comes though it is due, and whether all do.
	Silent(device wire.UUID) (some, all bool)
}

var errNoAnswer = errors.New("the device did not answer in time")

// startStream begins a resumable stream to a device, and finds another attachment whenever it loses one; it does not wait for the device's
// answer. life is how long it waits for one in vain. watch, unless nil, is told each time the device is found away, because the stream is detached
// or no route of the device's answers, and there again.
func (s *Server) startStream(ctx context.Context, device wire.UUID, a *wire.Attach, life time.Duration, watch func(attached bool)) (*resume.Stream, error) {
	att, err := s.c.Backend.OpenStream(ctx, device, a)
	if err != nil {
		return nil, err
	}
	stream := resume.Open(att, *a, resume.Options{SendBuffer: resumeBuffer, RecvBuffer: resumeBuffer, DetachedLife: life})
	// It may outlive its connection, so that the device learns of the end. The caller is a goroutine that the server waits for.
	s.wg.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				s.panicked(p)
				stream.End(errInternal)
			}
		}()
		Drive(s.stopping, s.c.Backend, device, stream, watch)
	})
	return stream, nil
}

// Drive keeps an opened stream attached until it is over: when its attachment is lost it tries for another at once, at each change of the
// routes to the device, and now and then. When a route falls silent and another does not, it moves to the better one without waiting for the
// loss. After the end of ctx a stream has stopWait to end by itself.
func Drive(ctx context.Context, r Routes, device wire.UUID, stream *resume.Stream, watch func(there bool)) {
	there := true
	moved, _ := r.Silent(device) // it was opened by the best
	stuck := false               // on the silent one: the other does not answer either
	tell := func(now bool) {
		if now != there && watch != nil {
			watch(now)
		}
		there = now
	}
	for {
		changed := r.RouteChanged(device)
		some, all := r.Silent(device)
		if !some {
			moved, stuck = false, false
		}
		tell(!all && !stuck)
		if some && !all && (!moved || stuck) && stream.Answered() {
			moved = true // once: it may have been on the better one already
			if stuck = resumeOnce(ctx, r, device, stream, changed) != nil; !stuck {
				continue
			}
			tell(false)
		}
		select {
		case <-stream.Done():
			return
		case <-changed:
		case <-stream.Detached():
			if stream.Attached() { // by another's hand
				continue
			}
			tell(false)
			stuck = false
			reattach(ctx, r, device, stream)
		case <-ctx.Done():
			t := time.NewTimer(stopWait)
			defer t.Stop()
			select {
			case <-stream.Done():
			case <-t.C:
			}
			stream.End(context.Cause(ctx))
			<-stream.Done()
			return
		}
	}
}

// reattach returns when the stream is attached or over, or ctx has ended.
func reattach(ctx context.Context, r Routes, device wire.UUID, stream *resume.Stream) {
	for wait := minRetry; !stream.Attached(); wait = min(2*wait, maxRetry) {
		changed := r.RouteChanged(device) // before the try: what changes during it is not missed
		err := resumeOnce(ctx, r, device, stream, changed)
		if err == nil || errors.Is(err, resume.ErrGone) {
			return
		}
		if refused, ok := errors.AsType[*resume.RefusedError](err); errors.Is(err, ErrRemoved) || ok && refused.Code == wire.StreamDenied {
			stream.End(err) // the device takes us for somebody else, and will again
			return
		}
		t := time.NewTimer(wait + rand.N(wait/2))
		select {
		case <-changed:
			wait = minRetry / 2
		case <-t.C:
		case <-stream.Done():
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			return
		}
		select {
		case <-stream.Done():
			return
		default:
		}
	}
}

// resumeOnce gives up when the routes change: then there may be a better one.
func resumeOnce(ctx context.Context, r Routes, device wire.UUID, stream *resume.Stream, changed <-chan struct{}) error {
	ctx, cancel := context.WithTimeoutCause(ctx, resumeTimeout, errNoAnswer)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-changed:
		case <-stream.Done():
		case <-ctx.Done():
		}
		cancel()
	}()
	defer func() {
		cancel()
		<-watched
	}()
	a := stream.Header()
	att, err := r.OpenStream(ctx, device, &a)
	if err != nil {
		return err
	}
	return stream.Resume(ctx, att)
}

// leaving is a stream whose Close is that of a person who has gone: for a bounded time the device is told, even over a tunnel still to come.
type leaving struct{ *resume.Stream }

// Close implements io.Closer.
func (l leaving) Close() error {
	err := l.Stream.Close()
	l.SetDetachedLife(leaveWait)
	return err
}
