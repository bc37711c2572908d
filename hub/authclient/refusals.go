package authclient

import (
	"context"
	"sync"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/tunnel/wire"
)

const (
	// maxRefusals of different kinds, persons and sources wait for auth; more are only counted.
	maxRefusals = 1024
	// refusalBatch of them go in one call, as many as auth takes, and refusalEvery so often at most, which is slower than auth's limit.
	refusalBatch = 256
	refusalEvery = 6 * time.Second
	// maxRefusalText bounds what a stranger says of himself, in bytes.
	maxRefusalText = 128
)

// Refusal is what this hub refused by itself. Strings may be a stranger's, of any length.
type Refusal struct {
	Type                                        string // user, forward, device, tunnel or proxy
	Reason                                      string // one word
	User, Device, Login, Client, Method, Detail string
	Connection                                  [16]byte // zero: none
}

// refusals are counted until auth is told: who tries a thousand times is one line with a number.
type refusals struct {
	mu      sync.Mutex
	waiting map[refusalKey]*api.RefusalReport
	order   []refusalKey
	dropped uint64
	wake    chan struct{} // a token: something waits
}

type refusalKey struct{ kind, reason, user, device, source, method string }

func (r *refusals) init() {
	r.waiting, r.wake = make(map[refusalKey]*api.RefusalReport), make(chan struct{}, 1)
}

// ReportRefusal puts a refusal into the audit log. It does not wait.
func (x *Client) ReportRefusal(f Refusal) {
	text := func(s string) string { return wire.Quote(s, maxRefusalText) }
	source := f.Client
	if i := lastColon(source); i >= 0 {
		source = source[:i] // the port is another each time
	}
	key := refusalKey{f.Type, f.Reason, text(f.User), text(f.Device), text(source), text(f.Method)}
	r := &x.refusals
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.waiting[key]; old != nil {
		old.Count++
		return
	}
	if len(r.waiting) >= maxRefusals {
		r.dropped++
		return
	}
	m := &api.RefusalReport{
		Type: f.Type, Reason: text(f.Reason), User: key.user, Device: key.device, Login: text(f.Login), ClientAddress: text(f.Client), Method: key.method,
		Detail: text(f.Detail), Count: 1,
	}
	if f.Connection != [16]byte{} {
		m.ConnectionId = f.Connection[:]
	}
	r.waiting[key] = m
	r.order = append(r.order, key)
	wake(r.wake)
}

func lastColon(s string) int {
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] == ':' {
			return i
		}
	}
	return -1
}

func (r *refusals) take() *api.ReportRefusalsRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := min(len(r.order), refusalBatch)
	if n == 0 && r.dropped == 0 {
		return nil
	}
	m := &api.ReportRefusalsRequest{Dropped: r.dropped}
	for _, k := range r.order[:n] {
		m.Refusals = append(m.Refusals, r.waiting[k])
		delete(r.waiting, k)
	}
	r.order, r.dropped = append([]refusalKey(nil), r.order[n:]...), 0
	return m
}

// tellRefusals tells auth of refusals until ctx ends. The first goes at once, so that somebody who watches sees it.
func (x *Client) tellRefusals(ctx context.Context) {
	r := &x.refusals
	tell(ctx, x, "refusals", refusalEvery, r.wake, r.take, func(ctx context.Context, m *connect.Request[api.ReportRefusalsRequest]) error {
		_, err := x.api.Hub.ReportRefusals(ctx, m)
		return err
	})
}
