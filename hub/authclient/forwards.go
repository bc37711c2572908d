package authclient

import (
	"context"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
)

const (
	// maxForwards of them wait for auth; more are only counted.
	maxForwards = 4096
	// forwardBatch of them go in one call, as many as auth takes, and forwardEvery so often at most, which is slower than auth's limit.
	forwardBatch = 256
	forwardEvery = 6 * time.Second
)

// forwards are what auth is to be told of forwarded connections.
type forwards struct {
	mu      sync.Mutex
	waiting []forwardAt
	dropped uint64
	wake    chan struct{} // a token: something waits
}

type forwardAt struct {
	*api.ForwardReport
	at time.Time
	id uint64
}

func (f *forwards) init() { f.wake = make(chan struct{}, 1) }

// ReportForward tells of a forwarded connection; id is the same at its end, which stands for both where auth has not been told of the beginning. It does not
// wait, and keeps m.
func (x *Client) ReportForward(id uint64, m *api.ForwardReport) {
	f := &x.forwards
	// A target may be anything; one message with a bad string would keep auth from hearing of all the others.
	for _, s := range []*string{&m.User, &m.Login, &m.ClientAddress, &m.Target, &m.Origin} {
		*s = strings.ToValidUTF8(*s, "?")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.waiting {
		if id != 0 && f.waiting[i].id == id {
			f.waiting[i] = forwardAt{m, time.Now(), id}
			return
		}
	}
	if len(f.waiting) == maxForwards {
		f.dropped++
		return
	}
	f.waiting = append(f.waiting, forwardAt{m, time.Now(), id})
	wake(f.wake)
}

func (f *forwards) take() *api.ReportForwardsRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := min(len(f.waiting), forwardBatch)
	if n == 0 && f.dropped == 0 {
		return nil
	}
	m := &api.ReportForwardsRequest{Dropped: f.dropped}
	for _, w := range f.waiting[:n] {
		w.AgoMs = uint64(time.Since(w.at).Milliseconds())
		m.Forwards = append(m.Forwards, w.ForwardReport)
	}
	f.waiting, f.dropped = append([]forwardAt(nil), f.waiting[n:]...), 0
	return m
}

// tellForwards tells auth of forwarded connections until ctx ends. The first goes at once.
func (x *Client) tellForwards(ctx context.Context) {
	f := &x.forwards
	tell(ctx, x, "forwards", forwardEvery, f.wake, f.take, func(ctx context.Context, m *connect.Request[api.ReportForwardsRequest]) error {
		_, err := x.api.Forward.ReportForwards(ctx, m)
		return err
	})
}
