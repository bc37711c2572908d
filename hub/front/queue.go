package front

import (
	"context"
	"slices"
	"sync"

	"golang.org/x/crypto/ssh"
)

// requestQueue takes a channel's requests from the library at once, for while one waits there the whole connection stands still.
type requestQueue struct {
	mu      sync.Mutex
	pending []*ssh.Request
	bytes   int
	ended   bool
	wake    chan struct{} // holds a token when something changed
}

func newRequestQueue() *requestQueue { return &requestQueue{wake: make(chan struct{}, 1)} }

// pump moves requests until the channel closes, or returns false when the client sent more than may wait: the caller closes
// the channel and takes the rest.
func (q *requestQueue) pump(reqs <-chan *ssh.Request) bool {
	defer q.end()
	for r := range reqs {
		q.mu.Lock()
		full := len(q.pending) >= maxQueued || q.bytes+len(r.Payload) > maxQueuedBytes
		if !full {
			q.pending = append(q.pending, r)
			q.bytes += len(r.Payload)
		}
		q.mu.Unlock()
		if full {
			return false // the caller takes the rest
		}
		q.signal()
	}
	return true
}

func (q *requestQueue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *requestQueue) end() {
	q.mu.Lock()
	q.ended = true
	q.mu.Unlock()
	q.signal()
}

// unread puts requests that next returned back in front of the others.
func (q *requestQueue) unread(all []*ssh.Request) {
	q.mu.Lock()
	q.pending = append(slices.Clone(all), q.pending...)
	for _, r := range all {
		q.bytes += len(r.Payload)
	}
	q.mu.Unlock()
	q.signal()
}

// next returns the next request, nil when there will be none or ctx ended. One goroutine calls it.
func (q *requestQueue) next(ctx context.Context) *ssh.Request {
	for {
		q.mu.Lock()
		if len(q.pending) > 0 {
			r := q.pending[0]
			q.pending = q.pending[1:]
			q.bytes -= len(r.Payload)
			q.mu.Unlock()
			return r
		}
		ended := q.ended
		q.mu.Unlock()
		if ended {
			return nil
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
			return nil
		}
	}
}
