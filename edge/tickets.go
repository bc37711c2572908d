package edge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"

	"hawser/tunnel/channel"
	"hawser/tunnel/channel/payload"
	"hawser/tunnel/wire"
)

// errTickets says that too many connections wait for the hub.
var errTickets = errors.New("too many connections wait for the hub")

// tickets are the connections that wait for the hub to fetch them. The zero value is ready; safe for concurrent use.
type tickets struct {
	mu      sync.Mutex
	waiting map[ticketKey]chan *accepted // each with room for one; at most maxTickets
}

type ticketKey struct {
	parent wire.StreamID
	ticket uint64
}

// accepted is a stream of kind Accepted. Close tells the goroutine that serves it.
type accepted struct {
	*stream
	once sync.Once
	done chan struct{}
}

func (s *accepted) Close() error {
	err := s.stream.Close()
	s.once.Do(func() { close(s.done) })
	return err
}

// open asks the hub, since an edge opens no streams, over ch, the channel of the parent stream, to fetch a connection, and waits for it.
func (t *tickets) open(ctx context.Context, ch channel.Channel, parent wire.StreamID, p payload.Accept) (io.ReadWriteCloser, error) {
	ctx, cancel := context.WithTimeout(ctx, ticketLife)
	defer cancel()
	key := ticketKey{parent, rand.Uint64()}
	fetched := make(chan *accepted, 1)
	if err := t.add(key, fetched); err != nil {
		return nil, err
	}
	p.Ticket = key.ticket
	answer := make(chan error, 1)
	go func() { // ends with the channel at the latest
		ok, err := ch.SendRequest(payload.AcceptRequest, true, p.Marshal())
		if err == nil && !ok {
			err = errors.New("the hub refused the connection")
		}
		if err != nil {
			answer <- err
		}
	}()
	var err error
	select {
	case s := <-fetched:
		return s.orGone()
	case err = <-answer:
	case <-ctx.Done():
		err = fmt.Errorf("the hub did not fetch the connection: %w", context.Cause(ctx))
	}
	if !t.remove(key) { // taken in this very moment
		return (<-fetched).orGone()
	}
	return nil, err
}

// orGone is the stream, or an error when the hub came for it and it could not be begun.
func (s *accepted) orGone() (io.ReadWriteCloser, error) {
	if s == nil {
		return nil, errors.New("the hub's stream for the connection could not be opened")
	}
	return s, nil
}

func (t *tickets) add(key ticketKey, fetched chan *accepted) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waiting) >= maxTickets {
		return errTickets
	}
	if t.waiting == nil {
		t.waiting = map[ticketKey]chan *accepted{}
	}
	t.waiting[key] = fetched
	return nil
}

func (t *tickets) remove(key ticketKey) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.waiting[key]
	delete(t.waiting, key)
	return ok
}

// take gives out the ticket, once. Whoever got it must send exactly one stream.
func (t *tickets) take(parent wire.StreamID, ticket uint64) (chan<- *accepted, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := ticketKey{parent, ticket}
	ch, ok := t.waiting[key]
	delete(t.waiting, key)
	return ch, ok
}
