package edge

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"hawser/tunnel/wire"
)

// places are the place requests on one control stream that await their reply. The zero value is ready; safe for concurrent use.
type places struct {
	mu      sync.Mutex
	next    uint32
	waiting map[uint32]chan *wire.PlaceReply // each with room for one; bounded by e2e's channel limit
	lost    error
}

// askPlace asks the entry hub for a place and waits for the reply, a loss of the tunnel meanwhile included.
func (h *host) askPlace(ctx context.Context, r wire.PlaceRequest) (*wire.PlaceReply, *controlStream, error) {
	ctx, cancel := context.WithTimeout(ctx, placeTimeout)
	defer cancel()
	c, err := h.a.controls.wait(ctx, h.entry())
	if err != nil {
		return nil, nil, fmt.Errorf("ask for a place: %w", err)
	}
	m, err := c.ask(ctx, r)
	if err != nil {
		return nil, nil, fmt.Errorf("ask for a place: %w", err)
	}
	return m, c, nil
}

// ask sends a request and waits for its reply.
func (c *controlStream) ask(ctx context.Context, r wire.PlaceRequest) (*wire.PlaceReply, error) {
	id, reply, err := c.places.begin()
	if err != nil {
		return nil, err
	}
	defer c.places.forget(id)
	r.ID = id
	if err := c.send(r); err != nil {
		return nil, err
	}
	select {
	case m, ok := <-reply:
		if !ok {
			return nil, errors.New("the hub was lost")
		}
		return m, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (p *places) begin() (uint32, chan *wire.PlaceReply, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lost != nil {
		return 0, nil, p.lost
	}
	if p.waiting == nil {
		p.waiting = map[uint32]chan *wire.PlaceReply{}
	}
	p.next++
	ch := make(chan *wire.PlaceReply, 1)
	p.waiting[p.next] = ch
	return p.next, ch, nil
}

func (p *places) forget(id uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting, id)
}

// reply delivers a reply; one that nobody awaits any more is dropped, and the place with it at the hub's lease.
func (p *places) reply(m *wire.PlaceReply) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ch, ok := p.waiting[m.ID]; ok {
		delete(p.waiting, m.ID)
		ch <- m
	}
}

// fail ends all that wait, and those to come.
func (p *places) fail(why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lost = why
	for id, ch := range p.waiting {
		delete(p.waiting, id)
		close(ch)
	}
}
